"""Kernels of the detectors that look at the history of a host; ``parts`` has all detectors by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.jit.kernels import kernel

from ..forecast.regression import forecast_robust, median, sort_values
from .parts import MAD, ROBUST


@kernel
def mad(values: F8, n: int) -> Any:
    """Median absolute deviation ``median |y_i - median(y)|`` of the first n values, which are overwritten."""
    middle = median(values, n)
    for i in range(n):
        values[i] = abs(values[i] - middle)
    return median(values, n)


@kernel
def iqr(values: F8, n: int) -> Any:
    """Interquartile range of the first n values, which are sorted in place.

    The quartiles are the order statistics of the literature's code, number ``round(0.25 (n + 1))`` and
    ``round(0.75 (n + 1))`` counted from 1, halves rounded up (n = 30: the 8th and the 23rd).
    """
    sort_values(values, n)
    low = int(np.floor(0.25 * (n + 1) + 0.5)) - 1
    high = int(np.floor(0.75 * (n + 1) + 0.5)) - 1
    return values[min(high, n - 1)] - values[max(low, 0)]


@kernel
def overloaded_history(
    kind: int,
    history: F8,
    n: int,
    demand: float,
    capacity: float,
    safety: float,
    tricube: F8,
    horizon: int,
    scratch: F8,
) -> Any:
    """Whether a history means overload, for the detectors that are not additive.

    Args:
        kind: MAD, IQR or ROBUST.
        history: Demand of the host, oldest first, MHz, shape (n,); kept.
        n: Number of samples.
        demand: Demand now, MHz.
        capacity: Of the host, MHz.
        safety: Parameter of the detector.
        tricube: Weights for ROBUST, shape (n,).
        horizon: Steps ahead for ROBUST.
        scratch: Overwritten, shape (>= 2 n,).
    """
    if kind == ROBUST:
        return safety * forecast_robust(history, tricube, n, horizon, scratch) >= capacity
    for i in range(n):
        scratch[i] = history[i]
    spread = mad(scratch, n) if kind == MAD else iqr(scratch, n)
    return demand > capacity - safety * spread
