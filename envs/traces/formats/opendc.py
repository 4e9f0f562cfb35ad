"""Reader of OpenDC workload traces: Parquet files of tasks and of their fragments, in all layouts.

Schemas: ``workload/schemas/workload_schema_v1.py`` to ``_v5.py`` of ``atlarge-research/opendc-traces``.

=======  ========================  =================================================================
version  files                     differences
=======  ========================  =================================================================
2.0      ``tasks``, ``fragments``  OpenDC 2.0's own names, below; no ``cpu_capacity``
1        ``meta``, ``trace``       ``start_time``, ``stop_time``; a fragment has a ``timestamp``
2        ``tasks``, ``fragments``  ``submission_time`` as a timestamp; no ``duration`` of tasks
3        ``tasks``, ``fragments``  times as integers, ms; ``duration``
4, 5     ``tasks``, ``fragments``  integer ``id``; no ``cpu_count`` of fragments; 5: ``deferrable``
=======  ========================  =================================================================

OpenDC 2.0 (2021; its test data has it) says ``submissionTime``, ``endTime``, ``maxCores``, ``requiredMemory``
of tasks and ``time``, ``duration``, ``cores``, ``cpuUsage``, ``flops`` of fragments.

A fragment lasts ``duration`` ms; from version 2 on, those of a task follow one another from its
``submission_time``. In version 1 ``timestamp`` is the end of a fragment (the authors' converters and repair
tools use it so), in OpenDC 2.0 ``time`` is the start where that of a task's first fragment is its submission.
Tasks of a workflow name their ``parents`` and ``children``; a task is a VM here, which starts at its
submission all the same. ``cpu_usage`` and ``cpu_capacity`` are MHz of the whole task. The documentation gives
``mem_capacity`` in MB, but some published files have KB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...arrays import F8, I8
from ...errors import TraceError
from ...files import names_its_file, show_path
from ..base import Trace
from ..columns import Columns, read_columns
from ..repairs import Repairs, check_choice, find_unit
from ..resample import Readings, Vms, build_trace, check_positive, count_vcpus, tell_times
from ..sniffing import Look

_UNITS = {"B": 2.0**-20, "KB": 2.0**-10, "MB": 1.0}
_TASKS_OPTIONAL = (
    *("cpu_capacity", "submission_time", "start_time", "stop_time", "duration"),
    *("gpu_count", "parents", "deferrable"),
)
_TASKS_IGNORED = ("name", "gpu_capacity", "children", "nature", "deadline")
_FRAGMENTS_OPTIONAL = ("timestamp", "cpu_count", "gpu_count", "gpu_usage", "flops")
# Names of OpenDC 2.0 and what they are called since.
_RENAMED = {
    "submissionTime": "submission_time",
    "endTime": "stop_time",
    "maxCores": "cpu_count",
    "requiredMemory": "mem_capacity",
    "time": "timestamp",
    "cores": "cpu_count",
    "cpuUsage": "cpu_usage",
}
# What else would change when or where a task runs, or how much it uses.
_IGNORED = {
    "parents": "tasks have parents in a workflow, yet start at their submission",
    "deferrable": "tasks may be deferred, yet start at their submission",
    "gpu_count": "tasks need GPUs, which are not modelled",
}
_UNITS_OF_TIME = {"seconds": 1e3, "ms": 1.0, "µs": 1e-3, "ns": 1e-6}
# No VM has more memory per core in the median, or in all: what seems to betrays a smaller unit.
_MIB_PER_CORE = 64 * 1024
_MIB_PER_VM = 16 * 1024 * 1024
_LONG = 10


@dataclass(frozen=True)
class _Tasks:
    """The tasks file, shapes (V,)."""

    names: list[str]
    start_ms: F8
    life_ms: F8 | None
    cores: F8
    capacity: F8 | None
    memory: F8
    version: str
    unit: str
    notes: list[str]

    def rescale(self, duration: F8) -> F8:
        """Return durations in ms; where timestamps are in another unit, so are durations that can be."""
        factor = _UNITS_OF_TIME[self.unit]
        return duration if _mode(duration) * factor > 86_400_000 else duration * factor


def find_opendc(folder: Path) -> tuple[Path, Path] | None:
    """Return the tasks and the fragments file of an OpenDC folder, or None if it is none."""
    for place in (folder, folder / "trace"):
        for tasks, fragments in (("tasks", "fragments"), ("meta", "trace")):
            pair = place / f"{tasks}.parquet", place / f"{fragments}.parquet"
            if all(path.is_file() for path in pair):
                return pair
    return None


def sniff(look: Look) -> bool:
    """Whether a folder holds a tasks file of any version."""
    return bool({"tasks.parquet", "meta.parquet"} & set(look.names)) or (
        look.is_dir and (look.root / "trace" / "meta.parquet").is_file()
    )


@names_its_file
def read_opendc(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = "previous",
    over: str = "keep",
    memory_unit: str = "auto",
    core_mhz: float | None = None,
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
        core_mhz: Clock of a core, MHz, for OpenDC 2.0, which does not say it; without it a task's CPU is the
            most that it uses.

    Returns:
        The trace; VMs in the order of the tasks file.

    Raises:
        TraceError: For a malformed file, naming file and row, or for what the options do not allow.
    """
    check_choice("opendc", "memory_unit", memory_unit, ("auto", *_UNITS))
    check_positive("opendc", core_mhz=core_mhz)
    repairs = Repairs("opendc", fill, over)
    root = Path(path)
    found = find_opendc(root) if root.is_dir() else None
    if found is None:
        raise TraceError(f"{show_path(root)}: needs a folder with tasks.parquet and fragments.parquet")
    tasks, fragments = _read_tasks(found[0]), _read_fragments(found[1])
    left: list[tuple[int, str]] = []
    fragments, vm, lasts = _match(fragments, tasks, left)
    duration = tasks.rescale(lasts)
    usage = fragments.readings("cpu_usage", "at least 0 MHz")
    start, usual = _starts(fragments, tasks, vm, duration), _mode(duration)
    zero = float(start.min())
    notes = repairs.notes
    notes.append(f"version {tasks.version}; {tell_times(zero)}; fragments of {usual / 1000:g} s")
    notes += [*_tell_units(tasks, memory_unit), *_tell_lives(tasks, vm, duration), *tasks.notes]
    for count, what in left:
        repairs.leave_out(count, what)
    usage = repairs.clean("cpu_usage", usage)
    capacity = _capacities(tasks, vm, usage, core_mhz, notes)
    hold = _cut_long(fragments, duration, usual, fill, notes)
    begin, end = (start - zero) / 1000, (start - zero + duration) / 1000
    vcpus, memory = count_vcpus(str(path), tasks.cores), tasks.memory * _unit_of(tasks, memory_unit)
    vms = Vms(*_lives(vm, begin, end, len(tasks.names)), vcpus=vcpus, cpu_mhz=capacity, memory_mib=memory)
    # What a cut fragment leaves open is the gap that `fill` speaks of.
    end_s, util = begin + hold / 1000, usage / capacity[vm]
    return build_trace(
        Readings(str(path), "opendc", vm, begin, end_s, util, names=tasks.names, where=fragments.where),
        vms,
        name=root.resolve().name,
        sample_s=sample_s,
        repairs=repairs,
        keep=np.bincount(vm, minlength=len(tasks.names)) > 0,
    )


def _read_fragments(path: Path) -> Columns:
    required = ("id", "duration", "cpu_usage")
    return read_columns(path, required=required, optional=_FRAGMENTS_OPTIONAL, rename=_rename)


def _rename(name: str) -> str:
    return _RENAMED.get(name, name)


def _read_tasks(path: Path) -> _Tasks:
    read = read_columns(
        path,
        required=("id", "cpu_count", "mem_capacity"),
        optional=_TASKS_OPTIONAL,
        ignored=_TASKS_IGNORED,
        lists=("parents",),
        rename=_rename,
    )
    columns = read.take(read.named("id"))
    notes = []
    if len(columns) < len(read):
        notes.append(f"{len(read) - len(columns)} rows of {path.name} name no task, and are left out")
    columns, names, copies = columns.unique("id", "the id")
    if copies:
        notes.append(f"{copies} rows of {path.name} repeat another row, and count once")
    positive = np.nextafter(0, 1)
    old = "cpu_capacity" not in columns
    life = None
    if "start_time" in columns:
        start, version = _milliseconds(columns, "start_time"), "1"
    elif "submission_time" in columns:
        start = _milliseconds(columns, "submission_time")
        text = not _is_integer(columns, "id")
        version = ("3" if "duration" in columns else "2") if text else "4"
        version = "OpenDC 2.0" if old else "5" if "deferrable" in columns else version
    else:
        raise TraceError(f"{show_path(path)}: needs a column submission_time (start_time in version 1)")
    if old and version != "OpenDC 2.0":
        raise TraceError(f"{show_path(path)}: needs a column cpu_capacity")
    unit, _ = find_unit(start, 1.0) if float(start.min()) > 1e8 else ("ms", 1.0)
    if "stop_time" in columns:
        life = _milliseconds(columns, "stop_time") - start
    elif "duration" in columns:
        life = columns.numbers("duration", "at least 0 ms")
    if unit != "ms":
        notes.append(f"timestamps are in {unit} (documented: ms)")
    return _Tasks(
        names,
        start * _UNITS_OF_TIME[unit],
        life,
        columns.numbers("cpu_count", "at least 1", low=1),
        None if old else columns.numbers("cpu_capacity", "a positive number of MHz", low=positive),
        columns.numbers("mem_capacity", "a positive number", low=positive),
        version,
        unit,
        [*notes, *_tell_ignored(columns)],
    )


def _tell_ignored(columns: Columns) -> list[str]:
    """Return notes on columns that would change the meaning, and are not used."""
    import pyarrow as pa
    import pyarrow.compute as pc

    notes = []
    for name, what in _IGNORED.items():
        if name not in columns:
            continue
        column = columns.table[name]
        counts = pc.list_value_length(column) if pa.types.is_list(column.type) else column
        set_in = int(
            pc.sum(
                pc.cast(pc.fill_null(pc.greater(pc.cast(counts, pa.int64()), 0), False), pa.int64())
            ).as_py()
        )
        if set_in:
            notes.append(f"{name}: {set_in} {what}")
    return notes


def _capacities(tasks: _Tasks, vm: I8, usage: F8, core_mhz: float | None, notes: list[str]) -> F8:
    """Return each task's CPU, MHz: as it says, else of its cores, else the most that it uses."""
    if tasks.capacity is not None:
        return tasks.capacity
    if core_mhz is not None:
        notes.append(f"the CPU of a task is {core_mhz:g} MHz for each of its cores (core_mhz)")
        return tasks.cores * core_mhz
    most = np.zeros(len(tasks.names))
    np.fmax.at(most, vm, usage)
    notes.append("the CPU of a task is the most that it uses, as none is given (option core_mhz)")
    per_core = float((most / tasks.cores).max())
    return np.where(most > 0, most, tasks.cores * (per_core or 1.0))


def _is_integer(columns: Columns, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(columns.table[name].type))


def _milliseconds(columns: Columns, name: str) -> F8:
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


def _match(fragments: Columns, tasks: _Tasks, left: list[tuple[int, str]]) -> tuple[Columns, I8, F8]:
    """Return the fragments that belong to a task and last for any time, their tasks and durations.

    Args:
        fragments: All fragments.
        tasks: The tasks.
        left: Gets how many rows and tasks are left out, and which.
    """
    codes, seen = fragments.labels("id")
    place = {name: index for index, name in enumerate(tasks.names)}
    vm = np.array([place.get(name, -1) for name in seen])[codes]
    named = fragments.named("id")
    duration = fragments.numbers("duration", "at least 0 ms")
    keep = (vm >= 0) & (duration > 0)
    left.append((int(np.count_nonzero(~named)), "fragments name no task"))
    left.append(
        (int(np.count_nonzero(named & (vm < 0))), "fragments are of tasks that the tasks file does not have")
    )
    left.append((int(np.count_nonzero((vm >= 0) & (duration == 0))), "fragments end when they start"))
    left.append((len(tasks.names) - np.unique(vm[keep]).size, "tasks have no fragment that lasts"))
    if not keep.any():
        raise TraceError(f"{show_path(fragments.path)}: no fragment belongs to a task and lasts for any time")
    return fragments.take(keep), vm[keep], duration[keep]


def _starts(fragments: Columns, tasks: _Tasks, vm: I8, duration: F8) -> F8:
    """Return when each fragment starts, ms since 1970."""
    if "timestamp" in fragments:
        stamps = _milliseconds(fragments, "timestamp") * _UNITS_OF_TIME[tasks.unit]
        first = np.full(len(tasks.names), np.inf)
        np.minimum.at(first, vm, stamps)
        early = tasks.version == "OpenDC 2.0" and bool((first <= tasks.start_ms)[vm].any())
        return stamps if early else stamps - duration
    order = np.argsort(vm, kind="stable")  # fragments of a task stand in their order, tasks perhaps not
    total = np.cumsum(duration[order])
    before = total - duration[order]
    counts = np.bincount(vm, minlength=len(tasks.names))
    head = np.minimum(np.cumsum(counts) - counts, vm.size - 1)  # a task may have none
    start = np.empty(vm.shape)
    start[order] = tasks.start_ms[vm[order]] + before - before[head][vm[order]]
    return start


def _mode(duration: F8) -> float:
    values, counts = np.unique(duration, return_counts=True)
    return float(values[np.argmax(counts)])


def _cut_long(fragments: Columns, duration: F8, usual: float, fill: str | None, notes: list[str]) -> F8:
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


def _lives(vm: I8, begin: F8, end: F8, vms: int) -> tuple[F8, F8]:
    arrival, departure = np.full(vms, np.inf), np.full(vms, -np.inf)
    np.minimum.at(arrival, vm, begin)
    np.maximum.at(departure, vm, end)
    return arrival, departure


def _tell_lives(tasks: _Tasks, vm: I8, duration: F8) -> list[str]:
    if tasks.life_ms is None:
        return []
    total = np.bincount(vm, weights=duration, minlength=len(tasks.names))
    other = int(np.count_nonzero((np.abs(total - tasks.rescale(tasks.life_ms)) > 1) & (total > 0)))
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
