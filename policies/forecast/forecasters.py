"""Forecasts of demand, for all hosts or VMs at once.

============== ================================================================================
forecaster     forecast of the sample h steps after the newest, y_n
============== ================================================================================
persistence    ``y_n``
mean           mean of the whole history
moving_average mean of the newest ``window`` samples
ewma           ``s_n = alpha y_n + (1 - alpha) s_(n-1)``, ``s_1 = y_1``
ols            unweighted straight line through ``window`` samples (what CloudSim calls "LR")
loess0         local regression of degree 0: mean with tricube weights
loess          local regression of degree 1: straight line with tricube weights
loess_robust0  ``loess0`` refitted with bisquare weights of the residuals over 6 median |r|
loess_robust   ``loess`` refitted likewise
seasonal       mean of the samples at the same place of up to ``seasons`` earlier seasons
============== ================================================================================

The arithmetic of local regression and its source stand in ``regression.py``. A series that is too short for
a line with a degree of freedom (3 samples; with tricube weights, where the oldest weighs nothing, 4) is
forecast to keep its newest sample, one that is shorter than a season as by ``ewma``, and one without a sample
to be 0.
Forecasts are what the formula gives: a line may leave the range of what can be; cut it where that matters.
"""

from __future__ import annotations

import functools
import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Registry

from ..schema import construct, is_folder

LONGEST = 2000
"""Longest window of a regression: its filters for every shorter history are a table."""


class Forecaster(ABC):
    """Base of the forecasters: frozen dataclasses whose fields are the parameters."""

    @property
    @abstractmethod
    def samples(self) -> int | None:
        """Newest samples that a forecast looks at; None = all that there are."""

    def predict(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8:
        """Forecast every series.

        Args:
            history: Samples at equal distances, time-major, oldest first, shape (n, V), finite.
            steps: Steps ahead, at least 1.
            counts: How many of the newest samples each series has, shape (V,); None = all n. What stands
                before them is not read.

        Returns:
            Forecasts, shape (V,), in the unit of the history; 0 for a series without a sample.

        Raises:
            ConfigError: For a history that is not two-dimensional, counts of another shape or steps below 1.
        """
        past, known = self._checked(history, steps, counts)
        out = np.zeros(past.shape[1])
        if len(past):
            self._forecast(past, int(steps), known, out)
        return out

    def deviation(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8 | None:
        """Standard deviation to expect of the error of forecasts, for who plans with a margin.

        Returns:
            Shape (V,), in the unit of the history, at least 0; None = the forecaster does not know, and the
            caller takes the standard deviation of the past. Arguments as of ``predict``.
        """
        return None

    def upper(self, history: ArrayLike, steps: int = 1, counts: ArrayLike | None = None) -> F8 | None:
        """Upper quantiles of what is forecast, rising.

        Returns:
            Shape (levels, V), levels as in ``inputs.QUANTILES[1:]``; None = the forecaster does not know.
        """
        return None

    def _checked(self, history: ArrayLike, steps: int, counts: ArrayLike | None) -> tuple[F8, I8]:
        """The samples that a forecast looks at, (n, V), and how many each series has, (V,)."""
        # A kernel is compiled once for writable, contiguous arrays; others are copied.
        past = np.require(history, np.float64, ["C", "W"])
        if past.ndim != 2:
            raise ConfigError(f"history: must have shape (n, V), is {past.shape}")
        need(steps >= 1, f"steps={steps}: must be at least 1")
        past = past[-(self.samples or len(past)) :]
        n, series = past.shape
        if counts is None:
            known = np.full(series, n, dtype=np.int64)
        else:
            known = np.clip(np.asarray(counts, dtype=np.int64), 0, n)
            if known.shape != (series,):
                raise ConfigError(f"counts: must have shape ({series},), is {known.shape}")
        return past, known

    @abstractmethod
    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        """Write the forecasts of a history of at least one sample."""


def _check_at_least(key: str, value: float, least: int, most: float = math.inf) -> None:
    if not least <= value <= most:
        limit = f"at least {least}" if most == math.inf else f"from {least} to {most:g}"
        raise ConfigError(f"forecaster.{key}={value}: must be {limit}")


def _check_alpha(alpha: float) -> None:
    need(0.0 < alpha <= 1.0, f"forecaster.alpha={alpha}: must be above 0 and at most 1")


def _ewma_samples(alpha: float) -> int:
    """Samples after which exponential smoothing has forgotten all but a millionth of what came before."""
    return 1 if alpha == 1.0 else math.ceil(math.log(1e-6) / math.log1p(-alpha))


@dataclass(frozen=True)
class Persistence(Forecaster):
    """The newest sample, for any number of steps."""

    @property
    def samples(self) -> int | None:
        """One."""
        return 1

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        out[:] = np.where(counts > 0, history[-1], 0.0)


@dataclass(frozen=True)
class Mean(Forecaster):
    """Mean of the newest samples, for any number of steps.

    Attributes:
        window: Samples; None = the whole history.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        """Check the window.

        Raises:
            ConfigError: If it is below 1.
        """
        if self.window is not None:
            _check_at_least("window", self.window, 1)

    @property
    def samples(self) -> int | None:
        """The window."""
        return self.window

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        kernels.forecast_mean(history, counts, self.window or len(history), out)


@dataclass(frozen=True)
class Ewma(Forecaster):
    """Exponentially weighted moving average ``s_n = alpha y_n + (1 - alpha) s_(n-1)``, ``s_1 = y_1``.

    The forecast is flat: simple exponential smoothing (Brown 1959).

    Attributes:
        alpha: Weight of the newest sample, above 0, at most 1 (persistence).
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        """Check the weight.

        Raises:
            ConfigError: If it is outside of (0, 1].
        """
        _check_alpha(self.alpha)

    @property
    def samples(self) -> int | None:
        """Samples after which all but a millionth is forgotten; older ones are not read."""
        return _ewma_samples(self.alpha)

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        kernels.forecast_ewma(history, counts, float(self.alpha), out)


@dataclass(frozen=True)
class OrdinaryLeastSquares(Forecaster):
    """Unweighted straight line through the newest samples, extrapolated.

    This is what CloudSim's ``LR`` computes (over 10 samples): it never applies its weights, so it is no local
    regression.

    Attributes:
        window: Samples, 3 to 2,000.
    """

    window: int = 72

    def __post_init__(self) -> None:
        """Check the window.

        Raises:
            ConfigError: If it is out of range.
        """
        _check_at_least("window", self.window, 3, LONGEST)

    @property
    def samples(self) -> int | None:
        """The window."""
        return self.window

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        kernels.forecast_filter(history, counts, _line_table(self.window, steps, False, 1), out)


@dataclass(frozen=True)
class LocalRegression(Forecaster):
    """Local regression at the newest sample with tricube weights, extrapolated (Cleveland 1979).

    Attributes:
        window: Samples q with the newest; the oldest weighs nothing. At least 4 (degree 0: 2), at most 2,000.
        degree: 0 = a constant, 1 = a straight line.
    """

    window: int = 96
    degree: int = 1

    def __post_init__(self) -> None:
        """Check window and degree.

        Raises:
            ConfigError: If one is out of range.
        """
        _check_at_least("degree", self.degree, 0, 1)
        _check_at_least("window", self.window, _shortest(self.degree), LONGEST)

    @property
    def samples(self) -> int | None:
        """The window."""
        return self.window

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        kernels.forecast_filter(history, counts, _line_table(self.window, steps, True, self.degree), out)


@dataclass(frozen=True)
class RobustLocalRegression(Forecaster):
    """Local regression, refitted with bisquare weights ``B(r_i / (6 median|r|))`` (Cleveland 1979).

    Attributes:
        window: Samples, as of ``LocalRegression``.
        degree: 0 = a constant, 1 = a straight line.
        rounds: Refits, at least 1.
    """

    window: int = 96
    degree: int = 1
    rounds: int = 1

    def __post_init__(self) -> None:
        """Check window, degree and rounds.

        Raises:
            ConfigError: If one is out of range.
        """
        _check_at_least("degree", self.degree, 0, 1)
        _check_at_least("window", self.window, _shortest(self.degree), LONGEST)
        _check_at_least("rounds", self.rounds, 1)

    @property
    def samples(self) -> int | None:
        """The window."""
        return self.window

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        weights = _tricube_table(self.window)
        kernels.forecast_robust_line(history, counts, weights, steps, self.degree, self.rounds, out)


@dataclass(frozen=True)
class Seasonal(Forecaster):
    """Mean of the samples at the same place of earlier seasons (seasonal naive for one season).

    ``y(n + h) = mean over j of y(n + h - j period)``, j from the smallest that lies in the history over
    ``seasons`` seasons. A series shorter than that is forecast as by ``Ewma``.

    Attributes:
        period: Samples per season; 288 samples of 300 s are a day.
        seasons: Earlier seasons, at most.
        alpha: Weight of the newest sample in the exponential smoothing.
    """

    period: int = 288
    seasons: int = 3
    alpha: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: If one is out of range.
        """
        _check_at_least("period", self.period, 1)
        _check_at_least("seasons", self.seasons, 1)
        _check_alpha(self.alpha)

    @property
    def samples(self) -> int | None:
        """The seasons, or what exponential smoothing needs."""
        return max(self.period * self.seasons, _ewma_samples(self.alpha))

    def _forecast(self, history: F8, steps: int, counts: I8, out: F8) -> None:
        from . import kernels

        smoothed = history[-_ewma_samples(self.alpha) :]
        kernels.forecast_ewma(smoothed, np.minimum(counts, len(smoothed)), float(self.alpha), out)
        kernels.forecast_seasonal(history, counts, self.period, self.seasons, steps, out)


def _shortest(degree: int) -> int:
    """Samples of which local regression makes more than an interpolation; the oldest weighs nothing."""
    return 4 if degree == 1 else 2


@functools.lru_cache(maxsize=64)
def _line_table(window: int, steps: int, tricube: bool, degree: int) -> F8:
    """Filter of a line (or a constant) by number of samples, newest first, shape (window + 1, window).

    Too short a history has the filter of persistence; none has zeros.
    """
    from .regression import line_taps, tricube_weights

    table = np.zeros((window + 1, window))
    shortest = _shortest(degree) if tricube else 3
    table[1:shortest, 0] = 1.0
    for n in range(shortest, window + 1):
        weights = tricube_weights(n) if tricube else np.ones(n)
        taps = line_taps(weights, steps) if degree == 1 else weights / weights.sum()
        table[n, :n] = taps[::-1]
    return table


@functools.lru_cache(maxsize=16)
def _tricube_table(window: int) -> F8:
    """Tricube weights by number of samples, oldest first, shape (window + 1, window)."""
    from .regression import tricube_weights

    table = np.zeros((window + 1, window))
    for n in range(2, window + 1):
        table[n, :n] = tricube_weights(n)
    return table


FORECASTERS = Registry(
    "forecaster",
    lambda thing: isinstance(thing, type) and issubclass(thing, Forecaster),
    "a class of Forecaster",
)
"""Every forecaster by name. Windows and alpha were tuned on four PlanetLab days (docs/forecasting.md)."""
FORECASTERS.register("persistence", "the newest sample", Persistence)
FORECASTERS.register("mean", "mean of the whole history", Mean)
FORECASTERS.register("moving_average", "mean of the newest samples", Mean, window=24)
FORECASTERS.register("ewma", "exponentially weighted moving average", Ewma)
FORECASTERS.register("ols", 'unweighted straight line (CloudSim\'s "LR")', OrdinaryLeastSquares)
FORECASTERS.register(
    "loess0", "local regression of degree 0: mean with tricube weights", LocalRegression, window=30, degree=0
)
FORECASTERS.register("loess", "local regression of degree 1: line with tricube weights", LocalRegression)
FORECASTERS.register(
    "loess_robust0",
    "local regression of degree 0 refitted with bisquare weights",
    RobustLocalRegression,
    window=30,
    degree=0,
)
FORECASTERS.register(
    "loess_robust", "local regression of degree 1 refitted with bisquare weights", RobustLocalRegression
)
FORECASTERS.register("seasonal", "mean of earlier seasons at the same place", Seasonal)


def make_forecaster(name: str, key: str = "forecaster", /, **params: Any) -> Forecaster:
    """Make a forecaster.

    Args:
        name: A name of ``FORECASTERS``, the dotted path of a class of one's own, or the folder of a trained
            forecaster.
        key: What is being set, for messages.
        **params: Its parameters.

    Returns:
        The forecaster; it holds no state, so one serves any number of histories.

    Raises:
        ConfigError: For an unknown name, parameter or value, naming what is allowed.

    Examples:
        >>> import numpy as np
        >>> make_forecaster("ols", window=4).predict(np.array([[1.0], [2.0], [3.0], [4.0]]), steps=2)
        array([6.])
        >>> make_forecaster("moving_average", window=2).predict(np.array([[1.0, 5.0], [2.0, 7.0]]))
        array([1.5, 6. ])
    """
    if is_folder(name, FORECASTERS):
        if not os.path.isdir(name):
            raise ConfigError(
                f"{key}={name}: no such folder; allowed: a name ({', '.join(FORECASTERS)}), a dotted path "
                "to a class, or the folder of a forecaster, as virtgym train agent=forecaster writes it"
            )
        if params:
            raise ConfigError(
                f"{key}={name}: a trained forecaster has no parameters, got {', '.join(params)}"
            )
        from .learned import load_forecaster

        return load_forecaster(name)
    made: Forecaster = construct(name, FORECASTERS.find(name, key), params, "forecaster")
    return made
