"""Where curves go: MLflow in a local store, W&B offline, TensorBoard, several, none; what is missing."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest

from virtgym.experiments.cli.commands import main
from virtgym.experiments.training import trackers
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.train import train

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

TINY = (
    *("scenario=demo_placement", "scenario.n_windows=2", "scenario.trace.options.n=600"),
    *("scenario.train_rows=[0,300]", "agent=ppo", "agent.n_steps=16", "agent.batch_size=64", "num_envs=4"),
    *("agent.hidden=[8,8]", "total_timesteps=128", "eval_every=64"),
)
POINTS = ("validation/objective", "train/loss", "train/frames_per_s")


class Stop(Exception):
    """Ends a training in the middle."""


def stop_at(timesteps: int) -> Any:
    def watch(history: list[dict[str, Any]]) -> None:
        if history[-1]["timesteps"] >= timesteps:
            raise Stop

    return watch


def interrupted(out: Path, tracker: str) -> None:
    """Train, with an interruption after the second of three validations and without a checkpoint."""
    run = compose_training([*TINY, f"tracker={tracker}", f"out={out}"])
    with pytest.raises(Stop):
        train(run, stop_at(64))
    train(run)


def test_mlflow_gets_one_run_of_a_training_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow.tracking import MlflowClient

    store = tmp_path / "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{store}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    interrupted(tmp_path / "run", "mlflow")
    client = MlflowClient(f"file:{store}")
    experiment = client.get_experiment_by_name(trackers.PROJECT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ppo seed 0"
    assert run.data.params["agent.n_steps"] == "16"
    assert set(POINTS) <= set(run.data.metrics)
    points = client.get_metric_history(run.info.run_id, "validation/objective")
    assert {0, 64, 128} == {point.step for point in points}


def test_wandb_works_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    interrupted(tmp_path / "run", "[wandb,tensorboard]")
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1  # both parts are of one run
    assert all(list(run.glob("*.wandb")) for run in runs)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_none_writes_nothing(tmp_path: Path) -> None:
    train(compose_training([*TINY, "tracker=none", f"out={tmp_path / 'run'}"]))
    assert not {"tensorboard", "wandb", "mlruns"} & {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("name", trackers.NEEDS)
def test_a_missing_extra_is_told_before_anything_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, extra = trackers.NEEDS[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *more: None)
    assert main(["train", *TINY, f"tracker={name}", f"out={tmp_path / 'run'}"]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert f"tracker={name}: needs {package}, which is not installed" in line
    assert f"virtgym[{extra}]" in line
    assert not (tmp_path / "run").exists()


def test_a_training_says_what_it_does_by_logging(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="virtgym"):
        train(compose_training([*TINY, "tracker=none", f"out={tmp_path / 'run'}"]))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("virtgym.")]
    assert len([text for text in said if text.startswith("ppo seed 0") and "validation" in text]) == 3
