"""A trained agent as a policy: it plays any number of placement games at once, without PyTorch."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.games import PlacementGames
from virtgym.envs.placement.observations import OBSERVATIONS

from ..ties import choose_first_best
from .architecture import Layout
from .kernel_net import BatchNet
from .storage import Agent, Member, load_agent

MASKED = np.float32(-np.inf)


class _Player:
    """One member: its network, and how to pick its columns out of an observation.

    Columns are found by name, so that an agent outlives columns that are added later, and members that read
    different observations make an ensemble.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.net = BatchNet(member.architecture, member.weights)
        self.observation = member.layout.observation()  # an agent of another version is refused at once
        self._picks: dict[Layout, list[list[int] | None]] = {}

    def _find_columns(self, seen: Layout) -> list[list[int] | None]:
        """Where the columns stand that it reads; None = all in order."""
        if seen in self._picks:
            return self._picks[seen]
        mine = self.member.layout
        if missing := seen.lacks(mine):
            hint = ""
            if missing[0] in Layout.current("basic").lacks(Layout.current("slots")):
                hint = f"; make the environment with observation={self.observation}"
            raise ConfigError(f"agent: reads the column {missing[0]}, which was not observed{hint}")
        picks: list[list[int] | None] = []
        for part in ("nodes", "request", "globals"):
            have, want = getattr(seen, part), getattr(mine, part)
            picks.append(None if have == want else [have.index(name) for name in want])
        self._picks[seen] = picks
        return picks

    def scores(self, nodes: F4, request: F4, globals_: F4, seen: Layout) -> F4:
        """Scores (B, actions) of a batch with the columns of ``seen``."""
        n_nodes = nodes.shape[1] // len(seen.nodes)
        fixed = self.member.architecture.n_nodes
        if fixed and n_nodes != fixed:
            raise ConfigError(
                f"agent: an mlp for {fixed // 2} hosts cannot play on {n_nodes // 2}; "
                "train with agent.network=equivariant for any number of hosts"
            )
        picks = self._find_columns(seen)
        if picks[0] is not None:
            nodes = nodes.reshape(len(nodes), n_nodes, -1)[:, :, picks[0]].reshape(len(nodes), -1)
        request = request if picks[1] is None else request[:, picks[1]]
        globals_ = globals_ if picks[2] is None else globals_[:, picks[2]]
        return self.net.scores(np.concatenate((nodes, request, globals_), axis=1))


class LearnedPolicy:
    """Plays an agent.

    Args:
        agent: What was loaded.
        name: What it is called in messages.

    Attributes:
        task: The kind of environment that it plays.
        stateless: That its action for a game depends on this game's observation alone.
        observation: The argument ``observation`` of environments that it plays, one of ``OBSERVATIONS``: the
            least that has all columns that its members read.
    """

    task: ClassVar[str] = "placement"
    kind: ClassVar[str] = "agent"
    stateless: ClassVar[bool] = True

    def __init__(self, agent: Agent, name: str = "agent") -> None:
        if agent.task != self.task:
            raise ConfigError(f"{name}: task {agent.task}; this version plays {self.task}")
        self.agent = agent
        self.name = name
        self._players = [_Player(member) for member in agent.members]
        self.observation = max((p.observation for p in self._players), key=OBSERVATIONS.index)
        self._layouts: dict[int, Layout] = {}
        self._rng = np.random.default_rng(0)

    def reset(self, games: PlacementGames | None, rng: np.random.Generator) -> None:
        """Begin: the games are not read, an agent sees observations; ``rng`` draws if not deterministic."""
        self._rng = rng

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Choose the action of every game.

        Args:
            observation: ``nodes``, ``request``, ``globals`` (and ``window``, where there is one) of B games,
                (B, …) each, or of one, (…).
            state: Handed back.
            episode_start: Not used: the agent has no memory.
            deterministic: Whether to take the best action (the lowest of equals, see ``ties``) or draw by
                probability. An agent of action values (DQN) always takes the best.
            action_masks: Legal actions (B, actions); None = the nodes where the request fits.

        Returns:
            Actions (B,) of int64, or one integer for one game; and ``state``.
        """
        nodes, request, globals_ = (
            np.asarray(observation[key], dtype=np.float32) for key in ("nodes", "request", "globals")
        )
        if "window" in observation:
            window = np.asarray(observation["window"], dtype=np.float32)
            globals_ = np.concatenate((globals_, window), axis=-1)
        single = nodes.ndim == 1
        if single:
            nodes, request, globals_ = nodes[None], request[None], globals_[None]
        mask = (
            self._mask(nodes, globals_) if action_masks is None else np.asarray(action_masks, dtype=np.bool_)
        )
        mask = mask.reshape(len(nodes), -1)
        scores = self.scores(nodes, request, globals_, mask)
        if not deterministic and self.agent.members[0].scores == "logits":
            scores = scores + self._rng.gumbel(size=scores.shape).astype(np.float32)  # its maximum is a draw
        actions = choose_first_best(scores, mask)
        return (int(actions[0]) if single else actions), state

    def _layout(self, globals_: F4) -> Layout:
        """The columns of what is observed."""
        width = globals_.shape[1]
        if width not in self._layouts:
            self._layouts[width] = Layout.of_width(width)
        return self._layouts[width]

    def _mask(self, nodes: F4, globals_: F4) -> NDArray[np.bool_]:
        columns = self._layout(globals_).nodes
        fits: NDArray[np.bool_] = nodes[:, columns.index("fits") :: len(columns)] > 0.5
        extra = self.agent.members[0].architecture.n_extra
        if extra:
            raise ConfigError(f"{self.name}: has {extra} actions besides the nodes and needs action_masks")
        return fits

    def scores(self, nodes: F4, request: F4, globals_: F4, mask: NDArray[np.bool_]) -> F4:
        """Logits, or action values, averaged over members; minus infinity where illegal.

        The average of logits is that of log-probabilities but for a number that all actions of a game share.

        Args:
            nodes: (B, 2N · columns).
            request: (B, …).
            globals_: (B, …).
            mask: Legal actions, (B, actions).

        Returns:
            (B, actions) of float32.

        Raises:
            ConfigError: If the game has other actions than the agent, or a column was not observed.
        """
        seen = self._layout(globals_)
        total: F4 | None = None
        for player in self._players:
            scores = player.scores(nodes, request, globals_, seen)
            if scores.shape != mask.shape:
                raise ConfigError(
                    f"{self.name}: knows {scores.shape[1]} actions where the game has {mask.shape[1]}; "
                    "play it with the protocol options that it was trained with"
                )
            total = scores if total is None else total + scores
        assert total is not None
        average: F4 = total / np.float32(len(self._players)) if len(self._players) > 1 else total
        return np.where(mask, average, MASKED)


def load_policy(folder: str | os.PathLike[str]) -> LearnedPolicy:
    """Make a policy of an agent's folder.

    Args:
        folder: The folder.

    Raises:
        ConfigError: If the folder holds no agent that this version can play.
    """
    return LearnedPolicy(load_agent(folder), os.fspath(folder))
