"""Reader of the "Azure Traces for Packing 2020": an sqlite file of VM requests with fractional sizes.

Table ``vm`` has one row per VM with its type, start and end in days (NULL: it never ends); table ``vmType``
says which fraction of a machine a type needs, for every kind of machine that can host it.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...files import names_its_file, one_line, open_regular, show_path
from ..requests import RequestTrace
from ..sniffing import Look

_DAY_S = 86_400.0
_CHUNK = 4096
_LONGEST_VALUE = 65_536
_STEPS, _STEPS_PER_BYTE = 100_000, 100
_TABLES = {
    "vm": ("vmId", "vmTypeId", "starttime", "endtime"),
    "vmType": ("vmTypeId", "machineId", "core", "memory"),
}
_ALLOWED = {
    "vmId": "a whole number",
    "vmTypeId": "a whole number",
    "machineId": "a whole number",
    "starttime": "a finite number of days",
    "endtime": "a number of days not before starttime, or NULL (never)",
    "core": "a positive, finite fraction of a machine",
    "memory": "a positive, finite fraction of a machine",
}


@names_its_file
def read_azure_packing(
    path: str | os.PathLike[str],
    *,
    machine_id: int | None = None,
    cores_per_host: float = 80.0,
    memory_gib_per_host: float = 180.0,
) -> RequestTrace:
    """Read VM requests.

    VMs stand in the order of their start; those that started before the trace (a negative start) arrive at 0
    and live as long as they do from then. VMs whose type the chosen machine cannot host, or which have no
    type that is known, no number or no start, are left out. All of that, and VMs that ended before the trace,
    is noted.

    Args:
        path: The sqlite file.
        machine_id: Kind of machine whose fractions are the sizes; the one that hosts most types by default.
        cores_per_host: Cores of that machine: a VM with the fraction 0.5 asks for half of them.
        memory_gib_per_host: Memory of that machine, GiB.

    Returns:
        The requests; cores are fractional, lifetimes inf where there is no end.

    Raises:
        TraceError: If the file is no such database, an option is out of range, or a row is malformed; the
            text names table and row, counted from 1.
    """
    for key, value in (("cores_per_host", cores_per_host), ("memory_gib_per_host", memory_gib_per_host)):
        if not 0 < value < math.inf:
            raise TraceError(f"azure_packing: {key} must be positive and finite, is {value}")
    root = Path(path)
    try:
        with closing(_open(root)) as database:
            vms, types = (_read_table(root, database, table) for table in ("vm", "vmType"))
    except sqlite3.Error as error:
        raise TraceError(f"{show_path(root)}: not a readable sqlite database ({one_line(error)})") from None
    machine, sizes, notes = _choose_machine(root, types, machine_id)
    table, more = _select(root, vms, types, sizes)
    _, _, start, end, cores, memory = table
    return RequestTrace(
        name=root.stem,
        format="azure_packing",
        source=str(path),
        cores=cores * cores_per_host,
        memory_gib=memory * memory_gib_per_host,
        arrival_s=start * _DAY_S,
        lifetime_s=(end - start) * _DAY_S,
        vm_ids=table[0].astype(np.int64),
        notes=(f"sizes are fractions of machine {machine}", *notes, *more),
    )


def sniff(look: Look) -> bool:
    """Whether a file is an sqlite database, by its name or its beginning."""
    return not look.is_dir and (
        look.name.endswith((".sqlite", ".sqlite3", ".db")) or look.starts(b"SQLite format 3")
    )


def _open(path: Path) -> sqlite3.Connection:
    """Open a database as it is: no journal or lock beside it is looked at, no long query goes on."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    database.execute("PRAGMA trusted_schema=OFF")
    # A row takes some bytes of the file and some steps of sqlite's machine; more steps come from no table.
    left = iter(range(_STEPS_PER_BYTE * size // _STEPS + 100))
    database.set_progress_handler(lambda: next(left, -1) < 0, _STEPS)
    return database


def _read_table(path: Path, database: sqlite3.Connection, table: str) -> NDArray[np.float64]:
    """Read and check the columns of a table that matter.

    Returns:
        Columns as in `_TABLES`, shape (4, rows); a NULL end is inf.

    Raises:
        TraceError: If the table or a column is missing, there is no row, or a value is not allowed.
    """
    columns = _TABLES[table]
    # A view may run anything, for ever; it has no page of its own, nor has a virtual table.
    found = database.execute(
        "SELECT type, rootpage FROM sqlite_master WHERE lower(name) = lower(?) AND type IN ('table', 'view')",
        (table,),
    ).fetchone()
    if found is not None and (found[0] != "table" or not found[1]):
        raise TraceError(
            f"{show_path(path)}: {table} is a {found[0]} that is computed, expected a plain table"
        )
    present = {str(row[1]).lower() for row in database.execute(f"PRAGMA table_info({table})")}
    missing = [name for name in columns if name.lower() not in present]
    if missing:
        what = f"the table {table} has no column {missing[0]}" if present else f"there is no table {table}"
        raise TraceError(f"{show_path(path)}: {what}; expected {table}({', '.join(columns)}, …)")
    chunks: list[NDArray[np.float64]] = []
    cursor = database.execute(f"SELECT {', '.join(columns)} FROM {table}")
    done = 0
    while rows := cursor.fetchmany(_CHUNK):
        chunks.append(_to_array(path, table, rows, done))
        done += len(rows)
    if not chunks:
        raise TraceError(f"{show_path(path)}: the table {table} is empty")
    return np.concatenate(chunks, axis=1)


def _to_array(path: Path, table: str, rows: Sequence[Sequence[object]], done: int) -> NDArray[np.float64]:
    """Turn rows into columns, shape (4, rows), checked.

    Args:
        path: For messages.
        table: Its name.
        rows: Values as sqlite has them: any type may stand in any column.
        done: Rows read before these.
    """
    columns = _TABLES[table]
    try:
        values = np.array(rows, dtype=np.float64).T
    except (ValueError, TypeError, OverflowError):
        values = np.array([[_to_number(value) for value in row] for row in rows]).T
    lost = np.zeros(len(rows), dtype=bool)
    if table == "vm":
        blank = np.array([row[3] in (None, "") for row in rows])
        values[3, blank] = np.inf
        for row in np.flatnonzero(np.isnan(values[:3]).any(axis=0)).tolist():
            lost[row] = any(value in (None, "") for value in rows[row][:3])
    good = np.empty(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        whole = (values == np.floor(values)) & (np.abs(values) < 2.0**53)
        if table == "vm":
            good[:2], good[2], good[3] = whole[:2], np.isfinite(values[2]), values[3] >= values[2]
        else:
            good[:2], good[2:] = whole[:2], np.isfinite(values[2:]) & (values[2:] > 0)
    good |= lost
    if not good.all():
        row = int(np.argmin(good.all(axis=0)))
        column = int(np.argmin(good[:, row]))
        raise TraceError(
            f"{show_path(path)}: table {table}, row {done + row + 1}: {columns[column]} must be "
            f"{_ALLOWED[columns[column]]}, found {_show(rows[row][column])}"
        )
    return values


def _to_number(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _show(value: object) -> str:
    return "NULL" if value is None else repr(value)[:60]


def _choose_machine(
    path: Path, types: NDArray[np.float64], machine_id: int | None
) -> tuple[int, NDArray[np.float64], list[str]]:
    """Return the machine, its rows of ``vmType`` in the order of the types, shape (4, types), and notes.

    Raises:
        TraceError: If there is no such machine, or it has two rows for a type.
    """
    machines, counts = np.unique(types[1], return_counts=True)
    if machine_id is not None and machine_id not in machines:
        near = ", ".join(f"{machine:.0f}" for machine in machines[:20])
        raise TraceError(f"{show_path(path)}: there is no machine_id {machine_id}; there are: {near}")
    machine = int(machines[np.argmax(counts)]) if machine_id is None else machine_id
    rows = np.flatnonzero(types[1] == machine)
    order = rows[np.argsort(types[0, rows], kind="stable")]
    again = np.flatnonzero(np.diff(types[0, order]) == 0)
    if again.size:
        row = int(order[again + 1].min())
        raise TraceError(
            f"{show_path(path)}: table vmType, row {row + 1}: machine {machine} has vmTypeId "
            f"{types[0, row]:.0f} already; one row each is allowed"
        )
    total = np.unique(types[0]).size
    notes = [f"machine {machine} hosts {rows.size} of {total} VM types"] if rows.size < total else []
    return machine, types[:, order], notes


def _select(
    path: Path, vms: NDArray[np.float64], types: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[str]]:
    """Give the VMs their sizes and the trace its beginning.

    Args:
        path: For messages.
        vms: Table ``vm``, shape (4, VMs).
        types: Table ``vmType``, shape (4, rows).
        sizes: Rows of the chosen machine in the order of the types, shape (4, types).

    Returns:
        vmId, vmTypeId, start, end (days), core and memory (fractions), shape (6, R), by start; and notes.

    Raises:
        TraceError: If no VM is left.
    """
    lost = np.isnan(vms[0]) | np.isnan(vms[2])
    typeless = ~lost & ~np.isin(vms[1], types[0])
    vms = np.where(lost | typeless, np.nan, vms)
    at = np.minimum(np.searchsorted(sizes[0], vms[1]), sizes.shape[1] - 1)
    fits = sizes[0, at] == vms[1]
    known = ~(lost | typeless)
    early, over = vms[2] < 0, (vms[3] <= 0) & (vms[2] < 0)
    keep = fits & ~over
    counted = (
        (lost, "left out, without a number or a start"),
        (typeless, "left out, of no type in the table vmType"),
        (known & ~fits, "left out, of types that this machine cannot host"),
        (fits & over, "left out, ended before the trace"),
        (keep & early, "started before the trace and arrive at 0"),
    )
    notes = [f"VMs {text}: {np.count_nonzero(rows)}" for rows, text in counted if rows.any()]
    if not keep.any():
        raise TraceError(f"{show_path(path)}: no VM is left ({'; '.join(notes)})")
    table = np.concatenate([vms, sizes[2:, at]])[:, keep]
    table[2] = np.maximum(table[2], 0.0)
    return table[:, np.argsort(table[2], kind="stable")], notes
