"""Wrappers, and vector environments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from .errors import ConfigError

if TYPE_CHECKING:
    _Recorder = gym.wrappers.RecordVideo[Any, Any]
else:  # how many parameters its type has differs between Gymnasium 1.2 and 1.3
    _Recorder = gym.wrappers.RecordVideo

PARTS = ("candidates", "hosts", "vms", "globals")


class FlatObservation(
    gym.ObservationWrapper[NDArray[np.float32], Any, dict[str, NDArray[Any]]], RecordConstructorArgs
):
    """Tables and globals in one vector, for networks without structure (MLPs).

    The order is rows of ``hosts``, rows of ``vms``, ``globals``, or rows of ``candidates``, ``globals``;
    ``vm_host`` is left out, as the VM rows repeat what matters of the host. ``action_masks()`` stays.

    Args:
        env: A cluster environment.
    """

    def __init__(self, env: gym.Env[dict[str, NDArray[Any]], Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        inner = env.observation_space
        if not isinstance(inner, spaces.Dict) or not {"globals"} < set(inner) & set(PARTS):
            raise ConfigError("FlatObservation: needs a cluster, which observes tables and globals")
        self._parts: list[str] = [name for name in PARTS if name in inner.spaces]
        boxes = [inner[name] for name in self._parts]
        assert all(isinstance(box, spaces.Box) for box in boxes)
        self.observation_space = spaces.Box(
            np.concatenate([box.low.ravel() for box in boxes]),
            np.concatenate([box.high.ravel() for box in boxes]),
        )

    def observation(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Flatten one observation."""
        return np.concatenate([observation[name].ravel() for name in self._parts])

    def action_masks(self) -> NDArray[np.bool_]:
        """The legal actions of the environment inside."""
        masks: NDArray[np.bool_] = self.env.get_wrapper_attr("action_masks")()
        return masks


class MaskedObservation(gym.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """The mask of legal actions as a part of the observation, as RLlib and TorchRL look for it.

    What the environment observes is ``observations``, the mask is ``action_mask``, (actions,) of 0.0 and 1.0.

    Args:
        env: An environment of virtgym's with one discrete action, wrapped or not.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, spaces.Discrete) or not env.has_wrapper_attr("action_masks"):
            raise ConfigError("MaskedObservation: needs an environment with masks of one discrete action")
        mask = spaces.Box(0.0, 1.0, (int(env.action_space.n),))
        self.observation_space = spaces.Dict({"action_mask": mask, "observations": env.observation_space})

    def _with_mask(self, observation: Any) -> dict[str, Any]:
        masks = self.env.get_wrapper_attr("action_masks")()
        return {"action_mask": masks.astype(np.float32), "observations": observation}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation), reward, terminated, truncated, info


class RecordVideo(_Recorder):
    """Gymnasium's recorder of videos, which says what of virtgym to install where moviepy is missing.

    Args:
        env: An environment with ``render_mode="rgb_array"``.
        video_folder: Where the videos go.
        **options: The other arguments of Gymnasium's.
    """

    def __init__(self, env: gym.Env[Any, Any], video_folder: str, **options: Any) -> None:
        try:
            super().__init__(env, video_folder, **options)
        except gym.error.DependencyNotInstalled:
            raise gym.error.DependencyNotInstalled(
                "RecordVideo: needs moviepy: pip install 'virtgym[video]'"
            ) from None


def make_vec(
    env_id: str = "virtgym/Cluster-v0", num_envs: int = 1, **kwargs: Any
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Make a batch of environments.

    An id with a batch of its own (those of virtgym) gives that, all stepped in one kernel call; of the others
    copies step one after the other in this process.

    Args:
        env_id: Registered id.
        num_envs: How many.
        **kwargs: Keywords of the environment, or of the batch.

    Returns:
        A Gymnasium vector environment (autoreset on the step after the end). Masks: ``action_masks()`` of
        its ``unwrapped`` if it is a batch of its own, else ``call("action_masks")``.
    """
    native = gym.spec(env_id).vector_entry_point is not None
    mode = gym.VectorizeMode.VECTOR_ENTRY_POINT if native else gym.VectorizeMode.SYNC
    return gym.make_vec(env_id, num_envs=num_envs, vectorization_mode=mode, **kwargs)
