"""Reader of Huawei Cloud's VM requests: a CSV file, one line per VM or one line per event.

Two forms are in use. The placement benchmark's has one line per VM: ``vmid,cpu,mem,at,lt`` (cores, GB,
arrival s, lifetime s). VMAgent's has one line per event: ``vmid,cpu,memory,time,type`` with type 0 = create
and 1 = delete. The header tells which it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...files import LARGEST_WHOLE, names_its_file, open_text, read_npy, show_found, show_path
from ..repairs import MISSING, Repairs
from ..requests import RequestTrace
from ..sniffing import Look

REQUEST_COLUMNS = ("vmid", "cpu", "mem", "at", "lt")
EVENT_COLUMNS = ("vmid", "cpu", "memory", "time", "type")

_EXACT = 2.0**53
_ALLOWED = {
    "vmid": "a whole number",
    "cpu": "a positive, finite number of cores",
    "mem": "a positive, finite number of GB",
    "memory": "a positive, finite number of GB",
    "at": "a finite time of at least 0 s",
    "time": "a finite time of at least 0 s",
    "lt": "a number of seconds of at least 0 (inf: never leaves)",
    "type": "0 (create) or 1 (delete)",
}


@names_its_file
def read_huawei(path: str | os.PathLike[str]) -> RequestTrace:
    """Read VM requests of either form.

    Args:
        path: CSV file whose header is ``vmid,cpu,mem,at,lt`` or ``vmid,cpu,memory,time,type``. GB are taken
            as GiB. In the event form a VM that is never deleted has the lifetime inf.

    Returns:
        The requests in the order of the file, ``arrival_s`` non-decreasing.

    Raises:
        TraceError: For a file that is missing, empty or has another header; for a wrong number of fields, a
            size that is not positive, a NaN, a negative or decreasing time, a negative lifetime, a vmid that
            is there twice, or a delete without create; the text names file and line.
    """
    root = Path(path)
    columns, lines = _split(root)
    numbers = np.arange(2, len(lines) + 2)
    parsed = _parse_fast(columns, lines)
    repairs = Repairs("huawei", None)
    if parsed is None:
        named = np.array([line.partition(",")[0].strip() not in MISSING or "," not in line for line in lines])
        repairs.leave_out(int(np.count_nonzero(~named)), "rows name no VM")
        numbers = numbers[named]
        parsed = _parse_slow(root, columns, [line for line, kept in zip(lines, named) if kept], numbers)
    if parsed[1].size == 0:
        raise TraceError(f"{show_path(root)}: no row names a VM")
    build = _from_requests if columns == REQUEST_COLUMNS else _from_events
    return build(root, *parsed, numbers, repairs)


def sniff(look: Look) -> bool:
    """Whether a CSV file begins with the columns of either form."""
    return look.name.endswith(".csv") and [cell.lower() for cell in look.header[:2]] == ["vmid", "cpu"]


def _split(path: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns that the header names, and the other lines without blank ones at the end.

    Raises:
        TraceError: If the file cannot be read, is empty, has another header, or nothing but a header.
    """
    allowed = " or ".join(",".join(columns) for columns in (REQUEST_COLUMNS, EVENT_COLUMNS))
    text = _read_text(path)
    if not text:
        raise TraceError(f"{show_path(path)}:1: the file is empty; expected the header {allowed}")
    header, *lines = text.split("\n")
    columns = tuple(name.strip() for name in header.split(","))
    if columns not in (REQUEST_COLUMNS, EVENT_COLUMNS):
        raise TraceError(f"{show_path(path)}:1: expected the header {allowed}, found {show_found(header)}")
    if not lines:
        raise TraceError(f"{show_path(path)}:1: there is no request after the header")
    return columns, lines


def _read_text(path: Path) -> str:
    with open_text(path, "replace", limit=LARGEST_WHOLE) as file:
        return file.read().rstrip()


def _parse_fast(
    columns: Sequence[str], lines: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Parse well-formed lines all at once.

    Args:
        columns: The header's names.
        lines: Lines after the header.

    Returns:
        All columns, shape (5, R), and the vmids, shape (R,); or None when anything is out of the ordinary:
        the slow path then decides whether that is an error, and where.
    """
    try:
        table = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2).T
    except ValueError:
        return None
    if table.shape != (len(columns), len(lines)):
        return None
    ids, cores, memory, time, last = table
    good = bool((np.abs(ids) < _EXACT).all() and (ids == np.floor(ids)).all())
    good = good and all(bool((column > 0).all() and np.isfinite(column).all()) for column in (cores, memory))
    good = good and bool(time[0] >= 0 and np.isfinite(time).all() and (np.diff(time) >= 0).all())
    if columns[4] == "type":
        good = good and bool(((last == 0) | (last == 1)).all())
    else:
        good = good and bool((last >= 0).all())
    return (table, ids.astype(np.int64)) if good else None


def _parse_slow(
    path: Path, columns: Sequence[str], lines: Sequence[str], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Parse line by line, whose ``numbers`` in the file are given; blanks round a number and CRLF are fine.

    Returns:
        As `_parse_fast`.

    Raises:
        TraceError: With file and line of the first offence.
    """
    table = np.empty((len(columns), len(lines)))
    vm_ids = np.empty(len(lines), dtype=np.int64)
    before = 0.0
    for row, line in enumerate(lines):
        where = f"{show_path(path)}:{numbers[row]}"
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(columns):
            found = f"{len(fields)} fields in {show_found(line)}" if line.strip() else "a blank line"
            raise TraceError(f"{where}: expected {len(columns)} fields ({','.join(columns)}), found {found}")
        for index, (name, field) in enumerate(zip(columns, fields)):
            value = _to_number(field)
            if not _CHECKS[name](value):
                raise TraceError(f"{where}: {name} must be {_ALLOWED[name]}, found {show_found(field)}")
            table[index, row] = value
        vm_ids[row] = int(fields[0]) if fields[0].lstrip("+-").isdecimal() else int(float(fields[0]))
        time = float(table[3, row])
        if time < before:
            raise TraceError(
                f"{where}: {columns[3]} must not decrease, found {time:.12g} after {before:.12g} s"
            )
        before = time
    return table, vm_ids


def _to_number(field: str) -> float:
    try:
        # Python reads 1_000 as a number, too, and other readers of such files do not.
        return math.nan if "_" in field else float(field)
    except ValueError:
        return math.nan


def _is_size(value: float) -> bool:
    return 0 < value < math.inf


def _is_time(value: float) -> bool:
    return 0 <= value < math.inf


_CHECKS: dict[str, Callable[[float], bool]] = {
    "vmid": lambda value: abs(value) < 2.0**63 and value == math.floor(value),
    "cpu": _is_size,
    "mem": _is_size,
    "memory": _is_size,
    "at": _is_time,
    "time": _is_time,
    "lt": lambda value: value >= 0,
    "type": lambda value: value in (0, 1),
}


def _from_requests(
    path: Path,
    table: NDArray[np.float64],
    vm_ids: NDArray[np.int64],
    numbers: NDArray[np.int64],
    repairs: Repairs,
) -> RequestTrace:
    """Build the trace from one line per VM; a line that repeats another counts once.

    Args:
        path: For messages.
        table: Columns of the file, shape (5, R).
        vm_ids: Shape (R,).
        numbers: Line of each row, shape (R,).
        repairs: Gets the notes.

    Raises:
        TraceError: If a vmid is there twice, with other values.
    """
    order = np.argsort(vm_ids, kind="stable")
    one, two = order[:-1], order[1:]
    again = vm_ids[one] == vm_ids[two]
    copy = again & (table[:, one] == table[:, two]).all(axis=0)
    other = np.flatnonzero(again & ~copy)
    if other.size:
        at = other[np.argmin(two[other])]
        first, second = int(one[at]), int(two[at])
        raise TraceError(
            f"{show_path(path)}:{numbers[second]}: vmid {vm_ids[second]} stands in line {numbers[first]} "
            "already; every VM has one line"
        )
    repairs.count_repeats(int(np.count_nonzero(copy)), 0)
    if copy.any():
        table, vm_ids = np.delete(table, two[copy], axis=1), np.delete(vm_ids, two[copy])
    return _build(path, table[:4], vm_ids, np.ascontiguousarray(table[4]), tuple(repairs.notes))


def _from_events(
    path: Path,
    table: NDArray[np.float64],
    vm_ids: NDArray[np.int64],
    numbers: NDArray[np.int64],
    repairs: Repairs,
) -> RequestTrace:
    """Pair creations with deletions.

    Args:
        path: For messages.
        table: Columns of the file, shape (5, events).
        vm_ids: Shape (events,).
        numbers: Line of each row, shape (events,).
        repairs: Gets the notes.

    Raises:
        TraceError: If a VM is deleted that does not run, or created while it runs.
    """
    order = np.argsort(vm_ids, kind="stable")
    ids, kinds, times = vm_ids[order], table[4][order], table[3][order]
    same = np.concatenate(([False], ids[1:] == ids[:-1]))
    wanted = np.where(same, 1 - np.concatenate(([0.0], kinds[:-1])), 0.0)
    wrong = np.flatnonzero(kinds != wanted)
    if wrong.size:
        row = int(order[wrong].min())
        what = "deleted, but does not run" if table[4][row] else "created, but runs already"
        raise TraceError(f"{show_path(path)}:{numbers[row]}: vmid {vm_ids[row]} is {what}")
    lifetime = np.full(order.size, np.inf)
    ended = np.flatnonzero(same & (kinds == 1))
    lifetime[order[ended - 1]] = times[ended] - times[ended - 1]
    created = table[4] == 0
    resized = int(np.count_nonzero((table[1:3, order[ended]] != table[1:3, order[ended - 1]]).any(axis=0)))
    stay = int(np.count_nonzero(np.isinf(lifetime[created])))
    notes = repairs.notes
    if stay:
        notes.append(f"VMs that are never deleted (lifetime inf): {stay}")
    if resized:
        notes.append(f"VMs deleted with another size than they were created with: {resized}")
    return _build(path, table[:4, created], vm_ids[created], lifetime[created], tuple(notes))


def _build(
    path: Path,
    table: NDArray[np.float64],
    vm_ids: NDArray[np.int64],
    lifetime: NDArray[np.float64],
    notes: tuple[str, ...],
) -> RequestTrace:
    _, cores, memory, arrival = np.ascontiguousarray(table)
    return RequestTrace(
        name=path.stem,
        format="huawei",
        source=str(path),
        cores=cores,
        memory_gib=memory,
        arrival_s=arrival,
        lifetime_s=lifetime,
        vm_ids=vm_ids,
        notes=notes,
    )


@names_its_file
def read_windows(path: str | os.PathLike[str], n_requests: int) -> NDArray[np.int64]:
    """Read the first rows of evaluation windows.

    Args:
        path: ``.npy`` file with one array of integers, or a text file with one integer per line, under an
            optional header line.
        n_requests: Number of requests of the trace that the rows refer to, R.

    Returns:
        Row numbers from 0, shape (W,), in the order of the file.

    Raises:
        TraceError: If the file is missing, empty or of another kind, or an entry is not a row of the trace;
            the text names the line or, for ``.npy``, the entry.
    """
    root = Path(path)
    if root.suffix.lower() == ".npy":
        windows, first, unit = _load_npy(root), 0, ", entry "
    else:
        windows, first = _parse_rows(root, _read_text(root))
        unit = ":"
    if windows.size == 0:
        raise TraceError(f"{show_path(root)}: there is no window in it")
    bad = np.flatnonzero((windows < 0) | (windows >= n_requests))
    if bad.size:
        raise TraceError(
            f"{show_path(root)}{unit}{bad[0] + first}: a window must start in a row from 0 to "
            f"{n_requests - 1}, found {windows[bad[0]]}"
        )
    return windows


def _load_npy(path: Path) -> NDArray[np.int64]:
    loaded = read_npy(path)
    if loaded.ndim != 1 or loaded.dtype.kind not in "iu":
        found = f"{loaded.ndim}-dimensional {loaded.dtype}"
        raise TraceError(f"{show_path(path)}: expected a one-dimensional array of integers, found {found}")
    return loaded.astype(np.int64)


def _parse_rows(path: Path, text: str) -> tuple[NDArray[np.int64], int]:
    """Return the integers of a text file, and the number of the line that the first one stands in."""
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    first = 2 if lines and lines[0][:1].isalpha() and math.isnan(_to_number(lines[0])) else 1
    rows = []
    for number, line in enumerate(lines[first - 1 :], start=first):
        value = _to_number(line)  # numpy writes whole numbers as 5.0e+01, too
        if not (abs(value) < _EXACT and value == math.floor(value)):
            found = show_found(line) if line else "a blank line"
            raise TraceError(f"{show_path(path)}:{number}: expected one row number, found {found}")
        rows.append(int(value))
    return np.array(rows, dtype=np.int64), first
