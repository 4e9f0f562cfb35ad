"""Rules of the placement game, as kernels; ``run_windows`` plays many windows in one call.

With the room of a node r = min(free cores / cores, free memory / memory) and of a host R = r₀ + r₁:

- ``first_fit``: the lowest feasible node.
- ``best_fit``: the feasible node with the least r, for a double VM the host with the least R; ties go to the
  lowest number. ``worst_fit``: the greatest.
- ``balance_fit``: among hosts with a feasible node the one with the greatest abs(r₀ - r₁), there the node
  with more room, or the other if that is infeasible; a double VM by first fit.
- ``best_host_emptier_node``: the least (R, -r, number); a double VM by best fit.
- ``first_host_emptier_node``: the lowest feasible host, there the feasible node with more room.
- ``random``: uniform over the feasible nodes.
- ``move_to_front``, ``dot_product``, ``norm_based``: see ``placement_packing``.

Rooms are quotients in double precision, and R and r₀ - r₁ are rounded as such: where two hosts would tie
exactly, the last bit decides. That is part of the protocol: the published figures come out to the second only
this way. The first four rules are baselines of SPANE (INFOCOM 2025, arXiv 2504.14946).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virtgym.envs.arrays import I8, U8
from virtgym.envs.checks import one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.splitmix import draw
from virtgym.envs.placement.game import advance_game, begin_game, place_request
from virtgym.envs.placement.games import PlacementConfig, PlacementGames, RequestArrays
from virtgym.envs.placement.state import PLAYING, PlacementParams, PlacementState, first_fit_node, fits

from .packing import (
    RuleMemory,
    dot_product_node,
    make_keys,
    make_memory,
    move_to_front_node,
    norm_based_node,
    recall,
    remember_node,
)

PLACEMENT_RULES: tuple[str, ...] = (
    "first_fit",
    "best_fit",
    "worst_fit",
    "balance_fit",
    "best_host_emptier_node",
    "first_host_emptier_node",
    "random",
    "move_to_front",
    "dot_product",
    "norm_based",
)
"""Names of the rules; a kernel knows a rule by its place here."""

FIRST_FIT, BEST_FIT, WORST_FIT, BALANCE_FIT, BEST_HOST, FIRST_HOST, RANDOM = range(7)
MOVE_TO_FRONT, DOT_PRODUCT, NORM_BASED = range(7, 10)


@kernel
def _room(p: PlacementParams, s: PlacementState, b: int, a: int) -> Any:
    """r of a node."""
    return min(s.free_cores[b, a] / p.node_cores, s.free_memory[b, a] / p.node_memory)


@kernel
def _extreme_fit(p: PlacementParams, s: PlacementState, b: int, row: int, sign: float) -> Any:
    """The least room with ``sign`` = 1, the greatest with -1."""
    best, least = -1, np.inf
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            room = _room(p, s, b, a)
            if p.double[row]:
                room += _room(p, s, b, a ^ 1)
            if sign * room < least:
                best, least = a, sign * room
    return best


@kernel
def _emptier(p: PlacementParams, s: PlacementState, b: int, row: int, host: int) -> Any:
    """The feasible node of a host with more room, -1 = none."""
    left, right = 2 * host, 2 * host + 1
    if not fits(p, s, b, row, left):
        return right if fits(p, s, b, row, right) else -1
    if _room(p, s, b, right) > _room(p, s, b, left) and fits(p, s, b, row, right):
        return right
    return left


@kernel
def _balance_fit(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    best, most = -1, -1.0
    for host in range(p.n_nodes // 2):
        gap = abs(_room(p, s, b, 2 * host) - _room(p, s, b, 2 * host + 1))
        if gap > most:
            a = _emptier(p, s, b, row, host)
            if a >= 0:
                best, most = a, gap
    return best


@kernel
def _best_host_emptier_node(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    best, least, most = -1, np.inf, -np.inf
    for host in range(p.n_nodes // 2):
        total = _room(p, s, b, 2 * host) + _room(p, s, b, 2 * host + 1)
        if total <= least:
            a = _emptier(p, s, b, row, host)
            if a >= 0 and (total < least or _room(p, s, b, a) > most):
                best, least, most = a, total, _room(p, s, b, a)
    return best


@kernel
def _first_host_emptier_node(p: PlacementParams, s: PlacementState, b: int, row: int) -> Any:
    for host in range(p.n_nodes // 2):
        a = _emptier(p, s, b, row, host)
        if a >= 0:
            return a
    return -1


@kernel
def _random_node(p: PlacementParams, s: PlacementState, b: int, row: int, keys: U8, k: int) -> Any:
    n = 0
    for a in range(p.n_nodes):
        n += fits(p, s, b, row, a)
    if n == 0:
        return -1
    left = np.int64(draw(keys, k) % np.uint64(n))
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            if left == 0:
                return a
            left -= 1
    return -1


@kernel
def choose_node(p: PlacementParams, s: PlacementState, b: int, rule: int, keys: U8, k: int) -> Any:
    """What a rule that looks at nothing but the state does with the pending request of a game.

    Args:
        s: State; it is read.
        b: The game.
        rule: Place of the rule in ``PLACEMENT_RULES``, up to ``random``.
        keys: State of the random generators, (n,).
        k: Which of them ``random`` uses.

    Returns:
        The node, -1 if there is none.
    """
    row = s.cursor[b]
    if rule == RANDOM:
        return _random_node(p, s, b, row, keys, k)
    if rule == BEST_FIT or (rule == BEST_HOST and p.double[row]):
        return _extreme_fit(p, s, b, row, 1.0)
    if rule == WORST_FIT:
        return _extreme_fit(p, s, b, row, -1.0)
    if rule == FIRST_FIT or p.double[row]:
        return first_fit_node(p, s, b, row)
    if rule == BALANCE_FIT:
        return _balance_fit(p, s, b, row)
    if rule == BEST_HOST:
        return _best_host_emptier_node(p, s, b, row)
    return _first_host_emptier_node(p, s, b, row)


@kernel
def choose_by_rule(
    p: PlacementParams, s: PlacementState, b: int, rule: int, memory: RuleMemory, k: int
) -> Any:
    """What a rule does with the pending request of a game, and note it.

    Args:
        s: State; it is read.
        b: The game.
        rule: Place of the rule in ``PLACEMENT_RULES``.
        memory: What rules remember (``make_memory``).
        k: The game's row in it.

    Returns:
        The node, -1 if there is none.
    """
    if rule <= RANDOM:
        return choose_node(p, s, b, rule, memory.keys, k)
    recall(p, s, b, memory, k)
    if rule == DOT_PRODUCT:
        return dot_product_node(p, s, b, memory, k)
    if rule == NORM_BASED:
        return norm_based_node(p, s, b, memory, k)
    a = move_to_front_node(p, s, b, memory, k)
    if a >= 0:
        remember_node(p, s, b, memory, k, a)
    return a


@kernel
def choose_nodes(p: PlacementParams, s: PlacementState, rule: int, memory: RuleMemory, out: I8) -> None:
    """What a rule does in each of B games, into ``out``, (B,).

    0 where the game is over; where the pending request fits nowhere (it may be rejected then), the rejection.
    """
    for b in range(len(out)):
        out[b] = 0
        if s.status[b] == PLAYING:
            a = choose_by_rule(p, s, b, rule, memory, b)
            out[b] = a if a >= 0 else p.reject_action


@kernel
def _play_windows(
    p: PlacementParams,
    s: PlacementState,
    rule: int,
    firsts: I8,
    lengths: I8,
    memory: RuleMemory,
    waits: NDArray[np.float64],
    placed: I8,
) -> None:
    """Play windows one after the other in game 0."""
    for i in range(len(firsts)):
        begin_game(p, s, 0, firsts[i], firsts[i] + lengths[i])
        while s.status[0] == PLAYING:
            place_request(p, s, 0, choose_by_rule(p, s, 0, rule, memory, i))
            advance_game(p, s, 0)
        waits[i] = s.wait[0]
        placed[i] = s.n_placed[0]


def rule_number(rule: str) -> int:
    """The place of a rule in ``PLACEMENT_RULES``.

    Raises:
        ConfigError: If there is no such rule.
    """
    return PLACEMENT_RULES.index(one_of("placement rule", rule, PLACEMENT_RULES))


def run_windows(
    trace: RequestArrays | PlacementGames,
    starts: ArrayLike,
    rule: str,
    *,
    config: PlacementConfig | None = None,
    lengths: ArrayLike | None = None,
    seed: int | np.random.SeedSequence = 0,
) -> tuple[NDArray[np.float64], I8]:
    """Play windows of a stream by a rule, all in one kernel call.

    Args:
        trace: The stream, or games made of it (which are left alone, but need not be built anew).
        starts: Row of each window's first request, (n,).
        rule: One of ``PLACEMENT_RULES``.
        config: Cluster and protocol, if ``trace`` is a stream.
        lengths: Requests of each window, (n,), if they are known; None = by the protocol.
        seed: Seed of ``random``; each window has a generator of its own.

    Returns:
        Sum of the waits of each window, s, (n,), and requests placed, (n,).

    Raises:
        ConfigError: If there is no such rule, or a window begins outside the stream.
    """
    number = rule_number(rule)
    games = trace if isinstance(trace, PlacementGames) else PlacementGames(trace, config)
    rows = games.check_rows(starts)
    n_vm = games.window_lengths(rows) if lengths is None else np.asarray(lengths, dtype=np.int64)
    if n_vm.shape != rows.shape or (n_vm < 1).any() or (rows + n_vm > games.params.n_requests).any():
        raise ConfigError("placement.lengths: one per window, at least 1, within the stream")
    waits, placed = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
    memory = make_memory(make_keys(len(rows), seed), games.params.n_nodes)
    _play_windows(games.kernel_params, games.spare, number, rows, n_vm, memory, waits, placed)
    return waits, placed
