"""The plan under construction, as arrays, and what can be done to it: put an item on a host, take it off.

Everything here is a kernel or makes memory for one. Arguments ``p`` are handles to ``Items``, ``w`` to
``Plan``. Kernels release Python's lock, so that a search runs beside a solver.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.records import Place, Record

from .items import (
    Items,
)
from .nodes import pack_nodes


class PlanTally(Record):
    """Lengths and counts."""

    number = np.int64
    used = Place("hosts in ``used``")
    bank = Place("items in ``bank``")
    journal = Place("items in ``journal``")
    tried = Place("rounds tried")
    taken = Place("rounds whose plan was kept")


class PlanSums(Record):
    """Sums over hosts."""

    cost = Place("cost, J")
    fullness = Place("squares of how full hosts are")
    best = Place("total cost of the best plan seen, J")


class Plan(NamedTuple):
    """A plan, the best one seen, and scratch memory."""

    host_of: I8  # (I,) host of each item, -1 = none
    next: I8  # (I,) links of the list of items of a host
    prev: I8  # (I,)
    head: I8  # (H,) first item of each host, -1 = none
    load: F8  # (H,) MHz
    mem: F8  # (H,) MiB
    cost: F8  # (H,) energy over the horizon, J; 0 for an empty host
    fill: F8  # (H,) how full the host is, 0...1, by what is scarce
    n: I8  # (H,) items
    strange: I8  # (H,) items that were not there before
    anti: I8  # (G, H) members of each anti-affinity group
    on: I8  # (H,) scratch: 1 = on, with or without items
    used: I8  # (H,) hosts with items, in any order
    used_at: I8  # (H,) where a host stands in ``used``
    open: I8  # (L,) one empty host of each kind of like hosts, -1 = none left
    tally: PlanTally
    sums: PlanSums
    weight: F8  # (2,) how scarce CPU and memory are; they add up to 1
    best: I8  # (I,) host of each item in the best plan seen
    bank: I8  # (I,) items that wait for a host
    key: F8  # (I,) what the bank is sorted by
    journal: I8  # (I,) items taken off in this round
    journal_host: I8  # (I,) where they were
    rng: NDArray[np.uint64]  # (1,) state of the random numbers
    n_cpu: F8  # (V,) scratch of ``pack_nodes``
    n_mem: F8  # (V,)
    n_order: I8  # (V,)
    n_key: F8  # (V,)
    n_free: F8  # (2 N,)
    n_bits: I8  # (V,)


def allocate_plan(items: Items, seed: int) -> Plan:
    """Make an empty plan.

    Args:
        items: The instance.
        seed: Seed of the search.
    """
    n, h = len(items.cpu), len(items.cap_cpu)
    n_vms, n_like = len(items.vm), int(items.like.max(initial=-1)) + 1
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64) | np.uint64(1)
    usable = items.allowed.max(axis=0) > 0
    cpu = float(items.cpu.sum()) / max(float(items.cap_cpu[usable].sum()), 1e-9)
    room = float(items.cap_mem[usable].sum())
    mem = float(items.mem.sum()) / room if 0.0 < room < np.inf else 0.0
    # Cubed: if one resource is clearly scarcer, hosts are as full as they are of that one.
    weight = np.array([cpu, mem]) ** 3
    weight /= max(float(weight.sum()), 1e-300)

    def ints(size: int) -> I8:
        return np.full(size, -1, dtype=np.int64)

    return Plan(
        ints(n), ints(n), ints(n), ints(h), np.zeros(h), np.zeros(h), np.zeros(h), np.zeros(h),
        np.zeros(h, dtype=np.int64), np.zeros(h, dtype=np.int64),
        np.zeros((int(items.n_anti[0]), h), dtype=np.int64),
        ints(h), ints(h), ints(h), ints(n_like), PlanTally.zeros(), PlanSums.zeros(), weight,
        ints(n), ints(n), np.zeros(n), ints(n), ints(n), state,
        np.zeros(n_vms), np.zeros(n_vms), ints(n_vms), np.zeros(n_vms),
        np.zeros(max(1, 2 * items.node_cpu.shape[1])), ints(n_vms),
    )  # fmt: skip


@kernel(nogil=True)
def host_cost(p: Items, h: int, load: float) -> Any:
    """Energy of host h under a load over the horizon, with switching it on, J."""
    last = p.energy_j.shape[1] - 1
    t = p.table[h]
    x = min(load * p.scale[h], float(last))
    a = min(int(x), last - 1)
    low = p.energy_j[t, a]
    return low + (p.energy_j[t, a + 1] - low) * (x - a) + p.switch_j[h]


@kernel(nogil=True)
def item_cost(p: Items, i: int, h: int) -> Any:
    """Cost of the migrations if item i is on host h, J."""
    cost = p.move_j[i]
    for k in range(p.saved_first[i], p.saved_first[i + 1]):
        if p.saved_host[k] == h:
            cost -= p.saved_j[k]
    return cost


@kernel(nogil=True)
def _nodes_fit(p: Items, w: Plan, i: int, h: int) -> Any:
    """Whether item i fits on the NUMA nodes of host h beside what is there."""
    n = 0
    item = i
    other = w.head[h]
    while item >= 0:
        for k in range(p.vm_first[item], p.vm_first[item + 1]):
            w.n_cpu[n], w.n_mem[n] = p.vm_node_cpu[k], p.vm_node_mem[k]
            n += 1
        item = other
        if other >= 0:
            other = w.next[other]
    return pack_nodes(
        n, w.n_cpu, w.n_mem, p.node_cpu[h], p.node_mem[h], w.n_order, w.n_key, w.n_free, w.n_bits
    )


@kernel(nogil=True)
def fits(p: Items, w: Plan, i: int, h: int) -> Any:
    """Whether item i may be put on host h now.

    A host that holds only what it holds today may be as full as it is today.
    """
    load, mem = w.load[h] + p.cpu[i], w.mem[h] + p.mem[i]
    at_home = p.home[i] == h and w.strange[h] == 0
    if at_home:
        if load > p.keep_cpu[h] or mem > p.keep_mem[h]:
            return False
    elif load > p.cap_cpu[h] or mem > p.cap_mem[h]:
        return False
    if p.allowed[p.row[i], h] == 0:
        return False
    for k in range(p.anti_first[i], p.anti_first[i + 1]):
        if w.anti[p.anti_group[k], h] > 0:
            return False
    if p.node_cpu.shape[1] > 0 and not at_home:
        return _nodes_fit(p, w, i, h)
    return True


@kernel(nogil=True)
def insert_cost(p: Items, w: Plan, i: int, h: int) -> Any:
    """By how much the cost grows if item i is put on host h, J (hosts kept in reserve not counted)."""
    return host_cost(p, h, w.load[h] + p.cpu[i]) - w.cost[h] + item_cost(p, i, h)


@kernel(nogil=True)
def _find_open(p: Items, w: Plan, like: int) -> None:
    """Find an empty host of some kind, the one that is on if only some are (they are not alike then)."""
    w.open[like] = -1
    for h in range(w.n.shape[0]):
        if p.like[h] == like and w.n[h] == 0:
            w.open[like] = h
            return


@kernel(nogil=True)
def _weigh(p: Items, w: Plan, h: int) -> None:
    """Bring the cost and the fill of a host, and the sums over hosts, up to date."""
    w.sums.cost -= w.cost[h]
    w.sums.fullness -= w.fill[h] * w.fill[h]
    if w.n[h] == 0:
        w.cost[h] = 0.0
        w.fill[h] = 0.0
        return
    w.cost[h] = host_cost(p, h, w.load[h])
    w.fill[h] = w.weight[0] * w.load[h] * p.inv_cpu[h] + w.weight[1] * w.mem[h] * p.inv_mem[h]
    w.sums.cost += w.cost[h]
    w.sums.fullness += w.fill[h] * w.fill[h]


@kernel(nogil=True)
def insert(p: Items, w: Plan, i: int, h: int) -> None:
    """Put item i on host h; whether it fits is the caller's business."""
    w.host_of[i] = h
    w.prev[i] = -1
    w.next[i] = w.head[h]
    if w.head[h] >= 0:
        w.prev[w.head[h]] = i
    w.head[h] = i
    if w.n[h] == 0:
        w.used_at[h] = w.tally.used
        w.used[w.tally.used] = h
        w.tally.used += 1
    w.n[h] += 1
    if w.open[p.like[h]] == h:
        _find_open(p, w, p.like[h])
    w.strange[h] += p.home[i] != h
    w.load[h] += p.cpu[i]
    w.mem[h] += p.mem[i]
    for k in range(p.anti_first[i], p.anti_first[i + 1]):
        w.anti[p.anti_group[k], h] += 1
    w.sums.cost += item_cost(p, i, h)
    _weigh(p, w, h)


@kernel(nogil=True)
def remove(p: Items, w: Plan, i: int) -> None:
    """Take item i off its host."""
    h = w.host_of[i]
    w.host_of[i] = -1
    if w.prev[i] >= 0:
        w.next[w.prev[i]] = w.next[i]
    else:
        w.head[h] = w.next[i]
    if w.next[i] >= 0:
        w.prev[w.next[i]] = w.prev[i]
    w.n[h] -= 1
    w.strange[h] -= p.home[i] != h
    w.load[h] -= p.cpu[i]
    w.mem[h] -= p.mem[i]
    for k in range(p.anti_first[i], p.anti_first[i + 1]):
        w.anti[p.anti_group[k], h] -= 1
    w.sums.cost -= item_cost(p, i, h)
    if w.n[h] == 0:
        w.load[h] = 0.0  # differences of sums leave crumbs
        w.mem[h] = 0.0
        last = w.tally.used - 1
        at = w.used_at[h]
        w.used[at] = w.used[last]
        w.used_at[w.used[at]] = at
        w.used_at[h] = -1
        w.tally.used = last
        if w.open[p.like[h]] < 0:
            w.open[p.like[h]] = h
    _weigh(p, w, h)


@kernel(nogil=True)
def _left_after_failures(size: F8, on: I8, k: int) -> Any:
    """Sum over the hosts that are on, without the k largest."""
    total, at_most = 0.0, np.inf
    for h in range(on.shape[0]):
        total += size[h] if on[h] else 0.0
    while k > 0:  # take off the largest that is below the last one, as often as it occurs
        largest, times = -1.0, 0
        for h in range(on.shape[0]):
            if on[h] and size[h] < at_most:
                if size[h] > largest:
                    largest, times = size[h], 1
                elif size[h] == largest:
                    times += 1
        if times == 0:
            return 0.0
        total -= min(k, times) * largest
        k -= times
        at_most = largest
    return total


@kernel(nogil=True)
def _shortage(p: Items, w: Plan, n_on: int) -> Any:
    """What is missing: 0 nothing, 1 hosts, 2 CPU, 3 memory (the larger share of what is needed)."""
    if n_on < p.numbers.need_hosts:
        return 1
    k = int(p.numbers.failover)
    short_cpu = short_mem = 0.0
    for fails in range(2):
        cpu, mem = p.numbers.need_cpu, p.numbers.need_mem
        if fails == 1:
            if k == 0:
                break
            cpu, mem = p.numbers.cpu, p.numbers.mem
        if cpu > 0.0:
            short_cpu = max(short_cpu, 1.0 - _left_after_failures(p.host_cpu, w.on, k * fails) / cpu)
        if mem > 0.0 and p.inv_mem[0] > 0.0:
            short_mem = max(short_mem, 1.0 - _left_after_failures(p.host_mem, w.on, k * fails) / mem)
    if short_cpu <= 1e-9 and short_mem <= 1e-9:
        return 0
    return 2 if short_cpu >= short_mem else 3


@kernel(nogil=True)
def spare_cost(p: Items, w: Plan) -> Any:
    """Energy of hosts that must be on beside those with items, J."""
    needs = p.numbers.need_hosts + p.numbers.need_cpu + p.numbers.need_mem + p.numbers.failover
    if needs == 0.0:
        return 0.0
    for h in range(w.on.shape[0]):
        w.on[h] = w.n[h] > 0
    n_on = w.tally.used
    short = _shortage(p, w, n_on)
    if short == 0:
        return 0.0
    cost = 0.0
    for h in p.spare[short - 1]:
        if h >= 0 and w.on[h] == 0:
            w.on[h] = 1
            n_on += 1
            cost += host_cost(p, h, 0.0)
            if _shortage(p, w, n_on) == 0:
                return cost
    return cost + p.numbers.bank


@kernel(nogil=True)
def total_cost(p: Items, w: Plan, n_waiting: int) -> Any:
    """Cost of the plan, J: energy, migrations, hosts kept on in reserve, a fortune for what waits."""
    return w.sums.cost + spare_cost(p, w) + n_waiting * p.numbers.bank


@kernel(nogil=True)
def tidy(p: Items, w: Plan) -> None:
    """Add up loads and costs anew: sums that were added to and taken from drift."""
    w.sums.cost = 0.0
    w.sums.fullness = 0.0
    w.cost[:] = 0.0
    w.fill[:] = 0.0
    for h in range(w.n.shape[0]):
        w.load[h] = 0.0
        w.mem[h] = 0.0
        i = w.head[h]
        while i >= 0:
            w.load[h] += p.cpu[i]
            w.mem[h] += p.mem[i]
            w.sums.cost += item_cost(p, i, h)
            i = w.next[i]
        _weigh(p, w, h)


@kernel(nogil=True)
def load_plan(p: Items, w: Plan, host_of: I8) -> None:
    """Start from an assignment of items, (I,), -1 = waits; it need not be allowed."""
    w.head[:] = -1
    w.load[:] = 0.0
    w.mem[:] = 0.0
    w.cost[:] = 0.0
    w.fill[:] = 0.0
    w.n[:] = 0
    w.strange[:] = 0
    w.anti[:] = 0
    w.sums[:] = 0.0
    w.tally[:] = 0
    w.open[:] = -1
    w.host_of[:] = -1
    w.sums.best = np.inf
    for h in range(w.n.shape[0] - 1, -1, -1):
        w.open[p.like[h]] = h
    for i in range(host_of.shape[0]):
        if host_of[i] >= 0:
            insert(p, w, i, host_of[i])
        else:
            w.bank[w.tally.bank] = i
            w.tally.bank += 1
