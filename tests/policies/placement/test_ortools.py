"""The OR-Tools placement policy: its parts against slow and exact ones, what it may know, and the oracle."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import poisson

from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.state import PLAYING, STUCK, PlacementState
from virtgym.policies import make_policy
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.reserve import (
    count_slots,
    fill_values,
    learn_classes,
    make_reserve,
    reserve_node,
)
from virtgym.policies.placement.rules import run_windows
from virtgym.policies.placement.search import copy_game
from virtgym.policies.solvers.queue_packing import Instant, reserve_left, solve_queue


class Stream(NamedTuple):
    """Requests of a test."""

    cores: NDArray[np.float64]
    memory_gib: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    lifetime_s: NDArray[np.float64]


def random_stream(seed: int, n: int = 120) -> Stream:
    rng = np.random.default_rng(seed)
    return Stream(
        rng.choice([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], n),
        rng.choice([1.0, 2.0, 8.0, 10.0, 16.0, 32.0, 64.0], n),
        np.cumsum(rng.choice([0.0, 0.0, 10.0, 55.0], n)),
        rng.choice([0.0, 30.0, 100.0, 300.0, 1000.0], n),
    )


def play(policy: Any, games: PlacementGames, seed: int = 0) -> list[list[int]]:
    """Play all games to their end; the nodes chosen in each."""
    policy.reset(games, np.random.default_rng(seed))
    nodes: list[list[int]] = [[] for _ in range(games.n_games)]
    while (live := np.flatnonzero(games.state.status == PLAYING)).size:
        actions = policy.predict(None)[0]
        for b in live.tolist():
            nodes[b].append(int(actions[b]))
            assert games.mask(b)[actions[b]]
            games.step(int(actions[b]), b)
    return nodes


# -- the reserve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.07, 3.0, 40.0])
def test_values_are_expectations(rate: float) -> None:
    value = np.empty(90)
    fill_values(rate, value)
    k = np.arange(400)
    exact = [(np.minimum(k, n) * poisson.pmf(k, rate)).sum() for n in range(90)]
    np.testing.assert_allclose(value, exact, atol=1e-9)


def test_slots_are_those_of_placing_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = float(rng.choice([1.0, 2.5, 4.0])), float(rng.choice([0.0, 3.0, 16.0]))
        free = rng.uniform(0, 20, 2).round(1), rng.uniform(0, 60, 2).round(1)
        double = bool(rng.integers(2))
        room = [[free[0][a], free[1][a]] for a in (0, 1)]
        n = 0
        while True:
            fit = [room[a][0] >= size[0] and room[a][1] >= size[1] for a in (0, 1)]
            takes = [0, 1] if double and all(fit) else [] if double else [a for a in (0, 1) if fit[a]][:1]
            if not takes:
                break
            for a in takes:
                room[a] = [room[a][0] - size[0], room[a][1] - size[1]]
            n += 1
        assert count_slots(*size, double, free[0][0], free[0][1], free[1][0], free[1][1]) == n


def plain_reserve(games: PlacementGames, free: NDArray[np.float64], shares: dict[Any, float]) -> float:
    """The docstring of the module, with dicts; ``free`` is (2N, 2)."""
    total = 0.0
    for (cores, memory, double), share in shares.items():
        rooms = np.floor(np.minimum(free[:, 0] / cores, free[:, 1] / memory))
        n = np.minimum(rooms[::2], rooms[1::2]).sum() if double else rooms.sum()
        k = np.arange(200)
        total += float((np.minimum(k, n) * poisson.pmf(k, 20.0 * share)).sum())
    return total


def test_the_node_keeps_the_greatest_reserve() -> None:
    requests = random_stream(4, 300)
    games = PlacementGames(requests, PlacementConfig(n_hosts=2))
    p, s = games.params, games.state
    for history in (0, 40):
        _, table = make_reserve(p, 1, 20.0, history)
        games.begin(0, 60, [200])
        while s.status[0] == PLAYING:
            row = int(s.cursor[0])
            learn_classes(games.kernel_params, games.kernel_state, 0, table)
            legal = np.flatnonzero(games.mask())
            base = int(legal[-1])
            node = reserve_node(games.kernel_params, games.kernel_state, 0, table, 0, base)
            seen = list(zip(p.cores, p.memory, p.double))[60 - history : row + 1]
            shares = {size: seen.count(size) / len(seen) for size in set(seen)}
            if history == 0 and len(seen) > 32:
                games.step(node)
                continue  # values are worked out anew now and then only
            left = {}
            for a in legal.tolist():
                free = np.column_stack([s.free_cores[0], s.free_memory[0]])
                for where in (a, a ^ 1) if p.double[row] else (a,):
                    free[where] -= [p.cores[row], p.memory[row]]
                left[a] = plain_reserve(games, free, shares)
            assert left[node] >= max(left.values()) - (1e-6 if len(seen) <= 32 else 0.05)
            games.step(node)


# -- the queue -----------------------------------------------------------------------------------------------


def random_instant(seed: int) -> Instant:
    rng = np.random.default_rng(seed)
    size = np.array([[1.0, 2.0, 4.0, 8.0, 16.0], [2.0, 4.0, 8.0, 16.0, 32.0]])
    value = np.empty((5, 60))
    for k, rate in enumerate((12.0, 5.0, 2.0, 0.7, 0.2)):
        fill_values(rate, value[k])
    free = np.stack([rng.integers(0, 21, 4), rng.integers(0, 41, 4)]).astype(np.float64)
    queue = rng.integers(0, 4, 4)
    return Instant(free, size, np.array([0, 0, 0, 1, 1]) > 0, queue, value, np.zeros(0, dtype=np.int64))


def all_packings(instant: Instant) -> list[tuple[int, float, tuple[int, ...]]]:
    """Every way to place a prefix: how many, the reserve, the nodes."""
    found = []
    for n in range(1, len(instant.queue) + 1):
        for nodes in itertools.product(range(4), repeat=n):
            free = instant.free.copy()
            for k, a in zip(instant.queue.tolist(), nodes):
                for where in (a - a % 2, a - a % 2 + 1) if instant.double[k] else (a,):
                    free[:, where] -= instant.size[:, k]
            if (free >= 0).all():
                found.append((n, reserve_left(instant, np.array(nodes)), nodes))
    return found


def test_packings_of_the_queue_are_optimal() -> None:
    solved = longer = 0
    for seed in range(40):
        instant = random_instant(seed)
        packings = all_packings(instant)
        if not packings:
            continue
        worst = min(packings)
        found = solve_queue(instant._replace(hint=np.array(worst[2])), 5.0, 0)
        assert found is not None
        assert found.optimal
        n, reserve, _ = max(packings)
        assert len(found.nodes) == n
        assert reserve_left(instant, found.nodes) == pytest.approx(reserve, abs=2e-2)  # bands of slots
        assert (n, tuple(found.nodes.tolist())) in {(m, canonical(instant, x)) for m, _, x in packings}
        solved += 1
        longer += n > worst[0]
    assert solved > 20
    assert longer > 10


def canonical(instant: Instant, nodes: tuple[int, ...]) -> tuple[int, ...]:
    """A double VM by the even node of its host, equal VMs in order of their nodes."""
    even = [a - a % 2 if instant.double[k] else a for k, a in zip(instant.queue.tolist(), nodes)]
    for k in set(instant.queue.tolist()):
        where = [i for i, x in enumerate(instant.queue[: len(nodes)].tolist()) if x == k]
        for i, a in zip(where, sorted(even[i] for i in where)):
            even[i] = a
    return tuple(even)


# -- the policy ----------------------------------------------------------------------------------------------


def test_the_solver_is_asked_and_sometimes_knows_better() -> None:
    requests = random_stream(2, 200)
    games = PlacementGames(requests, PlacementConfig(n_hosts=3), n_games=2)
    games.begin([0, 1], [0, 40], [120, 90])
    policy: Any = make_policy("ortools_placement", min_loss=0.0, queue=8)
    nodes = play(policy, games)
    assert policy.n_solved > 20
    assert 0 < policy.n_improved < policy.n_solved
    waits = games.state.wait.copy()
    games.begin([0, 1], [0, 40], [120, 90])
    assert play(policy, games) == nodes  # the same again
    alone = PlacementGames(requests, PlacementConfig(n_hosts=3))
    alone.begin(0, [40], [90])
    assert play(policy, alone) == nodes[1:2]  # whatever is played beside it
    games.begin([0, 1], [0, 40], [120, 90])
    assert play(make_policy("ortools_placement", queue=1), games) != nodes
    assert (waits > 0).all()


def test_it_knows_no_lifetimes_and_no_future() -> None:
    requests = random_stream(6, 200)
    rng = np.random.default_rng(1)
    games = PlacementGames(requests, PlacementConfig(n_hosts=2))
    games.begin(0, [0], [200])
    nodes = play(make_policy("ortools_placement"), games)[0]
    # Another future from request 60 on: the same nodes until it arrives.
    cut = 60
    later = Stream(*(np.concatenate([column[:cut], column[cut:][::-1]]) for column in requests))
    later = later._replace(arrival_s=requests.arrival_s)
    other = PlacementGames(later, PlacementConfig(n_hosts=2))
    games.begin(0, [0], [200])
    n = 0
    while games.state.clock[0] < requests.arrival_s[cut]:
        games.step(nodes[n])
        n += 1
    assert n > 30
    other.begin(0, [0], [200])
    others = play(make_policy("ortools_placement"), other)[0]
    assert others[:n] == nodes[:n]
    assert others != nodes
    # Lifetimes that end after the last decision are as good as any.
    long = requests._replace(lifetime_s=np.full(200, 1e6), arrival_s=np.array([0.5 * i for i in range(200)]))
    longer = long._replace(lifetime_s=rng.uniform(1e5, 1e7, 200))
    chosen = []
    for stream in (long, longer):
        fading = PlacementGames(stream, PlacementConfig("recovering", n_hosts=3))
        fading.begin(0, [0], [200])
        chosen.append(play(make_policy("ortools_placement"), fading))
        assert fading.state.status[0] == STUCK
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    "config",
    [
        {"protocol": "fading"},
        {"protocol": "recovering", "allow_reject": True},
        {"queue_window": 3},
        {"allow_reject": True, "queue_window": 2, "cpu_overcommit": 1.5},
    ],
)
@pytest.mark.parametrize("oracle", [False, True])
def test_it_plays_every_protocol(config: dict[str, Any], oracle: bool) -> None:
    games = PlacementGames(random_stream(5, 150), PlacementConfig(n_hosts=2, **config), n_games=2)
    games.begin([0, 1], [0, 30], [120, 100])
    nodes = play(make_policy("ortools_placement", oracle=oracle), games)
    assert min(len(chosen) for chosen in nodes) > 10


def test_a_stream_of_many_sizes_is_rounded_to_few_classes() -> None:
    rng = np.random.default_rng(0)
    n = 250
    requests = Stream(
        rng.uniform(1, 40, n),
        rng.uniform(1, 90, n),
        np.array([5.0 * i for i in range(n)]),
        rng.uniform(1, 900, n),
    )
    games = PlacementGames(requests, PlacementConfig(n_hosts=3))
    table, _ = make_reserve(games.params, 1, 20.0, 0)
    assert len(table.cores) <= 256
    assert (table.cores[table.of_row] >= games.params.cores).all()
    assert (table.cores <= 40).all()
    games.begin(0, [0], [n])
    play(make_policy("ortools_placement"), games)
    assert games.state.wait[0] > 0


# -- the oracle ----------------------------------------------------------------------------------------------


def test_a_copy_is_the_same_in_every_field() -> None:
    games = PlacementGames(random_stream(3), PlacementConfig(n_hosts=2, queue_window=3), n_games=2)
    games.begin([0, 1], [0, 20], [90, 90])
    for _ in range(50):
        games.step(int(np.flatnonzero(games.mask(1))[0]), 1)
    values: dict[str, Any] = {k: np.full_like(v, 77) for k, v in games.state._asdict().items()}
    state = PlacementState(**values)
    handle: Any = make_handle("placement state", state)
    copy_game(games.kernel_state, 1, handle, 0)
    n = int(games.state.heap_size[1])
    assert n > 3
    for name in PlacementState._fields:
        mine, copied = getattr(games.state, name)[1], getattr(state, name)[0]
        if name.startswith("heap_") and name != "heap_size":
            mine, copied = mine[:n], copied[:n]
        np.testing.assert_array_equal(copied, mine, err_msg=name)


def test_hindsight_is_never_worse_than_a_rule_and_mostly_better() -> None:
    config = PlacementConfig(n_hosts=2, extra_requests=40)
    requests = random_stream(11, 600)
    starts = np.arange(0, 500, 50)
    games = PlacementGames(requests, config, n_games=len(starts))
    games.begin(np.arange(len(starts)), starts)
    play(make_policy("ortools_placement", oracle=True), games)
    rules = [
        run_windows(requests, starts, rule, config=config)[0]
        for rule in ("best_host_emptier_node", "first_host_emptier_node", "balance_fit")
    ]
    best = np.min(rules, axis=0)
    assert (games.state.wait <= best).all()
    assert (games.state.wait < best).mean() > 0.5


def test_hindsight_finds_a_known_optimum() -> None:
    """Long with long, short with short: then the large double VM waits 10 s, else 995 s or more."""
    rows = [
        (40.0, 8.0, 0.0, 1000.0),
        (40.0, 8.0, 1.0, 12.0),
        (40.0, 8.0, 2.0, 1000.0),
        (40.0, 8.0, 3.0, 12.0),
    ]
    rows += [(80.0, 80.0, 5.0, 10.0)]
    games = PlacementGames(Stream(*np.array(rows).T), PlacementConfig(n_hosts=2))
    optimum = min(
        total
        for nodes in itertools.product(range(4), repeat=5)
        if (total := follow(games, nodes)) is not None
    )
    assert optimum == 10.0
    games.begin(0, [0], [5])
    play(make_policy("ortools_placement", oracle=True), games)
    assert games.state.wait[0] == optimum


def follow(games: PlacementGames, nodes: tuple[int, ...]) -> float | None:
    """The waiting of a game along some nodes, None if one is not legal."""
    games.begin(0, [0], [len(nodes)])
    for node in nodes:
        if games.step(node) > 0:
            return None
    return float(games.state.wait[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "random"}, r"^policy.rule=random: allowed: first_fit"),
        ({"queue": 0}, r"^policy.queue=0: must be at least 1$"),
        ({"history": -1}, r"^policy.history=-1: must be at least 0$"),
        ({"horizon": 0.0}, r"^policy.horizon=0.0: must be above 0"),
        ({"time_limit": float("inf")}, r"^policy.time_limit=inf: must be a finite number"),
        ({"min_loss": -0.5}, r"^policy.min_loss=-0.5: must be at least 0$"),
        ({"oracel": True}, r"^policy.oracel: .*did you mean oracle"),
    ],
)
def test_what_is_wrong_is_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy("ortools_placement", **params)


def test_keys_differ() -> None:
    assert len(set(make_keys(100).tolist())) == 100
