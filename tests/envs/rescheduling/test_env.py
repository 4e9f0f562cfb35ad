"""The environment and its batches: checkers, determinism, lanes that are single environments to the bit."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import virtgym.envs
from oracles.plain_rescheduling import random_snapshot
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.vector import ReschedulingVectorEnv

ID = "virtgym/Rescheduling-v0"
SOME = [random_snapshot(seed, n_hosts=3, per_host=2) for seed in range(8)]
KINDS: list[dict[str, Any]] = [
    {"snapshots": SOME, "limit": 4},
    {"snapshots": SOME[:1], "limit": 2, "illegal_penalty": 0.5, "max_illegal": 2, "reward_scale": 100.0},
    {"snapshots": SOME, "limit": 9, "objective": {"energy": 1.0, "migration": 0.1, "imbalance": 1.0}},
    {"snapshots": SOME, "limit": 4, "observation": "actions"},
]


def draw(rng: np.random.Generator, mask: NDArray[np.bool_], illegal: float = 0.02) -> NDArray[np.int64]:
    """A random action per environment, seldom the last one, now and then an illegal one."""
    weights = rng.random(mask.shape) * (mask | (rng.random(mask.shape) < illegal))
    weights[:, -1] *= 0.3
    actions: NDArray[np.int64] = weights.argmax(1)
    return actions


@pytest.mark.parametrize("observation", ["tables", "actions"])
def test_gymnasium_checks_it(observation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ID, snapshots=SOME, observation=observation)
        check_env(env.unwrapped, skip_render_check=True)


def test_stable_baselines_checks_it() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(ReschedulingEnv(snapshots=SOME))


def test_the_default_is_the_scenario() -> None:
    env = gym.make(ID, scenario="rescheduling")
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert info == {"snapshot": 0}
    assert env.action_space.n == 2089 + 558 + 1  # type: ignore[attr-defined]


def test_the_same_seed_is_the_same_episode_and_pickles() -> None:
    def play(env: ReschedulingEnv) -> list[Any]:
        rng = np.random.default_rng(3)
        told: list[Any] = [env.reset(seed=5)]
        for _ in range(30):
            told.append(env.step(int(draw(rng, env.action_masks()[None])[0])))
            if told[-1][2] or told[-1][3]:
                told.append(env.reset())
        return told

    env = ReschedulingEnv(**KINDS[0])
    first = play(env)
    np.testing.assert_equal(first, play(env))
    np.testing.assert_equal(first, play(pickle.loads(pickle.dumps(env))))
    np.testing.assert_equal(first, play(ReschedulingEnv(**KINDS[0], copy=True)))
    assert env.render() is None
    shown = ReschedulingEnv(**KINDS[0], render_mode="ansi")
    shown.reset(seed=0)
    assert "0 of 4 moves, fragment" in shown.render()


def test_views_are_what_copies_are() -> None:
    one, two = ReschedulingEnv(**KINDS[0]), ReschedulingEnv(**KINDS[0], copy=False)
    rng = np.random.default_rng(0)
    np.testing.assert_equal(one.reset(seed=2), two.reset(seed=2))
    over = False
    while not over:
        action = int(draw(rng, one.action_masks()[None])[0])
        ours, theirs = one.step(action), two.step(action)
        np.testing.assert_equal(ours, theirs)
        np.testing.assert_array_equal(one.action_masks(), two.action_masks())
        over = ours[2] or ours[3]


@pytest.mark.parametrize("kwargs", KINDS)
def test_a_batch_is_single_environments(kwargs: dict[str, Any]) -> None:
    n, rng = 4, np.random.default_rng(0)
    batch = ReschedulingVectorEnv(n, threads=3, **kwargs)
    singles = SyncVectorEnv([lambda: ReschedulingEnv(**kwargs)] * n, autoreset_mode=AutoresetMode.NEXT_STEP)
    np.testing.assert_equal(batch.reset(seed=7), singles.reset(seed=7))
    ended = 0
    for _ in range(150):
        masks = batch.action_masks()
        np.testing.assert_array_equal(masks, singles.call("action_masks"))
        actions = draw(rng, masks)
        ours, theirs = batch.step(actions), singles.step(actions)
        np.testing.assert_equal(ours[:4], theirs[:4])
        assert ours[4].keys() == theirs[4].keys()
        np.testing.assert_equal(ours[4], theirs[4])
        ended += int((ours[2] | ours[3]).sum())
    assert ended > 10


def test_make_vec_gives_the_batch() -> None:
    envs = virtgym.envs.make_vec(ID, num_envs=3, snapshots=SOME)
    assert isinstance(envs.unwrapped, ReschedulingVectorEnv)
    _, infos = envs.reset(options={"snapshot": [1, 2, 3]})
    assert infos["snapshot"].tolist() == [1, 2, 3]
    saved = envs.unwrapped.batch.export_state()
    rng = np.random.default_rng(1)
    actions = [draw(rng, envs.unwrapped.action_masks()) for _ in range(1)]
    first = envs.step(actions[0])
    envs.unwrapped.batch.import_state(saved)
    np.testing.assert_equal(envs.step(actions[0]), first)


@pytest.mark.parametrize(("flat", "rows"), [(False, False), (True, False), (True, True)])
def test_the_batch_for_stable_baselines_is_its_own_wrapper(flat: bool, rows: bool) -> None:
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv

    from virtgym.envs.sb3 import ReschedulingVecEnv

    kwargs, n, rng = KINDS[3 if rows else 0], 3, np.random.default_rng(2)
    ours = ReschedulingVecEnv(n, flat=flat, **kwargs)
    theirs = DummyVecEnv([lambda: ReschedulingEnv(**kwargs)] * n)
    ours.seed(4)
    theirs.seed(4)

    def alike(a: Any, b: Any) -> None:
        if flat:
            parts = ("actions", "globals") if rows else ("nodes", "vms", "globals")
            b = np.concatenate([b[part] for part in parts], axis=1)
        np.testing.assert_equal(dict(a) if not flat else a, dict(b) if not flat else b)

    alike(ours.reset(), theirs.reset())
    ended = 0
    for _ in range(60):
        actions = draw(rng, ours.action_masks())
        a, b = ours.step(actions), theirs.step(actions)
        alike(a[0], b[0])
        np.testing.assert_equal(a[1:3], b[1:3])
        for one, two in zip(a[3], b[3]):
            assert one.get("illegal_action") == two.get("illegal_action")
            if "terminal_observation" in two:
                ended += 1
                assert one["metrics"] == two["metrics"]
                assert one["TimeLimit.truncated"] == two["TimeLimit.truncated"]
                if not flat:
                    np.testing.assert_equal(one["terminal_observation"], two["terminal_observation"])
    assert ended > 5
    assert len(ours.get_attr("snapshot")) == n
