"""The embedded default of request traces: a seeded generator calibrated to statistics of Huawei-East-1.

No trace data is embedded, only summary statistics of the requests that the placement benchmark trains on
(rows 0 to 49,999 of Huawei-East-1; the rows of its validation and test windows took no part). Requests come
in bursts of equal VMs at one instant. Flavours are drawn from a table of shares; half of the bursts have
the flavour of a regime that lasts for about a hundred bursts. The gaps between bursts are Weibull, on a
clock that runs faster and slower over the day and from hour to hour. Lifetimes follow quantiles by class of
flavour, and are alike within a burst, over a few bursts of a flavour, and within a regime.

Statistics of the first 50,000 rows, and of 50,000 generated requests (mean of 10 seeds):

============================================= ========= =========
statistic                                     rows      generator
============================================= ========= =========
share of requests for 1 core, 2 GB            0.64      0.64
share of requests for 1 core, 1 GB            0.13      0.14
share of requests for 2 cores, 4 GB           0.11      0.11
share above 10 GB (two NUMA nodes)            0.037     0.037
mean cores                                    1.61      1.58
mean memory, GB                               3.36      3.32
share that arrives with the one before        0.55      0.55
requests per burst, mean                      2.2       2.21
requests per burst, 99th percentile           18        16
gap between bursts, median, s                 19        21
gap between bursts, mean, s                   47        49
gap between bursts, 99th percentile, s        330       389
variance / mean of requests per hour          100       90
same flavour as the request before            0.76      0.77
lifetime, 10th percentile, s                  157       126
lifetime, median, s                           4,700     5,100
lifetime, 90th percentile, s                  34,000    34,400
lifetime, 99th percentile, s                  533,000   539,500
lifetime, mean, s                             26,800    24,200
log lifetime, correlation with next VM [1]    0.53      0.72
log lifetime, correlation with 50th next [1]  0.14      0.20
============================================= ========= =========

[1] among those for 1 core, 2 GB.

On the placement benchmark's five hosts, windows are about as long as the genuine ones (median 470 to 630
requests against 447) but easier: the trimmed mean of first fit's total wait is about 30,000 s, against
133,000 s over the same 60 windows of those rows. An agent trained here has seen the shapes, not the worst
hours.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ..requests import RequestTrace

_T = TypeVar("_T", bound=np.generic)
_MOST = 20_000_000

FLAVOURS: tuple[tuple[int, int, float], ...] = (
    (1, 1, 0.241),
    (1, 2, 0.361),
    (1, 4, 0.034),
    (2, 4, 0.199),
    (2, 8, 0.024),
    (4, 8, 0.073),
    (4, 16, 0.027),
    (8, 16, 0.019),
    (8, 32, 0.008),
    (12, 24, 0.004),
    (16, 32, 0.007),
    (32, 64, 0.001),
    (64, 128, 0.002),
)
"""Cores, GiB and share of the bursts of each flavour."""

_KEEP_REGIME = 0.99  # probability that the regime of the burst before goes on
_OF_REGIME = 0.5  # share of bursts that have the regime's flavour
_KEEP_FLAVOUR = 0.1  # probability that a burst has the flavour of the one before
_SINGLE, _LARGER_MEAN = 0.92, 3.9  # share of bursts of one VM, mean size of the others
_SINGLE_SMALL, _LARGER_MEAN_SMALL = 0.424, 6.1  # the same of 1 core, 2 GB
_GAP_SCALE, _GAP_SHAPE = 52.0, 0.8  # Weibull, s of the clock that daily and hourly rates drive
_DAY_AMPLITUDE, _HOUR_SD, _HOUR_PHI = 0.5, 0.55, 0.5  # of the logarithm of the rate
_LEVEL_REGIME = 0.4  # share of the regime in the variance of a lifetime's level
_KEEP_LIFETIME = 0.5  # probability that a burst has the lifetime of the flavour's one before
_ALIKE_BURST, _ALIKE_VM = 0.95, 0.8  # correlation within such a run, and in half of the bursts between VMs
_DAY_S, _HOUR_S = 86_400.0, 3600.0

# Lifetimes, s, at the quantiles 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99 and 0.999.
_NORMAL = np.array([-2.326, -1.282, -0.674, 0.0, 0.674, 1.282, 1.881, 2.326, 3.09])
_LIFETIMES = {
    "1x1": (56, 67, 106, 234, 2100, 64_300, 693_000, 945_000, 2_200_000),
    "1x2": (58, 2640, 3570, 7440, 17_500, 36_300, 56_100, 310_000, 721_000),
    "2x4": (34, 66, 1070, 3150, 8680, 14_900, 57_600, 522_000, 1_620_000),
    "large": (2370, 12_500, 16_700, 41_200, 102_000, 976_000, 1_120_000, 1_160_000, 1_160_000),
    "other": (32, 58, 61, 530, 3060, 9830, 490_000, 803_000, 1_780_000),
}


def generate_requests(
    rng: np.random.Generator,
    n: int = 20_000,
    *,
    intensity: float = 1.0,
    lifetime_scale: float = 1.0,
    name: str = "synthetic_requests",
) -> RequestTrace:
    """Generate requests with the sizes, bursts and lifetimes of Huawei-East-1.

    Args:
        rng: Source of all randomness: the same state gives the same trace.
        n: Number of requests, R.
        intensity: Factor on the rate of arrival.
        lifetime_scale: Factor on all lifetimes. Load is proportional to both factors.
        name: The trace's name.

    Returns:
        The requests: whole cores and GiB, arrivals in whole seconds from 0, lifetimes of 1 s and more.

    Raises:
        TraceError: If an argument is out of range.
    """
    if not 1 <= n <= _MOST:
        raise TraceError(
            f"synthetic_requests: n must be at least 1 request, is {n}; at most {_MOST:,} are made"
        )
    for key, factor in (("intensity", intensity), ("lifetime_scale", lifetime_scale)):
        if not 0 < factor < np.inf:
            raise TraceError(f"synthetic_requests: {key} must be positive and finite, is {factor}")
    flavour = _burst_flavours(rng, n)
    size = _burst_sizes(rng, flavour)
    bursts = int(np.searchsorted(np.cumsum(size), n)) + 1
    flavour, size = flavour[:bursts], size[:bursts]
    arrival = _burst_times(rng, bursts) / intensity
    gap = np.maximum(np.round(np.diff(arrival, prepend=arrival[0])), 1.0)
    gap[0] = 0.0
    of_vm = np.repeat(np.arange(bursts), size)[:n]
    lifetime = _lifetimes(rng, flavour, of_vm) * lifetime_scale
    cores, memory = (np.array([row[column] for row in FLAVOURS], dtype=np.float64) for column in (0, 1))
    return RequestTrace(
        name=name,
        format="synthetic_requests",
        source=f"synthetic_requests(n={n}, intensity={intensity:g}, lifetime_scale={lifetime_scale:g})",
        cores=cores[flavour[of_vm]],
        memory_gib=memory[flavour[of_vm]],
        arrival_s=np.cumsum(gap)[of_vm],
        lifetime_s=np.maximum(np.round(lifetime), 1.0),
        vm_ids=np.arange(n, dtype=np.int64),
    )


def _shares() -> NDArray[np.float64]:
    shares = np.array([share for _, _, share in FLAVOURS])
    return np.asarray(shares / shares.sum())


def _keep(rng: np.random.Generator, values: NDArray[_T], probability: float) -> NDArray[_T]:
    """Replace each value by the one before it with a probability, so that runs of equal values arise."""
    fresh = rng.random(values.size) >= probability
    return values[np.maximum.accumulate(np.where(fresh, np.arange(values.size), 0))]


def _burst_flavours(rng: np.random.Generator, bursts: int) -> NDArray[np.int64]:
    """Draw the flavour of each burst, shape (bursts,), an index of `FLAVOURS`."""
    own, regime = (rng.choice(len(FLAVOURS), size=bursts, p=_shares()) for _ in range(2))
    regime = _keep(rng, regime, _KEEP_REGIME)
    return _keep(rng, np.where(rng.random(bursts) < _OF_REGIME, regime, own), _KEEP_FLAVOUR)


def _burst_sizes(rng: np.random.Generator, flavour: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw how many VMs arrive at once, shape (bursts,)."""
    small = flavour == 1
    single = np.where(small, _SINGLE_SMALL, _SINGLE)
    further = np.where(small, _LARGER_MEAN_SMALL, _LARGER_MEAN) - 1.0
    size = 1 + rng.geometric(1.0 / further)
    return np.where(rng.random(flavour.size) < single, 1, size)


def _burst_times(rng: np.random.Generator, bursts: int) -> NDArray[np.float64]:
    """Draw the times of the bursts, s, shape (bursts,): Weibull gaps on a clock of varying rate."""
    clock = np.cumsum(_GAP_SCALE * rng.weibull(_GAP_SHAPE, bursts))
    # The clock's mean rate is above 1, so this many hours are enough for the last burst but in odd cases.
    hours = int(clock[-1] / _HOUR_S * 2) + 48
    noise = rng.normal(0.0, _HOUR_SD * np.sqrt(1 - _HOUR_PHI**2), hours)
    noise[0] /= np.sqrt(1 - _HOUR_PHI**2)
    for hour in range(1, hours):
        noise[hour] += _HOUR_PHI * noise[hour - 1]
    daily = _DAY_AMPLITUDE * np.cos(2 * np.pi * np.arange(hours) * _HOUR_S / _DAY_S)
    ticks = np.concatenate(([0.0], np.cumsum(np.exp(daily + noise)))) * _HOUR_S
    # A clock that outruns the table goes on at its mean rate.
    over = np.maximum(clock - ticks[-1], 0.0) * hours * _HOUR_S / ticks[-1]
    return np.asarray(np.interp(clock, ticks, np.arange(hours + 1) * _HOUR_S) + over)


def _lifetimes(
    rng: np.random.Generator, flavour: NDArray[np.int64], of_vm: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Draw lifetimes, s, shape (R,).

    Args:
        rng: Source of randomness.
        flavour: Flavour of each burst, shape (bursts,).
        of_vm: Burst of each VM, shape (R,).
    """
    level = rng.normal(size=flavour.size)
    for kind in range(len(FLAVOURS)):
        level[flavour == kind] = _keep(rng, level[flavour == kind], _KEEP_LIFETIME)
    regime = _keep(rng, rng.normal(size=flavour.size), _KEEP_REGIME)
    level = np.sqrt(_LEVEL_REGIME) * regime + np.sqrt(1 - _LEVEL_REGIME) * level
    level = _mix(rng, level, np.full(flavour.size, _ALIKE_BURST))
    alike = np.where(rng.random(flavour.size) < 0.5, 1.0, _ALIKE_VM)
    level = _mix(rng, level[of_vm], alike[of_vm])
    lifetime = np.empty(of_vm.size)
    for kind, (cores, memory, _) in enumerate(FLAVOURS):
        rows = flavour[of_vm] == kind
        key = "large" if cores >= 24 else f"{cores}x{memory}"
        quantiles = np.log(_LIFETIMES.get(key, _LIFETIMES["other"]))
        lifetime[rows] = np.exp(np.interp(level[rows], _NORMAL, quantiles))
    return lifetime


def _mix(
    rng: np.random.Generator, level: NDArray[np.float64], correlation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Add noise to standard normal values such that they stay so."""
    return correlation * level + np.sqrt(1 - correlation**2) * rng.normal(size=level.size)
