"""No policy decides by what is to come: while two traces are equal, so are its decisions, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.scenarios import build_scenario
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.decisions import ORDERS, Decisions
from virtgym.envs.sim.models.failures import replay_outages
from virtgym.experiments.run.rollout import make_env
from virtgym.policies import make_policy
from virtgym.policies.registry import POLICIES

CLUSTER = sorted(name for name in POLICIES if hasattr(make_policy(name), "plan"))
SAME = 7
"""Intervals in which the traces are equal; decisions are equal up to the one after them."""
SIMPLE: dict[str, Any] = {
    "name": "information",
    "trace": {"format": "synthetic", "options": {"n_vms": 24, "n_samples": 12, "churn": 0.3}},
    "hosts": [
        {"name": "old", "count": 4, "cores": 2, "core_mhz": 1600, "memory_mib": 6000, "numa_nodes": 2},
        {"name": "new", "count": 4, "cores": 4, "core_mhz": 1600, "memory_mib": 12000, "numa_nodes": 2},
    ],
    "vm_types": [
        {"name": "web", "vcpus": 1, "vcpu_mhz": 1500, "memory_mib": 900, "profile": "web"},
        {"name": "database", "vcpus": 2, "vcpu_mhz": 1500, "memory_mib": 1800, "profile": "guarded"},
    ],
    "profiles": {"guarded": {"protected": True, "dirty_mib_s": [5.0, 40.0]}},
}
FULL: dict[str, Any] = {
    **SIMPLE,
    "memory": "multiplexed",
    **{name: {"enabled": True} for name in ("overhead", "cpu", "io", "standby")},
    "numa": {"enabled": True, "cpu_overcommit": 4.0},
    "migration": {"mode": "precopy"},
    "precopy": {"max_mbps": 20.0},  # slow: copies are under way at every decision
    "failures": {"enabled": True, "model": "none"},
    "carbon": {"g_per_kwh": 250.0, "source": "by hand"},
}


def pair(keys: dict[str, Any]) -> tuple[Scenario, Scenario]:
    """Two scenarios that are equal up to a time: then demand, arrivals, departures and failures differ."""
    built = build_scenario(keys, seed=3)
    end = SAME * built.cluster.interval_s
    load = built.workload
    util = load.util.copy()
    util[SAME:] = util[SAME:][::-1, ::-1] * 0.7 + 0.2
    coming, staying = load.vm_arrival_s > end, load.vm_departure_s > end
    leave = np.where(staying & (np.arange(load.n_vms) % 2 == 0), end + 170.0, load.vm_departure_s)
    other = replace(
        load,
        util=util,
        vm_arrival_s=np.where(coming, end + 60.0, load.vm_arrival_s),
        vm_departure_s=np.maximum(leave, load.vm_arrival_s + 300.0 * coming + 1.0),
    )
    first = replay_outages(np.array([1]), np.array([400.0]), np.array([900.0]), 8)
    later = replay_outages(np.array([1, 2]), np.array([400.0, end + 30.0]), np.array([900.0, np.inf]), 8)
    if not keys.get("failures"):
        return built, replace(built, workload=other)
    clusters = [replace(built.cluster, replayed=outages) for outages in (first, later)]
    return replace(built, cluster=clusters[0]), replace(built, cluster=clusters[1], workload=other)


def with_levels(keys: dict[str, Any]) -> dict[str, Any]:
    """Hosts with CPU generations, which a rolling upgrade needs."""
    levels = {"old": "haswell", "new": "skylake"}
    return {**keys, "hosts": [{**host, "cpu_level": levels[host["name"]]} for host in keys["hosts"]]}


def decisions(scenario: Scenario, name: str) -> list[Any]:
    """What a policy decides at every interval up to the first that the traces do not share."""
    policy = make_policy(name)
    env: Any = make_env(scenario, policy)
    observation, _ = env.reset(seed=5)
    policy.reset(env.unwrapped.view, np.random.default_rng(5))
    found: list[Any] = []
    state = None
    start = True
    while env.unwrapped.sim.time_s <= SAME * scenario.cluster.interval_s:
        masks = env.unwrapped.action_masks()
        action, state = policy.predict(observation, state, np.array([start]), action_masks=masks)
        start = False
        if isinstance(action, Decisions):
            orders = {key: getattr(action, key).tolist() for names in ORDERS.values() for key in names}
            found.append({key: values for key, values in orders.items() if values})
        else:
            found.append(np.asarray(action).tolist())
        observation, *_ = env.step(action)
    env.close()
    return found


@pytest.mark.parametrize("name", CLUSTER)
@pytest.mark.parametrize("keys", [SIMPLE, FULL], ids=["simple", "full"])
def test_equal_pasts_give_equal_decisions(name: str, keys: dict[str, Any]) -> None:
    one, other = pair(with_levels(keys) if name == "nfv_upgrade" else keys)
    assert decisions(one, name) == decisions(other, name)


@pytest.mark.parametrize(
    "name", ["drs", "dpm", "dpm_ortools", "platform", "rollout_search", "ovirt", "proxmox_crs"]
)
def test_nobody_is_moved_for_what_is_only_assumed(name: str) -> None:
    """Until something has been measured, views show a prior: no reason to migrate, no part of the past."""
    policy: Any = make_policy(name)
    sim = build_scenario("drs_unbalanced", overrides={"horizon_s": 7200.0}).simulator(arrival="first_fit")
    policy.reset(sim.reset(np.random.default_rng(5)), np.random.default_rng(5))
    view, acted = sim.view, 0
    assert not view.measured.any()
    assert not view.fork().view.measured.any()
    while not sim.done:
        plan = policy.plan(view)
        acted += len(plan)
        assert view.time_s > 0.0 or not len(plan.move_vm)
        there = view.state.vm_host >= 0
        managers: list[Any] = [policy, getattr(policy, "_dpm", None), getattr(policy, "_drs", None)]
        for manager in managers:
            if hasattr(manager, "_history"):
                assert not manager._history.counts[there & ~view.measured].any()
        sim.step(plan)
    assert acted
    assert view.fork().view.measured.tolist() == view.measured.tolist()


@pytest.mark.parametrize("keys", [SIMPLE, FULL], ids=["simple", "full"])
def test_observations_tell_nothing_of_the_future(keys: dict[str, Any]) -> None:
    """What agents see and may do, at every step of random episodes that migrate, up to that time."""
    seen: list[list[Any]] = []
    for scenario in pair(keys):
        env: Any = make_env(scenario, None)
        observation, _ = env.reset(seed=5)
        rng = np.random.default_rng(1)
        rows = []
        while env.unwrapped.sim.time_s <= SAME * scenario.cluster.interval_s:
            mask = env.unwrapped.action_masks()
            rows.append({**{key: value.copy() for key, value in observation.items()}, "mask": mask})
            observation, *_ = env.step(int(rng.choice(np.flatnonzero(mask))))
        seen.append(rows)
    assert len(seen[0]) == len(seen[1]) > SAME
    for one, other in zip(*seen):
        for key, value in one.items():
            assert np.array_equal(value, other[key]), key


def test_under_the_instant_clock_decisions_do_follow_the_coming_interval() -> None:
    """So the tests above can fail."""
    one, other = pair({**SIMPLE, "telemetry": {"mode": "instant"}})
    assert decisions(one, "thr-mmt") != decisions(other, "thr-mmt")
