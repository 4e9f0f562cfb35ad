"""`read_trace` and its cache: formats, options, invalidation, damage, no pandas."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import TRACE_FORMATS, cache, check_trace, convert_trace, read_trace
from virtgym.envs.traces import readers as readers_module
from virtgym.envs.traces.base import Trace
from virtgym.envs.traces.cache import cache_dir
from virtgym.envs.traces.formats.planetlab import read_planetlab
from virtgym.envs.traces.readers import guess_format


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache of its own, and cache files however young they are."""
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_SETTLED_S", -1.0)
    return tmp_path / "cache" / "traces"


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """A folder of three VMs."""
    folder = tmp_path / "20110303"
    folder.mkdir()
    for number in range(3):
        (folder / f"vm {number} ").write_text(f"{number}\n" * 288)
    return folder


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record every parse of a PlanetLab folder."""
    from virtgym.envs.traces.formats import planetlab

    calls: list[object] = []
    real = planetlab.read_planetlab

    def spy(path: str, *, expected: int = 288, sample_s: float = 300.0) -> Trace:
        calls.append(path)
        return real(path, expected=expected, sample_s=sample_s)

    monkeypatch.setattr(planetlab, "read_planetlab", spy)
    return calls


def assert_equal(one: Trace, two: Trace) -> None:
    """Compare all fields."""
    for key in Trace.__dataclass_fields__:
        left, right = getattr(one, key), getattr(two, key)
        if key == "signals":
            assert left.keys() == right.keys()
            assert all(np.array_equal(left[name], right[name]) for name in left)
        else:
            assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right, key


def test_second_read_comes_from_the_cache(day: Path, parses: list[object], cache_folder: Path) -> None:
    first, second = read_trace(day), read_trace(day)
    assert len(parses) == 1
    assert len(list(cache_folder.iterdir())) == 1
    assert_equal(first, second)
    assert_equal(second, read_planetlab(day))
    assert second.util.flags.c_contiguous
    check_trace(day)  # past the cache: a check must see the files
    assert len(parses) == 2


def test_every_field_survives_the_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trace = Trace(
        "x", "test", "y", 60.0, rng.random((4, 2)), ("a ", "ü\udcff"), np.zeros(2), np.array([30.0, np.inf]),
        vcpus=np.array([1, 2], dtype=np.int32), cpu_mhz=np.array([1.0, 2.0]), memory_mib=np.array([3.0, 4.0]),
        signals={"dirty": rng.random((4, 2))}, notes=("one", "two"),
    )  # fmt: skip
    path = tmp_path / "anything"
    path.write_text("")
    assert_equal(cache.read_cached(path, "test", {}, lambda: trace), trace)
    again = cache.read_cached(path, "test", {}, lambda: pytest.fail("not cached"))
    assert again.source == str(path)
    assert_equal(again, Trace(**{**trace.__dict__, "source": str(path)}))


def test_changes_invalidate(day: Path, parses: list[object], cache_folder: Path) -> None:
    read_trace(day)
    (day / "vm 1 ").write_text("9\n" * 288)  # same size
    assert read_trace(day).util[0].tolist() == [0, 0.09, 0.02]
    stamp = (day / "vm 1 ").stat().st_mtime_ns
    (day / "vm 1 ").write_text("8\n" * 288)
    os.utime(day / "vm 1 ", ns=(stamp, stamp))  # and the same modification time
    assert read_trace(day).util[0].tolist() == [0, 0.08, 0.02]
    (day / "vm 9").write_text("3\n" * 288)
    assert read_trace(day).n_vms == 4
    os.rename(day / "vm 9", day / "vm 8")
    assert read_trace(day).vm_names[-1] == "vm 8"
    assert len(parses) == 5
    assert len(list(cache_folder.iterdir())) == 1  # new content replaces old


def test_options_are_part_of_the_key(day: Path, parses: list[object]) -> None:
    assert read_trace(day, sample_s=60.0).sample_s == 60.0
    assert read_trace(day).sample_s == 300.0
    with pytest.raises(TraceError, match="of 144 lines"):
        read_trace(day, expected=144)
    assert len(parses) == 3


def test_an_invalid_trace_is_never_cached(day: Path) -> None:
    read_trace(day)
    (day / "vm 0 ").write_text("1\n")
    for _ in range(2):
        with pytest.raises(TraceError, match="truncated"):
            read_trace(day)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other", "folder"])
def test_damaged_cache_is_ignored(day: Path, parses: list[object], cache_folder: Path, damage: str) -> None:
    first = read_trace(day)
    (file,) = cache_folder.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        np.savez(file, util=np.zeros((1, 1)))
    else:
        file.unlink()
        file.mkdir()
    assert_equal(read_trace(day), first)
    assert len(parses) == 2
    if damage != "folder":
        read_trace(day)
        assert len(parses) == 2  # written anew
    assert len(list(cache_folder.iterdir())) == 1  # no scratch file stays


def test_no_cache_folder_possible(day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "file"))
    assert read_trace(day).n_vms == 3


def test_young_files_are_not_cached(day: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    monkeypatch.setattr(cache, "_SETTLED_S", 60.0)
    read_trace(day)
    assert not cache_folder.exists()


def test_concurrent_reads(day: Path, cache_folder: Path) -> None:
    results: list[Trace] = []
    threads = [threading.Thread(target=lambda: results.append(read_trace(day))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for trace in results:
        assert_equal(trace, results[0])
    assert len(list(cache_folder.iterdir())) == 1


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("VIRTGYM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        assert cache_dir() == tmp_path / "xdg" / "virtgym"


def test_guessing(day: Path, tmp_path: Path) -> None:
    assert guess_format(None) == "synthetic"
    assert guess_format(day) == guess_format(day / "vm 0 ") == "planetlab"
    with pytest.raises(TraceError, match="missing: no such file or folder"):
        guess_format(tmp_path / "missing")
    (tmp_path / "usage.csv").write_text("vm,time_s,cpu\na,0,1\na,60,1\n")
    assert guess_format(tmp_path) == "table"
    assert read_trace(tmp_path).n_samples == 2
    (tmp_path / "requests.csv").write_text("vmid,cpu,mem,at,lt\n0,1,1,0,1\n")
    assert guess_format(tmp_path / "requests.csv") == "huawei"


def test_errors_of_read_trace(day: Path, tmp_path: Path) -> None:
    listed = ", ".join(TRACE_FORMATS)
    with pytest.raises(TraceError, match=f"trace format=gwa: allowed: {listed}"):
        read_trace(day, "gwa")
    with pytest.raises(TraceError, match=r"did you mean planetlab\?"):
        read_trace(day, "planetlabs")
    with pytest.raises(TraceError, match=r"planetlab: no option 'expect' \(did you mean expected\?\)"):
        read_trace(day, expect=3)
    with pytest.raises(TraceError, match="needs a path"):
        read_trace(None, "planetlab")
    with pytest.raises(TraceError, match="to download it: virtgym traces fetch planetlab/20110303"):
        read_trace("planetlab/20110303")
    with pytest.raises(TraceError, match="no such file or folder"):
        read_trace(tmp_path / "none")


def test_every_format_has_a_reader() -> None:
    for formats, *_ in readers_module.HOLDS.values():
        assert all(callable(formats.find(name).factory) for name in formats)


def test_check_trace(day: Path, tmp_path: Path) -> None:
    summary = check_trace(day)
    assert (summary.vms, summary.samples, summary.span_s) == (3, 288, 86400.0)
    assert summary.mean == pytest.approx(0.01)
    assert summary.zeros == pytest.approx(1 / 3)
    assert (summary.arrivals, summary.departures, summary.columns) == (0, 0, ())
    again = check_trace(convert_trace(read_trace(day), tmp_path / "t.parquet"))
    assert (again.format, again.mean, again.sd) == ("table", summary.mean, summary.sd)
    assert check_trace(churn=0.5, n_vms=10).departures > 0


def test_reading_planetlab_imports_nothing_heavy(day: Path) -> None:
    code = (
        "import sys; from virtgym.envs.traces import read_trace\n"
        f"assert read_trace({str(day)!r}).n_vms == 3\n"
        "heavy = {'pandas', 'pyarrow', 'torch', 'matplotlib', 'plotly', 'hydra', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
