"""Imitation: teachers of every kind, what is kept of states, and that choices are learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios import build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.experiments.run.rollout import make_env
from virtgym.experiments.training.agents import agent_kind, defaults_for
from virtgym.experiments.training.cluster_task import ClusterTrainTask
from virtgym.policies.base import PlanningPolicy
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.storage import Agent, save_agent

pytest.importorskip("torch")

from virtgym.experiments.training.imitation import States
from virtgym.experiments.training.teachers import AgentTeacher, PlanTeacher, make_teacher

DAY: dict[str, Any] = {"trace.options.n_vms": 12, "horizon_s": 7200.0, "hosts.0.count": 2, "hosts.1.count": 2}


def learner(total: int = 300, seed: int = 0, env: dict[str, Any] | None = None, **settings: Any) -> Any:
    kind = agent_kind("imitation")
    config = kind.schema(
        name="imitation",
        **{**defaults_for(kind.schema, "cluster"), "hidden": [32, 32], "batch_size": 32, **settings},
    )
    config.check("cluster")
    scenario = build_scenario("small", overrides=DAY)
    return kind.make_learner(ClusterTrainTask(scenario, 4, seed, total, env=env or {}), config)


def train(one: Any) -> dict[str, float]:
    while one.timesteps < one.task.total_timesteps:
        told = one.learn_chunk(1)
    return dict(told)


class OffPolicy(PlanningPolicy):
    """Switches off the empty host with the highest number."""

    def plan(self, view: Any) -> Decisions:
        empty = np.flatnonzero(
            (view.state.host_n_vms == 0) & (view.state.host_n_in == 0) & (view.state.host_power_state == 2)
        )
        return Decisions(power_off=empty[-1:].astype(np.int32))


@pytest.mark.parametrize("teacher", ["rollout_search", "dpm"])
def test_the_teachers_choice_is_learned(teacher: str) -> None:
    params = {"horizon": 6} if teacher == "rollout_search" else {}
    env = {"candidates": {"plans": ["dpm"]}} if teacher == "dpm" else {}
    one = learner(800, teacher=teacher, teacher_params=params, env=env, n_epochs=15, learning_rate=3e-3)
    first = one.learn_chunk(1)
    last = train(one)
    assert last["agreement"] > 0.95
    assert last["loss"] < first["loss"]
    assert last["student_share"] > 0.5


def test_seeds_decide_what_is_learned() -> None:
    weights = []
    for seed in (0, 0, 1):
        one = learner(80, seed, n_epochs=1, teacher_params={"horizon": 3})
        train(one)
        weights.append(one.snapshot()[0].weights["score.weight"])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_an_agent_teaches_another_by_its_folder(tmp_path: Any) -> None:
    first = learner(100, n_epochs=2, teacher_params={"horizon": 3})
    train(first)
    save_agent(tmp_path / "agent", Agent(first.snapshot(), "cluster", first.task.protocol))
    second = learner(100, 1, teacher=str(tmp_path / "agent"))
    (teacher,), (env,) = second.teachers, second.envs
    assert isinstance(teacher, AgentTeacher)
    env.reset(seed=0)
    teacher.begin(env, np.random.default_rng(0))
    target = teacher.target()
    form = env.form
    action, _ = LearnedPolicy(Agent(first.snapshot(), "cluster", first.task.protocol)).predict(
        form.copy(), action_masks=form.mask()
    )
    assert target.sum() == pytest.approx(1.0)
    assert (target > 0).sum() == form.mask().sum()
    assert target[action] == pytest.approx(target.max())
    with pytest.raises(ConfigError, match="chooses from other candidates"):
        train(learner(60, teacher=str(tmp_path / "agent"), env={"candidates": {"off": 1}}))


def test_of_a_plan_the_nearest_candidate_is_chosen() -> None:
    scenario = build_scenario("small", overrides={**DAY, "trace.options.n_vms": 6})
    env: Any = make_env(scenario, actions="candidates").unwrapped
    env.reset(seed=0)
    teacher = PlanTeacher(OffPolicy())
    teacher.begin(env, np.random.default_rng(0))
    off = env.form.settings.slot_kinds.index(3)
    target = teacher.target()
    assert target.sum() == 1.0
    plan = OffPolicy().plan(env.view)
    assert len(plan) == 1
    chosen = env.form.decisions(int(target.argmax()))
    if any(h in env.form.decisions(k).power_off for k in (off, off + 1) for h in plan.power_off):
        assert list(chosen.power_off) == list(plan.power_off)
    assert teacher.target()[0] == 1.0  # the plan of this interval has been followed


def test_only_policies_that_choose_or_plan_teach() -> None:
    with pytest.raises(ConfigError, match=r"agent\.teacher=first_fit"):
        make_teacher("first_fit", {}, {}, 0.1)


def test_states_are_kept_in_order_and_restored() -> None:
    rng, states = np.random.default_rng(0), States(3)
    seen = []
    for _ in range(5):
        mask = rng.random(6) < 0.5
        mask[0] = True
        rows = rng.random((6, 4), np.float32) * mask[:, None]
        seen.append((rows, rng.random(2, np.float32), mask, rng.random(6) * mask))
        states.add(*seen[-1])
    again = States(3)
    again.restore(states.arrays())
    for one in (states, again):
        assert len(one) == 3
        flat, target, mask = one.batch(np.array([2, 0]), 6)
        for i, (rows, whole, offered, wanted) in enumerate((seen[4], seen[2])):
            np.testing.assert_array_equal(flat[i], np.concatenate([rows.ravel(), whole]))
            np.testing.assert_array_equal(mask[i], offered)
            np.testing.assert_allclose(target[i], wanted, rtol=1e-6)
