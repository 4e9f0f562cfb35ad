"""Search for rebalancing: the moves that even out load best, then the same with fewer of them.

Loads x_h = demand / capacity over the n hosts that are on, of CPU and memory. With S = sum (x_h - mean)^2,
moving an item from a to b changes S by what two loads change it: O(1) per candidate. A round sends some moved
items home and adds the best moves (or swaps, where no host has room) until the target is met or the limit is
reached; it is kept if it is no worse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8, U8
from virtgym.envs.jit.kernels import kernel

from .items import Items
from .moves import Plan, fits, insert, remove

M_STD, M_MAX = 0, 1
"""Measures: standard deviation, largest deviation from the mean."""
SOURCES, TARGETS = 6, 10
"""Most loaded and least loaded hosts that a step looks at, per resource."""
KICK = 0.5
"""Share of rounds that begin with random steps while a target is missed."""
INF = np.inf


class Balance(NamedTuple):
    """What the search knows beside ``Items`` and ``Plan``."""

    host: I8  # (n,) hosts that are on
    inv: F8  # (2, H) 1 / capacity of CPU and memory, 0 where it does not count
    target: F8  # (2,) imbalance to be reached, inf = does not count
    price: F8  # (I,) of moving each item away from home
    rules: F8  # (2,) most that all moves may cost; measure M_*
    state: F8  # (2,) excess and cost of the best plan
    moved: I8  # (I,) scratch: items away from home


class Scratch(NamedTuple):
    """Memory that a step needs."""

    found: I8  # (SOURCES,) hosts that items come from
    hosts: I8  # (TARGETS,) hosts that they change places with
    totals: F8  # (2,) sums of loads
    of_host: I8  # (I,) items of a host


@kernel(nogil=True)
def imbalance(w: Plan, b: Balance, r: int) -> Any:
    """Imbalance of a resource over the hosts that are on (0 CPU, 1 memory)."""
    n = b.host.shape[0]
    total = 0.0
    for h in b.host:
        total += (w.load[h] if r == 0 else w.mem[h]) * b.inv[r, h]
    mean = total / n
    squares, most = 0.0, 0.0
    for h in b.host:
        d = (w.load[h] if r == 0 else w.mem[h]) * b.inv[r, h] - mean
        squares += d * d
        most = max(most, abs(d))
    return most if b.rules[1] == M_MAX else np.sqrt(squares / n)


@kernel(nogil=True)
def _excess(w: Plan, b: Balance) -> Any:
    """By how much the targets are missed, both resources together."""
    total = 0.0
    for r in range(2):
        if b.target[r] < INF:
            total += max(0.0, imbalance(w, b, r) - b.target[r])
    return total


@kernel(nogil=True)
def _cost(p: Items, w: Plan, b: Balance) -> Any:
    cost = 0.0
    for i in range(w.host_of.shape[0]):
        if w.host_of[i] != p.home[i]:
            cost += b.price[i]
    return cost


@kernel(nogil=True)
def _gain(w: Plan, b: Balance, cpu: float, mem: float, source: int, dest: int, totals: F8) -> Any:
    """By how much the sums of squares fall if an item goes from one host to another."""
    gain, n = 0.0, b.host.shape[0]
    for r in range(2):
        if b.target[r] == INF:
            continue
        size = cpu if r == 0 else mem
        x = (w.load[source] if r == 0 else w.mem[source]) * b.inv[r, source]
        y = (w.load[dest] if r == 0 else w.mem[dest]) * b.inv[r, dest]
        dx, dy = size * b.inv[r, source], size * b.inv[r, dest]
        after = totals[r] - dx + dy
        squares = dx * (2.0 * x - dx) - dy * (2.0 * y + dy)
        gain += squares - (totals[r] * totals[r] - after * after) / n
    return gain


@kernel(nogil=True)
def _extremes(w: Plan, b: Balance, r: int, most: bool, rng: U8, found: I8) -> Any:
    """The most (or least) loaded hosts of a resource; some are overlooked at random."""
    count, want = 0, SOURCES if most else TARGETS
    for h in b.host:
        if _random(rng) < 0.1:
            continue
        x = (w.load[h] if r == 0 else w.mem[h]) * b.inv[r, h]
        k = count
        while k > 0:
            other = found[k - 1]
            y = (w.load[other] if r == 0 else w.mem[other]) * b.inv[r, other]
            if (y >= x) if most else (y <= x):
                break
            if k < want:
                found[k] = other
            k -= 1
        if k < want:
            found[k] = h
            count = min(count + 1, want)
    return count


@kernel(nogil=True)
def _random(rng: U8) -> Any:
    x = rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    rng[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@kernel(nogil=True)
def _extra(p: Items, b: Balance, i: int, source: int, dest: int) -> Any:
    """What it costs to have item i on another host than now."""
    return b.price[i] * ((dest != p.home[i]) - (source != p.home[i]))


@kernel(nogil=True)
def _can_swap(p: Items, w: Plan, i: int, j: int) -> Any:
    """Whether two items may change places."""
    source, dest = w.host_of[i], w.host_of[j]
    remove(p, w, i)
    remove(p, w, j)
    ok = fits(p, w, i, dest) and fits(p, w, j, source)
    insert(p, w, i, source)
    insert(p, w, j, dest)
    return ok


@kernel(nogil=True)
def _best_step(p: Items, w: Plan, b: Balance, left: float, greed: float, s: Scratch) -> Any:
    """The move (item, host, -1) or swap (item, -1, item) with the greatest gain per price ** greed.

    Items come from the most loaded hosts; they move to any, or change places with those of the least loaded.
    """
    item, dest, other, best = -1, -1, -1, 1e-12
    found, hosts, totals = s.found, s.hosts, s.totals
    for r in range(2):
        totals[r] = 0.0
        for h in b.host:
            totals[r] += (w.load[h] if r == 0 else w.mem[h]) * b.inv[r, h]
    for r in range(2):
        if b.target[r] == INF:
            continue
        n_from = _extremes(w, b, r, True, w.rng, found)
        n_to = _extremes(w, b, r, False, w.rng, hosts)
        for k in range(n_from):
            a = found[k]
            n = 0
            i = w.head[a]
            while i >= 0:
                s.of_host[n] = i
                n += 1
                i = w.next[i]
            for q in range(n):
                i = s.of_host[q]
                for h in b.host:
                    extra = _extra(p, b, i, a, h)
                    if h == a or extra > left:
                        continue
                    gain = _gain(w, b, p.cpu[i], p.mem[i], a, h, totals)
                    if gain > 0.0 and extra > 0.0:
                        gain /= extra**greed
                    if gain > best and fits(p, w, i, h):
                        item, dest, other, best = i, h, -1, gain
                for y in range(n_to):
                    h = hosts[y]
                    j = w.head[h] if h != a else -1
                    while j >= 0:
                        after = w.next[j]
                        extra = _extra(p, b, i, a, h) + _extra(p, b, j, h, a)
                        if extra <= left:
                            gain = _gain(w, b, p.cpu[i] - p.cpu[j], p.mem[i] - p.mem[j], a, h, totals)
                            if gain > 0.0 and extra > 0.0:
                                gain /= extra**greed
                            if gain > best and _can_swap(p, w, i, j):
                                item, dest, other, best = i, -1, j, gain
                                break  # the list of the host has changed its order
                        j = after
    return item, dest, other


@kernel(nogil=True)
def _add_moves(p: Items, w: Plan, b: Balance, greed: float, s: Scratch) -> None:
    """Add moves until the targets are met, the limit is reached, or nothing helps."""
    cost = _cost(p, w, b)
    for _ in range(4 * w.host_of.shape[0] + 4):
        if _excess(w, b) <= 0.0:
            return
        i, h, j = _best_step(p, w, b, b.rules[0] - cost + 1e-9, greed, s)
        if i < 0:
            return
        a = w.host_of[i]
        if j >= 0:
            h = w.host_of[j]
            cost += _extra(p, b, j, h, a)
            remove(p, w, j)
        cost += _extra(p, b, i, a, h)
        remove(p, w, i)
        insert(p, w, i, h)
        if j >= 0:
            insert(p, w, j, a)


@kernel(nogil=True)
def _send_home(p: Items, w: Plan, b: Balance) -> None:
    """Send some of the moved items home, where they fit."""
    n = 0
    for i in range(w.host_of.shape[0]):
        if w.host_of[i] != p.home[i] and p.home[i] >= 0:
            b.moved[n] = i
            n += 1
    if n == 0:
        return
    for _ in range(1 + int(_random(w.rng) * min(6.0, 1.0 + 0.3 * n))):
        i = b.moved[int(_random(w.rng) * n)]
        if w.host_of[i] != p.home[i] and fits(p, w, i, p.home[i]):
            remove(p, w, i)
            insert(p, w, i, p.home[i])


@kernel(nogil=True)
def start_balance(p: Items, w: Plan, b: Balance, s: Scratch) -> None:
    """Note the plan as it is, or with the best moves added, as the first."""
    b.state[0], b.state[1] = _excess(w, b), _cost(p, w, b)
    w.best[:] = w.host_of
    _add_moves(p, w, b, 1.0, s)
    _keep_or_undo(p, w, b)


@kernel(nogil=True)
def _keep_or_undo(p: Items, w: Plan, b: Balance) -> None:
    """Keep the plan if it is no worse than the best, else go back to that."""
    excess, cost = _excess(w, b), _cost(p, w, b)
    better = excess < b.state[0] - 1e-12 or (excess <= b.state[0] + 1e-12 and cost <= b.state[1])
    if better and cost <= b.rules[0] + 1e-9:
        b.state[0], b.state[1] = excess, cost
        w.best[:] = w.host_of
        return
    for i in range(w.host_of.shape[0]):
        if w.host_of[i] != w.best[i] and w.host_of[i] >= 0:
            remove(p, w, i)
    for i in range(w.host_of.shape[0]):
        if w.host_of[i] != w.best[i]:
            insert(p, w, i, w.best[i])


@kernel(nogil=True)
def _kick(p: Items, w: Plan, b: Balance) -> None:
    """A few items change places or move at random: steps that only gain end where no single one gains."""
    n = w.host_of.shape[0]
    for _ in range(1 + int(_random(w.rng) * 3.0)):
        i, j = int(_random(w.rng) * n), int(_random(w.rng) * n)
        a, h = w.host_of[i], w.host_of[j]
        if a == h:
            continue
        if fits(p, w, i, h):
            remove(p, w, i)
            insert(p, w, i, h)
        elif _can_swap(p, w, i, j):
            remove(p, w, i)
            remove(p, w, j)
            insert(p, w, i, h)
            insert(p, w, j, a)


@kernel(nogil=True)
def balance(p: Items, w: Plan, b: Balance, rounds: int, s: Scratch) -> None:
    """Search from the present plan.

    Args:
        p: Handle to ``Items``.
        w: Handle to ``Plan``.
        b: Handle to ``Balance``.
        rounds: Rounds.
        s: Handle to ``Scratch``.
    """
    for _ in range(rounds):
        _send_home(p, w, b)
        if b.state[0] > 0.0 and _random(w.rng) < KICK:
            _kick(p, w, b)
        _add_moves(p, w, b, 0.5 + _random(w.rng), s)
        _keep_or_undo(p, w, b)
