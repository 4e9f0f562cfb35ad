"""Lock-step play of placement windows: all of them at once, one call of the policy per decision of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.batch import PlacementBatch


@dataclass(frozen=True)
class PlayedWindows:
    """What W windows gave.

    Attributes:
        total_wait_s: Sum of the waits of the requests placed, s, (W,).
        n_placed: Requests placed, (W,).
        n_rejected: Requests rejected, (W,), where the protocol allows that.
        n_decisions: Actions that the policy chose, (W,).
        n_illegal: Those that were illegal and changed nothing, (W,).
        finished: Whether the game came to its end, (W,); not if the policy chose illegal actions until it was
            given up, or the pending request fits nowhere for ever.
        span_s: Simulated time from the first arrival to the last placement, s, (W,).
        wall_s: Time of the loop, s: policy, observations and games.
        decision_ms: Time of each call of the policy by the number of games it decided for, ms, (calls,).
        log: Columns with an entry per placement, sorted by window: ``window`` (place in the list, 0...W - 1),
            ``step`` (0, 1, ... within the window), ``request`` (row of the stream), ``time_s`` (of the
            placement), ``wait_s``, ``node``.
    """

    total_wait_s: F8
    n_placed: I8
    n_rejected: I8
    n_decisions: I8
    n_illegal: I8
    finished: NDArray[np.bool_]
    span_s: F8
    wall_s: float
    decision_ms: F8
    log: dict[str, NDArray[Any]]


def play_windows(
    policy: Any,
    batch: PlacementBatch,
    windows: ArrayLike,
    *,
    rng: np.random.Generator,
    max_calls: int | None = None,
) -> PlayedWindows:
    """Play a window in each environment of a batch to its end.

    The policy is bound to the games once, ``reset(games, rng)``, and then asked until the last game is over:
    ``predict(observation, state, episode_start, True, action_masks)`` with a row per game, (W, ...) each, and
    W actions back. Games that are over have an empty mask and their action is not looked at. A policy whose
    class says ``stateless = True`` (its action for a row depends on this row alone) is only given the rows
    that still play, which saves it half of the work where windows are of different length.

    Args:
        policy: A policy for placement.
        batch: W environments, which observe what the policy reads (its ``observation``, if it has one); what
            they play now is lost.
        windows: Row of each window's first request, (W,).
        rng: The policy's random numbers.
        max_calls: Stop after so many calls of the policy (for warming up).

    Raises:
        ConfigError: If the policy does not answer with one action per game.
    """
    batch.begin(np.arange(batch.num_envs), windows)
    policy.reset(batch.task.games, rng)
    play = _Play(policy, batch)
    start = time.perf_counter()
    while (max_calls is None or play.calls < max_calls) and play.playing.size:
        play.step()
    return play.result(time.perf_counter() - start)


class _Play:
    """The loop's state: who plays, and what is logged."""

    def __init__(self, policy: Any, batch: PlacementBatch) -> None:
        n = batch.num_envs
        self._policy, self._batch = policy, batch
        self._games, self._observer = batch.task.games, batch.task.observer
        self._thin = bool(getattr(policy, "stateless", False))
        self._memory: Any = None
        self._begins = np.ones(n, dtype=np.bool_)
        self._decisions = np.zeros(n, dtype=np.int64)
        self._end_s = self._games.state.clock.copy()
        self._log: list[tuple[I8, I8, F8, F8, I8]] = []
        self._spent_ms: list[float] = []
        self.playing: I8 = np.flatnonzero(~batch.books.over)

    @property
    def calls(self) -> int:
        """How often the policy has been asked."""
        return len(self._spent_ms)

    def _ask(self) -> I8:
        """The action of every game, (W,); 0 where it is over."""
        observation = self._observer.copy_all()
        masks = self._observer.buffers.mask.copy()
        begins = self._begins
        thin = self._thin and len(self.playing) < len(masks)
        if thin:
            observation = {name: values[self.playing] for name, values in observation.items()}
            masks, begins = masks[self.playing], begins[self.playing]
        before = time.perf_counter()
        answer, self._memory = self._policy.predict(observation, self._memory, begins, True, masks)
        self._spent_ms.append(1e3 * (time.perf_counter() - before) / len(self.playing))
        self._begins = np.zeros_like(self._begins)
        actions = np.asarray(answer)
        if actions.shape != (len(masks),) or actions.dtype.kind not in "iu":
            raise ConfigError(
                f"policy {type(self._policy).__name__}: predict() must answer with {len(masks)} whole "
                f"numbers for {len(masks)} games, gave shape {actions.shape} of {actions.dtype}"
            )
        if not thin:
            return actions.astype(np.int64)
        every = np.zeros(self._batch.num_envs, dtype=np.int64)
        every[self.playing] = actions
        return every

    def step(self) -> None:
        """Ask once and carry the answers out."""
        s, playing = self._games.state, self.playing
        actions = self._ask()
        row, clock = s.cursor[playing], s.clock[playing]
        n_placed, _, ended = self._batch.play(actions)
        self._decisions[playing] += 1
        if len(ended):
            self.playing = np.flatnonzero(~self._batch.books.over)
        if n_placed < len(playing):
            placed = self._batch.books.placed[playing]
            playing, row, clock = playing[placed], row[placed], clock[placed]
        self._end_s[playing] = clock
        self._log.append((playing, row, clock, self._batch.books.wait[playing], actions[playing]))

    def result(self, wall_s: float) -> PlayedWindows:
        """What has been played."""
        s, p = self._games.state, self._games.params
        return PlayedWindows(
            total_wait_s=s.wait.copy(),
            n_placed=s.n_placed.copy(),
            n_rejected=s.n_rejected.copy(),
            n_decisions=self._decisions,
            n_illegal=self._batch.books.illegal.copy(),
            finished=self._batch.task.finished,
            span_s=self._end_s - p.arrival[s.first],
            wall_s=wall_s,
            decision_ms=np.array(self._spent_ms),
            log=self._columns(),
        )

    def _columns(self) -> dict[str, NDArray[Any]]:
        game, row, clock, wait, node = (np.concatenate(part) for part in zip(*self._log, strict=True))
        order = np.argsort(game, kind="stable")
        game = game[order]
        counts = np.bincount(game, minlength=self._batch.num_envs)
        first = np.concatenate(([0], np.cumsum(counts)[:-1]))
        return {
            "window": game,
            "step": np.arange(len(game)) - first[game],
            "request": row[order],
            "time_s": clock[order],
            "wait_s": wait[order],
            "node": node[order],
        }
