"""``ortools_placement``: pack the queue whenever time has passed, and keep room for what is likely to come.

At each instant with a queue behind the pending request, CP-SAT packs the queue (``queue_packing``), starting
from what the rule with the greatest reserve does; its plan holds until time passes, since nothing new is
known before. With nothing queued, the node that keeps the greatest reserve is found by trying all of them,
which is exact, so the solver is not asked. Neither lifetimes nor requests that have not arrived are used.

With ``oracle`` both are: every choice is played out to the end of the window by several rules, and the best
game found is played. No scheduler can know that much: it shows how far better placement alone could go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.checks import need, one_of
from virtgym.envs.placement.games import PlacementGames

from ..solvers.queue_packing import Instant, reserve_left, solve_queue
from .packing import make_keys
from .policies import PlacementPolicy
from .reserve import make_reserve
from .rules import PLACEMENT_RULES, rule_number
from .search import look_ahead_all, pack_queue, reserve_nodes

ORACLE_RULES: tuple[str, ...] = ("first_host_emptier_node", "best_host_emptier_node", "balance_fit")
"""What the oracle plays choices out by, beside the policy's own rule."""

BETTER = 0.5e-3
"""A packing of as many requests is better if the reserve is greater by this: more than rounding can make."""


MOST_CLASSES = 24
"""Classes of requests to come that the solver is told of, beside those in the queue."""


@dataclass
class OrtoolsPlacementPolicy(PlacementPolicy):
    """Rolling-horizon placement with CP-SAT, an upper reference for rules and agents.

    Attributes:
        rule: Decides between nodes that keep equal reserves; one of ``PLACEMENT_RULES``.
        horizon: M: the reserve is room for so many requests to come.
        history: Rows of the stream before a window that count as seen; 0 = the window alone.
        queue: Most requests of the queue that are packed at once, the pending one included; 1 = no solver.
        min_loss: Ask the solver only if the rule's packing costs more of the reserve than this (in requests),
            or leaves some of the queue unplaced.
        time_limit: Deterministic seconds of CP-SAT per instant.
        solver_seed: Seed of CP-SAT.
        oracle: Use the true future and lifetimes; see the module.
    """

    rule: str = "best_host_emptier_node"
    horizon: float = 35.0
    history: int = 10_000
    queue: int = 48
    min_loss: float = 0.05
    time_limit: float = 0.02
    solver_seed: int = 0
    oracle: bool = False

    @property
    def kind(self) -> str:
        """See ``registry.KINDS``."""
        return "oracle" if self.oracle else "solver"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: For an impossible value.
        """
        one_of("policy.rule", self.rule, PLACEMENT_RULES[: PLACEMENT_RULES.index("random")])
        for name, least in (("history", 0), ("queue", 1), ("min_loss", 0), ("solver_seed", 0)):
            need(
                getattr(self, name) >= least, f"policy.{name}={getattr(self, name)}: must be at least {least}"
            )
        need(0.0 < self.horizon <= 1000.0, f"policy.horizon={self.horizon}: must be above 0, at most 1000")
        need(0.0 < self.time_limit < np.inf, f"policy.time_limit={self.time_limit}: must be positive")

    def reset(self, games: PlacementGames, rng: np.random.Generator) -> None:
        """Bind games; see ``PlacementPolicy``."""
        super().reset(games, rng)
        n = games.n_games
        self._table, self._reserve = make_reserve(games.params, n, self.horizon, self.history)
        self._keys = make_keys(n)
        self._base = rule_number(self.rule)
        self._rules = np.array([rule_number(rule) for rule in ORACLE_RULES], dtype=np.int64)
        self._plans: dict[int, tuple[tuple[float, int, int], list[int]]] = {}
        self._games = np.full((n + 1, 1), -1, dtype=np.int64)
        self.n_solved = self.n_improved = self.n_fallbacks = 0

    def plan_metrics(self) -> dict[str, float]:
        """What the results say of the solver's calls since the last reset."""
        return {} if self.oracle else {"solver_fallbacks": float(self.n_fallbacks)}

    def choose(self) -> I8:
        """The node of each bound game, (B,); 0 for a game that is over."""
        games = self.games
        nodes = np.empty(games.n_games, dtype=np.int64)
        p, s = games.kernel_params, games.kernel_state
        if self.oracle:
            paths = self._paths(int((games.state.end - games.state.first).max()) + 1)
            look_ahead_all(
                p, s, games.spare, self._reserve, self._keys, self._rules, paths[1:], paths[0], nodes
            )
            return nodes
        queue = np.empty(games.n_games, dtype=np.int64)
        reserve_nodes(p, s, self._reserve, self._base, self._keys, self.queue, nodes, queue)
        for b in np.flatnonzero(queue > 1).tolist():
            nodes[b] = self._planned(b, int(queue[b]))
        return nodes

    def _paths(self, length: int) -> I8:
        """Scratch and the plan of each game, (1 + B, T), for windows of some length."""
        missing = length - self._games.shape[1]
        if missing > 0:
            more = np.full((len(self._games), missing), -1, dtype=np.int64)
            self._games = np.concatenate([self._games, more], axis=1)
        return self._games

    def _planned(self, b: int, n: int) -> int:
        """The node of a game that has a queue of n: by its plan, or a new one if time has passed."""
        state = self.games.state
        row = int(state.cursor[b])
        now = (float(state.clock[b]), int(state.first[b]), row)
        expected, nodes = self._plans.get(b, (None, []))
        if expected != now or not nodes or not self.games.mask(b)[nodes[0]]:
            nodes = self._pack(b, n)
        self._plans[b] = ((now[0], now[1], row + 1), nodes[1:])
        return nodes[0]

    def _pack(self, b: int, n: int) -> list[int]:
        """Nodes for a prefix of the queue, at least for the pending request."""
        games, table = self.games, self._table
        state = games.state
        row = int(state.cursor[b])
        hint = np.empty(n, dtype=np.int64)
        placed = int(
            pack_queue(
                games.kernel_params, games.kernel_state, b, games.spare, self._reserve, self._base,
                self._keys, n, hint,
            )
        )  # fmt: skip
        hint = hint[:placed]
        queue = table.of_row[row : row + n]
        used, of_class = np.unique(np.concatenate([queue, self._main_classes(b)]), return_inverse=True)
        value = table.value[b].reshape(len(table.cores), -1)[used]
        instant = Instant(
            np.stack([state.free_cores[b], state.free_memory[b]]),
            np.stack([table.cores[used], table.memory[used]]),
            table.double[used], of_class[:n].astype(np.int64), value, hint,
        )  # fmt: skip
        return [int(a) for a in self._improve(instant, hint)]

    def _main_classes(self, b: int) -> I8:
        """The classes that ask for most in a game, at most ``MOST_CLASSES``."""
        table, p = self._table, self.games.params
        share = np.maximum(table.cores / p.node_cores, table.memory / p.node_memory)
        asked = table.counts[b] * share
        return np.argsort(-asked, kind="stable")[: min(MOST_CLASSES, int((asked > 0.0).sum()))]

    def _improve(self, instant: Instant, hint: I8) -> I8:
        """A packing at least as good as the rule's, by the solver if that may pay."""
        left = reserve_left(instant, hint)
        lost = reserve_left(instant, hint[:0]) - left
        if len(hint) == len(instant.queue) and lost <= self.min_loss:
            return hint
        self.n_solved += 1
        found = solve_queue(instant, self.time_limit, self.solver_seed)
        self.n_fallbacks += found is None
        if found is None or len(found.nodes) < len(hint):
            return hint
        if len(found.nodes) == len(hint) and reserve_left(instant, found.nodes) <= left + BETTER:
            return hint
        self.n_improved += 1
        return found.nodes
