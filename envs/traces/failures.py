"""Reader of failure traces in OpenDC's format: incidents with interval, duration and intensity.

Parquet with ``failure_interval`` (ms), ``failure_duration`` (ms) and ``failure_intensity`` (share of the
hosts, 0 to 1). The interval is the time from the start of the incident before to the start of this one
(OpenDC: "the time between two failures"), so incidents may overlap.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..sim.failures import Incident
from .columns import read_columns

__all__ = ["read_incidents"]

_COLUMNS = ("failure_interval", "failure_duration", "failure_intensity")


def read_incidents(path: str | os.PathLike[str]) -> list[Incident]:
    """Read a failure trace.

    Args:
        path: Parquet or CSV file with the three columns.

    Returns:
        The incidents in order of time, s; those without duration or intensity strike nobody, but count as
        the start of the next interval.

    Raises:
        TraceError: For a malformed file, naming it and the row.
    """
    columns = read_columns(Path(path), required=_COLUMNS, optional=())
    interval = columns.numbers("failure_interval", "a number of at least 0, ms")
    duration = columns.numbers("failure_duration", "a number of at least 0, ms")
    intensity = columns.numbers("failure_intensity", "a number in 0..1", high=1.0)
    start_s = np.cumsum(interval) / 1000.0
    return [Incident(*row) for row in zip(start_s.tolist(), (duration / 1000.0).tolist(), intensity.tolist())]
