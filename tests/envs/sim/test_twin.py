"""The simulator against its plain-Python twin, over random episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.twin import PlainSimulator
from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload
from virtgym.envs.traces.formats.planetlab import read_planetlab

N_EPISODES = 400
TOLERANCE = 1e-9


def deviations(sim: Simulator, twin: PlainSimulator) -> dict[str, float]:
    """Largest relative deviation of every quantity.

    The scale is the largest value of its kind; for CPU that was missed or lost, one interval of a VM's
    nominal CPU: where the twin has exactly 0, the simulator may keep a rounding error of what came and went.
    """
    s, t = sim.state, sim.state.totals
    hosts, vms, count = twin.hosts, twin.vms, twin.count
    pairs: dict[str, tuple[Any, Any]] = {
        "host_energy": (s.host_energy_j, [h.energy_j for h in hosts]),
        "host_active": (s.host_active_s, [h.active_s for h in hosts]),
        "host_short": (s.host_sat_s, [h.short_s for h in hosts]),
        "vm_requested": (s.vm_requested, [v.requested for v in vms]),
        "vm_missed": (s.vm_missed, [v.missed for v in vms]),
        "vm_lost": (s.vm_mig_lost, [v.lost for v in vms]),
        "vm_down": (s.vm_down_s, [v.down_s for v in vms]),
        "energy": (t.energy_j, sum(h.energy_j for h in hosts)),
        "requested": (t.requested, sum(v.requested for v in vms)),
        "missed": (t.missed, sum(v.missed for v in vms)),
        "lost": (t.mig_lost, sum(v.lost for v in vms)),
        "on": (t.on_s, sum(h.on_s for h in hosts)),
        "active": (t.active_s, sum(h.active_s for h in hosts)),
        "short": (t.sat_s, sum(h.short_s for h in hosts)),
        "down": (t.down_s, sum(v.down_s for v in vms)),
        "boots": (t.boots, count["boots"]),
        "done": (t.mig_done, count["done"]),
        "aborted": (t.mig_aborted, count["aborted"]),
        "arrivals": (t.arrivals, count["arrivals"]),
        "departures": (t.departures, count["departures"]),
        "vm_host": (s.vm_host, [v.host.index if v.host else -1 for v in vms]),
        "power_now": (s.host_power_now_w, [h.power_w for h in hosts]),
        "missing_now": (s.vm_miss_mhz, [v.missing for v in vms]),
    }
    mine, theirs = sim.metrics(), twin.metrics()
    pairs |= {f"metric {name}": (mine[name], theirs[name]) for name in theirs}
    worst = {}
    work = float(sim.params.vm_cpu_mhz.min()) * sim.params.interval_s
    floor = {"vm_missed": work, "missed": work, "vm_lost": work, "lost": work, "missing_now": 1.0}
    for name, (got, want) in pairs.items():
        a, b = np.atleast_1d(np.asarray(got, float)), np.atleast_1d(np.asarray(want, float))
        assert (np.isnan(a) == np.isnan(b)).all(), name
        scale = max(float(np.nanmax(np.abs(b), initial=0.0)), floor.get(name, 0.0), 1e-6)
        worst[name] = float(np.nanmax(np.abs(a - b), initial=0.0)) / scale
    return worst


def run_both(episode: Any) -> dict[str, float]:
    """Play one episode in both and compare."""
    sim = Simulator(episode.config, episode.workload, horizon_s=episode.horizon_s)
    twin = PlainSimulator(episode.config, episode.workload, horizon_s=episode.horizon_s)
    worst = deviations(sim, twin)
    illegal = 0
    while not sim.done:
        orders = episode.orders(sim)
        before = len(sim.refusals)
        sim.step(orders)
        codes = [code for code in twin.step(orders) if code]
        illegal += len(codes)
        assert [r.code for r in sim.refusals] == codes, (before, sim.refusals, codes)
        now = deviations(sim, twin)
        worst = {name: max(worst[name], now[name]) for name in worst}
    assert sim.state.totals.illegal == illegal
    return worst


@pytest.mark.parametrize("block", range(8))
def test_every_total_equals_the_twin(random_episode: Any, block: int) -> None:
    size = N_EPISODES // 8
    for seed in range(block * size, (block + 1) * size):
        worst = run_both(random_episode(seed))
        bad = {name: value for name, value in worst.items() if not value <= TOLERANCE}
        assert not bad, f"seed {seed}: {bad}"


def test_a_real_day_equals_the_twin(traces_dir: Path) -> None:
    """800 hosts and the 1,052 VMs of a PlanetLab day, some twenty random moves per interval."""
    trace = read_planetlab(traces_dir / "planetlab" / "20110303")
    n = trace.n_vms
    kind = np.arange(n) * 4 // n
    types = (
        HostType("G4", 2, 1860.0, 4096.0, "hp_ml110_g4"),
        HostType("G5", 2, 2660.0, 4096.0, "hp_ml110_g5"),
    )
    config = ClusterConfig(
        types, np.arange(800, dtype=np.int32) % 2, memory="ignored", arrival_core_speed=True
    )
    mhz, mib = np.array([2500.0, 2000.0, 1000.0, 500.0])[kind], np.array([870.0, 1740.0, 1740.0, 613.0])[kind]
    columns = (mhz, np.ones(n, dtype=np.int32), mib, trace.arrival_s, trace.departure_s)
    workload = Workload(trace.name, trace.sample_s, trace.util, *columns)
    sim, twin = Simulator(config, workload), PlainSimulator(config, workload)
    rng = np.random.default_rng(0)
    while not sim.done:
        moves = int(rng.integers(0, 40))
        hosts = [rng.integers(0, 800, size).astype(np.int32) for size in (moves, 3, 3)]
        vms = rng.integers(0, n, moves).astype(np.int32)
        orders = Decisions(move_vm=vms, move_host=hosts[0], power_on=hosts[1], power_off=hosts[2])
        sim.step(orders)
        assert [r.code for r in sim.refusals] == [code for code in twin.step(orders) if code]
    assert sim.metrics()["migrations"] > 4000
    worst = deviations(sim, twin)
    assert max(worst.values()) <= TOLERANCE, worst
