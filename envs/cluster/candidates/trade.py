"""Candidates that trade a host for one that idles cheaper: this comes on and takes all VMs, that goes off."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ...sim.engine.orders import may_go_on
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import MOVE, POWER_OFF, POWER_ON, give
from .empty import may_empty
from .hosts import best_host, fits, idle_w, list_vms, may_take, take_least
from .rows import begin_candidate, end_candidate


@kernel
def _cheapest_off(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> Any:
    """The host that is off or in standby and idles cheapest, of those the one with most memory; -1 = none."""
    best = -1
    for h in range(c.takes.shape[0]):
        if may_go_on(p, s, h) != 0 or s.host_maintenance[h]:
            continue
        if p.admission_enforced and p.host_dedicated[h]:
            continue
        less = best < 0 or idle_w(p, h) < idle_w(p, best)
        if less or (idle_w(p, h) == idle_w(p, best) and p.host_mem_mib[h] > p.host_mem_mib[best]):
            best = h
    return best


@kernel
def _trade(p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, old: int, new: int) -> None:
    """One host for another: what does not fit the new one goes to where it fits best, or no offer."""
    n, all_move = list_vms(p, c, old)
    if not all_move:
        return
    begin_candidate(c)
    last = c.levels.shape[0] - 1
    legal = give(p, c, POWER_ON, -1, new) == 0
    for i in range(n if legal else 0):
        v, to = c.list[i], -1
        for level in range(last + 1):
            fills = (c.levels[level, 0], c.levels[level, 1], c.levels[level, 2])
            if fits(p, c, v, new, fills) and may_take(p, c, v, new):
                to = new
            else:
                to = best_host(p, c, v, fills, True, False)
            if to >= 0:
                break
        legal = to >= 0 and give(p, c, MOVE, v, to) == 0
        if not legal:
            break
    end_candidate(p, s, c, k, legal and give(p, c, POWER_OFF, -1, old) == 0, 0.0)


@kernel
def offer_trades(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """The hosts that idle dearest, of those the ones with the least memory, for the cheapest that is off."""
    first, end = int(c.marks.trade), int(c.marks.off)
    new = _cheapest_off(p, s, c) if end > first else -1
    if new < 0:
        return
    n_hosts = c.takes.shape[0]
    for h in range(n_hosts):
        c.host_key[h] = np.inf
        if idle_w(p, h) > idle_w(p, new) and may_empty(p, s, c, h):
            c.host_key[h] = -idle_w(p, h) * (1.0 - 1e-3 * c.load_mem[h] * p.host_inv_mem[h])
    for k in range(first, end):
        old = take_least(c.host_key, n_hosts)
        if old < 0:
            break
        _trade(p, s, c, k, old, new)
