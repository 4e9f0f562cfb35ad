"""Single kernels of the replica against slow references."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from virtgym.experiments.replication import detectors, selection, sharing
from virtgym.experiments.replication.machines import make_site, vm_types

WORK = np.empty((4, 30, 30))


def callable_kernel(kernel: object) -> object:
    """Inner kernels have no entry from Python: compile one."""
    return njit(kernel.py_func, error_model="numpy", _nrt=False)  # type: ignore[attr-defined,call-overload]


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed generator."""
    return np.random.default_rng(11)


def test_regression_filter_is_the_regression(rng: np.random.Generator) -> None:
    """A constant filter, updating sums and numpy.polyfit give the same prediction."""
    taps = detectors.filter_weights(detectors.OLS)
    for y in rng.random((50, 10)):
        expected = np.polyval(np.polyfit(np.arange(10), y[::-1], 1), 10)
        assert taps @ y == pytest.approx(expected, abs=1e-12)
        assert detectors.predict_ols(y) == pytest.approx(expected, abs=1e-12)


def test_tricube_filter_is_weighted_regression(rng: np.random.Generator) -> None:
    taps = detectors.filter_weights(detectors.LOESS)
    weights = (1 - np.linspace(1, 0, 10) ** 3) ** 3
    work = np.empty((3, 30))
    for y in rng.random((50, 10)):
        line = np.polyfit(np.arange(10), y[::-1], 1, w=np.sqrt(weights))
        expected = np.polyval(line, 10)
        assert taps @ y == pytest.approx(expected, abs=1e-12)
        assert detectors.predict_weighted(y, False, work) == pytest.approx(expected, abs=1e-12)


def test_robust_regression_ignores_an_outlier() -> None:
    y = np.linspace(0.5, 0.41, 10)
    y[3] += 0.3
    plain = detectors.predict_weighted(y, False, np.empty((3, 30)))
    robust = detectors.predict_weighted(y, True, np.empty((3, 30)))
    assert abs(robust - 0.51) < 0.5 * abs(plain - 0.51)


@pytest.mark.parametrize("n", [1, 2, 11, 12, 29, 30])
def test_spread_of_a_window(n: int, rng: np.random.Generator) -> None:
    work = np.empty((3, 30))
    for y in rng.random((20, 30)):
        expected = np.median(np.abs(np.median(y[:n]) - y[:n]))
        assert detectors.mad(y, n, work) == pytest.approx(expected, abs=1e-15)
    ordered = np.sort(y[:n])
    if n == 30:
        assert detectors.quartile_range(y, n, work[0]) == ordered[22] - ordered[7]


def test_usable_length() -> None:
    assert detectors.usable_length(np.array([0.5, 0.0, 0.2, 0.0, 0.0]), 5) == 3
    assert detectors.usable_length(np.zeros(5), 5) == 1


def test_one_comparison_replaces_the_division(rng: np.random.Generator) -> None:
    largest = callable_kernel(detectors.largest_load)
    for total in (3720.0, 5320.0):
        for threshold in [0.8, 0.7, *rng.uniform(0.1, 1.0, 50)]:
            load = largest(total, threshold)  # type: ignore[operator]
            assert load / total <= threshold < np.nextafter(load, np.inf) / total


def test_multiple_r2_is_least_squares(rng: np.random.Generator) -> None:
    for n in (2, 3, 8):
        data = rng.random((n, 30))
        for which in range(n):
            others = np.vstack([np.ones(30), np.delete(data, which, axis=0)]).T
            beta = np.linalg.lstsq(others, data[which], rcond=None)[0]
            residual = data[which] - others @ beta
            expected = 1 - residual @ residual / np.sum((data[which] - data[which].mean()) ** 2)
            value = selection.multiple_r2(data, which, n, 30, WORK)
            assert value == pytest.approx(expected, abs=1e-10)
    undefined = np.vstack([np.zeros(30), rng.random(30)])
    assert selection.multiple_r2(undefined, 1, 2, 30, WORK) == selection.UNDEFINED


def test_sums_in_the_order_of_a_hash_table(rng: np.random.Generator) -> None:
    site = make_site(np.zeros((300, 288)))
    add = callable_kernel(sharing.hash_ordered_sum)
    for table in (16, 32):
        vms = rng.permutation(300).astype(np.int32)[:11]
        weight = rng.random(11) * 10.0 ** rng.integers(-8, 8, 11)
        order = sorted(range(11), key=lambda i: (int(site.key[vms[i]]) & (table - 1), i))
        expected = 0.0
        for i in order:
            expected += weight[i]
        assert add(vms, 11, site.key, table, weight) == expected  # type: ignore[operator]


def test_hash_of_a_known_identifier() -> None:
    """In Java the string 2-0 hashes to 50 * 31^2 + 45 * 31 + 48 = 49493."""
    assert make_site(np.zeros((4, 288))).key[0] == 49493


def test_power_at_table_points_and_between() -> None:
    site = make_site(np.zeros((4, 288)))
    assert [sharing.power_at(site, 0, u) for u in (0.0, 0.1, 0.5, 0.7, 1.0)] == [86, 89.4, 102, 108, 117]
    assert sharing.power_at(site, 1, 0.25) == pytest.approx(103.0)


def test_vm_types_come_in_blocks() -> None:
    assert vm_types(10).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert np.bincount(vm_types(1052)).tolist() == [263, 263, 263, 263]


def test_draws_are_uniform() -> None:
    state = np.array([12345], dtype=np.uint64)
    counts = np.bincount([selection.draw(state, 7) for _ in range(7000)], minlength=7)
    assert counts.size == 7
    assert np.abs(counts - 1000).max() < 120
