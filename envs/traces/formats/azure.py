"""Reader of Azure Public Dataset V1 (2017) and V2 (2019): the VM table and the 5-minute CPU readings.

Schemas: ``AzurePublicDatasetV1.md``, ``AzurePublicDatasetV2.md`` and the analysis notebooks of
``github.com/Azure/AzurePublicDataset`` (E. Cortez et al., Resource Central, SOSP 2017). CSV without header:

- ``vmtable.csv``: vmid, subscriptionid, deploymentid, created, deleted (s), CPU (%) as maximum, average and
  95th percentile of the maxima, category, cores, memory (GB). In V2 the last two are buckets, named by their
  upper end; the highest, ``>24`` and ``>64``, count as 30 and 70, as in the authors' notebook.
- ``vm_cpu_readings-file-*.csv``: timestamp (s), vmid, min, max and average CPU (%) during the 5 minutes after
  it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8
from ...errors import TraceError
from ...files import names_its_file, show_found, show_path
from ..base import Trace
from ..delimited import Coder, Collector, Window, find_parts, name_line, read_blocks
from ..repairs import MISSING, Repairs
from ..resample import Readings, Vms, build_trace, check_positive, count_vcpus, hold_until_next
from ..sniffing import Look

VM_COLUMNS = (
    *("vmid", "subscriptionid", "deploymentid", "vmcreated", "vmdeleted", "maxcpu", "avgcpu", "p95maxcpu"),
    *("vmcategory", "vmcorecount", "vmmemory"),
)
"""Columns of the VM table."""
READING_COLUMNS = ("timestamp", "vmid", "mincpu", "maxcpu", "avgcpu")
"""Columns of the readings."""


@dataclass(frozen=True)
class _Table:
    """The VM table, shapes (V,)."""

    path: Path
    place: dict[str, int]
    created_s: F8
    deleted_s: F8
    cores: F8
    memory_gib: F8
    buckets: bool


@names_its_file
def read_azure(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = None,
    over: str = "keep",
    start_s: float = 0.0,
    end_s: float | None = None,
    max_vms: int | None = None,
    core_mhz: float | None = None,
    cores_above: int = 30,
    memory_gib_above: float = 70.0,
) -> Trace:
    """Read a folder with ``vmtable`` and ``vm_cpu_readings`` files, or sub-folders of these names.

    The trace starts with the first reading in the window. Signals: ``cpu_min`` and ``cpu_max``, the extremes
    within each reading, fractions of the VM's CPU.

    Args:
        path: The folder, such as ``trace_data``.
        sample_s: Sampling period of the trace, s.
        fill: What to put into gaps: None for an error, ``previous`` or ``zero``.
        over: What to do with more than 100 %: ``keep``, ``clip`` or ``error``.
        start_s: Leave out readings before this time, s.
        end_s: Leave out readings from this time on, s.
        max_vms: Take only the first VMs that have a reading.
        core_mhz: Clock of a core, MHz, which the data does not say; without it ``cpu_mhz`` is None.
        cores_above: Cores of a VM in the bucket ``>24``.
        memory_gib_above: Memory of a VM in the bucket ``>64``, GiB.

    Returns:
        The trace; VMs in the order of the VM table.

    Raises:
        TraceError: For a missing or malformed file, with file and line, or gaps that may not be filled.
    """
    window = Window("azure", start_s, end_s, max_vms)
    check_positive("azure", core_mhz=core_mhz, cores_above=cores_above, memory_gib_above=memory_gib_above)
    repairs = Repairs("azure", fill, over)
    root = Path(path)
    table_path, parts = _locate(root / "trace_data" if (root / "trace_data").is_dir() else root)
    table = _read_table(table_path, cores_above, memory_gib_above)
    rows, coder = _read_readings(parts, table, window)
    if len(rows) == 0:
        raise TraceError(f"{show_path(root)}: no reading of a VM of {show_path(table.path)} in the window")
    readings, chosen, zero = _make_readings(str(path), table, rows, coder, sample_s, repairs)
    notes = repairs.notes
    notes.append(f"from {len(parts)} files; units: % of the VM's cores, made fractions; GB as GiB, made MiB")
    if table.buckets:
        notes.append(
            f"V2 (2019): sizes are buckets; >24 is {cores_above} cores, >64 is {memory_gib_above:g} GiB"
        )
    cores, memory = table.cores[chosen], table.memory_gib[chosen] * 1024
    keep = np.isfinite(cores + memory)
    repairs.leave_out(int(np.count_nonzero(~keep)), "VMs have no size")
    vms = Vms(
        *_lives(readings, table, chosen, zero),
        vcpus=count_vcpus(str(path), np.where(keep, cores, 1.0)),
        cpu_mhz=None if core_mhz is None else cores * core_mhz,
        memory_mib=memory,
    )
    name = root.resolve().name
    return build_trace(readings, vms, name=name, sample_s=sample_s, repairs=repairs, keep=keep)


def sniff(look: Look) -> bool:
    """Whether a folder holds the VM table or the readings."""
    return look.has_stem("vmtable", "vm_cpu_readings", "trace_data")


def _locate(root: Path) -> tuple[Path, list[Path]]:
    tables, parts = find_parts(root, "vmtable"), find_parts(root, "vm_cpu_readings")
    if len(tables) != 1 or not parts:
        raise TraceError(
            f"{show_path(root)}: needs one vmtable.csv[.gz] and vm_cpu_readings*.csv[.gz], "
            f"has {len(tables)} and {len(parts)}"
        )
    return tables[0], parts


def _make_readings(
    source: str, table: _Table, rows: Collector, coder: Coder, sample_s: float, repairs: Repairs
) -> tuple[Readings, NDArray[np.int64], float]:
    """Return the readings with VMs in the order of the table, their rows there, and the time that is 0, s."""
    rank = np.array([table.place[name] for name in coder.names])
    order = np.argsort(rank)
    new_code = np.empty(rank.size, dtype=np.int64)
    new_code[order] = np.arange(rank.size)
    vm, time = new_code[rows.column("vm")], rows.column("time")
    zero = float(time.min())
    ends, period = hold_until_next(vm, time - zero, sample_s, 300.0)
    repairs.notes.append(f"time 0 is second {zero:g} of the data set; readings every {period:g} s")
    util, least, most = (repairs.clean(key, rows.column(key)) / 100 for key in ("avgcpu", "mincpu", "maxcpu"))
    readings = Readings(
        source=source,
        format="azure",
        vm=vm,
        start_s=time - zero,
        end_s=ends,
        util=util,
        names=[coder.names[index] for index in order],
        where=rows.where,
        signals={"cpu_min": least, "cpu_max": most},
    )
    repairs.leave_out_nobodys(coder.nobodys)
    repairs.leave_out(len(coder.refused), "VMs with readings are not in the VM table")
    return readings, rank[order], zero


def _read_table(path: Path, cores_above: int, memory_above: float) -> _Table:
    place: dict[str, int] = {}
    created, deleted, cores, memory = [], [], [], []
    buckets = False
    columns = {"vmcorecount": float(cores_above), "vmmemory": float(memory_above)}
    blocks = read_blocks(
        path, VM_COLUMNS, numbers=("vmcreated", "vmdeleted"), texts=("vmid", "vmcorecount", "vmmemory")
    )
    for block in blocks:
        for row, name in enumerate(block.texts["vmid"].to_pylist()):
            if name and place.setdefault(name, block.first + row) != block.first + row:
                where = name_line(path, block.first + row, 0)
                raise TraceError(f"{where}: the vmid {name!r} has a row already")
        sizes = {}
        for key, above in columns.items():
            texts = block.texts[key].to_pylist()
            buckets |= any(text.startswith(">") for text in texts)
            sizes[key] = [_size(path, block.first + row, key, text, above) for row, text in enumerate(texts)]
        cores.append(np.array(sizes["vmcorecount"]))
        memory.append(np.array(sizes["vmmemory"]))
        created.append(block.numbers["vmcreated"])
        deleted.append(block.numbers["vmdeleted"])
    if not place:
        raise TraceError(f"{show_path(path)}: the table has no rows")
    return _Table(
        path,
        place,
        np.concatenate(created),
        np.concatenate(deleted),
        np.concatenate(cores),
        np.concatenate(memory),
        buckets,
    )


def _size(path: Path, row: int, key: str, text: str, above: float) -> float:
    if text.strip().startswith(">"):
        return above
    if text.strip() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        where = name_line(path, row, 0)
        raise TraceError(
            f"{where}: {key}: expected a positive number or a bucket like >24, found {show_found(text)}"
        )
    return value


def _read_readings(parts: list[Path], table: _Table, window: Window) -> tuple[Collector, Coder]:
    rows, coder = Collector(), Coder(limit=window.max_vms, allowed=table.place)
    percents = ("mincpu", "maxcpu", "avgcpu")
    for part in parts:
        for block in read_blocks(part, READING_COLUMNS, numbers=("timestamp", *percents), texts=("vmid",)):
            time = block.numbers["timestamp"]
            vm = coder.encode(block.texts["vmid"], window.holds(time), time)
            rows.add(
                block, vm >= 0, {"vm": vm, "time": time, **{key: block.numbers[key] for key in percents}}
            )
    return rows, coder


def _lives(readings: Readings, table: _Table, chosen: NDArray[np.int64], zero: float) -> tuple[F8, F8]:
    """Return arrivals and departures: as the VM table says, or wider where there are readings."""
    first, last = np.full(chosen.size, np.inf), np.full(chosen.size, -np.inf)
    np.minimum.at(first, readings.vm, readings.start_s)
    np.maximum.at(last, readings.vm, readings.end_s)
    # The VM table may not say when; then fmin and fmax take the readings.
    arrival = np.fmin(np.maximum(table.created_s[chosen] - zero, 0.0), first)
    return arrival, np.fmax(table.deleted_s[chosen] - zero, last)
