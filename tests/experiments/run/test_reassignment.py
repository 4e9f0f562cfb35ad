"""Scenarios of machine reassignment: rows, plans, keys, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oracles import plain_reassignment as plain
from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.rescheduling.reassignment.generate import generate_problem
from virtgym.envs.rescheduling.reassignment.state import State
from virtgym.experiments.cli.commands import main
from virtgym.experiments.evaluate import evaluate
from virtgym.policies.registry import policy_names

POLICIES = policy_names("reassignment")


@pytest.fixture
def instance(tmp_path: Path) -> dict[str, Any]:
    """Overrides of the scenario that name an instance's files."""
    texts = {"model_x.txt": 0, "assignment_x.txt": 1}
    for name, which in texts.items():
        (tmp_path / name).write_text(plain.draw(3, n_processes=12, n_machines=4)[which])
    (tmp_path / "lb_x.txt").write_text("7\n")
    keys = {"instance": "model_x.txt", "assignment": "assignment_x.txt", "lower_bound": "lb_x.txt"}
    return {key: str(tmp_path / name) for key, name in keys.items()}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_says_what_the_plan_costs_and_the_plan_replays(
    tmp_path: Path, instance: dict[str, Any], policy: str
) -> None:
    row = evaluate(
        "reassignment", policy, overrides=instance, params={"iterations": 3}, out=tmp_path / "run"
    ).iloc[0]
    judge = plain.parse(*(Path(instance[key]).read_text() for key in ("instance", "assignment")))
    plan = pd.read_csv(tmp_path / "run" / "moves.csv", dtype={"vm": "str"})
    where = list(judge.home)
    for process, source, target in zip(plan["vm"].astype(int), plan["from"], plan["to"]):
        assert where[process] == int(source) != int(target)
        where[process] = int(target)
    assert plain.allowed(judge, where)
    assert row["objective"] == row["cost"] == plain.cost(judge, where)
    assert row["objective_start"] == plain.cost(judge, judge.home) >= row["objective"]
    assert sum(row[name] for name in row.index if name.startswith("cost_") and row[name] > 0) == row["cost"]
    assert (row["gate"], row["lower_bound"], row["moves"]) == ("ok", 7.0, len(plan))
    for process, gain in zip(plan["vm"].astype(int), plan["gain"]):
        stays = [*where[:process], judge.home[process], *where[process + 1 :]]
        assert plain.cost(judge, stays) - plain.cost(judge, where) == gain


def test_a_solver_proves_its_plan(instance: dict[str, Any]) -> None:
    row = evaluate(
        "reassignment", "ortools_rescheduling", overrides=instance, params={"iterations": 20}
    ).iloc[0]
    assert row["plan_bound"] == row["objective"]


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (30, 7), (400, 20), (100, 300)])
def test_generated_instances_keep_their_constraints_and_differ_by_seed(size: tuple[int, int]) -> None:
    problems = [generate_problem(seed, *size) for seed in (0, 0, 1)]
    for problem in problems:
        assert State(problem).violations() == []
    same, other = (
        all(np.array_equal(a, b) for a, b in zip(problems[0].arrays, p.arrays)) for p in problems[1:]
    )
    assert same
    assert not other


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"assignment": None}, "scenario.assignment: missing"),
        ({"instance": None}, "scenario.instance: missing"),
        ({"instance": None, "assignment": None}, "scenario.lower_bound: "),
        ({"processes": 5}, "scenario.processes: is not read with scenario.instance="),
        ({"instance": "no/such.txt"}, "no/such.txt: no such file"),
        ({"limit": 5}, "scenario.limit"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    instance: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(VirtgymError, match=expected) as caught:
        evaluate("reassignment", "annealing", overrides={**instance, **changes})
    assert "\n" not in str(caught.value)


def test_policies_and_parameters_of_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature: has no effect on scenarios of kind reassignment"):
        evaluate("reassignment", "annealing", params={"temperature": 1.0, "iterations": 1})
    with pytest.raises(ConfigError, match="needs one for reassignment; allowed: greedy_rescheduling"):
        evaluate("reassignment", "first_fit")


def test_a_truncated_model_ends_the_command_with_2(
    tmp_path: Path, instance: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(instance["instance"])
    model.write_text(model.read_text()[:60])
    keys = [f"scenario.{key}={json.dumps(path)}" for key, path in instance.items()]
    assert main(["evaluate", "scenario=reassignment", "policy=annealing", f"out={tmp_path}/run", *keys]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "model_x.txt:" in said[0]
    assert "the file ends where it needs" in said[0]
