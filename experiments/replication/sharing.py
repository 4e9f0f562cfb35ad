"""Kernels: demand of the VMs, shares of one host, its power, and the accounts between two instants."""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import NDArray

from .kernel import lean_kernel
from .live import (
    A_ACTIVE_S,
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

__all__ = [
    "account_until",
    "demand_at",
    "hash_ordered_sum",
    "list_active",
    "power_at",
    "share_all",
    "share_host",
    "show_states",
]

TOLERANCE = 1e-9


@lean_kernel
def power_at(site: Site, kind: int, util: float) -> float:
    """Power of a host of a type at a utilisation, W: P = p_a + ((p_b - p_a) / 10)(u - a / 10) 100."""
    scaled = util * 10.0
    a = int(scaled)
    watts: float = site.watts[kind * SEGMENTS + a]
    if scaled != a:
        watts += site.slope[kind * SEGMENTS + a] * (util - site.tenth[a]) * 100.0
    return watts


@lean_kernel
def demand_at(site: Site, live: Live, t: float, interpolated: bool) -> None:
    """Set the demand of every VM at time ``t``, MHz."""
    last = site.x.shape[0] - 1
    a = min(int(t // ROUND_S), last)
    dt = t - a * ROUND_S
    now = site.x[a]
    if dt == 0.0 or a == last or not interpolated:
        for v in range(now.size):
            live.demand[v] = now[v] * site.mhz[v]
        return
    then = site.x[a + 1]
    for v in range(now.size):
        live.demand[v] = (now[v] + ((then[v] - now[v]) / ROUND_S) * dt) * site.mhz[v]


@lean_kernel
def hash_ordered_sum(vms: Ints, n: int, key: Ints, table: int, weight: NDArray[np.float64]) -> float:
    """Sum ``weight[:n]`` in the order of a hash table with ``table`` buckets that holds ``vms[:n]``.

    The order only matters where a share is within rounding of a whole number of MIPS, and then it does.
    """
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


@lean_kernel
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
    live.on[h] = use > 0.0 if flags.idle_hosts_are_off else live.count[h] > 0


@lean_kernel
def share_host(site: Site, live: Live, flags: Flags, h: int, detail: bool) -> None:
    """Share the CPU of host ``h`` among its VMs.

    Sums run in the order of the host's list, as the peer's do. The common case (everybody gets all it asks for,
    nobody migrates) is decided here; any other, and per-VM accounts (``detail``), by ``_share_slowly``.
    """
    core = site.core[h & 1]
    free = site.total[h & 1]
    use = 0.0
    need = 0.0
    row = live.rows[h]
    for i in range(live.count[h]):
        asked = live.demand[row[i]]
        capped = min(asked, core)
        free -= capped
        use += capped
        need += asked
    # once a VM does not fit, free stays negative; use = need, bit for bit, unless a core's speed caps a VM
    if free < 0.0 or use != need or live.moves[h] > 0 or detail:
        _share_slowly(site, live, flags, h)
        return
    tally = live.tally[h]
    tally[0] = need
    tally[1] = use
    tally[2] = 0.0
    tally[3] = 0.0
    tally[4] = 0.0
    live.bad[h] = False
    _finish_host(site, live, flags, h, use, need, free)


@lean_kernel
def _weigh(site: Site, live: Live, h: int, weight: NDArray[np.float64]) -> float:
    """Reservation of each VM of a host (a tenth for incoming ones), and the CPU left, negative if too little."""
    core = site.core[h & 1]
    free: float = site.total[h & 1]
    fits = True
    for i in range(live.count[h]):
        v = live.rows[h, i]
        capped = min(live.demand[v], core)
        w = 0.1 * capped if live.where[v] != h else capped
        weight[i] = w
        if free >= w and fits:
            free -= w
        else:
            fits = False
    return free if fits else -1.0


@lean_kernel
def _grant(capped: float, factor: float, incoming: bool, leaving: bool, whole: bool) -> float:
    """CPU granted to a VM; ``factor`` < 0 means that there is enough for all."""
    if incoming:
        grant = 0.1 * capped
        if factor >= 0.0:
            grant *= factor
    else:
        grant = capped
        if factor >= 0.0:
            grant *= factor
        if leaving:
            grant *= 0.9
    return floor(grant) if whole and factor >= 0.0 else grant


@lean_kernel
def _share_slowly(site: Site, live: Live, flags: Flags, h: int) -> None:
    """The general case of ``share_host``: contention, migrations, one-core caps and per-VM accounts."""
    n = live.count[h]
    row = live.rows[h]
    total = site.total[h & 1]
    weight = live.weight
    free = _weigh(site, live, h, weight)
    asked_share = 0.0
    for i in range(n):
        asked_share += weight[i]
    factor = -1.0
    if free < 0.0:
        factor = total / hash_ordered_sum(row, n, site.key, live.table[h], weight)
    use = 0.0
    need = 0.0
    tally = live.tally[h]
    tally[:] = 0.0
    for i in range(n):
        v = row[i]
        asked = live.demand[v]
        capped = min(asked, site.core[h & 1])
        incoming = live.where[v] != h
        leaving = live.moving[v] and not incoming
        got = _grant(capped, factor, incoming, leaving, flags.floor_mips)
        if not leaving:
            use += got
        elif flags.sla_counts_incoming_full:
            use += got / 0.9
        else:
            use += capped if factor < 0.0 else capped * factor
        need += asked
        if not incoming:
            _book_vm(live, flags, tally, v, asked, got, leaving)
    if flags.sla_counts_incoming_full:
        live.bad[h] = use < need
    else:
        live.bad[h] = asked_share > total * (1.0 + TOLERANCE)
    _finish_host(site, live, flags, h, use, need, max(free, 0.0))


@lean_kernel
def _book_vm(
    live: Live, flags: Flags, tally: NDArray[np.float64], v: int, asked: float, got: float, leaving: bool
) -> None:
    """Add one VM to the tally of the host it runs on."""
    tally[0] += asked
    tally[1] += got
    lost = 0.0
    if leaving:
        if not flags.pdm_counts_contention:
            lost = got / 9.0  # the tenth that the migration takes of a share of got / 0.9
        elif got < asked:
            lost = asked - got
    tally[2] += lost
    if got < asked:
        tally[3] += 1.0
        tally[4] += (asked - got) / asked
    live.granted[v] = got
    live.lost[v] = lost


@lean_kernel
def list_active(live: Live) -> None:
    """Rebuild the ascending list of hosts with VMs."""
    n = 0
    for h in range(live.count.size):
        live.active[n + 1] = h
        n += live.count[h] > 0
    live.active[0] = n


@lean_kernel
def share_all(site: Site, live: Live, flags: Flags, dt: float, detail: bool) -> None:
    """Share the CPU of every host and add the energy of the ``dt`` seconds before this instant."""
    joules = 0.0
    for i in range(live.active[0]):
        h = live.active[i + 1]
        was_on = live.on[h]
        before = live.watt[h]
        share_host(site, live, flags, h, detail)
        if was_on and dt > 0.0:
            if flags.mean_power:
                joules += (before + (live.watt[h] - before) / 2.0) * dt
            else:
                joules += before * dt
    live.account[A_ENERGY] += joules


@lean_kernel
def account_until(live: Live, dt: float, detail: bool) -> None:
    """Book ``dt`` seconds of the present shares: every history entry holds until the next one."""
    account = live.account
    account[A_SPAN_S] += dt
    for i in range(live.active[0]):
        h = live.active[i + 1]
        tally = live.tally[h]
        account[A_ASKED] += tally[0] * dt
        account[A_GOT] += tally[1] * dt
        account[A_LOST] += tally[2] * dt
        account[A_SHORTS] += tally[3]
        account[A_SHORT_SUM] += tally[4]
        if live.on[h]:
            account[A_ON_S] += dt
            account[A_ACTIVE_S] += dt
            live.host_on_s[h] += dt
            if live.bad[h]:
                account[A_BAD_S] += dt
                live.host_bad_s[h] += dt
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
