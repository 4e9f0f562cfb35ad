"""Reader of OpenDC failure traces: Parquet with interval, duration (ms) and intensity of each incident.

The format is that of ``atlarge-research/opendc-traces`` on GitHub (``failure/schemas/failure_schema_1.py``):
``failure_interval`` is the time since the last failure, ``failure_duration`` how long this one lasts,
``failure_intensity`` the share of hosts that it takes. "Since the last failure" can mean its start or its
end. OpenDC's own replay waits for the interval, lets the hosts fail for the duration, and goes on with the
next; the default reads it so, and the option ``since`` the other way.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...arrays import F8
from ...errors import TraceError
from ...files import names_its_file, show_path
from ..columns import is_table_file, read_columns
from ..repairs import Repairs, check_choice
from ..sniffing import Look

if TYPE_CHECKING:
    from ...sim.models.failures import Incident


@dataclass(frozen=True)
class FailureTrace:
    """Incidents in the order of their starts.

    Attributes:
        name: Short name.
        source: Path, recorded with results.
        start_s: Start of each incident, s from the start of the trace, shape (N,), non-decreasing.
        duration_s: How long it lasts, s, shape (N,), positive.
        intensity: Share of hosts that fail, 0 to 1, shape (N,).
        notes: What the reader found, one sentence each.
    """

    name: str
    source: str
    start_s: F8
    duration_s: F8
    intensity: F8
    notes: tuple[str, ...] = ()

    @property
    def end_s(self) -> F8:
        """End of each incident, s, shape (N,)."""
        return self.start_s + self.duration_s

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """The incidents as `virtgym.envs.sim.models.failures.sample_incidents` takes them."""
        from ...sim.models.failures import Incident

        columns = (self.start_s.tolist(), self.duration_s.tolist(), self.intensity.tolist())
        return tuple(Incident(*incident) for incident in zip(*columns))

    @property
    def span_s(self) -> float:
        """When the last incident ends, s."""
        return float(self.end_s.max())


def sniff(look: Look) -> bool:
    """Whether a Parquet or CSV file has the column of intervals."""
    return "failure_interval" in look.header


@names_its_file
def read_failures(path: str | os.PathLike[str], *, since: str = "end") -> FailureTrace:
    """Read a failure trace.

    Args:
        path: Parquet (or CSV) file with ``failure_interval``, ``failure_duration`` and ``failure_intensity``.
        since: From where an interval counts: the ``end`` of the incident before, as OpenDC replays it, so
            that incidents never overlap, or its ``start``.

    Returns:
        The incidents.

    Raises:
        TraceError: If the file is malformed, naming file and row.
    """
    check_choice("failures", "since", since, ("end", "start"))
    root = Path(path)
    if not is_table_file(root):
        raise TraceError(f"{show_path(root)}: a failure trace ends in .parquet, .pq or .csv")
    columns = read_columns(
        root, required=("failure_interval", "failure_duration", "failure_intensity"), optional=()
    )
    interval = columns.numbers("failure_interval", "at least 0 ms") / 1000
    duration = columns.numbers("failure_duration", "at least 0 ms") / 1000
    intensity = columns.numbers("failure_intensity", "a share from 0 to 1", high=1.0)
    start = np.cumsum(interval)
    if since == "end":
        start[1:] += np.cumsum(duration[:-1])
    repairs = Repairs("failures", None)
    lasts = repairs.check_lives(start, start + duration, "incidents")
    if not lasts.any():
        raise TraceError(f"{show_path(root)}: no incident lasts for any time")
    start, duration, intensity = start[lasts], duration[lasts], intensity[lasts]
    reach = np.maximum.accumulate(start + duration)
    overlaps = int(np.count_nonzero(start[1:] < reach[:-1]))
    units = f"units: ms made s; intervals count from the {since} of the incident before (since={since})"
    notes = [units, *repairs.notes]
    if overlaps:
        notes.append(f"{overlaps} incidents begin before an earlier one ends")
    idle = int(np.count_nonzero(intensity == 0))
    if idle:
        notes.append(f"{idle} incidents have intensity 0: no host fails")
    name = root.name.split(".")[0]
    return FailureTrace(name, str(path), start, duration, intensity, tuple(notes))
