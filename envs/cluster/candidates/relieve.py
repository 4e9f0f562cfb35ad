"""Candidates that relieve an overloaded host: its best VMs to the hosts that they fit best."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ...sim.models.power import ON
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import MOVE, cpu_on, give
from .hosts import best_host, list_vms, take_least
from .rows import begin_candidate, end_candidate


@kernel
def _cpu_excess(p: ClusterParams, c: CandidateBuffers, h: int) -> Any:
    """Demand planned for above the mark, MHz."""
    return c.new_risk[h] - c.marks.cpu_high * p.host_cpu_mhz[h]


@kernel
def _memory_excess(p: ClusterParams, c: CandidateBuffers, h: int) -> Any:
    """Memory touched above the mark, MiB; where memory is not multiplexed there is always room for it."""
    return c.new_used[h] - c.marks.memory_high * p.host_mem_mib[h] if p.has_tiers else -1.0


@kernel
def _choose_vm(p: ClusterParams, c: CandidateBuffers, h: int, n: int) -> Any:
    """Place in ``c.list`` of the smallest VM that is enough for the worse of both, else of the largest."""
    cpu = max(0.0, _cpu_excess(p, c, h))
    memory = max(0.0, _memory_excess(p, c, h))
    by_cpu = cpu * p.host_inv_cpu[h] >= memory * p.host_inv_mem[h]
    wanted = cpu if by_cpu else memory
    best, best_key = -1, np.inf
    for i in range(n):
        v = c.list[i]
        frees = cpu_on(p, c, v, h, c.vm_risk[v]) if by_cpu else c.vm_used[v]
        key = frees if frees >= wanted else wanted + (wanted - frees) * 1e6
        if key < best_key:
            best, best_key = i, key
    return best


@kernel
def _relieve(p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, h: int) -> None:
    """One host: VM after VM until it is below the marks, or no VM finds a host."""
    begin_candidate(c)
    fills = (np.inf, c.marks.memory_high if p.has_tiers else np.inf, c.marks.cpu_high)
    n, _ = list_vms(p, c, h)
    moves = 0
    while n > 0 and moves < c.marks.moves and (_cpu_excess(p, c, h) > 0.0 or _memory_excess(p, c, h) > 0.0):
        i = _choose_vm(p, c, h, n)
        v = c.list[i]
        c.list[i] = c.list[n - 1]
        n -= 1
        to = best_host(p, c, v, fills, False, False)
        if to >= 0 and give(p, c, MOVE, v, to) == 0:
            moves += 1
    end_candidate(p, s, c, k, moves > 0, 0.0)


@kernel
def offer_relief(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """The hosts that are furthest above the marks, the worst first."""
    first, end = int(c.marks.relieve), int(c.marks.empty)
    for h in range(c.takes.shape[0] if end > first else 0):
        cpu = max(0.0, _cpu_excess(p, c, h)) * p.host_inv_cpu[h]
        above = max(cpu, _memory_excess(p, c, h) * p.host_inv_mem[h])
        c.host_key[h] = -above if above > 0.0 and s.host_power_state[h] == ON else np.inf
    for k in range(first, end):
        h = take_least(c.host_key, c.takes.shape[0])
        if h < 0:
            break
        _relieve(p, s, c, k, h)
