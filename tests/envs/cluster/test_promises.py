"""Agents keep guarantees: no legal choice breaks the failover guarantee or a rule, every other is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.tables import columns_of
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guarantee import margin_now
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED
from virtgym.policies.planning.guard import AdmissionGuard
from virtgym.policies.planning.positions import homes_of

SHORT: dict[str, Any] = {"trace.options.n_samples": 12}
RULED: dict[str, Any] = {
    "rules.affinity": [{"vms": [0, 1]}, {"vms": [2, 3, 4]}],
    "rules.anti_affinity": [{"vms": [5, 6, 7]}, {"vms": [7, 8, 2]}],
    "rules.must": [{"vms": [9, 10, 5], "hosts": [0, 1, 2, 3]}, {"vms": [3], "hosts": [2, 3, 4]}],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ha_cold": ("ha_cold", {}),
    "ha_hot": ("ha_hot", {}),
    "two failures": ("ha_cold", {"admission.host_failures": 2, "failures.mtbf_h": 4.0}),
    "a rack": ("ha_cold", {"admission.survive_domain": True, "trace.options.n_vms": 30}),
    "percentage": (
        "ha_cold",
        {"admission.rule": "percentage", "admission.cpu_share": 0.4, "admission.mem_share": 0.3},
    ),
    "dedicated": ("ha_cold", {"admission.rule": "dedicated", "admission.hosts": [1, 7]}),
    "reservations": ("ha_hot", {"admission.counts": "reservations", "failures.mtbf_h": 4.0}),
    "rules": ("small", RULED),
    "rules and arrivals": ("small", {**RULED, "arrival": "policy", "trace.options.churn": 0.4}),
    "rules and failures": ("ha_cold", {**RULED, "failures.mtbf_h": 4.0}),
    "a simple cluster": ("small", {"admission.enabled": True, "admission.host_failures": 2}),
}


def make(case: str, seed: int, **changes: Any) -> ClusterEnv:
    name, overrides = CASES[case]
    return ClusterEnv(build_scenario(name, seed=seed, overrides={**SHORT, **overrides, **changes}))


class Judge:
    """What is kept now."""

    def __init__(self, env: ClusterEnv, broken_rules: Callable[..., set[Any]]) -> None:
        self.env, self.broken_rules = env, broken_rules
        self.rules: Rules = env.view.config.rules
        self.vms = np.arange(env.codec.n_vms, dtype=np.int32)

    def holds(self) -> bool:
        return AdmissionGuard(self.env.view).holds

    def broken(self) -> set[Any]:
        state = self.env.view.state
        homes = np.where(np.isin(state.vm_state, (ABSENT, DEPARTED)), -1, homes_of(state, self.vms))
        return self.broken_rules(self.rules, homes)


@pytest.mark.parametrize("case", CASES)
def test_legal_choices_keep_every_promise_and_others_are_refused(
    case: str, broken_rules: Callable[..., set[Any]]
) -> None:
    orders = refused = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        env = make(case, seed)
        env.reset(seed=seed)
        judge, over = Judge(env, broken_rules), False
        while not over:
            held, broken, mask = judge.holds(), judge.broken(), env.action_masks()
            for action in rng.choice(len(mask), 3):
                if not mask[action] and env._decisions + 1 < env.max_decisions_per_interval:
                    before, chosen = env.sim.digest(), env.chosen_vm
                    info = env.step(int(action))[4]
                    assert info["illegal_action"]
                    assert (env.sim.digest(), env.chosen_vm) == (before, chosen)
                    refused += 1
            stops = mask[0] and rng.random() < 0.1
            action = 0 if stops else int(rng.choice(np.flatnonzero(mask)))
            _, _, _, over, info = env.step(action)
            assert "illegal_action" not in info, (action, info)
            if action == 0 or "forced_stop" in info:
                continue
            orders += 1
            assert not held or judge.holds(), (case, env.codec.decode(action))
            assert judge.broken() <= broken, (case, env.codec.decode(action))
        assert env.sim.state.totals.guarantee_broken == 0
    assert orders > 100
    assert refused > 100


@pytest.mark.parametrize("case", ["ha_cold", "ha_hot", "percentage", "a rack"])
def test_only_failures_end_the_guarantee(case: str) -> None:
    """Without failures it never fails; if nobody enforced it, random choices would end it."""
    for enforced in (True, False):
        env = make(case, 0, **{"failures.mtbf_h": 1e6, "failures.domains": [], "admission.enforce": enforced})
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        over = False
        while not over:
            mask = env.action_masks()
            power = np.flatnonzero(mask[-env.codec.n_hosts :]) + len(mask) - env.codec.n_hosts
            mask[0] = stops = env.chosen_vm < 0  # 0 would let a chosen VM go
            legal = power if len(power) and rng.random() < 0.5 else np.flatnonzero(mask)
            action = 0 if stops and rng.random() < 0.1 else int(rng.choice(legal))
            *_, over, info = env.step(action)
        found = info["metrics"]
        assert found["guarantee_lost"] == 0
        assert (found["unguarded_s"] == 0) == enforced
        assert (found["guarantee_broken"] == 0) == enforced


def test_a_failure_that_ends_the_guarantee_is_counted_to_the_second() -> None:
    scenario = build_scenario(
        "ha_cold",
        overrides={
            "trace.options": {"n_vms": 60, "n_samples": 12},
            "admission.host_failures": 2,  # 80 slots for 60 VMs, 8 a host: after one failure 56 are left
            "arrival": "first_fit",
            "failures": {"mtbf_h": 1e9, "domains": [], "outages": [{"host": 3, "down_s": 330, "up_s": 900}]},
        },
    )
    sim = scenario.simulator()
    sim.reset(np.random.default_rng(0))
    assert margin_now(sim.kernel_params, sim.kernel_state) == 4
    sim.advance(600.0)
    found = sim.metrics()
    assert margin_now(sim.kernel_params, sim.kernel_state) == -4
    assert found["guarantee_lost"] == 1
    assert found["unguarded_s"] == 270.0
    assert found["guarantee_broken"] == 0


def test_engine_and_guard_agree() -> None:
    """An order that the guard lets pass is never refused for the guarantee, one that it does not always."""
    for case in ("ha_cold", "ha_hot", "percentage", "dedicated", "a rack"):
        env = make(case, 3)
        env.reset(seed=3)
        rng = np.random.default_rng(3)
        for _ in range(300):
            mask = env.action_masks()
            guard, sim = AdmissionGuard(env.view), env.sim
            h = int(rng.integers(env.codec.n_hosts))
            twin = sim.fork()
            said = twin.apply(Decisions(maintenance=np.array([h], dtype=np.int32)))
            assert (not said) == bool(guard.may_leave()[h])
            action = 0 if mask[0] and rng.random() < 0.1 else int(rng.choice(np.flatnonzero(mask)))
            if env.step(action)[3]:
                break


def test_columns_show_what_binds() -> None:
    scenario = build_scenario("ha_cold", overrides={**SHORT, **RULED})
    env = ClusterEnv(scenario, tables=True)
    seen, _ = env.reset(seed=0)
    columns = {key: [c.name for c in found] for key, found in columns_of(True)._asdict().items()}
    hosts, vms = seen["hosts"], seen["vms"]
    assert hosts[:, columns["hosts"].index("domain")] == pytest.approx([0.5] * 5 + [1.0] * 5)
    assert vms[:5, columns["vms"].index("together")].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    assert vms[[5, 8, 9], columns["vms"].index("apart")].tolist() == [0.5, 1.0, 0.0]
    assert vms[[9, 3, 0], columns["vms"].index("closed")] == pytest.approx([0.6, 0.7, 0.0])
    margin = margin_now(env.sim.kernel_params, env.sim.kernel_state)
    assert seen["globals"][columns["globals"].index("guarantee")] == pytest.approx(min(1.0, margin / 10))


def test_without_enforcement_orders_are_taken_and_counted() -> None:
    scenario = build_scenario(
        "ha_cold", overrides={**SHORT, "arrival": "first_fit", "admission.enforce": False}
    )
    every = np.arange(1, 10, dtype=np.int32)
    for enforce in (True, False):
        cluster = replace(
            scenario.cluster,
            admission=replace(scenario.cluster.admission, enforce=enforce),  # type: ignore[type-var]
        )
        sim = replace(scenario, cluster=cluster).simulator()
        sim.reset(np.random.default_rng(0))
        refused = sim.apply(Decisions(maintenance=every))
        assert bool(refused) == enforce
        assert all("guarantee" in str(refusal) for refusal in refused)
        assert sim.state.totals.guarantee_broken == (0 if enforce else 1)
