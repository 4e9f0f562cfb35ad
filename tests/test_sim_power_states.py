"""Power states, curves, PUE and carbon: closed forms, the state machine, exact integrals, the reader."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.sim.carbon import CarbonSeries, carbon_kg, constant_carbon, intensity_integral
from virtgym.envs.sim.errors import ConfigError, TraceError
from virtgym.envs.sim.power import BOOTING, OFF, ON, SHUTTING_DOWN, SPEC_POWER_W
from virtgym.envs.sim.power_states import (
    DO_FAIL,
    DO_FINISH,
    DO_OFF,
    DO_ON,
    DO_REPAIR,
    DO_SUSPEND,
    FAILED,
    RESUMING,
    STANDBY,
    SUSPENDING,
    TRANSITIONS,
    PowerConfig,
    PowerCurve,
    host_powers,
    power_params,
    transition,
)
from virtgym.envs.traces.carbon import read_carbon

MANY = settings(max_examples=200, deadline=None, derandomize=True)
CURVES = (
    PowerCurve(table_w="hp_ml110_g4"),
    PowerCurve("linear", idle_w=100, peak_w=200),
    PowerCurve("fan", idle_w=100, peak_w=200),
    PowerCurve(table_w=(50.0, 70.0, 120.0)),
)
TIMES = np.array([0, 240, 0, 60, 0, 5, 10, 0], dtype=float)


def powers(kind: Any, state: Any, load: Any, config: PowerConfig | None = None) -> Any:
    kinds, states, loads = np.broadcast_arrays(np.atleast_1d(kind), state, load)
    out = np.empty(len(kinds))
    host_powers(
        power_params(CURVES, config or PowerConfig()),
        np.ascontiguousarray(kinds, dtype=np.int32),
        np.ascontiguousarray(states, dtype=np.int8),
        np.ascontiguousarray(loads, dtype=float),
        out,
    )
    return out


def do(state: int, action: int, times: Any = TIMES) -> tuple[int, float]:
    following, left = transition(TRANSITIONS, state, action, times)
    return int(following), float(left)


def test_curves_by_hand() -> None:
    assert powers([0, 0, 0], ON, [0.0, 0.25, 1.0]).tolist() == [86.0, pytest.approx(94.3), 117.0]
    assert powers(1, ON, 0.3).tolist() == [pytest.approx(130.0)]
    assert powers([2, 2, 2], ON, [0.0, 0.5, 1.0]) == pytest.approx([100, 200 - 100 * 0.5**1.4, 200])
    assert powers(3, ON, 0.75).tolist() == [95.0]
    assert powers([1, 1], ON, [-0.5, 1.5]).tolist() == [100.0, 200.0]


def test_power_in_every_other_state() -> None:
    states = [OFF, BOOTING, SHUTTING_DOWN, STANDBY, SUSPENDING, RESUMING, FAILED]
    assert powers(1, states, 0.9) == pytest.approx([0, 150, 100, 5, 100, 150, 0])
    full = PowerConfig(boot_level=1.0, standby_share=0.1)
    assert powers(1, [BOOTING, STANDBY], 0.9, full) == pytest.approx([200, 10])


def test_the_kernel_equals_plain_python() -> None:
    rng = np.random.default_rng(2)
    kind, state, load = rng.integers(0, 4, 2000), rng.integers(0, 8, 2000), rng.uniform(-0.1, 1.2, 2000)
    config = PowerConfig(standby_share=0.07, boot_level=0.3)
    got = powers(kind, state, load, config)
    for h in range(2000):
        points = CURVES[kind[h]].points
        idle, peak, u = points[0], points[-1], min(1.0, max(0.0, load[h]))
        if state[h] == ON:
            if kind[h] == 2:
                want = idle + (peak - idle) * (2 * u - u**1.4)
            else:
                want = np.interp(u, np.linspace(0, 1, len(points)), points)
        else:
            boot = idle + 0.3 * (peak - idle)
            want = {
                BOOTING: boot,
                RESUMING: boot,
                SHUTTING_DOWN: idle,
                SUSPENDING: idle,
                STANDBY: 0.07 * idle,
            }
            want = want.get(int(state[h]), 0.0)
        assert got[h] == pytest.approx(want, rel=1e-12)


@given(st.sampled_from(sorted(SPEC_POWER_W)), st.floats(1, 2), st.floats(0, 1), st.floats(0, 1))
@MANY
def test_more_load_never_draws_less(name: str, exponent: float, a: float, b: float) -> None:
    curves = (PowerCurve(table_w=name), PowerCurve("fan", idle_w=10, peak_w=90, exponent=exponent))
    p, out = power_params(curves, PowerConfig()), np.empty(4)
    load = np.array([min(a, b), max(a, b)] * 2)
    host_powers(p, np.array([0, 0, 1, 1], dtype=np.int32), np.full(4, ON, dtype=np.int8), load, out)
    assert out[0] <= out[1] + 1e-9
    assert out[2] <= out[3] + 1e-9


def test_the_life_of_a_host() -> None:
    assert do(OFF, DO_ON) == (BOOTING, 240.0)
    assert do(BOOTING, DO_FINISH) == (ON, math.inf)
    assert do(ON, DO_SUSPEND) == (SUSPENDING, 5.0)
    assert do(SUSPENDING, DO_FINISH) == (STANDBY, math.inf)
    assert do(STANDBY, DO_ON) == (RESUMING, 10.0)
    assert do(ON, DO_OFF) == (SHUTTING_DOWN, 60.0)
    assert do(STANDBY, DO_OFF) == (OFF, math.inf)
    assert do(FAILED, DO_REPAIR) == (OFF, math.inf)
    assert all(do(s, DO_FAIL)[0] == FAILED for s in range(7))
    assert do(OFF, DO_ON, np.zeros(8)) == (ON, math.inf)  # without a boot time it is on at once


def test_what_is_not_legal_is_refused() -> None:
    assert do(OFF, DO_OFF)[0] == do(ON, DO_ON)[0] == do(BOOTING, DO_OFF)[0] == do(FAILED, DO_ON)[0] == -1
    assert do(OFF, DO_SUSPEND)[0] == do(FAILED, DO_FAIL)[0] == do(ON, DO_REPAIR)[0] == -1
    legal = int((TRANSITIONS >= 0).sum())
    assert legal == 9 + 7 + 1  # orders and their ends; failures; repair


@given(st.lists(st.integers(0, 5), max_size=60))
@MANY
def test_no_host_is_lost_on_the_way(actions: list[int]) -> None:
    """From wherever random events lead, a host can be repaired and brought on."""
    state = OFF
    for action in actions:
        following, _ = do(state, action)
        state = following if following >= 0 else state
    for action in (DO_FINISH, DO_REPAIR, DO_ON, DO_FINISH):
        following, _ = do(state, action)
        state = following if following >= 0 else state
    assert state == ON


def test_energy_of_a_day_by_hand() -> None:
    """Boot 240 s, on at half load 1 h, suspended, 1 h in standby, resumed."""
    spans = [(BOOTING, 240), (ON, 3600), (SUSPENDING, 5), (STANDBY, 3600), (RESUMING, 10)]
    energy = sum(float(powers(1, state, 0.5)[0]) * t for state, t in spans)
    assert energy == pytest.approx(150 * 240 + 150 * 3600 + 100 * 5 + 5 * 3600 + 150 * 10)


def test_carbon_by_hand() -> None:
    series = CarbonSeries(np.array([100.0, 300.0]), "test", offset_s=1800)
    # 1 kW for an hour from the middle of the first: half at 100 and half at 300 g/kWh.
    assert carbon_kg(series, 1000.0, 0, 3600) == pytest.approx(0.2, rel=1e-12)
    assert carbon_kg(series, 1000.0, 0, 3600, pue=1.5) == pytest.approx(0.3, rel=1e-12)
    assert carbon_kg(series, np.array([0.0, 500.0]), 5400, 9000) == pytest.approx([0, 0.15], rel=1e-12)
    assert series.covers_s == 5400
    assert carbon_kg(constant_carbon(400, "flat"), 250.0, 0, 7200) == pytest.approx(0.2, rel=1e-12)


def test_the_integral_equals_plain_python() -> None:
    rng = np.random.default_rng(9)
    for _ in range(1000):
        n, step = int(rng.integers(1, 8)), float(rng.choice([900, 3600]))
        g, offset = rng.uniform(0, 900, n), float(rng.uniform(0, n * step * 0.99))
        a, b = np.sort(rng.uniform(0, 2 * n * step, 2))
        edges = [*(k * step for k in range(n)), math.inf]
        lo, hi = offset + a, offset + b
        want = math.fsum(g[k] * max(0.0, min(hi, edges[k + 1]) - max(lo, edges[k])) for k in range(n))
        assert intensity_integral(g, step, offset, a, b) == pytest.approx(want, rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
@MANY
def test_cutting_a_span_changes_nothing(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.uniform(1, 900, 35_064)
    start = float(rng.uniform(0, 1e8))
    cuts = np.sort(np.append(rng.uniform(start, start + 7200, parts - 1), [start, start + 7200]))
    whole = intensity_integral(g, 3600.0, 0.0, start, start + 7200)
    pieces = math.fsum(intensity_integral(g, 3600.0, 0.0, a, b) for a, b in itertools.pairwise(cuts))
    assert pieces == pytest.approx(whole, rel=1e-9)


def write_series(path: Path, stamps: Any, values: Any) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"timestamp": stamps, "carbon_intensity": values}), path)
    return path


def test_the_reader_finds_the_start_and_records_the_source(tmp_path: Path) -> None:
    stamps = np.arange("2024-01-01", "2024-01-03", np.timedelta64(1, "h"), dtype="datetime64[ms]")
    path = write_series(tmp_path / "xx.parquet", stamps, np.arange(48.0))
    series = read_carbon(path, start="2024-01-01T12:30", source="Example grid")
    assert (series.step_s, series.offset_s, series.start) == (3600, 45_000, "2024-01-01T00:00:00")
    assert series.source.startswith("Example grid; xx.parquet (sha256 ")
    assert carbon_kg(series, 1000.0, 0, 3600) == pytest.approx(0.0125)
    for start, text in (("2025-01-01", "holds 2024-01-01"), ("soon", "must be a date or time")):
        with pytest.raises(TraceError, match=text):
            read_carbon(path, start=start)


def test_the_reader_names_what_is_wrong(tmp_path: Path) -> None:
    stamps = np.arange(4).astype("datetime64[h]").astype("datetime64[ms]")
    path = tmp_path / "x.parquet"
    with pytest.raises(TraceError, match=r"cannot be read"):
        read_carbon(path)
    path.write_text("no")
    with pytest.raises(TraceError, match=r"not a Parquet file"):
        read_carbon(path)
    for times, values, text in (
        (stamps, [1.0, -2.0, 3.0, 4.0], "row 2: carbon_intensity must be a number of at least 0"),
        (stamps[[0, 1, 3, 2]], [1.0] * 4, "row 3: timestamps must rise by equal steps"),
        (stamps[[0, 0]], [1.0] * 2, "row 2: timestamps must rise"),
        (stamps[:0], np.zeros(0), "has no rows"),
        ([1, 2], [1.0, 2.0], "timestamp must hold times"),
        (stamps[:2], ["a", "b"], "must hold numbers"),
        (stamps[:2], [1.0, None], "must not be empty"),
    ):
        with pytest.raises(TraceError, match=text):
            read_carbon(write_series(path, times, values))
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"timestamp": stamps}), path)
    with pytest.raises(TraceError, match=r"needs the columns carbon_intensity"):
        read_carbon(path)


def test_real_series(traces_dir: Path) -> None:
    files = sorted((traces_dir / "carbon").glob("*.parquet"))
    if not files:
        pytest.skip("no carbon series")
    for path in files:
        series = read_carbon(path, start="2023-03-03")
        assert series.step_s == 3600
        assert series.g_per_kwh.size == 4 * 8766
        assert series.g_per_kwh.min() >= 0
        assert series.g_per_kwh.max() < 1500


def test_bad_values_name_their_key() -> None:
    for make, text in (
        (lambda: PowerCurve("linear", idle_w=5, peak_w=1), "power curve.peak_w=1"),
        (lambda: PowerCurve(table_w="vax"), "power curve.table_w=vax: must be one of"),
        (lambda: PowerCurve(), "power curve.table_w: needs at least 2 points"),
        (lambda: PowerCurve("fan", peak_w=1, exponent=2.5), "power curve.exponent=2.5"),
        (lambda: PowerConfig(pue=0.9), "power.pue=0.9: must be at least 1"),
        (lambda: CarbonSeries(np.array([-1.0]), "x"), "carbon.g_per_kwh"),
        (lambda: CarbonSeries(np.array([1.0]), " "), "carbon.source"),
        (lambda: CarbonSeries(np.array([1.0]), "x", offset_s=3600), "carbon.offset_s=3600"),
        (lambda: carbon_kg(constant_carbon(1, "x"), 1.0, 5, 4), "carbon: the span 5..4"),
    ):
        with pytest.raises(ConfigError, match=text):
            make()
