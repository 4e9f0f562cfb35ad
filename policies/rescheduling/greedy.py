"""Filter and score: of all moves that are legal the one that takes most off the objective, over and over."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.game import move_vm, refusal
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.state import ReschedulingParams, ReschedulingState

from .base import Plan, ReschedulingPolicy
from .change import change_of
from .reassigning import Reassigning


@kernel
def best_move(p: ReschedulingParams, s: ReschedulingState, b: int, move: I8) -> Any:
    """Find the legal move that gains most, of equal ones the first; returns its gain, 0 = none."""
    most = 1e-12
    move[0] = -1
    for v in range(p.n_vms):
        if s.movable[b, v]:
            for a in range(p.n_nodes):
                if refusal(p, s, b, v, a) == 0:
                    gain = -change_of(p, s, b, v, a)
                    if gain > most:
                        most = gain
                        move[0], move[1] = v, a
    return most if move[0] >= 0 else 0.0


@kernel
def best_place(p: ReschedulingParams, s: ReschedulingState, b: int, v: int) -> Any:
    """Find the place where moving a VM gains most, of equal ones the first; -1 = it can go nowhere."""
    found, most = -1, -np.inf
    for a in range(p.n_nodes):
        if refusal(p, s, b, v, a) == 0:
            gain = -change_of(p, s, b, v, a)
            if gain > most:
                found, most = a, gain
    return found


@dataclass
class GreedyReschedulingPolicy(Reassigning, ReschedulingPolicy):
    """Move after move, the one that gains most; it stops when none gains.

    Attributes:
        iterations: Moves at most.
    """

    method: ClassVar[str] = "descent"

    iterations: int = 1_000_000

    def plan_moves(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Take the best move, over and over."""
        p, s = games.kernel_params, games.kernel_state
        moves = np.zeros((games.limit, 2), np.int64)
        begun, n = time.process_time(), 0
        most = min(self.iterations, games.limit - int(games.state.moves[0]))
        curve = [(0.0, float(games.state.objective[0]))]
        while n < most and time.perf_counter() < deadline:
            if best_move(p, s, 0, moves[n]) <= 0.0:
                break
            move_vm(p, s, 0, *moves[n].tolist())
            n += 1
            curve.append((time.process_time() - begun, float(games.state.objective[0])))
        return Plan(moves[:n], tuple(curve))
