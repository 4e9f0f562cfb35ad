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

Options: cores may be promised more than once (the ratio is part of the capacity of a node), a request may be
rejected, and any of the first k requests that wait may be placed next (``placement_queue``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import I8
from ..jit.kernels import kernel
from .queue import advance_window, begin_window, drop_from_window, next_candidate, skip_candidate
from .state import (
    FADING,
    FINISHED,
    FITS_NOT,
    HUAWEI,
    NO_LATER,
    NO_NODE,
    PLACED,
    PLAYING,
    REJECTED,
    SKIPPED,
    STUCK,
    PlacementParams,
    PlacementState,
    any_fit,
    first_fit_node,
    fits,
    occupy,
    push_end,
    release_until,
)


@kernel
def write_mask(p: PlacementParams, s: PlacementState, b: int, mask: NDArray[np.bool_]) -> None:
    """Write which actions are legal for the pending request, (actions,); none is when the game is over."""
    row = s.cursor[b]
    for a in range(p.n_nodes):
        mask[a] = s.status[b] == PLAYING and fits(p, s, b, row, a)
    if p.n_actions > p.n_nodes:
        write_extra_mask(p, s, b, mask)


@kernel
def write_extra_mask(p: PlacementParams, s: PlacementState, b: int, mask: NDArray[np.bool_]) -> None:
    """Write whether the pending request may be rejected, and skipped."""
    if p.reject_action >= 0:
        mask[p.reject_action] = s.status[b] == PLAYING
    if p.skip_action >= 0:
        later = next_candidate(p, s, b, s.window_slot[b] + 1)
        mask[p.skip_action] = s.status[b] == PLAYING and later >= 0


@kernel
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
    s.n_placed[b] = s.n_rejected[b] = 0
    if p.window > 1:
        begin_window(p, s, b)
    _admit(p, s, b)


@kernel
def place_request(p: PlacementParams, s: PlacementState, b: int, a: int) -> None:
    """Place the pending request where it fits; no time passes. Its delay moves its end.

    With ``a`` = -1, what a rule answers that finds no node, it is rejected.
    """
    if a < 0:
        reject_request(p, s, b)
        return
    row = s.cursor[b]
    clock = s.clock[b]
    occupy(p, s, b, row, a, 1, clock - p.arrival[s.first[b]])
    if p.protocol != FADING:
        push_end(s, b, clock + p.lifetime[row], row * p.n_nodes + a)
    s.n_placed[b] += 1
    _leave_queue(p, s, b, row)


@kernel
def reject_request(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Turn the pending request away; no time passes. What it has waited counts."""
    s.n_rejected[b] += 1
    _leave_queue(p, s, b, s.cursor[b])


@kernel
def _leave_queue(p: PlacementParams, s: PlacementState, b: int, row: int) -> None:
    wait = s.clock[b] - p.arrival[row]
    s.last_wait[b] = wait
    s.wait[b] += wait
    if p.window > 1:
        drop_from_window(s, b)
    else:
        s.cursor[b] = row + 1


@kernel
def advance_game(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Let time pass until the next request can be placed, or the game is over."""
    row = s.cursor[b]
    if row >= s.end[b]:
        s.status[b] = FINISHED
        return
    if p.window > 1:
        advance_window(p, s, b)
        return
    arrival = p.arrival[row]
    release_until(p, s, b, arrival)
    if any_fit(p, s, b, row):
        s.clock[b] = max(s.clock[b], arrival)
        return
    while p.protocol == HUAWEI and s.heap_size[b] > 0 and s.heap_time[b, 0] < np.inf:
        s.clock[b] = s.heap_time[b, 0]
        release_until(p, s, b, s.clock[b])
        if any_fit(p, s, b, row):
            return
    s.clock[b] = max(s.clock[b], arrival)
    if p.reject_action < 0:
        s.status[b] = STUCK


@kernel
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
    n = row - s.first[b] - s.n_placed[b] - s.n_rejected[b]
    s.accrued[b] = s.wait[b] + n * (clock - origin) - s.queue_arrival[b]


@kernel
def step_game(p: PlacementParams, s: PlacementState, b: int, a: int) -> Any:
    """Carry out an action and go on to the next decision.

    Args:
        b: The game, which must be playing.
        a: The action: a node, or one of ``p.reject_action`` and ``p.skip_action``.

    Returns:
        ``PLACED`` = 0, ``REJECTED``, ``SKIPPED``, or, greater than 0, the code of the reason why not
        (``PLACEMENT_REASONS``), and then nothing has changed.
    """
    if a < 0 or a >= p.n_actions:
        return NO_NODE
    if a == p.skip_action:
        return SKIPPED if skip_candidate(p, s, b) else NO_LATER
    row = s.cursor[b]
    rejected = a == p.reject_action
    if not rejected and not fits(p, s, b, row, a):
        return FITS_NOT
    both = 2.0 if p.double[row] else 1.0
    s.queue_cores[b] -= both * p.cores[row]
    s.queue_memory[b] -= both * p.memory[row]
    s.queue_arrival[b] -= p.arrival[row] - p.arrival[s.first[b]]
    place_request(p, s, b, -1 if rejected else a)
    advance_game(p, s, b)
    _admit(p, s, b)
    return REJECTED if rejected else PLACED


@kernel
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


@kernel
def begin_games(p: PlacementParams, s: PlacementState, games: I8, firsts: I8, ends: I8) -> None:
    """``begin_game`` for each of some games."""
    for i in range(len(games)):
        begin_game(p, s, games[i], firsts[i], ends[i])


@kernel
def window_lengths(p: PlacementParams, s: PlacementState, firsts: I8, extra: int, out: I8) -> None:
    """``window_length`` of each of some rows; game 0 is used up."""
    for i in range(len(firsts)):
        out[i] = window_length(p, s, 0, firsts[i], extra)
