"""A VM's life on the cluster: it arrives, is placed, migrates, departs. Every function leaves the lists, the
sums and the rates of the hosts it touched consistent.
"""

from __future__ import annotations

import numpy as np

from ...jit.kernels import kernel
from ..models.power import ON
from ..state.cluster_state import DEPARTED, MIG_WAITING, PENDING, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold
from .copies import drop_copy, start_copy
from .cpu import set_vm_down, set_vm_miss
from .power_cycle import (
    set_power_state,
    switch_off_if_empty,
)
from .residents import (
    append_incoming,
    free_room,
    remove_incoming,
    remove_resident,
    settle,
    settle_rates,
    take_room,
    touch,
)
from .signals import drive_vm
from .upkeep import after_leaving, before_move, begin_run, end_run, forget_rates

THRASH_INTERVALS = 12
"""A move back to where the VM came from within this many intervals counts as thrash (docs, Metrics)."""


@kernel
def _run_pending(p: ClusterParams, s: ClusterState, v: int, h: int, elapsed_s: float) -> None:
    """A waiting VM starts on a host that is on; its memory is reserved already."""
    s.vm_state[v] = RUNNING
    s.counters.pending -= 1
    set_vm_down(s, v, 0, elapsed_s)
    settle(p, s, v, h)
    begin_run(p, s, v, elapsed_s)
    touch(p, s, h, elapsed_s)
    settle_rates(p, s, v, elapsed_s)


@kernel
def place(p: ClusterParams, s: ClusterState, v: int, h: int, elapsed_s: float) -> None:
    """Give a waiting VM a host: at once where the host is on, else when it has booted."""
    if s.host_power_state[h] == ON:
        append_incoming(s, v, h)
        take_room(p, s, v, h)
        remove_incoming(s, v, h)
        _run_pending(p, s, v, h, elapsed_s)
        return
    s.vm_dest[v] = h
    append_incoming(s, v, h)
    take_room(p, s, v, h)


@kernel
def start_migration(
    p: ClusterParams, s: ClusterState, v: int, h: int, now_s: float, elapsed_s: float
) -> None:
    """Order a live migration: it starts at once, or when the destination has booted."""
    before_move(p, s, v, elapsed_s)
    s.vm_dest[v] = h
    s.vm_mig[v] = MIG_WAITING
    append_incoming(s, v, h)
    take_room(p, s, v, h)
    if h == s.vm_last_from[v] and now_s - s.vm_last_move_s[v] <= THRASH_INTERVALS * p.interval_s:
        s.totals.thrash += 1.0
    s.vm_last_from[v] = s.vm_host[v]
    s.vm_last_move_s[v] = now_s
    s.totals.mig_started += 1.0
    if s.host_power_state[h] == ON:
        start_copy(p, s, v, now_s, elapsed_s)


@kernel
def depart(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """End a VM's life, wherever it is; a copy under way is aborted."""
    host, dest = s.vm_host[v], s.vm_dest[v]
    if s.vm_state[v] == PENDING:
        s.counters.pending -= 1
    drop_copy(p, s, v, elapsed_s)
    set_vm_down(s, v, 0, elapsed_s)
    end_run(p, s, v, elapsed_s)
    if dest >= 0:
        remove_incoming(s, v, dest)
        free_room(p, s, v, dest)
    if host >= 0:
        remove_resident(s, v, host)
        free_room(p, s, v, host)
    s.vm_state[v] = DEPARTED
    hold(s, v, 1.0)
    s.vm_host[v] = -1
    s.vm_dest[v] = -1
    change = s.vm_demand_mhz[v] * elapsed_s
    s.vm_requested[v] += change
    s.totals.requested += change
    s.vm_live_mhz[v] = 0.0
    s.vm_cap_mhz[v] = 0.0
    s.vm_demand_mhz[v] = 0.0
    s.vm_ask_mhz[v] = 0.0
    s.vm_granted_mhz[v] = 0.0
    forget_rates(p, s, v)
    set_vm_miss(s, v, 0.0, 0.0, elapsed_s)
    s.totals.departures += 1.0
    if dest >= 0:
        touch(p, s, dest, elapsed_s)
    if host >= 0:
        touch(p, s, host, elapsed_s)
        switch_off_if_empty(p, s, host, now_s, elapsed_s)
    after_leaving(p, s, host, dest, now_s, elapsed_s)


@kernel
def finish_boot(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """A host comes on: what waited for it starts."""
    s.host_trans_end_s[h] = np.inf
    set_power_state(p, s, h, ON, elapsed_s)
    v = s.host_in_head[h]
    while v >= 0:
        following = s.vm_in_next[v]
        if s.vm_state[v] == PENDING:
            remove_incoming(s, v, h)
            s.vm_dest[v] = -1
            _run_pending(p, s, v, h, elapsed_s)
        else:
            start_copy(p, s, v, now_s, elapsed_s)
        v = following
    after_leaving(p, s, h, -1, now_s, elapsed_s)


@kernel
def arrive(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """A VM appears and waits for a host; what it demands meanwhile is missed."""
    s.vm_state[v] = PENDING
    s.counters.pending += 1
    s.counters.loss = 1
    s.vm_live_mhz[v] = p.vm_cpu_mhz[v]
    demand = p.util[s.counters.sample, v] * p.vm_cpu_mhz[v]
    s.vm_demand_mhz[v] = demand
    s.vm_requested[v] -= demand * elapsed_s
    s.totals.requested -= demand * elapsed_s
    set_vm_down(s, v, 1, elapsed_s)
    drive_vm(p, s, v)
    set_vm_miss(s, v, demand, 0.0, elapsed_s)
