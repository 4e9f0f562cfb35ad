"""The PlanetLab reader: exact values, a clear error for every malformed folder, the real days."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.formats.planetlab import _parse_fast, _parse_slow, read_planetlab

DAYS = {
    "20110303": 1052,
    "20110306": 898,
    "20110309": 1061,
    "20110322": 1516,
    "20110325": 1078,
    "20110403": 1463,
}


def write_day(folder: Path, rows: dict[str, list[object]]) -> Path:
    """Write one file per VM, one line per value."""
    folder.mkdir(exist_ok=True)
    for name, values in rows.items():
        (folder / name).write_text("".join(f"{value}\n" for value in values))
    return folder


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Three VMs with names as awkward as the real ones."""
    rng = np.random.default_rng(1)
    names = ["b host.name ", "a", "Z.example_net "]
    return write_day(tmp_path / "20110303", {name: list(rng.integers(0, 101, 288)) for name in names})


def message(path: Path, **options: int) -> str:
    """Return the error of reading ``path``, which must be one line."""
    with pytest.raises(TraceError) as caught:
        read_planetlab(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_values_names_and_order(day: Path) -> None:
    trace = read_planetlab(day)
    assert trace.vm_names == ("Z.example_net ", "a", "b host.name ")  # code points: capitals first
    assert (trace.name, trace.format, trace.sample_s) == ("20110303", "planetlab", 300.0)
    assert trace.util.shape == (288, 3)
    assert trace.util.flags.c_contiguous
    for column, name in enumerate(trace.vm_names):
        expected = [int(line) / 100.0 for line in (day / name).read_text().split()]
        assert trace.util[:, column].tolist() == expected
    assert not trace.arrival_s.any()
    assert np.isinf(trace.departure_s).all()
    assert [note.split(":")[0] for note in trace.notes] == ["units", "gaps"]


def test_single_file(day: Path) -> None:
    trace = read_planetlab(day / "a")
    assert trace.vm_names == ("a",)
    assert np.array_equal(trace.util[:, 0], read_planetlab(day).util[:, 1])


def test_hidden_files_and_folders_are_skipped(day: Path) -> None:
    (day / ".DS_Store").write_bytes(b"\0\1")
    (day / "sub").mkdir()
    trace = read_planetlab(day)
    assert trace.n_vms == 3
    assert trace.notes[-1] == "skipped the sub-folder sub"


def test_tolerates_crlf_blanks_and_end(day: Path) -> None:
    clean = read_planetlab(day)
    text = (day / "a").read_bytes()
    for changed in (
        text.replace(b"\n", b"\r\n"),
        text.rstrip(),
        text + b"\n \n",
        text.replace(b"\n", b" \n"),
    ):
        (day / "a").write_bytes(changed)
        assert np.array_equal(read_planetlab(day).util, clean.util)


@pytest.mark.parametrize("bad", ["-1", "101", "abc", "nan", "", "1.5", "1 2", "0x1", "1000", "+5", "٣", "²"])
@pytest.mark.parametrize("line", [1, 17, 287])
def test_bad_value_names_file_and_line(day: Path, bad: str, line: int) -> None:
    lines = (day / "a").read_text().split()
    lines[line - 1] = bad
    (day / "a").write_text("\n".join(lines) + "\n")
    text = message(day)
    assert text.startswith(f"{day / 'a'}:{line}: expected an integer from 0 to 100")
    assert (repr(bad) if bad else "a blank line") in text


def test_truncated_and_too_long(day: Path) -> None:
    lines = (day / "a").read_text().split()
    (day / "a").write_text("\n".join(lines[:100]))
    assert message(day).startswith(f"{day / 'a'}:100: truncated, has 100 of 288 lines")
    (day / "a").write_text("\n".join([*lines, "1"]))
    assert message(day).startswith(f"{day / 'a'}:289: too long, has 289 of 288 lines")
    (day / "a").write_text("")
    assert "has 0 of 288 lines" in message(day)


def test_awkward_names_are_quoted(day: Path) -> None:
    (day / "b host.name ").write_text("1\n")
    assert repr(str(day / "b host.name ")) in message(day)


def test_equal_but_other_length_needs_expected(tmp_path: Path) -> None:
    folder = write_day(tmp_path / "half", {"a": [1] * 144, "b": [2] * 144})
    assert "144 of 288" in message(folder)
    assert read_planetlab(folder, expected=144, sample_s=600.0).span_s == 86400.0


def test_lengths_that_compensate_are_seen(tmp_path: Path) -> None:
    """As many lines in total as expected, but in the wrong files."""
    folder = write_day(tmp_path / "day", {"a": [1] * 287, "b": [2] * 289})
    assert message(folder).startswith(f"{folder / 'a'}:287: truncated")


def test_missing_empty_and_parent_folder(tmp_path: Path, day: Path) -> None:
    assert "no such file or folder" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("1\n")
    assert "the folder is empty" in message(tmp_path / "empty")
    parent = tmp_path / "days"
    parent.mkdir()
    os.rename(day, parent / "20110303")
    assert message(parent).endswith("this folder holds day folders, pick one of them: 20110303")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(day: Path) -> None:
    (day / "a").chmod(0)
    assert "cannot be read" in message(day)


@settings(max_examples=60)
@given(data=st.data())
def test_fast_path_equals_slow_path(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 12))
    row = st.lists(st.integers(0, 100), min_size=samples, max_size=samples)
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    contents = [b"".join(b"%d\n" % value for value in values) for values in rows]
    fast = _parse_fast(contents, samples)
    assert fast is not None
    assert fast.tolist() == rows
    paths = [Path(f"vm{index}") for index in range(len(rows))]
    assert np.array_equal(fast, _parse_slow(paths, contents, samples))


@settings(max_examples=60)
@given(
    vm=st.integers(0, 3),
    line=st.integers(1, 20),
    junk=st.one_of(
        st.integers(max_value=-1).map(str),
        st.integers(min_value=101).map(str),
        st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1).filter(
            lambda text: not text.isdigit()
        ),
        st.just(""),
    ),
)
def test_one_corrupt_line_is_named(tmp_path: Path, vm: int, line: int, junk: str) -> None:
    rows: dict[str, list[object]] = {f"vm{index}": [index] * 21 for index in range(4)}
    rows[f"vm{vm}"][line - 1] = junk
    folder = write_day(tmp_path / "day", rows)
    assert message(folder, expected=21).startswith(f"{folder / f'vm{vm}'}:{line}: ")


@settings(max_examples=100)
@given(text=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """The fast path accepts nothing that the slow path refuses."""
    fast = _parse_fast([text, b"1\n2\n"], 2)
    if fast is not None:
        assert np.array_equal(fast, _parse_slow([Path("a"), Path("b")], [text, b"1\n2\n"], 2))


@pytest.mark.parametrize("name", DAYS)
def test_real_days(traces_dir: Path, name: str) -> None:
    folder = traces_dir / "planetlab" / name
    if not folder.is_dir():
        pytest.skip(f"no {name}")
    trace = read_planetlab(folder)
    assert trace.n_vms == DAYS[name]
    assert trace.util.shape == (288, DAYS[name])
    assert trace.vm_names == tuple(sorted(os.listdir(folder)))
    naive = [[int(line) / 100.0 for line in (folder / vm).read_text().split()] for vm in trace.vm_names]
    assert np.array_equal(trace.util, np.array(naive).T)
