"""B games, or B clusters, in one kernel call per step, as a Gymnasium vector environment.

import gymnasium as gym, virtgym.envs
envs = gym.make_vec("virtgym/Placement-v0", num_envs=256, vectorization_mode="vector_entry_point")
envs = gym.make_vec("virtgym/Rescheduling-v0", num_envs=64, vectorization_mode="vector_entry_point")
envs = gym.make_vec("virtgym/Cluster-v0", num_envs=256, vectorization_mode="vector_entry_point")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .arrays import B1, I8
from .cluster.batch import ClusterBatch
from .cluster.env import ClusterEnv
from .entry import BATCH_RENDER_MODES, as_action_mask, need_options, need_seeds, usable_render_mode
from .errors import ConfigError
from .game_batch import GameBatch
from .placement.batch import PlacementBatch
from .placement.env import OUTCOMES
from .placement.settings import PlacementSettings
from .placement.state import PLACEMENT_REASONS
from .rescheduling.batch import ReschedulingBatch
from .rescheduling.settings import ReschedulingSettings
from .rescheduling.state import RESCHEDULING_REASONS

Batch = dict[str, NDArray[Any]]
NOBODY: I8 = np.zeros(0, dtype=np.int64)


def _chosen_lanes(options: Mapping[str, Any], num_envs: int) -> I8:
    """The environments that ``reset_mask`` of the options names; all without it."""
    which = np.asarray(options.get("reset_mask", np.ones(num_envs, dtype=np.bool_)))
    if which.shape != (num_envs,) or which.dtype != np.bool_:
        raise ConfigError(f"reset(options): reset_mask: must be {num_envs} truth values")
    chosen: I8 = np.flatnonzero(which)
    return chosen


class _Masks:
    """Masks of a batch as infos and ``action_masks()`` show them: one copy for both.

    Args:
        num_envs: B.
        copy: Whether they are copies, or views of memory that the next step overwrites.
    """

    def __init__(self, num_envs: int, copy: bool) -> None:
        self._everyone = np.ones(num_envs, dtype=np.bool_)
        self._copy = copy
        self._last: B1 | None = None

    def of(self, live: B1) -> B1:
        """The masks, (B, actions)."""
        if not self._copy:
            return live
        if self._last is None or not np.array_equal(self._last, live):
            self._last = live.copy()
        return self._last

    def tell(self, live: B1, infos: dict[str, Any]) -> None:
        """Add them to infos."""
        infos["action_mask"], infos["_action_mask"] = as_action_mask(self.of(live)), self._everyone


class _GamesVectorEnv(VectorEnv[Batch, NDArray[np.int64], NDArray[Any]]):
    """B environments of one game that step together, bit for bit what B single ones do.

    Args:
        batch: The environments.
        render_mode: As for a single one.
        copy: Whether observations are copies, or views of memory that the next step overwrites.
    """

    option: ClassVar[str]
    """What an episode begins with, an option of ``reset``."""
    reasons: ClassVar[Any]

    def __init__(self, batch: GameBatch, render_mode: str | None, copy: bool) -> None:
        self.batch = batch
        self.num_envs = batch.num_envs
        self.render_mode = usable_render_mode(render_mode, self.metadata["render_modes"])
        self.copy = copy
        self._masks = _Masks(self.num_envs, copy)
        self.single_observation_space: Any = self.task.observation_space
        self.single_action_space: Any = self.task.action_space
        self.observation_space: Any = batch_space(self.single_observation_space, self.num_envs)
        self.action_space: Any = batch_space(self.single_action_space, self.num_envs)

    @property
    def task(self) -> Any:
        """What is played."""
        return self.batch.task

    @property
    def games(self) -> Any:
        """The games behind it, one per environment."""
        return self.batch.task.games

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Batch, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: One seed per environment, or a number: environment i gets ``seed`` + i.
            options: ``window`` (rescheduling: ``snapshot``): where to begin, for all or one per environment
                (B,); ``reset_mask``: which environments, (B,) of bool, the others stay as they are.

        Returns:
            Observations (B, ...), and infos with where each began.
        """
        told = need_options(options, (self.option, "reset_mask"))
        begun = _chosen_lanes(told, self.num_envs)
        seeds = need_seeds(seed, self.num_envs)
        rows = self._chosen_rows(told, begun)
        for i in begun.tolist():
            given = seeds[i]
            if given is not None:
                self.batch.reseed(i, given)
        self.batch.begin(begun, rows)
        infos: dict[str, Any] = {}
        self._tell_begun(begun, infos)
        self._masks.tell(self.task.observer.buffers.mask, infos)
        return self.task.observer.copy_all(self.copy), infos

    def _chosen_rows(self, options: Mapping[str, Any], begun: I8) -> I8 | None:
        if self.option not in options:
            return None
        given = options[self.option]
        if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) and np.shape(given) != ():
            if len(given) != self.num_envs:
                raise ConfigError(f"reset(options): {self.option}: must be one row, or {self.num_envs}")
            return np.array([self.task.need_start(given[i]) for i in begun.tolist()], dtype=np.int64)
        return np.full(len(begun), self.task.need_start(given))

    def _begun(self, begun: I8) -> dict[str, I8]:
        """What there is to say of episodes that have begun, (n,) each."""
        return {self.option: self.batch.row[begun]}

    def _tell_begun(self, begun: I8, infos: dict[str, Any]) -> None:
        """Add which episodes some environments have begun."""
        if len(begun) == 0:
            return
        for name, value in self._begun(begun).items():
            if name not in infos:
                infos[name] = np.zeros(self.num_envs, dtype=np.int64)
                infos["_" + name] = np.zeros(self.num_envs, dtype=np.bool_)
            infos[name][begun] = value
            infos["_" + name][begun] = True

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions); none where it has ended."""
        return self._masks.of(self.task.observer.buffers.mask)

    def _tell_step(self, n_done: int, others: int, infos: dict[str, Any]) -> dict[str, Any]:
        """Add what a step has done in ``n_done`` games, and in others."""
        return infos

    def step(self, actions: ArrayLike) -> tuple[Batch, NDArray[np.float64], B1, B1, dict[str, Any]]:
        """Carry out an action in every environment; those that had ended begin their next episode.

        Args:
            actions: (B,).

        Returns:
            Observations, rewards (B,), terminations (B,), truncations (B,), infos as of ``SyncVectorEnv``.

        Raises:
            ResetNeeded: Before the first reset.
        """
        books, buffers = self.batch.books, self.task.observer.buffers
        # They ended in the last step; mostly none did, which bytes tell in a tenth of the time.
        idle = np.flatnonzero(books.over) if b"\1" in books.over.tobytes() else NOBODY
        n_done, n_refused, ended = self.batch.play(actions)
        rewards: NDArray[np.float64] = buffers.reward.copy()
        terminated, truncated = books.terminated.copy(), books.truncated.copy()
        infos = self._tell_step(n_done, self.num_envs - len(idle) - n_done - n_refused, {})
        if n_refused:
            for i in np.flatnonzero(buffers.code > 0).tolist():
                infos = self._add_info(infos, {"illegal_action": self.reasons[buffers.code[i]]}, i)
        if len(ended):
            self._sum_up(ended, infos)
        if len(idle):
            self.batch.begin(idle)
            self._tell_begun(idle, infos)
        self._masks.tell(buffers.mask, infos)
        return self.task.observer.copy_all(self.copy), rewards, terminated, truncated, infos

    def render(self) -> Any:
        """What a single environment's ``render`` shows, of each, (B,), or None without a render mode."""
        if self.render_mode is None:
            return None
        rows = enumerate(self.batch.row.tolist())
        return tuple(self.task.show(i, row, self.render_mode) for i, row in rows)

    def _sum_up(self, ended: I8, infos: dict[str, Any]) -> None:
        """Add what is known at the end of episodes."""
        over = np.zeros(self.num_envs, dtype=np.bool_)
        over[ended] = True

        def spread(values: NDArray[Any]) -> NDArray[Any]:
            out = np.zeros(self.num_envs, dtype=values.dtype)
            out[ended] = values
            return out

        told: dict[str, Any] = {}
        for name, values in self.batch.metrics(ended).items():
            told[name], told["_" + name] = spread(values), over
        infos["metrics"], infos["_metrics"] = told, over
        # Others are added to where episodes began.
        infos[self.option], infos["_" + self.option] = spread(self.batch.row[ended]), over.copy()
        infos["illegal_actions"], infos["_illegal_actions"] = spread(self.batch.books.illegal[ended]), over


class PlacementVectorEnv(_GamesVectorEnv):
    """B environments ``virtgym/Placement-v0`` that step together, bit for bit what B single ones do.

    An environment that has ended is reset by the next step, which ignores its action and pays 0 (Gymnasium's
    autoreset on the next step). Seeds, infos and the list of windows are those of ``SyncVectorEnv`` over
    ``PlacementEnv``; ``action_masks()`` gives the masks of all.

    Args:
        num_envs: B.
        requests: As for ``PlacementSettings``.
        config: As for ``PlacementSettings``.
        render_mode: As for ``PlacementEnv``.
        copy: Whether observations and masks are copies, or views of memory that the next step overwrites.
        **settings: The other fields of ``PlacementSettings``.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": BATCH_RENDER_MODES,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    option = "window"
    reasons = PLACEMENT_REASONS

    def __init__(
        self,
        num_envs: int = 1,
        requests: Any = None,
        config: Any = None,
        *,
        render_mode: str | None = None,
        copy: bool = True,
        **settings: Any,
    ) -> None:
        chosen = PlacementSettings(requests, config, **settings)
        super().__init__(PlacementBatch(num_envs, chosen), render_mode, copy)

    def _begun(self, begun: I8) -> dict[str, I8]:
        state = self.games.state
        return super()._begun(begun) | {"n_vm": state.end[begun] - state.first[begun]}

    def _tell_step(self, n_done: int, others: int, infos: dict[str, Any]) -> dict[str, Any]:
        books, code = self.batch.books, self.task.observer.buffers.code
        if n_done:
            infos["wait_s"], infos["_wait_s"] = books.wait.copy(), books.placed.copy()
        if others:
            for i in np.flatnonzero(code < 0).tolist():
                infos = self._add_info(infos, {OUTCOMES[int(code[i])]: True}, i)
        return infos


class ReschedulingVectorEnv(_GamesVectorEnv):
    """B environments ``virtgym/Rescheduling-v0`` that step together, bit for bit what B single ones do.

    An environment that has ended is reset by the next step, which ignores its action and pays 0 (Gymnasium's
    autoreset on the next step). Seeds and infos are those of ``SyncVectorEnv`` over ``ReschedulingEnv``;
    ``action_masks()`` gives the masks of all.

    Args:
        num_envs: B.
        scenario: As for ``ReschedulingSettings``.
        render_mode: As for ``ReschedulingEnv``.
        copy: Whether observations and masks are copies, or views of memory that the next step overwrites.
        threads: Threads among which the environments are divided; results are the same.
        **settings: The other fields of ``ReschedulingSettings``.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": BATCH_RENDER_MODES,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    option = "snapshot"
    reasons = RESCHEDULING_REASONS

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = "rescheduling",
        *,
        render_mode: str | None = None,
        copy: bool = True,
        threads: int = 1,
        **settings: Any,
    ) -> None:
        batch = ReschedulingBatch(num_envs, ReschedulingSettings(scenario, **settings), threads)
        super().__init__(batch, render_mode, copy)


class ClusterVectorEnv(VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """B environments ``virtgym/Cluster-v0`` of one scenario that step together, bit for bit as single ones.

    An environment that has ended is reset by the next step, which ignores its action and pays 0 (Gymnasium's
    autoreset on the next step). Seeds are those of ``SyncVectorEnv`` over ``ClusterEnv``; so are infos with
    ``infos=True``, for which each environment's are put together in Python. Without, infos are
    ``action_mask``, ``duration``, ``time_s``, ``illegal_action`` and ``forced_stop``; the terms of the reward
    and the metrics of an interval are told with the episode's ``metrics``, of its last interval.

    Args:
        num_envs: B.
        scenario: As for ``ClusterEnv``.
        copy: Whether observations are copies, or views of memory that the next step overwrites.
        infos: Whether every step tells what ``ClusterEnv`` tells.
        threads: Threads among which the environments are divided; results are the same.
        **settings: The other arguments of ``ClusterEnv``.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = "small",
        *,
        copy: bool = True,
        infos: bool = False,
        threads: int = 1,
        **settings: Any,
    ) -> None:
        self.batch = ClusterBatch(num_envs, scenario, threads=threads, **settings)
        task = self.batch.task
        self.metadata = {
            **task.metadata,
            "render_modes": BATCH_RENDER_MODES,
            "autoreset_mode": AutoresetMode.NEXT_STEP,
        }
        self.num_envs = num_envs
        self.render_mode = task.render_mode
        self.copy = copy
        self._whole = infos or not self.batch.by_kernel
        self._masked = task.knobs is None and task.observes
        self._masks = _Masks(num_envs, copy)
        self.single_observation_space: Any = task.observation_space
        self.single_action_space: Any = task.action_space
        self.observation_space: Any = batch_space(self.single_observation_space, num_envs)
        self.action_space: Any = batch_space(self.single_action_space, num_envs)

    @property
    def envs(self) -> list[ClusterEnv]:
        """Each environment by itself, to look at."""
        return [self.batch.lane(i) for i in range(self.num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: One seed per environment, or a number: environment i gets ``seed`` + i.
            options: ``reset_mask``: which environments, (B,) of bool, the others stay as they are.

        Returns:
            Observations (B, ...), and infos.
        """
        begun = _chosen_lanes(need_options(options, ("reset_mask",)), self.num_envs)
        seeds = need_seeds(seed, self.num_envs)
        infos: dict[str, Any] = {}
        for i in begun.tolist():
            infos = self._add_info(infos, self.batch.reset_lane(i, seeds[i]), i)
        if self._masked:
            self._masks.tell(self.batch.masks, infos)
        return self.batch.observations(self.copy), infos

    def action_masks(self) -> B1:
        """Which actions are legal in each environment, (B, actions)."""
        return self._masks.of(self.batch.masks)

    def step(self, actions: ArrayLike) -> tuple[Any, NDArray[np.float64], B1, B1, dict[str, Any]]:
        """Take an action in every environment; those that had ended begin their next episode.

        Args:
            actions: (B,); of ``knobs`` (B, K).

        Returns:
            Observations, rewards (B,), terminations (B,), truncations (B,), infos.

        Raises:
            ResetNeeded: Before the first reset.
        """
        books = self.batch.books
        idle = np.flatnonzero(books.over)  # they ended in the last step
        ended = self.batch.play(actions)
        rewards: NDArray[np.float64] = books.reward.copy()
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated[ended] = True
        infos = self._tell(idle, ended)
        for i in idle.tolist():
            infos = self._add_info(infos, self.batch.reset_lane(i), i)
        if self._masked:
            self._masks.tell(self.batch.masks, infos)
        return self.batch.observations(self.copy), rewards, np.zeros_like(truncated), truncated, infos

    def _tell(self, idle: I8, ended: I8) -> dict[str, Any]:
        books = self.batch.books
        acted = np.ones(self.num_envs, dtype=np.bool_)
        acted[idle] = False
        infos: dict[str, Any] = {}
        if acted.any():
            infos = {"duration": books.duration.copy(), "_duration": acted.copy()}
        passed = books.duration > 0.0
        if passed.any():
            infos["time_s"], infos["_time_s"] = np.where(passed, books.time_s, 0.0), passed
        some = acted if self._whole else (books.code != 0) | books.forced
        some[ended] = True
        for i in np.flatnonzero(some).tolist():
            infos = self._add_info(infos, self.batch.info(i, self._whole), i)
        return infos

    def render(self) -> Any:
        """What ``ClusterEnv.render`` shows, of each environment, (B,), or None without a render mode."""
        return None if self.render_mode is None else tuple(env.render() for env in self.envs)
