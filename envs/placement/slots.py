"""Slot columns: how many VMs of typical shapes a host still takes, and how many a placement would cost it.

Free cores say little about fragmentation: what matters is whether the next large VM finds room. For each of
some typical shapes k, with n_k the VMs of that shape that fit on a node (on a host, if the shape is double)
by themselves, the observation ``slots`` holds n_k after placing the pending request there, what the placement
costs of it, and the sum of n_k over the cluster. A network weighs the loss by the scarcity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import F8
from ..jit.kernels import kernel
from ..jit.records import Record, name_places
from ..observation_columns import Column, NamedColumn, columns_of_record
from .games import PlacementConfig
from .state import PlacementParams, PlacementState

if TYPE_CHECKING:
    from .buffers import PlacementBuffers


MOST, MOST_LOST = 4.0, 2.0
"""Counts are clipped here: more of one shape, or more lost at once, makes no difference."""

SLOT_SHAPES: tuple[tuple[int, int], ...] = (
    (2, 8), (4, 8), (8, 8), (4, 12), (8, 16), (12, 24), (8, 32), (16, 32), (32, 64), (64, 128),
)  # fmt: skip
"""Cores and GiB of VMs whose room is counted: the larger usual flavours, 1 to 4 GiB a core."""

TINY = 1e-9
"""Added to quotients before they are rounded down: sizes are exact, their quotients are not."""


class SlotRow(Record):
    """Further columns of a node; those of every shape follow."""

    empty = NamedColumn(1, "1: no VM is on the node")
    cores_after = NamedColumn(1, "free_cores once the pending request is placed here, 0 if it does not fit")
    memory_after = NamedColumn(1, "free_memory then, likewise")


class ShapeRow(Record):
    """Columns of a node about one shape."""

    slots = NamedColumn(1, "min(4, VMs of {shape} GiB that fit then) / 4, likewise")
    lost = NamedColumn(1, "min(2, how many fewer than now) / 2, likewise")


N_AFTER, N_SHAPE = len(SlotRow.places), len(ShapeRow.places)

_NAMES = [f"{cores}x{memory}" for cores, memory in SLOT_SHAPES]

SLOT_NODE_COLUMNS: tuple[Column, ...] = columns_of_record(SlotRow) + tuple(
    column for shape in _NAMES for column in columns_of_record(ShapeRow, f"{{}}_{shape}", shape=shape)
)
"""Further columns of a node."""

SLOT_GLOBAL_COLUMNS: tuple[Column, ...] = tuple(
    Column(
        f"slots_{name}", 2, f"log(1 + VMs of {name} GiB that the cluster takes, if there were no others) / 4"
    )
    for name in _NAMES
)
"""Further columns of the cluster."""


def slot_table(config: PlacementConfig) -> F8:
    """The shapes as the kernel reads them, (K, 3): 1 / cores and 1 / GiB on a node, 1 = double."""
    table = np.zeros((len(SLOT_SHAPES), 3))
    for k, (cores, memory) in enumerate(SLOT_SHAPES):
        double = memory > config.double_above_gib
        share = 0.5 if double else 1.0
        table[k] = 1.0 / (cores * share), 1.0 / (memory * share), double
    return table


@kernel
def _count(cores: float, memory: float, table: F8, k: int) -> Any:
    """VMs of shape k for which a node (or the scarcer of two) has room."""
    return max(0.0, np.floor(min(cores * table[k, 0], memory * table[k, 1]) + TINY))


@kernel
def write_slots(
    p: PlacementParams, s: PlacementState, o: PlacementBuffers, b: int, first: int, end: int
) -> None:
    """Write the slot columns of a game.

    Args:
        s: State; it is read.
        o: Buffers, whose columns of nodes say where the pending request fits.
        b: The game; if it is over, no node fits, and what asks for a pending request is 0.
        first: Place of the first slot column within a node's.
        end: Place of the first slot column of the cluster.
    """
    flat, table = o.flat[b], o.slots
    row, n_shapes = s.cursor[b], len(table)
    for k in range(n_shapes):
        flat[end + k] = 0.0
    for a in range(p.n_nodes):
        i = a * o.width
        here_cores, here_memory = s.free_cores[b, a], s.free_memory[b, a]
        both_cores = min(here_cores, s.free_cores[b, a ^ 1])
        both_memory = min(here_memory, s.free_memory[b, a ^ 1])
        fit = name_places(flat[i : i + first], o.node).fits > 0.0
        cores, memory = (p.cores[row], p.memory[row]) if fit else (0.0, 0.0)
        double = fit and p.double[row]
        after_cores, after_memory = here_cores - cores, here_memory - memory
        both_after_cores = both_cores - cores if double else min(after_cores, both_cores)
        both_after_memory = both_memory - memory if double else min(after_memory, both_memory)
        i += first
        slot = name_places(flat[i : i + N_AFTER], o.slot)
        slot.empty = 1.0 if s.n_vms[b, a] == 0 else 0.0
        slot.cores_after = after_cores / p.node_cores if fit else 0.0
        slot.memory_after = after_memory / p.node_memory if fit else 0.0
        i += N_AFTER
        for k in range(n_shapes):
            if table[k, 2] > 0.0:
                now = _count(both_cores, both_memory, table, k)
                then = _count(both_after_cores, both_after_memory, table, k)
                flat[end + k] += 0.5 * now  # both nodes of the host say so
            else:
                now = _count(here_cores, here_memory, table, k)
                then = _count(after_cores, after_memory, table, k)
                flat[end + k] += now
            shape = name_places(flat[i : i + N_SHAPE], o.shape)
            shape.slots = min(then, MOST) / MOST if fit else 0.0
            shape.lost = min(now - then, MOST_LOST) / MOST_LOST if fit else 0.0
            i += N_SHAPE
    for k in range(n_shapes):
        flat[end + k] = min(0.25 * np.log1p(flat[end + k]), 2.0)
