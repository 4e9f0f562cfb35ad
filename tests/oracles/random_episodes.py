"""Random clusters, loads and orders, in which everything that the full model knows happens sooner or later.

Made for the audit (``audit.py``) and the tests of the checker: small clusters, often short of CPU, memory and
network, with hosts that fail, VMs that crash and orders that are as often illegal as not. Everything follows
from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ClusterConfig, HostType, MigrationConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile, IoProfile
from virtgym.envs.sim.models.carbon import CarbonSeries
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain, Incident
from virtgym.envs.sim.models.io_path import IO_MODES, IoConfig, IoMode
from virtgym.envs.sim.models.memory import MemoryConfig, MemoryProfile
from virtgym.envs.sim.models.numa_nodes import NumaConfig
from virtgym.envs.sim.models.overhead import (
    PROFILES,
    VIRT_TYPES,
    GuestVirtualization,
    HostVirtualization,
    OverheadConfig,
)
from virtgym.envs.sim.models.power import PowerConfig, PowerCurve
from virtgym.envs.sim.models.precopy import DIVERGENCE_RULES, PrecopyConfig
from virtgym.envs.sim.models.recovery import RecoveryConfig
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload

__all__ = ["RandomEpisode", "random_orders"]

Rng = np.random.Generator

INTERVAL_S = 300.0
SUB_MODELS = ("overhead", "cpu", "numa", "tiers", "io", "precopy", "failures", "standby")
"""Sub-models that can be switched off one by one."""


def _pick(rng: Rng, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _host_types(rng: Rng) -> tuple[HostType, ...]:
    line = PowerCurve("linear", 80.0, 200.0, busy_w=20.0)
    curves = (PowerCurve(), line, PowerCurve("fan", 90.0, 250.0))
    types = []
    for i in range(int(rng.integers(2, 4))):
        every = i == 0  # one type runs anything, so that no guest is without a host
        some = tuple(name for name in VIRT_TYPES if rng.random() < 0.7) or ("para",)
        types.append(
            HostType(
                f"type-{i}",
                int(_pick(rng, 4, 8, 12)),
                float(_pick(rng, 1000.0, 1500.0, 2500.0)),
                float(_pick(rng, 8192.0, 16384.0, 32768.0)),
                _pick(rng, "hp_ml110_g4", "hp_ml110_g5", (50.0, 120.0, 150.0)),
                nic_mbps=float(_pick(rng, 200.0, 1000.0, 10_000.0)),
                boot_time_s=float(_pick(rng, 0.0, 120.0, 240.0)),
                shutdown_time_s=float(_pick(rng, 0.0, 60.0)),
                numa_nodes=int(_pick(rng, 1, 2, 4)),
                virtualization=HostVirtualization(
                    VIRT_TYPES if every else some,
                    every or bool(rng.random() < 0.8),
                    "linux" if every else _pick(rng, "linux", "other"),
                ),
                cpu_level=_pick(rng, "haswell", "skylake", "ice_lake"),
                io_functions=_pick(rng, None, 2, 4),
                curve=_pick(rng, *curves),
            )
        )
    return tuple(types)


def _profile(rng: Rng, i: int) -> GuestProfile:
    reservation = float(_pick(rng, 0.0, 0.0, 500.0, 1000.0))
    active = float(rng.uniform(0.05, 0.7))
    rate = float(_pick(rng, 5.0, 50.0, 300.0))
    return GuestProfile(
        name=f"guest-{i}",
        instructions=_pick(rng, *PROFILES),
        virtualization=GuestVirtualization(VIRT_TYPES[i % len(VIRT_TYPES)]),
        cpu=CpuControl(
            reservation,
            float(_pick(rng, np.inf, np.inf, reservation + 800.0)),
            _pick(rng, "low", "normal", "high"),
        ),
        memory=MemoryProfile(
            min(1.0, active + float(rng.uniform(0.0, 0.5))),
            active,
            float(rng.uniform(0.0, 0.2)),
            float(rng.uniform(0.0, 0.2)),
            _pick(rng, "", "web", "db"),
            float(_pick(rng, 0.0, 0.0, 512.0)),
            _pick(rng, "low", "normal", "high"),
            bool(rng.random() < 0.8),
        ),
        io=IoProfile(
            IO_MODES[i % len(IO_MODES)],
            (0.1, rate),
            (0.1, float(rng.uniform(0.0, rate))),
            (0.0, float(rng.uniform(0.0, 20.0))),
            (0.1, float(rng.uniform(0.0, 10.0))),
        ),
        dirty_mib_s=(0.5, float(_pick(rng, 5.0, 60.0, 400.0))),
        working_share=float(_pick(rng, 0.05, 0.2, 0.8)),
        restart_priority=int(rng.integers(0, 3)),
        protected=bool(rng.random() < 0.25),
    )


def _workload(rng: Rng, vms: int, samples: int) -> Workload:
    span = samples * INTERVAL_S
    arrival = np.where(rng.random(vms) < 0.5, 0.0, rng.uniform(0, 0.7 * span, vms))
    arrival = np.where(rng.random(vms) < 0.2, np.round(arrival / INTERVAL_S) * INTERVAL_S, arrival)
    stay = rng.uniform(60.0, 0.8 * span, vms)
    profiles = tuple(_profile(rng, i) for i in range(7))
    util = np.clip(rng.random((samples, vms)) ** 2 + 0.3 * np.sin(np.arange(samples) / 9.0)[:, None], 0, 1)
    sample_s = float(_pick(rng, 300.0, 300.0, 100.0, 450.0))
    signals = {}
    if rng.random() < 0.4:
        signals["memory_active"] = rng.random((samples, vms))
    if rng.random() < 0.3:
        signals["net_tx_mbit_s"] = rng.exponential(40.0, (samples, vms))
    if rng.random() < 0.3:
        signals["dirty_mib_s"] = rng.exponential(30.0, (samples, vms))
    return Workload(
        "random",
        sample_s,
        util,
        rng.choice([1000.0, 2000.0, 4000.0, 8000.0], vms),
        rng.choice([1, 2, 4, 4, 6], vms).astype(np.int32),
        rng.choice([1024.0, 2048.0, 4096.0, 6144.0], vms),
        arrival,
        np.where(rng.random(vms) < 0.5, np.inf, arrival + stay),
        signals=signals,
        profiles=profiles,
        vm_profile=rng.integers(0, len(profiles), vms).astype(np.int32),
    )


def _sub_models(rng: Rng, hosts: int, span_s: float) -> dict[str, Any]:
    """Every sub-model switched on, by the field of ``ClusterConfig``."""
    rack = tuple(range(int(rng.integers(1, hosts // 2 + 1))))
    movable = IoMode(1, 1500, 2000, 3, 200, migratable=bool(rng.random() < 0.3))
    return {
        "overhead": OverheadConfig(),
        "cpu": SchedulingConfig(co_stop=float(_pick(rng, 0.0, 0.2))),
        "numa": NumaConfig(
            scheduling=_pick(rng, "aware", "aware", "blind"),
            cpu_overcommit=float(_pick(rng, 1.0, 3.0, 6.0)),
            page_move_mib_s=float(_pick(rng, 20.0, 1024.0)),
        ),
        "memory": "multiplexed",
        "memory_overcommit": float(_pick(rng, 1.2, 2.0, 3.0)),
        "memory_tiers": MemoryConfig(
            sharing=bool(rng.random() < 0.7),
            ballooning=bool(rng.random() < 0.7),
            compression=bool(rng.random() < 0.7),
            swap_device=_pick(rng, "ssd", "disk"),
        ),
        "io": IoConfig(
            passthrough=movable,
            posted_interrupts=bool(rng.random() < 0.5),
            functions_per_host=int(rng.integers(1, 6)),
        ),
        "migration": PrecopyConfig(
            on_divergence=_pick(rng, *DIVERGENCE_RULES),
            max_mbps=_pick(rng, None, 50.0, 400.0),
            init_s=float(_pick(rng, 0.0, 1.0)),
            slots_1g=int(rng.integers(1, 4)),
            slots_10g=int(rng.integers(1, 5)),
        ),
        "failures": FailureConfig(
            up_shape=0.8,
            up_scale_h=float(_pick(rng, 6.0, 20.0)),
            down_scale_h=float(_pick(rng, 0.1, 0.7)),
            vm_mtbf_h=float(_pick(rng, 5.0, 30.0)),
        ),
        "domains": (FailureDomain("rack", rack, float(_pick(rng, 5.0, 20.0)), 0.3),),
        "incidents": (Incident(float(rng.uniform(0, span_s)), 600.0, float(rng.uniform(0.2, 0.8))),),
        "recovery": RecoveryConfig(
            placement_s=float(_pick(rng, 0.0, 20.0)), associate_s=float(_pick(rng, 100.0, 600.0))
        ),
        "spares": (hosts - 1,) if rng.random() < 0.7 else (),
        "standby": StandbyConfig(
            mode=_pick(rng, "checkpoint", "lockstep"), takeover_s=float(_pick(rng, 0.0, 1.0))
        ),
    }


def _without(rng: Rng, models: dict[str, Any]) -> dict[str, Any]:
    """Switch some of the sub-models off."""
    off = {name for name in SUB_MODELS if rng.random() < 0.4}
    for name in off & {"overhead", "cpu", "numa", "io", "standby"}:
        models[name] = None
    if "tiers" in off:
        models["memory"] = _pick(rng, "binding", "ignored")
    if "precopy" in off:
        models["migration"] = MigrationConfig(float(_pick(rng, 100.0, 500.0)))
    if "failures" in off:
        models.update(failures=None, incidents=(), spares=())
    return models


def _config(rng: Rng, hosts: int, span_s: float, every: bool) -> ClusterConfig:
    models = _sub_models(rng, hosts, span_s)
    if not every:
        models = _without(rng, models)
    types = _host_types(rng)
    steps = 200.0 + 300.0 * rng.random(int(rng.integers(1, 30)))
    return ClusterConfig(
        types,
        np.concatenate([[0, 0], rng.integers(0, len(types), hosts - 2)]).astype(np.int32),
        interval_s=INTERVAL_S,
        arrival=_pick(rng, "first_fit", "best_fit", "worst_fit", "pabfd", "policy"),
        arrival_cpu_overcommit=float(_pick(rng, 1.0, 2.0, 4.0, 8.0)),
        auto_boot=bool(rng.random() < 0.7),
        hosts_start_on=bool(rng.random() < 0.8),
        restart=_pick(rng, "first_fit", "policy"),
        power=PowerConfig(pue=float(_pick(rng, 1.0, 1.4)), suspend_time_s=float(_pick(rng, 0.0, 5.0))),
        carbon=CarbonSeries(steps, "random", float(_pick(rng, 1800.0, 3600.0))),
        evc_level=_pick(rng, None, "haswell"),
        **models,
    )


def _indices(rng: Rng, below: int, most: int) -> NDArray[np.int32]:
    """Up to ``most`` indices, a few of them out of range."""
    return rng.integers(-1, below + 1, int(rng.integers(0, most + 1))).astype(np.int32)


def random_orders(rng: Rng, sim: Simulator) -> Decisions:
    """Orders of every kind, legal or not.

    Args:
        rng: Source of randomness.
        sim: The simulator; only its state is read, so that most moves are of VMs that run.

    Returns:
        Orders for one interval.
    """
    hosts, vms = len(sim.state.vm_host), len(sim.state.host_head)
    hosts, vms = vms, hosts
    moves = _indices(rng, vms, 4)
    running = np.flatnonzero(sim.state.vm_host >= 0)
    if len(running):
        aimed = rng.random(len(moves)) < 0.7
        moves = np.where(aimed, rng.choice(running, len(moves)), moves).astype(np.int32)
    waiting = np.flatnonzero((sim.state.vm_state == 1) & (sim.state.vm_dest < 0))
    places = np.concatenate([_indices(rng, vms, 1), np.repeat(waiting, 2)[:6]]).astype(np.int32)
    idle = rng.random() < 0.3
    return Decisions(
        power_on=_indices(rng, hosts, 2),
        full_power=_indices(rng, hosts, 1) if rng.random() < 0.02 else _indices(rng, hosts, 0),
        place_vm=places,
        place_host=rng.integers(-1, hosts + 1, len(places)).astype(np.int32),
        move_vm=moves[: 0 if idle else None],
        move_host=rng.integers(-1, hosts + 1, len(moves)).astype(np.int32)[: 0 if idle else None],
        power_off=_indices(rng, hosts, 1),
        suspend=_indices(rng, hosts, 1),
        maintenance=_indices(rng, hosts, 1) if rng.random() < 0.1 else _indices(rng, hosts, 0),
        end_maintenance=_indices(rng, hosts, 2),
    )


@dataclass(frozen=True)
class RandomEpisode:
    """One random episode.

    Attributes:
        seed: Everything follows from it.
        intervals: Length, intervals of 300 s.
        hosts: Number of hosts.
        vms: Number of VMs.
        every: Whether every sub-model is on; else some are off, at random.
        classes: Whether VMs have service classes at random; else all are ``standard``.
    """

    seed: int
    intervals: int = 200
    hosts: int = 8
    vms: int = 25
    every: bool = True
    classes: bool = False

    @property
    def horizon_s(self) -> float:
        """Length, s."""
        return self.intervals * INTERVAL_S

    def draw(self) -> tuple[ClusterConfig, Workload, Rng]:
        """Draw the cluster and its load; what else is drawn comes from the generator that is handed back."""
        rng = np.random.default_rng(np.random.SeedSequence([20, self.seed]))
        while True:
            workload = _workload(rng, self.vms, self.intervals)
            if self.classes:
                drawn = np.random.default_rng(self.seed).integers(0, 3, workload.n_vms)
                workload = replace(workload, vm_class=drawn.astype(np.int8))
            config = _config(rng, self.hosts, self.horizon_s, self.every)
            try:
                Simulator(config, workload, horizon_s=self.horizon_s)
            except ConfigError:  # a guest that no host can hold: draw again
                continue
            return config, workload, rng

    def simulator(self) -> tuple[Simulator, Rng]:
        """Build the cluster and draw its faults.

        Returns:
            The simulator at time 0, and the source of randomness for the orders.
        """
        config, workload, rng = self.draw()
        sim = Simulator(config, workload, horizon_s=self.horizon_s)
        sim.reset(rng)
        return sim, rng
