"""Straight lines through equally spaced samples: the arithmetic that detectors and forecasters share.

Local regression is that of Cleveland, "Robust Locally Weighted Regression and Smoothing Scatterplots", JASA
74, 1979, at the newest sample x: ``w_i(x) = T(D_i(x) / D_(q)(x))``, ``T(u) = (1 - |u|**3)**3`` for
``|u| < 1``, else 0, where ``D_i(x)`` is the distance of sample i and ``D_(q)(x)`` that of the q-th nearest,
here the oldest of a window of q samples; then ``a, b`` minimise ``sum w_i (y_i - a - b x_i)**2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.jit.kernels import kernel


def tricube_weights(window: int) -> F8:
    """Weights of local regression at the newest sample (Cleveland, JASA 74, 1979).

    ``w_i = T(D_i / D_q)``, ``T(u) = (1 - |u|**3)**3``, where ``D_i`` is the distance of sample i from the
    newest and ``D_q`` that of the oldest: recent samples weigh most, the oldest nothing.

    Args:
        window: Number of samples, at least 2.

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


@kernel
def sort_values(values: F8, n: int) -> None:
    """Sort the first n values in place (a window is short: insertion)."""
    for i in range(1, n):
        x = values[i]
        j = i - 1
        while j >= 0 and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x


@kernel
def median(values: F8, n: int) -> Any:
    """Median of the first n values, which are sorted in place; the mean of the two middle ones for even n."""
    sort_values(values, n)
    half = n // 2
    return values[half] if n % 2 == 1 else 0.5 * (values[half - 1] + values[half])


@kernel
def _fit(y: F8, weights: F8, n: int, degree: int) -> Any:
    """Weighted constant or line through x = 1..n: value at x = 0, slope, whether it is determined."""
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
    if degree == 0:
        return mean_y, 0.0, True
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


@kernel
def fit_robust(y: F8, tricube: F8, n: int, degree: int, rounds: int, scratch: F8) -> Any:
    """Robust local regression: fit, weigh by the bisquare of the residuals, fit again (Cleveland 1979).

    ``r_i = B(e_i / (6 median|e|))``, ``B(u) = (1 - u**2)**2`` for ``|u| < 1``, else 0; each further fit has
    the weights ``r_i w_i``. A fit that goes through half of the samples exactly stands as it is.

    Args:
        y: Samples, oldest first, shape (>= n,).
        tricube: Weights of the first fit, shape (>= n,).
        n: Number of samples.
        degree: 0 = a constant, 1 = a straight line.
        rounds: Number of further fits.
        scratch: Overwritten, shape (>= 2 n,).

    Returns:
        Value at x = 0 and slope, with samples at x = 1..n.
    """
    base, slope, _ = _fit(y, tricube, n, degree)
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(y[i]))
    for _k in range(rounds):
        for i in range(n):
            scratch[i] = abs(y[i] - base - slope * (i + 1))
        scale = 6.0 * median(scratch, n)
        if scale <= 1e-9 * largest:
            break
        weights = scratch[n : 2 * n]
        for i in range(n):
            u = (y[i] - base - slope * (i + 1)) / scale
            weights[i] = tricube[i] * (1.0 - u * u) ** 2 if abs(u) < 1.0 else 0.0
        base2, slope2, ok = _fit(y, weights, n, degree)
        if not ok:
            break
        base, slope = base2, slope2
    return base, slope


@kernel
def forecast_robust(y: F8, tricube: F8, n: int, horizon: int, scratch: F8) -> Any:
    """Forecast of a straight line by ``fit_robust`` with one further fit.

    Args:
        y: Samples, oldest first, shape (>= n,).
        tricube: Weights of the first fit, shape (n,).
        n: Number of samples.
        horizon: Steps ahead.
        scratch: Overwritten, shape (>= 2 n,).

    Returns:
        The forecast.
    """
    base, slope = fit_robust(y, tricube, n, 1, 1, scratch)
    return base + slope * (n + horizon)
