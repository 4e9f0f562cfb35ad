"""From one observation to the next in the full model: conservation, downtime, migrations, energy.

Compares two states of one simulator. What the trace, the faults and the two states decide is worked out again
exactly: requested CPU, downtime of whoever waited or started all the time, what finished migrations have
sent, energy and unserved CPU of every host on which nothing happened. For the rest there are bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..models.power import BOOTING, FAILED, OFF, ON, SHUTTING_DOWN, STANDBY
from ..state.accumulators import Totals
from ..state.cluster_state import ABSENT, DEPARTED, MIG_NONE, PENDING, RUNNING, STARTING, ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report, peak_watts, window_asked
from .faults import fault_window, host_failures
from .occupancy import IDLE, RESUME, STOP
from .quiet_hosts import check_quiet
from .still_stretches import check_still

Old = dict[str, Any]

GROWING = (
    *(
        "vm_requested",
        "vm_missed",
        "vm_mig_lost",
        "vm_down_s",
        "host_energy_j",
        "host_active_s",
        "host_sat_s",
    ),
)
SUMS: tuple[tuple[int, str], ...] = (
    (Totals.energy_j, "host_energy_j"),
    (Totals.active_s, "host_active_s"),
    (Totals.sat_s, "host_sat_s"),
    (Totals.requested, "vm_requested"),
    (Totals.missed, "vm_missed"),
    (Totals.mig_lost, "vm_mig_lost"),
    (Totals.down_s, "vm_down_s"),
)
J_PER_KWH = 3.6e6
MB_PER_MIB = 2**20 / 1e6


def check_window(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> int:
    """Check what happened since an earlier state of the same simulator.

    Args:
        s: State now; it has been checked.
        old: Arrays of the earlier state by name.
        report: Where violations go.

    Returns:
        Number of hosts whose energy was worked out exactly.
    """
    _check_growth(p, s, old, report)
    _check_lives(p, s, old, report)
    if report.lines or s.clock.now_s <= old["clock"].now_s:
        return 0
    start, end = float(old["clock"].now_s), float(s.clock.now_s)
    want = old["vm_requested"] + window_asked(p, start, end)
    report.same(s.vm_requested, want, "VMs with wrong requested CPU", want.max())
    struck, crashed, instants = fault_window(p, start, end)
    _check_moves(p, s, old, report)
    _check_downtime(p, s, old, (struck.any() or crashed.any()), report)
    if p.has_failures:
        _check_restarts(p, s, old, instants, report)
    _check_migrations(p, s, old, report)
    if p.has_precopy:
        _check_data(p, s, old, report)
    _check_energy(p, s, old, struck, report)
    _check_rates(p, s, old, report)
    check_still(p, s, old, report)
    return check_quiet(p, s, old, struck, report)


def _check_growth(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    report.none(s.clock.now_s < old["clock"].now_s, "time ran backwards")
    report.same(s.totals.time_s, s.clock.now_s, "total time is not the clock's")
    for name in GROWING:
        now = getattr(s, name)
        slack = TOLERANCE * max(1.0, float(np.abs(now).max()))
        report.none(now < old[name] - slack, f"{name} shrank")
    scale = float(np.sum(s.vm_requested))
    for index, name in SUMS:
        want = float(np.sum(getattr(s, name)))
        size = max(want, scale if name.startswith("vm_") and name != "vm_down_s" else 0.0)
        report.same(s.totals[index], want, f"a total is not the sum of {name}", size)
    report.none(s.vm_missed > s.vm_requested + TOLERANCE * max(1.0, scale), "VMs that missed too much")
    report.none(
        s.vm_mig_lost > s.vm_missed + TOLERANCE * max(1.0, scale), "VMs that lost more than they missed"
    )
    shrank = s.totals - old["totals"] < -TOLERANCE * np.maximum(1.0, np.abs(s.totals))
    report.none(shrank, "totals that shrank")
    if s.clock.now_s > 0:
        happened = int(np.searchsorted(p.fail_time_s, s.clock.now_s, side="right"))
        report.equal(int(s.counters.fault), happened, "faults that have happened")
        failures = host_failures(p, float(s.clock.now_s))
        report.equal(int(s.totals.host_failures), failures, "failures of hosts")
        crashes = int((p.fail_kind[:happened] == 2).sum())
        report.none(s.totals.vm_crashes > crashes, "crashes of VMs that never came")


def _check_lives(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    """No VM is lost or doubled, and none goes back in life but by a failure."""
    now, was, state = s.clock.now_s, old["vm_state"], s.vm_state
    report.none((state != ABSENT) != (p.vm_arrival_s <= now), "VMs that did not arrive in time")
    report.none((state == DEPARTED) != (p.vm_departure_s <= now), "VMs that did not depart in time")
    back = ((was == DEPARTED) & (state != DEPARTED)) | ((was != ABSENT) & (state == ABSENT))
    report.none(back, "VMs that went back in life")
    fell = ((was == RUNNING) | (was == STARTING)) & (state == PENDING)
    if p.has_failures:
        fell &= (s.vm_restart == 0) | (s.vm_down_since_s <= old["clock"].now_s)
        up = (was == RUNNING) & (state == STARTING)
        report.none(up & (now <= old["clock"].now_s), "VMs that start again though no time has passed")
    else:
        report.none(state == STARTING, "VMs that restart though none can fail")
    report.none(fell, "VMs that lost their host without a failure")
    t = s.totals
    alive = int(((state == PENDING) | (state == RUNNING) | (state == STARTING)).sum())
    report.equal(int(t.arrivals), alive + int(t.departures), "VMs arrived")
    report.equal(int(t.departures), int((state == DEPARTED).sum()), "VMs departed")
    moving = int((s.vm_mig != MIG_NONE).sum())
    report.equal(int(t.mig_started), int(t.mig_done + t.mig_aborted) + moving, "migrations")


def _check_moves(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    """Who is elsewhere has migrated, was taken over or restarted; a host in maintenance takes nobody."""
    was, host = old["vm_host"], s.vm_host
    lost = np.zeros(len(was), dtype=bool)
    if p.has_failures:
        lost = (s.vm_down_since_s > old["clock"].now_s) & (s.vm_down_since_s <= s.clock.now_s)
    second = old["vm_secondary"] if p.has_standby else np.full(len(was), -1)
    ordered = s.vm_last_move_s >= old["clock"].now_s
    moved = (was >= 0) & (host >= 0) & (was != host)
    fair = (host == old["vm_dest"]) | (host == second) | lost | ordered
    if p.has_standby:  # a new secondary may have been started and have taken over since
        fair |= p.vm_protected > 0
    report.none(moved & ~fair, "VMs that are elsewhere for no reason")
    closed = (s.host_maintenance > 0) & (old["host_maintenance"] > 0)
    for where in (host, s.vm_dest):
        new = (where >= 0) & (where != was) & (where != old["vm_dest"]) & (where != second)
        if p.has_standby:
            new &= p.vm_protected == 0
        report.none(new & closed[np.maximum(where, 0)], "VMs that came to a host in maintenance")


def _check_downtime(p: ClusterParams, s: ClusterState, old: Old, struck: bool, report: Report) -> None:
    start, end = float(old["clock"].now_s), float(s.clock.now_s)
    added = s.vm_down_s - old["vm_down_s"]
    lived = np.maximum(0.0, np.minimum(end, p.vm_departure_s) - np.maximum(start, p.vm_arrival_s))
    slack = TOLERANCE * max(1.0, end)
    report.none(added > lived + slack, "VMs with more downtime than time")
    was, state = old["vm_state"], s.vm_state
    waited = (state == PENDING) & ((was == PENDING) | (was == ABSENT))
    if p.has_failures:
        waited &= (s.vm_restart == 0) | (s.vm_down_since_s <= start)  # not placed, and lost again, since
        report.none(
            (s.vm_restart > 0) & (added < end - np.maximum(start, s.vm_down_since_s) - slack),
            "VMs that failed and whose downtime does not count",
        )
    report.none(waited & (np.abs(added - lived) > slack), "waiting VMs whose downtime does not count")
    if struck:
        return
    if p.has_failures:
        starts = (was == PENDING) & (state == STARTING)
        starts |= (was == STARTING) & (state == STARTING)
        report.none(starts & (np.abs(added - lived) > slack), "starting VMs whose downtime does not count")
        up = (was == STARTING) & (state == RUNNING) & (s.vm_last_move_s < start)
        want = old["vm_starts_s"] - start
        report.none(up & (np.abs(added - want) > slack), "started VMs with a wrong downtime")
    ran = (was == RUNNING) & (state == RUNNING) & (s.vm_last_move_s < start)
    want = np.zeros(len(added))
    if p.has_precopy:
        ended = _ended(s, old)
        began = np.where(old["copy_phase"] == IDLE, 0.0, old["copy_down_s"])
        so_far = np.where((s.copy_phase == IDLE) & ~ended, 0.0, s.copy_down_s)
        want = so_far + _stopped_s(s.copy_phase, s.copy_since_s, end)
        want -= began + _stopped_s(old["copy_phase"], old["copy_since_s"], start)
        ran &= ~(ended & (s.copy_down_s == 0.0))  # aborted: what it cost is forgotten
    report.none(ran & (np.abs(added - want) > slack), "running VMs with a wrong downtime")


def _stopped_s(phase: Any, since: Any, now: float) -> Any:
    """For how long a migration has stopped a VM since it was last looked at, s."""
    return np.where((phase == STOP) | (phase == RESUME), now - since, 0.0)


def _ended(s: ClusterState, old: Old) -> Any:
    """VMs whose migration has ended since."""
    return (old["vm_mig"] != MIG_NONE) & (s.vm_mig == MIG_NONE)


def _check_restarts(p: ClusterParams, s: ClusterState, old: Old, instants: int, report: Report) -> None:
    """Nobody restarts twice for one failure."""
    start, end = float(old["clock"].now_s), float(s.clock.now_s)
    before = old["vm_restart"] > 0
    failed = (s.vm_down_since_s > start) & (s.vm_down_since_s <= end)
    # A VM cannot be lost again before it has restarted, and not without a failure.
    least = max(p.detect_s + p.place_s, 1e-9)
    often = max(1, min(instants, int((end - start) / least) + 1))
    added = int(s.totals.restarts - old["totals"][Totals.restarts])
    waits = (s.vm_restart > 0) & (s.vm_state == PENDING)
    most = int(before.sum()) + often * int(failed.sum()) - int(waits.sum())
    report.none(added > most, f"more restarts than failures: {added}, at most {most}")
    again = before & (s.vm_restart == 0) & (s.vm_state != DEPARTED)
    report.none(
        added < int(again.sum()), f"VMs that came back without a restart: {int(again.sum())} by {added}"
    )


def _check_migrations(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    counts = s.totals - old["totals"]
    ended = _ended(s, old)
    if counts.mig_started == 0:
        number = int(counts.mig_done + counts.mig_aborted)
        report.equal(number, int(ended.sum()), "migrations that ended")
    there = ended & (s.vm_state == RUNNING) & (s.vm_last_move_s < old["clock"].now_s)
    if p.has_failures:
        there &= s.vm_down_since_s <= old["clock"].now_s
    known = (s.vm_host == old["vm_host"]) | (s.vm_host == old["vm_dest"])
    if p.has_standby:
        known |= p.vm_protected > 0
    report.none(there & ~known, "VMs that migrated to another host than theirs")


def _check_data(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    """What migrations have sent; exact where none was aborted, and all that ended were seen before."""
    counts = s.totals - old["totals"]
    ended = _ended(s, old)
    both = (old["vm_mig"] != MIG_NONE) & (s.vm_mig != MIG_NONE) & (old["copy_phase"] != IDLE)
    report.none(
        both & (s.copy_sent_mib < old["copy_sent_mib"] - TOLERANCE * p.vm_mem_mib), "copies that unsend"
    )
    if counts.mig_aborted or counts.mig_done != ended.sum():
        return
    sent = s.copy_sent_mib[ended]
    size = max(1.0, float(s.totals.mig_mib))
    report.same(counts.mig_mib, float(sent.sum()), "data sent by migrations is not the sum", size)
    energy = p.migration_j * len(sent) + p.migration_j_per_mb * MB_PER_MIB * float(sent.sum())
    report.same(counts.mig_energy_j, energy, "energy of migrations", float(s.totals.mig_energy_j) + 1)
    stop = float(s.copy_down_s[ended].sum())
    report.same(counts.mig_stop_s, stop, "time stopped by migrations", float(s.totals.mig_stop_s) + 1)
    least = p.vm_touched_share * p.vm_mem_mib if p.has_tiers else p.vm_mem_mib
    short = s.copy_sent_mib < least * (1 - TOLERANCE)
    report.none(ended & short, "migrations that ended before all memory was sent")
    report.none(ended & (s.copy_down_s < p.copy_resume_s * (1 - TOLERANCE)), "migrations without a stop")


def _check_energy(p: ClusterParams, s: ClusterState, old: Old, struck: Any, report: Report) -> None:
    start, end = float(old["clock"].now_s), float(s.clock.now_s)
    added, dt = s.host_energy_j - old["host_energy_j"], end - start
    slack = TOLERANCE * max(1.0, float(s.host_energy_j.max()))
    table = p.power_w[p.host_type]
    peak = np.maximum(peak_watts(p), np.maximum(p.host_boot_w, p.host_shutdown_w))
    peak = np.maximum(peak, p.standby_w)
    report.none(added > peak * dt + slack, "hosts with more than peak energy")
    counts = s.totals - old["totals"]
    same = (s.host_power_state == old["host_power_state"]) & ~struck
    cycled = counts.boots > 0 or counts.shutdowns > 0
    stays = same & (not cycled)
    on = stays & (s.host_power_state == ON) & (s.host_n_vms > 0) & (old["host_n_vms"] > 0)
    report.none(on & (added < table.min(axis=1) * dt - slack), "hosts on with less than idle energy")
    for state, watts in (
        (OFF, 0.0 * p.standby_w),
        (FAILED, 0.0 * p.standby_w),
        (STANDBY, p.standby_w),
        (BOOTING, p.host_boot_w),
        (SHUTTING_DOWN, p.host_shutdown_w),
    ):
        still = (stays if state != FAILED else same) & (s.host_power_state == state)
        report.none(still & (np.abs(added - watts * dt) > slack), f"hosts with wrong energy in state {state}")
    on_s = counts.on_s
    report.none(on_s > len(peak) * dt + TOLERANCE * end * len(peak), "hosts on for more than the time")
    if len(p.carbon_g_kwh):
        kwh = float(counts.energy_j) * p.pue / J_PER_KWH
        low, high = _carbon_range(p, start, end)
        grams, tiny = float(counts.carbon_g), TOLERANCE * max(1.0, float(s.totals.carbon_g))
        report.none(
            not low * kwh - tiny <= grams <= high * kwh + tiny, f"carbon: {grams:g} g for {kwh:g} kWh"
        )


def _carbon_range(p: ClusterParams, start: float, end: float) -> tuple[float, float]:
    """Least and most carbon intensity between two times, g/kWh."""
    last = len(p.carbon_g_kwh) - 1
    first, final = (
        min(max(int(np.floor((t - p.carbon_start_s) / p.carbon_sample_s + shift)), 0), last)
        for t, shift in ((start, TOLERANCE), (end, -TOLERANCE))
    )
    values = p.carbon_g_kwh[first : final + 1]
    return float(values.min()), float(values.max())


def _check_rates(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> None:
    """Bounds of what hosts add to the totals: none of it may be more than there is."""
    start, end = float(old["clock"].now_s), float(s.clock.now_s)
    added = s.totals - old["totals"]
    lived = np.maximum(0.0, np.minimum(end, p.vm_departure_s) - np.maximum(start, p.vm_arrival_s))
    tiny: Any = TOLERANCE * np.maximum(1.0, np.abs(s.totals))
    vcpus = float((p.vm_vcpus * lived).sum())
    report.none(added.vcpus > vcpus + tiny.vcpus, "more vCPUs than VMs have")
    report.none(added.ready > added.vcpus * (1 + 1e-7) + tiny.ready, "more ready time than time")
    capacity = float(p.host_cpu_mhz.sum()) * (end - start)
    report.none(added.alloc > capacity + tiny.alloc + 1e-9 * capacity, "more CPU allocated than there is")
    calm = (old["vm_state"] == RUNNING) & (s.vm_state == RUNNING)
    if not p.has_failures:
        least = float((p.vm_vcpus[calm]).sum()) * (end - start)
        report.none(added.vcpus < least - tiny.vcpus - 1e-9 * least, "fewer vCPUs than run")
