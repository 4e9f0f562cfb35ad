"""Many seeds in one process: equal to single runs, in the folders of a sweep, resumable; devices, lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.experiments.cli.commands import main
from virtgym.experiments.cli.sweep import job_folder
from virtgym.experiments.run.cell import load_scenario
from virtgym.experiments.training import cluster_task
from virtgym.experiments.training.agents import AGENTS, agent_kind
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.train import make_task, train, train_seeds
from virtgym.policies.learned.storage import load_agent

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

SMALL = ("scenario=small", "total_timesteps=1000", "agent.hidden=[16,16]", "tracker=none")
PPO = ("agent=ppo", "num_envs=2", "agent.n_steps=24", "agent.batch_size=20", "agent.n_epochs=2")
LEARNERS: dict[str, tuple[str, ...]] = {
    "ppo": PPO,
    "maskable_ppo": (*PPO, "agent=maskable_ppo", "agent.target_kl=0.0005", "agent.scale_reward=false"),
    "imitation": ("agent=imitation", "agent.teacher=static", "num_envs=1", "agent.batch_size=200"),
}


def tasks_of(*arguments: str, seeds: int = 2) -> tuple[list[Any], Any]:
    """Tasks that differ in their seed, and the settings of the agent."""
    run = compose_training(arguments)
    task = make_task(load_scenario(run.scenario, 0), run.config, run.agent)
    return [replace(task, seed=seed) for seed in range(seeds)], run.agent


@pytest.mark.parametrize("name", LEARNERS)
def test_a_batch_of_seeds_learns_what_single_runs_learn(name: str) -> None:
    tasks, config = tasks_of(*SMALL, *LEARNERS[name], "agent.hidden=[16,16]")
    kind, n_chunks = agent_kind(name), 2
    stack = kind.make_stack(tasks, config)
    for _ in range(n_chunks):
        told = stack.learn_chunk([1, 1])
    for i, task in enumerate(tasks):
        alone = kind.make_learner(task, config)
        for _ in range(n_chunks):
            mine = alone.learn_chunk(1)
        assert alone.timesteps == stack.learners[i].timesteps
        theirs = told[i]
        for key in mine.keys() - {"collect_s", "update_s"}:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-3, abs=1e-5), key
        assert theirs.keys() == mine.keys()
        one, other = alone.snapshot()[0].weights, stack.learners[i].snapshot()[0].weights
        for key, weights in one.items():
            if key != "score.bias":  # it changes no probability: its gradient is rounding alone
                np.testing.assert_allclose(other[key], weights, atol=5e-5, err_msg=key)


class Stop(Exception):
    """Ends a training in the middle."""


def test_seeds_lie_in_the_folders_of_a_sweep_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_task, "validation_seeds", lambda scenario: [2000])
    typed = (*SMALL, *PPO, "total_timesteps=140", "eval_every=48", "agent.n_epochs=1", "agent.batch_size=48")

    def runs(out: Path) -> list[Any]:
        folders = [job_folder(out, {"seed": seed}) for seed in range(2)]
        return [compose_training([*typed, f"seed={i}", f"out={one}"]) for i, one in enumerate(folders)]

    def watch(history: list[dict[str, Any]]) -> None:
        if history[-1]["timesteps"] >= 96:
            raise Stop

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_seeds(runs(whole))
    with pytest.raises(Stop):
        train_seeds(runs(broken), watch)
    assert all((Path(run.config["out"]) / "checkpoint.npz").exists() for run in runs(broken))
    assert main(["train", *typed, "seeds=[0..1]", f"out={broken}"]) == 0
    table = pd.read_csv(broken / "sweep.csv")
    assert sorted(table["seed"]) == [0, 1]
    assert table["finished"].all()
    for run, other in zip(runs(whole), runs(broken)):
        one, two = Path(run.config["out"]), Path(other.config["out"])
        assert one.name == two.name
        assert json.loads((two / "train.json").read_text())["finished"]
        a, b = (pd.read_csv(folder / "progress.csv") for folder in (one, two))
        np.testing.assert_array_equal(a["timesteps"], b["timesteps"])
        np.testing.assert_allclose(a["objective"], b["objective"])
        names = [
            set(pd.read_csv(folder / "validation.csv")["policy"]) - {str(folder / "agent")}
            for folder in (one, two)
        ]
        assert names[0] == names[1] == {"static", "drs", "dpm", "platform"}
        first, second = (load_agent(folder / "agent").members[0].weights for folder in (one, two))
        for key in first:
            np.testing.assert_allclose(first[key], second[key], atol=1e-4)
    # One of them alone is the same training.
    assert train(runs(broken)[0]).before


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("seeds=[3..1]",), "seeds: 3..1: must rise"),
        (("seeds=[0,0..2]",), "a seed is named twice"),
        (("seeds=[a]",), "must be a list of whole numbers"),
        (("seeds=[0,1]", "seed=2"), "seed=2: has no effect with seeds="),
        (("device=gpu",), "device=gpu: must be one of auto, cpu, cuda"),
        (
            ("tracker=wandbb",),
            "tracker=wandbb: must be one of tensorboard, wandb, mlflow, none (did you mean wandb?)",
        ),
        (("tracker=[none,tensorboard]",), "none stands alone"),
    ],
)
def test_what_cannot_be_is_one_line(
    typed: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL[:2], "agent=ppo", *typed, f"out={tmp_path / 'run'}"]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL[:2], "agent=ppo", "device=cuda", f"out={tmp_path / 'run'}"]) == 2
    assert "device=cuda: PyTorch finds no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert tasks_of(*SMALL, *PPO, "device=auto", seeds=1)[0][0].device == "cpu"


def test_a_range_of_seeds_is_a_list() -> None:
    run = compose_training([*SMALL, *PPO, "seeds=[0..2,7]"])
    assert run.config["seeds"] == [0, 1, 2, 7]


LENGTHS: dict[str, tuple[tuple[str, ...], int]] = {
    "ppo": (("scenario=small", "num_envs=2", "agent.n_steps=24"), 48),
    "maskable_ppo": (("scenario=small", "num_envs=2", "agent.n_steps=24"), 48),
    "a2c": (("scenario=small", "num_envs=2", "agent.n_steps=8"), 16),
    "dqn": (("scenario=small", "num_envs=2", "agent.buffer_size=500", "agent.batch_size=16"), 2),
    "imitation": (("scenario=small", "num_envs=2", "agent.teacher=static"), 2 * 288 * 8),
    "expert_iteration": (
        *(("scenario=small", "num_envs=1", "agent.search_share=0.1", "agent.n_steps=24"), 2 * 288 * 8),
    ),
    "forecaster": (("scenario=small", "agent.batch_size=10", "agent.days=1"), 160),
    "proposer": (
        (
            *("scenario=rescheduling", "scenario.snapshot.from=small@600", "scenario.limit=10"),
            "scenario.objective.fragment_cores=1",
        ),
        20,
    ),
    "destroyer": (
        (
            *("scenario=rescheduling", "scenario.snapshot.from=small@600", "scenario.limit=10"),
            *("scenario.objective.fragment_cores=1", "agent.iterations=1"),
        ),
        20,
    ),
    "rollout_iteration": (
        (
            *("scenario=demo_placement", "scenario.trace.options.n=3000", "scenario.n_windows=3"),
            *("scenario.train_rows=[0,1500]", "agent.population=1", "agent.selection_windows=2"),
        ),
        1500,
    ),
}
"""How long a batch of every agent is at most, in decisions; of imitation and its like an episode's."""


def test_every_agent_has_a_batch() -> None:
    assert set(LENGTHS) == set(AGENTS)


@pytest.mark.parametrize("name", LENGTHS)
def test_a_training_ends_within_a_batch(name: str) -> None:
    typed, batch = LENGTHS[name]
    total = 290 if name in ("imitation", "expert_iteration") else 200
    (task,), config = tasks_of(f"agent={name}", *typed, f"total_timesteps={total}", seeds=1)
    learner = agent_kind(name).make_learner(task, config)
    while learner.timesteps < total:
        learner.learn_chunk(total - learner.timesteps)
    assert total <= learner.timesteps < total + batch
