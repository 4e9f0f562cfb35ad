"""CP-SAT model of one instant of a placement game: where the queue goes, to leave the greatest reserve.

Groups g of the queue are sizes, y[g, a] is how many of a group go to node a (of a double VM: the even node of
the host). The queue is first in, first out, so what is placed is a prefix: u₁ ≥ u₂ ≥ … ≥ u_Q with u₁ = 1, and
Σ_a y[g, a] = Σ u over the group. Of each class k that may come, by itself, m[k, a] fit beside the queue:

    Σ_g size_g · y[g, a] ≤ free_a
    Σ_g size_g · y[g, a] + size_k · m[k, a] ≤ free_a        for cores and memory, all a

Of the slots of a class, Σ_j z[k, j] ≤ Σ_a m[k, a], the j-th is worth P(Poisson_k ≥ j), which falls with j.
The objective is W · Σ u + Σ value · z with W greater than all the reserve: place as many as can be placed
now, and among all ways to do so keep the greatest reserve (``placement_reserve``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8

from .calls import CALLS, attempt

SCALE = 10_000
"""The objective is whole: values are rounded to one part in this."""

UNIT = 65_536
"""Sizes are multiples of 1 / UNIT (``placement_games.GRID``)."""

WORTH = 1e-3
"""Slots worth less are left out."""


class Instant(NamedTuple):
    """What the solver sees: K classes, 2N nodes, a queue of Q."""

    free: F8  # (2, 2N) cores and memory
    size: F8  # (2, K) cores and memory asked of a node
    double: NDArray[np.bool_]  # (K,)
    queue: I8  # (Q,) classes of the queue, the pending request first
    value: F8  # (K, J) what n = 0 … J - 1 slots are worth
    hint: I8  # (≤ Q,) nodes of a prefix, at least of the pending request: the start


class PackedQueue(NamedTuple):
    """A solution."""

    nodes: I8  # node of each request of the prefix that is placed
    optimal: bool  # whether it is proven


class _Model:
    """One model: variables, constraints, start."""

    def __init__(self, instant: Instant) -> None:
        from ortools.sat.python import cp_model

        self.cp_model = cp_model
        self.model = cp_model.CpModel()
        self.instant = instant
        self.sizes = np.round(instant.size * UNIT).astype(np.int64)
        self.free = np.round(instant.free * UNIT).astype(np.int64)
        # Cores and memory each by their greatest common divisor: small numbers are easier to propagate.
        for i in range(2):
            unit = max(1, int(np.gcd.reduce(np.append(self.sizes[i], self.free[i]))))
            self.sizes[i] //= unit
            self.free[i] //= unit
        self.weight = SCALE * (int(instant.value[:, -1].sum()) + 2)
        self.counts: dict[int, dict[int, Any]] = {}
        self.objective: list[Any] = []
        self.prefix = [self.model.new_bool_var("") for _ in instant.queue]
        self._add_queue()
        self._add_reserve()
        self.model.maximize(sum(self.objective))

    def slots_on(self, k: int, free: I8) -> I8:
        """VMs of a class that fit on each node (even nodes for a double one), (2N,)."""
        fit = np.full(free.shape[1], np.iinfo(np.int64).max)
        for size, room in zip(self.sizes[:, k], free):
            if size > 0:
                fit = np.minimum(fit, room // size)
        if self.instant.double[k]:
            fit = np.repeat(np.minimum(fit[::2], fit[1::2]), 2)
            fit[1::2] = 0
        return fit

    def _add_queue(self) -> None:
        queue, model = self.instant.queue, self.model
        model.add(self.prefix[0] == 1)
        for earlier, later in zip(self.prefix, self.prefix[1:]):
            model.add_implication(later, earlier)
        for k in np.unique(queue).tolist():
            members = np.flatnonzero(queue == k)
            fit = np.minimum(self.slots_on(k, self.free), len(members))
            self.counts[k] = {
                a: model.new_int_var(0, int(fit[a]), "") for a in np.flatnonzero(fit > 0).tolist()
            }
            model.add(sum(self.counts[k].values()) == sum(self.prefix[i] for i in members.tolist()))
        self.load = [[self._load(i, a) for a in range(self.free.shape[1])] for i in range(2)]
        for i in range(2):
            for a, load in enumerate(self.load[i]):
                model.add(load <= int(self.free[i, a]))
        self.objective += [self.weight * u for u in self.prefix]

    def _load(self, i: int, a: int) -> Any:
        """What the queue takes of a resource of a node."""
        taken = []
        for k, counts in self.counts.items():
            where = a - a % 2 if self.instant.double[k] else a
            if where in counts:
                taken.append(int(self.sizes[i, k]) * counts[where])
        return sum(taken) if taken else 0

    def _add_reserve(self) -> None:
        self.slots: dict[int, dict[int, Any]] = {}
        self.steps: dict[int, list[tuple[int, Any]]] = {}
        value = self.instant.value
        for k in range(value.shape[0]):
            fit = self.slots_on(k, self.free)
            worth = np.diff(value[k])[: int(fit.sum())]
            worth = worth[worth >= WORTH]
            if len(worth) == 0:
                continue
            slots = {a: self.model.new_int_var(0, int(fit[a]), "") for a in np.flatnonzero(fit > 0).tolist()}
            for a, n in slots.items():
                for node in (a, a + 1) if self.instant.double[k] else (a,):
                    for i in range(2):
                        asked = int(self.sizes[i, k])
                        self.model.add(self.load[i][node] + asked * n <= int(self.free[i, node]))
            self.slots[k] = slots
            self.steps[k] = [
                (last - first, self.model.new_int_var(0, last - first, "")) for first, last in _bands(worth)
            ]
            self.model.add(sum(z for _, z in self.steps[k]) <= sum(slots.values()))
            for (first, last), (_, z) in zip(_bands(worth), self.steps[k]):
                self.objective.append(round(SCALE * float(worth[first:last].mean())) * z)

    def start(self, nodes: Sequence[int]) -> None:
        """Give the solver a complete solution to start from: the nodes of a prefix of the queue."""
        queue, double, model = self.instant.queue, self.instant.double, self.model
        free = self.free.copy()
        placed: dict[tuple[int, int], int] = {}
        for k, a in zip(queue.tolist(), nodes):
            where = a - a % 2 if double[k] else a
            placed[k, where] = placed.get((k, where), 0) + 1
            free[:, [where, where + 1] if double[k] else [where]] -= self.sizes[:, [k]]
        for i, u in enumerate(self.prefix):
            model.add_hint(u, i < len(nodes))
        for k, counts in self.counts.items():
            for a, y in counts.items():
                model.add_hint(y, placed.get((k, a), 0))
        for k, slots in self.slots.items():
            fit = self.slots_on(k, free)
            left = int(fit.sum())
            for a, m in slots.items():
                model.add_hint(m, int(fit[a]))
            for size, z in self.steps[k]:
                model.add_hint(z, min(size, left))
                left -= min(size, left)


def _bands(worth: F8) -> list[tuple[int, int]]:
    """Divide the slots of a class into bands of like worth: one by one at first, then longer and longer."""
    bands, first = [], 0
    while first < len(worth):
        last = min(len(worth), first + max(1, first // 4))
        bands.append((first, last))
        first = last
    return bands


def reserve_left(instant: Instant, nodes: I8) -> float:
    """The reserve once a prefix of the queue is on some nodes.

    Args:
        instant: The state of things.
        nodes: Node of each request of the prefix, (≤ Q,).
    """
    free = instant.free.copy()
    for k, a in zip(instant.queue.tolist(), nodes.tolist()):
        where = [a - a % 2, a - a % 2 + 1] if instant.double[k] else [a]
        free[:, where] -= instant.size[:, [k]]
    ratio = np.full((2, len(instant.double), free.shape[1]), np.inf)
    size = np.broadcast_to(instant.size[:, :, None], ratio.shape)
    np.divide(np.broadcast_to(free[:, None, :], ratio.shape), size, out=ratio, where=size > 0)
    fit = np.floor(ratio.min(0))  # (K, 2N)
    slots = np.where(instant.double, np.minimum(fit[:, ::2], fit[:, 1::2]).sum(1), fit.sum(1))
    slots = np.clip(slots, 0, instant.value.shape[1] - 1).astype(np.int64)
    return float(instant.value[np.arange(len(slots)), slots].sum())


def solve_queue(instant: Instant, time_limit: float, seed: int) -> PackedQueue | None:
    """Pack a queue.

    Args:
        instant: The state of things.
        time_limit: Deterministic seconds of CP-SAT: the same on every machine.
        seed: Seed of the solver.

    Returns:
        The best packing found, None if there is none within the limit.
    """
    found = attempt(lambda: _solve(instant, time_limit, seed))
    if found is None:
        CALLS.note_failure()
    return found


def _solve(instant: Instant, time_limit: float, seed: int) -> PackedQueue | None:
    built = _Model(instant)
    built.start(instant.hint.tolist())
    cp_model = built.cp_model
    solver = cp_model.CpSolver()
    solver.parameters.max_deterministic_time = time_limit
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    status = solver.solve(built.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    left = {k: {a: solver.value(y) for a, y in counts.items()} for k, counts in built.counts.items()}
    nodes = []
    for k, u in zip(instant.queue.tolist(), built.prefix):
        if not solver.value(u):
            break
        a = next(a for a, n in left[k].items() if n > 0)
        left[k][a] -= 1
        nodes.append(a)
    return PackedQueue(np.array(nodes, dtype=np.int64), status == cp_model.OPTIMAL)
