"""The batch for Stable-Baselines3 does, bit for bit, what SB3's own wrappers make of single environments."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.env import PlacementEnv

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from virtgym.envs.sb3 import PlacementVecEnv

KINDS: list[dict[str, Any]] = [
    {},
    {"config": {"n_hosts": 2, "extra_requests": 5}, "reward": "delay", "illegal_penalty": 1.0},
    {"config": {"protocol": "fading", "n_hosts": 1}, "max_illegal": 2},
    {"config": {"protocol": "recovering", "max_requests": 15}, "windows": [5, 90, 400]},
    {"config": {"n_hosts": 2}, "observation": "slots"},
    {"rows": (50, 90), "config": {"n_hosts": 1, "extra_requests": 0}},
    {
        "config": {"n_hosts": 1, "queue_window": 3, "allow_reject": True, "extra_requests": 9},
        "reward": "wait",
    },
]


def draw(rng: np.random.Generator, mask: NDArray[np.bool_], illegal: float) -> NDArray[np.int64]:
    """A random action per environment, now and then an illegal one."""
    weights = rng.random(mask.shape) * (mask | (rng.random(mask.shape) < illegal))
    actions: NDArray[np.int64] = weights.argmax(1)
    return actions


def without_time(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What both batches tell: at ends and refusals, without the wall clock."""
    told = []
    for info in infos:
        if "terminal_observation" not in info:
            told.append({name: value for name, value in info.items() if name == "illegal_action"})
            continue
        episode = dict(info["episode"])
        assert episode.pop("t") > 0
        assert episode.pop("total_wait_s", info["metrics"]["total_wait_s"]) == info["metrics"]["total_wait_s"]
        told.append(info | {"episode": episode})
    return unmasked(told)


def unmasked(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Infos without masks, which SB3 asks a method for."""
    return [{name: value for name, value in info.items() if name != "action_mask"} for info in infos]


@pytest.mark.parametrize("kwargs", KINDS)
def test_a_batch_is_single_environments(kwargs: dict[str, Any]) -> None:
    n, rng = 5, np.random.default_rng(0)
    batch = PlacementVecEnv(n, **kwargs)
    singles = DummyVecEnv([lambda: Monitor(PlacementEnv(**kwargs))] * n)
    ended = 0
    for start, steps in ((7, 500), (None, 60), (3, 300)):
        if start is not None:
            assert batch.seed(start) == singles.seed(start)
        np.testing.assert_equal(batch.reset(), singles.reset())
        assert batch.reset_infos == unmasked(singles.reset_infos)
        for _ in range(steps):
            masks = batch.action_masks()
            np.testing.assert_array_equal(masks, singles.env_method("action_masks"))
            actions = draw(rng, masks, 0.02)
            ours, theirs = batch.step(actions), singles.step(actions)
            np.testing.assert_equal(ours[:3], theirs[:3])
            assert ours[1].dtype == theirs[1].dtype
            np.testing.assert_equal(without_time(ours[3]), without_time(theirs[3]))
            assert batch.reset_infos == unmasked(singles.reset_infos)
            ended += int(ours[2].sum())
    assert ended > 3


def test_a_flat_batch_shows_the_same_in_one_vector() -> None:
    rng = np.random.default_rng(0)
    parts, flat = (
        PlacementVecEnv(3, config={"n_hosts": 2}),
        PlacementVecEnv(3, config={"n_hosts": 2}, flat=True),
    )
    for envs in (parts, flat):
        envs.seed(1)

    def joined(observation: Any) -> NDArray[np.float32]:
        return np.concatenate([observation[name] for name in ("nodes", "request", "globals")], -1)

    seen = flat.reset()
    np.testing.assert_array_equal(joined(parts.reset()), seen)
    for _ in range(300):
        actions = draw(rng, flat.action_masks(), 0.0)
        (a, _, _, told), (b, _, _, flatly) = parts.step(actions), flat.step(actions)
        np.testing.assert_array_equal(joined(a), b)
        assert all(flat.observation_space.contains(row) for row in b)
        for one, other in zip(told, flatly, strict=True):
            if one:
                np.testing.assert_array_equal(
                    joined(one["terminal_observation"]), other["terminal_observation"]
                )


def test_an_environment_can_be_asked_and_told() -> None:
    envs = PlacementVecEnv(3, windows=[4, 9])
    envs.set_options({"window": 17})
    envs.reset()
    assert envs.get_attr("window") == [17] * 3
    envs.set_options([{}, {"window": 2}, {}])
    envs.reset()
    assert envs.get_attr("window") == [4, 2, 4]
    assert [info["window"] for info in envs.reset_infos] == [4, 2, 4]
    assert envs.get_attr("reward", indices=[0, 2]) == ["spane"] * 2
    assert envs.get_attr("render_mode") == [None] * 3
    assert np.isnan(envs.env_method("metrics", indices=1)[0]["n_placed"])  # the window is not finished
    np.testing.assert_array_equal(envs.env_method("action_masks", indices=[1]), envs.action_masks()[1:2])
    assert envs.has_attr("action_masks")
    assert not envs.has_attr("wings")
    envs.set_attr("label", "b", indices=[1])
    assert envs.get_attr("label", indices=1) == ["b"]
    with pytest.raises(ConfigError, match=r"env\.reward: cannot be set"):
        envs.set_attr("reward", "wait")
    assert envs.env_is_wrapped(Monitor) == [True] * 3
    assert envs.env_is_wrapped(VecMonitor) == [False] * 3  # type: ignore[arg-type]


def test_seeds_are_drawn_without_the_global_generator() -> None:
    state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    envs = PlacementVecEnv(2)
    one, other = envs.seed(), envs.seed()
    assert one != other
    assert pickle.dumps(np.random.get_state()) == state  # noqa: NPY002


def test_observations_are_copies_unless_views_are_asked_for() -> None:
    for flat in (True, False):
        for copy in (True, False):
            envs = PlacementVecEnv(2, copy=copy, flat=flat)
            observation: Any = envs.reset()
            nodes = observation if flat else observation["nodes"]
            before = nodes.copy()
            envs.step(np.zeros(2, dtype=np.int64))
            assert np.array_equal(nodes, before) == copy


def test_a_copy_goes_on_as_the_original() -> None:
    envs = PlacementVecEnv(4, config={"n_hosts": 2})
    envs.seed(1)
    envs.reset()
    twin = pickle.loads(pickle.dumps(envs))
    for _ in range(300):
        actions = envs.action_masks().argmax(1)
        ours, theirs = envs.step(actions), twin.step(actions)
        np.testing.assert_equal(ours[:3], theirs[:3])
        np.testing.assert_equal(without_time(ours[3]), without_time(theirs[3]))


@pytest.mark.parametrize("flat", [True, False])
def test_agents_learn_on_it(flat: bool) -> None:
    masked = pytest.importorskip("sb3_contrib").MaskablePPO
    policy = "MlpPolicy" if flat else "MultiInputPolicy"
    kwargs: dict[str, Any] = {"n_steps": 16, "batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        envs = PlacementVecEnv(8, config={"n_hosts": 1, "extra_requests": 5}, flat=flat)
        agent = masked(policy, envs, **kwargs)
        agent.learn(256)
        assert len(agent.ep_info_buffer) > 0
        assert {"r", "l", "t", "total_wait_s"} == set(agent.ep_info_buffer[0])
        assert sum(info.get("illegal_actions", 0) for info in agent.ep_info_buffer) == 0
        PPO(policy, envs, **kwargs).learn(256)
        if flat:
            A2C(policy, envs, seed=0, device="cpu").learn(256)
            DQN(policy, envs, seed=0, device="cpu", learning_starts=64, buffer_size=999).learn(256)
        means, lengths = evaluate_policy(PPO(policy, envs, **kwargs), envs, 3, return_episode_rewards=True)
    assert np.shape(means) == np.shape(lengths) == (3,)


def test_other_doors_do_not_need_it() -> None:
    code = "import sys, virtgym.envs.vector; print('stable_baselines3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
