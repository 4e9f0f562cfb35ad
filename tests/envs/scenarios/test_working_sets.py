"""Working sets with phases, and memory activity that a trace says itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios import build_scenario

MANY: dict[str, Any] = {
    "trace.options": {"n_vms": 60, "n_samples": 2000},
    "working_sets.enabled": True,
    "memory": "multiplexed",
}


def test_phases_have_the_length_the_spread_and_the_mean_asked_for() -> None:
    scenario = build_scenario("small", overrides={**MANY, "working_sets.phase_s": 1800.0})
    active = scenario.workload.signals["memory_active"]
    share = scenario.workload.profiles[0].memory.active_share
    assert active.shape == (2000, 60)
    assert active.max() <= 1.0
    assert active.mean() == pytest.approx(share, rel=0.1)
    changes = np.mean(active[1:] != active[:-1])  # either the VM's own phase ends, or the common one
    assert changes == pytest.approx(1 - np.exp(-2 * 300 / 1800), rel=0.05)
    level = np.log(active[active < 1.0] / share)
    assert level.std() == pytest.approx(0.5, rel=0.15)
    # A quarter of the variance is common: the mean over many VMs moves by about half of the spread.
    assert np.log(active).mean(axis=1).std() == pytest.approx(0.25, rel=0.35)


def test_phases_follow_the_seed_and_change_nothing_else() -> None:
    off, one, same, other = (
        build_scenario("small", seed=seed, overrides={**MANY, "working_sets.enabled": on})
        for seed, on in ((1, False), (1, True), (1, True), (2, True))
    )
    assert not off.workload.signals
    assert np.array_equal(off.workload.util, one.workload.util)
    assert np.array_equal(off.workload.vm_mem_mib, one.workload.vm_mem_mib)
    first, again, another = (x.workload.signals["memory_active"] for x in (one, same, other))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, another)


def test_what_is_dirtied_follows_what_is_active_if_asked() -> None:
    still = build_scenario("small", overrides={**MANY, "working_sets.dirty": False})
    assert "dirty_mib_s" not in still.workload.signals
    scenario = build_scenario("small", overrides=MANY)
    signals, kind = scenario.workload.signals, scenario.workload.profiles[0]
    level = signals["memory_active"] / signals["memory_active"].mean(axis=0)
    idle, busy = kind.dirty_mib_s
    want = (idle + busy * scenario.workload.util) * level
    assert signals["dirty_mib_s"] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("phases", [False, True])
def test_a_trace_that_knows_its_memory_is_believed(tmp_path: Path, phases: bool) -> None:
    """A column of memory activity reaches the state, whether phases are on or not."""
    table = tmp_path / "table.csv"
    rows = [f"{vm},{300 * k},0.1,{0.1 * (k + i)}" for i, vm in enumerate("ab") for k in range(4)]
    table.write_text("\n".join(["vm,time_s,cpu,signal_memory_active", *rows]) + "\n")
    changes = {"trace.path": str(table), "memory": "multiplexed", "working_sets.enabled": phases}
    scenario = build_scenario("small", overrides=changes)
    sim = scenario.simulator()
    sim.reset()
    for k in range(4):
        want = 0.1 * (k + np.arange(2)) * sim.params.vm_mem_mib
        assert sim.state.vm_active_mib == pytest.approx(want)
        sim.advance()
    assert ("dirty_mib_s" in scenario.workload.signals) == phases


@pytest.mark.parametrize("key", ["phase_s=0", "spread=-1", "together=1.5"])
def test_bad_values_name_their_key(key: str) -> None:
    name, value = key.split("=")
    with pytest.raises(ConfigError, match=f"working_sets.{name}"):
        build_scenario("small", overrides={f"working_sets.{name}": float(value)})
