"""Reader of Google's cluster traces, ClusterData 2011 (v2) and 2019 (v3): usage of tasks every 300 s.

Sources: ``google/cluster-data`` on GitHub: ``ClusterData2011_2.md`` with the schema that comes with the data,
and ``clusterdata_trace_format_v3.proto``. A task is a VM here. Times are microseconds; the traces start at
600 s. CPU and memory are shares of the largest machine.

- 2011: ``task_usage/part-*.csv.gz`` (20 columns, no header); for requests ``task_events/part-*.csv.gz``.
- 2019: ``instance_usage-*.json.gz`` and, for requests, ``instance_events-*.json.gz``, one JSON object a line,
  as in the buckets ``clusterdata_2019_a`` to ``_h``.

A task's nominal CPU and memory are the largest that it requested; where that is 0 or not known, its own peak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8, I8
from ...errors import TraceError
from ...files import names_its_file, open_text, show_path
from ..base import Trace
from ..delimited import Block, Coder, Collector, Window, find_parts, read_blocks
from ..json_lines import read_json_blocks
from ..repairs import Repairs
from ..resample import Readings, Vms, build_trace, check_positive
from ..sniffing import Look

TASK_USAGE_COLUMNS = (
    *("start_time", "end_time", "job_id", "task_index", "machine_id", "cpu_rate", "canonical_memory_usage"),
    *("assigned_memory_usage", "unmapped_page_cache", "total_page_cache", "maximum_memory_usage"),
    *("disk_io_time", "local_disk_space_usage", "maximum_cpu_rate", "maximum_disk_io_time"),
    *("cycles_per_instruction", "memory_accesses_per_instruction", "sample_portion", "aggregation_type"),
    "sampled_cpu_usage",
)
"""Columns of the 2011 usage table; the first release lacks the last one."""
TASK_EVENT_COLUMNS = (
    *("time", "missing_info", "job_id", "task_index", "machine_id", "event_type", "user", "scheduling_class"),
    *("priority", "cpu_request", "memory_request", "disk_space_request", "different_machines_restriction"),
)
"""Columns of the 2011 event table."""

_MICRO = 1e-6


@dataclass(frozen=True)
class _Layout:
    """What the fields of one version are called."""

    version: str
    usage: tuple[Path, ...]
    events: tuple[Path, ...]
    task: tuple[str, str]
    cpu: str
    memory: str
    disk: str | None
    cpu_request: str
    memory_request: str

    @property
    def used(self) -> list[str]:
        """Columns of readings."""
        return [key for key in (self.cpu, self.memory, self.disk) if key is not None]


@names_its_file
def read_google(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = None,
    over: str = "keep",
    start_s: float = 0.0,
    end_s: float | None = None,
    max_vms: int | None = None,
    machine_mhz: float | None = None,
    machine_memory_mib: float | None = None,
) -> Trace:
    """Read a folder of the 2011 or 2019 trace, whichever its files are.

    A task lives from its first window to its last. Signals: ``memory_active`` (fraction of the task's memory)
    and, in 2011, ``disk_busy`` (disk seconds per second).

    Args:
        path: The folder.
        sample_s: Sampling period of the trace, s.
        fill: What to put into gaps: None for an error, ``previous`` or ``zero``.
        over: What to do with usage above the request: ``keep``, ``clip`` or ``error``.
        start_s: Leave out windows that start before this time, s.
        end_s: Leave out windows that start at this time or later, s.
        max_vms: Take only the first tasks that have a window.
        machine_mhz: CPU of the largest machine, MHz, which the data hides; without it ``cpu_mhz`` is None.
        machine_memory_mib: Memory of the largest machine, MiB; without it ``memory_mib`` is None.

    Returns:
        The trace; VMs are called ``job-index`` and stand in the order of their first windows.

    Raises:
        TraceError: For a missing or malformed file, with file and line, or gaps that may not be filled.
    """
    window = Window("google", start_s, end_s, max_vms)
    check_positive("google", machine_mhz=machine_mhz, machine_memory_mib=machine_memory_mib)
    repairs = Repairs("google", fill, over)
    root = Path(path)
    layout = _locate(root)
    repairs.notes.append(f"version {layout.version}")
    rows, coder = _read_usage(layout, window, repairs)
    if len(rows) == 0:
        raise TraceError(f"{show_path(root)}: no window of a task between start_s and end_s")
    used = {key: repairs.clean(key, rows.column(key)) for key in layout.used}
    cpu, memory = _nominal(layout, rows.column("vm"), used, coder, repairs.notes)
    keep = (cpu > 0) & (memory > 0)
    repairs.leave_out(int(np.count_nonzero(~keep)), "tasks neither request nor use CPU and memory")
    vms = Vms(
        cpu_mhz=None if machine_mhz is None else cpu * machine_mhz,
        memory_mib=None if machine_memory_mib is None else memory * machine_memory_mib,
    )
    return build_trace(
        _make_readings(str(path), layout, rows, used, coder, keep, (cpu, memory), repairs.notes),
        vms,
        name=root.resolve().name,
        sample_s=sample_s,
        repairs=repairs,
        keep=keep,
    )


def sniff(look: Look) -> bool:
    """Whether a folder holds the usage of tasks."""
    return look.has_stem("task_usage", "instance_usage")


def _locate(root: Path) -> _Layout:
    usage = find_parts(root, "task_usage")
    if usage:
        events = find_parts(root, "task_events")
        names = ("cpu_rate", "canonical_memory_usage", "disk_io_time", "cpu_request", "memory_request")
        return _Layout("2011", tuple(usage), tuple(events), ("job_id", "task_index"), *names)
    suffixes = (".json", ".json.gz")
    usage = find_parts(root, "instance_usage", suffixes)
    if usage:
        events = find_parts(root, "instance_events", suffixes)
        task = ("collection_id", "instance_index")
        asked = ("resource_request.cpus", "resource_request.memory")
        return _Layout(
            "2019",
            tuple(usage),
            tuple(events),
            task,
            "average_usage.cpus",
            "average_usage.memory",
            None,
            *asked,
        )
    raise TraceError(
        f"{show_path(root)}: needs task_usage/*.csv.gz (2011) or instance_usage-*.json.gz (2019)"
    )


def _blocks(layout: _Layout, part: Path, columns: Sequence[str], numbers: Sequence[str]) -> Iterator[Block]:
    if layout.version == "2019":
        return read_json_blocks(part, numbers=numbers, texts=layout.task)
    return read_blocks(part, columns, numbers=numbers, texts=layout.task)


def _names_of(layout: _Layout, block: Block) -> NDArray[np.object_]:
    """Return the names of the tasks, "" where a part is missing."""
    import pyarrow.compute as pc

    job, index = (block.texts[key] for key in layout.task)
    whole = pc.and_(pc.not_equal(job, ""), pc.not_equal(index, ""))
    named: NDArray[np.object_] = pc.if_else(whole, pc.binary_join_element_wise(job, index, "-"), "")
    return named


def _read_usage(layout: _Layout, window: Window, repairs: Repairs) -> tuple[Collector, Coder]:
    rows, coder = Collector(), Coder(limit=window.max_vms)
    values = layout.used
    kind = ["collection_type"] if layout.version == "2019" else []
    allocs = empty = 0
    for part in layout.usage:
        columns = TASK_USAGE_COLUMNS[: _width(part)] if layout.version == "2011" else ()
        for block in _blocks(layout, part, columns, ["start_time", "end_time", *values, *kind]):
            start, end = block.numbers["start_time"] * _MICRO, block.numbers["end_time"] * _MICRO
            empty += int(np.count_nonzero(end <= start))
            task = end > start
            if kind:  # what runs inside an alloc set is reported by its tasks, too
                is_alloc = block.numbers["collection_type"] == 1
                allocs += int(np.count_nonzero(is_alloc))
                task &= ~is_alloc
            vm = coder.encode(_names_of(layout, block), window.holds(start) & task, start + end)
            kept = {"vm": vm, "start": start, "end": end, **{key: block.numbers[key] for key in values}}
            rows.add(block, vm >= 0, kept)
    repairs.leave_out_nobodys(coder.nobodys)
    repairs.leave_out(empty, "windows end when they start")
    if allocs:
        repairs.notes.append(f"{allocs} rows of alloc sets are left out: their tasks have rows of their own")
    return rows, coder


def _width(part: Path) -> int:
    """Return the number of columns, 19 or 20."""
    with open_text(part, "replace") as file:
        return 19 if file.readline().count(",") == 18 else 20


def _nominal(
    layout: _Layout, task: I8, used: Mapping[str, F8], coder: Coder, notes: list[str]
) -> tuple[F8, F8]:
    """Return the nominal CPU and memory of each task, shares of the largest machine."""
    asked = {
        layout.cpu_request: np.zeros(len(coder.codes)),
        layout.memory_request: np.zeros(len(coder.codes)),
    }
    known = Coder(limit=len(coder.codes), codes=dict(coder.codes))
    for part in layout.events:
        for block in _blocks(layout, part, TASK_EVENT_COLUMNS, list(asked)):
            vm = known.encode(_names_of(layout, block), np.ones(len(block), dtype=bool))
            for key, largest in asked.items():
                rated = (vm >= 0) & np.isfinite(block.numbers[key])
                np.maximum.at(largest, vm[rated], block.numbers[key][rated])
    sizes = []
    for what, key, column in (
        ("CPU", layout.cpu_request, layout.cpu),
        ("memory", layout.memory_request, layout.memory),
    ):
        peak = np.zeros(len(coder.codes))
        np.fmax.at(peak, task, used[column])
        unasked = asked[key] <= 0
        if unasked.any():
            count = int(np.count_nonzero(unasked))
            notes.append(
                f"{what}: the peak of {count} of {peak.size} tasks is their size, no request is known"
            )
        sizes.append(np.where(unasked, peak, asked[key]))
    return sizes[0], sizes[1]


def _make_readings(
    source: str,
    layout: _Layout,
    rows: Collector,
    used: Mapping[str, F8],
    coder: Coder,
    keep: NDArray[np.bool_],
    sizes: tuple[F8, F8],
    notes: list[str],
) -> Readings:
    """Return the readings of all tasks; time 0 is the first window of those to keep."""
    vm, start, end = rows.column("vm"), rows.column("start"), rows.column("end")
    kept = keep[vm]
    zero = float(start[kept].min() if kept.any() else start.min())
    notes.append(f"time 0 is second {zero:g} of the data set")
    notes.append("units: shares of the largest machine, made fractions of the task's CPU and memory")
    cpu, memory = (np.where(keep, size, np.nan)[vm] for size in sizes)
    signals = {"memory_active": used[layout.memory] / memory}
    if layout.disk is not None:
        signals["disk_busy"] = used[layout.disk]
    return Readings(
        source=source,
        format="google",
        vm=vm,
        start_s=start - zero,
        end_s=end - zero,
        util=used[layout.cpu] / cpu,
        names=coder.names,
        where=rows.where,
        signals=signals,
    )
