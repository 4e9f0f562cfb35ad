"""CPU of a host: who asks, who gets, what is missed (model.md §2, without reservations and limits).

Every VM asks for its demand, capped by its vCPUs times the speed of the host's cores: a vCPU never gets more
than one core. An incoming copy asks for ``mig_dest_share`` of its VM's CPU. If a host is asked for more than
it has, everybody gets the same fraction of what it asked:

    ask_v = min(d_v, vcpus_v * core),  granted_v = ask_v * min(1, C / (sum ask + sum copies))

A moving VM loses ``mig_cpu_loss`` of what it is granted (Beloglazov & Buyya, CCPE 24(13), 2012).
Only real shortage counts: a host is saturated while it is asked for more than it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .power import BOOTING, OFF, ON, power_at
from .state import MIG_COPYING, PENDING, ClusterParams, ClusterState
from .totals import (
    C_LOSS,
    C_PENDING,
    C_SAMPLE,
    T_ACTIVE_S,
    T_DOWN_S,
    T_ENERGY_J,
    T_IMB_CPU_S,
    T_IMB_MEM_S,
    T_MIG_LOST,
    T_MISSED,
    T_ON_S,
    T_REQUESTED,
    T_SAT_S,
    T_TIME_S,
)

__all__ = ["accumulate", "measure", "open_segment", "recount_host", "refresh_host", "set_vm_rates"]

SHORTAGE = 1.0 + 1e-9
"""A host is short when asked for more than this multiple of its capacity: sums of floats are not exact."""


@njit(cache=True)
def measure(p: ClusterParams, s: ClusterState, time_s: float) -> None:
    """Read the trace at a time: demand of every VM and what every host is asked for.

    Args:
        p: Parameters.
        s: State; its demand and ask arrays are rewritten.
        time_s: Now, s.
    """
    k = min(int(time_s / p.sample_s + 1e-9), p.util.shape[0] - 1)
    s.counters[C_SAMPLE] = k
    s.counters[C_LOSS] = 0
    util = p.util[k]
    host_ask, host_demand, vm_host = s.host_ask_mhz, s.host_demand_mhz, s.vm_host
    for h in range(host_ask.shape[0]):
        host_ask[h] = 0.0
        host_demand[h] = 0.0
    for v in range(vm_host.shape[0]):
        h = vm_host[v]
        if h < 0:
            _measure_homeless(p, s, v, util[v])
            continue
        demand = util[v] * p.vm_cpu_mhz[v]
        ask = min(demand, s.vm_cap_mhz[v])
        s.vm_demand_mhz[v] = demand
        s.vm_ask_mhz[v] = ask
        s.vm_granted_mhz[v] = ask
        s.vm_miss_mhz[v] = demand - ask
        s.vm_mig_loss_mhz[v] = 0.0
        if ask < demand:
            s.counters[C_LOSS] = 1
        host_demand[h] += demand
        host_ask[h] += ask
        if s.vm_mig[v] == MIG_COPYING:
            host_ask[s.vm_dest[v]] += p.mig_dest_share * ask


@njit(cache=True)
def _measure_homeless(p: ClusterParams, s: ClusterState, v: int, util: float) -> None:
    if s.vm_state[v] == PENDING:
        demand = util * p.vm_cpu_mhz[v]
        s.vm_demand_mhz[v] = demand
        s.vm_miss_mhz[v] = demand
        s.counters[C_LOSS] = 1


@njit(cache=True)
def recount_host(p: ClusterParams, s: ClusterState, h: int) -> None:
    """Add up a host's asks from its lists (no drift from adding and subtracting)."""
    demand = 0.0
    ask = 0.0
    v = s.host_head[h]
    while v >= 0:
        demand += s.vm_demand_mhz[v]
        ask += s.vm_ask_mhz[v]
        v = s.vm_next[v]
    v = s.host_in_head[h]
    while v >= 0:
        if s.vm_mig[v] == MIG_COPYING:
            ask += p.mig_dest_share * s.vm_ask_mhz[v]
        v = s.vm_in_next[v]
    s.host_demand_mhz[h] = demand
    s.host_ask_mhz[h] = ask


@njit(cache=True)
def set_vm_rates(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """Recompute what a running VM gets and misses, ``elapsed_s`` into the segment."""
    granted = s.vm_ask_mhz[v] * s.host_scale[s.vm_host[v]]
    loss = 0.0
    if s.vm_mig[v] == MIG_COPYING:
        loss = granted * p.mig_cpu_loss
    s.vm_granted_mhz[v] = granted - loss
    set_vm_miss(s, v, s.vm_demand_mhz[v] - granted + loss, loss, elapsed_s)


@njit(cache=True)
def set_vm_miss(s: ClusterState, v: int, miss: float, loss: float, elapsed_s: float) -> None:
    """Set the rates of unserved demand and of loss to migration."""
    if miss > 0.0:
        s.counters[C_LOSS] = 1
    change = (s.vm_miss_mhz[v] - miss) * elapsed_s
    s.vm_missed[v] += change
    s.totals[T_MISSED] += change
    change = (s.vm_mig_loss_mhz[v] - loss) * elapsed_s
    s.vm_mig_lost[v] += change
    s.totals[T_MIG_LOST] += change
    s.vm_miss_mhz[v] = miss
    s.vm_mig_loss_mhz[v] = loss


@njit(cache=True)
def _host_power(p: ClusterParams, s: ClusterState, h: int, load: float) -> Any:
    state = s.host_power_state[h]
    if state == ON:
        table = p.power_w[p.host_type[h]]
        return table[-1] if s.host_full_power[h] else power_at(table, load)
    if state == OFF:
        return 0.0
    return p.host_boot_w[h] if state == BOOTING else p.host_shutdown_w[h]


@njit(cache=True)
def refresh_host(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    """Recompute a host's power, shortage and, where it is or was short, its VMs' rates.

    Args:
        p: Parameters.
        s: State with ``host_ask_mhz[h]`` up to date.
        h: Host.
        elapsed_s: Time since the segment began, s.
    """
    capacity = p.host_cpu_mhz[h]
    ask = s.host_ask_mhz[h]
    on = s.host_power_state[h] == ON
    short = on and ask > capacity * SHORTAGE
    was_short = s.host_sat_now[h] > 0.0
    power = _host_power(p, s, h, ask / capacity)
    active = 1.0 if on and s.host_n_vms[h] + s.host_n_in[h] > 0 else 0.0
    sat = 1.0 if short else 0.0
    if elapsed_s > 0.0:
        change = (s.host_power_now_w[h] - power) * elapsed_s
        s.host_energy_j[h] += change
        s.totals[T_ENERGY_J] += change
        change = (s.host_sat_now[h] - sat) * elapsed_s
        s.host_sat_s[h] += change
        s.totals[T_SAT_S] += change
        change = (s.host_active_now[h] - active) * elapsed_s
        s.host_active_s[h] += change
        s.totals[T_ACTIVE_S] += change
    s.host_power_now_w[h] = power
    s.host_active_now[h] = active
    s.host_sat_now[h] = sat
    s.host_scale[h] = capacity / ask if short else 1.0
    if short or was_short:
        v = s.host_head[h]
        while v >= 0:
            set_vm_rates(p, s, v, elapsed_s)
            v = s.vm_next[v]


@njit(cache=True)
def open_segment(p: ClusterParams, s: ClusterState) -> Any:
    """Start a segment: rates of every host that is not off, and the imbalance of those that are on.

    Returns:
        Standard deviation over powered-on hosts of CPU load and of memory load.
    """
    n = 0
    cpu = 0.0
    cpu2 = 0.0
    mem = 0.0
    mem2 = 0.0
    movers = False
    for h in range(s.host_power_state.shape[0]):
        state = s.host_power_state[h]
        if state == OFF:
            continue
        refresh_host(p, s, h, 0.0)
        movers = movers or s.host_n_in[h] > 0
        if state == ON:
            n += 1
            x = min(1.0, s.host_ask_mhz[h] / p.host_cpu_mhz[h])
            y = s.host_mem_mib[h] / p.host_mem_mib[h]
            cpu += x
            cpu2 += x * x
            mem += y
            mem2 += y * y
    if movers:
        for h in range(s.host_power_state.shape[0]):
            v = s.host_in_head[h]
            while v >= 0:
                if s.vm_mig[v] == MIG_COPYING:
                    set_vm_rates(p, s, v, 0.0)
                v = s.vm_in_next[v]
    if n == 0:
        return 0.0, 0.0
    return (
        np.sqrt(max(0.0, cpu2 / n - (cpu / n) ** 2)),
        np.sqrt(max(0.0, mem2 / n - (mem / n) ** 2)),
    )


@njit(cache=True)
def accumulate(s: ClusterState, dt_s: float, imb_cpu: float, imb_mem: float) -> None:
    """Close a segment: every rate times its length."""
    energy = 0.0
    sat = 0.0
    active = 0.0
    on = 0
    for h in range(s.host_power_state.shape[0]):
        state = s.host_power_state[h]
        power = s.host_power_now_w[h]
        if state == OFF and power == 0.0:
            continue
        s.host_energy_j[h] += power * dt_s
        s.host_sat_s[h] += s.host_sat_now[h] * dt_s
        s.host_active_s[h] += s.host_active_now[h] * dt_s
        energy += power
        sat += s.host_sat_now[h]
        active += s.host_active_now[h]
        if state == ON:
            on += 1
    s.totals[T_ENERGY_J] += energy * dt_s
    s.totals[T_SAT_S] += sat * dt_s
    s.totals[T_ACTIVE_S] += active * dt_s
    s.totals[T_ON_S] += on * dt_s
    s.totals[T_IMB_CPU_S] += imb_cpu * dt_s
    s.totals[T_IMB_MEM_S] += imb_mem * dt_s
    s.totals[T_TIME_S] += dt_s
    _accumulate_vms(s, dt_s)


@njit(cache=True)
def _accumulate_vms(s: ClusterState, dt_s: float) -> None:
    requested = 0.0
    for v in range(s.vm_state.shape[0]):
        s.vm_requested[v] += s.vm_demand_mhz[v] * dt_s
        requested += s.vm_demand_mhz[v]
    s.totals[T_REQUESTED] += requested * dt_s
    if s.counters[C_LOSS] > 0:
        missed = 0.0
        lost = 0.0
        for v in range(s.vm_state.shape[0]):
            s.vm_missed[v] += s.vm_miss_mhz[v] * dt_s
            s.vm_mig_lost[v] += s.vm_mig_loss_mhz[v] * dt_s
            missed += s.vm_miss_mhz[v]
            lost += s.vm_mig_loss_mhz[v]
        s.totals[T_MISSED] += missed * dt_s
        s.totals[T_MIG_LOST] += lost * dt_s
    if s.counters[C_PENDING] > 0:
        for v in range(s.vm_state.shape[0]):
            if s.vm_state[v] == PENDING:
                s.vm_down_s[v] += dt_s
                s.totals[T_DOWN_S] += dt_s
