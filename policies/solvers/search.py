"""Large-neighbourhood search for consolidation: empty some hosts, place all that again, keep what pays.

Ruin and recreate (Schrimpf et al., J. Comput. Phys. 159, 2000), as kernels:
some ten thousand neighbourhoods a second, against a few with a solver. A round

1. takes all or some items off one to ``MOST_HOSTS`` hosts, rather off hosts that are not full,
2. puts them back one by one, large ones first (with noise), each where cost grows least, with a bonus for
   hosts that it fills (best fit), at times overlooking a host, which costs a little and varies the result,
3. keeps the new plan if cost less a reward for unequally full hosts has not grown by more than a random
   amount in proportion to the temperature.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.jit.kernels import kernel

from .items import Items
from .moves import (
    Plan,
    fits,
    host_cost,
    insert,
    insert_cost,
    remove,
    spare_cost,
    tidy,
    total_cost,
)

MOST_HOSTS = 6
MOST_ITEMS = 60
"""What a round takes off at most."""
BLINK = 0.01
"""Share of hosts that an insertion overlooks."""
BOLD, BOLD_BLINK = 0.1, 0.3
"""Share of rounds in which it overlooks many and order hardly counts: what greed alone never does."""
INF = np.inf


@kernel(nogil=True)
def _random(w: Plan) -> Any:
    """A random number in 0...1, below 1 (xorshift64*)."""
    x = w.rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    w.rng[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@kernel(nogil=True)
def note_best(p: Items, w: Plan) -> None:
    """Remember the plan as the best one if it is."""
    cost = total_cost(p, w, w.tally.bank)
    if cost < w.sums.best:
        w.sums.best = cost
        w.best[:] = w.host_of


@kernel(nogil=True)
def _size(p: Items, w: Plan, i: int) -> Any:
    """Size of an item, in mean hosts, by what is scarce."""
    return w.weight[0] * p.cpu[i] * p.unit[0] + w.weight[1] * p.mem[i] * p.unit[1]


@kernel(nogil=True)
def _best_empty_host(p: Items, w: Plan, i: int, waiting: float, blink: float) -> Any:
    """The empty host to open for item i; -1 if it fits on none.

    A host costs what it draws idle, shared by what it will hold: at most itself full, at most all that waits
    (``waiting``: the sum of the sizes, see ``_size``). So large hosts are opened for much, small for little.
    """
    best, least = -1, INF
    size = _size(p, w, i)
    for k in range(w.open.shape[0]):
        h = w.open[k]
        if h < 0 or (blink > 0.0 and _random(w) < blink) or not fits(p, w, i, h):
            continue
        room = w.weight[0] * p.cap_cpu[h] * p.unit[0]
        if p.inv_mem[h] > 0.0:
            room += w.weight[1] * p.cap_mem[h] * p.unit[1]
        share = min(1.0, size / max(1e-12, min(room, waiting)))
        idle = host_cost(p, h, 0.0)
        cost = insert_cost(p, w, i, h) - idle + idle * share
        if cost < least:
            best, least = h, cost
    return best


@kernel(nogil=True)
def _best_host(p: Items, w: Plan, i: int, reward: float, blink: float, waiting: float) -> Any:
    """Where item i goes; -1 if it fits nowhere. ``waiting``: sizes of what waits, itself included."""
    best, least = -1, INF
    for k in range(w.tally.used):
        h = w.used[k]
        if w.load[h] + p.cpu[i] > p.keep_cpu[h] or w.mem[h] + p.mem[i] > p.keep_mem[h]:
            continue
        if blink > 0.0 and _random(w) < blink:
            continue
        cost = insert_cost(p, w, i, h)
        full = w.fill[h] + w.weight[0] * p.cpu[i] * p.inv_cpu[h] + w.weight[1] * p.mem[i] * p.inv_mem[h]
        cost += reward * (1.0 - full)
        if cost < least and fits(p, w, i, h):
            best, least = h, cost
    # A host that would be on in reserve anyway costs nothing idle.
    reserved = spare_cost(p, w) > 0.0
    h = _best_empty_host(p, w, i, waiting, blink)
    if h >= 0:
        cost = insert_cost(p, w, i, h) + (-host_cost(p, h, 0.0) if reserved else reward)
        if cost < least:
            best, least = h, cost
    h = p.home[i]
    if h >= 0 and w.n[h] == 0 and not (blink > 0.0 and _random(w) < blink):
        cost = insert_cost(p, w, i, h) + (-host_cost(p, h, 0.0) if reserved else reward)
        if cost < least and fits(p, w, i, h):
            best = h
    return best


@kernel(nogil=True)
def fill_bank(p: Items, w: Plan, noise: float, reward: float, blink: float) -> None:
    """Place what waits, large items first; what fits nowhere goes on waiting.

    Args:
        p: Handle to ``Items``.
        w: Handle to ``Plan``.
        noise: Sizes are taken to be up to this share larger, at random.
        reward: Price of an empty host against a full one, J.
        blink: Share of hosts overlooked.
    """
    n = w.tally.bank
    waiting = 0.0
    for k in range(n):
        i = w.bank[k]
        size = _size(p, w, i)
        waiting += size
        key = size * (1.0 + noise * _random(w))
        j = k
        while j > 0 and w.key[j - 1] < key:
            w.key[j] = w.key[j - 1]
            w.bank[j] = w.bank[j - 1]
            j -= 1
        w.key[j] = key
        w.bank[j] = i
    left = 0
    for k in range(n):
        i = w.bank[k]
        h = _best_host(p, w, i, reward, blink, waiting)
        waiting -= _size(p, w, i)
        if h >= 0:
            insert(p, w, i, h)
        else:
            w.bank[left] = i
            left += 1
    w.tally.bank = left


@kernel(nogil=True)
def _take_off(p: Items, w: Plan, h: int, share: float, most: int) -> None:
    """Take items off a host, each with some probability, until the journal holds so many."""
    i = w.head[h]
    while i >= 0:
        after = w.next[i]
        n = w.tally.journal
        if n < most and (share >= 1.0 or _random(w) < share):
            w.journal[n], w.journal_host[n] = i, h
            w.tally.journal = n + 1
            remove(p, w, i)
            w.bank[w.tally.bank] = i
            w.tally.bank += 1
        i = after


@kernel(nogil=True)
def _ruin(p: Items, w: Plan, most: int) -> None:
    """Empty one host that is rather empty, and others wholly or in part."""
    n_hosts = 1 + int(_random(w) * MOST_HOSTS)
    tries = 1 + int(_random(w) * 4.0)
    by_fill = _random(w) < 0.5
    h, least = -1, INF
    for _ in range(tries):
        other = w.used[int(_random(w) * w.tally.used)]
        held = w.weight[0] * w.load[other] * p.unit[0] + w.weight[1] * w.mem[other] * p.unit[1]
        worth = w.fill[other] if by_fill else held / w.cost[other]
        if worth < least:
            h, least = other, worth
    share = 1.0 if _random(w) < 0.7 else 0.5
    _take_off(p, w, h, 1.0 if _random(w) < 0.9 else share, most)
    for _ in range(n_hosts - 1):
        if w.tally.used == 0:
            return
        _take_off(p, w, w.used[int(_random(w) * w.tally.used)], share, most)


@kernel(nogil=True)
def _open_journal(w: Plan) -> None:
    """Begin a round: what waits already is noted as such."""
    n = w.tally.bank
    for k in range(n):
        w.journal[k], w.journal_host[k] = w.bank[k], -1
    w.tally.journal = n


@kernel(nogil=True)
def _undo(p: Items, w: Plan) -> None:
    """Put everything back where it was when the round began."""
    n = w.tally.journal
    for k in range(n):
        if w.host_of[w.journal[k]] >= 0:
            remove(p, w, w.journal[k])
    w.tally.bank = 0
    for k in range(n):
        if w.journal_host[k] >= 0:
            insert(p, w, w.journal[k], w.journal_host[k])
        else:
            w.bank[w.tally.bank] = w.journal[k]
            w.tally.bank += 1


@kernel(nogil=True)
def evacuate(p: Items, w: Plan, hosts: I8, reward: float) -> Any:
    """Empty hosts one after the other where that pays; the greedy start.

    Args:
        p: Handle to ``Items``.
        w: Handle to ``Plan``.
        hosts: Hosts in the order in which to try, (n,).
        reward: See ``fill_bank``.

    Returns:
        How many were emptied.
    """
    emptied = 0
    for h in hosts:
        if w.n[h] == 0:
            continue
        waiting = w.tally.bank
        before = total_cost(p, w, waiting)
        _open_journal(w)
        _take_off(p, w, h, 1.0, w.host_of.shape[0])
        fill_bank(p, w, 0.0, reward, 0.0)
        if w.tally.bank > waiting or total_cost(p, w, w.tally.bank) >= before:
            _undo(p, w)
        else:
            emptied += 1
    note_best(p, w)
    return emptied


@kernel(nogil=True)
def pack(p: Items, w: Plan, order: I8, hosts: I8, best_fit: bool) -> None:
    """First fit or best fit in a given order, with no eye on where VMs are now.

    Args:
        p: Handle to ``Items``.
        w: Handle to ``Plan`` with all items waiting.
        order: Items, (I,).
        hosts: Hosts in the order in which they are filled, (H,).
        best_fit: Put an item where the least room is left, and on an empty host only if it must be.
    """
    w.tally.bank = 0
    for i in order:
        best, least = -1, INF
        for h in hosts:
            if w.load[h] + p.cpu[i] > p.keep_cpu[h] or w.mem[h] + p.mem[i] > p.keep_mem[h]:
                continue
            full = w.fill[h] + w.weight[0] * p.cpu[i] * p.inv_cpu[h] + w.weight[1] * p.mem[i] * p.inv_mem[h]
            room = (1.0 - full) if w.n[h] > 0 else 2.0
            if room < least and fits(p, w, i, h):
                best, least = h, room
                if not best_fit:
                    break
        if best >= 0:
            insert(p, w, i, best)
        else:
            w.bank[w.tally.bank] = i
            w.tally.bank += 1
    note_best(p, w)


@kernel(nogil=True)
def improve(p: Items, w: Plan, rounds: int, temperature: float, guide: float) -> None:
    """Search from the present plan.

    Args:
        p: Handle to ``Items``.
        w: Handle to ``Plan``.
        rounds: Neighbourhoods to try.
        temperature: Mean loss that is accepted, J.
        guide: Reward of a host that is full against one that is empty, J.
    """
    idle = p.numbers.idle
    tidy(p, w)
    for _ in range(rounds):
        if w.tally.used == 0:
            return
        waiting = w.tally.bank
        before = total_cost(p, w, waiting) - guide * w.sums.fullness
        _open_journal(w)
        _ruin(p, w, waiting + MOST_ITEMS)
        mode = _random(w)
        reward = 0.0 if mode < 0.2 else idle * (0.02 if mode < 0.5 else 0.1 if mode < 0.8 else 0.5)
        bold = _random(w) < BOLD
        noise = 3.0 if bold else 0.3
        fill_bank(p, w, noise * _random(w), reward, BOLD_BLINK if bold else BLINK)
        after = total_cost(p, w, w.tally.bank) - guide * w.sums.fullness
        w.tally.tried += 1
        limit = before
        if temperature > 0.0:
            limit -= temperature * np.log(1.0 - _random(w))
        if after <= limit and w.tally.bank <= waiting:
            w.tally.taken += 1
            if w.sums.cost < w.sums.best:
                note_best(p, w)
        else:
            _undo(p, w)
