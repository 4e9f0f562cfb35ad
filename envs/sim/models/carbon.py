"""Carbon of the electricity that a cluster uses (docs §7).

A series holds the carbon intensity of a grid, I(t) in g/kWh, as a step function: value k holds for one step
from k * step_s on, the last one for ever. For power that is constant between events,

    carbon_kg = PUE * P[W] * integral of I dt / (3.6e6 J/kWh) / 1000

is exact over any span, and additive: cutting a span in two changes nothing. Where a series comes from goes
with it into the results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...arrays import F8
from ...checks import need, need_not_negative, need_positive
from ...jit.kernels import kernel

J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class CarbonSeries:
    """Carbon intensity over time.

    Attributes:
        g_per_kwh: Intensity per step, gCO2eq/kWh, shape (N,).
        source: Where it comes from; recorded with every result.
        step_s: Length of a step, s.
        offset_s: Time in the series at which the simulation's time 0 lies, s.
        start: When the series begins, as text (ISO 8601, UTC); empty = not known.
    """

    g_per_kwh: F8 = field(repr=False)
    source: str
    step_s: float = 3600.0
    offset_s: float = 0.0
    start: str = ""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        values = np.array(self.g_per_kwh, dtype=np.float64)
        need(values.ndim == 1 and values.size > 0, "carbon.g_per_kwh: needs at least one value")
        need(
            bool(np.all(np.isfinite(values)) and values.min() >= 0),
            "carbon.g_per_kwh: every value must be a number, at least 0",
        )
        need(bool(self.source.strip()), "carbon.source: say where the series comes from")
        need_positive("carbon", step_s=self.step_s)
        need_not_negative("carbon", offset_s=self.offset_s)
        need(
            self.offset_s < values.size * self.step_s,
            f"carbon.offset_s={self.offset_s}: must lie within the series of {values.size * self.step_s} s",
        )
        values.flags.writeable = False
        object.__setattr__(self, "g_per_kwh", values)

    @property
    def covers_s(self) -> float:
        """Simulated time until the series ends, s; later its last value is held."""
        return float(self.g_per_kwh.size * self.step_s - self.offset_s)


def constant_carbon(g_per_kwh: float, source: str) -> CarbonSeries:
    """A grid whose intensity never changes."""
    need_not_negative("carbon", g_per_kwh=g_per_kwh)
    return CarbonSeries(np.array([g_per_kwh]), source)


DAYS = 366
"""Days for which a daily course repeats; later its last value is held."""


def daily_carbon(g_per_kwh: Sequence[float], source: str) -> CarbonSeries:
    """A grid whose intensity takes the same course every day.

    Args:
        g_per_kwh: Intensity in equal parts of a day, from time 0 on, g/kWh.
        source: Where it comes from.
    """
    return CarbonSeries(
        np.tile(np.asarray(g_per_kwh, dtype=np.float64), DAYS), source, 86_400.0 / len(g_per_kwh)
    )


@kernel
def intensity_integral(g_per_kwh: F8, step_s: float, offset_s: float, from_s: float, to_s: float) -> Any:
    """Integral of the intensity between two times.

    It adds up the steps in between, one or two for an interval: a difference of running sums over years
    would cancel the digits that short spans need.

    Args:
        g_per_kwh: Intensity per step, g/kWh, shape (N,).
        step_s: Length of a step, s.
        offset_s: Where simulated time 0 lies in the series, s.
        from_s: Begin, simulated time, s.
        to_s: End, at least ``from_s``, s.

    Returns:
        g s/kWh.
    """
    last = g_per_kwh.shape[0] - 1
    begin, end = offset_s + from_s, offset_s + to_s
    k = min(last, int(begin / step_s))
    total = 0.0
    while k < last and (k + 1) * step_s < end:
        edge = (k + 1) * step_s
        total += g_per_kwh[k] * (edge - begin)
        begin = edge
        k += 1
    return total + g_per_kwh[k] * (end - begin)


def carbon_kg(
    series: CarbonSeries, power_w: float | F8, from_s: float, to_s: float, pue: float = 1.0
) -> float | F8:
    """Carbon of constant power over a span of time.

    Args:
        series: Carbon intensity.
        power_w: IT power, W: one number, or one per host.
        from_s: Begin, simulated time, s.
        to_s: End, s.
        pue: Power usage effectiveness.

    Returns:
        kg CO2eq, of the shape of ``power_w``.

    Raises:
        ConfigError: If the span ends before it begins, or begins before time 0.
    """
    need(
        0 <= from_s <= to_s and math.isfinite(to_s),
        f"carbon: the span {from_s}..{to_s} s must begin at 0 or later and not end before it begins",
    )
    area: float = intensity_integral(series.g_per_kwh, series.step_s, series.offset_s, from_s, to_s)
    return pue * power_w * (area / J_PER_KWH / 1000.0)


@kernel
def carbon_step(p: Any, time_s: float) -> Any:
    """Which sample of the carbon intensity holds from a time on; below 0 before the first one."""
    return int(np.floor((time_s - p.carbon_start_s) / p.carbon_sample_s + 1e-9))


@kernel
def carbon_now(p: Any, time_s: float) -> float:
    """Carbon intensity from a time on, g/kWh; before the first and after the last sample it stays."""
    last = p.carbon_g_kwh.shape[0] - 1
    return float(p.carbon_g_kwh[min(max(carbon_step(p, time_s), 0), last)])
