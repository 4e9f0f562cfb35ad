"""Kernels: the initial placement and the events of one day."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from virtgym.envs.arrays import F8

from .candidates import Cands
from .kernel import copy_range, entry_kernel, inline_kernel, lean_kernel, wide
from .live import (
    A_DOUBLES,
    A_DROPPED,
    A_ENERGY,
    A_MOVES,
    Flags,
    Ints,
    Live,
)
from .machines import DAY_S, HOST_RAM_MIB, OFFSET_S, ROUND_S, SEGMENTS, Site
from .optimiser import Plan, Rule, optimise
from .sharing import account_until, demand_at, list_active, power_at, share_hosts, show_states

NPA = 0
DVFS = 1
OPTIMISE = 2
REPLAY = 3


class Log(NamedTuple):
    """What happened, for tests, replays and comparisons.

    Attributes:
        past: Demand of every VM at each round, MHz, (K, N).
        times: Instants of the rounds, s, (K,).
        start: First migration of each round in ``vm`` and ``host``, (K + 1,).
        vm: VMs of the migrations in order; input for a replay, else output if it has room.
        host: Their targets.
        event_s: Instants of all events, s, (E,).
        event_j: Energy up to each event, J, (E,).
        event_hosts: Active hosts after each event, (E,).
        event_vms: VMs left after each event, (E,).
        size: Number of events, (1,).
    """

    past: F8
    times: F8
    start: Ints
    vm: Ints
    host: Ints
    event_s: F8
    event_j: F8
    event_hosts: Ints
    event_vms: Ints
    size: Ints


@inline_kernel
def _append(live: Live, h: int, v: int) -> None:
    live.rows[h, live.held[h]] = v
    live.held[h] += 1
    if live.held[h] + 1 > live.table[h] * 0.75:
        live.table[h] *= 2


@inline_kernel
def _take_out(live: Live, h: int, v: int) -> None:
    """Remove VM ``v`` from the list of host ``h``, if it is there; the others keep their order."""
    row = live.rows[h]
    n = live.held[h]
    at = 0
    while at < n and row[at] != v:
        at += 1
    if at == n:
        return
    for i in range(at, n - 1):
        row[i] = row[i + 1]
    live.held[h] = n - 1


@inline_kernel
def _fits_nominally(site: Site, h: int, v: int, free: F8, ram: F8) -> bool:
    return bool(site.core[h & 1] >= site.mhz[v] and free[h] >= site.mhz[v] and ram[h] >= site.ram[v])


@inline_kernel
def _first_fit(site: Site, v: int, free: F8, ram: F8) -> int:
    for h in range(free.size):
        if _fits_nominally(site, h, v, free, ram):
            return h
    return -1


@inline_kernel
def _cheapest(site: Site, v: int, free: F8, ram: F8, used: F8) -> int:
    """Power-aware best fit of a VM that asks for all its nominal CPU; costs compare with an idle host.

    An empty host is cheaper than a used one of its type, since power grows with use.
    """
    best = -1
    best_cost = np.inf
    for kind in range(2):
        seen_used = -1.0
        seen_ram = -1.0
        for h in range(kind, free.size, 2):
            if used[h] == seen_used and ram[h] == seen_ram:
                continue  # as good as the host before it, which comes first
            seen_used = used[h]
            seen_ram = ram[h]
            if not _fits_nominally(site, h, v, free, ram):
                continue
            cost = power_at(site, kind, (used[h] + site.mhz[v]) / site.total[kind])
            cost -= site.watts[kind * SEGMENTS]
            if cost < best_cost or (cost == best_cost and h < best):
                best = h
                best_cost = cost
            if used[h] == 0.0:
                break
    return best


@entry_kernel
def place_all(site: Site, live: Live, aware: bool, initial: Ints) -> int:
    """Place the VMs in order of their index before the day starts; no quirk changes this.

    Args:
        site: The day.
        live: An empty data centre.
        aware: Power-aware best fit instead of first fit.
        initial: Host of each VM, -1 = to be chosen; receives the hosts chosen.

    Returns:
        -1, or the first VM that fits nowhere.
    """
    used = live.use  # at t = 0 nothing runs yet: the arrays serve as work space
    free = live.free
    ram = live.need
    ram[:] = HOST_RAM_MIB
    for v in range(initial.size):
        h = initial[v]
        if h < 0:
            if aware:
                h = _cheapest(site, v, free, ram, used)
            else:
                h = _first_fit(site, v, free, ram)
        if h < 0:
            return v
        initial[v] = h
        used[h] += site.mhz[v]
        free[h] -= site.mhz[v]
        ram[h] -= site.ram[v]
        live.where[v] = h
        _append(live, h, v)
    list_active(live)
    for h in range(live.held.size):
        live.use[h] = 0.0
        live.need[h] = 0.0
        live.free[h] = site.total[h & 1]
    return -1


@lean_kernel
def _advance(site: Site, live: Live, flags: Flags, log: Log, t: float, dt: float, detail: bool) -> None:
    """Bring all hosts to time ``t``, ``dt`` seconds after the last instant."""
    if dt > 0.0:
        account_until(live, dt, detail)
    demand_at(site, live, t, flags.interpolated_demand)
    share_hosts(site, live, flags, live.active[1:], wide(live.active[0]), dt, detail)


@lean_kernel
def _close(live: Live, log: Log, t: float) -> None:
    """Close an instant and log it."""
    show_states(live, t)
    at = log.size[0]
    log.size[0] = at + 1
    log.event_s[at] = t
    log.event_j[at] = live.account[A_ENERGY]
    hosts = 0
    for i in range(live.active[0]):
        hosts += live.on[live.active[i + 1]]
    log.event_hosts[at] = hosts
    log.event_vms[at] = live.where.size - int(live.account[A_DROPPED])


@inline_kernel
def _drop_idle_vms(site: Site, live: Live, flags: Flags, detail: bool) -> None:
    """Delete every VM without demand."""
    dropped = False
    for v in range(live.where.size):
        h = live.where[v]
        if h >= 0 and live.demand[v] == 0.0:
            _take_out(live, h, v)
            live.where[v] = -1
            live.account[A_DROPPED] += 1.0
            dropped = True
            if live.held[h] == 0:
                live.touched[0] = h
                share_hosts(site, live, flags, live.touched, wide(1), 0.0, detail)
    if dropped:
        list_active(live)


@lean_kernel
def _list_touched(site: Site, live: Live, plan: Plan, lane: int) -> int:
    """List the hosts that a migration of ``lane`` (-1 = any) touches; returns their number."""
    live.stamp[-1] += 1
    mark = live.stamp[-1]
    n = 0
    for i in range(plan.size[0]):
        if lane >= 0 and site.lane[plan.vm[i]] != lane:
            continue
        for h in (plan.source[i], plan.host[i]):
            if live.stamp[h] != mark:
                live.stamp[h] = mark
                live.touched[n] = h
                n += 1
    return n


@inline_kernel
def _start_moves(site: Site, live: Live, flags: Flags, plan: Plan, detail: bool) -> None:
    """Start the planned migrations: each VM joins the list of its target and keeps running where it is."""
    for i in range(plan.size[0]):
        v = plan.vm[i]
        h = plan.host[i]
        live.account[A_MOVES] += 1.0
        if live.moving[v]:
            live.account[A_DOUBLES] += 1.0
        live.moving[v] = True
        plan.source[i] = live.where[v]
        live.moves[h] += 1
        live.moves[live.where[v]] += 1
        _append(live, h, v)
    if plan.size[0] > 0:
        n = _list_touched(site, live, plan, wide(-1))
        share_hosts(site, live, flags, live.touched, n, 0.0, detail)
        list_active(live)


@inline_kernel
def _leave_rows(site: Site, live: Live, n: int, lane: int) -> None:
    """Strike the VMs that finish migrating out of the lists of the ``n`` touched hosts, at both ends."""
    for i in range(n):
        h = live.touched[i]
        kept = 0
        for m in range(live.held[h]):
            v = live.rows[h, m]
            live.rows[h, kept] = v
            kept += not (live.moving[v] and site.lane[v] == lane)
        live.held[h] = kept


@inline_kernel
def _finish_moves(site: Site, live: Live, flags: Flags, plan: Plan, lane: int, detail: bool) -> None:
    """Complete the migrations of all VMs of one memory size, in the order in which they started.

    Each VM goes to the end of its target's list. One that moves twice ends on its second target.
    """
    n = _list_touched(site, live, plan, lane)
    _leave_rows(site, live, n, lane)
    for i in range(plan.size[0]):
        if site.lane[plan.vm[i]] == lane:
            live.where[plan.vm[i]] = plan.host[i]
            live.moves[plan.host[i]] -= 1
            live.moves[plan.source[i]] -= 1
    for i in range(plan.size[0]):
        v = plan.vm[i]
        if site.lane[v] == lane and live.moving[v] and live.where[v] == plan.host[i]:
            live.moving[v] = False
            _append(live, plan.host[i], v)
    share_hosts(site, live, flags, live.touched, n, 0.0, detail)
    list_active(live)


@inline_kernel
def _has_moves(site: Site, plan: Plan, lane: int) -> bool:
    found = False
    for i in range(plan.size[0]):
        found = found or site.lane[plan.vm[i]] == lane
    return found


@inline_kernel
def _decide(
    site: Site, live: Live, c: Cands, plan: Plan, rule: Rule, flags: Flags, log: Log, k: int, mode: int
) -> None:
    """Plan the migrations of round ``k``: by the optimiser, or from the log."""
    plan.size[0] = 0
    if mode == REPLAY:
        for i in range(log.start[k], log.start[k + 1]):
            plan.vm[plan.size[0]] = log.vm[i]
            plan.host[plan.size[0]] = log.host[i]
            plan.size[0] += 1
        return
    if mode == OPTIMISE:
        optimise(site, live, c, plan, rule, flags, log.past, log.times, k)
    log.start[k + 1] = log.start[k] + plan.size[0]
    if log.vm.size > 0:
        for i in range(plan.size[0]):
            log.vm[log.start[k] + i] = plan.vm[i]
            log.host[log.start[k] + i] = plan.host[i]


@inline_kernel
def _full_power(site: Site, live: Live, t: float) -> None:
    """Without power management every host draws its peak power, used or not."""
    joules = 0.0
    for h in range(live.held.size):
        joules += power_at(site, h & 1, 1.0) * t
    live.account[A_ENERGY] = joules


@entry_kernel
def run_day(
    site: Site, live: Live, c: Cands, plan: Plan, rule: Rule, flags: Flags, log: Log, mode: int
) -> None:
    """Run the events of a day after the initial placement.

    Args:
        site: The day.
        live: State with all VMs placed.
        c: Work arrays.
        plan: Work arrays.
        rule: The policy of ``OPTIMISE``.
        flags: Quirks.
        log: Receives events, and gives or receives migrations.
        mode: ``NPA``, ``DVFS``, ``OPTIMISE`` or ``REPLAY``.
    """
    detail = not flags.pooled_pdm
    clock = 0.0
    t = 0.0
    if flags.skip_first_sample:
        if not flags.free_edges:
            _advance(site, live, flags, log, t, 0.0, detail)
            _close(live, log, t)
        t = OFFSET_S + ROUND_S
    first = flags.free_edges
    for k in range(log.times.size):
        # nothing is accounted before the first instant
        _advance(site, live, flags, log, t, 0.0 if first else t - clock, detail)
        first = False
        clock = t
        log.times[k] = t
        copy_range(log.past[k], live.demand, 0, live.demand.size)
        if flags.drop_zero_demand:
            _drop_idle_vms(site, live, flags, detail)
        _decide(site, live, c, plan, rule, flags, log, k, mode)
        _start_moves(site, live, flags, plan, detail)
        _close(live, log, t)
        for lane in range(site.delays.size):
            if _has_moves(site, plan, lane):
                end = t + site.delays[lane]
                _advance(site, live, flags, log, end, end - clock, detail)
                clock = end
                _finish_moves(site, live, flags, plan, lane, detail)
                _close(live, log, end)
        t += ROUND_S
    if not flags.free_edges:
        _advance(site, live, flags, log, DAY_S, DAY_S - clock, detail)
        clock = DAY_S
        _close(live, log, clock)
    if mode == NPA:
        _full_power(site, live, clock)
