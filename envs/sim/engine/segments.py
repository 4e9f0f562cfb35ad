"""What is worked out where segments meet, by model: demand, rates, and what a segment adds to totals.

A simple cluster takes one dense pass over all hosts and VMs (``cpu``); in the full model every host runs
through the chain of ``rates``. Power curves, PUE and carbon are the same in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8, I4
from ...jit.by_model import by_model, only_full
from ...jit.kernels import kernel
from ..models.carbon import J_PER_KWH, carbon_now, carbon_step
from ..models.numa import rebalance_host
from ..models.numa_nodes import fragment_rate
from ..models.power import FAILED, OFF, ON
from ..state.accumulators import FRESH
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from .cpu import measure_dense, open_dense, spread
from .events import PAGES_END, drop_event, find_next_copy, push_event
from .network import look_at_copy, share_everything
from .prefetch import fetch_host
from .rates import rate_host, residents, work_memory
from .signals import drive_all

UNIT_CORES = 16.0
"""Size of the VM that the fragment rate asks about (docs §3)."""


@kernel
def _measure_full(p: ClusterParams, s: ClusterState, time_s: float, keep: bool) -> None:
    """Read the trace at a time: demand of every VM, and what else drives it.

    Args:
        p: Parameters.
        s: State.
        time_s: Now, s.
        keep: False: what was measured is kept already.
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
def _is_unbalanced(p: ClusterParams, s: ClusterState) -> bool:
    """Whether the NUMA nodes of the hosts are to be levelled: once in a trace sample."""
    return bool(p.has_numa and p.numa_moves > 0 and s.counters.balanced != s.counters.sample + 1)


@kernel
def _level_host(p: ClusterParams, s: ClusterState, h: int, own: I4, work: F8) -> None:
    """Level the NUMA nodes of a host, with memory from ``work_memory``."""
    if s.host_n_vms[h] < 2 or p.host_nodes[h] < 2:
        return
    now = s.clock.now_s
    vms = residents(s, h, own)
    moved = rebalance_host(p, s, vms, s.vm_alloc_mhz, h, now, p.numa_moves)
    if moved == 0:
        return
    s.totals.numa_moves += moved
    for v in vms:
        if s.vm_pages_end_s[v] == now + p.vm_mem_mib[v] / p.numa_page_mib_s:
            drop_event(s, PAGES_END, v)
            push_event(s, s.vm_pages_end_s[v], PAGES_END, v)
    rate_host(p, s, h, 0.0, own, work)


@kernel
def _has_rates(s: ClusterState, h: int) -> bool:
    """Whether a host has other rates than 0: one that is off may still have had some before it went off."""
    off = s.host_power_state[h] in (OFF, FAILED)
    return bool(not off or s.host_power_now_w[h] != 0.0)


@kernel
def _rate_all(p: ClusterParams, s: ClusterState) -> None:
    """Work out the rates of every host, or where that has been done at this instant, what is new since then.

    One pass does all that there is to do on a host, as long as its VMs are in the cache.
    """
    n = s.host_head.shape[0]
    again = np.zeros(n, dtype=np.int8)
    if p.has_io or p.has_precopy or p.has_standby:
        share_everything(p, s, again)
        for i in range(s.counters.moving if p.has_precopy else 0):
            v = s.copy_list[i]  # one that has its rate may dirty memory at another since the sample changed
            look_at_copy(p, s, v, s.copy_rate_mib_s[v], s.clock.event_s)
        if p.has_precopy:
            find_next_copy(s)
    every = s.counters.fresh == 0
    own, work = work_memory(s)
    for h in range(n):
        if every and h + 1 < n:
            fetch_host(p, s, h + 1)
        if (every or again[h]) and _has_rates(s, h):
            rate_host(p, s, h, 0.0, own, work)


@only_full
@kernel
def level_nodes(p: ClusterParams, s: ClusterState) -> None:
    """Level the NUMA nodes of all hosts, once in a trace sample, as its first segment begins.

    It follows the demand of now, which is not for those to see who decide at this instant: so it is done when
    time passes, not where the rates of an instant are worked out.
    """
    if _is_unbalanced(p, s):
        own, work = work_memory(s)
        for h in range(s.host_head.shape[0]):
            _level_host(p, s, h, own, work)
        s.counters.balanced = s.counters.sample + 1


@kernel
def _open_full(p: ClusterParams, s: ClusterState) -> Any:
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


measure = by_model(measure_dense, _measure_full)
"""``measure(p, s, time_s, keep)``: read the trace at a time, demand and what else drives VMs and hosts."""

open_segment = by_model(open_dense, _open_full)
"""``open_segment(p, s)``: the rates of a segment that begins; returns the standard deviations over powered-on
hosts of CPU load (capped at 1) and of configured memory."""


@kernel
def fragments_now(p: ClusterParams, s: ClusterState) -> float:
    """Fragment rate over the hosts that are on; 0 without NUMA."""
    if p.has_numa == 0:
        return 0.0
    on = np.empty(s.host_head.shape[0], dtype=np.int8)
    for h in range(on.shape[0]):
        on[h] = s.host_power_state[h] == ON
    return float(fragment_rate(p, s, on, UNIT_CORES))


@only_full
@kernel
def add_fragments(p: ClusterParams, s: ClusterState, dt_s: float) -> None:
    """Add the fragment rate of a segment that begins."""
    s.totals.fragment_s += fragments_now(p, s) * dt_s


@only_full
@kernel
def add_host_rates(p: ClusterParams, s: ClusterState, dt_s: float) -> None:
    """Close a segment: the rates that only the full model has, times its length."""
    for h in range(s.host_rates.shape[0]):
        if s.host_power_state[h] == ON:
            for k in range(s.host_rates.shape[1]):
                s.totals[k] += s.host_rates[h, k] * dt_s


@kernel
def _charge(p: ClusterParams, s: ClusterState, energy_j: float, since_s: float) -> None:
    s.totals.carbon_g += energy_j * p.pue / J_PER_KWH * carbon_now(p, since_s)


@kernel
def charge_carbon(
    p: ClusterParams, s: ClusterState, start_s: float, since_s: float, charged_j: float, until_s: float
) -> Any:
    """Charge the energy of a segment up to the last sample of the carbon intensity before a time.

    Segments do not end where the intensity changes: with and without a series all else is equal to a bit.
    What hosts have drawn by then follows from what events have added to ``totals`` and from their power now.

    Args:
        p: Parameters.
        s: State in the segment; nothing happens in it between the last event and ``until_s``.
        start_s: Begin of the segment, s.
        since_s: Time up to which energy has been charged, s.
        charged_j: ``totals.energy_j`` up to there, J.
        until_s: Time of the next event, or end of the segment, s.

    Returns:
        The new ``since_s`` and ``charged_j``.
    """
    if p.carbon_g_kwh.shape[0] == 0:
        return since_s, charged_j
    turn_s = p.carbon_start_s + (carbon_step(p, since_s) + 1.0) * p.carbon_sample_s
    while turn_s < until_s:
        drawn = s.totals.energy_j + s.host_power_now_w.sum() * (turn_s - start_s)
        _charge(p, s, drawn - charged_j, since_s)
        since_s, charged_j = turn_s, drawn
        turn_s = p.carbon_start_s + (carbon_step(p, since_s) + 1.0) * p.carbon_sample_s
    return since_s, charged_j


@kernel
def charge_rest(p: ClusterParams, s: ClusterState, since_s: float, charged_j: float) -> None:
    """Charge what is left of a segment whose energy is in ``totals`` now."""
    if p.carbon_g_kwh.shape[0] > 0:
        _charge(p, s, s.totals.energy_j - charged_j, since_s)
