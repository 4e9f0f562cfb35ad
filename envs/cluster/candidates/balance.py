"""Candidates that even load: from the host with the largest share to those with the smallest."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ...jit.kernels import kernel
from ...sim.models.power import ON
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import MOVE, cpu_on, give
from .hosts import list_vms, may_take
from .rows import begin_candidate, drop_candidate, offer_candidate

WORTH = 0.1
"""Difference of the largest and the smallest share below which nothing is moved."""


@kernel
def _extremes(p: ClusterParams, s: ClusterState, c: CandidateBuffers, load: F8, inverse: F8) -> Any:
    """The hosts with the largest and the smallest share, of those that are on; -1 = none."""
    worst, best = -1, -1
    most, least = -np.inf, np.inf
    for h in range(load.shape[0]):
        if s.host_power_state[h] != ON or not c.is_up[h]:
            continue
        share = load[h] * inverse[h]
        if share > most:
            worst, most = h, share
        if share < least and c.takes[h]:
            best, least = h, share
    return worst, best


@kernel
def _move_one(
    p: ClusterParams, c: CandidateBuffers, load: F8, inverse: F8, a: int, b: int, by_cpu: bool
) -> bool:
    """Move the VM of host a that leaves host b with the smallest larger share of the two."""
    before = load[a] * inverse[a]
    best, best_worst = -1, before - 0.5 * WORTH
    n, _ = list_vms(p, c, a)
    for i in range(n):
        v = c.list[i]
        frees = cpu_on(p, c, v, a, c.vm_risk[v]) if by_cpu else c.vm_used[v]
        fills = cpu_on(p, c, v, b, c.vm_risk[v]) if by_cpu else c.vm_used[v]
        worst = max((load[a] - frees) * inverse[a], (load[b] + fills) * inverse[b])
        if worst < best_worst and may_take(p, c, v, b):
            best, best_worst = v, worst
    return bool(best >= 0 and give(p, c, MOVE, best, b) == 0)


@kernel
def offer_balance(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Even CPU planned for, and (the second slot) memory touched."""
    first, end = int(c.marks.balance), int(c.marks.place)
    for k in range(first, end):
        by_cpu = k == first
        load, inverse = (c.new_risk, p.host_inv_cpu) if by_cpu else (c.new_used, p.host_inv_mem)
        begin_candidate(c)
        moves = 0
        while moves < c.marks.moves:
            a, b = _extremes(p, s, c, load, inverse)
            if a < 0 or b < 0 or load[a] * inverse[a] - load[b] * inverse[b] < WORTH:
                break
            if not _move_one(p, c, load, inverse, a, b, by_cpu):
                break
            moves += 1
        if moves > 0:
            offer_candidate(p, s, c, k, 0.0)
        else:
            drop_candidate(s, c)
