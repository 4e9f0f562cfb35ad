"""Kernels: one round of the optimiser: drain overloaded hosts, place their VMs, evacuate the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8
from virtgym.envs.jit.sorting import sort_ascending

from .candidates import (
    Cands,
    Round,
    add_candidates,
    find_candidate,
    list_window,
    put_vm,
    remove_candidate,
    take_back,
)
from .detectors import (
    FALLBACK,
    LOESS,
    LR_POINTS,
    OLS,
    STATISTIC_POINTS,
    THR,
    WINDOW,
    filter_weights,
    largest_load,
    window_overloaded,
)
from .kernel import copy_range, inline_kernel, lean_kernel, switch, wide
from .live import Flags, Ints, Live
from .machines import Site
from .selection import select_vm

UNDERLOAD = 0.3  # only hosts below this use are evacuated when no_underload_threshold is off


class Plan(NamedTuple):
    """Migrations of one round, in order, and the work arrays of the optimiser.

    Attributes:
        size: Number of migrations, (1,).
        vm: VM of each, (2 N,).
        host: Its target, (2 N,).
        source: The host it ran on, (2 N,).
        queue: VMs to place, (N,).
        order: Work array of sorting, (max(N, H),).
        key: Sort keys, (max(N, H),).
        crowd: Hosts that are overloaded, (H,).
        trend: Predicted demand by VM, MHz, (N,).
        taps: Filter of the regression, (LR_POINTS,).
        low: Certain limits of the load by host type, see ``Cands``, (2,).
        high: Likewise, (2,).
        rng: State of the random generator, (1,).
    """

    size: Ints
    vm: Ints
    host: Ints
    source: Ints
    queue: Ints
    order: Ints
    key: F8
    crowd: Ints
    trend: F8
    taps: F8
    low: F8
    high: F8
    rng: NDArray[np.uint64]


class Rule(NamedTuple):
    """The policy: detector, its parameter, and the rule that selects VMs."""

    kind: int
    safety: float
    select: int


def make_plan(n_hosts: int, n_vms: int, kind: int, seed: int) -> Plan:
    """Allocate for a day.

    Args:
        n_hosts: Number of hosts.
        n_vms: Number of VMs.
        kind: Detector, which decides the filter.
        seed: Seed of random selection.

    Returns:
        An empty plan.
    """
    wide = max(n_hosts, n_vms)
    return Plan(
        size=np.zeros(1, dtype=np.int64),
        vm=np.empty(2 * n_vms, dtype=np.int32),
        host=np.empty(2 * n_vms, dtype=np.int32),
        source=np.empty(2 * n_vms, dtype=np.int32),
        queue=np.empty(n_vms, dtype=np.int32),
        order=np.empty(wide, dtype=np.int32),
        key=np.empty(wide),
        crowd=np.empty(n_hosts, dtype=np.int32),
        trend=np.zeros(n_vms),
        taps=filter_weights(kind),
        low=np.empty(2),
        high=np.empty(2),
        rng=np.random.SeedSequence(seed).generate_state(1, np.uint64).astype(np.uint64),
    )


@inline_kernel
def _make_round(site: Site, live: Live, plan: Plan, rule: Rule, flags: Flags, past: F8, k: int) -> Round:
    """Choose how the detector is asked in round ``k``."""
    low = plan.low
    high = plan.high
    short = k + 1 < (LR_POINTS if rule.kind >= OLS else STATISTIC_POINTS)
    if rule.kind == THR or short:
        threshold = rule.safety if rule.kind == THR else FALLBACK
        for i in range(2):
            low[i] = largest_load(site.total[i], threshold)
            high[i] = low[i]
        return Round(k, rule.kind, rule.safety, False, live.demand, low, high, past)
    # while VMs without demand are deleted, no history holds a zero, and a regression is a constant filter
    if rule.kind <= LOESS and rule.kind >= OLS and flags.drop_zero_demand:
        plan.trend[:] = 0.0
        for i in range(LR_POINTS):
            weight = plan.taps[i]
            row = past[k - i]
            for v in range(row.size):
                plan.trend[v] += weight * row[v]
        for i in range(2):
            low[i] = site.total[i] / rule.safety * (1.0 - 1e-9)
            high[i] = site.total[i] / rule.safety * (1.0 + 1e-9)
        return Round(k, rule.kind, rule.safety, False, plan.trend, low, high, past)
    low[:] = -np.inf
    high[:] = np.inf
    return Round(k, rule.kind, rule.safety, True, live.demand, low, high, past)


@inline_kernel
def _list_overloaded(site: Site, c: Cands, rd: Round, kind: int, vms: Ints, n: int, load: float) -> bool:
    """Whether a host of type ``kind`` with ``vms[:n]``, whose parts sum up to ``load``, is overloaded."""
    if not rd.lazy:
        if load <= rd.low[kind]:
            return False
        if load > rd.high[kind]:
            return True
    y = c.probe
    req = list_window(site, rd, kind, vms, n, y)
    return window_overloaded(rd.kind, rd.safety, y, min(rd.k + 1, WINDOW), req / site.total[kind], c.work[0])


@inline_kernel
def _sort_hosts(site: Site, live: Live, c: Cands, plan: Plan, rd: Round, flags: Flags) -> int:
    """Part the active hosts into overloaded ones (``plan.crowd``, their number returned) and candidates."""
    crowd = wide(0)
    others = wide(0)
    for i in range(live.active[0]):
        h = live.active[i + 1]
        row = live.rows[h]
        load = 0.0
        for m in range(live.held[h]):
            load += rd.part[row[m]]
        if _list_overloaded(site, c, rd, h & 1, row, live.held[h], load):
            plan.crowd[crowd] = h
            crowd += 1
        else:
            plan.order[others] = h
            others += 1
    c.size[0] = 0
    c.slack[:] = 0.0
    add_candidates(site, live, c, rd, flags, plan.order, others)
    return int(crowd)


@inline_kernel
def _drain(
    site: Site,
    live: Live,
    c: Cands,
    plan: Plan,
    rule: Rule,
    rd: Round,
    times: F8,
    flat: bool,
    h: int,
    queued: int,
) -> int:
    """Queue VMs of host ``h`` until it is no longer overloaded; returns the length of the queue."""
    n = live.held[h]
    vms = live.scratch
    copy_range(vms, live.rows[h], 0, n)
    while n > 0:
        at = select_vm(rule.select, site, live.demand, times, rd.k, vms, n, flat, c.work, plan.rng)
        plan.queue[queued] = vms[at]
        queued += 1
        for i in range(at, n - 1):
            vms[i] = vms[i + 1]
        n -= 1
        load = 0.0
        for i in range(n):
            load += rd.part[vms[i]]
        if not _list_overloaded(site, c, rd, h & 1, vms, n, load):
            break
    return queued


@lean_kernel
def _add_empty(site: Site, live: Live, c: Cands, rd: Round, flags: Flags, h: int) -> None:
    """Make the first empty host from index ``h`` on, of the same type, a candidate."""
    while h < live.held.size:
        if live.held[h] == 0:
            live.touched[0] = h
            add_candidates(site, live, c, rd, flags, live.touched, wide(1))
            c.guard[h] = True  # off before the round: neither evacuated nor a target of an evacuation
            return
        h += 2


@inline_kernel
def _sort_by_demand(live: Live, plan: Plan, n: int) -> None:
    """Sort the queue by descending demand, stable."""
    for i in range(n):
        plan.key[plan.queue[i]] = -live.demand[plan.queue[i]]
    sort_ascending(plan.queue, plan.key, n, plan.order)


@lean_kernel
def _place_queue(
    site: Site, live: Live, c: Cands, plan: Plan, rd: Round, flags: Flags, queued: int, all_of_them: bool
) -> None:
    """Find a host for the queued VMs, largest demand first.

    Args:
        site: The day.
        live: State.
        c: Candidates.
        plan: Its queue is placed; it receives the migrations.
        rd: This round.
        flags: Quirks.
        queued: Length of the queue.
        all_of_them: Place all VMs and protect their targets, or place none; else who finds no host stays.
    """
    _sort_by_demand(live, plan, queued)
    planned = plan.size[0]
    protect = all_of_them or not flags.double_moves
    for i in range(queued):
        v = plan.queue[i]
        j = find_candidate(site, live, c, rd, v)
        if j < 0:
            if not all_of_them:
                continue
            for at in range(i - 1, -1, -1):
                take_back(site, live, c, rd, at)
            plan.size[0] = planned
            return
        h = c.host[j]
        was_empty = c.length[h] == 0
        put_vm(site, live, c, rd, flags, j, v, i)
        plan.vm[plan.size[0]] = v
        plan.host[plan.size[0]] = h
        plan.size[0] += 1
        if was_empty:
            _add_empty(site, live, c, rd, flags, wide(h + 2))
    if protect:
        for i in range(planned, plan.size[0]):
            c.guard[plan.host[i]] = True


@inline_kernel
def _is_off(live: Live, flags: Flags, h: int) -> bool:
    return bool(live.util[h] == 0.0 if flags.idle_hosts_are_off else live.held[h] == 0)


@inline_kernel
def _drop_off_hosts(live: Live, c: Cands, flags: Flags) -> None:
    """Hosts that were off before the round are not targets of evacuations, even if switched on just now."""
    for j in range(c.size[0] - 1, -1, -1):
        if _is_off(live, flags, c.host[j]):
            remove_candidate(c, j)
    c.slack[:] = 0.0
    for j in range(c.size[0]):
        c.slack[0] += c.free[j]
        c.slack[1] += c.high[j] - c.load[j]


@inline_kernel
def _evacuate_all(site: Site, live: Live, c: Cands, plan: Plan, rd: Round, flags: Flags) -> None:
    """Try every host that is not overloaded, least used first, unless it has become a target."""
    n = wide(0)
    floor = 0.0 if flags.idle_hosts_are_off else -1.0
    ceiling = 1.0 if flags.no_underload_threshold else UNDERLOAD
    for i in range(live.active[0]):
        h = live.active[i + 1]
        if c.slot[h] >= 0 and floor < live.util[h] < ceiling:
            plan.crowd[n] = h
            n += 1
    sort_ascending(plan.crowd, live.util, n, plan.order)
    for i in range(n):
        h = plan.crowd[i]
        if c.guard[h]:
            continue
        j = c.slot[h]
        use = c.use[j]
        load = c.load[j]
        remove_candidate(c, j)
        # what does not fit into all candidates together need not be tried
        if use > c.slack[0] * (1.0 + 1e-9) + 1e-6 or load > c.slack[1] * (1.0 + 1e-9) + 1e-6:
            continue
        copy_range(plan.queue, live.rows[h], 0, c.length[h])
        _place_queue(site, live, c, plan, rd, flags, c.length[h], switch(True))


@inline_kernel
def optimise(
    site: Site,
    live: Live,
    c: Cands,
    plan: Plan,
    rule: Rule,
    flags: Flags,
    past: F8,
    times: F8,
    k: int,
) -> None:
    """Plan the migrations of round ``k``.

    Args:
        site: The day.
        live: State after the update at this instant; only its scratch parts change.
        c: Work arrays.
        plan: Receives the migrations.
        rule: The policy.
        flags: Quirks.
        past: Demand of every VM at each round so far, MHz.
        times: Instants of the rounds, s.
        k: This round.
    """
    plan.size[0] = 0
    rd = _make_round(site, live, plan, rule, flags, past, k)
    c.slot[:] = -1
    crowd = _sort_hosts(site, live, c, plan, rd, flags)
    queued = wide(0)
    for i in range(crowd):
        queued = _drain(
            site, live, c, plan, rule, rd, times, not flags.interpolated_demand, plan.crowd[i], queued
        )
    if queued > 0:
        _add_empty(site, live, c, rd, flags, wide(0))
        _add_empty(site, live, c, rd, flags, wide(1))
        _place_queue(site, live, c, plan, rd, flags, queued, switch(False))
    _drop_off_hosts(live, c, flags)
    _evacuate_all(site, live, c, plan, rd, flags)
