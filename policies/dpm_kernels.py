"""The kernels of DPM: where VMs will be, relief of overloaded hosts, evacuation, following a target.

A plan is built in ``DpmWork``: ``dest[v]`` is the host that VM v is ordered to, and the sums of every host
follow each order at once. Memory, reservations and functions are held on both ends while a VM moves, so they
are only ever added; the orders of a plan are therefore legal in any sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.cpu import SHORTAGE
from virtgym.envs.sim.kernels import kernel
from virtgym.envs.sim.orders import (
    check_move,
    fits_arrival,
    host_accepts,
    host_suits,
    may_go_on,
    vm_can_follow,
)
from virtgym.envs.sim.power import ON
from virtgym.envs.sim.precopy import PULL
from virtgym.envs.sim.state import MIG_NONE, PENDING, RUNNING, STARTING

from .dpm_work import (
    FOR_FAILOVER,
    K_FILL,
    K_HIGH,
    K_MAX_MOVES,
    K_MIN_OFF_S,
    K_OVERLOAD,
    K_RELIEF,
    K_SETTLE_S,
    K_SPREAD,
    N_CAND,
    N_MOVES,
    N_ON,
    N_RELIEVED,
)
from .rounds import group_by_home
from .sorting import sort_ascending

__all__ = [
    "collect",
    "expected_peak",
    "find_host",
    "fits",
    "gather",
    "movable",
    "open_for_load",
    "open_for_waiting",
    "order_move",
    "power",
    "relieve",
    "stays",
    "switch_on",
]

MEM_SLACK = 1.0 + 5e-10
"""Half the slack of the simulator's own check: what the plan accepts is never refused."""

I8 = NDArray[np.int64]


@kernel
def _home(p: Any, s: Any, v: int) -> Any:
    """Host of a VM now, or after the migration or boot under way; -1 = none."""
    state = s.vm_state[v]
    if state == STARTING:
        return s.vm_host[v]
    if state == RUNNING:
        if s.vm_mig[v] == MIG_NONE or (p.has_precopy and s.copy_phase[v] == PULL):
            return s.vm_host[v]
        return s.vm_dest[v]
    return s.vm_dest[v] if state == PENDING else np.int32(-1)


@kernel
def gather(p: Any, s: Any, w: Any) -> None:
    """Start a plan: nothing moves; sums over the VMs at home, and which hosts take VMs."""
    for sums in (w.now, w.soon, w.mean, w.var):
        sums[:] = 0.0
    w.tally[:] = 0
    w.n_home[:] = 0
    for v in range(s.vm_state.shape[0]):
        h = _home(p, s, v)
        w.home[v] = h
        w.dest[v] = -1
        if h >= 0:
            w.n_home[h] += 1
            _add(w, v, h, 1.0)
    group_by_home(w)
    for h in range(w.n_home.shape[0]):
        w.opened[h] = 0
        w.accepts[h] = host_accepts(p, s, h) == 0 and not w.closed[h]
        w.mem[h] = s.host_mem_mib[h]
        if p.has_cpu:
            w.reserved[h] = s.host_reserved_mhz[h]
        if p.has_tiers:
            w.mem_reserved[h] = s.host_mem_reserved_mib[h]
        if p.has_io:
            w.functions[h] = s.host_functions_used[h]


@kernel
def _add(w: Any, v: int, h: int, sign: float) -> None:
    w.now[h] += sign * w.vm_now[v]
    w.soon[h] += sign * w.vm_soon[v]
    w.mean[h] += sign * w.vm_mean[v]
    w.var[h] += sign * w.vm_var[v]


@kernel
def _hold(p: Any, w: Any, v: int, h: int, sign: int) -> None:
    """Hold (or release) what an arriving VM needs beside CPU time."""
    w.received[h] += sign
    w.mem[h] += sign * p.vm_mem_mib[v]
    if p.has_cpu:
        w.reserved[h] += sign * p.vm_reservation_mhz[v]
    if p.has_tiers:
        w.mem_reserved[h] += sign * p.vm_mem_reservation_mib[v]
    if p.has_io:
        w.functions[h] += sign * p.vm_functions[v]


@kernel
def order_move(p: Any, w: Any, v: int, h: int) -> None:
    """Put a move into the plan; a VM that the plan moves already goes there instead."""
    old = w.home[v]
    if w.dest[v] >= 0:
        old = w.dest[v]
        _hold(p, w, v, old, -1)
        w.tally[N_MOVES] -= 1
    else:
        w.n_out[old] += 1
    _add(w, v, old, -1.0)
    if h == w.home[v]:
        w.dest[v] = -1
        w.n_out[h] -= 1
    else:
        w.dest[v] = h
        _hold(p, w, v, h, 1)
        w.tally[N_MOVES] += 1
    _add(w, v, h, 1.0)


@kernel
def stays(w: Any, h: int) -> Any:
    """VMs on a host once the plan is carried out."""
    return w.n_home[h] - w.n_out[h] + w.received[h]


@kernel
def expected_peak(w: Any, mean: float, var: float) -> Any:
    """Load that a host is planned for: expected load and a margin of so many standard deviations, MHz."""
    return mean + w.rules[K_SPREAD] * np.sqrt(max(var, 0.0))


@kernel
def _holds(p: Any, w: Any, v: int, h: int) -> Any:
    """Whether memory, reservations and functions fit beside everything planned."""
    most_mib = p.host_mem_mib[h] * p.mem_overcommit * MEM_SLACK
    if (p.memory_binding or p.has_tiers) and w.mem[h] + p.vm_mem_mib[v] > most_mib:
        return False
    if p.has_cpu and w.reserved[h] + p.vm_reservation_mhz[v] > p.host_cpu_mhz[h]:
        return False
    if p.has_tiers and w.mem_reserved[h] + p.vm_mem_reservation_mib[v] > p.host_mem_mib[h]:
        return False
    return not (p.has_io and w.functions[h] + p.vm_functions[v] > p.host_functions[h])


@kernel
def movable(s: Any, v: int) -> Any:
    return s.vm_state[v] == RUNNING and s.vm_mig[v] == MIG_NONE


@kernel
def _rules_allow(w: Any, v: int, h: int) -> Any:
    """Whether placement rules let a VM go to a host: they hold all the time that VMs move.

    A VM of an affinity group goes where the others of its host go; who calls moves all of them or none.
    """
    row = w.must_row[v]
    if row >= 0 and not w.host_sets[row, h]:
        return False
    row = w.should_row[v]
    if row >= 0 and w.host_sets[row, w.home[v]] and not w.host_sets[row, h]:
        return False
    for i in range(w.apart_first[v], w.apart_first[v + 1]):
        u = w.apart_vm[i]
        if w.home[u] == h or w.dest[u] == h:
            return False
    if w.group[v] >= 0:
        home = w.home[v]
        for i in range(w.first[home], w.first[home + 1]):
            u = w.vm_of[i]
            if u != v and w.group[u] == w.group[v] and w.dest[u] >= 0 and w.dest[u] != h:
                return False
    return True


@kernel
def fits(p: Any, s: Any, w: Any, v: int, h: int, fill: float, high: float) -> Any:
    """Whether a VM may be ordered to a host: load now and expected, speed of its cores, and every rule.

    Args:
        p: Parameters of the cluster.
        s: State of the cluster.
        w: The plan.
        v: VM.
        h: Host.
        fill: Share of its CPU that may be asked for now.
        high: Share of its CPU that may be expected; a host that is otherwise empty takes any VM.
    """
    capacity = p.host_cpu_mhz[h]
    if w.now[h] + w.vm_now[v] > fill * capacity or w.soon[h] + w.vm_soon[v] > fill * capacity:
        return False
    if w.vm_now[v] > p.vm_vcpus[v] * p.host_core_mhz[h] * SHORTAGE:
        return False
    if stays(w, h) > 0:
        mean = w.mean[h] + w.vm_mean[v]
        if mean > high * capacity or expected_peak(w, mean, w.var[h] + w.vm_var[v]) > high * capacity:
            return False
    if not _holds(p, w, v, h) or not _rules_allow(w, v, h):
        return False
    if s.vm_last_from[v] == h and s.clock.now_s - s.vm_last_move_s[v] <= w.rules[K_SETTLE_S]:
        return False
    if w.opened[h]:
        return host_suits(p, s, v, h) == 0 and vm_can_follow(p, s, v, h) == 0
    return check_move(p, s, v, h) == 0


@kernel
def power(p: Any, w: Any, h: int, load_mhz: float) -> Any:
    """Power of a host at a load, W."""
    kind = p.host_type[h]
    last = p.power_w.shape[1] - 1
    x = min(max(load_mhz * p.host_inv_cpu[h], 0.0), 1.0) * last
    a = min(int(x), last)
    return p.power_w[kind, a] + w.slope_w[kind, a] * (x - a)


@kernel
def collect(w: Any) -> None:
    """List the hosts that may receive VMs: those that take VMs and hold some in the plan."""
    n = 0
    for h in range(w.accepts.shape[0]):
        if w.accepts[h] and stays(w, h) > 0:
            w.cand[n] = h
            n += 1
    w.tally[N_CAND] = n


@kernel
def find_host(p: Any, s: Any, w: Any, v: int, avoid: int, fill: float, high: float) -> Any:
    """The host whose power rises least by a VM, -1 = none; ties go to the lowest index.

    Hosts without VMs are not considered, see ``open_host``.
    """
    best, least = -1, np.inf
    for i in range(w.tally[N_CAND]):
        h = w.cand[i]
        if h == avoid or not w.accepts[h]:
            continue
        if w.now[h] + w.vm_now[v] > fill * p.host_cpu_mhz[h]:
            continue
        cost = power(p, w, h, w.mean[h] + w.vm_mean[v]) - power(p, w, h, w.mean[h])
        if cost < least and fits(p, s, w, v, h, fill, high):
            best, least = h, cost
    return best


@kernel
def switch_on(w: Any, h: int) -> None:
    """Put a switch-on into the plan."""
    w.opened[h] = 1
    w.accepts[h] = 1
    w.out_on[w.tally[N_ON]] = h
    w.tally[N_ON] += 1


@kernel
def rested(s: Any, w: Any, h: int) -> Any:
    """Whether a host has been off long enough to be switched on again without need."""
    return s.clock.now_s - w.host_off_s[h] >= w.rules[K_MIN_OFF_S]


@kernel
def open_host(p: Any, s: Any, w: Any, v: int, fill: float) -> Any:
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
def _list_host(w: Any, c: int) -> None:
    """Make a host that was empty a candidate."""
    if stays(w, c) == 0:
        w.cand[w.tally[N_CAND]] = c
        w.tally[N_CAND] += 1


@kernel
def _choose_vm(p: Any, s: Any, w: Any, h: int, excess: float) -> Any:
    """The VM to take off a host: of those that suffice alone the quickest to copy, else the largest.

    Among VMs of equal memory the one that is expected to ask for most goes: that relieves the host longest.
    VMs of an affinity group stay.
    """
    best, best_mem, best_size = -1, np.inf, -1.0
    for i in range(w.first[h], w.first[h + 1]):
        v = w.vm_of[i]
        if w.dest[v] >= 0 or w.key[v] < 0.0 or w.group[v] >= 0 or not movable(s, v):
            continue
        size = max(w.vm_now[v], w.vm_soon[v])
        enough = size >= excess
        mem = p.vm_mem_mib[v] if enough else 1e18 - size
        if mem < best_mem or (mem == best_mem and w.vm_mean[v] > best_size):
            best, best_mem, best_size = v, mem, w.vm_mean[v]
    return best


@kernel
def relieve(p: Any, s: Any, w: Any) -> None:
    """Take VMs off every host that is, or will soon be, asked for more than it should.

    Hosts by their excess, the largest first; from each host VMs go until it is asked for no more than
    ``K_RELIEF`` of its CPU. A VM that fits nowhere stays.
    """
    n = 0
    for h in range(w.now.shape[0]):
        load = max(w.now[h], w.soon[h])
        if s.host_power_state[h] == ON and load > w.rules[K_OVERLOAD] * p.host_cpu_mhz[h]:
            w.order[n] = h
            w.key[h] = p.host_cpu_mhz[h] - load
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    for i in range(n):
        w.hosts[i] = w.order[i]
        w.accepts[w.hosts[i]] = 0
    w.tally[N_RELIEVED] = n
    collect(w)
    for i in range(n):
        _relieve_host(p, s, w, w.hosts[i])


@kernel
def _relieve_host(p: Any, s: Any, w: Any, h: int) -> None:
    fill, high = w.rules[K_FILL], w.rules[K_HIGH]
    for i in range(w.first[h], w.first[h + 1]):
        w.key[w.vm_of[i]] = 0.0
    while w.tally[N_MOVES] < w.rules[K_MAX_MOVES]:
        excess = max(w.now[h], w.soon[h]) - w.rules[K_RELIEF] * p.host_cpu_mhz[h]
        if excess <= 0.0:
            break
        v = _choose_vm(p, s, w, h, excess)
        if v < 0:
            break
        c = find_host(p, s, w, v, h, fill, high)
        if c < 0:
            c = open_host(p, s, w, v, 1.0)
        if c < 0:
            c = find_host(p, s, w, v, h, fill, 1e9)
        if c < 0:
            w.key[v] = -1.0  # fits nowhere: try the next one
            continue
        _list_host(w, c)
        order_move(p, w, v, c)


@kernel
def open_for_load(p: Any, s: Any, w: Any, needed_mhz: float, spare: int) -> None:
    """Switch hosts on until the hosts that take VMs have enough CPU, and enough of them are empty.

    Args:
        p: Parameters of the cluster.
        s: State of the cluster.
        w: The plan.
        needed_mhz: CPU that the hosts that take VMs must have, MHz.
        spare: Hosts that must take VMs and hold none.
    """
    have, empty = 0.0, 0
    for h in range(w.accepts.shape[0]):
        takes = w.accepts[h] or (w.n_home[h] > 0 and host_accepts(p, s, h) == 0)
        if takes and not w.closed[h]:
            have += p.host_cpu_mhz[h]
            empty += w.accepts[h] and stays(w, h) == 0
    for round_ in range(2):
        for h in w.rank:
            if have >= needed_mhz and empty >= spare:
                return
            if w.accepts[h] or w.closed[h] or w.n_home[h] > 0 or may_go_on(p, s, h) != 0:
                continue
            if round_ == 0 and not rested(s, w, h):
                continue
            switch_on(w, h)
            have += p.host_cpu_mhz[h]
            empty += 1


@kernel
def may_wait_for(p: Any, s: Any, w: Any, v: int, h: int) -> Any:
    """Whether a waiting VM may go to a host: none in maintenance, to those for failover restarts only."""
    restarts = p.has_failures and s.vm_restart[v] > 0
    return w.closed[h] == 0 or (w.closed[h] == FOR_FAILOVER and restarts)


@kernel
def open_for_waiting(p: Any, s: Any, w: Any) -> Any:
    """Switch a host on for every VM that waits and fits on no host that is on; returns the VMs that wait."""
    waiting = 0
    for v in range(s.vm_state.shape[0]):
        if s.vm_state[v] != PENDING or s.vm_dest[v] >= 0:
            continue
        waiting += 1
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
                break
    return waiting
