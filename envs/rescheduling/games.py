"""B rescheduling games on some snapshots, as arrays for kernels and as objects for Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import F8, I4, I8
from ..checks import need, need_count, need_index, need_memory
from ..errors import ConfigError
from ..jit.handle import make_handle
from .game import build_game, copy_game, play_moves, refusal
from .objective import TERMS, ObjectiveConfig
from .snapshot import Snapshot, check_snapshot
from .state import IDLE, RESCHEDULING_REASONS, ReschedulingParams, ReschedulingState

WHOLE = {"free_cpu", "free_mem", "vm_node", "host_vms", "places"}
WIDE = {
    **dict.fromkeys(("free_cpu", "free_mem"), "n_nodes"),
    **dict.fromkeys(("vm_node", "movable"), "n_vms"),
    "host_vms": "n_hosts",
    **dict.fromkeys(("places", "place_sum", "offer"), "n_classes"),
}


def _shapes(snapshot: Snapshot) -> tuple[NDArray[np.int64], I8]:
    """Different shapes of VMs, (K, 3) of CPU, memory, double, and each VM's, (V,)."""
    columns = np.column_stack([snapshot.vm_cpu, snapshot.vm_mem, snapshot.vm_double]).astype(np.int64)
    shapes, inverse = np.unique(columns, axis=0, return_inverse=True)
    return shapes, inverse.reshape(-1)


def _by(values: NDArray[np.integer[Any]], n: int) -> tuple[I4, I4]:
    """Where each of n values begins in a list of indices sorted by value, (n + 1,); the list."""
    order = np.argsort(values, kind="stable")
    order = order[values[order] >= 0]
    first = np.searchsorted(values[order], np.arange(n + 1))
    return first.astype(np.int32), order.astype(np.int32)


def make_params(snapshots: Sequence[Snapshot], objective: ObjectiveConfig, limit: int) -> ReschedulingParams:
    """Bring snapshots of one cluster's size into the form of the kernels.

    Raises:
        ConfigError: If their hosts or power curves differ, or the limit is none.
    """
    need_count("scenario", limit=limit)
    need(len(snapshots) > 0, "rescheduling.snapshots: name at least one")
    one = snapshots[0]
    for other in snapshots[1:]:
        same = (other.n_hosts, other.nodes_per_host) == (one.n_hosts, one.nodes_per_host)
        need(
            same and np.array_equal(other.power_w, one.power_w),
            f"rescheduling.snapshots: {other.name} has other hosts than {one.name}",
        )
    shapes = [_shapes(check_snapshot(snapshot, error=ConfigError)) for snapshot in snapshots]
    n_snapshots, n_vms = len(snapshots), max(snapshot.n_vms for snapshot in snapshots)
    n_shapes = max(len(shape) for shape, _ in shapes)
    groups = [int(snapshot.vm_group.max(initial=-1)) + 1 for snapshot in snapshots]
    largest = max(
        (int(np.bincount(s.vm_group[s.vm_group >= 0]).max(initial=0)) for s in snapshots), default=0
    )

    def blank(width: int, dtype: Any, value: Any = 0) -> Any:
        return np.full((n_snapshots, width), value, dtype)

    most = np.iinfo(np.int32).max
    columns: dict[str, Any] = {
        "node_cpu": blank(one.n_nodes, np.int32), "node_mem": blank(one.n_nodes, np.int32),
        "vm_cpu": blank(n_vms, np.int32), "vm_mem": blank(n_vms, np.int32), "vm_rest": blank(n_vms, np.int32),
        "vm_double": blank(n_vms, np.bool_), "vm_fixed": blank(n_vms, np.bool_, True),
        "vm_group": blank(n_vms, np.int32, -1), "vm_class": blank(n_vms, np.int32, -1),
        "vm_ms": blank(n_vms, np.int64), "vm_home": blank(n_vms, np.int32),
        "class_cpu": blank(n_shapes, np.int32, most), "class_mem": blank(n_shapes, np.int32, most),
        "class_double": blank(n_shapes, np.bool_), "class_first": blank(n_shapes + 1, np.int32),
        "class_vms": blank(n_vms, np.int32), "group_first": blank(max(groups) + 1, np.int32),
        "group_vms": blank(max(1, *(int((s.vm_group >= 0).sum()) for s in snapshots), 1), np.int32),
        "host_power": blank(one.n_hosts, np.int32),
    }  # fmt: skip
    for i, (snapshot, (kinds, kind)) in enumerate(zip(snapshots, shapes, strict=True)):
        n = snapshot.n_vms
        for name in ("node_cpu", "node_mem", "host_power"):
            columns[name][i] = getattr(snapshot, name)
        for name in ("vm_cpu", "vm_mem", "vm_double", "vm_fixed", "vm_group"):
            columns[name][i, :n] = getattr(snapshot, name)
        columns["vm_home"][i, :n], columns["vm_class"][i, :n] = snapshot.vm_node, kind
        columns["vm_rest"][i, :n] = snapshot.vm_cpu % objective.fragment_size
        columns["vm_ms"][i, :n] = objective.migration_ms(snapshot)
        for place, name in enumerate(("class_cpu", "class_mem", "class_double")):
            columns[name][i, : len(kinds)] = kinds[:, place]
        for name, values, count in (("class", kind, n_shapes), ("group", snapshot.vm_group, max(groups))):
            first, order = _by(values, count)
            columns[f"{name}_first"][i], columns[f"{name}_vms"][i, : len(order)] = first, order
    return ReschedulingParams(
        n_hosts=one.n_hosts, n_nodes=one.n_nodes, per_host=one.nodes_per_host, n_vms=n_vms,
        n_classes=n_shapes, limit=int(limit), plenty=2 + max(0, largest - 1) * one.nodes_per_host,
        size=objective.fragment_size, weights=np.array(objective.weights),
        peak_w=np.array([float(s.power_w[s.host_power, -1].sum()) for s in snapshots]),
        power_w=np.ascontiguousarray(one.power_w), **columns,
    )  # fmt: skip


def make_state(p: ReschedulingParams, n_games: int) -> ReschedulingState:
    """Room for games, none of which has begun."""
    row = 8 * p.n_nodes + 5 * p.n_vms + 4 * p.n_hosts
    need_memory(f"rescheduling: {n_games} games of {p.n_vms} VMs", n_games, row)
    truth, real = {"movable"}, {"terms", "objective"}
    arrays: dict[str, Any] = {}
    for name in ReschedulingState._fields:
        width = (getattr(p, WIDE[name]),) if name in WIDE else (len(TERMS),) if name == "terms" else ()
        dtype: Any = np.int32 if name in WHOLE else np.bool_ if name in truth else np.int64
        arrays[name] = np.zeros((n_games, *width), np.float64 if name in real else dtype)
    state = ReschedulingState(**arrays)
    state.status[:] = IDLE
    state.chosen[:] = -1
    return state


@dataclass(frozen=True, eq=False)
class Played:
    """What some moves did.

    Attributes:
        gains: What each took off the objective, (n,).
        n: How many were carried out; the one after them was refused.
        reason: Why; empty if none was.
    """

    gains: F8
    n: int
    reason: str


class ReschedulingGames:
    """B games on S snapshots of one size.

    Args:
        snapshots: The snapshots.
        objective: What is to become small.
        limit: Moves of a game.
        n_games: B.

    Attributes:
        params: What the games share (``ReschedulingParams``).
        state: Where each game stands (``ReschedulingState``).
        kernel_params: The same for kernels, as ``kernel_state``.
    """

    def __init__(
        self,
        snapshots: Sequence[Snapshot],
        objective: ObjectiveConfig | None = None,
        limit: int = 50,
        n_games: int = 1,
    ) -> None:
        need_count("rescheduling", n_games=n_games)
        self.snapshots = tuple(snapshots)
        self.objective = ObjectiveConfig() if objective is None else objective
        self.limit, self.n_games = int(limit), int(n_games)
        params = make_params(self.snapshots, self.objective, limit)
        starts = make_state(params, len(self.snapshots))
        self._bind(params, starts, make_state(params, n_games))
        for k in range(len(self.snapshots)):
            build_game(self.kernel_params, self.kernel_starts, k, k)

    def _bind(self, params: ReschedulingParams, starts: ReschedulingState, state: ReschedulingState) -> None:
        self.params, self.starts, self.state = params, starts, state
        self.kernel_params: Any = make_handle("rescheduling params", params, readonly=True)
        self.kernel_starts: Any = make_handle("rescheduling state", starts)
        self.kernel_state: Any = make_handle("rescheduling state", state)

    @property
    def n_actions(self) -> int:
        """V VMs, A nodes, and *stop*."""
        return self.params.n_vms + self.params.n_nodes + 1

    def snapshot_of(self, game: int = 0) -> Snapshot:
        """What a game plays."""
        return self.snapshots[int(self.state.snapshot[game])]

    def begin(self, game: int = 0, snapshot: int = 0) -> None:
        """Begin a snapshot in a game."""
        k = need_index("rescheduling", "snapshot", snapshot, len(self.snapshots))
        copy_game(
            self.kernel_starts, k, self.kernel_state, need_index("rescheduling", "game", game, self.n_games)
        )

    def fork(self, game: int = 0) -> ReschedulingGames:
        """A game by itself, as it stands: what is played there changes nothing here."""
        twin: ReschedulingGames = object.__new__(ReschedulingGames)
        twin.snapshots, twin.objective, twin.limit, twin.n_games = (
            self.snapshots,
            self.objective,
            self.limit,
            1,
        )
        twin._bind(self.params, self.starts, make_state(self.params, 1))
        copy_game(self.kernel_state, game, twin.kernel_state, 0)
        return twin

    def play(self, moves: I8, game: int = 0) -> Played:
        """Carry out moves (VM, place), (n, 2), until one is refused or the limit is reached."""
        chosen = np.ascontiguousarray(moves, dtype=np.int64).reshape(-1, 2)
        need(
            bool(((chosen >= 0) & (chosen < (self.params.n_vms, self.params.n_nodes))).all()),
            "rescheduling.moves: must be pairs of a VM and a node",
        )
        gains = np.zeros(len(chosen))
        n = int(play_moves(self.kernel_params, self.kernel_state, game, chosen, gains))
        reason = ""
        if n < len(chosen):
            spent = self.state.moves[game] >= self.limit
            code = refusal(self.kernel_params, self.kernel_state, game, *chosen[n].tolist())
            reason = "the limit of moves is reached" if spent else RESCHEDULING_REASONS[code]
        return Played(gains, n, reason)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        saved = {k: v for k, v in self.__dict__.items() if not k.startswith("kernel_")}
        return saved | {k: tuple(saved[k]) for k in ("params", "starts", "state")}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        self.__dict__.update(saved)
        starts, state = ReschedulingState(*saved["starts"]), ReschedulingState(*saved["state"])
        self._bind(ReschedulingParams(*saved["params"]), starts, state)
