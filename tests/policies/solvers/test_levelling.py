"""Levelling against all placements of small clusters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from virtgym.policies.solvers.levelling import Levelling, level


def problem(seed: int) -> Levelling:
    """Five units, one of two VMs, on three hosts of different sizes, with little room."""
    rng = np.random.default_rng(seed)
    home = rng.integers(0, 3, 5)
    size = np.asarray(rng.uniform(0.02, 0.4, (5, 1)) * rng.choice([1.0, 1.0, 0.7], 3), dtype=np.float64)
    load = np.asarray(0.05 + np.bincount(home, size[np.arange(5), home], 3), dtype=np.float64)
    legal = (rng.random((5, 3)) < 0.85) & (np.arange(3) != home[:, None])
    number = np.array([1.0, 1.0, 2.0, 1.0, 1.0])
    return Levelling(
        load, home, size, number, legal, rng.uniform(1.0, 3.0, (1, 5)), rng.uniform(1.0, 6.0, (1, 3)), 3, 0.01
    )


def least(q: Levelling) -> float:
    """The least value of all moves that are allowed."""
    found = [q.load.max()]
    for hosts in itertools.product(range(-1, 3), repeat=5):
        moves = [(u, b) for u, b in enumerate(hosts) if b >= 0]
        come = (
            np.bincount([b for _, b in moves], [q.need[0, u] for u, _ in moves], 3) if moves else np.zeros(3)
        )
        if (
            sum(q.number[u] for u, _ in moves) <= q.most
            and all(q.legal[u, b] for u, b in moves)
            and (come <= q.free[0] + 1e-9).all()
        ):
            found.append(q.value(moves))
    return float(min(found))


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_least_of_all_placements(seed: int) -> None:
    q = problem(seed)
    best = least(q)
    moves = level(q, 1e-6, 1000, 60.0)
    assert all(q.legal[u, b] for u, b in moves)
    assert sum(q.number[u] for u, _ in moves) <= q.most
    assert q.value(moves) == pytest.approx(best, abs=2e-6)
    assert best - 1e-9 <= q.value(q.begin()) <= q.load.max() + 1e-9


def test_what_a_host_must_give_is_the_fewest_vms() -> None:
    q = problem(0)
    for h in range(3):
        own = np.flatnonzero((q.home == h) & q.legal.any(axis=1))
        for part in (0.0, 0.3, 0.7, 0.99, 1.0, 1.2):
            much = part * q.size[own, h].sum() if len(own) else part
            sets = [
                q.number[list(some)].sum()
                for n in range(len(own) + 1)
                for some in itertools.combinations(own, n)
                if q.size[list(some), h].sum() >= much - 1e-9
            ]
            fewest = min(sets, default=np.inf)
            given = q.must_give(h, np.array([much]))[0]
            assert given <= fewest
            if (q.number[own] == 1.0).all():
                assert given == fewest
