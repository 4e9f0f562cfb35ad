"""Sweeps: every combination once, in a folder of its own, compared in one table, and resumable."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest

from virtgym.experiments.cli import main

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
    assert "job agent.gamma=2.0: agent.gamma=2.0: must be at most 1" in last
    table = table_of(tmp_path).set_index("agent.gamma")
    assert table["finished"].to_dict() == {0.9: True, 2.0: False}
    assert "must be at most 1" in table["error"][2.0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["hydra/launcher=jobib", "seed=0,1"], ["hydra/launcher=jobib", "did you mean", "basic"]),
        (["hydra/launcher=ray", "seed=0,1"], ["hydra/launcher=ray", "virtgym[ray]"]),
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
