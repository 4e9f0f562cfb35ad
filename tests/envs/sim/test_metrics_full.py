"""The metrics of the full model, by hand on clusters of one or two hosts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.metrics import IN_INTERVAL, METRICS, StepMetrics, interval_metrics
from virtgym.envs.sim.models.carbon import CarbonSeries
from virtgym.envs.sim.models.failures import FailureConfig, Outages
from virtgym.envs.sim.models.io_path import IoConfig
from virtgym.envs.sim.models.memory import MemoryConfig, MemoryProfile, min_free_mib
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.overhead import InstructionProfile, OverheadConfig
from virtgym.envs.sim.models.power import PowerConfig
from virtgym.envs.sim.models.precopy import PrecopyConfig
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Totals

HOUR = 3600.0
J_PER_KWH = 3.6e6
QUIET = InstructionProfile((0.0,) * 4, (0.0,) * 4)
SILENT = IoProfile(
    net_out_mbps=(0.0, 0.0), net_in_mbps=(0.0, 0.0), disk_read_mb_s=(0.0, 0.0), disk_write_mb_s=(0.0, 0.0)
)
LEAN = MemoryProfile(active_share=0.25, zero_share=0.0, dup_share=0.0, balloon_driver=False)
SWAP_ONLY = MemoryConfig(sharing=False, ballooning=False, compression=False)

MakeFull = Callable[..., Simulator]


@pytest.fixture
def make_full(make_cluster: Any, make_workload: Any) -> MakeFull:
    """Build a simulator whose VMs have profiles, one per VM or one for all."""

    def build(
        util: Any,
        n_hosts: int = 1,
        profiles: Sequence[GuestProfile] = (GuestProfile(instructions=QUIET, io=SILENT),),
        load: dict[str, Any] | None = None,
        **cluster: Any,
    ) -> Simulator:
        workload = make_workload(util, **(load or {}))
        which = np.arange(workload.n_vms, dtype=np.int32) % len(profiles)
        workload = replace(workload, profiles=tuple(profiles), vm_profile=which)
        return Simulator(make_cluster(n_hosts, **cluster), workload, horizon_s=HOUR)

    return build


def run(sim: Simulator, seed: int | None = None) -> dict[str, float]:
    """The metrics of an episode without orders."""
    sim.reset(None if seed is None else np.random.default_rng(seed))
    while not sim.done:
        sim.step()
    return sim.metrics()


def outage(host: int, down_s: float, up_s: float) -> dict[str, Any]:
    """A cluster's settings under which exactly one host fails once."""
    replayed = Outages(np.array([host], np.int32), np.array([down_s]), np.array([up_s]), np.zeros(1, np.int8))
    return {"failures": FailureConfig(model="none"), "replayed": replayed}


def test_a_reserved_and_a_limited_vm_on_a_short_host(make_full: MakeFull) -> None:
    kinds = [
        GuestProfile(cpu=CpuControl(reservation_mhz=1500.0)),
        GuestProfile(cpu=CpuControl(limit_mhz=800.0)),
    ]
    load = {"cpu_mhz": 2000.0, "vcpus": 2}
    sim = make_full([[1.0, 1.0]], 1, kinds, load, cpu=SchedulingConfig(), arrival_cpu_overcommit=2.0)
    found = run(sim)
    # 2,000 MHz for claims of 2,000 and 800: 1,500 are reserved, 500 are left. Ready: (500 + 300) of 4,000.
    assert found["ready_pct"] == pytest.approx(100 * (500 + 300) / 4000)
    assert found["limited_share"] == pytest.approx(1200 / 4000)
    assert found["sla_unserved"] == pytest.approx((500 + 1500) / 4000)
    assert found["capped_share"] == found["co_stop_share"] == 0.0
    assert found["slatah"] == pytest.approx(1.0)
    assert found["downtime_s"] == 0.0
    assert found["vm_availability"] == 1.0


def test_co_stop_and_the_cap_of_a_core(make_full: MakeFull) -> None:
    load = {"cpu_mhz": [4000.0, 3000.0], "vcpus": [2, 1]}
    sim = make_full([[1.0, 1.0]], 1, load=load, cpu=SchedulingConfig(co_stop=0.5), arrival_cpu_overcommit=4.0)
    found = run(sim)
    # Two cores of 1,000 MHz: usable 2,000 and 1,000 of 4,000 and 3,000; shares 2 : 1 give 1,333 and 667.
    assert found["capped_share"] == pytest.approx((2000 + 2000) / 7000)
    assert found["ready_pct"] == pytest.approx(100 / 3)
    stopped = 2000 * 2 / 3 * 0.5 * (1 - 2 / 3)
    assert found["co_stop_share"] == pytest.approx(stopped / 7000)
    assert found["sla_unserved"] == pytest.approx((7000 - 2000 + stopped) / 7000)


def test_a_host_that_swaps(make_full: MakeFull) -> None:
    kind = GuestProfile(instructions=QUIET, io=SILENT, memory=LEAN)
    load = {"mem_mib": 3000.0}
    sim = make_full([[0.5, 0.5]], 1, [kind], load, memory="multiplexed", memory_tiers=SWAP_ONLY)
    found = run(sim)
    # Two VMs hold 3,000 MiB each of 4,096: swapping goes on until 32 % of minFree are free.
    swapped = 6000.0 + 0.32 * min_free_mib(4096.0) - 4096.0
    assert found["swap_mib"] == pytest.approx(swapped)
    touches = 0.25 * 3000.0 * 256 / 60
    slowdown = 1 + touches * swapped / 6000.0 * 100e-6
    assert found["memory_loss"] == pytest.approx(1 - 1 / slowdown)
    assert found["sla_unserved"] == pytest.approx(found["memory_loss"])
    for name in ("shared_mib", "ballooned_mib", "compressed_mib", "blocked_mib"):
        assert found[name] == 0.0
    assert math.isnan(found["numa_loss"])


def test_a_failed_host_whose_vm_restarts_elsewhere(make_full: MakeFull) -> None:
    sim = make_full([[0.5]], 2, **outage(0, 700.0, 2000.0))
    sim.reset(np.random.default_rng(0))
    steps = [sim.step() for _ in range(12)]
    found = sim.metrics()
    # 15 s until it is noticed, 60 s to boot.
    assert found["downtime_s"] == pytest.approx(75.0)
    assert found["vm_availability"] == pytest.approx(1 - 75 / HOUR)
    assert found["sla_unserved"] == pytest.approx(75 / HOUR)
    assert (found["host_failures"], found["restarts"], found["vm_crashes"], found["profile_moves"]) == (
        *(1.0, 1.0, 0.0, 0.0),
    )
    assert found["active_hosts"] == pytest.approx(2 - 1300 / HOUR)
    assert [step.restarts for step in steps] == [0, 0, 1] + [0] * 9
    assert steps[2].downtime_s == pytest.approx(75.0)
    assert steps[2].host_failures == 1
    third = interval_metrics(sim.params, steps[2])
    assert third["downtime_s"] == pytest.approx(75.0)
    assert (third["restarts"], third["host_failures"]) == (1.0, 1.0)


def test_without_a_generator_nothing_fails(make_full: MakeFull) -> None:
    found = run(make_full([[0.5]], 2, **outage(0, 700.0, 2000.0)))
    assert found["host_failures"] == found["downtime_s"] == 0.0


def test_a_secondary_takes_over(make_full: MakeFull) -> None:
    kind = GuestProfile(instructions=QUIET, io=SILENT, protected=True, dirty_mib_s=(10.0, 0.0))
    own = StandbyConfig()
    sim = make_full([[0.5]], 2, [kind], standby=own, **outage(0, 700.0, 2000.0))
    found = run(sim, seed=0)
    assert found["downtime_s"] == pytest.approx(own.takeover_s)
    assert (found["takeovers"], found["restarts"]) == (1.0, 0.0)
    pause = own.fixed_pause_s + 10.0 * own.epoch_s / own.copy_mib_s
    slower = pause / (own.epoch_s + pause)
    # Mirrored until the host fails, and again from the first interval after it is repaired.
    assert found["mirror_loss"] == pytest.approx(slower * (700 + (HOUR - 2100)) / HOUR)
    assert found["sla_unserved"] == pytest.approx(found["mirror_loss"] + 1 / HOUR)


@pytest.mark.parametrize("pue", [1.0, 1.5])
def test_carbon_of_two_steps_includes_pue(make_full: MakeFull, pue: float) -> None:
    # The step at 1,000 s lies within an interval; the series began 500 s before time 0.
    series = CarbonSeries(np.array([100.0, 300.0]), "by hand", step_s=1500.0, offset_s=500.0)
    sim = make_full([[0.5, 0.5]], 1, carbon=series, power=PowerConfig(pue=pue))
    sim.reset()
    steps = [sim.step() for _ in range(12)]
    found = sim.metrics()
    # 1,000 of 2,000 MHz: 150 W.
    assert found["energy_kwh"] == pytest.approx(pue * 150 * HOUR / J_PER_KWH)
    assert found["carbon_kg"] == pytest.approx(pue * 150 * (1000 * 100 + 2600 * 300) / J_PER_KWH / 1000)
    assert sum(step.carbon_g for step in steps) / 1000 == pytest.approx(found["carbon_kg"])
    assert steps[3].carbon_g == pytest.approx(pue * 150 * (100 * 100 + 200 * 300) / J_PER_KWH)
    assert interval_metrics(sim.params, steps[0])["energy_kwh"] == pytest.approx(pue * 150 * 300 / J_PER_KWH)
    assert steps[0].energy_j == pytest.approx(150 * 300)  # what the hosts draw


def test_a_wide_vm_on_two_nodes(make_full: MakeFull) -> None:
    kind = GuestProfile(instructions=QUIET, io=SILENT, stall_share=0.4)
    load = {"cpu_mhz": 4000.0, "vcpus": 4, "mem_mib": 3000.0}
    sim = make_full([[0.5]], 2, [kind], load, cores=4, numa_nodes=2, numa=NumaConfig(latency_ratio=2.05))
    found = run(sim)
    slowdown = 1 + 0.4 * 0.5 * 1.05
    assert found["remote_share"] == pytest.approx(0.5)
    assert found["numa_loss"] == pytest.approx(1 - 1 / slowdown)
    # The second host's two free nodes of two cores hold no VM of 16.
    assert found["fragment_rate"] == pytest.approx(1.0)
    assert found["numa_moves"] == 0.0


def test_hypervisor_and_interrupts(make_full: MakeFull) -> None:
    network = replace(SILENT, net_out_mbps=(8.0, 0.0), packet_bytes=1000.0)
    kind = GuestProfile(instructions=QUIET, io=network)
    sim = make_full([[0.5]], 1, [kind], overhead=OverheadConfig(), io=IoConfig(), nic_mbps=4.0)
    found = run(sim)
    # 500 packets a second of 1,000 pass: 2 exits of 1,500 cycles, a handler of 6,000, 1,500 for the packet.
    assert found["net_dropped_mbps"] == pytest.approx(4.0)
    assert found["io_cpu_share"] == pytest.approx(500 * 10500e-6 / 500)
    assert found["overhead_share"] == pytest.approx(0.02)
    assert found["io_latency_ms"] == pytest.approx(0.015)
    assert found["sla_unserved"] == 0.0
    assert run(make_full([[0.5]], 1, [kind], io=IoConfig()))["net_dropped_mbps"] == 0.0
    load = (500 + 10 + 5.25) / 2000
    assert found["energy_kwh"] == pytest.approx((100 + 100 * load) * HOUR / J_PER_KWH)


def test_what_a_migration_costs(make_full: MakeFull) -> None:
    kind = GuestProfile(instructions=QUIET, io=SILENT, dirty_mib_s=(0.0, 0.0))
    own = PrecopyConfig()
    sim = make_full([[0.5]], 2, [kind], {"mem_mib": 1024.0}, migration=own, nic_mbps=1000.0)
    sim.reset()
    step = sim.step(Decisions(move_vm=np.array([0]), move_host=np.array([1])))
    while not sim.done:
        sim.step()
    found = sim.metrics()
    assert (found["migrations"], step.migrations) == (1.0, 1)
    assert found["migration_data_gib"] == pytest.approx(1.0)
    assert found["migration_stop_s"] == pytest.approx(own.resume_s)
    assert found["downtime_s"] == pytest.approx(own.resume_s)
    joule = own.energy_j + own.energy_j_per_mb * 1024 * 2**20 / 1e6
    assert found["migration_energy_kwh"] == pytest.approx(joule / J_PER_KWH)
    last = interval_metrics(sim.params, step)
    assert last["migration_stop_s"] == pytest.approx(own.resume_s)
    assert last["migration_data_gib"] == pytest.approx(1.0)


def test_a_simple_cluster_knows_nothing_of_it(make_full: MakeFull) -> None:
    sim = make_full([[0.5, 0.5]])
    step = sim.step()
    found = sim.metrics()
    given = {name for name, value in found.items() if not math.isnan(value)}
    assert list(found) == list(METRICS)
    assert given.isdisjoint(IN_INTERVAL)
    assert len(given) == 28
    assert len(interval_metrics(sim.params, step)) == 6
    assert (step.ready_share, step.swapped_mib, step.carbon_g) == (0.0, 0.0, 0.0)


def test_intervals_add_up_to_the_episode(make_full: MakeFull) -> None:
    kinds = [
        GuestProfile(memory=LEAN, protected=True),
        GuestProfile(cpu=CpuControl(limit_mhz=700.0), memory=LEAN),
    ]
    util = np.random.default_rng(1).random((12, 6))
    sim = make_full(
        util,
        *(3, kinds),
        {"cpu_mhz": 1500.0, "vcpus": 2, "mem_mib": 1800.0},
        **{"cpu": SchedulingConfig(0.2), "numa": NumaConfig(cpu_overcommit=4.0), "io": IoConfig()},
        **{"overhead": OverheadConfig(), "memory": "multiplexed", "migration": PrecopyConfig()},
        **{"standby": StandbyConfig(), "arrival_cpu_overcommit": 4.0, "numa_nodes": 2},
        **outage(0, 700.0, 2000.0),
    )
    sim.reset(np.random.default_rng(0))
    steps: list[StepMetrics] = []
    while not sim.done:
        moves = Decisions(move_vm=np.array([1]), move_host=np.array([len(steps) % 3]))
        steps.append(sim.step(moves))
    found = sim.metrics()
    whole = StepMetrics(np.sum([step.delta for step in steps], axis=0))
    assert whole.delta.shape == (len(Totals.places),)
    assert whole[Totals.energy_j] == pytest.approx(float(sim.state.host_energy_j.sum()))
    for name, value in interval_metrics(sim.params, whole).items():
        if name not in ("migrations",):
            assert value == pytest.approx(found[name]), name
    assert found["mirror_loss"] > 0
    assert found["overhead_share"] > 0
    assert 0 < found["ready_pct"] < 100
    assert whole.ready_share * 100 == pytest.approx(found["ready_pct"])
    assert whole.swapped_mib == pytest.approx(found["swap_mib"])


def test_the_documentation_defines_every_metric(repo_dir: Any) -> None:
    pages = ("simulator.md", "cost.md")
    text = "".join((repo_dir / "docs" / page).read_text(encoding="utf-8") for page in pages)
    for name in METRICS:
        assert f"`{name}`" in text or name.startswith("decision_ms"), name
