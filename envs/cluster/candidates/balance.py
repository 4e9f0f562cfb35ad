"""Candidates that even load: from the host with the largest share to those with the smallest."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ...jit.kernels import kernel
from ...sim.models.power import ON, curve_power
from ...sim.state.cluster_state import MIG_NONE, RUNNING, ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import MOVE, cpu_on, give
from .hosts import TIE, list_vms, may_take
from .rows import begin_candidate, drop_candidate, end_candidate

WORTH = 0.1
"""Difference of the largest and the smallest share below which nothing is moved."""

WORTH_POWER = 0.002
"""Power that a move or an exchange saves at least, as a share of the host's peak."""

STEP = 0.1
"""Load over which the cost of another MHz is told."""

MOST_HOSTS = 16
"""Hosts to which load is brought in one candidate, at most."""


@kernel
def _extremes(p: ClusterParams, s: ClusterState, c: CandidateBuffers, load: F8, inverse: F8) -> Any:
    """The hosts with the largest and the smallest share, of those that are on; -1 = none."""
    worst, best = -1, -1
    most, least = -np.inf, np.inf
    for h in range(load.shape[0]):
        if s.host_power_state[h] != ON or not c.is_up[h]:
            continue
        # of hosts that are alike the one with less free CPU gives, and the one with more takes
        share = load[h] * inverse[h] + TIE * (c.new_risk[h] + 1.0) * p.host_inv_cpu[h]
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
    """Even CPU planned for, (second slot) memory touched, and (third) bring load where it is cheap."""
    first, end = int(c.marks.balance), int(c.marks.place)
    for k in range(first, end):
        if k == first + 2:
            _offer_cheaper(p, s, c, k)
            break
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
        end_candidate(p, s, c, k, moves > 0, 0.0)


@kernel
def _slope(p: ClusterParams, c: CandidateBuffers, h: int) -> Any:
    """What another MHz costs on a host, W."""
    kind, load = p.host_type[h], c.new_cpu[h] * p.host_inv_cpu[h]
    return (curve_power(p, kind, load + STEP) - curve_power(p, kind, load)) / (STEP * p.host_cpu_mhz[h])


@kernel
def _mean(c: CandidateBuffers, v: int) -> Any:
    """Demand that a VM is expected to have, MHz."""
    return c.vm_mean[v] if c.vm_mean[v] >= 0.0 else c.vm_cpu[v]


@kernel
def _may_move(p: ClusterParams, c: CandidateBuffers, v: int) -> bool:
    return bool(c.vm_state[v] == RUNNING and c.vm_mig[v] == MIG_NONE and c.vm_host[v] >= 0)


@kernel
def _room_for(p: ClusterParams, c: CandidateBuffers, v: int, w: int, h: int) -> bool:
    """Whether a host has room for VM v once VM w has left it (-1 = none does)."""
    mem, mhz = p.vm_mem_mib[v], cpu_on(p, c, v, h, c.vm_risk[v])
    if w >= 0:
        mem -= p.vm_mem_mib[w]
        mhz -= cpu_on(p, c, w, h, c.vm_risk[w])
    fine = mem <= 0.0 or (c.new_mem[h] + mem) * p.host_inv_mem[h] <= c.levels[0, 0]
    return bool(fine and (mhz <= 0.0 or (c.new_risk[h] + mhz) * p.host_inv_cpu[h] <= c.levels[0, 2]))


@kernel
def _move_cheaper(p: ClusterParams, c: CandidateBuffers, b: int) -> Any:
    """Bring the VM that saves most power to host b, in exchange for one of there if it is full.

    Returns:
        Orders given; -1 if an exchange broke off half way.
    """
    slope, n = _slope(p, c, b), c.vm_state.shape[0]
    best, other, most = -1, -1, WORTH_POWER * p.power_w[p.host_type[b], p.power_w.shape[1] - 1]
    for v in range(n):
        a = c.vm_host[v]
        if not _may_move(p, c, v) or a == b or _mean(c, v) * c.host_key[a] <= most:
            continue
        saved = c.host_key[a] - slope  # W per MHz that is moved
        if _mean(c, v) * saved <= most:
            continue
        if _room_for(p, c, v, -1, b):
            if may_take(p, c, v, b):
                best, other, most = v, -1, _mean(c, v) * saved
            continue
        w = c.host_head[b]
        while w >= 0:
            gain = (_mean(c, v) - _mean(c, w)) * saved
            # few save more than the best so far: the others are not asked for what takes longer to say
            fits = gain > most and _may_move(p, c, w) and _room_for(p, c, v, w, b)
            if fits and _room_for(p, c, w, v, a) and may_take(p, c, v, b) and may_take(p, c, w, a):
                best, other, most = v, w, gain
            w = c.vm_next[w]
    if best < 0:
        return 0
    a = c.vm_host[best]
    if give(p, c, MOVE, best, b) != 0:
        return -1
    return (2 if give(p, c, MOVE, other, a) == 0 else -1) if other >= 0 else 1


@kernel
def _offer_cheaper(p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int) -> None:
    """Load to where another MHz costs least power, host after host, the cheapest first."""
    begin_candidate(c)
    orders, n_hosts = 0, c.takes.shape[0]
    for h in range(n_hosts):
        on = s.host_power_state[h] == ON and c.is_up[h] and c.n_home[h] > 0
        c.host_key[h] = _slope(p, c, h) if on else -np.inf
    for _ in range(min(n_hosts, MOST_HOSTS)):
        b = -1
        for h in range(n_hosts):
            if c.host_key[h] > -np.inf and c.takes[h] and (b < 0 or c.host_key[h] < c.host_key[b]):
                b = h
        if b < 0:
            break
        given = 1
        while given > 0 and orders < c.marks.moves:
            given = _move_cheaper(p, c, b)
            orders += max(0, given)
        c.host_key[b] = -np.inf  # it has had its turn
        if given < 0:
            drop_candidate(s, c)
            return
    end_candidate(p, s, c, k, orders > 0, 0.0)
