"""What the full model adds to an observation: the columns ``FULL_*_COLUMNS``, written by one kernel.

Nothing here is compiled for a simple cluster. Columns of a sub-model that is off stay 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit.by_model import by_model
from ..jit.kernels import kernel
from ..observation_columns import (
    FULL_HOST_COLUMNS,
    FULL_VM_COLUMNS,
    GLOBAL_COLUMNS,
    HOST_COLUMNS,
    VM_COLUMNS,
)
from ..sim.engine.segments import fragments_now
from ..sim.models.carbon import carbon_now
from ..sim.models.power import ON
from ..sim.models.power_states import FAILED, RESUMING, STANDBY, SUSPENDING
from ..sim.models.precopy import INIT, PULL, RESUME, ROUND, STOP
from ..sim.models.precopy_config import MBIT_PER_MIB
from ..sim.state.cluster_state import (
    ABSENT,
    DEPARTED,
    MIG_COPYING,
    MIG_WAITING,
    PENDING,
    STARTING,
    ClusterState,
)
from ..sim.state.parameters import ClusterParams

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]

HOST_FROM, VM_FROM, GLOBAL_FROM = len(HOST_COLUMNS), len(VM_COLUMNS), len(GLOBAL_COLUMNS)
HOST_STATIC = [column.name for column in FULL_HOST_COLUMNS].index("line_rate")
VM_STATIC = [column.name for column in FULL_VM_COLUMNS].index("protected")
MEMORY_STATE_SCALE = 0.25
MOST_SENT = 4.0
LATENCY_SCALE = 1.0 / float(np.log1p(1e6))


@kernel
def _clip(x: float, high: float) -> Any:
    return min(max(x, 0.0), high)


@kernel
def _ratio(part: float, whole: float, high: float) -> float:
    """A share, clipped; 0 of nothing."""
    return float(_clip(part / whole, high)) if whole > 0.0 else 0.0


@kernel
def _add_up_traffic(p: ClusterParams, s: ClusterState, out: F8, into: F8) -> None:
    """What every NIC carries: traffic of VMs, copies and the logs of mirrored VMs, Mbit/s."""
    out[:] = 0.0
    into[:] = 0.0
    for v in range(s.vm_host.shape[0] if p.has_io else 0):
        h = s.vm_host[v]
        if h >= 0:
            out[h] += s.vm_net_out_mbps[v]
            into[h] += s.vm_net_in_mbps[v]
    for i in range(s.counters.moving if p.has_precopy else 0):
        v = s.copy_list[i]
        a, b = s.vm_host[v], s.vm_dest[v]
        if s.copy_phase[v] == PULL:
            a, b = b, a
        out[a] += s.copy_rate_mib_s[v] * MBIT_PER_MIB
        into[b] += s.copy_rate_mib_s[v] * MBIT_PER_MIB
    if p.has_standby:
        for v in p.protected_vms:
            if s.vm_secondary[v] >= 0 and s.vm_host[v] >= 0:
                out[s.vm_host[v]] += s.vm_mirror_mbps[v]
                into[s.vm_secondary[v]] += s.vm_mirror_mbps[v]


@kernel
def _write_nodes(p: ClusterParams, s: ClusterState, h: int, row: F4) -> None:
    """NUMA columns of a host."""
    takes = p.node_cores[h] * p.numa_overcommit
    n = p.host_nodes[h]
    row[11] = _ratio(takes - s.node_vcpus[h, :n].min(), takes, 1.0)
    row[12] = _ratio(s.node_load_mhz[h, :n].max() - s.node_load_mhz[h, :n].min(), p.node_cpu_mhz[h], 1.0)


@kernel
def _write_memory(p: ClusterParams, s: ClusterState, h: int, inv_mem: float, row: F4) -> None:
    """Columns of a host's memory tiers."""
    row[13] = s.host_mem_state[h] * MEMORY_STATE_SCALE
    row[14] = _clip(s.host_free_mib[h] * inv_mem, 1.0)
    row[15] = _clip(s.host_mem_reserved_mib[h] * inv_mem, 1.0)
    row[16] = _clip(s.host_rates[h].shared * inv_mem, 1.0)
    row[17] = _clip(s.host_rates[h].ballooned * inv_mem, 1.0)
    row[18] = _clip(s.host_rates[h].compressed * inv_mem, 1.0)
    row[19] = _clip(s.host_rates[h].swapped * inv_mem, 1.0)


@kernel
def _write_host(p: ClusterParams, s: ClusterState, b: Any, h: int, row: F4) -> None:
    state = s.host_power_state[h]
    row[:HOST_STATIC] = 0.0
    row[0] = 1.0 if state == STANDBY else 0.0
    row[1] = 1.0 if state == SUSPENDING else 0.0
    row[2] = 1.0 if state == RESUMING else 0.0
    row[3] = 1.0 if state == FAILED else 0.0
    row[4] = 1.0 if s.host_maintenance[h] else 0.0
    row[5] = 1.0 if p.has_failures and s.host_profile[h] < 0 else 0.0
    if p.has_cpu:
        row[8] = _clip(s.host_reserved_mhz[h] * b.inv_cpu[h], 1.0)
    if p.has_io:
        row[22] = _ratio(s.host_functions_used[h], p.host_functions[h], 1.0)
    if p.has_precopy:
        row[23] = _ratio(s.host_copies[h], p.host_slots[h], 1.0)
    if p.has_standby:
        row[24] = _ratio(s.host_mirrors[h], p.mirror_max_vms, 1.0)
        row[25] = _clip(s.host_mirror_mib[h] * b.inv_mem[h], 1.0)
    if p.has_numa:
        _write_nodes(p, s, h, row)
    if state != ON:
        return
    rates = s.host_rates[h]
    row[6] = _clip(s.host_alloc_mhz[h] * b.inv_cpu[h], 1.0)
    row[7] = _ratio(rates.ready, rates.vcpus, 1.0)
    row[9] = _clip((rates.overhead + rates.io_cpu) * b.inv_cpu[h], 1.0)
    row[10] = _ratio(rates.remote, rates.alloc, 1.0)
    if p.has_tiers:
        _write_memory(p, s, h, b.inv_mem[h], row)
    if p.host_nic_mbps.shape[0] > 0:
        row[20] = _ratio(b.host_out_mbps[h], p.host_nic_mbps[h], 1.0)
        row[21] = _ratio(b.host_in_mbps[h], p.host_nic_mbps[h], 1.0)


@kernel
def _write_vm_memory(p: ClusterParams, s: ClusterState, v: int, row: F4) -> None:
    inv = 1.0 / p.vm_mem_mib[v]
    row[12] = _clip(1.0 - 1.0 / s.vm_mem_slowdown[v], 1.0)
    row[13] = _clip(s.vm_active_mib[v] * inv, 1.0)
    row[14] = _clip(s.vm_resident_mib[v] * inv, 1.0)
    row[15] = _clip(s.vm_ballooned_mib[v] * inv, 1.0)
    row[16] = _clip(s.vm_compressed_mib[v] * inv, 1.0)
    row[17] = _clip(s.vm_swapped_mib[v] * inv, 1.0)


@kernel
def _write_vm_network(p: ClusterParams, s: ClusterState, v: int, row: F4) -> None:
    """Columns of a VM's I/O, migration and mirroring."""
    line = p.host_nic_mbps[s.vm_host[v]]
    if p.has_io:
        asked = s.vm_net_out_ask[v] + s.vm_net_in_ask[v]
        got = s.vm_net_out_mbps[v] + s.vm_net_in_mbps[v]
        row[18] = _ratio(got, 2.0 * line, 1.0)
        row[19] = _ratio(asked - got, asked, 1.0)
        if s.vm_io_rate[v] > 0.0:
            row[20] = _clip(np.log1p(1e6 * s.vm_io_latency_s[v]) * LATENCY_SCALE, 1.0)
    if p.has_precopy or p.has_standby:
        row[21] = _ratio(s.vm_dirty_mib_s[v] * MBIT_PER_MIB, line, 2.0)
    if p.has_precopy and s.vm_mig[v] == MIG_COPYING:
        phase = s.copy_phase[v]
        row[23] = 1.0 if phase in (INIT, ROUND) else 0.0
        row[24] = 1.0 if phase in (STOP, RESUME) else 0.0
        row[25] = 1.0 if phase == PULL else 0.0
        row[26] = _ratio(s.copy_sent_mib[v], MOST_SENT * p.vm_mem_mib[v], 1.0)
        row[27] = _ratio(s.copy_rate_mib_s[v] * MBIT_PER_MIB, line, 1.0)
    if p.has_standby and s.vm_secondary[v] >= 0:
        row[28] = 1.0
        row[29] = _ratio(s.vm_mirror_mbps[v], s.vm_mirror_need_mbps[v], 1.0)


@kernel
def _write_vm(p: ClusterParams, s: ClusterState, v: int, inv_nominal: float, row: F4) -> None:
    row[:VM_STATIC] = 0.0
    state = s.vm_state[v]
    if state in (ABSENT, DEPARTED):
        return
    row[0] = 1.0 if state == STARTING else 0.0
    if p.has_failures and state == PENDING:
        row[1] = 1.0 if s.vm_restart[v] == 1 else 0.0
        row[2] = 1.0 if s.vm_restart[v] == 2 else 0.0
    row[3] = 1.0 if s.vm_down_now[v] else 0.0
    row[22] = 1.0 if s.vm_mig[v] == MIG_WAITING else 0.0
    if s.vm_host[v] < 0:
        return
    row[4] = _clip(s.vm_alloc_mhz[v] * inv_nominal, 1.0)
    row[5] = _clip(s.vm_ready_share[v], 1.0)
    row[6] = _clip(s.vm_limited_mhz[v] * inv_nominal, 1.0)
    row[7] = _clip(s.vm_capped_mhz[v] * inv_nominal, 1.0)
    row[8] = _clip(s.vm_co_stop_mhz[v] * inv_nominal, 1.0)
    row[9] = _clip((s.vm_overhead_mhz[v] + s.vm_io_mhz[v]) * inv_nominal, 1.0)
    if p.has_numa:
        row[10] = _clip(s.vm_remote_share[v], 1.0)
        row[11] = _clip(1.0 - 1.0 / s.vm_numa_slowdown[v], 1.0)
    if p.has_tiers:
        _write_vm_memory(p, s, v, row)
    if p.host_nic_mbps.shape[0] > 0:
        _write_vm_network(p, s, v, row)


@kernel
def _write_totals(p: ClusterParams, s: ClusterState, b: Any, row: F4) -> None:
    """Global columns that are sums over hosts that are on."""
    ready, vcpus, free, swapped, memory, traffic, line = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for h in range(p.host_type.shape[0]):
        if s.host_power_state[h] != ON:
            continue
        ready += s.host_rates[h].ready
        vcpus += s.host_rates[h].vcpus
        memory += p.host_mem_mib[h]
        if p.has_tiers:
            free += s.host_free_mib[h]
            swapped += s.host_rates[h].swapped
        if p.host_nic_mbps.shape[0] > 0:
            traffic += b.host_out_mbps[h] + b.host_in_mbps[h]
            line += 2.0 * p.host_nic_mbps[h]
    row[9] = _ratio(ready, vcpus, 1.0)
    row[10] = _ratio(free, memory, 1.0)
    row[11] = _ratio(swapped, memory, 1.0)
    row[12] = _ratio(traffic, line, 1.0)


@kernel
def _write_globals(p: ClusterParams, s: ClusterState, b: Any, row: F4) -> None:
    n_hosts, n_vms = p.host_type.shape[0], p.vm_vcpus.shape[0]
    row[:] = 0.0
    for h in range(n_hosts):
        row[0] += s.host_power_state[h] == STANDBY
        row[1] += s.host_power_state[h] == FAILED
        row[2] += s.host_maintenance[h]
        row[3] += p.has_failures and s.host_profile[h] < 0
    row[:4] /= n_hosts
    for v in range(n_vms):
        row[4] += s.vm_state[v] == STARTING
        row[5] += p.has_failures and s.vm_state[v] == PENDING and s.vm_restart[v] > 0
    row[6] = s.counters.down
    row[7] = s.counters.moving
    if p.has_standby:
        for v in p.protected_vms:
            there = s.vm_state[v] != ABSENT and s.vm_state[v] != DEPARTED
            row[8] += there and s.vm_secondary[v] < 0
    row[4:9] /= n_vms
    _write_totals(p, s, b, row)
    row[13] = fragments_now(p, s)
    if p.carbon_g_kwh.shape[0] > 0:
        row[14] = _ratio(carbon_now(p, s.clock.now_s), p.carbon_g_kwh.max(), 1.0)


@kernel
def _write_nothing(p: ClusterParams, s: ClusterState, b: Any) -> None:
    """A simple cluster has no more columns."""


@kernel
def _write_full(p: ClusterParams, s: ClusterState, b: Any) -> None:
    if p.host_nic_mbps.shape[0] > 0:
        _add_up_traffic(p, s, b.host_out_mbps, b.host_in_mbps)
    for h in range(p.host_type.shape[0]):
        _write_host(p, s, b, h, b.hosts[h, HOST_FROM:])
    for v in range(p.vm_vcpus.shape[0]):
        _write_vm(p, s, v, b.inv_nominal[v], b.vms[v, VM_FROM:])
    _write_globals(p, s, b, b.globals[GLOBAL_FROM:])


write_full_columns = by_model(_write_nothing, _write_full)
"""``write_full_columns(p, s, b)``: write the columns that follow those of a simple cluster.

Args: parameters, state, and the observer's buffers (see ``observations.Buffers``).
"""


def static_host_columns(p: ClusterParams, largest_mhz: float) -> F8:
    """Constant columns of the hosts, shape (H, 2).

    Args:
        p: Parameters.
        largest_mhz: CPU of the largest host, MHz.
    """
    columns = np.zeros((len(p.host_type), len(FULL_HOST_COLUMNS) - HOST_STATIC))
    if len(p.host_nic_mbps):
        columns[:, 0] = p.host_nic_mbps / p.host_nic_mbps.max()
    if p.has_numa:
        columns[:, 1] = p.node_cpu_mhz / largest_mhz
    return columns


def static_vm_columns(p: ClusterParams) -> F8:
    """Constant columns of the VMs, shape (V, 9)."""
    columns = np.zeros((len(p.vm_vcpus), len(FULL_VM_COLUMNS) - VM_STATIC))
    if p.has_standby:
        columns[:, 0] = p.vm_protected
    if p.has_io:
        columns[:, 1] = p.vm_pinned
    if p.has_failures and len(p.vm_priority):
        low, high = int(p.vm_priority.min()), int(p.vm_priority.max())
        columns[:, 2] = (p.vm_priority - low) / max(1, high - low)
    if p.has_cpu:
        columns[:, 3] = np.minimum(1.0, p.vm_reservation_mhz / p.vm_cpu_mhz)
        columns[:, 4] = np.minimum(1.0, p.vm_limit_mhz / p.vm_cpu_mhz)
        each = p.vm_shares / p.vm_vcpus
        columns[:, 5] = each / each.max()
    if p.has_numa:
        columns[:, 6] = p.vm_stall_share
    if p.has_tiers:
        columns[:, 7] = np.minimum(1.0, p.vm_mem_reservation_mib / p.vm_mem_mib)
    if p.has_precopy:
        columns[:, 8] = np.minimum(1.0, p.vm_working_mib / p.vm_mem_mib)
    return columns
