"""Kernels: demand of the VMs, shares of one host, its power, and the accounts between two instants."""

from __future__ import annotations

from math import floor

from virtgym.envs.arrays import F8

from .kernel import inline_kernel, lean_kernel
from .live import (
    A_ASKED,
    A_BAD_S,
    A_ENERGY,
    A_GOT,
    A_LOST,
    A_ON_S,
    A_SHORT_SUM,
    A_SHORTS,
    A_SPAN_S,
    A_STOP_S,
    A_STOPS,
    Flags,
    Ints,
    Live,
)
from .machines import ROUND_S, SEGMENTS, Site

TOLERANCE = 1e-9


@inline_kernel
def power_at(site: Site, kind: int, util: float) -> float:
    """Power of a host of a type at a utilisation, W: P = p_a + ((p_b - p_a) / 10)(u - a / 10) 100."""
    scaled = util * 10.0
    a = int(scaled)
    watts: float = site.watts[kind * SEGMENTS + a]
    if scaled != a:
        watts += site.slope[kind * SEGMENTS + a] * (util - site.tenth[a]) * 100.0
    return watts


@lean_kernel
def _set_rates(now: F8, then: F8, rate: F8) -> None:
    """Change of the utilisation per second between two samples; apart from the rest so that it vectorises."""
    for v in range(now.size):
        rate[v] = (then[v] - now[v]) / ROUND_S


@lean_kernel
def _blend(now: F8, rate: F8, mhz: F8, dt: float, out: F8) -> None:
    """Demand ``dt`` seconds after a sample."""
    for v in range(now.size):
        out[v] = (now[v] + rate[v] * dt) * mhz[v]


@inline_kernel
def demand_at(site: Site, live: Live, t: float, interpolated: bool) -> None:
    """Set the demand of every VM at time ``t``, MHz."""
    last = site.x.shape[0] - 1
    a = min(int(t // ROUND_S), last)
    dt = t - a * ROUND_S
    if live.sample[0] != a:
        live.sample[0] = a
        _set_rates(site.x[a], site.x[min(a + 1, last)], live.rate)
    _blend(site.x[a], live.rate, site.mhz, dt if interpolated else 0.0, live.demand)


@lean_kernel
def hash_ordered_sum(vms: Ints, n: int, key: Ints, table: int, weight: F8) -> float:
    """Sum ``weight[:n]`` in the order of a hash table with ``table`` buckets that holds ``vms[:n]``."""
    total = 0.0
    bucket = -1
    at = -1
    for _ in range(n):
        # next (bucket, position of insertion) in lexicographic order
        next_bucket = table
        next_at = n
        for i in range(n):
            b = key[vms[i]] & (table - 1)
            if (b > bucket or (b == bucket and i > at)) and b < next_bucket:
                next_bucket = b
                next_at = i
        bucket = next_bucket
        at = next_at
        total += weight[at]
    return total


@inline_kernel
def _finish_host(site: Site, live: Live, flags: Flags, h: int, use: float, need: float, free: float) -> None:
    """Store use and need of a host, and what follows from them."""
    kind = h & 1
    util = use / site.total[kind]
    if 1.0 < util < 1.01:
        util = 1.0
    live.use[h] = use
    live.need[h] = need
    live.free[h] = free
    live.util[h] = util
    live.watt[h] = power_at(site, kind, util)
    live.on[h] = use > 0.0 if flags.idle_hosts_are_off else live.held[h] > 0


@inline_kernel
def _share_host(site: Site, live: Live, flags: Flags, h: int, detail: bool) -> None:
    """Share the CPU of host ``h`` among its VMs.

    Sums run in the order of the host's list, as the peer's do. The common case (everybody gets all it asks
    for, nobody migrates) is decided here; others, and per-VM accounts (``detail``), by the functions below.
    """
    core = site.core[h & 1]
    free = site.total[h & 1]
    use = 0.0
    need = 0.0
    special = live.moves[h] > 0 or detail
    for i in range(0 if special else live.held[h]):
        asked = live.demand[live.rows[h, i]]
        capped = min(asked, core)
        free -= capped
        use += capped
        need += asked
    # once a VM does not fit, free stays negative; use = need, bit for bit, unless a core's speed caps a VM
    if special or free < 0.0 or use != need:
        free = _share_while_moving(site, live, flags, h)
        if free < 0.0:
            _share_scarce(site, live, flags, h)
            free = 0.0
        use = live.use[h]
        need = live.need[h]
    else:
        live.tally[h, 0] = need
        live.tally[h, 1] = use
        live.tally[h, 2] = 0.0
        live.tally[h, 3] = 0.0
        live.tally[h, 4] = 0.0
        live.bad[h] = False
    _finish_host(site, live, flags, h, use, need, free)


@inline_kernel
def _lost_share(asked: float, got: float, all_of_it: bool) -> float:
    """CPU that a migrating VM loses: all it lacks, or the tenth that the migration takes of got / 0.9."""
    if not all_of_it:
        return got / 9.0
    return asked - got if got < asked else 0.0


@inline_kernel
def _share_while_moving(site: Site, live: Live, flags: Flags, h: int) -> float:
    """Share with migrations, one-core caps or per-VM accounts; returns the CPU left, < 0 if too little."""
    core = site.core[h & 1]
    free = site.total[h & 1]
    use = 0.0
    need = 0.0
    settled = 0.0
    granted = 0.0
    lost = 0.0
    shorts = 0.0
    short_sum = 0.0
    for i in range(live.held[h]):
        v = live.rows[h, i]
        asked = live.demand[v]
        capped = min(asked, core)
        need += asked
        if live.where[v] != h:
            free -= 0.1 * capped
            use += 0.1 * capped
            continue
        free -= capped
        got = capped
        loss = 0.0
        if live.moving[v]:
            got = 0.9 * capped
            use += got / 0.9 if flags.sla_counts_incoming_full else capped
            loss = _lost_share(asked, got, flags.pdm_counts_contention)
            lost += loss
        else:
            use += capped
        settled += asked
        granted += got
        if got < asked:
            shorts += 1.0
            short_sum += (asked - got) / asked
        live.lost[v] = loss
    live.tally[h, 0] = settled
    live.tally[h, 1] = granted
    live.tally[h, 2] = lost
    live.tally[h, 3] = shorts
    live.tally[h, 4] = short_sum
    live.use[h] = use
    live.need[h] = need
    live.bad[h] = use < need and flags.sla_counts_incoming_full
    return float(free)


@inline_kernel
def _is_near_whole(value: float) -> bool:
    return abs(value - floor(value + 0.5)) < 1e-6


@inline_kernel
def _scarcity(site: Site, live: Live, h: int) -> float:
    """Share of its request that everybody gets: capacity over the reservations, a tenth for incoming VMs."""
    total = site.total[h & 1]
    asked = 0.0
    for i in range(live.held[h]):
        v = live.rows[h, i]
        capped = min(live.demand[v], site.core[h & 1])
        live.weight[i] = 0.1 * capped if live.where[v] != h else capped
        asked += live.weight[i]
    factor = total / asked
    # the order of the sum matters only where a share is within rounding of a whole number of MIPS
    for i in range(live.held[h]):
        got = live.weight[i] * factor
        if _is_near_whole(got) or _is_near_whole(0.9 * got):
            asked = hash_ordered_sum(live.rows[h], live.held[h], site.key, live.table[h], live.weight)
            return float(total / asked)
    return float(factor)


@lean_kernel
def _share_scarce(site: Site, live: Live, flags: Flags, h: int) -> None:
    """Share too little CPU in proportion to the requests."""
    factor = _scarcity(site, live, h)
    whole = flags.floor_mips
    use = 0.0
    need = 0.0
    tally = live.tally[h]
    tally[:] = 0.0
    for i in range(live.held[h]):
        v = live.rows[h, i]
        asked = live.demand[v]
        capped = min(asked, site.core[h & 1])
        need += asked
        if live.where[v] != h:
            got = (0.1 * capped) * factor
            use += floor(got) if whole else got
            continue
        got = capped * factor
        loss = 0.0
        if live.moving[v]:
            got *= 0.9
            got = floor(got) if whole else got
            use += got / 0.9
            loss = _lost_share(asked, got, flags.pdm_counts_contention)
        else:
            got = floor(got) if whole else got
            use += got
        tally[0] += asked
        tally[1] += got
        tally[2] += loss
        if got < asked:
            tally[3] += 1.0
            tally[4] += (asked - got) / asked
        live.lost[v] = loss
    live.use[h] = use
    live.need[h] = need
    live.bad[h] = use < need if flags.sla_counts_incoming_full else factor < 1.0 - TOLERANCE


@lean_kernel
def share_hosts(site: Site, live: Live, flags: Flags, hosts: Ints, n: int, dt: float, detail: bool) -> None:
    """Share the CPU of ``hosts[:n]`` and add their energy of the ``dt`` seconds before this instant.

    Args:
        site: The day.
        live: State; the demand is that of this instant, the shares become so.
        flags: Quirks.
        hosts: Hosts.
        n: How many.
        dt: Time since the last instant, s.
        detail: Keep per-VM accounts.
    """
    joules = 0.0
    for i in range(n):
        h = hosts[i]
        was_on = live.on[h]
        before = live.watt[h]
        _share_host(site, live, flags, h, detail)
        if was_on and dt > 0.0:
            if flags.mean_power:
                joules += (before + (live.watt[h] - before) / 2.0) * dt
            else:
                joules += before * dt
    live.account[A_ENERGY] += joules


@lean_kernel
def list_active(live: Live) -> None:
    """Rebuild the ascending list of hosts with VMs."""
    n = 0
    for h in range(live.held.size):
        live.active[n + 1] = h
        n += live.held[h] > 0
    live.active[0] = n


@inline_kernel
def account_until(live: Live, dt: float, detail: bool) -> None:
    """Book ``dt`` seconds of the present shares: every history entry holds until the next one."""
    asked = 0.0
    got = 0.0
    lost = 0.0
    shorts = 0.0
    short_sum = 0.0
    on_s = 0.0
    bad_s = 0.0
    for i in range(live.active[0]):
        h = live.active[i + 1]
        asked += live.tally[h, 0]
        got += live.tally[h, 1]
        lost += live.tally[h, 2]
        shorts += live.tally[h, 3]
        short_sum += live.tally[h, 4]
        if live.on[h]:
            on_s += dt
            live.host_on_s[h] += dt
            if live.bad[h]:
                bad_s += dt
                live.host_bad_s[h] += dt
    account = live.account
    account[A_SPAN_S] += dt
    account[A_ASKED] += asked * dt
    account[A_GOT] += got * dt
    account[A_LOST] += lost * dt
    account[A_SHORTS] += shorts
    account[A_SHORT_SUM] += short_sum
    account[A_ON_S] += on_s
    account[A_BAD_S] += bad_s
    if detail:
        for v in range(live.where.size):
            if live.where[v] >= 0:
                live.vm_asked[v] += live.demand[v] * dt
                live.vm_lost[v] += live.lost[v] * dt


@lean_kernel
def show_states(live: Live, t: float) -> None:
    """Close instant ``t``: count the hosts that became inactive since the last one."""
    for h in range(live.on.size):
        if live.on[h] != live.shown[h]:
            live.shown[h] = live.on[h]
            if live.on[h]:
                live.since[h] = t
            else:
                live.account[A_STOPS] += 1.0
                live.account[A_STOP_S] += t - live.since[h]
