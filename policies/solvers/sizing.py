"""How few hosts of one kind hold given VMs: bin packing in CPU and memory, with a proven bound.

It is the consolidation problem of ``model`` with a host's energy of 1, whatever its load, and no host in use:
its searches find a packing, its programme (OR-Tools) bounds it. With k hosts to spare for failures k more are
needed, and no fewer do: after the worst k failures the rest must hold all VMs, and a packing on n hosts with
k empty ones of the same kind survives any k failures.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I8

from .consolidation import pack_decreasing, solve_consolidation
from .model import ConsolidationProblem, PlacementRules


@dataclass(frozen=True)
class Sizing:
    """A packing.

    Attributes:
        hosts: Hosts that it needs.
        bound: No packing needs fewer.
        vm_host: Host of each VM, (V,).
        seconds: Wall time.
    """

    hosts: int
    bound: int
    vm_host: I8
    seconds: float


def fewest_hosts(
    vm_cpu_mhz: F8,
    vm_mem_mib: F8,
    host_cpu_mhz: float,
    host_mem_mib: float,
    rules: PlacementRules | None = None,
    *,
    time_limit_s: float = 10.0,
    rounds: int | None = None,
    seed: int = 0,
) -> Sizing:
    """Pack VMs into as few equal hosts as can be found.

    Args:
        vm_cpu_mhz: CPU of each VM, MHz, (V,).
        vm_mem_mib: Memory, MiB, (V,).
        host_cpu_mhz: CPU that a host may be planned for, MHz.
        host_mem_mib: Memory, MiB.
        rules: Affinity and anti-affinity.
        time_limit_s: Wall time, s.
        rounds: Search so many neighbourhoods instead, whatever time that takes.
        seed: Seed of the search.

    Examples:
        >>> ones = np.ones(5)
        >>> fewest_hosts(ones, 2 * ones, 10.0, 5.0, rounds=10).hosts
        3
    """
    start = time.monotonic()
    rules = rules or PlacementRules()
    n = len(vm_cpu_mhz)
    apart = max((len(set(group)) for group in rules.anti_affinity), default=0)
    volume = max(
        math.ceil(float(vm_cpu_mhz.sum()) / host_cpu_mhz - 1e-9),
        math.ceil(float(vm_mem_mib.sum()) / host_mem_mib - 1e-9),
    )
    bound = max(1, volume, apart)
    most = min(n, 2 * volume + apart + 1)
    while True:
        problem = _problem(vm_cpu_mhz, vm_mem_mib, host_cpu_mhz, host_mem_mib, rules, most)
        packed = min((pack_decreasing(problem, best_fit=best) for best in (False, True)), key=_used)
        if (packed >= 0).all() or most == n:
            break
        most = min(n, 2 * most)
    best = packed
    if _used(best) > bound:
        problem = _problem(vm_cpu_mhz, vm_mem_mib, host_cpu_mhz, host_mem_mib, rules, _used(best))
        found = solve_consolidation(problem, time_limit_s=time_limit_s, rounds=rounds, seed=seed, gap=0.0)
        if (
            (found.vm_host >= 0).all()
            and found.evaluation.violations == 0
            and _used(found.vm_host) < _used(best)
        ):
            best = found.vm_host
        if math.isfinite(found.bound_j):
            bound = max(bound, math.ceil(found.bound_j - 1e-6))
    names = {int(h): i for i, h in enumerate(np.unique(best))}
    hosts = np.array([names[int(h)] for h in best], dtype=np.int64)
    return Sizing(len(names), min(bound, len(names)), hosts, time.monotonic() - start)


def _used(vm_host: I8) -> int:
    """Hosts in use; what is not placed counts as a host each."""
    return int(np.unique(vm_host[vm_host >= 0]).size + (vm_host < 0).sum())


def _problem(
    vm_cpu_mhz: F8, vm_mem_mib: F8, cpu: float, mem: float, rules: PlacementRules, hosts: int
) -> ConsolidationProblem:
    return ConsolidationProblem(
        vm_cpu_mhz=vm_cpu_mhz,
        vm_mem_mib=vm_mem_mib,
        vm_host=np.full(len(vm_cpu_mhz), -1, dtype=np.int64),
        host_cpu_mhz=np.full(hosts, cpu),
        host_mem_mib=np.full(hosts, mem),
        host_power=np.zeros(hosts, dtype=np.int64),
        power_w=np.ones((1, 2)),
        horizon_s=1.0,
        vm_move_j=np.zeros(len(vm_cpu_mhz)),
        rules=rules,
    )
