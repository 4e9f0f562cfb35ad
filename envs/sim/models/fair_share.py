"""Max-min fair rates of flows that share links (docs §5, §6): VM traffic, migrations, logging traffic.

A flow uses one link (a VM that talks to the outside uses its host's NIC) or two (a migration uses the NIC of
both ends), and asks for no more than its cap. An allocation is *max-min fair* if no flow can get more without
taking from one that has no more than it:

    r_f = cap_f,  or f has a bottleneck: a full link on which no flow gets more than r_f

There is exactly one such allocation (Bertsekas & Gallager, Data Networks, 1992, §6.5). It is found exactly by
progressive filling: the next thing to happen is that a link fills up, at the level (what is left of it) /
(flows not yet fixed on it), or that a flow reaches its cap. Fixing flows only ever raises the level of other
links, so a heap whose keys may be too low, and are checked when they come up, visits the links in order:
O(F log F) for F flows. A link that could carry the caps of all its flows constrains nobody and is left out,
so that a network without contention costs O(F).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import B1, F8, I4
from ...jit.heap import settle
from ...jit.kernels import kernel
from ...jit.sorting import sort_ascending


@kernel
def _flows_of_links(first: I4, second: I4, open_: B1, n_links: int) -> Any:
    """Flows still open, grouped by link: offsets (L + 1,) and flows."""
    offsets = np.zeros(n_links + 1, dtype=np.int32)
    for f in range(first.shape[0]):
        if open_[f]:
            offsets[first[f] + 1] += 1
            if second[f] >= 0 and second[f] != first[f]:
                offsets[second[f] + 1] += 1
    for link in range(n_links):
        offsets[link + 1] += offsets[link]
    place = offsets[:-1].copy()
    flows = np.empty(offsets[n_links], dtype=np.int32)
    for f in range(first.shape[0]):
        if open_[f]:
            flows[place[first[f]]] = f
            place[first[f]] += 1
            if second[f] >= 0 and second[f] != first[f]:
                flows[place[second[f]]] = f
                place[second[f]] += 1
    return offsets, flows


@kernel
def _uncontended(first: I4, second: I4, cap: F8, capacity: F8, rate: F8) -> Any:
    """Give every flow its cap; returns which flows must be looked at, and which links constrain."""
    asked = np.zeros(capacity.shape[0])
    for f in range(first.shape[0]):
        asked[first[f]] += cap[f]
        if second[f] >= 0 and second[f] != first[f]:
            asked[second[f]] += cap[f]
    tight = asked > capacity
    open_ = np.zeros(first.shape[0], dtype=np.bool_)
    for f in range(first.shape[0]):
        rate[f] = cap[f]
        open_[f] = cap[f] > 0.0 and (tight[first[f]] or (second[f] >= 0 and tight[second[f]]))
    return open_, tight


@kernel
def _fix(f: int, value: float, first: I4, second: I4, open_: B1, left: F8, count: I4, rate: F8) -> None:
    """Give a flow its final rate and take it off its links."""
    rate[f] = value
    open_[f] = False
    left[first[f]] -= value
    count[first[f]] -= 1
    if second[f] >= 0 and second[f] != first[f]:
        left[second[f]] -= value
        count[second[f]] -= 1


@kernel
def _link_heap(tight: B1, left: F8, count: I4) -> Any:
    """Heap of the links that constrain, by the level at which each fills: keys, links, length."""
    keys, items = np.empty(tight.shape[0]), np.empty(tight.shape[0], dtype=np.int32)
    n = 0
    for link in range(tight.shape[0]):
        if tight[link] and count[link] > 0:
            settle(keys, None, items, None, left[link] / count[link], 0, link, n, n + 1)
            n += 1
    return keys, items, n


@kernel
def _fullest(keys: F8, items: I4, n: int, left: F8, count: I4) -> Any:
    """Bring the link that fills first to the top of the heap; returns the heap's length.

    Keys may be too low, as flows were fixed since: then the link fills later, or never.
    """
    while n > 0:
        link = items[0]
        if count[link] == 0:
            n -= 1
            settle(keys, None, items, None, keys[n], 0, items[n], 0, n)
            continue
        level = max(0.0, left[link]) / count[link]
        if level <= keys[0]:
            keys[0] = level
            return n
        settle(keys, None, items, None, level, 0, link, 0, n)
    return 0


@kernel
def max_min_rates(first: I4, second: I4, cap: F8, capacity: F8, rate: F8) -> None:
    """Find the max-min fair rates.

    Args:
        first: A link of each flow, shape (F,).
        second: Its other link, -1 = none, shape (F,).
        cap: The most it asks for, Mbit/s, inf = all it can get, shape (F,).
        capacity: Capacity of each link, Mbit/s, finite, shape (L,).
        rate: Written: rate of each flow, Mbit/s, shape (F,).
    """
    open_, tight = _uncontended(first, second, cap, capacity, rate)
    by_cap = np.flatnonzero(open_)
    n_open = by_cap.shape[0]
    if n_open == 0:
        return
    sort_ascending(by_cap, cap, n_open, np.empty_like(by_cap))
    offsets, flows = _flows_of_links(first, second, open_, capacity.shape[0])
    left, count = capacity.copy(), offsets[1:] - offsets[:-1]
    keys, items, n = _link_heap(tight, left, count)
    at = 0
    while n_open > 0:
        while not open_[by_cap[at]]:
            at += 1
        n = _fullest(keys, items, n, left, count)
        if n > 0 and keys[0] < cap[by_cap[at]]:
            link, level = items[0], keys[0]
            for k in range(offsets[link], offsets[link + 1]):
                if open_[flows[k]]:
                    _fix(flows[k], level, first, second, open_, left, count, rate)
                    n_open -= 1
        else:
            _fix(by_cap[at], cap[by_cap[at]], first, second, open_, left, count, rate)
            n_open -= 1
