"""Proof of correctness: the replica without quirks and the main simulator agree on the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.replication.equivalence import COMPARED, compare_with_simulator

ENERGY, OTHERS = 1e-3, 1e-2
"""Relative differences allowed by the project's goal; what is seen is below 1e-6."""


def _check(policy: str, overrides: dict[str, object]) -> None:
    table = compare_with_simulator(build_scenario("planetlab", overrides=overrides), policy)
    gaps = dict(zip(table["metric"], table["relative_difference"]))
    assert set(gaps) == set(COMPARED)
    assert gaps["energy_kwh"] < 1e-6 < ENERGY
    assert all(gap < 1e-6 < OTHERS for gap in gaps.values()), table.to_string()


@pytest.mark.parametrize("policy", ["ols-mmt", "thr-mu", "dvfs"])
@pytest.mark.parametrize("memory", ["ignored", "binding"])
def test_generated_day(policy: str, memory: str) -> None:
    _check(policy, {"memory": memory, "trace.options": {"n_vms": 400, "seed": 5}})


def test_real_day(traces_dir: Path) -> None:
    _check("ols-mmt", {"trace.path": str(traces_dir / "planetlab" / "20110303")})


def test_a_changed_parameter_is_noticed() -> None:
    """The comparison can fail: another migration loss moves PDM."""
    overrides = {"trace.options": {"n_vms": 200, "seed": 5}, "migration.cpu_loss": 0.11}
    table = compare_with_simulator(build_scenario("planetlab", overrides=overrides), "ols-mmt")
    gap = table.set_index("metric")["relative_difference"]["pdm"]
    assert gap > 0.05
