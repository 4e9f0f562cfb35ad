"""What each policy decides in small cases worked by hand, and what must hold in every round."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import OFF, ON
from virtgym.envs.sim.models.telemetry import TelemetryConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE
from virtgym.envs.sim.workload import Workload
from virtgym.policies import POLICIES, make_policy
from virtgym.policies.forecast import make_forecaster
from virtgym.policies.literature.parts import DETECTORS, SELECTORS
from virtgym.policies.literature.policy import KNOBS, ConsolidationPolicy
from virtgym.policies.registry import policy_kind, policy_names

MakeSim = Callable[..., Simulator]
INSTANT = TelemetryConfig(mode="instant")
"""The arithmetic of a rule is checked by the demand that holds now, as ``make_sim`` has it."""


def start(sim: Simulator, policy: Any, seed: int = 0) -> Any:
    """Reset both; returns the first plan."""
    policy.reset(sim.reset(), np.random.default_rng(seed))
    return policy.plan(sim.view)


def pairs(plan: Any) -> list[tuple[int, int]]:
    """Moves as (VM, host)."""
    return list(zip(plan.move_vm.tolist(), plan.move_host.tolist()))


# Six hosts of one core with one VM each; their histories over 30 samples tell the detectors apart.
STEP = np.arange(30)
HISTORIES = {
    "steady at 82 %": np.full(30, 0.82),
    "rising to 78 %": np.clip(0.15 + 0.07 * (STEP - 20), 0.15, 1),
    "noise of 30 %": np.where(STEP % 2 == 1, 0.7, 0.4),
    "two levels": np.where(np.isin(STEP % 5, [2, 4]), 0.73, 0.5),
    "late rise": np.concatenate([np.full(26, 0.5), [0.6, 0.7, 0.75, 0.795]]),
    "one spike": np.concatenate([np.full(29, 0.62), [1.0]]),
}
EXPECTED = {
    "thr": {"steady at 82 %", "one spike"},
    "mad": {"noise of 30 %"},
    "iqr": {"noise of 30 %", "two levels"},
    "ols": {"rising to 78 %"},
    "loess": {"rising to 78 %", "late rise", "one spike"},
    "loess_robust": {"rising to 78 %", "late rise"},
}


@pytest.mark.parametrize("detector", list(EXPECTED))
def test_each_detector_finds_its_own_hosts(make_sim: MakeSim, detector: str) -> None:
    util = np.column_stack(list(HISTORIES.values()))
    sim = make_sim(util, n_hosts=6, cores=1, horizon_s=9000.0)
    policy = ConsolidationPolicy(detector=detector, max_migrations=0)
    start(sim, policy)
    for _ in range(29):
        sim.advance()
        policy.plan(sim.view)
    names = list(HISTORIES)
    assert {names[h] for h in policy.overloaded_hosts} == EXPECTED[detector]


def test_a_short_history_falls_back_to_a_threshold(make_sim: MakeSim) -> None:
    for detector, enough in (("ols", 10), ("loess_robust", 10), ("mad", 12), ("iqr", 12)):
        sim = make_sim([[0.69, 0.71]], n_hosts=2, cores=1, horizon_s=9000.0)
        policy = ConsolidationPolicy(detector=detector, max_migrations=0)
        start(sim, policy)
        found = [policy.overloaded_hosts.tolist()]
        for _ in range(14):
            sim.advance()
            policy.plan(sim.view)
            found.append(policy.overloaded_hosts.tolist())
        assert found == [[1]] * (enough - 1) + [[]] * (15 - enough + 1), detector


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_regressions_tell_what_they_expect_of_all_hosts(make_sim: MakeSim, detector: str) -> None:
    """As the forecaster of that name does of the summed history of every host."""
    util = 0.3 + 0.15 * np.random.default_rng(3).random((30, 4))
    sim = make_sim(util, n_hosts=2, cores=2, horizon_s=9000.0)
    policy = ConsolidationPolicy(detector=detector, max_migrations=0, horizon_steps=2)
    start(sim, policy)
    told = [policy.foretold()]
    for _ in range(19):
        sim.advance()
        policy.plan(sim.view)
        told.append(policy.foretold())
    if not DETECTORS.find(detector).factory.forecasts:
        assert told == [None] * 20
        return
    forecaster = make_forecaster(detector, window=10)
    home = sim.state.vm_host
    hosts = np.stack([1000.0 * util[:20, home == h].sum(axis=1) for h in range(2)], axis=1)
    assert told[:9] == [None] * 9
    for k in range(9, 20):
        ahead = forecaster.predict(hosts[: k + 1], 2).sum()
        one = told[k]
        assert one is not None
        assert (one.forecaster, one.steps) == (detector, 2)
        assert one[2:] == pytest.approx((hosts[k].sum(), ahead, np.nan), nan_ok=True)


def test_asking_twice_takes_one_sample(make_sim: MakeSim) -> None:
    sim = make_sim([[0.75]], n_hosts=1, cores=1, horizon_s=9000.0)
    policy = ConsolidationPolicy(detector="ols", max_migrations=0)
    start(sim, policy)
    for _ in range(20):
        policy.plan(sim.view)
    assert policy.overloaded_hosts.tolist() == [0]  # still by the fall-back threshold


# One overloaded host of 4 cores with VMs 0..3 (VM 1 and 3 are in step), an empty host beside it.
LOADS = np.column_stack(
    [
        0.90 + 0.01 * np.sin(7.0 * STEP[:20]),
        0.85 + 0.05 * np.sin(STEP[:20]),
        0.70 + 0.01 * np.cos(5.0 * STEP[:20]),
        0.95 + 0.04 * np.sin(STEP[:20]) + 0.002 * np.cos(9.0 * STEP[:20]),
    ]
)


@pytest.mark.parametrize(
    ("selector", "expected"), [("mmt", {0}), ("mu", {2}), ("mc", {1, 3}), ("rs", {0, 1, 2, 3})]
)
def test_each_selector_takes_its_own_vm(make_sim: MakeSim, selector: str, expected: set[int]) -> None:
    load = {"mem_mib": [300.0, 400.0, 500.0, 600.0]}
    sim = make_sim(LOADS, n_hosts=2, cores=4, load=load, horizon_s=6000.0, arrival="first_fit")
    taken = set()
    for seed in range(30 if selector == "rs" else 1):
        policy = ConsolidationPolicy(detector="thr", selector=selector, max_migrations=0)
        start(sim, policy, seed)
        for _ in range(15):
            sim.advance()
            policy.plan(sim.view)
        policy._max_moves = 1
        policy._write_rules()
        taken |= {v for v, _ in pairs(policy.plan(sim.view))}
    assert taken == expected if selector == "rs" else taken <= expected and taken


@pytest.mark.parametrize(("ties", "one", "two"), [("smaller", 2, 0), ("larger", 1, 0), ("index", 0, 1)])
def test_mmt_breaks_ties_of_memory_as_said(make_sim: MakeSim, ties: str, one: int, two: int) -> None:
    sim = make_sim([[0.9, 1.0, 0.8, 0.9]], n_hosts=5, cores=4, load={"mem_mib": [512, 512, 512, 1024]})
    for safety, expected in ((0.8, {one}), (0.6, {one, two})):  # 3600 MHz to at most 3200, or 2400
        policy = ConsolidationPolicy(detector="thr", safety=safety, mmt_ties=ties)
        assert {v for v, _ in pairs(start(sim, policy))} == expected


@pytest.mark.parametrize(
    ("placer", "host"), [("first_fit", 1), ("best_fit", 2), ("worst_fit", 3), ("pabfd", 4)]
)
def test_each_placer_takes_its_own_host(placer: str, host: int) -> None:
    # VM 0 leaves host 0; hosts 1 to 4 could take its 400 MHz, host 4 for the least power.
    kinds = [HostType("full", 1, 1000.0, 8192.0, (100.0, 200.0))]
    kinds += [HostType(f"of {w} W", 2, 1000.0, 8192.0, (100.0, w)) for w in (400.0, 130.0)]
    demand = np.array([400.0, 600.0, 900.0, 1100.0, 300.0, 800.0])
    n, homes = demand.size, np.array([0, 0, 1, 2, 3, 4], dtype=np.int32)
    config = ClusterConfig(
        tuple(kinds), np.array([0, 1, 1, 1, 2], dtype=np.int32), arrival="policy", arrival_cpu_overcommit=9.0,
        telemetry=INSTANT,
    )  # fmt: skip
    memory = np.array([256.0, *[512.0] * 5])
    load = Workload(
        "w",
        300.0,
        (demand / 1500.0)[None, :],
        np.full(n, 1500.0),
        np.full(n, 2, dtype=np.int32),
        memory,
        np.zeros(n),
        np.full(n, np.inf),
    )
    sim = Simulator(config, load, strict=True)
    sim.apply(Decisions(place_vm=np.arange(n, dtype=np.int32), place_host=homes))
    policy = ConsolidationPolicy(detector="thr", placer=placer, underload=False)
    policy.reset(sim.view, np.random.default_rng(0))
    assert pairs(policy.plan(sim.view)) == [(0, host)]


@pytest.mark.parametrize(("boot_s", "host"), [(0.0, 1), (240.0, 2)])
def test_a_boot_costs_its_energy(make_sim: MakeSim, boot_s: float, host: int) -> None:
    # VM 0 must leave host 0. Host 1 is off, host 2 on and empty: both idle at 100 W, only one has to boot.
    sim = make_sim([[0.9, 0.9]], n_hosts=3, boot_time_s=boot_s, shutdown_time_s=0.0)
    view = sim.reset()
    sim.apply(Decisions(power_off=np.array([1], dtype=np.int32)))
    policy = ConsolidationPolicy(detector="thr")
    policy.reset(view, np.random.default_rng(0))
    plan = policy.plan(view)
    assert pairs(plan) == [(0, host)]
    assert plan.power_on.tolist() == ([1] if host == 1 else [])


def test_no_evacuation_raises_power_when_a_saving_is_required() -> None:
    flat = HostType("flat", 2, 1000.0, 8192.0, (10.0, 20.0), boot_time_s=0, shutdown_time_s=0)
    steep = HostType("steep", 2, 1000.0, 8192.0, (50.0, 900.0), boot_time_s=0, shutdown_time_s=0)
    one = np.ones(2)
    load = Workload(
        "w", 300.0, np.array([[0.3, 0.8]]), 1000 * one, one.astype(np.int32), 512 * one, 0 * one, np.inf * one
    )
    config = ClusterConfig(
        (flat, steep), np.array([0, 1], dtype=np.int32), arrival="worst_fit", telemetry=INSTANT
    )
    for require, expected in ((False, [(0, 1)]), (True, [])):
        sim = Simulator(config, load)
        # VM 0 (300 MHz) runs on the flat host, VM 1 on the steep one: moving VM 0 costs more than it saves.
        policy = ConsolidationPolicy(detector="thr", require_saving=require, underload_threshold=0.3)
        assert pairs(start(sim, policy)) == expected


def test_a_vm_that_fits_nowhere_stays(make_sim: MakeSim) -> None:
    sim = make_sim([[1.0, 1.0, 1.0, 1.0]], n_hosts=2)
    plan = start(sim, ConsolidationPolicy(detector="thr"))
    assert len(plan) == 0


def test_switch_off_waits_while_a_vm_waits(make_sim: MakeSim) -> None:
    load = {"mem_mib": [1024.0, 8192.0]}
    for name in ("dvfs", "thr-mmt"):
        sim = make_sim([[0.1, 0.1]], n_hosts=3, load=load)
        assert start(sim, make_policy(name)).power_off.size == 0
        fits = make_sim([[0.1, 0.1]], n_hosts=3)
        assert start(fits, make_policy(name)).power_off.tolist() == [1, 2]


def test_memory_binds_consolidation_where_the_scenario_says_so(make_sim: MakeSim) -> None:
    for memory, hosts in (("ignored", 1), ("binding", 2)):
        sim = make_sim([[0.1] * 6], n_hosts=3, load={"mem_mib": 1500.0}, memory=memory)
        policy = make_policy("thr-mmt")
        sim.apply(start(sim, policy))
        sim.advance()
        assert (sim.state.host_power_state == ON).sum() == hosts + (memory == "binding")


def test_yardsticks(make_sim: MakeSim) -> None:
    energy = {}
    for name in ("static", "npa", "dvfs"):
        sim = make_sim([[0.5, 0.5]], n_hosts=3)
        policy: Any = make_policy(name)
        policy.reset(sim.reset(), np.random.default_rng(0))
        while not sim.done:
            sim.step(policy.plan(sim.view))
        energy[name] = sim.metrics()["energy_kwh"]
        assert sim.metrics()["migrations"] == 0
    # Host 0 at 50 % draws 150 W, an idle host 100 W, full power is 200 W; one hour.
    assert energy == pytest.approx({"static": 0.35, "npa": 0.6, "dvfs": 0.15})


# What must hold in every round, for every policy.


def check_round(sim: Simulator, plan: Any) -> None:
    state, params = sim.state, sim.params
    vms, hosts = plan.move_vm, plan.move_host
    assert len(set(vms.tolist())) == len(vms), "a VM is moved twice"
    assert (state.vm_mig[vms] == MIG_NONE).all()
    off = np.flatnonzero(state.host_power_state == OFF)
    assert set(hosts.tolist()) & set(off.tolist()) <= set(plan.power_on.tolist()), (
        "a move to a host that is off"
    )
    assert not set(plan.power_off.tolist()) & set(hosts.tolist())
    if params.memory_binding:
        memory = state.host_mem_mib.copy()
        np.add.at(memory, hosts, params.vm_mem_mib[vms])
        assert (memory[hosts] <= params.host_mem_mib[hosts] * (1 + 1e-9)).all()


@pytest.mark.parametrize("memory", ["ignored", "binding"])
@pytest.mark.parametrize(
    "name", ["random", "dvfs", "thr-mmt", "mad-mc", "iqr-rs", "ols-mu", "loess_robust-mmt"]
)
def test_orders_are_legal_and_nothing_is_lost(random_episode: Any, name: str, memory: str) -> None:
    for seed in range(25):
        episode = random_episode(seed, memory=memory, arrival="pabfd")
        sim = Simulator(episode.config, episode.workload, strict=True, horizon_s=episode.horizon_s)
        policy: Any = make_policy(name)
        plan = start(sim, policy, seed)
        while not sim.done:
            check_round(sim, plan)
            homes = sim.state.vm_host.copy()
            sim.apply(plan)  # strict: raises on a refusal
            np.testing.assert_array_equal(sim.state.vm_host, homes)
            sim.advance()
            plan = policy.plan(sim.view)


def moves_of(sim: Simulator, name: str, seed: int) -> list[tuple[int, int]]:
    policy: Any = make_policy(name)
    moves = []
    policy.reset(sim.reset(), np.random.default_rng(seed))
    while not sim.done:
        plan = policy.plan(sim.view)
        moves += pairs(plan)
        sim.step(plan)
    return moves


def test_random_selection_follows_its_seed(make_sim: MakeSim) -> None:
    util = np.random.default_rng(0).random((30, 40))
    sim = make_sim(util, n_hosts=12, cores=4, arrival_cpu_overcommit=3.0, memory="ignored", horizon_s=9000.0)
    first = moves_of(sim, "thr-rs", 1)
    assert len(first) > 20
    assert moves_of(sim, "thr-rs", 1) == first
    assert moves_of(sim, "thr-rs", 2) != first
    assert moves_of(sim, "thr-mmt", 1) == moves_of(sim, "thr-mmt", 2)


def test_no_state_leaks_between_episodes(make_sim: MakeSim) -> None:
    util = np.random.default_rng(0).random((30, 40))
    sim = make_sim(util, n_hosts=12, cores=4, arrival_cpu_overcommit=3.0, memory="ignored", horizon_s=9000.0)
    policy: Any = make_policy("ols-mc")
    runs = []
    for _ in range(2):
        policy.reset(sim.reset(), np.random.default_rng(0))
        while not sim.done:
            sim.step(policy.plan(sim.view))
        runs.append(sim.digest())
        policy = pickle.loads(pickle.dumps(policy))
    assert runs[0] == runs[1]


def test_knobs_turn_what_they_say(make_sim: MakeSim) -> None:
    sim = make_sim([[0.9, 0.9, 0.2, 0.2]], n_hosts=4, load={"mem_mib": 2000.0}, memory="ignored")
    policy = ConsolidationPolicy(detector="thr", safety=0.8)
    assert len(start(sim, policy).move_vm) > 0
    policy.set_knobs({"max_migrations_fraction": 0.0})
    assert len(policy.plan(sim.view).move_vm) == 0
    policy.set_knobs({"max_migrations_fraction": 1.0, "safety": 1.0, "underload_threshold": 0.0})
    assert len(policy.plan(sim.view).move_vm) == 0
    assert policy.overloaded_hosts.size == 0
    policy.set_knobs({"safety": -5.0})  # clipped to the lowest allowed
    assert policy._safety == KNOBS["safety"][0]
    with pytest.raises(ValueError, match=r"did you mean safety\?"):
        policy.set_knobs({"safty": 1.0})


MANAGERS = (
    *("drs", "drs_loess", "drs_ortools", "dpm", "dpm_ortools", "ha", "nfv_upgrade", "platform"),
    *("rollout_search", "suite_agent", "fusioncompute", "vmware_drs", "proxmox_crs", "onedrs", "ovirt"),
    *("nutanix_ads", "xen_orchestra", "cloudstack"),
)


def test_every_policy_has_a_line() -> None:
    assert len(policy_names("cluster")) == 4 + len(DETECTORS) * len(SELECTORS) + len(MANAGERS)
    for name, text in POLICIES.items():
        assert text
        assert "\n" not in text
        plans = name in policy_names("cluster") and policy_kind(make_policy(name)) != "agent"
        assert hasattr(make_policy(name), "plan") == plans
