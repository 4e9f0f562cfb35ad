"""A rescheduling game as a set of rows, one for each action that is legal: what agents read.

Rows are numbered as actions are: VMs, nodes, *stop*. While no VM is chosen those of the VMs that can move and
of *stop* are written, then those of the nodes where the chosen VM can go; the others are 0. The columns are
those of ``ActionRow``, so that one network scores VMs, then nodes, of any number. CPU counts in sizes of the
objective's VM, of which a move makes more or fewer fit: its *whole* ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4, F8
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..jit.records import Record, name_places
from ..observation_columns import Column, NamedColumn, blank, box, columns_of_record
from .game import host_of, room_for
from .games import ReschedulingGames
from .observations import GLOBAL_COLUMNS, HALF_VMS, N_GLOBAL, N_NODE, N_VM, ReschedulingBuffers
from .observations import ReschedulingObserver as TableObserver
from .state import PLAYING, ReschedulingParams, ReschedulingState

BINS = 8


class ActionRow(Record):
    """Row i is action i; of a double VM and its places, sums and means are over both nodes of a host."""

    offered = NamedColumn(1, "1: the action is legal")
    is_vm = NamedColumn(1, "1: it chooses a VM")
    is_node = NamedColumn(1, "1: it chooses a node")
    cpu = NamedColumn(1, "CPU that the VM, or the chosen VM, takes of a node / CPU of the node")
    memory = NamedColumn(1, "memory likewise")
    double = NamedColumn(1, "1: it takes this of both nodes of a host")
    away = NamedColumn(
        1, "1: the VM is not where it was at the start; of a node: the move would bring it home"
    )
    free_cpu = NamedColumn(1, "free CPU / CPU of the node")
    free_memory = NamedColumn(1, "free memory / memory of the node")
    fragment = NamedColumn(1, "f = (free CPU mod size) / size of the node")
    other_fragment = NamedColumn(1, "f of the other node of the host, 0 if there is none")
    after = NamedColumn(1, "f once the VM has left, or come")
    other_after = NamedColumn(1, "the same of the other node")
    whole = NamedColumn(1, "half of how many whole ones there are more once the VM has left, or come", low=-1)
    gain = NamedColumn(1, "half of how many the move makes; of a VM, the best of its moves", low=-1)
    exact = NamedColumn(1, "1: the VM fills the fragment; of a VM, share of the places where it does")
    n_vms = NamedColumn(1, "n / (n + 8) for n VMs on the host")


ACTION_COLUMNS = columns_of_record(ActionRow)
N_ACTION = len(ACTION_COLUMNS)
ACTION_GLOBALS: tuple[Column, ...] = (
    *GLOBAL_COLUMNS,
    *(
        Column(f"fragments_{i}", 1, f"share of the nodes with {i} / {BINS} <= f < {i + 1} / {BINS}")
        for i in range(BINS)
    ),
)


class RowBuffers(NamedTuple):
    """What the kernel writes for B games."""

    flat: F4  # (B, actions * action columns + global columns)
    best: F8  # (K,) whole ones more when a VM of a shape comes to its best place, 0 or less
    exact: F8  # (K,) share of places that it fills
    row: ActionRow  # what the columns are called


@kernel
def _rate_shapes(p: ReschedulingParams, s: ReschedulingState, w: RowBuffers, b: int) -> None:
    """Write what places there are for the VMs of every shape."""
    k, size = s.snapshot[b], np.int64(p.size)
    for shape in range(p.n_classes):
        double = p.class_double[k, shape]
        by, count, n = np.int64(p.class_cpu[k, shape]) % size, 0, 0
        most: Any = np.int64(-2)
        for a in range(0, p.n_nodes, 2 if double else 1):
            if room_for(p, s, b, p.class_cpu[k, shape], p.class_mem[k, shape], double, a):
                rest = np.int64(s.free_cpu[b, a]) % size
                whole, fills = -np.int64(rest < by), rest == by
                if double:
                    rest = np.int64(s.free_cpu[b, a + 1]) % size
                    whole -= np.int64(rest < by)
                    fills = fills & (rest == by)
                most = max(most, whole)
                count += fills
                n += 1
        w.best[shape] = 0.5 * most if n > 0 else 0.0
        w.exact[shape] = count / n if n > 0 else 0.0


@kernel
def _write_row(
    p: ReschedulingParams, s: ReschedulingState, w: RowBuffers, b: int, action: int, v: int, a: int, sign: int
) -> None:
    """Write what a VM does to a node when it leaves it (sign 1) or comes (-1)."""
    k, size, inv = s.snapshot[b], np.int64(p.size), 1.0 / p.size
    row = name_places(w.flat[b, action * N_ACTION : (action + 1) * N_ACTION], w.row)
    other = a ^ 1 if p.per_host == 2 else a
    double = p.vm_double[k, v]
    by = sign * np.int64(p.vm_rest[k, v])
    rest, rest_other = np.int64(s.free_cpu[b, a]) % size, np.int64(s.free_cpu[b, other]) % size
    sum_one, sum_other = rest + by, rest_other + (by if double else 0)
    whole = sum_one // size + sum_other // size
    row.offered = 1.0
    row.cpu = p.vm_cpu[k, v] / max(p.node_cpu[k, a], 1)
    row.memory = p.vm_mem[k, v] / max(p.node_mem[k, a], 1)
    row.double = 1.0 if double else 0.0
    row.free_cpu = s.free_cpu[b, a] / max(p.node_cpu[k, a], 1)
    row.free_memory = s.free_mem[b, a] / max(p.node_mem[k, a], 1)
    row.fragment, row.after = rest * inv, (sum_one - size * (sum_one // size)) * inv
    if p.per_host == 2:
        row.other_fragment = rest_other * inv
        row.other_after = (sum_other - size * (sum_other // size)) * inv
    row.whole = 0.5 * whole
    n = s.host_vms[b, host_of(p, a)]
    row.n_vms = n / (n + HALF_VMS)


@kernel
def write_rows(
    p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, w: RowBuffers, b: int
) -> None:
    """Write all rows of a game, and the globals, from its state, its mask and its other observation."""
    k, chosen, n = s.snapshot[b], s.chosen[b], p.n_vms
    w.flat[b] = 0.0
    leaving = 0.0
    if s.status[b] == PLAYING and chosen < 0:
        _rate_shapes(p, s, w, b)
        for v in range(n):
            if o.mask[b, v]:
                _write_row(p, s, w, b, v, v, s.vm_node[b, v], 1)
                row = name_places(w.flat[b, v * N_ACTION : (v + 1) * N_ACTION], w.row)
                row.is_vm = 1.0
                row.away = 1.0 if s.vm_node[b, v] != p.vm_home[k, v] else 0.0
                row.gain = row.whole + w.best[p.vm_class[k, v]]
                row.exact = w.exact[p.vm_class[k, v]]
        stop = n + p.n_nodes
        name_places(w.flat[b, stop * N_ACTION : (stop + 1) * N_ACTION], w.row).offered = 1.0
    elif s.status[b] == PLAYING:
        home, by, size = s.vm_node[b, chosen], np.int64(p.vm_rest[k, chosen]), np.int64(p.size)
        for i in range(1 + p.vm_double[k, chosen]):
            leaving += 0.5 * np.float64(np.int64(s.free_cpu[b, home + i]) % size + by >= size)
        for a in range(p.n_nodes):
            if o.mask[b, n + a]:
                _write_row(p, s, w, b, n + a, chosen, a, -1)
                row = name_places(w.flat[b, (n + a) * N_ACTION : (n + a + 1) * N_ACTION], w.row)
                row.is_node = 1.0
                row.away = 1.0 if a == p.vm_home[k, chosen] else 0.0
                row.gain = row.whole + leaving
                double = p.vm_double[k, chosen]
                row.exact = 1.0 if row.after == 0.0 and (not double or row.other_after == 0.0) else 0.0
    at = (n + p.n_nodes + 1) * N_ACTION
    first = p.n_nodes * N_NODE + n * N_VM
    for i in range(N_GLOBAL):
        w.flat[b, at + i] = o.flat[b, first + i]
    share = np.float32(1.0 / p.n_nodes)
    for a in range(p.n_nodes):
        w.flat[b, at + N_GLOBAL + BINS * (np.int64(s.free_cpu[b, a]) % p.size) // p.size] += share


@kernel
def _write_all(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, w: RowBuffers) -> None:
    for b in range(len(w.flat)):
        write_rows(p, s, o, w, b)


class ActionObserver(TableObserver):
    """Observations of B games by actions, written when they are asked for.

    Args:
        games: The games; their state is read.
        scale: Factor of rewards.
    """

    def __init__(self, games: ReschedulingGames, scale: float = 1.0) -> None:
        super().__init__(games, scale)
        n, n_kinds = games.n_actions * N_ACTION, games.params.n_classes
        self._parts = {"actions": slice(0, n), "globals": slice(n, n + len(ACTION_GLOBALS))}
        self.rows = RowBuffers(
            np.zeros((games.n_games, n + len(ACTION_GLOBALS)), np.float32),
            np.zeros(n_kinds), np.zeros(n_kinds), blank(ActionRow),
        )  # fmt: skip
        self._rows: Any = make_handle("rescheduling rows", self.rows)

    @property
    def columns(self) -> dict[str, list[Column]]:
        """The columns of each part of an observation, in the order of ``flat``."""
        return {"actions": list(ACTION_COLUMNS) * self.games.n_actions, "globals": list(ACTION_GLOBALS)}

    def space(self) -> spaces.Dict:
        """Of one game: a vector per part, ``actions`` row after row."""
        return spaces.Dict({name: box(columns) for name, columns in self.columns.items()})

    @property
    def flat(self) -> F4:
        """All observations, as memory that is written when it is asked for."""
        games = self.games
        _write_all(games.kernel_params, games.kernel_state, self.handle, self._rows)
        return self.rows.flat

    def refresh(self, game: int = 0) -> None:
        """Write what ``view`` shows."""
        games = self.games
        write_rows(games.kernel_params, games.kernel_state, self.handle, self._rows, game)

    def view(self, game: int = 0) -> dict[str, NDArray[Any]]:
        """The observation of a game, as memory that ``refresh`` writes."""
        return self.split(self.rows.flat[game])

    def copy_one(self, game: int = 0) -> dict[str, NDArray[Any]]:
        """The observation of a game in fresh memory."""
        self.refresh(game)
        return self.split(self.rows.flat[game].copy())

    def copy_all(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """The observations of all games, (B, ...) each, in fresh memory or as views."""
        flat = self.flat.copy() if copy else self.flat
        return {name: flat[:, part] for name, part in self._parts.items()}
