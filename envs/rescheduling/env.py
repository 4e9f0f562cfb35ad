"""``virtgym/Rescheduling-v0``: a full cluster, a few migrations; which?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..checks import need_index, need_seed
from ..entry import (
    RENDER_MODES,
    as_action_mask,
    need_action,
    need_begun,
    need_options,
    show_human,
    usable_render_mode,
)
from .action_rows import ActionObserver
from .games import ReschedulingGames
from .objective import TERMS
from .observations import ReschedulingObserver, play_one
from .settings import ReschedulingSettings
from .state import IDLE, PLAYING, RESCHEDULING_REASONS

Observation = dict[str, NDArray[Any]]


class ReschedulingTask:
    """What is played: games on some snapshots, and for what reward.

    One environment and a batch of them share this, so that they play the same game.

    Args:
        settings: What is played.
        n_games: B.

    Raises:
        ConfigError: If a value is impossible; the text names it.
    """

    def __init__(self, settings: ReschedulingSettings, n_games: int = 1) -> None:
        from ..scenarios.rescheduling import ReschedulingScenario, build_rescheduling_scenario

        scenario, wanted = settings.scenario, settings.snapshots
        if not isinstance(scenario, ReschedulingScenario):
            scenario = build_rescheduling_scenario(scenario, seed=settings.scenario_seed)
        snapshots = wanted if isinstance(wanted, Sequence) else scenario.draw(int(wanted))
        limit = scenario.config.limit if settings.limit is None else settings.limit
        objective = settings.chosen_objective(scenario.config.objective)
        self.games = ReschedulingGames(snapshots, objective, limit, n_games)
        kind = ActionObserver if settings.observation == "actions" else ReschedulingObserver
        self.observer = kind(self.games, settings.reward_scale)
        self.rows = (0, len(snapshots))
        self.observation_space = self.observer.space()
        self.flat_space = self.observer.flat_space()
        self.action_space = spaces.Discrete(self.games.n_actions)

    def need_start(self, row: Any) -> int:
        """The number of the snapshot that the option ``snapshot`` of a reset names.

        Raises:
            ConfigError: If there is no such snapshot.
        """
        return need_index("reset(options)", "snapshot", row, self.rows[1])

    def metrics_of(self, which: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """What there is to say of some games, (n,) each: the objective, its terms, and what they were."""
        s, starts = self.games.state, self.games.starts
        k = s.snapshot[which]
        found = {
            "objective": s.objective[which], "objective_start": starts.objective[k],
            "fragment_rate": s.terms[which, 0], "fragment_rate_start": starts.terms[k, 0],
            "moves": s.moves[which].astype(np.float64),
        }  # fmt: skip
        return found | {name: s.terms[which, i] for i, name in enumerate(TERMS) if name != "fragment"}

    def metrics(self, game: int) -> dict[str, float]:
        """``metrics_of`` of a game."""
        return {name: float(value[0]) for name, value in self.metrics_of(np.array([game])).items()}

    def show(self, game: int, snapshot: int, mode: str | None) -> Any:
        """A game in a render mode.

        ``ansi``: a line of what it is now; ``rgb_array``: what is used of its nodes as bars, (height, width,
        3) of uint8; None: nothing.
        """
        if mode is None:
            return None
        s = self.games.state
        if s.status[game] == IDLE:
            return "no episode has begun"
        terms = ", ".join(f"{name} {value:.3f}" for name, value in zip(TERMS, s.terms[game].tolist()))
        name = self.games.snapshots[snapshot].name
        head = f"{name}: {s.moves[game]} of {self.games.limit} moves, {terms}"
        if mode != "rgb_array":
            return head
        from ..cluster.render import draw_nodes

        p, k = self.games.params, s.snapshot[game]
        cores, memory = 1.0 - s.free_cpu[game] / p.node_cpu[k], 1.0 - s.free_mem[game] / p.node_mem[k]
        return draw_nodes(head, cores, memory)


class ReschedulingEnv(gym.Env[Observation, int]):
    """Choose a VM, then its node, up to ``limit`` times; the last action stops.

    With V VMs and A nodes, action v < V chooses a VM, V + a puts it on node a (a double VM on a host, by its
    first node), and V + A stops, which is legal while no VM is chosen. ``action_masks()`` says exactly what
    is legal, and at least one action always is: a VM can be chosen only if it can go somewhere. An illegal
    action changes nothing, is counted and named in ``info``; too many of them in a row truncate the episode.
    The reward of a move is what it takes off the objective; a choice pays 0. An episode terminates when it is
    stopped or its moves are spent.

    Args:
        scenario: As for ``ReschedulingSettings``.
        render_mode: One of ``RENDER_MODES`` or None; with another there is a warning and no picture.
        copy: Whether observations and masks are copies, or views of memory that the next step overwrites,
            which is several times as fast.
        **settings: The other fields of ``ReschedulingSettings``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        scenario: str | Mapping[str, Any] | Any = "rescheduling",
        *,
        render_mode: str | None = None,
        copy: bool = True,
        **settings: Any,
    ) -> None:
        chosen = ReschedulingSettings(scenario, **settings)
        self.task = ReschedulingTask(chosen)
        self.illegal_penalty, self.max_illegal = chosen.illegal_penalty, chosen.max_illegal
        self.render_mode = usable_render_mode(render_mode, RENDER_MODES)
        self.copy = copy
        self.observation_space: Any = self.task.observation_space
        self.action_space: Any = self.task.action_space
        self._snapshot = -1
        self._over = True
        self._illegal = self._in_a_row = 0
        self._bind()

    def _bind(self) -> None:
        games, observer = self.games, self.task.observer
        self._kernel = (games.kernel_params, games.kernel_state, observer.handle, 0)
        self._reward = observer.buffers.reward
        self._status = games.state.status
        self._view = observer.view()
        self._mask = observer.buffers.mask[0]
        self._action_mask = as_action_mask(self._mask)

    @property
    def games(self) -> ReschedulingGames:
        """The game behind it, number 0, for policies and analysis; changing it is no action."""
        return self.task.games

    def _look(self, info: dict[str, Any]) -> Observation:
        """The observation; the mask is added to ``info``."""
        info["action_mask"] = self._action_mask.copy() if self.copy else self._action_mask
        if self.render_mode == "human":
            show_human(self.task.show(0, self._snapshot, "ansi"))
        if self.copy:
            return self.task.observer.copy_one()
        self.task.observer.refresh()
        return self._view

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a snapshot.

        Args:
            seed: Seed of the generator that draws one of the snapshots.
            options: ``snapshot``: the number of the one to play.

        Returns:
            Observation, and info with ``snapshot`` and ``action_mask``.
        """
        given = need_options(options, ("snapshot",))
        named = self.task.need_start(given["snapshot"]) if "snapshot" in given else None
        super().reset(seed=None if seed is None else need_seed("seed", seed))
        self._snapshot = int(self.np_random.integers(*self.task.rows)) if named is None else named
        self.task.observer.begin(0, self._snapshot)
        self._over = False
        self._illegal = self._in_a_row = 0
        info: dict[str, Any] = {"snapshot": self._snapshot}
        return self._look(info), info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal, (V + A + 1,); none when the episode is over."""
        mask: NDArray[np.bool_] = self._mask
        return mask.copy() if self.copy else mask

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Choose a VM, or its place, or stop.

        Returns:
            Observation, reward, whether the game has ended, whether it was cut off, and info: ``action_mask``
            (int8, which actions are legal now), ``illegal_action`` with the reason; at the end ``metrics``,
            ``snapshot`` and ``illegal_actions``.

        Raises:
            ResetNeeded: After the end of an episode, or before the first.
            ConfigError: If the action is no whole number.
        """
        need_begun(not self._over)
        code = play_one(*self._kernel, need_action(action))
        reward = float(self._reward[0])
        truncated = False
        info: dict[str, Any] = {}
        if code > 0:
            self._illegal += 1
            self._in_a_row += 1
            reward -= self.illegal_penalty
            truncated = self._in_a_row >= self.max_illegal
            info["illegal_action"] = RESCHEDULING_REASONS[code]
        else:
            self._in_a_row = 0
        terminated = bool(self._status[0] != PLAYING)
        if terminated or truncated:
            self._over = True
            info |= {
                "metrics": self.task.metrics(0),
                "snapshot": self._snapshot,
                "illegal_actions": self._illegal,
            }
        return self._look(info), reward, terminated, truncated, info

    def render(self) -> Any:
        """What ``ReschedulingTask.show`` does with the render mode; ``human`` has shown it already."""
        return None if self.render_mode == "human" else self.task.show(0, self._snapshot, self.render_mode)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        hidden = ("_kernel", "_reward", "_status", "_view", "_mask", "_action_mask")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Bind the memory anew."""
        self.__dict__.update(saved)
        self._bind()
