"""Quantiles of the normal distribution, against SciPy's, from which they must not differ in any bit."""

from __future__ import annotations

import numpy as np
import pytest

from virtgym.envs.traces.normal import normal_quantiles


def test_quantiles_are_those_of_scipy_to_the_bit() -> None:
    special = pytest.importorskip("scipy.special")
    rng = np.random.default_rng(0)
    tails = 10.0 ** -rng.uniform(0.0, 300.0, 2000)
    shares = np.concatenate([rng.uniform(size=20_000), tails, 1.0 - tails[tails > 1e-15]])
    np.testing.assert_array_equal(normal_quantiles(shares), special.ndtri(shares))


def test_it_is_symmetric_and_0_in_the_middle() -> None:
    assert normal_quantiles(np.array([0.5])).tolist() == [0.0]
    np.testing.assert_allclose(normal_quantiles(np.array([0.025, 0.975])), [-1.959963985, 1.959963985])
