"""What libraries ask of an environment: checkers, vectors, processes, recorders, on every form of actions."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import virtgym.envs
from virtgym.envs.cluster.env import ACTION_FORMS
from virtgym.envs.vector import ClusterVectorEnv
from virtgym.envs.wrappers import FlatObservation

ID = "virtgym/Cluster-v0"
SIMPLE: dict[str, Any] = {"trace.options.n_samples": 12}

forms = pytest.mark.parametrize("form", ACTION_FORMS)
shapes = pytest.mark.parametrize("tables", [False, True], ids=["flat", "tables"])


def make(form: str, tables: bool = False, **options: Any) -> Any:
    return gym.make(ID, actions=form, tables=tables, scenario_overrides=SIMPLE, **options)


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@forms
@shapes
def test_gymnasiums_checker_has_nothing_to_say(form: str, tables: bool) -> None:
    env = make(form, tables)
    assert env.spec is not None
    check_env(env.unwrapped)  # also pictures, of every mode


@forms
@shapes
def test_sb3s_checker_has_nothing_to_say(form: str, tables: bool) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = make(form, tables)
    with warnings.catch_warnings():
        # Of a table SB3 remarks that a matrix is an unconventional shape: no more than that.
        warnings.filterwarnings("ignore", "Your observation .* has an unconventional shape")
        checker.check_env(env)
    checker.check_env(FlatObservation(env))


@forms
@pytest.mark.parametrize("mode", [None, "sync", "vector_entry_point"])
def test_gymnasium_makes_vectors(form: str, mode: str | None) -> None:
    options: dict[str, Any] = {"actions": form, "scenario_overrides": SIMPLE}
    envs = gym.make_vec(ID, num_envs=2, vectorization_mode=mode, **options)
    assert isinstance(envs.unwrapped, gym.vector.SyncVectorEnv) == (mode == "sync")
    observation, _ = envs.reset(seed=5)
    alone, _ = make(form).reset(seed=5)
    for key, values in observation.items():
        np.testing.assert_array_equal(values[0], alone[key])
    assert envs.observation_space.contains(observation)
    over, passed = np.zeros(2, dtype=bool), np.zeros(2)
    for _ in range(12):
        idle = np.zeros_like(envs.action_space.sample())
        observation, reward, ended, over, infos = envs.step(idle)
        passed += infos["duration"]
        assert observation[next(iter(observation))].shape[0] == 2
        assert (np.asarray(reward) < 0).all()
        assert not ended.any()
    assert over.all()
    np.testing.assert_array_equal(passed, 12.0)
    envs.close()


@forms
@shapes
def test_sb3s_spawned_processes_play_it(form: str, tables: bool) -> None:
    vec = pytest.importorskip("stable_baselines3.common.vec_env")
    make_one = functools.partial(
        gym.make, f"virtgym.envs:{ID}", actions=form, tables=tables, scenario_overrides=SIMPLE
    )
    envs = vec.SubprocVecEnv([make_one], start_method="spawn")
    try:
        shown = envs.reset()
        assert envs.observation_space.contains({key: value[0] for key, value in shown.items()})
        if form != "knobs":
            (mask,) = envs.env_method("action_masks")
            assert mask.shape == (envs.action_space.n,)
        idle = np.zeros((1, *envs.action_space.shape), envs.action_space.dtype)
        for _ in range(12):
            _, _, over, infos = envs.step(idle)
            assert infos[0]["duration"] == 1.0
        assert over.all()
        assert "terminal_observation" in infos[0]
    finally:
        envs.close()


@forms
def test_recorded_as_a_video(form: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("moviepy") is None:
        pytest.skip("needs the extra virtgym[video]")
    folder = tmp_path / "films"
    env = gym.wrappers.RecordVideo(make(form, render_mode="rgb_array"), str(folder), disable_logger=True)
    _play_to_the_end(env)
    assert [path.suffix for path in folder.iterdir()] == [".mp4"]


@forms
def test_a_recorder_gets_its_frames(form: str) -> None:
    env = gym.wrappers.RenderCollection(make(form, render_mode="rgb_array"))
    _play_to_the_end(env)
    frames: Any = env.render()
    assert len(frames) == 13
    assert {frame.shape for frame in frames} == {(620, 1000, 3)}
    assert (frames[0] != frames[-1]).any()


def _play_to_the_end(env: Any) -> None:
    env.reset(seed=0)
    over = False
    while not over:
        idle = np.zeros(env.action_space.shape, env.action_space.dtype)
        *_, over, _ = env.step(idle if idle.ndim else int(idle))
    env.close()


def test_virtgym_makes_the_batch() -> None:
    for form in ACTION_FORMS:
        envs = virtgym.envs.make_vec(ID, 2, actions=form, scenario_overrides=SIMPLE)
        assert isinstance(envs.unwrapped, ClusterVectorEnv)
        envs.close()
