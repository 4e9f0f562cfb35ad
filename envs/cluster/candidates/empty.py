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
def _empty(
    p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, h: int, n: int, level: int
) -> None:
    """One host at one fill: all of its VMs, listed in ``c.list``, find a host, or it is not offered."""
    begin_candidate(c)
    fills = (c.levels[level, 0], c.levels[level, 1], c.levels[level, 2])
    legal = True
    for i in range(n):
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
