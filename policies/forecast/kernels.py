"""Kernels of the forecasters: every series of a time-major history at once.

A history is (n, V), oldest sample first; ``counts`` (V,) says how many of its newest samples each series has,
and ``out`` (V,) takes the forecasts. Loops run over samples outside and series inside, along memory. A series
without a sample is forecast to be 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.kernels import kernel

from .regression import fit_robust


@kernel
def forecast_filter(history: F8, counts: I8, taps: F8, out: F8) -> Any:
    """Constant filters ``out = sum_k taps[c, k] * y(newest - k)``, c the samples that a series has.

    Args:
        history: Shape (n, V).
        counts: Shape (V,), 0..n.
        taps: Row c for series of c samples, newest sample first, zeros beyond c, shape (window + 1, window);
            a longer series has the last row.
        out: Shape (V,).
    """
    n = history.shape[0]
    window = taps.shape[1]
    out[:] = 0.0
    for k in range(min(n, window)):
        row = history[n - 1 - k]
        for v in range(out.shape[0]):
            if k < counts[v]:
                out[v] += taps[min(counts[v], window), k] * row[v]


@kernel
def forecast_mean(history: F8, counts: I8, window: int, out: F8) -> Any:
    """Mean of the newest ``window`` samples, or of those that there are.

    Args:
        history: Shape (n, V).
        counts: Shape (V,), 0..n.
        window: At least 1.
        out: Shape (V,).
    """
    n = history.shape[0]
    out[:] = 0.0
    for k in range(min(n, window)):
        row = history[n - 1 - k]
        for v in range(out.shape[0]):
            if k < counts[v]:
                out[v] += row[v]
    for v in range(out.shape[0]):
        out[v] /= max(1, min(counts[v], window))


@kernel
def forecast_ewma(history: F8, counts: I8, alpha: float, out: F8) -> Any:
    """Exponential smoothing ``s <- s + alpha * (y - s)``, begun with the oldest sample of each series.

    Args:
        history: Shape (n, V).
        counts: Shape (V,), 0..n.
        alpha: Weight of the newest sample.
        out: Shape (V,).
    """
    n = history.shape[0]
    out[:] = 0.0
    for i in range(n):
        row = history[i]
        for v in range(out.shape[0]):
            first = n - counts[v]
            if i > first:
                out[v] += alpha * (row[v] - out[v])
            elif i == first:
                out[v] = row[v]


@kernel
def forecast_robust_line(
    history: F8, counts: I8, weights: F8, steps: int, degree: int, rounds: int, out: F8
) -> Any:
    """Robust local regression of each series; one that is too short for it keeps its newest sample.

    Args:
        history: Shape (n, V).
        counts: Shape (V,), 0..n.
        weights: Row c for series of c samples, oldest first, shape (window + 1, window).
        steps: Steps ahead.
        degree: 0 = a constant, 1 = a straight line.
        rounds: Fits with bisquare weights.
        out: Shape (V,).
    """
    n = history.shape[0]
    window = weights.shape[1]
    shortest = 4 if degree == 1 else 2
    y = np.empty(window)
    scratch = np.empty(2 * window)
    for v in range(out.shape[0]):
        c = min(counts[v], window)
        if c < shortest:
            out[v] = history[n - 1, v] if c > 0 else 0.0
            continue
        for i in range(c):
            y[i] = history[n - c + i, v]
        base, slope = fit_robust(y, weights[c], c, degree, rounds, scratch)
        out[v] = base + slope * (c + steps)


@kernel
def forecast_seasonal(history: F8, counts: I8, period: int, seasons: int, steps: int, out: F8) -> Any:
    """Mean of the samples at the same place of earlier seasons; a series without one keeps its ``out``.

    Args:
        history: Shape (n, V).
        counts: Shape (V,), 0..n.
        period: Samples per season.
        seasons: Earlier seasons to look at.
        steps: Steps ahead.
        out: Shape (V,).
    """
    n = history.shape[0]
    nearest = (steps + period - 1) // period
    for v in range(out.shape[0]):
        total = 0.0
        found = 0
        for j in range(nearest, nearest + seasons):
            at = n - 1 + steps - j * period
            if at < n - counts[v]:
                break
            total += history[at, v]
            found += 1
        if found > 0:
            out[v] = total / found
