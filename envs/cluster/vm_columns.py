"""The columns of VMs: of every cluster, and those that follow where a cluster uses the full model.

Those of a VM that is not there (not arrived, or gone) are 0, but for the constant ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit.kernels import kernel
from ..observation_columns import Column
from ..sim.models.precopy import INIT, MBIT_PER_MIB, PULL, RESUME, ROUND, STOP
from ..sim.state.cluster_state import (
    ABSENT,
    DEPARTED,
    MIG_COPYING,
    MIG_NONE,
    MIG_WAITING,
    PENDING,
    RUNNING,
    STARTING,
    ClusterState,
)
from ..sim.state.parameters import ClusterParams
from .buffers import Buffers, ratio
from .columns import ConstantColumn, RowColumn

DAY_S = 86_400.0
THRASH_INTERVALS = 12.0
MOST_SENT = 4.0
LATENCY_SCALE = 1.0 / float(np.log1p(1e6))


@kernel
def _is_there(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return s.vm_state[v] not in (ABSENT, DEPARTED)


@kernel
def _has_host(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(_is_there(p, s, b, v) and s.vm_host[v] >= 0)


@kernel
def _has_nodes(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.has_numa and _has_host(p, s, b, v))


@kernel
def _has_tiers(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.has_tiers and _has_host(p, s, b, v))


@kernel
def _has_nic(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.host_nic_mbps.shape[0] > 0 and _has_host(p, s, b, v))


@kernel
def _has_io(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.has_io and _has_nic(p, s, b, v))


@kernel
def _is_copied(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.has_precopy and s.vm_mig[v] == MIG_COPYING and _has_nic(p, s, b, v))


@kernel
def _is_mirrored(p: ClusterParams, s: ClusterState, b: Buffers, v: int) -> bool:
    return bool(p.has_standby and s.vm_secondary[v] >= 0 and _has_nic(p, s, b, v))


@kernel
def _restart_state(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """Of a VM that is down after a failure: 1, nobody has noticed; 2, it waits; else 0."""
    return s.vm_restart[v] if p.has_failures and s.vm_state[v] == PENDING else 0


@kernel
def _time_of_copy(s: ClusterState, b: Buffers, v: int) -> Any:
    """Intervals until the copy of a VM ends."""
    copying = s.vm_mig[v] == MIG_COPYING
    return (s.vm_mig_end_s[v] - s.clock.now_s) * b.scale.interval if copying else 0.0


@kernel
def _asked_mbps(s: ClusterState, v: int) -> Any:
    return s.vm_net_out_ask[v] + s.vm_net_in_ask[v]


@kernel
def _got_mbps(s: ClusterState, v: int) -> Any:
    return s.vm_net_out_mbps[v] + s.vm_net_in_mbps[v]


@kernel
def _log_latency(s: ClusterState, v: int) -> Any:
    return np.log1p(1e6 * s.vm_io_latency_s[v]) * LATENCY_SCALE if s.vm_io_rate[v] > 0.0 else 0.0


def _ranked(p: ClusterParams) -> Any:
    """Restart priorities as ranks 0...1."""
    if not (p.has_failures and len(p.vm_priority)):
        return 0.0
    low, high = int(p.vm_priority.min()), int(p.vm_priority.max())
    return (p.vm_priority - low) / max(1, high - low)


def _share_of_most(p: ClusterParams) -> Any:
    if not p.has_cpu:
        return 0.0
    each = p.vm_shares / p.vm_vcpus
    return each / each.max()


def _apart(p: ClusterParams) -> Any:
    """Number of every VM's first anti-affinity group as a number from 0 to 1, shape (V,)."""
    if not (p.has_rules and len(p.anti_of)):
        return 0.0
    first, last = p.anti_first[:-1], p.anti_first[1:]
    group = p.anti_of[np.minimum(first, len(p.anti_of) - 1)]
    return np.where(last > first, (1.0 + group) / (len(p.apart_first) - 1), 0.0)


def _closed(p: ClusterParams) -> Any:
    """Share of the hosts that rules close to every VM, shape (V,)."""
    if not (p.has_rules and len(p.host_sets)):
        return 0.0
    return np.where(p.must_row >= 0, 1.0 - p.host_sets.mean(axis=1)[p.must_row], 0.0)


VM_COLUMNS: tuple[Column, ...] = (
    RowColumn("running", 1, "1: runs on a host", lambda p, s, b, v: s.vm_state[v] == RUNNING),
    RowColumn("waiting", 1, "1: has arrived and has no host", lambda p, s, b, v: s.vm_state[v] == PENDING),
    RowColumn("migrating", 1, "1: a migration is ordered or under way",
        lambda p, s, b, v: s.vm_mig[v] != MIG_NONE, _is_there),
    RowColumn("copy_left", 2, "time left of the copy / interval",
        lambda p, s, b, v: _time_of_copy(s, b, v), _is_there),
    RowColumn("demand", 1, "CPU demand / nominal CPU",
        lambda p, s, b, v: s.vm_demand_mhz[v] * b.inv_nominal[v], _is_there),
    RowColumn(
        "recent_demand", 1,
        "exponentially weighted mean of demand / nominal CPU (newest interval: 0.2)",
        lambda p, s, b, v: b.vm_recent[v], _is_there,
    ),
    RowColumn("granted", 1, "CPU that does its work / nominal CPU",
        lambda p, s, b, v: s.vm_granted_mhz[v] * b.inv_nominal[v], _has_host),
    RowColumn("missed", 1, "unserved share of what it demanded in the last interval",
        lambda p, s, b, v: b.vm_miss_share[v], _is_there),
    RowColumn("demand_size", 1, "CPU demand / CPU of the largest host",
        lambda p, s, b, v: s.vm_demand_mhz[v] * b.scale.largest, _is_there),
    RowColumn("age", 1, "time since arrival / 24 h",
        lambda p, s, b, v: (s.clock.now_s - p.vm_arrival_s[v]) / DAY_S, _is_there),
    RowColumn(
        "moved", 1, "1 right after a migration was ordered, falling to 0 in 12 intervals",
        lambda p, s, b, v: (
            1.0 - (s.clock.now_s - s.vm_last_move_s[v]) * b.scale.interval / THRASH_INTERVALS
        ),
        _is_there,
    ),
    RowColumn("movable", 1, "1: may be chosen now (some host may take it)",
        lambda p, s, b, v: b.mask[1 + v], often=True),
    RowColumn("chosen", 1, "1: is the chosen VM", lambda p, s, b, v: v == b.choice.vm, often=True),
    RowColumn("host_load", 2, "cpu_load of its host",
        lambda p, s, b, v: s.host_ask_mhz[s.vm_host[v]] * b.inv_cpu[s.vm_host[v]], _has_host),
    RowColumn("host_memory", 2, "memory of its host",
        lambda p, s, b, v: s.host_mem_mib[s.vm_host[v]] * b.inv_mem[s.vm_host[v]], _has_host),
    RowColumn("host_saturated", 1, "saturated of its host",
        lambda p, s, b, v: b.host_sat_share[s.vm_host[v]], _has_host),
    RowColumn("host_share", 2, "what it asks for / capacity of its host",
        lambda p, s, b, v: s.vm_ask_mhz[v] * b.inv_cpu[s.vm_host[v]], _has_host),
    ConstantColumn("nominal_size", 1, "nominal CPU / CPU of the largest host",
        lambda p: p.vm_cpu_mhz / p.host_cpu_mhz.max()),
    ConstantColumn("memory_size", 1, "memory / memory of the largest host",
        lambda p: p.vm_mem_mib / p.host_mem_mib.max()),
    ConstantColumn("class_weight", 1, "weight of its service class / the largest weight",
        lambda p: p.vm_weight / p.vm_weight.max()),
)  # fmt: skip
"""Columns of ``observation["vms"]`` in a simple cluster."""

FULL_VM_COLUMNS: tuple[Column, ...] = (
    RowColumn("starting", 1, "1: boots on its host after a failure",
        lambda p, s, b, v: s.vm_state[v] == STARTING),
    RowColumn("failed", 1, "1: down after a failure that nobody has noticed yet (failures)",
        lambda p, s, b, v: _restart_state(p, s, v) == 1),
    RowColumn("restarting", 1, "1: down after a failure, and waits for a host (failures)",
        lambda p, s, b, v: _restart_state(p, s, v) == 2),
    RowColumn("down", 1, "1: has arrived and does not run now",
        lambda p, s, b, v: s.vm_down_now[v] != 0, _is_there),
    RowColumn("allocated", 1, "CPU allocated / nominal CPU",
        lambda p, s, b, v: s.vm_alloc_mhz[v] * b.inv_nominal[v], _has_host),
    RowColumn("ready", 1, "share of its time that a vCPU is ready but not scheduled",
        lambda p, s, b, v: s.vm_ready_share[v], _has_host),
    RowColumn("limited", 1, "demand beyond its limit / nominal CPU (CPU scheduler)",
        lambda p, s, b, v: s.vm_limited_mhz[v] * b.inv_nominal[v], _has_host),
    RowColumn("capped", 1, "demand beyond what its vCPUs can do on this host / nominal CPU",
        lambda p, s, b, v: s.vm_capped_mhz[v] * b.inv_nominal[v], _has_host),
    RowColumn("co_stop", 1, "CPU lost to co-scheduling / nominal CPU (CPU scheduler)",
        lambda p, s, b, v: s.vm_co_stop_mhz[v] * b.inv_nominal[v], _has_host),
    RowColumn("added", 1, "CPU that hypervisor and interrupts add / nominal CPU (overhead, I/O)",
        lambda p, s, b, v: (s.vm_overhead_mhz[v] + s.vm_io_mhz[v]) * b.inv_nominal[v], _has_host),
    RowColumn("remote", 1, "remote share of its memory accesses (NUMA)",
        lambda p, s, b, v: s.vm_remote_share[v], _has_nodes),
    RowColumn("numa_loss", 1, "share of its work lost to remote memory (NUMA)",
        lambda p, s, b, v: 1.0 - 1.0 / s.vm_numa_slowdown[v], _has_nodes),
    RowColumn("memory_loss", 1, "share of its work lost to reclaimed memory (memory tiers)",
        lambda p, s, b, v: 1.0 - 1.0 / s.vm_mem_slowdown[v], _has_tiers),
    RowColumn("active", 1, "memory in use now / configured memory (memory tiers)",
        lambda p, s, b, v: s.vm_active_mib[v] * (1.0 / p.vm_mem_mib[v]), _has_tiers),
    RowColumn("resident", 1, "memory that it holds / configured memory (memory tiers)",
        lambda p, s, b, v: s.vm_resident_mib[v] * (1.0 / p.vm_mem_mib[v]), _has_tiers),
    RowColumn("ballooned", 1, "memory in its balloon / configured memory (memory tiers)",
        lambda p, s, b, v: s.vm_ballooned_mib[v] * (1.0 / p.vm_mem_mib[v]), _has_tiers),
    RowColumn("compressed", 1, "memory saved by compression / configured memory (memory tiers)",
        lambda p, s, b, v: s.vm_compressed_mib[v] * (1.0 / p.vm_mem_mib[v]), _has_tiers),
    RowColumn("swapped", 1, "memory swapped / configured memory (memory tiers)",
        lambda p, s, b, v: s.vm_swapped_mib[v] * (1.0 / p.vm_mem_mib[v]), _has_tiers),
    RowColumn("net", 1, "traffic that it sends and receives / twice the line rate of its host (I/O)",
        lambda p, s, b, v: ratio(_got_mbps(s, v), 2.0 * p.host_nic_mbps[s.vm_host[v]]), _has_io),
    RowColumn("net_dropped", 1, "share of its traffic that the NIC does not let through (I/O)",
        lambda p, s, b, v: ratio(_asked_mbps(s, v) - _got_mbps(s, v), _asked_mbps(s, v)), _has_io),
    RowColumn("io_latency", 1, "log(1 + latency of a packet or disk request / us) / log(1 + 1e6) (I/O)",
        lambda p, s, b, v: _log_latency(s, v), _has_io),
    RowColumn(
        "dirty", 2, "rate at which it dirties memory / line rate of its host (pre-copy, hot standby)",
        lambda p, s, b, v: (
            ratio(s.vm_dirty_mib_s[v] * MBIT_PER_MIB, p.host_nic_mbps[s.vm_host[v]])
            if p.has_precopy or p.has_standby
            else 0.0
        ),
        _has_nic,
    ),
    RowColumn("copy_waits", 1, "1: its migration waits for the host to be on, or for a copy to end",
        lambda p, s, b, v: s.vm_mig[v] == MIG_WAITING, _is_there),
    RowColumn("copy_rounds", 1, "1: its copy is prepared or under way while it runs (pre-copy)",
        lambda p, s, b, v: s.copy_phase[v] in (INIT, ROUND), _is_copied),
    RowColumn("copy_stopped", 1, "1: stopped by its migration (pre-copy)",
        lambda p, s, b, v: s.copy_phase[v] in (STOP, RESUME), _is_copied),
    RowColumn("copy_pull", 1, "1: runs on the new host, memory follows (post-copy)",
        lambda p, s, b, v: s.copy_phase[v] == PULL, _is_copied),
    RowColumn("copy_sent", 1, "memory sent / configured memory / 4 (pre-copy)",
        lambda p, s, b, v: ratio(s.copy_sent_mib[v], MOST_SENT * p.vm_mem_mib[v]), _is_copied),
    RowColumn(
        "copy_rate", 1, "rate of the copy / line rate of its host (pre-copy)",
        lambda p, s, b, v: ratio(s.copy_rate_mib_s[v] * MBIT_PER_MIB, p.host_nic_mbps[s.vm_host[v]]),
        _is_copied,
    ),
    RowColumn("has_secondary", 1, "1: a secondary is ready to take over (hot standby)",
        lambda p, s, b, v: True, _is_mirrored),
    RowColumn("log_share", 1, "share of the logging traffic it needs that it gets (hot standby)",
        lambda p, s, b, v: ratio(s.vm_mirror_mbps[v], s.vm_mirror_need_mbps[v]), _is_mirrored),
    ConstantColumn("protected", 1, "1: is to have a secondary (hot standby)",
        lambda p: p.vm_protected if p.has_standby else 0.0),
    ConstantColumn("together", 1, "1 + number of its affinity group / number of groups, 0 = none (rules)",
        lambda p: (1.0 + p.aff) / max(1, len(p.aff_first) - 1) if p.has_rules else 0.0),
    ConstantColumn("apart", 1, "the same of its first anti-affinity group (rules)", _apart),
    ConstantColumn("closed", 1, "share of the hosts that it must not run on (rules)", _closed),
    ConstantColumn("pinned", 1, "1: has a device that cannot migrate (I/O)",
        lambda p: p.vm_pinned if p.has_io else 0.0),
    ConstantColumn("priority", 1, "restart priority, from the lowest 0 to the highest 1 (failures)", _ranked),
    ConstantColumn("reservation", 1, "CPU reservation / nominal CPU (CPU scheduler)",
        lambda p: p.vm_reservation_mhz / p.vm_cpu_mhz if p.has_cpu else 0.0),
    ConstantColumn("limit", 1, "CPU limit / nominal CPU, 1 = none (CPU scheduler)",
        lambda p: p.vm_limit_mhz / p.vm_cpu_mhz if p.has_cpu else 0.0),
    ConstantColumn("shares", 1, "shares per vCPU / those of the VM that has most (CPU scheduler)",
        _share_of_most),
    ConstantColumn("stalls", 1, "share of its time that waits for memory (NUMA)",
        lambda p: p.vm_stall_share if p.has_numa else 0.0),
    ConstantColumn("memory_reservation", 1, "memory reservation / configured memory (memory tiers)",
        lambda p: p.vm_mem_reservation_mib / p.vm_mem_mib if p.has_tiers else 0.0),
    ConstantColumn("working_set", 1, "writable working set / configured memory (pre-copy)",
        lambda p: p.vm_working_mib / p.vm_mem_mib if p.has_precopy else 0.0),
)  # fmt: skip
"""Columns that follow with the full model; those about a host's doing are 0 for a VM without a host."""
