"""Balance with OR-Tools: the fewest migrations that bring imbalance under its targets, within DRS's rules."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.sim.simulator import ClusterView

from ..planning.problem import cluster_problem
from ..solvers.model import ConsolidationProblem
from ..solvers.rebalancing import solve_rebalancing
from .balance import follow, plan_corrections
from .state import (
    DrsState,
)


def plan_with_solver(view: ClusterView, work: DrsState, handle: Any, due: bool, rounds: int) -> None:
    """Plan one interval: what must be done by the kernels, balance by ``solve_rebalancing``.

    Moves of the plan that may not be made now (too soon after the last one, no room beside what is under way)
    are left out; the next interval plans anew.

    Args:
        view: The cluster.
        work: Memory of the kernels, with its input; the orders stand there then.
        handle: Its handle.
        due: Whether it is time to look at the trigger.
        rounds: Rounds of the search.
    """
    if not plan_corrections(view.kernel_params, view.kernel_state, handle, due):
        return
    left = int(work.options.max_moves - work.tally.moves)
    vms = np.flatnonzero((work.home >= 0) & (work.counted[work.home] != 0))
    hosts = np.flatnonzero(work.counted)
    problem = _problem(view, work, vms, hosts)
    cpu, mem = float(work.stat.target_cpu), float(work.stat.target_mem)
    plan = solve_rebalancing(problem, threshold=cpu, memory_threshold=mem, rounds=rounds, bound=False)
    if plan.migrations > left:
        plan = solve_rebalancing(
            problem, threshold=cpu, memory_threshold=mem, limit=left, rounds=rounds, bound=False
        )
    target = np.full(view.n_vms, -1, dtype=np.int64)
    target[vms] = hosts[plan.vm_host]
    follow(view.kernel_params, view.kernel_state, handle, target)


def _problem(view: ClusterView, work: DrsState, vms: I8, hosts: I8) -> ConsolidationProblem:
    """The hosts that are balanced and the VMs on them; a VM that may not move must stay.

    Memory is what is balanced, in shares of what a host has; whether it fits is asked when moves are ordered.
    """
    p = view.params
    place = np.full(view.n_hosts, -1, dtype=np.int64)
    place[hosts] = np.arange(len(hosts))
    memory = p.host_mem_mib[hosts] if p.memory_binding else np.full(len(hosts), np.inf)
    fixed = np.flatnonzero(work.free[vms] == 0)
    return cluster_problem(
        view,
        vms,
        hosts,
        place[work.home[vms]],
        fixed,
        peak_mhz=work.vm_cpu[vms],
        vm_cpu_mhz=work.vm_cpu[vms],
        vm_mem_mib=work.vm_mem[vms],
        host_mem_mib=memory,
    )
