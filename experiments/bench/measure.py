"""What is measured and how: best of several warm runs, CPU time of this process."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles.twin import PlainSimulator
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.sim.decisions import Decisions


@dataclass(frozen=True)
class Measured:
    """One line of the result table.

    Attributes:
        name: What ran.
        seconds: Best CPU time, s.
        work: Units of work done in it.
        unit: Name of a unit of work.
        note: Anything a reader needs.
    """

    name: str
    seconds: float
    work: float
    unit: str
    note: str = ""

    @property
    def per_second(self) -> float:
        """Units of work per second."""
        return self.work / self.seconds if self.seconds > 0 else float("inf")


def best_of(run: Callable[[], Any], repeats: int = 5, setup: Callable[[], Any] | None = None) -> float:
    """Least CPU time of ``run`` over ``repeats`` calls after one that is not counted, s."""
    best = float("inf")
    for index in range(repeats + 1):
        if setup is not None:
            setup()
        start = time.process_time()
        run()
        used = time.process_time() - start
        if index > 0:
            best = min(best, used)
    return best


def day_scenario(trace: str | None, **overrides: Any) -> Scenario:
    """The ``planetlab`` scenario on a day folder, or on a generated day of 1,052 VMs."""
    changes: dict[str, Any] = dict(overrides)
    if trace is None:
        changes.update({"trace.options": {"n_vms": 1052}})
    else:
        changes["trace.path"] = trace
    return build_scenario("planetlab", overrides=changes)


def physics_day(trace: str | None, repeats: int = 10) -> Measured:
    """A day without a decision, in one kernel call: first-fit placement, empty hosts off."""
    from virtgym.policies import make_policy

    scenario = day_scenario(trace)
    simulator = scenario.simulator()
    policy: Any = make_policy("dvfs")

    def setup() -> None:
        simulator.reset()
        policy.reset(simulator.view, np.random.default_rng(0))
        simulator.apply(policy.plan(simulator.view))

    seconds = best_of(simulator.run, repeats, setup)
    intervals = scenario.workload.n_vms * scenario.horizon_s / scenario.cluster.interval_s
    return Measured("physics alone, one day", seconds, intervals, "VM-interval")


def plain_physics_day(trace: str | None) -> Measured:
    """The same day in plain Python: objects, dictionaries and a heap."""
    scenario = day_scenario(trace)
    twin = PlainSimulator(scenario.cluster, scenario.workload)
    start = time.process_time()
    twin.run()
    intervals = scenario.workload.n_vms * scenario.horizon_s / scenario.cluster.interval_s
    return Measured("physics alone, plain Python", time.process_time() - start, intervals, "VM-interval")


def planned_day(trace: str | None, policy_name: str, memory: str, repeats: int = 5) -> Measured:
    """A day under a baseline, decided interval by interval."""
    from virtgym.policies import make_policy

    scenario = day_scenario(trace, memory=memory)
    policy: Any = make_policy(policy_name)
    simulator = scenario.simulator(arrival=getattr(policy, "arrival", None))

    def setup() -> None:
        simulator.reset()
        policy.reset(simulator.view, np.random.default_rng(0))

    def run() -> None:
        while not simulator.done:
            simulator.step(policy.plan(simulator.view))

    seconds = best_of(run, repeats, setup)
    energy = simulator.metrics()["energy_kwh"]
    return Measured(f"{policy_name}, memory {memory}", seconds, 1.0, "day", f"{energy:.1f} kWh")


def replica_day(trace: str | None, policy_name: str = "lr-mmt", repeats: int = 5) -> Measured:
    """A day of the CloudSim replica, all quirks on."""
    from ..replication import run_replica

    percent = np.ascontiguousarray(np.round(day_scenario(trace).workload.util.T * 100.0))
    seconds = best_of(lambda: run_replica(percent, policy_name), repeats)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return Measured(
        f"CloudSim replica, {policy_name}", seconds, 1.0, "day", f"peak memory {memory:.0f} MB so far"
    )


def decisions_per_second(
    scenario: str, n_decisions: int, overrides: Mapping[str, Any] | None = None
) -> Measured:
    """Random legal decisions through ``gym.make``, with observation and mask."""
    import gymnasium as gym

    import virtgym.envs  # noqa: F401  (registers the environments)

    env = gym.make("virtgym/Cluster-v0", scenario=scenario, scenario_overrides=dict(overrides or {}))
    masks: Callable[[], Any] = env.unwrapped.action_masks  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    draws = rng.random(n_decisions + 2000)
    env.reset(seed=0)

    def play(count: int) -> None:
        for index in range(count):
            legal = np.flatnonzero(masks())
            _, _, terminated, truncated, _ = env.step(int(legal[int(draws[index] * len(legal))]))
            if terminated or truncated:
                env.reset()

    play(min(1000, n_decisions))
    start = time.process_time()
    play(n_decisions)
    seconds = time.process_time() - start
    inner: Any = env.unwrapped
    size = f"{inner.sim.view.n_hosts} hosts x {inner.sim.view.n_vms} VMs"
    return Measured(
        f"Cluster-v0, {size}", seconds, float(n_decisions), "decision", "random legal actions, gym.make"
    )


def scaling(sizes: tuple[int, ...] = (100, 1000, 10000), vms_per_host: int = 10) -> list[Measured]:
    """An interval of the physics at growing size, ten VMs a host."""
    results = []
    for hosts in sizes:
        n_vms = hosts * vms_per_host
        group = {"name": "r740", "count": hosts, "cores": 56, "core_mhz": 2700.0, "memory_mib": 393216.0}
        scenario = build_scenario(
            {
                "name": "scaling",
                "trace": {"format": "synthetic", "options": {"n_vms": n_vms, "n_samples": 12}},
                "hosts": [{**group, "power_w": "dell_r740_8280"}],
                "vm_types": [{"name": "medium", "vcpus": 4, "vcpu_mhz": 2700.0, "memory_mib": 16384.0}],
            }
        )
        simulator = scenario.simulator()
        seconds = best_of(lambda s=simulator: s.run(), 3, lambda s=simulator: s.reset())  # type: ignore[misc]
        results.append(Measured(f"{hosts} hosts x {n_vms} VMs", seconds / 12, float(n_vms), "VM-interval"))
    return results


EVERYTHING: dict[str, Any] = {
    **{f"{name}.enabled": True for name in ("overhead", "cpu", "numa", "io", "failures", "standby")},
    "numa.cpu_overcommit": 4.0,
    "memory": "multiplexed",
    "migration.mode": "precopy",
}
"""Every sub-model on."""


def full_interval(trace: str | None, repeats: int = 3) -> Measured:
    """An interval of ``planetlab_full`` without a policy: 800 hosts, every sub-model on."""
    changes = {"trace.options": {"n_vms": 1052}} if trace is None else {"trace.path": trace}
    scenario = build_scenario("planetlab_full", overrides=changes)
    simulator = scenario.simulator()
    seconds = best_of(simulator.run, repeats, lambda: simulator.reset(np.random.default_rng(0)))
    steps = scenario.horizon_s / scenario.cluster.interval_s
    name = f"full model, {simulator.view.n_hosts} hosts and {simulator.view.n_vms} VMs"
    return Measured(name, seconds / steps, 1.0, "interval", "every sub-model on, no policy")


def full_scaling(sizes: tuple[int, ...] = (1000, 10000), moves: float = 0.01) -> list[Measured]:
    """A step of the full model at growing size: ten VMs a host, one in a hundred ordered to move."""
    results = []
    for hosts in sizes:
        n_vms = hosts * 10
        group = {"name": "r740", "count": hosts, "cores": 56, "core_mhz": 2700.0, "memory_mib": 163840.0}
        scenario = build_scenario(
            {
                "name": "scaling",
                "trace": {"format": "synthetic", "options": {"n_vms": n_vms, "n_samples": 6}},
                "hosts": [{**group, "power_w": "dell_r740_8280", "numa_nodes": 2, "nic_mbps": 10_000.0}],
                "vm_types": [{"name": "medium", "vcpus": 4, "vcpu_mhz": 2700.0, "memory_mib": 16384.0}],
            },
            overrides=EVERYTHING,
        )
        simulator = scenario.simulator()
        simulator.reset(np.random.default_rng(0))
        rng = np.random.default_rng(1)
        best = math.inf
        for _ in range(6):
            vms = rng.choice(n_vms, int(moves * n_vms), replace=False).astype(np.int32)
            orders = Decisions(move_vm=vms, move_host=rng.integers(0, hosts, len(vms)).astype(np.int32))
            start = time.process_time()
            simulator.step(orders)
            best = min(best, time.process_time() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        done = int(simulator.metrics()["migrations"])
        note = f"{done} migrations in 6 intervals, peak memory {memory:.1f} GiB so far"
        name = f"full: {hosts} hosts x {n_vms} VMs"
        results.append(Measured(name, best, float(n_vms), "VM-interval", note))
    return results


def cold_start(arguments: tuple[str, ...] = ("list",), repeats: int = 3) -> Measured:
    """A fresh process of the command line, wall time."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "virtgym.experiments.cli", *arguments], check=True, capture_output=True
        )
        best = min(best, time.perf_counter() - start)
    return Measured(f"cold start of `virtgym {' '.join(arguments)}`", best, 1.0, "start", "wall time")
