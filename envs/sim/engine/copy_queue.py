"""Which copy's phase ends next: a heap of the copies under way, by the end of their phase, then by VM.

Ends move with every change of a rate, so every VM knows its place: a change costs O(log C) of C copies, and
the next event is always at the top.
"""

from __future__ import annotations

import numpy as np

from ...jit.heap import settle
from ...jit.kernels import kernel
from ..state.cluster_state import FullState


@kernel
def _settle(s: FullState, v: int, i: int, n: int) -> None:
    settle(s.vm_mig_end_s, None, s.copy_queue, s.copy_place, s.vm_mig_end_s[v], 0, v, i, n)


@kernel
def put_copy(s: FullState, v: int, end_s: float) -> None:
    """Add a copy that ``Counters.moving`` counts already.

    Args:
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
