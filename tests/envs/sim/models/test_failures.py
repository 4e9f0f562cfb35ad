"""Failures: distributions against closed forms, who fails with whom, merging, replay, reproducibility."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.models.failures import (
    CAUSES,
    FailureConfig,
    FailureDomain,
    Incident,
    Outages,
    merge_outages,
    replay_outages,
    sample_domain_outages,
    sample_host_outages,
    sample_incidents,
    sample_outages,
    sample_vm_crashes,
    weibull_mean_h,
)

MANY = settings(max_examples=150)
HOUR, DAY = 3600.0, 86_400.0
YEAR = 365 * DAY


def seed(n: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(n)


def word(key: str, value: str) -> Any:
    return {key: value}


def make(rows: list[tuple[int, float, float, int]]) -> Outages:
    columns: Any = list(zip(*rows)) if rows else [[], [], [], []]
    kinds = (np.int32, np.float64, np.float64, np.int8)
    return Outages(*(np.array(c, dtype=k) for c, k in zip(columns, kinds)))


def test_means_of_the_default_fit() -> None:
    assert weibull_mean_h(0.48, 816.6) == pytest.approx(1766, abs=5)
    assert weibull_mean_h(0.58, 2.18) == pytest.approx(3.43, abs=0.01)
    assert weibull_mean_h(1.0, 7.0) == 7.0


def test_fresh_hosts_follow_the_weibull_distribution() -> None:
    config = FailureConfig(start="fresh")
    n = 20_000
    failed = len(set(sample_host_outages(config, n, DAY, seed(1)).host.tolist())) / n
    want = 1 - math.exp(-((24 / 816.6) ** 0.48))
    assert want == pytest.approx(0.168, abs=0.001)
    assert failed == pytest.approx(want, abs=4 * math.sqrt(want / n))


def test_hosts_in_the_midst_of_life_fail_at_the_long_run_rate() -> None:
    """In equilibrium P(first failure before t) = integral of 1 - F up to t, over the mean."""
    config, n = FailureConfig(), 40_000
    t = np.linspace(0, 24, 200_001)
    survive = np.exp(-((t / 816.6) ** 0.48))
    want = float(np.trapezoid(survive, t) / weibull_mean_h(0.48, 816.6))
    assert want == pytest.approx(0.012, abs=0.001)
    failed = len(set(sample_host_outages(config, n, DAY, seed(2)).host.tolist())) / n
    assert failed == pytest.approx(want, abs=4 * math.sqrt(want / n))


def test_exponential_hosts_are_down_for_their_share_of_the_time() -> None:
    config, n = FailureConfig("exponential", mtbf_h=100.0, mttr_h=25.0), 200
    outages = sample_host_outages(config, n, YEAR, seed(3))
    down = np.minimum(outages.up_s, YEAR) - outages.down_s
    assert down.sum() / (n * YEAR) == pytest.approx(0.2, abs=0.005)
    assert len(down) / (n * YEAR) == pytest.approx(1 / (125 * HOUR), rel=0.03)
    assert (outages.up_s - outages.down_s).mean() == pytest.approx(25 * HOUR, rel=0.03)


def test_down_times_follow_their_own_distribution() -> None:
    outages = sample_host_outages(FailureConfig(up_scale_h=50.0), 500, YEAR, seed(4))
    hours = (outages.up_s - outages.down_s) / HOUR
    for q in (0.25, 0.5, 0.9):
        want = 2.18 * (-math.log(1 - q)) ** (1 / 0.58)
        share = (hours <= want).mean()
        assert share == pytest.approx(q, abs=4 * math.sqrt(q * (1 - q) / len(hours)))


def test_none_never_fails() -> None:
    assert len(sample_host_outages(FailureConfig("none"), 5, YEAR, seed(0)).host) == 0
    assert len(sample_outages(FailureConfig("none"), 5, YEAR, seed(0)).host) == 0
    assert sample_vm_crashes(FailureConfig(), 5, YEAR, seed(0))[0].size == 0


def test_a_host_keeps_its_fate_whatever_else_there_is() -> None:
    config = FailureConfig(up_scale_h=300.0, vm_mtbf_h=500.0)
    small, large = (sample_host_outages(config, n, YEAR, seed(7)) for n in (3, 50))
    first = large.host < 3
    assert all(np.array_equal(small[i], large[i][first]) for i in range(4))
    short = sample_host_outages(config, 50, YEAR / 2, seed(7))
    early = large.down_s < YEAR / 2
    assert all(np.array_equal(short[i], large[i][early]) for i in range(4))
    again = [sample_outages(config, 50, YEAR, seed(7)) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*again))
    with_domain = sample_outages(config, 50, YEAR, seed(7), [FailureDomain("r", (49,), 100, 1)])
    others = again[0].host < 49
    assert np.array_equal(with_domain.down_s[with_domain.host < 49], again[0].down_s[others])
    assert not np.array_equal(again[0].down_s[:9], sample_outages(config, 50, YEAR, seed(8)).down_s[:9])


def test_a_domain_fails_as_a_whole_and_alone() -> None:
    domains = [FailureDomain("rack-0", (0, 2), 500, 5), FailureDomain("feed", (2, 3), 2000, 1)]
    outages = sample_domain_outages(domains, 5, YEAR, seed(5))
    spans = {
        h: list(zip(outages.down_s[outages.host == h], outages.up_s[outages.host == h])) for h in range(5)
    }
    assert spans[1] == spans[4] == []
    assert len(spans[0]) > 3
    assert len(spans[3]) > 1
    for a, b in spans[0] + spans[3]:  # host 2 is down whenever its rack or its feed is
        assert any(x <= a and b <= y for x, y in spans[2])
    assert {CAUSES[c] for c in outages.cause} == {"domain"}


def test_incidents_strike_their_share_of_the_hosts() -> None:
    incidents = [Incident(10, 5, 0.25), Incident(100, 20, 1.0), Incident(500, 9, 0.0), Incident(1e9, 1, 1.0)]
    outages = sample_incidents(incidents, 40, 1000.0, seed(6))
    for start, want in ((10, 10), (100, 40), (500, 0), (1e9, 0)):
        assert int((outages.down_s == start).sum()) == want
    assert set((outages.up_s - outages.down_s).tolist()) == {5.0, 20.0}


def test_overlapping_outages_join_by_hand() -> None:
    got = merge_outages(make([(1, 5, 9, 0), (0, 3, 4, 1), (1, 9, 12, 1), (1, 1, 2, 0), (1, 6, 7, 2)]))
    assert [list(row) for row in zip(*(c.tolist() for c in got))] == [
        [0, 3, 4, 1],
        [1, 1, 2, 0],
        [1, 5, 12, 0],
    ]


def test_merging_equals_marking_time() -> None:
    rng = np.random.default_rng(12)
    for _ in range(1000):
        n = int(rng.integers(0, 12))
        down = rng.integers(0, 30, n)
        up = down + rng.integers(1, 8, n)
        rows = list(
            zip(rng.integers(0, 3, n).tolist(), down.tolist(), up.tolist(), rng.integers(0, 3, n).tolist())
        )
        merged = merge_outages(make(rows))
        marks = np.zeros((3, 40), dtype=bool)
        for h, a, b, _ in rows:
            marks[h, a:b] = True
        again = np.zeros((3, 40), dtype=bool)
        for h, a, b in zip(merged.host, merged.down_s.astype(int), merged.up_s.astype(int)):
            assert not again[h, a:b].any()
            again[h, a:b] = True
        assert np.array_equal(marks, again)
        same = merged.host[1:] == merged.host[:-1]
        assert np.all(merged.down_s[1:][same] > merged.up_s[:-1][same])


@given(st.integers(0, 2**32 - 1))
@MANY
def test_outages_are_ordered_and_apart(n: int) -> None:
    config = FailureConfig("weibull" if n % 2 else "exponential", up_scale_h=40, mtbf_h=60, start="fresh")
    domains = [FailureDomain("rack", (0, 1), 50, 20)]
    got = sample_outages(config, 4, 30 * DAY, seed(n), domains, [Incident(DAY, 7 * DAY, 0.5)])
    assert np.all((got.down_s >= 0) & (got.down_s < 30 * DAY) & (got.up_s >= got.down_s))
    assert np.all(np.diff(got.host) >= 0)
    same = got.host[1:] == got.host[:-1]
    assert np.all(got.down_s[1:][same] > got.up_s[:-1][same])


def test_recorded_outages_are_replayed() -> None:
    host, down, up = (
        np.array([2, 0, 2], dtype=np.int32),
        np.array([5.0, 1.0, 4.0]),
        np.array([9.0, np.inf, 6.0]),
    )
    got = replay_outages(host, down, up, 3)
    assert [c.tolist() for c in got] == [[0, 2], [1, 4], [np.inf, 9], [3, 3]]
    joined = sample_outages(
        FailureConfig("none"), 3, 100.0, seed(1), incidents=[Incident(8, 2, 1.0)], replayed=got
    )
    assert [c.tolist() for c in joined] == [[0, 1, 2], [1, 8, 4], [np.inf, 10, 10], [3, 2, 3]]
    for bad in (([3], [0.0], [1.0]), ([0], [-1.0], [1.0]), ([0], [2.0], [1.0]), ([0], [np.nan], [1.0])):
        with pytest.raises(ConfigError, match=r"failures.outage 0: host"):
            replay_outages(np.array(bad[0], dtype=np.int32), np.array(bad[1]), np.array(bad[2]), 3)


def test_vm_crashes_are_a_poisson_process() -> None:
    vm, time = sample_vm_crashes(FailureConfig("none", vm_mtbf_h=200.0), 300, 60 * DAY, seed(9))
    want = 300 * 60 * 24 / 200
    assert len(vm) == pytest.approx(want, abs=4 * math.sqrt(want))
    assert np.all(np.diff(time) >= 0)
    assert time.max() < 60 * DAY
    assert set(vm.tolist()) == set(range(300))
    counts = np.bincount(vm, minlength=300)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.3)


def test_bad_values_name_their_key() -> None:
    for build, text in (
        (
            lambda: FailureConfig(**word("model", "lognormal")),
            "failures.model=lognormal: must be one of none, weibull",
        ),
        (lambda: FailureConfig(up_shape=0), "failures.up_shape=0"),
        (lambda: FailureConfig(**word("start", "old")), "failures.start=old"),
        (lambda: FailureConfig(vm_mtbf_h=-1), "failures.vm_mtbf_h=-1"),
        (lambda: FailureDomain("r", (), 1, 1), "failures.domain r.hosts: needs"),
        (lambda: FailureDomain("r", (1, 1), 1, 1), "named twice"),
        (lambda: sample_domain_outages([FailureDomain("r", (9,), 1, 1)], 5, 1.0, seed(1)), "must be below 5"),
        (lambda: sample_incidents([Incident(0, 1, 2)], 5, 1.0, seed(1)), "intensity 2 not in 0..1"),
    ):
        with pytest.raises(ConfigError, match=text):
            build()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: FailureConfig("exponential", mtbf_h=1e-9, mttr_h=1e-9), "failures.mtbf_h=1e-09: about"),
        (lambda: FailureConfig(up_scale_h=1e-300, down_scale_h=1e-300), "failures.up_scale_h=1e-300: about"),
        (lambda: FailureConfig("none", vm_mtbf_h=1e-300), "failures.vm_mtbf_h=1e-300: about"),
        (lambda: (FailureDomain("r", (0,), 1e-9, 1e-9),), "failures.domain r.mtbf_h=1e-09: about"),
        (lambda: FailureConfig(up_shape=1e-300), "failures.up_shape=1e-300: must be"),
        (lambda: FailureConfig(down_shape=math.inf), "failures.down_shape=inf: must be"),
        (lambda: FailureConfig(up_scale_h=1e308), "failures.up_scale_h=1e.308: must be"),
        (lambda: FailureConfig(vm_mtbf_h=1e308), "failures.vm_mtbf_h=1e.308: must be"),
    ],
)
def test_failures_without_end_or_beyond_numbers_are_refused(build: Callable[[], Any], text: str) -> None:
    def draw() -> None:
        made = build()
        domains, config = (made, FailureConfig("none")) if isinstance(made, tuple) else ((), made)
        sample_outages(config, 20, DAY, seed(1), domains)
        sample_vm_crashes(config, 20, DAY, seed(1))

    with pytest.raises(ConfigError, match=text):
        draw()


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("key", ["up_shape", "up_scale_h", "down_shape", "down_scale_h", "mtbf_h", "mttr_h"])
@pytest.mark.parametrize("model", ["weibull", "exponential"])
@pytest.mark.parametrize("start", ["stationary", "fresh"])
def test_extreme_times_are_drawn_or_refused(start: str, model: str, key: str, long: bool) -> None:
    value = (1e300 if long else 0.05) if "shape" in key else (1e100 if long else 1e-300)
    given: dict[str, Any] = {"start": start, "model": model, key: value}
    config = FailureConfig(**given)
    with np.errstate(over="raise", invalid="raise"):
        drawn = sample_outages(config, 20, 30 * DAY, seed(1))
    assert (drawn.up_s >= drawn.down_s).all()
