"""Series beside the load that can be checked like a trace: carbon intensity, failures, metered power."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .readers import SERIES_FORMATS, check_options, find_reader, guess_format

if TYPE_CHECKING:
    from ..sim.models.carbon import CarbonSeries
    from .formats.failure_trace import FailureTrace
    from .formats.meter import PowerMeter


@dataclass(frozen=True)
class SeriesSummary:
    """What `check_series` found.

    Attributes:
        name: Name of the file.
        format: ``carbon``, ``failures`` or ``power``.
        source: Where it comes from, as results record it.
        rows: Number of values, incidents or readings.
        span_s: Length, s.
        unit: What a value means.
        mean: Mean value.
        minimum: Smallest value.
        maximum: Largest value.
        notes: What the reader found.
    """

    name: str
    format: str
    source: str
    rows: int
    span_s: float
    unit: str
    mean: float
    minimum: float
    maximum: float
    notes: tuple[str, ...]


def check_series(path: str | os.PathLike[str], format: str = "auto", **options: Any) -> SeriesSummary:
    """Read a carbon or failure series and describe it.

    Args:
        path: The file.
        format: ``carbon``, ``failures``, ``power``, or ``auto``.
        **options: Options of `read_carbon`, `read_failures` or `read_meter`.

    Returns:
        The summary.

    Raises:
        TraceError: If the file is malformed or of another format.
    """
    name = guess_format(path) if format == "auto" else format
    reader = find_reader(SERIES_FORMATS, name, path if format == "auto" else None)
    check_options(name, reader, options)
    found = reader(path, **options)
    if name == "power":
        return _describe_power(found)
    return _describe_carbon(path, *found) if name == "carbon" else _describe_failures(found)


def _describe_carbon(
    path: str | os.PathLike[str], series: CarbonSeries, notes: tuple[str, ...]
) -> SeriesSummary:
    values = series.g_per_kwh
    return SeriesSummary(
        name=Path(path).name.split(".")[0],
        format="carbon",
        source=series.source,
        rows=values.size,
        span_s=values.size * series.step_s,
        unit="gCO2eq/kWh",
        mean=float(values.mean()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        notes=(f"from {series.start} UTC, a value every {series.step_s:g} s", *notes),
    )


def _describe_failures(trace: FailureTrace) -> SeriesSummary:
    hours = trace.duration_s / 3600
    lasts = f"durations: median {np.median(hours):.3g} h, longest {hours.max():.4g} h"
    return SeriesSummary(
        name=trace.name,
        format="failures",
        source=trace.source,
        rows=trace.start_s.size,
        span_s=trace.span_s,
        unit="share of hosts",
        mean=float(trace.intensity.mean()),
        minimum=float(trace.intensity.min()),
        maximum=float(trace.intensity.max()),
        notes=(lasts, *trace.notes),
    )


def _describe_power(meter: PowerMeter) -> SeriesSummary:
    total = meter.watts.sum(axis=1)
    known = total[np.isfinite(total)]
    who = f"{len(meter.owners)} hosts or groups" if len(meter.owners) > 1 else "everybody together"
    return SeriesSummary(
        name=meter.name.split(".")[0],
        format="power",
        source=meter.source,
        rows=len(total),
        span_s=len(total) * meter.period_s,
        unit="W",
        mean=float(known.mean()) if known.size else np.nan,
        minimum=float(known.min(initial=np.inf)),
        maximum=float(known.max(initial=-np.inf)),
        notes=(who, *meter.notes),
    )
