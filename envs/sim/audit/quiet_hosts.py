"""Hosts of the full model on which nothing happened between two observations: their energy, exactly.

For such a host the chain is run again in NumPy from sample to sample: demand, overhead, interrupts,
allocation, power, and, where nobody is short, the work that is not done.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..models.power import ON
from ..state.cluster_state import DEPARTED, MIG_NONE, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report, per_host, pieces
from .rates import claims, curve_watts, numa_slowdowns

Old = dict[str, Any]


def check_quiet(p: ClusterParams, s: ClusterState, old: Old, struck: Any, report: Report) -> int:
    """Work out again the energy of undisturbed hosts and the unserved CPU of their VMs.

    Args:
        s: State now.
        old: Arrays of the state before.
        struck: Hosts that failed or were repaired since, shape (H,).
        report: Where violations go.

    Returns:
        Number of hosts whose energy was worked out.
    """
    quiet = _quiet_hosts(p, s, old, struck)
    if not quiet.any():
        return 0
    energy, missed, sure, wide = _integrate(p, s, float(old["clock"].now_s), float(s.clock.now_s))
    quiet &= wide
    added = s.host_energy_j - old["host_energy_j"]
    scale = max(1.0, float(s.host_energy_j.max()))
    report.none(quiet & (np.abs(added - energy) > TOLERANCE * scale), "hosts with wrong energy")
    calm = sure & (s.vm_host >= 0) & quiet[np.maximum(s.vm_host, 0)] & (s.vm_state == RUNNING)
    if p.has_numa:
        # A node that the balancer levelled, or pages that arrived, changed the slowdown on the way.
        calm &= (s.vm_pages_end_s == old["vm_pages_end_s"]) & (s.vm_pages_end_s <= old["clock"].now_s)
        changed = (s.vm_pages_end_s != old["vm_pages_end_s"]) & (s.vm_host >= 0)
        calm &= ~(per_host(p, s.vm_host, changed.astype(np.float64)) > 0)[np.maximum(s.vm_host, 0)]
    got = s.vm_missed - old["vm_missed"]
    size = max(1.0, float(s.vm_requested.max()))
    report.none(calm & (np.abs(got - missed) > 100 * TOLERANCE * size), "VMs with wrong unserved CPU")
    return int(quiet.sum())


def _quiet_hosts(p: ClusterParams, s: ClusterState, old: Old, struck: Any) -> Any:
    """Hosts that are on, hold somebody, and on which nothing can have happened; shape (H,) bool."""
    counts = s.totals - old["totals"]
    on = (s.host_power_state == ON) & (old["host_power_state"] == ON) & ~struck & (counts.boots == 0)
    on &= (s.host_n_vms > 0) & (s.host_full_power == old["host_full_power"])
    hit = (s.host_n_in > 0) | (old["host_n_in"] > 0)
    changed = (s.vm_host != old["vm_host"]) | (s.vm_state != old["vm_state"]) | (s.vm_state != RUNNING)
    changed |= (s.vm_mig != MIG_NONE) | (old["vm_mig"] != MIG_NONE)
    changed |= s.vm_last_move_s >= old["clock"].now_s
    for hosts in (s.vm_host[changed], old["vm_host"][changed], s.vm_last_from[changed]):
        hit[hosts[hosts >= 0]] = True
    if p.has_failures:
        # Crashes, and restarts, of VMs that run again by now.
        changed |= s.vm_down_since_s > old["clock"].now_s
        for v in p.fail_item[
            (p.fail_kind == 2) & (p.fail_time_s > old["clock"].now_s) & (p.fail_time_s <= s.clock.now_s)
        ]:
            hit[s.vm_host[v]] = hit[s.vm_host[v]] or s.vm_host[v] >= 0
        if changed[(s.vm_down_since_s > old["clock"].now_s)].any():
            return np.zeros(len(hit), dtype=bool)  # somebody may have been anywhere for a while
    if p.has_standby and len(p.protected_vms):
        differs = (s.vm_host != old["vm_host"]) | (s.vm_state != old["vm_state"])
        differs |= (s.vm_mig != old["vm_mig"]) | (s.vm_last_move_s >= old["clock"].now_s)
        moved = (s.vm_secondary != old["vm_secondary"]) | ((p.vm_protected > 0) & differs)
        if moved.any() or struck.any():
            return np.zeros(len(hit), dtype=bool)  # a secondary may have come and gone, and its log with it
    gone = (s.vm_state == DEPARTED) & (old["vm_state"] != DEPARTED)
    if bool((gone & ((counts.mig_done + counts.mig_aborted > 0) | (old["vm_host"] < 0))).any()):
        return np.zeros(len(hit), dtype=bool)  # a VM may have come and gone between the two observations
    return on & ~hit


def _own(p: ClusterParams, own: Any, k: int, sample: int) -> Any:
    if own.shape[0]:
        return own[sample]
    return p.drive[:, 2 * k] + p.drive[:, 2 * k + 1] * p.util[sample]


def _integrate(p: ClusterParams, s: ClusterState, start: float, end: float) -> tuple[F8, F8, Any, Any]:
    """What there would be if everybody stayed where it is now.

    Returns:
        Energy per host, J; unserved CPU per VM, MHz s; for which VMs that is known; and which hosts' links
        were wide enough for all at all times.
    """
    energy, missed = np.zeros(len(p.host_type)), np.zeros(len(p.vm_mem_mib))
    sure = np.ones(len(missed), dtype=bool)
    wide = np.ones(len(energy), dtype=bool)
    here = np.maximum(s.vm_host, 0)
    if p.has_standby:
        sure &= s.vm_secondary < 0
    if p.has_tiers and p.sig_active.shape[0]:
        sure &= False
    for k, since, until in pieces(p, start, end):
        demand = p.util[k] * p.vm_cpu_mhz
        rate = np.zeros(len(demand))
        if p.has_io:
            out, into = _own(p, p.sig_net_out, 0, k), _own(p, p.sig_net_in, 1, k)
            disk = _own(p, p.sig_disk_read, 2, k) + _own(p, p.sig_disk_write, 3, k)
            rate = (out + into) / p.vm_packet_mbit + disk / p.vm_request_mb
            wide &= _links_wide(p, s, out, into, k)
        overhead, io = claims(p, demand, rate)
        claim = demand + overhead + io
        ask = np.minimum(claim, p.vm_vcpus * p.host_core_mhz[here])
        if p.has_cpu:
            ask = np.minimum(ask, p.vm_limit_mhz)
        load = per_host(p, s.vm_host, ask) / p.host_cpu_mhz
        energy += curve_watts(p, s, load) * (until - since)
        short = load > 1.0
        sure &= ~short[here] | (not p.has_cpu)
        alloc = ask / np.maximum(load, 1.0)[here]
        work = demand * np.minimum(1.0, alloc / np.maximum(claim, 1e-300))
        if p.has_numa:
            work = work / numa_slowdowns(p, s, alloc, end)[2]
        if p.has_tiers:
            work = work / s.vm_mem_slowdown
        missed += (demand - work) * (until - since)
    return energy, missed, sure, wide


def _links_wide(p: ClusterParams, s: ClusterState, out: F8, into: F8, sample: int) -> Any:
    """Hosts on whose links all flows have what they ask for; copies there are none of."""
    sent, received = per_host(p, s.vm_host, out), per_host(p, s.vm_host, into)
    if p.has_standby:
        # What logs can ask for at most: a host that mirrors is left out when that might not fit.
        rate = np.where(s.vm_secondary >= 0, _log_bound(p, sample), 0.0)
        sent = sent + per_host(p, np.where(s.vm_secondary >= 0, s.vm_host, -1), rate)
        received = received + per_host(p, s.vm_secondary, rate)
    room = p.host_nic_mbps * (1 - 1e-6)
    return (sent <= room) & (received <= room)


def _log_bound(p: ClusterParams, sample: int) -> Any:
    dirty, read = _own(p, p.sig_dirty, 4, sample), _own(p, p.sig_disk_read, 2, sample)
    return np.where(p.mirror_mode != 0, 1.2 * (8 * read + _own(p, p.sig_net_in, 1, sample)), dirty * 8.4)
