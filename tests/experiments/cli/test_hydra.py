"""Hydra's own flags and grammar, files of one's own, and grids of any command, as a user types them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pandas as pd
import pytest
import yaml

import virtgym.envs  # noqa: F401 - registers the environments
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.scenarios.choices import FOLDERS
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.compose import compose_run
from virtgym.experiments.evaluate import evaluate

SHORT = ("scenario=small", "scenario.horizon_s=600")
COMPOSED = {
    "evaluate": ("defaults", "config"),
    "benchmark": ("defaults-tree",),
    "train": ("searchpath",),
    "watch": ("plugins",),
}
"""Commands, and the parts of ``--info`` that each is asked for alone."""


@pytest.fixture(autouse=True)
def _no_search_path() -> None:
    FOLDERS.clear()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with a file of each group, in which one stands."""
    texts = {
        "scenario/own": "defaults: [small]\nname: own\nhorizon_s: 600\n",
        "scenario/beside": "defaults: [own]\nname: beside\nmemory: ignored\n",
        "scenario/absolute": "defaults: [/scenario/suite/memory]\nname: absolute\n",
        "policy/eager": "defaults: [dpm]\ntarget: 0.5\n",
        "agent/quick": "defaults: [ppo]\nn_steps: 16\n",
        "suite/mine": (
            "defaults: [virtgym-1]\nname: mine\ntasks:\n  - {name: one, scenario: own, question: Which one}\n"
        ),
    }
    for name, text in texts.items():
        path = tmp_path / "lab" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "lab"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line)
    return line


class Closes(logging.Handler):
    """Says whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.mark.parametrize("command", COMPOSED)
def test_every_command_shows_what_it_is_composed_of(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And leaves logging as it was: setting it up anew would close the streams of others."""
    kept = (closes := Closes(), *logging.getLogger().handlers), logging.getLogger().level
    agent = ("agent=ppo",) if command == "train" else ()
    job = yaml.safe_load(shown(capsys, command, "--cfg", "job", *SHORT, *agent))
    assert job["scenario"]["name"] == "small"
    assert job["scenario"]["horizon_s"] == 600
    assert "hydra" not in job
    assert set(yaml.safe_load(shown(capsys, command, "--cfg", "hydra", *agent))) == {"hydra"}
    assert {"hydra", "scenario"} < set(yaml.safe_load(shown(capsys, command, *agent, "--cfg=all")))
    part = shown(capsys, command, *SHORT, *agent, "--cfg", "job", "--package", "scenario.trace", "--resolve")
    assert yaml.safe_load(part)["options"] == {"n_vms": 50}
    for what in COMPOSED[command]:
        assert shown(capsys, command, "--info", what, *agent)
    assert "pkg://virtgym.conf" in shown(capsys, command, "--info", *SHORT, *agent)
    if command == "train":
        assert "hydra/launcher" in shown(capsys, command, "--hydra-help")
    assert ((closes, *logging.getLogger().handlers), logging.getLogger().level) == kept
    assert not closes.closed


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--cfg", "jobs"], ["--cfg", "jobs", "job"]),
        (["--info", "nothing"], ["--info", "searchpath"]),
        (["--cfg", "job", "--package", "nothing"], ["--package nothing", "no such part"]),
        (["--resolve"], ["--resolve", "--cfg"]),
        (["--cfg", "job", "-m"], ["--cfg, --multirun", "choose one"]),
        (["--config-name", "x"], ["--config-name", "experiment=FILE.yaml"]),
        (["--config-dir", "no/such"], ["no/such", "no such folder"]),
        (["--nothing"], ["--nothing"]),
        (["hydra.searchpath=[no/such]"], ["no/such", "no such folder"]),
        (["hydra.searchpat=[x]"], ["hydra.searchpat", "did you mean searchpath"]),
        (["+scenario.foo=1"], ["scenario.foo", "no such key"]),
        (["+scenario.migration.mod=fixed"], ["mod", "did you mean mode"]),
        (["scenario@x=small"], ["scenario@x"]),
        (["~nothing"], ["nothing", "no key nothing"]),
        (["env=clustr"], ["env=clustr", "did you mean cluster"]),
        (["env.rewrd.energy=1"], ["env.rewrd", "did you mean reward"]),
        (["env.reward.enrgy=1"], ["enrgy", "did you mean energy"]),
        (["env.actions=candidates", "scenario=demo_placement"], ["env.actions", "no effect", "placement"]),
        (["policy=demo_agent", "policies=[static]"], ["policies"]),
        (["seed=1,2"], ["seed=1,2", "every combination: -m"]),
        (["-m", "hydra.verbose=true,false"], ["hydra"]),
        (["-m", "hydra/launcher=jobib", "seed=0,1"], ["jobib", "did you mean joblib"]),
        (["-m", "hydra/sweeper=optuna", "seed=0,1"], ["hydra-optuna-sweeper"]),
        (["-m", "scenario=smal,small"], ["scenario=smal", "did you mean small"]),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "evaluate", *arguments, f"out={tmp_path / 'out'}")
    assert line.startswith("virtgym evaluate: ")
    for part in parts:
        assert part in line


def test_the_grammar_is_hydra_s() -> None:
    options = compose_run("evaluate", ["~scenario.trace.options.n_vms"]).scenario["trace"]["options"]
    assert "n_vms" not in options
    added = ["scenario=small", "+scenario.trace.options.churn=0.5", "++seed=3", "policy=dpm(target=0.5)"]
    run = compose_run("evaluate", added)
    assert run.scenario["trace"]["options"] == {"n_vms": 50, "churn": 0.5}
    assert run.seeds == (3,)
    assert run.policies[0].label == "dpm(target=0.5)"
    assert compose_run("evaluate", ["out=", "~policy", "~seed"]).policies[0].name == "static"
    # Keys of other machinery keep their marks, whether their plug-in is installed or not.
    assert compose_run("evaluate", ["+hydra.launcher.ray.init.num_cpus=2"]).seeds == (0,)


@pytest.mark.parametrize("how", ["path", "--config-dir", "hydra.searchpath"])
def test_files_of_ones_own_inherit(how: str, lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cfg(command: str, group: str, name: str) -> dict[str, object]:
        choice = f"{group}=./lab/{group}/{name}.yaml" if how == "path" else f"{group}={name}"
        found = {
            "path": [],
            "--config-dir": ["--config-dir", "lab"],
            "hydra.searchpath": ["hydra.searchpath=[lab]"],
        }[how]
        text = shown(capsys, command, choice, *found, "--cfg", "job", "--package", group)
        return dict(yaml.safe_load(text))

    own = cfg("evaluate", "scenario", "own")
    assert (own["name"], own["horizon_s"], len(own["hosts"])) == ("own", 600, 2)  # type: ignore[arg-type]
    beside = cfg("benchmark", "scenario", "beside")
    assert (beside["name"], beside["horizon_s"], beside["memory"]) == ("beside", 600, "ignored")
    assert cfg("train", "agent", "quick")["n_steps"] == 16
    eager = cfg("evaluate", "policy", "eager")
    assert (eager["name"], eager["target"]) == ("dpm", 0.5)
    if how == "path":
        assert cfg("watch", "scenario", "absolute")["memory"] == "multiplexed"


def test_python_takes_what_the_command_line_takes(lab: Path) -> None:
    env = gym.make("virtgym/Cluster-v0", scenario="lab/scenario/beside.yaml")
    assert env.unwrapped.scenario.name == "beside"  # type: ignore[attr-defined]
    assert env.unwrapped.scenario.config.memory == "ignored"  # type: ignore[attr-defined]
    row = evaluate("lab/scenario/own.yaml", "static").iloc[0]
    assert (row["scenario"], row["steps"]) == ("own", 2)


def test_a_suite_of_ones_own_inherits(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "suite=mine", "policies=[static]", "seeds=[0]", "out=out", "report=false"]
    assert main([*command, "--config-dir", "lab"]) == 0
    assert set(pd.read_csv("out/suite.csv")["task"]) == {"one"}
    capsys.readouterr()
    assert "no such suite" in refused(capsys, *command)


def test_what_is_wrong_in_a_file_names_the_file(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (
        ("defaults: [smal]\n", "did you mean small"),
        ("defaults: [wrong]\n", "no such scenario"),
        ("defaults: [./wrong.yaml]\n", "inherits itself"),
        ("defaults: small\n", "must be a list"),
        ("hosts: [{name: a, cuont: 2}]\n", "did you mean count"),
        ("memmory: x\n", "did you mean memory"),
        ("interval_s: abc\n", "interval_s"),
        ("- a\n", "must be a mapping"),
    ):
        Path("wrong.yaml").write_text(text)
        line = refused(capsys, "evaluate", "scenario=wrong.yaml")
        assert "wrong.yaml: " in line
        assert said in line


def test_the_environment_is_a_group_of_every_command(tmp_path: Path) -> None:
    plain = evaluate("small", "static", overrides={"horizon_s": 600}).iloc[0]
    for i, arguments in enumerate((["env.reward.energy=-2"], ["env=cluster", "env.reward.energy=-2"])):
        out = tmp_path / str(i)
        assert main(["evaluate", *SHORT, *arguments, "policy=static", f"out={out}"]) == 0
        row = pd.read_csv(out / "results.csv").iloc[0]
        assert row["energy_kwh"] == plain["energy_kwh"]
        assert row["episode_return"] != plain["episode_return"]
        assert row["config_hash"] != plain["config_hash"]
    assert (
        main(["benchmark", *SHORT, "env.actions=candidates", "policies=[static]", f"out={tmp_path / 'b'}"])
        == 0
    )
    assert main(["evaluate", *SHORT, "policy=static", f"out={tmp_path / '0'}"]) == 2  # of another environment


def test_modules_of_ones_own_are_found_from_where_one_stands(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from virtgym.policies.simple import StaticPolicy\n\nclass Mine(StaticPolicy):\n    pass\n"
    )
    code = "import sys; from virtgym.experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    # As the console script has it: the path begins with the folder of the program.
    command = [sys.executable, "-P", "-c", code, "evaluate", *SHORT, "policy=mine:Mine", "out=out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "out" / "results.csv")["policy"].tolist() == ["mine:Mine"]


def test_completion_is_hydra_s(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lab: Path
) -> None:
    assert "hydra_bash_completion" in shown(capsys, "--shell-completion", "install=bash")
    assert "hydra_bash_completion" in shown(capsys, "train", "--shell-completion", "install=bash")
    for line, found in (
        ("virtgym ev", "evaluate"),
        ("virtgym evaluate policy=dpm_o", "policy=dpm_ortools"),
        ("virtgym train agent=rollout", "agent=rollout_iteration"),
        ("virtgym benchmark scenario=planetlab_f", "scenario=planetlab_full"),
        ("virtgym evaluate scenario.teleme", "scenario.telemetry."),
        ("virtgym list ", ""),
    ):
        monkeypatch.setenv("COMP_LINE", line)
        assert shown(capsys, "-sc", "query=bash").strip() == found
    assert "No completion plugin" in refused(capsys, "--shell-completion", "install=nothing")


GRID = ("policy=dpm", "policy.target=0.6,0.7", "scenario.memory=binding,ignored")


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_a_grid_over_any_keys(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = [command, *SHORT, *GRID, f"out={out}"]
    assert main([*arguments, "-m"]) == 0
    table = pd.read_csv(out / "sweep.csv")
    assert list(table)[:5] == ["job", "policy.target", "scenario.memory", "finished", "objective"]
    assert {*zip(table["policy.target"], table["scenario.memory"])} == {
        (0.6, "binding"), (0.6, "ignored"), (0.7, "binding"), (0.7, "ignored")
    }  # fmt: skip
    for _, row in table.iterrows():
        job = pd.read_csv(out / str(row["job"]) / "results.csv")
        assert job["cost"].mean() == pytest.approx(row["objective"])
        assert job["memory"].tolist() == [row["scenario.memory"]]
        assert job["policy"].tolist() == [f"dpm(target={row['policy.target']})"]
    capsys.readouterr()
    assert main([*arguments, "-m", "seed=0"]) == 0  # again: nothing is run, and the table is the same
    assert capsys.readouterr().err.count("skipped 1 finished cell") == 4
    pd.testing.assert_frame_equal(pd.read_csv(out / "sweep.csv"), table)


def test_choices_are_swept_and_told_as_typed(lab: Path) -> None:
    """Files, paths with commas and slashes, and several policies of a job."""
    odd = Path("a, b")
    odd.mkdir()
    (odd / "own.yaml").write_text("defaults: [small]\nname: odd\nhorizon_s: 600\n")
    files = "scenario=lab/scenario/own.yaml,'a, b/own.yaml'"
    assert main(["benchmark", files, "policies=[static,dpm]", "out=out", "-m"]) == 0
    table = pd.read_csv("out/sweep.csv")
    assert {*zip(table["scenario"], table["policy"])} == {
        (file, policy) for file in ("lab/scenario/own.yaml", "a, b/own.yaml") for policy in ("static", "dpm")
    }
    assert {p.name for p in Path("out").iterdir()} == {*table["job"], "sweep.csv", "multirun.yaml"}
    assert main(["evaluate", *SHORT, "policy=static,lab/policy/eager.yaml,dpm", "out=two", "-m"]) == 0
    assert set(pd.read_csv("two/sweep.csv")["policy"]) == {"static", "lab/policy/eager.yaml", "dpm"}


def test_a_job_that_fails_is_told_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others finish; mended, yesterday's failure is none of today's; nothing is written above ``out``."""
    monkeypatch.chdir(tmp_path)
    Path("sweep.csv").write_text("mine\n")
    command = ["evaluate", "scenario=small", "policy=static", "out=out", "-m"]
    assert main([*command, "scenario.horizon_s=600,-1"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "job scenario.horizon_s=-1-" in last
    assert "scenario.horizon_s=-1" in last
    table = pd.read_csv("out/sweep.csv").set_index("scenario.horizon_s")
    assert table["finished"].to_dict() == {600: True, -1: False}
    assert main([*command, "scenario.horizon_s=600,900"]) == 0
    assert "error" not in pd.read_csv("out/sweep.csv")
    # One value per key: a sweep of one job, which may fail as well.
    assert main(["evaluate", "scenario=small", "out=one", "-m", "scenario.horizon_s=-1"]) == 2
    assert main(["evaluate", "scenario=small", "out=one", "-m", "scenario.horizon_s=600"]) == 0
    assert len(pd.read_csv("one/sweep.csv")) == 1
    assert Path("sweep.csv").read_text() == "mine\n"
    assert sorted(path.name for path in Path().iterdir()) == ["one", "out", "sweep.csv"]


def test_a_fault_of_ones_own_code_stops_no_other_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text(
        "from virtgym.policies.simple import StaticPolicy\n\nclass Faulty(StaticPolicy):\n"
        "    def reset(self, view, rng):\n        raise RuntimeError('boom')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["evaluate", *SHORT, "policy=faulty:Faulty,static", "out=out", "-m"]) == 1
    assert "boom" in capsys.readouterr().err.splitlines()[-1]
    table = pd.read_csv("out/sweep.csv").set_index("policy")
    assert table["finished"].to_dict() == {"static": True, "faulty:Faulty": False}


def test_a_killed_grid_goes_on(tmp_path: Path) -> None:
    arguments = [*SHORT, "policy=dpm", "policy.target=0.5,0.6,0.7", "-m"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["benchmark", *arguments, f"out={whole}"]) == 0
    code = "import sys; from virtgym.experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "benchmark", *arguments, f"out={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.glob("*/cells/*.json")):
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main(["benchmark", *arguments, f"out={killed}"]) == 0
    a, b = (pd.read_csv(out / "sweep.csv") for out in (whole, killed))
    pd.testing.assert_frame_equal(a, b)


def test_a_path_in_a_file_replaces_the_generator_that_it_inherits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("usage.csv").write_text("vm,time_s,cpu\na,0,0.2\na,300,0.4\nb,0,0.1\nb,300,0.3\n")
    Path("mine.yaml").write_text("defaults: [small]\nname: mine\ntrace: {path: usage.csv, format: table}\n")
    Path("child.yaml").write_text("defaults: [mine]\nname: child\n")
    Path("guessed.yaml").write_text("defaults: [demo]\nname: guessed\ntrace: {path: usage.csv}\n")
    Path("odd.yaml").write_text(
        "defaults: [small]\nname: odd\ntrace: {path: usage.csv, options: {n_vms: 2}}\n"
    )
    for name in ("mine", "child", "guessed"):
        assert build_scenario(f"{name}.yaml").workload.n_vms == 2, name
    line = refused(capsys, "evaluate", "scenario=odd.yaml", "policy=static", "out=runs")
    assert line == "virtgym evaluate: table: no option 'n_vms'; allowed are: sample_s, fill, over"
