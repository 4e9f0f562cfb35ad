"""Statistics against answers worked by hand or given by another library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as scipy_stats

from virtgym.experiments.analysis.stats import (
    MIN_BLOCKS,
    Interval,
    TrimmedMean,
    independent_blocks,
    iqm_statistic,
    mean_interval,
    mean_statistic,
    paired_samples,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    t_quantile,
    trimmed_mean,
    trimmed_statistic,
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
    assert iqm_statistic(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0])) == 4.5
    assert iqm_statistic(np.array([2.0])) == 2.0


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
    assert got.estimate == iqm_statistic(np.array(values))
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


def test_trimmed_mean_cuts_a_tenth_at_each_end() -> None:
    assert trimmed_mean([*range(1, 10), 1000.0]) == 5.5  # without 1 and 1000: the mean of 2...9
    assert trimmed_mean([1.0, 2.0, 30.0]) == 11.0  # floor(0.1 * 3) = 0: nothing is cut
    assert trimmed_mean([3.0, 1.0, 2.0, 100.0], 0.25) == 2.5
    assert math.isnan(trimmed_mean([]))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 19, 20, 150])
def test_statistics_over_an_axis_agree_with_scipy(n: int) -> None:
    x = np.random.default_rng(n).lognormal(0.0, 2.0, size=(3, 4, n))
    np.testing.assert_allclose(trimmed_statistic(x), scipy_stats.trim_mean(x, 0.1, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(iqm_statistic(x), scipy_stats.trim_mean(x, 0.25, axis=-1), rtol=1e-12)
    assert float(trimmed_statistic(x[0, 0])) == pytest.approx(trimmed_mean(x[0, 0]), rel=1e-12)


def difference(
    a: Any, b: Any, seed: int, statistic: TrimmedMean = trimmed_statistic, n_resamples: int = 2000
) -> Interval:
    """Paired bootstrap of ``a - b``, (n,) or (runs, n), as the comparison of placement windows makes it."""
    x, y = np.atleast_2d(a), np.atleast_2d(b)
    samples = paired_samples(
        {"a": x, "b": y}, np.random.default_rng(seed), {"s": statistic}, n_resamples=n_resamples
    )["s"]
    estimate = float(statistic(x).mean() - statistic(y).mean())
    return percentile_interval(estimate, samples["a"] - samples["b"], x.shape[1])


def test_paired_bootstrap_of_the_mean_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(5)
    b = rng.lognormal(3.0, 1.5, size=400)
    a = b - rng.normal(2.0, 1.0, size=400)
    got, want = difference(a, b, 1, mean_statistic), mean_interval(a - b)
    assert got.estimate == pytest.approx((a - b).mean())
    assert got.low == pytest.approx(want.low, abs=0.02)
    assert got.high == pytest.approx(want.high, abs=0.02)
    assert got.n == 400


def test_paired_bootstrap_of_a_shift_has_no_width_for_any_statistic() -> None:
    b = np.random.default_rng(0).lognormal(3.0, 2.0, size=150)
    for statistic in (mean_statistic, trimmed_statistic, iqm_statistic):
        got = difference(b + 7.0, b, 0, statistic)
        assert (got.estimate, got.low, got.high) == pytest.approx((7.0, 7.0, 7.0), rel=1e-9)
    assert mean_interval(b + 7.0).holds(float(b.mean()))  # what pairs show, the spread of windows hides


def test_a_trimmed_mean_is_trimmed_on_either_side_by_itself() -> None:
    # The tenth that is cut is another one for a and b, so this is not the trimmed mean of the differences.
    a, b = np.array([0.0] * 9 + [100.0]), np.array([100.0] + [0.0] * 9)
    got = difference(a, b + np.arange(10.0), 0)
    assert got.estimate == trimmed_mean(a) - trimmed_mean(b + np.arange(10.0)) == -5.5
    assert trimmed_mean(a - b - np.arange(10.0)) != -5.5


def test_paired_bootstrap_covers_a_known_difference() -> None:
    hits = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        hard = rng.lognormal(2.0, 1.0, size=60)
        a, b = hard + rng.normal(1.0, 1.0, 60), hard + rng.normal(0.0, 1.0, 60)
        hits += difference(a, b, trial, mean_statistic, n_resamples=300).holds(1.0)
    assert 0.88 <= hits / 200 <= 0.99


def test_runs_of_a_learner_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    windows = rng.lognormal(2.0, 0.5, size=80)
    alike = np.stack([windows] * 5)
    apart = np.stack([windows + shift for shift in (-20.0, -10.0, 0.0, 10.0, 20.0)])
    narrow, wide = difference(alike, windows, 0), difference(apart, windows, 0)
    assert (narrow.low, narrow.high) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert wide.estimate == pytest.approx(0.0, abs=1e-9)
    # the mean of 5 runs drawn from -20...20 has a standard deviation of 14.14 / sqrt(5) = 6.3
    assert wide.high == pytest.approx(1.96 * 6.32, abs=1.5)


def test_paired_bootstrap_of_one_window_gives_no_interval() -> None:
    assert difference([3.0], [1.0], 0).known is False
    with pytest.raises(ValueError, match="as many"):
        difference([1.0], [1.0, 2.0], 0)


def test_probability_of_improvement_is_averaged_over_tasks() -> None:
    # task 1: (1,4) against (2,3): 1/2; task 2: all of a below b: 1; task 3: equal: 1/2
    a = np.array([[1.0, 0.0, 7.0], [4.0, 1.0, 7.0]])
    b = np.array([[2.0, 2.0, 7.0], [3.0, 3.0, 7.0]])
    assert probability_of_improvement(a, b) == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    pooled = probability_of_improvement(a.ravel(), b.ravel())
    assert pooled != pytest.approx(2.0 / 3.0)  # which runs that share no task would say
    assert probability_of_improvement(a, np.where(b == 7.0, math.nan, b)) == 0.75
    with pytest.raises(ValueError, match="tasks"):
        probability_of_improvement(a, b[:, :2])


def test_performance_profile_counts_runs_above_a_threshold() -> None:
    scores = [[1.0, 2.0], [2.0, 4.0]]
    np.testing.assert_array_equal(performance_profile(scores, [0.0, 1.0, 2.0, 4.0]), [1.0, 0.75, 0.25, 0.0])
    waits = performance_profile(scores, [0.0, 1.0, 2.0, 4.0], lower_is_better=True)
    np.testing.assert_array_equal(waits, [0.0, 0.25, 0.75, 1.0])
    assert np.isnan(performance_profile([], [1.0])).all()


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)),
    st.sampled_from([0.0, 0.1, 0.25, 0.49]),
    st.integers(0, 2**32),
)
def test_a_statistic_of_counts_is_that_of_the_repeated_values(values: Any, share: float, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 4, size=(5, len(values))).astype(float)
    counts[:, 0] += 1
    got = TrimmedMean(share).counted(values, counts)
    want = [TrimmedMean(share)(np.repeat(values, row.astype(int))) for row in counts]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-6)


def test_windows_that_overlap_are_of_one_block() -> None:
    first = np.array([0, 10, 90, 100, 250, 199])
    labels = independent_blocks(first, np.full(6, 100), np.zeros((1, 6)))
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 2, 1])


def test_blocks_grow_until_neighbours_are_independent() -> None:
    rng = np.random.default_rng(0)
    first = np.arange(0, 100_000, 250)
    independent = rng.normal(size=(2, len(first)))
    slow = np.repeat(rng.normal(size=(1, 50)), 8, axis=1)  # the same over 2,000 rows
    n_short = independent_blocks(first, np.full(len(first), 500), independent).max() + 1
    n_long = independent_blocks(first, np.full(len(first), 500), slow).max() + 1
    assert n_short == 200
    assert MIN_BLOCKS <= n_long <= 50


def test_intervals_of_blocks_cover_what_those_of_overlapping_windows_do_not() -> None:
    def cover(blocked: bool) -> float:
        hits = 0
        for trial in range(120):
            rng = np.random.default_rng(trial)
            requests = rng.lognormal(0.0, 1.5, size=4000)  # one request decides many windows
            first = np.sort(rng.integers(0, 3800, size=150))
            waits = np.array([requests[f : f + 200].sum() for f in first])
            blocks = independent_blocks(first, np.full(150, 200), waits[None]) if blocked else None
            samples = paired_samples(
                {"a": waits[None]}, rng, {"m": mean_statistic}, blocks=blocks, n_resamples=300
            )
            truth = 200.0 * math.exp(1.5**2 / 2)
            hits += percentile_interval(waits.mean(), samples["m"]["a"], 150).holds(truth)
        return hits / 120

    assert cover(blocked=False) < 0.65
    assert cover(blocked=True) > 0.75


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 10, 199, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_students_t_agree_with_scipy(n: int, confidence: float) -> None:
    found = t_quantile(confidence, n)
    assert found == pytest.approx(float(scipy_stats.t.ppf(0.5 + confidence / 2.0, n)), rel=1e-10)
