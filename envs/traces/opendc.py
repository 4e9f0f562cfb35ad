"""Reader of OpenDC workload traces, versions 1 to 5: Parquet files of tasks and of their fragments.

Schemas: ``workload/schemas/workload_schema_v1.py`` to ``_v5.py`` of ``atlarge-research/opendc-traces``.

=======  ========================  =================================================================
version  files                     differences
=======  ========================  =================================================================
1        ``meta``, ``trace``       ``start_time``, ``stop_time``; a fragment has a ``timestamp``
2        ``tasks``, ``fragments``  ``submission_time`` as a timestamp; no ``duration`` of tasks
3        ``tasks``, ``fragments``  times as integers, ms; ``duration``
4, 5     ``tasks``, ``fragments``  integer ``id``; no ``cpu_count`` of fragments; 5: ``deferrable``
=======  ========================  =================================================================

A fragment lasts ``duration`` ms; from version 2 on, those of a task follow one another from its
``submission_time``. In version 1 ``timestamp`` is the end of a fragment (the authors' converters and repair
tools use it so). ``cpu_usage`` and ``cpu_capacity`` are MHz of the whole task. The documentation gives
``mem_capacity`` in MB, but some published files have KB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import names_its_file, show_path
from ..sim.errors import TraceError
from .base import Trace
from .columns import Columns, read_columns
from .resample import Readings, Vms, build_trace, check_choice, count_vcpus, tell_times

__all__ = ["find_opendc", "read_opendc"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_UNITS = {"B": 2.0**-20, "KB": 2.0**-10, "MB": 1.0}
_TASKS_OPTIONAL = ("submission_time", "start_time", "stop_time", "duration", "deferrable")
_TASKS_IGNORED = ("name", "gpu_count", "gpu_capacity", "parents", "children", "nature", "deadline")
_FRAGMENTS_OPTIONAL = ("timestamp", "cpu_count", "gpu_count", "gpu_usage")
# No VM has more memory per core in the median, or in all: what seems to betrays a smaller unit.
_MIB_PER_CORE = 64 * 1024
_MIB_PER_VM = 16 * 1024 * 1024
_LONG = 10


@dataclass(frozen=True)
class _Tasks:
    """The tasks file, shapes (V,)."""

    names: list[str]
    start_ms: Floats
    life_ms: Floats | None
    cores: Floats
    capacity: Floats
    memory: Floats
    version: str


def find_opendc(folder: Path) -> tuple[Path, Path] | None:
    """Return the tasks and the fragments file of an OpenDC folder, or None if it is none."""
    for place in (folder, folder / "trace"):
        for tasks, fragments in (("tasks", "fragments"), ("meta", "trace")):
            pair = place / f"{tasks}.parquet", place / f"{fragments}.parquet"
            if all(path.is_file() for path in pair):
                return pair
    return None


@names_its_file
def read_opendc(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = "previous",
    over: str = "keep",
    memory_unit: str = "auto",
) -> Trace:
    """Read an OpenDC workload folder.

    A task is a VM that lives as long as its fragments. The format stretches a fragment over the time in which
    nothing was measured: ``fill=previous`` reads it so; with ``zero`` a fragment of more than ten usual ones
    holds for one and is 0 for the rest; None makes such a fragment an error.

    Args:
        path: Folder with ``tasks.parquet`` and ``fragments.parquet``, or version 1's ``meta.parquet`` and
            ``trace.parquet``, perhaps in a sub-folder ``trace``.
        sample_s: Sampling period of the trace, s; fragments are averaged over it, so that work is conserved.
        fill: ``previous``, ``zero`` or None, for long fragments and, in version 1, time without fragment.
        over: What to do with usage above the capacity: ``keep``, ``clip`` or ``error``.
        memory_unit: Unit of ``mem_capacity``: ``MB``, ``KB``, ``B``, or ``auto`` to tell by plausibility.

    Returns:
        The trace; VMs in the order of the tasks file.

    Raises:
        TraceError: For a malformed file, naming file and row, or for what the options do not allow.
    """
    check_choice("opendc", "memory_unit", memory_unit, ("auto", *_UNITS))
    root = Path(path)
    found = find_opendc(root) if root.is_dir() else None
    if found is None:
        raise TraceError(f"{show_path(root)}: needs a folder with tasks.parquet and fragments.parquet")
    tasks = _read_tasks(found[0])
    fragments = read_columns(found[1], required=("id", "duration", "cpu_usage"), optional=_FRAGMENTS_OPTIONAL)
    vm = _match(fragments, tasks.names, found[0])
    duration = fragments.numbers("duration", "a positive number of ms", low=np.nextafter(0, 1))
    usage = fragments.numbers("cpu_usage", "at least 0 MHz")
    start, usual = _starts(fragments, tasks, vm, duration), _mode(duration)
    zero = float(start.min())
    notes = [
        f"version {tasks.version}; {tell_times(zero)}; fragments of {usual / 1000:g} s",
        *_tell_units(tasks, memory_unit),
        *_tell_lives(tasks, vm, duration),
    ]
    hold = _cut_long(fragments, duration, usual, fill, notes)
    begin, end = (start - zero) / 1000, (start - zero + duration) / 1000
    vms = Vms(
        *_lives(vm, begin, end, len(tasks.names)),
        vcpus=count_vcpus(str(path), tasks.cores),
        cpu_mhz=tasks.capacity,
        memory_mib=tasks.memory * _unit_of(tasks, memory_unit),
    )
    # What a cut fragment leaves open is the gap that `fill` speaks of.
    readings = Readings(
        source=str(path),
        format="opendc",
        vm=vm,
        start_s=begin,
        end_s=begin + hold / 1000,
        util=usage / tasks.capacity[vm],
        names=tasks.names,
        where=fragments.where,
    )
    name = root.resolve().name
    return build_trace(readings, vms, name=name, sample_s=sample_s, fill=fill, over=over, notes=notes)


def _read_tasks(path: Path) -> _Tasks:
    columns = read_columns(
        path,
        required=("id", "cpu_count", "cpu_capacity", "mem_capacity"),
        optional=_TASKS_OPTIONAL,
        ignored=_TASKS_IGNORED,
    )
    codes, names = columns.labels("id")
    if len(names) != len(codes):
        seen = np.zeros(len(names), dtype=bool)
        for row, code in enumerate(codes):
            if seen[code]:
                raise columns.error(row, f"the id {names[code]!r} has a row already")
            seen[code] = True
    positive = np.nextafter(0, 1)
    life = None
    if "start_time" in columns:
        start, version = _milliseconds(columns, "start_time"), "1"
        if "stop_time" in columns:
            life = _milliseconds(columns, "stop_time") - start
    elif "submission_time" in columns:
        start = _milliseconds(columns, "submission_time")
        text = not _is_integer(columns, "id")
        version = ("3" if "duration" in columns else "2") if text else "4"
        version = "5" if "deferrable" in columns else version
        if "duration" in columns:
            life = columns.numbers("duration", "at least 0 ms")
    else:
        raise TraceError(f"{show_path(path)}: needs a column submission_time (start_time in version 1)")
    return _Tasks(
        names,
        start,
        life,
        columns.numbers("cpu_count", "at least 1", low=1),
        columns.numbers("cpu_capacity", "a positive number of MHz", low=positive),
        columns.numbers("mem_capacity", "a positive number", low=positive),
        version,
    )


def _is_integer(columns: Columns, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(columns.table[name].type))


def _milliseconds(columns: Columns, name: str) -> Floats:
    """Read a time, an integer number of ms or a timestamp of any resolution, as ms since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = columns.table[name]
    if not pa.types.is_timestamp(column.type):
        return columns.numbers(name, "a time in ms")
    missing = pc.is_null(column).to_numpy()
    if missing.any():
        raise columns.error(int(np.argmax(missing)), f"{name}: expected a time, found nothing")
    micro = pc.cast(pc.cast(column, pa.timestamp("us", column.type.tz), safe=False), pa.int64())
    return np.asarray(micro.to_numpy(), dtype=np.float64) / 1000


def _match(fragments: Columns, names: Sequence[str], tasks: Path) -> Ints:
    """Return the task of each fragment; every task must have one and every fragment a task."""
    codes, seen = fragments.labels("id")
    place = {name: index for index, name in enumerate(names)}
    table = np.array([place.get(name, -1) for name in seen])
    if (table < 0).any():
        code = int(np.argmax(table < 0))
        raise fragments.error(
            int(np.argmax(codes == code)), f"the id {seen[code]!r} is not in {show_path(tasks)}"
        )
    if len(seen) != len(names):
        known = set(seen)
        name = next(name for name in names if name not in known)
        raise TraceError(f"{show_path(tasks)}: the id {name!r} has no row in {show_path(fragments.path)}")
    return table[codes]


def _starts(fragments: Columns, tasks: _Tasks, vm: Ints, duration: Floats) -> Floats:
    """Return when each fragment starts, ms since 1970."""
    if "timestamp" in fragments:
        return _milliseconds(fragments, "timestamp") - duration
    order = np.argsort(vm, kind="stable")  # fragments of a task stand in their order, tasks perhaps not
    total = np.cumsum(duration[order])
    before = total - duration[order]
    counts = np.bincount(vm, minlength=len(tasks.names))
    head = np.cumsum(counts) - counts
    start = np.empty(vm.shape)
    start[order] = tasks.start_ms[vm[order]] + before - before[head][vm[order]]
    return start


def _mode(duration: Floats) -> float:
    values, counts = np.unique(duration, return_counts=True)
    return float(values[np.argmax(counts)])


def _cut_long(
    fragments: Columns, duration: Floats, usual: float, fill: str | None, notes: list[str]
) -> Floats:
    """Return how long each fragment holds, ms, and tell of the long ones."""
    long = duration > _LONG * usual
    count = int(np.count_nonzero(long))
    if count == 0:
        return duration
    what = (
        f"{count} of {duration.size} fragments last more than {_LONG} usual ones, "
        f"the longest {duration.max() / 86_400_000:.3g} days"
    )
    if fill is None:
        row = int(np.argmax(long))
        raise fragments.error(
            row, f"{what}; say what holds meanwhile with the option fill=previous or fill=zero"
        )
    held = "their value is held, as the format has it" if fill == "previous" else "each holds for a usual one"
    notes.append(f"long fragments: {what}; {held} (fill={fill})")
    return duration if fill == "previous" else np.where(long, usual, duration)


def _lives(vm: Ints, begin: Floats, end: Floats, vms: int) -> tuple[Floats, Floats]:
    arrival, departure = np.full(vms, np.inf), np.full(vms, -np.inf)
    np.minimum.at(arrival, vm, begin)
    np.maximum.at(departure, vm, end)
    return arrival, departure


def _tell_lives(tasks: _Tasks, vm: Ints, duration: Floats) -> list[str]:
    if tasks.life_ms is None:
        return []
    total = np.bincount(vm, weights=duration, minlength=len(tasks.names))
    other = int(np.count_nonzero(np.abs(total - tasks.life_ms) > 1))
    if other == 0:
        return []
    return [f"{other} tasks give another duration than their fragments have in all, which counts"]


def _unit_of(tasks: _Tasks, memory_unit: str) -> float:
    if memory_unit != "auto":
        return _UNITS[memory_unit]
    for unit in ("MB", "KB"):
        mib = tasks.memory * _UNITS[unit]
        if np.median(mib / tasks.cores) <= _MIB_PER_CORE and mib.max() <= _MIB_PER_VM:
            return _UNITS[unit]
    return _UNITS["B"]


def _tell_units(tasks: _Tasks, memory_unit: str) -> list[str]:
    factor = _unit_of(tasks, memory_unit)
    unit = next(name for name, value in _UNITS.items() if value == factor)
    median = float(np.median(tasks.memory / tasks.cores))
    text = f"units: MHz; mem_capacity in {unit} (powers of 1024), made MiB"
    if memory_unit == "auto" and unit != "MB":
        text += f"; as the documented MB it would be {median / 1024:,.0f} GiB per core (option memory_unit)"
    return [text]
