"""Local search for machine reassignment: descent by shifts, and annealing on shifts and swaps.

A proposal of the annealing moves a random process to a random machine, or lets two change places, of which
the second is random or of about the size of the first. Most break a capacity and are refused after a
comparison or two: drawing them at random costs less than keeping lists of those that fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import I8, U8
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.records import Place, Record
from virtgym.envs.jit.splitmix import draw_below, draw_share
from virtgym.envs.rescheduling.reassignment.instance import Instance, ReassignmentProblem
from virtgym.envs.rescheduling.reassignment.state import (
    Books,
    shift,
    shift_delta,
    shift_fits,
    swap,
    swap_delta,
    swap_fits,
)

SWAPS, NEAR = 0.6, 0.3
"""Share of proposals that are swaps, and share of these between processes of about one size."""


class Rates(Record):
    """Which proposals are made how often."""

    swaps = Place("share of swaps")
    near = Place("share of swaps between processes of about one size")
    home = Place("share of proposals that send a process home")


class Memory(NamedTuple):
    """What the search knows beside the books."""

    best: I8  # (P,) best assignment so far
    score: I8  # (1,) its objective
    order: I8  # (P,) processes by size
    rank: I8  # (P,) place of each process in it
    rates: Rates
    rng: U8  # (1,) random numbers


def make_memory(problem: ReassignmentProblem, machine: I8, objective: int, seed: int) -> Memory:
    """Begin a search.

    Args:
        problem: The instance.
        machine: The assignment to begin with, (P,).
        objective: What it costs.
        seed: Seed of the search.
    """
    a = problem.arrays
    size = (a.demand / np.maximum(a.capacity.mean(axis=0), 1.0)).sum(axis=1)
    order = np.argsort(size, kind="stable")
    rng = np.random.SeedSequence(seed).generate_state(1, np.uint64).astype(np.uint64)
    rates = Rates.zeros()
    rates.swaps, rates.near = SWAPS, NEAR
    return Memory(machine.copy(), np.array([objective]), order, np.argsort(order), rates, rng)


def memory_handle(memory: Memory) -> Any:
    """Handle to a memory for kernels."""
    return make_handle("reassignment search", memory)


@kernel(nogil=True)
def _partner(s: Memory, i: int) -> Any:
    """A process to change places with."""
    n = s.rank.shape[0]
    if draw_share(s.rng, 0) >= s.rates.near:
        return draw_below(s.rng, 0, n)
    width = 8.0 * max(n / 8.0, 1.0) ** draw_share(s.rng, 0)
    place = s.rank[i] + int((draw_share(s.rng, 0) - 0.5) * width)
    return s.order[min(max(place, 0), n - 1)]


@kernel(nogil=True)
def anneal(a: Instance, w: Books, s: Memory, hot: float, cold: float, n: int) -> None:
    """Propose ``n`` times at a temperature that falls geometrically.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        s: Handle to ``Memory``.
        hot: First temperature, in units of the objective.
        cold: Last temperature.
        n: Proposals.
    """
    n_processes, n_machines = a.service.shape[0], a.location.shape[0]
    factor = (cold / hot) ** (1.0 / n)
    temperature = hot
    for _ in range(n):
        temperature *= factor
        i = draw_below(s.rng, 0, n_processes)
        u = draw_share(s.rng, 0)
        if u < s.rates.swaps:
            j = _partner(s, i)
            if w.machine[j] == w.machine[i] or not swap_fits(a, w, i, j):
                continue
            delta = swap_delta(a, w, i, j)
            if _accepts(w, s, delta, temperature):
                swap(a, w, i, j, delta)
        else:
            dest = a.home[i] if u >= 1.0 - s.rates.home else draw_below(s.rng, 0, n_machines)
            if dest == w.machine[i] or not shift_fits(a, w, i, dest):
                continue
            delta = shift_delta(a, w, i, dest)
            if _accepts(w, s, delta, temperature):
                shift(a, w, i, dest, delta)
    _remember(w, s)


@kernel(nogil=True)
def _accepts(w: Books, s: Memory, delta: int, temperature: float) -> bool:
    """Whether a proposal is taken; before one that makes things worse the assignment is remembered."""
    if delta <= 0:
        return True
    if delta < -temperature * np.log(1.0 - draw_share(s.rng, 0)):
        _remember(w, s)
        return True
    return False


@kernel(nogil=True)
def _remember(w: Books, s: Memory) -> None:
    """Remember the assignment if it is the best so far."""
    if w.score.objective < s.score[0]:
        s.score[0] = w.score.objective
        s.best[:] = w.machine


@kernel(nogil=True)
def descend(a: Instance, w: Books, order: I8, begin: int, n: int, most: int) -> Any:
    """Move processes to their best machines, one after the other.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        order: Order of the processes, (P,).
        begin: Place in it to begin at.
        n: Processes to look at.
        most: Moves at most.

    Returns:
        How many moved.
    """
    count = 0
    for i in order[begin : begin + n]:
        if count == most:
            break
        best, dest = 0, -1
        for m in range(a.location.shape[0]):
            if m != w.machine[i] and shift_fits(a, w, i, m):
                delta = shift_delta(a, w, i, m)
                if delta < best:
                    best, dest = delta, m
        if dest >= 0:
            shift(a, w, i, dest, best)
            count += 1
    return count


@kernel(nogil=True)
def sample_deltas(a: Instance, w: Books, s: Memory, deltas: I8) -> Any:
    """Changes of the objective by random swaps that fit, for the first temperature.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        s: Handle to ``Memory``.
        deltas: Their sizes, (n,); n times a hundred proposals are made at most.

    Returns:
        How many were found.
    """
    count, n = 0, deltas.shape[0]
    for _ in range(100 * n):
        i = draw_below(s.rng, 0, s.rank.shape[0])
        j = _partner(s, i)
        if w.machine[i] != w.machine[j] and swap_fits(a, w, i, j):
            deltas[count] = abs(swap_delta(a, w, i, j))
            count += 1
            if count == n:
                break
    return count
