"""B environments of one game in one kernel call per step: what the batches of all games have in common.

The kernels keep the books of B episodes (illegal actions, ends, sums of rewards), so that a step costs little
Python, however many environments there are. An episode begins in a *row*: a window of a stream, a snapshot of
a list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import B1, F8, I8
from .entry import make_generator, need_actions, need_begun
from .errors import ConfigError
from .jit.kernels import kernel, of_records

AHEAD = 64
"""Rows that each environment's generator draws at once; the sequence is that of drawing one by one."""


class EpisodeRules(NamedTuple):
    """What the kernels read and never change."""

    penalty: float  # of an illegal action
    max_illegal: int  # illegal actions in a row that truncate an episode


class EpisodeBooks(NamedTuple):
    """The books of B episodes; a game may have more."""

    over: B1  # (B,) the episode has ended, or none has begun
    terminated: B1  # (B,) by the last step
    truncated: B1  # (B,) by the last step
    illegal: I8  # (B,) illegal actions of the episode
    in_a_row: I8  # (B,) illegal actions since the last legal one
    total: F8  # (B,) sum of rewards of the episode
    length: I8  # (B,) steps of the episode
    ended: I8  # (B,) the environments whose episodes the last step ended, in the first places


class Paid(NamedTuple):
    """What the buffers of every game have."""

    reward: F8  # (B,) of the last step


@of_records
@kernel
def open_books(e: EpisodeBooks, b: int) -> None:
    """Begin the books of an episode."""
    e.over[b] = False
    e.illegal[b] = e.in_a_row[b] = e.length[b] = 0
    e.total[b] = 0.0


@of_records
@kernel
def note_refusal(e: EpisodeBooks, o: Paid, r: EpisodeRules, b: int) -> None:
    """Note that an action was refused: the penalty, and the end if it was one too many in a row."""
    e.illegal[b] += 1
    e.in_a_row[b] += 1
    o.reward[b] -= r.penalty
    e.truncated[b] = e.in_a_row[b] >= r.max_illegal


@of_records
@kernel
def close_step(e: EpisodeBooks, o: Paid, b: int) -> None:
    """Note the reward of a step, and whether the episode is over."""
    e.total[b] += o.reward[b]
    e.length[b] += 1
    e.over[b] = e.terminated[b] or e.truncated[b]


def make_books(kind: type[Any], n: int) -> Any:
    """Books of a kind (a named tuple of arrays) for n episodes, none of which has begun."""
    flags, real = {"over", "placed", "terminated", "truncated"}, {"wait", "total"}
    arrays: dict[str, Any] = {
        name: np.zeros(n, np.bool_ if name in flags else np.float64 if name in real else np.int64)
        for name in kind._fields
    }
    books = kind(**arrays)
    books.over[:] = True
    return books


class GameBatch:
    """B environments: games, generators, and the books of their episodes.

    Args:
        task: What is played, by B games: ``games``, whose ``state`` is a named tuple of arrays; ``observer``,
            whose ``buffers`` are one but for the fields in ``constant``; ``rows``, the range (from, to) of
            the rows that are drawn from; the spaces of one game; ``need_start``, ``metrics_of``, ``show``.
        num_envs: B.
        books: ``EpisodeBooks``, or the record of a game that has its fields.

    Attributes:
        row: Where the episode of each environment began, (B,); -1 = none has begun.
        rngs: A generator each, which draws rows.
    """

    books: Any

    hidden: tuple[str, ...] = ("_kernel", "_rules")
    """Attributes with handles, which ``_bind`` makes."""

    def __init__(self, task: Any, num_envs: int, books: Any) -> None:
        self.task = task
        self.num_envs = num_envs
        self.row = np.full(num_envs, -1, dtype=np.int64)
        self.begun = False
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._ahead = np.zeros((num_envs, AHEAD), dtype=np.int64)
        self._drawn = np.full(num_envs, AHEAD, dtype=np.int64)
        self._bind(books)

    def _bind(self, books: Any) -> None:
        """Make what kernels read."""
        raise NotImplementedError

    def _start(self, which: I8, rows: I8) -> None:
        """Begin an episode at a row in each of some environments."""
        raise NotImplementedError

    def _step(self, actions: I8) -> tuple[int, int, int]:
        """One kernel call; see ``play``."""
        raise NotImplementedError

    def reseed(self, i: int, seed: int) -> None:
        """Give an environment the generator of a single one with this seed."""
        self.rngs[i] = make_generator(seed)
        self._drawn[i] = AHEAD

    def begin(self, which: I8, rows: ArrayLike | None = None) -> None:
        """Begin an episode in some environments.

        Args:
            which: Their numbers, (n,).
            rows: Row of each, (n,); None = the next of each environment.
        """
        firsts = self._next_rows(which) if rows is None else np.asarray(rows)
        self._start(which, firsts)
        self.row[which] = firsts
        self.begun = self.begun or len(which) > 0

    def _next_rows(self, which: I8) -> I8:
        for i in which[self._drawn[which] == AHEAD].tolist():
            self._ahead[i] = self.rngs[i].integers(*self.task.rows, size=AHEAD)
            self._drawn[i] = 0
        at = self._drawn[which]
        self._drawn[which] = at + 1
        rows: I8 = self._ahead[which, at]
        return rows

    def play(self, actions: ArrayLike) -> tuple[int, int, I8]:
        """Carry out an action in every episode that is not over.

        Args:
            actions: (B,).

        Returns:
            How many requests were placed (VMs moved), how many actions were refused, and the environments
            whose episodes ended, as a view that the next step overwrites.

        Raises:
            ResetNeeded: Before any episode has begun.
            ConfigError: If these are not B whole numbers.
        """
        need_begun(self.begun)
        n_placed, n_refused, n_ended = self._step(need_actions(actions, self.num_envs))
        return n_placed, n_refused, self.books.ended[:n_ended]

    def metrics(self, which: I8) -> dict[str, F8]:
        """``metrics_of`` the task for some environments, (n,) each."""
        found: dict[str, F8] = self.task.metrics_of(which)
        return found

    def _changing(self) -> dict[str, NDArray[Any]]:
        """Every array that play changes, by name."""
        task = self.task
        found: dict[str, Any] = {"row": self.row, "ahead": self._ahead, "drawn": self._drawn}
        found |= {f"books.{name}": array for name, array in self.books._asdict().items()}
        found |= {f"games.{name}": array for name, array in task.games.state._asdict().items()}
        seen = task.observer.buffers._asdict().items()
        return found | {f"seen.{name}": array for name, array in seen if name not in task.observer.constant}

    def export_state(self) -> dict[str, NDArray[Any]]:
        """Where all environments and their generators stand, as plain arrays: a checkpoint."""
        state = [rng.bit_generator.state for rng in self.rngs]
        text = json.dumps(state).encode()
        copies = {name: array.copy() for name, array in self._changing().items()}
        return copies | {"rngs": np.frombuffer(text, dtype=np.uint8).copy()}

    def import_state(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what ``export_state`` of a batch of the same configuration gave.

        Raises:
            ConfigError: If it comes from another one.
        """
        mine = self._changing()
        for name, array in mine.items():
            if name not in arrays or arrays[name].shape != array.shape:
                raise ConfigError(f"checkpoint: {name} does not fit {self.num_envs} of these environments")
        for name, array in mine.items():
            array[...] = arrays[name]
        self.begun = bool((self.row >= 0).any())
        for rng, state in zip(self.rngs, json.loads(arrays["rngs"].tobytes()), strict=True):
            rng.bit_generator.state = state

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        saved = {name: value for name, value in self.__dict__.items() if name not in self.hidden}
        return saved | {"books": tuple(self.books), "books_kind": type(self.books)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        kind = saved.pop("books_kind")
        self.__dict__.update(saved)
        self._bind(kind(*saved["books"]))
