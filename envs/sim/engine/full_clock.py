"""The clock of the full model: segments and order of events as in ``engine``, with more kinds of events.

At one instant: phases of copies end, queued events in the order of their kinds, faults and repairs, arrivals.
Everything that acts by itself (levelling NUMA nodes, restarts that found no host, new secondaries) acts at
trace samples or at multiples of the interval, never at the end of a call: looking more often changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ..models.numa import rebalance_host
from ..models.numa_nodes import fragment_rate
from ..models.power import FAILED, OFF, ON
from ..state.accumulators import FRESH
from ..state.cluster_state import FullState
from ..state.parameters import FullParams
from .clock import admit_arrivals, handle_event, on_interval, retry_pending, segment_end
from .copies import finish_copy
from .copy_queue import find_next_copy
from .cpu import accumulate, spread
from .events import (
    HOST_NOTICED,
    PAGES_END,
    PROFILE_MOVED,
    RESTART_DUE,
    VM_UP,
    drop_event,
    pop_event,
    push_event,
)
from .hub import renew_hosts
from .mirrors import protect_all
from .network import look_at_copy, share_everything
from .outages import finish_start, handle_faults, move_profile, notice_host, restart_waiting
from .prefetch import fetch_host
from .rates import rate_host, residents
from .signals import drive_all

COPY, QUEUED, FAULT, ARRIVAL = 0, 1, 2, 3
UNIT_CORES = 16.0
"""Size of the VM that the fragment rate asks about (model.md §3)."""

J_PER_KWH = 3.6e6


@kernel
def measure_full(p: FullParams, s: FullState, time_s: float) -> None:
    """Read the trace at a time: demand of every VM, and what else drives it.

    Args:
        time_s: Now, s.
    """
    k = min(int(time_s / p.sample_s + 1e-9), p.util.shape[0] - 1)
    s.counters.sample = k
    s.counters.loss = 1
    s.counters.fresh = 0
    for v in range(s.vm_live_mhz.shape[0]):
        demand = p.util[k, v] * s.vm_live_mhz[v]
        s.vm_demand_mhz[v] = demand
        if s.vm_host[v] < 0:
            s.vm_miss_mhz[v] = demand
    drive_all(p, s)


@kernel
def _is_unbalanced(p: FullParams, s: FullState) -> bool:
    """Whether the NUMA nodes of the hosts are to be levelled: once in a trace sample."""
    return bool(p.has_numa and p.numa_moves > 0 and s.counters.balanced != s.counters.sample + 1)


@kernel
def _level_nodes(p: FullParams, s: FullState, h: int) -> None:
    """Level the NUMA nodes of a host."""
    if s.host_n_vms[h] < 2 or p.host_nodes[h] < 2:
        return
    now = s.clock.now_s
    vms = residents(s, h)
    moved = rebalance_host(p, s, vms, s.vm_alloc_mhz, h, now, p.numa_moves)
    if moved == 0:
        return
    s.totals.numa_moves += moved
    for v in vms:
        if s.vm_pages_end_s[v] == now + p.vm_mem_mib[v] / p.numa_page_mib_s:
            drop_event(s, PAGES_END, v)
            push_event(s, s.vm_pages_end_s[v], PAGES_END, v)
    rate_host(p, s, h, 0.0)


@kernel
def _has_rates(s: FullState, h: int) -> bool:
    """Whether a host has other rates than 0: one that is off may still have had some before it went off."""
    off = s.host_power_state[h] in (OFF, FAILED)
    return bool(not off or s.host_power_now_w[h] != 0.0)


@kernel
def _rate_all(p: FullParams, s: FullState) -> None:
    """Work out the rates of every host, or where that has been done at this instant, what is new since then.

    One pass does all that there is to do on a host, as long as its VMs are in the cache.
    """
    n = s.host_head.shape[0]
    again = np.zeros(n, dtype=np.int8)
    if p.has_io or p.has_precopy or p.has_standby:
        share_everything(p, s, again)
        for i in range(s.counters.moving if p.has_precopy else 0):
            _look_again(p, s, s.copy_list[i])
        if p.has_precopy:
            find_next_copy(s)
    every = s.counters.fresh == 0
    unbalanced = _is_unbalanced(p, s)
    for h in range(n):
        if every and h + 1 < n:
            fetch_host(p, s, h + 1)
        if (every or again[h]) and _has_rates(s, h):
            rate_host(p, s, h, 0.0)
        if unbalanced:
            _level_nodes(p, s, h)
    if unbalanced:
        s.counters.balanced = s.counters.sample + 1


@kernel
def open_full(p: FullParams, s: FullState) -> Any:
    """Start a segment: the rates of every host and VM.

    Returns:
        Standard deviation over powered-on hosts of CPU load (capped at 1) and of configured memory.
    """
    s.clock.event_s = s.clock.now_s
    if s.counters.fresh != FRESH:
        _rate_all(p, s)
        s.counters.fresh = FRESH
    short = 0
    for h in range(s.host_head.shape[0]):
        short += _has_rates(s, h) and s.host_sat_now[h] > 0.0
    s.counters.short = short
    n_on = s.counters.on
    cpu = spread(s.host_power_state, n_on, s.host_ask_mhz, p.host_inv_cpu, 1.0)
    return cpu, spread(s.host_power_state, n_on, s.host_mem_mib, p.host_inv_mem, np.inf)


@kernel
def _look_again(p: FullParams, s: FullState, v: int) -> None:
    """A copy that has its rate may still dirty memory at another one since the sample changed."""
    look_at_copy(p, s, v, s.copy_rate_mib_s[v], s.clock.event_s)


@kernel
def _end_of_segment(p: FullParams, start_s: float, until_s: float) -> Any:
    """As in the simple engine, and no later than the next sample of the carbon intensity."""
    end = segment_end(p, start_s, until_s)
    if p.carbon_g_kwh.shape[0] == 0:
        return end
    k = np.floor((start_s - p.carbon_start_s) / p.carbon_sample_s + 1e-9) + 1.0
    return min(end, p.carbon_start_s + k * p.carbon_sample_s)


@kernel
def carbon_now(p: FullParams, start_s: float) -> float:
    """Carbon intensity from a time on, g/kWh; before the first and after the last sample it stays."""
    k = int(np.floor((start_s - p.carbon_start_s) / p.carbon_sample_s + 1e-9))
    return float(p.carbon_g_kwh[min(max(k, 0), p.carbon_g_kwh.shape[0] - 1)])


@kernel
def _next(p: FullParams, s: FullState) -> Any:
    """Time of the next event and what it is."""
    at, kind = s.clock.next_copy_s, COPY
    if s.counters.queued > 0 and s.heap_time[0] < at:
        at, kind = s.heap_time[0], QUEUED
    if s.counters.fault < p.fail_time_s.shape[0] and p.fail_time_s[s.counters.fault] < at:
        at, kind = p.fail_time_s[s.counters.fault], FAULT
    if s.counters.arrived < p.arrival_order.shape[0]:
        arrival = p.vm_arrival_s[p.arrival_order[s.counters.arrived]]
        if arrival < at:
            at, kind = arrival, ARRIVAL
    return at, kind


@kernel
def _handle_queued(p: FullParams, s: FullState, start_s: float) -> None:
    now, kind, item = s.heap_time[0], s.heap_kind[0], s.heap_item[0]
    if kind < VM_UP:
        handle_event(p, s, start_s)
        return
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


@kernel
def _retry(p: FullParams, s: FullState) -> None:
    """At every multiple of the interval: VMs that found no host, and secondaries that are missing."""
    if not on_interval(p, s):
        return
    if s.counters.pending > 0 and p.has_failures:
        restart_waiting(p, s, s.clock.now_s, 0.0)
    retry_pending(p, s)
    if p.has_standby:
        protect_all(p, s, 0.0)


@kernel
def _sum_up(p: FullParams, s: FullState, start_s: float, dt_s: float, energy_j: float) -> None:
    """Close a segment: every rate times its length, and the carbon of its energy."""
    accumulate(s, dt_s)
    for h in range(s.host_rates.shape[0]):
        if s.host_power_state[h] == ON:
            for k in range(s.host_rates.shape[1]):
                s.totals[k] += s.host_rates[h, k] * dt_s
    if p.carbon_g_kwh.shape[0] > 0:
        kwh = (s.totals.energy_j - energy_j) * p.pue / J_PER_KWH
        s.totals.carbon_g += kwh * carbon_now(p, start_s)


@kernel
def fragments_now(p: FullParams, s: FullState) -> float:
    """Fragment rate over the hosts that are on; 0 without NUMA."""
    if p.has_numa == 0:
        return 0.0
    on = np.empty(s.host_head.shape[0], dtype=np.int8)
    for h in range(on.shape[0]):
        on[h] = s.host_power_state[h] == ON
    return float(fragment_rate(p, s, on, UNIT_CORES))


@kernel
def advance_full(p: FullParams, s: FullState, until_s: float) -> None:
    """Run the cluster up to a time.

    Args:
        s: State, measured at ``clock.now_s``.
        until_s: End, s; the state is measured there.
    """
    while s.clock.now_s < until_s:
        start = s.clock.now_s
        end = _end_of_segment(p, start, until_s)
        s.clock.event_s = start
        _retry(p, s)
        imb_cpu, imb_mem = open_full(p, s)
        energy = s.totals.energy_j
        s.totals.imb_cpu_s += imb_cpu * (end - start)
        s.totals.imb_mem_s += imb_mem * (end - start)
        s.totals.fragment_s += fragments_now(p, s) * (end - start)
        at, kind = _next(p, s)
        while at <= end:
            s.clock.event_s = at
            if kind == COPY:
                finish_copy(p, s, s.counters.next_copy, at, at - start)
            elif kind == QUEUED:
                _handle_queued(p, s, start)
            elif kind == FAULT:
                handle_faults(p, s, at, at - start)
            else:
                admit_arrivals(p, s, at, at - start)
            at, kind = _next(p, s)
        _sum_up(p, s, start, end - start, energy)
        s.clock.now_s = end
        s.clock.event_s = end
        measure_full(p, s, end)
    open_full(p, s)  # whoever looks now sees the rates that follow from this instant's demand


@kernel
def prepare_full(p: FullParams, s: FullState) -> None:
    """What the full model needs at time 0, before the first VM is placed."""
    s.clock.next_copy_s = np.inf
    s.counters.next_copy = -1
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
def start_full(p: FullParams, s: FullState) -> None:
    """Place the VMs of time 0 and measure demand."""
    measure_full(p, s, 0.0)
    admit_arrivals(p, s, 0.0, 0.0)
    measure_full(p, s, 0.0)
    open_full(p, s)
