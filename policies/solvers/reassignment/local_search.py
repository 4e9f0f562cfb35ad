"""Local search for machine reassignment: shifts, swaps, and annealing on both.

A proposal moves a random process to a random machine, or lets two random ones change places. Most proposals
break a capacity and are refused after a comparison or two, so that drawing them at random costs less than
keeping lists of those that fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I8, U8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.reassignment.instance import Instance
from virtgym.envs.rescheduling.reassignment.state import (
    Books,
    shift,
    shift_delta,
    shift_fits,
    swap,
    swap_delta,
    swap_fits,
)

HOME = 0.05
"""Share of proposals that send a process home."""


@kernel(nogil=True)
def draw(rng: U8) -> Any:
    """A number from 0 to below 1 (xorshift64*)."""
    x = rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    rng[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@kernel(nogil=True)
def anneal(
    a: Instance,
    w: Books,
    best: I8,
    best_score: I8,
    rng: U8,
    hot: float,
    cold: float,
    n: int,
    swaps: float,
    order: I8,
    rank: I8,
    near: float,
) -> Any:
    """Propose ``n`` times, at a temperature that falls geometrically.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        best: Best assignment so far, (P,), and its objective in ``best_score``, (1,).
        rng: State of the generator, (1,).
        hot: First temperature.
        cold: Last temperature.
        n: Proposals.
        swaps: Share of them that are swaps.
    """
    n_processes, n_machines = a.service.shape[0], a.location.shape[0]
    factor = (cold / hot) ** (1.0 / n)
    temperature = hot
    count = 0
    for _ in range(n):
        temperature *= factor
        i = int(draw(rng) * n_processes)
        source = w.machine[i]
        u = draw(rng)
        if u < swaps:
            v = draw(rng)
            if v < near:
                width = 8.0 * (n_processes / 8.0) ** draw(rng)
                j = rank[i] + int((draw(rng) - 0.5) * width)
                j = order[min(max(j, 0), n_processes - 1)]
            else:
                j = int(draw(rng) * n_processes)
            if w.machine[j] == source or not swap_fits(a, w, i, j):
                continue
            delta = swap_delta(a, w, i, j)
            count += 1
            if delta <= 0 or delta < -temperature * np.log(draw(rng)):
                swap(a, w, i, j, delta)
        else:
            dest = a.home[i] if u > 1.0 - HOME else int(draw(rng) * n_machines)
            if dest == source or not shift_fits(a, w, i, dest):
                continue
            delta = shift_delta(a, w, i, dest)
            count += 1
            if delta <= 0 or delta < -temperature * np.log(draw(rng)):
                shift(a, w, i, dest, delta)
    if w.score[0] < best_score[0]:
        best_score[0] = w.score[0]
        best[:] = w.machine
    return count
