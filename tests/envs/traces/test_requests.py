"""Request traces: what is checked once, and how a file finds its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import read_trace
from virtgym.envs.traces.requests import RequestTrace, read_requests


def make(**columns: Any) -> RequestTrace:
    """Three sound requests, but for the given columns."""
    given: dict[str, Any] = {
        "cores": [1.0, 2.0, 4.0],
        "memory_gib": [1.0, 4.0, 16.0],
        "arrival_s": [0.0, 5.0, 5.0],
        "lifetime_s": [10.0, 0.0, np.inf],
        "vm_ids": [7, 8, 9],
    }
    given.update(columns)
    arrays: dict[str, Any] = {key: np.array(value) for key, value in given.items()}
    return RequestTrace("t", "huawei", "t.csv", **arrays)


def test_a_sound_trace() -> None:
    trace = make()
    assert (trace.n_requests, trace.span_s, trace.notes) == (3, 5.0, ())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"cores": [1.0, 0.0, 1.0]}, "request 1: cores must be finite and positive, is 0.0"),
        ({"cores": [1.0, 1.0, np.inf]}, "request 2: cores must be"),
        ({"memory_gib": [np.nan, 1.0, 1.0]}, "request 0: memory_gib must be"),
        ({"arrival_s": [-1.0, 0.0, 1.0]}, "request 0: arrival_s must be finite, at least 0"),
        ({"arrival_s": [0.0, 2.0, 1.0]}, "request 2: arrival_s must be not before"),
        ({"lifetime_s": [0.0, -1.0, 1.0]}, "request 1: lifetime_s must be at least 0"),
        ({"lifetime_s": [0.0, np.nan, 1.0]}, "request 1: lifetime_s"),
        ({"lifetime_s": [0.0, 1.0]}, r"lifetime_s has shape \(2,\), expected \(3,\)"),
        ({"vm_ids": [1]}, "vm_ids has shape"),
        ({key: [] for key in ("cores", "memory_gib", "arrival_s", "lifetime_s", "vm_ids")}, "no requests"),
    ],
)
def test_what_is_refused(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(TraceError, match=f"^t.csv: .*{expected}"):
        make(**columns)


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A small file of requests."""
    path = tmp_path / "requests.csv"
    path.write_text("vmid,cpu,mem,at,lt\n0,1,1,0,9\n1,2,4,1.5,0\n")
    return path


def test_a_file_finds_its_reader(requests: Path) -> None:
    trace = read_requests(requests)
    assert (trace.format, trace.name, trace.source) == ("huawei", "requests", str(requests))
    assert trace.arrival_s.tolist() == [0.0, 1.5]


def test_errors_of_read_requests(requests: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="request format=huawe: did you mean huawei"):
        read_requests(requests, "huawe")
    with pytest.raises(TraceError, match="huawei: no option 'speed'"):
        read_requests(requests, speed=1)
    with pytest.raises(TraceError, match="needs a path"):
        read_requests(None, "huawei")
    with pytest.raises(TraceError, match=r"none.csv: no such file"):
        read_requests(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"holds traces, pick one of them: requests\.csv \(huawei\)"):
        read_requests(tmp_path)
    (tmp_path / "vm").write_text("1\n2\n")
    with pytest.raises(TraceError, match="planetlab is a format of utilisation, not of VM requests"):
        read_requests(tmp_path / "vm")
    with pytest.raises(TraceError, match=r"requests.csv: huawei is a format of VM requests.*read_requests"):
        read_trace(requests)
