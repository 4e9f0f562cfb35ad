"""Mutated traces of every format: a trace or one clear line that names the file, never another exception."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from oracles.fuzz.runner import KINDS, answer_of, draw_attempts, main
from oracles.fuzz.traces import SAMPLES, _file, _use, _write
from virtgym.envs.errors import TraceError
from virtgym.envs.traces import check_trace, read_requests, read_trace
from virtgym.envs.traces.formats.google import read_google
from virtgym.experiments.cli.traces import main as traces_command

BLOCK = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("title", SAMPLES)
def test_samples_are_valid(tmp_path: Path, title: str) -> None:
    sample = SAMPLES[title]
    _write(tmp_path, sample)
    path = _file(tmp_path, sample, sample.names[0]) if sample.single else tmp_path
    _use(path, sample, "auto", [])


@pytest.mark.parametrize("first", range(0, 320, BLOCK))
def test_mutations(tmp_path: Path, first: int) -> None:
    for number, attempt in draw_attempts("traces", 7, range(first, first + BLOCK)):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer_of(attempt, folder, number)


def test_every_damage_of_a_packed_file(tmp_path: Path) -> None:
    """One bit of each byte flipped, and every truncation."""
    ((name, text),) = SAMPLES["google 2019"].texts.items()
    packed = gzip.compress(text.encode(), mtime=0)
    path = tmp_path / f"{name}.gz"
    refused = 0
    for place in range(len(packed)):
        flipped = bytearray(packed)
        flipped[place] ^= 1 << place % 8
        for damaged in (bytes(flipped), packed[:place]):
            path.write_bytes(damaged)
            text = ""
            try:
                assert read_google(tmp_path).n_vms == 1
            except TraceError as error:
                text = str(error)
                refused += 1
            assert text.startswith(str(tmp_path) if text else ""), text
    assert refused > len(packed)


@pytest.mark.parametrize("title", [title for title in SAMPLES if title != "windows in npy"])
def test_what_is_no_regular_file(tmp_path: Path, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SAMPLES[title]
    for name in sample.names:
        _write(tmp_path, sample)
        path = tmp_path / name
        path.unlink()
        path.symlink_to("/dev/zero")
        format = "auto" if sample.format == "windows" else sample.format
        assert traces_command(["check", str(path if sample.single else tmp_path), "--format", format]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        path.unlink()


@pytest.mark.parametrize(
    "title", ["planetlab", "table", "bitbrains", "opendc", "azure", "google 2011", "alibaba"]
)
@pytest.mark.parametrize("sample_s", [1e300, 1e-300, float("inf"), float("nan"), 0.0, 1e-6])
def test_periods_are_checked_before_memory_is_taken(tmp_path: Path, title: str, sample_s: float) -> None:
    sample = SAMPLES[title]
    _write(tmp_path, sample)
    path = tmp_path / sample.names[0] if sample.single else tmp_path
    if title == "planetlab" and sample_s == 1e-6:
        return  # it has a sample per line, whatever the period is
    with pytest.raises(TraceError, match=r"sample_s|too many|off the grid"):
        read_trace(path, sample.format, sample_s=sample_s)


@pytest.mark.parametrize("digit", ["²", "٣", "x\udcff", "1²"])
def test_digits_that_are_no_numbers(tmp_path: Path, digit: str) -> None:
    for title in ("bitbrains", "google 2011", "azure"):
        sample = SAMPLES[title]
        _write(tmp_path / title, sample)
        name = sample.names[-1]
        path = tmp_path / title / name
        path.rename(path.with_name(path.name.replace("1", digit).replace("part", f"part{digit}")))
        assert check_trace(tmp_path / title, sample.format, fill="zero").vms >= 1


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW vm AS WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) "
        "SELECT i AS vmId, 10 AS vmTypeId, 0 AS starttime, 1 AS endtime FROM t",
        "CREATE TABLE vm (vmId, vmTypeId, starttime, endtime AS (hex(zeroblob(50000000))))",
    ],
)
def test_what_a_database_computes(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "x.sqlite"
    writer = SAMPLES["azure_packing"].more
    assert writer is not None
    writer(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE vm")
        database.execute(statement)
        if "TABLE" in statement:
            database.execute("INSERT INTO vm VALUES (1, 10, 0)")
        database.commit()
    with pytest.raises(
        TraceError, match=f"{path}: (vm is a view that is computed|the table vm has no column endtime)"
    ):
        read_requests(path)


def test_convert_writes_below_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever name a file's metadata gives it."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"vm": ["a", "a"], "time_s": [0.0, 60.0], "cpu": [0.5, 0.5]})
    for number, name in enumerate(["../x", str(tmp_path / "x"), "..", ".x", "a\x00b", "[/]"]):
        note = json.dumps({"name": name})
        path = tmp_path / f"in{number}.parquet"
        pq.write_table(table.replace_schema_metadata({"virtgym": note}), path)
        out = tmp_path / "a" / "b" / str(number)
        assert traces_command(["convert", str(path), "--out", str(out)]) == 0
        assert [item.suffix for item in out.iterdir()] == [".parquet"]
        assert not next(out.iterdir()).name.startswith(".")
    capsys.readouterr()
    assert not list(tmp_path.glob("x*"))
    assert {item.name for item in (tmp_path / "a").iterdir()} == {"b"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "inputs"])  # which have to be made first
def test_command_counts_outcomes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind, "--count", "4", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert f"{kind}: 4 attempts of seed 3" in out
    assert sum(int(line.split()[1]) for line in out.splitlines()[-7:]) == 4


def test_attempts_follow_from_seed_and_number() -> None:
    every = [attempt.label for _, attempt in draw_attempts("traces", 1, range(40))]
    assert [attempt.label for _, attempt in draw_attempts("traces", 1, range(20, 40))] == every[20:]
    assert len(set(every)) > 20
    assert np.all([label.split(",")[0] in SAMPLES for label in every])
