"""No sub-model makes work cheaper by being switched on.

Two clusters with the same VMs in the same places, one with the sub-model and one without, on top of whatever
else is on. What is compared is work missed, VM by VM where that can be said, and CPU handed out.

Where it cannot be said, and why:

- NUMA that moves VMs between nodes decides by what they claim: with other claims it may be luckier.
  Beside the sub-models that change claims it is blind here.
- Memory tiers let secondaries of hot standby find another host, whose NIC may be less busy; and the logs of
  mirroring push other traffic off a NIC, whose CPU is then spared: dropped traffic is counted by itself.
- Failures take VMs away, and those that stay have more of CPU and memory. Without reservations, overhead and
  memory tiers the sum over all VMs cannot fall; restarts are left out, which place VMs anew, perhaps better.
- Pre-copy is compared at the same rate and for the same memory, on hosts with room: where CPU is short it
  matters to others when a VM is gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.models.failures import FailureConfig
from virtgym.envs.sim.models.io_path import IO_MODES, IoConfig, IoMode
from virtgym.envs.sim.models.memory import MemoryConfig, MemoryProfile
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.overhead import VIRT_TYPES, GuestVirtualization, OverheadConfig
from virtgym.envs.sim.models.precopy import PrecopyConfig
from virtgym.envs.sim.models.scheduling import SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload

HOSTS, VMS, SAMPLES = 4, 24, 6
SLACK = 1e-9
KINDS = [(virt, mode) for virt in VIRT_TYPES for mode in IO_MODES]

ON: dict[str, dict[str, Any]] = {
    "cpu": {"cpu": SchedulingConfig()},
    "overhead": {"overhead": OverheadConfig()},
    "io": {"io": IoConfig(passthrough=IoMode(1, 1500, 2000, 3, 200, migratable=True))},
    "numa": {"numa": NumaConfig(cpu_overcommit=50.0)},
    "tiers": {"memory": "multiplexed", "memory_overcommit": 50.0, "memory_tiers": MemoryConfig()},
    "standby": {"standby": StandbyConfig()},
}
APART = {("tiers", "standby"), ("standby", "io")}
"""Models that are off while the first is compared."""


def workload(
    rng: np.random.Generator, load: float, virt: str | None = None, mode: str | None = None
) -> Workload:
    profiles = []
    for i in range(6):
        kind = GuestProfile(
            f"guest-{i}", str(rng.choice(["general", "cpu_bound", "memory_bound", "io_bound"]))
        )
        rate = float(10 ** rng.uniform(-2, 4))
        kind = replace(
            kind,
            virtualization=GuestVirtualization(virt or str(rng.choice(VIRT_TYPES))),
            memory=MemoryProfile(float(rng.uniform(0.7, 1.0)), float(rng.uniform(0.1, 0.7))),
            io=IoProfile(mode or str(rng.choice(IO_MODES)), (0.0, rate), (0.0, rate), (0.0, 0.0), (0.0, 0.1)),
            protected=bool(rng.random() < 0.2),
        )
        profiles.append(kind)
    return Workload(
        "random",
        300.0,
        load * rng.random((SAMPLES, VMS)),
        rng.choice([1000.0, 2000.0, 4000.0], VMS),
        rng.choice([1, 2, 4], VMS).astype(np.int32),
        rng.choice([512.0, 1024.0, 2048.0], VMS, p=[0.2, 0.3, 0.5]),
        np.zeros(VMS),
        np.full(VMS, np.inf),
        signals={"memory_active": rng.random((SAMPLES, VMS))} if rng.random() < 0.5 else {},
        profiles=tuple(profiles),
        vm_profile=rng.integers(0, 6, VMS).astype(np.int32),
    )


def run(load: Workload, homes: Any, seed: int, models: dict[str, Any]) -> Simulator:
    """Play the load with VMs that go where ``homes`` says, and nothing else ordered."""
    kind = HostType("test", 8, 2500.0, 12_600.0, "hp_ml110_g5", numa_nodes=2, boot_time_s=0.0)
    config = ClusterConfig(
        (kind,),
        np.zeros(HOSTS, np.int32),
        arrival="policy",
        arrival_cpu_overcommit=50.0,
        restart="policy",
        **{"memory": "ignored", **models},
    )
    sim = Simulator(config, load, horizon_s=SAMPLES * 300.0)
    sim.reset(np.random.default_rng(seed))
    vms = np.arange(VMS, dtype=np.int32)
    assert not sim.apply(Decisions(place_vm=vms, place_host=vms % HOSTS))
    moves = vms[homes != vms % HOSTS]  # arrivals bind memory, whatever the model; migrations do not
    assert not sim.apply(Decisions(move_vm=moves, move_host=homes[moves]))
    while not sim.done:
        sim.advance()
    return sim


def draw(seed: int, name: str) -> tuple[Workload, Any, dict[str, Any]]:
    """A load, places, and the sub-models that are on in both runs."""
    rng = np.random.default_rng([seed, len(name)])
    others = [key for key in ON if key != name and rng.random() < 0.5 and (name, key) not in APART]
    models = {key: value for other in others for key, value in ON[other].items()}
    if "numa" in models and name in ("overhead", "io"):
        models["numa"] = replace(models["numa"], scheduling="blind")
    load = workload(rng, float(rng.choice([0.3, 1.0, 1.5])))
    return load, rng.integers(0, HOSTS, VMS).astype(np.int32), models


@pytest.mark.parametrize("name", ["overhead", "io", "numa", "tiers", "standby"])
def test_switching_a_model_on_loses_no_less(name: str) -> None:
    costs = 0
    for seed in range(25):
        load, homes, models = draw(seed, name)
        off, on = (run(load, homes, seed, more) for more in (models, {**models, **ON[name]}))
        lost, before = on.state.vm_missed, off.state.vm_missed
        assert np.all(lost >= before - SLACK * (1.0 + before)), (name, seed)
        assert on.state.totals.missed >= off.state.totals.missed * (1 - SLACK), (name, seed)
        if name in ("overhead", "io") and len(models) > 0:
            assert on.state.totals.alloc >= off.state.totals.alloc * (1 - SLACK), (name, seed)
            assert on.state.totals.energy_j >= off.state.totals.energy_j * (1 - SLACK), (name, seed)
        costs += on.state.totals.missed > off.state.totals.missed
    assert costs > 0


@pytest.mark.parametrize(("virt", "mode"), KINDS)
def test_io_replaces_class_four_and_costs_no_less(virt: str, mode: str) -> None:
    """All five types by all three modes, from no traffic to more than the NIC lets through."""
    dearer = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        load, homes = workload(rng, 0.2, virt, mode), np.arange(VMS, dtype=np.int32) % HOSTS
        off, on = (run(load, homes, seed, ON["overhead"] | more) for more in ({}, ON["io"]))
        claim, before = on.state.vm_claim_mhz, off.state.vm_claim_mhz
        assert np.all(claim >= before * (1 - SLACK))
        dearer += int(np.count_nonzero(claim > before * (1 + SLACK)))
        alone = run(load, homes, seed, ON["io"])
        assert np.all(on.state.vm_io_mhz >= alone.state.vm_io_mhz * (1 - SLACK))
    assert dearer > 0


def test_failures_lose_work() -> None:
    failing = {"failures": FailureConfig(up_shape=0.8, up_scale_h=1.0, down_scale_h=0.1)}
    failures = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        load, homes = workload(rng, 1.0), rng.integers(0, HOSTS, VMS).astype(np.int32)
        off, on = (run(load, homes, seed, more) for more in ({}, failing))
        assert on.state.totals.missed >= off.state.totals.missed * (1 - SLACK)
        failures += int(on.state.totals.host_failures)
    assert failures > 0


def test_pre_copy_loses_no_less_than_a_copy_at_the_same_rate() -> None:
    for seed in range(15):
        rng = np.random.default_rng(seed)
        load = replace(workload(rng, 0.1), signals={})
        load = replace(
            load,
            profiles=tuple(
                replace(kind, memory=replace(kind.memory, touched_share=1.0)) for kind in load.profiles
            ),
        )
        homes = np.arange(VMS, dtype=np.int32) % HOSTS
        vms = rng.choice(VMS, 2, replace=False).astype(np.int32)
        homes[vms] = (homes[vms] + 1) % HOSTS
        fixed = {"migration": MigrationConfig(500.0)}
        off, on = (
            run(load, homes, seed, more) for more in (fixed, {"migration": PrecopyConfig(max_mbps=500.0)})
        )
        assert np.all(on.state.vm_mig_lost[vms] >= off.state.vm_mig_lost[vms] * (1 - SLACK))
        assert on.state.totals.missed >= off.state.totals.missed * (1 - SLACK)
