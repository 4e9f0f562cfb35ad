"""Cells of rescheduling scenarios: rows, tables of moves, report, command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from virtgym.experiments.cli import main
from virtgym.experiments.evaluate import evaluate
from virtgym.experiments.run.rows import RESCHEDULING

SMALL = {"snapshot.from": "small@7200", "limit": 5, "objective.fragment_cores": 1.0}


@pytest.mark.parametrize(
    "policy",
    [
        "static",
        "random",
        "greedy_rescheduling",
        "annealing(iterations=2000)",
        "pop(iterations=2)",
        "ortools_rescheduling(iterations=2)",
    ],
)
def test_every_policy_gives_a_row(policy: str) -> None:
    row = evaluate("rescheduling", policy, 1, overrides=SMALL).iloc[0]
    assert row["finished"]
    assert row["gate"] == "ok"
    assert row["cost"] == row["objective"]
    assert 0 <= row["fragment_rate"] <= 1
    assert row[[*RESCHEDULING]].drop("unordered").notna().all()
    assert row["moves"] <= 5
    if policy == "static":
        assert row["objective"] == row["objective_start"]
        assert row["moves"] == 0


def test_a_benchmark_writes_moves_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    keys = ["scenario.snapshot.from=small@7200", "scenario.limit=5", "scenario.objective.fragment_cores=1"]
    command = [
        "benchmark", "scenario=rescheduling", *keys, "seeds=[1,2]", f"out={out}",
        "policies=[greedy_rescheduling,static,annealing(iterations=2000)]",
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "fragment rate" in shown
    moves = pd.read_csv(out / "moves.csv")
    rows = pd.read_parquet(out / "results.parquet")
    assert {"vm", "from", "to", "gain", "seconds"} <= set(moves)
    for (policy, seed), own in moves.groupby(["policy", "seed"]):
        row = rows[(rows["policy"] == policy) & (rows["seed"] == seed)].iloc[0]
        assert len(own) == row["moves"]
        assert own["gain"].sum() == pytest.approx(row["objective_start"] - row["objective"], abs=1e-9)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Nodes before and after" in page
    assert "by-move" in page
    assert "| Policy | At the end |" in (out / "report.md").read_text(encoding="utf-8")
