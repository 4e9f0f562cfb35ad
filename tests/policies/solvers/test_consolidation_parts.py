"""Parts of the optimisation of consolidation: lines under power curves, patterns, classes, groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.policies.solvers.bounds import power_hull
from virtgym.policies.solvers.classes import make_classes
from virtgym.policies.solvers.items import find_groups


@given(st.lists(st.floats(1.0, 300.0), min_size=2, max_size=12), st.floats(0.05, 1.3))
def test_lines_lie_under_the_table_and_touch_it(table: list[float], most: float) -> None:
    energy = np.array(table)
    grid = np.linspace(0.0, 1.0, len(table))
    x = np.linspace(0.0, most, 200)
    under = np.max([a + b * x for a, b in power_hull(energy, most)], axis=0)
    true = np.interp(x, grid, energy)
    assert (under <= true + 1e-6).all()
    assert under[0] == pytest.approx(true[0])
    assert under[-1] == pytest.approx(true[-1])


def test_patterns_are_all_maximal_ways_to_fill_a_host() -> None:
    sizes = np.array([613.0, 870.0, 1740.0] * 3)
    classes = make_classes(sizes, np.array([4096.0]))
    assert classes is not None
    np.testing.assert_array_equal(classes.size, [1740.0, 870.0, 613.0])
    found = {tuple(row) for row in classes.patterns(4096.0).tolist()}
    fit = [c for c in itertools.product(range(7), repeat=3) if np.dot(c, classes.size) <= 4096.0]
    assert found == {c for c in fit if all(4096.0 - np.dot(c, classes.size) < s for s in classes.size)}
    assert (2, 0, 1) in found


@given(st.lists(st.floats(0.01, 1.0), min_size=8, max_size=30))
@settings(max_examples=50)
def test_classes_never_forbid_what_fits(sizes: list[float]) -> None:
    size = np.array(sizes)
    classes = make_classes(size, np.array([1.0, 0.7]))
    if classes is None:
        return
    n = len(classes.size)
    assert all(size[classes.of == k].min() == classes.size[k] for k in range(n))
    ways = classes.patterns(1.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(len(size))
        packed = order[np.cumsum(size[order]) <= 1.0]
        count = np.bincount(classes.of[packed], minlength=n + 1)[:n]
        assert (ways >= count).all(axis=1).any()


def test_groups_that_overlap_are_one() -> None:
    assert find_groups(6, [[4, 1], [5, 4], [2, 3]]).tolist() == [0, 1, 2, 2, 1, 1]
    assert find_groups(3, []).tolist() == [0, 1, 2]
