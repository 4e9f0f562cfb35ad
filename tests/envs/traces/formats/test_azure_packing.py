"""The reader of Azure's packing trace, on small databases in the genuine schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import TraceError
from virtgym.envs.traces.formats.azure_packing import read_azure_packing
from virtgym.envs.traces.requests import read_requests

TYPES = [
    (0, 10, 0, 0.5, 0.25, 0.1, None, 0.01),
    (1, 10, 1, 0.25, 0.125, 0.1, None, 0.01),
    (2, 11, 1, 0.0125, 0.01, 0.1, None, 0.01),
    (3, 12, 2, 1.0, 1.0, 0.1, None, 0.01),
]
VMS = [
    (100, 1, 10, 0, 0.5, 1.5),
    (101, 1, 11, 1, -3.0, 2.0),
    (102, 2, 10, 0, 0.25, None),
    (103, 2, 10, 0, 0.25, 0.25),
    (104, 2, 12, 0, 1.0, None),
    (105, 2, 10, 0, -2.0, -1.0),
]


def build(path: Path, vms: Sequence[Sequence[Any]] = VMS, types: Sequence[Sequence[Any]] = TYPES) -> Path:
    """Write a database in the schema of the published file."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE vmType (id INTEGER, vmTypeId INTEGER, machineId INTEGER, core REAL, memory REAL, "
            "hdd REAL, ssd REAL, nic REAL)"
        )
        database.execute(
            "CREATE TABLE vm (vmId INTEGER, tenantId INTEGER, vmTypeId INTEGER, priority INTEGER, "
            "starttime REAL, endtime REAL)"
        )
        database.executemany("INSERT INTO vmType VALUES (?, ?, ?, ?, ?, ?, ?, ?)", types)
        database.executemany("INSERT INTO vm VALUES (?, ?, ?, ?, ?, ?)", vms)
        database.commit()
    return path


def message(path: Path, **options: Any) -> str:
    """Return the error of reading ``path``, which must be one line."""
    with pytest.raises(TraceError) as caught:
        read_azure_packing(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_values(tmp_path: Path) -> None:
    trace = read_azure_packing(build(tmp_path / "a.sqlite"), cores_per_host=40, memory_gib_per_host=100.0)
    assert (trace.name, trace.format) == ("a", "azure_packing")
    assert trace.vm_ids.tolist() == [101, 102, 103, 100]
    assert trace.cores.tolist() == [0.5, 10.0, 10.0, 10.0]
    assert trace.memory_gib.tolist() == [1.0, 12.5, 12.5, 12.5]
    assert trace.arrival_s.tolist() == [0.0, 21600.0, 21600.0, 43200.0]
    assert trace.lifetime_s.tolist() == [172800.0, np.inf, 0.0, 86400.0]
    assert trace.notes == (
        "sizes are fractions of machine 1",
        "machine 1 hosts 2 of 3 VM types",
        "VMs left out, of types that this machine cannot host: 1",
        "VMs left out, ended before the trace: 1",
        "VMs started before the trace and arrive at 0: 1",
    )


def test_the_machine_may_be_chosen(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    trace = read_requests(path, machine_id=2, cores_per_host=8, memory_gib_per_host=16)
    assert (trace.vm_ids.tolist(), trace.cores.tolist(), trace.memory_gib.tolist()) == ([104], [8.0], [16.0])
    assert "there is no machine_id 7; there are: 0, 1, 2" in message(path, machine_id=7)


def test_a_file_without_a_telling_name_is_found_out(tmp_path: Path) -> None:
    assert read_requests(build(tmp_path / "trace")).n_requests == 4


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (0, "x", "vmId must be a whole number, found 'x'"),
        (0, 1.5, "vmId must be a whole number, found 1.5"),
        (4, float("inf"), "starttime must be"),
        (4, b"ab", "starttime must be a finite number of days, found b'ab'"),
        (5, 0.1, "endtime must be a number of days not before starttime, or NULL (never), found 0.1"),
        (5, "soon", "endtime must be"),
    ],
)
def test_a_malformed_vm(tmp_path: Path, column: int, value: object, expected: str) -> None:
    vms: list[list[Any]] = [list(row) for row in VMS]
    vms[2][column] = value
    path = build(tmp_path / "a.sqlite", vms)
    assert f"{path}: table vm, row 3: {expected}" in message(path)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (3, 0.0, "core must be a positive, finite fraction of a machine, found 0.0"),
        (3, -1.0, "core must be"),
        (4, None, "memory must be a positive, finite fraction of a machine, found NULL"),
        (1, "big", "vmTypeId must be"),
        (1, 10, "machine 1 has vmTypeId 10 already"),
    ],
)
def test_a_malformed_type(tmp_path: Path, column: int, value: object, expected: str) -> None:
    types: list[list[Any]] = [list(row) for row in TYPES]
    types[2][column] = value
    path = build(tmp_path / "a.sqlite", VMS, types)
    assert f"{path}: table vmType, row 3: {expected}" in message(path)


def test_an_empty_text_is_no_end(tmp_path: Path) -> None:
    path = build(tmp_path / "a.sqlite", [(1, 1, 10, 0, 0.0, "")])
    assert read_azure_packing(path).lifetime_s.tolist() == [np.inf]


@settings(max_examples=40)
@given(rows=st.integers(1, 9), data=st.data())
def test_corrupting_one_row_names_it(tmp_path: Path, rows: int, data: st.DataObject) -> None:
    vms: list[list[Any]] = [[row, 1, 10, 0, row * 0.5, row * 0.5 + 1] for row in range(rows)]
    row = data.draw(st.integers(0, rows - 1))
    vms[row][data.draw(st.sampled_from([0, 2, 4, 5]))] = data.draw(st.sampled_from(["x", b"\x00", -9.5]))
    if vms[row][4] == -9.5:  # a negative start is allowed
        assert read_azure_packing(build(tmp_path / "a.sqlite", vms)).n_requests == rows
    else:
        assert f"table vm, row {row + 1}: " in message(build(tmp_path / "a.sqlite", vms))


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "none.sqlite")
    (tmp_path / "x.sqlite").write_text("no database, but long enough to be read as one" * 50)
    assert "not a readable sqlite database" in message(tmp_path / "x.sqlite")
    (tmp_path / "y.sqlite").write_bytes(b"")
    assert "there is no table vm; expected vm(vmId, vmTypeId, starttime, endtime, …)" in message(
        tmp_path / "y.sqlite"
    )
    assert "the table vm is empty" in message(build(tmp_path / "z.sqlite", []))
    assert "the table vmType is empty" in message(build(tmp_path / "z.sqlite", VMS, []))
    assert "no VM is left" in message(build(tmp_path / "z.sqlite", [VMS[5]]))
    with closing(sqlite3.connect(tmp_path / "w.sqlite")) as database:
        database.execute("CREATE TABLE vm (vmId, vmTypeId, starttime)")
    assert "the table vm has no column endtime" in message(tmp_path / "w.sqlite")


def test_options(tmp_path: Path) -> None:
    path = build(tmp_path / "a.sqlite")
    assert "cores_per_host must be positive" in message(path, cores_per_host=0)
    assert "memory_gib_per_host must be positive" in message(path, memory_gib_per_host=float("nan"))
    with pytest.raises(TraceError, match="azure_packing: machine_id must be int or None, is 'a'"):
        read_requests(path, machine_id="a")
