"""Parts and unions of batches of clusters as Stable-Baselines3 ``VecEnv``s: lanes of one, several shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from .arrays import B1, F8
from .cluster.env import ClusterEnv
from .errors import ConfigError
from .sb3 import BatchVecEnv, ClusterVecEnv


class SomeLanes(BatchVecEnv):
    """Some environments of a ``ClusterVecEnv``, as a learner knows them that learns in a batch with others.

    They are begun, saved and taken up by themselves; the whole alone steps.

    Args:
        whole: All environments.
        first: The first of these.
        num_envs: B.
    """

    def __init__(self, whole: ClusterVecEnv, first: int, num_envs: int) -> None:
        self.whole = whole
        self._lanes = slice(first, first + num_envs)
        super().__init__(num_envs, whole.observation_space, whole.action_space)

    @property
    def batch(self) -> SomeLanes:
        """What has ``export_state`` and ``import_state``."""
        return self

    def _one(self, i: int) -> ClusterEnv:
        return self.whole.batch.lane(self._lanes.start + i)

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions)."""
        return self.whole.batch.masks[self._lanes].copy()

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds set before."""
        for i, seed in enumerate(self._seeds, start=self._lanes.start):
            self.whole.reset_infos[i] = self.whole.batch.reset_lane(i, seed)
        self._reset_seeds()
        seen: NDArray[np.float32] = self.whole.batch.flat_observations()[self._lanes]
        return seen

    def step_wait(self) -> VecEnvStepReturn:
        """Is for the whole."""
        raise NotImplementedError

    def export_state(self) -> dict[str, NDArray[Any]]:
        """See ``ClusterBatch.export_state``."""
        return self.whole.batch.export_state(self._lanes)

    def import_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See ``ClusterBatch.import_state``."""
        self.whole.batch.import_state(arrays, self._lanes)


class MixedVecEnv(BatchVecEnv):
    """Batches of clusters of different shapes, which offer as many candidates each, as one ``VecEnv``.

    Args:
        parts: The batches, with flat observations; their environments follow each other.

    Raises:
        ConfigError: If they differ in what is observed or chosen.
    """

    def __init__(self, parts: Sequence[ClusterVecEnv]) -> None:
        self.parts = list(parts)
        first = self.parts[0]
        for part in self.parts:
            same = part.flat and part.action_space == first.action_space
            if not same or part.observation_space.shape != first.observation_space.shape:
                raise ConfigError("parts: must have the same flat observations and actions")
        self._cuts = np.cumsum([part.num_envs for part in self.parts])
        self.durations: F8 = np.zeros(self._cuts[-1])
        super().__init__(int(self._cuts[-1]), first.observation_space, first.action_space)

    @property
    def batch(self) -> MixedVecEnv:
        """What has ``export_state`` and ``import_state``."""
        return self

    def _one(self, i: int) -> ClusterEnv:
        part = int(np.searchsorted(self._cuts, i, side="right"))
        return self.parts[part].batch.lane(i - int(self._cuts[part]) + self.parts[part].num_envs)

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions), all in one copy."""
        return np.concatenate([part.action_masks() for part in self.parts])

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed environment i with ``seed`` + i, from the next reset on; None draws a seed."""
        seeds = super().seed(seed)
        for part, seed_of_first in zip(self.parts, (seeds[0], *(seeds[n] for n in self._cuts[:-1]))):
            part.seed(seed_of_first)
        return seeds

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds set before."""
        found = np.concatenate([part.reset() for part in self.parts])
        self._tell_begun()
        self._reset_seeds()
        self._reset_options()
        return found

    def _tell_begun(self) -> None:
        self.reset_infos = [info for part in self.parts for info in part.reset_infos]

    def step_wait(self) -> VecEnvStepReturn:
        """Take an action in every environment; those that end begin their next episode.

        Returns:
            Observations, rewards (B,) float32, whether the episode has ended (B,), infos.
        """
        told = []
        for part, actions in zip(self.parts, np.split(self._actions, self._cuts[:-1])):
            part.step_async(actions)
            told.append(part.step_wait())
        self.durations = np.concatenate([part.durations for part in self.parts])
        self._tell_begun()
        seen, rewards, dones = (np.concatenate([one[k] for one in told]) for k in range(3))
        return seen, rewards, dones, [info for one in told for info in one[3]]

    def export_state(self) -> dict[str, NDArray[Any]]:
        """Those of the parts, see ``ClusterBatch.export_state``."""
        states = (part.batch.export_state() for part in self.parts)
        return {f"{i}/{name}": array for i, state in enumerate(states) for name, array in state.items()}

    def import_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what ``export_state`` of such a mixture gave."""
        for i, part in enumerate(self.parts):
            mine = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{i}/")}
            part.batch.import_state(mine)
