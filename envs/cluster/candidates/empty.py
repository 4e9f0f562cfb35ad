"""Candidates that empty a host by best fit, at several fills of the others, and switch it off."""

from __future__ import annotations

import numpy as np

from ...jit.kernels import kernel
from ...sim.engine.orders import holds_secondary
from ...sim.models.power import ON
from ...sim.models.precopy import PULL
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import MOVE, POWER_OFF, give
from .hosts import TIE, best_host, idle_w, list_vms, take_least
from .rows import begin_candidate, end_candidate, same_orders

ROUNDING = 1e-6
"""Share of a host's capacity by which sums over all hosts may differ from what is asked host by host."""


@kernel
def may_empty(p: ClusterParams, s: ClusterState, c: CandidateBuffers, h: int) -> bool:
    """Whether a host that is on holds VMs, and nothing that is not about to leave by itself stays."""
    if s.host_power_state[h] != ON or s.host_drain[h] or s.host_n_in[h] > 0 or s.host_n_vms[h] == 0:
        return False
    if not c.may_leave[h] or holds_secondary(p, s, h) != 0:
        return False
    v = s.host_head[h]
    while v >= 0:
        if p.has_precopy and s.copy_phase[v] == PULL:
            return False
        v = s.vm_next[v]
    return bool(c.n_home[h] > 0)


@kernel
def _have_room(
    p: ClusterParams, c: CandidateBuffers, h: int, n: int, fills: tuple[float, float, float]
) -> bool:
    """Whether all hosts that hold VMs together have room for the n listed VMs of host h.

    If not, there is no need to try who goes where: on the way loads of other hosts only grow.
    """
    core = np.inf
    mem = used = ROUNDING * p.host_mem_mib[h]
    cpu = ROUNDING * p.host_cpu_mhz[h]
    for g in range(c.takes.shape[0]):
        if c.takes[g] and g != h and c.new_home[g] > 0:
            mem += max(0.0, fills[0] * p.host_mem_mib[g] - c.new_mem[g])
            used += max(0.0, fills[1] * p.host_mem_mib[g] - c.new_used[g])
            cpu += max(0.0, fills[2] * p.host_cpu_mhz[g] - c.new_risk[g])
            core = min(core, p.host_core_mhz[g])
    for i in range(n):
        v = c.list[i]
        mem -= p.vm_mem_mib[v]
        used -= c.vm_used[v]
        cpu -= min(c.vm_risk[v], p.vm_vcpus[v] * core)  # the least that it asks for on any of them
    return bool(mem >= 0.0 and used >= 0.0 and cpu >= 0.0)


@kernel
def _empty(
    p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, h: int, n: int, level: int
) -> None:
    """One host at one fill: all of its VMs, listed in ``c.list``, find a host, or it is not offered."""
    begin_candidate(c)
    fills = (c.levels[level, 0], c.levels[level, 1], c.levels[level, 2])
    legal = _have_room(p, c, h, n, fills)
    for i in range(n if legal else 0):
        v = c.list[i]
        to = best_host(p, c, v, fills, True, False)
        legal = to >= 0 and give(p, c, MOVE, v, to) == 0
        if not legal:
            break
    legal = legal and give(p, c, POWER_OFF, -1, h) == 0
    end_candidate(
        p, s, c, k, legal and not (level > 0 and same_orders(c, k - 1)), (level + 1.0) / c.levels.shape[0]
    )


@kernel
def offer_emptying(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """The hosts with the least memory, then of the others those with the most idle power."""
    n_levels, n_hosts = c.levels.shape[0], c.takes.shape[0]
    first, end, least = int(c.marks.empty), int(c.marks.trade), int(c.marks.least)
    for h in range(n_hosts if end > first else 0):
        c.host_key[h] = np.inf
        if may_empty(p, s, c, h):
            c.host_key[h] = c.load_mem[h] + TIE * c.load_risk[h]
    for number in range((end - first) // n_levels):
        if number == least:
            _rank_by_power(p, c)
        h = take_least(c.host_key, n_hosts)
        if h < 0:
            continue
        n, all_move = list_vms(p, c, h)
        for level in range(n_levels if all_move else 0):
            _empty(p, s, c, first + number * n_levels + level, h, n, level)


@kernel
def _rank_by_power(p: ClusterParams, c: CandidateBuffers) -> None:
    """Rank the hosts that are left: by idle power, and among the same by memory."""
    for h in range(c.host_key.shape[0]):
        if c.host_key[h] < np.inf:
            carried = (c.load_mem[h] + TIE * c.load_risk[h]) * p.host_inv_mem[h]
            c.host_key[h] = -idle_w(p, h) * (1.0 - 1e-3 * carried)
