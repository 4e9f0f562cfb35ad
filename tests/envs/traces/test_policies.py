"""One policy for defects of data in all readers: missing cells, gaps, repeats, nobodys, idle VMs, times."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import Trace, read_requests, read_trace
from virtgym.envs.traces.formats.bitbrains import BITBRAINS_COLUMNS
from virtgym.envs.traces.formats.carbon import load_carbon, read_carbon
from virtgym.envs.traces.formats.failure_trace import read_failures

EPOCH = 1376314846  # 2013-08-12 13:40:46
Row = tuple[str | None, float | None, float | None]
"""VM, time in s, CPU as a fraction; None = blank."""


def text(value: float | str | None, blank: str, form: str = "{}") -> str:
    """A cell of a CSV file."""
    return blank if value is None else form.format(value)


def table(folder: Path, rows: list[Row], blank: str) -> Path:
    lines = [f"{text(vm, blank)},{text(at, blank)},{text(cpu, blank)}" for vm, at, cpu in rows]
    return put(folder / "t.csv", "\n".join(["vm,time_s,cpu", *lines]))


def bitbrains(folder: Path, rows: list[Row], blank: str) -> Path:
    """One file a VM; a row without a VM cannot be written."""
    for vm in {row[0] for row in rows}:
        lines = [";\t".join(BITBRAINS_COLUMNS)]
        for name, at, cpu in rows:
            if name == vm:
                stamp = text(at if at is None else int(EPOCH + at), blank)
                usage = text(cpu if cpu is None else 1000 * cpu, blank)
                lines.append(
                    ";\t".join([stamp, "1", "1000.0", usage, "", "1024.0", "512.0", "0", "0", "0", "0"])
                )
        put(folder / f"{vm}.csv", "\n".join(lines))
    return folder


def azure(folder: Path, rows: list[Row], blank: str) -> Path:
    names = sorted({vm for vm, *_ in rows if vm})
    put(folder / "vmtable.csv", "\n".join(f"{name},s,d,0,0,9,9,9,X,1,1" for name in names))
    lines = []
    for vm, at, cpu in rows:
        percent = text(cpu if cpu is None else 100 * cpu, blank)
        lines.append(f"{text(at, blank)},{text(vm, '')},1,2,{percent}")
    put(folder / "vm_cpu_readings-file-1-of-125.csv", "\n".join(lines))
    return folder


def google_2011(folder: Path, rows: list[Row], blank: str) -> Path:
    lines = []
    for vm, at, cpu in rows:
        start, end = ("", "") if at is None else (int(1e6 * (600 + at)), int(1e6 * (900 + at)))
        lines.append(f"{start},{end},{text(vm, '')},0,5,{text(cpu, blank)},0.5,,,,,0.1,,,,,,1,0,0.1")
    put(folder / "task_usage" / "part-00000-of-00500.csv", "\n".join(lines))
    events = "\n".join(f"0,,{vm},0,5,0,u,0,0,1,1,0,0" for vm in sorted({vm for vm, *_ in rows if vm}))
    put(folder / "task_events" / "part-00000-of-00500.csv", events)
    return folder


def google_2019(folder: Path, rows: list[Row], blank: str) -> Path:
    lines = []
    for vm, at, cpu in rows:
        row: dict[str, Any] = {"collection_type": "0", "instance_index": "0"}
        if vm is not None:
            row["collection_id"] = vm
        if at is not None:
            row |= {"start_time": str(int(1e6 * (600 + at))), "end_time": str(int(1e6 * (900 + at)))}
        row["average_usage"] = {"memory": 0.5, "cpus": blank if cpu is None else str(cpu)}
        lines.append(json.dumps(row))
    put(folder / "instance_usage-0.json", "\n".join(lines))
    events = [
        {"collection_id": vm, "instance_index": "0", "resource_request": {"cpus": 1, "memory": 1}}
        for vm in sorted({vm for vm, *_ in rows if vm})
    ]
    put(folder / "instance_events-0.json", "\n".join(map(json.dumps, events)))
    return folder


def alibaba(folder: Path, rows: list[Row], blank: str) -> Path:
    names = sorted({vm for vm, *_ in rows if vm})
    put(folder / "container_meta.csv", "\n".join(f"{name},m,0,a,started,100,100,1.5" for name in names))
    lines = []
    for vm, at, cpu in rows:
        percent = text(cpu if cpu is None else 100 * cpu, blank)
        lines.append(f"{text(vm, '')},m,{text(at, blank)},{percent},40,1,0.5,0.3,0.1,0.2,3")
    put(folder / "container_usage.csv", "\n".join(lines))
    return folder


def opendc(folder: Path, rows: list[Row], blank: str) -> Path:
    """Version 1, whose fragments have times of their own."""
    names = sorted({vm for vm, *_ in rows if vm})
    tasks: dict[str, Any] = {"id": names, "start_time": [EPOCH * 1000] * len(names)}
    tasks |= {"cpu_count": [1] * len(names), "cpu_capacity": [1000.0] * len(names)}
    pq.write_table(pa.table({**tasks, "mem_capacity": [1024] * len(names)}), folder / "meta.parquet")
    rows = [row for row in rows if row[1] is not None]
    fragments: dict[str, Any] = {
        "id": pa.array([vm for vm, *_ in rows], pa.string()),
        "timestamp": [int(1000 * (EPOCH + (at or 0) + 300)) for _, at, _ in rows],
        "duration": [300_000] * len(rows),
        "cpu_usage": pa.array([None if cpu is None else 1000 * cpu for *_, cpu in rows], pa.float64()),
    }
    pq.write_table(pa.table(fragments), folder / "trace.parquet")
    return folder


WRITERS: dict[str, Callable[[Path, list[Row], str], Path]] = {
    "table": table,
    "bitbrains": bitbrains,
    "azure": azure,
    "google 2011": google_2011,
    "google 2019": google_2019,
    "alibaba": alibaba,
    "opendc": opendc,
}


def put(path: Path, content: str) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n", encoding="utf-8")
    return path


def read(path: Path, fill: str | None = None, **options: Any) -> Trace:
    """Read a trace of a guessed format, past the cache's settling time."""
    return read_trace(path, fill=fill, **options)


def refuse(path: Path, **options: Any) -> str:
    """Return the error of reading, which must be one line."""
    with pytest.raises(TraceError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE: list[Row] = [("a", 0, 0.25), ("a", 300, 0.5), ("a", 600, 0.75), ("b", 0, 0.5), ("b", 600, 0.5)]
WHOLE.insert(4, ("b", 300, 0.5))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the trace."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("blank", ["", "NaN", "null"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_cell_is_a_gap(folder: Path, name: str, blank: str) -> None:
    rows = [*WHOLE]
    rows[1] = ("a", 300, None)
    path = WRITERS[name](folder, rows, blank)
    assert "fill=previous or fill=zero" in refuse(path)
    held = read(path, "previous")
    assert held.util[:, 0].tolist() == pytest.approx([0.25, 0.25, 0.75])
    assert any("1 blank and 0 invalid values count as missing" in note for note in held.notes)
    assert read(path, "zero").util[:, 0].tolist() == pytest.approx([0.25, 0, 0.75])


@pytest.mark.parametrize("bad", [-0.5, float("inf")])
@pytest.mark.parametrize("name", WRITERS)
def test_an_impossible_reading_is_missing(folder: Path, name: str, bad: float) -> None:
    rows = [*WHOLE]
    rows[1] = ("a", 300, bad)
    path = WRITERS[name](folder, rows, "")
    assert "fill=previous or fill=zero" in refuse(path)
    held = read(path, "previous")
    assert held.util[:, 0].tolist() == pytest.approx([0.25, 0.25, 0.75])
    assert any("0 blank and 1 invalid values count as missing" in note for note in held.notes)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_cell_at_an_end_does_not_shorten_a_life(folder: Path, name: str, place: int) -> None:
    rows = [*WHOLE]
    rows[place] = ("a", 300.0 * place, None)
    trace = read(WRITERS[name](folder, rows, ""), "previous")
    assert trace.util[:, 0].tolist() == pytest.approx([[0, 0.5, 0.75], [], [0.25, 0.5, 0.5]][place])
    assert trace.arrival_s.tolist() == [0, 0]
    assert np.isinf(trace.departure_s).all()


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_row_is_a_gap(folder: Path, name: str) -> None:
    rows = [row for row in WHOLE if row[:2] != ("a", 300)]
    path = WRITERS[name](folder, rows, "")
    assert "fill=previous or fill=zero" in refuse(path)
    assert read(path, "previous").util[:, 0].tolist() == pytest.approx([0.25, 0.25, 0.75])


@pytest.mark.parametrize("nobody", [(None, 300, 0.9), ("a", None, 0.9)])
@pytest.mark.parametrize("name", WRITERS)
def test_a_row_of_nobody_is_left_out(folder: Path, name: str, nobody: Row) -> None:
    if (name, nobody[0]) in (("bitbrains", None), ("opendc", "a")):
        pytest.skip("the format has no place for such a row")
    trace = read(WRITERS[name](folder, [*WHOLE[:2], nobody, *WHOLE[2:]], ""))
    assert trace.vm_names[0].startswith("a")
    assert trace.util.T.tolist() == [pytest.approx([0.25, 0.5, 0.75]), pytest.approx([0.5] * 3)]
    assert any(note.startswith(("1 rows name no VM", "1 fragments name no task")) for note in trace.notes)


@pytest.mark.parametrize("name", WRITERS)
def test_a_repeated_row_counts_once(folder: Path, name: str) -> None:
    trace = read(WRITERS[name](folder, [*WHOLE[:2], *WHOLE[1:]], ""))
    assert trace.util[:, 0].tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert "1 rows repeat another row, and count once" in trace.notes


@pytest.mark.parametrize("name", ["bitbrains", "azure", "alibaba"])
def test_the_last_of_two_readings_counts(folder: Path, name: str) -> None:
    trace = read(WRITERS[name](folder, [*WHOLE[:2], ("a", 300, 0.9), *WHOLE[2:]], ""))
    assert trace.util[:, 0].tolist() == pytest.approx([0.25, 0.9, 0.75])
    assert "1 rows are followed by another for the same time, which counts" in trace.notes


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "table"])
def test_a_vm_without_any_reading_is_left_out(folder: Path, name: str) -> None:
    rows = [*WHOLE, ("c", 0, None), ("c", 300, None)]
    trace = read(WRITERS[name](folder, rows, ""))
    assert trace.n_vms == 2
    assert "1 VMs have no CPU reading at all, and are left out" in trace.notes
    (folder / "silent").mkdir()
    silent = WRITERS[name](folder / "silent", [("c", 0, None)], "")
    assert "no VM is left" in refuse(silent, fill="zero")


@pytest.mark.parametrize("name", WRITERS)
def test_over_capacity_is_one_option(folder: Path, name: str) -> None:
    rows = [*WHOLE]
    rows[1] = ("a", 300, 1.01 if name == "alibaba" else 1.2)
    path = WRITERS[name](folder, rows, "")
    if name != "alibaba":  # where 101 % stands for no value
        assert read(path, over="keep").util[1, 0] == pytest.approx(1.2)
        assert read(path, over="clip").util[1, 0] == 1.0
        refuse(path, over="error")


# ---------------------------------------------------------------- times that cannot be meant


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "bitbrains"])
def test_two_units_of_time_in_one_trace_are_refused(folder: Path, name: str) -> None:
    rows: list[Row] = [("a", 0, 0.25), ("a", 300, 0.5), ("b", 9.9e8, 0.5), ("b", 9.9e8 + 300, 0.5)]
    found = refuse(WRITERS[name](folder, rows, ""), fill="zero")
    assert "the trace would span 31 years" in found
    assert "is the unit of time right" in found


@pytest.mark.parametrize("factor", [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize("epoch", [EPOCH, 0])
def test_bitbrains_tells_the_unit_of_each_file(folder: Path, epoch: int, factor: int) -> None:
    for name, unit in (("1", factor), ("2", 1)):
        rows = [f"{(epoch + t) * unit};1;1000;{t};0;1024;0;0;0;0;0" for t in range(0, 1800, 300)]
        put(folder / f"{name}.csv", "\n".join([";".join(BITBRAINS_COLUMNS), *rows]))
    trace = read(folder)
    assert trace.util.shape == (6, 2)
    assert (trace.util[:, 0] == trace.util[:, 1]).all()
    assert not trace.arrival_s.any()


def test_bitbrains_of_two_years_far_apart_is_refused(folder: Path) -> None:
    for name, start in (("1", EPOCH), ("2", EPOCH * 2)):
        rows = [f"{start + t};1;1000;{t};0;1024;0;0;0;0;0" for t in range(0, 1800, 300)]
        put(folder / f"{name}.csv", "\n".join([";".join(BITBRAINS_COLUMNS), *rows]))
    found = refuse(folder)
    assert "1.csv:2: " in found
    assert "2.csv:7" in found


def test_google_in_seconds_is_refused(folder: Path) -> None:
    put(folder / "task_usage" / "part-0.csv", "600,900,1,0,5,0.1,0.2,,,,,0.1,,,,,,1,0,0.1")
    assert "a reading would last 0.0003 s in the median" in refuse(folder)


@pytest.mark.parametrize(("factor", "unit"), [(1, "seconds"), (10**6, "µs")])
def test_opendc_in_another_unit(folder: Path, factor: int, unit: str) -> None:
    tasks: dict[str, Any] = {
        "id": [1],
        "submission_time": [1_704_067_200 * factor],
        "duration": [600 * factor],
    }
    sizes: dict[str, Any] = {"cpu_count": [1], "cpu_capacity": [1000.0], "mem_capacity": [1024]}
    pq.write_table(pa.table({**tasks, **sizes}), folder / "tasks.parquet")
    fragments: dict[str, Any] = {"id": [1, 1], "duration": [300 * factor] * 2, "cpu_usage": [100.0, 200.0]}
    pq.write_table(pa.table(fragments), folder / "fragments.parquet")
    trace = read(folder)
    assert trace.util[:, 0].tolist() == [0.1, 0.2]
    assert "time 0 is 2024-01-01T00:00:00Z; fragments of 300 s" in trace.notes[0]
    assert f"timestamps are in {unit} (documented: ms)" in trace.notes


# ---------------------------------------------------------------- VMs that do nothing


def test_a_vm_that_leaves_when_it_arrives_is_left_out_of_a_table(folder: Path) -> None:
    rows = ["web,0,0.25,0,", "web,300,0.5,0,", "z,0,0.1,100,100", "y,100,0.1,100,100"]
    trace = read(put(folder / "z.csv", "\n".join(["vm,time_s,cpu,arrival_s,departure_s", *rows])))
    assert trace.vm_names == ("web",)
    assert (trace.sample_s, trace.util[:, 0].tolist()) == (300, [0.25, 0.5])
    assert trace.notes == ("2 VMs end when they begin, and are left out",)


def test_an_opendc_task_without_a_lasting_fragment_is_left_out(folder: Path) -> None:
    columns: dict[str, Any] = {"id": [1, 2, 3, 1], "submission_time": [0] * 4, "cpu_count": [1] * 4}
    columns |= {"mem_capacity": [1024] * 4}
    tasks = pa.table({**columns, "cpu_capacity": [1000.0] * 4})
    pq.write_table(tasks, folder / "tasks.parquet")
    fragments: dict[str, Any] = {
        "id": [1, 2, 9],
        "duration": [300_000, 0, 300_000],
        "cpu_usage": [100.0, 1.0, 1.0],
    }
    pq.write_table(pa.table(fragments), folder / "fragments.parquet")
    trace = read(folder)
    assert trace.vm_names == ("1",)
    assert trace.util[:, 0].tolist() == [0.1]
    for note in (
        "1 fragments are of tasks that the tasks file does not have, and are left out",
        "1 fragments end when they start, and are left out",
        "2 tasks have no fragment that lasts, and are left out",
    ):
        assert note in trace.notes


def test_a_google_window_without_length_is_left_out(folder: Path) -> None:
    google_2011(folder, WHOLE, "")
    part = folder / "task_usage" / "part-00000-of-00500.csv"
    part.write_text(part.read_text() + "600000000,600000000,7,0,5,0.1,0.2,,,,,0.1,,,,,,1,0,0.1\n")
    trace = read(folder)
    assert trace.n_vms == 2
    assert "1 windows end when they start, and are left out" in trace.notes


def test_an_azure_vm_without_a_size_or_created_when_deleted(folder: Path) -> None:
    azure(folder, [*WHOLE, ("c", 0, 0.5)], "")
    vms = (
        (folder / "vmtable.csv")
        .read_text()
        .replace("c,s,d,0,0,9,9,9,X,1,1", "c,s,d,0,0,9,9,9,X,,NaN\n,,,,,,,,,,")
    )
    put(folder / "vmtable.csv", vms.replace("b,s,d,0,0", "b,s,d,,"))
    trace = read(folder)
    assert trace.vm_names == ("a", "b")
    assert "1 VMs have no size, and are left out" in trace.notes


def test_an_incident_of_no_length_fails_no_host(folder: Path) -> None:
    columns: dict[str, Any] = {"failure_interval": [1000, 2000, 3000], "failure_duration": [1000, 0, 1000]}
    pq.write_table(pa.table({**columns, "failure_intensity": [0.5] * 3}), folder / "f.parquet")
    trace = read_failures(folder / "f.parquet")
    assert trace.start_s.tolist() == [1, 7]
    assert "1 incidents end when they begin, and are left out" in trace.notes


@pytest.mark.parametrize(
    ("line", "note"),
    [
        (",1,1,4,4", "1 rows name no VM, and are left out"),
        ("0,1,1,4,4", "1 rows repeat another row, and count once"),
    ],
)
def test_requests_of_huawei(folder: Path, line: str, note: str) -> None:
    path = put(folder / "r.csv", f"vmid,cpu,mem,at,lt\n0,1,1,4,4\n{line}\n2,1,1,6,0")
    trace = read_requests(path)
    assert trace.vm_ids.tolist() == [0, 2]
    assert trace.lifetime_s.tolist() == [4, 0]
    assert trace.notes == (note,)
    with pytest.raises(TraceError, match=r"r\.csv:4: vmid 0 stands in line 2 already"):
        read_requests(put(folder / "r.csv", "vmid,cpu,mem,at,lt\n0,1,1,4,4\n,1,1,4,4\n0,1,1,6,4"))


def test_requests_of_azure_packing(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "a.sqlite")) as database:
        database.execute("CREATE TABLE vmType (vmTypeId, machineId, core, memory)")
        database.execute("CREATE TABLE vm (vmId, vmTypeId, starttime, endtime)")
        database.execute("INSERT INTO vmType VALUES (10, 0, 0.5, 0.25)")
        rows = [
            (1, 10, 0.0, 1.0),
            (None, 10, 0.0, 1.0),
            (3, 99, 0.0, 1.0),
            (4, 10, None, 1.0),
            (5, 10, 1.0, 1.0),
        ]
        database.executemany("INSERT INTO vm VALUES (?, ?, ?, ?)", rows)
        database.commit()
    trace = read_requests(folder / "a.sqlite")
    assert trace.vm_ids.tolist() == [1, 5]
    assert trace.lifetime_s.tolist() == [86_400, 0]
    assert "VMs left out, without a number or a start: 2" in trace.notes
    assert "VMs left out, of no type in the table vmType: 1" in trace.notes


# ---------------------------------------------------------------- carbon


@dataclass(frozen=True)
class _Carbon:
    """How a series of carbon intensity is written."""

    suffix: str
    value: str = "carbon_intensity"

    def write(self, folder: Path, hours: list[int], values: list[float | None]) -> Path:
        stamps = np.datetime64("2022-04-16T00", "ms") + np.array(hours) * np.timedelta64(1, "h")
        path = folder / f"FR{self.suffix}"
        if self.suffix == ".parquet":
            pq.write_table(pa.table({"timestamp": stamps, self.value: pa.array(values, pa.float64())}), path)
            return path
        name = "timestamp" if self.value == "carbon_intensity" else "Datetime (UTC)"
        lines = [f"{str(at)[:19].replace('T', ' ')},{text(value, '')}" for at, value in zip(stamps, values)]
        return put(path, "\n".join([f"{name},{self.value}", *lines]))


CARBON = [
    _Carbon(".parquet"),
    _Carbon(".csv"),
    _Carbon(".csv", "Carbon Intensity gCO₂eq/kWh (LCA)"),
    _Carbon(".csv", "Carbon intensity gCO₂eq/kWh (Life cycle)"),
    _Carbon(".csv", "Carbon intensity gCO₂eq/kWh (direct)"),
]


@pytest.mark.parametrize("form", CARBON)
@pytest.mark.parametrize(
    ("hours", "values"),
    [
        ([0, 1, 3], [10.0, 20.0, 40.0]),
        ([0, 1, 2, 3], [10.0, 20.0, None, 40.0]),
        ([0, 1, 2, 3], [10.0, 20.0, -1.0, 40.0]),
        ([0, 3, 1, 1], [10.0, 40.0, 20.0, 20.0]),
    ],
)
def test_carbon_gaps(folder: Path, form: _Carbon, hours: list[int], values: list[float | None]) -> None:
    path = form.write(folder, hours, values)
    with pytest.raises(TraceError, match=r"1 of 4 values are missing; .*fill=previous or fill=zero"):
        read_carbon(path)
    series, notes = load_carbon(path, fill="previous")
    assert series.g_per_kwh.tolist() == [10, 20, 20, 40]
    assert series.step_s == 3600
    assert "1 of 4 values are missing, filled (fill=previous)" in notes
    assert "filled (fill=previous)" in series.source
    assert read_carbon(path, fill="zero").g_per_kwh.tolist() == [10, 20, 0, 40]


def test_the_last_of_two_carbon_values_counts(folder: Path) -> None:
    series, notes = load_carbon(_Carbon(".csv").write(folder, [0, 1, 1, 2], [1.0, 2.0, 5.0, 3.0]))
    assert series.g_per_kwh.tolist() == [1, 5, 3]
    assert "1 rows are followed by another for the same time, which counts" in notes


def test_electricity_maps_has_two_series(folder: Path) -> None:
    head = (
        "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
        "Carbon intensity gCO₂eq/kWh (Life cycle),Data estimated"
    )
    rows = [
        f"2024-01-01 0{hour}:00:00,France,France,FR,{20 + hour},{30 + hour},{hour == 2}" for hour in range(3)
    ]
    path = put(folder / "FR.csv", "\n".join([head, *rows]))
    series, notes = load_carbon(path)
    assert series.g_per_kwh.tolist() == [30, 31, 32]
    assert "Electricity Maps, series lifecycle, zone FR" in series.source
    assert "1 of 3 values are estimates" in notes
    direct = read_carbon(path, series="direct")
    assert direct.g_per_kwh.tolist() == [20, 21, 22]
    assert "series direct" in direct.source
    with pytest.raises(TraceError, match="series must be one of direct, lifecycle; is 'both'"):
        read_carbon(path, series="both")
    with pytest.raises(TraceError, match="holds the zones FR, DE; one is allowed"):
        read_carbon(put(folder / "2.csv", "\n".join([head, *rows, rows[0].replace(",FR,", ",DE,")])))
