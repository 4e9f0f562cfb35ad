"""The kernels of DPM: where VMs will be, relief of overloaded hosts, evacuation, following a target.

A plan is built in ``DpmWork``: ``dest[v]`` is the host that VM v is ordered to, and the sums of every host
follow each order at once. Memory, reservations and functions are held on both ends while a VM moves, so they
are only ever added; the orders of a plan are therefore legal in any sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.jit.by_model import only_full
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.engine.cpu import SHORTAGE
from virtgym.envs.sim.engine.orders import (
    check_move_beside,
    fits_arrival,
    host_accepts,
    may_go_on,
    vm_movable,
)
from virtgym.envs.sim.engine.waiting import is_hopeless, no_failures, note_failure
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import PENDING, ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.nodes import (
    LEAST_MHZ,
    begin_nodes,
    coming_loss,
    expect_on_nodes,
    fits_nodes,
    freed_loss,
    host_loss,
    move_nodes,
)
from ..planning.positions import group_by_home
from ..planning.power import host_watts
from ..planning.room import begin_need, begin_room, fits_need, hold_room, may_come
from ..planning.rules import count_apart, rules_allow
from .workspace import (
    FOR_FAILOVER,
    DpmWork,
)

LEAST_EVIL = 1e12
"""Value of ``fits``'s ``high``: a VM may go where memory costs work too, if it costs less than now in all."""


@kernel
def gather(p: ClusterParams, s: ClusterState, w: DpmWork) -> None:
    """Start a plan: nothing moves; sums over the VMs at home, and which hosts take VMs."""
    for sums in (w.now, w.soon, w.mean, w.var, w.mem):
        sums[:] = 0.0
    w.n_out[:] = 0
    w.received[:] = 0
    w.tally[:] = 0
    w.apart_count[:] = 0
    for v in range(s.vm_state.shape[0]):
        h = home_of(s, v)
        w.home[v] = h
        w.dest[v] = -1
        if h >= 0:
            _add(w, v, h, 1.0)
            count_apart(w, v, h, 1)
    group_by_home(w)
    begin_room(s, w)
    begin_need(p, s, w)
    begin_nodes(p, s, w, w.vm_now)
    for h in range(w.n_home.shape[0]):
        w.opened[h] = 0
        w.accepts[h] = host_accepts(p, s, h) == 0 and not w.closed[h]


@kernel
def _add(w: DpmWork, v: int, h: int, sign: float) -> None:
    w.now[h] += sign * w.vm_now[v]
    w.soon[h] += sign * w.vm_soon[v]
    w.mean[h] += sign * w.vm_mean[v]
    w.var[h] += sign * w.vm_var[v]
    w.mem[h] += sign * w.vm_need_mib[v]


@kernel
def order_move(p: ClusterParams, w: DpmWork, v: int, h: int) -> None:
    """Put a move into the plan; a VM that the plan moves already goes there instead."""
    old = w.home[v]
    if w.dest[v] >= 0:
        old = w.dest[v]
        w.received[old] -= 1
        hold_room(p, w, v, old, -1.0)
        count_apart(w, v, old, -1)
        w.tally.moves -= 1
    else:
        w.n_out[old] += 1
    _add(w, v, old, -1.0)
    if h == w.home[v]:
        w.dest[v] = -1
        w.n_out[h] -= 1
    else:
        w.dest[v] = h
        w.received[h] += 1
        hold_room(p, w, v, h, 1.0)
        count_apart(w, v, h, 1)  # and still where it leaves: rules hold all the time that VMs move
        w.tally.moves += 1
    move_nodes(p, w, v, h)
    _add(w, v, h, 1.0)


@kernel
def stays(w: DpmWork, h: int) -> Any:
    """VMs on a host once the plan is carried out."""
    return w.n_home[h] - w.n_out[h] + w.received[h]


@kernel
def expected_peak(w: DpmWork, mean: float, var: float) -> Any:
    """Load that a host is planned for: expected load and a margin of so many standard deviations, MHz."""
    return mean + w.rules.risk * np.sqrt(max(var, 0.0))


@kernel
def fast_enough(p: ClusterParams, w: DpmWork, v: int, h: int, for_good: bool) -> Any:
    """Whether a host's cores are as fast as a VM's vCPUs ask for.

    A vCPU never gets more than one core, whatever the host has free: no margin among VMs helps one whose host
    is slow when it comes to ask for all that it has.

    Args:
        w: The plan.
        v: VM.
        h: Host.
        for_good: Whether they must be as fast as the VM may ever ask for, or as those where it is; else as
            it asks for now.
    """
    most = p.vm_vcpus[v] * p.host_core_mhz[h] * SHORTAGE
    if w.vm_now[v] > most:
        return False
    return not for_good or w.vm_peak[v] <= most or p.host_core_mhz[h] >= p.host_core_mhz[w.home[v]]


@kernel
def _goes_along(w: DpmWork, v: int, h: int) -> Any:
    """Whether a VM goes where the others of its group and host go; who calls moves all of them or none."""
    if w.aff[v] >= 0:
        home = w.home[v]
        for i in range(w.first[home], w.first[home + 1]):
            u = w.vm_of[i]
            if u != v and w.aff[u] == w.aff[v] and w.dest[u] >= 0 and w.dest[u] != h:
                return False
    return True


@kernel
def _more_excess_mib(w: DpmWork, v: int, h: int) -> Any:
    """Growth of the memory that costs work, on both hosts, if a VM goes from its home to a host, MiB."""
    a, need = w.home[v], w.vm_need_mib[v]
    before = max(0.0, w.need_mib[h] - w.need_most[h]) + max(0.0, w.mem[a] - w.need_most[a])
    after = max(0.0, w.need_mib[h] + need - w.need_most[h]) + max(0.0, w.mem[a] - need - w.need_most[a])
    return after - before


@kernel
def _need_allows(p: ClusterParams, w: DpmWork, v: int, h: int, fill: float, high: float) -> Any:
    if high >= LEAST_EVIL:
        return _more_excess_mib(w, v, h) < -1.0
    return fits_need(p, w, v, h, min(fill, 1.0))


@kernel
def fits(p: ClusterParams, s: ClusterState, w: DpmWork, v: int, h: int, fill: float, high: float) -> Any:
    """Whether a VM may be ordered to a host: load now and expected, speed of its cores, and every rule.

    Args:
        w: The plan.
        v: VM.
        h: Host.
        fill: Share of its CPU that may be asked for now.
        high: Share of its CPU that may be expected; a host that is otherwise empty takes any VM. From 1e6 on
            it is the last resort: then nothing is asked of what is to come; from ``LEAST_EVIL`` on memory
            may cost work there, if it costs less in all.
    """
    capacity = p.host_cpu_mhz[h]
    if w.now[h] + w.vm_now[v] > fill * capacity or w.soon[h] + w.vm_soon[v] > fill * capacity:
        return False
    if not fast_enough(p, w, v, h, high < 1e6) or not _need_allows(p, w, v, h, fill, high):
        return False
    if stays(w, h) > 0:
        mean = w.mean[h] + w.vm_mean[v]
        if mean > high * capacity or expected_peak(w, mean, w.var[h] + w.vm_var[v]) > high * capacity:
            return False
    if not rules_allow(w, v, h, True) or not _goes_along(w, v, h):
        return False
    if s.vm_last_from[v] == h and s.clock.now_s - s.vm_last_move_s[v] <= w.rules.settle_s:
        return False
    legal = may_come(p, s, w, v, h) if w.opened[h] else check_move_beside(p, s, w, v, h) == 0
    return legal and fits_nodes(p, w, v, h)


@kernel
def collect(w: DpmWork) -> None:
    """List the hosts that may receive VMs: those that take VMs and hold some in the plan."""
    n = 0
    for h in range(w.accepts.shape[0]):
        if w.accepts[h] and stays(w, h) > 0:
            w.cand[n] = h
            n += 1
    w.tally.candidates = n


@kernel
def find_host(
    p: ClusterParams, s: ClusterState, w: DpmWork, v: int, avoid: int, fill: float, high: float
) -> Any:
    """The host whose power rises least by a VM, -1 = none; ties go to the lowest index.

    By ``LEAST_EVIL`` it is the one with which memory that costs work falls most. Hosts without VMs are not
    considered, see ``open_host``.
    """
    best, least = -1, np.inf
    for i in range(w.tally.candidates):
        h = w.cand[i]
        if h == avoid or not w.accepts[h]:
            continue
        if w.now[h] + w.vm_now[v] > fill * p.host_cpu_mhz[h] or not _need_allows(p, w, v, h, fill, high):
            continue  # most hosts that will not do, for little
        if high >= LEAST_EVIL:
            cost = _more_excess_mib(w, v, h)
        else:
            cost = host_watts(p, h, w.mean[h] + w.vm_mean[v]) - host_watts(p, h, w.mean[h])
        if cost < least and fits(p, s, w, v, h, fill, high):
            best, least = h, cost
    return best


@kernel
def switch_on(w: DpmWork, h: int) -> None:
    """Put a switch-on into the plan."""
    w.opened[h] = 1
    w.accepts[h] = 1
    w.out_on[w.tally.on] = h
    w.tally.on += 1


@kernel
def rested(s: ClusterState, w: DpmWork, h: int) -> Any:
    """Whether a host has been off long enough to be switched on again without need."""
    return s.clock.now_s - w.host_off_s[h] >= w.rules.min_off_s


@kernel
def open_host(p: ClusterParams, s: ClusterState, w: DpmWork, v: int, fill: float) -> Any:
    """An empty host for a VM: one that is on, else one that is switched on; -1 = none.

    Of the hosts that are off, those that have rested come first, then the thriftiest.
    """
    tired = -1
    for h in w.rank:
        if w.accepts[h] and stays(w, h) == 0 and fits(p, s, w, v, h, fill, 1.0):
            return h
    for h in w.rank:
        if w.accepts[h] or w.closed[h] or may_go_on(p, s, h) != 0:
            continue
        w.opened[h] = 1
        ok = fits(p, s, w, v, h, fill, 1.0)
        w.opened[h] = 0
        if ok and rested(s, w, h):
            switch_on(w, h)
            return h
        if ok and tired < 0:
            tired = h
    if tired >= 0:
        switch_on(w, tired)
    return tired


@kernel
def _list_host(w: DpmWork, c: int) -> None:
    """Make a host that was empty a candidate."""
    if stays(w, c) == 0:
        w.cand[w.tally.candidates] = c
        w.tally.candidates += 1


@kernel
def _choose_vm(
    p: ClusterParams, s: ClusterState, w: DpmWork, h: int, excess: float, excess_mib: float
) -> Any:
    """The VM to take off a host: of those that suffice alone the quickest to copy, else the largest.

    Among VMs of equal memory the one that is expected to ask for most goes: that relieves the host longest.
    VMs of an affinity group stay. The largest is that of what the host is short of most.
    """
    best, best_mem, best_size = -1, np.inf, -1.0
    for i in range(w.first[h], w.first[h + 1]):
        v = w.vm_of[i]
        if w.dest[v] >= 0 or w.key[v] < 0.0 or w.aff[v] >= 0 or vm_movable(s, v) != 0:
            continue
        size = max(w.vm_now[v], w.vm_soon[v])
        enough = size >= excess and w.vm_need_mib[v] >= excess_mib
        if excess_mib * p.host_inv_mem[h] > max(excess, 0.0) * p.host_inv_cpu[h]:
            size = w.vm_need_mib[v]
        mem = p.vm_mem_mib[v] if enough else 1e18 - size
        if mem < best_mem or (mem == best_mem and w.vm_mean[v] > best_size):
            best, best_mem, best_size = v, mem, w.vm_mean[v]
    return best


@only_full
@kernel
def _expect_on_nodes(p: ClusterParams, w: DpmWork, fill: float, high: float) -> None:
    """Write what nodes must have for every VM, so that they are filled no more than hosts are.

    Args:
        w: The plan.
        fill: Share of its CPU that may be asked for now and soon.
        high: Share of its CPU that may be expected.
    """
    if not p.has_numa:
        return
    expected = (w.vm_mean + w.rules.risk * np.sqrt(np.maximum(w.vm_var, 0.0))) / high
    expect_on_nodes(w, np.maximum(np.maximum(w.vm_now, w.vm_soon) / fill, expected))


@kernel
def _choose_for_nodes(p: ClusterParams, s: ClusterState, w: DpmWork, h: int) -> Any:
    """The VM without which a host's VMs lose least work to remote memory, -1 = none that changes that."""
    best, most = -1, LEAST_MHZ
    for i in range(w.first[h], w.first[h + 1]):
        v = w.vm_of[i]
        if w.dest[v] >= 0 or w.key[v] < 0.0 or w.aff[v] >= 0 or vm_movable(s, v) != 0:
            continue
        freed = freed_loss(p, w, v)
        if freed > most:
            best, most = v, freed
    return best


@kernel
def relieve(p: ClusterParams, s: ClusterState, w: DpmWork) -> None:
    """Take VMs off every host that is, or will soon be, asked for more than it should, CPU or memory.

    Hosts by their excess of CPU, the largest first; from each host VMs go until it is asked for no more than
    ``rules.relief`` of its CPU and for no memory that costs work. A VM that fits nowhere stays. Then those
    go whose NUMA node is asked for too much.
    """
    n = 0
    _expect_on_nodes(p, w, w.rules.overload, np.inf)
    for h in range(w.now.shape[0]):
        load = max(w.now[h], w.soon[h])
        short = load > w.rules.overload * p.host_cpu_mhz[h] or w.mem[h] > w.need_most[h]
        if s.host_power_state[h] == ON and (short or host_loss(p, w, h) > LEAST_MHZ):
            w.order[n] = h
            w.key[h] = p.host_cpu_mhz[h] - load
            w.accepts[h] = w.accepts[h] and not short  # one that is short on a node may take more on another
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    for i in range(n):
        w.hosts[i] = w.order[i]
    _expect_on_nodes(p, w, w.rules.fill_share, w.rules.high)
    collect(w)
    for i in range(n):
        _relieve_host(p, s, w, w.hosts[i])


@kernel
def _relieve_host(p: ClusterParams, s: ClusterState, w: DpmWork, h: int) -> None:
    fill, high = w.rules.fill_share, w.rules.high
    for i in range(w.first[h], w.first[h + 1]):
        w.key[w.vm_of[i]] = 0.0
    while w.tally.moves < w.rules.max_moves:
        excess = max(w.now[h], w.soon[h]) - w.rules.relief * p.host_cpu_mhz[h]
        excess_mib = w.mem[h] - w.need_most[h]
        for_nodes = excess <= 0.0 and excess_mib <= 0.0
        if for_nodes:
            v = _choose_for_nodes(p, s, w, h)
        else:
            v = _choose_vm(p, s, w, h, excess, excess_mib)
        if v < 0:
            break
        c = find_host(p, s, w, v, h, fill, high)
        if c < 0:
            c = open_host(p, s, w, v, 1.0)
        if c < 0:
            c = find_host(p, s, w, v, h, fill, 1e9)
        if c < 0 and excess_mib > 0.0:
            c = find_host(p, s, w, v, h, fill, LEAST_EVIL)
        if c < 0 or (for_nodes and coming_loss(p, w, v, c) > -LEAST_MHZ):
            w.key[v] = -1.0  # fits nowhere, or saves nothing: try the next one
            continue
        _list_host(w, c)
        order_move(p, w, v, c)


@kernel
def open_for_load(
    p: ClusterParams, s: ClusterState, w: DpmWork, needed_mhz: float, needed_mib: float, spare: int
) -> None:
    """Switch hosts on until the hosts that take VMs have enough CPU and memory, and enough of them are empty.

    Args:
        w: The plan.
        needed_mhz: CPU that the hosts that take VMs must have, MHz.
        needed_mib: Memory that they must have free of cost, MiB; 0 where memory is not multiplexed.
        spare: Hosts that must take VMs and hold none.
    """
    have, have_mib, empty = 0.0, 0.0, 0
    for h in range(w.accepts.shape[0]):
        takes = w.accepts[h] or (w.n_home[h] > 0 and host_accepts(p, s, h) == 0)
        if takes and not w.closed[h]:
            have += p.host_cpu_mhz[h]
            have_mib += w.need_most[h]
            empty += w.accepts[h] and stays(w, h) == 0
    for round_ in range(2):
        for h in w.rank:
            if have >= needed_mhz and have_mib >= needed_mib and empty >= spare:
                return
            if w.accepts[h] or w.closed[h] or w.n_home[h] > 0 or may_go_on(p, s, h) != 0:
                continue
            if round_ == 0 and not rested(s, w, h):
                continue
            switch_on(w, h)
            have += p.host_cpu_mhz[h]
            have_mib += w.need_most[h]
            empty += 1


@kernel
def may_wait_for(p: ClusterParams, s: ClusterState, w: DpmWork, v: int, h: int) -> Any:
    """Whether a waiting VM may go to a host: none in maintenance, to those for failover restarts only.

    Rules are kept; what others of its affinity group that wait need is left to whoever places them.
    """
    if not rules_allow(w, v, h, False):
        return False
    restarts = p.has_failures and s.vm_restart[v] > 0
    return w.closed[h] == 0 or (w.closed[h] == FOR_FAILOVER and restarts)


@kernel
def open_for_waiting(p: ClusterParams, s: ClusterState, w: DpmWork) -> Any:
    """Switch a host on for every VM that waits and fits on no host that is on; returns the VMs that wait."""
    waiting = 0
    failed = no_failures(), no_failures()  # of those that arrive and that restart: others may take them
    for v in range(s.vm_state.shape[0]):
        if s.vm_state[v] != PENDING or s.vm_dest[v] >= 0:
            continue
        waiting += 1
        memory = failed[1] if p.has_failures and s.vm_restart[v] > 0 else failed[0]
        if is_hopeless(p, memory, v):
            continue
        found = False
        for h in range(w.accepts.shape[0]):
            if host_accepts(p, s, h) == 0 and fits_arrival(p, s, v, h) == 0 and may_wait_for(p, s, w, v, h):
                found = True
                break
        if found:
            continue
        for h in w.rank:
            off = not w.opened[h] and may_go_on(p, s, h) == 0 and may_wait_for(p, s, w, v, h)
            if off and fits_arrival(p, s, v, h) == 0:
                switch_on(w, h)
                found = True
                break
        if not found:
            note_failure(memory, v)
    return waiting
