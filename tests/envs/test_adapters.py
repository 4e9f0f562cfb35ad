"""Libraries of others: the mask where RLlib and TorchRL look for it, and what the documents show of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import virtgym.envs
from virtgym.envs.errors import ConfigError

TRAINING = Path(__file__).parents[2] / "docs" / "training.md"


def program(library: str) -> str:
    """What the document shows of a library."""
    blocks = re.findall(r"^```python\n(.*?)^```", TRAINING.read_text(encoding="utf-8"), re.M | re.S)
    (found,) = [block for block in blocks if f"from {library}" in block]
    return str(found)


def make(**options: Any) -> gym.Env[Any, Any]:
    env = gym.make("virtgym/Cluster-v0", scenario="small", **options)
    return virtgym.envs.MaskedObservation(virtgym.envs.FlatObservation(env))


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_mask_is_part_of_the_observation() -> None:
    env = make(actions="candidates")
    check_env(env, skip_render_check=True)
    observation, info = env.reset(seed=0)
    for _ in range(5):
        np.testing.assert_array_equal(observation["action_mask"], info["action_mask"])
        observation, _, _, _, info = env.step(env.action_space.sample(info["action_mask"]))


def test_without_a_mask_it_says_so() -> None:
    with pytest.raises(ConfigError, match="MaskedObservation: needs an environment with masks"):
        make(actions="knobs")


def test_torchrl_plays_legal_actions() -> None:
    torchrl = pytest.importorskip("torchrl.envs")
    utils = pytest.importorskip("torchrl.envs.utils")
    names: dict[str, Any] = {}
    exec(compile(program("torchrl"), "training.md", "exec"), names)
    steps = names["steps"]
    assert steps.batch_size[0] == 100
    chosen = steps["action"].float()
    assert bool(((chosen * steps["action_mask"]).sum(-1) == 1).all())
    utils.check_env_specs(torchrl.GymWrapper(make(actions="candidates")))


def test_rllib_trains(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray.rllib")
    exec(compile(program("ray"), "training.md", "exec"), {})
    assert float(capfd.readouterr().out.split()[-1]) == 256
