"""The queue of events: a heap inside the state's arrays, by time, kind, item."""

from __future__ import annotations

from ...jit.heap import settle
from ...jit.kernels import kernel
from ..state.cluster_state import ClusterState

# At one instant copies finish first, then VMs leave: capacity is freed before anything asks for it.
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

    Every VM has at most one departure and one copy in flight and every host one transition, so the heap of
    2 V + H places cannot overflow (in the full model 5 V + 2 H); events that were overtaken are dropped by
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
