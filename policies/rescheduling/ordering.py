"""From where VMs are to where they shall be: moves in an order in which each fits when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I4, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.rescheduling.game import move_vm, refusal
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.state import ReschedulingParams, ReschedulingState


@kernel
def _gain(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> Any:
    """What a legal move takes off the objective: it is made and taken back."""
    before, home, last, source = s.objective[b], s.vm_node[b, v], s.last_vm[b], s.last_from[b]
    move_vm(p, s, b, v, a)
    gain = before - s.objective[b]
    move_vm(p, s, b, v, home)
    s.move_ms[b] -= 2 * p.vm_ms[s.snapshot[b], v]
    s.moves[b] -= 2
    s.last_vm[b], s.last_from[b] = last, source
    return gain


@kernel
def _spare(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, target: I4) -> Any:
    """A place where a VM can wait, preferably one that no other wants; -1 = none."""
    found = -1
    for a in range(p.n_nodes):
        if refusal(p, s, b, v, a) == 0:
            found = a
            wanted = False
            for w in range(p.n_vms):
                wanted = wanted or (target[w] == a and s.vm_node[b, w] != a)
            if not wanted:
                return a
    return found


@kernel
def _order(p: ReschedulingParams, s: ReschedulingState, b: int, target: I4, moves: I8) -> Any:
    """Make moves towards the target until the limit; returns how many, and how many VMs did not get there."""
    waiting = np.empty(p.n_vms, np.int32)
    n_waiting, n = 0, 0
    for v in range(p.n_vms):
        if target[v] != s.vm_node[b, v]:
            waiting[n_waiting] = v
            n_waiting += 1
    spared = np.zeros(p.n_vms, np.bool_)
    while n_waiting > 0 and s.moves[b] < p.limit:
        best, most = -1, -np.inf
        for i in range(n_waiting):
            if refusal(p, s, b, waiting[i], target[waiting[i]]) == 0:
                gain = _gain(p, s, b, waiting[i], target[waiting[i]])
                if gain > most:
                    best, most = i, gain
        place = -1
        if best >= 0:
            place = target[waiting[best]]
        else:
            for i in range(n_waiting):  # a cycle: one of them waits elsewhere
                if not spared[waiting[i]]:
                    place = _spare(p, s, b, waiting[i], target)
                    if place >= 0:
                        best = i
                        spared[waiting[i]] = True
                        break
        if best < 0:
            break
        v = waiting[best]
        move_vm(p, s, b, v, place)
        moves[n, 0], moves[n, 1] = v, place
        n += 1
        if place == target[v]:
            n_waiting -= 1
            waiting[best] = waiting[n_waiting]
    return n, n_waiting


def order_moves(games: ReschedulingGames, target: I4) -> tuple[I8, int]:
    """Order moves towards where VMs shall be; of those that can be made next the one that gains most is made.

    Where none can, VMs stand in each other's way: one of them makes way to a place where it fits, which costs
    a move more. What comes after the best objective on the way is left out.

    Args:
        games: One game, a fork; it is played.
        target: Place of every VM, (V,).

    Returns:
        VM and place of each move, (n, 2), within the limit; and how many VMs could not get to their place.
    """
    start = games.fork()
    moves = np.zeros((games.limit, 2), np.int64)
    n, left = _order(games.kernel_params, games.kernel_state, 0, target.astype(np.int32), moves)
    played = start.play(moves[:n])
    reached = np.concatenate([[0.0], np.cumsum(played.gains)])
    best = int(np.argmax(np.round(reached, 12)))
    return moves[:best], int(left)
