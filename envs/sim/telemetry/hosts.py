"""What views show of hosts (docs §12): sums over the VMs that are there now, of what was measured of each."""

from __future__ import annotations

import numpy as np

from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ..engine.cpu import SHORTAGE, host_power, table_power
from ..models.memory import TINY_MIB
from ..models.memory_tiers import CLEAR, HARD, HIGH, LOW, SOFT
from ..models.numa_nodes import count_bits
from ..models.power import OFF, ON
from ..state.accumulators import Rates
from ..state.cluster_state import MIG_COPYING, RUNNING, ClusterState
from ..state.parameters import ClusterParams


@kernel
def show_hosts(q: ClusterParams, z: ClusterState, capped: bool) -> None:
    """What hosts are asked for, and draw, by the VMs that they have now.

    Args:
        q: Parameters of the view.
        z: State of the view, its VMs up to date.
        capped: Whether some VM asks for other than its demand.
    """
    host_ask, host_demand, host = z.host_ask_mhz, z.host_demand_mhz, z.vm_host
    ask, demand, mig, state = z.vm_ask_mhz, z.vm_demand_mhz, z.vm_mig, z.host_power_state
    host_ask[:] = 0.0
    for v in range(host.shape[0]):
        if host[v] >= 0:
            host_ask[host[v]] += ask[v]
    host_demand[:] = host_ask
    if capped:
        host_demand[:] = 0.0
        for v in range(host.shape[0]):
            if host[v] >= 0:
                host_demand[host[v]] += demand[v]
    _add_rates(q, z)
    if z.counters.moving > 0:
        for v in range(host.shape[0]):
            if mig[v] == MIG_COPYING:
                show_incoming(q, z, v)
    z.host_power_now_w[:] = 0.0
    z.host_sat_now[:] = 0.0
    z.host_scale[:] = 1.0
    short = 0
    for h in range(host_ask.shape[0]):
        if state[h] != OFF:
            short += show_host(q, z, h)
    z.counters.short = short


@kernel
def show_incoming(q: ClusterParams, z: ClusterState, v: int) -> None:
    """What the copy of a VM asks of the host that it comes to."""
    if z.vm_mig[v] == MIG_COPYING and z.vm_dest[v] >= 0:
        z.host_ask_mhz[z.vm_dest[v]] += q.mig_dest_share * min(z.vm_demand_mhz[v], z.vm_cap_mhz[v])


@kernel
def show_service(z: ClusterState, v: int, scale: float) -> None:
    """What a VM gets and misses (simple cluster)."""
    granted = z.vm_ask_mhz[v] * scale
    z.vm_granted_mhz[v] = granted
    z.vm_miss_mhz[v] = z.vm_demand_mhz[v] - granted


@kernel
def show_host(q: ClusterParams, z: ClusterState, h: int) -> bool:
    """Power of a host, and whether it is short of CPU: then what its VMs get (simple cluster)."""
    z.host_sat_now[h], z.host_scale[h], z.host_power_now_w[h] = 0.0, 1.0, 0.0
    state, kind = z.host_power_state[h], q.host_type[h]
    if state == OFF:
        return False
    asked = z.host_ask_mhz[h]
    load = asked * q.host_inv_cpu[h]
    if state == ON and load < 1.0 and not z.host_full_power[h] and q.curve_plain[kind] == 1:
        z.host_power_now_w[h] = table_power(q.power_w, kind, load)  # the ordinary host
        return False
    z.host_power_now_w[h] = host_power(q, z, h, load)
    capacity = q.host_cpu_mhz[h]
    if state != ON or asked <= capacity * SHORTAGE:
        return False
    z.host_sat_now[h], z.host_scale[h] = 1.0, capacity / asked
    v = z.host_head[h] if q.full == 0 else -1
    while v >= 0:
        show_service(z, v, z.host_scale[h])
        v = z.vm_next[v]
    return True


@only_full
@kernel
def _add_rates(q: ClusterParams, z: ClusterState) -> None:
    """The sums of the full model over the VMs of every host."""
    z.host_rates[:] = 0.0
    z.host_alloc_mhz[:] = 0.0
    z.host_wanted_mhz[:] = z.host_ask_mhz
    host, given, total = z.vm_host, z.vm_alloc_mhz, z.host_alloc_mhz
    for v in range(host.shape[0]):
        if host[v] >= 0:
            total[host[v]] += given[v]
    _add_cpu(q, z)
    if q.has_tiers:
        _add_memory(q, z)
    if q.has_numa:
        _add_nodes(q, z)


@kernel
def _add_cpu(q: ClusterParams, z: ClusterState) -> None:
    host, state, rates = z.vm_host, z.vm_state, z.host_rates
    share, vcpus, limited, capped = z.vm_ready_share, q.vm_vcpus, z.vm_limited_mhz, z.vm_capped_mhz
    stopped, overhead, io, given = z.vm_co_stop_mhz, z.vm_overhead_mhz, z.vm_io_mhz, z.vm_alloc_mhz
    for v in range(host.shape[0]):
        h = host[v]
        if h < 0:
            continue
        if state[v] == RUNNING:
            rates[h, READY] += share[v] * vcpus[v]
            rates[h, VCPUS] += vcpus[v]
        rates[h, LIMITED] += limited[v]
        rates[h, CAPPED_MHZ] += capped[v]
        rates[h, CO_STOP] += stopped[v]
        rates[h, OVERHEAD_MHZ] += overhead[v]
        rates[h, IO_CPU] += io[v]
        rates[h, ALLOC] += given[v]


@kernel
def _add_nodes(q: ClusterParams, z: ClusterState) -> None:
    z.node_load_mhz[:] = 0.0
    host, load, rates, homes = z.vm_host, z.node_load_mhz, z.host_rates, z.vm_nodes
    given, share, nodes = z.vm_alloc_mhz, z.vm_remote_share, q.host_nodes
    for v in range(host.shape[0]):
        h = host[v]
        if h < 0:
            continue
        rates[h, REMOTE] += share[v] * given[v]
        mask = homes[v]
        part = given[v] / count_bits(mask) if mask != 0 else 0.0
        for j in range(nodes[h]):
            if (mask >> j) & 1:
                load[h, j] += part


READY, VCPUS, LIMITED, CAPPED_MHZ = Rates.ready, Rates.vcpus, Rates.limited, Rates.capped
CO_STOP, OVERHEAD_MHZ, IO_CPU, ALLOC = Rates.co_stop, Rates.overhead, Rates.io_cpu, Rates.alloc
REMOTE = Rates.remote
SHARED, BALLOONED, COMPRESSED = Rates.shared, Rates.ballooned, Rates.compressed
SWAPPED, BLOCKED = Rates.swapped, Rates.blocked


@kernel
def _add_memory(q: ClusterParams, z: ClusterState) -> None:
    free, tiers, rates, host = z.host_free_mib, z.host_mem_state, z.host_rates, z.vm_host
    tiers[:] = HIGH
    for h in range(free.shape[0]):
        mirrors = z.host_mirror_mib[h] if q.has_standby else 0.0
        free[h] = q.host_mem_mib[h] - mirrors
    shared, ballooned, compressed = z.vm_shared_mib, z.vm_ballooned_mib, z.vm_compressed_mib
    swapped, blocked, resident = z.vm_swapped_mib, z.vm_blocked_mib, z.vm_resident_mib
    for v in range(host.shape[0]):
        h = host[v]
        if h < 0:
            continue
        rates[h, SHARED] += shared[v]
        rates[h, BALLOONED] += ballooned[v]
        rates[h, COMPRESSED] += compressed[v]
        rates[h, SWAPPED] += swapped[v]
        rates[h, BLOCKED] += blocked[v]
        free[h] -= resident[v]
        tier = HIGH
        if blocked[v] > TINY_MIB:
            tier = LOW
        elif swapped[v] + compressed[v] > TINY_MIB:
            tier = HARD
        elif ballooned[v] > TINY_MIB:
            tier = SOFT
        elif shared[v] > TINY_MIB:
            tier = CLEAR
        tiers[h] = max(tiers[h], np.int8(tier))
