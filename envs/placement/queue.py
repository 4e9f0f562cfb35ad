"""The queue window of a placement game: any of the first k requests that wait may be placed next.

The agent looks at one candidate at a time, the pending request. It is, at first, the first of the k that has
arrived and fits somewhere; the action *skip* turns to the next such one, takes no time, and never goes back:
at most k - 1 skips lie between two placements. Each placement (or rejection) begins at the head again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit.kernels import kernel
from .state import STUCK, PlacementParams, PlacementState, any_fit, release_until


@kernel
def begin_window(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Fill the window of a game from its first row on."""
    row, n = s.first[b], min(p.window, s.end[b] - s.first[b])
    for i in range(n):
        s.window_rows[b, i] = row + i
    s.window_size[b] = n
    s.window_next[b] = row + n
    s.window_slot[b] = 0


@kernel
def drop_from_window(s: PlacementState, b: int) -> None:
    """Take the pending request out, let the next row in, and turn to the head."""
    n = s.window_size[b] - 1
    for i in range(s.window_slot[b], n):
        s.window_rows[b, i] = s.window_rows[b, i + 1]
    if s.window_next[b] < s.end[b]:
        s.window_rows[b, n] = s.window_next[b]
        s.window_next[b] += 1
        n += 1
    s.window_size[b] = n
    s.window_slot[b] = 0
    s.cursor[b] = s.window_rows[b, 0] if n > 0 else s.end[b]


@kernel
def next_candidate(p: PlacementParams, s: PlacementState, b: int, slot: int) -> Any:
    """The first place of the window from ``slot`` on whose request has arrived and fits, -1 = none."""
    for i in range(slot, s.window_size[b]):
        row = s.window_rows[b, i]
        if p.arrival[row] > s.clock[b]:
            return -1
        if any_fit(p, s, b, row):
            return i
    return -1


@kernel
def _turn_to(s: PlacementState, b: int, slot: int) -> None:
    s.window_slot[b] = slot
    s.cursor[b] = s.window_rows[b, slot]


@kernel
def skip_candidate(p: PlacementParams, s: PlacementState, b: int) -> Any:
    """Turn to the next candidate; returns whether there is one."""
    slot = next_candidate(p, s, b, s.window_slot[b] + 1)
    if slot < 0:
        return False
    _turn_to(s, b, slot)
    return True


@kernel
def _next_arrival(p: PlacementParams, s: PlacementState, b: int) -> Any:
    """When the next request of the window arrives, inf = all are there."""
    for i in range(s.window_size[b]):
        arrival = p.arrival[s.window_rows[b, i]]
        if arrival > s.clock[b]:
            return arrival
    return np.inf


@kernel
def advance_window(p: PlacementParams, s: PlacementState, b: int) -> None:
    """Let time pass, from event to event, until a request of the window (not empty) can be placed."""
    arrival = p.arrival[s.window_rows[b, 0]]
    release_until(p, s, b, arrival)
    s.clock[b] = max(s.clock[b], arrival)
    while True:
        slot = next_candidate(p, s, b, 0)
        if slot >= 0:
            _turn_to(s, b, slot)
            return
        end = s.heap_time[b, 0] if s.heap_size[b] > 0 else np.inf
        arrival = _next_arrival(p, s, b)
        if min(end, arrival) == np.inf:
            if p.reject_action < 0:
                s.status[b] = STUCK
            return
        s.clock[b] = min(end, arrival)
        release_until(p, s, b, s.clock[b])
