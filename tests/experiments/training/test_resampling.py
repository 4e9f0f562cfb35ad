"""Resampled streams and selection by blocks: what they are made of, and what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.traces import read_requests
from virtgym.envs.traces.requests import RequestTrace
from virtgym.experiments.training.rollouts.resampling import is_large, large_shapes, resample_requests
from virtgym.experiments.training.rollouts.selection import excess_bound

CONFIG = PlacementConfig()
ROWS = (1000, 5000)


@pytest.fixture(scope="module")
def trace() -> RequestTrace:
    return read_requests(None, "synthetic", n=8000, seed=4)


def sizes(t: RequestTrace, rows: slice) -> set[tuple[float, float]]:
    return set(zip(t.cores[rows], t.memory_gib[rows]))


def test_it_begins_with_the_rows_themselves_and_goes_on_with_what_they_hold(trace: RequestTrace) -> None:
    made = resample_requests(trace, ROWS, 10_000, CONFIG, 0.002, 0)
    n = ROWS[1] - ROWS[0]
    own, more = slice(*ROWS), slice(n, None)
    assert made.n_requests == n + 10_000
    for name in ("cores", "memory_gib", "lifetime_s"):
        np.testing.assert_array_equal(getattr(made, name)[:n], getattr(trace, name)[own])
    np.testing.assert_allclose(made.arrival_s[:n], trace.arrival_s[own] - trace.arrival_s[ROWS[0]])
    assert sizes(made, more) <= sizes(trace, own)  # nothing of other rows
    assert PlacementGames(made, CONFIG).params.n_requests == made.n_requests


def test_the_same_seed_gives_the_same_stream(trace: RequestTrace) -> None:
    one, same, other = (resample_requests(trace, ROWS, 3000, CONFIG, 0.002, seed) for seed in (1, 1, 2))
    for name in ("cores", "memory_gib", "lifetime_s", "arrival_s"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert (one.lifetime_s != other.lifetime_s).any()


def test_large_requests_come_more_often_and_lifetimes_are_of_their_size(trace: RequestTrace) -> None:
    own = np.arange(*ROWS)
    made = resample_requests(trace, ROWS, 40_000, CONFIG, 0.01, 0)
    more = np.arange(len(own), made.n_requests)
    before, after = is_large(trace, own, CONFIG).mean(), is_large(made, more, CONFIG).mean()
    assert before + 0.006 < after < before + 0.014
    plain = resample_requests(trace, ROWS, 40_000, CONFIG, 0.0, 0)
    assert is_large(plain, more, CONFIG).mean() == pytest.approx(before, rel=0.5)


def test_large_is_more_than_half_a_node() -> None:
    cores, memory = np.array([64.0, 40.0, 21.0, 20.0, 2.0]), np.array([128.0, 80.0, 8.0, 8.0, 100.0])
    t = RequestTrace("t", "t", "t", cores, memory, np.zeros(5), np.ones(5), np.arange(5))
    assert is_large(t, np.arange(5), CONFIG).tolist() == [True, False, True, False, True]
    assert large_shapes(t, np.arange(5), CONFIG, 0.2) == ((2.0, 100.0), (21.0, 8.0), (64.0, 128.0))
    assert large_shapes(t, np.arange(5), CONFIG, 0.3) == ()
    twice = replace(t, cores=np.array([64.0, 64.0, 21.0, 20.0, 2.0]), memory_gib=np.full(5, 128.0))
    assert large_shapes(twice, np.arange(5), CONFIG, 0.1)[0] == (64.0, 128.0)


def test_streams_shorter_than_a_block_and_without_large_requests() -> None:
    cores = np.array([1.0, 2.0, 1.0])
    t = RequestTrace("t", "t", "t", cores, cores, np.arange(3.0), np.array([5.0, 6.0, 7.0]), np.arange(3))
    made = resample_requests(t, (0, 3), 20, CONFIG, 0.5, 0)
    assert made.n_requests == 23
    assert set(made.cores) == {1.0, 2.0}


def test_a_gain_in_one_block_of_many_windows_is_not_certain() -> None:
    """3,000 windows that are 50 % better in one of 30 stretches, equal elsewhere; or 2 % better in all."""
    firsts, lengths = np.arange(0, 30_000, 10), np.full(3000, 500)
    rule = np.random.default_rng(0).uniform(1000.0, 2000.0, 3000)

    def bound(costs: NDArray[np.float64], confidence: float) -> float:
        return excess_bound(costs, rule, firsts, lengths, confidence)

    lucky = np.where(firsts < 1000, 0.5 * rule, rule)
    assert bound(lucky, 0.5) < 0.0 <= bound(lucky, 0.99)
    assert bound(0.98 * rule, 0.99) < 0.0
    assert bound(rule, 0.9) == 0.0
    assert bound(1.02 * rule, 0.01) > 0.0
