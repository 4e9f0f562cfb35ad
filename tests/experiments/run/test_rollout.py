"""The loop and its log: charged like the environment, and true to the simulator's own totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.sim.models.power import BOOTING, OFF, ON
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING
from virtgym.experiments.run.recording import HEAT_IN_TRANSIT, HEAT_OFF, HEAT_OVERLOADED
from virtgym.experiments.run.rollout import make_env, policy_rng, rollout
from virtgym.policies import make_policy


@pytest.fixture(scope="module")
def demo() -> Scenario:
    """VMs come and go, hosts boot and shut down: everything that is logged happens."""
    return build_scenario("demo", seed=3, overrides={"horizon_s": 100 * 300.0})


@pytest.mark.parametrize("name", ["static", "dvfs", "thr-mmt", "random"])
def test_a_planner_is_charged_as_in_a_plain_episode(demo: Scenario, name: str) -> None:
    env = make_env(demo, make_policy(name))
    run = rollout(env, make_policy(name), seed=5)

    policy = make_policy(name)
    sim = demo.simulator(arrival=getattr(policy, "arrival", None))
    policy.reset(sim.view, policy_rng(5))
    while not sim.done:
        decisions, _ = policy.predict(None)
        sim.apply(decisions)
        sim.advance()
    assert env.unwrapped.sim.digest() == sim.digest()  # type: ignore[attr-defined]
    assert run.finished
    for key, value in sim.metrics().items():
        if not key.startswith(("decision_ms", "futile_moves")):  # of the record
            assert run.metrics[key] == value or (np.isnan(value) and np.isnan(run.metrics[key])), key
    assert 0 < run.metrics["decision_ms_p50"] <= run.metrics["decision_ms_p99"]


def test_the_table_adds_up_to_the_metrics(demo: Scenario) -> None:
    policy = make_policy("ols-mmt")
    run = rollout(make_env(demo, policy), policy, seed=0)
    table = run.record.frame(policy="ols-mmt", seed=0)
    assert list(table["step"]) == list(range(100))
    assert list(table["time_s"]) == [300.0 * k for k in range(100)]
    assert table["energy_kwh"].sum() == pytest.approx(run.metrics["energy_kwh"], rel=1e-12)
    assert table["migrations"].sum() == run.metrics["migrations"] > 0
    assert table["shutdowns"].sum() == run.metrics["host_shutdowns"] > 0
    assert table["hosts_on"].mean() == pytest.approx(run.metrics["active_hosts"], rel=1e-12)
    assert table["imbalance_cpu"].mean() == pytest.approx(run.metrics["imbalance_cpu"], rel=1e-12)
    missed = table["unserved_mhz"].sum() / table["demand_mhz"].sum()
    assert missed == pytest.approx(run.metrics["sla_unserved"], rel=1e-9)
    assert (table["power_w"] * 300.0 / 3.6e6).to_numpy() == pytest.approx(table["energy_kwh"].to_numpy())
    assert run.record.vm_intervals == (table["vms_running"] + table["vms_waiting"]).sum()
    assert table["vms_running"].nunique() > 5  # the scenario's VMs come and go


def test_loads_counts_and_heat_against_a_plain_reading(demo: Scenario) -> None:
    policy = make_policy("thr-mmt", safety=1.0)
    run = rollout(make_env(demo, policy), policy, seed=0)
    heat = run.record.heat
    assert heat is not None
    columns = run.record.columns()

    policy = make_policy("thr-mmt", safety=1.0)
    sim = demo.simulator(arrival=getattr(policy, "arrival", None))
    policy.reset(sim.view, policy_rng(0))
    seen = set()
    for k in range(100):
        short_before = sim.state.host_sat_s.copy()
        decisions, _ = policy.predict(None)
        sim.step(decisions)
        s, p = sim.state, sim.params
        on = s.host_power_state == ON
        assert columns["cpu_load"][k] == pytest.approx(s.host_ask_mhz[on].sum() / p.host_cpu_mhz[on].sum())
        assert columns["vms_running"][k] == (s.vm_state == RUNNING).sum()
        assert columns["vms_waiting"][k] == (s.vm_state == PENDING).sum()
        assert columns["migrations_in_flight"][k] == (s.vm_mig != 0).sum()
        for h in range(sim.config.n_hosts):
            if s.host_power_state[h] == OFF:
                expected = HEAT_OFF
            elif s.host_power_state[h] != ON:
                expected = HEAT_IN_TRANSIT
                assert s.host_power_state[h] in (BOOTING, 3)
            elif s.host_sat_s[h] > short_before[h]:
                expected = HEAT_OVERLOADED
            else:
                load = min(s.host_ask_mhz[h] / p.host_cpu_mhz[h], 1.0)
                expected = round(load * 200)
            assert heat[h, k] == expected
            seen.add(min(int(heat[h, k]), 201))
    assert len(seen) > 20
    assert {HEAT_OFF, HEAT_OVERLOADED} <= set(np.unique(heat).tolist())


@dataclass
class Chooser:
    """An agent: reads masks, takes one unrolled action at a time, and stops in half of the cases."""

    arrival = None

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self.rng = rng
        self.begins: list[bool] = []

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        self.begins.append(bool(episode_start[0]))
        legal = np.flatnonzero(action_masks)
        action = 0 if self.rng.random() < 0.5 and legal[0] == 0 else int(self.rng.choice(legal))
        return np.array(action), (state or 0) + 1


def test_an_agent_runs_in_the_same_loop() -> None:
    scenario = build_scenario("small", overrides={"horizon_s": 40 * 300.0})
    policy = Chooser()
    run = rollout(make_env(scenario, policy), policy, seed=1)
    assert run.finished
    assert run.record.n == 40
    assert run.metrics["migrations"] > 0
    assert len(policy.begins) > 40  # several decisions made one interval
    assert policy.begins[0]
    assert not any(policy.begins[1:])
    assert (run.record.decision_ms > 0).all()
    planner = make_policy("static")
    other = rollout(make_env(scenario, planner), planner, seed=1)
    assert list(run.record.columns()) == list(other.record.columns())


def test_seeds_decide_everything_random() -> None:
    scenario = build_scenario("small", overrides={"horizon_s": 40 * 300.0})

    def moves(seed: int) -> list[int]:
        policy = make_policy("thr-rs", safety=0.3)
        run = rollout(make_env(scenario, policy), policy, seed=seed)
        return [*run.record.columns()["migrations"].tolist(), int(run.metrics["energy_kwh"] * 1e12)]

    assert moves(1) == moves(1)
    assert moves(1) != moves(2)


def test_an_episode_can_be_cut() -> None:
    scenario = build_scenario("small")
    policy = make_policy("static")
    run = rollout(make_env(scenario, policy), policy, max_intervals=7, heat=False)
    assert not run.finished
    assert run.record.n == 7
    assert run.record.heat is None
