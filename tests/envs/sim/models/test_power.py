"""Power states, curves, PUE, carbon: closed forms, the state machine of the engine, integrals, the reader."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.cpu import host_power
from virtgym.envs.sim.models.carbon import (
    DAYS,
    CarbonSeries,
    carbon_kg,
    constant_carbon,
    daily_carbon,
    intensity_integral,
)
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.power import (
    BOOTING,
    FAILED,
    OFF,
    ON,
    RESUMING,
    SHUTTING_DOWN,
    SPEC_POWER_W,
    STANDBY,
    SUSPENDING,
    PowerConfig,
    PowerCurve,
)
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload
from virtgym.envs.traces.formats.carbon import read_carbon

Make = Callable[..., Any]
MANY = settings(max_examples=200)
CURVES: tuple[dict[str, Any], ...] = (
    {"power_w": "hp_ml110_g4"},
    {"curve": PowerCurve("linear", idle_w=100, peak_w=200)},
    {"curve": PowerCurve("fan", idle_w=100, peak_w=200)},
    {"power_w": (50.0, 70.0, 120.0)},
    {"power_w": (50.0, 70.0, 120.0), "curve": PowerCurve(busy_w=30)},
    {"curve": PowerCurve("fan", idle_w=100, peak_w=200, exponent=2.0, busy_w=10, scale=1.25)},
)


def host_types(curves: Sequence[dict[str, Any]]) -> tuple[HostType, ...]:
    return tuple(HostType(f"{i}", 1, 1000.0, 1024.0, **curve) for i, curve in enumerate(curves))


def cluster(curves: Sequence[dict[str, Any]], config: PowerConfig | None = None) -> Simulator:
    """A host of every curve; tables of different length meet on one grid."""
    kinds = host_types(curves)
    hosts = ClusterConfig(kinds, np.arange(len(kinds), dtype=np.int32), power=config or PowerConfig())
    one = np.ones(1)
    load = Workload("one", 300.0, np.zeros((1, 1)), one, one.astype(np.int32), one, one * 300.0, one * np.inf)
    return Simulator(hosts, load)


def powers(kind: Any, state: Any, load: Any, config: PowerConfig | None = None) -> Any:
    """Power of hosts by curve, state and load, as the engine works it out."""
    sim = cluster(CURVES, config)
    watts = []
    for h, at, u in zip(*np.broadcast_arrays(np.atleast_1d(kind), state, load)):
        sim.state.host_power_state[h] = at
        watts.append(host_power(sim.kernel_params, sim.kernel_state, int(h), float(u)))
    return np.array(watts)


def test_curves_by_hand() -> None:
    assert powers([0, 0, 0], ON, [0.0, 0.25, 1.0]).tolist() == [86.0, pytest.approx(94.3), 117.0]
    assert powers(1, ON, 0.3).tolist() == [pytest.approx(130.0)]
    assert powers([2, 2, 2], ON, [0.0, 0.5, 1.0]) == pytest.approx([100, 200 - 100 * 0.5**1.4, 200])
    assert powers(3, ON, 0.75).tolist() == [95.0]
    assert powers([1, 1], ON, [-0.5, 1.5]).tolist() == [100.0, 200.0]
    assert powers(4, ON, [0.0, 1e-6, 0.75]) == pytest.approx([50.0, 80.0, 125.0], rel=1e-6)
    assert powers(5, ON, [0.0, 0.4, 0.9]) == pytest.approx([100.0, 110 + 100 * (2 * 0.5 - 0.5**2), 210.0])


def test_power_in_every_other_state() -> None:
    states = [OFF, BOOTING, SHUTTING_DOWN, STANDBY, SUSPENDING, RESUMING, FAILED]
    assert powers(1, states, 0.9) == pytest.approx([0, 150, 100, 5, 100, 150, 0])
    full = PowerConfig(boot_level=1.0, standby_share=0.1)
    assert powers(1, [BOOTING, STANDBY], 0.9, full) == pytest.approx([200, 10])


def test_the_kernel_equals_plain_python() -> None:
    rng = np.random.default_rng(2)
    kind, state, load = (
        rng.integers(0, len(CURVES), 2000),
        rng.integers(0, 8, 2000),
        rng.uniform(-0.1, 1.2, 2000),
    )
    config = PowerConfig(standby_share=0.07, boot_level=0.3)
    got = powers(kind, state, load, config)
    tables = [host.table_w for host in host_types(CURVES)]
    for h in range(2000):
        points = tables[kind[h]]
        idle, peak, u = points[0], points[-1], min(1.0, max(0.0, load[h]))
        curve = CURVES[kind[h]].get("curve", PowerCurve())
        if state[h] == ON:
            if curve.kind == "fan":
                seen = min(1.0, curve.scale * u)
                want = idle + (peak - idle) * (2 * seen - seen**curve.exponent)
            else:
                want = np.interp(u, np.linspace(0, 1, len(points)), points)
            want += curve.busy_w * (u > 0)
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
    sim = cluster(({"power_w": name}, {"curve": PowerCurve("fan", idle_w=10, peak_w=90, exponent=exponent)}))
    for h in range(2):
        low, high = (host_power(sim.kernel_params, sim.kernel_state, h, u) for u in sorted((a, b)))
        assert low <= high + 1e-9


ORDERS = ("power_on", "power_off", "suspend")
LEGAL = {
    (OFF, "power_on"): BOOTING,
    (ON, "power_off"): SHUTTING_DOWN,
    (ON, "suspend"): SUSPENDING,
    (STANDBY, "power_on"): RESUMING,
}
"""State and order that leads to another state; all others are refused."""

LASTS = {BOOTING: (240.0, ON), SHUTTING_DOWN: (60.0, OFF), SUSPENDING: (5.0, STANDBY), RESUMING: (10.0, ON)}
"""How long a state lasts, s, and what comes then; the others stay."""

WAYS: dict[int, tuple[tuple[float, str], ...]] = {
    OFF: ((800.0, "power_off"),),
    BOOTING: ((800.0, "power_off"), (998.0, "power_on")),
    ON: (),
    SHUTTING_DOWN: ((998.0, "power_off"),),
    STANDBY: ((800.0, "suspend"),),
    SUSPENDING: ((998.0, "suspend"),),
    RESUMING: ((800.0, "suspend"), (998.0, "power_on")),
    FAILED: ((998.0, "fail"),),
}
"""Times of the orders that bring host 1 into a state by 999 s."""


def give(sim: Simulator, order: str) -> bool:
    """Give host 1 an order; whether it was carried out."""
    return not sim.apply(Decisions(**{order: np.array([1], dtype=np.int32)}))


def bring(make_sim: Make, state: int, fails: float = math.inf, **host: Any) -> Simulator:
    """A cluster whose empty host 1 is in a state at 999 s, and fails for 100 s at a time."""
    way = WAYS[state]
    down = np.array([998.0 if way and way[0][1] == "fail" else fails])
    down = down[np.isfinite(down)]
    replayed = replay_outages(np.ones(len(down), dtype=np.int32), down, down + 100.0, 2)
    times = {"boot_time_s": 240.0, "shutdown_time_s": 60.0, **host}
    sim: Simulator = make_sim([0.5], failures=FailureConfig(model="none"), replayed=replayed, **times)
    sim.reset(np.random.default_rng(0))
    for at, order in way:
        sim.advance(at - sim.time_s)
        assert order == "fail" or give(sim, order)
    sim.advance(999.0 - sim.time_s)
    assert sim.state.host_power_state[1] == state
    return sim


def test_every_order_in_every_state(make_sim: Make) -> None:
    for state in WAYS:
        there = bring(make_sim, state)
        for order in ORDERS:
            sim = there.fork()
            assert give(sim, order) == ((state, order) in LEGAL), (state, order)
            following = LEGAL.get((state, order), state)
            assert sim.state.host_power_state[1] == following
            if (state, order) in LEGAL:
                lasts, then = LASTS[following]
                sim.advance(lasts - 0.5)
                assert sim.state.host_power_state[1] == following
                sim.advance(1.0)
                assert sim.state.host_power_state[1] == then


def test_a_host_fails_in_any_state_and_is_repaired(make_sim: Make) -> None:
    for state in WAYS.keys() - {FAILED}:
        sim = bring(make_sim, state, fails=1000.0)
        sim.advance(50.0)
        assert sim.state.host_power_state[1] == FAILED
        assert not any(give(sim, order) for order in ORDERS)
        sim.advance(51.0)  # it boots by itself if it was on, or about to be
        assert sim.state.host_power_state[1] == (BOOTING if state in (BOOTING, ON, RESUMING) else OFF)
        if state not in (BOOTING, ON, RESUMING):
            assert give(sim, "power_on")
        sim.advance(241.0)
        assert sim.state.host_power_state[1] == ON


def test_a_transition_without_a_time_is_over_at_once(make_sim: Make) -> None:
    power = PowerConfig(suspend_time_s=0.0, resume_time_s=0.0)
    sim = bring(make_sim, ON, boot_time_s=0.0, shutdown_time_s=0.0, power=power)
    for order, state in (("power_off", OFF), ("power_on", ON), ("suspend", STANDBY), ("power_on", ON)):
        assert give(sim, order)
        assert sim.state.host_power_state[1] == state


@given(st.lists(st.tuples(st.sampled_from(ORDERS), st.sampled_from((1.0, 20.0, 300.0))), max_size=12))
@settings(max_examples=60)
def test_no_host_is_lost_on_the_way(make_sim: Make, orders: list[tuple[str, float]]) -> None:
    """From wherever random orders lead, a host that fails there can be repaired and brought on."""
    sim = bring(make_sim, ON, fails=1000.0 + sum(time for _, time in orders))
    for order, time in orders:
        give(sim, order)
        sim.advance(time)
    sim.advance(101.0 + 1.0)
    give(sim, "power_on")
    sim.advance(241.0)
    assert sim.state.host_power_state[1] == ON


def test_energy_of_a_day_by_hand(make_sim: Make) -> None:
    """Boot 240 s, on at half load 1 h, suspended for 5 s, in standby, resumed for 10 s, idle."""
    times = {"boot_time_s": 240.0, "interval_s": 240.0, "hosts_start_on": False, "auto_boot": False}
    stay = {"cpu_mhz": 2000.0, "vcpus": 2, "arrival_s": 240.0, "departure_s": 3840.0}
    sim = make_sim(
        [0.5], n_hosts=1, load=stay, horizon_s=9600.0, power=PowerConfig(standby_share=0.04, pue=1.5), **times
    )
    zero = np.array([0], dtype=np.int32)
    assert not sim.apply(Decisions(power_on=zero))
    sim.advance(3840.0)
    assert not sim.apply(Decisions(suspend=zero))
    sim.advance(3600.0)
    assert not sim.apply(Decisions(power_on=zero))
    sim.advance(240.0)
    want = 150 * 240 + 150 * 3600 + 100 * 5 + 4 * 3595 + 150 * 10 + 100 * 230
    assert sim.state.host_energy_j[0] == pytest.approx(want)
    assert sim.metrics()["energy_kwh"] == pytest.approx(1.5 * want / 3.6e6)


def test_carbon_by_hand() -> None:
    series = CarbonSeries(np.array([100.0, 300.0]), "test", offset_s=1800)
    # 1 kW for an hour from the middle of the first: half at 100 and half at 300 g/kWh.
    assert carbon_kg(series, 1000.0, 0, 3600) == pytest.approx(0.2, rel=1e-12)
    assert carbon_kg(series, 1000.0, 0, 3600, pue=1.5) == pytest.approx(0.3, rel=1e-12)
    assert carbon_kg(series, np.array([0.0, 500.0]), 5400, 9000) == pytest.approx([0, 0.15], rel=1e-12)
    assert series.covers_s == 5400
    assert carbon_kg(constant_carbon(400, "flat"), 250.0, 0, 7200) == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("parts", [1, 3, 24])
def test_a_daily_course_repeats_every_day(parts: int) -> None:
    course = [100.0 + 20.0 * k for k in range(parts)]
    series, day = daily_carbon(course, "test"), 86_400.0
    whole = carbon_kg(series, 1000.0, 0, day)
    assert whole == pytest.approx(24 * sum(course) / parts / 1000, rel=1e-12)  # 1 kW for 24 h at the mean
    for first in (0, 1, 7, DAYS - 1):
        begin = first * day
        assert carbon_kg(series, 1000.0, begin, begin + day) == pytest.approx(whole, rel=1e-9)
        for k, each in enumerate(course):
            middle = begin + (k + 0.5) * day / parts
            assert carbon_kg(series, 1000.0, middle, middle + 60) == pytest.approx(each / 60e3, rel=1e-9)
    assert carbon_kg(series, 1000.0, day / 2, 5.5 * day) == pytest.approx(5 * whole, rel=1e-9)
    assert series.covers_s == DAYS * day


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
    with pytest.raises(TraceError, match=r"no such file"):
        read_carbon(path)
    path.write_text("no")
    with pytest.raises(TraceError, match=r"not a Parquet file"):
        read_carbon(path)
    for times, values, text in (
        (stamps, [1.0, -2.0, 3.0, 4.0], "row 2: carbon_intensity must be a number from 0 to"),
        (stamps[[0, 1, 3]], [1.0] * 3, "row 3: no value for 1970-01-01T02:00:00; 1 of 4 values are missing"),
        (stamps + np.array([0, 0, 0, 7]), [1.0] * 4, "row 4: timestamps must rise by equal steps"),
        (stamps[:0], np.zeros(0), "has no rows"),
        ([1, 2], [1.0, 2.0], "timestamp must hold times"),
        (stamps[:2], ["a", "b"], "expected numbers"),
        (stamps[:2], [1.0, None], "row 2: no value for .* fill=previous"),
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
        (lambda: HostType(power_w="vax"), "power_w=vax: no such table"),
        (lambda: HostType(power_w=(1.0,)), "power_w: needs at least 2 points"),
        (lambda: HostType(power_w=(1.0, math.nan)), "power_w\\[1\\]=nan: must be 0 or more"),
        (
            lambda: HostType(power_w=5),  # type: ignore[arg-type]
            "must be the name of a table, or a list of watts",
        ),
        (lambda: PowerCurve("fan", peak_w=1, exponent=2.5), "power curve.exponent=2.5"),
        (lambda: PowerCurve(busy_w=-1), "power curve.busy_w=-1"),
        (lambda: PowerCurve("linear", peak_w=1, scale=2.0), "power curve.scale=2.0: belongs to kind fan"),
        (lambda: PowerConfig(pue=0.9), "power.pue=0.9: must be from 1 to 1000"),
        (lambda: CarbonSeries(np.array([-1.0]), "x"), "carbon.g_per_kwh"),
        (lambda: CarbonSeries(np.array([1.0]), " "), "carbon.source"),
        (lambda: CarbonSeries(np.array([1.0]), "x", offset_s=3600), "carbon.offset_s=3600"),
        (lambda: carbon_kg(constant_carbon(1, "x"), 1.0, 5, 4), "carbon: the span 5..4"),
    ):
        with pytest.raises(ConfigError, match=text):
            make()
