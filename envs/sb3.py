"""B games, or clusters, in one kernel call per step, as a Stable-Baselines3 ``VecEnv`` with masks.

    from sb3_contrib import MaskablePPO
    from virtgym.envs.sb3 import ClusterVecEnv, PlacementVecEnv
    MaskablePPO("MultiInputPolicy", PlacementVecEnv(256)).learn(1_000_000)
    MaskablePPO("MlpPolicy", ClusterVecEnv(64, "small")).learn(1_000_000)

This module needs Stable-Baselines3, which nothing else in ``virtgym.envs`` does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from .arrays import B1, F8, I8
from .checks import need_seed
from .cluster.batch import ClusterBatch
from .cluster.env import ClusterEnv
from .entry import need_options, need_seeds, usable_render_mode
from .errors import ConfigError
from .game_batch import GameBatch
from .placement.batch import PlacementBatch
from .placement.env import OUTCOMES, RENDER_MODES
from .placement.settings import PlacementSettings
from .placement.state import PLACEMENT_REASONS
from .rescheduling.batch import ReschedulingBatch
from .rescheduling.env import RENDER_MODES as RESCHEDULING_RENDER_MODES
from .rescheduling.settings import ReschedulingSettings
from .rescheduling.state import RESCHEDULING_REASONS


class _OneOfMany:
    """Environment i of a batch, as ``get_attr``, ``set_attr`` and ``env_method`` see it."""

    def __init__(self, batch: GameBatch, i: int, render_mode: str | None, option: str) -> None:
        self._batch = batch
        self._i = i
        self.render_mode = render_mode
        self._option = option

    def action_masks(self) -> B1:
        """Which actions are legal, (actions,)."""
        mask: B1 = self._batch.task.observer.buffers.mask[self._i].copy()
        return mask

    def metrics(self) -> dict[str, float]:
        """What the environment tells at the end of an episode."""
        found: dict[str, float] = self._batch.task.metrics(self._i)
        return found

    def render(self) -> Any:
        """What a single environment's ``render`` shows."""
        return self.task.show(self._i, int(self._batch.row[self._i]), self.render_mode)

    @property
    def np_random(self) -> np.random.Generator:
        """The generator that draws where episodes begin; some are drawn ahead."""
        return self._batch.rngs[self._i]

    def __getattr__(self, name: str) -> Any:
        """What all environments share."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name == self._option:  # where the episode that is played began
            return int(self._batch.row[self._i])
        return getattr(self._batch.task, name)

    @property
    def task(self) -> Any:
        """What is played, the same in all environments."""
        return self._batch.task


class BatchVecEnv(VecEnv):
    """What batches have in common: environments that step together, each of which may be asked by itself.

    Args:
        num_envs: B.
        observation_space: Of one environment.
        action_space: Of one environment.
    """

    def __init__(self, num_envs: int, observation_space: Any, action_space: Any) -> None:
        self._actions: Any = None
        self._made = time.time()
        self._set: set[str] = set()  # attributes that set_attr has made
        super().__init__(num_envs, observation_space, action_space)

    def _one(self, i: int) -> Any:
        """Environment i."""
        raise NotImplementedError

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions), all in one copy."""
        raise NotImplementedError

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed environment i with ``seed`` + i, from the next reset on; None draws a seed."""
        if seed is None:  # SB3 would draw it from NumPy's global generator
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._seeds = need_seeds(need_seed("seed", seed), self.num_envs)
        return self._seeds

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions, (B,), of the step that ``step_wait`` carries out."""
        self._actions = actions

    def _episode(self, total: float, length: int, **more: float) -> dict[str, Any]:
        """What SB3's ``Monitor`` says of an episode, and more."""
        seconds = round(time.time() - self._made, 6)
        return {"r": round(float(total), 6), "l": int(length), "t": seconds, **more}

    def get_images(self) -> Sequence[Any]:
        """A picture of each environment, which ``render`` puts into one."""
        return [one.render() for one in self._chosen(None)]

    def close(self) -> None:
        """Nothing needs to be closed."""

    def _chosen(self, indices: VecEnvIndices) -> list[Any]:
        return [self._one(i) for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment."""
        return [getattr(one, attr_name) for one in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment.

        Raises:
            ConfigError: If it belongs to the environment, which does not change once it is made.
        """
        if attr_name not in self._set and hasattr(self._one(0), attr_name):
            raise ConfigError(f"env.{attr_name}: cannot be set once the batch is made")
        self._set.add(attr_name)
        for one in self._chosen(indices):
            setattr(one, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment; ``action_masks`` is what sb3-contrib asks for."""
        if method_name == "action_masks" and indices is None:
            return list(self.action_masks())
        return [getattr(one, method_name)(*method_args, **method_kwargs) for one in self._chosen(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each environment is wrapped: as by ``Monitor``, whose statistics it gives, and no other."""
        return [wrapper_class is Monitor for _ in self._chosen(indices)]


class _GamesVecEnv(BatchVecEnv):
    """B environments of one game that step together: bit for bit what SB3 makes of single ones.

    Args:
        batch: The environments.
        render_mode: As for a single one; one of ``modes`` or None.
        modes: What there is to show.
        flat: Whether an observation is one vector, in place of a Dict.
        copy: Whether observations are copies, or views of memory that the next step overwrites.
    """

    option: str
    """What an episode begins with, an option of ``reset``."""
    reasons: Any

    def __init__(
        self, batch: GameBatch, render_mode: str | None, modes: Sequence[str], flat: bool, copy: bool
    ) -> None:
        self.batch = batch
        self.flat = flat
        self.copy = copy
        mode = usable_render_mode(render_mode, modes)
        self._ones = [_OneOfMany(batch, i, mode, self.option) for i in range(batch.num_envs)]
        self._nothing: list[dict[str, Any]] = [{}] * batch.num_envs
        space = self.task.flat_space if flat else self.task.observation_space
        super().__init__(batch.num_envs, space, self.task.action_space)

    @property
    def task(self) -> Any:
        """What is played."""
        return self.batch.task

    @property
    def games(self) -> Any:
        """The games behind it, one per environment."""
        return self.batch.task.games

    def _one(self, i: int) -> _OneOfMany:
        return self._ones[i]

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions), all in one copy."""
        mask: B1 = self.task.observer.buffers.mask.copy()
        return mask

    def _observations(self) -> VecEnvObs:
        if self.flat:
            flat: NDArray[np.float32] = self.task.observer.flat
            return flat.copy() if self.copy else flat
        found: VecEnvObs = self.task.observer.copy_all(self.copy)
        return found

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds and options set before.

        The option ``window`` (of rescheduling ``snapshot``) names where to begin.
        """
        every = np.arange(self.num_envs)
        options = [need_options(one, (self.option,)) for one in self._options]
        named = {i: one[self.option] for i, one in enumerate(options) if self.option in one}
        rows = {i: self.task.need_start(row) for i, row in named.items()}
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.batch.reseed(i, seed)
        self.batch.begin(np.delete(every, list(rows)))
        self.batch.begin(np.array(list(rows), dtype=np.int64), np.array(list(rows.values()), dtype=np.int64))
        self._tell_begun(every)
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def _tell_begun(self, begun: I8) -> None:
        for i, row in zip(begun.tolist(), self.batch.row[begun].tolist()):
            self.reset_infos[i] = {self.option: row}

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out an action in every environment; those that end begin their next episode.

        Returns:
            Observations, rewards (B,) float32, whether the episode has ended (B,), infos.
        """
        _, n_refused, ended = self.batch.play(self._actions)
        buffers = self.task.observer.buffers
        rewards = buffers.reward.astype(np.float32)
        infos = self._nothing
        if n_refused:
            infos = infos.copy()
            for i in np.flatnonzero(buffers.code > 0).tolist():
                infos[i] = {"illegal_action": self.reasons[buffers.code[i]]}
        dones = self.batch.books.over.copy()
        if len(ended):
            infos = self._sum_up(ended, infos.copy())
            self.batch.begin(ended)
            self._tell_begun(ended)
        return self._observations(), rewards, dones, infos

    def _more(self, i: int, metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, Any]]:
        """What is told of an episode beside what Monitor does, and of its last step."""
        return {}, {}

    def _sum_up(self, ended: I8, infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell what is known at the end of episodes."""
        books, observer = self.batch.books, self.task.observer
        metrics = {name: values.tolist() for name, values in self.batch.metrics(ended).items()}
        for k, i in enumerate(ended.tolist()):
            told = {name: values[k] for name, values in metrics.items()}
            whole, last = self._more(i, told)
            infos[i] = infos[i] | {
                "TimeLimit.truncated": bool(books.truncated[i]),
                "terminal_observation": observer.flat[i].copy() if self.flat else observer.copy_one(i),
                "episode": self._episode(books.total[i], books.length[i], **whole),
                "metrics": told,
                self.option: int(self.batch.row[i]),
                "illegal_actions": int(books.illegal[i]),
            }
            infos[i] |= last
        return infos


class PlacementVecEnv(_GamesVecEnv):
    """B environments ``virtgym/Placement-v0`` that step together: bit for bit what SB3 makes of single ones.

    An episode that ends is followed by the first observation of the next one in the same step; the last one
    is ``terminal_observation`` in its info, next to ``TimeLimit.truncated``, ``metrics``, ``window``,
    ``illegal_actions``, and ``episode`` with the sum of rewards ``r``, the steps ``l``, the seconds ``t``
    since the batch was made (as of SB3's ``Monitor``) and ``total_wait_s``.

    Two things differ from SB3's ``DummyVecEnv``, both for speed. Infos of steps that neither end an episode
    nor were refused are one and the same empty dict: infos are for reading. And ``wait_s``,
    ``rejected`` and ``skipped``, which a single environment tells at each step, are told at the last only.

    Args:
        num_envs: B.
        requests: As for ``PlacementSettings``.
        config: As for ``PlacementSettings``.
        render_mode: As for ``PlacementEnv``.
        flat: Whether an observation is one vector, ``nodes``, ``request`` and ``globals`` end to end, for
            ``MlpPolicy``, in place of a Dict of these.
        copy: Whether observations are copies, or views of memory that the next step overwrites; SB3's
            algorithms need copies.
        **settings: The other fields of ``PlacementSettings``.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    option = "window"
    reasons = PLACEMENT_REASONS

    def __init__(
        self,
        num_envs: int = 1,
        requests: Any = None,
        config: Any = None,
        *,
        render_mode: str | None = None,
        flat: bool = False,
        copy: bool = True,
        **settings: Any,
    ) -> None:
        batch = PlacementBatch(num_envs, PlacementSettings(requests, config, **settings))
        super().__init__(batch, render_mode, RENDER_MODES, flat, copy)

    def _tell_begun(self, begun: I8) -> None:
        super()._tell_begun(begun)
        state = self.games.state
        for i in begun.tolist():
            self.reset_infos[i]["n_vm"] = int(state.end[i] - state.first[i])

    def _more(self, i: int, metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, Any]]:
        books, code = self.batch.books, int(self.task.observer.buffers.code[i])
        last = {"wait_s": float(books.wait[i])} if books.placed[i] else {}
        outcome = {OUTCOMES[code]: True} if not last and code < 0 else {}
        return {"total_wait_s": metrics["total_wait_s"]}, {**last, **outcome}


class ReschedulingVecEnv(_GamesVecEnv):
    """B environments ``virtgym/Rescheduling-v0`` that step together, as those of ``PlacementVecEnv``.

    Infos are those of ``PlacementVecEnv``, with ``snapshot`` for ``window``.

    Args:
        num_envs: B.
        scenario: As for ``ReschedulingSettings``.
        render_mode: As for ``ReschedulingEnv``.
        flat: Whether an observation is one vector, ``nodes``, ``vms`` and ``globals`` end to end, in place of
            a Dict of these and ``vm_node``.
        copy: As for ``PlacementVecEnv``.
        threads: Threads among which the environments are divided; results are the same.
        **settings: The other fields of ``ReschedulingSettings``.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    option = "snapshot"
    reasons = RESCHEDULING_REASONS

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = "rescheduling",
        *,
        render_mode: str | None = None,
        flat: bool = False,
        copy: bool = True,
        threads: int = 1,
        **settings: Any,
    ) -> None:
        batch = ReschedulingBatch(num_envs, ReschedulingSettings(scenario, **settings), threads)
        super().__init__(batch, render_mode, RESCHEDULING_RENDER_MODES, flat, copy)


class ClusterVecEnv(BatchVecEnv):
    """B environments ``virtgym/Cluster-v0`` of one scenario that step together, bit for bit as single ones.

    An episode that ends is followed by the first observation of the next one in the same step; the last one
    is ``terminal_observation`` in its info, next to ``TimeLimit.truncated``, ``time_s``, ``reward_terms`` and
    ``step_metrics`` of the last interval, ``metrics``, ``illegal_actions``, and ``episode`` with the sum of
    rewards ``r``, the steps ``l``, the seconds ``t`` since the batch was made (as of SB3's ``Monitor``) and
    ``cost``. Other infos hold ``duration`` and, after a step that was refused or ended the interval by the
    limit of decisions, ``illegal_action`` and ``forced_stop``; those without are shared, for reading alone.

    Args:
        num_envs: B.
        scenario: As for ``ClusterEnv``.
        flat: Whether an observation is one vector, as of ``FlatObservation``, in place of a Dict.
        copy: Whether observations are copies, or views of memory that the next step overwrites; SB3's
            algorithms need copies.
        threads: Threads among which the environments are divided; results are the same.
        **settings: The other arguments of ``ClusterEnv``.

    Attributes:
        batch: The environments; ``batch.export_state()`` and ``import_state`` are for checkpoints.
        durations: Intervals that passed in the last step, 0 or 1, (B,): learners discount by
            ``gamma ** durations``.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = "small",
        *,
        flat: bool = True,
        copy: bool = True,
        threads: int = 1,
        **settings: Any,
    ) -> None:
        self.batch = ClusterBatch(num_envs, scenario, threads=threads, **settings)
        self.flat = flat
        self.copy = copy
        self.durations: F8 = np.zeros(num_envs)
        task = self.batch.task
        super().__init__(
            num_envs, self.batch.flat_space if flat else task.observation_space, task.action_space
        )

    def _one(self, i: int) -> ClusterEnv:
        return self.batch.lane(i)

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions), all in one copy."""
        return self.batch.masks.copy()

    def _observations(self) -> VecEnvObs:
        return self.batch.flat_observations(self.copy) if self.flat else self.batch.observations(self.copy)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds set before."""
        for options in self._options:
            need_options(options)
        for i, seed in enumerate(self._seeds):
            self.reset_infos[i] = self.batch.reset_lane(i, seed)
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_wait(self) -> VecEnvStepReturn:
        """Take an action in every environment; those that end begin their next episode.

        Returns:
            Observations, rewards (B,) float32, whether the episode has ended (B,), infos.
        """
        batch, books = self.batch, self.batch.books
        ended = batch.play(self._actions)
        self.durations = books.duration.copy()
        rewards = books.reward.astype(np.float32)
        dones = books.over.copy()
        infos = [_DURATION[passed] for passed in self.durations.astype(np.int64).tolist()]
        some = dones if batch.by_kernel else np.ones_like(dones)
        for i in np.flatnonzero(some | (books.code != 0) | books.forced).tolist():
            infos[i] = infos[i] | batch.info(i, whole=False)
        for i in ended.tolist():
            cost = infos[i]["metrics"]["cost"]
            infos[i] |= {
                "TimeLimit.truncated": True,
                "terminal_observation": batch.observation_of(i, self.flat),
                "episode": self._episode(books.total[i], books.length[i], cost=cost),
            }
            self.reset_infos[i] = batch.reset_lane(i)
        return self._observations(), rewards, dones, infos


_DURATION: tuple[dict[str, Any], ...] = ({"duration": 0.0}, {"duration": 1.0})
"""Infos of steps of which nothing else is told."""
