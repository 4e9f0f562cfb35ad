"""How well forecasters do on a trace: error and skill of each, for VMs and for hosts that would hold them.

A forecast is made at every point in time from what came before; its error is that of the one value ``steps``
samples later. The mean absolute error (MAE) is taken per VM, then over VMs; its interval is a bootstrap over
VMs, so it is about which VMs there are, not about which day it is. Skill = 1 - MAE / MAE of the reference, by
pairs of the same VM (Murphy, Mon. Wea. Rev. 116, 1988): 0 as good as the reference, 1 perfect, below 0 worse.

What a forecaster says of its error is scored, too: its upper quantiles by their coverage (the share of values
that are not above) and their pinball loss ``max(q e, (q - 1) e)``, e = truth - quantile, which the true
quantile makes least (Koenker and Bassett, Econometrica 46, 1978). One that says nothing is given the standard
deviation of the newest ``SPREAD`` samples and a normal distribution, as power management does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.traces import Trace
from virtgym.policies.forecast.forecasters import FORECASTERS, Forecaster, make_forecaster
from virtgym.policies.forecast.history import squares_of_past, young_variance
from virtgym.policies.forecast.inputs import NORMAL, QUANTILES

from ..config.overrides import PolicySpec
from .stats import Interval, percentile_interval, resampled_means

if TYPE_CHECKING:
    import pandas as pd


REFERENCES: tuple[str, ...] = ("persistence", "mean")
"""What skill is measured against."""

LEVELS: tuple[str, ...] = ("vm", "host")
"""Whose demand is forecast: each VM's, or the sum of a group of VMs as a host would hold."""

COLUMNS: tuple[str, ...] = (
    *("trace", "level", "forecaster", "steps", "ahead_s", "mae", "mae_low", "mae_high"),
    *(f"skill_{name}{end}" for name in REFERENCES for end in ("", "_low", "_high")),
    *("rmse", "bias", "pinball", *(f"coverage_{100 * q:.0f}" for q in QUANTILES[1:]), "series", "forecasts"),
)
"""Columns of ``forecast.csv``. Errors are fractions of nominal CPU; bias is the mean of forecast - truth,
pinball the mean loss of the quantiles whose coverage follows."""

SPREAD = 8
"""Newest samples whose standard deviation stands for the error of who says nothing of it."""

DAY_S = 86_400.0

ROUNDING = 1e-12
"""Errors below this are rounding, and count as none: a skill of rounding errors would mean nothing."""


@dataclass(frozen=True)
class SkillSettings:
    """How forecasters are compared.

    Attributes:
        forecasters: Who forecasts, with parameters.
        horizons: Steps ahead.
        warmup: Samples that a VM must have before its forecasts count.
        vms_per_host: VMs in a group that stands for a host; 0 = no hosts.
        seed: Of the groups and the bootstrap.
        resamples: Bootstrap resamples.
        origins: Points in time that forecasts are made at, at most; evenly spread.
        clip: Whether forecasts are cut to what demand can be: not below 0, and not above the nominal CPU in
            a trace that never is.
        begin: Share of the trace before whose end nothing is scored: what a forecaster has learned from.
    """

    forecasters: tuple[PolicySpec, ...] = field(default_factory=lambda: tuple(map(PolicySpec, FORECASTERS)))
    horizons: tuple[int, ...] = (1, 6)
    warmup: int = 30
    vms_per_host: int = 20
    seed: int = 0
    resamples: int = 2000
    origins: int = 500
    clip: bool = True
    begin: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        if not self.forecasters:
            raise ConfigError("forecasters=[]: name at least one, like forecasters=[ewma,loess]")
        labels = [spec.label for spec in self.forecasters]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise ConfigError(f"forecasters: {twice} is named twice")
        for spec in self.forecasters:
            make_forecaster(spec.name, **spec.params)
        if not self.horizons or min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons):
            raise ConfigError(
                f"horizons={list(self.horizons)}: must be distinct steps ahead, each at least 1"
            )
        for key, least in (
            ("warmup", 1),
            ("vms_per_host", 0),
            ("seed", 0),
            ("resamples", 100),
            ("origins", 1),
        ):
            need(getattr(self, key) >= least, f"{key}={getattr(self, key)}: must be at least {least}")
        need(0.0 <= self.begin < 1.0, f"begin={self.begin}: must be from 0 to below 1")


@dataclass(frozen=True)
class Load:
    """What is forecast: samples (S, N) and the lives of the series, in samples from ``first`` to ``last``."""

    util: F8
    first: I8
    last: I8

    @property
    def highest(self) -> float:
        return 1.0 if float(self.util.max()) <= 1.0 else math.inf


@dataclass(frozen=True)
class Errors:
    """Sums over the forecasts of each series at one horizon, and how many there are; see ``COLUMNS``."""

    absolute: F8
    squared: F8
    signed: F8
    pinball: F8
    covered: F8  # (quantiles, N)
    count: I8


def cells(settings: SkillSettings) -> int:
    """How many times ``forecast_skill`` reports progress, at most."""
    return len(_all_specs(settings)) * (2 if settings.vms_per_host else 1)


def forecast_skill(
    trace: Trace, settings: SkillSettings, progress: Callable[[str, str], None] | None = None
) -> pd.DataFrame:
    """Compare forecasters on a trace.

    Args:
        trace: The trace.
        settings: How.
        progress: Told what has ended and what it gave.

    Returns:
        A row per level, horizon and forecaster with ``COLUMNS``. There are no rows of hosts where there
        are not VMs enough for two.

    Raises:
        TraceError: If the trace is too short for a single forecast.
    """
    import pandas as pd

    groups, bootstrap = np.random.SeedSequence(settings.seed).spawn(2)
    rows: list[dict[str, Any]] = []
    for level, load in _loads(trace, settings, np.random.default_rng(groups)):
        errors: dict[tuple[str, int], Errors] = {}
        for spec in _all_specs(settings):
            forecaster = _make(spec, trace.sample_s)
            for steps in settings.horizons:
                errors[spec.label, steps] = measure(load, forecaster, steps, settings)
            if progress is not None:
                means = (
                    mean_of(errors[spec.label, h].absolute, errors[spec.label, h]) for h in settings.horizons
                )
                text = ", ".join(f"{m:.4f} at {h}" for m, h in zip(means, settings.horizons))
                progress(f"{trace.name} {level} {spec.label}", f"MAE {text}")
        for steps in settings.horizons:
            at = {label: e for (label, h), e in errors.items() if h == steps}
            if not at["persistence"].count.any():
                raise TraceError(
                    f"{trace.source}: no {level} has warmup + horizon = {settings.warmup + steps} samples "
                    f"for one forecast (the trace has {trace.n_samples}); lower warmup= or horizons="
                )
            rng = np.random.default_rng(bootstrap)  # the same resamples at every horizon
            rows += _rows(trace, level, steps, at, settings, rng)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _all_specs(settings: SkillSettings) -> list[PolicySpec]:
    """The forecasters with the references, which are not shown unless named."""
    specs = {spec.label: spec for spec in settings.forecasters}
    for name in REFERENCES:
        specs.setdefault(name, PolicySpec(name))
    return list(specs.values())


def _make(spec: PolicySpec, sample_s: float) -> Forecaster:
    """Make a forecaster; the season is a day unless the user says otherwise."""
    params = dict(spec.params)
    if spec.name == "seasonal":
        params.setdefault("period", max(1, round(DAY_S / sample_s)))
    return make_forecaster(spec.name, **params)


def vm_load(trace: Trace) -> Load:
    """The VMs of a trace as series; 0 where a VM does not live."""
    first = np.floor(trace.arrival_s / trace.sample_s).astype(np.int64)
    end = np.minimum(np.ceil(trace.departure_s / trace.sample_s), trace.n_samples)
    last = end.astype(np.int64) - 1
    at = np.arange(trace.n_samples)[:, None]
    return Load(np.where((at >= first) & (at <= last), trace.util, 0.0), first, last)


def _loads(trace: Trace, settings: SkillSettings, rng: np.random.Generator) -> Iterator[tuple[str, Load]]:
    """The VMs, then groups of VMs drawn at random, as a fraction of the CPU of each group's VMs."""
    yield "vm", vm_load(trace)
    n_groups = trace.n_vms // settings.vms_per_host if settings.vms_per_host else 0
    if n_groups < 2:
        return
    util, samples = vm_load(trace).util, trace.n_samples
    size = np.ones(trace.n_vms) if trace.cpu_mhz is None else trace.cpu_mhz
    parts = np.array_split(rng.permutation(trace.n_vms), n_groups)
    shares = (size[part] / size[part].sum() for part in parts)
    # einsum, not BLAS, whose rounding depends on the CPU
    hosts = np.stack([np.einsum("sv,v->s", util[:, p], w) for p, w in zip(parts, shares)], axis=1)
    whole = np.zeros(n_groups, dtype=np.int64)
    yield "host", Load(np.ascontiguousarray(hosts), whole, whole + samples - 1)


def measure(load: Load, forecaster: Forecaster, steps: int, settings: SkillSettings) -> Errors:
    """Forecast from every origin and add up the errors of each series."""
    samples, series = load.util.shape
    begin = max(settings.warmup - 1, math.ceil(settings.begin * samples) - steps)
    origins = np.arange(begin, samples - steps)
    if len(origins) > settings.origins:
        origins = origins[np.linspace(0, len(origins) - 1, settings.origins).round().astype(np.int64)]
    sums, covered = np.zeros((4, series)), np.zeros((len(QUANTILES) - 1, series))
    count = np.zeros(series, dtype=np.int64)
    for origin in origins:
        known = origin + 1 - load.first
        past = load.util[: origin + 1]
        forecast = forecaster.predict(past, steps, known)
        upper = _upper(forecaster, past, steps, known, forecast)
        if settings.clip:
            np.clip(forecast, 0.0, load.highest, out=forecast)
            np.clip(upper, 0.0, load.highest, out=upper)
        counted = (known >= settings.warmup) & (origin + steps <= load.last)
        truth = load.util[origin + steps]
        error = np.where(counted, forecast - truth, 0.0)
        short = np.where(counted, truth - upper, 0.0)
        pinball = np.maximum(_LEVELS * short, (_LEVELS - 1.0) * short).mean(axis=0)
        sums += np.abs(error), error**2, error, pinball
        covered += counted & (short <= 0.0)
        count += counted
    absolute, squared, signed, pinball = sums
    return Errors(absolute, squared, signed, pinball, covered, count)


_LEVELS = np.array(QUANTILES[1:])[:, None]


def _upper(forecaster: Forecaster, past: F8, steps: int, known: I8, forecast: F8) -> F8:
    """Upper quantiles of every series, (quantiles, N)."""
    told = forecaster.upper(past, steps, known)
    if told is not None:
        return told
    spread = np.sqrt(young_variance(*squares_of_past(past, known, SPREAD), 1.0))
    return np.asarray(forecast + np.array(NORMAL[1:])[:, None] * spread)


def mean_of(sums: F8, errors: Errors) -> float:
    """Mean over series of the mean over time."""
    scored = errors.count > 0
    return float((sums[scored] / errors.count[scored]).mean()) if scored.any() else math.nan


def _rows(
    trace: Trace,
    level: str,
    steps: int,
    errors: Mapping[str, Errors],
    settings: SkillSettings,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Result rows of one level and horizon; every forecaster is resampled with the same VMs."""
    count = errors[REFERENCES[0]].count
    scored = count > 0
    n = int(np.count_nonzero(scored))
    labels = list(errors)
    mae = np.stack([errors[label].absolute[scored] / count[scored] for label in labels], axis=1)
    mae[mae < ROUNDING] = 0.0
    means = mae.mean(axis=0)
    draws = resampled_means(mae, rng, n_resamples=settings.resamples)
    rows = []
    for spec in settings.forecasters:
        i = labels.index(spec.label)
        found = errors[spec.label]
        row: dict[str, Any] = {
            "trace": trace.name,
            "level": level,
            "forecaster": spec.label,
            "steps": steps,
            "ahead_s": steps * trace.sample_s,
            **_named("mae", percentile_interval(float(means[i]), draws[:, i], n)),
            "rmse": math.sqrt(mean_of(found.squared, found)),
            "bias": mean_of(found.signed, found),
            "pinball": mean_of(found.pinball, found),
            **{f"coverage_{100 * q:.0f}": mean_of(c, found) for q, c in zip(QUANTILES[1:], found.covered)},
            "series": n,
            "forecasts": int(count.sum()),
        }
        for name in REFERENCES:
            j = labels.index(name)
            skills = _skill(draws[:, i], draws[:, j])
            estimate = float(_skill(means[i : i + 1], means[j : j + 1])[0])
            row |= _named(f"skill_{name}", percentile_interval(estimate, skills, n))
        rows.append(row)
    return rows


def _skill(mae: F8, reference: F8) -> F8:
    """1 - MAE / MAE of the reference; NaN where the reference does not err."""
    return np.asarray(1.0 - mae / np.where(reference > 0, reference, math.nan))


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def unseasoned(specs: Sequence[PolicySpec], trace: Trace) -> list[str]:
    """Labels of seasonal forecasters that never see a whole season of a trace."""
    found = []
    for spec in specs:
        forecaster = _make(spec, trace.sample_s)
        if getattr(forecaster, "period", 0) >= trace.n_samples:
            found.append(spec.label)
    return found
