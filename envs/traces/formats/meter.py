"""Reader of metered power: CSV or Parquet with a time, watts and perhaps the host or group that drew them.

=============  =====================================================================================
column         holds
=============  =====================================================================================
``time``       s since the trace began, or a date and time; ``time_s``: s; ``timestamp``: ms (OpenDC's
               ``consumption.parquet``), or a date and time
``watts``      mean W since the reading before; also called ``power_w`` or ``power_draw`` (OpenDC)
``host``       whose they are, also called ``group``; without it, with one name alone, or with one row for
               each time (OpenDC's names all hosts that it adds up), everybody's
=============  =====================================================================================

Other columns are not read. A reading holds for the time up to it. Rows stand in the order of their times,
those of each host or group at equal steps; numbers beyond 1973 count from 1970, as dates do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...arrays import B1, F8, I8
from ...errors import TraceError
from ...files import names_its_file, show_path
from ..base import check_cells, check_moments
from ..columns import Columns, read_columns
from ..repairs import check_choice
from ..sniffing import Look

GAPS = ("error", "skip")
"""What becomes of time without a reading: an error, or it is left out."""

_TIMES = ("time", "time_s", "timestamp")
_WATTS = ("watts", "power_w", "power_draw")
_OWNERS = ("host", "group")
_RENAMED = {**dict.fromkeys(_WATTS, "watts"), **dict.fromkeys(_OWNERS, "owner")}
_SINCE_1973_S = 1e8


@dataclass(frozen=True)
class PowerMeter:
    """Metered power on an even grid of times.

    Attributes:
        name: Name of the file.
        source: Its path.
        period_s: Time between readings, s.
        first_s: Time of the first reading, which holds for the period before, s: since the trace began, or
            since 1970 if it is ``dated``.
        dated: Whether times are moments.
        owners: Names of hosts or groups, in the order of the columns; ("",) = everybody together.
        watts: Readings, NaN where there is none, shape (N, owners).
        notes: What was found.
    """

    name: str
    source: str
    period_s: float
    first_s: float
    dated: bool
    owners: tuple[str, ...]
    watts: F8
    notes: tuple[str, ...] = ()


def sniff(look: Look) -> bool:
    """Whether a Parquet or CSV file has columns of time and power."""
    names = {_rename(name) for name in look.header}
    return "watts" in names and bool(names & set(_TIMES))


@names_its_file
def read_meter(path: str | os.PathLike[str], *, gaps: str = "error") -> PowerMeter:
    """Read metered power.

    Args:
        path: CSV or Parquet file, see the module's table.
        gaps: What becomes of time without a reading: ``error``, or ``skip`` to leave it out.

    Raises:
        TraceError: For a malformed file, naming it and the row.
    """
    check_choice("power", "gaps", gaps, GAPS)
    root = Path(path)
    columns = read_columns(
        root, required=("watts",), optional=(*_TIMES, "owner"), rename=_rename, others=True
    )
    times = [name for name in _TIMES if name in columns]
    if len(times) != 1:
        found = "both" if times else ", ".join(columns.names) or "none of them"
        raise TraceError(f"{show_path(root)}: needs one column of times: {', '.join(_TIMES)}; found {found}")
    time_s, dated = _read_times(columns, times[0])
    watts = columns.numbers("watts", "a number of watts, 0 or more", blank=gaps == "skip")
    notes: list[str] = []
    codes, owners = np.zeros(len(watts), dtype=np.int64), [""]
    if "owner" in columns:
        codes, owners = columns.labels("owner")
        if len(owners) > 1 and len(np.unique(time_s)) == len(time_s):
            notes.append(f"{len(owners)} names, but one reading at a time, which is taken as everybody's")
            codes, owners = np.zeros_like(codes), [""]
    period, place = _lay_grid(columns, time_s, codes, owners, gaps)
    grid = np.full((int(place.max()) + 1, len(owners)), np.nan)
    grid[place, codes] = watts
    lacks = np.isnan(grid)
    count = int(np.count_nonzero(lacks))
    if count and gaps == "error":
        step, owner = (int(i) for i in np.argwhere(lacks)[0])
        whose = f" of {owners[owner]}" if len(owners) > 1 else ""
        raise TraceError(
            f"{show_path(root)}: no reading{whose} for time_s={float(time_s.min()) + step * period:g} "
            f"({count} of {grid.size} are missing, one is due every {period:g} s); "
            "gaps=skip leaves such times out"
        )
    notes += [f"{len(grid)} readings, every {period:g} s", f"{count} are missing" if count else "gaps: none"]
    return PowerMeter(
        root.name, str(path), period, float(time_s.min()), dated, tuple(owners), grid, tuple(notes)
    )


def _rename(name: str) -> str:
    return _RENAMED.get(name.strip().lower(), name.strip().lower())


def _read_times(columns: Columns, name: str) -> tuple[F8, bool]:
    """Return the times, s, shape (N,), and whether they are moments."""
    first = columns.table[name][0].as_py()
    if columns.is_csv:
        is_number = _is_number(first)
    else:
        is_number = isinstance(first, int | float)
    if not is_number:
        stamps = columns.moments(name)
        check_moments(show_path(columns.path), stamps)
        return stamps / 1000.0, True
    unit = 1e-3 if name == "timestamp" else 1.0
    time_s = unit * columns.numbers(name, "a time", low=0.0)
    return time_s, bool(time_s.min() > _SINCE_1973_S)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lay_grid(columns: Columns, time_s: F8, codes: I8, owners: list[str], gaps: str) -> tuple[float, I8]:
    """Return the period, s, and the place of every row on the grid, shape (N,)."""
    order = np.argsort(codes, kind="stable")  # rows of an owner stay in the order of the file
    step = np.diff(time_s[order])
    same: B1 = np.diff(codes[order]) == 0
    bad = np.flatnonzero(same & (step <= 0))
    if bad.size:
        row, before = int(order[bad[0] + 1]), int(order[bad[0]])
        what = "has a reading already" if time_s[row] == time_s[before] else "comes after a later one"
        raise columns.error(row, f"time_s={time_s[row]:.10g} {what}; times must rise")
    if not same.any():
        raise TraceError(f"{show_path(columns.path)}: needs at least two readings")
    period = float(np.median(step[same]))
    odd = np.flatnonzero(same & (np.abs(step / period - np.rint(step / period)) > 0.25))
    if odd.size:
        row = int(order[odd[0] + 1])
        raise columns.error(
            row,
            f"time_s={time_s[row]:.10g}: comes {step[odd[0]]:g} s after the last, not a multiple of "
            f"{period:g} s",
        )
    ticks = (time_s - time_s.min()) / period
    advice = "are the times right?"
    check_cells(show_path(columns.path), float(ticks.max()) + 1, len(owners), len(ticks), period, advice)
    place = np.rint(ticks).astype(np.int64)
    taken = np.unique(place * len(owners) + codes, return_counts=True)[1]
    if (taken > 1).any():
        raise TraceError(f"{show_path(columns.path)}: readings drift off their period of {period:g} s")
    return period, place
