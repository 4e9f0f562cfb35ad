"""Who is where in the full model: what must hold of lists, rooms, hosts, migrations and events of a state.

The part of the checker that asks about states and sums; what VMs get is in ``checker_rates``, what happens
from one observation to the next in ``checker_time``. Everything is worked out again from who is where and
from the equations of the model: nothing here uses the rules of ``orders.py`` or the code that steps. A
sub-model that is off has nothing to be checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..models.power import BOOTING, FAILED, OFF, ON, RESUMING, SHUTTING_DOWN, STANDBY, SUSPENDING
from ..state.cluster_state import (
    ABSENT,
    DEPARTED,
    MIG_COPYING,
    MIG_NONE,
    MIG_WAITING,
    PENDING,
    RUNNING,
    STARTING,
    ClusterState,
)
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report, check_queue, per_host
from .faults import failed_since

IDLE, INIT, ROUND, STOP, RESUME, PULL = range(6)
"""Phases of a copy, as in ``copy_phase``."""

POST_COPY = 2
HARDWARE, CONTAINER = 2, 4
"""Places of ``hardware_assisted`` and ``os_level`` among the virtualization types."""

SLACK = 1.0 + 3 * TOLERANCE
"""Rooms are sums of floats: this multiple of a capacity is not more than it."""


def stopped_vms(p: ClusterParams, s: ClusterState) -> Any:
    """VMs on a host that do not run: they start, or a migration has stopped them; shape (V,) bool."""
    starting = s.vm_state == STARTING
    if not p.has_precopy:
        return starting
    return starting | ((s.vm_host >= 0) & ((s.copy_phase == STOP) | (s.copy_phase == RESUME)))


def pulling_vms(p: ClusterParams, s: ClusterState) -> Any:
    """VMs that run on their new host while the old one still holds pages; shape (V,) bool."""
    return (s.copy_phase == PULL) if p.has_precopy else np.zeros(len(s.vm_host), dtype=bool)


def check_places(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Check states, rooms, hosts, migrations and events, once the lists are known to be right.

    Args:
        report: Where violations go.
    """
    _check_vms(p, s, report)
    if report.lines:  # sums over VMs in no state say nothing
        return
    _check_waiting(p, s, report)
    _check_room(p, s, report)
    _check_support(p, s, report)
    _check_hosts(p, s, report)
    _check_events(p, s, report)
    if p.has_numa:
        _check_nodes(p, s, report)
    if p.has_precopy:
        _check_copies(p, s, report)
    if p.has_standby:
        _check_pairs(p, s, report)
    if p.has_failures:
        _check_failed(p, s, report)


def _check_vms(p: ClusterParams, s: ClusterState, report: Report) -> None:
    state, host, dest, mig = s.vm_state, s.vm_host, s.vm_dest, s.vm_mig
    report.none((state < ABSENT) | (state > STARTING), "VMs in an unknown state")
    here = (state == RUNNING) | (state == STARTING)
    report.none(here != (host >= 0), "VMs that run without a host, or have one without running")
    report.none((dest >= 0) & (state != RUNNING) & (state != PENDING), "VMs on the way that are not there")
    moving = mig != MIG_NONE
    report.none((mig < MIG_NONE) | (mig > MIG_COPYING), "VMs in an unknown state of migration")
    report.none(moving != ((state == RUNNING) & (dest >= 0)), "VMs whose migration and destination disagree")
    report.none(moving & (dest == host), "VMs migrating to where they are")
    copying = mig == MIG_COPYING
    if p.has_precopy:
        report.none(np.isfinite(s.vm_mig_end_s) & ~copying, "VMs with an end of copy and without a copy")
    else:
        report.none(np.isfinite(s.vm_mig_end_s) != copying, "VMs with a wrong end of copy")
    report.none(s.vm_mig_end_s < s.clock.now_s, "VMs whose copy is overdue")
    report.equal(int(s.counters.pending), int((state == PENDING).sum()), "number of waiting VMs")
    report.equal(int(s.counters.moving), int(copying.sum()), "number of copies")
    report.equal(int(s.counters.arrived), int((state != ABSENT).sum()), "number of arrived VMs")
    down = (state == PENDING) | stopped_vms(p, s)
    report.none((s.vm_down_now > 0) != down, "VMs whose downtime runs and should not, or the reverse")
    report.equal(int(s.counters.down), int(down.sum()), "number of VMs that are down")
    cap = np.where(here, p.vm_vcpus * p.host_core_mhz[np.maximum(host, 0)], 0.0)
    report.same(s.vm_cap_mhz, cap, "VMs whose vCPUs do not have the speed of their host")
    live = np.where(here | (state == PENDING), p.vm_cpu_mhz, 0.0)
    report.same(s.vm_live_mhz, live, "VMs whose nominal CPU counts and should not, or the reverse")
    sample = min(int(s.clock.now_s / p.sample_s + TOLERANCE), len(p.util) - 1)
    report.equal(int(s.counters.sample), sample, "sample of the trace")


def _check_waiting(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Who waits for a host waits for one that comes on, or for a slot that is taken."""
    to = s.host_power_state[np.maximum(s.vm_dest, 0)]
    comes_on = (to == BOOTING) | (to == RESUMING)
    report.none((s.vm_mig == MIG_COPYING) & (to != ON), "VMs copied to a host that is not on")
    waiting = s.vm_mig == MIG_WAITING
    if p.has_precopy:
        full = s.host_copies >= p.host_slots
        slot = full[np.maximum(s.vm_host, 0)] | full[np.maximum(s.vm_dest, 0)]
        report.none(waiting & (to == ON) & ~slot, "VMs that wait though both hosts have a free slot")
        waiting = waiting & (to != ON)
    waiting = waiting | ((s.vm_state == PENDING) & (s.vm_dest >= 0))
    report.none(waiting & ~comes_on, "VMs waiting for a host that does not come on")
    if p.has_failures:
        restart, pending = s.vm_restart, s.vm_state == PENDING
        report.none((restart < 0) | (restart > 2), "VMs in an unknown state of restart")
        report.none((restart > 0) & ~pending, "VMs to restart that are not waiting")
        report.none((restart == 1) & (s.vm_dest >= 0), "VMs that restart before anybody has noticed")
        late = (s.vm_state == STARTING) & (s.vm_starts_s < s.clock.now_s)
        report.none(late, "VMs whose start is overdue")
        report.none((s.vm_state != STARTING) & (s.vm_starts_s != 0.0), "VMs that start without starting")
        early = (restart > 0) & (
            (restart == 2) != (s.vm_down_since_s + p.detect_s + p.place_s <= s.clock.now_s)
        )
        report.none(early, "VMs whose failure is noticed at the wrong time")


def _check_room(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Memory, nominal CPU, reservations and functions of residents, incoming VMs and secondaries."""
    second = s.vm_secondary if p.has_standby else np.full(len(s.vm_host), -1)
    binds = p.memory_binding
    rooms: list[tuple[str, Any, Any, Any]] = [
        ("memory", s.host_mem_mib, p.vm_mem_mib, p.host_mem_mib * p.mem_overcommit if binds else np.inf),
        ("nominal CPU", s.host_nominal_mhz, p.vm_cpu_mhz, np.inf),
    ]
    if p.has_cpu:
        rooms.append(("CPU reservation", s.host_reserved_mhz, p.vm_reservation_mhz, p.host_cpu_mhz))
    if p.has_tiers:
        reserved = p.vm_mem_reservation_mib
        rooms.append(("memory reservation", s.host_mem_reserved_mib, reserved, p.host_mem_mib))
    if p.has_io:
        rooms.append(("passthrough functions", s.host_functions_used, p.vm_functions, p.host_functions))
    for name, got, column, most in rooms:
        want = sum(per_host(p, where, column) for where in (s.vm_host, s.vm_dest, second))
        report.same(got, want, f"hosts whose {name} does not add up")
        report.none(want > most * SLACK, f"hosts over their {name}")


def _check_support(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Nobody is, or comes, where it cannot run."""
    for where in (s.vm_host, s.vm_dest):
        there, h = where >= 0, np.maximum(where, 0)
        if len(p.host_virt_types):
            kind = p.vm_virt_type
            offered = (p.host_virt_types[h] >> kind) & 1 > 0
            offered &= (kind != HARDWARE) | (p.host_extension[h] > 0)
            offered &= (kind != CONTAINER) | (p.host_kernel[h] == p.vm_kernel)
            report.none(there & ~offered, "VMs on a host that does not offer their virtualization")
        if len(p.host_features):
            sees = there & (s.vm_host >= 0)
            lacks = (s.vm_baseline & ~p.host_features[h]) != 0
            report.none(sees & lacks, "VMs on a host that lacks CPU features that they see")
    if len(p.host_features):
        known = np.isin(s.vm_baseline, p.host_baseline)
        report.none((s.vm_host >= 0) & ~known, "VMs that see CPU features of no level")
    if p.has_io:
        report.none((p.vm_pinned > 0) & (s.vm_mig != MIG_NONE), "pinned VMs that migrate")


def _check_hosts(p: ClusterParams, s: ClusterState, report: Report) -> None:
    state, on = s.host_power_state, s.host_power_state == ON
    report.none((state < OFF) | (state > FAILED), "hosts in an unknown power state")
    comes = on | (state == BOOTING) | (state == RESUMING)
    report.none((s.host_n_vms > 0) & ~on, "hosts that hold VMs and are not on")
    report.none((s.host_n_in > 0) & ~comes, "hosts that VMs come to and that are off")
    drain = s.host_drain > 0
    pages = per_host(p, np.where(pulling_vms(p, s), s.vm_dest, -1), np.ones(len(s.vm_host)))
    report.none(drain & ~on, "hosts to be switched off that are not on")
    report.none(drain & (s.host_n_vms + s.host_n_in == 0), "empty hosts not switched off")
    report.none(drain & (s.host_n_in > pages), "hosts to be switched off that VMs come to")
    report.equal(int(s.counters.on), int(on.sum()), "number of hosts that are on")
    active = on & (s.host_n_vms + s.host_n_in > 0)
    report.none((s.host_active_now > 0) != active, "hosts counted as loaded that are not, or the reverse")
    transit = np.isin(state, (BOOTING, SHUTTING_DOWN, SUSPENDING, RESUMING))
    report.none(np.isfinite(s.host_trans_end_s) != transit, "hosts with a wrong end of boot or shutdown")
    report.none(s.host_trans_end_s < s.clock.now_s, "hosts whose boot or shutdown is overdue")
    longest = np.zeros(len(state))
    for power, lasts in (
        (BOOTING, p.host_boot_s),
        (SHUTTING_DOWN, p.host_shutdown_s),
        (SUSPENDING, p.suspend_s),
        (RESUMING, p.resume_s),
    ):
        longest = np.where(state == power, lasts, longest)
    left = np.where(transit, s.host_trans_end_s - s.clock.now_s, 0.0)
    report.none(
        left > longest * SLACK + TOLERANCE * s.clock.now_s, "hosts whose boot or shutdown takes too long"
    )
    if not p.has_failures:
        report.none(state == FAILED, "hosts that failed though none can")


def _check_events(p: ClusterParams, s: ClusterState, report: Report) -> None:
    # Kinds of events, by their place in the order of an instant.
    copy_end, _, boot_end, shutdown_end, vm_up, pages_end, restart, noticed, profile = range(9)
    vms, hosts = len(s.vm_host), len(s.host_head)
    due: list[tuple[float, int, int]] = []
    may: set[tuple[float, int, int]] = set()

    def add(kind: int, mask: Any, times: Any) -> None:
        due.extend((float(times[i]), kind, int(i)) for i in np.flatnonzero(mask))

    if not p.has_precopy:
        add(copy_end, s.vm_mig == MIG_COPYING, s.vm_mig_end_s)
    report.equal(int(s.counters.left), int((s.vm_state == DEPARTED).sum()), "VMs that have left")
    state = s.host_power_state
    add(boot_end, (state == BOOTING) | (state == RESUMING), s.host_trans_end_s)
    add(shutdown_end, (state == SHUTTING_DOWN) | (state == SUSPENDING), s.host_trans_end_s)
    queued = list(zip(s.heap_time.tolist(), s.heap_kind.tolist(), s.heap_item.tolist()))
    if p.has_failures:
        add(vm_up, s.vm_state == STARTING, s.vm_starts_s)
        add(restart, s.vm_restart == 1, s.vm_down_since_s + p.detect_s + p.place_s)
        notice = failed_since(p, float(s.clock.now_s)) + p.detect_s
        heard = (state == FAILED) & (s.host_profile >= 0) & (s.host_was_on > 0) & (notice > s.clock.now_s)
        own = s.host_profile == np.arange(
            hosts
        )  # a spare that failed on the way to its identity is not heard
        add(noticed, heard & own, notice)
        may.update((float(notice[h]), noticed, int(h)) for h in np.flatnonzero(heard & ~own))
        coming = np.flatnonzero(s.host_profile < -1)
        on_way = [event for event in queued if event[1] == profile]
        report.equal(
            sorted(e[2] for e in on_way), coming.tolist(), "spares that an identity is on its way to"
        )
        report.none(
            [e[0] > s.clock.now_s + p.associate_s * SLACK for e in on_way], "identities that take too long"
        )
        due.extend(on_way)
    if p.has_numa:
        moving = s.vm_pages_end_s > s.clock.now_s
        add(pages_end, moving, s.vm_pages_end_s)
        # Pages of a VM that has left meanwhile: ignored when they come, at most one event for a VM.
        stale = [e for e in queued if e[1] == pages_end and not moving[min(e[2], vms - 1)]]
        if len({e[2] for e in stale}) == len(stale):
            may.update(stale)
    check_queue(s, due, may, report)


def _bits(mask: Any) -> Any:
    """Number of bits of every mask."""
    return np.array([int(m).bit_count() for m in mask])


def _check_nodes(p: ClusterParams, s: ClusterState, report: Report) -> None:
    n_hosts, n_nodes = s.node_vcpus.shape
    vcpus, memory = np.zeros((n_hosts, n_nodes)), np.zeros((n_hosts, n_nodes))
    places = [(s.vm_host, s.vm_nodes, "home"), (s.vm_dest, s.vm_dest_nodes, "reserved")]
    if p.has_standby:
        places.append((s.vm_secondary, s.vm_mirror_nodes, "mirror"))
    for where, masks, what in places:
        there = where >= 0
        report.none(there & (masks == 0), f"VMs without a {what} node")
        report.none(~there & (masks != 0), f"VMs with a {what} node on no host")
        report.none(
            there & (masks >> p.host_nodes[np.maximum(where, 0)] > 0), f"VMs with a {what} node too many"
        )
        for v in np.flatnonzero(there):
            h, nodes = int(where[v]), [j for j in range(n_nodes) if int(masks[v]) >> j & 1]
            if not nodes:
                continue
            vcpus[h, nodes] += p.vm_vcpus[v] / len(nodes)
            memory[h, nodes] += p.vm_mem_mib[v] / len(nodes)
            if len(nodes) not in _allowed_nodes(p, int(v), h):
                report.lines.append(f"vm {v} is spread over {len(nodes)} nodes of host {h}")
    report.same(s.node_vcpus, vcpus, "NUMA nodes whose vCPUs do not add up")
    report.same(s.node_used_mib, memory, "NUMA nodes whose memory does not add up")
    report.none(vcpus > (p.node_cores * p.numa_overcommit)[:, None] * SLACK, "NUMA nodes over their vCPUs")
    report.none(memory > p.node_mem_mib[:, None] * SLACK, "NUMA nodes over their memory")
    moving = s.vm_pages_end_s > s.clock.now_s
    report.none(moving & ((s.vm_host < 0) | (_bits(s.vm_nodes) != 1)), "VMs whose pages move nowhere")
    longest = p.vm_mem_mib / p.numa_page_mib_s
    late = moving & (s.vm_pages_end_s - s.clock.now_s > longest * SLACK + TOLERANCE * s.clock.now_s)
    report.none(late, "VMs whose pages take too long")


def _allowed_nodes(p: ClusterParams, v: int, h: int) -> range:
    """Numbers of nodes that a VM may be spread over: one if it fits into one, all on a blind host."""
    n = int(p.host_nodes[h])
    if not p.numa_aware:
        return range(n, n + 1)
    cores = p.vm_vcpus[v] / (p.node_cores[h] * p.numa_overcommit)
    least = max(1, int(np.ceil(max(cores, p.vm_mem_mib[v] / p.node_mem_mib[h]) - 1e-8)))
    return range(1, 2) if least == 1 else range(least, n + 1)


def _check_copies(p: ClusterParams, s: ClusterState, report: Report) -> None:
    copying, phase = s.vm_mig == MIG_COPYING, s.copy_phase
    n = int(s.counters.moving)
    report.equal(sorted(s.copy_list[:n].tolist()), np.flatnonzero(copying).tolist(), "list of copies")
    report.none(s.copy_list[n:] != 0, "unused places of the list of copies that are not zero")
    _check_queue(s, copying, report)
    report.none((phase < IDLE) | (phase > PULL), "copies in an unknown phase")
    report.none(copying != (phase != IDLE), "VMs whose migration and phase disagree")
    one = np.where(copying, 1.0, 0.0)
    count = per_host(p, np.where(copying, s.vm_host, -1), one) + per_host(
        p, np.where(copying, s.vm_dest, -1), one
    )
    report.same(s.host_copies, count, "hosts whose copies do not add up")
    report.none(count > p.host_slots, "hosts with more copies than slots")
    rule, most_rounds, cpu_state = p.copy_rule, p.copy_max_rounds, p.copy_cpu_state_mib
    init_s, resume_s = p.copy_init_s, p.copy_resume_s
    memory = s.vm_touched_mib if p.has_tiers else p.vm_mem_mib
    memory = p.vm_mem_mib if len(p.sig_active) else memory  # what was touched when the round began
    left_s, left, volume = s.copy_left_s, s.copy_left_mib, s.copy_volume_mib
    report.none((left < 0) | (left_s < 0) | (s.copy_sent_mib < 0), "copies with less than nothing left")
    times = np.where(phase == INIT, init_s, np.where(phase == RESUME, resume_s, 0.0))
    report.none(copying & (left_s > times * SLACK), "copies with too much time left")
    sends = (phase == ROUND) | (phase == STOP) | (phase == PULL)
    report.none(copying & ~sends & (left > 0), "copies that have pages left and send none")
    most = np.where(phase == STOP, np.maximum(volume, cpu_state), volume)
    report.none(sends & (left > most * SLACK), "copies with more left than the round had")
    report.none(sends & (volume > memory * SLACK), "rounds larger than the VM's memory")
    report.none(
        sends & (s.copy_round > 0) & (volume > p.vm_working_mib * SLACK), "rounds above the working set"
    )
    report.none(copying & (s.copy_round > most_rounds), "copies with too many rounds")
    report.none((phase == PULL) & (rule != POST_COPY), "copies that fetch pages without post-copy")
    report.none((s.copy_throttle < 0) | (s.copy_throttle > p.copy_throttle_max), "throttles out of range")
    report.none((s.copy_throttle > 0) & ((rule != 1) | (s.copy_diverged == 0)), "VMs throttled without need")
    first = (phase == ROUND) & (s.copy_round == 0)
    report.none(first & ~_near(s.copy_sent_mib + left, volume), "first rounds that lose data")
    report.none((phase == INIT) & (s.copy_sent_mib > 0), "copies that send before they begin")
    _check_copy_clock(p, s, copying, sends, report)


def _check_queue(s: ClusterState, copying: Any, report: Report) -> None:
    """The heap of the copies: the same VMs, each after the one above it, and each knows its place."""
    n = int(s.counters.moving)
    queue = s.copy_queue[:n]
    report.equal(sorted(queue.tolist()), np.flatnonzero(copying).tolist(), "queue of copies")
    report.none(s.copy_queue[n:] != 0, "unused places of the queue of copies that are not zero")
    place = np.zeros(len(s.copy_place), dtype=np.int32)
    place[queue] = np.arange(n)
    report.none(s.copy_place != place, "copies at another place of their queue")
    above = queue[(np.arange(1, n) - 1) // 2]
    end, end_above = s.vm_mig_end_s[queue[1:]], s.vm_mig_end_s[above]
    wrong = (end < end_above) | ((end == end_above) & (queue[1:] < above))
    report.none(wrong, "copies before those above them in the queue")


def _near(got: Any, want: Any) -> Any:
    return np.abs(got - want) <= TOLERANCE * np.maximum(np.abs(want), 1.0)


def _check_copy_clock(p: ClusterParams, s: ClusterState, copying: Any, sends: Any, report: Report) -> None:
    """When phases end, from what is left and the rate."""
    rate = s.copy_rate_mib_s
    report.none(copying & (s.copy_since_s > s.clock.now_s), "copies looked at in the future")
    report.none(~sends & (rate != 0), "copies with a rate that send nothing")
    wait = np.where(sends, np.where(s.copy_left_mib > 0, np.inf, 0.0), s.copy_left_s)
    flows = sends & (rate > 0)
    wait = np.where(flows, s.copy_left_mib / np.where(flows, rate, 1.0), wait)
    end = np.where(copying, s.copy_since_s + wait, np.inf)
    report.same(s.vm_mig_end_s, end, "copies whose phase ends at the wrong time")
    soonest = float(np.min(s.vm_mig_end_s, initial=np.inf))
    report.equal(float(s.clock.next_copy_s), soonest, "next end of a phase")
    stale = copying & (s.copy_dirtying_mib_s != s.vm_dirty_mib_s)
    report.none(stale, "copies that count another dirty rate than the VM has")


def _check_pairs(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Secondaries: whose, where, apart from their primaries, within the limits."""
    second = s.vm_secondary
    held = second >= 0
    report.none(held & (p.vm_protected == 0), "VMs with a secondary that are not protected")
    report.none(
        held & ((s.vm_state != RUNNING) | (s.vm_mig != MIG_NONE)), "VMs mirrored that do not just run"
    )
    report.none(
        held & (s.host_power_state[np.maximum(second, 0)] != ON), "secondaries on hosts that are not on"
    )
    report.none(held & (second == s.vm_host), "secondaries on the host of their primary")
    report.none(held & (s.host_drain[np.maximum(second, 0)] > 0), "secondaries on hosts to be switched off")
    domains = p.host_domains
    if domains.shape[1]:
        a, b = domains[np.maximum(s.vm_host, 0)], domains[np.maximum(second, 0)]
        shared = ((a == b) & (a >= 0)).any(axis=1)
        report.none(held & shared, "secondaries in the failure domain of their primary")
    one, vcpus = np.ones(len(second)), p.vm_vcpus.astype(np.float64)
    primary = np.where(held, s.vm_host, -1)
    count = per_host(p, primary, one) + per_host(p, second, one)
    cores = per_host(p, primary, vcpus) + per_host(p, second, vcpus)
    report.same(s.host_mirrors, count, "hosts whose protected VMs do not add up")
    report.same(s.host_mirror_vcpus, cores, "hosts whose protected vCPUs do not add up")
    report.same(
        s.host_mirror_mib, per_host(p, second, p.vm_mem_mib), "hosts whose mirrored memory does not add up"
    )
    report.none(count > p.mirror_max_vms, "hosts with too many protected VMs")
    report.none(cores > p.mirror_max_vcpus, "hosts with too many protected vCPUs")


def _check_failed(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Hosts are down exactly when the faults say so; identities are neither lost nor doubled."""
    now, state = float(s.clock.now_s), s.host_power_state
    down = np.isfinite(failed_since(p, now)) & (now > 0)  # faults of time 0 strike as soon as time passes
    report.none((state == FAILED) != down, "hosts that are down and should not be, or the reverse")
    profile = np.where(s.host_profile < -1, -2 - s.host_profile, s.host_profile)
    report.equal(
        sorted(profile[profile >= 0].tolist()), np.flatnonzero(p.host_is_spare == 0).tolist(), "identities"
    )
    without = s.host_profile < 0
    report.none(without & (state != OFF) & (state != FAILED), "hosts that run without an identity")
    report.none((s.host_was_on > 0) & (state != FAILED), "hosts to be on again that have not failed")
    report.none((state == STANDBY) & (s.host_n_vms > 0), "hosts in standby that hold VMs")
