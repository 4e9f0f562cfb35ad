r"""Reader of GWA-T-12 Bitbrains: one CSV file per VM, with CPU, memory, disk and network every 300 s.

The Grid Workloads Archive describes the rows of ``fastStorage`` and ``Rnd`` (gwa.ewi.tudelft.nl,
gwa-t-12-bitbrains; S. Shen, V. van Beek and A. Iosup, CCGrid 2015): eleven columns between ``;\t`` with a
header line. The header says the timestamps are in ms; in the published files they are seconds, so the unit is
taken from their size. KB are KiB (the files have 2097152 for 2 GiB).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import names_its_file, open_text, show_path
from ..sim.errors import TraceError
from .base import Trace
from .delimited import Collector, read_blocks
from .resample import Readings, Vms, build_trace, count_vcpus, hold_until_next, tell_times

__all__ = ["BITBRAINS_COLUMNS", "read_bitbrains"]

BITBRAINS_COLUMNS = (
    "Timestamp [ms]",
    "CPU cores",
    "CPU capacity provisioned [MHZ]",
    "CPU usage [MHZ]",
    "CPU usage [%]",
    "Memory capacity provisioned [KB]",
    "Memory usage [KB]",
    "Disk read throughput [KB/s]",
    "Disk write throughput [KB/s]",
    "Network received throughput [KB/s]",
    "Network transmitted throughput [KB/s]",
)
"""The header of every file."""

_TIME, _CORES, _CAPACITY, _USAGE, _, _MEMORY, _ACTIVE = BITBRAINS_COLUMNS[:7]
_KIB_TO_MBIT = 1024 * 8 / 1e6
# Factors from the file's unit to ours.
_SIGNALS = {
    "disk_read_mbit_s": (BITBRAINS_COLUMNS[7], _KIB_TO_MBIT),
    "disk_write_mbit_s": (BITBRAINS_COLUMNS[8], _KIB_TO_MBIT),
    "net_rx_mbit_s": (BITBRAINS_COLUMNS[9], _KIB_TO_MBIT),
    "net_tx_mbit_s": (BITBRAINS_COLUMNS[10], _KIB_TO_MBIT),
}
_SECONDS_BELOW = 1e11  # as seconds that is the year 5138, as ms it is March 1973


@names_its_file
def read_bitbrains(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = None,
    over: str = "keep",
    max_vms: int | None = None,
) -> Trace:
    """Read a folder of Bitbrains files, or one VM's file.

    A VM's nominal CPU and memory are the largest that were provisioned while it was observed. It lives from
    its first reading to its last. Signals: ``memory_active`` (fraction of the VM's memory),
    ``disk_read_mbit_s``, ``disk_write_mbit_s``, ``net_rx_mbit_s``, ``net_tx_mbit_s``.

    Args:
        path: Folder with one CSV per VM, or such a file.
        sample_s: Sampling period of the trace, s.
        fill: What to put into gaps: None for an error, ``previous`` or ``zero``.
        over: What to do with usage above the capacity: ``keep``, ``clip`` or ``error``.
        max_vms: Read only the first files; all by default.

    Returns:
        The trace; VMs in the order of the numbers that name their files.

    Raises:
        TraceError: For a missing or malformed file, with file and line, or gaps that may not be filled.
    """
    if max_vms is not None and max_vms < 1:
        raise TraceError(f"bitbrains: max_vms must be at least 1, is {max_vms}")
    root = Path(path)
    files = _list_files(root)[:max_vms]
    rows = Collector(header=1)
    for index, file in enumerate(files):
        _read_file(file, index, rows)
    notes: list[str] = []
    vm = rows.column("vm")
    names = [file.name.split(".")[0] for file in files]
    seconds = _to_seconds(rows, notes)
    capacity, cores, memory = (
        _largest(vm, rows.column(key), len(names)) for key in (_CAPACITY, _CORES, _MEMORY)
    )
    keep = (capacity > 0) & (memory > 0)
    if not keep.all():
        notes.append(f"{np.count_nonzero(~keep)} VMs were never given CPU and memory, and are left out")
        if not keep.any():
            raise TraceError(f"{show_path(root)}: no VM was ever given CPU and memory")
    changed = int(np.count_nonzero((rows.column(_CAPACITY) < capacity[vm] * (1 - 1e-6)) & keep[vm]))
    if changed:
        notes.append(f"in {changed} rows a VM had less CPU than its largest, which counts as its nominal CPU")
    readings = _make_readings(str(path), rows, keep, (capacity, memory), seconds, names, sample_s)
    vms = Vms(
        vcpus=count_vcpus(str(path), cores[keep]),
        cpu_mhz=capacity[keep],
        memory_mib=memory[keep] / 1024,
    )
    return build_trace(
        readings,
        vms,
        name=root.resolve().name.split(".")[0],
        sample_s=sample_s,
        fill=fill,
        over=over,
        notes=notes,
    )


def _list_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise TraceError(
            f"{show_path(root)}: no such file or folder; a bitbrains trace is a folder of CSV files"
        )
    files = [p for p in root.iterdir() if p.name.lower().endswith((".csv", ".csv.gz")) and not p.is_dir()]
    if not files:
        folders = sorted(p.name for p in root.iterdir() if p.is_dir())
        hint = f"; it holds folders, pick one of them: {', '.join(folders[:8])}" if folders else ""
        raise TraceError(f"{show_path(root)}: no CSV files{hint}")
    return sorted(files, key=_by_number)


def _by_number(path: Path) -> tuple[int, str]:
    stem = path.name.split(".")[0]
    return (int(stem) if stem.isdecimal() else 1 << 62, path.name)


def _read_file(file: Path, vm: int, rows: Collector) -> None:
    before = len(rows)
    with open_text(file, "replace") as text:
        header = tuple(cell.strip().strip('"') for cell in text.readline().split(";"))
    if header != BITBRAINS_COLUMNS:
        raise TraceError(
            f"{show_path(file)}:1: expected the columns {'; '.join(BITBRAINS_COLUMNS)}; found {header!r:.200}"
        )
    needed = [key for key in BITBRAINS_COLUMNS if key != "CPU usage [%]"]
    for block in read_blocks(file, BITBRAINS_COLUMNS, numbers=needed, delimiter=";", header=True):
        every = np.ones(len(block), dtype=bool)
        rows.add(block, every, {"vm": np.full(len(block), vm), **block.numbers})
    if len(rows) == before:
        raise TraceError(f"{show_path(file)}: the file has no rows")


def _to_seconds(rows: Collector, notes: list[str]) -> NDArray[np.float64]:
    stamps: NDArray[np.float64] = rows.column(_TIME)
    is_ms = float(stamps.max()) > _SECONDS_BELOW
    seconds = stamps / 1000 if is_ms else stamps
    unit = "ms" if is_ms else "seconds (the header says ms)"
    notes.append(f"{tell_times(float(seconds.min()) * 1000)}; timestamps are {unit}")
    notes.append("units: MHz; KB as KiB, made MiB; KB/s as KiB/s, made Mbit/s; memory_active as a fraction")
    since: NDArray[np.float64] = seconds - seconds.min()
    return since


def _largest(vm: NDArray[np.int64], values: NDArray[np.float64], vms: int) -> NDArray[np.float64]:
    largest = np.zeros(vms)
    np.maximum.at(largest, vm, values)
    return largest


def _make_readings(
    source: str,
    rows: Collector,
    keep: NDArray[np.bool_],
    sizes: tuple[NDArray[np.float64], NDArray[np.float64]],
    seconds: NDArray[np.float64],
    names: Sequence[str],
    sample_s: float,
) -> Readings:
    """Return the rows of the VMs to keep; ``sizes`` are their nominal CPU, MHz, and memory, KiB."""
    vm = rows.column("vm")
    chosen = np.flatnonzero(keep[vm])
    old = vm[chosen]
    code = (np.cumsum(keep) - 1)[old]
    ends, _ = hold_until_next(code, seconds[chosen], sample_s, 300.0)
    rates = {key: rows.column(column)[chosen] * factor for key, (column, factor) in _SIGNALS.items()}
    return Readings(
        source=source,
        format="bitbrains",
        vm=code,
        start_s=seconds[chosen],
        end_s=ends,
        util=rows.column(_USAGE)[chosen] / sizes[0][old],
        names=[name for name, kept in zip(names, keep) if kept],
        where=lambda row: rows.where(int(chosen[row])),
        signals={"memory_active": rows.column(_ACTIVE)[chosen] / sizes[1][old], **rates},
    )
