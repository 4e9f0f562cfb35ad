"""From readings at any time to even samples: against a plain twin, conservation of work, gaps, repairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import resample
from virtgym.envs.traces.base import Trace
from virtgym.envs.traces.repairs import Repairs
from virtgym.envs.traces.resample import Readings, Vms, build_trace, hold_until_next, tell_times

Rows = list[tuple[int, float, float, float]]


def make(rows: Rows, signals: Mapping[str, NDArray[np.float64]] | None = None) -> Readings:
    """Readings from tuples of VM, start, end and CPU."""
    vm, start, end, util = (np.array(column, dtype=np.float64) for column in zip(*rows))
    names = [f"v{index}" for index in range(int(vm.max()) + 1)]
    codes = vm.astype(np.int64)
    return Readings(
        "src", "test", codes, start, end, util, names, lambda row: f"src:{row + 1}", signals or {}
    )


def build(rows: Rows, sample_s: float = 10.0, **options: Any) -> Trace:
    repairs = Repairs("test", options.get("fill"), options.get("over", "keep"))
    return build_trace(make(rows), Vms(), name="t", sample_s=sample_s, repairs=repairs)


@st.composite
def contiguous(draw: st.DrawFn) -> Rows:
    """Up to four VMs with fragments end to end, at odd times."""
    rows: Rows = []
    for vm in range(draw(st.integers(1, 4))):
        time = draw(st.integers(0, 35)) if vm else 0
        for _ in range(draw(st.integers(1, 8))):
            length = draw(st.integers(1, 40))
            rows.append((vm, float(time), float(time + length), draw(st.floats(0, 1))))
            time += length
    return rows


def plain(rows: Rows, sample_s: float) -> NDArray[np.float64]:
    """The mean over each cell, cell by cell and row by row."""
    samples = int(np.ceil(max(end for _, _, end, _ in rows) / sample_s))
    vms = max(vm for vm, *_ in rows) + 1
    util = np.zeros((samples, vms))
    for k in range(samples):
        for v in range(vms):
            total = cover = 0.0
            for vm, start, end, value in rows:
                part = min(end, (k + 1) * sample_s) - max(start, k * sample_s)
                if vm == v and part > 0:
                    total += part * value
                    cover += part
            util[k, v] = total / cover if cover else 0.0
    return util


@settings(max_examples=300)
@given(rows=contiguous(), sample_s=st.sampled_from([7.0, 10.0, 30.0]), chunk=st.sampled_from([3, 4_000_000]))
def test_twin_and_conservation(rows: Rows, sample_s: float, chunk: int) -> None:
    before = resample._CHUNK
    resample._CHUNK = chunk
    try:
        trace = build(rows, sample_s)
    finally:
        resample._CHUNK = before
    np.testing.assert_allclose(trace.util, plain(rows, sample_s), atol=1e-12)
    edges = np.arange(trace.n_samples)[:, None] * sample_s
    ends = np.minimum(trace.departure_s, max(end for _, _, end, _ in rows))
    life = np.clip(np.minimum(edges + sample_s, ends) - np.maximum(edges, trace.arrival_s), 0, None)
    for vm in range(trace.n_vms):
        work = sum((end - start) * value for v, start, end, value in rows if v == vm)
        assert float((life * trace.util)[:, vm].sum()) == pytest.approx(work, rel=1e-9, abs=1e-9)


@settings(max_examples=100)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=40), sample_s=st.sampled_from([0.1, 7.0, 300.0]))
def test_values_on_the_grid_are_kept_bit_for_bit(values: list[float], sample_s: float) -> None:
    edges = np.arange(len(values) + 1) * sample_s
    rows = [(0, float(a), float(b), x) for a, b, x in zip(edges, edges[1:], values)]
    trace = build(rows, sample_s)
    assert trace.util[:, 0].tolist() == values
    assert trace.departure_s.tolist() == [np.inf]
    assert trace.notes == ("gaps: none",)


def test_a_gap_is_an_error_unless_it_may_be_filled() -> None:
    rows = [(0, 0.0, 60.0, 0.5), (1, 0.0, 10.0, 0.25), (1, 40.0, 60.0, 0.75)]
    with pytest.raises(TraceError) as caught:
        build(rows)
    assert str(caught.value) == (
        "src: vm 'v1' has no reading for time_s=10; "
        "gaps: 3 of 12 samples (25 %) of 1 VMs, the longest 0.00833 h; "
        "allow a repair with the option fill=previous or fill=zero"
    )
    held = build(rows, fill="previous")
    assert held.util[:, 1].tolist() == [0.25, 0.25, 0.25, 0.25, 0.75, 0.75]
    assert "filled (fill=previous)" in held.notes[0]
    assert build(rows, fill="zero").util[:, 1].tolist() == [0.25, 0, 0, 0, 0.75, 0.75]


def test_a_cell_covered_by_half_is_no_gap_and_before_the_first_reading_there_is_zero() -> None:
    assert build([(0, 0.0, 5.0, 0.5), (0, 10.0, 20.0, 1.0)]).util[:, 0].tolist() == [0.5, 1.0]
    rows = [(0, 0.0, 4.0, 0.5), (0, 10.0, 20.0, 1.0)]
    with pytest.raises(TraceError, match="1 of 2 samples"):
        build(rows)
    vms = Vms(np.zeros(1), np.full(1, 99.0))
    readings, repairs = make([(0, 10.0, 20.0, 1.0)]), Repairs("test", "previous")
    late = build_trace(readings, vms, name="t", sample_s=10, repairs=repairs)
    assert late.util[:, 0].tolist() == [0.0, 1.0]
    assert late.departure_s.tolist() == [np.inf]


def test_a_cell_covered_in_part() -> None:
    rows = [(0, 0.0, 10.0, 0.4), (0, 10.0, 12.5, 0.8), (0, 20.0, 30.0, 1.0)]
    assert build(rows, fill="previous").util[:, 0].tolist() == [0.4, 0.8, 1.0]
    assert build(rows, fill="zero").util[:, 0].tolist() == pytest.approx([0.4, 0.2, 1.0])


def test_signals_have_gaps_of_their_own() -> None:
    readings = make([(0, 0.0, 10.0, 0.5), (0, 10.0, 20.0, 0.5)], {"disk": np.array([3.0, np.nan])})
    options: dict[str, Any] = {"name": "t", "sample_s": 10}
    with pytest.raises(TraceError, match="gaps in disk: 1 of 2 samples"):
        build_trace(readings, Vms(), repairs=Repairs("test", None), **options)
    trace = build_trace(readings, Vms(), repairs=Repairs("test", "previous"), **options)
    assert trace.signals["disk"][:, 0].tolist() == [3.0, 3.0]


def test_over_capacity() -> None:
    rows = [(0, 0.0, 10.0, 0.5), (0, 10.0, 20.0, 1.25), (0, 20.0, 30.0, 1 + 1e-12)]
    kept = build(rows)
    assert kept.util[:, 0].tolist() == [0.5, 1.25, 1 + 1e-12]
    assert kept.notes[0] == "over capacity: 1 of 3 rows (33 %), up to 1.25 times; kept"
    assert build(rows, over="clip").util[:, 0].tolist() == [0.5, 1.0, 1.0]
    with pytest.raises(TraceError, match=r"src:2: vm 'v0' uses 1.25 times its CPU, as 1 rows do; allow that"):
        build(rows, over="error")


def test_overlaps_are_told_and_averaged() -> None:
    trace = build([(0, 0.0, 10.0, 0.2), (0, 0.0, 10.0, 0.6)])
    assert trace.util[0, 0] == pytest.approx(0.4)
    assert trace.notes[0].startswith("overlaps: 1 rows")


def test_bad_options_and_a_vm_without_readings() -> None:
    with pytest.raises(TraceError, match="test: fill must be one of none, previous, zero; is 'next'"):
        build([(0, 0.0, 10.0, 0.5)], fill="next")
    with pytest.raises(TraceError, match="test: over must be one of keep, clip, error; is 'cut'"):
        build([(0, 0.0, 10.0, 0.5)], over="cut")
    with pytest.raises(TraceError, match="test: sample_s must be positive, is 0"):
        build([(0, 0.0, 10.0, 0.5)], sample_s=0)
    quiet = build([(0, 0.0, 10.0, float("nan")), (1, 0.0, 10.0, 0.5)])
    assert quiet.vm_names == ("v1",)
    assert quiet.notes[0] == "1 VMs have no CPU reading at all, and are left out"
    with pytest.raises(TraceError, match="src: no VM is left"):
        build([(0, 0.0, 10.0, float("nan"))])
    with pytest.raises(TraceError, match="choose a longer sample_s"):
        build([(0, 0.0, 1e12, 0.5)], sample_s=1)


def test_readings_hold_until_the_next_one() -> None:
    vm = np.array([0, 1, 0, 0, 0])
    time = np.array([0.0, 3.0, 12.0, 22.0, 100.0])
    ends, period = hold_until_next(vm, time, 10.0)
    assert period == 12.0
    assert ends.tolist() == [12.0, 15.0, 22.0, 34.0, 112.0]  # 78 s to the next is a gap
    assert hold_until_next(vm, time, 100.0)[0].tolist() == [12.0, 15.0, 22.0, 100.0, 112.0]
    assert hold_until_next(vm, time, 1.0, longest_s=5.0)[1] == 5.0
    assert hold_until_next(vm[:1], time[:1], 10.0)[0].tolist() == [10.0]


def test_tell_times() -> None:
    assert tell_times(1376314846000.0) == "time 0 is 2013-08-12T13:40:46Z"
