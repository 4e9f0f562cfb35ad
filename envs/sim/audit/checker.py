"""An independent check of the simulator: what must hold of every state, and of every pair of states in time.

Nothing here uses the rules of ``orders.py`` or the code that steps: every sum is added up again from who is
where, every integral from the trace. It is plain NumPy and Python: too slow for the hot path, fast enough for
tests and for a look at one's own episode::

    auditor = Auditor(simulator)
    while not simulator.done:
        simulator.step(policy.plan(simulator.view))
        auditor.observe()
    print(auditor.violations or "nothing to complain about")

A cluster with sub-models is held to ``checker_full`` (who is where), ``checker_rates`` (what everybody gets)
and ``checker_time`` (what happened since).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8
from ..models.power import BOOTING, OFF, ON, SHUTTING_DOWN
from ..state.cluster_state import (
    ABSENT,
    DEPARTED,
    MIG_COPYING,
    MIG_NONE,
    MIG_WAITING,
    PENDING,
    RUNNING,
    ClusterState,
)
from ..state.parameters import ClusterParams
from .common import (
    TOLERANCE,
    Report,
    check_lists,
    check_queue,
    differ,
    peak_watts,
    per_host,
    pieces,
    window_asked,
)
from .occupancy import check_places
from .rates import check_rates, curve_watts
from .transitions import check_window

if TYPE_CHECKING:
    from ..simulator import Simulator


def check_state(params: ClusterParams, state: ClusterState) -> list[str]:
    """Check everything that must hold of a state between two calls of the simulator.

    Args:
        params: Parameters.
        state: State; it may be a read-only view.

    Returns:
        The violations, one sentence each; empty = none.
    """
    report = Report()
    check_lists(state, report)
    if params.full:
        if not report.lines:
            check_places(params, state, report)
        if not report.lines:
            check_rates(params, state, report)
        return report.lines
    _check_vms(state, report)
    if not report.lines:  # sums over broken lists say nothing
        _check_sums(params, state, report)
        _check_power(params, state, report)
        _check_shares(params, state, report)
        _check_events(params, state, report)
    return report.lines


def _check_vms(s: ClusterState, report: Report) -> None:
    running, pending = s.vm_state == RUNNING, s.vm_state == PENDING
    report.none((s.vm_state < ABSENT) | (s.vm_state > DEPARTED), "VMs in an unknown state")
    report.none(running != (s.vm_host >= 0), "VMs that run without a host, or have one without running")
    report.none((s.vm_dest >= 0) & ~running & ~pending, "VMs on the way to a host that are not there")
    moving = s.vm_mig != MIG_NONE
    report.none(moving != (running & (s.vm_dest >= 0)), "VMs whose migration and destination disagree")
    report.none(moving & (s.vm_dest == s.vm_host), "VMs migrating to where they are")
    report.none(np.isfinite(s.vm_mig_end_s) != (s.vm_mig == MIG_COPYING), "VMs with a wrong end of copy")
    report.none(np.isfinite(s.vm_mig_end_s) & (s.vm_mig_end_s <= s.clock.now_s), "VMs whose copy is overdue")
    report.equal(int(s.counters.pending), int(pending.sum()), "number of waiting VMs")
    report.equal(int(s.counters.moving), int((s.vm_mig == MIG_COPYING).sum()), "number of copies")
    report.equal(int(s.counters.arrived), int((s.vm_state != ABSENT).sum()), "number of arrived VMs")
    to = s.host_power_state[np.maximum(s.vm_dest, 0)]
    report.none((s.vm_mig == MIG_COPYING) & (to != ON), "VMs copied to a host that is not on")
    waits = (s.vm_mig == MIG_WAITING) | (pending & (s.vm_dest >= 0))
    report.none(waits & (to != BOOTING), "VMs waiting for a host that does not boot")


def _check_sums(p: ClusterParams, s: ClusterState, report: Report) -> None:
    for name, got, column in (
        ("memory", s.host_mem_mib, p.vm_mem_mib),
        ("nominal CPU", s.host_nominal_mhz, p.vm_cpu_mhz),
    ):
        want = per_host(p, s.vm_host, column) + per_host(p, s.vm_dest, column)
        report.none(differ(got, want, want), f"hosts whose {name} does not add up")
    demand = per_host(p, s.vm_host, s.vm_demand_mhz)
    report.none(differ(s.host_demand_mhz, demand, demand), "hosts whose demand does not add up")
    copied = np.where(s.vm_mig == MIG_COPYING, s.vm_dest, -1)
    ask = per_host(p, s.vm_host, s.vm_ask_mhz) + p.mig_dest_share * per_host(p, copied, s.vm_ask_mhz)
    report.none(differ(s.host_ask_mhz, ask, ask), "hosts whose CPU asked does not add up")
    if p.memory_binding:
        most = p.host_mem_mib * p.mem_overcommit
        report.none(s.host_mem_mib > most * (1 + 2 * TOLERANCE), "hosts over their memory")


def _check_power(p: ClusterParams, s: ClusterState, report: Report) -> None:
    state, watts = s.host_power_state, s.host_power_now_w
    on = state == ON
    holds = s.host_n_vms > 0
    report.none(holds & ~on, "hosts that hold VMs and are not on")
    report.none((s.host_n_in > 0) & ~on & (state != BOOTING), "hosts that VMs come to and that are off")
    report.none((s.host_drain > 0) & ~on, "hosts to be switched off that are not on")
    report.none((s.host_drain > 0) & (s.host_n_vms == 0), "empty hosts not switched off")
    report.none((s.host_drain > 0) & (s.host_n_in > 0), "hosts to be switched off that VMs come to")
    report.equal(int(s.counters.on), int(on.sum()), "number of hosts that are on")
    low = p.power_w[p.host_type].min(axis=1) * (1 - TOLERANCE)
    high = peak_watts(p) * (1 + TOLERANCE)
    report.none(on & ((watts < low) | (watts > high)), "hosts with power outside idle..peak")
    load = s.host_ask_mhz / p.host_cpu_mhz
    want = np.where(on, curve_watts(p, s, load), 0.0)
    want = np.where(state == BOOTING, p.host_boot_w, want)
    want = np.where(state == SHUTTING_DOWN, p.host_shutdown_w, want)
    report.none(differ(watts, want, want), "hosts whose power does not follow from state and load")
    active = on & (s.host_n_vms + s.host_n_in > 0)
    report.none((s.host_active_now > 0) != active, "hosts counted as loaded that are not, or the reverse")
    transit = (state == BOOTING) | (state == SHUTTING_DOWN)
    report.none(np.isfinite(s.host_trans_end_s) != transit, "hosts with a wrong end of boot or shutdown")


def _check_shares(p: ClusterParams, s: ClusterState, report: Report) -> None:
    there = (s.vm_state == RUNNING) | (s.vm_state == PENDING)
    running = s.vm_state == RUNNING
    demand, ask, granted, miss = s.vm_demand_mhz, s.vm_ask_mhz, s.vm_granted_mhz, s.vm_miss_mhz
    now = p.util[min(int(s.clock.now_s / p.sample_s + TOLERANCE), len(p.util) - 1)] * p.vm_cpu_mhz
    report.none(differ(demand, np.where(there, now, 0.0), now), "VMs whose demand is not the trace's")
    cap = np.where(running, p.vm_vcpus * p.host_core_mhz[np.maximum(s.vm_host, 0)], 0.0)
    report.none(differ(ask, np.minimum(demand, cap), demand), "VMs whose ask is not min(demand, cores)")
    report.none(granted > ask * (1 + TOLERANCE), "VMs granted more than they ask")
    report.none((granted < 0) | (ask < 0), "VMs with negative CPU")
    report.none(differ(granted + miss, demand, demand), "VMs whose granted and missed CPU is not the demand")
    load, loss = s.host_ask_mhz, s.vm_mig_loss_mhz
    scale = np.where(load > p.host_cpu_mhz, p.host_cpu_mhz / np.maximum(load, 1e-300), 1.0)
    copied = np.where(s.vm_mig == MIG_COPYING, s.vm_dest, -1)
    copies = p.mig_dest_share * per_host(p, copied, ask) * scale
    used = per_host(p, s.vm_host, granted + loss) + copies
    report.none(used > p.host_cpu_mhz * (1 + 3 * TOLERANCE), "hosts that give more CPU than they have")
    report.none(used < np.minimum(load, p.host_cpu_mhz) * (1 - 3 * TOLERANCE), "hosts that hold CPU back")
    short = load > p.host_cpu_mhz * (1 + TOLERANCE)
    report.none((s.host_sat_now > 0) != (short & (s.host_power_state == ON)), "hosts wrongly short of CPU")
    fair = np.where(running, ask * scale[np.maximum(s.vm_host, 0)], 0.0)
    report.none(differ(granted + loss, fair, fair), "VMs without their proportional share")
    want = np.where(s.vm_mig == MIG_COPYING, p.mig_cpu_loss * fair, 0.0)
    report.none(differ(loss, want, want), "VMs with a wrong loss to migration")


def _check_events(p: ClusterParams, s: ClusterState, report: Report) -> None:
    # Kinds of events, by their place in the order of an instant.
    copy_end, _, boot_end, shutdown_end = range(4)
    due = [(float(s.vm_mig_end_s[v]), copy_end, int(v)) for v in np.flatnonzero(s.vm_mig == MIG_COPYING)]
    report.equal(int(s.counters.left), int((s.vm_state == DEPARTED).sum()), "VMs that have left")
    for power, kind in ((BOOTING, boot_end), (SHUTTING_DOWN, shutdown_end)):
        hosts = np.flatnonzero(s.host_power_state == power)
        due += [(float(s.host_trans_end_s[h]), kind, int(h)) for h in hosts]
    check_queue(s, due, set(), report)


_GROWING = (
    "vm_requested",
    "vm_missed",
    "vm_mig_lost",
    "vm_down_s",
    "host_energy_j",
    "host_active_s",
    "host_sat_s",
)


class Auditor:
    """Watches a simulator from observation to observation.

    Call ``observe`` after every step: every state must satisfy ``check_state``, time and integrals must not
    run backwards, no VM may be lost, and what was added since the last observation must follow from the
    trace: requested CPU and downtime of every VM, energy and unserved CPU wherever nothing happened on a host
    between the two observations, and bounds of energy everywhere else.

    Args:
        simulator: The simulator to watch; it is only read.

    Attributes:
        violations: Everything found so far, one sentence each.
        exact_hosts: Number of (host, interval) pairs whose energy was recomputed exactly.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.violations: list[str] = []
        self.exact_hosts = 0
        self._before = self._snapshot()
        self.violations += check_state(simulator.params, simulator.state)

    def _snapshot(self) -> dict[str, NDArray[Any]]:
        state = self.simulator.state
        return {name: getattr(state, name).copy() for name in state._fields}

    def observe(self) -> list[str]:
        """Check the state now and what happened since the last observation.

        Returns:
            The violations found this time, each with the time at which it was seen.
        """
        p, s, old = self.simulator.params, self.simulator.state, self._before
        report = Report()
        report.lines += check_state(p, s)
        if p.full:
            self.exact_hosts += check_window(p, s, old, report)
        else:
            self._observe_simple(p, s, old, report)
        self._before = self._snapshot()
        found = [f"at {float(s.clock.now_s):g} s: {line}" for line in report.lines]
        self.violations += found
        return found

    def _observe_simple(self, p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report) -> None:
        self._check_time(p, s, old, report)
        self._check_conservation(p, s, old, report)
        if not report.lines and s.clock.now_s > old["clock"].now_s:
            self._check_requested(p, s, old, report)
            self._check_downtime(p, s, old, report)
            self._check_energy(p, s, old, report)

    @staticmethod
    def _check_time(p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report) -> None:
        report.none(s.clock.now_s < old["clock"].now_s, "time ran backwards")
        report.none(differ(s.totals.time_s, s.clock.now_s, s.clock.now_s), "total time is not the clock's")
        for name in _GROWING:
            now = getattr(s, name)
            slack = TOLERANCE * max(1.0, float(np.abs(now).max()))
            report.none(now < old[name] - slack, f"{name} shrank")
        scale = float(np.sum(s.vm_requested))
        for name, got, total in (
            ("energy_j", s.totals.energy_j, s.host_energy_j),
            ("requested", s.totals.requested, s.vm_requested),
            ("missed", s.totals.missed, s.vm_missed),
            ("mig_lost", s.totals.mig_lost, s.vm_mig_lost),
        ):
            want = float(np.sum(total))
            report.none(differ(got, want, max(want, scale)), f"total {name} is not the sum")
        report.none(s.vm_missed > s.vm_requested + TOLERANCE * max(1.0, scale), "VMs that missed too much")

    @staticmethod
    def _check_conservation(p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report) -> None:
        now = s.clock.now_s
        report.none((s.vm_state != ABSENT) != (p.vm_arrival_s <= now), "VMs that did not arrive in time")
        report.none((s.vm_state == DEPARTED) != (p.vm_departure_s <= now), "VMs that did not depart in time")
        report.none(s.vm_state < old["vm_state"], "VMs that went back in life")
        t = s.totals
        alive = int(((s.vm_state == PENDING) | (s.vm_state == RUNNING)).sum())
        report.equal(int(t.arrivals), alive + int(t.departures), "VMs arrived")
        report.equal(int(t.departures), int((s.vm_state == DEPARTED).sum()), "VMs departed")
        moving = int((s.vm_mig != MIG_NONE).sum())
        report.equal(int(t.mig_started), int(t.mig_done + t.mig_aborted) + moving, "migrations")

    def _check_requested(
        self, p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report
    ) -> None:
        """Requested CPU is the trace over the VM's life, wherever it was placed."""
        want = old["vm_requested"] + window_asked(p, float(old["clock"].now_s), float(s.clock.now_s))
        report.none(differ(s.vm_requested, want, want.max()), "VMs with wrong requested CPU")

    @staticmethod
    def _check_downtime(p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report) -> None:
        start, end = old["clock"].now_s, s.clock.now_s
        added = s.vm_down_s - old["vm_down_s"]
        waited = np.maximum(0.0, np.minimum(end, p.vm_departure_s) - np.maximum(start, p.vm_arrival_s))
        was_running = old["vm_state"] == RUNNING
        still = (s.vm_state == PENDING) | (s.vm_state == ABSENT)
        most = np.where(was_running, 0.0, waited)
        report.none(added > most + TOLERANCE * max(1.0, end), "VMs with more downtime than time")
        report.none(still & differ(added, waited, end), "waiting VMs whose downtime does not count")

    def _check_energy(self, p: ClusterParams, s: ClusterState, old: dict[str, Any], report: Report) -> None:
        start, end = float(old["clock"].now_s), float(s.clock.now_s)
        added = s.host_energy_j - old["host_energy_j"]
        scale = max(1.0, float(s.host_energy_j.max()))
        table = p.power_w[p.host_type]
        peak = np.maximum(peak_watts(p), np.maximum(p.host_boot_w, p.host_shutdown_w))
        report.none(added > peak * (end - start) + TOLERANCE * scale, "hosts with more than peak energy")
        counts = s.totals - old["totals"]
        cycled = counts.boots > 0 and counts.shutdowns > 0  # some host may have gone off and on
        same = s.host_power_state == old["host_power_state"]
        on = same & (s.host_power_state == ON) & (not cycled)
        idle = table.min(axis=1) * (end - start)
        report.none(on & (added < idle - TOLERANCE * scale), "hosts on with less than idle energy")
        off = same & (s.host_power_state == OFF) & (not cycled)
        report.none(off & (np.abs(added) > TOLERANCE * scale), "hosts off that used energy")
        gone = (s.vm_state == DEPARTED) & (old["vm_state"] != DEPARTED)
        moved = counts.mig_done + counts.mig_aborted > 0
        if bool((gone & (moved | (old["vm_host"] < 0))).any()):
            return  # a VM may have come and gone between the two observations
        quiet = on & ~self._disturbed(p, s, old) & (s.host_full_power == old["host_full_power"])
        self.exact_hosts += int(quiet.sum())
        energy, missed = self._integrate(p, s, start, end)
        report.none(quiet & differ(added, energy, scale), "hosts with wrong energy")
        calm = (s.vm_host >= 0) & quiet[s.vm_host] & (s.vm_mig == MIG_NONE) & (old["vm_mig"] == MIG_NONE)
        got = s.vm_missed - old["vm_missed"]
        report.none(calm & differ(got, missed, s.vm_requested.max()), "VMs with wrong unserved CPU")

    @staticmethod
    def _disturbed(p: ClusterParams, s: ClusterState, old: dict[str, Any]) -> Any:
        """Hosts on which something happened between the two observations, or may have."""
        hit = (s.host_n_in > 0) | (old["host_n_in"] > 0)
        changed = s.vm_host != old["vm_host"]
        # A VM that was placed and moved at one instant has also been where it moved from.
        for hosts in (s.vm_host[changed], old["vm_host"][changed], s.vm_last_from[changed]):
            hit[hosts[hosts >= 0]] = True
        return hit

    def _integrate(self, p: ClusterParams, s: ClusterState, start: float, end: float) -> tuple[F8, F8]:
        """Energy per host, J, and unserved CPU per VM, MHz s, if everybody stayed where it is now."""
        energy, missed = np.zeros(len(p.host_type)), np.zeros(len(p.vm_mem_mib))
        here = np.maximum(s.vm_host, 0)
        cap = p.vm_vcpus * p.host_core_mhz[here]
        for k, since, until in pieces(p, start, end):
            demand = p.util[k] * p.vm_cpu_mhz
            ask = np.minimum(demand, cap)
            load = per_host(p, s.vm_host, ask) / p.host_cpu_mhz
            energy += curve_watts(p, s, load) * (until - since)
            missed += (demand - ask / np.maximum(load, 1.0)[here]) * (until - since)
        return energy, missed
