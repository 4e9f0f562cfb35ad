"""The platform: HA over power management over DRS, and no manager undoes what another has done."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import virtgym.envs  # noqa: F401 - registers the environments
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.admission import AdmissionConfig
from virtgym.envs.sim.models.failures import FailureConfig
from virtgym.envs.sim.models.power import BOOTING, OFF, ON
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING
from virtgym.experiments.run.rollout import make_env, rollout
from virtgym.policies import make_policy
from virtgym.policies.planning.guard import AdmissionGuard
from virtgym.policies.platform import KNOBS, PlatformPolicy

MakeSim = Callable[..., Simulator]
WINDOW = 12

SMALL_PLAN = {"power": "dpm_ortools", "dpm": {"rounds": 20}}


def start(sim: Simulator, seed: int = 0, **params: Any) -> PlatformPolicy:
    policy = PlatformPolicy(**params)
    policy.reset(sim.reset(np.random.default_rng(seed)), np.random.default_rng(seed))
    return policy


def place(sim: Simulator, policy: Any, homes: list[int]) -> None:
    """Put VMs where a case wants them."""
    hosts = np.array(homes, dtype=np.int32)
    assert sim.apply(Decisions(place_vm=np.arange(len(homes), dtype=np.int32), place_host=hosts)) == []
    policy.reset(sim.view, np.random.default_rng(0))


class Watch:
    """Notes who moved what, and finds moves that undo another one; it keeps its own books."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.left: dict[int, list[tuple[float, int, str]]] = defaultdict(list)
        self.undone: list[tuple[float, int, str, str]] = []
        self.moves = {"ha": 0, "dpm": 0, "drs": 0}

    def note(self, plan: Decisions, by: dict[str, Decisions], mandatory: int = 0) -> None:
        """Look at one interval's orders before they are given."""
        now, interval = self.sim.time_s, self.sim.params.interval_s
        assert len(plan.move_vm) == sum(len(part.move_vm) for part in by.values())
        for name, part in by.items():
            for i, (v, h) in enumerate(zip(part.move_vm.tolist(), part.move_host.tolist())):
                must = name == "drs" and i < mandatory
                for when, host, who in self.left[v]:
                    if host == h and now - when <= WINDOW * interval * (1 + 1e-9) and not must:
                        self.undone.append((now, v, who, name))
                self.left[v].append((now, int(self.sim.state.vm_host[v]), name))
                self.moves[name] += 1


def run(sim: Simulator, policy: PlatformPolicy, watch: Watch | None = None, intervals: int = 10**9) -> None:
    while not sim.done and intervals > 0:
        plan = policy.plan(sim.view)
        if watch is not None:
            r = policy.last_round
            watch.note(plan, {"ha": r.ha, "dpm": r.dpm, "drs": r.drs}, policy._drs.last_round.mandatory)
        assert sim.apply(plan) == []
        sim.advance()
        intervals -= 1


def play(scenario: str, seed: int = 0, **params: Any) -> tuple[Simulator, Watch]:
    built = build_scenario(scenario, seed=seed)
    policy = PlatformPolicy(**params)
    sim = built.simulator(arrival=policy.arrival_in(built.cluster))
    policy.reset(sim.reset(np.random.default_rng(seed)), np.random.default_rng(seed))
    watch = Watch(sim)
    run(sim, policy, watch)
    return sim, watch


# --- no fights ---


@pytest.mark.parametrize("params", [{}, SMALL_PLAN, {"drs": {"level": 5}}, {"balance": "drs_loess"}])
@pytest.mark.parametrize("scenario", ["drs_unbalanced", "drs_light", "drs_heavy", "small", "ha_cold"])
def test_nothing_is_undone_within_the_window(scenario: str, params: dict[str, Any]) -> None:
    sim, watch = play(scenario, **params)
    assert watch.undone == []
    assert sim.metrics()["thrash"] == 0
    assert sim.metrics()["failed_placements"] == 0


def spare_case(make_sim: MakeSim) -> Simulator:
    """Two of six hosts hold all VMs; one more is to stay on as a spare."""
    return make_sim(
        np.tile([0.5] * 8, (40, 1)), n_hosts=6, cores=4, arrival="policy", memory="ignored",
        load={"mem_mib": 256.0}, horizon_s=12_000.0,
    )  # fmt: skip


HOMES = [0, 0, 0, 0, 1, 1, 1, 1]


def test_without_the_platform_the_managers_fight(make_sim: MakeSim) -> None:
    """Load balancing fills the spare host, power management boots another and empties one, and so on."""
    sim = spare_case(make_sim)
    dpm, drs = make_policy("dpm", spare_hosts=1), make_policy("drs", level=5)
    place(sim, dpm, HOMES)
    drs.reset(sim.view, np.random.default_rng(0))
    while not sim.done:
        for policy in (dpm, drs):
            sim.apply(policy.plan(sim.view))  # type: ignore[attr-defined]
        sim.advance()
    fought = sim.metrics()["migrations"]
    sim = spare_case(make_sim)
    platform = start(sim, dpm={"spare_hosts": 1}, drs={"level": 5})
    place(sim, platform, HOMES)
    run(sim, platform)
    on = sim.state.host_power_state == ON
    assert int(on.sum()) == 3
    assert int((on & (sim.state.host_n_vms == 0)).sum()) == 1
    assert sim.metrics()["migrations"] < 0.2 * fought
    assert fought > 20


def test_a_move_over_a_third_host_does_not_come_back_either(make_sim: MakeSim) -> None:
    sim = make_sim([[0.1] * 3], n_hosts=4, cores=4, arrival="policy", horizon_s=9000.0)
    policy = start(sim)
    place(sim, policy, [0, 1, 2])
    orders = {0: (0, 1), 1: (0, 2), 2: (0, 0), 13: (0, 0)}  # interval: VM and host that a manager wants
    given = {}
    policy._dpm = None
    for t in range(14):
        vm, host = orders.get(t, (-1, -1))
        plan = Decisions(move_vm=np.array([vm], np.int32), move_host=np.array([host], np.int32))
        policy._ha.plan = lambda view, plan=plan, vm=vm: plan if vm >= 0 else Decisions()
        policy._drs.plan = lambda view: Decisions()
        given[t] = len(policy.plan(sim.view))
        sim.step(policy.last_round.ha)
    assert [given[t] for t in orders] == [1, 1, 0, 1]
    assert policy.last_round.taken_back == 0


# --- precedence ---


@pytest.mark.parametrize("scenario", ["drs_unbalanced", "drs_light", "demo"])
def test_power_management_decides_how_many_hosts_are_on(scenario: str) -> None:
    """Load balancing, also more aggressive than it is, holds no host on that power management would empty."""
    built = build_scenario(scenario, seed=1, overrides={"horizon_s": 43_200.0})
    energy = []
    for policy in (make_policy("dpm"), make_policy("platform", **{"drs.level": 4})):
        env = make_env(built, policy)
        energy.append(rollout(env, policy, seed=1, heat=False).metrics["energy_kwh"])
    assert energy[1] <= 1.04 * energy[0]


def test_what_ha_switches_on_power_management_leaves_on(make_sim: MakeSim) -> None:
    """Two hosts hold everything; the guarantee asks for a third: HA boots it and nobody takes it back."""
    sim = make_sim(
        np.tile([0.05] * 6, (40, 1)), n_hosts=4, cores=4, arrival="policy", boot_time_s=120.0,
        admission=AdmissionConfig("slots", 1, enforce=False), horizon_s=12_000.0,  # else nothing breaks it
    )  # fmt: skip
    policy = start(sim)
    place(sim, policy, [0, 0, 0, 1, 1, 1])
    sim.apply(Decisions(power_off=np.array([2, 3], np.int32)))
    sim.advance()
    assert not AdmissionGuard(sim.view).holds
    plan = policy.plan(sim.view)
    assert policy.last_round.ha.power_on.size > 0
    sim.apply(plan)
    sim.advance()
    for _ in range(20):
        assert AdmissionGuard(sim.view).holds
        sim.step(policy.plan(sim.view))
    # Slots of 1,000 MHz and 1,024 MiB: memory gives four a host, so three hosts are what one failure needs.
    assert int((sim.state.host_power_state == ON).sum()) == 3


def test_what_does_not_stay_empty_is_even(make_sim: MakeSim) -> None:
    sim = spare_case(make_sim)
    policy = start(sim, dpm={"spare_hosts": 1}, drs={"level": 5})
    place(sim, policy, [0, 0, 0, 0, 1, 1, 2, 2])
    run(sim, policy, intervals=15)
    s = sim.state
    on = s.host_power_state == ON
    assert int((on & (s.host_n_vms == 0)).sum()) == 1
    assert np.ptp(s.host_n_vms[on & (s.host_n_vms > 0)]) <= 1


def test_a_booted_host_is_filled_by_drs(make_sim: MakeSim) -> None:
    """Power management sees the load coming and boots; load balancing uses what it has booted."""
    load = np.clip(np.linspace(0.5, 0.95, 60), 0, 0.9)[:, None] * np.ones((1, 12))
    sim = make_sim(
        load, n_hosts=4, cores=4, arrival="policy", memory="ignored", boot_time_s=200.0, horizon_s=18_000.0,
        arrival_cpu_overcommit=9.0, load={"mem_mib": 256.0},
    )  # fmt: skip
    policy = start(sim, drs={"level": 4})
    place(sim, policy, [0] * 6 + [1] * 6)
    sim.apply(Decisions(power_off=np.array([2, 3], np.int32)))
    worst = 0.0
    while not sim.done:
        plan = policy.plan(sim.view)
        sim.step(plan)
        s = sim.state
        asked = np.bincount(s.vm_host, weights=s.vm_demand_mhz, minlength=4)
        worst = max(worst, float((asked / sim.params.host_cpu_mhz).max()))
    assert worst <= 1.0  # on before the overload
    assert sim.metrics()["sla_unserved"] < 1e-3
    assert int((sim.state.host_power_state == ON).sum()) == 4
    assert int(sim.state.host_n_vms.min()) >= 2


def test_scene_heavy_boots_before_the_peaks_and_moves_little() -> None:
    (
        static,
        _,
    ) = play_named("static", "drs_heavy")
    sim, watch = play("drs_heavy")
    first_hour = 12
    assert sum(watch.moves.values()) <= 100  # 360 VMs, a day
    assert int((sim.state.host_power_state == ON).sum()) == 8
    assert static["after"] > 0.002  # share of CPU asked for that six hosts cannot give, after the first hour
    managed = play_named("platform", "drs_heavy", first_hour)[0]
    assert managed["after"] < 0.01 * static["after"]


def play_named(name: str, scenario: str, skip: int = 12) -> tuple[dict[str, float], Simulator]:
    """A policy's day: its unserved share after some intervals."""
    built = build_scenario(scenario, seed=0)
    policy: Any = make_policy(name)
    sim = built.simulator(arrival=policy.arrival)
    policy.reset(sim.reset(np.random.default_rng(0)), np.random.default_rng(0))
    lost, asked, n = 0.0, 0.0, 0
    while not sim.done:
        step = sim.step(policy.plan(sim.view))
        if n >= skip:
            lost += step.unserved
            asked += step.requested
        n += 1
    return {"after": lost / asked}, sim


# --- what must hold in every round ---


def homes_of(sim: Simulator) -> np.ndarray:
    """Where every VM will be once everything under way has arrived."""
    s = sim.state
    homes = np.where(s.vm_dest >= 0, s.vm_dest, s.vm_host)
    return np.where((s.vm_state == RUNNING) | (s.vm_state == PENDING), homes, -1)


@pytest.mark.parametrize("seed", range(30))
def test_no_order_is_refused_no_rule_and_no_guarantee_broken(
    random_episode: Any, draw_rules: Any, broken_rules: Any, seed: int
) -> None:
    rng = np.random.default_rng([seed, 7])
    episode = random_episode(seed)
    rules = draw_rules(rng, episode.workload.n_vms, episode.config.n_hosts)
    promise = AdmissionConfig("slots", 1) if seed % 2 else AdmissionConfig("none")
    failures = {"failures": FailureConfig("exponential", mtbf_h=2.0, mttr_h=0.2), "restart": "policy"}
    more = failures if seed % 3 == 0 else {}
    episode = random_episode(seed, rules=rules, arrival="policy", admission=promise, **more)
    sim = Simulator(episode.config, episode.workload, strict=True, horizon_s=episode.horizon_s)
    policy = start(sim, seed, **(SMALL_PLAN if seed % 5 == 0 else {"drs": {"threshold": 0.02}}))
    watch = Watch(sim)
    while not sim.done:
        if rng.random() < 0.1:
            policy.enter_maintenance([int(rng.integers(sim.view.n_hosts))])
        if rng.random() < 0.1:
            policy.leave_maintenance(range(sim.view.n_hosts))
        before, held = broken_rules(rules, homes_of(sim)), AdmissionGuard(sim.view).holds
        plan = policy.plan(sim.view)
        r = policy.last_round
        watch.note(plan, {"ha": r.ha, "dpm": r.dpm, "drs": r.drs}, policy._drs.last_round.mandatory)
        sim.apply(plan)  # strict: raises on a refusal
        moved, placed = set(plan.move_vm.tolist()), set(plan.place_vm.tolist())
        for kind, *vms in broken_rules(rules, homes_of(sim)) - before:
            assert not moved & set(vms), (kind, vms)
            # Being up is worth a group apart: a VM that finds no room beside the others goes elsewhere.
            assert kind == "together" or not placed & set(vms), (kind, vms)
        assert AdmissionGuard(sim.view).holds or not held
        sim.advance()
    assert watch.undone == []


# --- maintenance ---


@pytest.mark.parametrize("full", [False, True])
def test_maintenance_empties_a_host_and_keeps_everyone_off_it(make_sim: MakeSim, full: bool) -> None:
    more: dict[str, Any] = {"failures": FailureConfig("exponential", mtbf_h=1e9, mttr_h=1.0)} if full else {}
    sim = make_sim(
        np.tile([0.4] * 6, (40, 1)), n_hosts=4, cores=4, arrival="policy", memory="ignored",
        load={"arrival_s": [0, 0, 0, 0, 1500, 1500]}, horizon_s=12_000.0, **more,
    )  # fmt: skip
    policy = start(sim, dpm={"min_hosts": 3})
    run(sim, policy, intervals=1)
    host = int(sim.state.vm_host[0])
    policy.enter_maintenance([host])
    run(sim, policy, intervals=3)
    for _ in range(10):
        run(sim, policy, intervals=1)
        assert host not in sim.state.vm_host
        assert host not in sim.state.vm_dest
    assert sim.state.host_maintenance[host]
    assert sim.state.host_power_state[host] == ON  # nobody switches it under the hands of the technician
    policy.leave_maintenance([host])
    run(sim, policy, intervals=1)
    assert not sim.state.host_maintenance[host]


def test_maintenance_waits_for_the_guarantee(make_sim: MakeSim) -> None:
    """Three hosts are just enough: a fourth is switched on before one may go."""
    sim = make_sim(
        np.tile([0.05] * 8, (40, 1)), n_hosts=4, cores=4, arrival="policy", boot_time_s=120.0,
        admission=AdmissionConfig("slots", 1), horizon_s=12_000.0,
        failures=FailureConfig("exponential", mtbf_h=1e9, mttr_h=1.0),
    )  # fmt: skip
    policy = start(sim)
    place(sim, policy, [0, 0, 0, 0, 1, 1, 1, 1])
    run(sim, policy, intervals=8)
    assert int((sim.state.host_power_state == ON).sum()) == 3
    host = int(sim.state.vm_host[0])
    policy.enter_maintenance([host])
    held = []
    for _ in range(12):
        run(sim, policy, intervals=1)
        held.append(AdmissionGuard(sim.view).holds)
    assert all(held)
    assert sim.state.host_maintenance[host]
    assert sim.state.host_n_vms[host] == 0


def test_arrivals_that_the_guarantee_refuses_have_a_host_booted(make_sim: MakeSim) -> None:
    sim = make_sim(
        np.tile([0.05] * 9, (40, 1)), n_hosts=4, cores=4, arrival="policy", boot_time_s=120.0,
        load={"arrival_s": [0.0] * 8 + [3000.0]}, admission=AdmissionConfig("slots", 1), horizon_s=12_000.0,
    )  # fmt: skip
    policy = start(sim)
    run(sim, policy, intervals=8)
    assert int((sim.state.host_power_state == ON).sum()) == 3  # two for eight slots, one for a failure
    run(sim, policy, intervals=5)
    assert sim.state.vm_state[8] == RUNNING
    assert AdmissionGuard(sim.view).holds
    assert int((sim.state.host_power_state == ON).sum()) == 4


# --- parameters, knobs, comparability ---


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"power": "dmp"}, r"^policy.power=dmp: did you mean dpm\? allowed: dpm, dpm_ortools, none$"),
        ({"balance": "drs5"}, r"^policy.balance=drs5: .*allowed: drs, drs_loess, drs_ortools, none$"),
        ({"drs.level": 9}, r"^policy.drs.level=9: must be one of 1..5$"),
        ({"drs.lvl": 3}, r"^policy.drs.lvl: .*no such parameter; did you mean level"),
        ({"dpm.target": "high"}, r"^policy.dpm.target=high: must be a number$"),
        ({"dpm.rounds": 5}, r"^policy.dpm.rounds: .*no such parameter"),
        ({"ha.failover": "away"}, r"^policy.ha.failover=away: .*allowed: cluster, home$"),
        ({"drs": 3}, r"^policy.drs=3: must be a mapping"),
        ({"power": "none", "dpm.target": 0.5}, r"^policy.dpm.target: needs policy.power$"),
    ],
)
def test_what_is_wrong_is_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_policy("platform", **params)
    assert "\n" not in str(caught.value)


def test_dotted_parameters_reach_the_managers() -> None:
    policy: Any = make_policy("platform", **{"drs.level": 5, "dpm.target": 0.5, "balance": "drs_loess"})
    assert (policy._drs.level, policy._drs.forecaster, policy._dpm.target) == (5, "loess", 0.5)
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert again._drs.level == 5


def test_alone_it_is_the_manager_that_is_left(make_sim: MakeSim) -> None:
    """With nothing for the others to do, the platform decides what power management decides."""
    rng = np.random.default_rng(5)
    util = rng.random((40, 20)) * 0.6
    digests = []
    for policy in (make_policy("dpm"), make_policy("platform", balance="none")):
        sim = make_sim(util, n_hosts=8, cores=4, memory="ignored", arrival="pabfd", horizon_s=12_000.0)
        view: Any = sim.reset()
        policy.reset(view, np.random.default_rng(0))
        while not sim.done:
            sim.step(policy.plan(sim.view))  # type: ignore[attr-defined]
        digests.append(sim.digest())
    assert digests[0] == digests[1]


def test_knobs_turn_thresholds_until_the_next_episode(make_sim: MakeSim) -> None:
    sim = make_sim([[0.3] * 4], n_hosts=3)
    policy = start(sim)
    policy.set_knobs({"target": 0.8, "tolerance": 0.3, "threshold": 0.1, "spare_share": 7.0, "risk": -1.0})
    assert policy._dpm is not None
    assert (policy._dpm.target, policy._dpm.tolerance) == (0.8, pytest.approx(0.2))  # 0.8 + 0.2 is full
    assert (policy._dpm.spare_share, policy._dpm.risk) == (KNOBS["spare_share"][1], 0.0)
    with pytest.raises(ValueError, match="no such knob: level; there are: target"):
        policy.set_knobs({"level": 3.0})
    policy.reset(sim.reset(), np.random.default_rng(0))
    assert policy._dpm.target == 0.63


def test_an_agent_can_turn_its_knobs_in_the_environment() -> None:
    env: Any = gym.make(
        "virtgym/Cluster-v0",
        scenario="small",
        scenario_overrides={"horizon_s": 7200.0},
        actions="knobs",
        knobs_policy="virtgym.policies.platform.PlatformPolicy",
    )
    env.reset(seed=0)
    assert env.action_space.shape == (len(KNOBS),)
    for _ in range(5):
        env.step(env.action_space.sample())
    twin = copy.deepcopy(env)  # in the middle of an episode
    action = env.unwrapped.knobs.codec.encode({"threshold": 0.05})
    for _ in range(10):
        (_, first, *_), (_, second, *_) = env.step(action), twin.step(action)
        assert first == second
    assert env.unwrapped.sim.digest() == twin.unwrapped.sim.digest()


def test_the_environment_runs_it_like_any_policy() -> None:
    scenario = build_scenario("ha_cold", seed=0, overrides={"horizon_s": 14_400.0})
    policy = make_policy("platform")
    env = make_env(scenario, policy)
    assert env.unwrapped.sim.config.arrival == "policy"  # type: ignore[attr-defined]
    first, second = (rollout(env, policy, seed=3, heat=False).metrics for _ in range(2))
    timed = ("decision_ms_p50", "decision_ms_p99")
    assert {k: v for k, v in first.items() if k not in timed} == {
        k: v for k, v in second.items() if k not in timed
    }
    plain = build_scenario("small")
    assert make_env(plain, policy).unwrapped.sim.config.arrival == "pabfd"  # type: ignore[attr-defined]


def test_hosts_that_boot_or_are_off_stay_known(make_sim: MakeSim) -> None:
    """Off, booting and on again: every host is in one of its states, whoever switched it."""
    sim, _ = play("drs_unbalanced")
    assert set(np.unique(sim.state.host_power_state)) <= {OFF, BOOTING, ON}
