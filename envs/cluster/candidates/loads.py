"""What hosts carry, by what views show: now, as planned for, and with every move under way ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ...sim.engine.orders import host_accepts, waits_knowingly
from ...sim.guarantee import home_of, margin_now, write_hosts_may_leave
from ...sim.models.power import BOOTING, ON, RESUMING, curve_power
from ...sim.state.cluster_state import ABSENT, DEPARTED, MIG_NONE, PENDING, ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import copy_draft, cpu_on


@kernel
def remember_demand(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Bring mean and variance of every VM's demand up to the end of an interval.

    Args:
        p: Parameters, of a view.
        s: State, of a view.
        c: Buffers; ``vm_mean`` and ``vm_variance`` are rewritten.
    """
    weight = c.marks.weight
    for v in range(p.vm_vcpus.shape[0]):
        demand = s.vm_demand_mhz[v]
        if s.vm_state[v] in (ABSENT, DEPARTED):
            c.vm_mean[v], c.vm_variance[v] = -1.0, 0.0
        elif c.vm_mean[v] < 0.0:
            c.vm_mean[v], c.vm_variance[v] = demand, 0.0
        else:
            step = weight * (demand - c.vm_mean[v])
            c.vm_variance[v] = (1.0 - weight) * (c.vm_variance[v] + step * (demand - c.vm_mean[v]))
            c.vm_mean[v] += step


@only_full
@kernel
def _read_memory(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Memory that is touched, and the work that is lost to memory now, MHz."""
    lost = 0.0
    if p.has_tiers:
        for v in range(s.vm_state.shape[0]):
            c.vm_used[v] = s.vm_touched_mib[v]
            lost += s.vm_granted_mhz[v] * (max(1.0, s.vm_mem_slowdown[v]) - 1.0)
        c.whole.lost = lost
    if p.has_standby:
        for h in range(s.host_power_state.shape[0]):
            c.own_mem[h] = s.host_mirror_mib[h]


@kernel
def _read_vms(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    alive = waiting = migrating = 0
    demand = weight = 0.0
    risk = c.marks.risk
    for v in range(s.vm_state.shape[0]):
        c.vm_used[v] = p.vm_mem_mib[v]
        c.vm_home[v] = -1
        if s.vm_state[v] in (ABSENT, DEPARTED):
            continue
        now = s.vm_demand_mhz[v]
        c.vm_cpu[v] = c.vm_risk[v] = now
        if c.vm_mean[v] >= 0.0:
            c.vm_risk[v] = max(now, c.vm_mean[v] + risk * np.sqrt(c.vm_variance[v]))
        c.vm_home[v] = home_of(s, v)
        alive += 1
        demand += now
        weight += p.vm_weight[v]
        migrating += s.vm_mig[v] != MIG_NONE
        waiting += s.vm_state[v] == PENDING and s.vm_dest[v] < 0 and waits_knowingly(p, s, v) == 0
    c.now.alive, c.now.waiting = alive, waiting
    c.whole.demand, c.whole.weight, c.whole.lost = demand, weight, 0.0
    c.whole.migrating = migrating / max(1, alive)


@kernel
def margin_of(p: ClusterParams, s: Any) -> Any:
    """Margin of the failover guarantee of a state or a draft; 0 where there is none."""
    return margin_now(p, s) if p.has_admission else 0.0


@kernel
def read_cluster(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Begin to offer: the draft, the loads of hosts and their sums, by what is shown.

    Args:
        p: Parameters, of a view.
        s: State, of a view.
        c: Buffers.
    """
    copy_draft(s, c)
    _read_vms(p, s, c)
    c.own_mem[:] = 0.0
    _read_memory(p, s, c)
    n_hosts = s.host_power_state.shape[0]
    for h in range(n_hosts):
        c.load_mem[h] = c.load_used[h] = c.own_mem[h]
        c.load_cpu[h] = c.load_risk[h] = 0.0
        c.n_home[h] = 0
        state = s.host_power_state[h]
        c.is_up[h] = state in (ON, BOOTING, RESUMING) and not s.host_drain[h]
        c.takes[h] = host_accepts(p, s, h) == 0 and not (p.admission_enforced and p.host_dedicated[h])
    for v in range(s.vm_state.shape[0]):
        h = c.vm_home[v]
        if h >= 0:
            c.load_mem[h] += p.vm_mem_mib[v]
            c.load_used[h] += c.vm_used[v]
            c.load_cpu[h] += cpu_on(p, c, v, h, c.vm_cpu[v])
            c.load_risk[h] += cpu_on(p, c, v, h, c.vm_risk[v])
            c.n_home[h] += 1
    for new, now in (
        (c.new_mem, c.load_mem),
        (c.new_used, c.load_used),
        (c.new_cpu, c.load_cpu),
        (c.new_risk, c.load_risk),
    ):
        new[:] = now
    c.new_home[:] = c.n_home
    c.new_up[:] = c.is_up
    c.may_leave[:] = True
    if p.admission_enforced:
        write_hosts_may_leave(p, s, c.may_leave)
    c.whole.margin = margin_of(p, s)
    if c.whole.demand > 0.0:
        c.whole.lost /= c.whole.demand
    c.whole.mem_max, c.now.mem_at = largest(c.load_mem, p.host_inv_mem)
    c.whole.risk_max, c.now.risk_at = largest(c.load_risk, p.host_inv_cpu)
    c.before[:] = 0.0
    for h in range(n_hosts):
        _add_host(
            p, c.before, h, 1.0, c.load_mem[h], c.load_used[h], c.load_cpu[h], c.load_risk[h], c.is_up[h]
        )


@kernel
def _add_host(
    p: ClusterParams, m: Any, h: int, sign: float, mem: float, used: float, cpu: float, risk: float, up: int
) -> None:
    """Add what a host contributes to the measures, or take it off."""
    mem_share, used_share = mem * p.host_inv_mem[h], used * p.host_inv_mem[h]
    load, planned = cpu * p.host_inv_cpu[h], risk * p.host_inv_cpu[h]
    if mem_share > 1.0:
        m.memory_over_100 += sign * (mem_share - 1.0)
        m.memory_over_110 += sign * max(0.0, mem_share - 1.1)
        m.memory_over_120 += sign * max(0.0, mem_share - 1.2)
        m.memory_hosts_100 += sign
        m.memory_hosts_110 += sign * (mem_share > 1.1)
    if used_share > 0.9:
        m.touched_over_90 += sign * (used_share - 0.9)
        m.touched_over_100 += sign * max(0.0, used_share - 1.0)
    if load > 0.8:
        m.cpu_hosts_80 += sign
        m.cpu_hosts_100 += sign * (load > 1.0)
        m.cpu_over_100 += sign * max(0.0, load - 1.0)
    if planned > 0.8:
        m.risk_hosts_80 += sign
        m.risk_over_100 += sign * max(0.0, planned - 1.0)
    m.touched += sign * used
    m.demand += sign * cpu
    if up:
        kind = p.host_type[h]
        m.hosts_on += sign
        m.idle_power += sign * p.power_w[kind, 0]
        m.power += sign * curve_power(p, kind, load)
        m.capacity += sign * p.host_cpu_mhz[h]
        m.memory += sign * p.host_mem_mib[h]


@kernel
def measure_after(p: ClusterParams, c: CandidateBuffers) -> None:
    """Write the measures after the candidate: those before, less and plus the hosts that it touches."""
    m = c.after
    m[:] = c.before
    for i in range(c.now.hosts):
        h = c.touched_hosts[i]
        _add_host(p, m, h, -1.0, c.load_mem[h], c.load_used[h], c.load_cpu[h], c.load_risk[h], c.is_up[h])
        _add_host(p, m, h, 1.0, c.new_mem[h], c.new_used[h], c.new_cpu[h], c.new_risk[h], c.new_up[h])


@kernel
def largest(load: Any, inverse: Any) -> Any:
    """The largest load per capacity, and its host (-1 = none has any)."""
    most, at = 0.0, -1
    for h in range(load.shape[0]):
        if load[h] * inverse[h] > most:
            most, at = load[h] * inverse[h], h
    return most, at
