"""What consolidation is put together from, by name: overload detectors and selection rules (no kernels).

Both are those of Beloglazov & Buyya, CCPE 24(13), 2012, each under its name. The signal of a host is the sum
of its VMs' demand. A forecast from a straight line through equally spaced samples is a constant filter,
``y(n + horizon) = sum_i taps_i * y_i``, and a filter of a sum is the sum of the filtered parts: such
*additive* detectors filter every VM once an interval and a host only adds up. The others need the history of
every host; ``detectors.overloaded_history`` has their kernels.

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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.registry import Registry

ADDITIVE, MAD, IQR, ROBUST = 0, 1, 2, 3
"""Kinds of detectors in the kernel."""
MMT, MC, MU, RS = 0, 1, 2, 3
"""Kinds of selectors in the kernel."""


def take_newest(window: int, horizon: int) -> F8:
    """The filter that leaves the newest sample as it is."""
    return np.ones(1)


def fit_line(window: int, horizon: int) -> F8:
    """The filter of an unweighted straight line."""
    from ..forecast.regression import line_taps

    return line_taps(np.ones(window), horizon)


def fit_loess(window: int, horizon: int) -> F8:
    """The filter of a straight line with tricube weights."""
    from ..forecast.regression import line_taps, tricube_weights

    return line_taps(tricube_weights(window), horizon)


@dataclass(frozen=True)
class Detector:
    """One overload detector.

    Attributes:
        safety: Default of the parameter ``safety``.
        window: Default number of samples looked at; 1 = it looks at no more than the demand now.
        forecasts: Whether ``safety`` multiplies a forecast (and else bounds the demand).
        taps: Makes the filter that gives a VM's signal, oldest sample first, of window and horizon.
        kind: Kind in the kernel.
        shortest: Fewest samples it works with; None = the whole window.
    """

    safety: float
    window: int
    forecasts: bool = False
    taps: Callable[[int, int], F8] = take_newest
    kind: int = ADDITIVE
    shortest: int | None = None

    @property
    def schema(self) -> dict[str, float]:
        """Parameters of a policy that it has defaults for."""
        return {"safety": self.safety, "window": self.window}

    def min_samples(self, window: int) -> int:
        """Samples below which the fall-back threshold is used."""
        return window if self.shortest is None else min(self.shortest, window)

    def factor(self, safety: float) -> float:
        """The multiple of a host's capacity at which an additive signal means overload."""
        return 1.0 / safety if self.forecasts else safety


DETECTORS = Registry("detector", lambda thing: isinstance(thing, Detector), f"a Detector of {__name__}")
"""Every detector by name."""
DETECTORS.register("thr", "static threshold", Detector(0.8, 1))
DETECTORS.register("mad", "median absolute deviation", Detector(2.5, 30, kind=MAD, shortest=12))
DETECTORS.register("iqr", "interquartile range", Detector(1.5, 30, kind=IQR, shortest=12))
DETECTORS.register(
    "ols", 'ordinary least squares (the literature\'s "LR")', Detector(1.2, 10, True, taps=fit_line)
)
DETECTORS.register("loess", "tricube-weighted local regression", Detector(1.2, 10, True, taps=fit_loess))
DETECTORS.register(
    "loess_robust", "local regression refitted with bisquare weights", Detector(1.2, 10, True, kind=ROBUST)
)


@dataclass(frozen=True)
class Selector:
    """One selection rule.

    Attributes:
        kind: Kind in the kernel.
        window: Samples of history it needs.
    """

    kind: int
    window: int = 1

    @property
    def schema(self) -> dict[str, int]:
        """Nothing of it can be set."""
        return {}


SELECTORS = Registry("selector", lambda thing: isinstance(thing, Selector), f"a Selector of {__name__}")
"""Every selection rule by name."""
SELECTORS.register("mmt", "minimum migration time: least memory, ties to the larger demand", Selector(MMT))
SELECTORS.register("mc", "maximum multiple correlation with the host's other VMs", Selector(MC, 30))
SELECTORS.register("mu", "minimum utilisation", Selector(MU))
SELECTORS.register("rs", "random selection", Selector(RS))
