"""What the trace or a VM's profile says that a VM does besides using CPU: network, disk, dirty pages, memory.

Each signal is the trace's own where it has one, else idle + busy * utilisation of the VM's profile. Like
demand it is constant from sample to sample.
"""

from __future__ import annotations

from typing import Any

from ...arrays import F8
from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ..models.memory import PAGE_MIB
from ..models.standby import mirror_need_mbps
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams

NET_OUT, NET_IN, DISK_READ, DISK_WRITE, DIRTY = 0, 1, 2, 3, 4


@kernel
def _signal(p: ClusterParams, own: F8, k: int, sample: int, v: int, utilisation: float) -> Any:
    if own.shape[0] > 0:
        return own[sample, v]
    return p.drive[v, 2 * k] + p.drive[v, 2 * k + 1] * utilisation


@kernel
def _drive_io(p: ClusterParams, s: ClusterState, v: int, sample: int, u: float) -> None:
    s.vm_net_out_ask[v] = _signal(p, p.sig_net_out, NET_OUT, sample, v, u)
    s.vm_net_in_ask[v] = _signal(p, p.sig_net_in, NET_IN, sample, v, u)
    read = _signal(p, p.sig_disk_read, DISK_READ, sample, v, u)
    s.vm_disk_read_mb_s[v] = read
    s.vm_disk_mb_s[v] = read + _signal(p, p.sig_disk_write, DISK_WRITE, sample, v, u)


@kernel
def _drive_memory(p: ClusterParams, s: ClusterState, v: int, sample: int) -> None:
    share = p.sig_active[sample, v] if p.sig_active.shape[0] > 0 else p.vm_active_share[v]
    active = min(1.0, share) * p.vm_mem_mib[v]
    s.vm_active_mib[v] = active
    s.vm_touched_mib[v] = max(active, p.vm_touched_share[v] * p.vm_mem_mib[v])
    s.vm_touch_rate[v] = active / (PAGE_MIB * p.memory_window_s)


@only_full
@kernel
def drive_vm(p: ClusterParams, s: ClusterState, v: int) -> None:
    """Read the signals of a VM at the present sample."""
    sample = s.counters.sample
    u = p.util[sample, v]
    if p.has_io:
        _drive_io(p, s, v, sample, u)
    if p.has_tiers:
        _drive_memory(p, s, v, sample)
    if p.has_precopy or p.has_standby:
        s.vm_dirty_mib_s[v] = _signal(p, p.sig_dirty, DIRTY, sample, v, u)
    if p.has_standby and p.vm_protected[v]:
        read = _signal(p, p.sig_disk_read, DISK_READ, sample, v, u)
        into = _signal(p, p.sig_net_in, NET_IN, sample, v, u)
        s.vm_mirror_need_mbps[v] = mirror_need_mbps(p, s.vm_dirty_mib_s[v], read, into)


@kernel
def drive_all(p: ClusterParams, s: ClusterState) -> None:
    """Read the signals of every VM at the present sample."""
    if p.has_io == 0 and p.has_tiers == 0 and p.has_precopy == 0 and p.has_standby == 0:
        return
    for v in range(s.vm_state.shape[0]):
        drive_vm(p, s, v)
