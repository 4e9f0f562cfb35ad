"""What the VMs of one host get, with every sub-model that is on: the chain of docs §0.

    demand -> overhead (§1) and interrupts (§5) -> vCPU scheduling (§2) -> NUMA (§3) -> memory tiers (§4)
           -> mirroring (§9) -> migration (§6) -> delivered work -> power (§7)

    claim_v   = d_v + overhead_v + io_v                                      MHz
    work_v    = d_v (alloc_v - co_stop_v) / claim_v / slowdown_numa / slowdown_memory * mirror_v
    granted_v = work_v * migration_v,     missed_v = d_v - granted_v

A sub-model that is off leaves its factor at 1 and its term at 0. Copies that arrive ask for a share of their
VM's CPU and come before the host's own VMs. Rates are constant between events; every function here adds the
change of a rate, times the time since the segment began, to what that rate feeds (see ``totals``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8, I4
from ...jit.kernels import kernel
from ...jit.records import name_places
from ..models.io_path import io_cost
from ..models.memory_tiers import reclaim_host
from ..models.numa import apply_numa_host
from ..models.overhead import IO_CLASS, class_cycles, guest_work, vm_overhead
from ..models.power import ON
from ..models.precopy import RESUME, STOP, cpu_factor
from ..models.scheduling import schedule_host
from ..models.standby import mirror_loss
from ..state.accumulators import Rates
from ..state.cluster_state import MIG_COPYING, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold
from .cpu import SHORTAGE, host_power, set_host, set_vm_miss


@kernel
def work_memory(s: ClusterState) -> Any:
    """Memory for ``rate_host`` on any host, so that not every host allocates its own."""
    most = 0
    for h in range(s.host_n_vms.shape[0]):
        most = max(most, s.host_n_vms[h])
    return np.empty(most, dtype=np.int32), np.empty(s.host_rates.shape[1] + 15 * most)


@kernel
def residents(s: ClusterState, h: int, memory: I4) -> Any:
    """The VMs that are on a host, in the order in which they came, shape (n,) int32, in that memory."""
    vms = memory[: s.host_n_vms[h]]
    v = s.host_head[h]
    i = 0
    while v >= 0:
        vms[i] = v
        i += 1
        v = s.vm_next[v]
    return vms


@kernel
def vm_stopped(p: ClusterParams, s: ClusterState, v: int) -> bool:
    """Whether a VM that is on a host does not run: it starts, or a migration has stopped it."""
    if s.vm_state[v] != RUNNING:
        return True
    return bool(p.has_precopy != 0 and s.copy_phase[v] in (STOP, RESUME))


@kernel
def _claim(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """What one VM of a host claims, and the most of it that it can use."""
    s.vm_overhead_mhz[v] = 0.0
    s.vm_io_mhz[v] = 0.0
    if p.has_io:
        s.vm_io_latency_s[v] = 0.0
    if vm_stopped(p, s, v):
        s.vm_claim_mhz[v] = 0.0
        s.vm_ask_mhz[v] = 0.0
        if p.has_io:
            s.vm_io_rate[v] = 0.0
        return
    demand = s.vm_demand_mhz[v]
    if p.has_overhead:
        s.vm_overhead_mhz[v] = vm_overhead(p, v, demand)
    if p.has_io:
        packets = (s.vm_net_out_mbps[v] + s.vm_net_in_mbps[v]) / p.vm_packet_mbit[v]
        s.vm_io_rate[v] = packets + s.vm_disk_mb_s[v] / p.vm_request_mb[v]
        cpu, _ = io_cost(p.vm_io_mode[v], s.vm_io_rate[v], 0.0, p.io_table, p.io_slice_s, p.interval_s)
        s.vm_io_mhz[v] = max(cpu, 1e-6 * class_cycles(p, v, IO_CLASS, demand)) if p.has_overhead else cpu
    claim = demand + s.vm_overhead_mhz[v] + s.vm_io_mhz[v]
    s.vm_claim_mhz[v] = claim
    usable = min(claim, p.vm_vcpus[v] * p.host_core_mhz[h])
    s.vm_ask_mhz[v] = min(usable, p.vm_limit_mhz[v]) if p.has_cpu else usable


@kernel
def _copies_mhz(p: ClusterParams, s: ClusterState, h: int) -> float:
    """CPU that incoming copies ask of a host."""
    total = 0.0
    v = s.host_in_head[h]
    while v >= 0:
        if s.vm_mig[v] == MIG_COPYING:
            cap = p.vm_vcpus[v] * p.host_core_mhz[s.vm_host[v]]
            total += p.mig_dest_share * min(s.vm_demand_mhz[v], cap)
        v = s.vm_in_next[v]
    return total


@kernel
def _other_mib(p: ClusterParams, s: ClusterState, h: int) -> float:
    """Memory of a host that belongs to none of its VMs: copies on their way, and secondaries."""
    total = s.host_mirror_mib[h] if p.has_standby else 0.0
    v = s.host_in_head[h]
    while v >= 0:
        if s.vm_mig[v] == MIG_COPYING:
            total += s.vm_touched_mib[v]
        v = s.vm_in_next[v]
    return total


@kernel
def _share_evenly(p: ClusterParams, s: ClusterState, vms: I4, h: int, scale: float) -> float:
    """Without the scheduler: everybody gets the same share of what it can use; returns the sum."""
    total = 0.0
    for v in vms:
        usable = s.vm_ask_mhz[v]
        alloc = usable * scale
        ready = (usable - alloc) / p.vm_vcpus[v]
        s.vm_alloc_mhz[v] = alloc
        s.vm_ready_mhz[v] = ready
        s.vm_ready_share[v] = ready / p.host_core_mhz[h]
        s.vm_limited_mhz[v] = 0.0
        s.vm_capped_mhz[v] = max(0.0, s.vm_claim_mhz[v] - p.vm_vcpus[v] * p.host_core_mhz[h])
        s.vm_co_stop_mhz[v] = 0.0
        total += alloc
    return total


@kernel
def _schedule(p: ClusterParams, s: ClusterState, vms: I4, h: int, copies: float, scratch: F8) -> Any:
    """Divide a host's CPU; returns what VMs and copies got and what they can use, MHz."""
    capacity = p.host_cpu_mhz[h]
    wanted = 0.0
    for v in vms:
        wanted += s.vm_ask_mhz[v]
    asked = wanted + copies
    if p.has_cpu:
        copies = min(copies, capacity)
        total, _ = schedule_host(vms, capacity - copies, p.host_core_mhz[h], p.co_stop, p, s, scratch)
        return total, copies, wanted, asked
    scale = capacity / asked if asked > capacity * SHORTAGE else 1.0
    return _share_evenly(p, s, vms, h, scale), copies * scale, wanted, asked


@kernel
def _mirror_factor(p: ClusterParams, s: ClusterState, v: int) -> float:
    """Share of its granted CPU that does a protected VM's work: (1 - loss) * min(1, granted / needed)."""
    if s.vm_secondary[v] < 0:
        return 1.0
    need, given = s.vm_mirror_need_mbps[v], s.vm_mirror_mbps[v]
    return (1.0 - mirror_loss(p, s.vm_dirty_mib_s[v])) * (1.0 if given >= need else given / need)


@kernel
def _deliver(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float, rates: Rates) -> None:
    """From what a VM was allocated to the work it gets done, and what it misses."""
    demand, claim = s.vm_demand_mhz[v], s.vm_claim_mhz[v]
    if claim <= 0.0:
        stopped = p.has_precopy and s.vm_mig[v] == MIG_COPYING and vm_stopped(p, s, v)
        cap = p.vm_vcpus[v] * p.host_core_mhz[s.vm_host[v]]
        s.vm_granted_mhz[v] = 0.0
        set_vm_miss(s, v, demand, min(demand, cap) if stopped else 0.0, elapsed_s)
        return
    work = guest_work(demand, claim, s.vm_alloc_mhz[v] - s.vm_co_stop_mhz[v])
    weight = p.vm_weight[v]
    if work < demand:
        part = weight * demand / claim  # a VM's overhead bears its part of what is short
        rates.w_contention += part * s.vm_ready_mhz[v] * p.vm_vcpus[v]
        rates.w_limit += part * s.vm_limited_mhz[v]
        rates.w_capped += part * s.vm_capped_mhz[v]
        rates.w_co_stop += part * s.vm_co_stop_mhz[v]
    if p.has_numa:
        slower = work / s.vm_numa_slowdown[v]
        rates.numa_loss += work - slower
        rates.w_numa += weight * (work - slower)
        rates.remote += s.vm_remote_share[v] * s.vm_alloc_mhz[v]
        work = slower
    if p.has_tiers:
        slower = work / s.vm_mem_slowdown[v]
        rates.memory_loss += work - slower
        rates.w_memory += weight * (work - slower)
        work = slower
    if p.has_standby:
        slower = work * _mirror_factor(p, s, v)
        rates.mirror_loss += work - slower
        rates.w_mirror += weight * (work - slower)
        work = slower
    granted = work
    if s.vm_mig[v] == MIG_COPYING:
        granted *= cpu_factor(p, s, v) if p.has_precopy else 1.0 - p.mig_cpu_loss
    s.vm_granted_mhz[v] = granted
    set_vm_miss(s, v, demand - granted, work - granted, elapsed_s)


@kernel
def _add_vm_rates(p: ClusterParams, s: ClusterState, v: int, rates: Rates) -> None:
    if s.vm_state[v] == RUNNING:
        rates.vcpus += p.vm_vcpus[v]
    rates.ready += s.vm_ready_share[v] * p.vm_vcpus[v]
    rates.limited += s.vm_limited_mhz[v]
    rates.capped += s.vm_capped_mhz[v]
    rates.co_stop += s.vm_co_stop_mhz[v]
    rates.overhead += s.vm_overhead_mhz[v]
    rates.io_cpu += s.vm_io_mhz[v]
    rates.alloc += s.vm_alloc_mhz[v]
    if p.has_tiers:
        rates.shared += s.vm_shared_mib[v]
        rates.ballooned += s.vm_ballooned_mib[v]
        rates.compressed += s.vm_compressed_mib[v]
        rates.swapped += s.vm_swapped_mib[v]
        rates.blocked += s.vm_blocked_mib[v]
    if p.has_io and s.vm_io_rate[v] > 0.0:
        usable = s.vm_ask_mhz[v]
        waiting = 1.0 - s.vm_alloc_mhz[v] / usable if usable > 0.0 else 0.0
        mode, rate = p.vm_io_mode[v], s.vm_io_rate[v]
        _, latency = io_cost(mode, rate, waiting, p.io_table, p.io_slice_s, p.interval_s)
        s.vm_io_latency_s[v] = latency
        rates.latency += latency * rate
        if latency > p.vm_latency_s[v]:
            rates.w_latency += p.vm_weight[v] * min(latency / p.vm_latency_s[v] - 1.0, p.latency_most)
        rates.io_rate += rate
        rates.net_dropped += s.vm_net_out_ask[v] - s.vm_net_out_mbps[v]  # each exactly 0 where all passes
        rates.net_dropped += s.vm_net_in_ask[v] - s.vm_net_in_mbps[v]


@kernel
def _set_host_rates(s: ClusterState, h: int, rates: Rates, elapsed_s: float) -> None:
    for k in range(rates.shape[0]):
        s.totals[k] += (s.host_rates[h, k] - rates[k]) * elapsed_s
        s.host_rates[h, k] = rates[k]


@kernel
def rate_host(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float, own: I4, work: F8) -> None:
    """Work out everything that one host and its VMs do until the next event.

    Args:
        s: State with demand, network shares and the lists of the host up to date; ``clock.event_s`` is now.
        h: Host.
        elapsed_s: Time since the segment began, s.
        own: From ``work_memory``, as the next.
        work: Rewritten.
    """
    n_rates = s.host_rates.shape[1]
    rates = name_places(work[:n_rates], s.host_rates[h])
    rates[:] = 0.0
    vms = residents(s, h, own)
    n = vms.shape[0]
    demand = 0.0
    mid_segment = s.clock.event_s > s.clock.now_s  # asked once for all: ``hold`` asks again
    for v in vms:
        if mid_segment:
            hold(s, v, 1.0)
        _claim(p, s, v, h)
        demand += s.vm_demand_mhz[v]
    on = s.host_power_state[h] == ON
    copies = _copies_mhz(p, s, h) if on else 0.0
    got, copied, wanted, asked = 0.0, copies, 0.0, copies
    if n > 0:
        scratch = work[n_rates : n_rates + 15 * n].reshape(5, 3 * n)
        got, copied, wanted, asked = _schedule(p, s, vms, h, copies, scratch)
        if p.has_numa:
            apply_numa_host(p, s, vms, s.vm_alloc_mhz, h, s.clock.event_s)
        if p.has_tiers:
            other = _other_mib(p, s, h)
            free, tier = reclaim_host(vms, p.host_mem_mib[h], other, p, p, s, scratch)
            s.host_free_mib[h] = free
            s.host_mem_state[h] = tier
    elif p.has_numa:
        s.node_load_mhz[h, :] = 0.0
    if n == 0 and p.has_tiers:
        s.host_free_mib[h] = p.host_mem_mib[h] - _other_mib(p, s, h)
        s.host_mem_state[h] = 0
    for v in vms:
        _deliver(p, s, v, elapsed_s, rates)
        _add_vm_rates(p, s, v, rates)
        if mid_segment:
            hold(s, v, -1.0)
    s.host_demand_mhz[h] = demand
    s.host_ask_mhz[h] = asked
    s.host_alloc_mhz[h] = got
    s.host_wanted_mhz[h] = wanted
    capacity = p.host_cpu_mhz[h]
    short = on and asked > capacity * SHORTAGE
    s.host_scale[h] = capacity / asked if short else 1.0
    active = 1.0 if on and n + s.host_n_in[h] > 0 else 0.0
    power = host_power(p, s, h, (got + copied) * p.host_inv_cpu[h])
    set_host(s, h, power, active, 1.0 if short else 0.0, elapsed_s)
    _set_host_rates(s, h, rates, elapsed_s)
