"""Putting VMs on hosts and taking them off, and the power transitions of hosts: the only code that changes
who is where. Every function leaves the lists, the sums and the rates of the hosts it touched consistent.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .cpu import recount_host, refresh_host, set_vm_miss, set_vm_rates
from .events import BOOT_END, DEPARTURE, MIGRATION_END, SHUTDOWN_END, drop_event, push_event
from .power import BOOTING, OFF, ON, SHUTTING_DOWN
from .state import (
    DEPARTED,
    MIG_COPYING,
    MIG_NONE,
    MIG_WAITING,
    PENDING,
    RUNNING,
    ClusterParams,
    ClusterState,
)
from .totals import (
    C_LOSS,
    C_MOVING,
    C_ON,
    C_PENDING,
    C_SAMPLE,
    T_BOOTS,
    T_DEPARTURES,
    T_DOWN_S,
    T_MIG_ABORTED,
    T_MIG_DONE,
    T_MIG_MIB,
    T_MIG_STARTED,
    T_ON_S,
    T_REQUESTED,
    T_SHUTDOWNS,
    T_THRASH,
)

__all__ = [
    "arrive",
    "boot_host",
    "depart",
    "finish_boot",
    "finish_migration",
    "finish_shutdown",
    "place",
    "start_copy",
    "start_migration",
    "switch_off_if_empty",
]

THRASH_INTERVALS = 12
"""A move back to where the VM came from within this many intervals counts as thrash (model.md §11)."""


@njit(cache=True)
def _append_resident(s: ClusterState, v: int, h: int) -> None:
    tail = s.host_tail[h]
    s.vm_prev[v] = tail
    s.vm_next[v] = -1
    if tail >= 0:
        s.vm_next[tail] = v
    else:
        s.host_head[h] = v
    s.host_tail[h] = v
    s.host_n_vms[h] += 1


@njit(cache=True)
def _remove_resident(s: ClusterState, v: int, h: int) -> None:
    before, after = s.vm_prev[v], s.vm_next[v]
    if before >= 0:
        s.vm_next[before] = after
    else:
        s.host_head[h] = after
    if after >= 0:
        s.vm_prev[after] = before
    else:
        s.host_tail[h] = before
    s.vm_next[v] = -1
    s.vm_prev[v] = -1
    s.host_n_vms[h] -= 1


@njit(cache=True)
def _append_incoming(s: ClusterState, v: int, h: int) -> None:
    head = s.host_in_head[h]
    s.vm_in_next[v] = head
    s.vm_in_prev[v] = -1
    if head >= 0:
        s.vm_in_prev[head] = v
    s.host_in_head[h] = v
    s.host_n_in[h] += 1


@njit(cache=True)
def _remove_incoming(s: ClusterState, v: int, h: int) -> None:
    before, after = s.vm_in_prev[v], s.vm_in_next[v]
    if before >= 0:
        s.vm_in_next[before] = after
    else:
        s.host_in_head[h] = after
    if after >= 0:
        s.vm_in_prev[after] = before
    s.vm_in_next[v] = -1
    s.vm_in_prev[v] = -1
    s.host_n_in[h] -= 1


@njit(cache=True)
def _reserve(p: ClusterParams, s: ClusterState, v: int, h: int, sign: float) -> None:
    s.host_mem_mib[h] += sign * p.vm_mem_mib[v]
    s.host_nominal_mhz[h] += sign * p.vm_cpu_mhz[v]
    if s.host_n_vms[h] + s.host_n_in[h] == 0:  # an empty host holds exactly nothing
        s.host_mem_mib[h] = 0.0
        s.host_nominal_mhz[h] = 0.0


@njit(cache=True)
def _set_power_state(p: ClusterParams, s: ClusterState, h: int, state: int, elapsed_s: float) -> None:
    was_on = 1.0 if s.host_power_state[h] == ON else 0.0
    is_on = 1.0 if state == ON else 0.0
    s.totals[T_ON_S] += (was_on - is_on) * elapsed_s
    s.counters[C_ON] += int(is_on - was_on)
    s.host_power_state[h] = state
    refresh_host(p, s, h, elapsed_s)


@njit(cache=True)
def _touch(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    recount_host(p, s, h)
    refresh_host(p, s, h, elapsed_s)


@njit(cache=True)
def _settle(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Make v a resident of h and find what it can ask for there."""
    _append_resident(s, v, h)
    s.vm_host[v] = h
    s.vm_cap_mhz[v] = p.vm_vcpus[v] * p.host_core_mhz[h]
    s.vm_ask_mhz[v] = min(s.vm_demand_mhz[v], s.vm_cap_mhz[v])


@njit(cache=True)
def _run_pending(p: ClusterParams, s: ClusterState, v: int, h: int, elapsed_s: float) -> None:
    """A waiting VM starts on a host that is on; its memory is reserved already."""
    s.vm_state[v] = RUNNING
    s.counters[C_PENDING] -= 1
    s.vm_down_s[v] += elapsed_s
    s.totals[T_DOWN_S] += elapsed_s
    _settle(p, s, v, h)
    _touch(p, s, h, elapsed_s)
    set_vm_rates(p, s, v, elapsed_s)


@njit(cache=True)
def place(p: ClusterParams, s: ClusterState, v: int, h: int, elapsed_s: float) -> None:
    """Give a waiting VM a host: at once where the host is on, else when it has booted."""
    if s.host_power_state[h] == ON:
        _append_incoming(s, v, h)
        _reserve(p, s, v, h, 1.0)
        _remove_incoming(s, v, h)
        _run_pending(p, s, v, h, elapsed_s)
        return
    s.vm_dest[v] = h
    _append_incoming(s, v, h)
    _reserve(p, s, v, h, 1.0)


@njit(cache=True)
def start_migration(
    p: ClusterParams, s: ClusterState, v: int, h: int, now_s: float, elapsed_s: float
) -> None:
    """Order a live migration: it starts at once, or when the destination has booted."""
    s.vm_dest[v] = h
    s.vm_mig[v] = MIG_WAITING
    _append_incoming(s, v, h)
    _reserve(p, s, v, h, 1.0)
    if h == s.vm_last_from[v] and now_s - s.vm_last_move_s[v] <= THRASH_INTERVALS * p.interval_s:
        s.totals[T_THRASH] += 1.0
    s.vm_last_from[v] = s.vm_host[v]
    s.vm_last_move_s[v] = now_s
    s.totals[T_MIG_STARTED] += 1.0
    if s.host_power_state[h] == ON:
        start_copy(p, s, v, now_s, elapsed_s)


@njit(cache=True)
def start_copy(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """Begin to copy a VM's memory: both ends pay until it is over."""
    s.vm_mig[v] = MIG_COPYING
    s.counters[C_MOVING] += 1
    end = now_s + p.vm_mem_mib[v] / p.mig_mib_s
    s.vm_mig_end_s[v] = end
    push_event(s, end, MIGRATION_END, v)
    _touch(p, s, s.vm_dest[v], elapsed_s)
    set_vm_rates(p, s, v, elapsed_s)


@njit(cache=True)
def finish_migration(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """Hand the VM over to its destination."""
    source, dest = s.vm_host[v], s.vm_dest[v]
    _remove_resident(s, v, source)
    _reserve(p, s, v, source, -1.0)
    _remove_incoming(s, v, dest)
    s.vm_mig[v] = MIG_NONE
    s.counters[C_MOVING] -= 1
    s.vm_dest[v] = -1
    s.vm_mig_end_s[v] = np.inf
    _settle(p, s, v, dest)
    _touch(p, s, source, elapsed_s)
    _touch(p, s, dest, elapsed_s)
    set_vm_rates(p, s, v, elapsed_s)
    s.totals[T_MIG_DONE] += 1.0
    s.totals[T_MIG_MIB] += p.vm_mem_mib[v]
    switch_off_if_empty(p, s, source, now_s, elapsed_s)


@njit(cache=True)
def depart(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """End a VM's life, wherever it is; a copy under way is aborted."""
    host, dest = s.vm_host[v], s.vm_dest[v]
    if s.vm_state[v] == PENDING:
        s.counters[C_PENDING] -= 1
        s.vm_down_s[v] += elapsed_s
        s.totals[T_DOWN_S] += elapsed_s
    if s.vm_mig[v] == MIG_COPYING:
        drop_event(s, MIGRATION_END, v)
        s.counters[C_MOVING] -= 1
    if s.vm_mig[v] != MIG_NONE:
        s.totals[T_MIG_ABORTED] += 1.0
    s.vm_mig[v] = MIG_NONE
    s.vm_mig_end_s[v] = np.inf
    s.vm_state[v] = DEPARTED
    s.vm_host[v] = -1
    s.vm_dest[v] = -1
    change = s.vm_demand_mhz[v] * elapsed_s
    s.vm_requested[v] += change
    s.totals[T_REQUESTED] += change
    s.vm_live_mhz[v] = 0.0
    s.vm_cap_mhz[v] = 0.0
    s.vm_demand_mhz[v] = 0.0
    s.vm_ask_mhz[v] = 0.0
    s.vm_granted_mhz[v] = 0.0
    set_vm_miss(s, v, 0.0, 0.0, elapsed_s)
    s.totals[T_DEPARTURES] += 1.0
    if dest >= 0:
        _remove_incoming(s, v, dest)
        _reserve(p, s, v, dest, -1.0)
        _touch(p, s, dest, elapsed_s)
    if host >= 0:
        _remove_resident(s, v, host)
        _reserve(p, s, v, host, -1.0)
        _touch(p, s, host, elapsed_s)
        switch_off_if_empty(p, s, host, now_s, elapsed_s)


@njit(cache=True)
def boot_host(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Switch a host on; without a boot time it is on at once."""
    s.totals[T_BOOTS] += 1.0
    s.host_drain[h] = 0
    if p.host_boot_s[h] > 0.0:
        s.host_trans_end_s[h] = now_s + p.host_boot_s[h]
        push_event(s, s.host_trans_end_s[h], BOOT_END, h)
        _set_power_state(p, s, h, BOOTING, elapsed_s)
    else:
        _set_power_state(p, s, h, ON, elapsed_s)


@njit(cache=True)
def finish_boot(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """A host comes on: what waited for it starts."""
    s.host_trans_end_s[h] = np.inf
    _set_power_state(p, s, h, ON, elapsed_s)
    v = s.host_in_head[h]
    while v >= 0:
        following = s.vm_in_next[v]
        if s.vm_state[v] == PENDING:
            _remove_incoming(s, v, h)
            s.vm_dest[v] = -1
            _run_pending(p, s, v, h, elapsed_s)
        else:
            start_copy(p, s, v, now_s, elapsed_s)
        v = following


@njit(cache=True)
def switch_off_if_empty(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Carry out a pending switch-off once nothing is left on the host."""
    if not s.host_drain[h] or s.host_n_vms[h] + s.host_n_in[h] > 0:
        return
    s.host_drain[h] = 0
    s.totals[T_SHUTDOWNS] += 1.0
    if p.host_shutdown_s[h] > 0.0:
        s.host_trans_end_s[h] = now_s + p.host_shutdown_s[h]
        push_event(s, s.host_trans_end_s[h], SHUTDOWN_END, h)
        _set_power_state(p, s, h, SHUTTING_DOWN, elapsed_s)
    else:
        _set_power_state(p, s, h, OFF, elapsed_s)


@njit(cache=True)
def finish_shutdown(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    """A host is off."""
    s.host_trans_end_s[h] = np.inf
    _set_power_state(p, s, h, OFF, elapsed_s)


@njit(cache=True)
def arrive(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """A VM appears and waits for a host; what it demands meanwhile is missed."""
    s.vm_state[v] = PENDING
    s.counters[C_PENDING] += 1
    s.counters[C_LOSS] = 1
    s.vm_live_mhz[v] = p.vm_cpu_mhz[v]
    demand = p.util[s.counters[C_SAMPLE], v] * p.vm_cpu_mhz[v]
    s.vm_demand_mhz[v] = demand
    s.vm_requested[v] -= demand * elapsed_s
    s.totals[T_REQUESTED] -= demand * elapsed_s
    s.vm_down_s[v] -= elapsed_s
    s.totals[T_DOWN_S] -= elapsed_s
    set_vm_miss(s, v, demand, 0.0, elapsed_s)
    if p.vm_departure_s[v] < np.inf:
        push_event(s, p.vm_departure_s[v], DEPARTURE, v)
