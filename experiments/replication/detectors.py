"""Kernels: when is a host overloaded.

Two kinds of detector. *Additive* ones compare a sum over the host's VMs with a limit: the static threshold
sums demands; a regression over equally spaced samples predicts with a constant filter, so that the prediction
of a host is the sum of the filtered series of its VMs. The others (MAD, IQR, robust regression) need the
window of the host.
"""

from __future__ import annotations

from math import floor

import numpy as np

from virtgym.envs.arrays import F8

from .kernel import inline_kernel, lean_kernel, wide

THR = 0
MAD = 1
IQR = 2
OLS = 3
LOESS = 4
ROBUST = 5

WINDOW = 30  # samples of history
LR_POINTS = 10
STATISTIC_POINTS = 12  # below this length MAD and IQR fall back on the static threshold
FALLBACK = 0.7


@lean_kernel
def add_history(past: F8, k: int, v: int, total: float, y: F8) -> None:
    """Add the demand of VM ``v`` up to round ``k`` to the utilisation history ``y`` of a host."""
    for i in range(min(k + 1, WINDOW)):
        y[i] += past[k - i, v] / total


@inline_kernel
def usable_length(y: F8, n: int) -> int:
    """Length of ``y[:n]`` without the zeros at its end, at least 1."""
    while n > 1 and y[n - 1] == 0.0:
        n -= 1
    return n


@lean_kernel
def _sort(y: F8, n: int, out: F8) -> None:
    """Put ``y[:n]`` in order into ``out``, by insertion: n is at most 30."""
    for i in range(n):
        value = y[i]
        j = i
        while j > 0 and out[j - 1] > value:
            out[j] = out[j - 1]
            j -= 1
        out[j] = value


@lean_kernel
def median(y: F8, n: int, work: F8) -> float:
    """Median of ``y[:n]``; the mean of the two middle values for even ``n``."""
    _sort(y, n, work)
    low: float = work[(n - 1) // 2]
    high: float = work[n // 2]
    return low + 0.5 * (high - low)


@inline_kernel
def mad(y: F8, n: int, work: F8) -> float:
    """Median absolute deviation of ``y[:n]``; ``work`` has two rows."""
    centre = median(y, n, work[0])
    for i in range(n):
        work[1, i] = abs(centre - y[i])
    return float(median(work[1], n, work[0]))


@inline_kernel
def quartile_range(y: F8, n: int, work: F8) -> float:
    """Interquartile range of ``y[:n]`` between two of its values, ranks rounded half up."""
    _sort(y, n, work)
    first = floor(0.25 * (n + 1) + 0.5) - 1
    third = floor(0.75 * (n + 1) + 0.5) - 1
    return float(work[third] - work[first])


@inline_kernel
def predict_ols(y: F8) -> float:
    """Least squares over the 10 newest values (``y[0]`` the newest), one step ahead, by updating sums."""
    mean_x = 1.0
    mean_y = y[LR_POINTS - 1]
    sum_x = 1.0
    sum_y = mean_y
    sxx = 0.0
    sxy = 0.0
    for i in range(1, LR_POINTS):
        x = i + 1.0
        value = y[LR_POINTS - 1 - i]
        dx = x - mean_x
        dy = value - mean_y
        share = i / (i + 1.0)
        sxx += dx * dx * share
        sxy += dx * dy * share
        mean_x += dx / (i + 1.0)
        mean_y += dy / (i + 1.0)
        sum_x += x
        sum_y += value
    slope = sxy / sxx
    return float((sum_y - slope * sum_x) / LR_POINTS + slope * (LR_POINTS + 1))


@inline_kernel
def _tricube(i: int) -> float:
    """Tricube weight of the i-th newest of the 10 values: (1 - u^3)^3, u its distance over the largest."""
    u = i / (LR_POINTS - 1.0)
    return (1.0 - u * u * u) ** 3


def filter_weights(kind: int) -> F8:
    """Weights c with prediction = sum_i c[i] y[i], ``y[0]`` the newest value.

    Args:
        kind: ``OLS`` (all points weigh the same) or another regression (tricube weights).

    Returns:
        The filter, (LR_POINTS,).
    """
    x = -np.arange(LR_POINTS, dtype=np.float64)
    w = np.ones(LR_POINTS) if kind == OLS else (1.0 - (-x / (LR_POINTS - 1)) ** 3) ** 3
    share = w / w.sum()
    offset = x - share @ x
    filtered: F8 = share + share * offset * (1.0 - share @ x) / (share @ offset**2)
    return filtered


@inline_kernel
def predict_weighted(y: F8, robust: bool, work: F8) -> float:
    """LOESS of degree 1 over the 10 newest values, one step ahead; robust: one bisquare reweighting."""
    w = work[0]
    for i in range(LR_POINTS):
        w[i] = _tricube(i)
    a, b = _weighted_line(y, w)
    if robust:
        residual = work[1]
        for i in range(LR_POINTS):
            residual[i] = abs(y[i] - (a - b * i))
        scale = 6.0 * median(residual, wide(LR_POINTS), work[2])
        if scale > 0.0:
            for i in range(LR_POINTS):
                u = residual[i] / scale
                w[i] *= (1.0 - u * u) ** 2 if u < 1.0 else 0.0
            a, b = _weighted_line(y, w)
    return a + b


@lean_kernel
def _weighted_line(y: F8, w: F8) -> tuple[float, float]:
    """Weighted least squares of ``y[i]`` on the time -i: value now and slope per step."""
    total = 0.0
    mean_x = 0.0
    mean_y = 0.0
    for i in range(LR_POINTS):
        total += w[i]
        mean_x += w[i] * -i
        mean_y += w[i] * y[i]
    mean_x /= total
    mean_y /= total
    sxx = 0.0
    sxy = 0.0
    for i in range(LR_POINTS):
        sxx += w[i] * (-i - mean_x) ** 2
        sxy += w[i] * (-i - mean_x) * (y[i] - mean_y)
    slope = sxy / sxx if sxx > 0.0 else 0.0
    return mean_y - slope * mean_x, slope


@lean_kernel
def window_overloaded(kind: int, safety: float, y: F8, n: int, req: float, work: F8) -> bool:
    """Whether a host with the utilisation history ``y[:n]`` (newest first) is overloaded.

    Args:
        kind: Detector.
        safety: Its parameter.
        y: Demand of the host's present VMs over its capacity.
        n: Length of the history.
        req: Demand now over capacity.
        work: Room, (3, WINDOW).

    Returns:
        The verdict of the detector, or of the static threshold while the history is short.
    """
    if kind == THR:
        return req > safety
    n = usable_length(y, n)
    if kind <= IQR:
        if n < STATISTIC_POINTS:
            return req > FALLBACK
        spread = mad(y, n, work) if kind == MAD else quartile_range(y, n, work[0])
        return req > 1.0 - safety * spread
    if n < LR_POINTS:
        return req > FALLBACK
    if kind == OLS:
        return safety * predict_ols(y) >= 1.0
    return safety * predict_weighted(y, kind == ROBUST, work) >= 1.0


@lean_kernel
def largest_load(total: float, threshold: float) -> float:
    """The largest load with load / total <= threshold in floating point, so that one comparison decides."""
    load = threshold * total
    while load / total > threshold:
        load = np.nextafter(load, 0.0)
    while np.nextafter(load, np.inf) / total <= threshold:
        load = np.nextafter(load, np.inf)
    return load
