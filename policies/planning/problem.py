"""A cluster, or a part of it, as a problem for solvers, with the simulator's power, prices and limits.

The limits are the simulator's own, so that what a solver plans is not refused and does not cost work: speed
of cores, CPU and memory with what is reserved of them, memory that costs work (``room``), NUMA nodes,
virtualization, CPU features and kernels, devices, placement rules. What a solver has no place for is counted
on the safe side (what is reserved), or as it is now (free passthrough functions), and asked of every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from virtgym.envs.arrays import B1, F8, I8
from virtgym.envs.jit.by_model import only_full
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.cpu import SHORTAGE
from virtgym.envs.sim.engine.orders import vm_can_follow
from virtgym.envs.sim.models.overhead import support_code
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..solvers.model import ConsolidationProblem, PlacementRules
from .moves import move_energies
from .power import boot_energy_j, power_tables


def cluster_problem(
    view: ClusterView,
    vms: I8,
    hosts: I8,
    vm_host: I8,
    fixed: I8,
    move_cost: float = 1.0,
    *,
    peak_mhz: F8 | None = None,
    need: tuple[F8, F8] | None = None,
    **more: Any,
) -> ConsolidationProblem:
    """The consolidation problem of some VMs and hosts.

    Args:
        view: The cluster.
        vms: VMs, (n,).
        hosts: Hosts, (m,).
        vm_host: Place of each VM's host, or the one that it is coming to, in ``hosts``, (n,).
        fixed: Places in ``vms`` of those that cannot move now.
        move_cost: Weight of the energy of migrations.
        peak_mhz: CPU that the cores of each VM's host must be able to give it, MHz, (n,); None = nobody asks.
        need: Memory that each VM needs, (n,), and the most of it that costs no work on a host, (m,), MiB
            (``PlanMemory.vm_need_mib``, ``need_most``); None = configured memory, up to the overcommit.
        more: Other fields of the problem, or other values.
    """
    p = view.params
    home = np.full(view.n_vms, -1, dtype=np.int32)
    home[vms] = hosts[vm_host]
    move_j = np.empty(view.n_vms)
    move_energies(view.kernel_params, view.kernel_state, home, move_j)
    vm_mem, host_mem = _memory(view, vms, hosts, need)
    fields: dict[str, Any] = {
        "vm_mem_mib": vm_mem,
        "vm_host": vm_host,
        "host_cpu_mhz": p.host_cpu_mhz[hosts],
        "host_mem_mib": host_mem,
        "host_power": p.host_type[hosts].astype(np.int64),
        "power_w": power_tables(p),
        "vm_move_j": move_cost * move_j[vms],
        "host_switch_j": boot_energy_j(p)[hosts],
        "rules": _rules(view, vms, hosts, vm_host, fixed, peak_mhz),
    }
    fields |= more
    share = float(fields.get("cpu_share", 1.0))
    if p.has_cpu and "vm_cpu_mhz" in fields:  # what is reserved fits too, whatever is asked for
        fields["vm_cpu_mhz"] = np.maximum(fields["vm_cpu_mhz"], share * p.vm_reservation_mhz[vms])
    if p.has_numa:
        fields = _nodes(view, vms, hosts, fields.get("vm_cpu_mhz"), share) | fields
    return ConsolidationProblem(**fields)


def _nodes(view: ClusterView, vms: I8, hosts: I8, cpu_mhz: F8 | None, share: float) -> dict[str, Any]:
    """What VMs take of nodes: vCPUs; where homes are aware, MHz, so that remote memory takes nothing either.

    A VM that asks for more than a node has, and yet is at home on one, takes all of it.
    """
    p = view.params
    exists = np.arange(view.state.node_vcpus.shape[1]) < p.host_nodes[hosts, None]
    room, own = p.node_cores[hosts] * p.numa_overcommit, p.vm_vcpus[vms].astype(np.float64)
    if cpu_mhz is not None and p.numa_aware:
        node = share * p.node_cpu_mhz[hosts]
        own *= float((node / room).max(initial=0.0))
        own = np.maximum(own, np.minimum(cpu_mhz, node.min(initial=np.inf)))
        room = node
    return {
        "vm_node_cpu": own,
        "vm_node_mem": p.vm_mem_mib[vms],
        "node_cpu": np.where(exists, room[:, None], 0.0),
        "node_mem": np.where(exists, p.node_mem_mib[hosts, None], 0.0),
    }


def _memory(view: ClusterView, vms: I8, hosts: I8, need: tuple[F8, F8] | None) -> tuple[F8, F8]:
    """Memory of VMs and hosts, such that what fits meets every limit that memory has."""
    p = view.params
    own = p.vm_mem_mib[vms]
    if not p.memory_binding:
        return own, np.full(len(hosts), np.inf)
    if need is None or not p.has_tiers:
        return own, p.host_mem_mib[hosts] * p.mem_overcommit
    most = np.maximum(need[1], 0.0)
    share = float((most / p.host_mem_mib[hosts]).max(initial=0.0))
    sizes = (need[0], own * share / p.mem_overcommit, p.vm_mem_reservation_mib[vms] * share)
    return np.maximum.reduce(sizes), most


@only_full
@kernel
def _strike_unsuited(p: ClusterParams, s: ClusterState, vms: I8, hosts: I8, free: B1, suits: Any) -> None:
    """Strike out hosts that a VM may not run on, whatever room they have."""
    for i in range(vms.shape[0]):
        v = vms[i]
        if not free[i]:
            continue
        for j in range(hosts.shape[0]):
            ok = vm_can_follow(p, s, v, hosts[j]) == 0
            if ok and p.host_virt_types.shape[0] > 0:
                ok = support_code(p, v, hosts[j]) == 0
            if ok and p.has_io and p.vm_functions[v] > 0 and hosts[j] != s.vm_host[v]:
                ok = s.host_functions_used[hosts[j]] + p.vm_functions[v] <= p.host_functions[hosts[j]]
            suits[i, j] = suits[i, j] and ok


def _suited(
    view: ClusterView, vms: I8, hosts: I8, vm_host: I8, free: B1, peak_mhz: F8 | None
) -> list[tuple[list[int], list[int]]]:
    """Hosts that VMs which may move must run on, by groups of VMs with the same hosts."""
    p = view.params
    peak = np.zeros(len(vms)) if peak_mhz is None else peak_mhz / p.vm_vcpus[vms]
    core = np.minimum(peak, p.host_core_mhz[hosts].max(initial=0.0))
    core = np.minimum(core, p.host_core_mhz[hosts[vm_host]])  # where they are is fast enough
    suits = core[:, None] <= p.host_core_mhz[hosts] * SHORTAGE
    _strike_unsuited(view.kernel_params, view.kernel_state, vms, hosts, free, suits)
    nowhere = ~suits.any(axis=1)
    suits[nowhere, vm_host[nowhere]] = True
    groups: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(free & ~suits.all(axis=1)).tolist():
        groups.setdefault(suits[i].tobytes(), []).append(i)
    return [(group, np.flatnonzero(suits[group[0]]).tolist()) for group in groups.values()]


def _rules(
    view: ClusterView, vms: I8, hosts: I8, vm_host: I8, fixed: I8, peak_mhz: F8 | None
) -> PlacementRules:
    """The cluster's rules, and what hosts suit VMs, by the problem's numbers.

    VMs that cannot move now stay, whatever that breaks; wishes (``should``) that are kept now are kept.
    """
    rules: Rules = view.config.rules
    free = np.ones(len(vms), dtype=np.bool_)
    free[fixed] = False
    vm_at = {int(v): i for i, v in enumerate(vms)}
    host_at = {int(h): i for i, h in enumerate(hosts)}
    stay = set(fixed.tolist())

    def groups(of: Sequence[Sequence[int]]) -> list[list[int]]:
        known = [[vm_at[v] for v in members if v in vm_at] for members in of]
        return [group for group in known if len(group) > 1]

    must: list[tuple[list[int], list[int]]] = [([i], [int(vm_host[i])]) for i in sorted(stay)]
    for rule in rules.must:
        movable = [vm_at[v] for v in rule.vms if v in vm_at and vm_at[v] not in stay]
        if movable:
            must.append((movable, [host_at[h] for h in rule.hosts if h in host_at]))
    for rule in rules.should:
        wished = [host_at[h] for h in rule.hosts if h in host_at]
        kept = [vm_at[v] for v in rule.vms if v in vm_at and int(vm_host[vm_at[v]]) in wished]
        if kept:
            must.append((kept, wished))
    must += _suited(view, vms, hosts, vm_host, free, peak_mhz)
    # What is split now cannot be kept together by a plan that may not break more than staying does.
    whole = [group for group in groups(rules.joined) if len({int(vm_host[i]) for i in group}) == 1]
    return PlacementRules(whole, groups(rules.anti_affinity), must)
