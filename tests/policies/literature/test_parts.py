"""Detectors, selectors and the small kernels against independent implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from virtgym.envs.arrays import F8
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.policies.forecast import regression
from virtgym.policies.literature import detectors as d
from virtgym.policies.literature.parts import DETECTORS, IQR, MAD
from virtgym.policies.literature.selectors import multiple_correlation, splitmix


def weighted_line(y: F8, weights: F8, at: float) -> float:
    """Straight line by NumPy's least squares on rows scaled by the root of their weight."""
    root = np.sqrt(weights)
    design = np.column_stack([np.ones(len(y)), np.arange(1, len(y) + 1)])
    coefficients = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    return float(coefficients @ [1.0, at])


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("window", [3, 10, 17])
def test_ols_taps_are_an_unweighted_straight_line(window: int, horizon: int) -> None:
    taps = DETECTORS.find("ols").factory.taps(window, horizon)
    for seed in range(20):
        y = np.random.default_rng(seed).random(window)
        line = np.polynomial.Polynomial.fit(np.arange(1, window + 1), y, 1)
        assert taps @ y == pytest.approx(line(window + horizon), abs=1e-9)


def test_ols_taps_of_ten_samples_are_the_textbook_filter() -> None:
    # 1/10 + (11 - 5.5)(x - 5.5) / 82.5 for x = 1..10
    expected = [-0.2, -2 / 15, -1 / 15, 0, 1 / 15, 2 / 15, 0.2, 4 / 15, 1 / 3, 0.4]
    np.testing.assert_allclose(DETECTORS.find("ols").factory.taps(10, 1), expected, atol=1e-12)


@pytest.mark.parametrize("window", [4, 10, 15])
def test_loess_taps_are_a_tricube_weighted_line(window: int) -> None:
    taps = DETECTORS.find("loess").factory.taps(window, 1)
    u = np.arange(window - 1, -1, -1) / (window - 1)  # distance from the newest sample, newest last
    weights = (1 - u**3) ** 3
    for seed in range(20):
        y = np.random.default_rng(seed).random(window)
        assert taps @ y == pytest.approx(weighted_line(y, weights, window + 1.0), abs=1e-9)


def test_loess_weighs_the_newest_most_and_ols_does_not_weigh() -> None:
    weights = regression.tricube_weights(10)
    assert (np.diff(weights) > 0).all()
    assert weights[0] == 0
    assert weights[-1] == 1
    ols, loess = (DETECTORS.find(n).factory.taps(10, 1) for n in ("ols", "loess"))
    assert loess[-1] > ols[-1] + 0.05
    for taps in (ols, loess):  # both keep constants and straight lines
        assert taps.sum() == pytest.approx(1)
        assert taps @ np.arange(10.0) == pytest.approx(10)


def robust_reference(y: F8, weights: F8, horizon: int) -> float:
    design = np.column_stack([np.ones(len(y)), np.arange(1, len(y) + 1)])
    root = np.sqrt(weights)
    first = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    residuals = y - design @ first
    u = residuals / (6 * np.median(np.abs(residuals)))
    bisquare = np.where(np.abs(u) < 1, (1 - u**2) ** 2, 0)
    return weighted_line(y, weights * bisquare, len(y) + horizon)


@pytest.mark.parametrize("horizon", [1, 3])
def test_robust_loess_is_cleveland_s_bisquare_refit(horizon: int) -> None:
    weights = regression.tricube_weights(10)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = rng.random(10) + (rng.random(10) < 0.2) * 5
        got = regression.forecast_robust(y, weights, 10, horizon, np.zeros(20))
        assert got == pytest.approx(robust_reference(y, weights, horizon), abs=1e-9)


def test_robust_loess_ignores_an_outlier_and_keeps_exact_lines() -> None:
    weights, line = regression.tricube_weights(10), np.arange(10.0)
    spiked = line + 0.01 * np.array([1, -1, 1, 1, -1, -1, 1, -1, 1, -1])
    spiked[7] += 20
    assert regression.forecast_robust(spiked, weights, 10, 1, np.zeros(20)) == pytest.approx(10, abs=0.1)
    assert DETECTORS.find("loess").factory.taps(10, 1) @ spiked > 12
    for y in (line, np.zeros(10), np.full(10, 3.0)):
        assert regression.forecast_robust(y, weights, 10, 1, np.zeros(20)) == pytest.approx(
            y[-1] + y[1] - y[0]
        )


@pytest.mark.parametrize("n", [1, 2, 3, 11, 12, 29, 30])
def test_median_and_mad_agree_with_scipy(n: int) -> None:
    for seed in range(30):
        y = np.random.default_rng([n, seed]).integers(0, 12, n) / 7.0
        assert regression.median(y.copy(), n) == pytest.approx(np.median(y), abs=1e-12)
        assert d.mad(y.copy(), n) == pytest.approx(stats.median_abs_deviation(y), abs=1e-12)


def test_iqr_is_a_difference_of_order_statistics() -> None:
    y = np.random.default_rng(1).permutation(np.arange(1.0, 31.0))
    assert d.iqr(y.copy(), 30) == 23 - 8  # the literature's quartiles of 30 samples
    for n in (12, 13, 20, 29, 30):
        y = np.random.default_rng(n).random(n)
        # Its definition is NumPy's nearest rank of Weibull's plotting positions, halves rounded up.
        ranks = [int(np.floor(q * (n + 1) + 0.5)) for q in (0.25, 0.75)]
        low, high = np.sort(y)[np.array(ranks) - 1]
        assert d.iqr(y.copy(), n) == pytest.approx(high - low, abs=1e-12)
        assert d.iqr(y.copy(), n) == pytest.approx(stats.iqr(y), abs=0.15)


def test_window_statistics_keep_the_history() -> None:
    history = np.random.default_rng(0).random(12)
    before = history.copy()
    for kind in (MAD, IQR):
        d.overloaded_history(kind, history, 12, 0.5, 1.0, 1.5, np.ones(3), 1, np.zeros(24))
    np.testing.assert_array_equal(history, before)


def r_squared(windows: F8) -> list[float]:
    result = []
    for i, y in enumerate(windows):
        x = np.column_stack([np.ones(len(y)), np.delete(windows, i, axis=0).T])
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        result.append(1 - residual @ residual / ((y - y.mean()) ** 2).sum())
    return result


@pytest.mark.parametrize("m", [2, 3, 8, 20])
def test_multiple_correlation_is_that_of_least_squares(m: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng([m, seed])
        windows = rng.random((m, 30)) + rng.random((m, 1)) * rng.random(30)
        matrix: Any = np.corrcoef(windows)
        assert multiple_correlation(matrix, m)
        np.testing.assert_allclose(np.diag(matrix), r_squared(windows), atol=1e-7)


def test_multiple_correlation_survives_collinear_histories() -> None:
    a, b = np.random.default_rng(0).random((2, 30))
    matrix = np.corrcoef([a, b, a + b])
    assert multiple_correlation(matrix, 3)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 17, 100, 777])
def test_sorting_is_stable(n: int) -> None:
    key = np.random.default_rng(n).integers(0, max(n // 3, 1), n).astype(np.float64)
    order = np.arange(n, dtype=np.int32)
    sort_ascending(order, key, n, np.zeros(n, dtype=np.int32))
    np.testing.assert_array_equal(order, np.argsort(key, kind="stable"))


def test_splitmix_gives_the_published_numbers() -> None:
    state: Any = 1234567
    numbers = []
    for _ in range(3):
        state, z = splitmix(np.int64(state))
        numbers.append(int(z))
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert numbers == [x >> 1 for x in published]


def test_handles_of_workspaces_have_one_type() -> None:
    from virtgym.envs.sim.config import ClusterConfig, HostType
    from virtgym.envs.sim.simulator import Simulator
    from virtgym.envs.sim.workload import Workload
    from virtgym.policies.literature.workspace import allocate_workspace

    kinds = []
    for n, rows in ((2, True), (5, False)):
        host = HostType("a", 1, 1000.0, 1024.0, (1.0, 2.0))
        config = ClusterConfig((host,), np.zeros(n, dtype=np.int32))
        one = np.ones(n)
        load = Workload("w", 300.0, np.ones((3, n)), one, one.astype(np.int32), one, 0 * one, one * np.inf)
        view = Simulator(config, load).view
        work = allocate_workspace(view.params, view.state, np.ones(1), np.ones(n), 4 + n, rows)
        kinds.append(make_handle("consolidation", work)._numba_type_)
    assert kinds[0] == kinds[1]  # else every cluster would be compiled for anew
