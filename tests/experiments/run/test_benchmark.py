"""The run folder: what is in it, that it survives anything, and that nothing is overwritten in silence."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oracles.killed import ended_command
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.metrics import METRICS
from virtgym.envs.sim.models.cost import TERMS
from virtgym.experiments.cli.benchmark import Outcome, benchmark
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.run.cell import evaluate, load_scenario
from virtgym.experiments.run.folder import cell_name
from virtgym.experiments.run.rows import COLUMNS
from virtgym.policies import PlanningPolicy, make_policy

SHORT = ("scenario=small", "scenario.horizon_s=6000")
TIMES = ("wall_s", "vm_intervals_per_s", "decision_ms_p50", "decision_ms_p99")
"""Columns that measure the machine."""

WriteDay = Callable[..., Path]


@pytest.fixture
def write_day(tmp_path: Path) -> WriteDay:
    """Write a PlanetLab day of a few VMs."""

    def write(name: str = "day", n_vms: int = 12, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        folder.mkdir()
        for v in range(n_vms):
            values = rng.integers(0, 60, size=288)
            (folder / f"vm_{v}").write_text("\n".join(map(str, values)) + "\n", encoding="ascii")
        return folder

    return write


def run(*arguments: str) -> Outcome:
    return benchmark(compose_run("benchmark", [*SHORT, *arguments]))


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted((folder / "cells").iterdir())}


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    out = tmp_path / "a run=1"
    outcome = run("policies=[static,ols-mmt(safety=1.3)]", "seeds=[0,1]", f"out={out}")
    assert outcome.failures == ()
    rows = pd.read_parquet(out / "results.parquet")
    assert tuple(rows.columns) == COLUMNS
    wanted = (
        "scenario trace policy seed window finished steps sim_hours wall_s vm_intervals_per_s config_hash"
    )
    assert [*wanted.split(), "virtgym_version", *METRICS] == list(COLUMNS)[: 12 + len(METRICS)]
    labels = ["static", "static", "ols-mmt(safety=1.3)", "ols-mmt(safety=1.3)"]
    assert list(zip(rows["policy"], rows["seed"])) == list(zip(labels, [0, 1, 0, 1]))
    assert rows["finished"].all()
    np.testing.assert_allclose(rows["episode_return"], -rows["cost"], rtol=1e-9)
    terms = [f"cost_{term}" for term in TERMS]
    np.testing.assert_allclose(rows[terms].sum(axis=1), rows["cost"], rtol=1e-12)
    steps = pd.read_parquet(out / "steps.parquet")
    for name in ("cost", "cost_energy", "cost_unserved"):
        whole = steps.groupby(["policy", "seed"])[name].sum()
        expected = rows.set_index(["policy", "seed"])[name].sort_index()
        np.testing.assert_allclose(whole, expected, rtol=1e-9)
    assert {"unserved_weighted", "unserved_contention", "unserved_down"} <= set(steps.columns)
    assert set(rows["gate"]) == {"ok"}
    assert (rows["steps"] == 20).all()
    assert rows["fragment_rate"].isna().all()  # no meaning yet: NaN, never 0
    pd.testing.assert_frame_equal(pd.read_csv(out / "results.csv")[["energy_kwh"]], rows[["energy_kwh"]])
    steps = pd.read_parquet(out / "steps.parquet")
    assert len(steps) == 80
    sums = steps.groupby(["policy", "seed"], sort=False)["energy_kwh"].sum()
    assert sums.tolist() == pytest.approx(rows["energy_kwh"].tolist(), rel=1e-12)
    with np.load(out / "heat" / f"{cell_name('static', 1)}.npz") as heat:
        assert heat["heat"].shape == (10, 20)
        assert heat["heat"].dtype == np.uint8
        assert heat["type_names"].tolist() == ["ibm_x3550", "hp_ml110_g5"]
        assert len(heat["host_type"]) == 10
    info = json.loads((out / "run.json").read_text())
    assert info["finished"] is True
    assert info["seeds"] == [0, 1]
    assert {"python", "numpy", "numba", "gymnasium", "virtgym"} <= set(info["versions"])
    assert info["start"] <= info["end"]
    assert "memory: binding" in (out / "config.yaml").read_text()


def test_finished_cells_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    run("policies=[static]", "seeds=[0,1]", f"out={out}")
    before = stamps(out)
    outcome = run("policies=[static,dvfs]", "seeds=[0,1]", f"out={out}")
    assert outcome.skipped == 2
    assert "skipped 2 finished cells of 4" in capsys.readouterr().err
    after = stamps(out)
    assert len(after) == 2 * len(before)
    assert {name: after[name] for name in before} == before
    assert len(outcome.rows) == 4


def test_workers_give_the_same_numbers(tmp_path: Path) -> None:
    common = ("policies=[thr-rs,ols-mmt,random]", "seeds=[0,1]")
    one = run(*common, f"out={tmp_path / 'one'}").rows
    two = run(*common, f"out={tmp_path / 'two'}", "workers=2").rows
    same = [name for name in COLUMNS if name not in TIMES]
    pd.testing.assert_frame_equal(one[same], two[same], check_exact=True)
    untimed = pd.read_parquet(tmp_path / "one" / "steps.parquet").drop(columns="decision_ms")
    other = pd.read_parquet(tmp_path / "two" / "steps.parquet").drop(columns="decision_ms")
    pd.testing.assert_frame_equal(untimed, other, check_exact=True)


def test_another_configuration_is_never_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    run("policies=[static]", f"out={out}")
    before = stamps(out)
    with pytest.raises(ConfigError, match=r"scenario.memory: binding there, ignored now.*another out="):
        run("policies=[static]", f"out={out}", "scenario.memory=ignored")
    assert stamps(out) == before
    monkeypatch.setattr("virtgym.experiments.run.fingerprint.virtgym_version", lambda: "0.0.1")
    with pytest.raises(ConfigError, match=r"holds results of another configuration"):
        run("policies=[static]", f"out={out}")


def test_a_trace_counts_by_what_is_in_it(tmp_path: Path, write_day: WriteDay) -> None:
    day = write_day()
    out = tmp_path / "run"
    common = ("scenario=planetlab", "policies=[static]", f"out={out}")
    row = run(*common, f"scenario.trace.path={day}").rows.iloc[0]
    assert row["trace"] == "day"
    assert row["n_vms"] == 12
    moved = tmp_path / "elsewhere" / "day"
    moved.parent.mkdir()
    shutil.copytree(day, moved)
    assert run(*common, f"scenario.trace.path={moved}").skipped == 1
    lines = (moved / "vm_3").read_text().split("\n")
    (moved / "vm_3").write_text("\n".join(["61", *lines[1:]]))
    os.utime(moved, ns=(1, 1))
    with pytest.raises(ConfigError, match="another configuration"):
        run(*common, f"scenario.trace.path={moved}")


def test_a_trace_rewritten_with_its_old_time_stamp_is_read_again(write_day: WriteDay) -> None:
    day = write_day()
    overrides = {"trace.path": str(day)}
    before = evaluate("planetlab", "static", overrides=overrides).iloc[0]
    stamps = {path: path.stat().st_mtime_ns for path in (day, *day.iterdir())}
    for path in day.iterdir():
        path.write_text("90\n" * len(path.read_text().splitlines()))
    for path, stamp in stamps.items():
        os.utime(path, ns=(stamp, stamp))
    after = evaluate("planetlab", "static", overrides=overrides).iloc[0]
    assert after["energy_kwh"] > before["energy_kwh"]
    assert after["config_hash"] != before["config_hash"]


@dataclass
class Broken(PlanningPolicy):
    """Fails in its third interval."""

    def plan(self, view: Any) -> Decisions:
        if view.time_s > 500:
            raise ZeroDivisionError("a policy's own mistake")
        return Decisions()


def test_one_failing_cell_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtgym.envs.registry import Entry
    from virtgym.policies import POLICIES

    monkeypatch.setitem(POLICIES._entries, "broken", Entry("broken", "fails", Broken))
    outcome = run("policies=[static,broken,dvfs]", f"out={tmp_path}/run")
    assert list(outcome.rows["policy"]) == ["static", "dvfs"]
    (failure,) = outcome.failures
    assert failure.name == "broken seed 0"
    assert failure.message == "ZeroDivisionError: a policy's own mistake"
    assert "plan" in failure.trace
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False


GRID = (
    *("benchmark", "scenario=planetlab", "policies=[static,thr-mmt,ols-mmt,mad-mc]", "seeds=[0,1,2]"),
    *("scenario.hosts.0.count=20", "scenario.hosts.1.count=20", "scenario.trace.options.n_vms=60"),
)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_only_the_cells_in_flight(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = (*GRID, "report=false", f"out={out}")
    ended_command((*command, f"workers={workers}"), 3, signal.SIGKILL).communicate()
    before = {n: v for n, v in stamps(out).items() if n.endswith(".json") and not n.startswith(".")}
    assert 3 <= len(before) < 12
    for name, (_, content) in before.items():
        assert json.loads(content)["cell"]["rows"][0]["finished"] is True, name

    assert main(command) == 0
    assert f"skipped {len(before)} finished cells of 12" in capsys.readouterr().err
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    rows = pd.read_parquet(out / "results.parquet")
    assert len(rows) == 12
    assert json.loads((out / "run.json").read_text())["finished"] is True


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "run"
    process = ended_command((*GRID, "report=false", f"out={out}", f"workers={workers}"), 2, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    last = err.strip().splitlines()[-1]
    assert "interrupted" in last
    assert f"out={out} runs the rest" in last
    assert "Traceback" not in err
    assert 2 <= len(pd.read_parquet(out / "results.parquet")) < 12


def test_evaluate_from_python(tmp_path: Path) -> None:
    overrides = {"horizon_s": 6000.0}
    table = evaluate("small", "ols-mmt", 3, overrides=overrides, params={"safety": 1.3}, out=tmp_path / "x")
    assert tuple(table.columns) == COLUMNS
    row = table.iloc[0]
    assert row["policy"] == "ols-mmt(safety=1.3)"
    assert row["seed"] == 3
    assert (tmp_path / "x" / "steps.parquet").is_file()
    same = [name for name in COLUMNS if name not in TIMES]
    again = evaluate(load_scenario("small", 3, overrides), "ols-mmt(safety=1.3)", 3)
    pd.testing.assert_frame_equal(table[same], again[same], check_exact=True)
    own = evaluate(load_scenario("small", 3, overrides), make_policy("ols-mmt", safety=1.3), 3)
    assert own["energy_kwh"].iloc[0] == row["energy_kwh"]
    with pytest.raises(
        ConfigError, match=r"configuration \(scenario\.horizon_s: 6000\.0 there, 3000\.0 now\);"
    ):
        evaluate("small", "static", overrides={"horizon_s": 3000.0}, out=tmp_path / "x")
    other = evaluate("small", "ols-mmt", 4, overrides=overrides)
    assert other["energy_kwh"].iloc[0] != row["energy_kwh"]
    with pytest.raises(ConfigError, match="no such key"):
        evaluate("small", "static", overrides={"memry": "binding"})


def test_the_replica_fills_the_same_columns(tmp_path: Path, write_day: WriteDay) -> None:
    from virtgym.experiments.replication import Quirks, run_replica

    day = write_day(n_vms=30)
    overrides = {"trace.path": str(day)}
    row = evaluate("planetlab_cloudsim3", "lr-mmt", overrides=overrides, out=tmp_path / "x").iloc[0]
    percent = np.array([np.loadtxt(day / name) for name in sorted(os.listdir(day))])
    expected = run_replica(percent, "lr-mmt", Quirks())
    for name in (
        "energy_kwh",
        "migrations",
        "host_shutdowns",
        "slatah",
        "pdm",
        "slav",
        "esv",
        "active_hosts",
    ):
        assert row[name] == getattr(expected, name)
    assert row["sla_unserved"] == expected.sla_overall
    assert math.isnan(row["thrash"])
    assert row["steps"] == 287
    steps = pd.read_parquet(tmp_path / "x" / "steps.parquet")
    assert steps["migrations"].sum() == expected.migrations
    assert steps["energy_kwh"].sum() == pytest.approx(expected.energy_kwh, rel=1e-9)
    calm = evaluate("planetlab_cloudsim3", "lr-mmt", overrides={**overrides, "quirks": {"free_edges": False}})
    assert calm["energy_kwh"].iloc[0] > row["energy_kwh"]
    with pytest.raises(ConfigError, match="no such policy"):
        evaluate("planetlab_cloudsim3", "static", overrides=overrides)
    with pytest.raises(ConfigError, match="no such parameter; allowed: safety"):
        evaluate("planetlab_cloudsim3", "thr-mmt", params={"window": 3}, overrides=overrides)
