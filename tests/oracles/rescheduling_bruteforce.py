"""The best objective that a few moves can reach, by trying all of them."""

from __future__ import annotations

import itertools

import numpy as np

from virtgym.envs.rescheduling.games import ReschedulingGames


def brute_force(games: ReschedulingGames, depth: int) -> float:
    """The least objective of a game after at most ``depth`` moves."""
    best = float(games.state.objective[0])
    if depth == 0:
        return best
    for v, a in itertools.product(np.flatnonzero(games.state.movable[0]), range(games.params.n_nodes)):
        twin = games.fork()
        if twin.play(np.array([[v, a]])).n:
            best = min(best, brute_force(twin, depth - 1))
    return best
