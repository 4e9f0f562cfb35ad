"""The round of DRS: corrections, the trigger, greedy moves while one is worth more than it costs. Kernels.

The best move is sought among the VMs of the most loaded hosts and the least loaded destinations, a window of
``options.window_hosts`` of each. Where that holds none, the other hosts are looked at too, and then all
pairs, so that "no beneficial move" is said of all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .corrections import correct, empty_hosts, relieve
from .kernels import commit, cpu_on, deviation, list_unit, may_go, move_cost, move_gain, prepare
from .state import (
    BALANCED,
    IDLE,
    LIMIT,
    NO_BENEFIT,
    SEARCHED,
    DrsState,
)

MAX_SCANS = 1
"""Searches over all pairs in one round; what is left is for the next. One takes 10 ms at 1,000 x 800."""
FORM_HOSTS = 64
"""Hosts up to which a level's threshold is VMware's form as it is, vSphere 6's largest cluster.

Among more, d / sqrt(n) gets below what VMs make of hosts by chance, which is no host that is off: it is then
the threshold of what the deviation has beyond chance, and at most d."""
WORTH = 1e-9
"""Host-seconds that a move must be worth beyond its cost: sums of floats are not worth a migration."""


@kernel
def _imbalance(w: DrsState) -> Any:
    """Imbalance of CPU and memory in the plan as it stands."""
    st = w.stat
    return deviation(st.on, st.cpu, st.cpu2), deviation(st.on, st.mem, st.mem2)


@kernel
def _triggered(w: DrsState) -> Any:
    """Whether a threshold is exceeded; the targets of the round lie below them by the hysteresis."""
    w.stat.before_cpu, w.stat.before_mem = _imbalance(w)
    return w.stat.before_cpu > w.stat.theta_cpu or w.stat.before_mem > w.stat.theta_mem


@kernel
def _reached(w: DrsState) -> Any:
    w.stat.after_cpu, w.stat.after_mem = _imbalance(w)
    # Sums of floats: a target met to the last digit is met.
    cpu_met = w.stat.after_cpu <= w.stat.target_cpu + 1e-12
    return cpu_met and w.stat.after_mem <= w.stat.target_mem + 1e-12


@kernel
def _rank_hosts(p: ClusterParams, w: DrsState) -> Any:
    """List sources (most loaded first) and destinations (least loaded first); returns their numbers.

    A load counts in standard deviations, of every resource that is above its target.
    """
    n = w.stat.on
    before = w.tally.ranked
    m: Any = np.int64(0)
    cpu_sd, mem_sd = w.stat.after_cpu, w.stat.after_mem
    cpu_mean, mem_mean = w.stat.cpu / n, w.stat.mem / n
    for i in range(before):  # in the order of the last time, which is nearly the new one
        h = w.dst[i]
        if w.moves[h] >= w.options.max_per_host:
            continue
        key = 0.0
        if cpu_sd > w.stat.target_cpu:
            key += (w.load_cpu[h] * p.host_inv_cpu[h] - cpu_mean) / cpu_sd
        if mem_sd > w.stat.target_mem:
            key += (w.load_mem[h] * p.host_inv_mem[h] - mem_mean) / mem_sd
        w.key[h] = key
        w.order[m] = h
        m += 1
    sort_ascending(w.order, w.key, m, w.order2)
    w.tally.ranked = m
    sources: Any = np.int64(0)
    for i in range(m):
        w.dst[i] = w.order[i]
        h = w.order[m - 1 - i]
        if w.n_free[h] > 0:
            w.src[sources] = h
            sources += 1
    return sources, m


@kernel
def _list_counted(w: DrsState) -> None:
    """List the hosts that are balanced, for the first ranking."""
    n: Any = np.int64(0)
    for h in range(w.counted.shape[0]):
        if w.counted[h]:
            w.dst[n] = h
            n += 1
    w.tally.ranked = n


@kernel
def _growth(n: float, total: float, a0: float, a1: float, b0: float, b1: float) -> Any:
    """Growth of n times the variance when two loads go from a0 to a1 and from b0 to b1."""
    more = (a1 - a0) + (b1 - b0)
    return (a1 * a1 - a0 * a0) + (b1 * b1 - b0 * b0) - more * (2.0 * total + more) / n


@kernel
def _evens_cpu(p: ClusterParams, w: DrsState, v: int, a: int, b: int) -> Any:
    """Whether a VM that goes from host a to host b, neither of them full, lowers the variance of CPU load."""
    come, ia, ib = cpu_on(p, w, v, b), p.host_inv_cpu[a], p.host_inv_cpu[b]
    la, lb = w.load_cpu[a], w.load_cpu[b]
    a1 = (la - cpu_on(p, w, v, a)) * ia
    return _growth(w.stat.on, w.stat.cpu, la * ia, a1, lb * ib, (lb + come) * ib) < 0.0


@kernel
def _evens_mem(p: ClusterParams, w: DrsState, v: int, a: int, b: int) -> Any:
    """The same of memory."""
    mem, ia, ib = w.vm_mem[v], p.host_inv_mem[a], p.host_inv_mem[b]
    la, lb = w.load_mem[a], w.load_mem[b]
    b1 = (lb + mem) * ib
    return _growth(w.stat.on, w.stat.mem, la * ia, (la - mem) * ia, lb * ib, b1) < 0.0


@kernel
def _find_emptiest(w: DrsState, p: ClusterParams, n_dst: int) -> None:
    """Of every host type, the destinations with the least CPU and the least memory load."""
    w.emptiest[:] = -1
    for j in range(n_dst):
        h = w.dst[j]
        kind = p.host_type[h]
        low = w.emptiest[kind, 0]
        if low < 0 or w.load_cpu[h] < w.load_cpu[low]:
            w.emptiest[kind, 0] = h
        low = w.emptiest[kind, 1]
        if low < 0 or w.load_mem[h] < w.load_mem[low]:
            w.emptiest[kind, 1] = h


@kernel
def _is_hopeless(p: ClusterParams, w: DrsState, v: int, a: int) -> Any:
    """Whether no destination could make the move of a VM worth anything.

    What a move does to the variance grows with the load of the destination, so that the emptiest host of each
    type decides. A host that is full may gain otherwise.
    """
    if w.load_cpu[a] > p.host_cpu_mhz[a] or w.load_mem[a] > p.host_mem_mib[a]:
        return False
    by_mem = w.stat.target_mem < np.inf
    for kind in range(w.emptiest.shape[0]):
        cpu, mem = w.emptiest[kind, 0], w.emptiest[kind, 1]
        if cpu < 0:
            continue
        if _evens_cpu(p, w, v, a, cpu) or (by_mem and _evens_mem(p, w, v, a, mem)):
            return False
    return True


@kernel
def _scan_source(
    p: ClusterParams, s: ClusterState, w: DrsState, a: int, n_dst: int, left: int, best: float
) -> Any:
    """Find a move off host a to the first destinations, worth more than ``best``; returns the most found."""
    most = w.options.max_per_host
    for k in range(w.first[a], w.first[a + 1]):
        v = w.vm_of[k]
        if not w.free[v] or w.home[v] != a:
            continue
        n = list_unit(w, v, True)
        if n == 0 or n > left or w.moves[a] + n > most or (n == 1 and _is_hopeless(p, w, v, a)):
            continue
        for j in range(n_dst):
            b = w.dst[j]
            if b == a or w.moves[b] + n > most:
                continue
            net = move_gain(p, w, n, a, b)
            if net <= best:
                continue
            net -= move_cost(p, s, w, n, a, b)
            if net > best and may_go(p, s, w, n, b, True, False):
                best = net
                w.best[0] = v
                w.best[1] = b
    return best


@kernel
def _find(p: ClusterParams, s: ClusterState, w: DrsState, left: int) -> Any:
    """Find a move, into ``w.best``; returns what it is worth net, 0 = none, -1 = not all were looked at.

    A source that has nothing to give to the least loaded hosts is passed over from then on, until nothing
    else is found.
    """
    window = w.options.window_hosts
    n_src, n_dst = _rank_hosts(p, w)
    _find_emptiest(w, p, n_dst)
    few = min(window, n_dst)
    best = WORTH
    looked: Any = np.int64(0)
    for i in range(n_src):
        a = w.src[i]
        if w.spent[a]:
            continue
        found = _scan_source(p, s, w, a, few, left, best)
        w.spent[a] = found <= best and best == WORTH
        best = max(best, found)
        looked += 1
        if looked >= window and best > WORTH:
            return best
    if best > WORTH:
        return best
    if w.tally.scans >= MAX_SCANS:
        return -1.0
    w.tally.scans += 1
    for i in range(n_src):
        best = _scan_source(p, s, w, w.src[i], n_dst, left, best)
    return best if best > WORTH else 0.0


@kernel
def _order_best(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    n = list_unit(w, w.best[0], True)
    a, b = w.home[w.best[0]], w.best[1]
    w.stat.gain += move_gain(p, w, n, a, b)
    w.stat.cost += move_cost(p, s, w, n, a, b)
    commit(p, w, n, b)


@kernel
def _balance(p: ClusterParams, s: ClusterState, w: DrsState) -> Any:
    """Greedy moves to the targets; returns why it ended."""
    _list_counted(w)
    w.spent[:] = 0
    while True:
        if _reached(w):
            return BALANCED
        left = w.options.max_moves - w.tally.moves
        if left <= 0:
            return LIMIT
        best = _find(p, s, w, left)
        if best < 0.0:
            return SEARCHED
        if best == 0.0:
            return NO_BENEFIT
        _order_best(p, s, w)


@kernel
def _chance(p: ClusterParams, w: DrsState) -> Any:
    """Variance of CPU and memory load that hosts have if VMs are dealt among them at random.

    A VM that is x of a host is on one of n hosts with probability 1 / n: variance x^2 / n * (1 - 1 / n).
    """
    cpu, mem, n = 0.0, 0.0, max(1.0, w.stat.on)
    for v in range(w.home.shape[0]):
        h = w.home[v]
        if h >= 0 and w.counted[h]:
            x, y = cpu_on(p, w, v, h) * p.host_inv_cpu[h], w.vm_mem[v] * p.host_inv_mem[h]
            cpu += x * x
            mem += y * y
    return cpu / n * (1.0 - 1.0 / n), mem / n * (1.0 - 1.0 / n)


@kernel
def _threshold(level: float, n: float, chance: float) -> Any:
    """A level's threshold for n hosts: deviations of independent causes add up by their squares."""
    return min(level, np.sqrt(level * level / n + chance))


@kernel
def _set_thresholds(p: ClusterParams, w: DrsState) -> None:
    """The thresholds for so many hosts, and the targets below them by the hysteresis."""
    st, f = w.stat, w.rules
    n, kept, cpu, mem = max(1.0, st.on), 1.0 - f.hysteresis, 0.0, 0.0
    if n > FORM_HOSTS and (f.by_hosts_cpu or f.by_hosts_mem):
        cpu, mem = _chance(p, w)
    st.theta_cpu, st.target_cpu = f.theta_cpu, f.theta_cpu * kept
    if f.by_hosts_cpu:
        st.theta_cpu = _threshold(f.theta_cpu, n, cpu)
        st.target_cpu = _threshold(f.theta_cpu * kept, n, cpu)
    st.theta_mem, st.target_mem = f.theta_mem, f.theta_mem * kept
    if f.by_hosts_mem:
        st.theta_mem = _threshold(f.theta_mem, n, mem)
        st.target_mem = _threshold(f.theta_mem * kept, n, mem)


@kernel
def plan_corrections(p: ClusterParams, s: ClusterState, w: DrsState, time_to_balance: bool) -> Any:
    """Read the state, order what must be done; returns whether the trigger says to balance.

    Args:
        s: State (read-only handle).
        w: ``DrsState`` (handle), with its input; the orders stand in ``out_vm`` and ``out_host``.
        time_to_balance: Whether this interval is one of those in which the trigger is looked at.
    """
    prepare(p, s, w)
    _set_thresholds(p, w)
    correct(p, s, w)
    relieve(p, s, w)
    triggered = _triggered(w)
    w.stat.after_cpu, w.stat.after_mem = _imbalance(w)
    w.tally.reason = BALANCED if time_to_balance else IDLE
    return time_to_balance and triggered


@kernel
def plan_round(p: ClusterParams, s: ClusterState, w: DrsState, time_to_balance: bool) -> None:
    """Plan one interval, greedily; arguments as of ``plan_corrections``."""
    if plan_corrections(p, s, w, time_to_balance):
        w.tally.reason = _balance(p, s, w)


@kernel
def plan_evacuations(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Plan a batch of moves that empties the hosts of ``w.empty``, and nothing else."""
    prepare(p, s, w)
    empty_hosts(p, s, w)


@kernel
def follow(p: ClusterParams, s: ClusterState, w: DrsState, target: Any) -> None:
    """Order the moves of a plan for balance, as far as they are allowed; none if they do not pay together.

    Args:
        s: State (read-only handle).
        w: ``DrsState`` (handle) after ``plan_corrections``.
        target: Host of every VM in the plan, -1 = stays, (V,).
    """
    for v in range(target.shape[0]):
        a, b = w.home[v], target[v]
        if b < 0 or a < 0 or a == b or not w.free[v]:
            continue
        n = list_unit(w, v, True)
        if n == 0 or w.tally.moves + n > w.options.max_moves:
            continue
        if max(w.moves[a], w.moves[b]) + n > w.options.max_per_host:
            continue
        if may_go(p, s, w, n, b, True, False):
            w.stat.gain += move_gain(p, w, n, a, b)
            w.stat.cost += move_cost(p, s, w, n, a, b)
            commit(p, w, n, b)
    w.tally.reason = BALANCED if _reached(w) else LIMIT
    if w.stat.gain <= w.stat.cost:
        w.tally.moves = w.tally.mandatory + w.tally.relief
        w.tally.reason = NO_BENEFIT
        w.stat.after_cpu = w.stat.before_cpu
        w.stat.after_mem = w.stat.before_mem
