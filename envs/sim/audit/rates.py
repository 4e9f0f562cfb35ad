"""What everybody gets in the full model: the chain of docs §0, checked link by link.

The answers are not worked out by running the algorithms again, but held to what makes them right: allocations
to the conditions of optimality (all that is there is handed out, nobody gets less than its reservation or
more than it can use, and nobody who could give has a higher level than one who could use more), network rates
to the condition that every flow has a bottleneck, reclaimed memory to the order of the tiers and to who has
to pay. What follows by an equation is worked out again in NumPy. Memory and network are in
``checker_memory`` and ``checker_network``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ..models.power import BOOTING, ON, RESUMING, SHUTTING_DOWN, STANDBY, SUSPENDING
from ..state.accumulators import Rates
from ..state.cluster_state import MIG_COPYING, PENDING, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report, peak_watts, per_host, table_power
from .memory import check_memory
from .network import check_network, mirror_parts
from .occupancy import INIT, PULL, ROUND, stopped_vms

FAN = 2
LEVEL = 1e-7
"""Relative tolerance of a level that many VMs share: it is a quotient of sums."""


def check_rates(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """Check demand, claims, allocations, slowdowns, work, power and what hosts add to the totals.

    Args:
        s: State whose places have been checked.
        report: Where violations go.
    """
    _check_signals(p, s, report)
    _check_claims(p, s, report)
    if p.has_precopy or p.has_standby or p.has_io:
        check_network(p, s, report)
    copies = copies_mhz(p, s)
    _check_shares(p, s, copies, report)
    if p.has_numa:
        _check_numa(p, s, report)
    if p.has_tiers:
        check_memory(p, s, report)
    _check_work(p, s, report)
    _check_power(p, s, copies, report)
    _check_host_rates(p, s, report)


def _signal(p: ClusterParams, own: Any, k: int, sample: int) -> Any:
    if own.shape[0]:
        return own[sample]
    return p.drive[:, 2 * k] + p.drive[:, 2 * k + 1] * p.util[sample]


def _check_signals(p: ClusterParams, s: ClusterState, report: Report) -> None:
    """What the trace says now: demand of everybody who is there, traffic, memory in use, dirty pages."""
    sample = int(s.counters.sample)
    there = (s.vm_host >= 0) | (s.vm_state == PENDING)
    demand = np.where(there, p.util[sample] * p.vm_cpu_mhz, 0.0)
    report.same(s.vm_demand_mhz, demand, "VMs whose demand is not the trace's")

    def same(got: Any, want: Any, what: str) -> None:
        report.same(
            got[there], want[there], f"VMs whose {what} is not what trace or profile say, of those there"
        )

    if p.has_io:
        same(s.vm_net_out_ask, _signal(p, p.sig_net_out, 0, sample), "outgoing traffic")
        same(s.vm_net_in_ask, _signal(p, p.sig_net_in, 1, sample), "incoming traffic")
        disk = _signal(p, p.sig_disk_read, 2, sample) + _signal(p, p.sig_disk_write, 3, sample)
        same(s.vm_disk_mb_s, disk, "disk traffic")
    if p.has_precopy or p.has_standby:
        same(s.vm_dirty_mib_s, _signal(p, p.sig_dirty, 4, sample), "dirty rate")
    if p.has_standby:
        read, into = _signal(p, p.sig_disk_read, 2, sample), _signal(p, p.sig_net_in, 1, sample)
        _, need = mirror_parts(p, s.vm_dirty_mib_s, read, into)
        same(s.vm_mirror_need_mbps, np.where(p.vm_protected > 0, need, s.vm_mirror_need_mbps), "log")
    if p.has_tiers:
        share = p.sig_active[sample] if p.sig_active.shape[0] else p.vm_active_share
        active = np.minimum(share, 1.0) * p.vm_mem_mib
        same(s.vm_active_mib, active, "active memory")
        same(s.vm_touched_mib, np.maximum(active, p.vm_touched_share * p.vm_mem_mib), "touched memory")
        same(s.vm_touch_rate, active / (4.0 / 1024.0 * p.memory_window_s), "rate of touches")


def claims(p: ClusterParams, demand: F8, io_rate: F8) -> tuple[F8, F8]:
    """What hypervisor and interrupts add to a demand, MHz, shape (V,) each (docs §1, §5)."""
    overhead, io = np.zeros(len(demand)), np.zeros(len(demand))
    if p.has_io:
        batch_cycles, packet_cycles, _, coalesce_s = p.io_table[p.vm_io_mode].T
        batches = io_rate / np.maximum(1.0, io_rate * coalesce_s)
        io = 1e-6 * (batches * batch_cycles + io_rate * packet_cycles)
    if p.has_overhead:
        rates = p.idle_per_s[p.vm_instructions] * p.vm_vcpus[:, None]
        rates = rates + p.busy_per_ghz_s[p.vm_instructions] * (demand / 1000.0)[:, None]
        mhz = 1e-6 * rates * p.cost_cycles[p.vm_virt_type]
        if p.has_io:  # either counts the operations of class 4, and the dearer of the two is charged
            mhz, io = mhz[:, :3], np.maximum(io, mhz[:, 3])
        overhead = mhz.sum(axis=1) + p.steady_tax[p.vm_virt_type] * demand
    return overhead, io


def _check_claims(p: ClusterParams, s: ClusterState, report: Report) -> None:
    runs = (s.vm_host >= 0) & ~stopped_vms(p, s)
    rate = np.zeros(len(runs))
    if p.has_io:
        packets = (s.vm_net_out_mbps + s.vm_net_in_mbps) / p.vm_packet_mbit
        rate = np.where(runs, packets + s.vm_disk_mb_s / p.vm_request_mb, 0.0)
        report.same(s.vm_io_rate, rate, "VMs whose packets and requests do not add up")
    overhead, io = claims(p, s.vm_demand_mhz, rate)
    overhead, io = np.where(runs, overhead, 0.0), np.where(runs, io, 0.0)
    report.same(s.vm_overhead_mhz, overhead, "VMs with a wrong overhead of virtualization")
    report.same(s.vm_io_mhz, io, "VMs with a wrong cost of interrupts")
    claim = np.where(runs, s.vm_demand_mhz + overhead + io, 0.0)
    report.same(s.vm_claim_mhz, claim, "VMs whose claim is not demand and overhead")
    usable = np.minimum(claim, s.vm_cap_mhz)
    if p.has_cpu:
        usable = np.minimum(usable, p.vm_limit_mhz)
    report.same(s.vm_ask_mhz, usable, "VMs whose ask is not what they can use")


def copies_mhz(p: ClusterParams, s: ClusterState) -> F8:
    """CPU that incoming copies ask of every host, shape (H,)."""
    copied = s.vm_mig == MIG_COPYING
    asks = p.mig_dest_share * np.minimum(s.vm_demand_mhz, s.vm_cap_mhz)
    return per_host(p, np.where(copied, s.vm_dest, -1), asks)


def _check_shares(p: ClusterParams, s: ClusterState, copies: F8, report: Report) -> None:
    wanted, alloc = per_host(p, s.vm_host, s.vm_ask_mhz), per_host(p, s.vm_host, s.vm_alloc_mhz)
    report.same(
        s.host_demand_mhz, per_host(p, s.vm_host, s.vm_demand_mhz), "hosts whose demand does not add up"
    )
    report.same(s.host_wanted_mhz, wanted, "hosts whose wanted CPU does not add up")
    report.same(s.host_alloc_mhz, alloc, "hosts whose allocated CPU does not add up")
    on, capacity = s.host_power_state == ON, p.host_cpu_mhz
    asked = wanted + np.where(on, copies, 0.0)
    report.same(s.host_ask_mhz, asked, "hosts whose CPU asked does not add up")
    short = on & (s.host_ask_mhz > capacity * (1 + TOLERANCE))
    report.none((s.host_sat_now > 0) != short, "hosts wrongly short of CPU")
    scale = np.where(short, capacity / np.where(short, asked, 1.0), 1.0)
    report.same(s.host_scale, scale, "hosts with a wrong scale")
    report.none(
        (s.vm_alloc_mhz < 0) | (s.vm_alloc_mhz > s.vm_ask_mhz * (1 + TOLERANCE)), "VMs allocated too much"
    )
    report.none((s.vm_host < 0) & (s.vm_alloc_mhz != 0), "VMs allocated CPU without a host")
    if p.has_cpu:
        room = capacity - np.minimum(copies, capacity)
        for h in np.flatnonzero(s.host_n_vms > 0):
            _check_level(p, s, int(h), float(room[h]), report)
    else:
        here = s.vm_host >= 0
        fair = np.where(here, s.vm_ask_mhz * scale[np.maximum(s.vm_host, 0)], 0.0)
        report.same(s.vm_alloc_mhz, fair, "VMs without their proportional share")
    _check_parts(p, s, np.where(p.has_cpu, capacity - np.minimum(copies, capacity), capacity), wanted, report)


def _check_level(p: ClusterParams, s: ClusterState, h: int, room: float, report: Report) -> None:
    """Optimality of one host's allocations: work conserving, bounds kept, one common level."""
    vms = np.flatnonzero(s.vm_host == h)
    upper, got, shares = s.vm_ask_mhz[vms], s.vm_alloc_mhz[vms], p.vm_shares[vms]
    lower = np.minimum(p.vm_reservation_mhz[vms], upper)
    slack = 3 * TOLERANCE * max(1.0, room, float(upper.sum()))
    total, least = float(got.sum()), float(lower.sum())
    if abs(total - min(room, float(upper.sum()))) > slack:
        report.lines.append(f"host {h} hands out {total:g} of {room:g} MHz to VMs that want {upper.sum():g}")
    if least > room + slack:  # capacity was lost: all get the same part of what they were promised
        report.none(np.abs(got - lower * (room / least)) > slack, f"VMs of host {h} cut unevenly, places")
        return
    report.none(got < lower - slack, f"VMs of host {h} below their reservation, places")
    gives, takes = got > lower + slack, got < upper - slack
    if gives.any() and takes.any():
        level, poorest = float((got / shares)[gives].max()), float((got / shares)[takes].min())
        if level > poorest * (1 + LEVEL) + slack / float(shares.min()):
            report.lines.append(
                f"VMs of host {h} at different levels: {level:g} and {poorest:g} MHz per share"
            )


def _check_parts(p: ClusterParams, s: ClusterState, room: F8, wanted: F8, report: Report) -> None:
    """Where the part of a claim that is not allocated has gone, and co-stop."""
    here, h = s.vm_host >= 0, np.maximum(s.vm_host, 0)
    claim, alloc, n = s.vm_claim_mhz, s.vm_alloc_mhz, p.vm_vcpus
    parts = alloc + s.vm_ready_mhz * n + s.vm_limited_mhz + s.vm_capped_mhz
    report.same(parts, claim, "VMs whose ready, limited and capped CPU does not add up to the claim")
    limit = p.vm_limit_mhz if p.has_cpu else np.full(len(claim), np.inf)
    limited = np.maximum(0.0, claim - limit)
    report.same(s.vm_limited_mhz, limited, "VMs with a wrong part beyond their limit", claim)
    capped = np.where(here, np.maximum(0.0, np.minimum(claim, limit) - s.vm_cap_mhz), 0.0)
    report.same(s.vm_capped_mhz, capped, "VMs with a wrong part beyond their vCPUs", claim)
    ready = np.where(here, s.vm_ready_mhz / p.host_core_mhz[h], 0.0)
    report.same(s.vm_ready_share, ready, "VMs with a wrong ready share")
    report.none(
        (s.vm_ready_mhz < 0) | (s.vm_ready_share > 1 + LEVEL), "VMs ready for less or more than the time"
    )
    stop = np.zeros(len(claim))
    if p.has_cpu:
        lag = p.co_stop * np.maximum(0.0, 1.0 - room / np.maximum(wanted, 1e-300))
        stop = np.where(here, alloc * (1.0 - (1.0 - lag[h]) ** (n - 1)), 0.0)
    report.same(s.vm_co_stop_mhz, stop, "VMs with a wrong co-stop", claim)


def numa_slowdowns(p: ClusterParams, s: ClusterState, alloc: F8, now_s: float) -> tuple[F8, F8, F8]:
    """Load of every node (H, N), remote share and slowdown of every VM (V,), from allocations (section 3)."""
    nodes = s.node_load_mhz.shape[1]
    at = (s.vm_nodes[:, None] >> np.arange(nodes)) & 1 > 0
    k, h = at.sum(axis=1), np.maximum(s.vm_host, 0)
    part = np.where(at & (s.vm_host >= 0)[:, None], (alloc / np.maximum(k, 1))[:, None], 0.0)
    load = np.zeros(s.node_load_mhz.shape)
    np.add.at(load, h, part)
    over = np.maximum(0.0, 1.0 - p.node_cpu_mhz[:, None] / np.maximum(load, 1e-300))
    over[load <= p.node_cpu_mhz[:, None] * (1 + TOLERANCE)] = 0.0
    n = p.host_nodes[h]
    if p.numa_aware:
        split = np.where(p.vm_vcpus < p.numa_vnuma_min, (k - 1.0) / np.maximum(k, 1), 0.0)
        home = np.where(now_s < s.vm_pages_end_s, 0.5, split)
        elsewhere = np.where(at, over[h], 0.0).sum(axis=1) / np.maximum(k, 1)
    else:
        home, elsewhere = (n - 1.0) / n, np.zeros(len(alloc))
    remote = 1.0 - (1.0 - home) * (1.0 - elsewhere)
    remote = np.where((s.vm_host >= 0) & (k > 0) & (n > 1), remote, 0.0)
    return load, remote, 1.0 + p.vm_stall_share * remote * p.numa_extra_latency


def _check_numa(p: ClusterParams, s: ClusterState, report: Report) -> None:
    load, remote, slowdown = numa_slowdowns(p, s, s.vm_alloc_mhz, float(s.clock.now_s))
    report.same(s.node_load_mhz, load, "NUMA nodes whose load does not add up")
    report.none(np.abs(s.vm_remote_share - remote) > LEVEL, "VMs with a wrong remote share")
    report.none(np.abs(s.vm_numa_slowdown - slowdown) > LEVEL, "VMs with a wrong NUMA slowdown")
    report.none(s.vm_numa_slowdown < 1.0, "VMs that remote memory makes faster")


def _migration_factor(p: ClusterParams, s: ClusterState) -> F8:
    """Share of its work that a copy leaves a VM, shape (V,)."""
    copied = s.vm_mig == MIG_COPYING
    if not p.has_precopy:
        return np.where(copied, 1.0 - p.mig_cpu_loss, 1.0)
    factor = np.ones(len(copied))
    early = (s.copy_phase == INIT) | (s.copy_phase == ROUND)
    factor = np.where(early, (1.0 - p.copy_cpu_loss) * (1.0 - s.copy_throttle), factor)
    return np.where(s.copy_phase == PULL, 1.0 - p.copy_postcopy_loss, factor)


def _check_work(p: ClusterParams, s: ClusterState, report: Report) -> None:
    demand, claim = s.vm_demand_mhz, s.vm_claim_mhz
    done = np.minimum(1.0, (s.vm_alloc_mhz - s.vm_co_stop_mhz) / np.where(claim > 0, claim, 1.0))
    work = np.where(claim > 0, demand * done, 0.0)
    if p.has_numa:
        work = work / s.vm_numa_slowdown
    if p.has_tiers:
        work = work / s.vm_mem_slowdown
    if p.has_standby:
        loss, _ = mirror_parts(p, s.vm_dirty_mib_s, demand, demand)
        need = np.maximum(s.vm_mirror_need_mbps, 1e-300)
        keeps = (1.0 - loss) * np.minimum(1.0, s.vm_mirror_mbps / need)
        keeps = np.where(s.vm_mirror_need_mbps > 0, keeps, 1.0 - loss)
        work = np.where(s.vm_secondary >= 0, work * keeps, work)
    granted = work * _migration_factor(p, s)
    stopped = stopped_vms(p, s) & (s.vm_state == RUNNING)
    loss_to_move = np.where(stopped, np.minimum(demand, s.vm_cap_mhz), work - granted)
    report.same(s.vm_granted_mhz, granted, "VMs whose work does not follow from the chain", demand)
    report.same(s.vm_miss_mhz, demand - granted, "VMs whose granted and missed CPU is not the demand", demand)
    report.same(s.vm_mig_loss_mhz, loss_to_move, "VMs with a wrong loss to migration", demand)
    report.none(
        (s.vm_granted_mhz < 0) | (s.vm_granted_mhz > demand * (1 + TOLERANCE)), "VMs with too much work"
    )


def curve_watts(p: ClusterParams, s: ClusterState, load: F8) -> F8:
    """Power of every host if it were on at a load, W, shape (H,) (section 7)."""
    table = p.power_w[p.host_type]
    u = np.where(s.host_full_power > 0, 1.0, np.clip(load, 0.0, 1.0))
    seen = np.minimum(1.0, u * p.curve_scale[p.host_type])
    fan = 2.0 * seen - seen ** p.curve_exponent[p.host_type]
    watts = np.where(
        p.curve_kind[p.host_type] == FAN,
        table[:, 0] + (table[:, -1] - table[:, 0]) * fan,
        table_power(table, u),
    )
    return np.where(u > 0.0, watts + p.curve_busy_w[p.host_type], watts)


def _check_power(p: ClusterParams, s: ClusterState, copies: F8, report: Report) -> None:
    state, watts, capacity = s.host_power_state, s.host_power_now_w, p.host_cpu_mhz
    on = state == ON
    copied = np.minimum(copies, capacity) if p.has_cpu else copies * s.host_scale
    used = s.host_alloc_mhz + np.where(on, copied, 0.0)
    report.none(used > capacity * (1 + 3 * TOLERANCE), "hosts that give more CPU than they have")
    held_back = used < np.minimum(s.host_ask_mhz, capacity) * (1 - 3 * TOLERANCE)
    report.none(on & held_back, "hosts that hold CPU back")
    want = np.where(on, curve_watts(p, s, used / capacity), 0.0)
    want = np.where((state == BOOTING) | (state == RESUMING), p.host_boot_w, want)
    want = np.where((state == SHUTTING_DOWN) | (state == SUSPENDING), p.host_shutdown_w, want)
    want = np.where(state == STANDBY, p.standby_w, want)
    report.same(watts, want, "hosts whose power does not follow from state and load")
    low = p.power_w[p.host_type].min(axis=1) * (1 - TOLERANCE)
    high = peak_watts(p) * (1 + TOLERANCE)
    report.none(on & ((watts < low) | (watts > high)), "hosts with power outside idle..peak")


def _latency(p: ClusterParams, s: ClusterState) -> F8:
    """Mean latency of a packet or request of every VM, s, shape (V,) (section 5)."""
    rate = s.vm_io_rate
    _, _, path_s, coalesce_s = p.io_table[p.vm_io_mode].T
    batch = np.maximum(1.0, rate * coalesce_s)
    usable = s.vm_ask_mhz > 0
    f = np.where(usable, 1.0 - s.vm_alloc_mhz / np.where(usable, s.vm_ask_mhz, 1.0), 0.0)
    f = np.clip(f, 0.0, 1.0)
    wait = np.where(f < 1.0, 0.5 * f * f * p.io_slice_s / np.maximum(1.0 - f, 1e-300), np.inf)
    latency = path_s + 0.5 * (batch - 1.0) / np.maximum(rate, 1e-300) + np.minimum(wait, p.interval_s)
    return np.where(rate > 0, latency, 0.0)


def _vm_rates(p: ClusterParams, s: ClusterState) -> dict[str, F8]:
    """What every VM adds to its host's rates, by the name of the total."""
    alloc, claim, demand = s.vm_alloc_mhz, s.vm_claim_mhz, s.vm_demand_mhz
    rates = {
        "ready": s.vm_ready_share * p.vm_vcpus,
        "vcpus": np.where(s.vm_state == RUNNING, p.vm_vcpus, 0).astype(np.float64),
        "limited": s.vm_limited_mhz,
        "capped": s.vm_capped_mhz,
        "co_stop": s.vm_co_stop_mhz,
        "overhead": s.vm_overhead_mhz,
        "io_cpu": s.vm_io_mhz,
        "alloc": alloc,
    }
    work = np.where(
        claim > 0, demand * np.minimum(1.0, (alloc - s.vm_co_stop_mhz) / np.maximum(claim, 1e-300)), 0
    )
    part = np.where(claim > 0, demand / np.maximum(claim, 1e-300), 0.0)
    lost = {
        "contention": s.vm_ready_mhz * p.vm_vcpus * part,
        **{name: rates[key] * part for name, key in _SHORT.items()},
    }
    if p.has_numa:
        rates["numa_loss"] = work - work / s.vm_numa_slowdown
        rates["remote"] = s.vm_remote_share * alloc
        work = work / s.vm_numa_slowdown
    if p.has_tiers:
        rates["memory_loss"] = work - work / s.vm_mem_slowdown
        work = work / s.vm_mem_slowdown
        for tier in ("shared", "ballooned", "compressed", "swapped", "blocked"):
            rates[tier] = getattr(s, f"vm_{tier}_mib")
    if p.has_standby:
        rates["mirror_loss"] = work - s.vm_granted_mhz / np.maximum(_migration_factor(p, s), 1e-300)
        rates["mirror_loss"] = np.where(s.vm_secondary >= 0, rates["mirror_loss"], 0.0)
    if p.has_io:
        sends = s.vm_io_rate > 0
        rates["io_rate"] = s.vm_io_rate
        rates["latency"] = s.vm_io_latency_s * s.vm_io_rate
        dropped = s.vm_net_out_ask + s.vm_net_in_ask - s.vm_net_out_mbps - s.vm_net_in_mbps
        rates["net_dropped"] = np.where(sends, dropped, 0.0)
        excess = np.clip(s.vm_io_latency_s / p.vm_latency_s - 1.0, 0.0, p.latency_most)
        rates["w_latency"] = p.vm_weight * np.where(sends, excess, 0.0)
    lost |= {name: rates[f"{name}_loss"] for name in ("numa", "memory", "mirror") if f"{name}_loss" in rates}
    return rates | {f"w_{name}": p.vm_weight * mhz for name, mhz in lost.items()}


_SHORT = {"limit": "limited", "capped": "capped", "co_stop": "co_stop"}
"""What a VM misses of its CPU, beside contention, and the rate that says so of demand with overhead."""


def _check_host_rates(p: ClusterParams, s: ClusterState, report: Report) -> None:
    if p.has_io:
        report.same(s.vm_io_latency_s * 1e6, _latency(p, s) * 1e6, "VMs with a wrong latency of I/O")
    rates = _vm_rates(p, s)
    scale = 1.0 + per_host(p, s.vm_host, s.vm_demand_mhz + s.vm_claim_mhz)
    for name, place in Rates.places.items():
        want = per_host(p, s.vm_host, rates[name]) if name in rates else np.zeros(len(scale))
        got = s.host_rates[:, place.number]
        size = scale * float(p.vm_weight.max()) if name.startswith("w_") else scale
        report.same(got, want, f"hosts whose {name} does not add up", size + np.abs(want))
