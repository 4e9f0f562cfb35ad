"""Moves that DRS makes before it balances: emptying hosts, mending rules, relieving hosts. Kernels.

Order: hosts that are to be emptied, VMs on hosts where they must not run, VMs that belong together, VMs that
belong apart, VMs that should run elsewhere. A destination is the host that is least loaded with the VM (the
larger of CPU and memory), of those that keep every rule; first of those that also keep wishes and that the
VM did not leave a short while ago, then without wishes, then any.

**Relief**: a host that is expected to be asked for more than ``rules.contention`` of its CPU, or whose memory
costs work, and has been so for ``rules.contention_s``, gives VMs to hosts that are not so with them, however
even the cluster is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .kernels import commit, cpu_on, list_unit, may_go
from .state import BY_SIZE, DrsState


@kernel
def _load_with(p: ClusterParams, w: DrsState, n: int, h: int) -> Any:
    """Larger of the CPU and memory loads of a host with the unit."""
    cpu, mem = w.load_cpu[h], w.load_mem[h]
    for i in range(n):
        v = w.unit[i]
        if w.home[v] != h:
            cpu += cpu_on(p, w, v, h)
            mem += w.vm_mem[v]
    x = cpu * p.host_inv_cpu[h]
    return max(x, mem * p.host_inv_mem[h]) if w.rules.mem_counts else x


@kernel
def _best_host(
    p: ClusterParams, s: ClusterState, w: DrsState, n: int, a: int, wishes: bool, back: bool
) -> Any:
    """The host that is least loaded with the unit, -1 = none may take it."""
    best: Any = np.int64(-1)
    least = np.inf
    for h in range(w.closed.shape[0]):
        if h == a or w.closed[h] or s.host_power_state[h] != ON:
            continue
        x = _load_with(p, w, n, h)
        if x < least and may_go(p, s, w, n, h, wishes, back):
            least = x
            best = np.int64(h)
    return best


@kernel
def _keeps_wishes(w: DrsState, n: int, h: int) -> Any:
    for i in range(n):
        row = w.should_row[w.unit[i]]
        if row >= 0 and not w.host_sets[row, h]:
            return False
    return True


@kernel
def _send_away(p: ClusterParams, s: ClusterState, w: DrsState, v: int) -> Any:
    """Move a VM, and what must stay with it, to another host; whether one was found."""
    a = w.home[v]
    n = list_unit(w, v, False)
    if n == 0:
        return False
    for attempt in range(3):
        h = _best_host(p, s, w, n, a, attempt == 0, attempt == 2)
        if h >= 0:
            commit(p, w, n, h)
            return True
    return False


@kernel
def empty_hosts(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Find a destination for every VM on the hosts of ``w.empty``, largest first.

    VMs that nobody can take now stay; they are tried again when asked again.
    """
    n: Any = np.int64(0)
    for v in range(w.home.shape[0]):
        h = w.home[v]
        if h >= 0 and w.empty[h] and w.movable[v]:
            w.order[n] = v
            w.key[v] = -p.vm_mem_mib[v] if w.options.by == BY_SIZE else -w.vm_cpu[v]
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    for i in range(n):
        if w.movable[w.order[i]]:
            _send_away(p, s, w, w.order[i])


@kernel
def _keep_to_hosts(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Move VMs off hosts where they must not run."""
    for v in range(w.home.shape[0]):
        row = w.must_row[v]
        if row >= 0 and w.movable[v] and not w.host_sets[row, w.home[v]]:
            _send_away(p, s, w, v)


@kernel
def _list_members(w: DrsState, g: int) -> Any:
    """Members of an affinity group that have a home, to ``w.unit``; whether they are apart."""
    n: Any = np.int64(0)
    apart = False
    for k in range(w.aff_first[g], w.aff_first[g + 1]):
        v = w.aff_vm[k]
        if w.home[v] >= 0:
            w.unit[n] = v
            apart = apart or w.home[v] != w.home[w.unit[0]]
            n += 1
    return n, apart


@kernel
def _moves_to(w: DrsState, n: int, h: int) -> Any:
    """Members that would have to move to a host, -1 = one of them cannot."""
    moves: Any = np.int64(0)
    for i in range(n):
        if w.home[w.unit[i]] != h:
            if not w.movable[w.unit[i]]:
                return np.int64(-1)
            moves += 1
    return moves


@kernel
def _bring_together(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Move the members of each split group to one host: the fewest moves, then the least load."""
    for g in range(w.aff_first.shape[0] - 1):
        n, apart = _list_members(w, g)
        if not apart:
            continue
        best: Any = np.int64(-1)
        fewest: Any = np.int64(n + 1)
        least = np.inf
        for h in range(w.closed.shape[0]):
            if w.closed[h] or s.host_power_state[h] != ON:
                continue
            moves = _moves_to(w, n, h)
            if moves < 0 or moves > fewest:
                continue
            x = _load_with(p, w, n, h)
            if (moves < fewest or x < least) and may_go(p, s, w, n, h, False, True):
                best, fewest, least = np.int64(h), moves, x
        if best >= 0:
            commit(p, w, n, best)


@kernel
def _keep_apart(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Leave one VM of each anti-affinity group on a host, the last that can stay."""
    for g in range(w.apart_first.shape[0] - 1):
        for k in range(w.apart_first[g], w.apart_first[g + 1]):
            v = w.apart_vm[k]
            if w.home[v] >= 0 and w.movable[v] and w.apart_count[g, w.home[v]] > 1:
                _send_away(p, s, w, v)


@kernel
def _grant_wishes(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Move rested VMs to where they should run, where that breaks nothing else."""
    for v in range(w.home.shape[0]):
        row = w.should_row[v]
        if row < 0 or not w.free[v] or w.host_sets[row, w.home[v]]:
            continue
        n = list_unit(w, v, False)
        if n == 0:
            continue
        best: Any = np.int64(-1)
        least = np.inf
        for h in range(w.closed.shape[0]):
            if w.closed[h] or s.host_power_state[h] != ON or not _keeps_wishes(w, n, h):
                continue
            x = _load_with(p, w, n, h)
            if x < least and may_go(p, s, w, n, h, True, False):
                least = x
                best = np.int64(h)
        if best >= 0:
            commit(p, w, n, best)


@kernel
def correct(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Order everything that comes before balance; ``tally.mandatory`` counts it."""
    empty_hosts(p, s, w)
    _keep_to_hosts(p, s, w)
    _bring_together(p, s, w)
    _keep_apart(p, s, w)
    _grant_wishes(p, s, w)
    w.tally.mandatory = w.tally.moves


@kernel
def _excess(p: ClusterParams, w: DrsState, h: int) -> Any:
    """CPU (MHz) and memory (MiB) that a host is asked for beyond where contention begins."""
    need = 0.0
    for k in range(w.first[h], w.first[h + 1]):
        v = w.vm_of[k]
        if w.home[v] == h:
            need += w.vm_need_mib[v]
    return w.load_cpu[h] - w.rules.contention * p.host_cpu_mhz[h], need - w.need_most[h]


@kernel
def _relief_vm(p: ClusterParams, w: DrsState, h: int, cpu: float, mem: float) -> Any:
    """The VM to take off a host: of those that suffice alone the one with least memory, else the largest."""
    best: Any = np.int64(-1)
    least = np.inf
    for k in range(w.first[h], w.first[h + 1]):
        v = w.vm_of[k]
        if not w.free[v] or w.home[v] != h or w.aff[v] >= 0 or w.key[v] < 0.0:
            continue
        size = cpu_on(p, w, v, h)
        if size >= cpu and w.vm_need_mib[v] >= mem:
            key = p.vm_mem_mib[v]
        else:
            by_mem = mem * p.host_inv_mem[h] > max(cpu, 0.0) * p.host_inv_cpu[h]
            key = 1e18 * (
                1.0 - (w.vm_need_mib[v] * p.host_inv_mem[h] if by_mem else size * p.host_inv_cpu[h])
            )
        if key < least:
            best, least = np.int64(v), key
    return best


@kernel
def _relieve_host(p: ClusterParams, s: ClusterState, w: DrsState, h: int) -> None:
    """Move VMs off a host until it is no longer under contention, or nobody can take one."""
    for k in range(w.first[h], w.first[h + 1]):
        w.key[w.vm_of[k]] = 0.0
    while w.tally.moves < w.options.max_moves and w.moves[h] < w.options.max_per_host:
        cpu, mem = _excess(p, w, h)
        if cpu <= 0.0 and mem <= 0.0:
            return
        v = _relief_vm(p, w, h, cpu, mem)
        if v < 0:
            return
        w.unit[0] = v
        b = _best_host(p, s, w, 1, h, True, False)
        fits = b >= 0 and w.load_cpu[b] + cpu_on(p, w, v, b) <= w.rules.contention * p.host_cpu_mhz[b]
        if fits and w.moves[b] < w.options.max_per_host:
            commit(p, w, 1, b)
        w.key[v] = -1.0


@kernel
def relieve(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Relieve the hosts that have been under contention for long enough; ``tally.relief`` counts the moves.

    It is noted of every host since when it has been so.
    """
    now = s.clock.now_s
    for h in range(w.counted.shape[0] if w.rules.contention < np.inf else 0):
        cpu, mem = _excess(p, w, h) if w.counted[h] else (0.0, 0.0)
        if cpu <= 0.0 and mem <= 0.0:
            w.short_since[h] = np.inf
            continue
        w.short_since[h] = min(w.short_since[h], now)
        if now - w.short_since[h] >= w.rules.contention_s:
            _relieve_host(p, s, w, h)
    w.tally.relief = w.tally.moves - w.tally.mandatory
