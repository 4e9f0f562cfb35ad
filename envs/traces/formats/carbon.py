"""Reader of carbon-intensity series: Parquet or CSV with ``timestamp`` and ``carbon_intensity`` (gCO2eq/kWh).

The CSV files of Electricity Maps are read as they are downloaded, with the names of both generations:
``Carbon Intensity gCO₂eq/kWh (direct)`` and ``(LCA)``, since 2024 ``(Life cycle)``. Direct emissions are
those of power plants in operation, the life cycle's include building them and the fuel's way there.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...files import names_its_file, read_bytes, show_path
from ...sim.models.carbon import CarbonSeries
from ..base import check_cells, check_moments
from ..columns import Columns, read_columns
from ..repairs import MISSING, Repairs, carry_forward, check_choice
from ..sniffing import Look

SERIES = ("direct", "lifecycle")
"""Series of an Electricity Maps file."""

_VALUE = "carbon_intensity"
_NAMES = (
    (re.compile(r"datetime \(utc\)|datetime|timestamp", re.IGNORECASE), "timestamp"),
    (re.compile(r"carbon intensity.*\(direct\)", re.IGNORECASE), "direct"),
    (re.compile(r"carbon intensity.*\((lca|life ?-?cycle)\)", re.IGNORECASE), "lifecycle"),
    (re.compile(r"zone id", re.IGNORECASE), "zone"),
    (re.compile(r"data estimated", re.IGNORECASE), "estimated"),
)
_MOST_G_PER_KWH = 1e6


def sniff(look: Look) -> bool:
    """Whether a Parquet or CSV file has a column of carbon intensity."""
    names = {_rename(name) for name in look.header}
    return bool(names & {_VALUE, *SERIES})


def read_carbon(
    path: str | os.PathLike[str],
    *,
    start: str | None = None,
    source: str | None = None,
    fill: str | None = None,
    series: str | None = None,
) -> CarbonSeries:
    """Read a carbon-intensity series.

    Args:
        path: Parquet or CSV file with the columns ``timestamp`` (equally spaced, UTC) and
            ``carbon_intensity`` (gCO2eq/kWh), or a CSV file of Electricity Maps.
        start: Date or time in the series at which the simulation begins, such as ``2023-06-01`` or
            ``2023-06-01T12:00``; by default its first.
        source: Whom to cite; it is recorded, with the file's name, its SHA-256, the series and the repairs,
            as the series' source.
        fill: What to put where a value is missing: None for an error, ``previous`` or ``zero``.
        series: Which series of an Electricity Maps file: ``lifecycle`` (the default) or ``direct``.

    Returns:
        The series.

    Raises:
        TraceError: For a malformed file, naming it and the row, or a start outside of it.
    """
    return load_carbon(path, start=start, source=source, fill=fill, series=series)[0]


@names_its_file
def load_carbon(
    path: str | os.PathLike[str],
    *,
    start: str | None = None,
    source: str | None = None,
    fill: str | None = None,
    series: str | None = None,
) -> tuple[CarbonSeries, tuple[str, ...]]:
    """Read a series as `read_carbon`, and return what was found and repaired, too."""
    repairs = Repairs("carbon", fill)
    root = Path(path)
    where = show_path(root)
    digest = hashlib.sha256(read_bytes(root)).hexdigest()
    optional = (_VALUE, *SERIES, "zone", "estimated")
    columns = read_columns(root, required=("timestamp",), optional=optional, rename=_rename, others=True)
    name = _choose_series(columns, series)
    columns = columns.take(_find_times(columns, repairs))
    stamps, values, step = _lay_grid(columns, name, repairs)
    first = np.datetime64(stamps, "ms")
    offset_s = 0.0
    if start is not None:
        try:
            offset_s = float((np.datetime64(start, "ms") - first) / np.timedelta64(1, "s"))
        except ValueError:
            raise TraceError(f"carbon.start={start}: must be a date or time like 2023-06-01T12:00") from None
        if not 0 <= offset_s < values.size * step / 1000:
            end = first + np.timedelta64(values.size * step, "ms")
            raise TraceError(f"carbon.start={start}: {where} holds {first} to {end}")
    said = [note for note in repairs.notes if not note.startswith("gaps: none")]
    if name != _VALUE:
        said.insert(0, f"Electricity Maps, series {name}{_tell_zone(columns)}")
    carbon = CarbonSeries(
        values,
        source="; ".join([*([source] if source else []), f"{root.name} (sha256 {digest})", *said]),
        step_s=step / 1000,
        offset_s=offset_s,
        start=str(first.astype("datetime64[s]")),
    )
    return carbon, (*said[: name != _VALUE], *repairs.notes)


def _rename(name: str) -> str:
    return next((ours for pattern, ours in _NAMES if pattern.fullmatch(name.strip())), name)


def _choose_series(columns: Columns, series: str | None) -> str:
    """Return the column to read."""
    found = [name for name in SERIES if name in columns]
    names = ", ".join(columns.names)
    if series is not None:
        check_choice("carbon", "series", series, SERIES)
        if series not in found:
            raise TraceError(f"{show_path(columns.path)}: has no series {series}; found {names}")
        return series
    if _VALUE in columns:
        return _VALUE
    if not found:
        raise TraceError(f"{show_path(columns.path)}: needs the columns {_VALUE}; found {names}")
    return found[-1]


def _tell_zone(columns: Columns) -> str:
    """Return the zone of an Electricity Maps file; there may be only one."""
    if "zone" not in columns:
        return ""
    _, zones = columns.labels("zone")
    if len(zones) > 1:
        raise TraceError(f"{show_path(columns.path)}: holds the zones {', '.join(zones[:8])}; one is allowed")
    return f", zone {zones[0]}"


def _find_times(columns: Columns, repairs: Repairs) -> NDArray[np.bool_]:
    """Return which rows have a time, shape (N,); note the others and estimated values."""
    import pyarrow.compute as pc

    column = columns.table["timestamp"]
    timed: NDArray[np.bool_] = pc.is_valid(column).to_numpy()
    if columns.is_csv:
        timed &= ~np.isin(np.char.strip(np.array(column.to_pylist(), dtype=str)), MISSING)
    repairs.leave_out_nobodys(int(np.count_nonzero(~timed)))
    if not timed.any():
        raise TraceError(f"{show_path(columns.path)}: no row has a time")
    if "estimated" in columns:
        texts = np.char.lower(np.array(columns.table["estimated"].to_pylist(), dtype=str))
        count = int(np.count_nonzero(texts == "true"))
        if count:
            repairs.notes.append(f"{count} of {texts.size} values are estimates")
    return timed


def _lay_grid(columns: Columns, name: str, repairs: Repairs) -> tuple[int, NDArray[np.float64], int]:
    """Return the first time, ms, the values, shape (N,), and their step, ms; gaps are filled or refused."""
    stamps = columns.moments("timestamp")
    check_moments(show_path(columns.path), stamps)
    allowed = f"a number from 0 to {_MOST_G_PER_KWH:g}"
    found = columns.readings(name, allowed)
    high = np.isfinite(found) & (found > _MOST_G_PER_KWH)
    if high.any():
        raise columns.bad_value(name, int(np.argmax(high)), allowed)
    values = repairs.clean(name, found)
    order = np.argsort(stamps, kind="stable")
    again = np.flatnonzero(np.diff(stamps[order]) == 0)
    same = found[order[again]] == found[order[again + 1]]
    repairs.count_repeats(int(np.count_nonzero(same)), int(np.count_nonzero(~same)))
    order = np.delete(order, again)
    stamps, values = stamps[order], values[order]
    steps = np.diff(stamps)
    kinds, counts = np.unique(steps if steps.size else np.array([3_600_000]), return_counts=True)
    step = int(kinds[np.argmax(counts)])
    repairs.check_times(stamps / 1000, (stamps + step) / 1000, lambda row: columns.where(int(order[row])))
    odd = np.flatnonzero(steps % step)
    if odd.size:
        raise columns.error(
            int(order[odd[0] + 1]), f"timestamps must rise by equal steps of {step / 1000:g} s"
        )
    place = (stamps - stamps[0]) // step
    check_cells(
        show_path(columns.path), int(place[-1]) + 1, 1, stamps.size, step / 1000, "are the timestamps right?"
    )
    grid = np.full(int(place[-1]) + 1, np.nan)
    grid[place] = values
    gaps = np.isnan(grid)
    count = int(np.count_nonzero(gaps))
    if count == 0:
        repairs.notes.append("gaps: none")
        return int(stamps[0]), grid, step
    what = f"{count} of {grid.size} values are missing"
    if repairs.fill is None:
        cell = int(np.argmax(gaps))
        at = int(np.searchsorted(place, cell))
        row = int(order[at])
        moment = np.datetime64(int(stamps[0]) + cell * step, "ms").astype("datetime64[s]")
        lacks = f"no value for {moment}"
        if not np.isnan(found[row]) and place[at] == cell:
            lacks = f"{name} must be {allowed}, not {found[row]:g}"
        raise repairs.refuse_gap(f"{columns.where(row)}: {lacks}; {what}")
    grid[gaps] = 0.0
    if repairs.fill == "previous":
        carry_forward(grid[:, None], ~gaps[:, None], gaps[:, None])
    repairs.notes.append(f"{what}, filled (fill={repairs.fill})")
    return int(stamps[0]), grid, step
