"""What may come in forks: made of the past alone, the same every time, and failures at their closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.scenarios import build_scenario
from virtgym.experiments.run.rollout import make_env
from virtgym.policies import make_policy
from virtgym.policies.forecast import make_forecaster
from virtgym.policies.search.daily import DAY_S, DailyWave, Flat
from virtgym.policies.search.futures import Futures, surely

HOST: dict[str, Any] = {"name": "host", "cores": 8, "core_mhz": 2000, "memory_mib": 16000, "boot_time_s": 240}
VM: dict[str, Any] = {"vcpus": 1, "vcpu_mhz": 1500, "memory_mib": 900}
TINY: dict[str, Any] = {
    "name": "tiny",
    "trace": {"format": "synthetic", "options": {"n_vms": 6, "n_samples": 30, "noise": 1.0}},
    "hosts": [{**HOST, "count": 3}],
    "vm_types": [{"name": "vm", **VM}],
}
CHURN: dict[str, Any] = {
    **TINY,
    "trace": {
        "format": "synthetic",
        "options": {"n_vms": 60, "n_samples": 60, "churn": 0.9, "mean_lifetime_s": 3600},
    },
    "vm_types": [{"name": "vm", **VM, "weight": 1}, {"name": "big", **VM, "vcpus": 2, "weight": 1}],
    "vm_assignment": "random",
}


def played(
    keys: dict[str, Any], n: int, seed: int = 0, **futures: Any
) -> tuple[Any, Futures, list[Any], Any]:
    """A cluster after n intervals, what it makes of them, the demand that was measured, and a forecast."""
    sim = build_scenario(keys, seed=1).simulator()
    view = sim.reset(np.random.default_rng(0))
    flat = Flat(make_forecaster("persistence"), view.n_vms)
    made = Futures(view, flat, **{"scenarios": 4, "past": 20, "horizon": 5, **futures})
    past = []
    for i in range(n + 1):
        if i:
            sim.advance()
        demand = view.state.vm_demand_mhz.copy()
        past.append(demand)
        forecast = 0.5 * demand / view.params.vm_cpu_mhz
        made.note(view, view.measured & (view.state.vm_host >= 0), forecast)
    return sim, made, past, forecast[None]


def test_a_future_is_the_forecast_and_the_errors_of_an_earlier_one() -> None:
    sim, made, past, forecast = played(TINY, 12)
    view = sim.view
    found = made.demand(view, forecast)
    nominal = view.params.vm_cpu_mhz
    lags = [2, 5, 7, 10]  # the middles of four parts of eleven intervals
    assert len(found) == len(lags)
    forecast = forecast[0] * nominal
    highest = np.maximum(forecast, np.max(past[1:], axis=0))
    for one, lag in zip(found, lags):
        for ahead in range(5):
            error = past[12 - lag + 1 + ahead % lag] - 0.5 * past[12 - lag]
            expected = np.clip(forecast + error, 0.0, highest)
            np.testing.assert_allclose(one["util"][12 + ahead] * nominal, expected)


@pytest.mark.parametrize("keys", [TINY, CHURN], ids=["steady", "churn"])
def test_futures_are_reproducible_and_made_of_the_past_alone(keys: dict[str, Any]) -> None:
    sim, made, _, forecast = played(keys, 9)
    before = sim.digest()
    known = {k: v for k, v in sim.params._asdict().items() if isinstance(v, np.ndarray)}
    first = made.demand(sim.view, forecast)
    again = played(keys, 9)
    # What comes after now is another world: nothing of it is looked at.
    params = again[0].params
    util = params.util.copy()
    util[10:] = 1.0 - util[10:]
    again[0].params = params._replace(util=util)
    again[0].kernel_params = again[0].kernel_params.replaced(util=util)
    second = again[1].demand(again[0].view, again[3])
    other = played(keys, 9, **{"scenarios": 4})[1]
    other._seed = 1
    third = other.demand(sim.view, forecast)
    for one, two in zip(first, second):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    assert sim.digest() == before
    assert all(value is getattr(sim.params, name) for name, value in known.items())
    if keys is CHURN:
        assert any(np.any(a["vm_departure_s"] != b["vm_departure_s"]) for a, b in zip(first, third))


def test_who_comes_is_like_those_that_are_there_and_as_often() -> None:
    sim, made, _, forecast = played(CHURN, 30, scenarios=20)
    view, now = sim.view, sim.time_s
    p, s = view.params, view.state
    came, gone = [], []
    for one in made.demand(view, forecast):
        coming = np.flatnonzero(np.isfinite(one["vm_arrival_s"]) & ~np.isfinite(p.vm_arrival_s))
        leaving = np.isfinite(one["vm_departure_s"]) & ~np.isfinite(p.vm_departure_s)
        times = one["vm_arrival_s"][coming]
        assert ((times > now) & (times <= now + 5 * p.interval_s)).all()
        assert np.isin(p.vm_vcpus[coming], p.vm_vcpus[s.vm_host >= 0]).all()
        at = one["vm_arrival_s"][one["arrival_order"]]
        assert (np.diff(at[s.counters.arrived :][: len(coming)]) >= 0.0).all()
        assert sorted(one["arrival_order"]) == list(range(view.n_vms))
        came.append(len(coming))
        gone.append(leaving.sum())
    expected = (s.counters.arrived - made._came) / now * 5 * p.interval_s
    assert np.mean(came) == pytest.approx(expected, rel=0.5)
    assert np.mean(gone) > 0.0


def test_a_failure_costs_what_a_closed_form_says() -> None:
    """One host with n VMs: an interruption each, then away until the end of what is tried."""
    mtbf_h, n = 50.0, 4
    keys = {
        **TINY,
        "trace": {"format": "synthetic", "options": {"n_vms": n, "n_samples": 30}},
        "hosts": [{**HOST, "count": 1}],
        "failures": {"enabled": True, "model": "exponential", "mtbf_h": mtbf_h, "mttr_h": 4},
        "cost": {"interruption": 0.3, "outage": 0.2},
    }
    reward = {"cost": 0.0, "cost_outage": -1.0}
    policy: Any = make_policy("rollout_search", candidates={}, horizon=6, discount=1.0, tail=0, reward=reward)
    env: Any = make_env(build_scenario(keys, seed=1), actions="candidates").unwrapped
    env.reset(seed=3)
    policy.bind(env.view, env.form)
    env.step(0)
    assert env.view.state.counters.fault == 0
    policy.take_up(env.view)
    span_h = 6 * env.view.params.interval_s / 3600.0
    value = np.full(len(env.form.candidates.mask), -np.inf)
    policy._trials.values(np.array([0]), value)
    assert value[0] == 0.0
    (failing,) = policy._failing
    policy._trials.values(np.array([0]), value, **failing)
    weight = env.view.params.vm_weight.sum()
    assert value[0] == pytest.approx(-weight * (0.3 + 0.2 * 0.5 * span_h), rel=1e-9)
    assert policy._weights == pytest.approx([span_h / mtbf_h])


def test_gains_count_less_their_standard_errors() -> None:
    gains = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [7.0, 2.0]])
    np.testing.assert_allclose(surely(gains, 2.0), [4.0 - np.std(gains[:, 0], ddof=1), 2.0])
    np.testing.assert_allclose(surely(gains[:1], 2.0), [1.0, 2.0])


def wave_of(amplitude: float, until: int, n: int = 40, noise: float = 0.5) -> tuple[Any, Any, Any, Any]:
    """A wave fitted to generated load, what it gave last, the load's logits without noise, and the times."""
    rng = np.random.default_rng(4)
    times = 300.0 * np.arange(288)
    level = rng.normal(-1.0, 1.0, size=n)
    logit = level + amplitude * np.sin(2.0 * np.pi * (times[:, None] + 150.0) / DAY_S + 1.0)
    util = 1.0 / (1.0 + np.exp(-logit - noise * rng.standard_normal(logit.shape)))
    util[rng.random(util.shape) < 0.1] = 0.0  # idle
    wave = DailyWave(0.5, 0.1, n, 300.0)
    there = np.ones(n, np.bool_)
    for i in range(until):
        last = wave.push(times[i] + 300.0, util[i], there)
    return wave, last, 0.9 / (1.0 + np.exp(-logit)), times


def test_a_daily_wave_is_found_and_carried_on() -> None:
    for until in (72, 150):
        wave, level, mean, times = wave_of(1.5, until)
        ahead = wave.path(level, times[until], 36)
        flat = np.abs(level - mean[until : until + 36]).mean()
        assert np.abs(ahead - mean[until : until + 36]).mean() < 0.75 * flat
    wave, level, mean, times = wave_of(0.0, 150)
    steady = wave.path(level, times[150], 36)
    np.testing.assert_allclose(steady, np.broadcast_to(level, steady.shape), atol=0.03)  # noise is no wave


def test_who_comes_late_has_a_level_of_its_own_and_no_past() -> None:
    wave = DailyWave(0.5, 0.1, 3, 300.0)
    util = np.array([0.2, 0.4, 0.6])
    for i in range(30):
        level = wave.push(300.0 * (i + 1), util, np.array([True, i >= 20, i < 20]))
    np.testing.assert_allclose(level, util, atol=1e-9)
    np.testing.assert_allclose(wave.path(level, 9000.0, 12), np.tile(util, (12, 1)), atol=1e-6)
