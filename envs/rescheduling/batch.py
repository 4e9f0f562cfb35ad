"""B rescheduling environments in one kernel call per step: what the batches have in common."""

from __future__ import annotations

from typing import Any

from ..arrays import I8
from ..game_batch import (
    EpisodeBooks,
    EpisodeRules,
    GameBatch,
    close_step,
    make_books,
    note_refusal,
    open_books,
)
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from .env import ReschedulingTask
from .observations import ReschedulingBuffers, begin_one, play_one
from .settings import ReschedulingSettings
from .state import MOVED, PLAYING, ReschedulingParams, ReschedulingState


@kernel
def play_batch(
    p: ReschedulingParams,
    s: ReschedulingState,
    o: ReschedulingBuffers,
    e: EpisodeBooks,
    r: EpisodeRules,
    actions: I8,
) -> Any:
    """Carry out an action in every episode that is not over; the others show what they showed, and pay 0.

    Returns:
        How many VMs were moved, how many actions were refused, and how many episodes ended.
    """
    n_moved, n_refused, n_ended = 0, 0, 0
    for b in range(len(actions)):
        e.terminated[b] = e.truncated[b] = False
        if e.over[b]:
            o.reward[b] = 0.0
            o.code[b] = 0
            continue
        code = play_one(p, s, o, b, actions[b])
        if code > 0:
            n_refused += 1
            note_refusal(e, o, r, b)
        else:
            e.in_a_row[b] = 0
            n_moved += code == MOVED
        e.terminated[b] = s.status[b] != PLAYING
        close_step(e, o, b)
        if e.over[b]:
            e.ended[n_ended] = b
            n_ended += 1
    return n_moved, n_refused, n_ended


@kernel
def begin_many(
    p: ReschedulingParams,
    starts: ReschedulingState,
    seen: ReschedulingBuffers,
    s: ReschedulingState,
    o: ReschedulingBuffers,
    e: EpisodeBooks,
    games: I8,
    rows: I8,
) -> None:
    """Begin a snapshot in each of some games."""
    for i in range(len(games)):
        begin_one(p, starts, seen, s, o, games[i], rows[i])
        open_books(e, games[i])


class ReschedulingBatch(GameBatch):
    """B rescheduling environments: games, generators, and the books of their episodes.

    Args:
        num_envs: B.
        settings: What is played.
    """

    task: ReschedulingTask
    books: EpisodeBooks

    def __init__(self, num_envs: int, settings: ReschedulingSettings) -> None:
        self.rules = EpisodeRules(float(settings.illegal_penalty), int(settings.max_illegal))
        super().__init__(ReschedulingTask(settings, num_envs), num_envs, make_books(EpisodeBooks, num_envs))

    def _bind(self, books: EpisodeBooks) -> None:
        self.books = books
        games, observer = self.task.games, self.task.observer
        handle = make_handle("rescheduling books", books)
        self._kernel: Any = (games.kernel_params, games.kernel_state, observer.handle, handle)
        self._rules: Any = make_handle("rescheduling rules", self.rules, readonly=True)

    def _start(self, which: I8, rows: I8) -> None:
        p, s, o, e = self._kernel
        starts, seen = self.task.games.kernel_starts, self.task.observer.start_handle
        begin_many(p, starts, seen, s, o, e, which, rows)

    def _step(self, actions: I8) -> tuple[int, int, int]:
        p, s, o, e = self._kernel
        found: tuple[int, int, int] = play_batch(p, s, o, e, self._rules, actions)
        return found
