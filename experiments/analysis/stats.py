"""Statistics of few runs: means with intervals, robust means, bootstrap, paired comparison.

The robust ones follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021, with the definitions of their library rliable: interquartile mean, stratified bootstrap,
probability of improvement, performance profiles. A *task* is what makes runs comparable (a trace, a window);
resampling runs within each task, so that an interval is about the randomness of runs and not about the choice
of tasks. Where each policy plays the same windows once, it is the windows that are a sample: the paired
bootstrap resamples them for both policies together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virtgym.envs.arrays import F8

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


@functools.lru_cache(maxsize=1024)
def t_quantile(confidence: float, n: int) -> float:
    """The t for which a Student variable lies in -t..t with some probability.

    Its distribution for whole degrees of freedom is a finite sum in the angle arctan(t / sqrt(n)) (Abramowitz
    and Stegun, 26.7.3 and 26.7.4), which is bisected.

    Args:
        confidence: Probability, below 1.
        n: Degrees of freedom, at least 1.
    """
    odd = n % 2
    j = np.arange(1, (n - odd) // 2 if n > 1 else 0)
    factors = np.concatenate([np.ones(min(1, n - 1)), np.cumprod((2.0 * j - 1 + odd) / (2.0 * j + odd))])
    powers = np.arange(len(factors)) * 2 + odd
    low, high = 0.0, math.pi / 2.0
    for _ in range(80):
        angle = (low + high) / 2.0
        total = math.sin(angle) * float((factors * math.cos(angle) ** powers).sum())
        below = 2.0 / math.pi * (angle + total) if odd else total
        low, high = (angle, high) if below < confidence else (low, angle)
    return math.tan((low + high) / 2.0) * math.sqrt(n)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval: mean ± t(n - 1) · s / √n.

    Args:
        values: Independent runs; those that are not finite are left out.
        confidence: Coverage.

    Returns:
        The mean; bounds are NaN for fewer than two values.
    """
    x = _finite(values)
    if len(x) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if bool((x == x[0]).all()):  # the mean of equal numbers may differ from them in the last digit
        return Interval(float(x[0]), float(x[0]), float(x[0]), len(x))
    half = t_quantile(confidence, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x))


def trimmed_mean(values: ArrayLike, share: float = 0.1) -> float:
    """Mean without the lowest and the highest values: floor(share · n) of them are cut off at each end.

    Args:
        values: Runs, of all tasks together; those that are not finite are left out.
        share: Share cut off at each end, 10 % as in the placement benchmark of SPANE (INFOCOM 2025).
    """
    x = _finite(values)
    return float(TrimmedMean(share)(x)) if len(x) else math.nan


@dataclass(frozen=True)
class TrimmedMean:
    """Mean over the last axis without floor(share · n) values at each end, a statistic for the bootstraps.

    Attributes:
        share: Share cut off at each end, below 0.5: 0 = mean, 0.25 = interquartile mean.
    """

    share: float

    def __call__(self, samples: F8) -> F8:
        """The statistic of samples (..., n)."""
        n = samples.shape[-1]
        cut = int(self.share * n)
        if cut:
            samples = np.partition(samples, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
        return np.asarray(samples.mean(axis=-1), dtype=np.float64)

    def counted(self, values: F8, counts: F8) -> F8:
        """The statistic of resamples that are given by how often each value was drawn.

        Args:
            values: (n,).
            counts: (R, n), whole numbers.

        Returns:
            (R,): what ``__call__`` gives for each value repeated so often.
        """
        order = np.argsort(values, kind="stable")
        upto = np.cumsum(counts[:, order], axis=1)
        total = upto[:, -1:]
        cut = np.floor(self.share * total)
        kept = np.diff(np.clip(upto, cut, total - cut), axis=1, prepend=cut)
        return np.asarray(kept @ values[order] / (total - 2 * cut)[:, 0], dtype=np.float64)


mean_statistic = TrimmedMean(0.0)
trimmed_statistic = TrimmedMean(0.1)
iqm_statistic = TrimmedMean(0.25)


MIN_BLOCKS = 10
"""Independent blocks below which nothing is said to beat or to lose: an interval from fewer is not to be
trusted, whatever it says."""


def independent_blocks(first: ArrayLike, length: ArrayLike, results: F8) -> NDArray[np.int64]:
    """Group windows of one stream into blocks that can be resampled as if they were independent.

    Windows that overlap hold the same requests, and neighbours share the state of the world (a heavy day, one
    huge request): resampling them one by one gives intervals that are too narrow. A block is all windows that
    begin in the same stretch of rows (Künsch 1989, for a grid of stretches). It is at least as long as a
    window, and is doubled while neighbouring blocks still go up and down together: while the lag-1
    correlation of block means of the results is above 2 / √blocks, as long as ``MIN_BLOCKS`` remain.

    Args:
        first: Row where each window begins, (W,).
        length: Rows of each window, (W,).
        results: By entry and window, (E, W), less what all windows have in common: differences of entries.

    Returns:
        Number of the block of each window, (W,), from 0.
    """
    begin = np.asarray(first, dtype=np.int64)
    rows = max(1, int(np.max(length)))
    while True:
        labels = np.unique(begin // rows, return_inverse=True)[1]
        n = int(labels.max()) + 1
        if n < 2 * MIN_BLOCKS or _lag_correlation(labels, results) <= 2.0 / math.sqrt(n):
            return labels.astype(np.int64)
        rows *= 2


def _lag_correlation(labels: NDArray[np.intp], results: F8) -> float:
    """Largest lag-1 correlation of block means over the entries; 0 where all blocks are equal."""
    n = int(labels.max()) + 1
    of_block = np.bincount(labels, minlength=n)
    found = 0.0
    for values in results:
        means = np.bincount(labels, values, minlength=n) / of_block
        gaps = means - means.mean()
        spread = float(gaps @ gaps)
        if spread > 1e-12 * float(means @ means):
            found = max(found, float(gaps[1:] @ gaps[:-1]) / spread)
    return found


def stratified_bootstrap(
    tasks: Sequence[ArrayLike],
    rng: np.random.Generator,
    *,
    statistic: Statistic = mean_statistic,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap that resamples the runs within each task.

    Args:
        tasks: The runs of each task.
        rng: Source of the resamples.
        statistic: Of all runs of all tasks together, over the last axis: ``mean_statistic``,
            ``iqm_statistic``, ``trimmed_statistic`` or your own.
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


def paired_samples(
    runs: Mapping[str, F8],
    rng: np.random.Generator,
    statistics: Mapping[str, TrimmedMean],
    *,
    blocks: NDArray[np.int64] | None = None,
    n_resamples: int = 2000,
) -> dict[str, dict[str, F8]]:
    """Statistics of resampled pairs: the differences of two entries have a paired bootstrap interval.

    A pair is the same window (trace, seed) under all entries. Each resample draws blocks of windows with
    replacement, the same for all, and takes the statistic of every entry in it, so that what makes a window
    hard for all cancels in differences. For the mean this is the bootstrap of the differences; for a trimmed
    mean it is not, since each side is trimmed by itself.

    Args:
        runs: By entry one value per run and window, (S, n), the same windows in the same order: runs (seeds
            of a learner) are resampled as well, and the statistic is averaged over them.
        rng: Source of the resamples.
        statistics: By name.
        blocks: Block of each window, (n,), as from ``independent_blocks``; None = each is one.
        n_resamples: Number of resamples, R.

    Returns:
        By statistic and entry, (R,).

    Raises:
        ValueError: If the numbers of windows differ.
    """
    sizes = {values.shape[1] for values in runs.values()}
    if len(sizes) > 1:
        raise ValueError(f"pairs: {' and '.join(map(str, sorted(sizes)))} values; must be as many")
    (n,) = sizes
    labels = np.arange(n) if blocks is None else blocks
    counts = draw_counts(int(labels.max()) + 1, rng, n_resamples)[:, labels]
    found: dict[str, dict[str, F8]] = {name: {} for name in statistics}
    for entry, values in runs.items():
        mix = rng.integers(0, len(values), size=(len(values), n_resamples))
        for name, statistic in statistics.items():
            each = np.stack([statistic.counted(run, counts) for run in values])
            found[name][entry] = np.take_along_axis(each, mix, axis=0).mean(axis=0)
    return found


def draw_counts(n: int, rng: np.random.Generator, n_resamples: int) -> F8:
    """How often each of n things is drawn in resamples of n with replacement, (R, n)."""
    drawn = rng.integers(0, n, size=(n_resamples, n)) + n * np.arange(n_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_resamples * n).reshape(n_resamples, n).astype(np.float64)


def distinct_runs(runs: F8) -> F8:
    """One run, (1, n), where all S are the same: the mean of equal numbers may differ in the last digit."""
    return runs[:1] if bool((runs == runs[0]).all()) else runs


def probability_of_improvement(a: ArrayLike, b: ArrayLike, *, lower_is_better: bool = True) -> float:
    """Chance that a run of ``a`` is better than a run of ``b``; ties count half (Mann-Whitney U / (n m)).

    Args:
        a: Runs, (n,) of one task, or (n, tasks): then the mean over tasks of the chance within each
            (rliable's definition), over those that both have.
        b: Runs, (m,) or (m, tasks).
        lower_is_better: Whether small values are good.

    Raises:
        ValueError: If the numbers of tasks differ.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if max(x.ndim, y.ndim) < 2:
        return _chance(x, y, lower_is_better)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"tasks: {x.shape[1:]} against {y.shape[1:]}; must be as many")
    chances = [_chance(x[:, task], y[:, task], lower_is_better) for task in range(x.shape[1])]
    known = _finite(chances)
    return float(known.mean()) if len(known) else math.nan


def _chance(a: F8, b: F8, lower_is_better: bool) -> float:
    x, y = _finite(a), _finite(b)
    if not len(x) or not len(y):
        return math.nan
    gap = y[None, :] - x[:, None] if lower_is_better else x[:, None] - y[None, :]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def performance_profile(values: ArrayLike, taus: ArrayLike, *, lower_is_better: bool = False) -> F8:
    """Share of runs, of all tasks together, that are better than each of some thresholds.

    The run-score distribution of Agarwal et al.: the share of scores above tau. A curve that lies above
    another one everywhere is better in every respect (stochastic dominance).

    Args:
        values: Runs; NaN is left out, infinite values count.
        taus: Thresholds, (T,).
        lower_is_better: Share at or below the threshold instead (an empirical distribution function).

    Returns:
        Shares, (T,); NaN if there are no runs.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    x = np.sort(x[~np.isnan(x)])
    thresholds = np.asarray(taus, dtype=np.float64)
    if not len(x):
        return np.full(thresholds.shape, math.nan)
    below = np.searchsorted(x, thresholds, side="right") / len(x)
    return np.asarray(below if lower_is_better else 1.0 - below, dtype=np.float64)


def percentile_interval(estimate: float, samples: F8, n: int, confidence: float = 0.95) -> Interval:
    """The interval that holds the middle of resampled estimates.

    Args:
        estimate: The estimate.
        samples: The same of each resample, (R,).
        n: Number of values behind the estimate; fewer than two give no interval.
        confidence: Coverage.
    """
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n)
    return Interval(estimate, *_bounds(samples, confidence), n)


def resampled_means(values: F8, rng: np.random.Generator, *, n_resamples: int = 2000) -> F8:
    """Means of bootstrap resamples that are the same for every column.

    Rows (VMs, windows) are drawn with replacement, whole: a ratio or difference of columns within a resample
    is that of paired values.

    Args:
        values: (n, K).
        rng: Source of the resamples.
        n_resamples: Number of resamples, R.

    Returns:
        Means, (R, K).
    """
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    chunk = max(1, 4_000_000 // max(1, n))  # rows are drawn 32 MB at a time
    for first in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - first)
        means[first : first + size] = draw_counts(n, rng, size) @ values / n
    return means
