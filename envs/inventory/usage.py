"""Usage of VMs over time: series of an export, laid on one grid; what is missing is never taken for zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays import B1, F8, I8
from ..errors import TraceError
from ..files import read_parquet, show_path
from ..traces.base import LONGEST_S, check_cells
from ..traces.columns import Columns, is_table_file, read_columns
from .base import Host, Notes, Usage, Vm
from .quantities import seconds

MOST_SHARE = 2.0
"""A VM that used more than this multiple of its vCPUs, or of its memory, was measured in another unit."""

_CPU = {"cpu": ("share", 1.0), "cpu_percent": ("share", 0.01), "cpu_mhz": ("mhz", 1.0)}
_MEMORY = {"memory": ("share", 1.0), "memory_percent": ("share", 0.01), "memory_mib": ("mib", 1.0)}
_ALLOWED = "a number of at least 0"


@dataclass(frozen=True)
class Series:
    """Readings of VMs, one per row, in any order.

    Attributes:
        names: VMs as the series call them.
        vm: Index into ``names``, (N,).
        time_s: When, s, (N,).
        cpu: What was read, (N,), NaN = nothing.
        memory: The same of memory, (N,); None = no such column.
        cpu_unit: ``share`` of the vCPUs, or ``mhz``.
        memory_unit: ``share`` of the configured memory, or ``mib``.
        columns: What the columns of CPU and memory are called in the export.
        where: Where a row stands in the export.
        source: For messages about all of it.
    """

    names: Sequence[str]
    vm: I8
    time_s: F8
    cpu: F8
    memory: F8 | None
    cpu_unit: str
    memory_unit: str
    columns: tuple[str, str]
    where: Callable[[int], str]
    source: str


def read_usage_table(path: Path) -> Series:
    """Read a usage table, CSV or Parquet: ``vm, time, cpu[, memory]``, or ``time`` and a column per VM.

    Args:
        path: The file.

    Raises:
        TraceError: Naming file, line and column.
    """
    if not is_table_file(path):
        raise TraceError(f"{show_path(path)}: a usage table ends in .csv, .csv.gz, .parquet or .pq")
    found = read_columns(path, required=("time",), optional=("vm", *_CPU, *_MEMORY), others=True)
    if "vm" in found:
        return _long(found)
    return _wide(path)


def _times(columns: Columns) -> F8:
    """Times in seconds, whatever they are written as; a text is read once."""
    import pyarrow as pa

    kind = columns.table["time"].type
    if pa.types.is_timestamp(kind):
        return np.asarray(columns.table["time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() / 1e6)
    if pa.types.is_floating(kind):
        return columns.numbers("time", "a time")
    codes, texts = columns.labels("time")
    first = np.full(len(texts), len(codes), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    values = [seconds(columns.where(int(row)), "time", text) for text, row in zip(texts, first)]
    return np.array(values)[codes]


def _long(columns: Columns) -> Series:
    path = show_path(columns.path)
    cpu, memory = (_one(columns, known, path) for known in (_CPU, _MEMORY))
    if cpu is None:
        raise TraceError(f"{path}: needs one of the columns {', '.join(_CPU)}")
    codes, names = columns.labels("vm")
    (cpu_unit, cpu_factor), (memory_unit, factor) = _CPU[cpu], _MEMORY.get(memory or "", ("share", 1.0))
    return Series(
        names=names,
        vm=codes,
        time_s=_times(columns),
        cpu=cpu_factor * columns.numbers(cpu, _ALLOWED, blank=True),
        memory=None if memory is None else factor * columns.numbers(memory, _ALLOWED, blank=True),
        cpu_unit=cpu_unit,
        memory_unit=memory_unit,
        columns=(cpu, memory or ""),
        where=columns.where,
        source=path,
    )


def _one(columns: Columns, known: dict[str, tuple[str, float]], path: str) -> str | None:
    found = [name for name in known if name in columns]
    if len(found) > 1:
        raise TraceError(f"{path}: has the columns {', '.join(found)}; keep one of them")
    return found[0] if found else None


def _wide(path: Path) -> Series:
    """A column per VM with its share of CPU, ``NAME:memory`` with its share of memory."""
    names = _wide_names(path)
    heads = [f"{name}:memory" for name in names]
    columns = read_columns(path, required=("time", *names), optional=heads)
    times, n = _times(columns), len(columns)
    cpu = [columns.numbers(name, _ALLOWED, blank=True) for name in names]
    memory = None
    if any(head in columns for head in heads):
        memory = [
            columns.numbers(head, _ALLOWED, blank=True) if head in columns else np.full(n, np.nan)
            for head in heads
        ]
    return Series(
        names=names,
        vm=np.repeat(np.arange(len(names)), n),
        time_s=np.tile(times, len(names)),
        cpu=np.concatenate(cpu),
        memory=None if memory is None else np.concatenate(memory),
        cpu_unit="share",
        memory_unit="share",
        columns=("cpu", "memory"),
        where=lambda row: columns.where(row % n),
        source=show_path(path),
    )


def _wide_names(path: Path) -> list[str]:
    if path.name.lower().endswith((".parquet", ".pq")):
        names: list[str] = []

        def look(schema: object) -> list[str]:
            names.extend(schema.names)  # type: ignore[attr-defined]  # a pyarrow.Schema
            return ["time"]

        read_parquet(path, look)
    else:
        import csv

        from ..files import open_text

        with open_text(path) as file:
            names = [name.strip() for name in next((row for row in csv.reader(file) if row), [])]
    found = [name for name in names if name not in ("time", "") and not name.endswith(":memory")]
    if not found:
        raise TraceError(f"{show_path(path)}: needs the columns vm and cpu, or a column per VM beside time")
    return found


def lay_usage(
    series: Series,
    vms: Sequence[Vm],
    hosts: Sequence[Host],
    missing: str,
    sample_s: float | None,
    notes: Notes,
) -> tuple[Usage, B1]:
    """Lay series on one grid.

    Args:
        series: The readings.
        vms: The VMs that are to have one.
        hosts: Hosts of the VMs, whose speed a use in MHz is a share of.
        missing: One of ``base.MISSING``.
        sample_s: Period, s; None = the usual distance between two times.
        notes: Is added to.

    Returns:
        The usage of those VMs that are kept, and which of ``vms`` these are, (V,).

    Raises:
        TraceError: Naming the VM and the column of what is missing, or the row of what cannot be.
    """
    place = {vm.key or vm.name: v for v, vm in enumerate(vms)}
    of_name = np.array([place.get(name, -1) for name in series.names], dtype=np.int64)
    for name, v in zip(series.names, of_name):
        if v < 0:
            notes.count("series of usage that belong to no VM that runs, left out", name)
    vm = of_name[series.vm]
    mine = np.flatnonzero((vm >= 0) & np.isfinite(series.time_s))
    if not mine.size:
        raise TraceError(f"{series.source}: none of its series belongs to a VM of the export")
    step, period = _grid(series, mine, len(vms), sample_s, notes)
    shape = (int(step.max()) + 1, len(vms))
    speed = {host.name: host.core_mhz for host in hosts}
    nominal = np.array([v.vcpus * speed[v.host] for v in vms])
    size = np.array([v.memory_mib for v in vms])
    per = {"share": np.ones(len(vms)), "mhz": nominal, "mib": size}
    cells = [(series.cpu, series.columns[0], series.cpu_unit)]
    if series.memory is not None:
        cells.append((series.memory, series.columns[1], series.memory_unit))
    matrices = [
        _spread(series, values / per[unit][vm], column, (mine, step, vm), shape, notes)
        for values, column, unit in cells
    ]
    keep = np.ones(len(vms), dtype=np.bool_)
    for matrix, (_, column, _) in zip(matrices, cells):
        keep &= _complete(matrix, vms, column, series.source, missing, period, notes)
    if not keep.any():
        raise TraceError(f"{series.source}: no VM has all of its usage")
    kept = [np.ascontiguousarray(matrix[:, keep]) for matrix in matrices]
    return Usage(period, kept[0], kept[1] if len(kept) > 1 else None), keep


def _grid(series: Series, mine: I8, n_vms: int, sample_s: float | None, notes: Notes) -> tuple[I8, float]:
    """Step of each of the rows, and the period, s."""
    times = series.time_s[mine]
    distinct = np.unique(times)
    period = sample_s
    if period is None:
        period = float(np.median(np.diff(distinct))) if distinct.size > 1 else 300.0
    if not 1.0 <= period <= LONGEST_S:
        raise TraceError(f"{series.source}: a period of {period:g} s: at least 1 s; sample_s=SECONDS says it")
    span = float(distinct[-1] - distinct[0]) / period + 1
    check_cells(series.source, span, n_vms, mine.size, period, "are the times in seconds?")
    step = np.rint((times - distinct[0]) / period).astype(np.int64)
    off = np.abs((times - distinct[0]) - step * period) > 0.01 * period
    if off.any():
        notes.count(f"readings lie off the grid of {period:g} s, taken to its next point")
    return step, period


def _spread(
    series: Series, values: F8, column: str, at: tuple[I8, I8, I8], shape: tuple[int, int], notes: Notes
) -> F8:
    """The (S, V) matrix of readings, NaN where there is none; several for one cell are averaged."""
    mine, step, vm = at
    found = values[mine]
    wrong = (found < 0) | (found > MOST_SHARE)
    if wrong.any():
        row = int(mine[np.argmax(wrong)])
        raise TraceError(
            f"{series.where(row)}, column {column!r}: {values[row]:g} of what VM "
            f"{series.names[series.vm[row]]} has; is it in another unit?"
        )
    known = np.isfinite(found)
    cell = step[known] * shape[1] + vm[mine][known]
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    total = np.bincount(cell, found[known], minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        matrix = (total / count).reshape(shape)
    over = int(np.count_nonzero(matrix > 1.0))
    if over:
        notes.count(f"column {column}: {over:,} readings above what the VM has, cut to that")
        np.minimum(matrix, 1.0, out=matrix)
    return np.asarray(matrix)


def _complete(
    matrix: F8, vms: Sequence[Vm], column: str, source: str, missing: str, period: float, notes: Notes
) -> B1:
    """Which VMs have a value in every sample; with ``previous`` gaps are filled in ``matrix``."""
    gap = np.isnan(matrix)
    none: B1 = np.asarray(gap.all(axis=0))
    keep = np.asarray(~gap.any(axis=0))
    if keep.all():
        return keep
    first = int(np.argmin(keep)) if missing == "error" or not none.any() else int(np.argmax(none))
    if missing == "error" or (missing == "previous" and none.any()):
        name = vms[first].name
        at = int(np.argmax(gap[:, first]))
        what = "no value" if none[first] else f"no value {at * period:g} s after the first sample"
        hints = ["missing=drop leaves such VMs out"]
        if not none[first]:
            hints.append("missing=previous holds the value before")
        raise TraceError(f"{source}: VM {name}, column {column!r}: {what}; {', '.join(hints)}")
    if missing == "drop":
        for v in np.flatnonzero(~keep).tolist():
            notes.count(f"VMs without all of their {column}, left out", vms[v].name)
        return keep
    notes.count(f"column {column}: {int(gap.sum()):,} missing values of {int((~keep).sum())} VMs, held")
    rows = np.where(gap, 0, np.arange(len(matrix))[:, None])
    np.maximum.accumulate(rows, axis=0, out=rows)
    matrix[:] = np.take_along_axis(matrix, rows, axis=0)
    begin = np.argmin(np.isnan(matrix), axis=0)  # what lies before a VM's first value
    matrix[:] = np.where(np.isnan(matrix), matrix[begin, np.arange(matrix.shape[1])], matrix)
    return np.ones(len(vms), dtype=np.bool_)
