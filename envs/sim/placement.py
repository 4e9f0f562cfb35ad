"""The placement game: requests arrive in order, each is put on a NUMA node, runs, and leaves.

B games run side by side in arrays with a leading B axis; a game never reads another one's row. Nodes are
numbered through the cluster, a = 2 · host + node, which is also the number of the action that places there.

Three protocols:

- ``huawei_placement``: strict FIFO with head-of-line blocking. A request that fits nowhere waits, and all
  behind it, until enough VMs have left; what is measured is waiting time. The protocol of SPANE (INFOCOM
  2025, arXiv 2504.14946).
- ``fading`` and ``recovering``: the survival games of VMAgent (Sheng et al., 2021, arXiv 2112.04785). The
  game ends at the first request that fits nowhere; in *fading* no VM ever leaves, in *recovering* each leaves
  after its lifetime.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "FADING",
    "FINISHED",
    "HUAWEI",
    "PLACEMENT_REASONS",
    "PLAYING",
    "PROTOCOLS",
    "RECOVERING",
    "STUCK",
    "PlacementParams",
    "PlacementState",
    "advance_game",
    "any_fit",
    "begin_game",
    "begin_games",
    "first_fit_node",
    "fits",
    "place_request",
    "step_game",
    "window_length",
    "window_lengths",
    "write_mask",
]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

PROTOCOLS: tuple[str, ...] = ("huawei_placement", "fading", "recovering")
"""What happens to time and to a request that fits nowhere; see the module."""

HUAWEI, FADING, RECOVERING = 0, 1, 2
PLAYING, FINISHED, STUCK = 0, 1, 2
"""Status of a game: a request is pending; all are placed; the pending one fits nowhere for ever."""

PLACEMENT_REASONS: tuple[str, ...] = ("", "there is no such node", "the request does not fit there")
"""Why an action was refused, by code; 0 = it was carried out."""


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
    cursor: I8  # (B,) row of the pending request
    end: I8  # (B,) row after the window's last request
    queued: I8  # (B,) first row that has not arrived; kept by step_game only, as the next three
    queue_cores: F8  # (B,) cores asked by requests that have arrived and wait, the pending one included
    queue_memory: F8  # (B,) GiB, likewise
    queue_arrival: F8  # (B,) sum of their arrivals - start of the window, s
    status: I8  # (B,) PLAYING, FINISHED or STUCK
    heap_time: F8  # (B, C) ends of running VMs, s, a binary heap
    heap_item: I8  # (B, C) row of the VM · 2N + its node
    heap_size: I8  # (B,)


@njit(cache=True)
def fits(p: PlacementParams, s: PlacementState, b: int, row: int, a: int) -> Any:
    """Whether a request fits on a node, or, if it is double, on both nodes of that host."""
    cores, memory = p.cores[row], p.memory[row]
    here = s.free_cores[b, a] >= cores and s.free_memory[b, a] >= memory
    if here and p.double[row]:
        return s.free_cores[b, a ^ 1] >= cores and s.free_memory[b, a ^ 1] >= memory
    return here


@njit(cache=True)
def first_fit_node(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    """The lowest node on which a request fits, -1 = none."""
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            return a
    return -1


@njit(cache=True)
def any_fit(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    """Whether a request fits anywhere."""
    return first_fit_node(p, s, b, row) >= 0


@njit(cache=True)
def write_mask(p: PlacementParams, s: PlacementState, b: int, mask: NDArray[np.bool_]) -> None:
    """Write which actions are legal for the pending request, (2N,); none is when the game is over."""
    row = s.cursor[b]
    for a in range(p.n_nodes):
        mask[a] = s.status[b] == PLAYING and fits(p, s, b, row, a)


@njit(cache=True)
def _push(s: PlacementState, b: int, time_s: float, item: int) -> None:
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


@njit(cache=True)
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


@njit(cache=True)
def _occupy(p: PlacementParams, s: PlacementState, b: int, row: int, a: int, sign: int, start: float) -> None:
    """Take what a VM needs from its node (both, if it is double), or give it back with ``sign`` = -1."""
    for node in (a, a ^ 1):
        s.free_cores[b, node] -= sign * p.cores[row]
        s.free_memory[b, node] -= sign * p.memory[row]
        s.n_vms[b, node] += sign
        s.start_sum[b, node] += sign * start
        if not p.double[row]:
            return


@njit(cache=True)
def _release_until(p: PlacementParams, s: PlacementState, b: int, time_s: float) -> None:
    """Let every VM go that ends at or before a time."""
    while s.heap_size[b] > 0 and s.heap_time[b, 0] <= time_s:
        end = s.heap_time[b, 0]
        item = _pop(s, b)
        row = item // p.n_nodes
        start = end - p.lifetime[row] - p.arrival[s.first[b]]
        _occupy(p, s, b, row, item - row * p.n_nodes, -1, start)


@njit(cache=True)
def begin_game(p: PlacementParams, s: PlacementState, b: int, first: int, end: int) -> None:
    """Start a game: empty cluster at the arrival of row ``first``; ``end`` is the row after its last."""
    s.free_cores[b] = p.node_cores
    s.free_memory[b] = p.node_memory
    s.n_vms[b] = 0
    s.start_sum[b] = 0.0
    s.clock[b] = p.arrival[first]
    s.wait[b] = s.last_wait[b] = s.accrued[b] = 0.0
    s.first[b] = s.cursor[b] = s.queued[b] = first
    s.end[b] = end
    s.queue_cores[b] = s.queue_memory[b] = s.queue_arrival[b] = 0.0
    s.status[b] = PLAYING
    s.heap_size[b] = 0
    _admit(p, s, b)


@njit(cache=True)
def place_request(p: PlacementParams, s: PlacementState, b: int, a: int) -> None:
    """Place the pending request where it fits; no time passes. Its delay moves its end."""
    row = s.cursor[b]
    clock = s.clock[b]
    wait = clock - p.arrival[row]
    _occupy(p, s, b, row, a, 1, clock - p.arrival[s.first[b]])
    if p.protocol != FADING:
        _push(s, b, clock + p.lifetime[row], row * p.n_nodes + a)
    s.last_wait[b] = wait
    s.wait[b] += wait
    s.cursor[b] = row + 1


@njit(cache=True)
def advance_game(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Let time pass until the next request can be placed, or the game is over."""
    row = s.cursor[b]
    if row >= s.end[b]:
        s.status[b] = FINISHED
        return
    arrival = p.arrival[row]
    _release_until(p, s, b, arrival)
    if any_fit(p, s, b, row):
        s.clock[b] = max(s.clock[b], arrival)
        return
    while p.protocol == HUAWEI and s.heap_size[b] > 0 and s.heap_time[b, 0] < np.inf:
        s.clock[b] = s.heap_time[b, 0]
        _release_until(p, s, b, s.clock[b])
        if any_fit(p, s, b, row):
            return
    s.clock[b] = max(s.clock[b], arrival)
    s.status[b] = STUCK


@njit(cache=True)
def _admit(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Add the requests that have arrived to the queue, and the time that those in it have waited."""
    row, clock = s.queued[b], s.clock[b]
    origin = p.arrival[s.first[b]]
    while row < s.end[b] and p.arrival[row] <= clock:
        both = 2.0 if p.double[row] else 1.0
        s.queue_cores[b] += both * p.cores[row]
        s.queue_memory[b] += both * p.memory[row]
        s.queue_arrival[b] += p.arrival[row] - origin
        row += 1
    s.queued[b] = row
    n = row - s.cursor[b]
    s.accrued[b] = s.wait[b] + n * (clock - origin) - s.queue_arrival[b]


@njit(cache=True)
def step_game(p: PlacementParams, s: PlacementState, b: int, a: int) -> Any:
    """Carry out an action and go on to the next decision.

    Args:
        p: Parameters.
        s: State.
        b: The game, which must be playing.
        a: The node.

    Returns:
        0, or the code of the reason (``PLACEMENT_REASONS``), and then nothing has changed.
    """
    if a < 0 or a >= p.n_nodes:
        return 1
    row = s.cursor[b]
    if not fits(p, s, b, row, a):
        return 2
    both = 2.0 if p.double[row] else 1.0
    s.queue_cores[b] -= both * p.cores[row]
    s.queue_memory[b] -= both * p.memory[row]
    s.queue_arrival[b] -= p.arrival[row] - p.arrival[s.first[b]]
    place_request(p, s, b, a)
    advance_game(p, s, b)
    _admit(p, s, b)
    return 0


@njit(cache=True)
def window_length(p: PlacementParams, s: PlacementState, b: int, first: int, extra: int) -> Any:
    """Requests of the window at a row: those that first fit places before one does not fit, and some extra.

    Whether the next one fits is asked right after a placement, before any time passes. Game ``b`` is used up.
    """
    begin_game(p, s, b, first, p.n_requests)
    n = 0
    while True:
        place_request(p, s, b, first_fit_node(p, s, b, s.cursor[b]))
        n += 1
        if s.cursor[b] >= p.n_requests or not any_fit(p, s, b, s.cursor[b]):
            return min(n + extra, p.n_requests - first)
        advance_game(p, s, b)


@njit(cache=True)
def begin_games(p: PlacementParams, s: PlacementState, games: I8, firsts: I8, ends: I8) -> None:
    """``begin_game`` for each of some games."""
    for i in range(len(games)):
        begin_game(p, s, games[i], firsts[i], ends[i])


@njit(cache=True)
def window_lengths(p: PlacementParams, s: PlacementState, firsts: I8, extra: int, out: I8) -> None:
    """``window_length`` of each of some rows; game 0 is used up."""
    for i in range(len(firsts)):
        out[i] = window_length(p, s, 0, firsts[i], extra)
