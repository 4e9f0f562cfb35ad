"""What is measured while time passes (docs §12): integrals of the gauges, and their means over periods.

The scheme is that of ``accumulators``: whoever changes a gauge in the middle of a segment brackets the change
with ``hold(s, v, 1.0)`` and ``hold(s, v, -1.0)``; the end of the segment adds every rate times its length. A
period in which nothing changed costs one copy: then the means are the rates themselves, to the bit. A period
that nobody can look at before the next has ended costs nothing, but for the VMs that do not run any more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ..models.telemetry import PAST, normal, uniform
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams

CLAIM, OVERHEAD, IO, CAPPED = 1, 2, 3, 7
"""Rows of gauges in the full model, in the order of their fields; row 0 is ``vm_ask_mhz`` in both models."""

TINY_S = 1e-300
"""No VM runs for as short a time: what is divided by it is not used."""

FEW = 8
"""Where less than one in so many VMs of a full model has changed, the integrals of the others, all 0, are not
read: memory is what a pass over them costs. A simple cluster has one gauge."""

LOST = 1_000_000
"""Number of the draw whether a sample is lost, beside those of the gauges' noise."""


@kernel
def runs(s: ClusterState, v: int) -> Any:
    """Whether a VM runs, so that something can be measured of it."""
    return (s.vm_host[v] >= 0) & (s.vm_down_now[v] == 0)  # without a branch: so loops vectorise


@kernel
def hold(s: ClusterState, v: int, sign: float) -> None:
    """Begin (1) or end (-1) to change the gauges of a VM, or whether it runs, at ``clock.event_s``."""
    elapsed_s = s.clock.event_s - s.clock.now_s
    if s.vm_sums.shape[0] == 0 or elapsed_s <= 0.0:
        return
    s.counters.mixed = 1
    if not runs(s, v):
        return
    s.vm_held[v] = 1
    n = s.vm_gauges.shape[0]
    for k in range(n):
        s.vm_sums[k, v] += sign * elapsed_s * s.vm_gauges[k, v]
    s.vm_sums[n, v] += sign * elapsed_s


@kernel
def is_period_end(p: ClusterParams, time_s: float) -> Any:
    """Whether a period of measurement ends at a time."""
    periods = time_s / p.telemetry_sample_s
    return abs(periods - np.rint(periods)) <= 1e-9 * max(1.0, periods)


@kernel
def take_gauges(p: ClusterParams, s: ClusterState, start_s: float, end_s: float, until_s: float) -> bool:
    """Close a segment: what was measured in it; at the end of a period, what views show from now on.

    Args:
        p: Parameters.
        s: State whose rates are still those of the segment.
        start_s: Begin of the segment, s; ``clock.now_s`` too.
        end_s: Its end, s.
        until_s: Time up to which nobody looks, s.

    Returns:
        Whether ``measure`` has to keep the demand of the segment as what is known before it reads the next.
    """
    if p.telemetry != PAST:
        return False
    ends = is_period_end(p, end_s)
    alone = p.telemetry_window + p.telemetry_delay == 1
    keep = False
    exact = alone and p.telemetry_noise == 0.0 and p.telemetry_missing == 0.0
    if exact and ends and is_period_end(p, start_s):
        # Whoever runs now will have run in the next period: only a copy can stop it at this instant.
        if end_s + p.telemetry_sample_s <= until_s and s.counters.moving == 0:
            if s.counters.mixed != 0:
                _close_held(s, end_s - start_s, False)
        elif s.counters.mixed == 0:
            keep = _copy_rates(p, s)
        elif p.full and FEW * s.vm_held.sum() < s.vm_held.shape[0]:
            _show_steady(s, end_s - start_s)
            _close_held(s, end_s - start_s, True)
        else:
            _close_period(p, s, alone, end_s - start_s)
    elif exact and ends:
        _close_period(p, s, alone, end_s - start_s)
    else:
        _integrate_gauges(s, end_s - start_s)
        s.counters.mixed = 1
        if ends:
            _close_period(p, s, alone, 0.0)
    if ends:
        s.counters.samples += 1
        s.counters.mixed = 0
    return keep


@kernel
def _copy_rates_simple(p: ClusterParams, s: ClusterState) -> bool:
    """A period in which nothing changed: the rates are their means. ``measure`` copies them on its way."""
    return True


@kernel
def _copy_rates_full(p: ClusterParams, s: ClusterState) -> bool:
    _show_steady(s, 0.0)
    return False


_copy_rates = by_model(_copy_rates_simple, _copy_rates_full)


@kernel
def measured_demand(gauges: Any, v: int) -> Any:
    """What a VM used and waited for, without what was added to it or is beyond its vCPUs, MHz."""
    if gauges.shape[0] <= CAPPED:
        return gauges[0, v]
    return max(0.0, gauges[CLAIM, v] - gauges[OVERHEAD, v] - gauges[IO, v] - gauges[CAPPED, v])


@kernel
def _show_steady(s: ClusterState, dt_s: float) -> None:
    """Show what was measured of the VMs whose gauges have not changed in a period: their rates.

    Args:
        s: State.
        dt_s: Length of the period, by which rates are multiplied and divided, as in other sums; 0 = not so.
    """
    n_vms = s.vm_host.shape[0]
    steady = np.empty(n_vms, dtype=np.bool_)
    for v in range(n_vms):
        steady[v] = runs(s, v) & (s.vm_held[v] == 0)
    for k in range(s.vm_gauges.shape[0]):
        rate, shown = s.vm_gauges[k], s.vm_shown[k]
        if _is_blank(rate, shown):
            continue
        for v in range(n_vms if dt_s > 0.0 else 0):
            old, new = shown[v], rate[v] * dt_s / dt_s  # in any case: so the loop vectorises
            shown[v] = new if steady[v] else old
        for v in range(0 if dt_s > 0.0 else n_vms):
            old, new = shown[v], rate[v]
            shown[v] = new if steady[v] else old
    known = s.vm_known_mhz
    for v in range(n_vms):
        old, new = known[v], measured_demand(s.vm_shown, v)
        known[v] = new if steady[v] else old


@kernel
def _is_blank(rate: F8, shown: F8) -> bool:
    """Whether a gauge is 0 for every VM, and shown so: many are while a sub-model has nothing to do."""
    used = False
    for v in range(rate.shape[0]):
        used |= (rate[v] != 0.0) | (shown[v] != 0.0)
    return not used


@kernel
def _count_run(s: ClusterState, dt_s: float) -> Any:
    """Time that every VM ran in a segment, s, shape (V,); added to what it ran in the period."""
    held_s, run_s = np.empty(s.vm_host.shape[0]), s.vm_sums[s.vm_gauges.shape[0]]
    for v in range(held_s.shape[0]):
        held_s[v] = dt_s if runs(s, v) else 0.0
        run_s[v] += held_s[v]
    return held_s


@kernel
def _integrate_gauges(s: ClusterState, dt_s: float) -> None:
    n_vms, n = s.vm_host.shape[0], s.vm_gauges.shape[0]
    held_s = _count_run(s, dt_s)
    for k in range(n):
        rate, total = s.vm_gauges[k], s.vm_sums[k]
        for v in range(n_vms):
            total[v] += rate[v] * dt_s if held_s[v] > 0.0 else 0.0
    s.vm_held[:] = 1


@kernel
def _close_held(s: ClusterState, dt_s: float, all: bool) -> None:
    """Close a period for the VMs whose gauges have changed in it; the integrals of the others are 0.

    Args:
        s: State.
        dt_s: Length of the last segment, s.
        all: Whether for those, too, that run at its end.
    """
    n = s.vm_gauges.shape[0]
    for v in range(s.vm_held.shape[0]):
        if s.vm_held[v] == 0:
            continue
        s.vm_held[v] = 0
        held_s = dt_s if runs(s, v) else 0.0
        run_s = s.vm_sums[n, v] + held_s
        if run_s > 0.0 and (all or held_s == 0.0):
            for k in range(n):
                summed = s.vm_sums[k, v] + (s.vm_gauges[k, v] * dt_s if held_s > 0.0 else 0.0)
                s.vm_shown[k, v] = summed / max(run_s, TINY_S)
            s.vm_known_mhz[v] = measured_demand(s.vm_shown, v)
        s.vm_sums[:, v] = 0.0


@kernel
def _close_period(p: ClusterParams, s: ClusterState, alone: bool, dt_s: float) -> None:
    """Means over the window that ends now, of the VMs that ran in it; the others stay as they were known.

    Args:
        p: Parameters.
        s: State.
        alone: Whether the window is the period.
        dt_s: Length of the last segment if it is to be integrated on the way, which saves a pass; else 0.
    """
    n, now = s.vm_gauges.shape[0], s.counters.samples
    seed, missing, noise = s.counters.noise, p.telemetry_missing, p.telemetry_noise
    if missing > 0.0:
        for v in range(s.vm_host.shape[0]):
            if uniform(seed, now, v, LOST) < missing:
                s.vm_sums[:, v] = 0.0
    kept = p.telemetry_window + p.telemetry_delay
    if not alone:
        place = (now % kept) * (n + 1)
        s.vm_ring[place : place + n + 1] = s.vm_sums
        s.vm_sums[:] = 0.0
        for j in range(p.telemetry_delay, min(kept, now + 1)):
            place = ((now - j) % kept) * (n + 1)
            for k in range(n + 1):
                for v in range(s.vm_host.shape[0]):
                    s.vm_sums[k, v] += s.vm_ring[place + k, v]
    held_s, run_s = _count_run(s, dt_s), s.vm_sums[n]
    for k in range(n):
        rate, total, shown = s.vm_gauges[k], s.vm_sums[k], s.vm_shown[k]
        for v in range(held_s.shape[0]):
            summed = total[v] + (rate[v] * dt_s if held_s[v] > 0.0 else 0.0)
            old, new = shown[v], summed / max(run_s[v], TINY_S)  # in any case: so the loop vectorises
            shown[v] = new if run_s[v] > 0.0 else old
            total[v] = 0.0
    for v in range(s.vm_host.shape[0] if noise > 0.0 else 0):
        for k in range(n if run_s[v] > 0.0 else 0):
            s.vm_shown[k, v] *= max(0.0, 1.0 + noise * normal(seed, now, v, k))
    known = s.vm_known_mhz
    for v in range(known.shape[0]):
        old, new = known[v], measured_demand(s.vm_shown, v)
        known[v] = new if run_s[v] > 0.0 else old
    run_s[:] = 0.0
    s.vm_held[:] = 0
