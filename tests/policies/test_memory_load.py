"""Managers and multiplexed memory: no plan makes it cost work, hosts come on for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.memory import MemoryProfile
from virtgym.envs.sim.models.power import OFF, ON
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload
from virtgym.policies import make_policy

MANAGERS = ("dpm", "dpm_ortools", "platform")
HOURS = 6


def scene(
    make_sim: Any, make_cluster: Any, make_workload: Any, name: str, active: Any, touched: float = 0.0
) -> tuple[Simulator, Any]:
    """Two hosts of 16 GiB, 12 VMs of 2 GiB, 30 % of the CPU asked for; activity as a share of memory by time.

    One host has CPU for all of them, and the room of 1.5 times its memory.
    """
    share = np.atleast_1d(np.asarray(active, dtype=np.float64))
    rows = np.repeat(share[:, None], 12, axis=1)
    memory = MemoryProfile(touched_share=max(touched, float(share[0])), active_share=float(share[0]))
    util = np.full((len(share), 12), 0.4)
    load: Workload = make_workload(
        util, mem_mib=2048.0, cpu_mhz=1000.0, profiles=(GuestProfile(memory=memory),), profile=0
    )
    if len(share) > 1:
        load = replace(load, signals={"memory_active": rows})
    cluster = make_cluster(
        2, memory="multiplexed", cores=8, memory_mib=16384.0, boot_time_s=240.0, arrival="worst_fit"
    )
    policy = make_policy(name)
    sim = Simulator(cluster, load, horizon_s=HOURS * 3600.0)
    return sim, policy


def play(sim: Simulator, policy: Any) -> list[int]:
    """Play an episode; returns the number of hosts that are on in every interval."""
    policy.reset(sim.reset(np.random.default_rng(0)), np.random.default_rng(0))
    on = []
    while not sim.done:
        sim.step(policy.plan(sim.view))
        on.append(int((sim.state.host_power_state == ON).sum()))
    return on


@pytest.mark.parametrize("name", MANAGERS)
def test_memory_load_keeps_both_hosts_on(
    make_sim: Any, make_cluster: Any, make_workload: Any, name: str
) -> None:
    sim, policy = scene(make_sim, make_cluster, make_workload, name, 0.9)
    on = play(sim, policy)
    assert set(on) == {2}
    assert sim.metrics()["sla_unserved"] < 0.01
    assert (sim.state.host_mem_state <= 1).all()


@pytest.mark.parametrize("name", MANAGERS)
def test_a_light_memory_load_goes_onto_one_host(
    make_sim: Any, make_cluster: Any, make_workload: Any, name: str
) -> None:
    sim, policy = scene(make_sim, make_cluster, make_workload, name, 0.3)
    assert play(sim, policy)[-1] == 1
    assert sim.metrics()["sla_unserved"] < 0.01


@pytest.mark.parametrize("name", MANAGERS)
def test_memory_that_becomes_active_boots_the_second_host(
    make_sim: Any, make_cluster: Any, make_workload: Any, name: str
) -> None:
    active = np.concatenate([np.full(24, 0.3), np.linspace(0.3, 0.9, 18), np.full(30, 0.9)])
    sim, policy = scene(make_sim, make_cluster, make_workload, name, active)
    on = play(sim, policy)
    assert (on[20], on[-1]) == (1, 2)
    assert (sim.state.host_power_state != OFF).all()
    assert sim.metrics()["sla_unserved"] < 0.01
    assert (sim.state.host_mem_state <= 1).all()
