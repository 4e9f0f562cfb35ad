"""What the kernels of placement environments write for B games."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import F4, F8
from ..jit.kernels import kernel
from ..jit.records import Record
from ..observation_columns import NamedColumn, columns_of_record
from .slots import ShapeRow, SlotRow


class NodeRow(Record):
    """Row a of ``nodes`` is node a % 2 of host a // 2, and what action a places on."""

    free_cores = NamedColumn(1, "free cores / cores of a node")
    free_memory = NamedColumn(1, "free memory / memory of a node")
    fits = NamedColumn(1, "1: the pending request fits here (a double one: on this host)")
    room = NamedColumn(1, "r = min(free_cores, free_memory)")
    room_after = NamedColumn(1, "r once the pending request is placed here, 0 if it does not fit")
    n_vms = NamedColumn(1, "n / (n + 16) for n VMs on the node")
    age = NamedColumn(1, "t / (t + 1 h) for the mean time t since these VMs were placed")


class RequestRow(Record):
    """The pending request; zeros when the game is over."""

    cores = NamedColumn(1, "cores asked of a node / cores of a node")
    memory = NamedColumn(1, "memory asked of a node / memory of a node")
    double = NamedColumn(1, "1: the request asks this of both nodes of a host")
    waited = NamedColumn(2, "log(1 + time since its arrival, s) / log(1 + 30 days)")


class GlobalRow(Record):
    """The cluster and its queue."""

    cores_used = NamedColumn(1, "used cores / cores of the cluster")
    memory_used = NamedColumn(1, "used memory / memory of the cluster")
    queue = NamedColumn(
        2, "log(1 + requests that have arrived and wait, the pending one included) / log(129)"
    )
    queue_cores = NamedColumn(4, "cores that these ask for / cores of the cluster")
    queue_memory = NamedColumn(4, "memory that these ask for / memory of the cluster")
    total_wait = NamedColumn(2, "log(1 + waiting so far, placed requests and queue, s) / log(1 + 30 days)")
    last_wait = NamedColumn(2, "log(1 + wait of the last placed request, s) / log(1 + 30 days)")
    placed = NamedColumn(3, "log(1 + requests placed) / log(129)")
    gap = NamedColumn(1, "log(1 + time between the last two arrivals, s) / log(1 + 30 days), 0 at first")
    day_sin = NamedColumn(1, "sine of the time of day", low=-1)
    day_cos = NamedColumn(1, "cosine of the time of day", low=-1)


class WindowRow(RequestRow):
    """The i-th of the first k requests that wait, with ``queue_window`` k > 1; zeros if there are fewer."""

    fits = NamedColumn(1, "share of the nodes on which it fits")
    pending = NamedColumn(1, "1: it is the one that the action is about")


NODE_COLUMNS, REQUEST_COLUMNS = columns_of_record(NodeRow), columns_of_record(RequestRow)
GLOBAL_COLUMNS, WINDOW_COLUMNS = columns_of_record(GlobalRow), columns_of_record(WindowRow)


class PlacementBuffers(NamedTuple):
    """What the kernels write for B games."""

    flat: F4  # (B, 2N · node columns + request columns + global columns + k · window columns) observation
    mask: NDArray[np.bool_]  # (B, actions) legal actions
    reward: F8  # (B,) of the last step
    code: NDArray[np.int64]  # (B,) what the last step has done (``step_game``)
    clock: F8  # (B,) time that the phase of the day was written for, s
    accrued: F8  # (B,) waiting that `total_wait` was written for, s
    wait: F8  # (B,) wait whose logarithm is in wait_log: the pending request's is soon the last one's, s
    wait_log: F8  # (B,) log(1 + wait)
    gap: F4  # (R,) the column `gap` of each request
    slots: F8  # (K, 3) shapes of the slot columns; K = 0 without
    width: int  # columns of a node
    n_globals: int  # columns of the cluster
    node: NodeRow  # what the columns of a row are called, as all that follow
    request: RequestRow
    cluster: GlobalRow
    waiting: WindowRow
    slot: SlotRow
    shape: ShapeRow


CONSTANT_BUFFERS = (
    *("gap", "slots", "width", "n_globals"),
    *("node", "request", "cluster", "waiting", "slot", "shape"),
)
"""Fields of ``PlacementBuffers`` that play does not change."""


@kernel
def wait_log(o: PlacementBuffers, b: int, seconds: float) -> Any:
    """log(1 + a wait), worked out once although it is shown as waited, paid for, and shown as last wait."""
    if seconds <= 0.0:
        return 0.0
    if seconds != o.wait[b]:
        o.wait[b] = seconds
        o.wait_log[b] = np.log1p(seconds)
    return o.wait_log[b]
