"""The placement game: the reference's integers, a plain-Python twin, cases worked by hand, and invariants."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oracles.plain_placement import (
    PLAIN_RULES,
    PlainPlacement,
    PlainRequest,
    plain_window_length,
    play_plain,
)
from oracles.plain_placement_fast import FastPlacement, play_first_fit, prepare_requests
from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.state import FINISHED, PLACEMENT_REASONS, PLAYING, STUCK, PlacementState
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.rules import PLACEMENT_RULES, choose_node, rule_number, run_windows

VALIDATION_FIRST_FIT_TRIMMED_S = 267_139.975


class Stream(NamedTuple):
    """Requests of a test."""

    cores: NDArray[np.float64]
    memory_gib: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    lifetime_s: NDArray[np.float64]


def stream(*rows: tuple[float, float, float, float]) -> Stream:
    """Rows of cores, GiB, arrival, lifetime."""
    return Stream(*np.array(rows, dtype=np.float64).T)


def random_stream(seed: int, n: int = 120) -> Stream:
    """A crowded cluster of two to three hosts: bursts, ties in time, every size from tiny to a whole node."""
    rng = np.random.default_rng(seed)
    return Stream(
        rng.choice([1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0], n),
        rng.choice([1.0, 2.0, 8.0, 10.0, 11.0, 16.0, 32.0, 64.0], n),
        np.cumsum(rng.choice([0.0, 0.0, 10.0, 55.0], n)),
        rng.choice([0.0, 30.0, 100.0, 300.0, 1000.0], n),
    )


def plain(requests: Stream) -> list[PlainRequest]:
    return [PlainRequest(*row) for row in np.column_stack(requests).tolist()]


def play(games: PlacementGames, rule: str, first: int = 0, n: int | None = None) -> list[int]:
    """Play one window through the step interface; the nodes chosen."""
    games.begin(0, first, None if n is None else [n])
    nodes, keys = [], make_keys(1)
    while games.state.status[0] == PLAYING:
        node = choose_node(games.kernel_params, games.kernel_state, 0, rule_number(rule), keys, 0)
        assert games.mask()[node]
        nodes.append(node)
        assert games.step(node) == 0
    return nodes


# -- the reference -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def huawei(traces_dir: Path) -> PlacementGames:
    path = traces_dir / "huawei-east-1" / "requests.csv"
    if not path.is_file():
        pytest.skip(f"no requests at {path}")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return PlacementGames(Stream(*np.ascontiguousarray(table[:, 1:5].T)))


@pytest.fixture(scope="module")
def reference(reference_dir: Path) -> list[dict[str, str]]:
    path = reference_dir / "placement_validation.csv"
    if not path.is_file():
        pytest.skip(f"no reference figures at {path}")
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("rule", PLACEMENT_RULES[:6])
def test_every_integer_of_the_reference(
    huawei: PlacementGames, reference: list[dict[str, str]], rule: str
) -> None:
    rows = [row for row in reference if row["policy"] == rule]
    assert len(rows) == 150
    waits, placed = run_windows(huawei, [int(row["window"]) for row in rows], rule)
    np.testing.assert_array_equal(placed, [int(row["n_vm"]) for row in rows])
    np.testing.assert_array_equal(waits, [int(row["total_wait_s"]) for row in rows])
    if rule == "first_fit":
        trimmed = np.sort(waits)[15:-15].mean()
        assert trimmed == pytest.approx(VALIDATION_FIRST_FIT_TRIMMED_S, abs=5e-4)


# -- the twin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["huawei_placement", "fading", "recovering"])
@pytest.mark.parametrize("rule", PLAIN_RULES)
def test_the_kernels_agree_with_the_twin(rule: str, protocol: str) -> None:
    waited = 0.0
    for seed in range(12):
        requests = random_stream(seed)
        games = PlacementGames(requests, PlacementConfig(protocol, n_hosts=2 + seed % 2))
        twin = play_plain(plain(requests), rule, protocol=protocol, n_hosts=2 + seed % 2)
        nodes = play(games, rule, n=len(requests.cores))
        hosts = [twin.hosts[i] for i in range(len(nodes))]
        assert nodes == hosts
        assert len(twin.hosts) == len(nodes)
        waits, placed = run_windows(games, [0], rule, lengths=[len(requests.cores)])
        assert waits[0] == games.state.wait[0] == sum(twin.waits)
        assert placed[0] == len(nodes)
        waited += waits[0]
    assert (waited > 0) == (protocol == "huawei_placement")


def test_the_twins_written_for_speed_play_the_same_game() -> None:
    waited = 0.0
    for seed in range(20):
        requests = plain(random_stream(seed))
        fast = prepare_requests(requests)
        total = play_first_fit(fast, n_hosts=2)
        stepped, over = FastPlacement(fast, n_hosts=2), False
        while not over:
            over = stepped.step(stepped.mask.index(True))
        assert total == stepped.waited == sum(play_plain(requests, "first_fit", n_hosts=2).waits)
        waited += total
    assert waited > 0


def test_window_lengths_agree_with_the_twin() -> None:
    requests = random_stream(5, 200)
    games = PlacementGames(requests, PlacementConfig(n_hosts=3, extra_requests=7))
    starts = np.arange(0, 200, 9)
    expected = [plain_window_length(plain(requests)[i:], 7, n_hosts=3) for i in starts]
    assert games.window_lengths(starts).tolist() == expected
    assert len(set(expected)) > 5


# -- worked by hand ------------------------------------------------------------------------------------------

# Two hosts of two nodes with 40 cores and 90 GiB. Three VMs are put on nodes by hand:
#   quiet host: 30 cores, 9 GiB on the left node, r = min(10/40, 81/90) = 0.25; right 1: R = 1.25, gap 0.75
#   busy host:  20 cores, 9 GiB on its left node, r = 0.5; 36 cores on the right, r = 0.1: R = 0.6, gap 0.4
SIZES_LOADED = [(30.0, 9.0), (20.0, 9.0), (36.0, 9.0)]
QUIET_FIRST, BUSY_FIRST = (0, 2, 3), (2, 0, 1)

# What comes next: 4 cores and 4 GiB, which fit everywhere; 16 and 4, which fit on the quiet host's right and
# the busy host's left node; two double VMs: 8 and 16 fit on both hosts, 12 and 20 on the quiet one only.
PENDING = [(4.0, 4.0), (16.0, 4.0), (8.0, 16.0), (12.0, 20.0)]

EXPECTED = [
    ("first_fit", (0, 1, 0, 0), (0, 0, 0, 2)),
    ("best_fit", (3, 2, 2, 0), (1, 0, 0, 2)),
    ("worst_fit", (1, 1, 0, 0), (3, 3, 2, 2)),
    ("balance_fit", (1, 1, 0, 0), (3, 3, 0, 2)),
    ("best_host_emptier_node", (2, 2, 2, 0), (0, 0, 0, 2)),
    ("first_host_emptier_node", (1, 1, 0, 0), (0, 0, 0, 2)),
]


@pytest.mark.parametrize(("rule", "quiet_first", "busy_first"), EXPECTED)
def test_rules_on_a_cluster_worked_by_hand(
    rule: str, quiet_first: tuple[int, ...], busy_first: tuple[int, ...]
) -> None:
    for where, expected in ((QUIET_FIRST, quiet_first), (BUSY_FIRST, busy_first)):
        for pending, node in zip(PENDING, expected, strict=True):
            requests = stream(*((c, m, 0.0, 100.0) for c, m in [*SIZES_LOADED, pending]))
            games = PlacementGames(requests, PlacementConfig(n_hosts=2))
            games.begin(0, 0, [4])
            for place in where:
                assert games.step(place) == 0
            got = choose_node(games.kernel_params, games.kernel_state, 0, rule_number(rule), make_keys(1), 0)
            assert got == node, (where, pending)


def test_time_worked_by_hand() -> None:
    """One host. A fills node 0, B node 1; C waits for B, and D behind C, though D would fit at once."""
    games = PlacementGames(
        stream(
            (40.0, 8.0, 0.0, 100.0),  # A: node 0 until 100
            (36.0, 8.0, 10.0, 50.0),  # B: node 1 until 60
            (8.0, 8.0, 20.0, 30.0),  # C: fits nowhere until 60: waits 40, ends at 90
            (2.0, 2.0, 25.0, 10.0),  # D: would fit at 25, but stands behind C: placed at 60, waits 35
            (2.0, 80.0, 61.0, 5.0),  # E: double, 1 + 40 on both nodes: node 0 is full until 100, waits 39
        ),
        PlacementConfig(n_hosts=1),
    )
    assert play(games, "first_fit", n=5) == [0, 1, 1, 1, 0]
    assert games.state.wait[0] == 40 + 35 + 39
    assert games.state.accrued[0] == games.state.wait[0]
    assert games.state.clock[0] == 100
    assert games.state.heap_size[0] == 1  # E alone: what ended by 100 has gone
    np.testing.assert_array_equal(games.state.free_memory[0], [50, 50])


def test_a_window_is_counted_before_time_passes() -> None:
    """The second VM would fit when it arrives, but not at the instant at which the first was placed."""
    requests = stream((40.0, 8.0, 0.0, 5.0), (40.0, 8.0, 0.0, 5.0), *[(40.0, 8.0, 10.0, 5.0)] * 9)
    assert PlacementGames(requests, PlacementConfig(n_hosts=1, extra_requests=3)).window_lengths(0) == [5]
    assert PlacementGames(requests, PlacementConfig(n_hosts=1)).window_lengths([0, 9]).tolist() == [11, 2]


def test_survival_games_worked_by_hand() -> None:
    requests = stream(*[(20.0, 8.0, 10.0 * i, 25.0) for i in range(9)])
    fading = PlacementGames(requests, PlacementConfig("fading", n_hosts=1))
    assert len(play(fading, "first_fit")) == 4
    assert fading.state.status[0] == STUCK
    recovering = PlacementGames(requests, PlacementConfig("recovering", n_hosts=1))
    assert len(play(recovering, "first_fit")) == 9
    assert recovering.state.status[0] == FINISHED
    assert PlacementGames(requests, PlacementConfig("fading", max_requests=3)).window_lengths(0) == [3]


def test_a_vm_that_never_leaves_can_block_for_ever() -> None:
    games = PlacementGames(stream(*[(40.0, 8.0, 0.0, np.inf)] * 3), PlacementConfig(n_hosts=1))
    assert play(games, "first_fit", n=3) == [0, 1]
    assert games.state.status[0] == STUCK
    assert np.isfinite(games.state.clock[0])


def test_a_refused_action_changes_nothing() -> None:
    games = PlacementGames(stream(*[(40.0, 8.0, 0.0, 9.0)] * 3), PlacementConfig(n_hosts=2))
    games.begin(0, 0, [3])
    games.step(1)
    before = pickle.dumps(games)
    for action in (-1, 4, 1):
        assert PLACEMENT_REASONS[games.step(action)]
        assert pickle.dumps(games) == before
    assert games.mask().tolist() == [True, False, True, True]


# -- invariants ----------------------------------------------------------------------------------------------

SIZES = st.tuples(
    st.sampled_from([1.0, 2.0, 5.0, 16.0, 40.0]),
    st.sampled_from([0.5, 4.0, 10.0, 10.5, 32.0, 90.0]),
    st.integers(0, 40).map(float),
    st.integers(0, 300).map(float),
)


@settings(max_examples=60)
@given(
    st.lists(SIZES, min_size=1, max_size=40),
    st.integers(1, 3),
    st.sampled_from(["huawei_placement", "fading", "recovering"]),
    st.data(),
)
def test_invariants(rows: list[tuple[float, ...]], n_hosts: int, protocol: str, data: st.DataObject) -> None:
    table = np.array(rows)
    requests = Stream(table[:, 0], table[:, 1], np.cumsum(table[:, 2]), table[:, 3])
    games = PlacementGames(requests, PlacementConfig(protocol, n_hosts=n_hosts))
    games.begin(0, 0, [len(rows)])
    state, nodes, starts = games.state, list[int](), list[float]()
    while state.status[0] == PLAYING:
        legal = np.flatnonzero(games.mask())
        assert state.cursor[0] == len(nodes)  # first in, first out
        nodes.append(int(data.draw(st.sampled_from(legal.tolist()))))
        starts.append(float(state.clock[0]))
        assert games.step(nodes[-1]) == 0
        check(requests, nodes, starts, games, protocol)
    assert (np.diff(starts) >= 0).all()
    assert state.wait[0] == pytest.approx(sum(starts) - requests.arrival_s[: len(starts)].sum())
    if protocol != "huawei_placement":
        assert state.wait[0] == 0
    assert state.status[0] == FINISHED or protocol != "huawei_placement"


def check(requests: Stream, nodes: list[int], starts: list[float], games: PlacementGames, kind: str) -> None:
    """Work out free room, counts and queue from the history alone."""
    state, config = games.state, games.config
    now, n = float(state.clock[0]), len(nodes)
    free = np.tile([config.node_cores, config.node_memory_gib], (2 * config.n_hosts, 1))
    count = np.zeros(2 * config.n_hosts, dtype=int)
    # An instant counts as over for those who end at it once time has gone on to a later request.
    for i, (node, start) in enumerate(zip(nodes, starts, strict=True)):
        assert start >= requests.arrival_s[i]
        end = start + requests.lifetime_s[i]
        still = kind == "fading" or any(
            (end, i) == (float(state.heap_time[0, k]), int(state.heap_item[0, k]) // len(free))
            for k in range(state.heap_size[0])
        )
        assert still or end <= now
        assert kind == "fading" or not still or end >= now or state.status[0] != PLAYING
        if still:
            double = requests.memory_gib[i] > config.double_above_gib
            share = np.array([requests.cores[i], requests.memory_gib[i]]) / (2 if double else 1)
            for where in (node, node ^ 1) if double else (node,):
                free[where] -= share
                count[where] += 1
    assert (free >= 0).all()
    np.testing.assert_array_equal(np.column_stack([state.free_cores[0], state.free_memory[0]]), free)
    np.testing.assert_array_equal(state.n_vms[0], count)
    waiting = requests.arrival_s[n:][requests.arrival_s[n:] <= now]
    assert state.queued[0] - state.cursor[0] == len(waiting)
    queue = float((now - waiting).sum())
    assert state.accrued[0] == pytest.approx(state.wait[0] + queue)


# -- batches, seeds, input -----------------------------------------------------------------------------------


def test_games_side_by_side_are_games_alone() -> None:
    requests = random_stream(3, 300)
    config = PlacementConfig(n_hosts=3)
    starts = [0, 50, 100, 150]
    many = PlacementGames(requests, config, n_games=4)
    many.begin(range(4), starts)
    number, keys = rule_number("best_fit"), make_keys(1)
    while (many.state.status == PLAYING).any():
        for b in np.flatnonzero(many.state.status == PLAYING):
            many.step(choose_node(many.kernel_params, many.kernel_state, int(b), number, keys, 0), int(b))
    waits, placed = run_windows(requests, starts, "best_fit", config=config)
    np.testing.assert_array_equal(many.state.wait, waits)
    np.testing.assert_array_equal(many.state.cursor - starts, placed)


def test_random_is_seeded_and_each_window_has_its_own_generator() -> None:
    games = PlacementGames(random_stream(1, 400), PlacementConfig(n_hosts=3))
    starts = [0, 100, 200]
    one, two = (run_windows(games, starts, "random", seed=7)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (run_windows(games, starts, "random", seed=8)[0] != one).any()
    np.testing.assert_array_equal(run_windows(games, starts[:1], "random", seed=7)[0], one[:1])


def test_random_is_uniform_over_what_fits() -> None:
    games = PlacementGames(stream(*[(40.0, 8.0, 0.0, 9.0)] * 2), PlacementConfig(n_hosts=2))
    games.begin(0, 0, [2])
    games.step(2)
    keys, random = make_keys(1, 3), rule_number("random")
    drawn = [choose_node(games.kernel_params, games.kernel_state, 0, random, keys, 0) for _ in range(3000)]
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == 0
    assert (abs(counts[[0, 1, 3]] - 1000) < 130).all()  # five standard deviations


def test_games_survive_pickling() -> None:
    games = PlacementGames(random_stream(0), PlacementConfig(n_hosts=2), n_games=2)
    games.begin([0, 1], [0, 9])
    games.step(0)
    copy = pickle.loads(pickle.dumps(games))
    for both in (games, copy):
        both.step(int(np.flatnonzero(both.mask())[-1]))
    for name, a, b in zip(PlacementState._fields, games.state, copy.state, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


GOOD = (1.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([GOOD, (np.nan, 1, 0, 1)], "row 1"),
        ([GOOD, (1, 1, 0, -1)], "row 1"),
        ([(1, 1, 5, 1), GOOD], "row 1"),
        ([GOOD, GOOD, (0, 1, 0, 1)], "row 2"),
        ([GOOD, (41, 1, 0, 1)], "row 1: 41 cores and 1 GiB fit on no empty host"),
        ([(80, 200, 0, 1)], "row 0: 80 cores and 200 GiB"),
    ],
)
def test_bad_requests_are_refused(rows: Any, text: str) -> None:
    with pytest.raises(TraceError, match=text):
        PlacementGames(stream(*rows))


def test_bad_settings_are_refused() -> None:
    for bad in ({"protocol": "tetris"}, {"n_hosts": 0}, {"node_cores": -1.0}, {"double_above_gib": np.nan}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            PlacementConfig(**bad)
    games = PlacementGames(stream(GOOD))
    for rows in ([1], [-1], [0.5], [[0]]):
        with pytest.raises(ConfigError, match="whole row numbers from 0 to 0"):
            run_windows(games, rows, "first_fit")
    with pytest.raises(ConfigError, match="allowed: first_fit"):
        run_windows(games, [0], "magic_fit")
    with pytest.raises(ConfigError, match="lengths"):
        run_windows(games, [0], "first_fit", lengths=[2])
    with pytest.raises(ConfigError, match="over"):
        games.step(0)
    with pytest.raises(ConfigError, match=r"game 1: no such game, must lie in 0\.\.0"):
        games.begin(1, 0)


def test_the_twin_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="node 0"):
        PlainPlacement([PlainRequest(41.0, 1.0, 0.0, 1.0)]).place(0)
