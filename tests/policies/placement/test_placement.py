"""Placement rules as policies, and the rules that remember: plain-Python twins, a state worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.plain_placement import PlainPlacement, PlainRequest
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.state import PLAYING
from virtgym.envs.vector import PlacementVectorEnv
from virtgym.policies import make_policy
from virtgym.policies.placement.lifetimes import LIFETIME_RULES
from virtgym.policies.placement.packing import make_keys, make_memory
from virtgym.policies.placement.rules import PLACEMENT_RULES, choose_by_rule, rule_number, run_windows
from virtgym.policies.registry import POLICIES, TASKS, check_task, policy_names, policy_task


class Stream(NamedTuple):
    """Requests of a test."""

    cores: NDArray[np.float64]
    memory_gib: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    lifetime_s: NDArray[np.float64]


def random_stream(seed: int, n: int = 120) -> Stream:
    rng = np.random.default_rng(seed)
    return Stream(
        rng.choice([1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0], n),
        rng.choice([1.0, 2.0, 8.0, 10.0, 11.0, 16.0, 32.0, 64.0], n),
        np.cumsum(rng.choice([0.0, 0.0, 10.0, 55.0], n)),
        rng.choice([0.0, 30.0, 100.0, 300.0, 1000.0], n),
    )


def plain(requests: Stream) -> list[PlainRequest]:
    return [PlainRequest(*row) for row in np.column_stack(requests).tolist()]


def play_by_rule(games: PlacementGames, rule: str, n: int) -> list[int]:
    games.begin(0, 0, [n])
    memory, nodes = make_memory(make_keys(1), games.params.n_nodes), []
    while games.state.status[0] == PLAYING:
        nodes.append(choose_by_rule(games.kernel_params, games.kernel_state, 0, rule_number(rule), memory, 0))
        assert games.step(nodes[-1]) == 0
    return nodes


# -- twins of the rules that remember ------------------------------------------------------------------------


class Remembering:
    """What the docstring of ``placement_packing`` says, with lists."""

    def __init__(self) -> None:
        self.front: list[int] = []  # nodes, the one used last first
        self.asked = [0.0, 0.0]

    def weigh(self, game: PlainPlacement, vm: PlainRequest) -> None:
        (cores, memory) = next(iter(game.parts(vm, 0).values()))
        self.asked[0] += cores / game.cores
        self.asked[1] += memory / game.memory_gib

    def move_to_front(self, game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
        def place(node: int) -> int:
            ranks = [self.front.index(n) for n in game.parts(vm, node) if n in self.front]
            return min(ranks, default=len(game.free))

        best = min(nodes, key=lambda node: (place(node), node))
        used = list(game.parts(vm, best))
        self.front = used + [node for node in self.front if node not in used]
        return best

    def dot_product(self, game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
        capacity = (game.cores, game.memory_gib)

        def product(node: int) -> float:
            return sum(
                sum(
                    w * (d / c) * (f / c)
                    for w, d, f, c in zip(self.asked, size, game.free[n], capacity, strict=True)
                )
                for n, size in game.parts(vm, node).items()
            )

        return max(nodes, key=lambda node: (round(product(node), 12), -node))

    def norm_based(self, game: PlainPlacement, vm: PlainRequest, nodes: list[int]) -> int:
        capacity = (game.cores, game.memory_gib)

        def distance(node: int) -> float:
            return sum(
                sum(
                    w * ((f - d) / c) ** 2
                    for w, d, f, c in zip(self.asked, size, game.free[n], capacity, strict=True)
                )
                for n, size in game.parts(vm, node).items()
            )

        return min(nodes, key=lambda node: (round(distance(node), 12), node))


@pytest.mark.parametrize("rule", ["move_to_front", "dot_product", "norm_based"])
def test_rules_that_remember_agree_with_their_twins(rule: str) -> None:
    different = 0
    for seed in range(12):
        requests = random_stream(seed)
        n_hosts = 2 + seed % 2
        games = PlacementGames(requests, PlacementConfig(n_hosts=n_hosts))
        twin, game = Remembering(), PlainPlacement(plain(requests), n_hosts=n_hosts)
        choose: Callable[[PlainPlacement, PlainRequest, list[int]], int] = getattr(twin, rule)
        expected = []
        while not game.over:
            vm = game.requests[game.next]
            twin.weigh(game, vm)
            expected.append(choose(game, vm, game.feasible(vm)))
            game.place(expected[-1])
        assert play_by_rule(games, rule, len(requests.cores)) == expected
        assert play_by_rule(games, rule, len(requests.cores)) == expected  # a new window forgets the old one
        waits, _ = run_windows(games, [0], rule, lengths=[len(requests.cores)])
        assert waits[0] == sum(game.waits)
        different += expected != play_by_rule(games, "first_fit", len(requests.cores))
    assert different > 6


# Two hosts of 40 cores and 90 GiB a node, on which four VMs were put, in this order: 30 cores and 9 GiB on
# node 0, 2 and 2 on node 3, 4 and 9 on node 1, 20 and 9 on node 2. Free now: 10|81, 36|81 and 20|81, 38|88.
# The weights of cores and memory are 56/40 and 29/90, to which the pending one adds.
LOADED = [(30.0, 9.0, 0), (2.0, 2.0, 3), (4.0, 9.0, 1), (20.0, 9.0, 2)]
CASES = [
    # pending: cores, GiB    move_to_front   dot_product   norm_based
    (4.0, 4.0, 2, 3, 0),  # used last: 2. Freest: 3. Fullest: 0
    (22.0, 4.0, 1, 3, 1),  # fits on 1 and 3 only
    (8.0, 16.0, 2, 2, 0),  # double, used last: the second host, which is freer too (58 cores against 46)
    (24.0, 80.0, 2, 2, 2),  # double, 12 and 40 a node: the first host lacks cores
]


@pytest.mark.parametrize("case", CASES)
def test_a_state_worked_by_hand(case: tuple[float, float, int, int, int]) -> None:
    cores, memory, *expected = case
    rows = [(c, m, 0.0, 100.0) for c, m, _ in LOADED] + [(cores, memory, 0.0, 100.0)]
    games = PlacementGames(Stream(*np.array(rows).T), PlacementConfig(n_hosts=2))
    for rule, node in zip(("move_to_front", "dot_product", "norm_based"), expected, strict=True):
        memory_of = make_memory(make_keys(1), 4)
        games.begin(0, 0, [5])
        for k, (_, _, where) in enumerate(LOADED):
            choose_by_rule(games.kernel_params, games.kernel_state, 0, rule_number(rule), memory_of, 0)
            if rule == "move_to_front":  # what was used is what we used
                array = memory_of.arrays[3]
                array[0] = [0 if seen == k + 1 else seen for seen in array[0]]
                array[0, where] = k + 1
            games.step(where)
        chosen = choose_by_rule(games.kernel_params, games.kernel_state, 0, rule_number(rule), memory_of, 0)
        assert chosen == node, rule


# -- policies ------------------------------------------------------------------------------------------------

RULES = [name for name in PLACEMENT_RULES if name != "random"]


@pytest.mark.parametrize("name", RULES)
def test_a_policy_plays_many_games_as_run_windows_does(name: str) -> None:
    requests, config = random_stream(3, 400), PlacementConfig(n_hosts=2, extra_requests=30)
    starts = np.arange(0, 300, 37)
    envs = PlacementVectorEnv(len(starts), requests, config)
    observations, _ = envs.reset(seed=0, options={"window": starts})
    policy: Any = make_policy(name)
    assert policy.rule == name
    policy.reset(envs.games, np.random.default_rng(0))
    waits, over = np.zeros(len(starts)), np.zeros(len(starts), dtype=bool)
    while not over.all():
        actions, state = policy.predict(observations, None, None, True, envs.action_masks())
        assert actions.shape == (len(starts),)
        assert actions.dtype == np.int64
        assert state is None
        observations, _, terminated, _, infos = envs.step(actions)
        if terminated.any():
            new = terminated & ~over
            waits[new] = infos["metrics"]["total_wait_s"][new]
            over |= terminated
    np.testing.assert_array_equal(waits, run_windows(requests, starts, name, config=config)[0])


def test_a_single_environment_gets_a_number() -> None:
    env = PlacementEnv(random_stream(1), {"n_hosts": 2})
    observation, _ = env.reset(seed=0, options={"window": 0})
    for name in ("best_fit", "random"):
        policy: Any = make_policy(name)
        policy.reset(env.games, np.random.default_rng(0))
        for masks in (None, env.action_masks()):
            action, _ = policy.predict(observation, action_masks=masks)
            assert type(action) is int
            assert env.action_masks()[action]


def test_a_game_that_is_over_gets_zero_and_no_legal_node_a_rejection() -> None:
    rows = Stream(*np.array([(40.0, 8.0, 0.0, 100.0)] * 4).T)
    games = PlacementGames(rows, PlacementConfig("recovering", n_hosts=1, allow_reject=True), n_games=2)
    policy: Any = make_policy("worst_fit")
    policy.reset(games, np.random.default_rng(0))
    games.begin([0, 1], [0, 0], [4, 2])
    chosen = []
    while (games.state.status == PLAYING).any():
        actions = policy.predict(None)[0]
        chosen.append(actions.tolist())
        for b in np.flatnonzero(games.state.status == PLAYING).tolist():
            games.step(int(actions[b]), b)
    assert chosen == [[0, 0], [1, 1], [2, 0], [2, 0]]
    assert games.state.n_rejected.tolist() == [2, 0]


def test_random_draws_anew_per_game_and_seed() -> None:
    games = PlacementGames(random_stream(0), PlacementConfig(n_hosts=4), n_games=64)
    games.begin(np.arange(64), np.zeros(64, dtype=np.int64), np.full(64, 9))

    def draw(seed: int) -> list[int]:
        policy: Any = make_policy("random")
        policy.reset(games, np.random.default_rng(seed))
        return list(policy.predict(None)[0])

    assert set(draw(0)) == set(range(8))
    assert draw(0) == draw(0) != draw(1)


def test_who_plays_what() -> None:
    assert policy_task("thr-mu") == "cluster"
    assert policy_task(make_policy("norm_based")) == "placement"
    assert all("random" in policy_names(task) for task in ("cluster", "placement", "rescheduling"))
    assert policy_task(object()) == "cluster"
    others = {"ortools_placement", "demo_agent", *LIFETIME_RULES}
    assert set(policy_names("placement")) == {*PLACEMENT_RULES, *others}
    assert {name for task in TASKS for name in policy_names(task)} == set(POLICIES)
    assert "random" in policy_names("cluster")
    assert "first_fit" not in policy_names("cluster")
    with pytest.raises(
        ConfigError, match=r"^task=sleeping: .*allowed: cluster, placement, rescheduling, reassignment$"
    ):
        policy_names("sleeping")
    check_task("random", make_policy("random"), "placement", "huawei_placement")
    check_task("dvfs", make_policy("dvfs"), "cluster", "planetlab")
    with pytest.raises(ConfigError, match=r"^policy=dvfs: .*placement; allowed: random, first_fit, best_fit"):
        check_task("dvfs", make_policy("dvfs"), "placement", "huawei_placement")
    with pytest.raises(ConfigError, match=r"^policy=first_fit: .*cluster; allowed: static"):
        check_task("first_fit", make_policy("first_fit"), "cluster", "planetlab")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("first_fitt", {}, r"^policy=first_fitt: did you mean first_fit"),
        ("best_fit", {"rule": "bset_fit"}, r"^policy.rule=bset_fit: did you mean best_fit"),
        ("best_fit", {"seed": 1}, r"^policy.seed: best_fit has no such parameter; allowed: rule"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(name, **params)


def test_a_cluster_is_no_placement_game() -> None:
    policy: Any = make_policy("first_fit")
    with pytest.raises(ConfigError, match="plays placement games, not a Stream"):
        policy.reset(random_stream(0), np.random.default_rng(0))
