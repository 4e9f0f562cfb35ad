"""The observer's memory: what kernels read and write besides the simulator, and what they add up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import F4, F8
from ..jit.kernels import kernel
from ..jit.records import Place, Record
from ..sim.models.power import BOOTING, FAILED, ON, STANDBY, peak_watts
from ..sim.models.precopy import MBIT_PER_MIB, PULL
from ..sim.state.cluster_state import ABSENT, DEPARTED, MIG_NONE, PENDING, STARTING, ClusterState
from ..sim.state.parameters import ClusterParams


class Past(Record):
    """What is remembered of the cluster at the end of the last interval."""

    missed = Place("total of missed demand, MHz s")
    requested = Place("total of demand, MHz s")
    time_s = Place("time, s")
    unserved = Place("unserved share of the interval")


class Scale(Record):
    """What values are measured against: the reciprocals, but for the horizon."""

    largest = Place("CPU of the largest host, 1/MHz")
    hungriest = Place("peak power of the hungriest host, 1/W")
    capacity = Place("CPU of all hosts, 1/MHz")
    peak = Place("peak power of all hosts, 1/W")
    horizon_s = Place("horizon, s")
    limit = Place("decisions allowed in an interval")
    interval = Place("interval, 1/s")
    hosts = Place("number of hosts")


class Choice(Record):
    """Where the agent stands in the interval, int64."""

    vm = Place("the chosen VM, -1 = none")
    host = Place("its host, -1 = none")
    decisions = Place("decisions in this interval")


class Sums(Record):
    """Sums over hosts and VMs; those of the full model are 0 in a simple cluster."""

    on = Place("hosts that are on")
    booting = Place("hosts that boot")
    short = Place("hosts short of CPU")
    power = Place("power of all hosts, W")
    ask = Place("CPU asked of the hosts that are on, MHz")
    capacity = Place("their CPU, MHz")
    memory = Place("memory of residents and incoming VMs of the hosts that are on, MiB")
    memory_capacity = Place("their memory, MiB")
    demand = Place("demand of all VMs, MHz")
    migrating = Place("migrations ordered or under way")
    standby = Place("hosts in standby")
    failed = Place("hosts that have failed")
    maintenance = Place("hosts in maintenance")
    spares = Place("hosts without a profile")
    ready = Place("vCPUs ready and not scheduled, of the hosts that are on, as all that follow")
    vcpus = Place("vCPUs of running VMs")
    free_mib = Place("free memory, MiB")
    swapped_mib = Place("memory swapped, MiB")
    traffic = Place("traffic sent and received, Mbit/s")
    line_rate = Place("twice the line rate, Mbit/s")
    starting = Place("VMs that boot after a failure")
    restarting = Place("VMs down after a failure without a host")
    unprotected = Place("protected VMs without a secondary")


class Buffers(NamedTuple):
    """What the kernels read and write besides the simulator: H hosts, V VMs, A = 1 + V + 2H actions."""

    hosts: F4  # (H, F_h) observation
    vms: F4  # (V, F_v) observation
    globals: F4  # (1, F_g) observation
    vm_host: NDArray[np.int32]  # (V,) observation
    mask: NDArray[np.bool_]  # (A,) legal actions
    inv_cpu: F8  # (H,) 1 / capacity, 1/MHz
    inv_mem: F8  # (H,) 1 / memory, 1/MiB
    inv_nominal: F8  # (V,) 1 / nominal CPU, 1/MHz
    host_out_mbps: F8  # (H,) traffic sent, Mbit/s (full model)
    host_in_mbps: F8  # (H,) traffic received, Mbit/s (full model)
    host_sat_s: F8  # (H,) host_sat_s at the end of the interval before the last
    host_sat_share: F8  # (H,) share of the last interval short of CPU
    vm_missed: F8  # (V,) vm_missed at the end of the last interval, MHz s
    vm_requested: F8  # (V,) vm_requested at the end of the last interval, MHz s
    vm_miss_share: F8  # (V,) unserved share of the last interval
    vm_recent: F8  # (V,) weighted mean of demand / nominal, -1 = not seen yet
    past: Past
    scale: Scale
    choice: Choice
    sums: Sums


MEMORY = (
    *("host_sat_s", "host_sat_share", "vm_missed", "vm_requested", "vm_miss_share", "vm_recent", "past"),
)
"""The buffers that carry something from one interval to the next."""


def make_buffers(p: ClusterParams, hosts: F4, vms: F4, whole: F4, horizon_s: float, limit: int) -> Buffers:
    """Make the buffers of a cluster.

    Args:
        p: Parameters.
        hosts: Observation, (H, F_h).
        vms: Observation, (V, F_v).
        whole: Observation, (1, F_g).
        horizon_s: Horizon, s.
        limit: Decisions allowed in an interval.
    """
    n_hosts, n_vms = len(hosts), len(vms)
    peak = peak_watts(p)[p.host_type]
    scale = np.zeros(len(Scale.places)).view(Scale)
    scale.largest = 1 / float(p.host_cpu_mhz.max())
    scale.hungriest = 1 / max(float(peak.max()), 1e-9)
    scale.capacity = 1 / float(p.host_cpu_mhz.sum())
    scale.peak = 1 / max(float(peak.sum()), 1e-9)
    scale.horizon_s, scale.limit = horizon_s, 1 / limit
    scale.interval, scale.hosts = 1 / p.interval_s, 1 / n_hosts
    return Buffers(
        hosts=hosts,
        vms=vms,
        globals=whole,
        vm_host=np.zeros(n_vms, dtype=np.int32),
        mask=np.zeros(1 + n_vms + 2 * n_hosts, dtype=np.bool_),
        inv_cpu=1.0 / p.host_cpu_mhz,
        inv_mem=1.0 / p.host_mem_mib,
        inv_nominal=1.0 / p.vm_cpu_mhz,
        host_out_mbps=np.zeros(n_hosts),
        host_in_mbps=np.zeros(n_hosts),
        host_sat_s=np.zeros(n_hosts),
        host_sat_share=np.zeros(n_hosts),
        vm_missed=np.zeros(n_vms),
        vm_requested=np.zeros(n_vms),
        vm_miss_share=np.zeros(n_vms),
        vm_recent=np.full(n_vms, -1.0),
        past=np.zeros(len(Past.places)).view(Past),
        scale=scale,
        choice=np.zeros(len(Choice.places), dtype=np.int64).view(Choice),
        sums=np.zeros(len(Sums.places)).view(Sums),
    )


@kernel
def clip(x: float, high: float) -> Any:
    """A number within 0...high."""
    return min(max(x, 0.0), high)


@kernel
def ratio(part: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole > 0.0 else 0.0


@kernel
def remember(p: ClusterParams, s: ClusterState, b: Buffers, weight: float) -> None:
    """Work out what the last interval did: shares of shortage and the weighted mean of demand.

    Args:
        p: Parameters.
        s: State at the end of an interval.
        b: Buffers; their memory is rewritten.
        weight: Weight of the newest demand, 0...1.
    """
    span = s.clock.now_s - b.past.time_s
    inv_span = 1.0 / span if span > 0.0 else 0.0
    for h in range(p.host_type.shape[0]):
        b.host_sat_share[h] = clip((s.host_sat_s[h] - b.host_sat_s[h]) * inv_span, 1.0)
        b.host_sat_s[h] = s.host_sat_s[h]
    for v in range(p.vm_vcpus.shape[0]):
        requested = s.vm_requested[v] - b.vm_requested[v]
        b.vm_miss_share[v] = clip(ratio(s.vm_missed[v] - b.vm_missed[v], requested), 1.0)
        b.vm_requested[v] = s.vm_requested[v]
        b.vm_missed[v] = s.vm_missed[v]
        demand = s.vm_demand_mhz[v] * b.inv_nominal[v]
        if s.vm_state[v] in (ABSENT, DEPARTED):
            b.vm_recent[v] = -1.0
        elif b.vm_recent[v] < 0.0:
            b.vm_recent[v] = demand
        else:
            b.vm_recent[v] += weight * (demand - b.vm_recent[v])
    missed = s.totals.missed - b.past.missed
    b.past.unserved = clip(ratio(missed, s.totals.requested - b.past.requested), 1.0)
    b.past.missed = s.totals.missed
    b.past.requested = s.totals.requested
    b.past.time_s = s.clock.now_s


@kernel
def add_up(p: ClusterParams, s: ClusterState, b: Buffers) -> None:
    """Bring sums and ``vm_host`` up to date."""
    # Sums in variables of their own: in the record each would be read and written at every host.
    n_hosts, sums = p.host_type.shape[0], b.sums
    booting = on = short = migrating = 0
    power = ask = capacity = memory = memory_capacity = demand = 0.0
    for h in range(n_hosts):
        state = s.host_power_state[h]
        power += s.host_power_now_w[h]
        booting += state == BOOTING
        if state == ON:
            on += 1
            short += s.host_sat_now[h] > 0.0
            ask += s.host_ask_mhz[h]
            capacity += p.host_cpu_mhz[h]
            memory += s.host_mem_mib[h]
            memory_capacity += p.host_mem_mib[h]
    for v in range(p.vm_vcpus.shape[0]):
        host = n_hosts
        if s.vm_state[v] not in (ABSENT, DEPARTED):
            demand += s.vm_demand_mhz[v]
            migrating += s.vm_mig[v] != MIG_NONE
            if s.vm_host[v] >= 0:
                host = s.vm_host[v]
        b.vm_host[v] = host
    sums[:] = 0.0
    sums.booting, sums.on, sums.short, sums.migrating = booting, on, short, migrating
    sums.power, sums.ask, sums.demand = power, ask, demand
    sums.capacity, sums.memory, sums.memory_capacity = capacity, memory, memory_capacity


@kernel
def add_up_full(p: ClusterParams, s: ClusterState, b: Buffers) -> None:
    """The same, with the sums of the full model."""
    add_up(p, s, b)
    sums, has_nic = b.sums, p.host_nic_mbps.shape[0] > 0
    if has_nic:
        _add_up_traffic(p, s, b.host_out_mbps, b.host_in_mbps)
    for h in range(p.host_type.shape[0]):
        sums.standby += s.host_power_state[h] == STANDBY
        sums.failed += s.host_power_state[h] == FAILED
        sums.maintenance += s.host_maintenance[h]
        sums.spares += p.has_failures and s.host_profile[h] < 0
        if s.host_power_state[h] != ON:
            continue
        sums.ready += s.host_rates[h].ready
        sums.vcpus += s.host_rates[h].vcpus
        if p.has_tiers:
            sums.free_mib += s.host_free_mib[h]
            sums.swapped_mib += s.host_rates[h].swapped
        if has_nic:
            sums.traffic += b.host_out_mbps[h] + b.host_in_mbps[h]
            sums.line_rate += 2.0 * p.host_nic_mbps[h]
    for v in range(p.vm_vcpus.shape[0]):
        sums.starting += s.vm_state[v] == STARTING
        sums.restarting += p.has_failures and s.vm_state[v] == PENDING and s.vm_restart[v] > 0
    if p.has_standby:
        for v in p.protected_vms:
            there = s.vm_state[v] != ABSENT and s.vm_state[v] != DEPARTED
            sums.unprotected += there and s.vm_secondary[v] < 0


@kernel
def _add_up_traffic(p: ClusterParams, s: ClusterState, out: F8, into: F8) -> None:
    """What every NIC carries: traffic of VMs, copies and the logs of mirrored VMs, Mbit/s."""
    out[:] = 0.0
    into[:] = 0.0
    for v in range(s.vm_host.shape[0] if p.has_io else 0):
        h = s.vm_host[v]
        if h >= 0:
            out[h] += s.vm_net_out_mbps[v]
            into[h] += s.vm_net_in_mbps[v]
    for i in range(s.counters.moving if p.has_precopy else 0):
        v = s.copy_list[i]
        a, b = s.vm_host[v], s.vm_dest[v]
        if s.copy_phase[v] == PULL:
            a, b = b, a
        out[a] += s.copy_rate_mib_s[v] * MBIT_PER_MIB
        into[b] += s.copy_rate_mib_s[v] * MBIT_PER_MIB
    if p.has_standby:
        for v in p.protected_vms:
            if s.vm_secondary[v] >= 0 and s.vm_host[v] >= 0:
                out[s.vm_host[v]] += s.vm_mirror_mbps[v]
                into[s.vm_secondary[v]] += s.vm_mirror_mbps[v]
