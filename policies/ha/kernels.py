"""Which host a VM is placed on with failures in mind: spread over domains, then where most is free."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import B1, I4
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.orders import check_move, check_place, fits_arrival, vm_can_follow
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.state.cluster_state import DEPARTED, ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.room import may_open


@kernel
def count_group(p: ClusterParams, s: ClusterState, v: int, vm_group: I4) -> Any:
    """Other VMs of a VM's group on every host, or coming to it, shape (H,)."""
    counts = np.zeros(s.host_head.shape[0], dtype=np.int64)
    for w in range(s.vm_state.shape[0]):
        if w == v or vm_group[w] != vm_group[v] or s.vm_state[w] == DEPARTED:
            continue
        h = home_of(s, w)
        if h >= 0:
            counts[h] += 1
    return counts


@kernel
def count_near(p: ClusterParams, counts: Any) -> Any:
    """Of those, the VMs in the failure domains of every host, summed over its domains, shape (H,)."""
    near = np.zeros(counts.shape[0], dtype=np.int64)
    for d in range(p.host_domains.shape[1]):
        most = 0
        for h in range(counts.shape[0]):
            most = max(most, p.host_domains[h, d] + 1)
        inside = np.zeros(most, dtype=np.int64)
        for h in range(counts.shape[0]):
            if p.host_domains[h, d] >= 0:
                inside[p.host_domains[h, d]] += counts[h]
        for h in range(counts.shape[0]):
            if p.host_domains[h, d] >= 0:
                near[h] += inside[p.host_domains[h, d]]
    return near


@kernel
def load_with(p: ClusterParams, s: ClusterState, v: int, h: int) -> float:
    """Share of a host's nominal CPU or memory, whichever is larger, that is given out with a VM on it."""
    cpu = (s.host_nominal_mhz[h] + p.vm_cpu_mhz[v]) / (p.host_cpu_mhz[h] * p.arrival_overcommit)
    mem = (s.host_mem_mib[h] + p.vm_mem_mib[v]) / (p.host_mem_mib[h] * p.mem_overcommit)
    return float(max(cpu, mem))


@kernel
def choose_host(
    p: ClusterParams, s: ClusterState, v: int, vm_group: I4, allowed: B1, rank: I4, spread: bool, moves: bool
) -> int:
    """The best legal host of a VM.

    In this order: the lowest rank; the fewest VMs of its group in the host's failure domains; the fewest on
    the host; the least load with the VM; the lowest index.

    Args:
        v: VM that waits for a host, or (``moves``) runs.
        vm_group: Group of every VM, shape (V,).
        allowed: Hosts to choose from, shape (H,).
        rank: Hosts to take before others have a lower one, shape (H,).
        spread: Whether groups count.
        moves: Whether it is a migration; it has to meet the rules of an arrival too.

    Returns:
        The host; -1 = none.
    """
    best = -1
    best_rank, best_near, best_same, best_load = 0, 0, 0, np.inf
    counts = np.zeros(0, dtype=np.int64)
    near = np.zeros(0, dtype=np.int64)
    for h in range(s.host_head.shape[0]):
        if not allowed[h]:
            continue
        if moves:
            if check_move(p, s, v, h) != 0 or fits_arrival(p, s, v, h) != 0:
                continue
        elif check_place(p, s, v, h) != 0:
            continue
        if spread and counts.shape[0] == 0:
            counts = count_group(p, s, v, vm_group)
            near = count_near(p, counts)
        first = rank[h]
        n = near[h] if spread else 0
        same = counts[h] if spread else 0
        load = load_with(p, s, v, h)
        if (
            best < 0
            or first < best_rank
            or (
                first == best_rank
                and (
                    n < best_near
                    or (
                        n == best_near
                        and (same < best_same or (same == best_same and load < best_load - 1e-12))
                    )
                )
            )
        ):
            best, best_rank, best_near, best_same, best_load = h, first, n, same, load
    return best


@kernel
def choose_host_to_boot(p: ClusterParams, s: ClusterState, v: int, allowed: B1, rank: I4, moves: bool) -> int:
    """Of the hosts that are off, may go on and have room for a VM the first of lowest rank; -1 = none.

    A VM that ``moves`` there has to be able to go on there too.
    """
    best = -1
    for h in range(s.host_head.shape[0]):
        if not allowed[h] or not may_open(p, s, h):
            continue
        if moves and vm_can_follow(p, s, v, h) != 0:
            continue
        if (best < 0 or rank[h] < rank[best]) and fits_arrival(p, s, v, h) == 0:
            best = h
    return best
