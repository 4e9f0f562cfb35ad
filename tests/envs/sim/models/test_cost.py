"""Service classes and cost: every term by hand, causes that add up to the whole, rewards that are the row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oracles.random_episodes import RandomEpisode, random_orders
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.metrics import METRICS, unserved_causes
from virtgym.envs.sim.models.carbon import constant_carbon
from virtgym.envs.sim.models.cost import (
    TERMS,
    VM_CLASSES,
    ClassWeights,
    CostConfig,
    LatencyTargets,
    Prices,
    gate,
)
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.overhead import InstructionProfile
from virtgym.envs.sim.models.power import PowerConfig
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.simulator import Simulator

HOUR = 3600.0
CRITICAL, BEST_EFFORT = VM_CLASSES.index("critical"), VM_CLASSES.index("best_effort")
QUIET = InstructionProfile((0.0,) * 4, (0.0,) * 4)
SILENT = IoProfile(
    net_out_mbps=(0.0, 0.0), net_in_mbps=(0.0, 0.0), disk_read_mb_s=(0.0, 0.0), disk_write_mb_s=(0.0, 0.0)
)
PLAIN = GuestProfile(instructions=QUIET, io=SILENT)
SMALL = {"horizon_s": 14400.0}

MakeHour = Callable[..., Simulator]


@pytest.fixture
def make_hour(make_cluster: Any, make_workload: Any) -> MakeHour:
    """An hour of hosts of 2 x 1,000 MHz, 100 W idle and 200 W busy, with VMs of 1 x 1,000 MHz."""

    def build(
        util: Any,
        classes: Sequence[int],
        n_hosts: int = 1,
        profiles: Sequence[GuestProfile] = (PLAIN,),
        load: dict[str, Any] | None = None,
        **cluster: Any,
    ) -> Simulator:
        workload = make_workload(util, **{"mem_mib": 256.0, **(load or {})})
        which = np.arange(workload.n_vms, dtype=np.int32) % len(profiles)
        workload = replace(
            workload, profiles=tuple(profiles), vm_profile=which, vm_class=np.array(classes, dtype=np.int8)
        )
        more = {"arrival_cpu_overcommit": 8.0, **cluster}
        return Simulator(make_cluster(n_hosts, **more), workload, horizon_s=HOUR)

    return build


def run(sim: Simulator, rng: np.random.Generator | None = None) -> dict[str, float]:
    """The metrics of the whole hour."""
    sim.reset(rng)
    sim.run()
    return sim.metrics()


@pytest.mark.parametrize("full", [False, True])
def test_contention_of_two_classes_by_hand(make_hour: MakeHour, full: bool) -> None:
    # Two VMs of 2 vCPUs want 2,000 MHz each of a host that has 2,000: each misses 1 GHz h of 2.
    load = {"cpu_mhz": 2000.0, "vcpus": 2}
    more: dict[str, Any] = {"cpu": SchedulingConfig()} if full else {}
    m = run(make_hour([[1.0, 1.0]] * 12, [BEST_EFFORT, CRITICAL], load=load, **more))
    assert m["unserved_weighted"] == pytest.approx((1 * 1 + 10 * 1) / (1 * 2 + 10 * 2))
    assert m["unserved_contention"] == pytest.approx(0.5)
    assert m["cost_unserved"] == pytest.approx(0.5 * (1 + 10))
    assert m["cost_energy"] == pytest.approx(0.2)  # 200 W for an hour
    assert m["cost"] == pytest.approx(0.2 + 5.5)
    assert m["cost_outage"] == m["cost_migrations"] == m["unserved_down"] == 0.0
    assert all(math.isnan(m[name]) for name in ("cost_latency", "cost_dropped", "cost_carbon"))
    if full:  # shares decide who misses: 3 : 1 gives 1.5 GHz and 0.5
        rich = replace(PLAIN, cpu=CpuControl(shares=3000.0))
        sim = make_hour([[1.0, 1.0]] * 12, [BEST_EFFORT, CRITICAL], profiles=(PLAIN, rich), load=load, **more)
        assert run(sim)["cost_unserved"] == pytest.approx(0.5 * (1 * 1.5 + 10 * 0.5))


def test_limits_slow_cores_and_weights_by_hand(make_hour: MakeHour) -> None:
    # A limit of 400 MHz on a demand of 1,000; a vCPU of 1,500 MHz on a core of 1,000.
    limited = replace(PLAIN, cpu=CpuControl(limit_mhz=400.0))
    cost = CostConfig(weights=ClassWeights(2.0, 5.0, 7.0), unserved=0.1)
    m = run(
        make_hour(
            [[1.0, 1.0]] * 12,
            [BEST_EFFORT, -1],
            profiles=(limited, replace(PLAIN, service_class="critical")),
            load={"cpu_mhz": np.array([1000.0, 1500.0])},
            cpu=SchedulingConfig(),
            cost=cost,
        )
    )
    asked = 2.0 * 1.0 + 7.0 * 1.5
    assert m["unserved_limit"] == pytest.approx(2.0 * 0.6 / asked)
    assert m["unserved_capped"] == pytest.approx(7.0 * 0.5 / asked)
    assert m["unserved_contention"] == pytest.approx(0.0, abs=1e-12)
    assert m["cost_unserved"] == pytest.approx(0.1 * (1.2 + 3.5))


def test_waiting_and_migrations_by_hand(make_hour: MakeHour) -> None:
    # VM 1 finds no memory and waits for the whole hour; VM 0 moves, 10 s at 62.5 MiB/s, and loses a tenth.
    sim = make_hour(
        [[0.5, 0.5]] * 12,
        [CRITICAL, BEST_EFFORT],
        n_hosts=2,
        load={"mem_mib": np.array([625.0, 4096.0])},
        arrival="policy",
        hosts_start_on=True,
    )
    sim.reset()
    sim.step(Decisions(place_vm=np.array([0]), place_host=np.array([0])))
    sim.step(Decisions(move_vm=np.array([0]), move_host=np.array([1])))
    while not sim.done:
        sim.step()
    m = sim.metrics()
    lost, waited = 10 * 0.05 * 10.0 / HOUR, 1 * 0.5
    assert m["cost_unserved"] == pytest.approx(0.5 * (lost + waited))
    assert m["cost_outage"] == pytest.approx(0.1 * 1.0)  # an hour of weight 1; a wait is no interruption
    assert m["cost_migrations"] == pytest.approx(0.001)
    assert m["unserved_migration"] == pytest.approx(lost / (10 * 0.5 + 0.5))
    assert m["unserved_down"] == pytest.approx(waited / (10 * 0.5 + 0.5))


def test_a_failure_costs_the_work_the_time_and_the_interruption(make_hour: MakeHour) -> None:
    dead = replay_outages(np.array([0], np.int32), np.array([600.0]), np.array([np.inf]), 2)
    sim = make_hour(
        [[0.5]] * 12, [CRITICAL], n_hosts=2, failures=FailureConfig(up_scale_h=1e9), replayed=dead
    )
    m = run(sim, np.random.default_rng(0))
    down_h = (15.0 + 60.0) / HOUR  # detection and boot
    assert m["downtime_s"] == pytest.approx(75.0)
    assert m["cost_unserved"] == pytest.approx(0.5 * 10 * 0.5 * down_h)
    assert m["cost_outage"] == pytest.approx(10 * (0.1 * down_h + 0.05))
    assert m["unserved_down"] == pytest.approx(m["unserved_weighted"]) == pytest.approx(75.0 / HOUR)


def test_latency_dropped_traffic_and_carbon_by_hand(make_hour: MakeHour) -> None:
    # 1,500 Mbit/s out of a NIC of 1,000; packets of 1,000 B through virtio at a fixed latency.
    talker = replace(
        PLAIN,
        io=IoProfile(
            net_out_mbps=(1500.0, 0.0),
            net_in_mbps=(0.0, 0.0),
            disk_read_mb_s=(0.0, 0.0),
            disk_write_mb_s=(0.0, 0.0),
        ),
    )
    cost = CostConfig(latency_target_ms=LatencyTargets(standard=1e-3), carbon=2.0)
    sim = make_hour(
        [[0.1]] * 12, [-1], profiles=(talker,), io=IoConfig(), cost=cost, carbon=constant_carbon(500.0, "t")
    )
    m = run(sim)
    assert m["cost_dropped"] == pytest.approx(0.01 * 500.0 / 8000.0 * HOUR)
    excess = m["io_latency_ms"] / 1e-3 - 1.0
    assert m["cost_latency"] == pytest.approx(0.02 * 3.0 * min(excess, 10.0))
    assert m["cost_carbon"] == pytest.approx(2.0 * m["carbon_kg"]) == pytest.approx(m["energy_kwh"])
    assert m["cost"] == pytest.approx(sum(m[f"cost_{term}"] for term in TERMS))
    easy = CostConfig(latency_target_ms=LatencyTargets(standard=math.inf))
    calm = make_hour([[0.1]] * 12, [-1], profiles=(talker,), io=IoConfig(), cost=easy)
    assert run(calm)["cost_latency"] == 0.0


def _causes(sim: Simulator) -> tuple[dict[str, float], float]:
    return unserved_causes(sim.state.totals, bool(sim.params.full)), float(sim.state.totals.w_missed)


@pytest.mark.parametrize("seed", [*range(12), *range(100, 112)])
def test_causes_add_up_to_the_whole_in_random_episodes(seed: int) -> None:
    # Where classes differ nothing is taken from the unweighted totals.
    sim, rng = RandomEpisode(seed, 40, every=seed < 100, classes=seed % 2 == 1).simulator()
    weight = sim.params.vm_weight
    before = 0.0
    while not sim.done:
        sim.apply(random_orders(rng, sim))
        sim.advance(float(rng.choice([1.5, 20.0, 150.0, 300.0])))
        causes, whole = _causes(sim)
        s, t = sim.state, sim.state.totals
        size = max(1.0, float(t.w_requested))
        assert sum(causes.values()) == pytest.approx(whole, rel=1e-9, abs=1e-9 * size)
        assert min(causes.values()) >= -1e-9 * size
        assert whole == pytest.approx(float(weight @ s.vm_missed), rel=1e-9, abs=1e-9 * size)
        assert float(t.w_down_s) == pytest.approx(float(weight @ s.vm_down_s), rel=1e-9)
        cost = sim.metrics()["cost"]
        assert cost >= before - 1e-9
        before = cost


@pytest.mark.parametrize("seed", range(12))
def test_simple_cluster_and_full_model_tell_the_same_causes(seed: int, random_episode: Any) -> None:
    """On a simple cluster ``capped`` is what is left of the whole; the full model adds it up by itself."""
    found = []
    for power in (PowerConfig(), PowerConfig(suspend_time_s=1.0)):  # what no simple cluster knows
        episode = random_episode(seed, power=power)
        classes = np.random.default_rng(seed).integers(0, 3, episode.workload.n_vms).astype(np.int8)
        workload = replace(episode.workload, vm_class=classes)
        sim = Simulator(episode.config, workload, horizon_s=episode.horizon_s)
        while not sim.done:
            sim.apply(episode.orders(sim))
            sim.advance()
        found.append((bool(sim.params.full), *_causes(sim), float(sim.state.totals.w_requested)))
    (simple, causes, whole, asked), (full, others, _, _) = found
    assert (simple, full) == (False, True)
    assert sum(causes.values()) == pytest.approx(whole, rel=1e-9)
    assert causes == pytest.approx(others, rel=1e-9, abs=1e-9 * max(asked, 1.0))


def _play(env: ClusterEnv, seed: int, orders: bool) -> tuple[float, dict[str, float]]:
    """An episode of random choices or orders, as often illegal as not: sum of rewards and metrics."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    total, over = 0.0, False
    info: dict[str, Any] = {}
    while not over:
        if orders:
            action: Any = random_orders(rng, env.sim)
        else:
            action = 0 if rng.random() < 0.3 else int(rng.integers(env.codec.n))
        _, reward, _, over, info = env.step(action)
        total += reward
    assert info["illegal_actions"] > 0
    return total, info["metrics"]


@pytest.mark.parametrize("orders", [False, True])
@pytest.mark.parametrize("name", ["small", "drs_heavy", "ha_cold", "nfv_migration"])
def test_rewards_add_up_to_minus_the_cost_of_the_row(name: str, orders: bool) -> None:
    env = ClusterEnv(name, scenario_overrides=SMALL)
    for seed in range(2):
        total, metrics = _play(env, seed, orders)
        assert total == pytest.approx(-metrics["cost"], rel=1e-9)
        terms = [metrics[f"cost_{term}"] for term in TERMS]
        assert metrics["cost"] == pytest.approx(np.nansum(terms), rel=1e-12)
    weights = {"cost": 0.0, **{f"cost_{term}": -1.0 for term in TERMS}}
    total, metrics = _play(ClusterEnv(name, scenario_overrides=SMALL, reward=weights), 0, orders)
    assert total == pytest.approx(-metrics["cost"], rel=1e-9)


def test_classes_come_from_profile_type_and_trace() -> None:
    vm_types = [
        {"name": "a", "profile": "mine"},
        {"name": "b", "profile": "mine", "service_class": "best_effort"},
    ]
    base = {
        "vm_types": vm_types,
        "profiles": {"mine": {"service_class": "critical"}},
        "vm_assignment": "blocks",
        "cost": {"weights": {"critical": 20.0}},
    }
    scenario = build_scenario("small", overrides=base)
    half = -(-scenario.workload.n_vms // 2)
    assert scenario.workload.vm_class.tolist()[:half] == [CRITICAL] * half
    assert set(scenario.workload.vm_class.tolist()[half:]) == {BEST_EFFORT}
    assert sorted(set(scenario.simulator().params.vm_weight.tolist())) == [1.0, 20.0]
    with pytest.raises(
        ConfigError, match="service_class=high: must be one of best_effort, standard, critical"
    ):
        build_scenario("small", overrides={"vm_types": [{"name": "a", "service_class": "high"}]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"energy": -1.0}, r"cost\.energy=-1\.0: must be 0 or more"),
        ({"weights": {"critical": 0.0}}, r"cost\.weights\.critical=0\.0: must be a positive number"),
        (
            {"latency_target_ms": {"standard": 0.0}},
            r"cost\.latency_target_ms\.standard=0\.0: must be positive",
        ),
        ({"objective": 2.0}, r"cost\.objective=2\.0: must lie in 0\.\.1"),
        ({"unit": " "}, r"cost\.unit: must not be empty"),
        ({"prize": 1.0}, r"scenario\.cost\.prize: no such key"),
    ],
)
def test_impossible_prices_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario("small", overrides={"cost": values})


def test_the_gate_says_why() -> None:
    assert gate(0.01, 0.01) == gate(math.nan, 0.01) == "ok"
    assert gate(0.18, 0.01) == "18 % of the weighted work unserved, 1 % allowed"
    assert gate(0.0, 0.01, finished=False) == "unfinished"


def test_every_price_and_term_is_documented(repo_dir: Any) -> None:
    text = (repo_dir / "docs" / "cost.md").read_text(encoding="utf-8")
    default = CostConfig()
    for name in Prices.places:
        assert f"| `{name}` | {getattr(default, name):g} |" in text
    for name in METRICS:
        if name.startswith(("cost", "unserved_")):
            assert f"`{name}`" in text
