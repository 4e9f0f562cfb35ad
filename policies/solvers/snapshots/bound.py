"""How many whole VMs more a snapshot's nodes can hold at most, whatever moves: a bound by prices.

Let a node pay the price l[k] for every VM of kind k that comes and get it for every one that leaves, and let
a move cost m. As many come as leave, so prices cancel out over all nodes, and for any prices and m >= 0

    wholes gained <= m * moves + sum over hosts of max(gain - sum_k l[k] * (coming - leaving) - m * coming)

Each maximum is over all that could stand on one host, found by dynamic programming over the CPU that comes
and leaves. Memory, anti-affinity and the order of moves are left out, and VMs of whole multiples of the size
may stand anywhere: all this only lets more be gained. The prices are those of the exchange's relaxation, made
better one by one.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.games import ReschedulingGames

MOST_UNITS = 512
"""CPU units of a node up to which there is a bound."""
STEPS = (1.0, 0.5, 0.25, 1.0 / 3.0, 1.0 / 6.0, 1.0 / 12.0)
"""Steps by which each price is tried."""
PASSES = 4
"""Times that all prices are tried, at most."""
NOTHING = -1e18


class Stock(NamedTuple):
    """What there is; CPU in units, K kinds, A nodes."""

    cpu: I8  # (K,)
    double: I8  # (K,) 1 = a VM takes it of both nodes
    have: I8  # (K, A) VMs that may leave, double ones at a host's first node
    free: I8  # (A,)
    extra: I8  # (A,) what VMs of whole multiples of the size take
    size: int
    width: int  # CPU of the largest node
    per_host: int


@kernel
def _add_kind(table: F8, spare: F8, cpu: int, have: int, price: float, cost: float) -> None:
    """Let VMs of a kind come or leave: ``table[width + n]`` is the best value if n more units leave."""
    width = len(table) // 2
    spare[:] = NOTHING
    most = width // cpu
    for d in range(-min(have, most), most + 1):
        value = -price * d - cost * max(d, 0)
        for i in range(max(0, d * cpu), min(len(table), len(table) + d * cpu)):
            if table[i] > NOTHING:
                spare[i - d * cpu] = max(spare[i - d * cpu], table[i] + value)
    table[:] = spare


@kernel
def _best_node(free: int, extra: int, size: int, use: int, table: F8) -> Any:
    """The best value of a node of which double VMs take ``use`` units more."""
    width, best = len(table) // 2, NOTHING
    for i in range(len(table)):
        left = free - use + i - width
        if table[i] > NOTHING and left >= -extra:
            best = max(best, table[i] + left // size - free // size)
    return best


@kernel
def most_gained(
    cpu: I8, double: I8, have: I8, free: I8, extra: I8, size: int, width: int, per_host: int, prices: F8
) -> Any:
    """The sum over hosts for prices (K + 1,), the last of which is the cost of a move."""
    n_kinds, length = len(cpu), 2 * width + 1
    tables, both, spare = np.empty((per_host, length)), np.empty(length), np.empty(length)
    total = 0.0
    for first in range(0, len(free), per_host):
        both[:] = NOTHING
        both[width] = 0.0
        for n in range(per_host):
            tables[n] = NOTHING
            tables[n, width] = 0.0
        for k in range(n_kinds):
            if double[k] == 1:
                _add_kind(both, spare, cpu[k], have[k, first], prices[k], prices[n_kinds])
            else:
                for n in range(per_host):
                    _add_kind(tables[n], spare, cpu[k], have[k, first + n], prices[k], prices[n_kinds])
        best = NOTHING
        for i in range(length):
            if both[i] > NOTHING:
                value = both[i]
                for n in range(per_host):
                    value += _best_node(free[first + n], extra[first + n], size, width - i, tables[n])
                best = max(best, value)
        total += best
    return total


def take_stock(games: ReschedulingGames) -> tuple[I8, Stock] | None:
    """Shapes of VMs that change fragments, and what there is of them; None if amounts of CPU share no unit.

    Args:
        games: One game (number 0), in which VMs are where they move from.
    """
    p, s = games.params, games.state
    k = int(s.snapshot[0])
    loose = ~p.vm_fixed[k] & (p.vm_class[k] >= 0)
    shapes = np.unique(p.vm_class[k][loose & (p.vm_rest[k] > 0)])
    cpu = p.class_cpu[k, shapes].astype(np.int64)
    unit = int(np.gcd.reduce(np.array([p.size, *cpu.tolist()], np.int64)))
    width = int(p.node_cpu[k].max()) // unit
    if width > MOST_UNITS or not len(shapes):
        return None
    have = np.zeros((len(shapes), p.n_nodes), np.int64)
    for i, shape in enumerate(shapes.tolist()):
        np.add.at(have[i], s.vm_node[0, loose & (p.vm_class[k] == shape)], 1)
    extra = np.zeros(p.n_nodes, np.int64)
    multiples = loose & (p.vm_rest[k] == 0)
    np.add.at(extra, s.vm_node[0, multiples], p.vm_cpu[k, multiples])
    twice = multiples & p.vm_double[k]
    np.add.at(extra, s.vm_node[0, twice] + 1, p.vm_cpu[k, twice])
    double = p.class_double[k, shapes].astype(np.int64)
    free = s.free_cpu[0].astype(np.int64) // unit
    # Halves of units of several VMs can make a whole one: rounded up, that is no less.
    return shapes, Stock(
        cpu // unit, double, have, free, -(-extra // unit), p.size // unit, width, p.per_host
    )


def bound_gain(
    games: ReschedulingGames,
    prices: dict[int, float],
    cost: float,
    moves: int,
    enough: int,
    deadline: float = np.inf,
) -> float:
    """No plan gains more whole VMs than this; inf if nothing is known.

    Args:
        games: One game (number 0), in which VMs are where they move from.
        prices: Of VMs by shape, to begin with.
        cost: Of a move, likewise.
        moves: How many VMs may move.
        enough: A gain that is known: the search for prices ends once more is impossible.
        deadline: ``time.perf_counter()`` when it ends, too.
    """
    found = take_stock(games)
    if found is None:
        return np.inf
    shapes, stock = found
    now = np.array([*(prices.get(shape, 0.0) for shape in shapes.tolist()), max(0.0, cost)])

    def value() -> float:
        return float(most_gained(*stock, now)) + float(now[-1]) * moves

    best = value()
    for _ in range(PASSES):
        before = best
        for k, step in itertools.product(
            range(len(now)), (sign * step for step in STEPS for sign in (-1, 1))
        ):
            was = now[k]
            if best < enough + 1 - 1e-6 or time.perf_counter() > deadline:
                return best
            if k < len(now) - 1 or was + step >= 0.0:
                now[k] += step
                tried = value()
                now[k] = was if tried >= best - 1e-9 else now[k]
                best = min(best, tried)
        if best >= before - 1e-9:
            break
    return best
