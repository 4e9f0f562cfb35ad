"""Lock-step play of placement windows: all of them at once, one call of the policy per decision of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virtgym.envs.placement_observations import PlacementObserver, play_many
from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.placement import PLAYING
from virtgym.envs.sim.placement_games import PlacementGames

__all__ = ["MAX_ILLEGAL", "PlayedWindows", "play_windows"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

MAX_ILLEGAL = 100
"""Illegal actions in a row after which a window is given up, as in ``virtgym/Placement-v0``."""


@dataclass(frozen=True)
class PlayedWindows:
    """What W windows gave.

    Attributes:
        total_wait_s: Sum of the waits of the requests placed, s, (W,).
        n_placed: Requests placed, (W,).
        n_decisions: Actions that the policy chose, (W,).
        n_illegal: Those that were illegal and changed nothing, (W,).
        finished: Whether the game came to its end, (W,); not if the policy chose nothing legal any more.
        span_s: Simulated time from the first arrival to the last placement, s, (W,).
        wall_s: Time of the loop, s: policy, observations and games.
        decision_ms: Time of each call of the policy by the number of games it decided for, ms, (calls,).
        log: Columns with an entry per placement, sorted by window: ``window`` (place in the list, 0...W - 1),
            ``step`` (0, 1, ... within the window), ``request`` (row of the stream), ``time_s`` (of the
            placement), ``wait_s``, ``node``.
    """

    total_wait_s: F8
    n_placed: I8
    n_decisions: I8
    n_illegal: I8
    finished: NDArray[np.bool_]
    span_s: F8
    wall_s: float
    decision_ms: F8
    log: dict[str, NDArray[Any]]


def play_windows(
    policy: Any,
    games: PlacementGames,
    windows: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    max_calls: int | None = None,
) -> PlayedWindows:
    """Play a window in each game to its end.

    The policy is bound to the games once, ``reset(games, rng)``, and then asked until the last game is over:
    ``predict(observation, state, episode_start, True, action_masks)`` with a row per game, (W, ...) each, and
    W actions back. Games that are over have an empty mask and their action is not looked at. A policy whose
    class says ``stateless = True`` (its action for a row depends on this row alone) is only given the rows
    that still play, which saves it half of the work where windows are of different length.

    Args:
        policy: A policy for placement.
        games: W games; what they play now is lost.
        windows: Row of each window's first request, (W,).
        lengths: Requests of each window, (W,); None = by the protocol.
        rng: The policy's random numbers.
        max_calls: Stop after so many calls of the policy (for warming up).

    Raises:
        ConfigError: If the policy does not answer with one action per game.
    """
    observer = PlacementObserver(games)
    n = games.n_games
    games.begin(np.arange(n), windows, lengths)
    for game in range(n):
        observer.observe(game)
    policy.reset(games, rng)
    play = _Play(policy, games, observer)
    start = time.perf_counter()
    while (max_calls is None or play.calls < max_calls) and play.active.any():
        play.step()
    return play.result(time.perf_counter() - start)


class _Play:
    """The loop's state: who plays, and what is logged."""

    def __init__(self, policy: Any, games: PlacementGames, observer: PlacementObserver) -> None:
        n = games.n_games
        self._policy, self._games, self._observer = policy, games, observer
        self._thin = bool(getattr(policy, "stateless", False))
        self._memory: Any = None
        self._begins = np.ones(n, dtype=np.bool_)
        self._in_a_row = np.zeros(n, dtype=np.int64)
        self._illegal = np.zeros(n, dtype=np.int64)
        self._decisions = np.zeros(n, dtype=np.int64)
        self._end_s = games.state.clock.copy()
        self._nothing = np.zeros(n, dtype=np.int64)
        self._log: list[tuple[I8, I8, F8, F8, I8]] = []
        self._spent_ms: list[float] = []
        self.active = games.state.status == PLAYING

    @property
    def calls(self) -> int:
        """How often the policy has been asked."""
        return len(self._spent_ms)

    def _ask(self, playing: I8) -> I8:
        """The action of every game, (W,); 0 where it is over."""
        observation = self._observer.copy_all()
        masks = self._observer.buffers.mask.copy()
        begins = self._begins
        thin = self._thin and len(playing) < len(masks)
        if thin:
            observation = {name: values[playing] for name, values in observation.items()}
            masks, begins = masks[playing], begins[playing]
        before = time.perf_counter()
        answer, self._memory = self._policy.predict(observation, self._memory, begins, True, masks)
        self._spent_ms.append(1e3 * (time.perf_counter() - before) / len(playing))
        self._begins = np.zeros_like(self._begins)
        actions = np.asarray(answer)
        if actions.shape != (len(masks),) or actions.dtype.kind not in "iu":
            raise ConfigError(
                f"policy {type(self._policy).__name__}: predict() must answer with {len(masks)} whole "
                f"numbers for {len(masks)} games, gave shape {actions.shape} of {actions.dtype}"
            )
        if not thin:
            return actions.astype(np.int64)
        every = self._nothing.copy()
        every[playing] = actions
        return every

    def step(self) -> None:
        """Ask once and carry the answers out."""
        s = self._games.state
        playing = np.flatnonzero(self.active)
        actions = self._ask(playing)
        row, clock = s.cursor[playing], s.clock[playing]
        play_many(
            self._games.kernel_params, self._games.kernel_state, self._observer.handle,
            actions, self.active, 0, 1.0,
        )  # fmt: skip
        self._decisions[playing] += 1
        refused = self._observer.buffers.code[playing] > 0
        self._illegal[playing] += refused
        self._in_a_row[playing] = np.where(refused, self._in_a_row[playing] + 1, 0)
        if refused.any():
            playing, row, clock = playing[~refused], row[~refused], clock[~refused]
        self._end_s[playing] = clock
        self._log.append((playing, row, clock, s.last_wait[playing], actions[playing]))
        self.active = (s.status == PLAYING) & (self._in_a_row < MAX_ILLEGAL)

    def result(self, wall_s: float) -> PlayedWindows:
        """What has been played."""
        s, p = self._games.state, self._games.params
        return PlayedWindows(
            total_wait_s=s.wait.copy(),
            n_placed=s.cursor - s.first,
            n_decisions=self._decisions,
            n_illegal=self._illegal,
            finished=s.status != PLAYING,
            span_s=self._end_s - p.arrival[s.first],
            wall_s=wall_s,
            decision_ms=np.array(self._spent_ms),
            log=self._columns(),
        )

    def _columns(self) -> dict[str, NDArray[Any]]:
        game, row, clock, wait, node = (np.concatenate(part) for part in zip(*self._log, strict=True))
        order = np.argsort(game, kind="stable")
        game = game[order]
        counts = np.bincount(game, minlength=self._games.n_games)
        first = np.concatenate(([0], np.cumsum(counts)[:-1]))
        return {
            "window": game,
            "step": np.arange(len(game)) - first[game],
            "request": row[order],
            "time_s": clock[order],
            "wait_s": wait[order],
            "node": node[order],
        }
