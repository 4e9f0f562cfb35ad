"""B placement environments in one kernel call per step: what Gymnasium's and SB3's batches have in common.

The kernel keeps the books of B episodes (illegal actions, ends, sums of rewards), so that a step costs little
Python, however many environments there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import B1, F8, I8
from ..entry import make_generator, need_actions, need_begun
from ..errors import ConfigError
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from .buffers import CONSTANT_BUFFERS, PlacementBuffers
from .env import PlacementTask
from .game import begin_game
from .observations import observe_game, play_one
from .rewards import forfeit
from .settings import PlacementSettings
from .state import FINISHED, HUAWEI, PLAYING, PlacementParams, PlacementState

AHEAD = 64
"""Windows that each environment's generator draws at once; the sequence is that of drawing one by one."""


class EpisodeRules(NamedTuple):
    """What the kernel reads and never changes."""

    kind: int  # place of the reward in REWARDS
    scale: float  # T of the rewards, s
    penalty: float  # of an illegal action
    max_illegal: int  # illegal actions in a row that truncate an episode


class EpisodeBooks(NamedTuple):
    """The books of B episodes."""

    over: B1  # (B,) the episode has ended, or none has begun
    placed: B1  # (B,) the last step placed a request
    terminated: B1  # (B,) by the last step
    truncated: B1  # (B,) by the last step
    wait: F8  # (B,) wait of the request that the last step placed, 0 if none, s
    illegal: I8  # (B,) illegal actions of the episode
    in_a_row: I8  # (B,) illegal actions since the last legal one
    total: F8  # (B,) sum of rewards of the episode
    length: I8  # (B,) steps of the episode
    ended: I8  # (B,) the environments whose episodes the last step ended, in the first places


@kernel
def _keep_books(
    p: PlacementParams, s: PlacementState, o: PlacementBuffers, e: EpisodeBooks, r: EpisodeRules, b: int
) -> None:
    """Note what the step in game b has done."""
    if o.code[b] > 0:
        e.illegal[b] += 1
        e.in_a_row[b] += 1
        o.reward[b] -= r.penalty
        e.truncated[b] = e.in_a_row[b] >= r.max_illegal
        if e.truncated[b]:
            o.reward[b] += forfeit(p, s, b, r.kind, r.scale)
    else:
        e.in_a_row[b] = 0
        e.placed[b] = o.code[b] == 0
        if e.placed[b]:
            e.wait[b] = s.last_wait[b]
        if s.status[b] != PLAYING:
            e.truncated[b] = s.status[b] == FINISHED and p.protocol != HUAWEI
            e.terminated[b] = not e.truncated[b]
    e.total[b] += o.reward[b]
    e.length[b] += 1
    e.over[b] = e.terminated[b] or e.truncated[b]


@kernel
def play_batch(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    e: EpisodeBooks,
    r: EpisodeRules,
    actions: I8,
) -> Any:
    """Carry out an action in every episode that is not over; the others show what they showed, and pay 0.

    Args:
        o: Buffers.
        e: Books.
        r: Rules of episodes.
        actions: (B,).

    Returns:
        How many requests were placed, how many actions were refused, and how many episodes ended.
    """
    n_placed, n_refused, n_ended = 0, 0, 0
    for b in range(len(actions)):
        e.placed[b] = e.terminated[b] = e.truncated[b] = False
        e.wait[b] = 0.0
        if e.over[b]:
            o.reward[b] = 0.0
            o.code[b] = 0
            continue
        play_one(p, s, o, b, actions[b], r.kind, r.scale)
        _keep_books(p, s, o, e, r, b)
        n_placed += e.placed[b]
        n_refused += o.code[b] > 0
        if e.over[b]:
            e.ended[n_ended] = b
            n_ended += 1
    return n_placed, n_refused, n_ended


@kernel
def begin_many(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    e: EpisodeBooks,
    games: I8,
    firsts: I8,
    ends: I8,
) -> None:
    """Begin an episode in each of some games: its first row, and the row after its last."""
    for i in range(len(games)):
        b = games[i]
        begin_game(p, s, b, firsts[i], ends[i])
        observe_game(p, s, o, b)
        e.over[b] = False
        e.illegal[b] = e.in_a_row[b] = e.length[b] = 0
        e.total[b] = 0.0


def _make_books(n: int) -> EpisodeBooks:
    flags, real = {"over", "placed", "terminated", "truncated"}, {"wait", "total"}
    arrays: dict[str, Any] = {
        name: np.zeros(n, np.bool_ if name in flags else np.float64 if name in real else np.int64)
        for name in EpisodeBooks._fields
    }
    books = EpisodeBooks(**arrays)
    books.over[:] = True
    return books


class PlacementBatch:
    """B placement environments: games, generators, and the books of their episodes.

    Args:
        num_envs: B.
        settings: What is played.
    """

    def __init__(self, num_envs: int, settings: PlacementSettings) -> None:
        self.task = PlacementTask(settings, num_envs)
        self.num_envs = num_envs
        self.rules = EpisodeRules(
            self.task.kind, self.task.scale, float(settings.illegal_penalty), int(settings.max_illegal)
        )
        self.window = np.full(num_envs, -1, dtype=np.int64)
        self.begun = False
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._ahead = np.zeros((num_envs, AHEAD), dtype=np.int64)
        self._drawn = np.full(num_envs, AHEAD, dtype=np.int64)
        self._bind(_make_books(num_envs))

    def _bind(self, books: EpisodeBooks) -> None:
        self.books = books
        games, observer = self.task.games, self.task.observer
        self._kernel: tuple[Any, Any, Any, Any] = (
            games.kernel_params,
            games.kernel_state,
            observer.handle,
            make_handle("placement books", books),
        )
        self._rules: Any = make_handle("placement rules", self.rules, readonly=True)

    def reseed(self, i: int, seed: int) -> None:
        """Give an environment the generator of a single one with this seed, and begin its list anew."""
        self.rngs[i] = make_generator(seed)
        self._drawn[i] = AHEAD
        self.task.restart_list(i)

    def begin(self, which: I8, rows: ArrayLike | None = None) -> None:
        """Begin an episode in some environments.

        Args:
            which: Their numbers, (n,).
            rows: First row of each window, (n,); None = the next of each environment.
        """
        firsts = self._next_rows(which) if rows is None else self.task.games.check_rows(rows)
        begin_many(*self._kernel, which, firsts, firsts + self.task.lengths(firsts))
        self.window[which] = firsts
        self.begun = self.begun or len(which) > 0

    def _next_rows(self, which: I8) -> I8:
        if self.task.windows is not None:
            return self.task.next_of_list(which)
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
            How many requests were placed, how many actions were refused, and the environments whose episodes
            ended, as a view that the next step overwrites.

        Raises:
            ResetNeeded: Before any episode has begun.
            ConfigError: If these are not B whole numbers.
        """
        need_begun(self.begun)
        chosen = need_actions(actions, self.num_envs)
        n_placed, n_refused, n_ended = play_batch(*self._kernel, self._rules, chosen)
        return n_placed, n_refused, self.books.ended[:n_ended]

    def metrics(self, which: I8) -> dict[str, F8]:
        """``PlacementTask.metrics`` of some environments, (n,) each."""
        return self.task.metrics_of(which)

    def _changing(self) -> dict[str, NDArray[Any]]:
        """Every array that play changes, by name."""
        task = self.task
        found: dict[str, Any] = {"window": self.window, "ahead": self._ahead, "drawn": self._drawn}
        found |= {f"books.{name}": array for name, array in self.books._asdict().items()}
        found |= {f"games.{name}": array for name, array in task.games.state._asdict().items()}
        seen = task.observer.buffers._asdict().items()
        found |= {f"seen.{name}": array for name, array in seen if name not in CONSTANT_BUFFERS}
        return found | {"played": task._played}

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
        self.begun = bool((self.window >= 0).any())
        for rng, state in zip(self.rngs, json.loads(arrays["rngs"].tobytes()), strict=True):
            rng.bit_generator.state = state

    def __getstate__(self) -> dict[str, Any]:
        """Pickle arrays, never addresses."""
        saved = {name: value for name, value in self.__dict__.items() if name not in ("_kernel", "_rules")}
        return saved | {"books": tuple(self.books)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handles."""
        self.__dict__.update(saved)
        self._bind(EpisodeBooks(*saved["books"]))
