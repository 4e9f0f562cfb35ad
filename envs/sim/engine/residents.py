"""Who is where: the lists of residents and of incoming VMs of every host, and the room that they take.

The only code that writes these lists. Room is what placement counts, not what is used: configured memory,
nominal CPU and, in the full model, CPU reservations, NUMA nodes and passthrough functions.
"""

from __future__ import annotations

import numpy as np

from ...jit.by_model import by_model, nothing, only_full
from ...jit.kernels import kernel, of_records
from ..models.numa_nodes import add_to_nodes, arrive_on_nodes, choose_nodes, reserve_nodes
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold
from .cpu import recount_host, refresh_host, set_vm_rates
from .hub import renew_hosts


@kernel
def append_resident(s: ClusterState, v: int, h: int) -> None:
    """Put a VM at the end of a host's list of residents."""
    tail = s.host_tail[h]
    s.vm_prev[v] = tail
    s.vm_next[v] = -1
    if tail >= 0:
        s.vm_next[tail] = v
    else:
        s.host_head[h] = v
    s.host_tail[h] = v
    s.host_n_vms[h] += 1


@kernel
def remove_resident(s: ClusterState, v: int, h: int) -> None:
    """Take a VM out of a host's list of residents."""
    before, after = s.vm_prev[v], s.vm_next[v]
    if before >= 0:
        s.vm_next[before] = after
    else:
        s.host_head[h] = after
    if after >= 0:
        s.vm_prev[after] = before
    else:
        s.host_tail[h] = before
    s.vm_next[v] = -1
    s.vm_prev[v] = -1
    s.host_n_vms[h] -= 1


@kernel
def append_incoming(s: ClusterState, v: int, h: int) -> None:
    """Put a VM into the list of those that come to a host."""
    head = s.host_in_head[h]
    s.vm_in_next[v] = head
    s.vm_in_prev[v] = -1
    if head >= 0:
        s.vm_in_prev[head] = v
    s.host_in_head[h] = v
    s.host_n_in[h] += 1


@kernel
def remove_incoming(s: ClusterState, v: int, h: int) -> None:
    """Take a VM out of that list."""
    before, after = s.vm_in_prev[v], s.vm_in_next[v]
    if before >= 0:
        s.vm_in_next[before] = after
    else:
        s.host_in_head[h] = after
    if after >= 0:
        s.vm_in_prev[after] = before
    s.vm_in_next[v] = -1
    s.vm_in_prev[v] = -1
    s.host_n_in[h] -= 1


@of_records
@kernel
def count_room(p: ClusterParams, s: ClusterState, v: int, h: int, sign: float) -> None:
    """Add a VM's room (but for NUMA nodes) to a host's sums, or take it off."""
    s.host_mem_mib[h] += sign * p.vm_mem_mib[v]
    s.host_nominal_mhz[h] += sign * p.vm_cpu_mhz[v]
    if p.has_cpu:
        s.host_reserved_mhz[h] += sign * p.vm_reservation_mhz[v]
    if p.has_tiers:
        s.host_mem_reserved_mib[h] += sign * p.vm_mem_reservation_mib[v]
    if p.has_io:
        s.host_functions_used[h] += np.int32(sign) * p.vm_functions[v]


@kernel
def _add_room(p: ClusterParams, s: ClusterState, v: int, h: int, sign: float) -> None:
    count_room(p, s, v, h, sign)
    if s.host_n_vms[h] + s.host_n_in[h] == 0:  # an empty host holds exactly nothing
        s.host_mem_mib[h] = 0.0
        s.host_nominal_mhz[h] = 0.0
        _recount_secondaries(p, s, h)


@only_full
@kernel
def _recount_secondaries(p: ClusterParams, s: ClusterState, h: int) -> None:
    """Add up the room on a host that holds no VM and awaits none: what is left are secondaries, if any."""
    memory, nominal, reserved, reserved_mib = 0.0, 0.0, 0.0, 0.0
    if p.has_standby:
        for v in p.protected_vms:
            if s.vm_secondary[v] == h:
                memory += p.vm_mem_mib[v]
                nominal += p.vm_cpu_mhz[v]
                reserved += p.vm_reservation_mhz[v] if p.has_cpu else 0.0
                reserved_mib += p.vm_mem_reservation_mib[v] if p.has_tiers else 0.0
    s.host_mem_mib[h] = memory
    s.host_nominal_mhz[h] = nominal
    if p.has_cpu:
        s.host_reserved_mhz[h] = reserved
    if p.has_tiers:
        s.host_mem_reserved_mib[h] = reserved_mib


@kernel
def _recount_mirror_nodes(p: ClusterParams, s: ClusterState, h: int) -> None:
    """Add up what secondaries hold on the nodes of such a host."""
    s.node_vcpus[h, :] = 0.0
    s.node_used_mib[h, :] = 0.0
    if p.has_standby:
        for v in p.protected_vms:
            if s.vm_secondary[v] == h:
                add_to_nodes(p, s, v, h, s.vm_mirror_nodes[v], 1.0)


@only_full
@kernel
def _take_nodes(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    if p.has_numa:
        reserve_nodes(p, s, v, h, choose_nodes(p, s, v, h))


@only_full
@kernel
def _free_nodes(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Nodes on the host where the VM is (its home nodes), or on the one that it was coming to."""
    if p.has_numa:
        home = s.vm_host[v] == h
        add_to_nodes(p, s, v, h, s.vm_nodes[v] if home else s.vm_dest_nodes[v], -1.0)
        if home:
            s.vm_nodes[v] = 0
        else:
            s.vm_dest_nodes[v] = 0
        if s.host_n_vms[h] + s.host_n_in[h] == 0:
            _recount_mirror_nodes(p, s, h)


@only_full
@kernel
def _arrive_on_nodes(p: ClusterParams, s: ClusterState, v: int) -> None:
    if p.has_numa:
        arrive_on_nodes(s, v)


@of_records
@kernel
def take_room(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Count a VM's room on a host that it comes to."""
    _add_room(p, s, v, h, 1.0)
    _take_nodes(p, s, v, h)


@kernel
def free_room(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Give back the room of a VM that has left both lists of a host.

    ``vm_host`` must still say whether it was at home there.
    """
    _add_room(p, s, v, h, -1.0)
    _free_nodes(p, s, v, h)


@kernel
def settle(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Make a VM, whose room on a host is counted, a resident of it."""
    append_resident(s, v, h)
    hold(s, v, 1.0)
    s.vm_host[v] = h
    s.vm_cap_mhz[v] = p.vm_vcpus[v] * p.host_core_mhz[h]
    s.vm_ask_mhz[v] = min(s.vm_demand_mhz[v], s.vm_cap_mhz[v])
    hold(s, v, -1.0)
    _arrive_on_nodes(p, s, v)


@kernel
def _touch_simple(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    recount_host(p, s, h)
    refresh_host(p, s, h, elapsed_s)


@kernel
def _touch_full(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    renew_hosts(p, s, h, -1, elapsed_s)


@kernel
def _touch_two_simple(p: ClusterParams, s: ClusterState, a: int, b: int, elapsed_s: float) -> None:
    _touch_simple(p, s, a, elapsed_s)
    _touch_simple(p, s, b, elapsed_s)


touch = by_model(_touch_simple, _touch_full)
"""``touch(p, s, h, elapsed_s)``: work out the rates of a host on which something happened."""

touch_two = by_model(_touch_two_simple, renew_hosts)
"""``touch_two(p, s, a, b, elapsed_s)``: the same of two hosts."""

settle_rates = by_model(set_vm_rates, nothing)
"""``settle_rates(p, s, v, elapsed_s)``: what a VM gets on its host, once the host has been touched; the full
model has rated it with its host."""
