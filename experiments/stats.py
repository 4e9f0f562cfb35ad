"""Statistics of few runs: means with intervals, robust means, bootstrap, paired comparison.

The robust ones follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021. A *task* is what makes runs comparable (a trace, a window); resampling runs within each task, so
that an interval is about the randomness of runs and not about the choice of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "iqm",
    "mean_interval",
    "paired_bootstrap_difference",
    "probability_of_improvement",
    "stratified_bootstrap",
]

F8 = NDArray[np.float64]
Statistic = Callable[[F8], F8]
"""Maps samples (..., n) to one number each, over the last axis."""


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may be.

    Attributes:
        estimate: The estimate.
        low: Lower end; NaN where no interval can be given.
        high: Upper end; NaN where no interval can be given.
        n: Number of values behind it.
    """

    estimate: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval, not only an estimate."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def holds(self, value: float) -> bool:
        """Whether a value lies in it (without an interval: equals the estimate)."""
        if not self.known:
            return value == self.estimate
        return self.low <= value <= self.high


def _finite(values: ArrayLike) -> F8:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def _bounds(samples: F8, confidence: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(samples, [tail, 100.0 - tail])
    return float(low), float(high)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval: mean ± t(n - 1) · s / √n.

    Args:
        values: Independent runs; those that are not finite are left out.
        confidence: Coverage.

    Returns:
        The mean; bounds are NaN for fewer than two values.
    """
    from scipy import stats

    x = _finite(values)
    if len(x) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if bool((x == x[0]).all()):  # the mean of equal numbers may differ from them in the last digit
        return Interval(float(x[0]), float(x[0]), float(x[0]), len(x))
    quantile = float(stats.t.ppf(0.5 + confidence / 2.0, len(x) - 1))
    half = quantile * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of the middle half (a quarter cut off at each end).

    Args:
        values: Runs, of all tasks together; those that are not finite are left out.
    """
    from scipy import stats

    x = _finite(values)
    return float(stats.trim_mean(x, 0.25)) if len(x) else math.nan


def _mean(samples: F8) -> F8:
    return np.asarray(samples.mean(axis=-1), dtype=np.float64)


def stratified_bootstrap(
    tasks: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    statistic: Statistic = _mean,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap that resamples the runs within each task.

    Args:
        tasks: The runs of each task.
        rng: Source of the resamples.
        statistic: Of all runs of all tasks together, over the last axis; the mean by default. For the
            interquartile mean: ``lambda x: scipy.stats.trim_mean(x, 0.25, axis=-1)``.
        n_resamples: Number of resamples.
        confidence: Coverage.

    Returns:
        The statistic of the given runs with its interval; bounds are NaN where no task has two runs.
    """
    runs = [x for x in map(_finite, tasks) if len(x)]
    if not runs:
        return Interval(math.nan, math.nan, math.nan, 0)
    pooled = np.concatenate(runs)
    estimate = float(statistic(pooled))
    if max(len(x) for x in runs) < 2:
        return Interval(estimate, math.nan, math.nan, len(pooled))
    draws = [x[rng.integers(0, len(x), size=(n_resamples, len(x)))] for x in runs]
    return Interval(estimate, *_bounds(statistic(np.concatenate(draws, axis=1)), confidence), len(pooled))


def paired_bootstrap_difference(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Mean of ``a - b`` over pairs (the same seed, trace and window), with a percentile bootstrap interval.

    Args:
        a: One value per pair.
        b: One value per pair, in the same order.
        rng: Source of the resamples.
        n_resamples: Number of resamples.
        confidence: Coverage.

    Returns:
        The mean difference; bounds are NaN for fewer than two complete pairs.

    Raises:
        ValueError: If the lengths differ.
    """
    x, y = (np.asarray(v, dtype=np.float64).ravel() for v in (a, b))
    if len(x) != len(y):
        raise ValueError(f"pairs: {len(x)} values against {len(y)}; must be as many")
    return stratified_bootstrap([x - y], rng, n_resamples=n_resamples, confidence=confidence)


def probability_of_improvement(a: ArrayLike, b: ArrayLike, *, lower_is_better: bool = True) -> float:
    """Chance that a run of ``a`` is better than a run of ``b``; ties count half (Mann-Whitney U / (n m)).

    Args:
        a: Runs.
        b: Runs.
        lower_is_better: Whether small values are good.
    """
    x, y = _finite(a), _finite(b)
    if not len(x) or not len(y):
        return math.nan
    gap = y[None, :] - x[:, None] if lower_is_better else x[:, None] - y[None, :]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))
