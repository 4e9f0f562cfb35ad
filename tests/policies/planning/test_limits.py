"""The operator's limits: no mover moves what is excluded, too soon, or too much at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE
from virtgym.policies import make_policy
from virtgym.policies.planning.limits import MoveLimits

MakeSim = Callable[..., Simulator]
EAGER: dict[str, dict[str, Any]] = {
    "drs": {"level": 5, "residence": 0},
    "dpm": {"min_on_s": 0, "settle_steps": 0},
    "dpm_ortools": {"rounds": 20, "period_s": 900.0},
    "platform": {},
    "fusioncompute": {"balance_s": 300.0, "baseline": 0.0, "level": 5, "cooldown_s": 0.0},
    "vmware_drs": {"level": 5},
    "proxmox_crs": {"hold_duration": 1, "threshold": 0.1, "margin": 0.01},
    "onedrs": {"interval_s": 2400.0, "weights": {"cpu_usage": 1.0}},
    "ovirt": {"mode": "even", "high": 0.5},
    "nutanix_ads": {"window_s": 300.0, "threshold": 0.5, "pause_s": 0.0},
    "xen_orchestra": {"critical_cpu": 50.0, "cooldown_s": 0.0, "max_concurrent": None},
    "cloudstack": {"interval_s": 300.0, "imbalance": 0.95},
}
"""Every mover, with parameters by which it moves much."""
POWER = ("dpm", "dpm_ortools", "platform")
"""Those that pack: their VMs begin spread out, under half the load."""


def episode(
    make_sim: MakeSim, name: str, **limits: Any
) -> tuple[list[tuple[float, int, int, int]], int, set[int]]:
    """Moves as (time, VM, from, to), most migrations under way at a time, hosts that were ever switched."""
    rng = np.random.default_rng(2)
    demand = rng.uniform(0.0, 1.0, (24, 1)) * rng.uniform(0.2, 1.0, (24, 16))
    spread = name in POWER
    sim = make_sim(
        demand * (0.4 if spread else 1.0), n_hosts=5, cores=4, memory_mib=16384.0, memory="binding",
        arrival="worst_fit" if spread else "first_fit", arrival_cpu_overcommit=2.0, horizon_s=7200.0,
        load={"mem_mib": [1024.0, 512.0] * 8}, strict=True,
    )  # fmt: skip
    policy: Any = make_policy(name, **{**EAGER[name], **limits})
    view = sim.reset(np.random.default_rng(0))
    policy.reset(view, np.random.default_rng(0))
    found, most, switched = [], 0, set[int]()
    while not sim.done:
        plan = policy.predict(None)[0]
        at = sim.state.vm_host[plan.move_vm].tolist()
        found += [
            (sim.time_s, v, a, h) for v, a, h in zip(plan.move_vm.tolist(), at, plan.move_host.tolist())
        ]
        switched.update([*plan.power_on.tolist(), *plan.power_off.tolist()])
        assert sim.apply(plan) == []
        most = max(most, int((sim.state.vm_mig != MIG_NONE).sum()))
        sim.advance()
    return found, most, switched


@pytest.mark.parametrize("name", EAGER)
def test_limits_bind_every_mover(make_sim: MakeSim, name: str) -> None:
    free, most, _ = episode(make_sim, name)
    assert free, "it moves"
    vm, host = free[0][1], free[0][3]
    moves, _, switched = episode(make_sim, name, exclude={"vms": [vm], "hosts": [host]})
    assert not [m for m in moves if m[1] == vm or host in m[2:]]
    assert host not in switched
    moves, _, _ = episode(make_sim, name, cooldown_s=3600.0)
    for v in {m[1] for m in moves}:
        times = [m[0] for m in moves if m[1] == v]
        assert all(b - a >= 3600.0 for a, b in pairwise(times)), times
    moves, at_once, _ = episode(make_sim, name, max_concurrent=1)
    assert at_once == 1 <= most
    assert moves


def test_an_affinity_group_goes_whole_or_not_at_all(make_sim: MakeSim) -> None:
    sim = make_sim(
        [0.1] * 4, n_hosts=2, cores=4, memory="ignored", arrival="first_fit", strict=True,
        rules=Rules(affinity=((0, 1),)),
    )  # fmt: skip
    view = sim.reset()
    assert sim.state.vm_host.tolist() == [0] * 4
    vms = np.array([2, 0, 1, 3], dtype=np.int32)
    plan = Decisions(move_vm=vms, move_host=np.ones(4, dtype=np.int32))

    def kept(**limits: Any) -> list[int]:
        given: dict[str, Any] = {"exclude": {}, "cooldown_s": 0.0, "max_concurrent": None, **limits}
        vms: list[int] = MoveLimits(view, **given).keep(view, plan).move_vm.tolist()
        return vms

    assert kept() == [2, 0, 1, 3]
    assert kept(max_concurrent=3) == [2, 0, 1]
    assert kept(max_concurrent=2) == [2, 3]  # there is room for one beside VM 2: not for the group
    assert kept(exclude={"vms": [1]}) == [2, 3]
    assert kept(exclude={"hosts": [1]}) == []


@pytest.mark.parametrize("exclude", [{"vms": [99]}, {"hosts": [-1]}, {"vms": 3}, {"hosts": ["a"]}])
def test_what_does_not_exist_is_named(make_sim: MakeSim, exclude: dict[str, Any]) -> None:
    sim = make_sim([0.1], n_hosts=1)
    with pytest.raises(ConfigError, match=r"^policy.exclude.(vms|hosts)"):
        make_policy("drs", exclude=exclude).reset(sim.reset(), np.random.default_rng(0))
