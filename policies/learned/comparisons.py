"""Comparisons of actions: what each action of a state costs in the end, under one and the same future.

From a state of a game every distinct legal action is tried: the game is copied, the action carried out, and a
base policy plays on. All trials of a state meet the same requests and lifetimes (common random numbers), so
their differences are about the actions. The base policy is a rule, or a network for some decisions and a rule
after them. Rollout policy iteration (Bertsekas & Tsitsiklis 1996, section 6.1; Lagoudakis & Parr, ICML 2003)
trains a policy on such comparisons, makes it the base, and begins again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4, F8, I8
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.buffers import PlacementBuffers
from virtgym.envs.placement.game import begin_game, step_game
from virtgym.envs.placement.games import PlacementConfig
from virtgym.envs.placement.observations import PlacementObserver, observe_game
from virtgym.envs.placement.state import PLAYING, STUCK, PlacementParams, PlacementState

from ..placement.rules import choose_node, rule_number
from ..placement.search import copy_game
from .kernel_net import KernelNet, net_action, net_scores
from .safety import SafetyTable, safe_action

GAME, TRIAL = 0, 1
"""Places of the game that is played and of the copy in which an action is tried."""

NETWORK = -1
"""Who plays: the network; other numbers are rules."""

AFTER_NETWORK = rule_number("first_host_emptier_node")
RANDOM = rule_number("random")

STUCK_S = 1e9
"""Cost of a game in which a request waits for ever, s."""


class Comparisons(NamedTuple):
    """States with what their actions cost; S states."""

    flat: F4  # (S, columns) observation
    mask: NDArray[np.bool_]  # (S, 2N) actions that were tried
    cost: F8  # (S, 2N) what the whole game costs after it, s; 0 where the action was not tried
    level: F8  # (S,) what the game costs if the base policy plays it from its beginning, s


def allocate_comparisons(n: int, observer: PlacementObserver) -> Comparisons:
    """Room for n states of the games that an observer sees."""
    n_nodes = observer.games.params.n_nodes
    return Comparisons(
        flat=np.zeros((n, observer.buffers.flat.shape[1]), np.float32),
        mask=np.zeros((n, n_nodes), np.bool_),
        cost=np.zeros((n, n_nodes)),
        level=np.zeros(n),
    )


def check_comparable(config: PlacementConfig) -> None:
    """Refuse games whose actions are not compared here.

    Raises:
        ConfigError: If requests do not wait, or there are other actions than the nodes.
    """
    if config.protocol != "huawei_placement" or config.n_actions > 2 * config.n_hosts:
        raise ConfigError(
            "agent=rollout_iteration: compares waiting times of nodes: needs protocol=huawei_placement, "
            "allow_reject=false and queue_window=1; use agent=maskable_ppo for the others"
        )


@kernel
def play_on(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    net: KernelNet,
    b: int,
    horizon: int,
    player: int,
    keys: NDArray[np.uint64],
) -> Any:
    """Play a game to its end; returns what it costs, s.

    Args:
        o: Buffers.
        net: The network.
        b: The game.
        horizon: Decisions for which the network plays, if it is who plays.
        player: A rule, or ``NETWORK``, after whose decisions ``first_host_emptier_node`` plays.
        keys: State of the random rule's generator, (1,).
    """
    if player == NETWORK:
        for _ in range(horizon):
            if s.status[b] != PLAYING:
                break
            observe_game(p, s, o, b)
            step_game(p, s, b, net_action(net, o.flat[b], o.mask[b]))
        player = AFTER_NETWORK
    while s.status[b] == PLAYING:
        step_game(p, s, b, choose_node(p, s, b, player, keys, 0))
    return s.wait[b] + STUCK_S if s.status[b] == STUCK else s.wait[b]


@kernel
def play_windows(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    net: KernelNet,
    t: SafetyTable,
    firsts: I8,
    ends: I8,
    costs: F8,
) -> None:
    """Play windows by the network with a safety; ``costs`` receives what each costs, s, (W,).

    With a margin below 0 there is no safety.
    """
    for i in range(len(firsts)):
        begin_game(p, s, GAME, firsts[i], ends[i])
        while s.status[GAME] == PLAYING:
            observe_game(p, s, o, GAME)
            flat, mask = o.flat[GAME], o.mask[GAME]
            if t.margin[0] < 0.0:
                action = net_action(net, flat, mask)
            else:
                net_scores(net, flat)
                action = safe_action(p, s, GAME, t, net.out, mask)
            step_game(p, s, GAME, action)
        costs[i] = s.wait[GAME] + (STUCK_S if s.status[GAME] == STUCK else 0.0)


@kernel
def _twin(p: PlacementParams, s: PlacementState, mask: NDArray[np.bool_], a: int) -> Any:
    """A lower legal node where the pending request would come to the same thing, -1 = none."""
    row = s.cursor[GAME]
    if p.double[row]:
        return a - 1 if a & 1 else -1
    if s.n_vms[GAME, a] or s.n_vms[GAME, a ^ 1]:
        return -1
    for other in range(a):  # empty hosts are alike
        if mask[other] and s.n_vms[GAME, other] == 0 and s.n_vms[GAME, other ^ 1] == 0:
            return other
    return -1


@kernel
def _compare(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    net: KernelNet,
    horizon: int,
    player: int,
    keys: NDArray[np.uint64],
    c: Comparisons,
    k: int,
) -> Any:
    """Try every action of the game; whether it makes a difference."""
    c.flat[k] = o.flat[GAME]
    least, most = np.inf, -np.inf
    for a in range(p.n_nodes):
        c.mask[k, a] = o.mask[GAME, a]
        c.cost[k, a] = 0.0
        if not o.mask[GAME, a]:
            continue
        twin = _twin(p, s, o.mask[GAME], a)
        if twin >= 0:
            c.cost[k, a] = c.cost[k, twin]
            continue
        copy_game(s, GAME, s, TRIAL)
        step_game(p, s, TRIAL, a)
        c.cost[k, a] = play_on(p, s, o, net, TRIAL, horizon, player, keys)
        least, most = min(least, c.cost[k, a]), max(most, c.cost[k, a])
    return most > least


@kernel
def _choose(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    net: KernelNet,
    player: int,
    keys: NDArray[np.uint64],
) -> Any:
    """What the player does in the game, which is observed already."""
    if player == NETWORK:
        return net_action(net, o.flat[GAME], o.mask[GAME])
    return choose_node(p, s, GAME, player, keys, 0)


@kernel
def collect_comparisons(
    p: PlacementParams,
    s: PlacementState,
    o: PlacementBuffers,
    net: KernelNet,
    firsts: I8,
    ends: I8,
    draws: F8,
    players: I8,
    base: int,
    horizon: int,
    probability: float,
    noise: float,
    keys: NDArray[np.uint64],
    c: Comparisons,
) -> Any:
    """Play windows and compare the actions of some of their states.

    States with one legal action, or whose actions come to the same cost, are passed over.

    Args:
        p: Parameters of strict FIFO games.
        s: State of two games; both are used up.
        o: Buffers of two games.
        net: The network.
        firsts: First rows of windows, (W,).
        ends: Rows after their last, (W,).
        draws: Uniform random numbers, which the kernel takes in order and begins anew when they run out.
        players: Who plays each window, (W,): a rule, or ``NETWORK``.
        base: Who plays on from trials, likewise.
        horizon: As for ``play_on``.
        probability: Of a state being compared.
        noise: Probability of a random action in the game, so that states vary.
        keys: State of the random rule's generator, (1,).
        c: Where comparisons go; play stops when they are full.

    Returns:
        How many comparisons were written, and how many decisions were made in the games, trials left aside.
    """
    n, made = 0, 0
    for i in range(len(firsts)):
        begin_game(p, s, TRIAL, firsts[i], ends[i])
        level = play_on(p, s, o, net, TRIAL, horizon, base, keys)
        begin_game(p, s, GAME, firsts[i], ends[i])
        while s.status[GAME] == PLAYING:
            observe_game(p, s, o, GAME)
            action = _choose(p, s, o, net, players[i], keys)
            chosen = draws[2 * made % len(draws)] < probability and o.mask[GAME].sum() > 1
            if chosen and _compare(p, s, o, net, horizon, base, keys, c, n):
                c.level[n] = level
                n += 1
                if n == len(c.flat):
                    return n, made
            if draws[(2 * made + 1) % len(draws)] < noise:
                action = choose_node(p, s, GAME, RANDOM, keys, 0)
            made += 1
            step_game(p, s, GAME, action)
    return n, made
