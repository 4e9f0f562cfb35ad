"""``virtgym train`` on rescheduling, end to end: folder, policy, table, broken off and taken up, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.experiments.cli.commands import main
from virtgym.experiments.training import rescheduling_task
from virtgym.experiments.training.compose import compose_training
from virtgym.experiments.training.proposals import learner as proposal_learner
from virtgym.experiments.training.proposals import task as proposals
from virtgym.policies.learned.storage import load_agent
from virtgym.policies.rescheduling import ortools

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

TINY = (
    *("scenario=rescheduling", "scenario.snapshot.from=small@600", "scenario.objective.fragment_cores=1"),
    *("scenario.limit=4", "agent.hidden=[8,8]", "num_envs=3", "total_timesteps=200", "eval_every=60"),
    *("tensorboard=false",),
)
AGENTS: dict[str, tuple[str, ...]] = {
    "ppo": ("agent.n_steps=16", "agent.batch_size=24"),
    "maskable_ppo": ("agent.n_steps=16", "agent.batch_size=24"),
    "a2c": ("agent.n_steps=8",),
    "imitation": ("agent.teacher=greedy_rescheduling", "agent.student_share=0.5"),
    "proposer": ("agent.n_epochs=3",),
    "destroyer": ("agent.n_epochs=3", "agent.iterations=2", "agent.begin=home"),
}
LED = {
    "proposer": ("proposals", "annealing(iterations=500)"),
    "destroyer": ("destroy", "ortools_rescheduling(begin=home,iterations=2)"),
}
"""What searches lead: the task of the agent, and the search without it."""


@pytest.fixture(autouse=True)
def short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn from searches of few proposals, and by neighbourhoods however small the snapshot is."""
    monkeypatch.setattr(proposals, "PROPOSALS", 500)
    monkeypatch.setattr(proposal_learner, "PROPOSALS", 500)
    monkeypatch.setattr(ortools, "PROPOSALS", 20)
    monkeypatch.setattr(ortools, "WORK", 1e-3)
    monkeypatch.setattr(ortools, "SMALL", 0)


def train(agent: str, *arguments: str) -> int:
    return main(["train", *TINY, f"agent={agent}", *AGENTS[agent], *arguments])


@pytest.mark.parametrize("agent", list(AGENTS))
def test_an_agent_trains_plays_and_goes_on_to_the_bit(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(agent, f"out={one}") == 0
    with monkeypatch.context() as patch:
        patch.setattr("virtgym.experiments.training.loop.Training._tell", _third_fails())
        assert train(agent, f"out={two}", "checkpoint_every=40") == 1
    assert not json.loads((two / "train.json").read_text())["finished"]
    assert train(agent, f"out={two}", "checkpoint_every=40") == 0
    a, b = (load_agent(folder / "agent") for folder in (one, two))
    task, plain = LED.get(agent, ("rescheduling", ""))
    assert a.task == task
    for name, weights in a.members[0].weights.items():
        np.testing.assert_array_equal(weights, b.members[0].weights[name])
    progress = pd.read_csv(one / "progress.csv")
    np.testing.assert_array_equal(progress["best"], progress["objective"].cummin())
    rows = pd.read_csv(one / "validation.csv").set_index("policy")
    mine = rows.loc[next(name for name in rows.index if str(one / "agent") in name)]
    assert set(rows["gate"]) == {"ok"}
    if plain:
        assert set(rows.index) > {plain, "greedy_rescheduling"}
        return
    assert set(rows.index) == {str(one / "agent"), *rescheduling_task.RULES}
    assert mine["kind"] == "agent"
    assert mine["objective"] == pytest.approx(progress["best"].iloc[-1])


def test_what_guides_is_a_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    assert train("proposer", f"out={out}", "total_timesteps=0") == 0
    assert train("destroyer", f"out={other}", "total_timesteps=0") == 0
    capsys.readouterr()
    search = ["evaluate", *TINY[:4], "policy=ortools_rescheduling", "policy.iterations=2"]
    assert main([*search, f"policy.destroy={other / 'agent'}", f"out={tmp_path / 'c'}"]) == 0
    assert main([*search, f"policy.destroy={out / 'agent'}", f"out={tmp_path / 'd'}"]) == 2
    assert "is an agent for proposals; operators come from" in capsys.readouterr().err
    play = ["evaluate", *TINY[:4], "policy=annealing", "policy.iterations=500"]
    assert main([*play, f"policy.guide={out / 'agent'}", f"out={tmp_path / 'a'}"]) == 0
    for typed, text in (
        (("scenario.objective.imbalance=1", f"policy.guide={out / 'agent'}"), "objective is fragments alone"),
        ((f"policy.guide={tmp_path}",), "agent.json: no such file"),
        (("policy=" + str(out / "agent"),), "a guide is used by a search: policy=annealing policy.guide="),
    ):
        capsys.readouterr()
        command = [part for part in play if not (typed[0].startswith("policy=") and "policy" in part)]
        assert main([*command, *typed, f"out={tmp_path / 'b'}"]) == 2
        assert text in capsys.readouterr().err


def _third_fails() -> Any:
    calls: list[int] = []

    def tell(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")

    return tell


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["agent=dqn"],
            ["is of kind rescheduling", "use agent=ppo, a2c, maskable_ppo, imitation, proposer, destroyer"],
        ),
        (["agent=expert_iteration"], ["is of kind rescheduling", "use agent=ppo"]),
        (["agent=ppo", "reward=delay"], ["reward=delay", "no effect on scenarios of kind rescheduling"]),
        (["agent=ppo", "agent.network=equivariant"], ["agent.network=equivariant", "scorer"]),
        (["agent=imitation", "agent.teacher=static"], ["agent.teacher=static", "plans no moves"]),
        (["agent=ppo", "env.reward.cost=1"], ["env.reward", "no effect on scenarios of kind rescheduling"]),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, *arguments, f"out={tmp_path / 'run'}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    for part in parts:
        assert part in line, line


def test_seeds_of_training_validation_and_test_are_apart() -> None:
    test = set(range(10_000, 10_200))
    training, validation = set(rescheduling_task.TRAINING), set(rescheduling_task.VALIDATION)
    assert not test & (training | validation)
    assert not training & validation
    run = compose_training(["scenario=rescheduling", "agent=imitation"])
    assert (run.agent.network, run.agent.observation) == ("scorer", "actions")
    assert run.agent.teacher == "annealing"  # type: ignore[attr-defined]
