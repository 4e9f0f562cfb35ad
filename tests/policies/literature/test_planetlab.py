"""The baselines on a real PlanetLab day: recorded results, and what must hold between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.models.telemetry import TelemetryConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload
from virtgym.envs.traces.formats.planetlab import read_planetlab
from virtgym.policies import make_policy

GOLDEN = {  # (policy, memory) -> energy, kWh; migrations; hosts that are on
    ("static", "ignored"): (1758.21, 0, 800.0),
    ("npa", "ignored"): (2419.20, 0, 800.0),
    ("dvfs", "ignored"): (936.19, 0, 414.0),
    ("thr-mmt", "ignored"): (156.27, 33647, 54.5),
    ("mad-mmt", "ignored"): (149.5, 37407, 51.5),
    ("ols-mmt", "ignored"): (151.69, 21601, 52.8),
    ("loess-mmt", "ignored"): (152.35, 24571, 53.1),
    ("thr-mmt", "binding"): (753.13, 182, 329.0),
    ("ols-mmt", "binding"): (753.13, 182, 329.0),
}
"""20110303, seen as the literature saw it: by the demand that holds until the next sample. Decisions are
discrete: another rounding may move them a little, so 2 % is allowed."""
PAST_ESV = {"thr-mmt": 1.97e-3, "ols-mmt": 1.46e-3, "loess-mmt": 1.65e-3}
"""ESV of the same day where policies see the mean of the last interval (docs/model.md, telemetry)."""


@pytest.fixture(scope="module")
def planetlab(traces_dir: Path) -> Any:
    """Build the literature's scenario: 800 hosts, VM types in blocks of the sorted file names."""
    folder = traces_dir / "planetlab" / "20110303"
    if not folder.is_dir():
        pytest.skip(f"no trace at {folder}")
    util = read_planetlab(folder).util
    n = util.shape[1]
    kind = np.arange(n) // -(-n // 4)
    mhz, mem = np.array([2500.0, 2000.0, 1000.0, 500.0])[kind], np.array([870.0, 1740.0, 1740.0, 613.0])[kind]
    load = Workload(
        "20110303", 300.0, util, mhz, np.ones(n, dtype=np.int32), mem, np.zeros(n), np.full(n, np.inf)
    )
    hosts = tuple(
        HostType(table, 2, core, 4096.0, table, boot_time_s=0.0, shutdown_time_s=0.0)
        for table, core in (("hp_ml110_g4", 1860.0), ("hp_ml110_g5", 2660.0))
    )

    def build(memory: Any, arrival: Any, mode: str) -> Simulator:
        kinds = np.arange(800, dtype=np.int32) % 2
        config = ClusterConfig(
            hosts, kinds, memory=memory, arrival=arrival, arrival_core_speed=True,
            telemetry=TelemetryConfig(mode=mode),
        )  # fmt: skip
        return Simulator(config, load, strict=True)

    return build


def play(planetlab: Any, name: str, memory: str, mode: str) -> Simulator:
    """A policy's day."""
    policy: Any = make_policy(name)
    sim: Simulator = planetlab(memory, policy.arrival, mode)
    policy.reset(sim.view, np.random.default_rng(0))
    while not sim.done:
        sim.step(policy.plan(sim.view))
    return sim


@pytest.mark.parametrize("name", list(PAST_ESV))
def test_a_real_day_by_what_was_measured(planetlab: Any, name: str) -> None:
    """Within 15 %: what is assumed of VMs in the first interval alone, 0.12 to 0.5, moves ESV by as much."""
    assert play(planetlab, name, "ignored", "past").metrics()["esv"] == pytest.approx(
        PAST_ESV[name], rel=0.15
    )


@pytest.mark.parametrize(("name", "memory"), list(GOLDEN))
def test_a_real_day(planetlab: Any, name: str, memory: str) -> None:
    sim = play(planetlab, name, memory, "instant")
    metrics = sim.metrics()
    found = tuple(metrics[key] for key in ("energy_kwh", "migrations", "active_hosts"))
    assert found == pytest.approx(GOLDEN[name, memory], rel=0.02)
    assert metrics["slatah"] < 0.02
    assert metrics["sla_unserved"] < 0.01
    assert (sim.state.vm_host >= 0).all(), "a VM was dropped"
