"""The embedded default trace: a seeded generator calibrated to published statistics of PlanetLab days.

No trace data is embedded. The generator is a Gaussian copula: each VM has a level, a spread and a share of
idle samples drawn from fleet-wide distributions; its samples are
``100 * sigmoid(level + spread * z + daily + burst)`` percent, where ``z`` is white noise plus a slowly
wandering AR(1) part, and 0 where ``z`` falls below the VM's idle threshold. A logit-normal is skewed to the
right for quiet VMs and to the left for busy ones, as the days are.

Targets: the range over the four training days (0303, 0306, 0309, 0322 of March 2011), and what 1,000 VMs
give (mean of 20 seeds):

============================================= ============= =========
statistic                                     training days generator
============================================= ============= =========
mean of all samples, %                        9.3 – 12.3    11.0
standard deviation of all samples, %          12.8 – 17.1   15.3
standard deviation of the VMs' means, %       10.1 – 14.8   12.9
mean of the VMs' standard deviations, %       6.2 – 7.4     6.7
90th percentile, %                            23 – 36       29
99th percentile, %                            65 – 79       76
share of zeros                                0.15 – 0.19   0.18
share of VMs with any zero                    0.71 – 0.88   0.83
lag-1 autocorrelation, all samples pooled     0.70 – 0.77   0.74
lag-1 autocorrelation, median VM              0.04 – 0.08   0.06
lag-1 autocorrelation, 90th percentile of VMs 0.24 – 0.35   0.28
lag-12 (1 h) autocorrelation, median VM       0.04 – 0.07   0.04
standard deviation over time of the mean, %   0.57 – 1.44   0.68
============================================= ============= =========

The lag-1 autocorrelation is strong over all samples because VMs differ, and weak within a VM: a PlanetLab
VM's next sample is nearly independent of this one once its mean is known. Both are reproduced, since
forecasters live on the second.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ..base import Trace, check_cells
from ..normal import normal_quantiles
from ..resample import check_positive

# Fleet-wide distributions, fitted to the table above (summary statistics only).
_LEVEL_MEDIAN, _LEVEL_SD, _LEVEL_TAIL = -2.86, 1.17, 0.21  # logit of a VM's median utilisation
_SPREAD_MEDIAN, _SPREAD_LOG_SD = 0.63, 0.38  # standard deviation of the logit
_IDLE_AT_ZERO, _IDLE_SLOPE, _IDLE_SD = -3.46, -0.75, 1.1  # idle threshold of z against the level
_SLOW_SHARE = (0.56, 2.72)  # beta distribution of the slow part's share of the variance of z
_SLOW_PHI_300S = 0.976  # AR(1) coefficient of the slow part at 300 s: a time constant of about 3.4 h
_DAILY_AMPLITUDE = 0.12  # of the logit, common to all VMs
_BURST_RATE, _BURST_SCALE = 0.011, 1.45  # probability and mean height (logit) of a one-sample burst
_DAY_S = 86_400.0


def generate(
    rng: np.random.Generator,
    n_vms: int = 1000,
    n_samples: int = 288,
    sample_s: float = 300.0,
    *,
    churn: float = 0.0,
    mean_lifetime_s: float | None = None,
    align: bool = True,
    load: float = 0.0,
    daily: float = _DAILY_AMPLITUDE,
    noise: float = 1.0,
    name: str = "synthetic",
) -> Trace:
    """Generate a trace with the statistics of a PlanetLab day, or of a day that is busier, steeper, calmer.

    Args:
        rng: Source of all randomness: the same state gives the same trace.
        n_vms: Number of VMs, V.
        n_samples: Samples per VM, S.
        sample_s: Sampling period, s.
        churn: Share of VMs that arrive at a uniformly random time and leave after an exponential lifetime;
            the others live for the whole trace.
        mean_lifetime_s: Mean lifetime of the churning VMs, s; a quarter of the trace by default.
        align: Whether lives begin and end on sample boundaries; a VM then lives for a sample or more.
        load: Added to the logit of every VM's level: 1 makes a mean of 11 % about 22 %.
        daily: Amplitude of the daily wave that all VMs share, of the logit.
        noise: Factor on the VMs' spreads and on how often they burst; 0 = only levels and the daily wave.
        name: The trace's name.

    Returns:
        The trace; ``util`` has shape (S, V) and holds integer percentages / 100.0.

    Raises:
        TraceError: If an argument is out of its range.
    """
    _check_arguments(n_vms, n_samples, sample_s, churn, mean_lifetime_s, load, daily, noise)
    # Utilisation and lives have a stream each, so that churn changes nobody's utilisation. Seeds are drawn,
    # not spawned: `spawn` depends on how often it was called, which is not part of the generator's state.
    util_rng, life_rng = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, size=2))
    percent = _draw_percent(util_rng, n_vms, n_samples, sample_s, load, daily, noise)
    arrival_s, departure_s = _draw_lives(
        life_rng, n_vms, n_samples * sample_s, sample_s if align else 0.0, churn, mean_lifetime_s
    )
    width = len(str(n_vms - 1))
    return Trace(
        name=name,
        format="synthetic",
        source=f"synthetic, {n_vms} VMs, {n_samples} samples",
        sample_s=float(sample_s),
        util=percent / 100.0,
        vm_names=tuple(f"vm-{index:0{width}d}" for index in range(n_vms)),
        arrival_s=arrival_s,
        departure_s=departure_s,
    )


def _check_arguments(
    n_vms: int,
    n_samples: int,
    sample_s: float,
    churn: float,
    mean_lifetime_s: float | None,
    load: float,
    daily: float,
    noise: float,
) -> None:
    if n_vms < 1 or n_samples < 1:
        raise TraceError(f"synthetic: n_vms and n_samples must be at least 1, are {n_vms} and {n_samples}")
    check_positive("synthetic", sample_s=sample_s, mean_lifetime_s=mean_lifetime_s)
    check_cells("synthetic", n_samples, n_vms, n_samples * n_vms, sample_s, "choose fewer")
    if not 0 <= churn <= 1:
        raise TraceError(f"synthetic: churn must be from 0 to 1, is {churn}")
    for key, value, low, high in (("load", load, -10, 10), ("daily", daily, 0, 10), ("noise", noise, 0, 10)):
        if not low <= value <= high:
            raise TraceError(f"synthetic: {key} must be from {low} to {high}, is {value}")


def _draw_percent(
    rng: np.random.Generator,
    n_vms: int,
    n_samples: int,
    sample_s: float,
    load: float,
    daily: float,
    noise: float,
) -> NDArray[np.float64]:
    """Draw integer percentages, shape (S, V)."""
    # expm1 stretches the upper tail: a few VMs are busy all day.
    level = _LEVEL_MEDIAN + _LEVEL_SD * np.expm1(_LEVEL_TAIL * _stratified_normal(rng, n_vms)) / _LEVEL_TAIL
    spread = _SPREAD_MEDIAN * np.exp(_SPREAD_LOG_SD * rng.standard_normal(n_vms))
    idle_below = _IDLE_AT_ZERO + _IDLE_SLOPE * level + _IDLE_SD * rng.standard_normal(n_vms)
    # The published days keep only VMs that are busy in most samples: the median sample is never idle.
    np.minimum(idle_below, 0.0, out=idle_below)

    z = _draw_noise(rng, n_vms, n_samples, sample_s)
    idle = z < idle_below  # of the noise alone: a busier day has as many idle samples
    z *= noise * spread
    z += level + load
    seconds = np.arange(n_samples) * sample_s + rng.uniform(0.0, _DAY_S)
    z += daily * np.sin(2.0 * math.pi * seconds / _DAY_S)[:, None]
    bursts = rng.binomial(z.size, min(1.0, noise * _BURST_RATE))
    where = rng.integers(0, z.size, size=bursts)
    z.reshape(-1)[where] += rng.exponential(_BURST_SCALE, size=bursts)
    percent = np.rint(100.0 / (1.0 + np.exp(-z)))
    np.maximum(percent, 1.0, out=percent)
    percent[idle] = 0.0
    return percent


def _stratified_normal(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw standard normals, one per stratum of equal probability: even a small fleet has the right mean."""
    strata = (rng.permutation(size) + rng.uniform(size=size)) / size
    return normal_quantiles(strata)


def _draw_noise(rng: np.random.Generator, n_vms: int, n_samples: int, sample_s: float) -> NDArray[np.float64]:
    """Draw standard normals, shape (S, V): white noise plus a VM's share of a slow AR(1) process."""
    share = rng.beta(*_SLOW_SHARE, size=n_vms)
    phi = _SLOW_PHI_300S ** (sample_s / 300.0)
    slow = rng.standard_normal((n_samples, n_vms))
    slow[1:] *= math.sqrt(1.0 - phi * phi)
    for k in range(1, n_samples):
        slow[k] += phi * slow[k - 1]
    noise = rng.standard_normal((n_samples, n_vms))
    noise *= np.sqrt(1.0 - share)
    slow *= np.sqrt(share)
    noise += slow
    return noise


def _draw_lives(
    rng: np.random.Generator,
    n_vms: int,
    span_s: float,
    grid_s: float,
    churn: float,
    mean_lifetime_s: float | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw arrivals and departures, s, shape (V,) each, on a grid of ``grid_s`` unless that is 0."""
    arrival_s, departure_s = np.zeros(n_vms), np.full(n_vms, np.inf)
    chosen = rng.permutation(n_vms)[: round(churn * n_vms)]
    arrive = rng.uniform(0.0, span_s, size=chosen.size)
    stay = rng.exponential(span_s / 4 if mean_lifetime_s is None else mean_lifetime_s, size=chosen.size)
    if grid_s > 0:
        arrive = np.floor(arrive / grid_s) * grid_s
        stay = np.maximum(np.rint(stay / grid_s), 1.0) * grid_s
    leave = arrive + stay
    arrival_s[chosen] = arrive
    departure_s[chosen] = np.where(leave < span_s, leave, np.inf)
    return arrival_s, departure_s
