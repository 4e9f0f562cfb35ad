"""Levelling: the least highest load of some hosts, and a price per VM that moves, by a few moves.

The relaxation of this programme moves parts of VMs, and so knows little of what a level costs. How many VMs
move says more, and there are few such numbers: each is a programme of its own, in which the level that is
still worth it is known, with it how many VMs each host must give at least, and which hosts have no room for
which VM. Most of them have no solution, and the relaxation says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import B1, F8, I8

from .programme import INF, Rows, improve

EPS = 1e-9
"""What loads are compared with."""

Moves = list[tuple[int, int]]
"""Units, and the hosts that they go to."""


@dataclass(frozen=True)
class Levelling:
    """U units on K hosts.

    Attributes:
        load: Load of every host, (K,).
        home: Host of every unit, (U,).
        size: What a unit is of the load of every host, (U, K).
        number: VMs of every unit, (U,).
        legal: Where a unit may go, (U, K); not its home.
        need: What a unit takes of R kinds of room, (R, U).
        free: What is free of it for those that come, (R, K).
        most: Most VMs that move.
        price: Price of each.
    """

    load: F8
    home: I8
    size: F8
    number: F8
    legal: B1
    need: F8
    free: F8
    most: int
    price: float

    def value(self, moves: Moves) -> float:
        """The highest load after some moves, and their price."""
        load, total = self.load.copy(), 0.0
        for u, b in moves:
            load[self.home[u]] -= self.size[u, self.home[u]]
            load[b] += self.size[u, b]
            total += self.price * self.number[u]
        return float(load.max()) + total

    def begin(self) -> Moves:
        """Moves, one by one the best off the fullest host, as long as they lower the value."""
        moves: Moves = []
        load, free, left = self.load.copy(), self.free.copy(), np.ones(len(self.home), dtype=np.bool_)
        most = self.most
        while True:
            h = int(load.argmax())
            own = np.flatnonzero(left & (self.home == h) & (self.number <= most))
            fits = self.legal[own] & (self.need[:, own, None] <= free[:, None, :]).all(axis=0)
            if not fits.any():
                return moves
            rest = np.delete(load, h).max()
            here = np.maximum(load[h] - self.size[own, h], rest)
            after = np.where(fits, np.maximum(here[:, None], load + self.size[own]), INF)
            k, b = divmod(int(after.argmin()), len(load))
            u = int(own[k])
            if after[k, b] >= load[h] - self.price * self.number[u]:
                return moves
            moves.append((u, b))
            load[h] -= self.size[u, h]
            load[b] += self.size[u, b]
            free[:, b] -= self.need[:, u]
            most -= int(self.number[u])
            left[u] = False

    def must_give(self, h: int, too_much: F8) -> F8:
        """VMs that a host must give at least to be rid of some loads, inf = it cannot."""
        own = np.flatnonzero((self.home == h) & self.legal.any(axis=1))
        each = self.size[own, h] / self.number[own]
        own = own[np.argsort(-each, kind="stable")]
        size = np.concatenate([[0.0], np.cumsum(self.size[own, h])])
        number = np.concatenate([[0.0], np.cumsum(self.number[own])])
        at = np.searchsorted(size, too_much - EPS)  # with the first ``at`` of them it is
        before = np.clip(at - 1, 0, max(0, len(own) - 1))
        part = np.zeros(len(too_much))
        if len(own):
            last = self.size[own[before], h] / self.number[own[before]]
            part = np.ceil((too_much - size[before]) / np.maximum(last, EPS) - 1e-6)
        found = np.where(at == 0, 0.0, number[before] + part)
        return np.where(at > len(own), INF, found)


def level(problem: Levelling, gap: float, nodes: int, seconds: float) -> Moves:
    """Moves that are within a relative gap of the least value, as far as HiGHS proves it.

    Args:
        problem: The problem.
        gap: The gap.
        nodes: Most nodes of HiGHS's tree for each number of moves.
        seconds: Wall time for each.

    Returns:
        The moves; those of ``Levelling.begin`` where nothing better is found, or the solver fails.
    """
    best = problem.begin()
    value = problem.value(best)
    for m in range(int(problem.number.min()), problem.most + 1):
        found = _with_moves(problem, m, value - gap * abs(value), gap, nodes, seconds)
        if found is not None and problem.value(found) < value:
            best, value = found, problem.value(found)
    return best


def _with_moves(q: Levelling, m: int, wanted: float, gap: float, nodes: int, seconds: float) -> Moves | None:
    """Moves of exactly m VMs whose value is as wanted; None = there are none, or none were found."""
    top, hosts = wanted - q.price * m, range(len(q.load))
    give = np.array([q.must_give(h, q.load[h : h + 1] - top)[0] for h in hosts])
    spare = m - give.sum()
    if spare < 0:
        return None
    i, j = np.nonzero(q.legal)
    come, home, number = q.size[i, j], q.home[i], q.number[i]
    # Who comes to a host that is full then makes others go, and comes from where nobody has to.
    more = np.maximum(0.0, number - give[home])
    for h in hosts:
        here = j == h
        more[here] += q.must_give(h, q.load[h] + come[here] - top) - give[h]
    k, grid = len(q.load), Rows()
    x = grid.columns(len(i), q.price * number, (more <= spare).astype(np.float64))
    z = grid.columns(1, 1.0, max(0.0, top))
    grid.rows(len(q.home), -INF, 1.0, (i, x, 1.0))
    grid.rows(1, float(m), float(m), (0, x, number))
    level_of = np.broadcast_to(z, (k,))
    go = (home, x, -q.size[i, home])
    grid.rows(k, -INF, -q.load, (j, x, come), go, (np.arange(k), level_of, -1.0))
    grid.rows(k, -INF, -give, (home, x, -number))
    for need, free in zip(q.need, q.free):
        grid.rows(k, -INF, free, (j, x, need[i]))
    whole = np.ones(grid.n_columns, dtype=np.bool_)
    whole[z] = False
    found = improve(grid.programme(), whole, wanted, seconds, nodes, gap)
    return None if found is None else pairs_of(found[x], i, j)


def pairs_of(x: F8, i: I8, j: I8) -> Moves:
    """The pairs whose column is one."""
    taken: Sequence[int] = np.flatnonzero(x > 0.5).tolist()
    return [(int(i[t]), int(j[t])) for t in taken]
