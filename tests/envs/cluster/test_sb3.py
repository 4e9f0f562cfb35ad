"""The batch of clusters for Stable-Baselines3 does what SB3's own wrappers make of single environments."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.wrappers import FlatObservation

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from virtgym.envs.sb3 import ClusterVecEnv

HOURS = {"horizon_s": 2700.0}
KINDS: list[dict[str, Any]] = [
    {},
    {"actions": "candidates"},
    {"actions": "candidates", "scenario": "suite/ha_hot"},
    {"actions": "knobs"},
]
SKIPPED = ("reward_terms", "step_metrics", "time_s", "TimeLimit.truncated", "action_mask")
"""What a single environment tells at each step, the batch at the last only."""


def brief(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What both tell, without the wall clock."""
    told = []
    for info in infos:
        over = "terminal_observation" in info
        kept = {name: value for name, value in info.items() if over or name not in SKIPPED}
        kept.pop("action_mask", None)
        if over:
            assert kept["TimeLimit.truncated"]
            episode = dict(kept.pop("episode"))
            assert episode.pop("t") > 0
            assert episode.pop("cost", info["metrics"]["cost"]) == info["metrics"]["cost"]
            kept |= episode
        told.append(kept)
    return told


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kwargs", KINDS, ids=str)
def test_a_batch_is_single_environments(kwargs: dict[str, Any], flat: bool) -> None:
    n, rng = 3, np.random.default_rng(0)
    kwargs = {"scenario": "small", "scenario_overrides": HOURS, **kwargs}
    batch = ClusterVecEnv(n, flat=flat, **kwargs)

    def make() -> gym.Env[Any, Any]:
        env = ClusterEnv(**kwargs)
        return Monitor(FlatObservation(env) if flat else env)

    singles = DummyVecEnv([make] * n)
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    ended = 0
    for seed, steps in ((7, 60), (None, 20)):
        if seed is not None:
            assert batch.seed(seed) == singles.seed(seed)
        np.testing.assert_equal(batch.reset(), singles.reset())
        np.testing.assert_equal(batch.reset_infos, singles.reset_infos)
        for _ in range(steps):
            if kwargs.get("actions") == "knobs":
                actions: Any = rng.uniform(-1, 1, (n, *(batch.action_space.shape or ()))).astype(np.float32)
            else:
                masks = np.stack(batch.env_method("action_masks"))
                np.testing.assert_array_equal(masks, singles.env_method("action_masks"))
                stops = rng.random(n) < 0.5
                actions = np.where(stops, 0, (rng.random(masks.shape) * masks).argmax(1))
            ours, theirs = batch.step(actions), singles.step(actions)
            np.testing.assert_equal(ours[:3], theirs[:3])
            assert ours[1].dtype == theirs[1].dtype
            np.testing.assert_equal(brief(ours[3]), brief(theirs[3]))
            np.testing.assert_array_equal(batch.durations, [info["duration"] for info in theirs[3]])
            ended += int(ours[2].sum())
    assert ended > 3


def test_each_environment_may_be_asked_and_none_changed() -> None:
    batch = ClusterVecEnv(2, scenario_overrides=HOURS)
    batch.reset()
    batch.step(np.array([0, 1]))
    assert batch.get_attr("chosen_vm") == [-1, 0]
    assert batch.env_is_wrapped(Monitor) == [True, True]
    assert batch.env_is_wrapped(VecMonitor) == [False, False]  # type: ignore[arg-type]
    assert batch.env_method("action_masks", indices=1)[0].shape == (71,)
    for _ in range(2):
        batch.set_attr("mine", 3)
    assert batch.get_attr("mine") == [3, 3]
    with pytest.raises(ConfigError, match="cannot be set"):
        batch.set_attr("resample_trace", True)


def test_an_algorithm_learns_from_it() -> None:
    model = PPO(
        "MlpPolicy", ClusterVecEnv(2, actions="candidates", scenario_overrides=HOURS), n_steps=8, batch_size=8
    )
    model.learn(32)
    assert model.num_timesteps == 32


@pytest.mark.parametrize("form", ["unrolled", "candidates", "knobs"])
def test_spawned_processes_step_single_environments(form: str) -> None:
    make = functools.partial(
        gym.make, "virtgym.envs:virtgym/Cluster-v0", scenario_overrides=HOURS, actions=form
    )
    envs = SubprocVecEnv([make], start_method="spawn")
    try:
        batch = ClusterVecEnv(1, flat=False, scenario_overrides=HOURS, actions=form)
        for one in (envs, batch):
            one.seed(3)
        np.testing.assert_equal(envs.reset(), batch.reset())
        action = np.zeros((1, *(batch.action_space.shape or ())), batch.action_space.dtype)
        (shown, reward, over, _), ours = envs.step(action), batch.step(action)
        np.testing.assert_equal((shown, reward.astype(np.float32), over), ours[:3])
    finally:
        envs.close()
