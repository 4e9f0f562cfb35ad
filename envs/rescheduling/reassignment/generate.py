"""Generated instances, for where no files are given: processes of all sizes on unevenly loaded machines."""

from __future__ import annotations

import numpy as np

from .instance import ReassignmentProblem, derive, group_rows
from .state import State

RESOURCES, TRANSIENT = 4, 1
"""Resources, and how many of them are transient."""
PER_SERVICE = 3
"""Processes of a service in the mean."""
USED, SAFE = 0.85, 0.8
"""Share of the capacity that is used, and that is safe."""


def generate_problem(seed: int, n_processes: int, n_machines: int) -> ReassignmentProblem:
    """Generate an instance; its initial assignment keeps every constraint.

    Args:
        seed: Seed.
        n_processes: P.
        n_machines: M, at least 2.
    """
    rng = np.random.default_rng(seed)
    n_services = max(-(-n_processes // PER_SERVICE), -(-n_processes // n_machines))
    order = rng.permutation(n_processes)
    service = np.empty(n_processes, dtype=np.int64)
    service[order] = np.arange(n_processes) % n_services
    # processes of a service are on neighbours of a random machine: never two on one
    home = (rng.integers(n_machines, size=n_services)[service] + _count_up(service)) % n_machines
    size = rng.lognormal(0.0, 1.0, n_processes)[:, None] * rng.lognormal(0.0, 0.5, (n_processes, RESOURCES))
    demand = np.maximum(1, 1000.0 * size).astype(np.int64)
    usage = np.zeros((n_machines, RESOURCES), dtype=np.int64)
    np.add.at(usage, home, demand)
    # as large as the mean needs, and as what is there
    capacity = np.maximum(usage, np.ceil(usage.mean(axis=0) / USED).astype(np.int64))
    location, neighbourhood = np.arange(n_machines) % 5, np.arange(n_machines) % 2
    draft = {
        "transient": (np.arange(RESOURCES) < TRANSIENT).astype(np.int64),
        "load_weight": np.full(RESOURCES, 10),
        "neighbourhood": neighbourhood,
        "location": location,
        "capacity": capacity,
        "safety": (SAFE * capacity).astype(np.int64),
        "machine_move": np.where(np.eye(n_machines), 0, rng.integers(1, 10, (n_machines, n_machines))),
        "spread_min": np.zeros(n_services, dtype=np.int64),
        "need_first": np.zeros(n_services + 1, dtype=np.int64),
        "need": np.zeros(0, dtype=np.int64),
        "service": service,
        "demand": demand,
        "process_move": rng.integers(1, 10, n_processes),
        "balance_have": np.array([1]),
        "balance_want": np.array([2]),
        "balance_target": np.array([1]),
        "balance_weight": np.array([5]),
        "weights": np.array([1, 10, 100]),
        "home": home,
    }
    name = f"generated_{n_processes}_{n_machines}"
    books = State(ReassignmentProblem(name, derive(draft))).books
    draft["spread_min"] = np.minimum(books.spread, rng.integers(1, 3, n_services)).astype(np.int64)
    # one service in five needs another, which is wherever it is
    owner = rng.permutation(n_services)[: n_services // 5]
    other = rng.integers(n_services, size=len(owner))
    kept = ((books.in_neighbourhood[owner] == 0) | (books.in_neighbourhood[other] > 0)).all(axis=1)
    draft["need_first"], rows = group_rows(owner[kept], n_services)
    draft["need"] = other[kept][rows]
    return ReassignmentProblem(name, derive(draft))


def _count_up(labels: np.ndarray) -> np.ndarray:
    """How many of the same label come before each."""
    order = np.argsort(labels, kind="stable")
    first, _ = group_rows(labels, int(labels.max()) + 1)
    count = np.empty(len(labels), dtype=np.int64)
    count[order] = np.arange(len(labels)) - first[labels[order]]
    return count
