"""Failure traces, carbon series and what ``virtgym traces check`` says of all formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_trace
from virtgym.envs.traces.formats.failure_trace import read_failures
from virtgym.envs.traces.readers import guess_format
from virtgym.envs.traces.series import check_series
from virtgym.experiments.cli.traces import main


def write(path: Path, interval: list[int], duration: list[int], intensity: list[float]) -> Path:
    columns = {
        "failure_interval": pa.array(interval, pa.int64()),
        "failure_duration": pa.array(duration, pa.int64()),
        "failure_intensity": pa.array(intensity, pa.float64()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def carbon(path: Path, values: list[float]) -> Path:
    stamps = np.datetime64("2021-01-01T00", "ms") + np.arange(len(values)) * np.timedelta64(1, "h")
    pq.write_table(pa.table({"timestamp": stamps, "carbon_intensity": values}), path)
    return path


def test_failures(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", [0, 60_000, 120_000], [30_000, 600_000, 1_000], [0.5, 1.0, 0.0])
    assert guess_format(path) == "failures"
    trace = read_failures(path)
    assert trace.start_s.tolist() == [0, 90, 810]
    assert trace.end_s.tolist() == [30, 690, 811]
    assert trace.intensity.tolist() == [0.5, 1.0, 0.0]
    assert trace.span_s == 811
    assert [tuple(incident) for incident in trace.incidents] == [(0, 30, 0.5), (90, 600, 1.0), (810, 1, 0.0)]
    assert trace.notes[1:] == ("1 incidents have intensity 0: no host fails",)
    other = read_failures(path, since="start")
    assert other.start_s.tolist() == [0, 60, 180]
    assert "1 incidents begin before an earlier one ends" in other.notes


@pytest.mark.parametrize(
    ("interval", "duration", "intensity", "text"),
    [
        (
            [0, -1],
            [1, 1],
            [0.5, 0.5],
            r"f\.parquet, row 2: failure_interval: expected at least 0 ms, found -1",
        ),
        ([0, 1], [1, -1], [0.5, 0.5], r"row 2: failure_duration: expected at least 0 ms, found -1"),
        ([0, 1], [0, 0], [0.5, 0.5], "no incident lasts for any time"),
        ([0, 1], [1, 1], [1.5, 0.5], r"row 1: failure_intensity: expected a share from 0 to 1, found 1\.5"),
        ([], [], [], "has no rows"),
    ],
)
def test_bad_failures(
    tmp_path: Path, interval: list[int], duration: list[int], intensity: list[float], text: str
) -> None:
    with pytest.raises(TraceError, match=text):
        read_failures(write(tmp_path / "f.parquet", interval, duration, intensity))


def test_options_and_other_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", [0], [1], [0.5])
    with pytest.raises(TraceError, match="failures: since must be one of end, start; is 'now'"):
        read_failures(path, since="now")
    with pytest.raises(TraceError, match=r"failures: no option 'sinc' \(did you mean since\?\)"):
        check_series(path, sinc="end")
    with pytest.raises(TraceError, match=r"f\.parquet: failures is a format of series, not of utilisation"):
        read_trace(path)
    (tmp_path / "x.csv").write_text("vm,time_s,cpu\na,0,1\n")
    with pytest.raises(TraceError, match="table is a format of utilisation, not of series"):
        check_series(tmp_path / "x.csv")
    with pytest.raises(TraceError, match=r"ends in \.parquet, \.pq or \.csv"):
        read_failures(tmp_path / "f.txt")


def test_check_prints_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        carbon(tmp_path / "DE.parquet", [400.0, 300.0]),
        write(tmp_path / "f.parquet", [0], [36_000], [0.5]),
    ]
    assert guess_format(paths[0]) == "carbon"
    assert main(["check", *map(str, paths)]) == 0
    out = capsys.readouterr().out
    assert "carbon" in out
    assert "350" in out
    assert "DE: values are gCO2eq/kWh; source: DE.parquet (sha256" in out
    assert "DE: gaps: none" in out
    assert "f: durations: median 0.01 h, longest 0.01 h" in out
    assert main(["check", str(paths[1]), "--option", "since=now"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_list_shows_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("bitbrains", "opendc", "azure", "google", "alibaba", "carbon", "failures"):
        assert name in out


def test_check_tells_units_span_vms_gaps_and_repairs(
    traces_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = traces_dir / "opendc" / "bitbrains-small"
    if not folder.is_dir():
        pytest.skip("no OpenDC traces")
    assert main(["check", str(folder), "--option", "fill=zero", "--option", "over=clip"]) == 0
    out = capsys.readouterr().out
    assert "bitbrains-small: 30 days; values are a fraction of the VM's nominal CPU, shown in %" in out
    for text in ("units: MHz; mem_capacity in KB", "cut to the capacity (over=clip)", "filled (fill=zero)"):
        assert text in out
    assert "50" in out


def test_real_series(traces_dir: Path) -> None:
    paths = [*(traces_dir / "carbon").glob("*.parquet"), *(traces_dir / "failures").glob("*.parquet")]
    if not paths:
        pytest.skip("no series")
    summaries = {Path(path).name: check_series(path) for path in paths}
    for name, summary in summaries.items():
        if summary.format == "carbon":
            assert (summary.rows, summary.span_s) == (35_064, 35_064 * 3600), name
            assert 10 < summary.minimum < summary.mean < summary.maximum < 1200
        else:
            assert summary.rows in (230, 261)
            assert 0 <= summary.minimum <= summary.maximum <= 1
            assert summary.span_s > 365 * 86_400


def test_an_option_may_be_none(traces_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = traces_dir / "opendc" / "bitbrains-small"
    if not folder.is_dir():
        pytest.skip("no OpenDC traces")
    assert main(["check", str(folder), "--option", "fill=none"]) == 2
    err = capsys.readouterr().err
    assert "fragments.parquet, row " in err
    assert "say what holds meanwhile with the option fill=previous or fill=zero" in err
