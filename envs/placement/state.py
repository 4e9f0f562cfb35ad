"""What a placement game is made of: parameters, state, what fits where, and the ends of running VMs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import F8, I8
from ..jit.kernels import kernel
from ..sim.decisions import Reasons

PROTOCOLS: tuple[str, ...] = ("huawei_placement", "fading", "recovering")
"""What happens to time and to a request that fits nowhere; see the module."""

HUAWEI, FADING, RECOVERING = 0, 1, 2
PLAYING, FINISHED, STUCK = 0, 1, 2
"""Status of a game: a request is pending; all are placed; the pending one fits nowhere for ever."""

PLACEMENT_REASONS = Reasons({0: ""})
"""Why an action was refused, by code; 0 = it was carried out."""

NO_NODE = PLACEMENT_REASONS.add("there is no such node")
FITS_NOT = PLACEMENT_REASONS.add("the request does not fit there")
NO_LATER = PLACEMENT_REASONS.add("no later request of the queue can be placed now")

PLACED, REJECTED, SKIPPED = 0, -1, -2
"""What an action that was carried out has done with the pending request, as a code."""


class PlacementParams(NamedTuple):
    """What kernels read and never change: R requests, and the cluster."""

    cores: F8  # (R,) cores asked of a node, half of the VM's if it is double
    memory: F8  # (R,) GiB asked of a node, likewise
    double: NDArray[np.bool_]  # (R,) on both nodes of a host
    arrival: F8  # (R,) s
    lifetime: F8  # (R,) s
    n_nodes: int  # 2 N
    n_requests: int  # R
    node_cores: float
    node_memory: float  # GiB
    protocol: int  # place in PROTOCOLS
    n_actions: int  # 2 N nodes, then `reject` if it is allowed, then `skip` if there is a queue window
    reject_action: int  # number of `reject`, -1 = not allowed
    skip_action: int  # number of `skip`, -1 = none
    reject_penalty: float  # in units of reward
    window: int  # k: requests at the head of the queue that may be placed; 1 = strict FIFO


class PlacementState(NamedTuple):
    """B games; C = most VMs that can run at once."""

    free_cores: F8  # (B, 2N)
    free_memory: F8  # (B, 2N) GiB
    n_vms: I8  # (B, 2N) VMs on the node, a double one counts on both
    start_sum: F8  # (B, 2N) sum over those of start - start of the window, s
    clock: F8  # (B,) s
    wait: F8  # (B,) sum of the waits of all placed requests, s
    last_wait: F8  # (B,) wait of the last placed request, s
    accrued: F8  # (B,) wait + time that requests in the queue have waited so far, s
    first: I8  # (B,) row of the window's first request
    cursor: I8  # (B,) row of the pending request; when all are decided, the row after the last
    end: I8  # (B,) row after the window's last request
    queued: I8  # (B,) first row that has not arrived; kept by step_game only, as the next three
    queue_cores: F8  # (B,) cores asked by requests that have arrived and wait, the pending one included
    queue_memory: F8  # (B,) GiB, likewise
    queue_arrival: F8  # (B,) sum of their arrivals - start of the window, s
    status: I8  # (B,) PLAYING, FINISHED or STUCK
    heap_time: F8  # (B, C) ends of running VMs, s, a binary heap
    heap_item: I8  # (B, C) row of the VM · 2N + its node
    heap_size: I8  # (B,)
    n_placed: I8  # (B,) requests placed
    n_rejected: I8  # (B,) requests rejected
    window_rows: (
        I8  # (B, k) the first k requests that are not decided, in order; kept for k > 1, as the next three
    )
    window_size: I8  # (B,) how many these are
    window_next: I8  # (B,) the row that enters next
    window_slot: I8  # (B,) place of the pending request among them


@kernel
def fits(p: PlacementParams, s: PlacementState, b: int, row: int, a: int) -> Any:
    """Whether a request fits on a node, or, if it is double, on both nodes of that host."""
    cores, memory = p.cores[row], p.memory[row]
    here = (s.free_cores[b, a] >= cores) & (
        s.free_memory[b, a] >= memory
    )  # no branch that cannot be foreseen
    if p.double[row]:
        return here & (s.free_cores[b, a ^ 1] >= cores) & (s.free_memory[b, a ^ 1] >= memory)
    return here


@kernel
def first_fit_node(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    """The lowest node on which a request fits, -1 = none."""
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            return a
    return -1


@kernel
def any_fit(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    """Whether a request fits anywhere."""
    return first_fit_node(p, s, b, row) >= 0


@kernel
def push_end(s: PlacementState, b: int, time_s: float, item: int) -> None:
    """Add the end of a VM to the heap."""
    i = s.heap_size[b]
    s.heap_size[b] = i + 1
    while i > 0:
        parent = (i - 1) >> 1
        if s.heap_time[b, parent] <= time_s:
            break
        s.heap_time[b, i] = s.heap_time[b, parent]
        s.heap_item[b, i] = s.heap_item[b, parent]
        i = parent
    s.heap_time[b, i] = time_s
    s.heap_item[b, i] = item


@kernel
def _pop(s: PlacementState, b: int) -> Any:
    """Take the earliest end off the heap; returns its item."""
    item = s.heap_item[b, 0]
    n = s.heap_size[b] - 1
    s.heap_size[b] = n
    time_s, moved = s.heap_time[b, n], s.heap_item[b, n]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and s.heap_time[b, child + 1] < s.heap_time[b, child]:
            child += 1
        if time_s <= s.heap_time[b, child]:
            break
        s.heap_time[b, i] = s.heap_time[b, child]
        s.heap_item[b, i] = s.heap_item[b, child]
        i = child
    s.heap_time[b, i] = time_s
    s.heap_item[b, i] = moved
    return item


@kernel
def occupy(p: PlacementParams, s: PlacementState, b: int, row: int, a: int, sign: int, start: float) -> None:
    """Take what a VM needs from its node (both, if it is double), or give it back with ``sign`` = -1."""
    for node in (a, a ^ 1):
        s.free_cores[b, node] -= sign * p.cores[row]
        s.free_memory[b, node] -= sign * p.memory[row]
        s.n_vms[b, node] += sign
        s.start_sum[b, node] += sign * start
        if not p.double[row]:
            return


@kernel
def release_until(p: PlacementParams, s: PlacementState, b: int, time_s: float) -> None:
    """Let every VM go that ends at or before a time."""
    while s.heap_size[b] > 0 and s.heap_time[b, 0] <= time_s:
        end = s.heap_time[b, 0]
        item = _pop(s, b)
        row = item // p.n_nodes
        start = end - p.lifetime[row] - p.arrival[s.first[b]]
        occupy(p, s, b, row, item - row * p.n_nodes, -1, start)
