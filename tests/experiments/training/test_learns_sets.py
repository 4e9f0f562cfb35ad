"""Every learner of candidates reaches the best return of a small game that has one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from oracles.set_game import SetGame
from virtgym.experiments.training.agents import agent_kind, defaults_for
from virtgym.experiments.training.learners import TrainTask
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.learned.storage import Agent

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")


@dataclass(frozen=True)
class SetTask(TrainTask):
    """The game as a task of training."""

    kind: ClassVar[str] = "cluster"
    n_slots: int = 7

    def vec_env(self, *, flat: bool = True, observation: str = "candidates") -> Any:
        from oracles.single_envs import SingleEnvs

        envs = SingleEnvs([partial(SetGame, self.n_slots)] * self.num_envs, flat)
        envs.seed(self.seeds(3)[2])
        return envs


SHORT: dict[str, Any] = {"hidden": [32, 32], "learning_rate": 3e-3}
LEARNS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "batch_size": 64},
    "maskable_ppo": {"n_steps": 32, "batch_size": 64},
    "a2c": {"n_steps": 8, "ent_coef": 0.1},
    "dqn": {
        **{"learning_starts": 500, "buffer_size": 5000, "batch_size": 128, "target_update_interval": 500},
        "exploration_fraction": 0.5,
    },
}


def learner(agent: str, total: int, seed: int = 0, **changes: Any) -> Any:
    kind = agent_kind(agent)
    settings = {**defaults_for(kind.schema, "cluster"), **SHORT, **LEARNS[agent], **changes}
    config = kind.schema(name=agent, **settings)
    config.check("cluster")
    n_slots = 7 if config.network == "scorer" else 4  # an mlp has to learn each slot by itself
    return kind.make_learner(SetTask(None, 8, seed, total, n_slots), config)


def play(members: Any, n_slots: int = 7) -> list[float]:
    """Returns of ten episodes."""
    policy, env, found = (
        LearnedPolicy(Agent(members, "cluster", {"actions": "candidates"})),
        SetGame(n_slots),
        [],
    )
    for seed in range(10):
        seen, over, total = env.reset(seed=seed)[0], False, 0.0
        while not over:
            action, _ = policy.predict(seen, action_masks=env.action_masks())
            seen, reward, _, over, _ = env.step(action)
            total += reward
        found.append(total)
    return found


@pytest.mark.parametrize("network", ["scorer", "mlp"])
@pytest.mark.parametrize("agent", list(LEARNS))
def test_the_best_return_is_learned(agent: str, network: str) -> None:
    one = learner(agent, 12_000 if network == "scorer" else 24_000, network=network)
    while one.timesteps < one.task.total_timesteps:
        one.learn_chunk(one.task.total_timesteps - one.timesteps)
    returns = play(one.snapshot(), one.task.n_slots)
    assert np.mean(returns) >= SetGame.best - 0.5
    if network == "scorer":
        assert returns == [SetGame.best] * 10
        assert play(one.snapshot(), n_slots=19) == [SetGame.best] * 10  # with more candidates, too


@pytest.mark.parametrize("agent", ["ppo", "dqn", "maskable_ppo"])
def test_a_restored_learner_goes_on_to_the_bit(agent: str) -> None:
    changes = {"learning_starts": 200} if agent == "dqn" else {}

    def go_on(one: Any, timesteps: int) -> Any:
        while one.timesteps < timesteps:
            one.learn_chunk(timesteps - one.timesteps)
        arrays, state = one.arrays()
        return {name: array.copy() for name, array in arrays.items()}, state

    whole = learner(agent, 3000, **changes)
    half = go_on(whole, 1200)
    want = go_on(whole, 3000)
    other = learner(agent, 3000, **changes)
    other.restore(*half)
    got = go_on(other, 3000)
    assert whole.timesteps == other.timesteps
    assert want[1].keys() == got[1].keys()
    assert set(want[0]) == set(got[0])
    for name, array in want[0].items():
        np.testing.assert_array_equal(array, got[0][name], name)
