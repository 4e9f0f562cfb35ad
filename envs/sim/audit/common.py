"""What both checkers use: a list of violations in words, lists walked link by link, sums per host, the queue.

Like all of the checker it uses neither the rules of ``orders.py`` nor the code that steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams

TOLERANCE = 1e-9
"""Relative tolerance of every comparison of floats."""


def _some(mask: Any) -> str:
    """The first few places where a mask is true, in words."""
    places = np.flatnonzero(mask)
    return ", ".join(map(str, places[:5])) + (f" and {len(places) - 5} more" if len(places) > 5 else "")


def peak_watts(p: ClusterParams) -> F8:
    """Most that every host draws while it is on, W, (H,)."""
    return np.asarray((p.power_w.max(axis=1) + p.curve_busy_w)[p.host_type])


def differ(got: Any, want: Any, scale: Any) -> Any:
    """Where two arrays differ by more than rounding on numbers of a size (at least 1)."""
    return np.abs(np.asarray(got) - want) > TOLERANCE * np.maximum(scale, 1.0)


class Report:
    """Collects violations in words."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def none(self, mask: Any, what: str) -> None:
        """No element may be true."""
        if np.any(mask):
            self.lines.append(f"{what}: {_some(np.atleast_1d(mask))}")

    def equal(self, got: Any, want: Any, what: str) -> None:
        """Two numbers must be equal."""
        if got != want:
            self.lines.append(f"{what}: {got}, expected {want}")

    def same(self, got: Any, want: Any, what: str, scale: Any = None) -> None:
        """Two arrays must be equal but for rounding; an infinity equals itself."""
        size = np.abs(np.where(np.isfinite(want), want, 0.0)) if scale is None else scale
        with np.errstate(invalid="ignore"):
            off = np.abs(np.asarray(got) - want) > TOLERANCE * np.maximum(size, 1.0)
        self.none((off | np.isnan(got)) & (np.asarray(got) != want), what)


def _walk(head: int, after: Any, before: Any, what: str, report: Report) -> list[int]:
    """Follow a linked list; a loop or a wrong back link is a violation."""
    found: list[int] = []
    previous, v = -1, int(head)
    while v >= 0:
        if v >= len(after) or len(found) > len(after):
            report.lines.append(f"{what}: the list runs in a circle or out of range")
            return found
        if int(before[v]) != previous:
            report.lines.append(f"{what}: vm {v} links back to {int(before[v])}, expected {previous}")
        found.append(v)
        previous, v = v, int(after[v])
    return found


def check_lists(s: ClusterState, report: Report) -> None:
    """Every VM is exactly once in the list of its host, and of the host that it comes to."""
    residents = np.full(len(s.vm_host), -1)
    incoming = np.full(len(s.vm_host), -1)
    for h in range(len(s.host_head)):
        here = _walk(s.host_head[h], s.vm_next, s.vm_prev, f"residents of host {h}", report)
        coming = _walk(s.host_in_head[h], s.vm_in_next, s.vm_in_prev, f"incoming copies of host {h}", report)
        for what, found, owner in (("residents", here, residents), ("incoming copies", coming, incoming)):
            report.none(owner[found] >= 0, f"VMs twice in lists of {what}, places in the list of host {h}")
            owner[found] = h
        report.equal(int(s.host_tail[h]), here[-1] if here else -1, f"tail of host {h}")
        report.equal(int(s.host_n_vms[h]), len(here), f"number of residents of host {h}")
        report.equal(int(s.host_n_in[h]), len(coming), f"number of incoming copies of host {h}")
    report.none(residents != s.vm_host, "VMs not exactly once in the list of their host")
    report.none(incoming != s.vm_dest, "VMs not exactly once in the incoming list of their destination")


def per_host(p: ClusterParams, where: Any, what: Any) -> F8:
    """Sum per host of a column of VMs, for the VMs that have a host in ``where``."""
    there = where >= 0
    return np.bincount(where[there], weights=what[there], minlength=len(p.host_type)).astype(np.float64)


def table_power(table: F8, load: F8) -> F8:
    """Power of every host at its load, W, by linear interpolation; table (H, P)."""
    points = np.linspace(0.0, 1.0, table.shape[1])
    return np.array([np.interp(x, points, row) for x, row in zip(load, table)])


def pieces(p: ClusterParams, start: float, end: float) -> list[tuple[int, float, float]]:
    """(sample, from, to) of the stretches of constant demand between two times."""
    last = len(p.util) - 1
    first = min(int(start / p.sample_s + TOLERANCE), last)
    final = min(int(end / p.sample_s - TOLERANCE), last)
    cuts = [start, *(k * p.sample_s for k in range(first + 1, final + 1)), end]
    return list(zip(range(first, final + 1), cuts[:-1], cuts[1:]))


def window_asked(p: ClusterParams, start: float, end: float) -> F8:
    """CPU that every VM demands between two times, MHz s: the trace over its life, wherever it was placed."""
    asked = np.zeros(len(p.vm_mem_mib))
    for k, since, until in pieces(p, start, end):
        alive = np.minimum(p.vm_departure_s, until) - np.maximum(p.vm_arrival_s, since)
        asked += p.util[k] * p.vm_cpu_mhz * np.maximum(alive, 0.0)
    return asked


def check_queue(
    s: ClusterState, due: list[tuple[float, int, int]], may: set[tuple[float, int, int]], report: Report
) -> None:
    """The event queue holds exactly what is due, in the order of a heap.

    Args:
        due: (time, kind, item) of every event that must be there.
        may: Of events that may be there too.
        report: Where violations go.
    """
    n = int(s.counters.queued)
    times, kinds, items = s.heap_time[:n], s.heap_kind[:n], s.heap_item[:n]
    queued = sorted(zip(times.tolist(), kinds.tolist(), items.tolist()))
    wanted = sorted([*due, *(may & set(queued))])
    if queued != wanted:
        odd = sorted(set(queued) ^ set(wanted))[:3]
        report.lines.append(f"events (time, kind, item) queued and due differ, e.g. {odd}")
    report.none(times < s.clock.now_s, "events that are overdue, places in the queue")
    for i in range(1, n):
        parent = (i - 1) // 2
        if (times[i], kinds[i], items[i]) < (times[parent], kinds[parent], items[parent]):
            report.lines.append(f"event queue out of order at place {i}")
    report.none(s.heap_time[n:] != 0.0, "unused places of the event queue that are not zero")
