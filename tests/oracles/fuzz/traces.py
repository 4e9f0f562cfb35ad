"""Mutated traces for `fuzz`: small valid files of every format, damaged in bytes, cells, types and names."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from virtgym.envs.errors import VirtgymError
from virtgym.envs.traces import read_windows
from virtgym.envs.traces.formats.bitbrains import BITBRAINS_COLUMNS
from virtgym.experiments.cli.traces import main as traces_command

from .runner import HOSTILE, Attempt, Rng, mutate_bytes, mutate_gzip

# What is imported here is not imported by each attempt, which has a process of its own.
for _reader in (
    "formats.alibaba",
    "formats.azure",
    "formats.azure_packing",
    "formats.bitbrains",
    "formats.carbon",
    "catalog",
    "formats.google",
    "formats.opendc",
    "series",
):
    importlib.import_module(f"virtgym.envs.traces.{_reader}")
for _library in ("pyarrow.compute", "pyarrow.csv", "pyarrow.json", "rich.console", "rich.table", "rich.text"):
    importlib.import_module(_library)

_TIMES = range(0, 1500, 300)
_OPTIONS: dict[str, tuple[str, ...]] = {
    "sample_s": ("1e300", "1e-300", "nan", "-1", "0", "1", "7", "86400", "inf", "10000000000"),
    "fill": ("previous", "zero", "none", "x"),
    "over": ("keep", "clip", "error", "1"),
    "start_s": ("1e300", "-1", "300", "nan"),
    "max_vms": ("0", "1", "99999999999999999999"),
    "expected": ("1", "0", "1000000000", "99999999999999999999"),
    "core_mhz": ("1e300", "0", "2000"),
    "since": ("start", "end"),
    "start": ("2023-01-01", "x", "9999-99-99"),
    "machine_id": ("10", "-1"),
}


@dataclass(frozen=True)
class Sample:
    """A small valid trace.

    Attributes:
        format: Its format.
        texts: Text files by path in the folder.
        tables: Parquet files by path in the folder: columns by name.
        single: Whether the path to read is the one file, not the folder.
        more: Writes what is neither.
    """

    format: str
    texts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    single: bool = False
    more: Callable[[Path], None] | None = None

    @property
    def names(self) -> list[str]:
        """Names of its files."""
        return [*self.texts, *self.tables] or ["vms.sqlite"]


def _packing(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE vmType (vmTypeId INTEGER, machineId INTEGER, core REAL, memory REAL)")
        database.execute("CREATE TABLE vm (vmId INTEGER, vmTypeId INTEGER, starttime REAL, endtime REAL)")
        database.executemany("INSERT INTO vmType VALUES (?, ?, ?, ?)", [(10, 0, 0.5, 0.25), (11, 0, 0.1, 1)])
        database.executemany(
            "INSERT INTO vm VALUES (?, ?, ?, ?)", [(1, 10, 0.5, 1.5), (2, 11, -3, 2), (3, 10, 1, None)]
        )
        database.commit()


def _usage_2019(second: int) -> str:
    facts = {
        "start_time": str((600 + second) * 1_000_000),
        "end_time": str((900 + second) * 1_000_000),
        "collection_id": "1",
        "instance_index": 0,
        "collection_type": "0",
        "average_usage": {"cpus": 0.1, "memory": 0.2},
    }
    return json.dumps(facts) + "\n"


_READINGS = "".join(f"{t},a,1,2,1.5\n" for t in _TIMES)
_T0 = 1_704_067_200_000
_LONG_TABLE = {"vm": ["a", "a", "b", "b"], "time_s": [0.0, 300.0] * 2, "cpu": [0.1, 0.2, 0.3, 0.4]}
SAMPLES: dict[str, Sample] = {
    "planetlab": Sample("planetlab", {f"host {k}": f"{k}\n" * 288 for k in (1, 22, 100)}),
    "table": Sample(
        "table",
        {
            "usage.csv": "vm,time_s,cpu,memory_mib\n"
            + "".join(f"{v},{t},.5,64\n" for v in "ab" for t in _TIMES)
        },
        single=True,
    ),
    "table of two": Sample(
        "table",
        {"usage.csv": "vm,time_s,cpu\na,0,.5\na,60,.5\nb,0,1\nb,60,0\n", "vms.csv": "vm,vcpus\na,1\nb,2\n"},
    ),
    "table in Parquet": Sample("table", tables={"usage.parquet": _LONG_TABLE}, single=True),
    "bitbrains": Sample(
        "bitbrains",
        {
            "1.csv": ";\t".join(BITBRAINS_COLUMNS)
            + "\n"
            + "".join(
                f"{1376314846 + t};\t4;\t11703;\t10.9;\t0.5;\t6.7E7;\t6129;\t0;\t20;\t5;\t1\n" for t in _TIMES
            )
        },
    ),
    "opendc": Sample(
        "opendc",
        tables={
            "tasks.parquet": {
                "id": [7, 3],
                "submission_time": [_T0 + 600_000, _T0],
                "duration": [600_000, 900_000],
                "cpu_count": [2, 1],
                "cpu_capacity": [4000.0, 1000.0],
                "mem_capacity": [4096, 1024],
            },
            "fragments.parquet": {
                "id": [3, 7, 3, 7, 7],
                "duration": [300_000, 300_000, 600_000, 150_000, 150_000],
                "cpu_usage": [500.0, 4000.0, 250.0, 1000.0, 3000.0],
            },
        },
    ),
    "azure": Sample(
        "azure",
        {
            "vmtable.csv": "a,s,d,0,2591700,99,3,10,Unknown,2,3.5\nb,s,d,300,900,99,3,10,Unknown,>24,>64\n",
            "vm_cpu_readings-file-1-of-125.csv": _READINGS,
        },
    ),
    "google 2011": Sample(
        "google",
        {
            "task_usage/part-00000-of-00500.csv": "".join(
                f"{(600 + t) * 1000000},{(900 + t) * 1000000},1,0,5,0.1,0.2,,,,,0.1,,,,,,1,0,0.1\n"
                for t in _TIMES
            )
        },
    ),
    "google 2019": Sample("google", {"instance_usage-000000000000.json": "".join(map(_usage_2019, _TIMES))}),
    "alibaba": Sample(
        "alibaba",
        {
            "container_event.csv": "0,Create,7,85,4,0.25,0.03,1|2\n",
            "container_usage.csv": "".join(f"{39600 + t},7,25,50,3,1,1,1,1,1,1,1\n" for t in _TIMES),
        },
    ),
    "huawei": Sample(
        "huawei",
        {"requests.csv": "vmid,cpu,mem,at,lt\n" + "".join(f"{k},1,2,{k},30\n" for k in range(9))},
        single=True,
    ),
    "huawei events": Sample(
        "huawei",
        {"events.csv": "vmid,cpu,memory,time,type\n0,1,1,0,0\n1,2,4,5,0\n0,1,1,9,1\n"},
        single=True,
    ),
    "azure_packing": Sample("azure_packing", single=True, more=_packing),
    "carbon": Sample(
        "carbon",
        tables={
            "DE.parquet": {
                "timestamp": np.arange(5) * np.timedelta64(3600, "s") + np.datetime64("2023-01-01", "ms"),
                "carbon_intensity": [300.0, 310.0, 305.5, 280.0, 299.0],
            }
        },
        single=True,
    ),
    "failures": Sample(
        "failures",
        tables={
            "f.parquet": {
                "failure_interval": [1000, 60_000],
                "failure_duration": [5000, 9000],
                "failure_intensity": [0.1, 1.0],
            }
        },
        single=True,
    ),
    "windows": Sample("windows", {"w.csv": "window\n0\n5\n99\n"}, single=True),
    "windows in npy": Sample("windows", single=True, more=lambda path: np.save(path, np.array([0, 5, 99]))),
}
"""Valid traces by what they are."""


def _file(folder: Path, sample: Sample, name: str) -> Path:
    return folder / ("w.npy" if sample is SAMPLES["windows in npy"] else name)


def _write(folder: Path, sample: Sample) -> None:
    for name in sample.names:
        path = _file(folder, sample, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in sample.texts:
            path.write_text(sample.texts[name], encoding="utf-8")
        elif name in sample.tables:
            pq.write_table(pa.table(sample.tables[name]), path)
        else:
            assert sample.more is not None
            sample.more(path)


def _use(path: Path, sample: Sample, format: str, options: list[str]) -> None:
    """Check a trace as the command does, and convert it if it is good; stdout takes UTF-8, as a terminal."""
    if sample.format == "windows":
        read_windows(path, 100)
        return
    out = path.parent / "out.parquet"
    for command in (["check", str(path)], ["convert", str(path), "--out", str(out)]):
        told = io.StringIO()
        shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told):
            code = traces_command([*command, "--format", format, *options])
        if code:
            raise VirtgymError(told.getvalue().removesuffix("\n"))
        if sample.format in ("huawei", "azure_packing", "carbon", "failures"):
            return


def change_cell(rng: Rng, text: str) -> str:
    """Put something hostile into a field of one line, or into all lines' field of that place."""
    lines = text.split("\n")
    line = int(rng.integers(len(lines) - 1 or 1))
    separator = ";" if ";" in lines[0] else ","
    hostile = str(rng.choice(HOSTILE))
    rows = range(1, len(lines) - 1) if rng.random() < 0.3 else [line]
    cells = lines[line].split(separator)
    place = int(rng.integers(len(cells)))
    for row in rows:
        cells = lines[row].split(separator)
        if place < len(cells):
            cells[place] = f'"a": {hostile}' if cells[place].startswith(("{", ' "')) else hostile
            lines[row] = separator.join(cells)
    return "\n".join(lines)


def _change_json(rng: Rng, text: str) -> str:
    rows = [json.loads(line) for line in text.splitlines()]
    row = rows[int(rng.integers(len(rows)))]
    key = str(rng.choice(list(row)))
    values: list[Any] = [
        *HOSTILE,
        1e30,
        -1,
        2**63 - 1,
        2**70,
        None,
        True,
        [],
        [1],
        {},
        {"cpus": "x"},
        {"a": {"b": 1}},
    ]
    row[key] = values[int(rng.integers(len(values)))]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _hostile_column(rng: Rng, rows: int) -> Any:
    """Return a column of a type or with values that a reader does not expect."""
    numbers = [1e30, float("nan"), float("inf"), -1.0, 1e-300, 2.0**63, 0.0, 1e18]
    whole = [2**63 - 1, -(2**63), 0, -1, 10**15]
    choices: list[Callable[[], Any]] = [
        lambda: pa.array([[1.0]] * rows),
        lambda: pa.array([{"a": 1}] * rows),
        lambda: pa.array([0] * rows, pa.timestamp("ns", "UTC")),
        lambda: pa.array([2**62] * rows, pa.timestamp("ms")),
        lambda: pa.array([1] * rows, pa.decimal128(20, 2)),
        lambda: pa.array([1] * rows, pa.date32()),
        lambda: pa.array([1] * rows, pa.time64("us")),
        lambda: pa.array([1] * rows, pa.duration("ms")),
        lambda: pa.array([b"\xff"] * rows, pa.binary()),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.string()),
        lambda: pa.array(["²"] * rows),
        lambda: pa.array(["x" * 100_000] * rows),
        lambda: pa.array([str(v) for v in rng.choice(HOSTILE, rows)]),
        lambda: pa.array(["a"] * rows).dictionary_encode(),
        lambda: pa.array([0.5] * rows).dictionary_encode(),
        lambda: pa.array([True] * rows),
        lambda: pa.nulls(rows),
        lambda: pa.array([None, *[1.0] * (rows - 1)]),
        lambda: pa.array(np.full(rows, 1, np.float16)),
        lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
        lambda: pa.array([whole[int(rng.integers(len(whole)))] for _ in range(rows)], pa.int64()),
        lambda: pa.array([numbers[int(rng.integers(len(numbers)))] for _ in range(rows)]),
        lambda: pa.array([*[1.0] * (rows - 1), numbers[int(rng.integers(len(numbers)))]]),
    ]
    return choices[int(rng.integers(len(choices)))]()


def _change_table(rng: Rng, path: Path, columns: dict[str, Any]) -> None:
    table = pa.table(columns)
    what = str(rng.choice(["type", "type", "type", "drop", "name", "twice", "empty", "note", "many", "text"]))
    place = int(rng.integers(table.num_columns))
    name = table.column_names[place]
    if what == "type":
        table = table.set_column(place, name, _hostile_column(rng, table.num_rows))
    elif what == "drop":
        table = table.drop_columns([name])
    elif what == "name":
        names = [*table.column_names]
        names[place] = str(rng.choice(["signal_x", "signal_", "signal_/", "__index_level_0__", *HOSTILE]))
        table = table.rename_columns(names)
    elif what == "twice":
        table = table.append_column(name, table.column(place))
    elif what == "empty":
        table = table.slice(0, 0)
    elif what == "note":
        notes = [
            '{"name": "../../x"}',
            '{"name": "/etc/x", "over": "keep"}',
            '{"sample_s": 1e300}',
            "{",
            "[" * 9999,
        ]
        notes += ['{"name": ["x"], "sample_s": "60"}', '{"checked": true, "name": "\\u0000[/]"}']
        table = table.replace_schema_metadata({"virtgym": notes[int(rng.integers(len(notes)))]})
    elif what == "many":  # a constant column takes no room in the file
        rows = 50_000_000
        table = pa.table({key: pa.array(np.zeros(rows, np.int8)) for key in table.column_names[:2]})
    else:
        table = table.set_column(place, name, pa.array(["x" * 1_000_000] * table.num_rows))
        table = pa.concat_tables([table] * 400)
    pq.write_table(table, path, use_dictionary=True, compression=str(rng.choice(["none", "zstd", "snappy"])))


def _change_database(rng: Rng, path: Path) -> None:
    endless = "AS WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM t) SELECT"
    statements = [
        f"DROP TABLE vm; CREATE VIEW vm {endless} i vmId, 1 vmTypeId, 0 starttime, 1 endtime FROM t",
        f"DROP TABLE vmType; CREATE VIEW vmType {endless} 1 vmTypeId, 1 machineId, 1 core, 1 memory FROM t",
        "ALTER TABLE vm ADD COLUMN big AS (zeroblob(100000000)); UPDATE vm SET vmId = 5",
        "UPDATE vm SET starttime = zeroblob(200000000)",
        "DELETE FROM vm",
        "DROP TABLE vm",
        "ALTER TABLE vm RENAME COLUMN endtime TO x",
        "DROP TABLE vm; CREATE VIRTUAL TABLE vm USING fts5(vmId, vmTypeId, starttime, endtime)",
        "DROP TABLE vm; CREATE TABLE vm (vmId, vmTypeId, starttime, endtime AS (hex(zeroblob(50000000)))); "
        "INSERT INTO vm VALUES (1, 10, 0)",
    ]
    number = int(rng.integers(len(statements) * 2))
    with contextlib.closing(sqlite3.connect(path)) as database:
        if number < len(statements):
            database.executescript(statements[number])
        else:
            table = str(rng.choice(["vm", "vmType"]))
            column = str(rng.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")]))
            values: list[Any] = [*HOSTILE[1:], 1e30, -1e300, 2**62, b"\xff", None]
            value = values[int(rng.integers(len(values)))]
            database.execute(f"UPDATE {table} SET {column} = ?", (value,))
        database.commit()


def change_kind(rng: Rng, path: Path) -> None:
    """Put something in the place of a file that is none."""
    path.unlink()
    what = str(
        rng.choice(["fifo", "zero", "full", "loop", "folder", "random", "gone", "sparse", "proc", "empty"])
    )
    links = {
        "zero": "/dev/zero",
        "full": "/dev/full",
        "random": "/dev/urandom",
        "loop": path.name,
        "gone": "no/such",
    }
    links["proc"] = "/proc/self/mem"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what in links:
        path.symlink_to(links[what])
    else:
        with open(path, "wb") as file:
            file.truncate(0 if what == "empty" else 3 << 40)


def _change_npy(rng: Rng, path: Path) -> None:
    shapes = [(10**13,), (2**62, 2**62), (-5,), (0,), (10**9,), (3, 1), ()]
    header = {"descr": str(rng.choice(["<i8", "<f8", "|O", "<U9", "<i2", "V8"])), "fortran_order": False}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {**header, "shape": shapes[int(rng.integers(len(shapes)))]}
        )
        file.write(bytes(24))


def _rename(rng: Rng, folder: Path, name: str) -> str:
    """Give a file, or what is before its suffix, a name that is odd."""
    odd = [
        "²",
        "a²b",
        "\udcff",
        "new\nline",
        "[@x]",
        "[red]",
        " ",
        "\x1b[2J",
        "a" * 200,
        "a:b?c#d",
        "%2e",
        "-x",
        "3²1",
    ]
    stem, dot, suffix = name.rpartition("/")[2].partition(".")
    prefix = stem if rng.random() < 0.5 else ""
    renamed = name[: name.rfind("/") + 1] + prefix + odd[int(rng.integers(len(odd)))] + dot + suffix
    (folder / name).rename(folder / renamed)
    return renamed


def draw(rng: Rng) -> Attempt:
    """Draw a sample and one mutation of it, sometimes with odd options or read as another format."""
    title = str(rng.choice(list(SAMPLES)))
    sample = SAMPLES[title]
    name = str(rng.choice(sample.names))
    kinds = ["bytes", "bytes", "kind", "name"]
    if name in sample.texts:
        kinds += ["gzip", "gzip", "cell", "cell", "cell", *(["json"] * 3 if name.endswith(".json") else [])]
    kinds += ["table"] * 6 if name in sample.tables else []
    kinds += ["database"] * 4 if sample.format == "azure_packing" else []
    kinds += ["npy"] * 4 if title == "windows in npy" else []
    kind = str(rng.choice(kinds))
    pairs = []
    if rng.random() < 0.25:
        key = str(rng.choice(list(_OPTIONS)))
        pairs = ["--option", f"{key}={rng.choice(_OPTIONS[key])}"]
    elif rng.random() < 0.5 and sample.format not in ("carbon", "failures", "planetlab"):
        pairs = ["--option", "fill=zero"] if sample.format not in ("huawei", "azure_packing") else []
    formats = [sample.format, sample.format, "auto"]
    format = str(rng.choice(formats if rng.random() < 0.95 else [other.format for other in SAMPLES.values()]))
    format = "auto" if format == "windows" else format

    def run(folder: Path) -> None:
        inner = folder / "trace"
        _write(inner, sample)
        path, used = _file(inner, sample, name), name
        if kind == "bytes":
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        elif kind == "gzip":
            used = f"{name}.gz"
            (inner / used).write_bytes(mutate_gzip(rng, path.read_bytes()))
            path.unlink()
        elif kind in ("cell", "json"):
            changed = (change_cell if kind == "cell" else _change_json)(rng, sample.texts[name])
            path.write_text(changed, encoding="utf-8", errors="surrogateescape")
        elif kind == "table":
            _change_table(rng, path, sample.tables[name])
        elif kind == "name":
            used = _rename(rng, inner, path.relative_to(inner).as_posix())
        else:
            {"database": _change_database, "npy": _change_npy, "kind": change_kind}[kind](rng, path)
        given = inner / used if used != name else path
        _use(given if sample.single else inner, sample, format, pairs)

    return Attempt(f"{title}, {name}: {kind}, {format} {' '.join(pairs)}", run)
