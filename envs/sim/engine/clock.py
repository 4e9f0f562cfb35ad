"""The clock: segments between trace samples, and the events inside them in the order of their times.

One loop for both models; what a segment's rates are (``segments``) and what else may happen is chosen by
model. At one instant: phases of copies end, queued events in the order of their kinds, faults and repairs,
arrivals. Everything that acts by itself (levelling NUMA nodes, restarts that found no host, new secondaries)
acts at trace samples or at multiples of the interval, never at the end of a call: looking more often changes
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ..guarantee import guarantee_fails, watch_guarantee
from ..models.power import OFF, ON
from ..models.telemetry import PAST
from ..state.cluster_state import ABSENT, PENDING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import take_gauges
from .copies import finish_copy, finish_migration
from .cpu import accumulate, weigh
from .events import (
    BOOT_END,
    DEPARTURE,
    HOST_NOTICED,
    MIGRATION_END,
    PAGES_END,
    PROFILE_MOVED,
    RESTART_DUE,
    VM_UP,
    pop_event,
)
from .hub import renew_hosts
from .lifecycle import arrive, depart, finish_boot, place
from .mirrors import protect_all
from .outages import finish_start, handle_faults, move_profile, notice_host, restart_waiting
from .power_cycle import boot_host, finish_shutdown
from .segments import (
    add_fragments,
    add_host_rates,
    charge_carbon,
    charge_rest,
    level_nodes,
    measure,
    open_segment,
)
from .waiting import BY_POLICY, choose_host, is_hopeless, no_failures, note_failure

COPY, QUEUED, FAULT, ARRIVAL, LEAVING = 0, 1, 2, 3, 4
"""Kinds of what happens next: end of a copy's phase, first event queued, fault, arrival, departure."""


@kernel
def try_arrival(
    p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float, failed: NDArray[np.int32]
) -> bool:
    """Place an arriving VM by the rule, booting a host where that is allowed; whether it found one.

    ``failed`` is what this pass over VMs remembers (``waiting``).
    """
    if is_hopeless(p, failed, v):
        return False
    h = choose_host(p, s, v, p.arrival_rule, False)
    if h < 0 and p.auto_boot:
        h = choose_host(p, s, v, p.arrival_rule, True)
        if h >= 0:
            boot_host(p, s, h, now_s, elapsed_s)
    if h < 0:
        note_failure(failed, v)
        return False
    place(p, s, v, h, elapsed_s)
    return True


@kernel
def admit_arrivals(p: ClusterParams, s: ClusterState, now_s: float, elapsed_s: float) -> None:
    """Let every VM appear whose time has come, and place it unless the policy does that."""
    n = p.arrival_order.shape[0]
    failed = no_failures()
    while s.counters.arrived < n and p.vm_arrival_s[p.arrival_order[s.counters.arrived]] <= now_s:
        v = p.arrival_order[s.counters.arrived]
        s.counters.arrived += 1
        s.totals.arrivals += 1.0
        arrive(p, s, v, now_s, elapsed_s)
        if p.arrival_rule != BY_POLICY and not try_arrival(p, s, v, now_s, elapsed_s, failed):
            s.totals.failed_placements += 1.0


@kernel
def on_interval(p: ClusterParams, s: ClusterState) -> bool:
    """Whether now is a multiple of the interval."""
    intervals = s.clock.now_s / p.interval_s
    return bool(abs(intervals - np.rint(intervals)) <= 1e-9 * max(1.0, intervals))


@kernel
def retry_pending(p: ClusterParams, s: ClusterState) -> None:
    """At every multiple of the interval, VMs that found no host try again, however time is cut into calls.

    Where the policy places, it has had its first chance by then: who has come since the last interval and
    still has no host is a failed placement, as who finds none by a rule when it comes.
    """
    if p.arrival_rule == BY_POLICY:
        for i in range(s.counters.judged, s.counters.arrived):
            s.totals.failed_placements += is_new(p, s, p.arrival_order[i])
        s.counters.judged = s.counters.arrived
    elif s.counters.pending > 0:
        failed = no_failures()
        for v in range(s.vm_state.shape[0]):
            if is_new(p, s, v):
                try_arrival(p, s, v, s.clock.now_s, 0.0, failed)


@kernel
def is_new(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """Whether a VM waits for its first host; one that has failed waits to restart."""
    return s.vm_state[v] == PENDING and s.vm_dest[v] < 0 and (p.has_failures == 0 or s.vm_restart[v] == 0)


@only_full
@kernel
def _retry_restarts(p: ClusterParams, s: ClusterState) -> None:
    """At every multiple of the interval VMs that found no host after a failure try again."""
    if s.counters.pending > 0 and p.has_failures:
        restart_waiting(p, s, s.clock.now_s, 0.0)


@only_full
@kernel
def _protect_again(p: ClusterParams, s: ClusterState) -> None:
    """At every multiple of the interval secondaries that are missing are looked for."""
    if p.has_standby:
        protect_all(p, s, 0.0)


@kernel
def _handle_common(p: ClusterParams, s: ClusterState, start_s: float) -> None:
    """Take the first event off the queue and let it happen."""
    now, kind, item = s.heap_time[0], s.heap_kind[0], s.heap_item[0]
    pop_event(s)
    elapsed = now - start_s
    if kind == MIGRATION_END:
        finish_migration(p, s, item, now, elapsed)
    elif kind == BOOT_END:
        finish_boot(p, s, item, now, elapsed)
    else:
        finish_shutdown(p, s, item, elapsed)


@kernel
def _handle_queued(p: ClusterParams, s: ClusterState, start_s: float) -> None:
    """Let an event happen that only the full model has."""
    now, kind, item = s.heap_time[0], s.heap_kind[0], s.heap_item[0]
    pop_event(s)
    elapsed = now - start_s
    if kind == VM_UP:
        finish_start(p, s, item, elapsed)
    elif kind == PAGES_END:
        if s.vm_host[item] >= 0:
            renew_hosts(p, s, s.vm_host[item], -1, elapsed)
    elif kind == RESTART_DUE:
        s.vm_restart[item] = 2
        while s.counters.queued > 0 and s.heap_time[0] == now and s.heap_kind[0] == RESTART_DUE:
            s.vm_restart[s.heap_item[0]] = 2
            pop_event(s)
        restart_waiting(p, s, now, elapsed)
    elif kind == HOST_NOTICED:
        notice_host(p, s, item, now)
    elif kind == PROFILE_MOVED:
        move_profile(p, s, item, now, elapsed)


@only_full
@kernel
def _handle_full(p: ClusterParams, s: ClusterState, kind: int, now_s: float, start_s: float) -> None:
    if kind == COPY:
        finish_copy(p, s, s.counters.next_copy, now_s, now_s - start_s)
    elif kind == FAULT:
        handle_faults(p, s, now_s, now_s - start_s)
    else:
        _handle_queued(p, s, start_s)


@kernel
def _next(p: ClusterParams, s: ClusterState) -> Any:
    """Time of the next event and what it is; at one instant an arrival yields to everything."""
    at, kind = s.clock.next_copy_s, COPY
    if s.counters.queued > 0 and s.heap_time[0] < at:
        at, kind = s.heap_time[0], QUEUED
    if s.counters.left < p.departure_order.shape[0]:
        departure = p.vm_departure_s[p.departure_order[s.counters.left]]
        later = kind == QUEUED and s.heap_kind[0] > DEPARTURE
        if departure < at or (departure == at and later and departure < np.inf):
            at, kind = departure, LEAVING
    if s.counters.fault < p.fail_time_s.shape[0] and p.fail_time_s[s.counters.fault] < at:
        at, kind = p.fail_time_s[s.counters.fault], FAULT
    if s.counters.arrived < p.arrival_order.shape[0]:
        arrival = p.vm_arrival_s[p.arrival_order[s.counters.arrived]]
        if arrival < at:
            at, kind = arrival, ARRIVAL
    return at, kind


@kernel
def segment_end(p: ClusterParams, start_s: float, until_s: float) -> float:
    """The next trace sample, multiple of the interval or end, whichever is first.

    Cutting at the interval too makes one long run equal, to the last bit, to a run step by step.
    """
    end = min(until_s, (int(start_s / p.interval_s + 1e-9) + 1) * p.interval_s)
    if p.telemetry == PAST and p.telemetry_sample_s < p.interval_s:
        end = min(end, (int(start_s / p.telemetry_sample_s + 1e-9) + 1) * p.telemetry_sample_s)
    k = int(start_s / p.sample_s + 1e-9)
    return min(end, (k + 1) * p.sample_s) if k < p.util.shape[0] - 1 else end


@kernel
def step_end(now_s: float, step_s: float, interval_s: float, horizon_s: float) -> float:
    """When a step ends that begins now, s; cut at the horizon.

    Sums of floats drift; an event exactly at a decision must not fall to the other side of it.
    """
    until = min(now_s + step_s, horizon_s)
    on_grid = np.rint(until / interval_s) * interval_s
    return min(on_grid, horizon_s) if abs(until - on_grid) <= 1e-9 * interval_s else until


@kernel
def advance(p: ClusterParams, s: ClusterState, until_s: float) -> None:
    """Run the cluster up to a time; nothing is decided on the way but arrivals.

    Args:
        s: State, measured at ``clock.now_s``.
        until_s: End, s; the state is measured there.
    """
    while s.clock.now_s < until_s:
        start = s.clock.now_s
        end = segment_end(p, start, until_s)
        s.clock.event_s = start
        if on_interval(p, s):
            _retry_restarts(p, s)
            retry_pending(p, s)
            _protect_again(p, s)
        imb_cpu, imb_mem = open_segment(p, s)
        level_nodes(p, s)
        s.totals.imb_cpu_s += imb_cpu * (end - start)
        s.totals.imb_mem_s += imb_mem * (end - start)
        add_fragments(p, s, end - start)
        since, charged = start, s.totals.energy_j
        fails, failing_since = guarantee_fails(p, s), start
        at, kind = _next(p, s)
        while at <= end:
            since, charged = charge_carbon(p, s, start, since, charged, at)
            s.clock.event_s = at
            if kind == ARRIVAL:
                admit_arrivals(p, s, at, at - start)
            elif kind == LEAVING:
                v = p.departure_order[s.counters.left]
                s.counters.left += 1
                depart(p, s, v, at, at - start)
            elif kind == QUEUED and s.heap_kind[0] < VM_UP:
                _handle_common(p, s, start)
            else:
                _handle_full(p, s, kind, at, start)
            if p.has_admission:
                fails, failing_since = watch_guarantee(p, s, fails, failing_since, at)
            at, kind = _next(p, s)
        if fails:
            s.totals.unguarded_s += end - failing_since
        since, charged = charge_carbon(p, s, start, since, charged, end)
        accumulate(s, end - start)
        add_host_rates(p, s, end - start)
        charge_rest(p, s, since, charged)
        keep = take_gauges(p, s, start, end, until_s)
        s.clock.now_s = end
        s.clock.event_s = end
        measure(p, s, end, keep)
    weigh(p, s)
    open_segment(p, s)  # whoever looks now sees the rates that follow from this instant's demand


@only_full
@kernel
def _prepare_models(p: ClusterParams, s: ClusterState) -> None:
    """What the full model needs at time 0, before the first VM is placed."""
    if p.has_numa:
        s.vm_pages_end_s[:] = -np.inf
        s.vm_numa_slowdown[:] = 1.0
    if p.has_tiers:
        s.vm_mem_slowdown[:] = 1.0
    if p.has_standby:
        s.vm_secondary[:] = -1
    if p.has_failures:
        for h in range(s.host_profile.shape[0]):
            spare = p.host_is_spare.shape[0] > 0 and p.host_is_spare[h] != 0
            s.host_profile[h] = -1 if spare else h
            if spare and s.host_power_state[h] == ON:
                s.host_power_state[h] = OFF
                s.counters.on -= 1


@kernel
def begin(p: ClusterParams, s: ClusterState, hosts_on: bool) -> None:
    """Set an all-zero state to time 0: hosts on or off, nobody on them; ``start`` goes on."""
    s.host_head[:] = -1
    s.host_tail[:] = -1
    s.host_in_head[:] = -1
    s.host_trans_end_s[:] = np.inf
    s.host_scale[:] = 1.0
    s.host_power_state[:] = ON if hosts_on else OFF
    s.counters.on = s.host_power_state.shape[0] if hosts_on else 0
    s.vm_host[:] = -1
    s.vm_dest[:] = -1
    s.vm_next[:] = -1
    s.vm_prev[:] = -1
    s.vm_in_next[:] = -1
    s.vm_in_prev[:] = -1
    s.vm_mig_end_s[:] = np.inf
    s.vm_last_from[:] = -1
    s.vm_last_move_s[:] = -np.inf
    s.vm_state[:] = ABSENT
    s.clock.next_copy_s = np.inf
    s.counters.next_copy = -1
    s.vm_known_mhz[:] = -1.0
    _prepare_models(p, s)


@kernel
def measure_again(p: ClusterParams, s: ClusterState) -> None:
    """Work out all rates of a state that goes on with other parameters."""
    measure(p, s, s.clock.now_s, False)
    open_segment(p, s)


@kernel
def settle_homes(p: ClusterParams, s: ClusterState, home: NDArray[np.int32]) -> None:
    """Put VMs of time 0 on the hosts that they are on, by no rule; ``start`` places the others.

    Args:
        p: Parameters.
        s: State, begun.
        home: Host of each VM, (V,); -1 = the arrival rule chooses.
    """
    measure(p, s, 0.0, False)
    n = p.arrival_order.shape[0]
    while s.counters.arrived < n and p.vm_arrival_s[p.arrival_order[s.counters.arrived]] <= 0.0:
        v = p.arrival_order[s.counters.arrived]
        if home[v] < 0:
            break
        s.counters.arrived += 1
        s.totals.arrivals += 1.0
        arrive(p, s, v, 0.0, 0.0)
        place(p, s, v, home[v], 0.0)


@kernel
def start(p: ClusterParams, s: ClusterState) -> None:
    """Place the VMs of time 0 and measure demand."""
    measure(p, s, 0.0, False)
    admit_arrivals(p, s, 0.0, 0.0)
    measure(p, s, 0.0, False)
    open_segment(p, s)
