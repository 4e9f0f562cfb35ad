"""Statistics against answers worked by hand or given by another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from virtgym.experiments.stats import (
    Interval,
    iqm,
    mean_interval,
    paired_bootstrap_difference,
    probability_of_improvement,
    stratified_bootstrap,
)


def test_mean_interval_worked_by_hand() -> None:
    # mean 2, s = 1, t(2, 0.975) = 4.302653: half width 4.302653 / sqrt(3)
    got = mean_interval([1.0, 2.0, 3.0])
    assert got.estimate == 2.0
    assert got.high - got.estimate == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert got.low == pytest.approx(2.0 - 2.484138, rel=1e-5)
    assert (got.n, got.known) == (3, True)


def test_one_value_has_no_interval_and_nan_is_left_out() -> None:
    assert mean_interval([5.0, math.nan]).estimate == 5.0
    assert not mean_interval([5.0]).known
    assert mean_interval([]).n == 0
    assert math.isnan(mean_interval([math.nan]).estimate)


def test_equal_values_give_an_interval_of_exactly_no_width() -> None:
    got = mean_interval([0.1] * 7)
    assert (got.estimate, got.low, got.high) == (0.1, 0.1, 0.1)


def test_holds() -> None:
    assert Interval(1.0, 0.5, 1.5, 3).holds(1.5)
    assert not Interval(1.0, 0.5, 1.5, 3).holds(1.6)
    assert Interval(1.0, math.nan, math.nan, 1).holds(1.0)
    assert not Interval(1.0, math.nan, math.nan, 1).holds(1.1)


def test_iqm_drops_a_quarter_at_each_end() -> None:
    assert iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0]) == 4.5
    assert iqm([2.0]) == 2.0
    assert math.isnan(iqm([]))


def test_stratified_bootstrap_covers_a_normal_mean_like_the_t_interval() -> None:
    x = np.random.default_rng(1).normal(10.0, 2.0, size=400)
    got = stratified_bootstrap([x], np.random.default_rng(2))
    want = mean_interval(x)
    assert got.estimate == pytest.approx(x.mean())
    assert got.low == pytest.approx(want.low, abs=0.05)
    assert got.high == pytest.approx(want.high, abs=0.05)


def test_stratified_bootstrap_resamples_within_tasks_only() -> None:
    # Tasks differ a lot, runs within a task not at all: resampling within tasks can only give the mean.
    got = stratified_bootstrap([[1.0, 1.0, 1.0], [100.0, 100.0, 100.0]], np.random.default_rng(0))
    assert (got.estimate, got.low, got.high) == (50.5, 50.5, 50.5)


def test_stratified_bootstrap_takes_other_statistics() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0]
    got = stratified_bootstrap(
        [values[:4], values[4:]],
        np.random.default_rng(0),
        statistic=lambda x: np.asarray(scipy_stats.trim_mean(x, 0.25, axis=-1)),
    )
    assert got.estimate == iqm(values)
    assert got.low <= 4.5 <= got.high


def test_bootstrap_is_seeded_and_another_seed_differs() -> None:
    x = [1.0, 2.0, 4.0, 8.0, 9.5, 11.3]
    one, same, other = (
        stratified_bootstrap([x], np.random.default_rng(s), n_resamples=50) for s in (3, 3, 4)
    )
    assert one == same
    assert one != other


def test_bootstrap_without_repeats_gives_no_interval() -> None:
    got = stratified_bootstrap([[1.0], [2.0]], np.random.default_rng(0))
    assert (got.estimate, got.known) == (1.5, False)
    assert stratified_bootstrap([[]], np.random.default_rng(0)).n == 0


def test_paired_difference_sees_what_the_spread_of_seeds_hides() -> None:
    seeds = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    got = paired_bootstrap_difference(seeds + 1.0, seeds, np.random.default_rng(0))
    assert (got.estimate, got.low, got.high) == (1.0, 1.0, 1.0)
    unpaired = mean_interval(seeds + 1.0)
    assert unpaired.holds(float(seeds.mean()))
    with pytest.raises(ValueError, match="as many"):
        paired_bootstrap_difference([1.0], [1.0, 2.0], np.random.default_rng(0))


def test_probability_of_improvement_worked_by_hand() -> None:
    # pairs (1,2) (1,3) (4,2) (4,3): two of four
    assert probability_of_improvement([1.0, 4.0], [2.0, 3.0]) == 0.5
    assert probability_of_improvement([1.0], [1.0]) == 0.5
    assert probability_of_improvement([1.0, 1.0], [2.0, 3.0]) == 1.0
    assert probability_of_improvement([1.0, 1.0], [2.0, 3.0], lower_is_better=False) == 0.0
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    u = scipy_stats.mannwhitneyu(y, x).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / 1600.0)
    assert math.isnan(probability_of_improvement([], [1.0]))
