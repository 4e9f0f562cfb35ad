"""What DRS knows of a cluster, what it may do there, and what a move would bring: kernels.

The imbalance of a resource is the standard deviation of the hosts' loads x_h = min(1, sum of entitlements /
capacity) over the hosts that are on; a host cannot give more than it has, so two hosts that are both full are
equally loaded. So that nothing hides there, a move may only fill a host that is less loaded then than the
one that it relieves. A move of a unit (a VM, or VMs that stay together) from host a to host b is worth

    horizon * [n * (E before - E after) + (unserved before - unserved after) / mean capacity]     host-seconds

with E the imbalance of CPU and memory above their targets, n the hosts counted, and what is asked of a and b
beyond their capacity as unserved. It costs, over the time t of its copy,

    t * [cpu_loss * cpu_a / C_a + dest_share * cpu_b / C_b + copy_cores * (core_a / C_a + core_b / C_b)]

since the VM loses a share of its CPU, the destination works for the copy, and both ends send and receive.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.cpu import SHORTAGE
from virtgym.envs.sim.engine.orders import check_move_beside, vm_movable
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import MIG_NONE, ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.moves import copy_cost
from ..planning.nodes import begin_nodes, fits_nodes, move_nodes
from ..planning.positions import group_by_home
from ..planning.room import begin_need, begin_room, fits_need, hold_room, measure_need
from ..planning.rules import count_apart, rules_allow
from .state import DrsState


@kernel
def _movable_for_balance(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """A migration would drop the secondary of a protected VM; one with a device cannot migrate."""
    if p.has_standby and s.vm_secondary[v] >= 0:
        return False
    return not (p.has_io and p.vm_pinned[v])


@kernel
def share(load: float, inverse: float) -> Any:
    """Load of a host as a share of what it has, at most 1."""
    return min(1.0, load * inverse)


@kernel
def cpu_on(p: ClusterParams, w: DrsState, v: int, h: int) -> Any:
    """CPU that a VM is entitled to on a host, MHz: no more than its vCPUs can do there."""
    return min(w.vm_cpu[v], p.vm_vcpus[v] * p.host_core_mhz[h])


@kernel
def _load_vms(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Homes, entitlements and what may be moved."""
    now = s.clock.now_s
    for v in range(s.vm_state.shape[0]):
        h = home_of(s, v)
        w.home[v] = h
        w.movable[v] = h >= 0 and vm_movable(s, v) == 0
        rested = now - s.vm_last_move_s[v] > w.rules.residence
        w.free[v] = w.movable[v] and rested and _movable_for_balance(p, s, v)
        w.vm_mem[v] = p.vm_mem_mib[v]
        if p.has_tiers:
            active = s.vm_active_mib[v]
            w.vm_mem[v] = active + w.rules.idle_mem * max(0.0, s.vm_touched_mib[v] - active)
        if h < 0:
            continue
        w.load_cpu[h] += cpu_on(p, w, v, h)
        w.load_mem[h] += w.vm_mem[v]
        if s.vm_mig[v] != MIG_NONE and s.vm_host[v] >= 0:
            w.moves[s.vm_host[v]] += 1
            w.moves[s.vm_dest[v]] += 1
        count_apart(w, v, h, 1)


@kernel
def prepare(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Read the state: homes, loads, residents, what is under way; nothing is ordered yet."""
    w.load_cpu[:] = 0.0
    w.load_mem[:] = 0.0
    w.moves[:] = 0
    w.n_free[:] = 0
    w.apart_count[:] = 0
    w.tally[:] = 0
    w.stat[:] = 0.0
    begin_room(s, w)
    measure_need(p, s, w)
    begin_need(p, s, w)
    begin_nodes(p, s, w, w.vm_cpu)
    _load_vms(p, s, w)
    group_by_home(w)
    for v in range(w.home.shape[0]):
        if w.home[v] >= 0:
            w.n_free[w.home[v]] += w.free[v]
    _add_up(p, s, w)


@kernel
def _add_up(p: ClusterParams, s: ClusterState, w: DrsState) -> None:
    """Sums of loads over the hosts that are balanced."""
    capacity = 0.0
    for h in range(w.counted.shape[0]):
        w.counted[h] = s.host_power_state[h] == ON and not s.host_drain[h] and not w.closed[h]
        if not w.counted[h]:
            continue
        cpu, mem = share(w.load_cpu[h], p.host_inv_cpu[h]), share(w.load_mem[h], p.host_inv_mem[h])
        w.stat.on += 1.0
        w.stat.cpu += cpu
        w.stat.cpu2 += cpu * cpu
        w.stat.mem += mem
        w.stat.mem2 += mem * mem
        capacity += p.host_cpu_mhz[h]
    w.stat.mean_mhz = capacity / max(1.0, w.stat.on)


@kernel
def deviation(n: float, total: float, squares: float) -> Any:
    """Standard deviation of n loads, from their sum and their sum of squares."""
    if n <= 0.0:
        return 0.0
    mean = total / n
    return math.sqrt(max(0.0, squares / n - mean * mean))


@kernel
def _above(deviates: float, target: float) -> Any:
    return max(0.0, deviates - target)


@kernel
def is_back_move(s: ClusterState, w: DrsState, v: int, h: int) -> Any:
    """Whether a VM would return to the host that it left a short while ago."""
    return s.vm_last_from[v] == h and s.clock.now_s - s.vm_last_move_s[v] <= w.rules.window


@kernel
def _slower(p: ClusterParams, w: DrsState, v: int, h: int) -> Any:
    """Whether a host's cores cannot give a VM what its present ones can."""
    return cpu_on(p, w, v, h) * SHORTAGE < cpu_on(p, w, v, w.home[v])


@kernel
def may_go(p: ClusterParams, s: ClusterState, w: DrsState, n: int, h: int, wishes: bool, back: bool) -> Any:
    """Whether the n VMs of ``w.unit`` may all move to a host, by legality, room and rules.

    Args:
        s: State (read-only handle).
        w: ``DrsState`` (handle).
        n: VMs of the unit; those that are at home there already are passed over.
        h: Destination.
        wishes: Whether a wish (``should``) that is kept now may not be broken.
        back: Whether a VM may return to where it came from within the window, and go where memory costs
            work or cores are slower than it asks for: the last resort of what must be done.
    """
    taken: Any = np.int64(0)
    fits = True
    while fits and taken < n:
        v = w.unit[taken]
        if w.home[v] != h:
            fits = rules_allow(w, v, h, wishes) and (back or not is_back_move(s, w, v, h))
            fits = fits and (back or (fits_need(p, w, v, h, 1.0) and not _slower(p, w, v, h)))
            fits = fits and check_move_beside(p, s, w, v, h) == 0
            fits = fits and (back or fits_nodes(p, w, v, h))
            if fits and n > 1:
                hold_room(p, w, v, h, 1.0)
        taken += fits
    while n > 1 and taken > 0:
        taken -= 1
        if w.home[w.unit[taken]] != h:
            hold_room(p, w, w.unit[taken], h, -1.0)
    return fits


@kernel
def list_unit(w: DrsState, v: int, whole: bool) -> Any:
    """Write the VMs that must move with a VM to ``w.unit``; returns their number, 0 = they cannot.

    Args:
        w: ``DrsState`` (handle).
        v: VM.
        whole: For balance: the group must be together, every member free to move, and ``v`` its first.
    """
    g = w.aff[v]
    if g < 0:
        w.unit[0] = v
        return np.int64(w.free[v] if whole else w.movable[v])
    n: Any = np.int64(0)
    for k in range(w.aff_first[g], w.aff_first[g + 1]):
        m = w.aff_vm[k]
        if w.home[m] != w.home[v]:
            if whole and w.home[m] >= 0:
                return np.int64(0)
            continue
        if not (w.free[m] if whole else w.movable[m]):
            return np.int64(0)
        w.unit[n] = m
        n += 1
    return n if not whole or w.unit[0] == v else np.int64(0)


@kernel
def move_cost(p: ClusterParams, s: ClusterState, w: DrsState, n: int, a: int, b: int) -> Any:
    """Cost of moving the unit from a to b, host-seconds."""
    ends = w.rules.copy_cores * (
        p.host_core_mhz[a] * p.host_inv_cpu[a] + p.host_core_mhz[b] * p.host_inv_cpu[b]
    )
    total = 0.0
    for i in range(n):
        v = w.unit[i]
        lost = p.mig_cpu_loss * cpu_on(p, w, v, a) * p.host_inv_cpu[a]
        work = p.mig_dest_share * cpu_on(p, w, v, b) * p.host_inv_cpu[b]
        seconds, _ = copy_cost(p, s, v, a, b)
        total += seconds * (lost + work + ends)
    return total


@kernel
def move_gain(p: ClusterParams, w: DrsState, n: int, a: int, b: int) -> Any:
    """What moving the unit from a to b is worth over the horizon, host-seconds; both are balanced hosts."""
    out = 0.0
    come = 0.0
    mem = 0.0
    for i in range(n):
        v = w.unit[i]
        out += cpu_on(p, w, v, a)
        come += cpu_on(p, w, v, b)
        mem += w.vm_mem[v]
    st = w.stat
    la, lb = w.load_cpu[a], w.load_cpu[b]
    ia, ib = p.host_inv_cpu[a], p.host_inv_cpu[b]
    if (lb + come) * ib > max(1.0, (la - out) * ia):
        return -np.inf  # the destination would be full, and fuller than where the unit comes from
    a0, a1, b0, b1 = share(la, ia), share(la - out, ia), share(lb, ib), share(lb + come, ib)
    cpu = st.cpu + (a1 - a0) + (b1 - b0)
    cpu2 = st.cpu2 + (a1 * a1 - a0 * a0) + (b1 * b1 - b0 * b0)
    drop = _above(deviation(st.on, st.cpu, st.cpu2), st.target_cpu)
    drop -= _above(deviation(st.on, cpu, cpu2), st.target_cpu)
    if st.target_mem < np.inf:
        ia, ib = p.host_inv_mem[a], p.host_inv_mem[b]
        a0, a1 = share(w.load_mem[a], ia), share(w.load_mem[a] - mem, ia)
        b0, b1 = share(w.load_mem[b], ib), share(w.load_mem[b] + mem, ib)
        m = st.mem + (a1 - a0) + (b1 - b0)
        m2 = st.mem2 + (a1 * a1 - a0 * a0) + (b1 * b1 - b0 * b0)
        drop += _above(deviation(st.on, st.mem, st.mem2), st.target_mem)
        drop -= _above(deviation(st.on, m, m2), st.target_mem)
    ca, cb = p.host_cpu_mhz[a], p.host_cpu_mhz[b]
    relief = _above(la, ca) - _above(la - out, ca) + _above(lb, cb) - _above(lb + come, cb)
    return w.rules.horizon * (st.on * drop + relief / st.mean_mhz)


@kernel
def _load_host(p: ClusterParams, w: DrsState, h: int, sign: float) -> None:
    """Add a host to the sums of loads, or take it out."""
    if not w.counted[h]:
        return
    cpu, mem = share(w.load_cpu[h], p.host_inv_cpu[h]), share(w.load_mem[h], p.host_inv_mem[h])
    w.stat.cpu += sign * cpu
    w.stat.cpu2 += sign * cpu * cpu
    w.stat.mem += sign * mem
    w.stat.mem2 += sign * mem * mem


@kernel
def commit(p: ClusterParams, w: DrsState, n: int, b: int) -> None:
    """Order the moves of the n VMs of ``w.unit`` to host b, and see the cluster as it will be then."""
    for i in range(n):
        v = w.unit[i]
        a = w.home[v]
        if a == b:
            continue
        _load_host(p, w, a, -1.0)
        _load_host(p, w, b, -1.0)
        w.load_cpu[a] -= cpu_on(p, w, v, a)
        w.load_cpu[b] += cpu_on(p, w, v, b)
        w.load_mem[a] -= w.vm_mem[v]
        w.load_mem[b] += w.vm_mem[v]
        _load_host(p, w, a, 1.0)
        _load_host(p, w, b, 1.0)
        hold_room(p, w, v, b, 1.0)
        move_nodes(p, w, v, b)
        count_apart(w, v, a, -1)
        count_apart(w, v, b, 1)
        w.n_free[a] -= w.free[v]
        w.moves[a] += 1
        w.moves[b] += 1
        w.movable[v] = 0
        w.free[v] = 0
        w.home[v] = b
        w.out_vm[w.tally.moves] = v
        w.out_host[w.tally.moves] = b
        w.tally.moves += 1
