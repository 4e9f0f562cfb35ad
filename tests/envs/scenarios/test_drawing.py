"""A scenario drawn anew, as every reset with ``resample_trace`` does, is the one that its seed builds."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from virtgym.envs.scenarios import build_scenario


@pytest.mark.parametrize(
    "name", ["small", "demo", "suite/memory", "suite/churn", "suite/ha_hot", "suite/upgrade"]
)
def test_a_scenario_drawn_anew_is_the_one_built_with_that_seed(name: str) -> None:
    first = build_scenario(name)
    drawn, built = first.drawn_anew(5), build_scenario(asdict(first.config), seed=5)
    assert (drawn.seed, drawn.horizon_s, drawn.config) == (5, built.horizon_s, built.config)
    ours, theirs = drawn.simulator(), built.simulator()
    assert ours.digest() == theirs.digest()
    for mine, other in zip(ours.params, theirs.params, strict=True):
        np.testing.assert_array_equal(mine, other)
