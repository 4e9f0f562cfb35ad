"""The OpenDC reader: five versions that say the same, units, long fragments, errors, the real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import check_trace, read_trace
from virtgym.envs.traces.formats.opendc import read_opendc
from virtgym.envs.traces.readers import guess_format

T0 = 1_704_067_200_000  # 2024-01-01
TASKS: dict[str, Any] = {
    "id": [7, 3],
    "start": [T0 + 600_000, T0],
    "cores": [2, 1],
    "mhz": [4000.0, 1000.0],
    "mem": [4096, 1024],
}
FRAGMENTS: dict[str, Any] = {
    "id": [3, 7, 3, 7, 7],
    "duration": [300_000, 300_000, 600_000, 150_000, 150_000],
    "usage": [500.0, 4000.0, 250.0, 1000.0, 3000.0],
}
EXPECTED = [[0, 0.5], [0, 0.25], [1, 0.25], [0.5, 0]]


def write(folder: Path, version: int, **changes: Any) -> Path:
    """A trace with the schema of a version; ``changes`` replace columns of tasks (``f_``: of fragments)."""
    tasks, fragments = dict(TASKS), dict(FRAGMENTS)
    tasks |= {key: value for key, value in changes.items() if not key.startswith("f_")}
    fragments |= {key[2:]: value for key, value in changes.items() if key.startswith("f_")}
    kind: Any = pa.int32() if version >= 4 else pa.string()
    ids = tasks["id"] if version >= 4 else [str(value) for value in tasks["id"]]
    f_ids = fragments["id"] if version >= 4 else [str(value) for value in fragments["id"]]
    stamp = pa.timestamp("ms", "UTC" if version == 2 else None) if version <= 2 else pa.int64()
    life = [
        sum(d for i, d in zip(fragments["id"], fragments["duration"]) if i == task) for task in tasks["id"]
    ]
    columns: dict[str, Any] = {"id": pa.array(ids, kind)}
    columns["start_time" if version == 1 else "submission_time"] = pa.array(tasks["start"], stamp)
    if version == 1:
        columns["stop_time"] = pa.array([a + b for a, b in zip(tasks["start"], life)], stamp)
    if version >= 3:
        columns["duration"] = pa.array(tasks.get("life", life), pa.int64())
    columns["cpu_count"] = pa.array(tasks["cores"], pa.int32())
    columns["cpu_capacity"] = pa.array(tasks["mhz"], pa.float64())
    columns["mem_capacity"] = pa.array(tasks["mem"], pa.int64())
    if version == 5:
        columns["deferrable"] = pa.array([True, False])
        columns["parents"] = pa.array([[], [7]], pa.list_(pa.int32()))
    rows: dict[str, Any] = {
        "id": pa.array(f_ids, kind),
        "duration": pa.array(fragments["duration"], pa.int64()),
    }
    if version == 1:
        clock, ends = dict(zip(tasks["id"], tasks["start"])), []
        for task, duration in zip(fragments["id"], fragments["duration"]):
            clock[task] += duration
            ends.append(clock[task])
        rows["timestamp"] = pa.array(fragments.get("stamps", ends), stamp)
    if version <= 3:
        rows["cpu_count"] = pa.array([1] * len(f_ids), pa.int32())
    rows["cpu_usage"] = pa.array(fragments["usage"], pa.float64())
    place = folder / "trace" if version == 1 else folder
    place.mkdir(parents=True, exist_ok=True)
    names = ("meta", "trace") if version == 1 else ("tasks", "fragments")
    for name, table in zip(names, (columns, rows)):
        pq.write_table(pa.table(table), place / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_every_version_says_the_same(tmp_path: Path, version: int) -> None:
    folder = write(tmp_path / "t", version)
    assert guess_format(folder) == "opendc"
    trace = read_opendc(folder)
    assert trace.vm_names == ("7", "3")
    np.testing.assert_allclose(trace.util, EXPECTED, rtol=1e-15)
    assert trace.arrival_s.tolist() == [600, 0]
    assert trace.departure_s.tolist() == [np.inf, 900]
    assert trace.vcpus is not None
    assert trace.cpu_mhz is not None
    assert trace.memory_mib is not None
    assert trace.vcpus.tolist() == [2, 1]
    assert trace.cpu_mhz.tolist() == [4000, 1000]
    assert trace.memory_mib.tolist() == [4096, 1024]
    assert trace.notes[0] == f"version {version}; time 0 is 2024-01-01T00:00:00Z; fragments of 150 s"
    assert trace.notes[1] == "units: MHz; mem_capacity in MB (powers of 1024), made MiB"
    assert trace.notes[-1] == "gaps: none"


def test_another_period_conserves_work(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    fine, coarse = read_opendc(folder, sample_s=50), read_opendc(folder, sample_s=600)
    assert fine.util[:, 0].sum() * 50 == pytest.approx(300 + 150 * 0.25 + 150 * 0.75)
    assert coarse.util.shape == (2, 2)
    assert coarse.util[1, 0] == pytest.approx(0.75)


def test_memory_units(tmp_path: Path) -> None:
    trace = read_opendc(write(tmp_path / "kb", 4, mem=[4096 * 1024, 103_484]))
    assert trace.memory_mib is not None
    assert trace.memory_mib.tolist() == [4096, 103_484 / 1024]
    assert "mem_capacity in KB (powers of 1024), made MiB: as the documented MB it would be" in trace.notes[
        1
    ] or ("mem_capacity in KB" in trace.notes[1] and "GiB per core (option memory_unit)" in trace.notes[1])
    forced = read_opendc(tmp_path / "kb", memory_unit="MB")
    assert forced.memory_mib is not None
    assert forced.memory_mib[0] == 4096 * 1024
    huge = read_opendc(write(tmp_path / "b", 4, mem=[2**32, 2**30]))
    assert huge.memory_mib is not None
    assert huge.memory_mib.tolist() == [4096, 1024]
    with pytest.raises(TraceError, match="memory_unit must be one of auto, B, KB, MB; is 'GB'"):
        read_opendc(tmp_path / "kb", memory_unit="GB")


def test_long_fragments_are_told_and_repaired_on_demand(tmp_path: Path) -> None:
    changes = {"f_id": [3, 7, 3, 7, 3], "f_duration": [300_000, 300_000, 6_000_000, 300_000, 300_000]}
    folder = write(tmp_path, 4, **changes)
    held = read_opendc(folder)
    assert held.util[1:21, 1].tolist() == [0.25] * 20
    assert "1 of 5 fragments last more than 10 usual ones" in held.notes[2]
    assert "held, as the format has it" in held.notes[2]
    zero = read_opendc(folder, fill="zero")
    assert zero.util[:, 1].tolist() == [0.5, 0.25, *[0.0] * 19, 3.0]
    assert any(note.startswith("gaps: 19 of") and "fill=zero" in note for note in zero.notes)
    with pytest.raises(TraceError, match=r"fragments\.parquet, row 3: 1 of 5 fragments last more"):
        read_opendc(folder, fill=None)


def test_version_1_has_gaps_and_overlaps(tmp_path: Path) -> None:
    stamps = [T0 + 300_000, T0 + 900_000, T0 + 1_500_000, T0 + 1_050_000, T0 + 1_200_000]
    folder = write(tmp_path, 1, f_stamps=stamps)
    assert read_opendc(folder).util[:, 1].tolist() == [0.5, 0.5, 0.5, 0.25, 0.25]
    with pytest.raises(TraceError, match="vm '3' has no reading for time_s=300; gaps: 2 of 7 samples"):
        read_opendc(folder, fill=None)
    stamps[2] = T0 + 600_000
    assert any("overlaps: 1 rows" in note for note in read_opendc(write(tmp_path, 1, f_stamps=stamps)).notes)


def test_over_capacity_and_another_duration(tmp_path: Path) -> None:
    folder = write(tmp_path, 4, f_usage=[500.0, 4400.0, 250.0, 1000.0, 3000.0], life=[600_000, 1])
    trace = read_opendc(folder)
    assert trace.util.max() == pytest.approx(1.1)
    assert "over capacity: 1 of 5 rows (20 %), up to 1.1 times; kept" in trace.notes
    assert "1 tasks give another duration than their fragments have in all, which counts" in trace.notes
    assert read_opendc(folder, over="clip").util.max() == 1.0
    with pytest.raises(TraceError, match=r"fragments\.parquet, row 2: vm '7' uses 1.1 times its CPU"):
        read_opendc(folder, over="error")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": [7, 7]}, r"tasks\.parquet, row 2: the id '7' has a row already"),
        ({"f_id": [9, 9, 9, 9, 9]}, r"fragments\.parquet: no fragment belongs to a task"),
        (
            {"f_duration": [1, 1, -1, 1, 1]},
            r"fragments\.parquet, row 3: duration: expected at least 0 ms, found -1",
        ),
        ({"mhz": [4000.0, 0.0]}, r"tasks\.parquet, row 2: cpu_capacity: expected a positive number of MHz"),
        ({"cores": [0, 1]}, r"tasks\.parquet, row 1: cpu_count: expected at least 1"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(TraceError, match=text) as caught:
        read_opendc(write(tmp_path, 4, **changes))
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"needs a folder with tasks\.parquet and fragments\.parquet"):
        read_opendc(tmp_path)
    folder = write(tmp_path, 4)
    table = pq.read_table(folder / "tasks.parquet").drop_columns(["submission_time"])
    pq.write_table(table, folder / "tasks.parquet")
    with pytest.raises(TraceError, match="needs a column submission_time"):
        read_opendc(folder)


def test_the_cache_sees_files_in_sub_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtgym.envs.traces import cache

    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_SETTLED_S", -1.0)
    folder = write(tmp_path / "t", 1)
    first = read_trace(folder)
    assert np.array_equal(read_trace(folder).util, first.util)
    write(folder, 1, f_usage=[0.0] * 5)
    assert read_trace(folder).util.max() == 0


def test_bitbrains_small(traces_dir: Path) -> None:
    folder = traces_dir / "opendc" / "bitbrains-small"
    if not folder.is_dir():
        pytest.skip("no OpenDC traces")
    summary = check_trace(folder)
    assert (summary.format, summary.vms, summary.samples) == ("opendc", 50, 8640)
    notes = " | ".join(summary.notes)
    assert "version 4" in notes
    assert "mem_capacity in KB" in notes
    assert "the longest 15.2 days" in notes
    assert "over capacity: 19461 of 276979 rows (7 %)" in notes
    fragments = pq.read_table(folder / "fragments.parquet").to_pydict()
    tasks = pq.read_table(folder / "tasks.parquet").to_pydict()
    capacity = dict(zip(tasks["id"], tasks["cpu_capacity"]))
    rows = zip(fragments["id"], fragments["duration"], fragments["cpu_usage"])
    work = sum(duration / 1000 * usage / capacity[task] for task, duration, usage in rows)
    trace = read_opendc(folder)
    edges = np.arange(trace.n_samples)[:, None] * 300.0
    life = np.clip(np.minimum(edges + 300, trace.departure_s) - np.maximum(edges, trace.arrival_s), 0, 300)
    assert float((life * trace.util).sum()) == pytest.approx(work, rel=1e-6)


def test_surf_week(traces_dir: Path) -> None:
    folder = traces_dir / "opendc" / "surf-week"
    if not folder.is_dir():
        pytest.skip("no OpenDC traces")
    trace = read_opendc(folder, sample_s=3600)
    assert trace.util.shape == (168, 6295)
    assert trace.memory_mib is not None
    assert set(trace.memory_mib.tolist()) == {100_000.0}
    assert trace.util.max() <= 1
    assert "fragments of 30 s" in trace.notes[0]
