"""Training on a mixture of clusters over a rule: lanes, scales, rules, margins, resuming, mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.cli.commands import main
from virtgym.experiments.training import cluster_task, mixture
from virtgym.experiments.training.compose import compose_training
from virtgym.policies.learned.safety import NEVER
from virtgym.policies.learned.storage import load_agent

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")

from virtgym.envs.sb3 import ClusterVecEnv
from virtgym.envs.sb3_lanes import MixedVecEnv

TINY = (
    *("scenario=small", "scenario.horizon_s=7200", "scenario.trace.options.n_vms=40", "agent.hidden=[8,8]"),
    *("num_envs=3", "total_timesteps=150", "eval_every=75", "tensorboard=false"),
    *("mix=[suite/dirty,suite/churn]", "fallback=[dpm,dvfs]", "margins=[0.1]"),
)
AGENTS: dict[str, tuple[str, ...]] = {
    "ppo": ("agent.n_steps=16", "agent.batch_size=24"),
    "imitation": ("agent.teacher_params.horizon=3",),
    "expert_iteration": (
        *("agent.teacher_params={horizon: 3}", "agent.search_share=0.4", "agent.n_steps=16"),
        *("agent.batch_size=24", "agent.search_rollouts=4"),
    ),
}


DAYS: dict[tuple[Any, ...], Any] = {}
"""What was measured, by scenario, rules and seed."""


@pytest.fixture(autouse=True)
def few_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate and measure on one day, each but once."""
    monkeypatch.setattr(cluster_task, "validation_seeds", lambda scenario: [2000])
    monkeypatch.setattr(mixture, "N_DAYS", 1)
    play = mixture._day

    def day(scenario: Any, rules: Any, seed: int) -> Any:
        key = (repr(scenario.config), *rules, seed)
        DAYS[key] = DAYS.get(key) or play(scenario, rules, seed)
        return DAYS[key]

    monkeypatch.setattr(mixture, "_day", day)


def train(agent: str, *arguments: str) -> int:
    return main(["train", *TINY, f"agent={agent}", *AGENTS[agent], *arguments])


@pytest.mark.parametrize("agent", list(AGENTS))
def test_a_mixture_trains_to_an_agent_with_a_rule_per_kind_and_resumes_to_the_bit(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(agent, f"out={one}") == 0
    found = load_agent(one / "agent")
    assert [kind.traits for kind in found.fallbacks] == [(), ("precopy",), ("sparse",)]
    assert {kind.margin for kind in found.fallbacks} <= {0.1, NEVER}
    measured = json.loads((one / "scenarios.json").read_text())
    assert {kind.rule for kind in found.fallbacks} <= {"dpm", "dvfs"}
    for scenario in measured:
        assert scenario["rule"] == max(scenario["scores"], key=scenario["scores"].get)
    assert [dict(part) for part in found.training["scenarios"]] == measured
    rows = pd.read_csv(one / "validation.csv")
    assert set(rows["scenario"]) == {"small", "suite/dirty", "suite/churn"}

    from virtgym.experiments.training.loop import Training

    before, calls = Training._write_checkpoint, []

    def once(self: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("power cut")
        before(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_write_checkpoint", once)
        assert train(agent, f"out={two}", "checkpoint_every=50") == 1
    with monkeypatch.context() as patch:  # what was measured stands in the folder
        patch.setattr(mixture, "measure", None)
        assert train(agent, f"out={two}", "checkpoint_every=50") == 0
    again = load_agent(two / "agent")
    assert again.fallbacks == found.fallbacks
    for name, weights in found.members[0].weights.items():
        np.testing.assert_array_equal(weights, again.members[0].weights[name])


def test_lanes_of_a_mixture_are_those_of_its_parts_to_the_bit() -> None:
    """Steps, resets, seeds, checkpoints; hosts, VMs and sub-models differ."""

    def parts() -> list[ClusterVecEnv]:
        days = [build_scenario(name, overrides={"horizon_s": 1500}) for name in ("small", "suite/memory")]
        return [
            ClusterVecEnv(n, day, actions="candidates", resample_trace=True) for n, day in zip((1, 2), days)
        ]

    mixed, alone, rng = MixedVecEnv(parts()), parts(), np.random.default_rng(0)
    mixed.seed(5)
    alone[0].seed(5)
    alone[1].seed(6)
    np.testing.assert_array_equal(mixed.reset(), np.concatenate([one.reset() for one in alone]))
    for step in range(12):
        masks = mixed.action_masks()
        np.testing.assert_array_equal(masks, np.concatenate([one.action_masks() for one in alone]))
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        if step == 6:
            other = MixedVecEnv(parts())
            other.reset()
            other.import_state(mixed.export_state())
            mixed = other
        seen, rewards, dones, infos = mixed.step(actions)
        told = [one.step(part) for one, part in zip(alone, (actions[:1], actions[1:]))]
        for mine, k in ((seen, 0), (rewards, 1), (dones, 2)):
            np.testing.assert_array_equal(mine, np.concatenate([part[k] for part in told]))
        assert [info["duration"] for info in infos] == mixed.durations.tolist()
    assert [mixed.get_attr("scenario")[i].name for i in range(3)] == ["small", "suite/memory", "suite/memory"]


def test_scales_make_scores_of_costs() -> None:
    (known,) = mixture.measure([build_scenario("small", overrides={"horizon_s": 7200})], ["static", "dpm"])
    assert known.scores["static"] == 0.0
    assert known.rule == "dpm"
    assert 0.0 < known.scores["dpm"] < 100.0
    assert known.scale * known.static > 100.0  # the bound costs something


def test_scenarios_of_a_kind_have_one_rule() -> None:
    def known(traits: tuple[str, ...], a: float, b: float) -> mixture.Measured:
        return mixture.Measured("", traits, 1.0, 1.0, {"a": a, "b": b})

    found = mixture.with_best_rules([known((), 3, 1), known(("cpu",), 3, 1), known((), 1, 4)])
    assert [one.rule for one in found] == ["b", "a", "b"]
    assert mixture.with_best_rules([mixture.Measured("", (), 1.0, 1.0, {})])[0].rule == ""


def test_a_search_is_no_plan_of_training_and_plays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    task = mixture.mixture_of(cluster_task.ClusterTrainTask(build_scenario("small")), (), ())
    known = mixture.Measured("small", (), 1.0, 1.0, {"dpm": 50.0, "rollout_search": 60.0, "drs": -1.0})
    (learned,) = mixture.with_best_rules([known], searches=False)
    assert learned.rule == "dpm"
    made = replace(task, measured=(learned,))
    monkeypatch.setattr(mixture, "_day", lambda day, rules, seed: (0.0, 0.0, known.scores))
    (fallback,) = made.choose_margins([])  # no member plays: nothing is tried over a search
    assert (fallback.rule, fallback.margin) == ("rollout_search", NEVER)


def test_a_margin_that_loses_on_one_scenario_is_not_taken() -> None:
    good, bad = np.full(6, 1.0), np.array([-1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    assert mixture._sure([good]) == 1.0
    assert mixture._sure([good, bad]) == -np.inf
    assert mixture._sure([np.zeros(6)]) == 0.0


def test_a_suite_stands_for_its_cluster_tasks_and_typed_keys_hold_for_all() -> None:
    run = compose_training(
        [
            "scenario=suite/memory",
            "scenario.horizon_s=7200",
            "mix=[virtgym-1,small,suite/memory]",
            "agent=ppo",
        ]
    )
    names = [one["name"] for one in run.others]
    assert len(names) == 13
    assert "suite/memory" not in names
    assert names[-1] == "small"
    assert {one["horizon_s"] for one in run.others} == {7200}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["mix=[suite/dirt]"], "mix: scenario=suite/dirt: no such scenario (did you mean suite/dirty?)"),
        (
            ["mix=[suite/placement_waiting]"],
            "is of kind placement, must be of kind cluster",
        ),
        (["fallback=[dpn]"], "dpn: did you mean dpm"),
        (["fallback=[suite_agent]"], "fallback: suite_agent: does not plan whole intervals"),
        (["fallback=[]"], "margins=[0.1]: has no effect without fallback=[RULE"),
        (["margins=[-1]"], "margins: -1.0: must be finite and at least 0"),
        (["num_envs=2"], "num_envs=2: must be at least 3, the number of scenarios"),
    ],
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("ppo", *arguments, f"out={tmp_path / 'run'}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert text in line, line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["scenario=small", "agent=forecaster"], "agent=forecaster learns from the load of one scenario"),
        (["scenario=demo_placement", "agent=ppo"], "has no effect on scenarios of kind placement"),
    ],
)
@pytest.mark.parametrize("key", ["mix=[suite/dirty]", "fallback=[dpm]"])
def test_who_learns_something_else_refuses_both(
    arguments: list[str], text: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, key]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert f"{key.split('=')[0]}=" in line
    assert text in line
