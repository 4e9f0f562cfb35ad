"""Fits of power that are known, walks that see no future, and the commands from a meter to a scenario."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.sim.models.power import PowerCurve
from virtgym.experiments.cli import main
from virtgym.experiments.power.commands import read_request
from virtgym.experiments.power.forms import FORMS, Hosts, fit, is_table, parameters, shape
from virtgym.experiments.power.loads import GRID, LINES, play_loads
from virtgym.experiments.power.walk import Metered, walk_forward

N_HOSTS = 40
SMALL = {"hosts": [{"name": "h", "count": 8, "cores": 12, "core_mhz": 3067, "memory_mib": 16384}]}
TRUTH: dict[str, tuple[float, ...]] = {
    "linear": (80.0, 120.0),
    "mse": (80.0, 120.0, 1.6),
    "table": (80.0, *(20.0 - j for j in range(10))),
    "busy": (80.0, 120.0, 25.0),
    "mse_busy": (80.0, 120.0, 1.6, 25.0),
    "table_busy": (80.0, *(20.0 - j for j in range(10)), 25.0),
}
"""Parameters to be found again."""


def some_hosts(steps: int, rng: np.random.Generator) -> Hosts:
    """Hosts that come and go, at loads of the grid."""
    at = np.zeros((steps, LINES + 1))
    for row in at:
        loads = np.where(rng.random(N_HOSTS) < rng.random(), rng.integers(0, LINES + 1, N_HOSTS), 0)
        row += np.bincount(loads, minlength=LINES + 1)
    return Hosts(at, at[:, 1:].sum(axis=1))


def drawn(form: str, values: Any, hosts: Hosts) -> Any:
    busy = values[-1] if form.endswith("busy") else 0.0
    return hosts.at @ shape(form, np.array(values)) + busy * hosts.busy


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    hosts = some_hosts(10, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=re.escape("pip install 'virtgym[power]'")):
        fit("linear", hosts, np.ones(10))


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_finds_what_was_put_in(form: str) -> None:
    rng = np.random.default_rng(0)
    hosts = some_hosts(600, rng)
    watts = drawn(form, TRUTH[form], hosts)
    watts[::50] *= 1.5  # meters that jump: a robust fit does not follow
    found, slopes, errors = fit(form, hosts, watts)
    assert len(slopes) == len(errors) == 600
    assert np.allclose(found.values, TRUTH[form], rtol=0.05, atol=0.8 if is_table(form) else 0.3)
    assert [*parameters(form, False)[0]] == [*found.names]


def test_a_scale_of_load_is_found() -> None:
    hosts = some_hosts(600, np.random.default_rng(1))
    hosts = Hosts(np.hstack([hosts.at[:, : LINES // 2], 0 * hosts.at[:, LINES // 2 :]]), hosts.busy)
    watts = drawn("mse", (80.0, 120.0, 1.9, 1.2), hosts)
    found, _, _ = fit("mse", hosts, watts, scale=True)
    assert np.allclose(found.values, (80.0, 120.0, 1.9, 1.2), rtol=0.02)


@pytest.fixture(scope="module")
def data() -> Metered:
    rng = np.random.default_rng(2)
    hosts = some_hosts(500, rng)
    watts = np.roll(drawn("busy", TRUTH["busy"], hosts), 2) * (1 + 0.01 * rng.standard_normal(500))
    return Metered(300.0, (hosts,), watts[:, None], np.full((500, 1), 1.0))


def test_a_walk_finds_the_lag_and_the_form(data: Metered) -> None:
    judged = walk_forward(data, ("linear", "busy"), blocks=5, lag=None, scale=False)
    assert judged.lags == [2] * 4
    assert judged.best == "busy"
    mape, bias = judged.overall["busy"]
    assert mape.low <= mape.estimate <= mape.high < 1.2
    assert abs(bias.estimate) < 0.3
    assert judged.overall["linear"][0].low > mape.high
    assert [row.train_until for row in judged.rows if row.form == "busy"] == [30e3, 60e3, 90e3, 120e3]


def test_no_fit_sees_what_it_is_judged_on(data: Metered) -> None:
    """Readings after a time change nothing that was drawn before it."""
    other = data.watts.copy()
    other[300:] *= 3
    one, two = (
        walk_forward(replace(data, watts=w), FORMS, blocks=5, lag=None, scale=False)
        for w in (data.watts, other)
    )
    until = one.steps < 400
    for form in FORMS:
        assert np.array_equal(one.drawn[form][until], two.drawn[form][until]), form


def watched(scenario: Scenario, path: Path, step_s: float, noise: float = 0.0, unit: float = 1.0) -> Path:
    """A meter of a scenario as the engine plays it."""
    sim = replace(scenario, cluster=replace(scenario.cluster, interval_s=step_s)).simulator()
    sim.reset(np.random.default_rng(0))
    rng, rows, before = np.random.default_rng(3), [], 0.0
    while not sim.done:
        sim.advance()
        joule = float(sim.state.totals.energy_j)
        rows.append((sim.time_s, unit * (joule - before) / step_s * (1 + noise * rng.standard_normal())))
        before = joule
    pd.DataFrame(rows, columns=["time", "watts"]).to_csv(path, index=False)
    return path


def small(**curve: Any) -> Scenario:
    host = {**SMALL["hosts"][0], "curve": curve} if curve else SMALL["hosts"][0]
    return build_scenario("small", overrides={"hosts": [host], "trace.options": {"churn": 0.5}})


def test_loads_say_what_the_engine_draws(tmp_path: Path) -> None:
    curve: dict[str, Any] = {"kind": "linear", "idle_w": 90.0, "peak_w": 210.0, "busy_w": 30.0}
    scenario = small(**curve)
    path = watched(scenario, tmp_path / "m.csv", 600.0)
    metered = pd.read_csv(path)["watts"].to_numpy()
    loads = play_loads(scenario, 600.0, len(metered), 0)
    line = PowerCurve(**curve)
    watts = loads.hosts[:, 0] @ (line.idle_w + (line.peak_w - line.idle_w) * GRID)
    np.testing.assert_allclose(watts + line.busy_w * loads.busy[:, 0], metered, rtol=1e-9)
    with pytest.raises(ConfigError, match="hosts that stay on"):
        play_loads(replace(scenario, cluster=replace(scenario.cluster, hosts_start_on=False)), 600.0, 3, 0)
    with pytest.raises(ConfigError, match="arrival=pabfd"):
        play_loads(replace(scenario, cluster=replace(scenario.cluster, arrival="pabfd")), 600.0, 3, 0)


def test_from_a_meter_to_a_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"kind": "linear", "idle_w": 90.0, "peak_w": 210.0, "busy_w": 30.0}
    path = watched(small(**truth), tmp_path / "m.csv", 300.0, noise=0.01)
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"defaults": ["small"], "trace": {"options": {"churn": 0.5}}, **SMALL}))
    keys = [f"scenario={mine}", f"power={path}", "forms=[linear,busy]", "start=2024-05-01T12:00"]
    out = tmp_path / "out"
    assert main(["calibrate", *keys, f"out={out}"]) == 0, capsys.readouterr().err
    rows = pd.read_csv(out / "validation.csv")
    assert list(rows.columns[:4]) == ["form", "mape", "bias", "train_until"]
    assert rows[rows["form"] == "busy"]["mape"].mean() < 1.2
    assert rows[rows["form"] == "as given"]["train_until"].isna().all()
    curve = yaml.safe_load((out / "calibrated.yaml").read_text())["hosts"][0]["curve"]
    assert curve["kind"] == "linear"
    assert [curve["idle_w"], curve["peak_w"], curve["busy_w"]] == pytest.approx([90, 210, 30], rel=0.1)
    left = pd.read_csv(out / "residuals.csv")
    assert set(left["by"]) == {"load", "hour"}
    page = (out / "report.html").read_text()
    assert 'data-figure="watts"' in page
    capsys.readouterr()
    seen = tmp_path / "seen"
    assert main(["evaluate", f"scenario={out / 'calibrated.yaml'}", "policy=static", f"out={seen}"]) == 0
    power = pd.read_parquet(seen / "steps.parquet")["power_w"].to_numpy()
    metered = pd.read_csv(path)["watts"].to_numpy()
    assert np.mean(np.abs(power / metered - 1)) < 0.011
    again = tmp_path / "again"
    given = [f"scenario={out / 'calibrated.yaml'}", f"power={path}", "forms=[linear]"]
    assert main(["validate", *given, f"out={again}"]) == 0
    rows = pd.read_csv(again / "validation.csv")
    assert rows[rows["form"] == "as given"]["mape"].max() < 1.2
    assert not (again / "calibrated.yaml").exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([], "power=: name a file"),
        (["power=m.csv", "blocks=1"], "blocks=1: must be a whole number from 2"),
        (["power=m.csv", "forms=[cubic]"], "cubic"),
        (["power=m.csv", "form=cubic"], "form=cubic: must be best or one of"),
        (["power=m.csv", "gaps=fill"], "gaps=fill: must be one of"),
        (["power=m.csv", "scale=2"], "scale=2: must be true or false"),
        (["power=m.csv", "until_s=-1"], "until_s=-1: must be a positive"),
        (["power=m.csv", "poewr=x"], "no such key (did you mean power?)"),
    ],
)
def test_a_wrong_key_is_one_line(keys: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_request("calibrate", keys)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        (lambda k: (300 * (k + 1), 0.9), [], "are the readings in W"),
        (lambda k: (300 * (k + 1) + 10**6, 900), [], "0 of 200 readings"),
        (lambda k: (300 * (k + 1) + 2 * 10**9, 900), [], "its times are dates"),
        (lambda k: (300 * (k + 1) + 2 * 10**9, 900), ["start=1999"], "0 of 200 readings"),
        (lambda k: (300 * (k + 1), 900), ["start=noon"], "start=noon: must be a date"),
        (lambda k: (300 * (k + 1), 900 * (k != 9)), [], "is 0 W"),
        (lambda k: (300 * (k + 1), 900), ["blocks=50"], "blocks=50: a block of the metered time has"),
        (lambda k: (300 * (k + 1), 900), ["until_s=100"], "until_s=100"),
        (lambda k: (300 * (k + 1), 900), ["scenario=demo_placement"], "is of kind placement"),
    ],
)
def test_what_does_not_belong_together_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: Any, more: list[str], told: str
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("time,watts\n" + "\n".join("{},{}".format(*text(k)) for k in range(200)))
    where = [f"power={path}", f"out={tmp_path / 'out'}"]
    assert main(["validate", "scenario=small", *where, *more]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert told in errors[-1]
    assert errors[-1].startswith("virtgym validate: ")


def test_a_meter_for_each_host_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = build_scenario("small")
    sim = scenario.simulator()
    sim.reset(np.random.default_rng(0))
    kinds, rows = sim.params.host_type, []
    names = [kind.name for kind in scenario.cluster.host_types]
    before = np.zeros(len(names))
    while not sim.done:
        sim.advance()
        joule = np.bincount(kinds, sim.state.host_energy_j).astype(np.float64)
        rows += [(sim.time_s, name, (joule - before)[k] / 300.0) for k, name in enumerate(names)]
        before = joule
    path = tmp_path / "m.csv"
    pd.DataFrame(rows, columns=["time", "group", "watts"]).to_csv(path, index=False)
    keys = ["scenario=small", f"power={path}", "forms=[table]"]
    assert main(["calibrate", *keys, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    found = pd.read_csv(tmp_path / "out" / "parameters.csv")
    assert list(found["hosts"].unique()) == names
    hosts = yaml.safe_load((tmp_path / "out" / "calibrated.yaml").read_text())["hosts"]
    for host, kind in zip(hosts, scenario.cluster.host_types):
        assert host["power_w"][0] == pytest.approx(kind.table_w[0], rel=0.02)
    text = path.read_text().replace(names[1], "someone")
    path.write_text(text)
    assert main(["validate", *keys, f"out={tmp_path / 'other'}"]) == 2
    assert "someone is none of its host types" in capsys.readouterr().err
