"""Which hosts are overloaded: the detectors of Beloglazov & Buyya, CCPE 24(13), 2012, each under its name.

The signal of a host is the sum of its VMs' demand. A forecast from a straight line through equally spaced
samples is a constant filter, ``y(n + horizon) = sum_i taps_i * y_i``, and a filter of a sum is the sum of the
filtered parts: such *additive* detectors filter every VM once an interval and a host only adds up. The median
absolute deviation, the interquartile range and the robust regression need the history of every host.

============ ================================================== =========
detector     a host of capacity C is overloaded when            safety s
============ ================================================== =========
thr          ``demand > s * C``                                 0.8
mad          ``demand > C - s * MAD(history)``                  2.5
iqr          ``demand > C - s * IQR(history)``                  1.5
ols          ``s * forecast >= C``, unweighted straight line    1.2
loess        ``s * forecast >= C``, tricube weights             1.2
loess_robust the same, refitted with bisquare weights           1.2
============ ================================================== =========
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.jit.kernels import kernel

from ..forecast.regression import forecast_robust, line_taps, median, sort_values, tricube_weights

ADDITIVE, MAD, IQR, ROBUST = 0, 1, 2, 3
"""Kinds of detectors in the kernel."""


@dataclass(frozen=True)
class Detector:
    """One overload detector.

    Attributes:
        name: Name in configurations.
        kind: Kind in the kernel.
        safety: Default of the parameter ``safety``.
        window: Default number of samples looked at.
        shortest: Fewest samples it works with; None = the whole window.
        forecasts: Whether ``safety`` multiplies a forecast (and else bounds the demand).
        description: One line.
    """

    name: str
    kind: int
    safety: float
    window: int
    shortest: int | None
    forecasts: bool
    description: str

    def min_samples(self, window: int) -> int:
        """Samples below which the fall-back threshold is used."""
        return window if self.shortest is None else min(self.shortest, window)

    def taps(self, window: int, horizon: int) -> F8:
        """The filter that makes a VM's signal from its window, oldest sample first, shape (n,)."""
        if self.name == "ols":
            return line_taps(np.ones(window), horizon)
        if self.name == "loess":
            return line_taps(tricube_weights(window), horizon)
        return np.ones(1)

    def factor(self, safety: float) -> float:
        """The multiple of a host's capacity at which an additive signal means overload."""
        return 1.0 / safety if self.forecasts else safety


DETECTORS: dict[str, Detector] = {
    d.name: d
    for d in (
        Detector("thr", ADDITIVE, 0.8, 1, None, False, "static threshold"),
        Detector("mad", MAD, 2.5, 30, 12, False, "median absolute deviation"),
        Detector("iqr", IQR, 1.5, 30, 12, False, "interquartile range"),
        Detector("ols", ADDITIVE, 1.2, 10, None, True, 'ordinary least squares (the literature\'s "LR")'),
        Detector("loess", ADDITIVE, 1.2, 10, None, True, "tricube-weighted local regression"),
        Detector(
            "loess_robust", ROBUST, 1.2, 10, None, True, "local regression refitted with bisquare weights"
        ),
    )
}
"""Every detector by name."""


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
