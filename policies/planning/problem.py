"""A cluster, or a part of it, as a problem for solvers, with the simulator's power, prices and rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.simulator import ClusterView

from ..solvers.model import ConsolidationProblem, PlacementRules
from .moves import move_energies
from .power import boot_energy_j, power_tables


def cluster_problem(
    view: ClusterView, vms: I8, hosts: I8, vm_host: I8, fixed: I8, move_cost: float = 1.0, **more: Any
) -> ConsolidationProblem:
    """The consolidation problem of some VMs and hosts.

    Args:
        view: The cluster.
        vms: VMs, (n,).
        hosts: Hosts, (m,).
        vm_host: Place of each VM's host, or the one that it is coming to, in ``hosts``, (n,).
        fixed: Places in ``vms`` of those that cannot move now.
        move_cost: Weight of the energy of migrations.
        more: Other fields of the problem, or other values.
    """
    p = view.params
    home = np.full(view.n_vms, -1, dtype=np.int32)
    home[vms] = hosts[vm_host]
    move_j = np.empty(view.n_vms)
    move_energies(view.kernel_params, view.kernel_state, home, move_j)
    memory = p.host_mem_mib[hosts] * p.mem_overcommit if p.memory_binding else np.full(len(hosts), np.inf)
    nodes: dict[str, Any] = {}
    if p.has_numa:
        exists = np.arange(view.state.node_vcpus.shape[1]) < p.host_nodes[hosts, None]
        nodes = {
            "vm_node_cpu": p.vm_vcpus[vms].astype(np.float64),
            "vm_node_mem": p.vm_mem_mib[vms],
            "node_cpu": np.where(exists, (p.node_cores * p.numa_overcommit)[hosts, None], 0.0),
            "node_mem": np.where(exists, p.node_mem_mib[hosts, None], 0.0),
        }
    fields = {
        "vm_mem_mib": p.vm_mem_mib[vms],
        "vm_host": vm_host,
        "host_cpu_mhz": p.host_cpu_mhz[hosts],
        "host_mem_mib": memory,
        "host_power": p.host_type[hosts].astype(np.int64),
        "power_w": power_tables(p),
        "vm_move_j": move_cost * move_j[vms],
        "host_switch_j": boot_energy_j(p)[hosts],
        "rules": _rules(view.config.rules, vms, hosts, vm_host, fixed),
    }
    return ConsolidationProblem(**{**fields, **nodes, **more})


def _rules(rules: Rules, vms: I8, hosts: I8, vm_host: I8, fixed: I8) -> PlacementRules:
    """The cluster's rules by the problem's numbers; wishes (``should``) have no place there.

    VMs that cannot move now stay, whatever that breaks.
    """
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
    # What is split now cannot be kept together by a plan that may not break more than staying does.
    whole = [group for group in groups(rules.joined) if len({int(vm_host[i]) for i in group}) == 1]
    return PlacementRules(whole, groups(rules.anti_affinity), must)
