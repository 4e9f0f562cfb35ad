"""``virtgym/Placement-v0``: put one VM request after the other on a host and a NUMA node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..checks import need, need_index, need_seed
from ..entry import (
    RENDER_MODES,
    need_action,
    need_begun,
    need_options,
    show_human,
    usable_render_mode,
)
from ..errors import ConfigError
from .game import begin_game
from .games import PlacementConfig, PlacementGames, RequestArrays
from .observations import PlacementObserver, play_one
from .rewards import REWARDS, forfeit
from .settings import PlacementSettings
from .state import FINISHED, PLACEMENT_REASONS, PLAYING, REJECTED, SKIPPED

Observation = dict[str, NDArray[Any]]

SYNTHETIC_REQUESTS = 8192
"""Length of the embedded stream."""

OUTCOMES = {REJECTED: "rejected", SKIPPED: "skipped"}
"""What an info says of a legal action that places nothing."""

TAIL = 1000
"""Rows at the end of a stream in which no window begins by default, so that none is cut short."""


class PlacementTask:
    """What is played: games on a stream of requests, which windows, and for what reward.

    One environment and a batch of them share this, so that they play the same game.

    Args:
        settings: What is played.
        n_games: B.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    def __init__(self, settings: PlacementSettings, n_games: int = 1) -> None:
        requests, config, rows = settings.requests, settings.config, settings.rows
        if settings.scenario is not None:
            requests, config, rows = _open_scenario(settings)
        self.config = _build_config(config)
        self.games = PlacementGames(_read_stream(requests, settings.synthetic_seed), self.config, n_games)
        self.observer = PlacementObserver(self.games, settings.observation)
        kind = settings.reward or ("spane" if self.config.protocol == "huawei_placement" else "placed")
        if kind not in REWARDS:
            raise ConfigError(f"placement.reward={kind}: must be one of {', '.join(REWARDS)}")
        self.reward = kind
        self.kind = REWARDS.index(kind)
        self.scale = float(settings.wait_scale_s)
        self.windows = None if settings.windows is None else self.games.check_rows(settings.windows)
        if self.windows is not None and len(self.windows) == 0:
            raise ConfigError("placement.windows: must name at least one row")
        self.rows = self._check_range(rows)
        self._played = np.zeros(n_games, dtype=np.int64)  # windows of the list, by game
        self._lengths = np.zeros(self.games.params.n_requests, dtype=np.int64)  # 0 = not known yet

    @property
    def observation_space(self) -> spaces.Dict:
        """Of one game."""
        return PlacementObserver.space(self.config, self.observer.observation)

    @property
    def flat_space(self) -> spaces.Box:
        """Of one game, in one vector."""
        return PlacementObserver.flat_space(self.config, self.observer.observation)

    @property
    def action_space(self) -> spaces.Discrete:
        """Of one game: the nodes, *reject* if that is allowed, *skip* if there is a queue window."""
        return spaces.Discrete(self.config.n_actions)

    def _check_range(self, rows: tuple[int, int] | None) -> tuple[int, int]:
        n = self.games.params.n_requests
        if rows is None:
            return 0, max(1, n - TAIL)
        low, high = (int(row) for row in rows)
        need(0 <= low < high <= n, f"placement.rows={low}...{high}: must lie in order within 0...{n}")
        return low, high

    def begin(
        self,
        game: int,
        rng: np.random.Generator,
        options: Mapping[str, Any] | None = None,
        restart: bool = False,
    ) -> int:
        """Begin the next window in a game; returns the row of its first request.

        Args:
            game: The game.
            rng: Draws the window, unless there is a list.
            options: ``window`` names the row in place of both.
            restart: Whether the list begins anew.
        """
        options = need_options(options, ("window",))
        if restart:
            self.restart_list(game)
        if "window" in options:
            row = self.need_start(options["window"])
        elif self.windows is not None:
            row = int(self.windows[self._played[game] % len(self.windows)])
            self._played[game] += 1
        else:
            row = int(rng.integers(*self.rows))
        games, length = self.games, int(self._lengths[row])
        if length == 0:
            length = self._lengths[row] = int(games.window_lengths(row)[0])
        begin_game(games.kernel_params, games.kernel_state, game, row, row + length)
        self.observer.observe(game)
        return row

    def need_start(self, row: Any) -> int:
        """The row that the option ``window`` of a reset names.

        Raises:
            ConfigError: If there is no such row.
        """
        return need_index("reset(options)", "window", row, self.games.params.n_requests)

    def restart_list(self, game: int) -> None:
        """Let a game play the list of windows from its beginning."""
        self._played[game] = 0

    def next_of_list(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next row of the list of windows for each of some games, (n,)."""
        assert self.windows is not None
        rows: NDArray[np.int64] = self.windows[self._played[which] % len(self.windows)]
        self._played[which] += 1
        return rows

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Requests of the windows at some rows, (n,); what had to be worked out is kept."""
        known: NDArray[np.int64] = self._lengths[rows]
        if not known.all():
            new = np.unique(rows[known == 0])
            self._lengths[new] = self.games.window_lengths(new)
            known = self._lengths[rows]
        return known

    def prepare(self) -> None:
        """Find the length of every window that may be drawn, 0.04 ms each; else play does so on its way."""
        rows = np.arange(*self.rows) if self.windows is None else self.windows
        self._lengths[rows] = self.games.window_lengths(rows)

    def ending(self, game: int) -> tuple[bool, bool]:
        """Whether a game has terminated, and whether it was cut off: a survivor when its requests ran out."""
        status = self.games.state.status[game]
        if status == PLAYING:
            return False, False
        cut = bool(status == FINISHED) and self.config.protocol != "huawei_placement"
        return not cut, cut

    def metrics(self, game: int) -> dict[str, float]:
        """Sum and mean of waits, s; requests placed, and of the window; ``n_rejected`` if allowed.

        All but the requests of the window are NaN while it is not finished, cut off or stuck: the first waits
        of a window say nothing about the rest of it.
        """
        return {name: float(value[0]) for name, value in self.metrics_of(np.array([game])).items()}

    def metrics_of(self, which: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """``metrics`` of each of some games, (n,) each."""
        s = self.games.state
        total, placed, rejected = s.wait[which], s.n_placed[which], s.n_rejected[which]
        metrics = {
            "total_wait_s": total,
            "mean_wait_s": total / np.maximum(1, placed + rejected),
            "n_placed": placed.astype(np.float64),
            "n_vm": (s.end[which] - s.first[which]).astype(np.float64),
        }
        if self.config.allow_reject:
            metrics["n_rejected"] = rejected.astype(np.float64)
        finished = self.finished[which]
        return {name: np.where(finished | (name == "n_vm"), x, np.nan) for name, x in metrics.items()}

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each game has come to its end, (B,): all is decided, or a survival game is lost."""
        status = self.games.state.status
        if self.config.protocol == "huawei_placement":
            return np.asarray(status == FINISHED)
        return np.asarray(status != PLAYING)

    def show(self, game: int, window: int, mode: str | None) -> Any:
        """A game in a render mode.

        ``ansi``: a line per host with the used cores and memory of its nodes; ``rgb_array``: the same as
        bars, (height, width, 3) of uint8; None: nothing.
        """
        if mode is None:
            return None
        s, p = self.games.state, self.games.params
        placed = int(s.n_placed[game])
        head = f"window {window}, {placed} placed, {s.wait[game]:,.0f} s waited, t = {s.clock[game]:,.0f} s"
        cores, memory = p.node_cores - s.free_cores[game], p.node_memory - s.free_memory[game]
        if mode == "rgb_array":
            from ..cluster.render import draw_nodes

            return draw_nodes(head, cores / p.node_cores, memory / p.node_memory)
        lines = [head]
        for host in range(self.config.n_hosts):
            nodes = [f"{cores[a]:5.1f} cores {memory[a]:6.1f} GiB" for a in (2 * host, 2 * host + 1)]
            lines.append(f"host {host}: " + " | ".join(nodes))
        return "\n".join(lines)


def _open_scenario(
    settings: PlacementSettings,
) -> tuple[RequestArrays, PlacementConfig, tuple[int, int] | None]:
    """What a scenario stands for: requests, configuration, and the rows to draw from if none are named."""
    for name in ("requests", "config"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"placement.{name}: the scenario brings its own; name one or the other")
    from ..scenarios.placement import PlacementScenario, build_placement_scenario

    scenario, rows = settings.scenario, settings.rows
    assert scenario is not None
    if not isinstance(scenario, PlacementScenario):
        scenario = build_placement_scenario(scenario, seed=settings.synthetic_seed)
    chosen = rows if rows is not None or settings.windows is not None else scenario.train_rows
    return scenario.trace, scenario.placement, chosen


def _build_config(config: PlacementConfig | Mapping[str, Any] | None) -> PlacementConfig:
    if isinstance(config, PlacementConfig):
        return config
    known = [field.name for field in fields(PlacementConfig)]
    for key in config or {}:
        if key not in known:
            raise ConfigError(f"placement.{key}: there is no such key, only {', '.join(known)}")
    return PlacementConfig(**(config or {}))


def _read_stream(requests: RequestArrays | str | os.PathLike[str] | None, seed: int) -> RequestArrays:
    if requests is None:
        from ..traces.formats.synthetic_requests import generate_requests

        return generate_requests(np.random.default_rng(seed), SYNTHETIC_REQUESTS)
    if isinstance(requests, str | os.PathLike):
        from ..traces.requests import read_requests

        return read_requests(requests)
    return requests


class PlacementEnv(gym.Env[Observation, int]):
    """VM requests arrive one after the other; each is put on host a // 2, node a % 2, for an action a < 2N.

    An episode is one window of the stream. ``action_masks()`` says exactly what is legal, and at least one
    action always is. An illegal action changes nothing, is counted and named in ``info``; too many of them in
    a row truncate the episode. With ``huawei_placement`` an episode terminates when all requests are placed;
    a survival game terminates at the first request that fits nowhere, and is truncated when requests run out.

    Args:
        requests: As for ``PlacementSettings``.
        config: As for ``PlacementSettings``.
        render_mode: One of ``RENDER_MODES`` or None; with another there is a warning and no picture.
        **settings: The other fields of ``PlacementSettings``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self, requests: Any = None, config: Any = None, *, render_mode: str | None = None, **settings: Any
    ) -> None:
        chosen = PlacementSettings(requests, config, **settings)
        self.task = PlacementTask(chosen)
        self.illegal_penalty, self.max_illegal = chosen.illegal_penalty, chosen.max_illegal
        self.render_mode = usable_render_mode(render_mode, RENDER_MODES)
        self.observation_space: Any = self.task.observation_space
        self.action_space: Any = self.task.action_space
        self._over = True
        self._window = -1
        self._illegal = self._in_a_row = 0

    @property
    def games(self) -> PlacementGames:
        """The game behind it, number 0, for rules and analysis; changing it is no action."""
        return self.task.games

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next window.

        Args:
            seed: Seed of the generator that draws windows; with it a list of windows begins anew.
            options: ``window``: play the window of this first row.

        Returns:
            Observation, and info with ``window`` (its first row), ``n_vm`` (its requests), ``action_mask``.
        """
        options = dict(need_options(options, ("window",)))
        if "window" in options:  # refused before anything changes
            options["window"] = self.task.need_start(options["window"])
        super().reset(seed=None if seed is None else need_seed("seed", seed))
        self._window = self.task.begin(0, self.np_random, options, restart=seed is not None)
        self._over = False
        self._illegal = self._in_a_row = 0
        state = self.games.state
        info = {"window": self._window, "n_vm": int(state.end[0] - state.first[0])}
        return self._look(info), info

    def _look(self, info: dict[str, Any]) -> Observation:
        """The observation; the mask is added to ``info``."""
        info["action_mask"] = self.task.observer.action_masks[0].copy()
        if self.render_mode == "human":
            show_human(self.task.show(0, self._window, "ansi"))
        return self.task.observer.copy_one()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal, (actions,): nodes that can take the request; none when it is over."""
        mask: NDArray[np.bool_] = self.task.observer.buffers.mask[0].copy()
        return mask

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Place the pending request, and go on to the next one.

        Args:
            action: The node; with the options, the number 2N to reject, and the last number to skip.

        Returns:
            Observation, reward, whether the game has ended, whether it was cut off, and info: ``action_mask``
            (int8, which actions are legal now), ``wait_s`` of the request placed, or ``rejected`` or
            ``skipped``, or ``illegal_action`` with the reason; at the end ``metrics``, ``window`` and
            ``illegal_actions``.

        Raises:
            ResetNeeded: After the end of an episode, or before the first.
            ConfigError: If the action is no whole number.
        """
        need_begun(not self._over)
        task, games = self.task, self.task.games
        number = need_action(action)
        code = play_one(
            games.kernel_params, games.kernel_state, task.observer.handle, 0, number, task.kind, task.scale
        )
        reward = float(task.observer.buffers.reward[0])
        terminated, truncated = False, False
        info: dict[str, Any]
        if code > 0:
            self._illegal += 1
            self._in_a_row += 1
            reward -= self.illegal_penalty
            truncated = self._in_a_row >= self.max_illegal
            if truncated:
                reward += float(forfeit(games.kernel_params, games.kernel_state, 0, task.kind, task.scale))
            info = {"illegal_action": PLACEMENT_REASONS[code]}
        else:
            self._in_a_row = 0
            info = {OUTCOMES[code]: True} if code else {"wait_s": float(games.state.last_wait[0])}
            if games.state.status[0]:
                terminated, truncated = task.ending(0)
        if terminated or truncated:
            self._over = True
            info["metrics"] = task.metrics(0)
            info["window"] = self._window
            info["illegal_actions"] = self._illegal
        return self._look(info), reward, terminated, truncated, info

    def render(self) -> Any:
        """What ``PlacementTask.show`` does with the render mode; ``human`` has shown it already."""
        return None if self.render_mode == "human" else self.task.show(0, self._window, self.render_mode)
