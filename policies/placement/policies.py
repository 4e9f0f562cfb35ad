"""Placement rules behind the interface of policies: one node for each of B games, in one kernel call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.checks import one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.games import PlacementGames

from .packing import make_memory
from .rules import PLACEMENT_RULES, choose_nodes, rule_number


def is_single(observation: Any, action_masks: Any) -> bool:
    """Whether an observation and masks are those of one environment, without the axis of the batch."""
    if action_masks is not None:
        return np.ndim(action_masks) == 1
    return isinstance(observation, dict) and "nodes" in observation and np.ndim(observation["nodes"]) == 1


class RulePlayer:
    """Plays a rule in B bound games.

    Args:
        games: The games; they are read, never changed.
        rule: One of ``PLACEMENT_RULES``.
        rng: Seeds the generators of ``random``, one per game.
    """

    def __init__(self, games: PlacementGames, rule: str, rng: np.random.Generator) -> None:
        self._games = games
        self._number = rule_number(rule)
        keys = rng.integers(0, 2**64, games.n_games, dtype=np.uint64)
        self._memory = make_memory(keys, games.params.n_nodes)

    def choose(self) -> I8:
        """The node of each game, (B,); 0 for a game that is over."""
        nodes = np.empty(self._games.n_games, dtype=np.int64)
        choose_nodes(self._games.kernel_params, self._games.kernel_state, self._number, self._memory, nodes)
        return nodes


@dataclass
class PlacementPolicy:
    """Base of policies that read the bound games, not the observation; subclasses implement ``choose``."""

    task: ClassVar[str] = "placement"

    def reset(self, games: PlacementGames, rng: np.random.Generator) -> None:
        """Bind games for the episodes to come.

        Args:
            games: B games, which stay those that ``predict`` is asked about. Windows may begin and end in
                them at any time.
            rng: Generator of whatever the policy draws.

        Raises:
            ConfigError: If they are not placement games.
        """
        if not isinstance(games, PlacementGames):
            name = type(games).__name__
            raise ConfigError(f"policy: {type(self).__name__} plays placement games, not a {name}")
        self.games = games
        self.rng = rng

    def choose(self) -> I8:
        """The node of each bound game, (B,); 0 for a game that is over."""
        raise TypeError(f"{type(self).__name__} does not define choose()")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Choose a node for the pending request of every bound game.

        Returns:
            Nodes, (B,), and ``state`` as it came. For the observation or the masks of a single environment
            the node alone, as an int. A game that is over gets 0.
        """
        nodes = self.choose()
        return (int(nodes[0]) if is_single(observation, action_masks) else nodes), state


@dataclass
class RulePolicy(PlacementPolicy):
    """A placement rule.

    Attributes:
        rule: One of ``rules.PLACEMENT_RULES``; ``run_windows`` plays it too.
    """

    rule: str = "first_fit"

    def __post_init__(self) -> None:
        """Check the rule.

        Raises:
            ConfigError: For an unknown rule.
        """
        one_of("policy.rule", self.rule, PLACEMENT_RULES)

    def reset(self, games: PlacementGames, rng: np.random.Generator) -> None:
        """Bind games; see ``PlacementPolicy``."""
        super().reset(games, rng)
        self._player = RulePlayer(games, self.rule, rng)

    def choose(self) -> I8:
        """The rule's node of each game."""
        return self._player.choose()
