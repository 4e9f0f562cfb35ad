"""Forecasts of demand for forks: flat, or carried along a daily wave that all VMs share.

The wave. Utilisation u of VM v follows logit u = level(v) + a sin(2 pi t / day) + b cos(2 pi t / day), and
noise: least squares of a and b over all samples in which a VM was not idle, each VM with a level of its own
(so that who comes and leaves is no wave), drawn towards 0 by a normal prior. The level is smoothed VM by VM:
it is carried along the wave from interval to interval, and forecast by carrying it on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need, need_positive, one_of
from virtgym.envs.jit.kernels import kernel

from ..forecast.forecasters import Forecaster, make_forecaster
from ..forecast.history import History

DAILY = "daily"
"""The name of ``DailyWave``."""

LONGEST_PAST = 2000
"""Samples that are kept for a forecaster that looks at all of them."""

DAY_S = 86_400.0

CLIP = 0.005
"""Utilisation below which a sample counts as idle, and above 1 less it as full: its logit says nothing."""

CORRELATED = 5.0
"""Factor on the variance of the noise: neighbours in time are alike, and count as fewer samples [assumed]."""


class Outlook(Protocol):
    """Forecasts the utilisation of every VM."""

    def push(self, time_s: float, util: F8, there: B1) -> F8:
        """Take note of the utilisation over the interval that ends at a time, of the VMs that are there.

        Returns:
            Levels of now, (V,); of who has no past what was measured.
        """

    def path(self, level: F8, time_s: float, n: int) -> F8:
        """Utilisation over n intervals, (n, V), or over all of them, (1, V).

        Args:
            level: What ``push`` gave at that time, (V,).
            time_s: Begin of the first interval, s.
            n: Intervals.
        """


class Flat:
    """What a forecaster says, for ever.

    Args:
        forecaster: The forecaster.
        n_vms: Number of VMs, V.
        interval_s: Length of an interval, s; of no account.
    """

    def __init__(self, forecaster: Forecaster, n_vms: int, interval_s: float = 0.0) -> None:
        self._forecaster = forecaster
        self._history = History(n_vms, forecaster.samples or LONGEST_PAST)

    def push(self, time_s: float, util: F8, there: B1) -> F8:
        """See ``Outlook``."""
        history = self._history
        history.push(np.where(there, util, 0.0), there)
        mean = self._forecaster.predict(history.values, counts=history.counts)
        return np.where(history.counts > 0, mean, util)

    def path(self, level: F8, time_s: float, n: int) -> F8:
        """See ``Outlook``."""
        return level[None]


@kernel
def _carried(share: float, shift: float) -> float:
    """Utilisation whose logit is shifted."""
    odds = math.exp(shift)
    return share * odds / (1.0 - share + share * odds)


@kernel
def _carry(levels: F8, shifts: F8, out: F8) -> None:
    """Levels (V,) shifted by every one of n, (n, V)."""
    for i in range(len(shifts)):
        for v in range(len(levels)):
            out[i, v] = _carried(min(max(levels[v], 0.0), 1.0), shifts[i])


@kernel
def _take_note(util: F8, there: B1, sine: float, cosine: float, sums: F8, squares: F8) -> None:
    """Add the samples of an interval to the sums of every VM, (6, V), and to those of squares over all."""
    for v in range(len(util)):
        if not there[v] or util[v] <= CLIP:
            continue
        share = min(util[v], 1.0 - CLIP)
        x = math.log(share / (1.0 - share))
        sums[0, v] += 1.0
        sums[1, v] += x
        sums[2, v] += sine
        sums[3, v] += cosine
        sums[4, v] += x * sine
        sums[5, v] += x * cosine
        squares[0, v] += sine * sine
        squares[1, v] += sine * cosine
        squares[2, v] += cosine * cosine
        squares[3, v] += x * x


@kernel
def _fit(sums: F8, squares: F8, amplitude: float, fit: F8) -> None:
    """The wave's two numbers by ridge regression within VMs."""
    left = samples = ss = sc = cc = xs = xc = 0.0
    for v in range(sums.shape[1]):
        n = sums[0, v]
        if n < 2.0:
            continue
        x, s, c = sums[1, v], sums[2, v], sums[3, v]
        xs += sums[4, v] - x * s / n
        xc += sums[5, v] - x * c / n
        ss += squares[0, v] - s * s / n
        sc += squares[1, v] - s * c / n
        cc += squares[2, v] - c * c / n
        left += squares[3, v] - x * x / n
        samples += n - 1.0
    if samples == 0.0:
        return
    prior = CORRELATED * max(left / samples, 1e-6) / amplitude**2
    ss += prior
    cc += prior
    area = ss * cc - sc * sc
    fit[0] = (cc * xs - sc * xc) / area
    fit[1] = (ss * xc - sc * xs) / area


class DailyWave:
    """The wave, and the level of every VM.

    Args:
        amplitude: Standard deviation of the prior of a and b, in logits.
        alpha: Weight of the newest sample in a VM's level.
        n_vms: Number of VMs, V.
        interval_s: Length of an interval, s.
    """

    def __init__(self, amplitude: float, alpha: float, n_vms: int, interval_s: float) -> None:
        self._amplitude, self._alpha, self._interval_s = amplitude, alpha, interval_s
        self._level: F8 = np.full(n_vms, -1.0)  # -1 = without a sample
        self._sums, self._squares = np.zeros((6, n_vms)), np.zeros((4, n_vms))
        self._samples = np.zeros(n_vms)
        self._fitted = np.zeros(2)
        self._last_s: float | None = None

    def _phase(self, begin_s: float) -> float:
        return 2.0 * math.pi * (begin_s + 0.5 * self._interval_s) / DAY_S

    def _at(self, begin_s: float) -> float:
        """The wave over the interval that begins at a time, logits."""
        phase = self._phase(begin_s)
        return float(self._fitted[0] * math.sin(phase) + self._fitted[1] * math.cos(phase))

    def push(self, time_s: float, util: F8, there: B1) -> F8:
        """See ``Outlook``."""
        begin_s = time_s - self._interval_s
        phase = self._phase(begin_s)
        _take_note(util, there, math.sin(phase), math.cos(phase), self._sums, self._squares)
        _fit(self._sums, self._squares, self._amplitude, self._fitted)
        level = self._level
        if self._last_s is not None:
            shift = np.array([self._at(begin_s) - self._at(self._last_s)])
            carried = np.empty((1, len(level)))
            _carry(level, shift, carried)
            level = np.where(level < 0.0, level, carried[0])
        self._last_s = begin_s
        self._samples = np.where(there, self._samples + 1.0, 0.0)
        weight = np.maximum(self._alpha, 1.0 / np.maximum(self._samples, 1.0))  # at first the plain mean
        smoothed = np.where(level < 0.0, util, level + weight * (util - level))
        self._level = np.where(there, smoothed, -1.0)
        return np.where(there, smoothed, util)

    def path(self, level: F8, time_s: float, n: int) -> F8:
        """See ``Outlook``."""
        now = self._at(time_s - self._interval_s)
        shifts = np.array([self._at(time_s + i * self._interval_s) - now for i in range(n)])
        out = np.empty((n, len(level)))
        _carry(level, shifts, out)
        return out


def make_outlook(name: str, params: Mapping[str, Any]) -> Callable[[int, float], Outlook]:
    """What makes the outlook of an episode, of the number of VMs and the length of an interval (s).

    Args:
        name: ``DAILY``, a name of ``forecast.FORECASTERS``, dotted path or folder.
        params: Parameters: of ``DAILY`` ``amplitude`` and ``alpha``, else of the forecaster.

    Raises:
        ConfigError: For an unknown name or parameter, or a value that is not allowed.
    """
    if name != DAILY:
        forecaster = make_forecaster(name, "policy.forecaster", **params)
        return functools.partial(Flat, forecaster)
    given = {"amplitude": 0.5, "alpha": 0.1}
    for key, value in params.items():
        need_positive("policy.forecast", **{one_of("policy.forecast", key, tuple(given)): value})
        given[key] = float(value)
    need(given["alpha"] <= 1.0, f"policy.forecast.alpha={given['alpha']}: must be above 0 and at most 1")
    return functools.partial(DailyWave, given["amplitude"], given["alpha"])
