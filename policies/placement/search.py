"""Search in placement games: copies to try things on, the queue packed at an instant, play with hindsight."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I8, U8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.game import advance_game, place_request
from virtgym.envs.placement.state import PLAYING, PlacementParams, PlacementState, fits

from .reserve import ReserveTable, learn_classes, reserve_node
from .rules import FIRST_HOST, choose_node

UNPLACED = 1e12
"""What a request that is never placed counts for, s: more than any wait."""

RESERVE = 100
"""Number of the rule that keeps the greatest reserve, beside those of ``PLACEMENT_RULES``."""


@kernel
def copy_game(s: PlacementState, b: int, t: PlacementState, c: int) -> None:
    """Make game ``c`` of a state the same as game ``b`` of another one on the same stream."""
    t.free_cores[c] = s.free_cores[b]
    t.free_memory[c] = s.free_memory[b]
    t.n_vms[c] = s.n_vms[b]
    t.start_sum[c] = s.start_sum[b]
    t.clock[c], t.status[c] = s.clock[b], s.status[b]
    t.wait[c], t.last_wait[c], t.accrued[c] = s.wait[b], s.last_wait[b], s.accrued[b]
    t.first[c], t.cursor[c], t.end[c] = s.first[b], s.cursor[b], s.end[b]
    t.queued[c], t.queue_arrival[c] = s.queued[b], s.queue_arrival[b]
    t.queue_cores[c], t.queue_memory[c] = s.queue_cores[b], s.queue_memory[b]
    t.n_placed[c], t.n_rejected[c] = s.n_placed[b], s.n_rejected[b]
    t.window_rows[c] = s.window_rows[b]
    t.window_size[c], t.window_next[c] = s.window_size[b], s.window_next[b]
    t.window_slot[c] = s.window_slot[b]
    t.heap_size[c] = s.heap_size[b]
    for i in range(s.heap_size[b]):
        t.heap_time[c, i] = s.heap_time[b, i]
        t.heap_item[c, i] = s.heap_item[b, i]


@kernel
def reserve_nodes(
    p: PlacementParams,
    s: PlacementState,
    table: ReserveTable,
    base: int,
    keys: U8,
    most: int,
    out: I8,
    queue: I8,
) -> None:
    """Let every game choose by reserve, and count its queue.

    Args:
        s: B games; they are read.
        table: Classes of B games; they learn.
        base: Number of the rule that decides between equals.
        keys: Its random generators, (B,).
        most: Count at most so many in the queue.
        out: The nodes, (B,): 0 where the game is over, the rejection where nothing fits.
        queue: Requests that have arrived, the pending one included, (B,); 0 where the game is over. With a
            queue window it is 1: there the order is the agent's to choose.
    """
    for b in range(len(out)):
        out[b] = queue[b] = 0
        if s.status[b] != PLAYING:
            continue
        learn_classes(p, s, b, table)
        a = reserve_node(p, s, b, table, b, choose_node(p, s, b, base, keys, b))
        out[b] = a if a >= 0 else p.reject_action
        queue[b] = 1
        while p.window == 1 and a >= 0 and queue[b] < most:
            row = s.cursor[b] + queue[b]
            if row >= s.end[b] or p.arrival[row] > s.clock[b]:
                break
            queue[b] += 1


@kernel
def pack_queue(
    p: PlacementParams,
    s: PlacementState,
    b: int,
    t: PlacementState,
    table: ReserveTable,
    base: int,
    keys: U8,
    n: int,
    nodes: I8,
) -> Any:
    """Place the first n of the queue one by one, each by reserve, with no time passing.

    Args:
        s: The games; they are read.
        b: Which game.
        t: A state of which game 0 is used up.
        table: Classes, already learnt.
        base: Number of the rule that decides between equals.
        keys: Its random generators.
        n: Requests of the queue, the pending one included.
        nodes: Their nodes are written here, (≥ n,).

    Returns:
        How many fit, before the first that does not.
    """
    copy_game(s, b, t, 0)
    for i in range(n):
        a = reserve_node(p, t, 0, table, b, choose_node(p, t, 0, base, keys, b))
        if a < 0:
            return i
        nodes[i] = a
        place_request(p, t, 0, a)
    return n


@kernel
def _score(s: PlacementState, b: int) -> Any:
    """What a game that is over has cost, s."""
    left = s.end[b] - s.first[b] - s.n_placed[b]
    return s.wait[b] + UNPLACED * left


@kernel
def _play_out(
    p: PlacementParams,
    t: PlacementState,
    b: int,
    table: ReserveTable,
    keys: U8,
    rule: int,
    plan: I8,
    path: I8,
    limit: float,
) -> Any:
    """Play game 0 of ``t`` to its end, by a rule or, with -1, along a plan; its cost, inf if over a limit."""
    while t.status[0] == PLAYING:
        i = t.n_placed[0] + t.n_rejected[0]
        row, a = t.cursor[0], plan[i]
        if rule == RESERVE:
            a = reserve_node(p, t, 0, table, b, choose_node(p, t, 0, FIRST_HOST, keys, b))
        elif rule >= 0 or a < 0 or not fits(p, t, 0, row, a):
            a = choose_node(p, t, 0, max(rule, 0), keys, b)
        path[i] = a
        place_request(p, t, 0, a)
        advance_game(p, t, 0)
        if t.wait[0] >= limit:
            return np.inf
    cost = _score(t, 0)
    return cost if cost < limit else np.inf


@kernel
def _is_twin(p: PlacementParams, s: PlacementState, b: int, row: int, a: int) -> Any:
    """Whether a lower node is as good as this one, whatever comes: the other node of an equal pair.

    Two hosts with equal room are not alike, since their VMs leave at different times; two empty ones are, and
    so are the two nodes of a host that is empty.
    """
    if p.double[row]:
        if a & 1:
            return True
    elif a & 1 and s.n_vms[b, a] == 0 and s.n_vms[b, a ^ 1] == 0:
        return True
    if s.n_vms[b, a] > 0 or s.n_vms[b, a ^ 1] > 0:
        return False
    lower_empty = 0
    for o in range(0, a - (a & 1), 2):
        lower_empty += s.n_vms[b, o] == 0 and s.n_vms[b, o + 1] == 0
    return lower_empty > 0


@kernel
def look_ahead(
    p: PlacementParams,
    s: PlacementState,
    b: int,
    t: PlacementState,
    table: ReserveTable,
    keys: U8,
    rules: I8,
    plan: I8,
    path: I8,
) -> Any:
    """Choose with hindsight: play every choice out with the true future, and keep the best game found.

    The rollout algorithm with a fortified incumbent (Bertsekas, Tsitsiklis & Wu, J. Heuristics 3, 1997): the
    plan is only replaced by a better one, so the game costs no more than the best rule's from its start.

    Args:
        s: The games; they are read.
        b: Which game.
        t: A state of which game 0 is used up.
        table: Classes of the game.
        keys: Random generators, for ``random`` among the rules.
        rules: Numbers of the rules that play out.
        plan: The best game so far by decision, (T,); -1 = unknown. It is written.
        path: Scratch, (T,).

    Returns:
        The node, -1 if there is none.
    """
    learn_classes(p, s, b, table)
    i, row = s.n_placed[b] + s.n_rejected[b], s.cursor[b]
    copy_game(s, b, t, 0)
    path[:i] = plan[:i]
    best = _play_out(p, t, b, table, keys, -1, plan, path, np.inf)
    plan[:] = path
    copy_game(s, b, t, 0)
    cost = _play_out(p, t, b, table, keys, RESERVE, plan, path, best)
    if cost < best:
        best = cost
        plan[:] = path
    for a in range(p.n_nodes):
        if not fits(p, s, b, row, a) or (a != plan[i] and _is_twin(p, s, b, row, a)):
            continue
        for rule in rules:
            if s.wait[b] >= best:
                return plan[i]
            path[i] = a
            copy_game(s, b, t, 0)
            place_request(p, t, 0, a)
            advance_game(p, t, 0)
            cost = _play_out(p, t, b, table, keys, rule, plan, path, best)
            if cost < best:
                best = cost
                plan[:] = path
    return plan[i]


@kernel
def look_ahead_all(
    p: PlacementParams,
    s: PlacementState,
    t: PlacementState,
    table: ReserveTable,
    keys: U8,
    rules: I8,
    plans: I8,
    path: I8,
    out: I8,
) -> None:
    """``look_ahead`` in each of B games with its own plan, (B, T), into ``out``, (B,).

    0 where a game is over, the rejection where nothing fits.
    """
    for b in range(len(out)):
        out[b] = 0
        if s.status[b] == PLAYING:
            if s.n_placed[b] + s.n_rejected[b] == 0:
                plans[b] = -1
            a = look_ahead(p, s, b, t, table, keys, rules, plans[b], path)
            out[b] = a if a >= 0 else p.reject_action
