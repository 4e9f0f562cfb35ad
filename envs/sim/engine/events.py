"""The queues of what will happen: heaps inside the state's arrays.

Events are ordered by time, kind and item. Copies under way have a heap of their own, by the end of their
phase, then by VM: ends move with every change of a rate, so every VM knows its place there. A change costs
O(log C) of C copies, and the next end is always at the top.
"""

from __future__ import annotations

import numpy as np

from ...jit.heap import settle
from ...jit.kernels import kernel
from ..state.cluster_state import ClusterState

# At one instant copies finish first, then VMs leave: capacity is freed before anything asks for it.
# Departures are not in the queue, which is shown to policies, but in the parameters (``departure_order``).
MIGRATION_END, DEPARTURE, BOOT_END, SHUTDOWN_END = 0, 1, 2, 3

# The full model: a VM has booted; its pages have followed it to another NUMA node; its failure is noticed;
# the failure of a host is noticed; a spare has got the identity of a failed host.
VM_UP, PAGES_END, RESTART_DUE, HOST_NOTICED, PROFILE_MOVED = 4, 5, 6, 7, 8


@kernel
def _put(s: ClusterState, time_s: float, kind: int, item: int, i: int) -> None:
    settle(s.heap_time, s.heap_kind, s.heap_item, None, time_s, kind, item, i, s.counters.queued)


@kernel
def push_event(s: ClusterState, time_s: float, kind: int, item: int) -> None:
    """Add an event.

    Every VM has at most one copy in flight and every host one transition, so the heap of V + H places cannot
    overflow (in the full model 4 V + 2 H); events that were overtaken are dropped by
    whoever overtakes them.
    """
    n = s.counters.queued
    s.counters.queued = n + 1
    _put(s, time_s, kind, item, n)


@kernel
def _remove(s: ClusterState, i: int) -> None:
    """Let the last event take place i. Its own is zeroed: digests do not depend on what once was there."""
    n = s.counters.queued - 1
    s.counters.queued = n
    if i < n:
        _put(s, s.heap_time[n], s.heap_kind[n], s.heap_item[n], i)
    s.heap_time[n] = 0.0
    s.heap_kind[n] = 0
    s.heap_item[n] = 0


@kernel
def pop_event(s: ClusterState) -> None:
    """Remove the first event (place 0 of the heap)."""
    _remove(s, 0)


@kernel
def drop_event(s: ClusterState, kind: int, item: int) -> None:
    """Remove one event that will not happen (an aborted copy); rare, so a linear search will do."""
    for i in range(s.counters.queued):
        if s.heap_kind[i] == kind and s.heap_item[i] == item:
            _remove(s, i)
            return


@kernel
def _settle_copy(s: ClusterState, v: int, i: int, n: int) -> None:
    settle(s.vm_mig_end_s, None, s.copy_queue, s.copy_place, s.vm_mig_end_s[v], 0, v, i, n)


@kernel
def put_copy(s: ClusterState, v: int, end_s: float) -> None:
    """Add a copy that ``Counters.moving`` counts already.

    Args:
        s: State.
        v: VM.
        end_s: End of its present phase, s.
    """
    n = s.counters.moving
    s.vm_mig_end_s[v] = end_s
    _settle_copy(s, v, n - 1, n)


@kernel
def set_copy_end(s: ClusterState, v: int, end_s: float) -> None:
    """Set the end of the present phase of a copy in the queue, s."""
    s.vm_mig_end_s[v] = end_s
    _settle_copy(s, v, s.copy_place[v], s.counters.moving)


@kernel
def remove_copy(s: ClusterState, v: int) -> None:
    """Take a copy out that ``Counters.moving`` does not count any more."""
    n = s.counters.moving
    last, i = s.copy_queue[n], s.copy_place[v]
    s.copy_queue[n] = 0
    s.copy_place[v] = 0
    s.vm_mig_end_s[v] = np.inf
    if last != v:
        _settle_copy(s, last, i, n)


@kernel
def find_next_copy(s: ClusterState) -> None:
    """Note which copy's phase ends next, and when; of several the one with the lowest VM."""
    s.clock.next_copy_s = np.inf
    s.counters.next_copy = -1
    if s.counters.moving > 0:
        v = s.copy_queue[0]
        if s.vm_mig_end_s[v] < np.inf:
            s.clock.next_copy_s = s.vm_mig_end_s[v]
            s.counters.next_copy = v
