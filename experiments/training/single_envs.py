"""Single environments as Stable-Baselines3's ``VecEnv``, with masks, durations and a state to save."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from virtgym.policies.learned.architecture import CANDIDATES

_PARTS = (CANDIDATES, "globals")


class SingleEnvs(VecEnv):
    """B environments of sets of candidates, one after the other; they begin anew by themselves.

    Args:
        makers: What makes each.
        flat: Whether an observation is one vector, rows of candidates end to end, then the globals.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], flat: bool = True) -> None:
        self.envs = [make() for make in makers]
        self.flat = flat
        space: Any = self.envs[0].observation_space
        if flat:
            low, high = (
                np.concatenate([getattr(space[part], end).ravel() for part in _PARTS])
                for end in ("low", "high")
            )
            space = spaces.Box(low, high, dtype=np.float32)
        super().__init__(len(self.envs), space, self.envs[0].action_space)
        self.batch = self
        self.durations = np.zeros(self.num_envs)
        self._begun = [b""] * self.num_envs
        self._taken: list[list[int]] = [[] for _ in self.envs]
        self._return = np.zeros(self.num_envs)
        self._made = time.time()

    def _flatten(self, observation: Any) -> Any:
        if not self.flat:
            return observation
        return np.concatenate([np.ravel(observation[part]) for part in _PARTS]).astype(np.float32)

    def _gather(self, observations: list[Any]) -> Any:
        if self.flat:
            return np.stack(observations)
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal, (B, actions)."""
        return np.stack([env.unwrapped.action_masks() for env in self.envs])  # type: ignore[attr-defined]

    def _begin(self, i: int, seed: int | None = None) -> Any:
        env = self.envs[i]
        if seed is not None:
            env.reset(seed=seed)  # the generator alone: what it draws next begins the episode
        state = env.unwrapped.np_random.bit_generator.state
        self._begun[i] = json.dumps(state).encode()
        self._taken[i], self._return[i] = [], 0.0
        return self._flatten(env.reset()[0])

    def reset(self) -> Any:
        """Begin an episode in every environment."""
        found = [self._begin(i, seed) for i, seed in enumerate(self._seeds)]
        self._reset_seeds()
        return self._gather(found)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions, (B,)."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step every environment."""
        seen, infos = [], []
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=np.bool_)
        for i, action in enumerate(self._actions.tolist()):
            observation, reward, terminated, truncated, info = self.envs[i].step(action)
            self._taken[i].append(action)
            self._return[i] += reward
            self.durations[i] = info.setdefault("duration", 1.0)
            rewards[i], dones[i] = reward, terminated or truncated
            flat = self._flatten(observation)
            if dones[i]:
                info["TimeLimit.truncated"] = truncated and not terminated
                info["terminal_observation"] = flat
                length, seconds = len(self._taken[i]), round(time.time() - self._made, 6)
                info["episode"] = {"r": round(float(self._return[i]), 6), "l": length, "t": seconds}
                flat = self._begin(i)
            seen.append(flat)
            infos.append(info)
        return self._gather(seen), rewards, dones, infos

    def export_state(self) -> dict[str, NDArray[Any]]:
        """How every episode began, and what was done in it since."""
        found: dict[str, NDArray[Any]] = {}
        for i in range(self.num_envs):
            found[f"{i}/begun"] = np.frombuffer(self._begun[i], dtype=np.uint8)
            found[f"{i}/taken"] = np.array(self._taken[i], dtype=np.int64)
        return found

    def import_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Play every episode up to where it was."""
        for i, env in enumerate(self.envs):
            env.unwrapped.np_random.bit_generator.state = json.loads(arrays[f"{i}/begun"].tobytes())
            self._begin(i)
            for action in arrays[f"{i}/taken"].tolist():
                _, reward, _, _, _ = env.step(action)
                self._taken[i].append(action)
                self._return[i] += float(reward)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment."""
        return [self.envs[i].get_wrapper_attr(attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        for i in self._get_indices(indices):
            setattr(self.envs[i].unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment."""
        chosen = self._get_indices(indices)
        return [self.envs[i].get_wrapper_attr(method_name)(*args, **kwargs) for i in chosen]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Whether each environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
