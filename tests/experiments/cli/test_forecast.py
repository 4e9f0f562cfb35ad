"""``virtgym forecast``: its numbers against a plain twin and closed forms, its command line end to end."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.traces import Trace, read_trace
from virtgym.experiments.analysis.forecast_skill import COLUMNS, SkillSettings, forecast_skill, unseasoned
from virtgym.experiments.analysis.stats import percentile_interval, resampled_means
from virtgym.experiments.cli.commands import COMMANDS, main
from virtgym.experiments.cli.forecast import skill_tables
from virtgym.experiments.config.overrides import PolicySpec
from virtgym.policies.forecast.forecasters import FORECASTERS, make_forecaster


def make_trace(util: F8, **changes: Any) -> Trace:
    """A trace of some samples (S, V), every 300 s, of VMs that live for all of it."""
    n = util.shape[1]
    names = tuple(f"vm{v}" for v in range(n))
    trace = Trace("test", "table", "test.csv", 300.0, util, names, np.zeros(n), np.full(n, np.inf))
    return replace(trace, **changes)


def specs(*names: str) -> tuple[PolicySpec, ...]:
    return tuple(PolicySpec(name) for name in names)


def cell(rows: pd.DataFrame, forecaster: str, steps: int = 1, level: str = "vm") -> pd.Series[Any]:
    """The one row of a forecaster."""
    found = rows[(rows["forecaster"] == forecaster) & (rows["steps"] == steps) & (rows["level"] == level)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PlanetLab day of 45 VMs, and a cache of its own."""
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "20110303"
    folder.mkdir()
    for v in range(45):
        level = rng.integers(5, 40) + 10 * np.sin(np.arange(288) / 20 + v)
        load = np.clip(level + rng.normal(0, 5, 288), 0, 100).astype(int)
        (folder / f"vm {v:02d}").write_text("".join(f"{x}\n" for x in load))
    return folder


def test_the_numbers_are_those_of_a_plain_loop() -> None:
    """VMs that come and go, one forecast at a time, each from its own past only."""
    rng = np.random.default_rng(5)
    util = rng.random((50, 6)) * rng.random(6)
    arrival = np.array([0.0, 0.0, 900.0, 3100.0, 0.0, 13_500.0])
    departure = np.array([np.inf, 9000.0, np.inf, 14_000.0, 2000.0, np.inf])
    trace = make_trace(util, arrival_s=arrival, departure_s=departure)
    settings = SkillSettings(specs("loess", "ewma", "persistence"), (1, 4), warmup=8, vms_per_host=0)
    rows = forecast_skill(trace, settings)
    for steps in (1, 4):
        errors: dict[str, list[list[float]]] = {name: [] for name in ("loess", "ewma", "persistence", "mean")}
        for v in range(6):
            first, end = int(arrival[v] // 300), min(50, math.ceil(min(departure[v], 1e9) / 300))
            y = util[first:end, v]
            for name, found in errors.items():
                past = [y[: t + 1] for t in range(7, len(y) - steps)]
                values = [float(make_forecaster(name).predict(p[:, None], steps)[0]) for p in past]
                found.append([np.clip(x, 0, 1) - y[len(p) - 1 + steps] for x, p in zip(values, past)])
        scored = [v for v in range(6) if errors["mean"][v]]
        assert 0 < len(scored) < 6  # one lives too short to be scored
        mae = {name: np.mean([np.mean(np.abs(e[v])) for v in scored]) for name, e in errors.items()}
        for name in ("loess", "ewma", "persistence"):
            row = cell(rows, name, steps)
            assert row["series"] == len(scored)
            assert row["forecasts"] == sum(map(len, errors[name]))
            assert row["mae"] == pytest.approx(mae[name], abs=1e-12)
            mean_square = np.mean([np.mean(np.square(errors[name][v])) for v in scored])
            assert row["rmse"] == pytest.approx(math.sqrt(mean_square), abs=1e-12)
            assert row["bias"] == pytest.approx(
                np.mean([np.mean(errors[name][v]) for v in scored]), abs=1e-12
            )
            for reference in ("persistence", "mean"):
                expected = 1 - mae[name] / mae[reference]
                assert row[f"skill_{reference}"] == pytest.approx(expected, abs=1e-12)
            assert row["mae_low"] <= row["mae"] <= row["mae_high"]


def test_hosts_are_sums_of_their_vms() -> None:
    """Two groups: whatever the draw, a forecast that is linear errs by the sum of what its VMs err."""
    rng = np.random.default_rng(1)
    cpu = np.array([1000.0, 3000.0])
    trace = make_trace(rng.random((60, 2)), cpu_mhz=cpu)
    rows = forecast_skill(trace, SkillSettings(specs("ols"), (2,), vms_per_host=1, clip=False))
    host, vm = cell(rows, "ols", 2, "host"), cell(rows, "ols", 2, "vm")
    assert host["mae"] == pytest.approx(vm["mae"])  # a group of one VM is that VM
    same = make_trace(np.repeat(rng.random((60, 1)), 40, axis=1))
    rows = forecast_skill(same, SkillSettings(specs("ewma"), (1,), vms_per_host=20))
    assert cell(rows, "ewma", 1, "host")["mae"] == pytest.approx(cell(rows, "ewma")["mae"])
    assert cell(rows, "ewma", 1, "host")["series"] == 2
    few = forecast_skill(make_trace(rng.random((60, 39))), SkillSettings(specs("ewma"), vms_per_host=20))
    assert set(few["level"]) == {"vm"}  # a single host has no spread


def test_a_ramp_is_forecast_by_lines_only() -> None:
    util = np.arange(100.0)[:, None] * np.array([0.001, 0.002, 0.003])
    rows = forecast_skill(make_trace(util), SkillSettings(specs("persistence", "ols", "loess"), (1, 6)))
    for steps in (1, 6):
        persistence = cell(rows, "persistence", steps)
        assert persistence["mae"] == pytest.approx(0.002 * steps)
        assert persistence["bias"] == pytest.approx(-0.002 * steps)
        assert persistence["skill_persistence"] == 0.0
        for name in ("ols", "loess"):
            assert cell(rows, name, steps)["mae"] == pytest.approx(0, abs=1e-12)
            assert cell(rows, name, steps)["skill_persistence"] == pytest.approx(1)


def test_noise_has_the_skill_that_theory_says() -> None:
    """Independent noise: persistence errs by sqrt 2 s, the mean of n by sqrt(1 + 1/n) s."""
    noise = 10 + np.random.default_rng(0).normal(0, 1, (500, 200))
    settings = SkillSettings(
        (*specs("mean"), PolicySpec("moving_average", {"window": 4})), (1, 6), warmup=100
    )
    rows = forecast_skill(make_trace(noise), settings)
    for steps in (1, 6):
        assert cell(rows, "mean", steps)["mae"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)
        assert cell(rows, "mean", steps)["skill_persistence"] == pytest.approx(1 - 1 / math.sqrt(2), abs=0.01)
        four = cell(rows, "moving_average(window=4)", steps)
        assert four["skill_mean"] == pytest.approx(1 - math.sqrt(1.25 / (1 + 1 / 300)), abs=0.01)


def test_a_constant_load_leaves_nothing_to_gain() -> None:
    rows = forecast_skill(make_trace(np.full((60, 4), 0.25)), SkillSettings())
    assert (rows["mae"] == 0).all()
    assert rows["skill_persistence"].isna().all()  # a reference that does not err can measure nothing
    assert "–" in _render(rows)


def _render(rows: pd.DataFrame) -> str:
    from rich.console import Console

    console = Console(width=150)
    with console.capture() as caught:
        for table in skill_tables(rows):
            console.print(table)
    return caught.get()


def test_clipping_takes_what_cannot_be() -> None:
    y = np.zeros((60, 2))
    y[::7] = 1.0
    trace = make_trace(y)
    settings = SkillSettings((PolicySpec("loess", {"window": 5}),), (6,), vms_per_host=0)
    clipped = forecast_skill(trace, settings).iloc[0]
    free = forecast_skill(trace, replace(settings, clip=False)).iloc[0]
    assert clipped["mae"] <= 1.0
    assert free["mae"] > clipped["mae"]


def test_few_origins_are_spread_evenly() -> None:
    trace = make_trace(np.random.default_rng(0).random((300, 30)))
    settings = SkillSettings(specs("ewma"), (1,), vms_per_host=0)
    every, some = (forecast_skill(trace, replace(settings, origins=n)).iloc[0] for n in (2000, 50))
    assert every["forecasts"] == 30 * 270
    assert some["forecasts"] == 30 * 50
    assert some["mae"] == pytest.approx(every["mae"], rel=0.1)


def test_a_season_is_a_day_of_any_sampling() -> None:
    day = np.random.default_rng(0).random((24, 30))
    trace = make_trace(np.vstack([day] * 4), sample_s=3600.0)
    rows = forecast_skill(trace, SkillSettings(specs("seasonal"), (1, 6)))
    assert rows["mae"].max() == pytest.approx(0, abs=1e-12)
    assert unseasoned(specs("seasonal", "ewma"), trace) == []
    assert unseasoned(specs("seasonal", "ewma"), make_trace(day)) == ["seasonal"]


def test_the_same_seed_gives_the_same_table() -> None:
    trace = make_trace(np.random.default_rng(0).random((60, 50)))
    settings = SkillSettings(specs("ewma", "loess"))
    first = forecast_skill(trace, settings)
    pd.testing.assert_frame_equal(first, forecast_skill(trace, settings))
    other = forecast_skill(trace, replace(settings, seed=1))
    assert not first["mae_low"].equals(other["mae_low"])
    vms = first["level"] == "vm"
    assert first["mae"][vms].equals(other["mae"][vms])  # only the groups and the intervals are drawn


def test_resamples_are_shared_by_all_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, 1.0, 400)
    means = resampled_means(np.column_stack([x, 3 * x]), rng, n_resamples=3000)
    np.testing.assert_allclose(means[:, 1], 3 * means[:, 0])
    assert means[:, 0].std() == pytest.approx(x.std() / 20, rel=0.05)
    assert means[:, 0].mean() == pytest.approx(x.mean(), abs=3 * x.std() / 20 / math.sqrt(3000))
    interval = percentile_interval(float(x.mean()), means[:, 0], 400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.08)
    assert not percentile_interval(1.0, means[:, 0], 1).known


def test_resamples_are_drawn_in_pieces() -> None:
    """More values than fit one piece: all of them can be drawn, and each piece is drawn anew."""
    values = np.arange(300_000.0)[:, None]
    means = resampled_means(values, np.random.default_rng(0), n_resamples=30)
    assert len(np.unique(means)) == 30
    assert means.mean() == pytest.approx(149_999.5, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forecasters": ()}, "forecasters=[]: name at least one"),
        ({"forecasters": specs("ewma", "ewma")}, "forecasters: ewma is named twice"),
        ({"forecasters": specs("ewmo")}, "forecaster=ewmo: did you mean ewma"),
        ({"horizons": ()}, "horizons=[]: must be distinct"),
        ({"horizons": (0,)}, "horizons=[0]"),
        ({"horizons": (1, 1)}, "horizons=[1, 1]"),
        ({"warmup": 0}, "warmup=0: must be at least 1"),
        ({"resamples": 10}, "resamples=10: must be at least 100"),
        ({"vms_per_host": -1}, "vms_per_host=-1: must be at least 0"),
    ],
)
def test_bad_settings_say_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SkillSettings(**settings)
    assert message in str(caught.value)


def test_a_trace_that_is_too_short_is_named() -> None:
    with pytest.raises(TraceError, match=r"test.csv: no vm has warmup \+ horizon = 36 samples"):
        forecast_skill(make_trace(np.zeros((33, 3))), SkillSettings())


def test_the_command_end_to_end(day: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "virtgym.experiments.cli", "forecast", f"trace={day}", f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(out / "forecast.csv", dtype={"trace": str})
    assert tuple(rows.columns) == COLUMNS
    assert not rows.isna().to_numpy().any()
    assert len(rows) == 2 * 2 * len(FORECASTERS)
    assert set(rows["forecaster"]) == set(FORECASTERS)
    assert set(rows["steps"]) == {1, 6}
    assert set(rows["ahead_s"]) == {300.0, 1800.0}
    assert (rows["trace"] == "20110303").all()
    assert cell(rows, "loess", 6)["forecasts"] == 45 * (288 - 29 - 6)
    assert (rows["mae_low"] <= rows["mae"]).all()
    assert (rows["mae"] <= rows["mae_high"]).all()
    for text in (
        "20110303: 45 VMs",
        "20110303: 2 hosts",
        "loess_robust",
        "skill on persistence",
        "forecast.csv",
    ):
        assert text in done.stdout
    assert "seasonal: the trace has no whole season" in done.stdout
    assert f"[20/20] 20110303 host seasonal: MAE {rows['mae'].iloc[-11]:.4f} at 1" in done.stderr
    assert (out / "config.yaml").is_file()


def test_a_folder_is_filled_again_only_with_the_same(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["forecast", f"trace={day}", f"out={tmp_path / 'out'}", "resamples=100", "vms_per_host=0"]
    assert main([*command, "forecasters=[ewma,'loess(window=9)']", "horizons=3"]) == 0
    first = (tmp_path / "out" / "forecast.csv").read_bytes()
    assert main([*command, "forecasters=[ewma,'loess(window=9)']", "horizons=3"]) == 0
    assert (tmp_path / "out" / "forecast.csv").read_bytes() == first
    capsys.readouterr()
    assert main([*command, "horizons=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("holds forecast.csv of other settings; choose another out=")
    assert (tmp_path / "out" / "forecast.csv").read_bytes() == first


def test_several_traces_and_the_generator(
    day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["resamples=100", "vms_per_host=0", "forecasters=[ewma]", f"out={tmp_path / 'out'}"]
    twin = tmp_path / "20110306"
    day.rename(twin)
    day.symlink_to(twin)  # the name of a trace is that of the folder behind it
    assert main(["forecast", f"trace=[{day},{twin}]", *options]) == 2
    assert "a trace called 20110306 is named twice" in capsys.readouterr().err
    assert main(["forecast", f"trace=[{twin},synthetic]", *options]) == 0
    rows = pd.read_csv(tmp_path / "out" / "forecast.csv", dtype={"trace": str})
    assert rows["trace"].iloc[0] == "20110306"
    assert rows["trace"].nunique() == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "trace=: name a file or folder"),
        (["trace=[]"], "trace=: name a file or folder"),
        (["trace=DAY", "horizn=3"], "horizn: no such key (did you mean horizons?); allowed: trace"),
        (["trace=DAY", "horizons=[a]"], "horizons=[a]: must be integers"),
        (["trace=DAY", "warmup=x"], "warmup=x: must be an integer"),
        (["trace=DAY", "clip=1"], "clip=1: must be true or false"),
        (["trace=DAY", "forecasters=[loes]"], "forecaster=loes: did you mean loess"),
        (["trace=DAY", "forecasters=[loess(window=1)]"], "forecaster.window=1: must be from 4 to 2000"),
        (["trace=DAY", "forecasters=[loess(9)]"], "'9' should be parameter=value"),
        (["trace=DAY", "trace.options.path=3"], "trace.options.path: no such key"),
        (["trace=DAY", "trace.options.expect=3"], "planetlab: no option 'expect' (did you mean expected?)"),
        (["trace=DAY", "trace.format=huawei"], "huawei is a format of VM requests"),
        (["trace=DAY/none"], "no such file or folder"),
        (["trace=DAY", "warmup=288"], "no vm has warmup + horizon = 289 samples"),
        (["trace"], "expected key=value"),
    ],
)
def test_every_mistake_is_one_line(
    day: Path, tmp_path: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [text.replace("DAY", str(day)) for text in arguments]
    assert main(["forecast", *typed, f"out={tmp_path / 'out'}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("virtgym forecast: ")
    assert part in line
    assert not (tmp_path / "out" / "forecast.csv").exists()


def test_help_names_every_forecaster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "--help"]) == 0
    usage = capsys.readouterr().out
    assert [name for name in FORECASTERS if name not in usage] == []
    assert COMMANDS["forecast"].usage == usage


def test_on_a_real_day_short_lines_lose_to_averages(traces_dir: Path) -> None:
    folder = traces_dir / "planetlab" / "20110303"
    if not folder.is_dir():
        pytest.skip(f"no trace at {folder}")
    short = (PolicySpec("loess", {"window": 10}), PolicySpec("ols", {"window": 10}))
    rows = forecast_skill(read_trace(folder), SkillSettings((*specs("moving_average", "loess"), *short)))
    for level in ("vm", "host"):
        for steps in (1, 6):
            average, tuned = (cell(rows, name, steps, level) for name in ("moving_average", "loess"))
            assert average["skill_persistence_low"] > 0.2
            assert tuned["skill_persistence_low"] > 0.15
            for name in ("loess(window=10)", "ols(window=10)"):
                assert cell(rows, name, steps, level)["mae_low"] > average["mae"]
