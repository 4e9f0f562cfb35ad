"""A binary heap of events inside the state's arrays, ordered by time, kind, item: the order is total, so that
equal runs are equal to the last bit.
"""

from __future__ import annotations

from typing import Any

from .kernels import kernel
from .state import ClusterState

__all__ = [
    "BOOT_END",
    "DEPARTURE",
    "HOST_NOTICED",
    "MIGRATION_END",
    "PAGES_END",
    "PROFILE_MOVED",
    "RESTART_DUE",
    "SHUTDOWN_END",
    "VM_UP",
    "drop_event",
    "pop_event",
    "push_event",
]

# At one instant copies finish first, then VMs leave: capacity is freed before anything asks for it.
MIGRATION_END, DEPARTURE, BOOT_END, SHUTDOWN_END = 0, 1, 2, 3

# The full model: a VM has booted; its pages have followed it to another NUMA node; its failure is noticed;
# the failure of a host is noticed; a spare has got the identity of a failed host.
VM_UP, PAGES_END, RESTART_DUE, HOST_NOTICED, PROFILE_MOVED = 4, 5, 6, 7, 8


@kernel
def _before(s: ClusterState, a: int, b: int) -> Any:
    if s.heap_time[a] != s.heap_time[b]:
        return s.heap_time[a] < s.heap_time[b]
    if s.heap_kind[a] != s.heap_kind[b]:
        return s.heap_kind[a] < s.heap_kind[b]
    return s.heap_item[a] < s.heap_item[b]


@kernel
def _swap(s: ClusterState, a: int, b: int) -> None:
    s.heap_time[a], s.heap_time[b] = s.heap_time[b], s.heap_time[a]
    s.heap_kind[a], s.heap_kind[b] = s.heap_kind[b], s.heap_kind[a]
    s.heap_item[a], s.heap_item[b] = s.heap_item[b], s.heap_item[a]


@kernel
def push_event(s: ClusterState, time_s: float, kind: int, item: int) -> None:
    """Add an event.

    Every VM has at most one departure and one copy in flight and every host one transition, so the heap of
    2 V + H places cannot overflow (in the full model 5 V + 2 H); events that were overtaken are dropped by
    whoever overtakes them.
    """
    i = s.counters.queued
    s.heap_time[i] = time_s
    s.heap_kind[i] = kind
    s.heap_item[i] = item
    s.counters.queued = i + 1
    while i > 0:
        parent = (i - 1) // 2
        if not _before(s, i, parent):
            break
        _swap(s, i, parent)
        i = parent


@kernel
def _sift_down(s: ClusterState, i: int) -> None:
    n = s.counters.queued
    while True:
        least = i
        for child in (2 * i + 1, 2 * i + 2):
            if child < n and _before(s, child, least):
                least = child
        if least == i:
            return
        _swap(s, i, least)
        i = least


@kernel
def _clear(s: ClusterState, i: int) -> None:
    """Zero a place that is no longer used, so that a digest does not depend on what once was there."""
    s.heap_time[i] = 0.0
    s.heap_kind[i] = 0
    s.heap_item[i] = 0


@kernel
def pop_event(s: ClusterState) -> None:
    """Remove the first event (place 0 of the heap)."""
    n = s.counters.queued - 1
    s.counters.queued = n
    if n > 0:
        _swap(s, 0, n)
        _sift_down(s, 0)
    _clear(s, n)


@kernel
def drop_event(s: ClusterState, kind: int, item: int) -> None:
    """Remove one event that will not happen (an aborted copy); rare, so a linear search will do."""
    n = s.counters.queued
    for i in range(n):
        if s.heap_kind[i] == kind and s.heap_item[i] == item:
            s.counters.queued = n - 1
            if i < n - 1:
                _swap(s, i, n - 1)
                j = i
                while j > 0 and _before(s, j, (j - 1) // 2):
                    _swap(s, j, (j - 1) // 2)
                    j = (j - 1) // 2
                _sift_down(s, j)
            _clear(s, n - 1)
            return
