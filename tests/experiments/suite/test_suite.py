"""The suite: its tasks, sizes and keys, scores worked by hand, a whole small run."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario, build_scenario, load_scenario_config
from virtgym.experiments.cli import main
from virtgym.experiments.cli.progress import print_standings
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.report.suite import verdict
from virtgym.experiments.run.cell import load_scenario
from virtgym.experiments.run.rollout import make_env, rollout
from virtgym.experiments.suite.bound import cost_bound
from virtgym.experiments.suite.play import compose_suite
from virtgym.experiments.suite.scores import COLUMNS, counted, score, standings
from virtgym.experiments.suite.tasks import Task, load_suite, sized
from virtgym.policies import make_policy

SUITE = load_suite("virtgym-1")
CLUSTERS = [task for task in SUITE.tasks if task.kind == "cluster"]


def _ident(task: Task) -> str:
    return task.name


def test_scores_worked_by_hand() -> None:
    assert score(cost=60.0, static=100.0, bound=20.0) == 50.0
    assert score(20.0, 100.0, 20.0) == 100.0
    assert score(180.0, 100.0, 20.0) == -100.0
    assert math.isnan(score(1.0, 1.0, 1.0))  # the reference is at the bound: nothing to gain
    assert counted(50.0, "ok") == 50.0
    assert counted(50.0, "2 % unserved") == 0.0
    assert counted(-50.0, "2 % unserved") == -50.0
    assert counted(math.nan, "ok") == 0.0


def test_standings_count_gates_and_tasks_that_are_not_played() -> None:
    first, second = SUITE.tasks[:2]
    game = SUITE.tasks[-1]
    rows = [
        (first.name, "a", 0, 0.0, 1.0, 0.0, 80.0, "ok"),
        (first.name, "b", 0, 0.0, 1.0, 0.0, 90.0, "5 % unserved"),
        (second.name, "a", 0, 0.0, 1.0, 0.0, 40.0, "ok"),
        (game.name, "c", 0, 0.0, 1.0, 0.0, 70.0, "ok"),
    ]
    found = {s.policy: s for s in standings(SUITE, pd.DataFrame(rows, columns=list(COLUMNS)))}
    assert list(found) == ["a", "b", "c"]
    assert (found["c"].score.estimate, found["c"].kinds, found["c"].missing) == (70.0, ("placement",), ())
    assert found["a"].score.estimate == 60.0
    assert (found["b"].score.estimate, found["b"].passed, found["b"].missing) == (0.0, 0, (second.name,))
    assert math.isnan(found["b"].tasks[second.name])


def test_one_seed_is_no_interval() -> None:
    """Nothing overlaps where nothing is known; several seeds say which do."""
    task = SUITE.tasks[0].name
    one = [(task, p, 0, 0.0, 1.0, 0.0, v, "ok") for p, v in (("a", 62.7), ("b", -3.0))]
    for rows, alone in ((one, True), ([*one, *((*row[:2], 1, *row[3:]) for row in one)], False)):
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        said = " ".join("".join(sentence) for sentence in verdict(table, standings(SUITE, table)))
        assert ("of one seed: no intervals" in said) == alone
        assert "overlaps" not in said


@pytest.mark.parametrize("task", CLUSTERS, ids=_ident)
def test_no_policy_costs_less_than_the_bound(task: Task) -> None:
    scenario = build_scenario(task.scenario, seed=1007)
    policy = make_policy("dpm")
    run = rollout(make_env(scenario, policy), policy, 1007, heat=False)
    assert 0.0 < cost_bound(scenario) <= run.metrics["cost"]


@pytest.mark.parametrize("size", ["80", "800"])
@pytest.mark.parametrize("task", SUITE.tasks, ids=_ident)
def test_tasks_exist_at_every_size(task: Task, size: str) -> None:
    factor = {"80": 8, "800": 80}[size]
    run = compose_run("evaluate", [f"scenario={task.scenario}", *sized(task.scenario, size)])
    small = load_scenario_config(task.scenario)
    if task.kind == "placement":
        assert run.scenario["placement"]["n_hosts"] == factor * small["placement"]["n_hosts"]
        return
    assert [g["count"] for g in run.scenario["hosts"]] == [factor * g["count"] for g in small["hosts"]]
    if size == "80":
        built = load_scenario(run.scenario, 0)
        assert isinstance(built, Scenario)
        for domain in built.cluster.domains:
            own = next(d for d in small["failures"]["domains"] if d["name"] == domain.name)
            assert len(domain.hosts) == factor * len(own["hosts"])


def test_every_sub_model_is_shown_by_a_task() -> None:
    shown = {name for task in SUITE.tasks for name in task.shows}
    assert shown >= {"cpu", "numa", "memory", "io", "overhead", "precopy", "failures", "standby", "carbon"}


def test_splits_share_no_seed() -> None:
    splits = [set(split.seeds) for split in (SUITE.train, SUITE.validation, SUITE.test)]
    assert sum(map(len, splits)) == len(set.union(*splits))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["suite=virtgym-2"], "suite=virtgym-2: no such suite (did you mean virtgym-1?)"),
        (["suite=virtgym-1", "scenario=demo"], "scenario=demo: a suite has no such key"),
        (["suite=virtgym-1", "suite.size=8"], "suite.size=8: must be one of small, 80, 800"),
        (
            ["suite=virtgym-1", "suite.tasks=[memry]"],
            "suite.tasks: memry: no such task (did you mean memory?)",
        ),
        (["suite=virtgym-1", "policies=[]"], "policies=[]: name at least one"),
        (["suite=virtgym-1", "seeds=[a]"], "seeds[0]: Value 'a'"),
        (["suite=virtgym-1", "report=maybe"], "report: Value 'maybe'"),
        (["suite=/no/such.yaml"], "suite=/no/such.yaml: cannot be read"),
    ],
)
def test_what_is_not_allowed_is_told(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_suite(arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("compose", [compose_suite, partial(compose_run, "benchmark")])
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seeds=[]", "seeds=[]: name at least one, like seeds=[0,1,2]"),
        ("seeds=[0,-1]", "seeds: -1 is negative; seeds are 0 or more"),
        ("seeds=[1,1]", "seeds=[1, 1]: a seed is named twice"),
        ("workers=0", "workers=0: must be at least 1"),
    ],
)
def test_suites_and_benchmarks_refuse_the_same_numbers(compose: Any, typed: str, said: str) -> None:
    first = ["suite=virtgym-1"] if compose is compose_suite else ["scenario=small"]
    with pytest.raises(ConfigError) as caught:
        compose([*first, typed])
    assert str(caught.value) == said


def test_a_suite_of_ones_own_says_which_key_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ntasks:\n  - {name: a, scenari: small, question: why}\n")
    with pytest.raises(ConfigError, match="scenari"):
        load_suite(str(path))
    path.write_text("name: own\ntasks: []\n")
    with pytest.raises(ConfigError, match="needs at least one"):
        load_suite(str(path))


def test_a_suite_is_played_scored_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "suite"
    command = ["benchmark", "suite=virtgym-1", "suite.tasks=[consolidate,placement_waiting]"]
    command += ["policies=[dvfs,best_fit]", "seeds=[1003]", f"out={out}"]
    assert main(command) == 0
    table = pd.read_csv(out / "suite.csv")
    assert tuple(table.columns) == COLUMNS
    assert {*zip(table["task"], table["policy"])} == {
        ("consolidate", "dvfs"),
        ("consolidate", "static"),
        ("placement_waiting", "best_fit"),
        ("placement_waiting", "first_fit"),
    }
    want = 100.0 * (table["static"] - table["cost"]) / (table["static"] - table["bound"])
    assert table["score"].tolist() == pytest.approx(want.tolist())
    assert (table[table["policy"].isin(["static", "first_fit"])]["score"] == 0.0).all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<title>virtgym report: virtgym-1</title>" in page
    assert "How few hosts carry a load that hardly changes?" in page
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| Task | Reference | Bound | dvfs | static |" in text
    assert "| Task | Reference | Bound | first_fit | best_fit |" in text
    for kind in ("cluster", "placement"):
        assert f'data-figure="suite-tasks-{kind}"' in page
    said = capsys.readouterr()
    for kind in ("cluster", "placement"):
        assert f"virtgym-1, {kind} tasks: 0 = reference, 100 = bound" in said.out
    assert "[1/5] consolidate: dvfs seed 1003:" in said.err
    assert main(command) == 0
    assert "skipped 2 finished cells" in capsys.readouterr().err
    pd.testing.assert_frame_equal(pd.read_csv(out / "suite.csv"), table)


def test_a_suite_with_more_policies_than_a_terminal_has_room_for_loses_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [("consolidate", f"rule_{i:02d}", 0, 10.0 + i, 100.0, 0.0, 90.0 - i, "ok") for i in range(30)]
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    print_standings(SUITE, table, standings(SUITE, table))
    said = capsys.readouterr().out
    assert "rule_00" in said
    assert "90.0" in said
    assert "see suite.csv" in said.replace("\n", " ")
    assert "rule_29" in said.split("too narrow for")[1]
