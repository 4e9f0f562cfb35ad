"""The Bitbrains reader: files as published, units, gaps, provisioning, errors with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_trace
from virtgym.envs.traces.formats.bitbrains import BITBRAINS_COLUMNS, read_bitbrains
from virtgym.envs.traces.readers import guess_format

HEADER = ";\t".join(BITBRAINS_COLUMNS)
START = 1376314846


def line(time: float, usage: float, capacity: float = 5200.0, cores: int = 2, **more: float) -> str:
    """One row in the file's own way of writing it."""
    values = [time, cores, capacity, usage, 100 * usage / capacity if capacity else 0]
    values += [more.get(key, 0.0) for key in ("memory", "active", "read", "write", "rx", "tx")]
    return ";\t".join(repr(value) for value in values)


def write(path: Path, *rows: str, header: str = HEADER, end: str = "\n") -> Path:
    path.write_text("\n".join([header, *rows]) + end)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """VM 2 for three readings, VM 10 from the second one on."""
    many: dict[str, Any] = {
        "memory": 2097152.0,
        "active": 524288.0,
        "read": 1000.0,
        "write": 1.0,
        "rx": 125.0,
        "tx": 250.0,
    }
    write(tmp_path / "10.csv", *(line(START + t, 260, memory=1048576) for t in (300, 600)))
    write(tmp_path / "2.csv", *(line(START + t, 1300 * k, **many) for k, t in enumerate((0, 300, 600))))
    return tmp_path


def test_values_units_and_order(folder: Path) -> None:
    trace = read_bitbrains(folder)
    assert trace.vm_names == ("2", "10")
    assert trace.util.tolist() == [[0, 0], [0.25, 0.05], [0.5, 0.05]]
    assert trace.arrival_s.tolist() == [0, 300]
    assert (trace.vcpus is not None, trace.cpu_mhz is not None, trace.memory_mib is not None) == (True,) * 3
    assert trace.cpu_mhz is not None
    assert trace.memory_mib is not None
    assert trace.cpu_mhz.tolist() == [5200, 5200]
    assert trace.memory_mib.tolist() == [2048, 1024]
    assert trace.signals["memory_active"][:, 0].tolist() == [0.25] * 3
    assert trace.signals["disk_read_mbit_s"][0, 0] == pytest.approx(8.192)
    assert trace.signals["net_tx_mbit_s"][0, 0] == pytest.approx(2.048)
    assert trace.notes[0] == "time 0 is 2013-08-12T13:40:46Z; timestamps are seconds (the header says ms)"
    assert trace.notes[-1] == "gaps: none"


def test_guessed_cached_and_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    assert guess_format(folder) == guess_format(folder / "2.csv") == "bitbrains"
    assert read_trace(folder, max_vms=1).vm_names == ("2",)
    assert read_trace(folder / "10.csv").vm_names == ("10",)
    packed = tmp_path / "7.csv.gz"
    packed.write_bytes(gzip.compress((folder / "2.csv").read_bytes()))
    assert guess_format(packed) == "bitbrains"
    assert read_trace(packed).util[:, 0].tolist() == [0, 0.25, 0.5]


def test_jitter_is_averaged_and_ms_are_told_apart(tmp_path: Path) -> None:
    rows = [line((START + t) * 1000.0, u, memory=1024) for t, u in ((0, 520), (290, 1040), (600, 0))]
    trace = read_bitbrains(write(tmp_path / "1.csv", *rows, end=""))
    assert trace.util[:, 0] == pytest.approx([(290 * 0.1 + 10 * 0.2) / 300, 0.2, 0.0])
    assert trace.notes[0].endswith("timestamps are ms")


def test_gaps_and_over_capacity(tmp_path: Path) -> None:
    rows = [
        line(START + t, u, memory=1024) for t, u in ((0, 520), (300, 6240), (1500, 0), (1800, 0), (2100, 0))
    ]
    path = write(tmp_path / "1.csv", *rows)
    with pytest.raises(TraceError, match=r"vm '1' has no reading for time_s=600; gaps: 3 of 8 samples"):
        read_bitbrains(path)
    trace = read_bitbrains(path, fill="previous", over="clip")
    assert trace.util[:, 0].tolist() == [0.1, 1, 1, 1, 1, 0, 0, 0]
    assert any("over capacity: 1 of 5 rows (20 %), up to 1.2 times; cut" in note for note in trace.notes)


def test_what_is_provisioned_may_change(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", line(START, 520, 2600, 1, memory=1024), line(START + 300, 520, memory=2048))
    write(tmp_path / "2.csv", line(START, 0, 0, 0), line(START + 300, 0, 0, 0))
    trace = read_bitbrains(tmp_path)
    assert trace.vm_names == ("1",)
    assert trace.util[:, 0].tolist() == [0.1, 0.1]
    assert trace.memory_mib is not None
    assert trace.memory_mib.tolist() == [2.0]
    assert "1 VMs were never given CPU and memory, and are left out" in trace.notes
    assert any(note.startswith("in 1 rows a VM had less CPU") for note in trace.notes)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([line(START, 1), "1;2;3"], r"1\.csv:3: expected 11 columns, found 3"),
        (
            [line(START, 1).replace("5200.0", "x")],
            r"1\.csv:2: CPU capacity provisioned \[MHZ\]: expected a number",
        ),
        (
            [line(START, 1, memory=1), line(START + 300, -1)],
            r"1\.csv:3: vm '1' has no reading for time_s=300; .*CPU usage \[MHZ\]: 0 blank and 1 invalid",
        ),
        (
            [line(START, 1, memory=1), "", line(START + 300, 1, read=float("nan"))],
            r"1\.csv:4: vm '1' has no reading of disk_read_mbit_s for time_s=300; gaps .* fill=previous",
        ),
        ([], r"1\.csv: the file has no rows"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, rows: list[str], text: str) -> None:
    write(tmp_path / "1.csv", *rows)
    with pytest.raises(TraceError, match=text) as caught:
        read_bitbrains(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_header_folder_and_options(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", header="a;b")
    with pytest.raises(TraceError, match=r"1\.csv:1: expected the columns Timestamp \[ms\]; CPU cores"):
        read_bitbrains(tmp_path)
    (tmp_path / "rnd" / "2013-7").mkdir(parents=True)
    with pytest.raises(TraceError, match="no CSV files; it holds folders, pick one of them: 2013-7"):
        read_bitbrains(tmp_path / "rnd")
    with pytest.raises(TraceError, match="no such file"):
        read_bitbrains(tmp_path / "none")
    with pytest.raises(TraceError, match="max_vms must be at least 1, is 0"):
        read_bitbrains(tmp_path, max_vms=0)
