r"""Reader of GWA-T-12 Bitbrains and GWA-T-13 Materna: one CSV file per VM, a row every 300 s.

The Grid Workloads Archive describes the rows of Bitbrains' ``fastStorage`` and ``Rnd`` (gwa.ewi.tudelft.nl,
gwa-t-12-bitbrains; S. Shen, V. van Beek and A. Iosup, CCGrid 2015): eleven columns between ``;\t`` with a
header line. The header says the timestamps are in ms; in the published files they are seconds, so the unit is
told for each file from the timestamps. KB are KiB (the files have 2097152 for 2 GiB).

Materna (gwa-t-13-materna; A. Kohne et al., 2014) writes quoted cells between ``;``, two columns more, the
decimal comma (3,4 is 3.4) and German timestamps (04.11.2015 is 4 November).

Files that another tool has saved again are read, too: commas or tabs in place of semicolons, quotes, a byte
order mark, an index column, other columns, another order, dates in place of numbers.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8
from ...errors import TraceError
from ...files import names_its_file, open_text, show_found, show_path
from ..base import Trace
from ..delimited import Block, Collector, name_line, read_blocks
from ..repairs import MISSING, Repairs, find_unit
from ..resample import Readings, Vms, build_trace, count_vcpus, hold_until_next, tell_times
from ..sniffing import Look

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
"""The header of every file of Bitbrains; the percentage is not used."""

_TIME, _CORES, _CAPACITY, _USAGE, _, _MEMORY, _ACTIVE = BITBRAINS_COLUMNS[:7]
_KIB_TO_MBIT = 1024 * 8 / 1e6
# Factors from the file's unit to ours.
_SIGNALS = {
    "disk_read_mbit_s": (BITBRAINS_COLUMNS[7], _KIB_TO_MBIT),
    "disk_write_mbit_s": (BITBRAINS_COLUMNS[8], _KIB_TO_MBIT),
    "net_rx_mbit_s": (BITBRAINS_COLUMNS[9], _KIB_TO_MBIT),
    "net_tx_mbit_s": (BITBRAINS_COLUMNS[10], _KIB_TO_MBIT),
}
_NEEDED = (_TIME, _CORES, _CAPACITY, _USAGE, _MEMORY)
_PERIOD_S = 300.0
_DATES = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


@dataclass(frozen=True)
class _Layout:
    """How one file is written.

    Attributes:
        delimiter: What stands between two cells.
        fields: Names of the columns, those of `BITBRAINS_COLUMNS` where they are such.
        date: How a timestamp is written, for ``strptime``; None = as a number.
    """

    delimiter: str
    fields: tuple[str, ...]
    date: str | None


@names_its_file
def read_bitbrains(
    path: str | os.PathLike[str],
    *,
    sample_s: float = 300.0,
    fill: str | None = None,
    over: str = "keep",
    max_vms: int | None = None,
) -> Trace:
    """Read a folder of Bitbrains or Materna files, or one VM's file.

    A VM's nominal CPU and memory are the largest that were provisioned while it was observed. It lives from
    its first reading to its last. Signals: ``memory_active`` (fraction of the VM's memory),
    ``disk_read_mbit_s``, ``disk_write_mbit_s``, ``net_rx_mbit_s``, ``net_tx_mbit_s``, as far as the files
    have them.

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
    repairs = Repairs("bitbrains", fill, over)
    root = Path(path)
    files = _list_files(root)[:max_vms]
    rows = Collector(header=1)
    units: Counter[str] = Counter()
    for index, file in enumerate(files):
        _read_file(file, index, rows, units)
    if not units:
        raise TraceError(f"{show_path(files[0])}: the file has no rows")
    vm, time = rows.column("vm"), rows.column(_TIME)
    _tell_times(float(np.nanmin(time)), units, repairs.notes)
    sizes = [_largest(vm, rows.column(key), len(files)) for key in (_CAPACITY, _CORES, _MEMORY)]
    capacity, cores, memory = sizes
    keep = (capacity > 0) & (memory > 0)
    repairs.leave_out(int(np.count_nonzero(~keep)), "VMs were never given CPU and memory")
    changed = int(np.count_nonzero((rows.column(_CAPACITY) < capacity[vm] * (1 - 1e-6)) & keep[vm]))
    if changed:
        repairs.notes.append(
            f"in {changed} rows a VM had less CPU than its largest, which counts as its nominal CPU"
        )
    names = [file.name.split(".")[0] for file in files]
    readings = _make_readings(str(path), rows, keep, (capacity, memory), names, sample_s, repairs)
    vms = Vms(vcpus=count_vcpus(str(path), cores), cpu_mhz=capacity, memory_mib=memory / 1024)
    name = root.resolve().name.split(".")[0]
    return build_trace(readings, vms, name=name, sample_s=sample_s, repairs=repairs, keep=keep)


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


def sniff(look: Look) -> bool:
    """Whether a file, or one of the first tables of a folder, has the columns of a VM."""
    return any(_read_header(head) is not None for head in look.heads((".csv", ".csv.gz")))


def _read_header(head: str) -> _Layout | None:
    """Return how a file is written that begins with ``head``; None if its columns are others."""
    lines = [line for line in head.splitlines() if line.strip()][:2]
    if not lines:
        return None
    delimiter = max(";,\t", key=lambda mark: (lines[0].count(mark), -";,\t".index(mark)))
    known = {_plain(column): column for column in BITBRAINS_COLUMNS}
    fields: list[str] = []
    first, *data = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for place, cell in enumerate(first):
        name = _TIME if _plain(cell).startswith("timestamp") else known.get(_plain(cell), "")
        fields.append(name if name and name not in fields else f"column {place + 1}")
    if not set(_NEEDED) <= set(fields):
        return None
    row = dict(zip(fields, data[0])) if data else {}
    return _Layout(delimiter, tuple(fields), _find_date(row.get(_TIME, "").strip()))


def _plain(cell: str) -> str:
    return cell.strip().strip('"').strip().lower()


def _find_date(stamp: str) -> str | None:
    for form in _DATES:
        try:
            datetime.strptime(stamp, form)
        except ValueError:
            continue
        return form
    return None


def _read_file(file: Path, vm: int, rows: Collector, units: Counter[str]) -> None:
    """Add the rows of a file, with times in seconds, and count its unit of time."""
    with open_text(file, "replace") as text:
        head = text.readline() + text.readline()
    layout = _read_header(head)
    if layout is None:
        raise TraceError(
            f"{show_path(file)}:1: expected the columns {'; '.join(BITBRAINS_COLUMNS)}; "
            f"found {show_found(head.splitlines()[0] if head.strip() else '')}"
        )
    numbers = [key for key in BITBRAINS_COLUMNS if key in layout.fields and key != BITBRAINS_COLUMNS[4]]
    texts: tuple[str, ...] = ()
    if layout.date is not None:
        numbers.remove(_TIME)
        texts = (_TIME,)
    blocks = _read_any_decimals(file, layout, numbers, texts)
    if not blocks:
        return
    stamps = [
        block.numbers[_TIME] if layout.date is None else _parse_dates(block, layout.date) for block in blocks
    ]
    factor = 1.0
    if layout.date is not None:
        units["dates, taken as UTC"] += 1
    elif np.isfinite(np.concatenate(stamps)).any():
        name, factor = find_unit(np.concatenate(stamps), _PERIOD_S)
        units["seconds (the header says ms)" if name == "seconds" else name] += 1
    for block, stamp in zip(blocks, stamps):
        none = np.full(len(block), np.nan)
        columns = {key: block.numbers.get(key, none) for key in BITBRAINS_COLUMNS}
        columns[_TIME] = stamp / 1000 if factor == 1e-3 else stamp * factor
        rows.add(block, np.ones(len(block), dtype=bool), {"vm": np.full(len(block), vm), **columns})


def _read_any_decimals(
    file: Path, layout: _Layout, numbers: Sequence[str], texts: Sequence[str]
) -> list[Block]:
    """Return the rows of a file; where no comma separates cells, numbers may have a decimal comma."""

    def read(decimal: str) -> list[Block]:
        blocks = read_blocks(
            file,
            layout.fields,
            numbers=numbers,
            texts=texts,
            delimiter=layout.delimiter,
            decimal=decimal,
            header=True,
        )
        return list(blocks)

    try:
        return read(".")
    except TraceError:
        if layout.delimiter != ",":
            with suppress(TraceError):
                return read(",")
        raise


def _parse_dates(block: Block, form: str) -> F8:
    """Return the dates of a block in s since 1970, NaN where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts: Any = pc.utf8_trim_whitespace(block.texts[_TIME])
    stamps = pc.strptime(texts, format=form, unit="s", error_is_null=True)
    wrong = pc.and_(pc.is_null(stamps), pc.invert(pc.is_in(texts, pa.array(MISSING))))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        where = name_line(block.path, block.first + row, 1)
        raise TraceError(
            f"{where}: {_TIME}: expected a time like the first one, found {show_found(texts[row].as_py())}"
        )
    floats = pc.cast(pc.cast(stamps, pa.int64()), pa.float64())
    return np.asarray(pc.fill_null(floats, float("nan")).to_numpy(zero_copy_only=False))


def _tell_times(start_s: float, units: Counter[str], notes: list[str]) -> None:
    said = " and ".join(f"{unit} in {count} files" for unit, count in units.items())
    if len(units) == 1:
        said = next(iter(units))
    notes.append(f"{tell_times(start_s * 1000)}; timestamps are {said}")
    notes.append("units: MHz; KB as KiB, made MiB; KB/s as KiB/s, made Mbit/s; memory_active as a fraction")


def _largest(vm: NDArray[np.int64], values: F8, vms: int) -> F8:
    largest = np.zeros(vms)
    np.fmax.at(largest, vm, np.where(np.isinf(values), np.nan, values))
    return largest


def _make_readings(
    source: str,
    rows: Collector,
    keep: NDArray[np.bool_],
    sizes: tuple[F8, F8],
    names: Sequence[str],
    sample_s: float,
    repairs: Repairs,
) -> Readings:
    """Return the rows that have a time; ``sizes`` are the VMs' nominal CPU, MHz, and memory, KiB."""
    timed = np.isfinite(rows.column(_TIME))
    repairs.leave_out_nobodys(int(np.count_nonzero(~timed)))
    chosen = np.flatnonzero(timed)
    vm, seconds = rows.column("vm")[chosen], rows.column(_TIME)[chosen]
    seconds -= seconds.min()
    ends = seconds.copy()
    kept = keep[vm]
    ends[kept], _ = hold_until_next(vm[kept], seconds[kept], sample_s, _PERIOD_S)
    capacity, memory = (np.where(keep, size, np.nan)[vm] for size in sizes)
    used = {
        key: repairs.clean(key, values[chosen])
        for key in (_USAGE, _ACTIVE, *(column for column, _ in _SIGNALS.values()))
        if not np.isnan(values := rows.column(key)).all()
    }
    signals = {key: used[column] * factor for key, (column, factor) in _SIGNALS.items() if column in used}
    if _ACTIVE in used:
        signals = {"memory_active": used[_ACTIVE] / memory, **signals}
    return Readings(
        source=source,
        format="bitbrains",
        vm=vm,
        start_s=seconds,
        end_s=ends,
        util=used[_USAGE] / capacity if _USAGE in used else np.full(vm.shape, np.nan),
        names=names,
        where=lambda row: rows.where(int(chosen[row])),
        signals=signals,
    )
