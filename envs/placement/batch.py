"""B placement environments in one kernel call per step: what Gymnasium's and SB3's batches have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..arrays import B1, F8, I8
from ..game_batch import GameBatch, close_step, make_books, note_refusal, open_books
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from .buffers import PlacementBuffers
from .env import PlacementTask
from .game import begin_game
from .observations import observe_game, play_one
from .rewards import forfeit
from .settings import PlacementSettings
from .state import FINISHED, HUAWEI, PLAYING, PlacementParams, PlacementState


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
        note_refusal(e, o, r, b)
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
    close_step(e, o, b)


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
        open_books(e, b)


class PlacementBatch(GameBatch):
    """B placement environments: games, generators, and the books of their episodes.

    Args:
        num_envs: B.
        settings: What is played.
    """

    task: PlacementTask
    books: EpisodeBooks

    def __init__(self, num_envs: int, settings: PlacementSettings) -> None:
        task = PlacementTask(settings, num_envs)
        self.rules = EpisodeRules(
            task.kind, task.scale, float(settings.illegal_penalty), int(settings.max_illegal)
        )
        super().__init__(task, num_envs, make_books(EpisodeBooks, num_envs))

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
        super().reseed(i, seed)
        self.task.restart_list(i)

    def _start(self, which: I8, rows: I8) -> None:
        firsts = self.task.games.check_rows(rows)
        begin_many(*self._kernel, which, firsts, firsts + self.task.lengths(firsts))

    def _next_rows(self, which: I8) -> I8:
        return super()._next_rows(which) if self.task.windows is None else self.task.next_of_list(which)

    def _step(self, actions: I8) -> tuple[int, int, int]:
        found: tuple[int, int, int] = play_batch(*self._kernel, self._rules, actions)
        return found

    def _changing(self) -> dict[str, NDArray[Any]]:
        return super()._changing() | {"played": self.task._played}
