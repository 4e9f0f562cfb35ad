"""Kernels: the hosts that may receive a VM in this round, and the search for the cheapest of them.

Candidates stand without gaps in parallel arrays, so that one linear scan tests them all. Empty hosts of one
type are indistinguishable: only the first of each type is a candidate. Ties are decided by host index, so the
order of the slots is free and a candidate is removed by putting the last one in its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8

from .detectors import WINDOW, add_history, window_overloaded
from .kernel import copy_range, inline_kernel, lean_kernel
from .live import Flags, Ints, Live
from .machines import HOST_RAM_MIB, SEGMENTS, Site
from .sharing import power_at

# A tenth of the smaller host: a demand that reaches the next segment of the power table at most.
NEAR_MHZ = 372.0
BOUND_SLACK_W = 1e-9  # rounding of the bound


class Cands(NamedTuple):
    """Candidates (slots), and the scratch lists of the round. F is the number of slots, H + 2.

    Attributes:
        size: Number of candidates, (1,).
        host: Host in a slot, (F,).
        slot: Slot of a host, -1 = none, (H,).
        total: Its CPU, MHz, (F,).
        use: CPU granted to the VMs of the host, MHz, (F,).
        free: CPU left, MHz, (F,).
        room: The largest demand that fits: ``free`` or one core, MHz, (F,).
        load: Sum that the detector compares, (F,).
        low: Up to this load the host is certainly not overloaded, (F,).
        high: Above this load it certainly is, (F,).
        base: Power that the cost compares with, W, (F,).
        extra: Power of switching the host on, W, (F,).
        ram: Memory left, MiB, (F,).
        gap: Cost of no demand at all, W, (F,).
        rise: Power per demand up to ``reach``, W/MHz, (F,).
        bend: What is added to ``rise`` above it, W/MHz, (F,).
        reach: Demand that fills the present segment of the power table, MHz, (F,).
        least: Power per demand, at least, W/MHz, (F,).
        straight: Zeros, (F,).
        bound: Lower bounds of the cost of one VM, W, (F,).
        length: Length of the scratch list of a host, (H,).
        guard: The host must not be evacuated in this round, (H,).
        window: Utilisation history of a host, newest first, (H, WINDOW).
        probe: Room for one more window, (WINDOW,).
        work: Room for the detectors and selection rules, (4, WINDOW, WINDOW).
        slack: Sums over the candidates of ``free`` and of ``high - load``, (2,).
        undo_slot: Slots of placements that may be taken back, (U,).
        undo: Their ``use, free, room, load, low, high, base, extra, ram`` before, (U, 9).
    """

    size: Ints
    host: Ints
    slot: Ints
    total: F8
    use: F8
    free: F8
    room: F8
    load: F8
    low: F8
    high: F8
    base: F8
    extra: F8
    ram: F8
    gap: F8
    rise: F8
    bend: F8
    reach: F8
    least: F8
    straight: F8
    bound: F8
    length: Ints
    guard: NDArray[np.bool_]
    window: F8
    probe: F8
    work: F8
    slack: F8
    undo_slot: Ints
    undo: F8


class Round(NamedTuple):
    """What holds during one round of the optimiser.

    Attributes:
        k: Number of the round.
        kind: Detector.
        safety: Its parameter.
        lazy: The detector needs the window of the host, so that it is asked last.
        part: Contribution of a VM to the load of its host, (N,).
        low: Certain limits of the load by host type, see ``Cands``, (2,).
        high: Likewise, (2,).
        past: Demand of every VM at each round so far, MHz, (K, N).
    """

    k: int
    kind: int
    safety: float
    lazy: bool
    part: F8
    low: F8
    high: F8
    past: F8


def make_cands(n_hosts: int, n_vms: int) -> Cands:
    """Allocate for ``n_hosts`` hosts and ``n_vms`` VMs."""
    slots = n_hosts + 2
    return Cands(
        size=np.zeros(1, dtype=np.int64),
        host=np.empty(slots, dtype=np.int32),
        slot=np.full(n_hosts, -1, dtype=np.int32),
        total=np.empty(slots),
        use=np.empty(slots),
        free=np.empty(slots),
        room=np.empty(slots),
        load=np.empty(slots),
        low=np.empty(slots),
        high=np.empty(slots),
        base=np.empty(slots),
        extra=np.empty(slots),
        ram=np.empty(slots),
        gap=np.empty(slots),
        rise=np.empty(slots),
        bend=np.empty(slots),
        reach=np.empty(slots),
        least=np.empty(slots),
        straight=np.zeros(slots),
        bound=np.empty(slots),
        length=np.zeros(n_hosts, dtype=np.int64),
        guard=np.zeros(n_hosts, dtype=np.bool_),
        window=np.empty((n_hosts, WINDOW)),
        probe=np.empty(WINDOW),
        work=np.empty((4, WINDOW, WINDOW)),
        slack=np.zeros(2),
        undo_slot=np.empty(n_vms, dtype=np.int32),
        undo=np.empty((n_vms, 9)),
    )


@lean_kernel
def list_window(site: Site, rd: Round, kind: int, vms: Ints, n: int, y: F8) -> float:
    """Set ``y`` to the history of a host of type ``kind`` with ``vms[:n]``; return its demand now, MHz."""
    y[:] = 0.0
    req = 0.0
    for i in range(n):
        add_history(rd.past, rd.k, vms[i], site.total[kind], y)
        req += rd.past[rd.k, vms[i]]
    return req


@inline_kernel
def _set_limits(c: Cands, rd: Round, flags: Flags, j: int) -> None:
    """An empty host is never asked whether it would be overloaded."""
    h = c.host[j]
    if c.use[j] == 0.0 and (flags.idle_hosts_are_off or c.length[h] == 0):
        c.low[j] = np.inf
        c.high[j] = np.inf
    else:
        c.low[j] = rd.low[h & 1]
        c.high[j] = rd.high[h & 1]


@inline_kernel
def _set_bound(site: Site, c: Cands, j: int) -> None:
    """Prepare lower bounds of the cost of a demand: power grows piecewise linearly with it."""
    kind = c.host[j] & 1
    util = c.use[j] / c.total[j]
    a = min(int(util * 10.0), SEGMENTS - 2)
    first = kind * SEGMENTS + a
    per_mhz = 100.0 / c.total[j]
    c.gap[j] = power_at(site, kind, util) + c.extra[j] - c.base[j]
    c.rise[j] = site.slope[first] * per_mhz
    c.bend[j] = (site.slope[first + 1] - site.slope[first]) * per_mhz
    c.reach[j] = site.tenth[a + 1] * c.total[j] - c.use[j]
    c.least[j] = site.least[first] * per_mhz


@inline_kernel
def _add_candidate(site: Site, live: Live, c: Cands, rd: Round, flags: Flags, h: int, load: float) -> None:
    """Make host ``h`` a candidate with its real list."""
    j = c.size[0]
    c.size[0] = j + 1
    c.host[j] = h
    c.slot[h] = j
    c.total[j] = site.total[h & 1]
    c.use[j] = live.use[h]
    c.free[j] = live.free[h]
    c.room[j] = min(live.free[h], site.core[h & 1])
    c.load[j] = load
    c.base[j] = live.watt[h]
    c.extra[j] = 0.0
    if live.held[h] == 0 and not flags.free_power_on:
        c.extra[j] = site.watts[(h & 1) * SEGMENTS]
    c.ram[j] = np.inf
    if not flags.memory_ignored:
        c.ram[j] = HOST_RAM_MIB
        for i in range(live.held[h]):
            c.ram[j] -= site.ram[live.rows[h, i]]
    _set_limits(c, rd, flags, j)
    _set_bound(site, c, j)
    c.slack[0] += c.free[j]
    c.slack[1] += c.high[j] - c.load[j]


@lean_kernel
def add_candidates(site: Site, live: Live, c: Cands, rd: Round, flags: Flags, hosts: Ints, n: int) -> None:
    """Make ``hosts[:n]`` candidates with their real lists."""
    for i in range(n):
        h = hosts[i]
        row = live.rows[h]
        load = 0.0
        for m in range(live.held[h]):
            load += rd.part[row[m]]
        c.length[h] = live.held[h]
        c.guard[h] = False
        if rd.lazy:
            list_window(site, rd, h & 1, row, live.held[h], c.window[h])
        _add_candidate(site, live, c, rd, flags, h, load)


@inline_kernel
def remove_candidate(c: Cands, j: int) -> None:
    """Remove slot ``j``: the last candidate takes its place."""
    c.slack[0] -= c.free[j]
    c.slack[1] -= c.high[j] - c.load[j]
    last = c.size[0] - 1
    c.size[0] = last
    c.slot[c.host[j]] = -1
    if j == last:
        return
    c.host[j] = c.host[last]
    c.slot[c.host[j]] = j
    c.total[j] = c.total[last]
    c.use[j] = c.use[last]
    c.free[j] = c.free[last]
    c.room[j] = c.room[last]
    c.load[j] = c.load[last]
    c.low[j] = c.low[last]
    c.high[j] = c.high[last]
    c.base[j] = c.base[last]
    c.extra[j] = c.extra[last]
    c.ram[j] = c.ram[last]
    c.gap[j] = c.gap[last]
    c.rise[j] = c.rise[last]
    c.bend[j] = c.bend[last]
    c.reach[j] = c.reach[last]
    c.least[j] = c.least[last]


@inline_kernel
def put_vm(site: Site, live: Live, c: Cands, rd: Round, flags: Flags, j: int, v: int, at: int) -> None:
    """Place VM ``v`` on candidate ``j`` in the scratch lists; entry ``at`` of the undo stack remembers it."""
    h = c.host[j]
    asked = live.demand[v]
    c.undo_slot[at] = j
    before = c.undo[at]
    before[0] = c.use[j]
    before[1] = c.free[j]
    before[2] = c.room[j]
    before[3] = c.load[j]
    before[4] = c.low[j]
    before[5] = c.high[j]
    before[6] = c.base[j]
    before[7] = c.extra[j]
    before[8] = c.ram[j]
    live.rows[h, c.length[h]] = v
    c.length[h] += 1
    if c.length[h] + 1 > live.table[h] * 0.75:  # the peer tries one VM more before it declines
        live.table[h] *= 2
    c.use[j] += asked
    c.free[j] -= asked
    c.room[j] = min(c.free[j], site.core[h & 1])
    c.load[j] += rd.part[v]
    c.ram[j] -= site.ram[v]
    c.extra[j] = 0.0
    if not flags.stale_power:
        c.base[j] = power_at(site, h & 1, c.use[j] / site.total[h & 1])
    _set_limits(c, rd, flags, j)
    if rd.lazy:
        add_history(rd.past, rd.k, v, site.total[h & 1], c.window[h])
    _set_bound(site, c, j)
    c.slack[0] -= asked
    c.slack[1] -= rd.part[v]


@inline_kernel
def take_back(site: Site, live: Live, c: Cands, rd: Round, at: int) -> None:
    """Undo the placement ``at`` of the stack, the newest first."""
    j = c.undo_slot[at]
    h = c.host[j]
    before = c.undo[at]
    c.slack[0] += before[1] - c.free[j]
    c.slack[1] += c.load[j] - before[3]
    c.use[j] = before[0]
    c.free[j] = before[1]
    c.room[j] = before[2]
    c.load[j] = before[3]
    c.low[j] = before[4]
    c.high[j] = before[5]
    c.base[j] = before[6]
    c.extra[j] = before[7]
    c.ram[j] = before[8]
    c.length[h] -= 1
    _set_bound(site, c, j)
    if rd.lazy:
        list_window(site, rd, h & 1, live.rows[h], c.length[h], c.window[h])


@lean_kernel
def _overloads(site: Site, live: Live, c: Cands, rd: Round, j: int, v: int) -> bool:
    """Ask the detector itself whether candidate ``j`` would be overloaded with VM ``v``."""
    h = c.host[j]
    total = site.total[h & 1]
    y = c.probe
    if rd.lazy:
        copy_range(y, c.window[h], 0, WINDOW)
        req = c.load[j]
    else:
        req = list_window(site, rd, h & 1, live.rows[h], c.length[h], y)
    add_history(rd.past, rd.k, v, total, y)
    length = min(rd.k + 1, WINDOW)
    req = (req + live.demand[v]) / total
    return window_overloaded(rd.kind, rd.safety, y, length, req, c.work[0])


@lean_kernel
def _bound_costs(
    room: F8,
    load: F8,
    high: F8,
    left: F8,
    gap: F8,
    rise: F8,
    bend: F8,
    reach: F8,
    n: int,
    asked: float,
    part: float,
    ram: float,
    bound: F8,
) -> None:
    """Set ``bound[:n]`` to a lower bound of the cost of each candidate, inf where the VM does not fit.

    Apart from the rest, and with one kind of result only, so that it vectorises.
    """
    for j in range(n):
        fits = (room[j] >= asked) & (load[j] + part <= high[j]) & (left[j] >= ram)
        cost = gap[j] + asked * rise[j] + bend[j] * max(asked - reach[j], 0.0)
        bound[j] = cost if fits else np.inf


@inline_kernel
def _first_least(values: F8, n: int) -> int:
    """Position of the least of ``values[:n]``, -1 if none is finite."""
    least = np.inf
    at = -1
    for j in range(n):
        if values[j] < least:
            least = values[j]
            at = j
    return at


@lean_kernel
def _cheapest_slot(
    site: Site,
    host: Ints,
    use: F8,
    total: F8,
    extra: F8,
    base: F8,
    bound: F8,
    n: int,
    asked: float,
) -> int:
    """Slot on which ``asked`` MHz cost least, the smallest host index on ties; -1 if every bound is inf.

    The candidate with the least bound is nearly always the best or close to it, and its cost excludes most of
    the others. Costs are exact, because rounding decides between hosts whose power has the same slope.
    """
    first = _first_least(bound, n)
    if first < 0:
        return -1
    best = -1
    best_cost = np.inf
    limit = bound[first]
    for step in range(-1, n):
        j = first if step < 0 else step
        if bound[j] > limit:
            continue
        power = power_at(site, host[j] & 1, (use[j] + asked) / total[j])
        cost = power + extra[j] - base[j]
        if cost < best_cost or (cost == best_cost and host[j] < host[best]):
            best = j
            best_cost = cost
            limit = cost + BOUND_SLACK_W
    return best


@inline_kernel
def find_candidate(site: Site, live: Live, c: Cands, rd: Round, v: int) -> int:
    """Slot of the candidate on which VM ``v`` costs least power, -1 if it fits on none."""
    asked = live.demand[v]
    part = rd.part[v]
    n = c.size[0]
    near = asked <= NEAR_MHZ
    rise = c.rise if near else c.least
    bend = c.bend if near else c.straight
    _bound_costs(
        c.room, c.load, c.high, c.ram, c.gap, rise, bend, c.reach, n, asked, part, site.ram[v], c.bound
    )
    while True:
        j = _cheapest_slot(site, c.host, c.use, c.total, c.extra, c.base, c.bound, n, asked)
        if j < 0 or c.load[j] + part <= c.low[j] or not _overloads(site, live, c, rd, j, v):
            return j
        c.bound[j] = np.inf
