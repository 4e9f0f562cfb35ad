"""The newest samples of every host or VM, kept without reallocation."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need, need_memory
from virtgym.envs.errors import ConfigError

YOUNG_SHARE = 0.1
"""Standard deviation that is assumed of a VM without history, as a share of its nominal CPU."""
YOUNG_SAMPLES = 2.0
"""Samples that this assumption counts for."""


class History:
    """A ring buffer of samples, time-major, that reads as one contiguous block.

    Every sample is written twice, a window apart, so that the window always lies in one piece and nothing is
    copied to read it.

    Args:
        n_series: Number of hosts or VMs, V.
        depth: Samples kept; a forecaster's ``samples``, or how much of the past should count where that is
            None.

    Attributes:
        counts: Samples that each series has, 0..depth, shape (V,); read only.

    Raises:
        ConfigError: If a number is out of range.

    Examples:
        >>> from virtgym.policies.forecast import make_forecaster
        >>> history = History(2, depth=3)
        >>> for demand in ([1.0, 9.0], [2.0, 9.0], [3.0, 9.0], [4.0, 9.0]):
        ...     history.push(demand)
        >>> history.values[:, 0]
        array([2., 3., 4.])
        >>> make_forecaster("mean").predict(history.values, counts=history.counts)
        array([3., 9.])
    """

    def __init__(self, n_series: int, depth: int) -> None:
        need(n_series >= 0, f"history: n_series={n_series} must be at least 0")
        need(depth >= 1, f"history: depth={depth} must be at least 1")
        need_memory(f"history: depth={depth}", depth, n_series, 16)
        self.depth = depth
        self.counts: I8 = np.zeros(n_series, dtype=np.int64)
        self._ring: F8 = np.full((2 * depth, n_series), 0.0)  # written: pages never written are slow to read
        self._at = 0

    @property
    def values(self) -> F8:
        """The window, oldest sample first, shape (depth, V): a view, valid until the next ``push``.

        Of series v only the newest ``counts[v]`` rows mean something.
        """
        return self._ring[self._at : self._at + self.depth]

    def push(self, sample: ArrayLike, active: ArrayLike | None = None) -> None:
        """Append a sample of every series.

        Args:
            sample: Shape (V,); finite where active.
            active: Which series exist, shape (V,) bool; one that does not loses its past, so that a place
                that is used again begins anew. None = all.

        Raises:
            ConfigError: For another shape or a sample that is not finite.
        """
        row = np.asarray(sample, dtype=np.float64)
        if row.shape != self.counts.shape:
            raise ConfigError(f"history: a sample must have shape {self.counts.shape}, is {row.shape}")
        there = True if active is None else np.asarray(active, dtype=np.bool_)
        row = np.where(there, row, 0.0)
        if not np.isfinite(row).all():
            bad = int(np.flatnonzero(~np.isfinite(row))[0])
            raise ConfigError(f"history: the sample of series {bad} is {row[bad]}; must be finite")
        self.counts += 1
        self.counts *= there
        np.minimum(self.counts, self.depth, out=self.counts)
        self._ring[self._at] = row
        self._ring[self._at + self.depth] = row
        self._at = (self._at + 1) % self.depth

    def forget(self, series: ArrayLike | None = None) -> None:
        """Drop the past of some series.

        Args:
            series: Their indices or a mask; None = all.
        """
        if series is None:
            self.counts[:] = 0
        else:
            self.counts[np.asarray(series)] = 0

    def copy(self) -> Self:
        """An independent copy, for a what-if."""
        return copy.deepcopy(self)


def squares_of_past(history: F8, counts: I8, window: int) -> tuple[F8, I8]:
    """Squares around the mean of the newest samples of every series, summed; and how many samples.

    Args:
        history: Shape (n, V).
        counts: Samples of each series, shape (V,).
        window: Samples that count, at most.

    Returns:
        Sums and numbers, (V,) each.
    """
    past = history[-window:]
    known = np.arange(len(past), 0, -1)[:, None] <= counts
    n = np.minimum(counts, window)
    mean = np.where(known, past, 0.0).sum(axis=0) / np.maximum(n, 1)
    return np.where(known, (past - mean) ** 2, 0.0).sum(axis=0), n


def young_variance(squares: F8, n: I8, nominal: ArrayLike) -> F8:
    """Variance of series, in which what is assumed of the young counts as ``YOUNG_SAMPLES`` samples.

    Args:
        squares: Sums of squares around the mean, (V,).
        n: Samples that they are of, (V,).
        nominal: What the series can be at most: nominal CPU, in their unit.
    """
    usual = (YOUNG_SHARE * np.asarray(nominal)) ** 2
    return np.asarray((squares + YOUNG_SAMPLES * usual) / (np.maximum(n - 1, 0) + YOUNG_SAMPLES))
