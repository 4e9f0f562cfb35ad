"""What an agent sees of a rescheduling game, and its rewards, kept up by kernels: a step writes what changed.

The columns are those of ``NodeRow``, ``VmRow`` and ``GlobalRow``: float32 in ``[low, high]``, relative to a
node or to the whole snapshot, so that a network that treats nodes and VMs alike runs on any cluster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4, F8, I8
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..jit.records import Record, name_places
from ..observation_columns import Column, NamedColumn, blank, box, columns_of_record
from .game import copy_game, host_of, step_game, write_targets
from .games import ReschedulingGames
from .state import CHOSEN, MOVED, PLAYING, ReschedulingParams, ReschedulingState

HALF_VMS = 8.0


class NodeRow(Record):
    """Row a of ``nodes`` is node a % N of host a // N, and where action V + a puts the chosen VM."""

    free_cpu = NamedColumn(1, "free CPU / CPU of the node")
    free_memory = NamedColumn(1, "free memory / memory of the node")
    fragment = NamedColumn(1, "f = (free CPU mod size) / size, for the VM size of the objective")
    other_fragment = NamedColumn(1, "f of the other node of the host, 0 if there is none")
    n_vms = NamedColumn(1, "n / (n + 8) for n VMs on the host")


class VmRow(Record):
    """Row v of ``vms`` is a VM, and what action v chooses; zeros for one that is not there.

    What its node has stands in the node's row alone, so that a move changes one row here.
    """

    cpu = NamedColumn(1, "CPU that it takes of a node / CPU of the node")
    memory = NamedColumn(1, "memory likewise")
    double = NamedColumn(1, "1: it takes this of both nodes of a host")
    fixed = NamedColumn(1, "1: it must stay where it is")
    grouped = NamedColumn(1, "1: it is in an anti-affinity group")
    away = NamedColumn(1, "1: it is not where it was at the start")
    node = NamedColumn(1, "number of its node, of a double VM the first one, / A")
    chosen = NamedColumn(1, "1: it is to be placed now")


class GlobalRow(Record):
    """The game."""

    moves_left = NamedColumn(1, "moves left / limit")
    placing = NamedColumn(1, "1: a VM is chosen and needs a node")
    objective = NamedColumn(1e6, "the objective")
    fragment = NamedColumn(1, "term: fragment rate")
    hosts_used = NamedColumn(1, "term: hosts with a VM / hosts")
    imbalance = NamedColumn(1, "term: standard deviation of CPU loads")
    energy = NamedColumn(1, "term: power / power of all hosts at full load")
    migration = NamedColumn(1e6, "term: hours of migration so far")
    cpu = NamedColumn(1, "cpu of the chosen VM, 0 without")
    memory = NamedColumn(1, "memory of it")
    double = NamedColumn(1, "double of it")


NODE_COLUMNS, VM_COLUMNS, GLOBAL_COLUMNS = map(columns_of_record, (NodeRow, VmRow, GlobalRow))
N_NODE, N_VM, N_GLOBAL = len(NODE_COLUMNS), len(VM_COLUMNS), len(GLOBAL_COLUMNS)
N_TERMS_AT = list(GlobalRow.places).index("fragment")


class ReschedulingBuffers(NamedTuple):
    """What the kernels write for B games."""

    flat: F4  # (B, A node columns + V VM columns + global columns) observation
    mask: NDArray[np.bool_]  # (B, actions) legal actions
    reward: F8  # (B,) of the last step
    code: I8  # (B,) what the last step has done (``step_game``)
    scale: float  # of rewards
    node: NodeRow  # what the columns of a row are called, as all that follow
    vm: VmRow
    cluster: GlobalRow


CONSTANT_BUFFERS = ("scale", "node", "vm", "cluster")


@kernel
def _write_host(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int, h: int) -> None:
    """Write the nodes of a host."""
    k, two = s.snapshot[b], p.per_host == 2
    first = h * p.per_host
    last = first + p.per_host - 1
    size, inv = np.int64(p.size), 1.0 / p.size
    rest0, rest1 = np.int64(s.free_cpu[b, first]) % size, np.int64(s.free_cpu[b, last]) % size
    free0 = s.free_cpu[b, first] / max(p.node_cpu[k, first], 1)
    free1 = s.free_cpu[b, last] / max(p.node_cpu[k, last], 1)
    count = s.host_vms[b, h] / (s.host_vms[b, h] + HALF_VMS)
    for a in range(first, last + 1):
        row = name_places(o.flat[b, a * N_NODE : (a + 1) * N_NODE], o.node)
        row.free_cpu = free0 if a == first else free1
        row.free_memory = s.free_mem[b, a] / max(p.node_mem[k, a], 1)
        row.fragment = (rest0 if a == first else rest1) * inv
        row.other_fragment = (rest1 if a == first else rest0) * inv if two else 0.0
        row.n_vms = count


@kernel
def _write_place(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int, v: int) -> None:
    """Write where a VM is."""
    i = p.n_nodes * N_NODE + v * N_VM
    row = name_places(o.flat[b, i : i + N_VM], o.vm)
    row.away = 1.0 if s.vm_node[b, v] != p.vm_home[s.snapshot[b], v] else 0.0
    row.node = s.vm_node[b, v] / p.n_nodes


@kernel
def _write_choice(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int) -> None:
    """Write what says which VM is chosen."""
    v = s.chosen[b]
    i = p.n_nodes * N_NODE + p.n_vms * N_VM
    row = name_places(o.flat[b, i : i + N_GLOBAL], o.cluster)
    row.placing = 1.0 if v >= 0 else 0.0
    if v >= 0:
        j = p.n_nodes * N_NODE + v * N_VM
        vm = name_places(o.flat[b, j : j + N_VM], o.vm)
        vm.chosen = 1.0
        row.cpu, row.memory, row.double = vm.cpu, vm.memory, vm.double
    else:
        row.cpu = row.memory = row.double = 0.0


@kernel
def _write_sums(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int) -> None:
    i = p.n_nodes * N_NODE + p.n_vms * N_VM
    row = name_places(o.flat[b, i : i + N_GLOBAL], o.cluster)
    row.moves_left = (p.limit - s.moves[b]) / p.limit
    row.objective = min(s.objective[b], 1e6)
    for term in range(s.terms.shape[1]):
        o.flat[b, i + N_TERMS_AT + term] = min(s.terms[b, term], 1e6)


@kernel
def _write_mask(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int) -> None:
    # As bytes and in plain loops: that is ten times as fast as slices of truth values.
    n = p.n_vms
    mask, movable = o.mask[b, :n].view(np.uint8), s.movable[b].view(np.uint8)
    nodes = o.mask[b, n : n + p.n_nodes].view(np.uint8)
    playing, chosen = s.status[b] == PLAYING, s.chosen[b] >= 0
    if playing and not chosen:
        for v in range(len(mask)):
            mask[v] = movable[v]
    else:
        for v in range(len(mask)):
            mask[v] = 0
    if playing and chosen:
        write_targets(p, s, b, o.mask[b, n : n + p.n_nodes])
    else:
        for a in range(len(nodes)):
            nodes[a] = 0
    o.mask[b, n + p.n_nodes] = playing and not chosen


@kernel
def observe_game(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int) -> None:
    """Write all of a game's observation and its mask."""
    k = s.snapshot[b]
    o.flat[b] = 0.0
    for v in range(p.n_vms):
        if p.vm_class[k, v] >= 0:
            i, a = p.n_nodes * N_NODE + v * N_VM, p.vm_home[k, v]
            row = name_places(o.flat[b, i : i + N_VM], o.vm)
            row.cpu = p.vm_cpu[k, v] / max(p.node_cpu[k, a], 1)
            row.memory = p.vm_mem[k, v] / max(p.node_mem[k, a], 1)
            row.double = 1.0 if p.vm_double[k, v] else 0.0
            row.fixed = 1.0 if p.vm_fixed[k, v] else 0.0
            row.grouped = 1.0 if p.vm_group[k, v] >= 0 else 0.0
            _write_place(p, s, o, b, v)
    for h in range(p.n_hosts):
        _write_host(p, s, o, b, h)
    _write_choice(p, s, o, b)
    _write_sums(p, s, o, b)
    _write_mask(p, s, o, b)


@kernel
def begin_one(
    p: ReschedulingParams,
    starts: ReschedulingState,
    seen: ReschedulingBuffers,
    s: ReschedulingState,
    o: ReschedulingBuffers,
    b: int,
    k: int,
) -> None:
    """Begin snapshot k in game b: everything is copied from what was worked out once."""
    copy_game(starts, k, s, b)
    o.flat[b], o.mask[b] = seen.flat[k], seen.mask[k]
    o.reward[b], o.code[b] = 0.0, 0


@kernel
def play_one(p: ReschedulingParams, s: ReschedulingState, o: ReschedulingBuffers, b: int, action: int) -> Any:
    """Carry out an action of a game that is playing, write its reward, and observe.

    Returns:
        The code of ``step_game``; if that refused the action, nothing has changed and the reward is 0.
    """
    before, v = s.objective[b], s.chosen[b]
    code = step_game(p, s, b, action)
    o.code[b] = code
    o.reward[b] = 0.0
    if code > 0:
        return code
    if code == MOVED:
        o.reward[b] = o.scale * (before - s.objective[b])
        i = p.n_nodes * N_NODE + v * N_VM
        name_places(o.flat[b, i : i + N_VM], o.vm).chosen = 0.0
        _write_place(p, s, o, b, v)
        source, target = host_of(p, s.last_from[b]), host_of(p, s.vm_node[b, v])
        _write_host(p, s, o, b, source)
        if target != source:
            _write_host(p, s, o, b, target)
        _write_sums(p, s, o, b)
    if code >= CHOSEN:
        _write_choice(p, s, o, b)
    _write_mask(p, s, o, b)
    return code


class ReschedulingObserver:
    """Observations, masks and rewards of B games, in memory of its own.

    Args:
        games: The games; their state is read.
        scale: Factor of rewards.
    """

    constant = CONSTANT_BUFFERS

    def __init__(self, games: ReschedulingGames, scale: float = 1.0) -> None:
        self.games, self.scale = games, float(scale)
        p = games.params
        ends = np.cumsum([0, p.n_nodes * N_NODE, p.n_vms * N_VM, N_GLOBAL]).tolist()
        self._parts = {name: slice(a, b) for name, a, b in zip(("nodes", "vms", "globals"), ends, ends[1:])}
        self._width = ends[-1]
        self.buffers, self.handle = self._make(games.n_games)
        views: dict[str, NDArray[Any]] = {
            name: self.buffers.flat[:, part] for name, part in self._parts.items()
        }
        self._views = views | {"vm_node": games.state.vm_node}
        starts, self.start_handle = self._make(len(games.snapshots))
        for k in range(len(games.snapshots)):
            observe_game(games.kernel_params, games.kernel_starts, self.start_handle, k)
        self._starts = starts

    def _make(self, n: int) -> tuple[ReschedulingBuffers, Any]:
        flat, mask = np.zeros((n, self._width), np.float32), np.zeros((n, self.games.n_actions), np.bool_)
        buffers = ReschedulingBuffers(
            flat, mask, np.zeros(n), np.zeros(n, np.int64), self.scale,
            blank(NodeRow), blank(VmRow), blank(GlobalRow),
        )  # fmt: skip
        return buffers, make_handle("rescheduling buffers", buffers)

    @property
    def columns(self) -> dict[str, list[Column]]:
        """The columns of each part of an observation, in the order of ``flat``."""
        p = self.games.params
        return {
            "nodes": list(NODE_COLUMNS) * p.n_nodes,
            "vms": list(VM_COLUMNS) * p.n_vms,
            "globals": list(GLOBAL_COLUMNS),
        }

    def space(self) -> spaces.Dict:
        """Of one game: a vector per part, ``nodes`` and ``vms`` row after row, and the place of each VM."""
        parts: dict[str, spaces.Space[Any]] = {name: box(columns) for name, columns in self.columns.items()}
        p = self.games.params
        return spaces.Dict(parts | {"vm_node": spaces.Box(0, p.n_nodes - 1, (p.n_vms,), np.int32)})

    def flat_space(self) -> spaces.Box:
        """The same but for ``vm_node`` in one vector: nodes, vms, globals."""
        return box([column for columns in self.columns.values() for column in columns])

    @property
    def flat(self) -> F4:
        """All observations in one vector each, (B, columns), as memory that the next step overwrites."""
        return self.buffers.flat

    def refresh(self, game: int = 0) -> None:
        """Bring ``view`` up to date, which here every step does."""

    def begin(self, game: int, snapshot: int) -> None:
        """Begin a snapshot in a game, and observe it."""
        games = self.games
        begin_one(
            games.kernel_params, games.kernel_starts, self.start_handle, games.kernel_state, self.handle,
            game, snapshot,
        )  # fmt: skip

    def view(self, game: int = 0) -> dict[str, NDArray[Any]]:
        """The observation of a game, as memory that the next step overwrites."""
        found: dict[str, NDArray[Any]] = self.split(self.buffers.flat[game])
        return found | {"vm_node": self.games.state.vm_node[game]}

    def copy_one(self, game: int = 0) -> dict[str, NDArray[Any]]:
        """The observation of a game in fresh memory."""
        found: dict[str, NDArray[Any]] = self.split(self.buffers.flat[game].copy())
        return found | {"vm_node": self.games.state.vm_node[game].copy()}

    def split(self, flat: F4) -> dict[str, NDArray[Any]]:
        """An observation in one vector, (columns,), as views of its parts."""
        return {name: flat[part] for name, part in self._parts.items()}

    def copy_all(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """The observations of all games, (B, ...) each, in fresh memory or as views of the buffers."""
        if not copy:
            return self._views.copy()
        flat, node = self.buffers.flat.copy(), self.games.state.vm_node.copy()
        return {name: flat[:, part] for name, part in self._parts.items()} | {"vm_node": node}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        return {"games": self.games, "scale": self.scale, "buffers": tuple(self.buffers)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        self.__init__(saved["games"], saved["scale"])  # type: ignore[misc]
        mine: Any
        for name, mine, theirs in zip(self.buffers._fields, self.buffers, saved["buffers"]):
            if name not in CONSTANT_BUFFERS:
                mine[...] = theirs
