"""Studies: what is searched, what is kept, what a killed one does again, and what is refused."""

from __future__ import annotations

import fcntl
import importlib.util
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("optuna")

from oracles.killed import ended_command
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.yamlio import load_yaml
from virtgym.experiments.tune.plan import compose_tune
from virtgym.experiments.tune.space import grid, split_swept

RULE = (
    *("scenario=small", "scenario.horizon_s=14400", "policy=thr-mmt", "seeds=[1000,1001,1002]"),
    "validation_seeds=[2000,2001]",
)
SAFETY = "policy.safety=interval(0.3,1.0)"


def tune(out: Path, *arguments: str) -> int:
    return main(["tune", *arguments, f"out={out}"])


def trials(out: Path) -> pd.DataFrame:
    """``trials.csv`` without what it took."""
    return pd.read_csv(out / "trials.csv").drop(columns="seconds")


def test_a_grid_is_searched_to_its_end_and_the_best_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ("policy.safety=range(0.3,1.0,0.2)", "policy.underload=true,false")
    arguments = (*RULE, *space, "sampler=grid", "pruning=none")
    assert tune(tmp_path / "a", *arguments, "n_trials=3") == 0
    assert len(trials(tmp_path / "a")) == 3
    assert tune(tmp_path / "a", *arguments) == 0
    table = trials(tmp_path / "a")
    assert list(zip(table["policy.safety"], table["policy.underload"])) == [
        (safety, underload) for safety in (0.3, 0.5, 0.7, 0.9) for underload in (True, False)
    ]
    assert (table["state"] == "complete").all()
    assert (table["steps"] == 3).all()
    passed = table[table["gate"] == "ok"]
    best = passed.sort_values(["cost", "number"]).iloc[0]
    policy = load_yaml((tmp_path / "a" / "best.yaml").read_text())
    found = {"safety": best["policy.safety"], "underload": bool(best["policy.underload"])}
    assert policy == {"defaults": ["thr-mmt"], **found}
    judged = pd.read_csv(tmp_path / "a" / "validation" / f"{best['number']}-0" / "results.csv")
    assert set(judged["seed"]) == {2000, 2001}
    cost = judged.groupby("policy", sort=False)["cost"].mean()
    assert cost.index[0] == "thr-mmt"
    said = capsys.readouterr().out
    difference = cost.iloc[-1] - cost.iloc[0]
    assert f"difference {difference:+.4g} [" in said
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Tuning thr-mmt" in page
    assert "slice-policy.safety" in page
    assert f"difference {difference:+.4g}" in (tmp_path / "a" / "report.md").read_text()
    stored = (tmp_path / "a" / "trials.csv").read_bytes()
    assert tune(tmp_path / "a", *arguments) == 0  # nothing is left to do
    assert (tmp_path / "a" / "trials.csv").read_bytes() == stored


def test_the_objective_is_the_mean_over_seeds(tmp_path: Path) -> None:
    from virtgym.experiments.evaluate import evaluate

    assert tune(tmp_path, *RULE, "policy.safety=choice(0.7)", "n_trials=1") == 0
    costs = [
        evaluate("small", "thr-mmt(safety=0.7)", seed, overrides={"horizon_s": 14400.0})["cost"].iloc[0]
        for seed in (1000, 1001, 1002)
    ]
    assert trials(tmp_path)["cost"].iloc[0] == pytest.approx(sum(costs) / 3, rel=1e-12)


def test_one_seed_gives_the_same_trials_whatever_happens_in_between(tmp_path: Path) -> None:
    arguments = (*RULE, SAFETY, "policy.max_migrations=int(interval(1,50))")
    for name, steps in (("a", (14,)), ("b", (3, 12, 14))):
        for n in steps:
            assert tune(tmp_path / name, *arguments, f"n_trials={n}", "seed=3") == 0
    a, b = trials(tmp_path / "a"), trials(tmp_path / "b")
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert a["policy.safety"].nunique() == 14
    assert tune(tmp_path / "c", *arguments, "n_trials=2", "seed=4") == 0
    assert trials(tmp_path / "c")["policy.safety"].iloc[0] != a["policy.safety"].iloc[0]


RANDOM = (*RULE, SAFETY, "sampler=random")


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The trials of a random search that nothing cut short."""
    out = tmp_path_factory.mktemp("study")
    assert tune(out, *RANDOM, "pruning=none", "n_trials=12") == 0
    return trials(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_no_finished_trial(tmp_path: Path, workers: int, unpruned: pd.DataFrame) -> None:
    arguments = (*RANDOM, "pruning=none", "n_trials=12")
    out = tmp_path / "killed"
    ended_command(("tune", *arguments, f"workers={workers}", f"out={out}"), 3, signal.SIGKILL).communicate()
    with open(out / "study.journal", "ab") as journal:  # as if killed while it wrote
        journal.write(b'{"op_code": 5, "wor')
    before = pd.read_csv(out / "trials.csv").query("state == 'complete'")
    assert 3 <= len(before) < 12
    assert tune(out, *arguments) == 0
    after = pd.read_csv(out / "trials.csv")
    kept = after[after["number"].isin(before["number"])]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), before.reset_index(drop=True))  # with seconds
    pd.testing.assert_frame_equal(trials(out), unpruned, check_exact=True)


def test_workers_share_a_study(tmp_path: Path) -> None:
    storage = f"storage=sqlite:///{tmp_path / 'study.db'}"
    assert tune(tmp_path / "out", *RULE, SAFETY, "n_trials=6", "workers=2", storage) == 0
    table = trials(tmp_path / "out")
    assert len(table) == table["policy.safety"].nunique() == 6
    assert not (tmp_path / "out" / "study.journal").exists()


@pytest.mark.parametrize("pruning", ["median", "asha"])
def test_pruning_ends_trials_that_look_bad(tmp_path: Path, pruning: str, unpruned: pd.DataFrame) -> None:
    assert tune(tmp_path / "some", *RANDOM, "n_trials=12", f"pruning={pruning}") == 0
    whole, cut = unpruned, trials(tmp_path / "some")
    assert whole["policy.safety"].equals(cut["policy.safety"])
    pruned = cut["state"] == "pruned"
    assert 1 <= pruned.sum() < 12
    assert (cut["steps"][pruned] < 3).all()
    assert cut["cost"][~pruned].equals(whole["cost"][~pruned])
    assert "Pruning left out" in (tmp_path / "some" / "report.md").read_text()


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    goals = "objectives=[energy_kwh,unserved_weighted]"
    assert tune(tmp_path, *RULE, SAFETY, goals, "n_trials=12") == 0
    table = trials(tmp_path)
    points = list(zip(table["energy_kwh"], table["unserved_weighted"]))
    front = [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert list(table["pareto"]) == front
    assert 1 <= sum(front) < 12
    page = (tmp_path / "report.html").read_text()
    assert "pareto-front" in page


def test_an_impossible_combination_is_a_failed_trial(tmp_path: Path) -> None:
    rule = ("scenario=small", "scenario.horizon_s=3600", "policy=dpm", "seeds=[0]", "validation_seeds=[1]")
    space = ("policy.target=choice(0.6,0.95)", "sampler=grid")
    assert tune(tmp_path / "a", *rule, *space) == 0
    table = trials(tmp_path / "a")
    assert list(table["state"]) == ["complete", "failed"]
    assert "target + tolerance must lie in 0..1" in table["error"][1]


def test_a_space_may_stand_in_a_file(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("policy.safety: interval(0.5, 0.9)\npolicy.placer: [pabfd]\n")
    assert tune(tmp_path / "out", *RULE, f"space={space}", "n_trials=2") == 0
    table = trials(tmp_path / "out")
    assert table["policy.safety"].between(0.5, 0.9).all()
    assert set(table["policy.placer"]) == {"pabfd"}


def test_agents_are_tuned_by_their_validation(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sb3_contrib")
    tiny = (
        *("what=agent", "scenario=demo_placement", "scenario.n_windows=3", "scenario.trace.options.n=2000"),
        *("scenario.train_rows=[0,1000]", "total_timesteps=300", "num_envs=4", "eval_every=100", "agent=ppo"),
        *("agent.network=mlp", "agent.hidden=[8]", "agent.n_steps=16", "agent.batch_size=32", "n_trials=3"),
        *("agent.learning_rate=tag(log,interval(1e-4,1e-2))", "seeds=[0,1]", "validation_seeds=[5,6]"),
    )
    assert tune(tmp_path, *tiny) == 0
    table = trials(tmp_path)
    assert (table["state"] == "complete").all()  # the median is not asked before five trials
    for number, objective in zip(table["number"], table["objective"]):
        each = []
        for seed in (0, 1):
            progress = pd.read_csv(tmp_path / "trials" / str(number) / f"seed-{seed}" / "progress.csv")
            each.append(progress[progress["timesteps"] > 0]["objective"].min())
        assert objective == pytest.approx(sum(each) / 2, rel=1e-12)
    best = load_yaml((tmp_path / "best.yaml").read_text())
    rate = table.sort_values("objective")["agent.learning_rate"].iloc[0]
    fixed = {"network": "mlp", "hidden": [8], "n_steps": 16, "batch_size": 32}
    assert best == {"defaults": ["ppo"], **fixed, "learning_rate": rate}
    assert (tmp_path / "trials" / "default" / "seed-1" / "agent" / "agent.json").exists()
    assert "2 seeds of learning" in (tmp_path / "report.md").read_text()


ERRORS = {
    "nothing to search over": (),
    "policy.safty: thr-mmt has no such parameter": ("policy.safty=interval(0,1)",),
    "tune has no key agent.gamma with what=policy": ("agent.gamma=choice(0.9)",),
    "tune has no key n_trails": (SAFETY, "n_trails=3"),
    "searches over keys of policy. only": ("scenario.horizon_s=choice(1,2)",),
    "must be an integer": ("policy.max_migrations=interval(1,3)",),
    "cannot be read": ("policy.safety=interval(0.1",),
    "policy.safety=interval(1,0.5)": ("policy.safety=interval(1,0.5)",),
    "no value lies in it": ("policy.safety=range(3,1)",),
    "policy.safety=tag(log,interval(0,1))": ("policy.safety=tag(log,interval(0,1))",),
    "sampler=bayes": (SAFETY, "sampler=bayes"),
    "sampler=cmaes: takes numbers only": (SAFETY, "policy.placer=choice(pabfd)", "sampler=cmaes"),
    "sampler=cmaes: needs two keys": (SAFETY, "sampler=cmaes"),
    "has no end of values": (SAFETY, "sampler=grid"),
    "goes by one objective": (SAFETY, "objectives=[cost,energy_kwh]", "pruning=asha"),
    "objectives: energy: no such metric": (SAFETY, "objectives=[energy]"),
    "objectives: total_wait": (SAFETY, "objectives=[total_wait]"),
    "n_trials": (SAFETY, "n_trials=many"),
    "n_trials=0": (SAFETY, "n_trials=0"),
    "validation_seeds=[]": (SAFETY, "validation_seeds=[]"),
    "workers=0": (SAFETY, "workers=0"),
    "what=both": (SAFETY, "what=both"),
    "space=nowhere.yaml": ("space=nowhere.yaml",),
    "storage=nowhere": (SAFETY, "storage=nowhere"),
    "no trial was completed": ("policy.safety=choice(-1,-2)", "sampler=grid"),
}


@pytest.mark.parametrize("said", list(ERRORS))
def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str) -> None:
    assert tune(tmp_path / "out", *RULE, *ERRORS[said]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("virtgym tune: ")
    assert said in last


def test_a_folder_is_of_one_study_and_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(tmp_path, *RULE, SAFETY, "n_trials=1") == 0
    assert tune(tmp_path, *RULE, "policy.safety=interval(0.2,0.9)", "n_trials=1") == 2
    assert "search.policy.safety: interval(0.3,1.0) there" in capsys.readouterr().err
    with open(tmp_path / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tune(tmp_path, *RULE, SAFETY, "n_trials=2") == 2
    assert "another virtgym command is at work" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["optuna", "cmaes"])
def test_a_missing_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert tune(tmp_path, *RULE, SAFETY, "policy.window=int(interval(1,9))", "sampler=cmaes") == 2
    err = capsys.readouterr().err
    assert "pip install 'virtgym[tune]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="needs cmaes")
def test_cmaes_searches_numbers(tmp_path: Path) -> None:
    space = (SAFETY, "policy.fallback_threshold=interval(0.4,1.0)")
    for name in ("a", "b"):
        assert tune(tmp_path / name, *RULE, *space, "sampler=cmaes", "pruning=none", "n_trials=8") == 0
    pd.testing.assert_frame_equal(trials(tmp_path / "a"), trials(tmp_path / "b"), check_exact=True)


def test_seeds_come_from_the_splits_of_the_suite() -> None:
    space = ("policy=dpm", "policy.risk=interval(0,1)")
    task = compose_tune(["scenario=suite/diurnal", *space]).config
    assert (task.seeds, task.validation_seeds) == (list(range(1000, 1020)), list(range(2000, 2010)))
    assert compose_tune(["scenario=small", *space]).config.seeds == [1000, 1001, 1002, 1003, 1004]


def test_a_broken_policy_is_told_with_its_place_and_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from virtgym.policies.simple import StaticPolicy\n"
        "@dataclass\n"
        "class Mine(StaticPolicy):\n"
        "    level: float = 0.5\n"
        "    def reset(self, view, rng):\n"
        "        if self.level == 2.0 and not Path('mended').exists():\n"
        "            raise ZeroDivisionError('level')\n"
        "        super().reset(view, rng)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = (
        *("scenario=small", "scenario.horizon_s=3600", "policy=mine:Mine", "policy.level=range(1.0,3.0,1.0)"),
        *("sampler=grid", "seeds=[0]", "validation_seeds=[1]"),
    )
    assert tune(tmp_path / "out", *mine) == 1
    assert "virtgym tune: trial 1: ZeroDivisionError: level" in capsys.readouterr().err
    assert list(trials(tmp_path / "out")["state"]) == ["complete", "running"]
    (tmp_path / "mended").touch()
    assert tune(tmp_path / "out", *mine) == 0
    assert list(trials(tmp_path / "out")["state"]) == ["complete", "complete"]
    assert load_yaml((tmp_path / "out" / "best.yaml").read_text())["name"] == "mine:Mine"


def test_axes_are_those_of_hydras_syntax() -> None:
    texts = ["a=1", "policy.a=range(0.5,0.75,0.1)", "policy.b=int(interval(1,4))", "policy.c=x,'y z'"]
    fixed, axes = split_swept(texts)
    assert fixed == ["a=1"]
    assert axes["policy.a"].values == pytest.approx((0.5, 0.6, 0.7))
    assert axes["policy.a"].write(0.6000000000000001) == "0.6"
    assert (axes["policy.b"].distribution.low, axes["policy.b"].distribution.high) == (1, 4)  # type: ignore[attr-defined]
    assert axes["policy.c"].values == ("x", "'y z'")
    two = {key: axes[key] for key in ("policy.a", "policy.c")}
    assert [tuple(point.values()) for point in grid(two)][:2] == [(0.5, "x"), (0.5, "'y z'")]
