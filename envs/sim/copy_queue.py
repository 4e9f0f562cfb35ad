"""Which copy's phase ends next: a heap of the copies under way, by the end of their phase, then by VM.

The order is total, so that equal runs are equal to the last bit. Ends move with every change of a rate, so
every VM knows its place: a change costs O(log C) of C copies, and the next event is always at the top.
"""

from __future__ import annotations

import numpy as np

from .kernels import kernel
from .state import FullState

__all__ = ["find_next_copy", "put_copy", "remove_copy", "set_copy_end"]


@kernel
def _before(s: FullState, v: int, w: int) -> bool:
    a, b = s.vm_mig_end_s[v], s.vm_mig_end_s[w]
    return bool(a < b or (a == b and v < w))


@kernel
def _settle(s: FullState, v: int, i: int, n: int) -> None:
    """Put a VM at place i of a heap of n, or as far above or below as it belongs."""
    while i > 0:
        parent = (i - 1) // 2
        w = s.copy_queue[parent]
        if not _before(s, v, w):
            break
        s.copy_queue[i] = w
        s.copy_place[w] = i
        i = parent
    child = 2 * i + 1
    while child < n:
        if child + 1 < n and _before(s, s.copy_queue[child + 1], s.copy_queue[child]):
            child += 1
        w = s.copy_queue[child]
        if not _before(s, w, v):
            break
        s.copy_queue[i] = w
        s.copy_place[w] = i
        i = child
        child = 2 * i + 1
    s.copy_queue[i] = v
    s.copy_place[v] = i


@kernel
def put_copy(s: FullState, v: int, end_s: float) -> None:
    """Add a copy that ``Counters.moving`` counts already.

    Args:
        s: State.
        v: VM.
        end_s: End of its present phase, s.
    """
    n = s.counters.moving
    s.vm_mig_end_s[v] = end_s
    _settle(s, v, n - 1, n)


@kernel
def set_copy_end(s: FullState, v: int, end_s: float) -> None:
    """Set the end of the present phase of a copy in the queue, s."""
    s.vm_mig_end_s[v] = end_s
    _settle(s, v, s.copy_place[v], s.counters.moving)


@kernel
def remove_copy(s: FullState, v: int) -> None:
    """Take a copy out that ``Counters.moving`` does not count any more."""
    n = s.counters.moving
    last, i = s.copy_queue[n], s.copy_place[v]
    s.copy_queue[n] = 0
    s.copy_place[v] = 0
    s.vm_mig_end_s[v] = np.inf
    if last != v:
        _settle(s, last, i, n)


@kernel
def find_next_copy(s: FullState) -> None:
    """Note which copy's phase ends next, and when; of several the one with the lowest VM."""
    s.clock.next_copy_s = np.inf
    s.counters.next_copy = -1
    if s.counters.moving > 0:
        v = s.copy_queue[0]
        if s.vm_mig_end_s[v] < np.inf:
            s.clock.next_copy_s = s.vm_mig_end_s[v]
            s.counters.next_copy = v
