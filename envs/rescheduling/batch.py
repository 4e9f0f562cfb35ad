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
from ..threads import Threads
from .env import ReschedulingTask
from .observations import ReschedulingBuffers, begin_one, play_one
from .settings import ReschedulingSettings
from .state import MOVED, PLAYING, ReschedulingParams, ReschedulingState


@kernel(nogil=True)
def play_batch(
    p: ReschedulingParams,
    s: ReschedulingState,
    o: ReschedulingBuffers,
    e: EpisodeBooks,
    r: EpisodeRules,
    actions: I8,
    first: int,
    last: int,
) -> Any:
    """Carry out an action in every episode that is not over; the others show what they showed, and pay 0.

    Args:
        p: Handle to ``ReschedulingParams``.
        s: Handle to ``ReschedulingState``.
        o: Handle to ``ReschedulingBuffers``.
        e: Handle to ``EpisodeBooks``.
        r: Handle to ``EpisodeRules``.
        actions: (B,).
        first: The first episode to go on with.
        last: The one after the last.

    Returns:
        How many VMs were moved, how many actions were refused, and how many episodes ended: their numbers
        are in ``ended`` from ``first`` on.
    """
    n_moved, n_refused, n_ended = 0, 0, 0
    for b in range(first, last):
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
            e.ended[first + n_ended] = b
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
        threads: Threads among which the environments are divided; results are the same.
    """

    task: ReschedulingTask
    books: EpisodeBooks

    def __init__(self, num_envs: int, settings: ReschedulingSettings, threads: int = 1) -> None:
        self._threads = Threads(threads, num_envs)
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
        rules, ended = self._rules, self.books.ended
        if len(self._threads.parts) == 1:
            alone: tuple[int, int, int] = play_batch(p, s, o, e, rules, actions, 0, self.num_envs)
            return alone

        def run(first: int, last: int) -> tuple[int, int, int]:
            found: tuple[int, int, int] = play_batch(p, s, o, e, rules, actions, first, last)
            return found

        n_moved, n_refused, n_ended = 0, 0, 0
        for (first, _), (moved, refused, over) in zip(self._threads.parts, self._threads.run(run)):
            n_moved, n_refused = n_moved + moved, n_refused + refused
            if first and over:
                ended[n_ended : n_ended + over] = ended[first : first + over].copy()
            n_ended += over
        return n_moved, n_refused, n_ended
