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
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "DETECTORS",
    "Detector",
    "forecast_robust",
    "iqr",
    "line_taps",
    "mad",
    "median",
    "overloaded_history",
    "tricube_weights",
]

F8 = NDArray[np.float64]

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


def tricube_weights(window: int) -> F8:
    """Weights of local regression at the newest sample (Cleveland, JASA 74, 1979).

    ``w_i = T(D_i / D_q)``, ``T(u) = (1 - |u|**3)**3``, where ``D_i`` is the distance of sample i from the
    newest and ``D_q`` that of the oldest: recent samples weigh most, the oldest nothing.

    Args:
        window: Number of samples, at least 3.

    Returns:
        Weights, oldest sample first, shape (window,).
    """
    distance = np.arange(window - 1, -1, -1, dtype=np.float64)
    return np.asarray((1.0 - (distance / distance[0]) ** 3) ** 3)


def line_taps(weights: F8, horizon: int) -> F8:
    """The filter that a weighted straight-line fit and its extrapolation amount to.

    Minimising ``sum w_i (y_i - a - b x_i)**2`` over ``x_i = 1..n`` gives
    ``a + b (n + horizon) = sum_i taps_i y_i`` with
    ``taps_i = w_i (1 / W + (n + horizon - m)(x_i - m) / S)``, ``W = sum w``, ``m = sum w x / W``,
    ``S = sum w (x - m)**2``.

    Args:
        weights: Weight per sample, oldest first, shape (n,).
        horizon: Steps ahead.

    Returns:
        Taps, oldest first, shape (n,).
    """
    n = weights.shape[0]
    x = np.arange(1, n + 1, dtype=np.float64)
    total = weights.sum()
    middle = (weights * x).sum() / total
    spread = (weights * (x - middle) ** 2).sum()
    return np.asarray(weights * (1.0 / total + (n + horizon - middle) * (x - middle) / spread))


@njit(cache=True)
def _sort(values: F8, n: int) -> None:
    """Sort the first n values (a window is short: insertion)."""
    for i in range(1, n):
        x = values[i]
        j = i - 1
        while j >= 0 and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x


@njit(cache=True)
def median(values: F8, n: int) -> Any:
    """Median of the first n values, which are sorted in place; the mean of the two middle ones for even n."""
    _sort(values, n)
    half = n // 2
    return values[half] if n % 2 == 1 else 0.5 * (values[half - 1] + values[half])


@njit(cache=True)
def mad(values: F8, n: int) -> Any:
    """Median absolute deviation ``median |y_i - median(y)|`` of the first n values, which are overwritten."""
    middle = median(values, n)
    for i in range(n):
        values[i] = abs(values[i] - middle)
    return median(values, n)


@njit(cache=True)
def iqr(values: F8, n: int) -> Any:
    """Interquartile range of the first n values, which are sorted in place.

    The quartiles are the order statistics of the literature's code, number ``round(0.25 (n + 1))`` and
    ``round(0.75 (n + 1))`` counted from 1, halves rounded up (n = 30: the 8th and the 23rd).
    """
    _sort(values, n)
    low = int(np.floor(0.25 * (n + 1) + 0.5)) - 1
    high = int(np.floor(0.75 * (n + 1) + 0.5)) - 1
    return values[min(high, n - 1)] - values[max(low, 0)]


@njit(cache=True)
def _fit_line(y: F8, weights: F8, n: int) -> Any:
    """Weighted straight line through x = 1..n: value at x = 0, slope, and whether it is determined."""
    total = 0.0
    sum_x = 0.0
    sum_y = 0.0
    for i in range(n):
        total += weights[i]
        sum_x += weights[i] * (i + 1)
        sum_y += weights[i] * y[i]
    if total <= 1e-12:
        return 0.0, 0.0, False
    mean_x = sum_x / total
    mean_y = sum_y / total
    spread = 0.0
    cross = 0.0
    for i in range(n):
        dx = i + 1 - mean_x
        spread += weights[i] * dx * dx
        cross += weights[i] * dx * (y[i] - mean_y)
    if spread <= 1e-9:
        return 0.0, 0.0, False
    slope = cross / spread
    return mean_y - slope * mean_x, slope, True


@njit(cache=True)
def forecast_robust(y: F8, tricube: F8, n: int, horizon: int, scratch: F8) -> Any:
    """Robust local regression: fit, weigh by the bisquare of the residuals, fit again (Cleveland 1979).

    ``r_i = B(e_i / (6 median|e|))``, ``B(u) = (1 - u**2)**2`` for ``|u| < 1``, else 0; the second fit has the
    weights ``r_i w_i``. A fit that goes through half of the samples exactly stands as it is.

    Args:
        y: Samples, oldest first, shape (>= n,).
        tricube: Weights of the first fit, shape (n,).
        n: Number of samples.
        horizon: Steps ahead.
        scratch: Overwritten, shape (>= 2 n,).

    Returns:
        The forecast.
    """
    base, slope, _ = _fit_line(y, tricube, n)
    largest = 0.0
    for i in range(n):
        scratch[i] = abs(y[i] - base - slope * (i + 1))
        largest = max(largest, abs(y[i]))
    scale = 6.0 * median(scratch, n)
    if scale > 1e-9 * largest:
        weights = scratch[n : 2 * n]
        for i in range(n):
            u = (y[i] - base - slope * (i + 1)) / scale
            weights[i] = tricube[i] * (1.0 - u * u) ** 2 if abs(u) < 1.0 else 0.0
        base2, slope2, ok = _fit_line(y, weights, n)
        if ok:
            base, slope = base2, slope2
    return base + slope * (n + horizon)


@njit(cache=True)
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
