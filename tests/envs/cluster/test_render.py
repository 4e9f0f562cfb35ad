"""Frames of the cluster environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.render import (
    BOTTOM,
    CHANGING,
    FUTURE,
    HEIGHT,
    LEFT,
    OFF_COLOUR,
    RIGHT,
    SHORT,
    TOP,
    WIDTH,
)
from virtgym.envs.sim.decisions import Decisions

TWO_HOURS = {"horizon_s": 7200.0}


def empty_and_switch_off(env: ClusterEnv, host: int) -> Decisions:
    """Move all VMs of a host to the next one where they fit, then switch it off."""
    s = env.sim.state
    vms = np.flatnonzero(s.vm_host == host).astype(np.int32)
    hosts = np.full(len(vms), (host + 1) % env.codec.n_hosts, dtype=np.int32)
    return Decisions(move_vm=vms, move_host=hosts, power_off=np.array([host], dtype=np.int32))


def strip_pixel(frame: Any, row: int, n_rows: int, column: int, n_columns: int) -> tuple[int, ...]:
    """Colour in the middle of a cell of the strip."""
    y = TOP + int((row + 0.5) * (BOTTOM - TOP) / n_rows)
    x = LEFT + int((column + 0.5) * (RIGHT - LEFT) / n_columns)
    return tuple(int(c) for c in frame[y, x])


def test_text_names_time_hosts_and_power() -> None:
    env = ClusterEnv("small", render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert text.startswith("small  day 1, 00:00  hosts on 10/10  power ")
    assert text.count("\n") == 11
    env.step(Decisions(power_on=np.array([0]), power_off=np.array([9])))
    lines = env.render().splitlines()
    assert "day 1, 00:05" in lines[0]
    assert "VMs" in lines[1]


def test_text_of_many_hosts_is_one_character_each() -> None:
    env = ClusterEnv("demo", render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert "hp_ml110_g4 (40)" in text
    assert max(map(len, text.splitlines())) <= 130


def test_strip_shows_off_changing_short_and_future_cells(make_cluster: Any, make_workload: Any) -> None:
    """Four hosts: one short of CPU, one with little load, one that boots, one that is off."""
    from typing import cast

    from virtgym.envs.scenarios.scenario import Scenario
    from virtgym.envs.scenarios.schema import ScenarioConfig

    cluster = make_cluster(4, arrival_cpu_overcommit=2.0, boot_time_s=600.0, shutdown_time_s=0.0)
    load = {"mem_mib": 512.0, "cpu_mhz": [2000.0, 2000.0, 200.0], "vcpus": 2}
    config = ScenarioConfig(name="hand", horizon_s=3600.0)
    scenario = Scenario(config, cluster, make_workload([[1.0, 1.0, 1.0]] * 12, **load), cast(Any, None), 0)
    env = ClusterEnv(scenario, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.sim.state.vm_host.tolist() == [0, 0, 1]
    env.step(Decisions(power_off=np.array([2, 3])))
    env.step(Decisions(power_on=np.array([2])))
    frame = env.render()
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    cells = [[strip_pixel(frame, row, 4, column, 12) for column in range(3)] for row in range(4)]
    assert cells[0] == [SHORT, SHORT, FUTURE]
    assert cells[2] == [OFF_COLOUR, CHANGING, FUTURE]
    assert cells[3] == [OFF_COLOUR, OFF_COLOUR, FUTURE]
    assert cells[1][0] not in (SHORT, OFF_COLOUR, CHANGING, FUTURE)
    assert cells[1][0][2] > cells[1][0][0], "little load is blue"


@pytest.mark.parametrize("name", ["small", "planetlab"])
def test_frames_grow_with_the_episode(name: str) -> None:
    env = ClusterEnv(name, scenario_overrides=TWO_HOURS, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(24):
        *_, over, _ = env.step(empty_and_switch_off(env, 0))
        frames.append(env.render())
    assert over
    assert all(frame.shape == frames[0].shape for frame in frames)
    assert strip_pixel(frames[0], 0, 10, 23, 24) == FUTURE
    assert strip_pixel(frames[-1], 0, 10, 23, 24) != FUTURE
    assert env.render() is not frames[-1]


def test_without_a_render_mode_there_is_nothing_to_see() -> None:
    env = ClusterEnv("small")
    env.reset(seed=0)
    assert env.render() is None
