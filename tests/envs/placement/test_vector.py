"""The batch of placement environments does, bit for bit, what single ones do one after the other."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import virtgym.envs
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.traces.formats.synthetic_requests import generate_requests
from virtgym.envs.vector import PlacementVectorEnv
from virtgym.experiments.bench.placement_speed import measure_placement
from virtgym.policies.placement.rules import run_windows

KINDS: list[dict[str, Any]] = [
    {},
    {"config": {"n_hosts": 2, "extra_requests": 5}, "reward": "delay", "illegal_penalty": 1.0},
    {"config": {"protocol": "fading", "n_hosts": 1}, "max_illegal": 2},
    {"config": {"protocol": "recovering", "max_requests": 15}, "windows": [5, 90, 400]},
    {"config": {"n_hosts": 2}, "observation": "slots"},
]


def draw(rng: np.random.Generator, mask: NDArray[np.bool_], illegal: float) -> NDArray[np.int64]:
    """A random action per environment, now and then an illegal one."""
    weights = rng.random(mask.shape) * (mask | (rng.random(mask.shape) < illegal))
    actions: NDArray[np.int64] = weights.argmax(1)
    return actions


@pytest.mark.parametrize("kwargs", KINDS)
def test_a_batch_is_single_environments(kwargs: dict[str, Any]) -> None:
    n, rng = 5, np.random.default_rng(0)
    batch = PlacementVectorEnv(n, **kwargs)
    singles = SyncVectorEnv([lambda: PlacementEnv(**kwargs)] * n, autoreset_mode=AutoresetMode.NEXT_STEP)
    np.testing.assert_equal(batch.reset(seed=7), singles.reset(seed=7))
    ended = 0
    for _ in range(900):
        masks = batch.action_masks()
        np.testing.assert_array_equal(masks, singles.call("action_masks"))
        actions = draw(rng, masks, 0.02)
        ours, theirs = batch.step(actions), singles.step(actions)
        np.testing.assert_equal(ours[:4], theirs[:4])
        assert ours[4].keys() == theirs[4].keys()
        np.testing.assert_equal(ours[4], theirs[4])
        ended += int((ours[2] | ours[3]).sum())
    assert ended > 0
    np.testing.assert_equal(batch.reset(), singles.reset())


def test_gymnasium_makes_it() -> None:
    envs = gym.make_vec("virtgym/Placement-v0", num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(envs.unwrapped, PlacementVectorEnv)
    observations, _ = envs.reset(seed=1)
    assert envs.observation_space.contains(observations)
    observations, rewards, *_ = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(observations)
    assert rewards.dtype == np.float64
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


def test_make_vec_gives_the_batch_where_there_is_one() -> None:
    envs = virtgym.envs.make_vec("virtgym/Placement-v0", num_envs=3, config={"n_hosts": 2})
    assert isinstance(envs.unwrapped, PlacementVectorEnv)
    assert envs.unwrapped.action_masks().shape == (3, 4)


def test_windows_in_lock_step_are_the_windows_of_the_rules() -> None:
    requests = generate_requests(np.random.default_rng(1), 3000)
    starts = np.arange(0, 1000, 100)
    waits, placed = run_windows(requests, starts, "first_fit")
    envs = PlacementVectorEnv(len(starts), requests)
    _, infos = envs.reset(options={"window": starts})
    np.testing.assert_array_equal(infos["window"], starts)
    np.testing.assert_array_equal(infos["n_vm"], placed)
    got, left = np.full(len(starts), np.nan), np.ones(len(starts), dtype=bool)
    while left.any():
        _, _, terminated, _, infos = envs.step(envs.action_masks().argmax(1))
        first = terminated & left
        if first.any():
            got[first] = infos["metrics"]["total_wait_s"][first]
        left &= ~first
    np.testing.assert_array_equal(got, waits)


def test_lengths_known_beforehand_change_nothing() -> None:
    lazy, eager = PlacementVectorEnv(3, rows=(0, 50)), PlacementVectorEnv(3, rows=(0, 50))
    eager.task.prepare()
    np.testing.assert_equal(lazy.reset(seed=2), eager.reset(seed=2))


def test_every_way_to_play_is_measured() -> None:
    rates = measure_placement(0.005)
    assert len(rates) >= 8
    assert min(rates.values()) > 0


def test_some_environments_are_reset_and_the_others_stay() -> None:
    envs = PlacementVectorEnv(3)
    envs.reset(seed=0)
    before, *_ = envs.step([0, 1, 2])
    which = np.array([False, True, False])
    after, infos = envs.reset(options={"reset_mask": which, "window": 17})
    assert infos["window"].tolist() == [0, 17, 0]
    assert infos["_window"].tolist() == which.tolist()
    for name in before:
        np.testing.assert_array_equal(before[name][[0, 2]], after[name][[0, 2]])
    assert envs.games.state.cursor[1] == 17


def test_observations_are_copies_unless_views_are_asked_for() -> None:
    for copy in (True, False):
        envs = PlacementVectorEnv(2, copy=copy)
        observations, _ = envs.reset(seed=0)
        before = observations["nodes"].copy()
        envs.step([0, 0])
        assert np.array_equal(observations["nodes"], before) == copy


def test_a_copy_goes_on_as_the_original() -> None:
    envs = PlacementVectorEnv(4, config={"n_hosts": 2})
    envs.reset(seed=1)
    twin = pickle.loads(pickle.dumps(envs))
    for _ in range(200):
        actions = envs.action_masks().argmax(1)
        np.testing.assert_equal(envs.step(actions), twin.step(actions))


def test_misuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_games=0"):
        PlacementVectorEnv(0)
    envs = PlacementVectorEnv(2)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step([0, 0])
    with pytest.raises(ConfigError, match="one number, or 2"):
        envs.reset(seed=[1])
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True]})
    with pytest.raises(ConfigError, match=r"reset\(options\): window"):
        envs.reset(options={"window": [1, 2, 3]})
    envs.reset()
    with pytest.raises(ConfigError, match=r"one per environment, \(2,\)"):
        envs.step([0])
