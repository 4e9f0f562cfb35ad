"""Options of the placement game: more cores than there are, rejecting, a window of the queue."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oracles.plain_placement import PlainPlacement, PlainRequest
from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.placement.buffers import GLOBAL_COLUMNS, NODE_COLUMNS, REQUEST_COLUMNS, WINDOW_COLUMNS
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.placement.game import place_request
from virtgym.envs.placement.games import PlacementConfig, PlacementGames
from virtgym.envs.placement.queue import advance_window
from virtgym.envs.placement.rewards import ENTRIES
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.placement.state import FINISHED, PLACED, PLAYING, REJECTED, SKIPPED, first_fit_node
from virtgym.envs.vector import PlacementVectorEnv
from virtgym.policies.placement.rules import run_windows


class Stream(NamedTuple):
    """Requests of a test."""

    cores: NDArray[np.float64]
    memory_gib: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    lifetime_s: NDArray[np.float64]


def stream(*rows: tuple[float, ...]) -> Stream:
    """Rows of cores, GiB, arrival, lifetime."""
    return Stream(*np.array(rows, dtype=np.float64).T)


SIZES = st.tuples(
    st.sampled_from([1.0, 4.0, 7.5, 16.0, 32.0, 40.0]),
    st.sampled_from([0.0, 4.0, 10.0, 11.0, 64.0, 90.0]),
    st.sampled_from([0.0, 0.0, 5.0, 60.0]),
    st.sampled_from([0.0, 20.0, 90.0, 400.0]),
)

OPTIONS = st.fixed_dictionaries(
    {
        "cpu_overcommit": st.sampled_from([1.0, 1.5, 3.0]),
        "allow_reject": st.booleans(),
        "queue_window": st.integers(1, 5),
    }
)


@settings(max_examples=150)
@given(
    st.lists(SIZES, min_size=1, max_size=40),
    st.integers(1, 3),
    OPTIONS,
    st.sampled_from(["huawei_placement", "huawei_placement", "fading", "recovering"]),
    st.data(),
)
def test_the_kernels_agree_with_the_twin(
    rows: list[tuple[float, ...]], n_hosts: int, options: dict[str, Any], protocol: str, data: st.DataObject
) -> None:
    """Masks, clocks, waits and places, move by move, against an implementation that shares no code."""
    table = np.array(rows)
    requests = Stream(table[:, 0], table[:, 1], np.cumsum(table[:, 2]), table[:, 3])
    if protocol != "huawei_placement":
        options = options | {"queue_window": 1}
    games = PlacementGames(requests, PlacementConfig(protocol, n_hosts=n_hosts, **options))
    games.begin(0, 0, [len(rows)])
    twin = PlainPlacement(
        [PlainRequest(*row) for row in np.column_stack(requests).tolist()], protocol, n_hosts,
        overcommit=options["cpu_overcommit"], allow_reject=options["allow_reject"],
        window=options["queue_window"],
    )  # fmt: skip
    state, skips = games.state, 0
    while state.status[0] == PLAYING:
        assert not twin.over
        assert (state.cursor[0], state.clock[0]) == (twin.next, twin.clock)
        legal = np.flatnonzero(games.mask()).tolist()
        assert legal == twin.legal()
        assert legal
        illegal = set(range(-1, games.params.n_actions + 1)) - set(legal)
        assert all(games.step(a) > 0 for a in illegal)
        assert protocol != "huawei_placement" or legal[0] < 2 * n_hosts  # something fits, or none is asked
        action = int(data.draw(st.sampled_from(legal)))
        code = games.step(action)
        twin.act(action)
        skips = skips + 1 if code == SKIPPED else 0
        assert skips < options["queue_window"]
        assert state.wait[0] == pytest.approx(sum(twin.waits))
        assert (state.free_cores[0] >= 0).all()
    assert twin.over
    assert state.n_placed[0] == len(twin.hosts)
    assert state.n_placed[0] + state.n_rejected[0] == len(twin.waits)
    assert state.n_rejected[0] == 0 or options["allow_reject"]
    assert state.status[0] == FINISHED or protocol != "huawei_placement"
    if state.status[0] == FINISHED:
        assert len(twin.waits) == len(rows)
        assert state.accrued[0] == pytest.approx(state.wait[0])


def test_a_window_of_one_request_is_strict_fifo() -> None:
    """The general way of advancing, narrowed to one request, walks as the short one does."""
    rng = np.random.default_rng(4)
    n = 300
    requests = Stream(
        rng.choice([1.0, 8.0, 16.0, 32.0], n),
        rng.choice([1.0, 8.0, 16.0, 64.0], n),
        np.cumsum(rng.choice([0.0, 0.0, 10.0, 55.0], n)),
        rng.choice([0.0, 30.0, 300.0, 1000.0], n),
    )
    config = PlacementConfig(n_hosts=2)
    waits, _ = run_windows(requests, [0], "first_fit", config=config, lengths=[n])
    games = PlacementGames(requests, config)
    games.begin(0, 0, [n])
    state, p, s = games.state, games.kernel_params, games.kernel_state
    for row in range(n):
        state.window_rows[0, 0], state.window_size[0] = row, 1
        advance_window(p, s, 0)
        assert state.cursor[0] == row
        place_request(p, s, 0, first_fit_node(p, s, 0, row))
    assert state.wait[0] == waits[0] > 0


def test_a_queue_window_worked_by_hand() -> None:
    """B fits nowhere until A ends; behind it C and D fit at once, and D may go before C."""
    rows = [
        (40.0, 8.0, 0.0, 100.0),  # A: node 0
        (40.0, 80.0, 10.0, 50.0),  # B: double, 20 cores and 40 GiB on both nodes: from 100 on
        (30.0, 8.0, 20.0, 10.0),  # C
        (20.0, 8.0, 20.0, 10.0),  # D: not beside C
    ]
    games = PlacementGames(stream(*rows), PlacementConfig(n_hosts=1, queue_window=3))
    games.begin(0, 0, [4])
    state = games.state
    assert games.mask().tolist() == [True, True, False]  # B has not arrived: nothing to skip to
    assert games.step(2) > 0
    assert games.step(0) == PLACED
    assert (state.cursor[0], state.clock[0]) == (2, 20)
    assert games.mask().tolist() == [False, True, True]
    assert games.step(2) == SKIPPED
    assert (state.cursor[0], state.clock[0]) == (3, 20)
    assert games.mask().tolist() == [False, True, False]  # there is no way back
    assert games.step(1) == PLACED
    assert (state.cursor[0], state.clock[0]) == (2, 30)  # C, when D has gone; B still waits
    assert games.step(1) == PLACED
    assert (state.cursor[0], state.clock[0]) == (1, 100)
    assert games.step(0) == PLACED
    assert state.wait[0] == 10 + 90
    strict, _ = run_windows(stream(*rows), [0], "first_fit", config=PlacementConfig(n_hosts=1), lengths=[4])
    assert strict[0] == 90 + 130 + 130  # C beside nothing of B's: at 150, D behind it at 150 + 0


def test_rejecting_worked_by_hand() -> None:
    rows = [(40.0, 8.0, 0.0, 100.0), (40.0, 8.0, 10.0, 50.0), (40.0, 8.0, 20.0, 30.0), (8.0, 8.0, 20.0, 1.0)]
    config = {"n_hosts": 1, "allow_reject": True, "reject_penalty": 7.0}
    env = PlacementEnv(stream(*rows), config, windows=[0], reward="delay", wait_scale_s=10.0)
    env.reset()
    assert env.action_space.n == 3
    env.step(0)
    _, reward, *_ = env.step(1)
    assert reward == -(40 + 40) / 10  # both that come at 20 wait until 60
    _, reward, _, _, info = env.step(2)
    assert info.keys() - {"action_mask"} == {"rejected"}
    assert reward == -7.0  # the one behind it is placed at once
    _, reward, terminated, _, info = env.step(1)
    assert (reward, terminated) == (0, True)
    assert info["metrics"] == {
        "total_wait_s": 80, "mean_wait_s": 20, "n_placed": 3, "n_vm": 4, "n_rejected": 1,
    }  # fmt: skip


def test_survival_goes_on_where_rejecting_is_allowed() -> None:
    rows = [(40.0, 8.0, 10.0 * i, 25.0) for i in range(6)]
    env = PlacementEnv(stream(*rows), {"protocol": "fading", "n_hosts": 1, "allow_reject": True}, windows=[0])
    env.reset()
    rewards = [env.step(0)[1], env.step(1)[1]]
    for _ in range(4):
        assert env.action_masks().tolist() == [False, False, True]
        _, reward, terminated, truncated, info = env.step(2)
        rewards.append(reward)
    assert rewards == [1, 1, -1, -1, -1, -1]
    assert (terminated, truncated) == (False, True)
    assert info["metrics"]["n_rejected"] == 4
    games = PlacementGames(stream(*rows), PlacementConfig("fading", n_hosts=1, allow_reject=True))
    assert run_windows(games, [0], "first_fit")[1] == [2]  # a rule that finds no node rejects


def test_cores_may_be_promised_more_than_once() -> None:
    requests = stream(*[(40.0, 1.0, 0.0, 9.0)] * 6, (100.0, 20.0, 0.0, 9.0))
    with pytest.raises(TraceError, match="row 6: 100 cores"):
        PlacementGames(requests, PlacementConfig(n_hosts=1))
    games = PlacementGames(requests, PlacementConfig(n_hosts=1, cpu_overcommit=1.5))
    assert games.params.node_cores == 60
    double = PlacementGames(requests, PlacementConfig("fading", n_hosts=1, cpu_overcommit=2.0))
    assert run_windows(double, [0], "first_fit")[1] == [4]  # two a node, in place of one
    third = PlacementConfig(node_cores=10.0, cpu_overcommit=4 / 3)
    assert third.cores_to_give * 2**16 == int(10 * 4 / 3 * 2**16)


def test_defaults_change_nothing() -> None:
    rng = np.random.default_rng(0)
    n = 400
    requests = Stream(
        rng.choice([1.0, 8.0, 32.0], n), rng.choice([1.0, 8.0, 64.0], n),
        np.cumsum(rng.choice([0.0, 10.0, 55.0], n)), rng.choice([30.0, 300.0, 3000.0], n),
    )  # fmt: skip
    plain = PlacementGames(requests, PlacementConfig(n_hosts=2))
    wide = PlacementGames(requests, PlacementConfig(n_hosts=2, queue_window=9, cpu_overcommit=1.0))
    starts = np.arange(0, n, 20)
    np.testing.assert_array_equal(plain.window_lengths(starts), wide.window_lengths(starts))
    assert plain.params.n_actions == 4
    assert PlacementEnv().action_space.n == 10
    assert list(PlacementEnv().observation_space) == ["globals", "nodes", "request"]


KINDS: list[dict[str, Any]] = [
    {"config": {"n_hosts": 2, "queue_window": 4}, "reward": "delay"},
    {"config": {"n_hosts": 2, "queue_window": 3, "allow_reject": True, "cpu_overcommit": 1.25}},
    {"config": {"n_hosts": 1, "protocol": "recovering", "allow_reject": True, "max_requests": 40}},
]


@pytest.mark.parametrize("kwargs", KINDS)
def test_environments_and_batches_play_the_options(kwargs: dict[str, Any]) -> None:
    check_env(PlacementEnv(**kwargs), skip_render_check=True)
    n, rng = 4, np.random.default_rng(0)
    batch = PlacementVectorEnv(n, **kwargs)
    singles = SyncVectorEnv([lambda: PlacementEnv(**kwargs)] * n, autoreset_mode=AutoresetMode.NEXT_STEP)
    np.testing.assert_equal(batch.reset(seed=7), singles.reset(seed=7))
    told: set[str] = set()
    for _ in range(500):
        masks = batch.action_masks()
        np.testing.assert_array_equal(masks, singles.call("action_masks"))
        actions = (rng.random(masks.shape) * (masks | (rng.random(masks.shape) < 0.02))).argmax(1)
        ours, theirs = batch.step(actions), singles.step(actions)
        np.testing.assert_equal(ours, theirs)
        assert batch.observation_space.contains(ours[0])
        told |= set(ours[4])
    config = kwargs["config"]
    assert ("rejected" in told) == config.get("allow_reject", False)
    assert ("skipped" in told) == ("queue_window" in config)
    assert "metrics" in told


def test_rewards_sum_to_the_waiting() -> None:
    config = {"n_hosts": 2, "queue_window": 5, "extra_requests": 200}
    games = PlacementEnv(config=config).games
    starts = np.arange(0, 7000, 100)
    window = int(starts[np.argmax(run_windows(games, starts, "worst_fit")[0])])
    for reward in ("wait", "delay"):
        env = PlacementEnv(config=config, reward=reward, wait_scale_s=60.0)
        rng = np.random.default_rng(1)
        env.reset(seed=3, options={"window": window})
        total, over, info = 0.0, False, dict[str, Any]()
        while not over:
            _, pay, over, _, info = env.step(rng.choice(np.flatnonzero(env.action_masks())))
            total += pay
        assert info["metrics"]["total_wait_s"] > 0
        assert total == pytest.approx(-info["metrics"]["total_wait_s"] / 60)


def test_what_an_agent_sees_of_the_window() -> None:
    rows = [
        (40.0, 8.0, 0.0, 100.0),
        (40.0, 80.0, 10.0, 50.0),
        (30.0, 8.0, 20.0, 10.0),
        (20.0, 9.0, 20.0, 10.0),
    ]
    env = PlacementEnv(stream(*rows), {"n_hosts": 1, "queue_window": 3}, windows=[0])
    first, _ = env.reset()
    names = [column.name for column in WINDOW_COLUMNS]
    shown = first["window"].reshape(3, -1)
    assert shown[0].tolist() == pytest.approx([1, 8 / 90, 0, 0, 1, 1])
    assert not shown[1:].any()
    env.step(0)
    after, *_ = env.step(2)  # skips C
    shown = after["window"].reshape(3, -1)
    assert shown[:, names.index("pending")].tolist() == [0, 0, 1]
    assert shown[:, names.index("fits")].tolist() == [0, 0.5, 0.5]
    assert shown[:, names.index("double")].tolist() == [1, 0, 0]
    assert shown[:, names.index("waited")][1] == 0 < shown[:, names.index("waited")][0]
    queue = [column.name for column in GLOBAL_COLUMNS].index("queue")
    assert after["globals"][queue] == pytest.approx(np.log(4) / np.log(129))


def test_bad_options_are_refused() -> None:
    for bad in (
        {"cpu_overcommit": 0.5},
        {"cpu_overcommit": np.nan},
        {"queue_window": 0},
        {"reject_penalty": -1.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            PlacementConfig(**bad)
    with pytest.raises(ConfigError, match="queue_window=2: must be 1 with protocol=fading"):
        PlacementConfig("fading", queue_window=2)
    codes = {PLACED, REJECTED, SKIPPED}
    assert len(codes) == 3
    assert max(codes) == 0


def test_the_documentation_names_every_reward_and_setting(repo_dir: Path) -> None:
    text = (repo_dir / "docs" / "placement.md").read_text(encoding="utf-8")
    for entry in ENTRIES:
        assert f"| `{entry.name}` | {entry.doc} |" in text
    for field in fields(PlacementSettings):
        assert f"| `{field.name}` |" in text
    for column in (*NODE_COLUMNS, *REQUEST_COLUMNS, *GLOBAL_COLUMNS, *WINDOW_COLUMNS):
        assert f"`{column.name}`" in text
