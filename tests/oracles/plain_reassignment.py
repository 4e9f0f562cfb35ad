"""Machine reassignment in plain Python: costs and constraints as the challenge has them; tiny instances."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class PlainProblem:
    """What the two files say, as lists."""

    resources: list[tuple[int, int]]
    machines: list[dict[str, Any]]
    services: list[tuple[int, list[int]]]
    processes: list[tuple[int, list[int], int]]
    balances: list[tuple[int, int, int, int]]
    weights: tuple[int, int, int]
    home: list[int]


def parse(model: str, assignment: str) -> PlainProblem:
    """The files' texts as a problem."""
    words = iter(int(word) for word in model.split())

    def many(n: int) -> list[int]:
        return list(itertools.islice(words, n))

    resources = [(next(words), next(words)) for _ in range(next(words))]
    n, n_machines = len(resources), next(words)
    machines = [
        {"near": next(words), "place": next(words), "cap": many(n), "safe": many(n), "move": many(n_machines)}
        for _ in range(n_machines)
    ]
    services = [(next(words), many(next(words))) for _ in range(next(words))]
    processes = [(next(words), many(n), next(words)) for _ in range(next(words))]
    balances = [(next(words), next(words), next(words), next(words)) for _ in range(next(words))]
    weights = (next(words), next(words), next(words))
    return PlainProblem(
        resources, machines, services, processes, balances, weights, [int(w) for w in assignment.split()]
    )


def cost(p: PlainProblem, where: Sequence[int]) -> int:
    """The objective."""
    total: int = 0
    for m, machine in enumerate(p.machines):
        used = [
            sum(process[1][r] for process, x in zip(p.processes, where) if x == m)
            for r in range(len(p.resources))
        ]
        total += sum(w * max(0, u - s) for (_, w), u, s in zip(p.resources, used, machine["safe"]))
        free = [c - u for c, u in zip(machine["cap"], used)]
        total += sum(w * max(0, t * free[a] - free[b]) for a, b, t, w in p.balances)
    away = [i for i, (x, y) in enumerate(zip(p.home, where)) if x != y]
    per_service = [sum(p.processes[i][0] == s for i in away) for s in range(len(p.services))]
    total += p.weights[0] * sum(p.processes[i][2] for i in away)
    total += p.weights[1] * max(per_service)
    total += p.weights[2] * sum(p.machines[x]["move"][y] for x, y in zip(p.home, where))
    return total


def allowed(p: PlainProblem, where: Sequence[int]) -> bool:
    """Whether every constraint holds."""
    for m, machine in enumerate(p.machines):
        for r, (transient, _) in enumerate(p.resources):
            held = [i for i, x in enumerate(where) if x == m or (transient and p.home[i] == m)]
            if sum(p.processes[i][1][r] for i in held) > machine["cap"][r]:
                return False
    of_service: list[list[int]] = [[] for _ in p.services]
    for (s, _, _), x in zip(p.processes, where):
        of_service[s].append(x)
    near = [{p.machines[x]["near"] for x in machines} for machines in of_service]
    for s, (least, needs) in enumerate(p.services):
        if len(set(of_service[s])) < len(of_service[s]):
            return False
        if len({p.machines[x]["place"] for x in of_service[s]}) < least:
            return False
        if any(not near[s] <= near[d] for d in needs):
            return False
    return True


def best(p: PlainProblem) -> int:
    """The least cost of any allowed assignment, by trying all."""
    tried = itertools.product(range(len(p.machines)), repeat=len(p.processes))
    return min(cost(p, where) for where in tried if allowed(p, where))


def draw(seed: int, n_processes: int = 6, n_machines: int = 3, tight: float = 1.5) -> tuple[str, str]:
    """Texts of a model and an assignment that keeps every constraint.

    Args:
        seed: Seed.
        n_processes: P.
        n_machines: M.
        tight: Capacity in units of what is used at first, at most.
    """
    rng = np.random.default_rng(seed)
    n, n_services = (
        int(rng.integers(1, 4)),
        int(rng.integers(-(-n_processes // n_machines) + 1, n_processes + 1)),
    )
    home = rng.integers(n_machines, size=n_processes)
    service = rng.integers(n_services, size=n_processes)
    for i in range(n_processes):  # no two of a service on a machine
        while any(service[j] == service[i] and home[j] == home[i] for j in range(i)):
            service[i], home[i] = rng.integers(n_services), rng.integers(n_machines)
    demand = rng.integers(0, 30, size=(n_processes, n))
    used = np.zeros((n_machines, n), dtype=int)
    np.add.at(used, home, demand)
    capacity = np.maximum(
        (used * rng.uniform(1.0, tight, used.shape)).astype(int), rng.integers(1, 60, used.shape)
    )
    safety = (capacity * rng.uniform(0.2, 1.0, capacity.shape)).astype(int)
    near, place = rng.integers(2, size=n_machines), rng.integers(3, size=n_machines)
    move = rng.integers(0, 9, size=(n_machines, n_machines)) * (1 - np.eye(n_machines, dtype=int))
    parts: list[Any] = [n, *((int(rng.integers(2)), int(rng.integers(0, 12))) for _ in range(n)), n_machines]
    parts += [(near[m], place[m], *capacity[m], *safety[m], *move[m]) for m in range(n_machines)]
    parts.append(n_services)
    for s in range(n_services):
        here = {int(near[m]) for m in home[service == s]}
        needs = [
            d
            for d in range(n_services)
            if here <= {int(near[m]) for m in home[service == d]} and rng.random() < 0.3
        ]
        places = len({int(place[m]) for m in home[service == s]})
        parts.append((int(rng.integers(0, places + 1)), len(needs), *needs))
    parts.append(n_processes)
    parts += [(service[i], *demand[i], int(rng.integers(0, 9))) for i in range(n_processes)]
    balances = [
        (*rng.integers(n, size=2), int(rng.integers(1, 4)), int(rng.integers(1, 12)))
        for _ in range(rng.integers(3))
    ]
    parts += [len(balances), *balances, (1, 10, int(rng.integers(1, 100)))]
    lines = [" ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in parts]
    return "\n".join(lines) + "\n", " ".join(map(str, home)) + "\n"
