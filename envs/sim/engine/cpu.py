"""CPU of a host: who asks, who gets, what is missed (docs §2, without reservations and limits).

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
from numpy.typing import NDArray

from ...jit.kernels import kernel
from ..models.power import BOOTING, FAILED, OFF, ON, RESUMING, STANDBY, curve_power
from ..state.cluster_state import MIG_COPYING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold

SHORTAGE = 1.0 + 1e-9
"""A host is short when asked for more than this multiple of its capacity: sums of floats are not exact."""


@kernel
def measure_dense(p: ClusterParams, s: ClusterState, time_s: float, keep: bool) -> None:
    """Read the trace at a time: demand of every VM and what every host is asked for.

    Args:
        s: State; its demand and ask arrays are rewritten.
        time_s: Now, s.
        keep: Whether what VMs asked for until now is what was measured of them.
    """
    k = min(int(time_s / p.sample_s + 1e-9), p.util.shape[0] - 1)
    s.counters.sample = k
    _read_demand(p.util[k], s, keep)
    host_ask, host_demand, vm_host = s.host_ask_mhz, s.host_demand_mhz, s.vm_host
    vm_ask, vm_demand = s.vm_ask_mhz, s.vm_demand_mhz
    host_ask[:] = 0.0
    for v in range(vm_host.shape[0]):
        h = vm_host[v]
        if h >= 0:
            host_ask[h] += vm_ask[v]
    host_demand[:] = host_ask
    if s.counters.loss > 0:  # some VM demands more than it can ask for
        host_demand[:] = 0.0
        for v in range(vm_host.shape[0]):
            if vm_host[v] >= 0:
                host_demand[vm_host[v]] += vm_demand[v]
    if s.counters.moving > 0:
        for v in range(vm_host.shape[0]):
            if s.vm_mig[v] == MIG_COPYING:
                host_ask[s.vm_dest[v]] += p.mig_dest_share * vm_ask[v]


@kernel
def _read_demand(util: NDArray[np.float64], s: ClusterState, keep: bool) -> None:
    """Demand, ask and, until contention is known, full service; without a branch, so that it vectorises.

    A VM that is not there has ``vm_live_mhz`` 0, one without a host has ``vm_cap_mhz`` 0.
    """
    live, cap = s.vm_live_mhz, s.vm_cap_mhz
    vm_demand, vm_ask, granted, miss = s.vm_demand_mhz, s.vm_ask_mhz, s.vm_granted_mhz, s.vm_miss_mhz
    known = s.vm_known_mhz
    capped = 0
    for v in range(live.shape[0]):
        if keep:
            old, new = known[v], vm_ask[v]  # both loaded in any case: so the loop vectorises
            known[v] = new if cap[v] > 0.0 else old  # a VM runs where it has cores
        demand = util[v] * live[v]
        ask = min(demand, cap[v])
        vm_demand[v] = demand
        vm_ask[v] = ask
        granted[v] = ask
        miss[v] = demand - ask
        capped |= demand > ask
    if s.counters.loss > 0:  # without loss it is all zero already
        s.vm_mig_loss_mhz[:] = 0.0
    s.counters.loss = capped


@kernel
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


@kernel
def set_vm_rates(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """Recompute what a running VM gets and misses, ``elapsed_s`` into the segment."""
    granted = s.vm_ask_mhz[v] * s.host_scale[s.vm_host[v]]
    loss = 0.0
    if s.vm_mig[v] == MIG_COPYING:
        loss = granted * p.mig_cpu_loss
    s.vm_granted_mhz[v] = granted - loss
    set_vm_miss(s, v, s.vm_demand_mhz[v] - granted + loss, loss, elapsed_s)


@kernel
def set_vm_miss(s: ClusterState, v: int, miss: float, loss: float, elapsed_s: float) -> None:
    """Set the rates of unserved demand and of loss to migration."""
    if miss > 0.0:
        s.counters.loss = 1
    if elapsed_s > 0.0:
        change = (s.vm_miss_mhz[v] - miss) * elapsed_s
        s.vm_missed[v] += change
        s.totals.missed += change
        if s.vm_down_now[v]:
            _miss_down(s, v, (s.vm_miss_mhz[v] - s.vm_mig_loss_mhz[v] - miss + loss) * elapsed_s)
        change = (s.vm_mig_loss_mhz[v] - loss) * elapsed_s
        s.vm_mig_lost[v] += change
        s.totals.mig_lost += change
    s.vm_miss_mhz[v] = miss
    s.vm_mig_loss_mhz[v] = loss


@kernel
def _miss_down(s: ClusterState, v: int, change: float) -> None:
    """Add to what a VM missed while it was down, beside what a migration cost it."""
    s.vm_down_missed[v] += change
    s.totals.down_missed += change


@kernel
def host_power(p: ClusterParams, s: ClusterState, h: int, load: float) -> Any:
    """Power of a host in its state, W (docs §7).

    On: its table or curve (``power_states``) at its load, at full power the curve's end. Off, failed: 0.
    Booting, resuming: between idle and peak. Standby: a share of idle. Shutting down, suspending: idle.

    Args:
        p: Parameters.
        s: State.
        h: Host.
        load: CPU load; clamped to 0...1.
    """
    state, kind = s.host_power_state[h], p.host_type[h]
    if state == ON:
        return curve_power(p, kind, 1.0 if s.host_full_power[h] else load)
    if state in (OFF, FAILED):
        return 0.0
    if state in (BOOTING, RESUMING):
        return p.host_boot_w[h]
    return p.standby_w[h] if state == STANDBY else p.host_shutdown_w[h]


@kernel
def set_host(s: ClusterState, h: int, power: float, active: float, sat: float, elapsed_s: float) -> None:
    """Set the rates of a host's energy, time with load and time short of CPU."""
    if elapsed_s > 0.0:
        change = (s.host_power_now_w[h] - power) * elapsed_s
        s.host_energy_j[h] += change
        s.totals.energy_j += change
        if sat > 0.0:
            s.counters.short += 1
        change = (s.host_sat_now[h] - sat) * elapsed_s
        s.host_sat_s[h] += change
        s.totals.sat_s += change
        change = (s.host_active_now[h] - active) * elapsed_s
        s.host_active_s[h] += change
        s.totals.active_s += change
    s.host_power_now_w[h] = power
    s.host_active_now[h] = active
    s.host_sat_now[h] = sat


@kernel
def refresh_host(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    """Recompute a host's power, shortage and, where it is or was short, its VMs' rates.

    Args:
        s: State with ``host_ask_mhz[h]`` up to date.
        h: Host.
        elapsed_s: Time since the segment began, s.
    """
    capacity = p.host_cpu_mhz[h]
    ask = s.host_ask_mhz[h]
    on = s.host_power_state[h] == ON
    short = on and ask > capacity * SHORTAGE
    was_short = s.host_sat_now[h] > 0.0
    power = host_power(p, s, h, ask * p.host_inv_cpu[h])
    active = 1.0 if on and s.host_n_vms[h] + s.host_n_in[h] > 0 else 0.0
    set_host(s, h, power, active, 1.0 if short else 0.0, elapsed_s)
    s.host_scale[h] = capacity / ask if short else 1.0
    if short or was_short:
        asked = 0.0
        v = s.host_head[h]
        while v >= 0:
            set_vm_rates(p, s, v, elapsed_s)
            asked += p.vm_weight[v] * s.vm_ask_mhz[v]
            v = s.vm_next[v]
        held_back = asked * (1.0 - s.host_scale[h])
        s.totals.w_contention += (s.host_held_back[h] - held_back) * elapsed_s
        s.host_held_back[h] = held_back


@kernel
def table_power(tables: NDArray[np.float64], kind: int, load: float) -> Any:
    """Power of a host with a table at a load below 1, W."""
    last = tables.shape[1] - 1
    a = int(load * last)
    low = tables[kind, a]
    return low + (tables[kind, a + 1] - low) * (load * last - a)


@kernel
def open_dense(p: ClusterParams, s: ClusterState) -> Any:
    """Start a segment: the rates of every host and of every VM that moves.

    The ordinary host, on, with a table of power and not short, now or before, takes the few lines here; the
    rest goes to ``refresh_host``, which knows everything. (``host_active_now`` changes with placements only.)

    Returns:
        Standard deviation over powered-on hosts of CPU load (capped at 1) and of configured memory.
    """
    state, ask, was_short, full = s.host_power_state, s.host_ask_mhz, s.host_sat_now, s.host_full_power
    inv_cpu, power_now, host_type, tables = p.host_inv_cpu, s.host_power_now_w, p.host_type, p.power_w
    plain = p.curve_plain
    short = 0
    for h in range(state.shape[0]):
        if state[h] == OFF:
            continue
        load = ask[h] * inv_cpu[h]
        rare = full[h] or was_short[h] > 0.0 or load >= 1.0 or plain[host_type[h]] == 0
        if state[h] != ON or rare:
            refresh_host(p, s, h, 0.0)
            short += s.host_sat_now[h] > 0.0
        else:
            power_now[h] = table_power(tables, host_type[h], load)
    s.counters.short = short
    if s.counters.moving > 0:
        for v in range(s.vm_mig.shape[0]):
            if s.vm_mig[v] == MIG_COPYING:
                set_vm_rates(p, s, v, 0.0)
    n = s.counters.on
    return spread(state, n, ask, inv_cpu, 1.0), spread(state, n, s.host_mem_mib, p.host_inv_mem, np.inf)


@kernel(fastmath={"reassoc", "nsz"})
def spread(
    state: NDArray[np.int8], n: int, used: NDArray[np.float64], inverse: NDArray[np.float64], cap: float
) -> Any:
    """Standard deviation over the n powered-on hosts of ``min(cap, used * inverse)``; 0 where none is on.

    Deviations are taken from host 0's: hosts that are all alike then have a spread of 0, not 1e-8. The sums
    may be reordered, so that the loop vectorises: nothing decides by them.
    """
    base = min(cap, used[0] * inverse[0])
    first = 0.0
    second = 0.0
    for h in range(state.shape[0]):
        x = used[h] * inverse[h]
        x = (cap if x > cap else x) - base
        x = x if state[h] == ON else 0.0
        first += x
        second += x * x
    mean = first / max(1, n)
    return np.sqrt(max(0.0, second / max(1, n) - mean * mean))


@kernel(fastmath={"reassoc", "nsz"})
def _integrate(total: NDArray[np.float64], rate: NDArray[np.float64], dt_s: float) -> float:
    """``total += rate * dt``; returns the sum of the rates.

    The sum may be reordered, so that it vectorises: it feeds running totals only, nothing that decides.
    """
    summed = 0.0
    for i in range(rate.shape[0]):
        total[i] += rate[i] * dt_s
        summed += rate[i]
    return summed


@kernel
def accumulate(s: ClusterState, dt_s: float) -> None:
    """Close a segment: every rate times its length."""
    t = s.totals
    t.energy_j += _integrate(s.host_energy_j, s.host_power_now_w, dt_s) * dt_s
    t.active_s += _integrate(s.host_active_s, s.host_active_now, dt_s) * dt_s
    if s.counters.short > 0:
        t.sat_s += _integrate(s.host_sat_s, s.host_sat_now, dt_s) * dt_s
        t.w_contention += s.host_held_back.sum() * dt_s
    t.on_s += s.counters.on * dt_s
    t.time_s += dt_s
    t.requested += _integrate(s.vm_requested, s.vm_demand_mhz, dt_s) * dt_s
    if s.counters.loss > 0:
        t.missed += _integrate(s.vm_missed, s.vm_miss_mhz, dt_s) * dt_s
        t.mig_lost += _integrate(s.vm_mig_lost, s.vm_mig_loss_mhz, dt_s) * dt_s
    if s.counters.down > 0:
        for v in range(s.vm_down_now.shape[0]):
            if s.vm_down_now[v]:
                s.vm_down_s[v] += dt_s
                t.down_s += dt_s
                _miss_down(s, v, (s.vm_miss_mhz[v] - s.vm_mig_loss_mhz[v]) * dt_s)


@kernel
def set_vm_down(s: ClusterState, v: int, down: int, elapsed_s: float) -> None:
    """Start or end a VM's downtime: it has arrived, and does not run."""
    change = s.vm_down_now[v] - down
    hold(s, v, 1.0)
    s.vm_down_now[v] = down
    hold(s, v, -1.0)
    s.counters.down -= change
    s.vm_down_s[v] += change * elapsed_s
    s.totals.down_s += change * elapsed_s
    if change != 0:
        _miss_down(s, v, change * (s.vm_miss_mhz[v] - s.vm_mig_loss_mhz[v]) * elapsed_s)


@kernel(fastmath={"reassoc", "nsz"})
def _weighted(weight: NDArray[np.float64], total: NDArray[np.float64]) -> float:
    summed = 0.0
    for v in range(weight.shape[0]):
        summed += weight[v] * total[v]
    return summed


@kernel
def weigh(p: ClusterParams, s: ClusterState) -> None:
    """Weigh by service class what VMs asked for and missed up to now.

    Where all classes weigh the same, the totals of all VMs say it; else the VMs' own integrals, once per call
    of ``advance`` and not per segment.
    """
    t = s.totals
    w = p.one_weight
    if w > 0.0:
        t.w_requested, t.w_missed, t.w_migration = w * t.requested, w * t.missed, w * t.mig_lost
        t.w_down, t.w_down_s = w * t.down_missed, w * t.down_s
        return
    t.w_requested = _weighted(p.vm_weight, s.vm_requested)
    t.w_missed = _weighted(p.vm_weight, s.vm_missed)
    t.w_migration = _weighted(p.vm_weight, s.vm_mig_lost)
    t.w_down = _weighted(p.vm_weight, s.vm_down_missed)
    t.w_down_s = _weighted(p.vm_weight, s.vm_down_s)
