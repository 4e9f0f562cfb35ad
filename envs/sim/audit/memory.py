"""Memory multiplexing, checked: nothing lost, tiers in order and no more than needed, the right VMs pay.

    touched = resident + shared + ballooned + compressed + swapped + blocked           for every VM
    physical = free + others + sum resident                                            for every host

Each tier takes what the one before left over, up to its threshold or all that it can. Of what is taken beyond
sharing, nobody pays whose price P (f + k (1 - f)) / S is below that of one who could pay more (section 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..state.cluster_state import MIG_COPYING, ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report, per_host

HIGH, CLEAR, SOFT, HARD, LOW = range(5)
NEAR = 1e-7
"""Relative tolerance of prices, which are quotients, and of distances from a threshold: on it, either side is
right."""


def min_free(memory_mib: float) -> float:
    """minFree of a host: 6, 4, 2 % of its first 4, next 8, next 16 GiB, scaled to 899 MiB; 1 % above."""
    steps = [(4096.0, 0.06), (8192.0, 0.04), (16384.0, 0.02)]
    kept, left = 0.0, memory_mib
    for size, share in steps:
        kept += share * min(size, left)
        left = max(0.0, left - size)
    return kept * 899.0 / sum(size * share for size, share in steps) + 0.01 * left


def check_memory(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Check where the memory of every host and VM is, and what it costs.

    Args:
        s: State whose places have been checked.
        report: Where violations go.
    """
    here = s.vm_host >= 0
    tiers = (s.vm_shared_mib, s.vm_ballooned_mib, s.vm_compressed_mib, s.vm_swapped_mib, s.vm_blocked_mib)
    gone = sum(tiers)
    touched = np.where(here, s.vm_touched_mib, 0.0)
    report.same(s.vm_resident_mib + gone, touched, "VMs whose memory is lost or doubled", p.vm_mem_mib)
    for amount in (s.vm_resident_mib, *tiers):
        report.none(amount < 0, "VMs with less than no memory somewhere")
    reserved = np.minimum(p.vm_mem_reservation_mib, touched)
    left = touched - (gone - s.vm_blocked_mib)
    report.none(
        left < reserved - TOLERANCE * np.maximum(1.0, p.vm_mem_mib), "VMs reclaimed below their reservation"
    )
    report.none(s.vm_mem_slowdown < 1.0, "VMs that reclaiming makes faster")
    copies = per_host(p, np.where(s.vm_mig == MIG_COPYING, s.vm_dest, -1), s.vm_touched_mib)
    other = copies + s.host_mirror_mib if p.has_standby else copies
    free = p.host_mem_mib - other - per_host(p, s.vm_host, s.vm_resident_mib)
    known = (s.host_n_vms + s.host_n_in > 0) | (s.host_free_mib != 0.0)
    if p.has_standby:
        known |= s.host_mirrors > 0
    report.none(
        known & (np.abs(s.host_free_mib - free) > TOLERANCE * p.host_mem_mib), "hosts with wrong free memory"
    )
    over = (s.host_free_mib < -TOLERANCE * p.host_mem_mib) & (other <= p.host_mem_mib)
    report.none(over, "hosts with more resident memory than they have")
    report.none((s.host_n_vms == 0) & (s.host_mem_state != HIGH), "empty hosts under pressure")
    for h in np.flatnonzero(s.host_n_vms > 0):
        _check_host(p, s, int(h), float(other[h]), report)
    _check_slowdown(p, s, here, report)


def _check_host(p: ClusterParams, s: ClusterState, h: int, other: float, report: Report) -> None:
    vms = np.flatnonzero(s.vm_host == h)
    size = float(p.host_mem_mib[h])
    keep, slack = min_free(size), NEAR * size
    touched = s.vm_touched_mib[vms]
    free = size - other - float(touched.sum())
    if free >= keep:  # no pressure: nothing happens
        calm = s.vm_resident_mib[vms] == touched
        report.none(
            ~calm | (s.vm_mem_slowdown[vms] != 1.0), f"VMs of host {h} slowed without pressure, places"
        )
        if free > keep + slack:
            report.equal(int(s.host_mem_state[h]), HIGH, f"memory state of host {h}")
        return
    soft, hard, low, k = p.memory_soft, p.memory_hard, p.memory_low, p.memory_idle_cost
    sharing, balloon = p.memory_sharing, p.memory_balloon_limit
    compression, per_saved = p.memory_compression_limit, p.memory_pages_per_saved
    can_share = _shareable(p, s, vms) if sharing else np.zeros(len(vms))
    held = touched - s.vm_shared_mib[vms]
    _check_amount(s.vm_shared_mib[vms], can_share, keep - free, slack, f"sharing on host {h}", report)
    part = min(1.0, (keep - free) / max(float(can_share.sum()), 1e-300))
    report.none(
        np.abs(s.vm_shared_mib[vms] - can_share * part) > slack, f"VMs of host {h} sharing unevenly, places"
    )
    free += float(s.vm_shared_mib[vms].sum())
    states, active = {CLEAR}, np.minimum(s.vm_active_mib[vms], held)
    reserved, mem = p.vm_mem_reservation_mib[vms], p.vm_mem_mib[vms]
    for name, level, tier, amounts, limit in (
        ("ballooning", soft, SOFT, s.vm_ballooned_mib, balloon * mem * p.vm_balloon_driver[vms]),
        ("compression", hard, HARD, s.vm_compressed_mib, compression * mem),
        ("swapping", hard, HARD, s.vm_swapped_mib, mem),
    ):
        if amounts is s.vm_compressed_mib:
            limit = np.minimum(limit, held / per_saved)
        taken = amounts[vms]
        floor = np.minimum(held, np.maximum(reserved, held - limit))
        need = level * keep - free
        states = _after(states, need, tier, slack)
        what = f"{name} on host {h}"
        _check_amount(taken, held - floor, need, slack, what, report)
        active = np.minimum(active, held)
        _check_payers(p.vm_mem_shares[vms], taken, (held, floor, active), (k, slack), what, report)
        held, free = held - taken, free + float(taken.sum())
    states = _after(states, low * keep - free, LOW, slack)
    if int(s.host_mem_state[h]) not in states:
        report.equal(int(s.host_mem_state[h]), min(states), f"memory state of host {h}")
    part = min(1.0, max(0.0, -free) / max(float(held.sum()), 1e-300))
    report.none(
        np.abs(s.vm_blocked_mib[vms] - held * part) > slack, f"VMs of host {h} wrongly blocked, places"
    )


def _after(states: set[int], need: float, tier: int, slack: float) -> set[int]:
    """States that a host may be in after a tier: on a threshold, to the last digit, both names are right."""
    if need > slack:
        return {tier}
    return states | {tier} if need > -slack else states


def _check_amount(taken: F8, can: F8, need: float, slack: float, what: str, report: Report) -> None:
    """A tier takes what is needed, or all that it can, and nothing where nothing is needed."""
    want = min(max(0.0, need), float(can.sum()))
    if abs(float(taken.sum()) - want) > slack:
        report.lines.append(f"{what}: {float(taken.sum()):g} MiB taken, expected {want:g}")
    report.none(taken > can + slack, f"{what}: VMs that give more than they can, places")


def _price(held: F8, active: F8, shares: F8, k: float) -> F8:
    """P (f + k (1 - f)) / S with f = active / P."""
    return np.where(held > active, active + k * (held - active), held) / shares


def _check_payers(
    shares: F8,
    taken: F8,
    bounds: tuple[F8, F8, F8],
    tax: tuple[float, float],
    what: str,
    report: Report,
) -> None:
    """Nobody has paid who is cheaper now than one who could pay more."""
    k, slack = tax
    held, floor, active = bounds
    price = _price(held - taken, active, shares, k)
    paid, could = taken > slack, held - taken > floor + slack
    if paid.any() and could.any():
        least, most = float(price[paid].min()), float(price[could].max())
        if most > least + NEAR * max(most, 1e-300) + slack * k / float(shares.min()):
            report.lines.append(f"{what}: the wrong VMs pay, {least:g} and {most:g} MiB per share")


def _shareable(p: ClusterParams, s: ClusterState, vms: Any) -> F8:
    """What VMs of one host can share: zero pages, and copies within a domain but the largest holder's."""
    touched, domain = s.vm_touched_mib[vms], p.vm_domain[vms]
    copies = p.vm_dup_share[vms] * touched
    can = p.vm_zero_share[vms] * touched
    for d in np.unique(domain[domain >= 0]):
        mine = domain == d
        total = float(copies[mine].sum())
        if total > 0:
            can[mine] += copies[mine] * (1.0 - float(copies[mine].max()) / total)
    least: F8 = np.minimum(can, touched - np.minimum(p.vm_mem_reservation_mib[vms], touched))
    return least


def _check_slowdown(p: ClusterParams, s: ClusterState, here: Any, report: Report) -> None:
    per_saved = p.memory_pages_per_saved
    share_s, unzip_s, swap_s = p.memory_share_s, p.memory_decompress_s, p.memory_swap_s
    tax_min, tax_max = p.memory_balloon_cpu_min, p.memory_balloon_cpu_max
    touched, shared, ballooned = s.vm_touched_mib, s.vm_shared_mib, s.vm_ballooned_mib
    given = touched - shared - ballooned
    some, kept = np.maximum(touched, 1e-300), np.maximum(given, 1e-300)
    seconds = shared / some * share_s + s.vm_blocked_mib / some * swap_s
    pages = np.minimum(s.vm_compressed_mib * per_saved, given - s.vm_swapped_mib)
    seconds = seconds + np.where(given > 0, pages / kept * unzip_s + s.vm_swapped_mib / kept * swap_s, 0.0)
    inflated = ballooned > TOLERANCE
    active = np.minimum(s.vm_active_mib, touched - shared)
    paged = np.maximum(0.0, active - given) / np.maximum(active, 1e-300)
    seconds = seconds + np.where(inflated & (active > 0), paged * swap_s, 0.0)
    part = ballooned / np.maximum(p.vm_mem_mib, 1e-300)
    beyond = tax_min + (tax_max - tax_min) * (part - 0.125) / 0.375
    tax = np.where(inflated, np.where(part < 0.125, tax_min * part / 0.125, beyond), 0.0)
    want = np.where(here & (touched > 0), 1.0 + s.vm_touch_rate * seconds + tax, 1.0)
    report.none(np.abs(s.vm_mem_slowdown - want) > NEAR * want, "VMs with a wrong slowdown of memory")
