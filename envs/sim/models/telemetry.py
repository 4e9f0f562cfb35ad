"""Telemetry (docs §12): what a controller can know of a cluster.

A controller sees measurements of the past, never the demand to come:

    shown(t) = mean over the last window_s ending at t - delay_s of what was measured

Time is cut into periods of ``sample_s``; window and delay are whole periods. Measured are rates while a VM
runs: what it used, waited for (ready) and was kept from by its limit, not what it would have used beyond the
speed of its vCPUs. The engine's side of this is ``telemetry.shown``; the noise here is drawn by counting, so
that it does not depend on how often somebody looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import need, need_choice, need_not_negative, need_share
from ...jit.kernels import kernel

TELEMETRY_MODES = ("past", "instant")

HIDDEN, INSTANT, PAST = 0, 1, 2
"""Values of ``ClusterParams.telemetry``: a fork, which has no future to hide; the demand that holds until the
next sample; measurements of the past."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class TelemetryConfig:
    """What is shown to policies, observations and forecasters.

    Attributes:
        mode: ``past``: means of what was measured; ``instant``: the demand that holds until the next sample
            of the trace, as in CloudSim, for comparisons only.
        window_s: Length of the mean, s; None = the scenario's interval. Cut to whole samples, at least one.
        delay_s: Age of the newest measurement, s; rounded up to whole samples.
        sample_s: Time between two measurements, s; None = the interval. It divides the interval or is a
            multiple of it.
        noise: Relative standard deviation of every value that is measured of a VM.
        missing: Share of samples of VMs that get lost; the last known value stays.
        prior: Share of its nominal CPU that a VM is taken to demand before it has been measured.
    """

    mode: str = "past"
    window_s: float | None = None
    delay_s: float = 0.0
    sample_s: float | None = None
    noise: float = 0.0
    missing: float = 0.0
    prior: float = 0.5

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("telemetry", "mode", self.mode, TELEMETRY_MODES)
        need_not_negative("telemetry", delay_s=self.delay_s, noise=self.noise)
        need_share("telemetry", missing=self.missing, prior=self.prior)
        for key in ("window_s", "sample_s"):
            value = getattr(self, key)
            need(value is None or 0 < value < math.inf, f"telemetry.{key}={value}: must be positive")

    def check(self, interval_s: float) -> None:
        """Check the times against the interval between decisions.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        sample, window, delay = self.periods(interval_s)
        ratio = max(sample, interval_s) / min(sample, interval_s)
        need(
            abs(ratio - round(ratio)) <= 1e-9 * ratio,
            f"telemetry.sample_s={self.sample_s}: must divide the interval of {interval_s:g} s, or be a "
            "multiple of it",
        )
        need(
            window + delay <= MOST_PERIODS,
            f"telemetry: window_s and delay_s are {window + delay} samples, the most is {MOST_PERIODS}",
        )

    def periods(self, interval_s: float) -> tuple[float, int, int]:
        """Length of a period, s, and how many make the window and the delay."""
        sample = interval_s if self.sample_s is None else self.sample_s
        window = interval_s if self.window_s is None else self.window_s
        return float(sample), max(1, int(window / sample + 1e-9)), math.ceil(self.delay_s / sample - 1e-9)


MOST_PERIODS = 10_000
"""Periods that may be kept: each takes some numbers of every VM."""


def telemetry_params(config: TelemetryConfig, interval_s: float) -> dict[str, Any]:
    """The parameters of kernels."""
    sample, window, delay = config.periods(interval_s)
    return {
        "telemetry": PAST if config.mode == "past" else INSTANT,
        "telemetry_sample_s": sample,
        "telemetry_window": window,
        "telemetry_delay": delay,
        "telemetry_noise": float(config.noise),
        "telemetry_missing": float(config.missing),
        "telemetry_prior": float(config.prior),
    }


@kernel
def _mix(x: Any, number: int) -> Any:
    """One round of splitmix64."""
    y = (x + np.uint64(number + 1)) * _ODD
    y = (y ^ (y >> np.uint64(30))) * _MIX_1
    y = (y ^ (y >> np.uint64(27))) * _MIX_2
    return y ^ (y >> np.uint64(31))


@kernel
def uniform(seed: int, a: int, b: int, c: int) -> Any:
    """A number in (0, 1) that follows from four others (splitmix64), as random as any."""
    x = _mix(_mix(_mix(np.uint64(seed), a), b), c)
    return (np.float64(x >> np.uint64(11)) + 0.5) * 2.0**-53


@kernel
def normal(seed: int, a: int, b: int, c: int) -> Any:
    """A standard normal number that follows from four others (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(uniform(seed, a, b, 2 * c)))
    return radius * np.cos(2.0 * np.pi * uniform(seed, a, b, 2 * c + 1))
