"""The full model in the engine: nothing on is the simple cluster; exact events; closed forms of episodes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GUEST_PROFILES, GuestProfile, IoProfile
from virtgym.envs.sim.models.carbon import CarbonSeries, carbon_kg
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain, replay_outages
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.overhead import GuestVirtualization, HostVirtualization, OverheadConfig
from virtgym.envs.sim.models.power import PowerConfig, PowerCurve
from virtgym.envs.sim.models.precopy import MBIT_PER_MIB, PrecopyConfig, plan_precopy, precopy_params
from virtgym.envs.sim.models.recovery import RecoveryConfig
from virtgym.envs.sim.models.scheduling import SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload

HOST = HostType("a", 8, 2000.0, 16_384.0, "hp_ml110_g4", boot_time_s=240.0)
RULES = ("stop", "auto_converge", "post_copy")


def cluster(n: int, **changes: Any) -> ClusterConfig:
    kinds = changes.pop("host_types", (HOST,))
    of = changes.pop("host_type_of", np.zeros(n, dtype=np.int32))
    return ClusterConfig(kinds, of, **changes)


def load(
    util: Any, profile: GuestProfile | None = None, mem: float = 2048.0, vcpus: int = 1, cpu: float = 2000.0
) -> Workload:
    u = np.atleast_2d(np.asarray(util, dtype=np.float64))
    n = u.shape[1]
    return Workload(
        "w",
        300.0,
        u,
        np.full(n, cpu),
        np.full(n, vcpus, dtype=np.int32),
        np.full(n, mem),
        np.zeros(n),
        np.full(n, np.inf),
        profiles=(GuestProfile() if profile is None else profile,),
    )


def indices(*items: int) -> Any:
    return np.array(items, dtype=np.int32)


def random_cluster(seed: int, hosts: int = 8, vms: int = 30, samples: int = 40, **changes: Any) -> Simulator:
    rng = np.random.default_rng(seed)
    kinds = (replace(HOST, numa_nodes=2), replace(HOST, name="b", cores=16, core_mhz=2500.0, nic_mbps=1e4))
    config: dict[str, Any] = {
        "host_types": kinds,
        "host_type_of": rng.integers(0, 2, hosts).astype(np.int32),
        "memory": "multiplexed",
        "overhead": OverheadConfig(),
        "cpu": SchedulingConfig(co_stop=0.1),
        "numa": NumaConfig(cpu_overcommit=2.0),
        "io": IoConfig(),
        "migration": PrecopyConfig(on_divergence=RULES[seed % 3]),
        "failures": FailureConfig(up_scale_h=8.0, vm_mtbf_h=20.0, down_scale_h=0.5),
        "standby": StandbyConfig(),
        "arrival_cpu_overcommit": 2.0,
        "domains": (FailureDomain("rack", (0, 1, 2), 5.0, 0.5),),
        "spares": (hosts - 1,),
        **changes,
    }
    profiles = (*GUEST_PROFILES.values(), GuestProfile(protected=True))
    arrival = np.where(rng.random(vms) < 0.6, 0.0, rng.uniform(0, samples * 150, vms))
    leaves = arrival + rng.uniform(600, samples * 300, vms)
    workload = Workload(
        "random",
        300.0,
        rng.random((samples, vms)) ** 2,
        rng.choice([1000.0, 2000.0, 4000.0, 8000.0], vms),
        rng.choice([1, 2, 4], vms).astype(np.int32),
        rng.choice([1024.0, 4096.0, 8192.0], vms),
        arrival,
        np.where(rng.random(vms) < 0.7, np.inf, leaves),
        profiles=profiles,
        vm_profile=rng.integers(0, len(profiles), vms).astype(np.int32),
    )
    return Simulator(cluster(hosts, **config), workload)


def random_orders(rng: np.random.Generator, sim: Simulator) -> Decisions:
    hosts, vms = sim.view.n_hosts, sim.view.n_vms
    n = int(rng.integers(0, 5))

    def some(top: int, count: int) -> Any:
        return rng.integers(-1, top, count).astype(np.int32)

    return Decisions(
        power_on=some(hosts, 2),
        place_vm=some(vms, 1),
        place_host=some(hosts, 1),
        move_vm=some(vms, n),
        move_host=some(hosts, n),
        power_off=some(hosts, 1),
        suspend=some(hosts, 1),
        maintenance=some(hosts, int(rng.random() < 0.1)),
        end_maintenance=some(hosts, 2),
    )


def play(sim: Simulator, seed: int, steps: tuple[float, ...] = (300.0,)) -> None:
    rng = np.random.default_rng(seed)
    while not sim.done:
        sim.apply(random_orders(rng, sim))
        for step in steps:
            sim.advance(step)


@pytest.mark.parametrize("seed", range(4))
def test_with_nothing_on_the_chain_is_the_simple_cluster(seed: int) -> None:
    off: dict[str, Any] = dict.fromkeys(("overhead", "cpu", "numa", "io", "failures", "standby"))
    kinds = (HOST, replace(HOST, name="b", cores=16, core_mhz=2500.0))
    rules: dict[str, Any] = {"memory": "binding", "domains": (), "spares": (), "host_types": kinds}
    rules["migration"] = cluster(1).migration
    plain = random_cluster(seed, **off, **rules)
    chain = random_cluster(seed, **off, **rules, power=PowerConfig(resume_time_s=11.0))
    assert (plain.params.full, chain.params.full) == (0, 1)
    rng, codes = np.random.default_rng(seed), []
    while not plain.done:
        orders = replace(random_orders(rng, plain), suspend=indices(), maintenance=indices())
        orders.end_maintenance = indices()
        for sim in (plain, chain):
            sim.apply(orders)
            sim.advance()
        codes.append(len(plain.refusals) - len(chain.refusals))
    assert not any(codes)
    for name, value in plain.metrics().items():
        if value == value:
            assert chain.metrics()[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert chain.state.vm_missed == pytest.approx(plain.state.vm_missed, rel=1e-9, abs=1e-6)


LINE = replace(HOST, name="line", power_w=(100.0, 200.0))
"""A table that every kind of curve can be."""
ACCOUNTED: dict[str, dict[str, Any]] = {
    "linear curve": {"host_types": (replace(LINE, curve=PowerCurve("linear", 100.0, 200.0)),)},
    "fan curve": {"host_types": (replace(LINE, curve=PowerCurve("fan", 100.0, 200.0, exponent=1.0)),)},
    "PUE of 1": {"power": PowerConfig(pue=1.0)},
    "PUE": {"power": PowerConfig(pue=1.5)},
    "hourly carbon": {"carbon": CarbonSeries(np.array([100.0, 400.0, 50.0]), "test")},
    "carbon off the grid": {
        "carbon": CarbonSeries(np.arange(1.0, 40.0), "test", step_s=700.0, offset_s=123.0)
    },
}
"""What says how much is drawn and what that costs, and cannot change what happens."""


@pytest.mark.parametrize("what", ACCOUNTED)
@pytest.mark.parametrize("model", ["simple", "full"])
def test_what_is_only_accounted_changes_no_digit(model: str, what: str) -> None:
    off: dict[str, Any] = {
        "domains": (),
        "spares": (),
        "memory": "binding",
        "migration": cluster(1).migration,
    }
    off |= dict.fromkeys(("overhead", "cpu", "numa", "io", "failures", "standby"))
    common = {
        "host_types": (LINE,),
        "host_type_of": np.zeros(8, np.int32),
        **(off if model == "simple" else {}),
    }
    plain = random_cluster(3, **common)
    other = random_cluster(3, **{**common, **ACCOUNTED[what]})
    assert plain.params.full == other.params.full == (model == "full")
    for sim in (plain, other):
        sim.reset(np.random.default_rng(3))
        play(sim, 3, (150.0, 150.0))
    a, b = plain.metrics(), other.metrics()
    pue = other.params.pue
    for name, value in a.items():
        if name in ("energy_kwh", "esv", "cost_energy"):
            assert b[name] == pytest.approx(pue * value, rel=1e-15), name
        elif name not in ("carbon_kg", "cost", "cost_carbon"):
            np.testing.assert_equal(b[name], value, err_msg=name)
    for name, array in plain.state._asdict().items():
        shown = array.copy(), getattr(other.state, name).copy()
        if name == "totals":
            for totals in shown:
                totals.carbon_g = 0.0
        np.testing.assert_array_equal(*shown, err_msg=name)
    assert (b["carbon_kg"] > 0) == ("carbon" in what)


@pytest.mark.parametrize("model", ["simple", "full"])
def test_carbon_is_charged_at_the_intensity_of_the_moment(model: str) -> None:
    series = ACCOUNTED["carbon off the grid"]["carbon"]
    more: dict[str, Any] = {"cpu": SchedulingConfig()} if model == "full" else {}
    sim = Simulator(cluster(1, carbon=series, **more), load(np.full((40, 1), 0.5)))
    sim.advance(450.0)
    sim.apply(Decisions(power_on=indices(), maintenance=indices(0)))
    sim.run()
    watts = float(sim.state.host_power_now_w[0])  # all the time: demand is constant
    assert sim.metrics()["carbon_kg"] == pytest.approx(float(carbon_kg(series, watts, 0.0, sim.time_s)))


@pytest.mark.parametrize("seed", range(6))
def test_looking_more_often_changes_no_integral(seed: int) -> None:
    whole, halves = random_cluster(seed), random_cluster(seed)
    for sim in (whole, halves):
        sim.reset(np.random.default_rng(seed))
    play(whole, seed)
    play(halves, seed, (150.0, 50.0, 100.0))
    a, b = whole.state, halves.state
    for name in ("host_energy_j", "vm_down_s", "host_sat_s", "host_active_s", "vm_missed", "vm_mig_lost"):
        scale = float(np.abs(getattr(a, name)).max())
        assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-9, abs=1e-9 * max(scale, 1e-3)), (
            name
        )
    assert whole.metrics()["migrations"] > 0
    assert a.vm_down_s.sum() > 0


def test_same_seed_same_episode_and_another_seed_another() -> None:
    digests = []
    for seed in (5, 5, 6):
        sim = random_cluster(1)
        sim.reset(np.random.default_rng(seed))
        play(sim, 1)
        digests.append(sim.digest())
    assert digests[0] == digests[1] != digests[2]


def test_forks_and_pickles_go_on_alike() -> None:
    sim = random_cluster(2)
    sim.reset(np.random.default_rng(3))
    rng = np.random.default_rng(0)
    for _ in range(15):
        sim.step(random_orders(rng, sim))
    twins = [sim.fork(), pickle.loads(pickle.dumps(sim)), copy.deepcopy(sim)]
    for one in (sim, *twins):
        play(one, 8)
    assert {one.digest() for one in twins} == {sim.digest()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dirty", [2.0, 30.0, 300.0])
def test_a_migration_costs_what_the_closed_form_says(rule: str, dirty: float) -> None:
    config = PrecopyConfig(on_divergence=rule)
    profile = GuestProfile(dirty_mib_s=(dirty, 0.0), working_share=0.5)
    sim = Simulator(cluster(2, migration=config), load(np.full((40, 1), 0.5), profile))
    assert not sim.apply(Decisions(move_vm=indices(0), move_host=indices(1)))
    sim.run()
    total, down, data = (np.empty(1) for _ in range(3))
    rounds, diverged = np.empty(1, dtype=np.int32), np.empty(1, dtype=np.int8)
    one = [np.array([x]) for x in (2048.0, 1024.0, HOST.nic_mbps / MBIT_PER_MIB, dirty)]
    plan: Any = plan_precopy
    plan(precopy_params(config), *one, total, down, data, rounds, diverged)
    assert sim.state.vm_host[0] == 1
    assert sim.metrics()["migration_data_gib"] * 1024 == pytest.approx(data[0], rel=1e-9)
    assert sim.state.vm_down_s[0] == pytest.approx(down[0], rel=1e-9)
    assert sim.state.totals.mig_stop_s == pytest.approx(down[0], rel=1e-9)
    stopped = 1000.0 * down[0]
    lost = float(sim.state.vm_mig_lost[0])
    assert lost >= stopped * (1 - 1e-9)
    if rule == "stop":  # 10 % of its CPU while it is copied, all of it while it is stopped
        assert lost == pytest.approx(stopped + 100.0 * (total[0] - down[0]), rel=1e-9)


def test_two_copies_share_the_nic_and_a_third_waits_for_a_slot() -> None:
    config = PrecopyConfig(slots_1g=2, init_s=0.0, resume_s=0.0)
    profile = GuestProfile(dirty_mib_s=(0.0, 0.0))
    sim = Simulator(cluster(4, migration=config), load(np.full((40, 3), 0.1), profile, mem=4096.0))
    sim.apply(Decisions(move_vm=indices(0, 1, 2), move_host=indices(1, 2, 3)))
    alone = 4096.0 / (HOST.nic_mbps / MBIT_PER_MIB)
    sim.advance(2 * alone - 0.1)
    assert sim.state.vm_host.tolist() == [0, 0, 0]
    sim.advance(0.2)
    assert sim.state.vm_host.tolist() == [1, 2, 0]
    sim.advance(alone)
    assert sim.state.vm_host.tolist() == [1, 2, 3]


def outage(n: int, *spans: tuple[int, float, float]) -> dict[str, Any]:
    host, down, up = zip(*spans)
    replayed = replay_outages(np.array(host, np.int32), np.array(down, float), np.array(up, float), n)
    return {"failures": FailureConfig(model="none"), "replayed": replayed}


def test_cold_restart_takes_detection_placement_and_boot() -> None:
    times = RecoveryConfig(detect_s=15.0, placement_s=5.0, boot_s=60.0)
    sim = Simulator(cluster(3, recovery=times, **outage(3, (0, 1000.0, 4000.0))), load(np.full((40, 3), 0.5)))
    sim.reset(np.random.default_rng(0))
    sim.run()
    assert sim.state.vm_down_s == pytest.approx([80.0] * 3)
    assert sim.state.vm_missed == pytest.approx([80.0 * 1000.0] * 3)
    assert sim.state.totals.restarts == 3
    assert sim.state.vm_host.tolist() == [1, 1, 1]
    idle, boot = 86.0, 101.5  # down for 3,000 s, then 240 s of boot, then idle; loaded before
    loaded = float(np.interp(3 / 16, np.linspace(0, 1, 11), HOST.table_w))
    want = 1000.0 * loaded + 240.0 * boot + (12_000.0 - 4240.0) * idle
    assert sim.state.host_energy_j[0] == pytest.approx(want)


def test_a_vm_waits_while_nothing_fits_and_priority_goes_first() -> None:
    profiles = (GuestProfile(restart_priority=0), GuestProfile(restart_priority=5))
    base = load(np.full((40, 4), 0.2), mem=8192.0)
    workload = replace(base, profiles=profiles, vm_profile=np.array([0, 1, 0, 1], np.int32))
    sim = Simulator(cluster(2, memory="binding", **outage(2, (0, 900.0, 3000.0))), workload)
    sim.reset(np.random.default_rng(0))
    assert sim.state.vm_host.tolist() == [0, 0, 1, 1]
    sim.advance(1500.0)
    assert sim.state.vm_host.tolist() == [-1, -1, 1, 1]  # the other host is full
    sim.advance(3000.0)
    assert sim.state.vm_host.tolist() == [0, 0, 1, 1]  # mended at 3,000 s, up at 3,240 s
    assert sim.state.vm_down_s[:2] == pytest.approx([3240.0 + 60.0 - 900.0] * 2)


def test_a_secondary_takes_over_and_nothing_is_lost() -> None:
    profile = GuestProfile(protected=True, dirty_mib_s=(100.0, 0.0))
    plan = outage(3, (0, 1000.0, 9000.0))
    sim = Simulator(cluster(3, standby=StandbyConfig(), **plan), load(np.full((40, 1), 0.5), profile))
    sim.reset(np.random.default_rng(0))
    sim.advance(300.0)
    assert (int(sim.state.vm_host[0]), int(sim.state.vm_secondary[0])) == (0, 1)
    pause = 0.002 + 100.0 * 0.025 / 2048.0
    assert sim.state.vm_granted_mhz[0] == pytest.approx(1000.0 * (1 - pause / (0.025 + pause)))
    sim.run()
    assert sim.state.totals.takeovers == 1
    assert sim.state.totals.restarts == 0
    assert sim.state.vm_down_s[0] == pytest.approx(1.0)
    assert (int(sim.state.vm_host[0]), int(sim.state.vm_secondary[0])) == (1, 2)


def test_both_images_lost_at_once_need_a_cold_restart() -> None:
    profile = GuestProfile(protected=True)
    plan = outage(3, (0, 1000.0, 9000.0), (1, 1000.0, 9000.0))
    sim = Simulator(cluster(3, standby=StandbyConfig(), **plan), load(np.full((40, 1), 0.5), profile))
    sim.reset(np.random.default_rng(0))
    sim.run()
    assert (sim.state.totals.takeovers, sim.state.totals.restarts) == (0, 1)
    assert sim.state.vm_down_s[0] == pytest.approx(75.0)
    assert sim.state.vm_host[0] == 2


def test_a_profile_moves_to_a_spare() -> None:
    plan = outage(3, (0, 900.0, 1e6))
    sim = Simulator(
        cluster(3, spares=(2,), auto_boot=False, **plan), load(np.full((40, 2), 0.1), mem=16_000.0)
    )
    sim.reset(np.random.default_rng(0))
    assert sim.state.host_power_state.tolist() == [2, 2, 0]
    refused = sim.apply(Decisions(power_on=indices(2)))
    assert "spare" in str(refused[0])
    sim.advance(900.0 + 15.0 + 600.0 + 240.0 - 1.0)
    assert sim.state.host_power_state.tolist() == [7, 2, 1]
    sim.run()
    assert sim.state.totals.profile_moves == 1
    assert sim.state.vm_host.tolist() == [2, 1]
    assert sim.state.host_profile.tolist() == [-1, 1, 0]


def test_a_failed_destination_loses_nothing() -> None:
    plan = outage(2, (1, 2.0, 9000.0))
    sim = Simulator(cluster(2, migration=PrecopyConfig(), **plan), load(np.full((40, 1), 0.5)))
    sim.reset(np.random.default_rng(0))
    sim.apply(Decisions(move_vm=indices(0), move_host=indices(1)))
    sim.run()
    assert sim.state.vm_host[0] == 0
    assert sim.state.vm_down_s[0] == 0.0
    assert sim.state.totals.restarts == 0


def test_suspended_hosts_draw_little_and_are_back_soon() -> None:
    power = PowerConfig(suspend_time_s=5.0, resume_time_s=20.0, standby_share=0.05, pue=1.5)
    sim = Simulator(cluster(2, power=power), load(np.full((4, 1), 0.0)))
    assert not sim.apply(Decisions(suspend=indices(1)))
    sim.advance(300.0)
    assert sim.state.host_power_state[1] == 4
    assert sim.state.host_energy_j[1] == pytest.approx(5 * 86.0 + 295 * 0.05 * 86.0)
    sim.apply(Decisions(power_on=indices(1)))
    sim.advance(300.0)
    boot = 0.5 * (86.0 + 117.0)
    assert sim.state.host_energy_j[1] == pytest.approx(5 * 86.0 + 295 * 4.3 + 20 * boot + 280 * 86.0)
    busy = Simulator(cluster(1, power=power), load(np.full((4, 1), 0.5)))
    assert "still holds" in str(busy.apply(Decisions(suspend=indices(0)))[0])


@pytest.mark.parametrize(("kind", "u"), [("linear", 0.5), ("fan", 2 * 0.5 - 0.5**1.4)])
def test_analytic_curves(kind: Any, u: float) -> None:
    host = replace(HOST, cores=1, curve=PowerCurve(kind, 100.0, 200.0))
    sim = Simulator(cluster(1, host_types=(host,)), load([[0.5]]))
    sim.run()
    assert sim.state.host_energy_j[0] == pytest.approx(300.0 * (100.0 + 100.0 * u))


def test_carbon_follows_the_series_hour_by_hour() -> None:
    series = CarbonSeries(np.array([100.0, 400.0]), "test", step_s=600.0)
    sim = Simulator(cluster(1, carbon=series, power=PowerConfig(pue=2.0)), load(np.full((4, 1), 0.0)))
    sim.run()
    kwh = 86.0 * 600.0 / 3.6e6
    assert sim.state.totals.carbon_g == pytest.approx(2.0 * kwh * (100.0 + 400.0))


@pytest.mark.parametrize("more", [{}, {"power": PowerConfig(resume_time_s=11.0)}], ids=["simple", "full"])
def test_a_host_in_maintenance_takes_nobody(more: dict[str, Any]) -> None:
    sim = Simulator(cluster(2, **more), load(np.full((4, 1), 0.5)))
    sim.apply(Decisions(maintenance=indices(1)))
    move = Decisions(move_vm=indices(0), move_host=indices(1))
    assert "maintenance" in str(sim.apply(move)[0])
    assert not sim.apply(Decisions(end_maintenance=indices(1)))
    assert not sim.apply(move)


def move_to(host: int) -> Decisions:
    return Decisions(move_vm=indices(0), move_host=indices(host))


def test_a_vm_keeps_its_cpu_level_until_it_restarts() -> None:
    new, old = replace(HOST, name="new", cpu_level="skylake"), replace(HOST, cpu_level="haswell")
    kinds = {"host_types": (old, new), "host_type_of": np.array([0, 1, 0], np.int32)}
    sim = Simulator(cluster(3, **kinds), load(np.full((40, 1), 0.5)))
    assert not sim.apply(move_to(1))
    sim.advance(300.0)
    assert not sim.apply(move_to(2))  # it still sees the old level
    reverse = {"host_types": (old, new), "host_type_of": np.array([1, 0], np.int32)}
    sim = Simulator(cluster(2, **reverse), load(np.full((40, 1), 0.5)))
    assert "CPU features" in str(sim.apply(move_to(1))[0])


def test_passthrough_pins_and_functions_run_out() -> None:
    profile = GuestProfile(io=IoProfile(mode="passthrough", functions=2))
    config = cluster(2, io=replace(IoConfig(), functions_per_host=3))
    sim = Simulator(config, load(np.full((4, 2), 0.1), profile))
    assert sim.state.vm_host.tolist() == [0, 1]
    assert "device" in str(sim.apply(Decisions(move_vm=indices(0), move_host=indices(1)))[0])


def test_containers_stay_on_their_kernel() -> None:
    kinds = tuple(
        replace(HOST, name=name, virtualization=HostVirtualization(kernel=name)) for name in ("k5", "k6")
    )
    profile = GuestProfile(virtualization=GuestVirtualization("os_level", kernel="k5"))
    hosts = {"host_types": kinds, "host_type_of": np.array([1, 0, 0], np.int32)}
    sim = Simulator(cluster(3, overhead=OverheadConfig(), **hosts), load(np.full((4, 1), 0.1), profile))
    assert sim.state.vm_host[0] == 1
    move = sim.apply(Decisions(move_vm=indices(0, 0), move_host=indices(0, 2)))
    assert [r.code for r in move] == [21]


def test_nodes_are_filled_node_by_node() -> None:
    host = replace(HOST, numa_nodes=2)  # two nodes of four cores
    config = cluster(2, host_types=(host,), numa=NumaConfig(), memory="binding")
    sim = Simulator(config, load(np.full((4, 3), 0.1), vcpus=3, cpu=6000.0, mem=1024.0))
    # two VMs of three vCPUs fill a node each; two cores are free, but no node has three
    assert sim.state.vm_host.tolist() == [0, 0, 1]
    assert sorted(sim.state.vm_nodes[:2].tolist()) == [1, 2]
