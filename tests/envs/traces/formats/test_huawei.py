"""The reader of Huawei's requests: exact values, a clear error for every malformed line, the real file."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.formats.huawei import (
    EVENT_COLUMNS,
    REQUEST_COLUMNS,
    _parse_fast,
    _parse_slow,
    read_huawei,
    read_windows,
)

HEADER = "vmid,cpu,mem,at,lt\n"
EVENTS = "vmid,cpu,memory,time,type\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def message(path: Path) -> str:
    """Return the error of reading ``path``, which must be one line."""
    with pytest.raises(TraceError) as caught:
        read_huawei(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\r\n"])
def test_values(tmp_path: Path, ending: str) -> None:
    trace = read_huawei(write(tmp_path / "r.csv", HEADER + "5,4,16,0.0,194.5\n3, 0.5 ,1,2,inf" + ending))
    assert (trace.name, trace.format, trace.n_requests) == ("r", "huawei", 2)
    assert trace.vm_ids.tolist() == [5, 3]
    assert trace.cores.tolist() == [4.0, 0.5]
    assert trace.memory_gib.tolist() == [16.0, 1.0]
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert trace.lifetime_s.tolist() == [194.5, np.inf]
    for column in (trace.cores, trace.memory_gib, trace.arrival_s, trace.lifetime_s):
        assert column.flags.c_contiguous
        assert column.dtype == np.float64


def test_crlf_bom_and_large_numbers(tmp_path: Path) -> None:
    text = "\ufeff" + (HEADER + f"{2**60 + 1},1,1,0,1\n-4,1,1,0,1\n").replace("\n", "\r\n")
    assert read_huawei(write(tmp_path / "r.csv", text)).vm_ids.tolist() == [2**60 + 1, -4]


def test_events(tmp_path: Path) -> None:
    rows = ["9,1,2,0,0", "4,2,4,1,0", "9,1,2,5,1", "9,1,2,5,0", "4,2,8,5,1", "9,1,2,5,1", "1,8,8,6,0"]
    trace = read_huawei(write(tmp_path / "e.csv", EVENTS + "\n".join(rows)))
    assert trace.vm_ids.tolist() == [9, 4, 9, 1]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 5.0, 6.0]
    assert trace.lifetime_s.tolist() == [5.0, 4.0, 0.0, np.inf]
    assert trace.memory_gib.tolist() == [2.0, 4.0, 2.0, 8.0]
    assert trace.notes == (
        "VMs that are never deleted (lifetime inf): 1",
        "VMs deleted with another size than they were created with: 1",
    )


@settings(max_examples=100)
@given(
    vms=st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 128), st.integers(0, 9), st.integers(0, 9) | st.none()),
        min_size=1,
        max_size=12,
    )
)
def test_both_forms_of_the_same_requests(tmp_path: Path, vms: list[tuple[int, int, int, int | None]]) -> None:
    vms.sort(key=lambda vm: vm[2])
    lines = [f"{i},{c},{m},{at},{'inf' if lt is None else lt}" for i, (c, m, at, lt) in enumerate(vms)]
    events = [(at, 0, i, f"{i},{c},{m},{at},0") for i, (c, m, at, _) in enumerate(vms)]
    events += [
        (at + lt, 1, i, f"{i},{c},{m},{at + lt},1") for i, (c, m, at, lt) in enumerate(vms) if lt is not None
    ]
    one = read_huawei(write(tmp_path / "r.csv", HEADER + "\n".join(lines)))
    two = read_huawei(write(tmp_path / "e.csv", EVENTS + "\n".join(line for *_, line in sorted(events))))
    for key in ("vm_ids", "cores", "memory_gib", "arrival_s", "lifetime_s"):
        assert getattr(one, key).tolist() == getattr(two, key).tolist()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,1,1,5", "expected 5 fields (vmid,cpu,mem,at,lt), found 4 fields in '1,1,1,5'"),
        ("1,1,1,5,5,5", "found 6 fields"),
        ("", "found a blank line"),
        ("x,1,1,5,5", "vmid must be a whole number, found 'x'"),
        ("1.5,1,1,5,5", "vmid must be"),
        ("vm-1,1,1,5,5", "vmid must be"),
        ("1e30,1,1,5,5", "vmid must be"),
        ("1,0,1,5,5", "cpu must be a positive, finite number of cores, found '0'"),
        ("1,inf,1,5,5", "cpu must be"),
        ("1,1_0,1,5,5", "cpu must be"),
        ("1,1,-2,5,5", "mem must be a positive, finite number of GB, found '-2'"),
        ("1,1,NaN,5,5", "mem must be"),
        ("1,1,1,nan,5", "at must be a finite time"),
        ("1,1,1,inf,5", "at must be a finite time"),
        ("1,1,1,-5,5", "at must be a finite time"),
        ("1,1,1,3.5,5", "at must not decrease, found 3.5 after 4 s"),
        ("1,1,1,5,-1", "lt must be a number of seconds of at least 0 (inf: never leaves), found '-1'"),
        ("1,1,1,5,nan", "lt must be"),
        ("1,1,1,5,", "lt must be a number of seconds of at least 0 (inf: never leaves), found ''"),
        ("0,1,1,5,5", "vmid 0 stands in line 2 already"),
    ],
)
def test_a_malformed_line(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path / "r.csv", HEADER + f"0,1,1,4,4\n{line}\n2,1,1,6,6\n")
    text = message(path)
    assert text.startswith(f"{path}:3: ")
    assert expected in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: the file is empty; expected the header vmid,cpu,mem,at,lt or vmid,cpu,memory,time,type"),
        ("\n \n", "1: the file is empty"),
        (HEADER, "1: there is no request after the header"),
        ("0,1,1,4,4\n", "1: expected the header vmid,cpu,mem,at,lt or"),
        ("vmid,cpu,mem,at\n0,1,1,4\n", "1: expected the header"),
        (EVENTS + "0,1,1,4,2\n", "2: type must be 0 (create) or 1 (delete), found '2'"),
        (EVENTS + "0,1,1,4,1\n", "2: vmid 0 is deleted, but does not run"),
        (EVENTS + "0,1,1,4,0\n0,1,1,4,0\n", "3: vmid 0 is created, but runs already"),
        (EVENTS + "0,1,1,4,0\n0,1,1,4,1\n0,1,1,4,1\n", "4: vmid 0 is deleted, but does not run"),
        (HEADER + "0,1,1,inf,9\n1,1,1,inf,9\n", "2: at must be a finite time of at least 0 s, found 'inf'"),
        (EVENTS + "0,1,1,4,0\n0,1,1,3,1\n", "3: time must not decrease, found 3 after 4 s"),
    ],
)
def test_a_malformed_file(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "r.csv", text)
    assert message(path).startswith(f"{path}:{expected}")


TOKENS = [
    "0",
    "1",
    "2.5",
    "-0",
    "nan",
    "inf",
    "1e3",
    " 4",
    "+5",
    "",
    "1_0",
    "0x1",
    "1.",
    "1e-400",
    "1d3",
    "#1",
    "1 2",
]


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(TOKENS)), min_size=1, max_size=3),
    columns=st.sampled_from([REQUEST_COLUMNS, EVENT_COLUMNS]),
)
def test_what_the_fast_parser_accepts_the_slow_one_reads_the_same(
    rows: list[tuple[int, str]], columns: tuple[str, ...]
) -> None:
    lines = []
    for number, (index, token) in enumerate(rows):
        fields = [str(number), "1", "2", str(number), "0"]
        fields[index] = token
        lines.append(",".join(fields))
    fast = _parse_fast(columns, lines)
    if fast is not None:
        slow = _parse_slow(Path("x"), columns, lines, np.arange(len(lines)))
        assert fast[0].tolist() == slow[0].tolist()
        assert fast[1].tolist() == slow[1].tolist()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert message(tmp_path / "none.csv") == f"{tmp_path}/none.csv: no such file or folder"
    assert "cannot be read" in message(tmp_path)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    assert "expected the header" in message(tmp_path / "binary.csv")


BAD_FIELD = st.sampled_from(["", "x", "nan", "-1", "--1", "1e999x", "\x00", "1 2", "0x1p3", "1,1"])


@settings(max_examples=150)
@given(rows=st.integers(1, 12), data=st.data(), events=st.booleans())
def test_corrupting_one_line_names_it(tmp_path: Path, rows: int, data: st.DataObject, events: bool) -> None:
    last = "0" if events else "9"
    lines = [[str(row), "1", "2", str(row * 1.5), last] for row in range(rows)]
    path = tmp_path / "r.csv"
    text = "".join(",".join(line) + "\n" for line in lines)
    assert read_huawei(write(path, (EVENTS if events else HEADER) + text)).n_requests == rows
    row = data.draw(st.integers(0, rows - 1))
    lines[row][data.draw(st.integers(1, 4))] = data.draw(BAD_FIELD)
    text = "".join(",".join(line) + "\n" for line in lines)
    write(path, (EVENTS if events else HEADER) + text)
    assert message(path).startswith(f"{path}:{row + 2}: ")


@settings(max_examples=100)
@given(content=st.binary(max_size=60) | st.text("0123456789,.-+enaif\r\n ", max_size=60).map(str.encode))
def test_whatever_the_bytes_it_reads_or_says_why(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(HEADER.encode() + content)
    problem = ""
    try:
        assert read_huawei(path).n_requests >= 1
    except TraceError as error:
        problem = str(error)
    assert problem == "" or problem.startswith(f"{path}:")


@pytest.fixture(scope="module")
def genuine() -> Path:
    """The folder of the genuine file, or skip."""
    traces = Path(os.environ.get("VIRTGYM_TRACES", Path(__file__).resolve().parents[5] / "shared" / "traces"))
    if not (traces / "huawei-east-1" / "requests.csv").exists():
        pytest.skip("the genuine requests are not here")
    return traces / "huawei-east-1"


def test_the_genuine_file_against_a_naive_loader(genuine: Path) -> None:
    trace = read_huawei(genuine / "requests.csv")
    with open(genuine / "requests.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert trace.n_requests == len(rows) == 72_000
    assert trace.vm_ids.tolist() == [int(row["vmid"]) for row in rows]
    for column, key in (("cores", "cpu"), ("memory_gib", "mem"), ("arrival_s", "at"), ("lifetime_s", "lt")):
        assert getattr(trace, column).tolist() == [float(row[key]) for row in rows]
    windows = read_windows(genuine / "validation_windows.npy", trace.n_requests)
    assert windows.shape == (150,)
    assert windows.min() >= 50_000


def test_windows(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.array([3, 0, 3], dtype=np.int32))
    assert read_windows(tmp_path / "w.npy", 4).tolist() == [3, 0, 3]
    assert read_windows(write(tmp_path / "w.csv", "3\n0\n"), 4).tolist() == [3, 0]
    assert read_windows(write(tmp_path / "w.csv", "first row\r\n3\r\n"), 4).dtype == np.int64
    np.savetxt(tmp_path / "w.txt", np.array([3, 1]))
    assert read_windows(tmp_path / "w.txt", 4).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("row\n1\n4\n", "w.csv:3: a window must start in a row from 0 to 3, found 4"),
        ("-1\n", "w.csv:1: a window must start in"),
        ("row\n1.5\n", "w.csv:2: expected one row number, found '1.5'"),
        ("1\n\n2\n", "w.csv:2: expected one row number, found a blank line"),
        ("", "w.csv: there is no window in it"),
        ("row\n", "w.csv: there is no window in it"),
        ("inf\n", "w.csv:1: expected one row number, found 'inf'"),
        ("1,2\n", "w.csv:1: expected one row number, found '1,2'"),
    ],
)
def test_malformed_windows(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_windows(write(tmp_path / "w.csv", text), 4)
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")


def test_malformed_arrays(tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    for array, expected in (
        (np.array([1, 9]), "w.npy, entry 1: a window must start"),
        (np.array([1.0]), "found 1-dimensional float64"),
        (np.ones((2, 2), dtype=int), "found 2-dimensional int64"),
        (np.array([], dtype=int), "there is no window"),
        (np.array([{}]), "not an array"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(TraceError, match=expected):
            read_windows(path, 4)
    path.write_bytes(b"nonsense")
    with pytest.raises(TraceError, match="not an array"):
        read_windows(path, 4)
    with pytest.raises(TraceError, match="no such file or folder"):
        read_windows(tmp_path / "none.npy", 4)
