"""Secondaries of protected VMs inside the simulator: their room on a second host, and who takes over (§9)."""

from __future__ import annotations

from typing import Any

from ...jit.kernels import kernel, of_records
from ..decisions import Reasons
from ..models.numa_nodes import add_to_nodes, choose_nodes
from ..models.power import ON
from ..state.cluster_state import MIG_NONE, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from .host_requirements import check_suits, fits_memory, fits_nominal, lacks_features
from .hub import renew_hosts

MIRROR_REASONS = Reasons({0: "it may"})
"""Why a host may not hold the secondary of a VM."""

NOT_OPEN = MIRROR_REASONS.add("the host is not on, or about to be switched off, or in maintenance")
OWN_HOST = MIRROR_REASONS.add("the VM runs on this host")
SAME_DOMAIN = MIRROR_REASONS.add("the host shares a failure domain with the VM's host")
FULL_OF_VMS = MIRROR_REASONS.add("too many protected VMs on the host")
FULL_OF_VCPUS = MIRROR_REASONS.add("too many protected vCPUs on the host")
NO_MEMORY = MIRROR_REASONS.add("the host lacks memory")
NO_CPU = MIRROR_REASONS.add("the host lacks CPU")
SOURCE_FULL = MIRROR_REASONS.add(
    "too many protected VMs or vCPUs on the VM's own host, so that no other host will do"
)
CANNOT_RUN = MIRROR_REASONS.add(
    "the VM itself could not run there, as it has to once the secondary takes over"
)


@kernel
def check_mirror(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a host may hold the secondary of a running VM that has none.

    Args:
        v: VM.
        h: Host.

    Returns:
        0, or a code of ``MIRROR_REASONS``, the first that holds.
    """
    source = s.vm_host[v]
    if s.host_power_state[h] != ON or s.host_drain[h] or s.host_maintenance[h]:
        return NOT_OPEN
    if h == source:
        return OWN_HOST
    for d in range(p.host_domains.shape[1]):
        if p.host_domains[h, d] >= 0 and p.host_domains[h, d] == p.host_domains[source, d]:
            return SAME_DOMAIN
    most_vms, most_vcpus = p.mirror_max_vms, p.mirror_max_vcpus
    if s.host_mirrors[source] >= most_vms or s.host_mirror_vcpus[source] + p.vm_vcpus[v] > most_vcpus:
        return SOURCE_FULL
    if s.host_mirrors[h] >= most_vms:
        return FULL_OF_VMS
    if s.host_mirror_vcpus[h] + p.vm_vcpus[v] > most_vcpus:
        return FULL_OF_VCPUS
    if not fits_memory(p, s, v, h):
        return NO_MEMORY
    if not fits_nominal(p, s, v, h):
        return NO_CPU
    return CANNOT_RUN if lacks_features(p, s, v, h) or check_suits(p, s, v, h) != 0 else 0


@kernel
def _count(p: ClusterParams, s: ClusterState, v: int, h: int, sign: int) -> None:
    s.host_mirrors[h] += sign
    s.host_mirror_vcpus[h] += sign * p.vm_vcpus[v]


@kernel
def _hold(p: ClusterParams, s: ClusterState, v: int, h: int, sign: float) -> None:
    """Room of a secondary: its memory and its CPU, reserved again, and the functions that it will need."""
    s.host_mirror_mib[h] += sign * p.vm_mem_mib[v]
    s.host_mem_mib[h] += sign * p.vm_mem_mib[v]
    s.host_nominal_mhz[h] += sign * p.vm_cpu_mhz[v]
    if p.has_cpu:
        s.host_reserved_mhz[h] += sign * p.vm_reservation_mhz[v]
    if p.has_tiers:
        s.host_mem_reserved_mib[h] += sign * p.vm_mem_reservation_mib[v]
    if p.has_io:
        s.host_functions_used[h] += int(sign) * p.vm_functions[v]
    if p.has_numa:
        add_to_nodes(p, s, v, h, s.vm_mirror_nodes[v], sign)


@kernel
def protect(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """Start the secondary of a VM on the first host that may hold it, if there is one (first fit).

    It takes room there, and counts against the limits of both hosts of the pair.
    """
    if p.vm_protected[v] == 0 or s.vm_secondary[v] >= 0:
        return
    if s.vm_state[v] != RUNNING or s.vm_mig[v] != MIG_NONE:
        return
    for h in range(s.host_head.shape[0]):
        code = check_mirror(p, s, v, h)
        if code == SOURCE_FULL:  # no other host will do
            return
        if code == 0:
            s.vm_secondary[v] = h
            _count(p, s, v, h, 1)
            _count(p, s, v, s.vm_host[v], 1)
            if p.has_numa:
                s.vm_mirror_nodes[v] = choose_nodes(p, s, v, h)
            _hold(p, s, v, h, 1.0)
            renew_hosts(p, s, s.vm_host[v], h, elapsed_s)
            return


@kernel
def protect_all(p: ClusterParams, s: ClusterState, elapsed_s: float) -> None:
    """Start what secondaries are missing."""
    for v in p.protected_vms:
        protect(p, s, v, elapsed_s)


@of_records
@kernel
def drop_secondary(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """End a VM's secondary, while ``vm_host`` still says where the primary is (or was); -1 = it had none.

    Returns:
        The host that held it: its rates are to be worked out again.
    """
    h = s.vm_secondary[v]
    if h >= 0:
        s.vm_secondary[v] = -1
        s.vm_mirror_mbps[v] = 0.0
        _count(p, s, v, h, -1)
        if s.vm_host[v] >= 0:
            _count(p, s, v, s.vm_host[v], -1)
        _hold(p, s, v, h, -1.0)
        s.vm_mirror_nodes[v] = 0
        if s.host_n_vms[h] + s.host_n_in[h] == 0 and s.host_mirrors[h] == 0:
            s.host_mirror_mib[h] = 0.0
            s.host_mem_mib[h] = 0.0
            s.host_nominal_mhz[h] = 0.0
            if p.has_cpu:
                s.host_reserved_mhz[h] = 0.0
            if p.has_tiers:
                s.host_mem_reserved_mib[h] = 0.0
            if p.has_numa:
                s.node_vcpus[h, :] = 0.0
                s.node_used_mib[h, :] = 0.0
    return h
