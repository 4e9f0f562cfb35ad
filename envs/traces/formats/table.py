"""Reader and writer of the user's own traces: CSV or Parquet, one row per VM and time.

Columns (docs/traces.md has the schema with examples):

- ``vm``: name, text or integer; ``time_s``: start of the sample, s, on an equally spaced grid from 0.
- ``cpu``: fraction 0 to 1 of the VM's nominal CPU; or ``cpu_mhz_used`` together with ``cpu_mhz``.
- optional and constant per VM: ``vcpus``, ``cpu_mhz``, ``memory_mib``, ``arrival_s``, ``departure_s``,
  ``vm_class``; they may stand in a second file instead, one row per VM.
- ``signal_NAME``: any further quantity per VM and time.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...files import names_its_file, show_path, write_atomically
from ...sim.models.cost import VM_CLASSES
from ..base import LARGEST, Trace, check_cells
from ..columns import METADATA_KEY, Columns, is_table_file, read_columns
from ..repairs import Repairs, carry_forward
from ..resample import check_positive
from ..sniffing import Look

_SIGNAL = "signal_"
_SIZES = {
    "vcpus": "a whole number of at least 1",
    "cpu_mhz": "a positive number",
    "memory_mib": "a positive number",
}
_LIVES = {"arrival_s": "a time of at least 0", "departure_s": "a time after arrival_s, or nothing for never"}
_CLASS = {"vm_class": f"one of {', '.join(VM_CLASSES)}, or nothing"}
_CONSTANTS = {**_SIZES, **_LIVES, **_CLASS}


@dataclass(frozen=True)
class _Grid:
    """Where the rows lie in the (S, V) matrices."""

    step: NDArray[np.int64]
    vm: NDArray[np.int64]
    samples: int
    vms: int
    sample_s: float

    def find(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which samples of the (S, V) matrix have one of the rows."""
        matrix = np.zeros((self.samples, self.vms), dtype=bool)
        matrix[self.step[rows], self.vm[rows]] = True
        return matrix

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Spread row values over an (S, V) matrix; 0 where there is no row."""
        matrix = np.zeros((self.samples, self.vms))
        matrix[self.step, self.vm] = values
        return matrix


@names_its_file
def read_table(
    path: str | os.PathLike[str],
    *,
    sample_s: float | None = None,
    fill: str | None = None,
    over: str = "error",
) -> Trace:
    """Read a usage table.

    Without ``arrival_s`` a VM arrives with its first row; without ``departure_s`` it leaves after its last
    row, or never if that is the last sample of the trace.

    Args:
        path: CSV or Parquet file, or folder with ``usage.csv|parquet`` and perhaps ``vms.csv|parquet``.
        sample_s: Sampling period, s; by default the smallest distance between two times.
        fill: How to fill a missing row of a living VM: ``previous`` (0 before the first), ``zero``, or None
            for an error.
        over: What to do with a ``cpu`` above 1: ``error``, ``clip`` or ``keep``.

    Returns:
        The trace; VMs in the order of the sizes file, else of their first rows.

    Raises:
        TraceError: For any malformed file, naming file and line (row for Parquet).
    """
    repairs = Repairs("table", fill, over)
    usage_path, sizes_path = _locate(Path(path))
    usage = read_columns(
        usage_path, required=("vm", "time_s"), optional=("cpu", "cpu_mhz_used", *_CONSTANTS), prefix=_SIGNAL
    )
    usage = _drop_nobodys(usage, repairs)
    codes, names = usage.labels("vm")
    constants = _constants_of_usage(usage, codes, len(names))
    if sizes_path is not None:
        codes, names = _add_sizes_file(sizes_path, usage, codes, names, constants, repairs)
    usage, codes, names = _drop_lifeless(usage, codes, names, constants, repairs)
    grid = _lay_grid(usage, codes, len(names), sample_s, repairs)
    rows = {"": _utilisation(usage, codes, names, constants, repairs)}
    for column in usage.names:
        if column.startswith(_SIGNAL):
            values = usage.readings(column, "a number")
            rows[column.removeprefix(_SIGNAL)] = repairs.clean(column, values, signed=True)
    once = _drop_copies(usage, grid, names, rows, repairs)
    arrival_s, departure_s = _lives(grid, constants)
    life = _Life(usage, grid, names, arrival_s, departure_s, repairs)
    signals = {key: life.close(key, values, once) for key, values in rows.items()}
    util = signals.pop("")
    root = Path(path)
    vcpus, vm_class = constants.get("vcpus"), constants.get("vm_class")
    return Trace(
        name=usage.metadata.get("name")
        or (root.resolve().name if root.is_dir() else root.name.split(".")[0]),
        format="table",
        source=str(path),
        sample_s=grid.sample_s,
        util=util,
        vm_names=tuple(names),
        arrival_s=arrival_s,
        departure_s=departure_s,
        vcpus=None if vcpus is None else vcpus.astype(np.int32),
        cpu_mhz=constants.get("cpu_mhz"),
        memory_mib=constants.get("memory_mib"),
        vm_class=None if vm_class is None else vm_class.astype(np.int8),
        signals=signals,
        notes=tuple(repairs.notes),
    )


def sniff(look: Look) -> bool:
    """Whether a folder has a usage file, or a CSV or Parquet file some columns of a table."""
    if look.is_dir:
        return find_usage_file(look.root) is not None
    known = {"vm", "time_s", "cpu", "cpu_mhz_used", *_CONSTANTS}
    found = known & {cell.lower() for cell in look.header}
    return is_table_file(look.root) and ("vm" in found or "time_s" in found or len(found) > 1)


def find_usage_file(folder: Path, stem: str = "usage") -> Path | None:
    """Return the file ``stem.csv|csv.gz|parquet|pq`` of a folder, or None."""
    for suffix in (".parquet", ".pq", ".csv", ".csv.gz"):
        if os.path.lexists(folder / (stem + suffix)):
            return folder / (stem + suffix)
    return None


def convert_trace(trace: Trace, out_path: str | os.PathLike[str]) -> Path:
    """Write a trace as a table that `read_table` reads back exactly (what exceeds 1, with ``over=keep``).

    Every VM gets a row per sample, inside its life or not, so that all of ``util`` survives. The file appears
    complete or not at all.

    Args:
        trace: What to write.
        out_path: A ``.parquet`` or ``.csv`` file. A CSV does not keep the trace's name, nor the sampling
            period of a trace with one sample.

    Returns:
        The path.

    Raises:
        TraceError: If VM names are not unique, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    path = Path(out_path)
    if path.suffix.lower() not in (".parquet", ".pq", ".csv"):
        raise TraceError(f"{show_path(path)}: expected a name that ends in .parquet, .pq or .csv")
    if len(set(trace.vm_names)) != trace.n_vms or "" in trace.vm_names:
        raise TraceError(f"{trace.source}: VM names must be unique and not empty to write a table")
    try:
        table = _as_arrow(trace)
    except UnicodeEncodeError as error:
        raise TraceError(f"{trace.source}: the VM name {error.object!r} is not Unicode text") from None

    def write(draft: Path) -> None:
        with open(draft, "wb") as file:
            if path.suffix.lower() == ".csv":
                pacsv.write_csv(table, file)
            else:
                pq.write_table(table, file, compression="zstd")

    try:
        write_atomically(path, write)
    except (OSError, pa.ArrowException) as error:
        raise TraceError(f"{show_path(path)}: cannot be written ({error})") from None
    return path


def _as_arrow(trace: Trace) -> Any:
    """Return the long table, VM by VM, with the trace's name and period in the schema."""
    import pyarrow as pa

    samples, vms = trace.util.shape
    codes = np.repeat(np.arange(vms, dtype=np.int32), samples)
    names = pa.array(list(trace.vm_names), type=pa.string())
    columns: dict[str, Any] = {
        "vm": pa.DictionaryArray.from_arrays(codes, names).cast(pa.string()),
        "time_s": np.tile(np.arange(samples) * trace.sample_s, vms),
        "cpu": trace.util.T.ravel(),
    }
    for key in _CONSTANTS:
        column = getattr(trace, key)
        if column is not None and key in _CLASS:
            columns[key] = pa.array([VM_CLASSES[c] if c >= 0 else "" for c in column[codes].tolist()])
        elif column is not None:
            spread = column[codes]
            columns[key] = pa.array(spread, mask=np.isinf(spread))
    for key, matrix in trace.signals.items():
        columns[_SIGNAL + key] = matrix.T.ravel()
    note = {"name": trace.name, "format": trace.format, "sample_s": trace.sample_s}
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(note)})


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Return the usage file and the sizes file, if there is one."""
    if not path.exists():
        raise TraceError(f"{show_path(path)}: no such file or folder")
    if path.is_dir():
        usage = find_usage_file(path)
        if usage is None:
            raise TraceError(f"{show_path(path)}: a table folder needs usage.csv or usage.parquet")
        return usage, find_usage_file(path, "vms")
    if not is_table_file(path):
        raise TraceError(f"{show_path(path)}: a table ends in .csv, .csv.gz, .parquet or .pq")
    return path, None


def _drop_nobodys(usage: Columns, repairs: Repairs) -> Columns:
    """Leave out the rows without a VM or a time."""
    times = usage.readings("time_s", "a time of at least 0")
    keep = usage.named("vm") & ~np.isnan(times)
    repairs.leave_out_nobodys(int(np.count_nonzero(~keep)))
    if not keep.any():
        raise TraceError(f"{show_path(usage.path)}: no row names a VM and a time")
    return usage.take(keep)


def _drop_lifeless(
    usage: Columns,
    codes: NDArray[np.int64],
    names: list[str],
    constants: dict[str, NDArray[np.float64]],
    repairs: Repairs,
) -> tuple[Columns, NDArray[np.int64], list[str]]:
    """Leave out the VMs that leave when they arrive, with their rows and their entries in ``constants``."""
    if not set(_LIVES) <= set(constants):
        return usage, codes, names
    arrival_s, departure_s = (constants[key] for key in _LIVES)
    wrong = np.flatnonzero(departure_s < arrival_s)
    if wrong.size:
        vm = int(wrong[0])
        raise TraceError(
            f"{show_path(usage.path)}: vm {names[vm]!r} departs at {departure_s[vm]:g} s, "
            f"which is before its arrival at {arrival_s[vm]:g} s"
        )
    lives = repairs.check_lives(arrival_s, departure_s)
    if not lives.any():
        raise TraceError(f"{show_path(usage.path)}: no VM lives for any time")
    for key in constants:
        constants[key] = constants[key][lives]
    kept = lives[codes]
    code = np.cumsum(lives) - 1
    return usage.take(kept), code[codes[kept]], [name for name, alive in zip(names, lives) if alive]


def _read_class(columns: Columns, key: str) -> NDArray[np.float64]:
    """Read service classes as numbers, -1 where there is none."""
    codes, names = columns.labels(key)
    for code, name in enumerate(names):
        if name.strip() and name.strip() not in VM_CLASSES:
            raise columns.bad_value(key, int(np.argmax(codes == code)), _CLASS[key])
    number = [VM_CLASSES.index(name.strip()) if name.strip() else -1 for name in names]
    return np.array(number, dtype=np.float64)[codes]


def _read_constant(columns: Columns, key: str) -> NDArray[np.float64]:
    if key in _CLASS:
        return _read_class(columns, key)
    values = columns.numbers(key, _CONSTANTS[key], blank=key == "departure_s")
    bad = np.zeros(values.shape, dtype=bool)
    if key in _SIZES:
        bad |= values <= 0
    if key == "vcpus":
        bad |= (values != np.floor(values)) | (values > np.iinfo(np.int32).max)
    if bad.any():
        row = int(np.argmax(bad))
        raise columns.error(row, f"{key}: expected {_CONSTANTS[key]}, found {values[row]:g}")
    return np.where(np.isnan(values), np.inf, values)


def _constants_of_usage(usage: Columns, codes: NDArray[np.int64], vms: int) -> dict[str, NDArray[np.float64]]:
    """Read the columns that must be constant per VM; each result has shape (V,)."""
    constants = {}
    for key in _CONSTANTS:
        if key not in usage:
            continue
        rows = _read_constant(usage, key)
        first = np.zeros(vms)
        first[codes[::-1]] = rows[::-1]
        differs = rows != first[codes]
        if differs.any():
            row = int(np.argmax(differs))
            raise usage.error(
                row,
                f"{key} must be the same in all rows of a VM, was {first[codes[row]]:g}, is {rows[row]:g}",
            )
        constants[key] = first
    return constants


def _add_sizes_file(
    path: Path,
    usage: Columns,
    codes: NDArray[np.int64],
    names: list[str],
    constants: dict[str, NDArray[np.float64]],
    repairs: Repairs,
) -> tuple[NDArray[np.int64], list[str]]:
    """Add the columns of the sizes file to ``constants``; return codes and names in its order."""
    sizes = read_columns(path, required=("vm",), optional=tuple(_CONSTANTS))
    sizes, ordered, copies = sizes.take(sizes.named("vm")).unique("vm", "vm")
    repairs.count_repeats(copies, 0)
    place = {name: index for index, name in enumerate(ordered)}
    for code, name in enumerate(names):
        if name not in place:
            row = int(np.argmax(codes == code))
            raise usage.error(row, f"vm {name!r} is not in {show_path(path)}")
    if len(ordered) != len(names):
        used = set(names)
        row = next(index for index, name in enumerate(ordered) if name not in used)
        raise sizes.error(row, f"vm {ordered[row]!r} has no row in {show_path(usage.path)}")
    new_code = np.array([place[name] for name in names])
    for key in list(constants):
        constants[key] = constants[key][np.argsort(new_code)]
    for key in _CONSTANTS:
        if key in sizes:
            if key in constants:
                raise TraceError(
                    f"{show_path(path)}: column {key!r} stands in {show_path(usage.path)}, too; keep one"
                )
            constants[key] = _read_constant(sizes, key)
    return new_code[codes], ordered


def _lay_grid(
    usage: Columns, codes: NDArray[np.int64], vms: int, sample_s: float | None, repairs: Repairs
) -> _Grid:
    times = usage.numbers("time_s", "a time of at least 0")
    distinct = np.unique(times)
    if sample_s is None and distinct.size == 1:
        sample_s = usage.metadata.get("sample_s")
    if distinct[0] != 0 and (sample_s is None or distinct.size == 1):
        row = int(np.argmin(times))
        raise usage.error(row, f"time_s must start at 0, the smallest is {distinct[0]:.16g}: subtract it")
    if sample_s is None:
        if distinct.size == 1:
            raise TraceError(f"{show_path(usage.path)}: a table with one time needs the option sample_s")
        sample_s = float(np.diff(distinct).min())
        if math.isclose(sample_s, float(distinct[1]), rel_tol=1e-6):
            sample_s = float(distinct[1])  # differences of large times carry rounding, the first does not
    check_positive("table", sample_s=sample_s)
    repairs.check_times(times, times + sample_s, usage.where, shortest_s=0.0)
    samples = float(distinct[-1]) / sample_s + 1
    check_cells(show_path(usage.path), samples, vms, times.size, sample_s, "is time_s in seconds from 0?")
    step = np.rint(times / sample_s).astype(np.int64)
    off = np.abs(step * sample_s - times) > 1e-6 * sample_s
    if off.any():
        row = int(np.argmax(off))
        raise usage.error(row, f"time_s={times[row]:.16g} is off the grid of {sample_s:g} s that starts at 0")
    return _Grid(step, codes, int(step.max()) + 1, vms, float(sample_s))


def _drop_copies(
    usage: Columns,
    grid: _Grid,
    names: list[str],
    rows: dict[str, NDArray[np.float64]],
    repairs: Repairs,
) -> NDArray[np.bool_]:
    """Return which rows count, shape (N,): a copy of another does not, a contradiction is an error."""
    flat = grid.step * grid.vms + grid.vm
    order = np.argsort(flat, kind="stable")
    again = np.diff(flat[order]) == 0
    one, two = order[:-1][again], order[1:][again]
    for values in rows.values():
        differs = two[~((values[one] == values[two]) | (np.isnan(values[one]) & np.isnan(values[two])))]
        if differs.size:
            row = int(differs.min())
            time = grid.step[row] * grid.sample_s
            raise usage.error(
                row, f"vm {names[grid.vm[row]]!r} has a row for time_s={time:g} already, with other values"
            )
    repairs.count_repeats(two.size, 0)
    once = np.ones(flat.size, dtype=bool)
    once[two] = False
    return once


def _utilisation(
    usage: Columns,
    codes: NDArray[np.int64],
    names: list[str],
    constants: dict[str, NDArray[np.float64]],
    repairs: Repairs,
) -> NDArray[np.float64]:
    """Return the utilisation of each row, a fraction of nominal CPU, shape (N,); NaN where it is missing."""
    given = [name for name in ("cpu", "cpu_mhz_used") if name in usage]
    if len(given) != 1:
        raise TraceError(f"{show_path(usage.path)}: needs one of the columns cpu, cpu_mhz_used; has {given}")
    column = given[0]
    over = repairs.over
    allowed = "at least 0 MHz" if column != "cpu" else "at least 0"
    if column == "cpu" and over == "error":
        allowed = "a fraction from 0 to 1"
    util = usage.readings(column, allowed)
    if column != "cpu":
        if "cpu_mhz" not in constants:
            raise TraceError(f"{show_path(usage.path)}: cpu_mhz_used needs a column cpu_mhz beside it")
        util = util / constants["cpu_mhz"][codes]
    missing = ~((util >= 0) & (util <= LARGEST))
    if missing.any() and repairs.fill is None:
        raise repairs.refuse_gap(str(usage.bad_value(column, int(np.argmax(missing)), allowed)))
    util = repairs.clean(column, util)
    if over == "error" and np.nanmax(util, initial=0) > 1:
        row = int(np.argmax(np.nan_to_num(util) > 1))
        if column == "cpu":
            raise usage.bad_value(column, row, allowed)
        raise usage.error(row, f"cpu_mhz_used exceeds cpu_mhz={constants['cpu_mhz'][codes[row]]:g}")
    return np.minimum(util, 1.0) if over == "clip" else util


def _lives(
    grid: _Grid, constants: dict[str, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return arrivals and departures, s, shape (V,): as given, else from the first and last rows."""
    first = np.full(grid.vms, grid.samples)
    last = np.full(grid.vms, -1)
    np.minimum.at(first, grid.vm, grid.step)
    np.maximum.at(last, grid.vm, grid.step)
    ends = np.where(last + 1 == grid.samples, np.inf, (last + 1) * grid.sample_s)
    return constants.get("arrival_s", first * grid.sample_s), constants.get("departure_s", ends)


class _Life:
    """The samples in which the VMs of a table live, and the repair of those without a value."""

    def __init__(
        self,
        usage: Columns,
        grid: _Grid,
        names: list[str],
        arrival_s: NDArray[np.float64],
        departure_s: NDArray[np.float64],
        repairs: Repairs,
    ) -> None:
        self._usage = usage
        self._grid = grid
        self._names = names
        self._repairs = repairs
        start_s = (np.arange(grid.samples) * grid.sample_s)[:, None]
        self._alive = (start_s + grid.sample_s > arrival_s) & (start_s < departure_s)

    def close(self, key: str, values: NDArray[np.float64], once: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Spread row values over an (S, V) matrix and fill the gaps, or raise; key "" is the CPU."""
        known = self._grid.find(once & ~np.isnan(values))
        matrix = self._grid.spread(np.nan_to_num(values))
        gaps = self._alive & ~known
        count = int(np.count_nonzero(gaps))
        if count == 0:
            return matrix
        fill = self._repairs.fill
        if fill is None:
            vm = int(np.argmax(gaps.any(axis=0)))
            time = np.argmax(gaps[:, vm]) * self._grid.sample_s
            raise self._repairs.refuse_gap(
                f"{show_path(self._usage.path)}: vm {self._names[vm]!r} has no {key or 'row'} "
                f"for time_s={time:g} ({count} such gaps)"
            )
        if fill == "previous":
            carry_forward(matrix, known, gaps)
        said = f"filled {count} missing samples"
        if not any(note.startswith(said) for note in self._repairs.notes):
            self._repairs.notes.append(f"{said}{key and f' of {key}'} (fill={fill})")
        return matrix
