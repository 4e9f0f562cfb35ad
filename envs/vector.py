"""B placement games in one kernel call per step, as a Gymnasium vector environment.

import gymnasium as gym, virtgym.envs
envs = gym.make_vec("virtgym/Placement-v0", num_envs=256, vectorization_mode="vector_entry_point")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import error
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .placement import PlacementEnv, PlacementTask
from .placement_observations import play_many
from .sim.errors import ConfigError
from .sim.placement import PLACEMENT_REASONS, PLAYING
from .sim.placement_games import PlacementConfig, PlacementGames, RequestArrays

__all__ = ["PlacementVectorEnv"]

Batch = dict[str, NDArray[Any]]
Flags = NDArray[np.bool_]


class PlacementVectorEnv(VectorEnv[Batch, NDArray[np.int64], NDArray[Any]]):
    """B environments ``virtgym/Placement-v0`` that step together, bit for bit what B single ones do.

    An environment that has ended is reset by the next step, which ignores its action and pays 0 (Gymnasium's
    autoreset on the next step). Seeds, infos and the list of windows are those of ``SyncVectorEnv`` over
    ``PlacementEnv``; ``action_masks()`` gives the masks of all.

    Args:
        num_envs: B.
        requests: As for ``PlacementEnv``, as all the others but the last.
        config: Cluster and protocol.
        windows: Rows of first requests, which every environment plays in order.
        rows: Range of rows to draw them from.
        reward: Kind of reward.
        wait_scale_s: Scale of rewards, s.
        synthetic_seed: Seed of the embedded stream.
        illegal_penalty: Subtracted from the reward of an illegal action.
        max_illegal: Illegal actions in a row that truncate an episode.
        render_mode: None; pictures are the single environment's.
        copy: Whether observations are copies, or views of memory that the next step overwrites.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        requests: RequestArrays | str | os.PathLike[str] | None = None,
        config: PlacementConfig | Mapping[str, Any] | None = None,
        *,
        windows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        rows: tuple[int, int] | None = None,
        reward: str | None = None,
        wait_scale_s: float = 3600.0,
        synthetic_seed: int = 0,
        illegal_penalty: float = 0.0,
        max_illegal: int = 100,
        render_mode: str | None = None,
        copy: bool = True,
    ) -> None:
        if render_mode is not None:
            raise ConfigError(f"env.render_mode={render_mode}: a batch shows nothing, use one environment")
        PlacementEnv.check_penalty(illegal_penalty, max_illegal)
        self.task = PlacementTask(
            requests, config, windows=windows, rows=rows, reward=reward, wait_scale_s=wait_scale_s,
            synthetic_seed=synthetic_seed, n_games=num_envs,
        )  # fmt: skip
        self.num_envs = num_envs
        self.render_mode = None
        self.illegal_penalty = illegal_penalty
        self.max_illegal = max_illegal
        self.copy = copy
        self.single_observation_space: Any = self.task.observation_space
        self.single_action_space: Any = self.task.action_space
        self.observation_space: Any = batch_space(self.single_observation_space, num_envs)
        self.action_space: Any = batch_space(self.single_action_space, num_envs)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._window = np.full(num_envs, -1)
        self._over = np.ones(num_envs, dtype=np.bool_)
        self._illegal = np.zeros(num_envs, dtype=np.int64)
        self._in_a_row = np.zeros(num_envs, dtype=np.int64)
        self._begun = False

    @property
    def games(self) -> PlacementGames:
        """The games behind it, one per environment."""
        return self.task.games

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Batch, dict[str, Any]]:
        """Begin a window in every environment.

        Args:
            seed: One seed per environment, or a number: environment i gets ``seed`` + i.
            options: ``window``: first row for all, or one per environment (B,); ``reset_mask``: which
                environments, (B,) of bool, the others stay as they are.

        Returns:
            Observations (B, ...), and infos with ``window`` and ``n_vm``.
        """
        options = dict(options or {})
        which = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if which.shape != (self.num_envs,) or which.dtype != np.bool_:
            raise ConfigError(f"options.reset_mask: must be {self.num_envs} truth values")
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(f"seed: must be one number, or {self.num_envs}")
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(which).tolist():
            if seeds[i] is not None:
                self._rngs[i] = seeding.np_random(seeds[i])[0]
            self._begin(i, infos, options.get("window"), seeds[i] is not None)
        self._begun = True
        return self.task.observer.copy_all(self.copy), infos

    def _begin(self, i: int, infos: dict[str, Any], window: Any = None, restart: bool = False) -> None:
        chosen = None
        if window is not None:
            rows = np.asarray(window)
            if rows.shape not in ((), (self.num_envs,)):
                raise ConfigError(f"options.window: must be one row, or {self.num_envs}")
            chosen = {"window": rows if rows.shape == () else rows[i]}
        self._window[i] = self.task.begin(i, self._rngs[i], chosen, restart)
        self._over[i] = False
        self._illegal[i] = self._in_a_row[i] = 0
        state = self.games.state
        for name, value in (("window", self._window[i]), ("n_vm", state.end[i] - state.first[i])):
            if name not in infos:
                infos[name] = np.zeros(self.num_envs, dtype=np.int64)
                infos["_" + name] = np.zeros(self.num_envs, dtype=np.bool_)
            infos[name][i] = value
            infos["_" + name][i] = True

    def action_masks(self) -> Flags:
        """Which nodes can take the pending request of each environment, (B, 2N); none where it has ended."""
        mask: Flags = self.task.observer.buffers.mask.copy()
        return mask

    def step(self, actions: ArrayLike) -> tuple[Batch, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Place the pending request of every environment; those that had ended begin their next window.

        Args:
            actions: Nodes, (B,).

        Returns:
            Observations, rewards (B,), terminations (B,), truncations (B,), infos as of ``SyncVectorEnv``.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if not self._begun:
            raise error.ResetNeeded("call reset() before step()")
        chosen = np.ascontiguousarray(actions, dtype=np.int64)
        if chosen.shape != (self.num_envs,):
            raise ConfigError(
                f"actions of shape {chosen.shape}: must be one per environment, {self.num_envs}"
            )
        task, buffers = self.task, self.task.observer.buffers
        resets, active = self._over, ~self._over
        p, s = task.games.kernel_params, task.games.kernel_state
        handle = task.observer.handle
        n_refused, n_ended = play_many(p, s, handle, chosen, active, task.kind, task.scale)
        rewards: NDArray[np.float64] = buffers.reward.copy()
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        placed, infos = active, dict[str, Any]()
        if n_refused:
            truncated = self._refuse(rewards, infos)
            placed = active & (buffers.code == 0)
        if n_ended:
            for i in np.flatnonzero(placed & (task.games.state.status != PLAYING)).tolist():
                terminated[i], truncated[i] = task.ending(i)
        if placed.any():
            infos["wait_s"], infos["_wait_s"] = np.where(placed, task.games.state.last_wait, 0.0), placed
            self._in_a_row *= ~placed
        over = terminated | truncated
        if n_refused or n_ended:
            self._sum_up(over, infos)
        for i in np.flatnonzero(resets).tolist():
            self._begin(i, infos)
        self._over = over
        return task.observer.copy_all(self.copy), rewards, terminated, truncated, infos

    def _sum_up(self, over: Flags, infos: dict[str, Any]) -> None:
        """Add what is known at the end of episodes, if any has ended."""
        if not over.any():
            return
        s = self.games.state
        placed, total = s.cursor - s.first, s.wait
        metrics = {
            "total_wait_s": total,
            "mean_wait_s": total / np.maximum(1, placed),
            "n_placed": placed,
            "n_vm": s.end - s.first,
        }
        told: dict[str, Any] = {}
        for name, values in metrics.items():
            told[name] = np.where(over, values.astype(np.float64), 0.0)
            told["_" + name] = over.copy()
        infos["metrics"] = told
        infos["window"] = np.where(over, self._window, 0)
        infos["illegal_actions"] = np.where(over, self._illegal, 0)
        for name in ("metrics", "window", "illegal_actions"):
            infos["_" + name] = over.copy()

    def _refuse(self, rewards: NDArray[np.float64], infos: dict[str, Any]) -> Flags:
        """Count and name illegal actions; returns which environments they truncate."""
        refused = self.task.observer.buffers.code > 0
        self._illegal += refused
        self._in_a_row += refused
        rewards[refused] -= self.illegal_penalty
        for i in np.flatnonzero(refused).tolist():
            reason = PLACEMENT_REASONS[self.task.observer.buffers.code[i]]
            infos.update(self._add_info(infos, {"illegal_action": reason}, i))
        return refused & (self._in_a_row >= self.max_illegal)
