"""Sweeps: every combination once, in a folder of its own, compared in one table, and resumable."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from virtgym.experiments.cli.commands import main
from virtgym.experiments.cli.sweep import job_folder

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

TINY = (
    "scenario=demo_placement",
    "scenario.n_windows=3",
    "scenario.trace.options.n=2000",
    "scenario.train_rows=[0,1000]",
    "total_timesteps=300",
    "num_envs=4",
    "eval_every=200",
    "agent=ppo",
    "agent.network=mlp",
    "agent.hidden=[8]",
    "agent.n_steps=16",
    "agent.batch_size=32",
    "tensorboard=false",
)


def sweep(out: Path, *arguments: str) -> int:
    return main(["train", *TINY, f"out={out}", "-m", *arguments])


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "sweep.csv")


def test_every_combination_is_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out with a blank"
    assert sweep(out, "agent.learning_rate=1e-4,3e-3", "seed=0,1") == 0
    assert f"sweep: {out / 'sweep.csv'}" in capsys.readouterr().out
    table = table_of(out)
    assert sorted(zip(table["agent.learning_rate"], table["seed"])) == [
        (1e-4, 0), (1e-4, 1), (3e-3, 0), (3e-3, 1)
    ]  # fmt: skip
    assert table["finished"].all()
    assert table["objective"].is_monotonic_increasing
    for _, row in table.iterrows():
        job = out / str(row["job"])
        assert json.loads((job / "train.json").read_text())["objective"] == pytest.approx(row["objective"])
        assert (job / "agent" / "agent.json").exists()
        assert f"seed={row['seed']}" in str(row["job"])
    # Again, with one value more and one job that was interrupted: only these two run.
    stamps = {job.name: (job / "train.json").stat().st_mtime_ns for job in out.glob("agent*")}
    broken = out / str(table["job"][0])
    info = json.loads((broken / "train.json").read_text())
    (broken / "train.json").write_text(json.dumps({**info, "finished": False}))
    assert sweep(out, "agent.learning_rate=1e-4,3e-3", "seed=0,1,2") == 0
    again = table_of(out)
    assert len(again) == 6
    assert again["finished"].all()
    for name, stamp in stamps.items():
        assert ((out / name / "train.json").stat().st_mtime_ns == stamp) == (name != broken.name)
    before = table.set_index("job")["objective"]
    pd.testing.assert_series_equal(again.set_index("job")["objective"][before.index], before)


def test_a_group_can_be_swept(tmp_path: Path) -> None:
    arguments = [a for a in TINY if not a.startswith("agent")]
    assert main(["train", *arguments, f"out={tmp_path}", "-m", "agent=ppo,a2c", "agent.hidden=[8,8]"]) == 0
    assert set(table_of(tmp_path)["agent"]) == {"ppo", "a2c"}


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None
    if importlib.util.find_spec("hydra_plugins")
    else True,
    reason="hydra-joblib-launcher is not installed",
)
def test_jobs_side_by_side_give_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert sweep(one, "seed=0,1") == 0
    assert sweep(two, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    a, b = (table_of(out)[["job", "seed", "objective"]] for out in (one, two))
    pd.testing.assert_frame_equal(a, b)


def test_one_impossible_job_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "agent.gamma=2.0,0.9") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "job agent.gamma=2.0-" in last
    assert "agent.gamma=2.0: must be at most 1" in last
    table = table_of(tmp_path).set_index("agent.gamma")
    assert table["finished"].to_dict() == {0.9: True, 2.0: False}
    assert "must be at most 1" in table["error"][2.0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["hydra/launcher=jobib", "seed=0,1"], ["hydra/launcher=jobib", "did you mean", "basic"]),
        (["hydra/launcher=ray", "seed=0,1"], ["hydra/launcher=ray", "virtgym[ray]"]),
        (["hydra/sweeper=optuna", "seed=0,1"], ["there are: basic", "no extra brings it", "optuna<3"]),
        (["agent.gama=0.9,0.8"], ["agent.gama", "did you mean gamma?"]),
        (["agent=ppo,pop"], ["agent=pop", "did you mean ppo?"]),
        (["seed=0,one"], ["seed", "one"]),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, *arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("virtgym train: ")
    for part in parts:
        assert part in last


def write_windows(folder: Path) -> list[str]:
    """Two files of the same name in two folders, one of them with a comma and a blank in its name."""
    names = []
    for name, rows in (("a/w.csv", "1600\n1700\n"), ("b, c/w.csv", "1650\n1750\n")):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(rows)
        names.append(str(path))
    return names


def test_paths_are_swept_and_jobs_stay_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value with slashes, commas or blanks makes no folder of its own, and nothing else is written."""
    one, two = write_windows(tmp_path / "in")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "sweep.csv").write_text("mine\n")
    assert sweep(Path("out"), f"scenario.windows={one},'{two}'") == 0
    table = table_of(Path("out"))
    assert sorted(table["scenario.windows"]) == [one, two]
    assert table["finished"].all()
    for job in table["job"]:
        assert "/" not in job
        assert (Path("out") / job / "agent" / "agent.json").exists()
    assert (tmp_path / "work" / "sweep.csv").read_text() == "mine\n"
    assert sorted(p.name for p in Path().iterdir()) == ["out", "sweep.csv"]
    assert {p.name for p in Path("out").iterdir()} == {*table["job"], "sweep.csv", "multirun.yaml"}


def test_one_combination_is_a_sweep_of_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused, it says so and blocks nothing: the corrected command trains in the same folder."""
    assert sweep(tmp_path, "seed=0", "agent.learning_rate=-1") == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line)
    assert "agent.learning_rate=-1" in line
    assert sweep(tmp_path, "seed=0") == 0
    table = table_of(tmp_path)
    assert len(table) == 1
    assert table["finished"].all()
    assert "error" not in table
    assert not (tmp_path / "train.json").exists()


def test_a_table_that_no_sweep_wrote_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.csv").write_text("mine\n")
    assert sweep(tmp_path, "seed=0,1") == 2
    assert "its sweep.csv is not of a sweep" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.csv"]


@pytest.mark.parametrize("value", ["../../x", "/etc/passwd", "..", "a/b", ".hidden", "a\nb", "é" * 300, ""])
def test_no_value_leads_out_of_the_sweep(value: str) -> None:
    folder = Path("sweep")
    job = job_folder(folder, {"initial": value})
    assert job.parent == folder
    assert job.name.startswith("initial=")
    assert len(job.name.encode()) < 200
    assert job != job_folder(folder, {"initial": value + "x"})
    assert job_folder(folder, {}).name.startswith("only-")


def test_a_worker_ends_with_its_sweep() -> None:
    """The parent is killed with no chance to say so; its child must not work on."""
    child = (
        "import os, sys, time\n"
        "from virtgym.experiments.run.launchers.engine import end_with\n"
        "end_with(os.getppid())\n"
        "print('works', flush=True)\n"
        "time.sleep(300)"
    )
    parent = (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "works\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # ends when the child, who holds the pipe, has ended
    process.stdout.close()
