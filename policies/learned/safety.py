"""Safety of a placement agent: a rule plays unless the agent is sure, and keeps room for large VMs.

An agent that was trained on some stretch of requests may spread small VMs in a way that cost nothing there,
and later makes one VM of 64 cores, and all behind it, wait for hours. So each of its choices is held against
that of a rule, and is played only if

- its score is better than that of the rule's node by more than ``margin``, and
- for no shape in ``shapes`` it leaves less room than the rule's node would: neither fewer hosts that take
  a VM of this shape, nor more *lack* on the host that lacks least. The lack is what the two nodes of a host
  miss, each as a share of what the shape asks of a node (cores or memory, whichever misses more).

The second condition keeps the emptiest host clear where no host is empty, too: a large VM then waits until
the host that lacks least has lost enough of its VMs.

Everything is worked out from one game's observation (``SafePlayer``) or its state, to the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4, F8, I8, U8
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.games import GRID, PlacementConfig, PlacementGames
from virtgym.envs.placement.state import PlacementParams, PlacementState

from ..placement.rules import PLACEMENT_RULES, RANDOM, choose_node
from .architecture import Layout

SAFE_RULES: tuple[str, ...] = PLACEMENT_RULES[:RANDOM]
"""Rules that look at nothing but the state."""

NEVER = 1e6
"""A margin that no score exceeds: the rule alone plays."""

MOST_SHAPES = 100

SAME = 1e-9
"""Lacks that differ by less are the same."""


@dataclass(frozen=True)
class Safety:
    """When a rule plays in place of the agent; plain data that travels in the agent's folder.

    Attributes:
        rule: One of ``SAFE_RULES``.
        margin: How much better than the rule's node the agent's must score; logits, or values.
        shapes: Cores and GiB of the VMs for which room is kept.
    """

    rule: str = "best_host_emptier_node"
    margin: float = 0.0
    shapes: tuple[tuple[float, float], ...] = ((64.0, 128.0),)

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if self.rule not in SAFE_RULES:
            raise ConfigError(f"safety.rule={self.rule}: must be one of {', '.join(SAFE_RULES)}")
        check_margin("safety", self.margin)
        if len(self.shapes) > MOST_SHAPES:
            raise ConfigError(f"safety.shapes: {len(self.shapes)} shapes; at most {MOST_SHAPES} are possible")
        for shape in self.shapes:
            if len(shape) != 2 or not all(_is_number(size) and size > 0.0 for size in shape):
                raise ConfigError(f"safety.shapes: {list(shape)}: must be cores and GiB, positive and finite")

    @classmethod
    def from_dict(cls, data: Any) -> Safety | None:
        """Read what ``to_dict`` gave; None is none.

        Raises:
            ConfigError: If it is something else.
        """
        if data is None:
            return None
        if not isinstance(data, Mapping) or set(data) != {"rule", "margin", "shapes"}:
            raise ConfigError("safety: must be a mapping with rule, margin and shapes")
        shapes = data["shapes"]
        if not isinstance(shapes, list) or not all(isinstance(shape, list) for shape in shapes):
            raise ConfigError("safety.shapes: must be a list of pairs of cores and GiB")
        pairs: Any = tuple(tuple(shape) for shape in shapes)  # checked when made
        return cls(str(data["rule"]), data["margin"], pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"rule": self.rule, "margin": self.margin, "shapes": [list(shape) for shape in self.shapes]}


def most_cautious(safeties: Sequence[Safety | None]) -> Safety | None:
    """The safety of an ensemble: the greatest margin; None if no member has one.

    Raises:
        ConfigError: If members differ in whether they have one, in the rule or in the shapes.
    """
    if len({s and (s.rule, s.shapes) for s in safeties}) > 1:
        raise ConfigError("members: safety must have the same rule and shapes in all of an ensemble")
    return max(safeties, key=lambda s: s.margin if s else 0.0)


def check_margin(where: str, margin: Any) -> None:
    """Refuse a margin that is none.

    Args:
        where: What the message puts before its key.
        margin: How much better than the rule's choice that of an agent must score.

    Raises:
        ConfigError: If it is no finite number of at least 0.
    """
    if not (_is_number(margin) and margin >= 0.0):
        raise ConfigError(f"{where}.margin={margin}: must be a finite number of at least 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class SafetyTable(NamedTuple):
    """What a kernel reads of a ``Safety``; K shapes."""

    rule: int  # place in PLACEMENT_RULES
    margin: F8  # (1,)
    cores: F8  # (K,) asked of a node
    memory: F8  # (K,) GiB asked of a node
    double: NDArray[np.bool_]  # (K,)
    keys: U8  # (1,) not used: no rule here draws


def make_safety_table(safety: Safety | None, config: PlacementConfig) -> Any:
    """Bring a safety into the form of the kernels, as a handle.

    Args:
        safety: The safety; None = a table with a margin below 0, which stands for none.
        config: Cluster and protocol, which say what is double.
    """
    rule, margin, shapes = (
        (safety.rule, float(safety.margin), safety.shapes) if safety else ("first_fit", -1.0, ())
    )
    sizes = np.array(shapes, dtype=np.float64).reshape(-1, 2)
    double = sizes[:, 1] > config.double_above_gib
    asked = np.ascontiguousarray((sizes * np.where(double, 0.5, 1.0)[:, None]).T)
    table = SafetyTable(
        PLACEMENT_RULES.index(rule), np.array([margin]), asked[0], asked[1], double,
        np.zeros(1, dtype=np.uint64),
    )  # fmt: skip
    return make_handle("safety table", table)


@kernel
def host_lack(
    p: PlacementParams, s: PlacementState, b: int, t: SafetyTable, k: int, host: int, a: int
) -> Any:
    """What a host lacks for a VM of shape k once the pending request of a game is on node a; 0 = it fits."""
    row, total, least = s.cursor[b], 0.0, np.inf
    for node in (2 * host, 2 * host + 1):
        cores, memory = s.free_cores[b, node], s.free_memory[b, node]
        if node == a or (p.double[row] and node == a ^ 1):
            cores -= p.cores[row]
            memory -= p.memory[row]
        lack = max(0.0, (t.cores[k] - cores) / t.cores[k], (t.memory[k] - memory) / t.memory[k])
        total += lack
        least = min(least, lack)
    return total if t.double[k] else least


@kernel
def keeps_room(p: PlacementParams, s: PlacementState, b: int, t: SafetyTable, a: int, rule_node: int) -> Any:
    """Whether node a leaves as much room for the shapes as the rule's node."""
    for k in range(len(t.cores)):
        here, there, least_here, least_there = 0, 0, np.inf, np.inf
        for host in range(p.n_nodes // 2):
            mine = host_lack(p, s, b, t, k, host, a)
            rules = host_lack(p, s, b, t, k, host, rule_node)
            here += mine == 0.0
            there += rules == 0.0
            least_here, least_there = min(least_here, mine), min(least_there, rules)
        if here < there or least_here > least_there + SAME:
            return False
    return True


@kernel
def safe_action(
    p: PlacementParams, s: PlacementState, b: int, t: SafetyTable, scores: F4, mask: NDArray[np.bool_]
) -> Any:
    """What is played for the pending request of a game.

    Args:
        s: State; it is read.
        b: The game.
        t: The safety.
        scores: Of the agent, (actions,).
        mask: Legal actions, (actions,).

    Returns:
        The legal action with the best score among those that the safety lets pass, the lowest of equals, else
        the rule's node; -1 if no node is legal.
    """
    base = choose_node(p, s, b, t.rule, t.keys, 0)
    if base < 0 or not mask[base]:
        return -1
    double = p.double[s.cursor[b]]
    best, top = base, scores[base] + t.margin[0]
    for a in range(p.n_nodes):
        if not mask[a] or a == base or (double and (a >> 1) == (base >> 1)):
            continue
        if scores[a] > top and keeps_room(p, s, b, t, a, base):
            best, top = a, float(scores[a])
    return best


@kernel
def _choose_all(
    p: PlacementParams, s: PlacementState, t: SafetyTable, scores: F4, mask: NDArray[np.bool_], out: I8
) -> None:
    """``safe_action`` of B games, 0 where no node is legal, into ``out``, (B,)."""
    for b in range(len(out)):
        out[b] = max(0, safe_action(p, s, b, t, scores[b], mask[b]))


class _OneRequest:
    """A stream of one request of no particular size."""

    cores = memory_gib = np.full(1, 1.0 / GRID)
    arrival_s = lifetime_s = np.zeros(1)


class SafePlayer:
    """Plays a safety from observations, for any number of games at once.

    Args:
        safety: The safety.
        config: Cluster and protocol of the games: observations are shares of its nodes.

    Raises:
        ConfigError: If the games have other actions than the nodes.
    """

    def __init__(self, safety: Safety, config: PlacementConfig) -> None:
        if config.n_actions > 2 * config.n_hosts:
            raise ConfigError("safety: chooses nodes: play it with allow_reject=false and queue_window=1")
        self.config = config
        self._table = make_safety_table(safety, config)
        self._game = PlacementGames(_OneRequest(), replace(config, n_hosts=1))
        self._bind(0, 0)

    def _bind(self, n_games: int, n_nodes: int) -> None:
        """Make room for the states of so many games; request b is pending in game b."""
        sizes, wide = np.zeros((2, n_games)), np.zeros((2, n_games, n_nodes))
        self._params = self._game.params._replace(
            cores=sizes[0], memory=sizes[1], double=np.zeros(n_games, dtype=np.bool_), n_nodes=n_nodes
        )
        self._state = self._game.state._replace(
            free_cores=wide[0], free_memory=wide[1], cursor=np.arange(n_games, dtype=np.int64)
        )
        self._p: Any = make_handle("placement params", self._params, readonly=True)
        self._s: Any = make_handle("placement state", self._state)

    def choose(self, seen: Layout, nodes: F4, request: F4, scores: F4, mask: NDArray[np.bool_]) -> I8:
        """The node of every game, (B,); 0 where none is legal.

        Args:
            seen: Names of the columns.
            nodes: (B, 2N · columns).
            request: (B, …).
            scores: Of the agent, (B, 2N).
            mask: Legal actions, (B, 2N).
        """
        n, n_nodes = mask.shape
        if n_nodes != self._params.n_nodes or n > len(self._params.cores):
            self._bind(n, n_nodes)
        rows, asked_columns = nodes.reshape(n, n_nodes, -1), seen.columns[1]
        cluster = (self._params.node_cores, self._params.node_memory)
        names = ("free_cores", "free_memory"), ("cores", "memory")
        free = (self._state.free_cores, self._state.free_memory)
        asked = (self._params.cores, self._params.memory)
        for node_name, name, size, left, wanted in zip(*names, cluster, free, asked):
            left[:n] = _amounts(rows[:, :, seen.rows.index(node_name)], size)
            wanted[:n] = _amounts(request[:, asked_columns.index(name)], size)
        self._params.double[:n] = request[:, asked_columns.index("double")] > 0.5
        out = np.empty(n, dtype=np.int64)
        _choose_all(self._p, self._s, self._table, scores, mask, out)
        return out


def _amounts(shares: F4, size: float) -> F8:
    """Cores or GiB from shares of a node that were rounded to float32: amounts are multiples of 1 / GRID."""
    return np.asarray(np.rint(shares.astype(np.float64) * (size * GRID)) / GRID)
