"""Four ways to reassign processes, each of which may stop at any time: descent, annealing, exact
neighbourhoods, and exact parts.

Every method is given an instance and a clock, and gives back the best assignment that it has seen; that is
the initial one, if nothing is better. With iterations for a clock the answer depends on the seed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.rescheduling.reassignment.instance import ReassignmentProblem
from virtgym.envs.rescheduling.reassignment.state import State

from .local_search import anneal, descend, make_memory, memory_handle, sample_deltas
from .neighbourhood import place_anew

CHUNK = 1 << 15
"""Proposals of the annealing between two looks at the clock: one or two milliseconds."""
LOOKS = 100
"""Processes that the descent looks at between two looks at the clock."""
STEPS = 500
"""Steps of the temperature at least."""
HOT, COLD = 10.0, 1e-3
"""First and last temperature, in median changes by a swap."""
HOMES, PILOT = (0.02, 0.1, 0.3), 0.06
"""Shares of proposals that send a process home, of which the best is taken, and share of the annealing in
which each is tried. Of transient resources a process that is away takes twice: where these are short, those
that gain little by being away must be sent home, elsewhere that is a waste of time."""
SAMPLES = 2000
"""Swaps that this median is taken of."""
PROPOSALS = 100_000
"""Proposals of the annealing that count as one iteration where it is a part of another method."""
SHARE, SHARE_SMALL = 0.7, 0.1
"""Share of the budget that exact neighbourhoods leave to the annealing before, and the same where one
neighbourhood holds the whole instance."""
SMALL = 2000
"""Processes times machines up to which it does."""
WORK = 0.5
"""Deterministic seconds of CP-SAT for a neighbourhood."""
SIZES = 60, 10_000
"""Fewest and most variables of a neighbourhood; as many as CP-SAT can solve in that time are taken."""


@dataclass
class Clock:
    """What a method may use: iterations, seconds, or the first of both to end.

    Attributes:
        iterations: Iterations, None = any number.
        seconds: Wall time, s, None = any time.
        share: What of it counts as all.
    """

    iterations: int | None = None
    seconds: float | None = None
    share: float = 1.0
    done: float = 0.0
    begin: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Wall time since it was started, s."""
        return time.perf_counter() - self.begin

    def spent(self) -> float:
        """What has been used, 1 = all."""
        parts = [0.0]
        if self.iterations is not None:
            parts.append(self.done / self.iterations)
        if self.seconds is not None:
            parts.append(self.elapsed / self.seconds)
        return max(parts) / self.share

    @property
    def left_s(self) -> float:
        """Wall time that is left, s."""
        return np.inf if self.seconds is None else max(0.0, self.seconds - self.elapsed)


class Answer(NamedTuple):
    """What a method found."""

    machine: I8  # (P,)
    bound: int | None  # no assignment costs less, where that was proven


Method = Callable[[ReassignmentProblem, Clock, int], Answer]


def descent(problem: ReassignmentProblem, clock: Clock, seed: int) -> Answer:
    """Move one process after the other to its best machine, largest first, until none gains.

    An iteration is a move.
    """
    state = State(problem)
    order = make_memory(problem, state.books.machine, 0, seed).order[::-1].copy()
    moved = 1
    while moved:
        moved = 0
        for begin in range(0, problem.n_processes, LOOKS):
            most = -1 if clock.iterations is None else int(clock.iterations - clock.done)
            count = int(descend(problem.handle, state.handle, order, begin, LOOKS, most))
            moved, clock.done = moved + count, clock.done + count
            if clock.spent() >= 1.0:
                return Answer(state.books.machine.copy(), None)
    return Answer(state.books.machine.copy(), None)


def annealing(problem: ReassignmentProblem, clock: Clock, seed: int) -> Answer:
    """Shifts and swaps at a falling temperature. An iteration is a proposal."""
    return Answer(_anneal(State(problem), clock, seed, 1), None)


def _anneal(state: State, clock: Clock, seed: int, per_iteration: int) -> I8:
    """Best assignment of an annealing that uses up the clock; an iteration has so many proposals.

    Short runs try how often processes should be sent home; the long one does what was best.
    """
    start = state.books.machine.copy()
    memory = make_memory(state.problem, start, state.objective, seed)
    handle = memory_handle(memory)
    deltas = np.zeros(SAMPLES, dtype=np.int64)
    count = sample_deltas(state.problem.handle, state.handle, handle, deltas)
    unit = max(1.0, float(np.median(deltas[:count]))) if count else 1.0
    found = []
    for k, home in enumerate(HOMES):
        memory.rates.home = home
        _cool(state, handle, clock, ((k + 1) * PILOT, unit), per_iteration)
        found.append(state.objective)
        state.assign(start)
    memory.rates.home = HOMES[int(np.argmin(found))]
    _cool(state, handle, clock, (1.0, unit), per_iteration)
    return memory.best


def _cool(state: State, handle: Any, clock: Clock, until: tuple[float, float], per_iteration: int) -> None:
    """Anneal from hot to cold until a share of the clock is used, with temperatures in a unit."""
    end, unit = until
    begin = spent = clock.spent()
    hot, cold = np.log(HOT * unit), np.log(COLD * unit)
    while spent < end:
        n = CHUNK
        if clock.iterations is not None:
            n = min(n, -(-clock.iterations * per_iteration // STEPS))
        warm = float(np.exp(hot + (spent - begin) / (end - begin) * (cold - hot)))
        anneal(state.problem.handle, state.handle, handle, warm, warm, n)
        clock.done += n / per_iteration
        spent = clock.spent()


def neighbourhoods(problem: ReassignmentProblem, clock: Clock, seed: int) -> Answer:
    """Annealing, then the processes of a few machines at a time are placed anew by CP-SAT.

    An iteration is a neighbourhood, or ``PROPOSALS`` of the annealing. An instance that fits into one
    neighbourhood is solved as a whole, with a bound.
    """
    state = State(problem)
    whole = problem.n_machines * problem.n_processes <= SMALL
    clock.share = SHARE_SMALL if whole else SHARE
    state.assign(_anneal(state, clock, seed, PROPOSALS))
    clock.share = 1.0
    if whole:
        everything = np.arange(problem.n_machines), np.arange(problem.n_processes)
        work = np.inf if clock.iterations is None else WORK * clock.iterations
        found = place_anew(state, *everything, work=work, seconds=clock.left_s, seed=seed)
        return Answer(state.books.machine, None) if found is None else Answer(found.machine, found.bound)
    rng = np.random.default_rng(seed)
    size = 300.0
    while clock.spent() < 1.0:
        machines = _draw_machines(state, rng, size)
        size = _improve(state, clock, machines, rng, size)
    return Answer(state.books.machine.copy(), None)


def parts(problem: ReassignmentProblem, clock: Clock, seed: int) -> Answer:
    """The machines in random parts, each placed anew by CP-SAT, again and again. An iteration is a part."""
    state, rng = State(problem), np.random.default_rng(seed)
    size = 300.0
    while clock.spent() < 1.0:
        order = rng.permutation(problem.n_machines)
        while len(order) and clock.spent() < 1.0:
            machines = order[: _count_machines(state, order, size)]
            order = order[len(machines) :]
            size = _improve(state, clock, np.sort(machines), rng, size)
    return Answer(state.books.machine.copy(), None)


def _count_machines(state: State, order: I8, size: float) -> int:
    """How many of some machines make a neighbourhood of about so many variables, at least two."""
    held = np.bincount(state.books.machine, minlength=state.problem.n_machines)[order]
    variables = np.cumsum(held) * np.arange(1, len(order) + 1)
    return max(2, int(np.searchsorted(variables, size)))


def _draw_machines(state: State, rng: np.random.Generator, size: float) -> I8:
    """Machines for a neighbourhood: the first by its cost, half of the others, too."""
    cost = state.books.machine_cost + 1.0
    weight = np.where(rng.random(len(cost)) < 0.5, cost / cost.mean(), 1.0)
    order = np.argsort(rng.exponential(size=len(cost)) / weight)
    return np.sort(order[: _count_machines(state, order, size)])


def _improve(state: State, clock: Clock, machines: I8, rng: np.random.Generator, size: float) -> float:
    """Place the processes of some machines anew; the size that the next neighbourhood should have."""
    processes = np.flatnonzero(np.isin(state.books.machine, machines))
    seed = int(rng.integers(1 << 30))
    found = place_anew(state, machines, processes, work=WORK, seconds=clock.left_s, seed=seed)
    clock.done += 1
    if found is None:
        return max(SIZES[0], 0.8 * size)
    state.assign(found.machine)
    return float(np.clip(size * (1.1 if found.optimal else 0.8), *SIZES))


METHODS: dict[str, Method] = {
    "descent": descent,
    "annealing": annealing,
    "neighbourhoods": neighbourhoods,
    "parts": parts,
}
"""The methods by name."""


def warm_up(problem: ReassignmentProblem) -> Any:
    """Load the compiled kernels, so that no method is charged for it."""
    annealing(problem, Clock(iterations=1), 0)
    descent(problem, Clock(iterations=1), 0)
