"""Which format a path is, and what is said of a path that no reader knows."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_requests, read_trace
from virtgym.envs.traces.formats.bitbrains import BITBRAINS_COLUMNS, read_bitbrains
from virtgym.envs.traces.formats.opendc import read_opendc
from virtgym.envs.traces.formats.planetlab import read_planetlab
from virtgym.envs.traces.readers import guess_format

SWF = "; a comment\n" + "".join(
    f"{n} {100 * n} 0 51 4 10.0 -1 4 100 -1 1 1 -1 1 1 -1 -1 -1\n" for n in range(1, 6)
)
PLAIN = ["1376314846", "2", "5200.0", "260.0", "5.0", "1024.0", "512.0", "1", "2", "3", "4"]


def unknown(path: Path) -> str:
    """Return what is said of a path that is no trace."""
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    text = str(caught.value)
    assert text.isprintable()
    assert "no known format fits" in text
    assert "known are planetlab (a folder of files of integers), table, bitbrains" in text
    assert "expected an integer" not in text
    with pytest.raises(TraceError, match="no known format fits"):
        read_requests(path)
    return text


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("t.swf", SWF.encode(), "the Standard Workload Format (SWF)"),
        ("t.swf.gz", gzip.compress(SWF.encode(), mtime=0), "the Standard Workload Format (SWF)"),
        ("trace.txt", SWF.encode(), "the Standard Workload Format (SWF)"),
        ("das2.gwf", b"# JobID\n" + b" ".join([b"1"] * 29) + b"\n", "the Grid Workload Format (GWF)"),
        ("t.tar", b"a\0".ljust(257, b"\0") + b"ustar\0", "a tar archive: unpack it"),
        ("t.tgz", gzip.compress(b"a\0".ljust(257, b"\0") + b"ustar\0", mtime=0), "a tar archive: unpack it"),
        ("t.bz2", b"BZh91AY&SY\x00\xff", "a bzip2 archive: unpack it"),
        ("t.7z", b"7z\xbc\xaf\x27\x1c\0\0", "a 7z archive: unpack it"),
        ("t.h5", b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        ("t.bin", bytes(range(256)), "binary data"),
        ("t.xls", b"\xd0\xcf\x11\xe0\0\0", "an old Excel workbook"),
        ("t.csv", b"<!DOCTYPE html>\n<html>404</html>", "a web page"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("t.json", b'{"workflow": 1}', "a JSON file"),
        ("t.csv", b"HashOwner,HashApp,HashFunction,1,2\n", "the Azure Functions trace"),
        ("t.csv", b"when;load\n1;2\n", "a table with the columns when, load"),
        ("batch_task.csv", b"t,1,j,1,Terminated,1,2,100,0.5\n", "batch jobs of Alibaba's trace"),
        ("empty", b"", "an empty file"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"it looks like {what}" in unknown(tmp_path / name) or what in unknown(tmp_path / name)


def test_workbooks_archives_and_parquet_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "x")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("1.csv", "x")
    assert "an Excel workbook: save it as CSV" in unknown(tmp_path / "t.xlsx")
    assert "a ZIP archive: unpack it" in unknown(tmp_path / "t.zip")
    pq.write_table(pa.table({"id": [1], "ts_submit": [0]}), tmp_path / "w.parquet")
    assert "Workflow Trace Archive" in unknown(tmp_path / "w.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert "a Parquet file with the columns a" in unknown(tmp_path / "a.parquet")


def test_binary_content_is_never_printed(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(gzip.compress(SWF.encode()))
    for read in (read_planetlab, read_bitbrains):
        with pytest.raises(TraceError) as caught:
            read(path)
        assert str(caught.value).isprintable()
        assert "\\x" not in str(caught.value)


def test_a_folder_of_traces_says_which(tmp_path: Path) -> None:
    lines = "\n".join([";".join(BITBRAINS_COLUMNS), ";".join(PLAIN)])
    for name in ("Materna-Trace-1", "Materna-Trace-2"):
        (tmp_path / "GWA" / name).mkdir(parents=True)
        (tmp_path / "GWA" / name / "01.csv").write_text(lines)
    text = "this folder holds traces, pick one of them: "
    with pytest.raises(TraceError, match=text + r"Materna-Trace-1 \(bitbrains\), Materna-Trace-2 \(bitb"):
        guess_format(tmp_path / "GWA")
    with pytest.raises(TraceError, match=text + r"GWA/Materna-Trace-1 \(bitbrains\)"):
        guess_format(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in unknown(tmp_path / "empty")


# ---------------------------------------------------------------- layouts of formats that are known


def saved(
    rows: list[list[str]], mark: str, *, quote: bool = False, index: bool = False, end: str = "\n"
) -> str:
    """A Bitbrains file as another tool writes it."""
    lines = []
    for number, cells in enumerate(rows):
        cells = [("" if number == 0 else str(number - 1)), *cells] if index else cells
        lines.append(mark.join(f'"{cell}"' if quote else cell for cell in cells))
    return end.join(lines) + end


@pytest.mark.parametrize("mark", [";", ",", "\t", ";\t"])
@pytest.mark.parametrize("quote", [False, True])
@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\r\n")])
def test_bitbrains_saved_again(
    tmp_path: Path, mark: str, quote: bool, index: bool, start: str, end: str
) -> None:
    if quote and mark == ";\t":
        pytest.skip("a quote after a tab is part of the cell")
    second = [str(int(PLAIN[0]) + 300), *PLAIN[1:3], "520.0", *PLAIN[4:]]
    rows = [list(BITBRAINS_COLUMNS), PLAIN, second]
    path = tmp_path / "1.csv"
    path.write_bytes((start + saved(rows, mark, quote=quote, index=index, end=end)).encode())
    assert guess_format(path) == guess_format(tmp_path) == "bitbrains"
    trace = read_bitbrains(path)
    assert trace.util[:, 0].tolist() == [0.05, 0.1]
    assert trace.signals["memory_active"][:, 0].tolist() == [0.5, 0.5]


def test_bitbrains_with_dates_fewer_columns_and_another_order(tmp_path: Path) -> None:
    head = (
        "CPU usage [MHZ],Timestamp,CPU capacity provisioned [MHZ],cpu cores,Memory capacity provisioned [KB]"
    )
    rows = ["260,2013-08-12 13:40:46,5200,2,1024", "520,2013-08-12 13:45:46,5200,2,1024"]
    (tmp_path / "1.csv").write_text("\n".join([head, *rows]))
    trace = read_trace(tmp_path / "1.csv")
    assert trace.util[:, 0].tolist() == [0.05, 0.1]
    assert not trace.signals
    assert trace.notes[0] == "time 0 is 2013-08-12T13:40:46Z; timestamps are dates, taken as UTC"


def test_materna(tmp_path: Path) -> None:
    head = [
        *("Timestamp", *BITBRAINS_COLUMNS[1:7], "Memory usage [%]"),
        *(*BITBRAINS_COLUMNS[7:9], "Disk size [GB]", *BITBRAINS_COLUMNS[9:]),
    ]
    rows = [
        [
            "04.11.2015 10:01:00",
            "2",
            "5200",
            "3,4",
            "0,07",
            "8388608",
            "2097152,50",
            "3,34",
            "0",
            "5,2",
            "40",
        ],
        ["04.11.2015 10:06:00", "2", "5200", "48", "0,92", "8388608", "2097152,50", "3,34", "0", "5,2", "40"],
    ]
    rows = [[*row, "1", "2"] for row in rows]
    (tmp_path / "01.csv").write_text(saved([head, *rows], ";", quote=True))
    trace = read_trace(tmp_path)
    assert trace.format == "bitbrains"
    assert trace.util[:, 0].tolist() == [3.4 / 5200, 48 / 5200]
    assert trace.signals["disk_write_mbit_s"][0, 0] == pytest.approx(5.2 * 1024 * 8 / 1e6)
    assert trace.notes[0].startswith("time 0 is 2015-11-04T10:01:00Z")


def test_opendc_2(tmp_path: Path) -> None:
    start = 1_704_067_200_000
    tasks: dict[str, Any] = {
        "id": ["1"],
        "submissionTime": [start],
        "endTime": [start + 900_000],
        "maxCores": [2],
    }
    pq.write_table(pa.table({**tasks, "requiredMemory": [181_352]}), tmp_path / "tasks.parquet")
    fragments: dict[str, Any] = {"id": ["1"] * 3, "time": [start, start + 300_000, start + 600_000]}
    fragments |= {"duration": [300_000] * 3, "cores": [2] * 3, "cpuUsage": [0.0, 11.7, 0.0], "flops": [0] * 3}
    pq.write_table(pa.table(fragments), tmp_path / "fragments.parquet")
    trace = read_trace(tmp_path)
    assert trace.util[:, 0].tolist() == [0, 1, 0]
    assert trace.memory_mib is not None
    assert trace.memory_mib.tolist() == [181_352 / 1024]
    assert trace.notes[0] == "version OpenDC 2.0; time 0 is 2024-01-01T00:00:00Z; fragments of 300 s"
    clock = read_opendc(tmp_path, core_mhz=1000.0)
    assert clock.util[:, 0].tolist() == [0, 11.7 / 2000, 0]


def test_opendc_columns_that_change_the_meaning_are_named(tmp_path: Path) -> None:
    lists = pa.list_(pa.int64())
    tasks: dict[str, Any] = {
        "id": [0, 1, 2],
        "submission_time": [0] * 3,
        "duration": [300_000] * 3,
        "cpu_count": [1] * 3,
    }
    tasks |= {"cpu_capacity": [1000.0] * 3, "mem_capacity": [1024] * 3, "gpu_count": [0, 2, None]}
    tasks |= {"deferrable": [True, True, False], "parents": pa.array([[], [0], [0, 1]], lists)}
    pq.write_table(pa.table(tasks), tmp_path / "tasks.parquet")
    fragments: dict[str, Any] = {"id": [0, 1, 2], "duration": [300_000] * 3, "cpu_usage": [500.0] * 3}
    pq.write_table(pa.table(fragments), tmp_path / "fragments.parquet")
    notes = read_trace(tmp_path).notes
    assert "parents: 2 tasks have parents in a workflow, yet start at their submission" in notes
    assert "deferrable: 2 tasks may be deferred, yet start at their submission" in notes
    assert "gpu_count: 1 tasks need GPUs, which are not modelled" in notes
