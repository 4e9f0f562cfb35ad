"""Launchers: the same rows from any engine, whatever happens to it, and one line for what it refuses."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically
from virtgym.experiments.cli.commands import main
from virtgym.experiments.config.launchers import Launcher, LocalConfig, make_launcher
from virtgym.experiments.run.folder import hold_folder
from virtgym.experiments.run.launchers.drive import results
from virtgym.experiments.run.launchers.engine import LostError

TIMES = ("wall_s", "vm_intervals_per_s", "decision_ms_p50", "decision_ms_p99")
"""Columns that measure the machine."""
GRID = ("scenario=small", "scenario.horizon_s=1200", "seeds=[0,1]")
ENGINES = ("local", "joblib", "ray", "slurm")
PACKAGES = {"ray": "ray", "slurm": "submitit"}


def needs(engine: str) -> None:
    package = PACKAGES.get(engine)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'virtgym[{engine}]'")


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A cluster of two nodes of one CPU each."""
    needs("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    yield str(cluster.address)
    cluster.shutdown()


def keys_of(engine: str, request: pytest.FixtureRequest) -> list[str]:
    """What is typed for an engine of two workers on this machine."""
    needs(engine)
    own = {"ray": lambda: [f"launcher.address={request.getfixturevalue('ray_address')}"]}
    more = own[engine]() if engine in own else ["workers=2"]
    return [f"launcher={engine}", *more, *(["launcher.cluster=local"] if engine == "slurm" else [])]


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet").drop(columns=list(TIMES))


OWN = """\
import os, signal, time
from pathlib import Path
from virtgym.policies.simple import StaticPolicy

class Dies(StaticPolicy):
    '''Ends its process the first time that it plays, as the system would.'''
    def reset(self, view, rng):
        if not Path("died").exists():
            Path("died").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        super().reset(view, rng)

class Fails(StaticPolicy):
    def reset(self, view, rng):
        with open("tries", "a") as file:
            file.write("x")
        raise ZeroDivisionError("a policy's own mistake")

class Waits(StaticPolicy):
    def reset(self, view, rng):
        while not Path("go").exists():
            time.sleep(0.02)
        super().reset(view, rng)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with policies of one's own, in which one stands."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_the_same_from_any_engine_also_if_a_process_is_killed(
    engine: str, own: Path, request: pytest.FixtureRequest
) -> None:
    keys = keys_of(engine, request)
    command = ["benchmark", *GRID, "policies=[thr-rs,random,own:Dies]", "report=false"]
    assert main([*command, *keys, "out=out"]) == 0
    assert Path("died").exists()
    assert main([*command, "out=expected"]) == 0
    pd.testing.assert_frame_equal(rows_of(Path("out")), rows_of(Path("expected")), check_exact=True)
    if engine == "joblib":  # whoever uses joblib after it in the same process is not disturbed
        assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(x) for x in (-1, -2)) == [1, 2]


def test_a_cell_that_fails_is_tried_as_often_as_told_and_leaves_a_log(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["benchmark", "scenario=small", "scenario.horizon_s=600", "policies=[own:Fails,static]", "out=out"]
    assert main([*grid, "launcher.retries=2", "report=false"]) == 1
    assert Path("tries").read_text() == "xxx"
    last = capsys.readouterr().err.splitlines()[-1]
    assert "own:Fails seed 0: ZeroDivisionError: a policy's own mistake (log: out/logs/" in last
    assert "in reset" in Path(last.partition("(log: ")[2].rstrip(")")).read_text()
    assert list(rows_of(Path("out"))["policy"]) == ["static"]


def finished(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "cells").glob("[!.]*.json"))


def test_a_command_killed_in_the_middle_leaves_jobs_that_the_next_one_ends(own: Path) -> None:
    """Of Slurm's jobs, which outlive their command; a second command meanwhile is refused."""
    needs("slurm")
    command = ["benchmark", *GRID, "policies=[static,own:Waits]", "report=false", "out=out", "workers=2"]
    command += ["launcher=slurm", "launcher.cluster=local"]
    typed = [sys.executable, "-m", "virtgym.experiments.cli", *command]
    process = subprocess.Popen(typed, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(finished(Path("out"))) < 2:
        time.sleep(0.02)
    second = subprocess.run(typed, capture_output=True, text=True)
    assert "out=out: another virtgym command is at work in it" in second.stderr
    assert second.returncode == 2
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = (Path("out") / ".launcher").iterdir()
    Path("go").write_text("")
    assert main(command) == 0
    assert not left.exists()
    rows = rows_of(Path("out"))
    assert len(rows) == 4
    assert not rows.duplicated(["policy", "seed"]).any()


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def fill_up(path: Path, content: Callable[[Path], object]) -> None:
        if path.suffix == ".parquet" and "cells" in path.parts and len(finished(out)) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, content)

    monkeypatch.setattr("virtgym.experiments.run.folder.write_atomically", fill_up)
    command = ["benchmark", *GRID, "policies=[static,thr-rs,dvfs]", "report=false", f"out={out}"]
    assert main(command) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text and text[0] != "[")
    assert f"out={out}: cannot be written (No space left on device); 2 of 6 cells are kept" in line
    assert f"the same command with out={out} runs the rest" in line
    assert len(rows_of(out)) == 2
    monkeypatch.undo()
    assert main(command) == 0
    assert len(rows_of(out)) == 6


def test_of_two_in_a_folder_the_second_waits_or_is_told(tmp_path: Path) -> None:
    told = pytest.raises(ConfigError, match="another virtgym command is at work")
    with hold_folder(tmp_path), told, hold_folder(tmp_path):
        pass
    with hold_folder(tmp_path / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_comes_may_depend_on_what_came() -> None:
    """Tasks that no list has are asked for one by one, and run side by side."""
    asked: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(6):
            asked.append(task)
            yield task

    launcher = Launcher(LocalConfig(), 2)
    got: dict[int, Any] = {}
    for task, result in results(tasks(), functools.partial(pow, 2), launcher):
        assert len(asked) <= len(got) + 3
        assert not isinstance(result, LostError)
        got[task] = result
    assert got == {task: 2**task for task in range(6)}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["launcher=rey"], ["launcher=rey", "did you mean ray?", "joblib, local, ray, slurm"]),
        (["launcher.retires=2"], ["launcher.retires", "did you mean retries?"]),
        (["launcher.retries=-1"], ["launcher.retries=-1", "at least 0"]),
        (["workers=0"], ["workers=0", "at least 1"]),
        (["launcher=local,joblib", "-m"], ["launcher=local,joblib", "several values"]),
        (["launcher=joblib", "hydra/launcher=basic", "-m"], ["launcher, hydra/launcher", "choose one"]),
        (["launcher=ray", "launcher.address=127.0.0.1:1"], ["127.0.0.1:1", "no Ray cluster", "refused"]),
        (["launcher=ray", "launcher.address=nobody"], ["launcher.address=nobody", "HOST:PORT"]),
        (["launcher=slurm"], ["launcher=slurm", "sbatch is not on the path", "launcher.cluster=local"]),
        (["launcher=slurm", "launcher.cluster=here"], ["launcher.cluster", "slurm, local"]),
    ],
)
def test_what_a_launcher_refuses_is_one_line(
    arguments: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs(arguments[0].partition("=")[2])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    grid = ["evaluate", "scenario=small", "scenario.horizon_s=600", f"out={tmp_path / 'out'}"]
    assert main([*grid, *arguments]) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("engine", sorted(PACKAGES))
def test_what_is_not_installed_is_named(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"launcher={engine}: needs .*pip install 'virtgym\[{engine}\]'"):
        make_launcher({"launcher": {"name": engine}}, "out")


def test_a_partition_that_is_not_there_is_sbatch_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With programs in the place of Slurm's."""
    needs("slurm")
    said = "sbatch: error: invalid partition specified: no"
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    grid = ["evaluate", "scenario=small", "scenario.horizon_s=600", f"out={tmp_path / 'out'}"]
    assert main([*grid, "launcher=slurm", "launcher.partition=no"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "launcher=slurm: sbatch refuses the job (invalid partition specified: no)" in line


def test_a_suite_is_swept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = ["benchmark", "suite=virtgym-1", "policies=[dvfs]", "seeds=[1003]", "report=false"]
    assert main([*suite, "suite.tasks=[consolidate],[churn]", "-m", f"out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert len(table) == 4
    assert (table["objective"] + table["score"]).tolist() == pytest.approx([100.0] * 4)
    assert {"suite.csv", "job.json"} <= {path.name for path in (tmp_path / table["job"][0]).iterdir()}
    capsys.readouterr()
    assert main([*suite, "suite.size=80", "--cfg", "job", "--package", "suite.size"]) == 0
    assert "80" in capsys.readouterr().out
