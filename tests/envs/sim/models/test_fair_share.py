"""Max-min fair rates: closed forms, the definition as a property, and progressive filling in Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.arrays import F8
from virtgym.envs.sim.models.fair_share import max_min_rates

MANY = settings(max_examples=200)


def solve(first: Any, second: Any, cap: Any, capacity: Any) -> F8:
    rate = np.full(len(first), np.nan)
    a, b = np.asarray(first, dtype=np.int32), np.asarray(second, dtype=np.int32)
    max_min_rates(a, b, np.asarray(cap, float), np.asarray(capacity, float), rate)
    return rate


def slow(first: Any, second: Any, cap: Any, capacity: Any) -> list[float]:
    """Raise all flows together, step by step; every step fixes whatever stops first."""
    rate = [0.0] * len(first)
    moving = {f for f in range(len(first)) if cap[f] > 0}
    links = [{first[f], second[f]} - {-1} for f in range(len(first))]
    while moving:
        room = []
        for link, total in enumerate(capacity):
            on = [f for f in moving if link in links[f]]
            if on:
                used = math.fsum(rate[f] for f in range(len(first)) if link in links[f])
                room.append(((total - used) / len(on), on))
        step = min([r for r, _ in room] + [cap[f] - rate[f] for f in moving])
        step = max(step, 0.0)
        stop = {f for r, on in room if r <= step + 1e-12 for f in on}
        stop |= {f for f in moving if cap[f] - rate[f] <= step + 1e-12}
        for f in moving:
            rate[f] += step
        moving -= stop
    return rate


def random_network(seed: int) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    n_links, n_flows = int(rng.integers(1, 9)), int(rng.integers(1, 16))
    first = rng.integers(0, n_links, n_flows)
    second = rng.integers(-1, n_links, n_flows)
    cap = np.where(rng.random(n_flows) < 0.4, np.inf, rng.integers(0, 12, n_flows) * 0.5)
    return first.tolist(), second.tolist(), cap.tolist(), rng.integers(1, 20, n_links).astype(float).tolist()


def test_equal_flows_share_a_link_equally() -> None:
    assert solve([0, 0, 0, 0], [-1] * 4, [np.inf] * 4, [1000.0]).tolist() == [250.0] * 4


def test_what_one_does_not_want_goes_to_the_others() -> None:
    assert solve([0, 0, 0], [-1] * 3, [100.0, np.inf, np.inf], [1000.0]).tolist() == [100.0, 450.0, 450.0]


def test_the_narrower_end_of_a_migration_binds() -> None:
    # Hosts 0 (1,000) and 1 (10,000) both send to host 2 (1,000): 500 each into it.
    links = [1000.0, 10000.0, 1000.0] * 2  # host h sends on link h and receives on link 3 + h
    assert solve([0, 1], [3 + 2, 3 + 2], [np.inf, np.inf], links).tolist() == [500.0, 500.0]
    # The textbook line: one long flow over both links, one short flow on each; links 10 and 4.
    assert solve([0, 0, 1], [1, -1, -1], [np.inf] * 3, [10.0, 4.0]).tolist() == [2.0, 8.0, 2.0]


def test_a_little_contention_is_contention() -> None:
    assert solve([0, 0], [-1, -1], [500.5, 500.5], [1000.0]).tolist() == [500.0, 500.0]


def test_no_contention_gives_everybody_its_cap() -> None:
    assert solve([0, 0], [1, -1], [300.0, 700.0], [1000.0, 1000.0]).tolist() == [300.0, 700.0]
    assert solve([], [], [], [1000.0]).tolist() == []


@given(st.integers(0, 2**32 - 1))
@MANY
def test_every_flow_has_its_cap_or_a_bottleneck(seed: int) -> None:
    first, second, cap, capacity = random_network(seed)
    rate = solve(first, second, cap, capacity)
    load = [
        math.fsum(rate[f] for f in range(len(first)) if link in (first[f], second[f]))
        for link in range(len(capacity))
    ]
    assert all(x <= c * (1 + 1e-12) for x, c in zip(load, capacity))
    for f in range(len(first)):
        assert 0 <= rate[f] <= cap[f]
        if rate[f] == cap[f]:
            continue
        bottlenecks = [
            link
            for link in {first[f], second[f]} - {-1}
            if load[link] == pytest.approx(capacity[link], rel=1e-12)
            and all(
                rate[g] <= rate[f] * (1 + 1e-12) for g in range(len(first)) if link in (first[g], second[g])
            )
        ]
        assert bottlenecks


def test_the_kernel_equals_progressive_filling() -> None:
    for seed in range(1500):
        network = random_network(seed)
        np.testing.assert_allclose(solve(*network), slow(*network), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0))
@MANY
def test_scale_and_order_do_not_matter(seed: int, scale: float) -> None:
    first, second, cap, capacity = random_network(seed)
    rate = solve(first, second, cap, capacity)
    scaled = solve(first, second, np.multiply(cap, scale), np.multiply(capacity, scale))
    np.testing.assert_allclose(scaled, rate * scale, rtol=1e-9, atol=1e-12)
    order = np.random.default_rng(seed).permutation(len(first))
    a, b, c = (np.asarray(x)[order] for x in (first, second, cap))
    mixed = solve(a, b, c, capacity)
    np.testing.assert_allclose(mixed, rate[order], rtol=1e-9, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@MANY
def test_only_linked_flows_need_new_rates(seed: int) -> None:
    """Take a flow away: solving its component alone gives the same as solving everything again.

    It is why the engine (``network``) looks only at hosts that a chain of flows joins to what has changed.
    """
    first, second, cap, capacity = random_network(seed)
    ends = [np.asarray(x, dtype=np.int32) for x in (first, second)]
    gone = seed % len(first)
    links = [{a, b} - {-1} for a, b in zip(first, second)]
    touched = set(links[gone])
    for _ in capacity:  # until nothing more is joined
        touched |= {link for both in links if both & touched for link in both}
    rest = np.array([f for f, both in enumerate(links) if both & touched and f != gone], dtype=int)
    new = solve(first, second, cap, capacity)
    new[rest] = solve(ends[0][rest], ends[1][rest], np.asarray(cap)[rest], capacity)
    keep = np.setdiff1d(np.arange(len(first)), [gone])
    want = solve(ends[0][keep], ends[1][keep], np.asarray(cap)[keep], capacity)
    np.testing.assert_allclose(new[keep], want, rtol=1e-12, atol=0)
