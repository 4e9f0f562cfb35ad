"""Candidates that change which hosts run and where load is: they save what they say."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.cluster.candidates.columns import CANDIDATE_COLUMNS
from virtgym.envs.cluster.candidates.settings import BALANCE, TRADE
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import OFF, ON

NAMES = [column.name for column in CANDIDATE_COLUMNS]
TWO_KINDS: dict[str, Any] = {
    "name": "two_kinds",
    "trace": {"format": "synthetic", "options": {"n_vms": 8, "n_samples": 24}},
    "host_order": "grouped",
    "hosts": [
        {
            **{"name": "dear", "count": 2, "cores": 4, "core_mhz": 2660, "memory_mib": 8192},
            **{"power_w": "hp_ml110_g5", "boot_time_s": 60, "shutdown_time_s": 0},
        },
        {
            **{"name": "cheap", "count": 1, "cores": 6, "core_mhz": 3067, "memory_mib": 16384},
            **{"power_w": "ibm_x3550_x5675", "boot_time_s": 60, "shutdown_time_s": 0},
        },
    ],
    "vm_types": [{"name": "web", "vcpus": 1, "vcpu_mhz": 2000, "memory_mib": 1024, "profile": "web"}],
    "memory": "binding",
    "arrival": "worst_fit",
}


def offered(env: ClusterEnv, kind: int, turn: int = 0) -> int:
    """The slot of a kind's candidate, -1 = it is not offered."""
    slot = int(np.flatnonzero(env.form.candidates.kind == kind)[turn])
    return slot if env.form.candidates.mask[slot] else -1


def test_a_trade_switches_to_the_host_that_idles_cheaper() -> None:
    env = ClusterEnv({**TWO_KINDS, "arrival": "first_fit"}, actions="candidates")
    env.reset(seed=0)
    home = env.sim.state.vm_host
    assert not (home == 2).any()
    assert offered(env, TRADE) < 0  # nothing is off
    env.step(Decisions(power_off=np.array([2], np.int32)))
    assert env.sim.state.host_power_state[2] == OFF
    orders = env.form.decisions(offered(env, TRADE))
    assert orders.power_on.tolist() == [2]
    assert len(orders.power_off) == 1
    old = int(orders.power_off[0])
    assert sorted(orders.move_vm.tolist()) == np.flatnonzero(home == old).tolist()
    row = env.form.candidates.features[offered(env, TRADE)]
    assert row[NAMES.index("hosts_on_change")] == 0.0
    assert row[NAMES.index("idle_power_change")] < 0.0
    env.step(offered(env, TRADE))
    env.step(0)
    assert env.sim.state.host_power_state.tolist()[old] == OFF
    assert env.sim.state.host_power_state[2] == ON
    assert env.sim.state.totals.illegal == 0


def test_load_is_brought_where_it_costs_least_power() -> None:
    env = ClusterEnv(TWO_KINDS, actions="candidates", candidates={"moves": 4})
    env.reset(seed=0)
    env.step(0)
    found, over = 0, False
    while not over:
        slot = offered(env, BALANCE, 2)
        if slot >= 0:
            row = env.form.candidates.features[slot]
            assert row[NAMES.index("idle_power_change")] == 0.0
            assert len(env.form.decisions(slot).move_vm) <= 5  # an exchange may pass the mark by one
            found += 1
        *_, over, _ = env.step(max(0, slot))
    assert found
    assert env.sim.state.totals.illegal == 0
