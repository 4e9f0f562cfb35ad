"""The columns of hosts: of every cluster, and those that follow where a cluster uses the full model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit.kernels import kernel
from ..observation_columns import Column
from ..sim.models.power import (
    BOOTING,
    FAILED,
    OFF,
    ON,
    RESUMING,
    SHUTTING_DOWN,
    STANDBY,
    SUSPENDING,
    peak_watts,
)
from ..sim.state.cluster_state import ClusterState
from ..sim.state.parameters import ClusterParams
from .buffers import Buffers, ratio
from .columns import ConstantColumn, RowColumn

COUNT_SCALE = 1.0 / float(np.log1p(128.0))
MEMORY_STATE_SCALE = 0.25


@kernel
def _log_count(n: int) -> Any:
    return np.log1p(n) * COUNT_SCALE if n > 0 else 0.0


@kernel
def _is_on(p: ClusterParams, s: ClusterState, b: Buffers, h: int) -> bool:
    return bool(s.host_power_state[h] == ON)


@kernel
def _has_tiers(p: ClusterParams, s: ClusterState, b: Buffers, h: int) -> bool:
    return bool(p.has_tiers and s.host_power_state[h] == ON)


@kernel
def _has_nic(p: ClusterParams, s: ClusterState, b: Buffers, h: int) -> bool:
    return bool(p.host_nic_mbps.shape[0] > 0 and s.host_power_state[h] == ON)


@kernel
def _has_nodes(p: ClusterParams, s: ClusterState, b: Buffers, h: int) -> bool:
    return bool(p.has_numa)


@kernel
def _time_left(s: ClusterState, b: Buffers, h: int) -> Any:
    """Intervals until a transition ends."""
    changing = s.host_power_state[h] in (BOOTING, SHUTTING_DOWN, SUSPENDING, RESUMING)
    return (s.host_trans_end_s[h] - s.clock.now_s) * b.scale.interval if changing else 0.0


@kernel
def _roomiest_node(p: ClusterParams, s: ClusterState, h: int) -> Any:
    takes = p.node_cores[h] * p.numa_overcommit
    return ratio(takes - s.node_vcpus[h, : p.host_nodes[h]].min(), takes)


@kernel
def _node_spread(p: ClusterParams, s: ClusterState, h: int) -> Any:
    load = s.node_load_mhz[h, : p.host_nodes[h]]
    return ratio(load.max() - load.min(), p.node_cpu_mhz[h])


def _share_of_peak(p: ClusterParams, watts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Powers by host type as shares of the peak power of the hungriest, by host, (H,)."""
    shares: NDArray[np.float64] = watts[p.host_type] / max(float(peak_watts(p)[p.host_type].max()), 1e-9)
    return shares


def _domain(p: ClusterParams) -> Any:
    """The domain of every host in the first column that has one, as a number from 0 to 1, shape (H,)."""
    if p.host_domains.shape[1] == 0:
        return 0.0
    first = p.host_domains[:, 0]
    return (1.0 + first) / (1.0 + first.max())


HOST_COLUMNS: tuple[Column, ...] = (
    RowColumn("cpu_load", 2, "CPU asked of the host (capped demand + incoming copies) / its capacity",
        lambda p, s, b, h: s.host_ask_mhz[h] * b.inv_cpu[h]),
    RowColumn("cpu_demand", 2, "demand of its VMs, not capped by core speed / its capacity",
        lambda p, s, b, h: s.host_demand_mhz[h] * b.inv_cpu[h]),
    RowColumn("memory", 2, "configured memory of residents and incoming VMs / its memory",
        lambda p, s, b, h: s.host_mem_mib[h] * b.inv_mem[h]),
    RowColumn("nominal", 4, "nominal CPU of residents and incoming VMs / its capacity",
        lambda p, s, b, h: s.host_nominal_mhz[h] * b.inv_cpu[h]),
    RowColumn("n_vms", 1, "log(1 + residents) / log(129)", lambda p, s, b, h: _log_count(s.host_n_vms[h])),
    RowColumn("n_incoming", 1, "log(1 + VMs on their way to it) / log(129)",
        lambda p, s, b, h: _log_count(s.host_n_in[h])),
    RowColumn("is_off", 1, "1: switched off", lambda p, s, b, h: s.host_power_state[h] == OFF),
    RowColumn("is_booting", 1, "1: booting", lambda p, s, b, h: s.host_power_state[h] == BOOTING),
    RowColumn("is_on", 1, "1: on", lambda p, s, b, h: s.host_power_state[h] == ON),
    RowColumn("is_shutting_down", 1, "1: shutting down",
        lambda p, s, b, h: s.host_power_state[h] == SHUTTING_DOWN),
    RowColumn("draining", 1, "1: will switch off when its last VM has left",
        lambda p, s, b, h: s.host_drain[h] != 0),
    RowColumn("power", 1, "power now / peak power of the hungriest host type",
        lambda p, s, b, h: s.host_power_now_w[h] * b.scale.hungriest),
    RowColumn("transition", 2, "time left of a boot, shutdown, suspension or resumption / interval",
        lambda p, s, b, h: _time_left(s, b, h)),
    RowColumn("saturated", 1, "share of the last interval in which it was short of CPU",
        lambda p, s, b, h: b.host_sat_share[h]),
    RowColumn("target", 1, "1: the chosen VM may go here (0 everywhere while no VM is chosen)",
        lambda p, s, b, h: b.mask[1 + len(b.vm_host) + h], often=True),
    RowColumn("holds_chosen", 1, "1: the chosen VM runs here",
        lambda p, s, b, h: h == b.choice.host, often=True),
    RowColumn("switchable", 1, "1: its power may be toggled now",
        lambda p, s, b, h: b.mask[1 + len(b.vm_host) + len(b.inv_cpu) + h], often=True),
    ConstantColumn("capacity", 1, "its CPU / CPU of the largest host",
        lambda p: p.host_cpu_mhz / p.host_cpu_mhz.max()),
    ConstantColumn("core_speed", 1, "speed of a core / speed of the fastest core",
        lambda p: p.host_core_mhz / p.host_core_mhz.max()),
    ConstantColumn("memory_capacity", 1, "its memory / memory of the largest host",
        lambda p: p.host_mem_mib / p.host_mem_mib.max()),
    ConstantColumn("idle_power", 1, "its idle power / peak power of the hungriest host type",
        lambda p: _share_of_peak(p, p.power_w[:, 0])),
    ConstantColumn("peak_power", 1, "its peak power / peak power of the hungriest host type",
        lambda p: _share_of_peak(p, peak_watts(p))),
)  # fmt: skip
"""Columns of ``observation["hosts"]`` in a simple cluster."""

FULL_HOST_COLUMNS: tuple[Column, ...] = (
    RowColumn("is_standby", 1, "1: suspended to memory", lambda p, s, b, h: s.host_power_state[h] == STANDBY),
    RowColumn("is_suspending", 1, "1: on its way to standby",
        lambda p, s, b, h: s.host_power_state[h] == SUSPENDING),
    RowColumn("is_resuming", 1, "1: on its way from standby",
        lambda p, s, b, h: s.host_power_state[h] == RESUMING),
    RowColumn("is_failed", 1, "1: failed, and not yet repaired",
        lambda p, s, b, h: s.host_power_state[h] == FAILED),
    RowColumn("maintenance", 1, "1: takes no VM, to be emptied",
        lambda p, s, b, h: s.host_maintenance[h] != 0),
    RowColumn("spare", 1, "1: has no profile, and so cannot be switched on (failures)",
        lambda p, s, b, h: p.has_failures and s.host_profile[h] < 0),
    RowColumn("allocated", 1, "CPU allocated to its VMs / its capacity",
        lambda p, s, b, h: s.host_alloc_mhz[h] * b.inv_cpu[h], _is_on),
    RowColumn("ready", 1, "share of their time that its vCPUs are ready but not scheduled",
        lambda p, s, b, h: ratio(s.host_rates[h].ready, s.host_rates[h].vcpus), _is_on),
    RowColumn("reserved", 1, "CPU reservations of residents and incoming VMs / its capacity (CPU scheduler)",
        lambda p, s, b, h: s.host_reserved_mhz[h] * b.inv_cpu[h] if p.has_cpu else 0.0),
    RowColumn("added", 1, "CPU that hypervisor and interrupts add / its capacity (overhead, I/O)",
        lambda p, s, b, h: (s.host_rates[h].overhead + s.host_rates[h].io_cpu) * b.inv_cpu[h], _is_on),
    RowColumn("remote", 1, "remote share of its VMs' accesses, weighted by CPU allocated (NUMA)",
        lambda p, s, b, h: ratio(s.host_rates[h].remote, s.host_rates[h].alloc), _is_on),
    RowColumn("roomiest_node", 1, "free vCPUs of the node with most / what a node takes (NUMA)",
        lambda p, s, b, h: _roomiest_node(p, s, h), _has_nodes),
    RowColumn("node_spread", 1, "CPU of its most less its least loaded node / CPU of a node (NUMA)",
        lambda p, s, b, h: _node_spread(p, s, h), _has_nodes),
    RowColumn("memory_state", 1, "state high, clear, soft, hard, low as 0, 1/4 ... 1 (memory tiers)",
        lambda p, s, b, h: s.host_mem_state[h] * MEMORY_STATE_SCALE, _has_tiers),
    RowColumn("memory_free", 1, "free memory after reclamation / its memory (memory tiers)",
        lambda p, s, b, h: s.host_free_mib[h] * b.inv_mem[h], _has_tiers),
    RowColumn("memory_reserved", 1, "memory reservations of residents and incoming VMs / its memory (tiers)",
        lambda p, s, b, h: s.host_mem_reserved_mib[h] * b.inv_mem[h], _has_tiers),
    RowColumn("shared", 1, "memory saved by page sharing / its memory (memory tiers)",
        lambda p, s, b, h: s.host_rates[h].shared * b.inv_mem[h], _has_tiers),
    RowColumn("ballooned", 1, "memory in balloons / its memory (memory tiers)",
        lambda p, s, b, h: s.host_rates[h].ballooned * b.inv_mem[h], _has_tiers),
    RowColumn("compressed", 1, "memory saved by compression / its memory (memory tiers)",
        lambda p, s, b, h: s.host_rates[h].compressed * b.inv_mem[h], _has_tiers),
    RowColumn("swapped", 1, "memory swapped / its memory (memory tiers)",
        lambda p, s, b, h: s.host_rates[h].swapped * b.inv_mem[h], _has_tiers),
    RowColumn("nic_out", 1, "traffic that it sends / its line rate (VMs, copies, logs of mirrored VMs)",
        lambda p, s, b, h: ratio(b.host_out_mbps[h], p.host_nic_mbps[h]), _has_nic),
    RowColumn("nic_in", 1, "traffic that it receives / its line rate (the same)",
        lambda p, s, b, h: ratio(b.host_in_mbps[h], p.host_nic_mbps[h]), _has_nic),
    RowColumn("functions", 1, "passthrough functions in use / its functions (I/O)",
        lambda p, s, b, h: ratio(s.host_functions_used[h], p.host_functions[h]) if p.has_io else 0.0),
    RowColumn("copies", 1, "copies under way, in and out / copies that it may run at once (pre-copy)",
        lambda p, s, b, h: ratio(s.host_copies[h], p.host_slots[h]) if p.has_precopy else 0.0),
    RowColumn("mirrored", 1, "protected VMs, primaries and secondaries / their limit (hot standby)",
        lambda p, s, b, h: ratio(s.host_mirrors[h], p.mirror_max_vms) if p.has_standby else 0.0),
    RowColumn("mirror_memory", 1, "memory of secondaries / its memory (hot standby)",
        lambda p, s, b, h: s.host_mirror_mib[h] * b.inv_mem[h] if p.has_standby else 0.0),
    ConstantColumn("kept_free", 1, "1: kept free for failover (admission)",
        lambda p: p.host_dedicated if p.has_admission else 0.0),
    ConstantColumn("domain", 1, "1 + number of its first failure domain / number of domains, 0 = none",
        lambda p: _domain(p)),
    ConstantColumn("line_rate", 1, "its line rate / that of the fastest host (I/O, pre-copy, standby)",
        lambda p: p.host_nic_mbps / p.host_nic_mbps.max() if len(p.host_nic_mbps) else 0.0),
    ConstantColumn("node_cpu", 1, "CPU of one node / CPU of the largest host (NUMA)",
        lambda p: p.node_cpu_mhz / p.host_cpu_mhz.max() if p.has_numa else 0.0),
)  # fmt: skip
"""Columns that follow with the full model, whatever sub-models are on; of one that is off they are 0."""
