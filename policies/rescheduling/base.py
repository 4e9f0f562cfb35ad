"""What policies of the rescheduling game have in common: they plan all moves at once, and play them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.checks import need, need_count
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.games import ReschedulingGames


@dataclass(frozen=True, eq=False)
class Plan:
    """Moves of a game.

    Attributes:
        moves: VM and place of each, in the order in which they are made, (n, 2).
        curve: How the search got there: processor seconds since it began, and the best objective known then.
        unordered: Moves that were left out because no order and no spare let them be made.
        metrics: What else there is to say, by the names of ``experiments.run.rows.PLANS``.
    """

    moves: I8
    curve: tuple[tuple[float, float], ...] = ()
    unordered: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class ReschedulingPolicy:
    """Base of policies that plan all moves of a game; subclasses implement ``plan_moves``.

    All are anytime. With ``time_limit_s`` they search so long; without, they do ``iterations`` of their work,
    and the same ones every time.

    Attributes:
        time_limit_s: Seconds for a plan; None = by ``iterations``.
        iterations: Steps of the search, whatever one is.
    """

    time_limit_s: float | None = None
    iterations: int = 1

    task: ClassVar[str] = "rescheduling"

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        limit = self.time_limit_s
        need(
            limit is None or (math.isfinite(limit) and limit > 0),
            f"policy.time_limit_s={limit}: must be positive, or null",
        )
        need_count("policy", iterations=self.iterations)

    def reset(self, games: ReschedulingGames, rng: np.random.Generator) -> None:
        """Bind games for the episodes to come.

        Args:
            games: B games, which stay those that ``predict`` is asked about.
            rng: Generator of whatever the policy draws.

        Raises:
            ConfigError: If they are not rescheduling games.
        """
        if not isinstance(games, ReschedulingGames):
            raise ConfigError(
                f"policy: {type(self).__name__} plays rescheduling games, not a {type(games).__name__}"
            )
        self.games = games
        self.rng = rng
        self.plans: list[Plan | None] = [None] * games.n_games
        self._first, self._played = [0] * games.n_games, [0] * games.n_games

    def plan_moves(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Plan the moves of a game.

        Args:
            games: One game (number 0) as it stands: a fork, with which the policy may do as it likes.
            rng: Generator of what it draws.
            deadline: ``time.perf_counter()`` when to be done; inf = by ``iterations``.
        """
        raise TypeError(f"{type(self).__name__} does not define plan_moves()")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """The next action of every bound game; a game of which nothing was played is planned first."""
        actions = np.array([self._next(b) for b in range(self.games.n_games)], dtype=np.int64)
        return (int(actions[0]) if np.ndim(action_masks) == 1 else actions), state

    def _next(self, b: int) -> int:
        s, p = self.games.state, self.games.params
        n_moves, chosen = int(s.moves[b]), int(s.chosen[b])
        plan = self.plans[b]
        if chosen < 0 and (plan is None or n_moves == 0 or self._played[b] != n_moves):
            limit = math.inf if self.time_limit_s is None else self.time_limit_s
            plan = self.plans[b] = self.plan_moves(self.games.fork(b), self.rng, time.perf_counter() + limit)
            self._first[b] = n_moves
        if plan is None:
            return p.n_vms + p.n_nodes
        at = n_moves - self._first[b]
        if at >= len(plan.moves):
            return p.n_vms + p.n_nodes
        self._played[b] = n_moves + 1
        return int(plan.moves[at, 0]) if chosen < 0 else p.n_vms + int(plan.moves[at, 1])

    def plan_metrics(self) -> dict[str, float]:
        """What there is to say of the last plan of the first game."""
        plan = self.plans[0]
        return {} if plan is None else {"unordered": float(plan.unordered), **plan.metrics}
