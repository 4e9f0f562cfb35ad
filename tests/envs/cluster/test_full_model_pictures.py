"""Pictures and logs of the full model: hosts in standby, on their way, failed."""

from __future__ import annotations

import numpy as np
import pytest

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.render import (
    BOTTOM,
    CHANGING,
    FAILED_COLOUR,
    LEFT,
    RIGHT,
    STANDBY_COLOUR,
    TOP,
)
from virtgym.envs.sim.decisions import Decisions

# Every VM waits, so hosts are empty; host 1 fails and host 2 is suspended in the first of twelve intervals.
SCENE = {
    "horizon_s": 3600.0,
    "host_order": "grouped",  # rows of a picture are sorted by type
    "arrival": "policy",
    "power.suspend_time_s": 400.0,
    "power.pue": 1.4,
    "failures": {"enabled": True, "model": "none", "outages": [{"host": 1, "down_s": 100.0}]},
}
SUSPEND = Decisions(suspend=np.array([2]))


def make(render_mode: str | None = None) -> ClusterEnv:
    return ClusterEnv("small", scenario_overrides=SCENE, render_mode=render_mode)


def test_pictures_show_hosts_in_standby_and_failed() -> None:
    env = make("rgb_array")
    env.reset(seed=0)
    env.step(SUSPEND)
    env.step(0)
    env.step(0)
    frame = env.render()

    def pixel(row: int, column: int) -> tuple[int, ...]:
        y = TOP + int((row + 0.5) * (BOTTOM - TOP) / env.codec.n_hosts)
        x = LEFT + int((column + 0.5) * (RIGHT - LEFT) / 12)
        return tuple(int(c) for c in frame[y, x])

    assert pixel(2, 0) == CHANGING
    assert pixel(2, 2) == STANDBY_COLOUR
    assert pixel(1, 1) == FAILED_COLOUR
    env = make("ansi")
    env.reset(seed=0)
    env.step(SUSPEND)
    lines = env.render().splitlines()
    assert lines[2].endswith("failed")
    assert lines[3].endswith("suspending")
    env.step(0)
    env.step(env.codec.encode("power", 2))
    assert env.render().splitlines()[3].endswith("resuming")


def test_the_log_of_an_episode_tells_power_states_apart() -> None:
    recording = pytest.importorskip("virtgym.experiments.run.recording")
    env = make()
    env.reset(seed=0)
    sim = env.sim
    log = recording.Recorder(sim)
    for orders in (SUSPEND, None, None):
        sim.step(orders)
        log.record(0)
    log.close()
    assert log.heat[2, :3].tolist() == [recording.HEAT_IN_TRANSIT, recording.HEAT_OFF, recording.HEAT_OFF]
    assert log.heat[1, :3].tolist() == [recording.HEAT_FAILED] * 3
    columns = log.columns()
    assert columns["energy_kwh"].sum() == pytest.approx(sim.metrics()["energy_kwh"])
    assert columns["power_w"][0] * 300 / 3.6e6 * 1.4 == pytest.approx(columns["energy_kwh"][0])
