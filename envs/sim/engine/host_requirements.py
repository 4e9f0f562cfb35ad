"""What a host must offer a VM, whether the VM itself is to run there or its secondary."""

from __future__ import annotations

from typing import Any

from ...jit.kernels import kernel, of_records
from ..decisions import LACKS_FUNCTIONS, LACKS_RESERVED_CPU, LACKS_RESERVED_MEMORY, NO_NODE
from ..models.numa_nodes import ROOM, choose_nodes, count_bits
from ..models.overhead import support_code
from ..models.scheduling import admits
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams

MEM_SLACK = ROOM
"""Sums of memory and CPU are floats: this much above capacity still fits."""


@of_records
@kernel
def fits_memory(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether configured memory has room for a VM on a host."""
    return s.host_mem_mib[h] + p.vm_mem_mib[v] <= p.host_mem_mib[h] * p.mem_overcommit * MEM_SLACK


@kernel
def fits_nominal(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether nominal CPU has room for a VM on a host."""
    return s.host_nominal_mhz[h] + p.vm_cpu_mhz[v] <= p.host_cpu_mhz[h] * p.arrival_overcommit * MEM_SLACK


@kernel
def check_suits(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """What a host of the full model must offer: type of virtualization, room for reservations, devices."""
    if p.host_virt_types.shape[0] > 0:
        code = support_code(p, v, h)
        if code != 0:
            return code
    if p.has_cpu and not admits(s.host_reserved_mhz[h], p.host_cpu_mhz[h], p.vm_reservation_mhz[v]):
        return LACKS_RESERVED_CPU
    if p.has_tiers:
        reserved, most = s.host_mem_reserved_mib[h], p.host_mem_mib[h]
        if not admits(reserved, most, p.vm_mem_reservation_mib[v]):
            return LACKS_RESERVED_MEMORY
    if p.has_io and s.host_functions_used[h] + p.vm_functions[v] > p.host_functions[h]:
        return LACKS_FUNCTIONS
    return NO_NODE if p.has_numa and choose_nodes(p, s, v, h) == 0 else 0


@kernel
def is_split(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a VM that fits on a host would have memory on nodes where it does not run, whatever its load.

    So is one that no node of an aware host can hold and whose guest does not see its nodes. On blind hosts
    all are, and none is to be preferred.
    """
    if not p.has_numa or p.numa_aware == 0 or p.vm_vcpus[v] >= p.numa_vnuma_min:
        return False
    return count_bits(choose_nodes(p, s, v, h)) > 1


@kernel
def lacks_features(p: ClusterParams, s: ClusterState, v: int, h: int) -> bool:
    """Whether a host lacks CPU features that a VM sees."""
    return bool(p.host_features.shape[0] > 0 and (s.vm_baseline[v] & ~p.host_features[h]) != 0)
