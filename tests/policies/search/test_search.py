"""Search: equal to trying everything by hand, reproducible, and within its budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.cluster.rewards import RewardFunction, check_weights
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.sim.metrics import StepMetrics
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED
from virtgym.experiments.run.rollout import make_env, rollout
from virtgym.policies import make_policy
from virtgym.policies.search.policy import RolloutSearchPolicy

SIMPLE: dict[str, Any] = {
    "name": "tiny",
    "trace": {"format": "synthetic", "options": {"n_vms": 12, "n_samples": 10}},
    "hosts": [
        {"name": "old", "count": 2, "cores": 2, "core_mhz": 1600, "memory_mib": 6000, "boot_time_s": 240},
        {"name": "new", "count": 3, "cores": 4, "core_mhz": 1600, "memory_mib": 12000, "boot_time_s": 240},
    ],
    "vm_types": [
        {"name": "web", "vcpus": 1, "vcpu_mhz": 1500, "memory_mib": 900, "profile": "web"},
        {"name": "database", "vcpus": 2, "vcpu_mhz": 1500, "memory_mib": 1800, "profile": "database"},
    ],
}
FULL: dict[str, Any] = {
    **SIMPLE,
    "memory": "multiplexed",
    **{name: {"enabled": True} for name in ("overhead", "cpu", "io", "standby")},
    "migration": {"mode": "precopy"},
}
MODELS = pytest.mark.parametrize("keys", [SIMPLE, FULL], ids=["simple", "full"])


class Past:
    """What was measured of every VM since it came, newest last, as lists."""

    def __init__(self, view: Any) -> None:
        self.samples: list[list[float]] = [[] for _ in range(view.n_vms)]

    def look(self, view: Any) -> None:
        """Take note of now."""
        state = view.state.vm_state
        there = view.measured & (state != ABSENT) & (state != DEPARTED)
        for v, known in enumerate(self.samples):
            if there[v]:
                known.append(float(view.state.vm_demand_mhz[v]))
            else:
                known.clear()

    def mean(self, view: Any) -> Any:
        """Exponentially weighted, of those without a past what is shown, MHz, (V,)."""
        found = view.state.vm_demand_mhz.copy()
        for v, known in enumerate(self.samples):
            for i, y in enumerate(known):
                found[v] = y if i == 0 else found[v] + 0.2 * (y - found[v])
        return found


def by_hand(env: Any, policy: RolloutSearchPolicy, demand: Any) -> Any:
    """Values of all candidates, each tried in a fork of its own."""
    form, view = env.form, env.view
    rewards = RewardFunction(check_weights(policy.reward), view.params)
    values = np.full(form.settings.n, -np.inf)
    left = round((view.horizon_s - view.time_s) / view.params.interval_s) - policy.horizon
    weights = policy.discount ** np.arange(policy.horizon)
    weights[3:] += weights[-1] * min(policy.tail, max(0, left)) / 3.0
    for k in np.flatnonzero(form.candidates.mask):
        twin = view.fork(demand)
        before = twin.state.totals.copy()
        assert not twin.apply(form.decisions(int(k)))
        values[k] = 0.0
        for i in range(policy.horizon):
            if twin.done:
                break
            twin.advance()
            step = StepMetrics(twin.state.totals - before)
            before = twin.state.totals.copy()
            values[k] += weights[i] * rewards.total(rewards.terms(step))
    return values


@pytest.mark.parametrize("tail", [0.0, 2.0])
@MODELS
def test_values_are_those_of_trying_by_hand(keys: dict[str, Any], tail: float) -> None:
    policy: Any = make_policy(
        "rollout_search",
        **{"candidates": {}, "horizon": 6, "discount": 0.9, "reward": {"migrations": -0.1}, "scenarios": 0},
        **{"forecaster": "ewma", "forecast": {"alpha": 0.2}, "tail": tail},
    )
    env: Any = make_env(build_scenario(keys, seed=1), actions="candidates").unwrapped
    env.reset(seed=0)
    policy.bind(env.view, env.form)
    past, over, compared = Past(env.view), False, 0
    rng = np.random.default_rng(0)
    while not over:
        past.look(env.view)
        policy.take_up(env.view)
        values = policy.rate()
        if env.view.time_s > 0.0:  # before, only what places is tried
            expected = by_hand(env, policy, past.mean(env.view))
            np.testing.assert_allclose(values, expected, rtol=1e-9)
            compared += len(np.flatnonzero(env.form.candidates.mask)) > 2
        *_, over, _ = env.step(int(rng.choice(np.flatnonzero(env.form.candidates.mask))))
    assert compared >= 4


@MODELS
def test_the_best_is_carried_out_until_nothing_is_better(keys: dict[str, Any]) -> None:
    scenario = build_scenario(keys, seed=1)
    alike: dict[str, Any] = {"candidates": {}, "scenarios": 0, "arrivals": scenario.cluster.arrival}
    one: Any = make_policy("rollout_search", choices=1, **alike)
    many: Any = make_policy("rollout_search", choices=4, **alike)
    env: Any = make_env(scenario, one).unwrapped
    env.reset(seed=0)
    one.reset(env.view, np.random.default_rng(0))
    many.reset(env.view, np.random.default_rng(0))
    longer = 0
    for _ in range(6):
        first, all_ = one.plan(env.view), many.plan(env.view)
        assert len(all_) >= len(first)
        longer += len(all_) > len(first) > 0
        assert {one for one in first.subjects() if one[1] >= 0} <= set(all_.subjects())
        assert not env.view.fork().apply(all_)
        env.step(first)
    assert longer or keys is FULL  # there the first choice leaves nothing to be done


@pytest.mark.parametrize("base", ["nothing", "upkeep"])
@MODELS
def test_it_is_reproducible_and_better_than_nothing(keys: dict[str, Any], base: str) -> None:
    returns = []
    scenario = build_scenario(keys, seed=2)
    for name in ("rollout_search", "rollout_search", "static"):
        policy = make_policy(name, **({"base": base, "candidates": {}} if name != "static" else {}))
        env: Any = make_env(scenario, policy)
        played = rollout(env, policy, 3, heat=False)
        returns.append((played.episode_return, env.unwrapped.sim.digest()))
    assert returns[0] == returns[1]
    assert returns[0][0] > returns[2][0]


def test_where_nothing_is_surely_better_the_search_is_its_rule() -> None:
    scenario = build_scenario(SIMPLE, seed=1)
    search: Any = make_policy("rollout_search", candidates={"plans": ["dpm"]}, arrivals="pabfd")
    followed = 0

    def nothing_surely(which: Any, values: Any) -> Any:
        nonlocal followed
        followed += search._default() > 0
        return np.where(np.arange(len(values)) == search._default(), 0.0, -1.0)

    search._judge = nothing_surely
    rule = make_policy("dpm")
    digests = []
    for policy in (search, rule):
        env: Any = make_env(scenario, policy)
        rollout(env, policy, 3, heat=False)
        digests.append(env.unwrapped.sim.digest())
    assert digests[0] == digests[1]
    assert followed > 0


def test_other_candidates_must_be_better_by_their_standard_errors() -> None:
    policy: Any = make_policy("rollout_search", candidates={}, scenarios=4, margin=1.5, horizon=6)
    env: Any = make_env(build_scenario(SIMPLE, seed=1), actions="candidates").unwrapped
    env.reset(seed=0)
    policy.bind(env.view, env.form)
    judged = 0
    for _ in range(7):
        policy.take_up(env.view)
        env.step(0)
    policy.take_up(env.view)
    values = policy.rate()
    mask = env.form.candidates.mask
    for k in np.flatnonzero(np.isfinite(values) & mask).tolist():
        found = []
        for future in policy._demands:
            row = np.full(len(mask), -np.inf)
            policy._trials.values(np.array([0, k]), row, **future)
            found.append(row[k] - row[0])
        sure = np.mean(found) - 1.5 * np.std(found, ddof=1) / 2.0
        assert values[k] - values[0] == pytest.approx(sure, abs=1e-9)
        judged += k > 0
    assert len(policy._demands) == 4
    assert judged > 1


def test_a_budget_leaves_out_the_last() -> None:
    policy: Any = make_policy("rollout_search", candidates={}, rollouts=3)
    timed: Any = make_policy("rollout_search", candidates={}, budget_ms=1e-6)
    env: Any = make_env(build_scenario(SIMPLE, seed=1), actions="candidates").unwrapped
    env.reset(seed=0)
    for one in (policy, timed):
        one.bind(env.view, env.form)
        one.take_up(env.view)
    env.step(0)
    for one, n in ((policy, 3), (timed, 1)):
        one.take_up(env.view)
        tried = np.isfinite(one.rate())
        assert tried.sum() == n
        assert tried[0]


def test_nothing_is_moved_before_anything_is_measured() -> None:
    policy: Any = make_policy("rollout_search", candidates={})
    sim = build_scenario(SIMPLE, seed=1).simulator(arrival="first_fit")
    policy.reset(sim.reset(np.random.default_rng(5)), np.random.default_rng(5))
    plan = policy.plan(sim.view)
    assert len(plan) == len(plan.power_off)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"horizon": 0}, "policy.horizon=0: must be at least 1"),
        ({"discount": 0.0}, "policy.discount=0.0: must be above 0"),
        ({"rollouts": 0}, "policy.rollouts=0: must be at least 1, or null"),
        ({"budget_ms": 0.0}, "policy.budget_ms=0.0: must be positive, or null"),
        ({"candidates": {"offf": 1}}, "env.candidates"),
        ({"forecaster": "ewna"}, "policy.forecaster"),
        ({"forecaster": "ewma", "forecast": {"alpha": 2.0}}, "forecaster.alpha=2.0"),
        ({"forecast": {"alpah": 2.0}}, "policy.forecast=alpah"),
        ({"forecast": {"amplitude": 0.0}}, "policy.forecast.amplitude=0.0: must be a positive number"),
        ({"forecast": {"alpha": 2.0}}, "policy.forecast.alpha=2.0: must be above 0 and at most 1"),
        ({"tail": -1.0}, "policy.tail=-1.0: must be at least 0"),
        ({"arrivals": "first"}, "policy.arrivals=first"),
        ({"scenarios": -1}, "policy.scenarios=-1: must be at least 0"),
        ({"past": 0}, "policy.past=0: must be at least 1"),
        ({"finalists": 0}, "policy.finalists=0: must be at least 1"),
        ({"margin": -1.0}, "policy.margin=-1.0: must be at least 0"),
        ({"base": "nothign"}, "policy.base=nothign"),
        ({"base": "no/such"}, "no/such: no such folder"),
    ],
)
def test_impossible_settings_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_policy("rollout_search", **params)
    assert said in str(refused.value)
