"""The placement environment as Gymnasium and Stable-Baselines3 see it, its rewards and its observations."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import virtgym.envs
from virtgym.envs.errors import ConfigError
from virtgym.envs.placement.buffers import GLOBAL_COLUMNS, NODE_COLUMNS, REQUEST_COLUMNS
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.scenarios.placement import build_placement_scenario
from virtgym.envs.traces.formats.synthetic_requests import generate_requests
from virtgym.policies.placement.packing import make_keys
from virtgym.policies.placement.rules import choose_node, rule_number, run_windows

ID = "virtgym/Placement-v0"
KINDS: list[dict[str, Any]] = [
    {},
    {"config": {"protocol": "fading"}},
    {"config": {"protocol": "recovering", "n_hosts": 2}},
    {"reward": "delay", "windows": [5, 90]},
    {"config": {"n_hosts": 1, "queue_window": 3, "allow_reject": True, "cpu_overcommit": 1.5}},
    {"observation": "slots"},
    {"observation": "slots", "config": {"n_hosts": 2, "queue_window": 3, "allow_reject": True}},
]


def stream(rows: Any) -> Any:
    """Rows of cores, GiB, arrival, lifetime."""
    names = ("cores", "memory_gib", "arrival_s", "lifetime_s")
    return SimpleNamespace(**dict(zip(names, np.array(rows, dtype=float).T, strict=True)))


def by_rule(env: PlacementEnv, rule: str = "first_fit") -> int:
    games = env.games
    return int(
        choose_node(games.kernel_params, games.kernel_state, 0, rule_number(rule), make_keys(1), 0),
    )


def play(env: PlacementEnv, rule: str = "first_fit", **reset: Any) -> tuple[float, dict[str, Any]]:
    """Play an episode by a rule: the sum of rewards and the last info."""
    env.reset(**reset)
    total, over, info = 0.0, False, dict[str, Any]()
    while not over:
        _, reward, terminated, truncated, info = env.step(by_rule(env, rule))
        total += reward
        over = terminated or truncated
    return total, info


@pytest.mark.parametrize("kwargs", KINDS)
def test_gymnasium_checks_it_silently(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, **kwargs).unwrapped)
        check_env(gym.make(ID, render_mode="ansi", **kwargs).unwrapped, skip_render_check=False)


@pytest.mark.parametrize("kwargs", KINDS)
def test_stable_baselines_checks_it_silently(kwargs: dict[str, Any]) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(PlacementEnv(**kwargs))


def test_it_is_exported() -> None:
    assert virtgym.envs.PlacementEnv is PlacementEnv
    assert isinstance(gym.make(ID).unwrapped, PlacementEnv)


@pytest.mark.parametrize("kwargs", KINDS)
def test_masks_are_exact_and_observations_stay_in_their_space(kwargs: dict[str, Any]) -> None:
    env = PlacementEnv(max_illegal=10**6, **kwargs)
    rng = np.random.default_rng(0)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            mask = env.action_masks()
            assert mask.any()
            fits = observation["nodes"].reshape(2 * env.games.config.n_hosts, -1)[:, 2]
            np.testing.assert_array_equal(fits, mask[: len(fits)])
            action = int(rng.integers(len(mask)))
            observation, _, terminated, truncated, info = env.step(action)
            assert ("illegal_action" in info) != mask[action]
            assert env.observation_space.contains(observation)
            over = terminated or truncated
        assert not env.action_masks().any()
        assert info["illegal_actions"] > 0


def test_what_an_agent_sees_worked_by_hand() -> None:
    """One host; a single VM on node 1, then two arrive at once, and the first of them fits nowhere."""
    rows = np.array([(32, 9, 0, 100), (16, 180, 40, 50), (2, 4, 40, 50)], dtype=float)
    env = PlacementEnv(stream(rows), {"n_hosts": 1}, windows=[0], reward="delay", wait_scale_s=10.0)
    first, info = env.reset()
    assert info.pop("action_mask").tolist() == [1, 1]
    assert info == {"window": 0, "n_vm": 3}
    see = seen(first)
    assert see["nodes.free_cores"] == [1, 1]
    assert see["nodes.room_after"] == pytest.approx([0.2, 0.2])
    assert see["request.cores"] == pytest.approx([0.8])
    assert see["request.double"] == see["request.waited"] == see["globals.cores_used"] == [0]
    assert see["globals.queue"] == pytest.approx([np.log(2) / np.log(129)])
    second, reward, _, _, info = env.step(1)
    # The double VM (8 cores and 90 GiB on each node) must wait until 100, and the small one behind it.
    assert reward == pytest.approx(-2 * 60 / 10)
    assert info.pop("action_mask").tolist() == env.action_masks().tolist()
    assert info == {"wait_s": 0}
    see = seen(second)
    log = np.log1p(30 * 86_400)
    assert see["nodes.fits"] == [1, 1]
    assert see["request.memory"] == see["request.double"] == [1]
    assert see["request.waited"] == pytest.approx([np.log(61) / log])
    assert see["globals.queue"] == pytest.approx([np.log(3) / np.log(129)])
    assert see["globals.queue_cores"] == pytest.approx([18 / 80])
    assert see["globals.queue_memory"] == pytest.approx([184 / 180])
    assert see["globals.total_wait"] == pytest.approx([np.log(121) / log])
    assert see["globals.gap"] == pytest.approx([np.log(41) / log])
    third, reward, _, _, _ = env.step(0)
    assert reward == pytest.approx(-50 / 10)  # the small one, until the double one ends at 150
    assert seen(third)["nodes.free_memory"] == [1, 1]
    last, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated) == (0, True, False)
    assert info["metrics"] == {"total_wait_s": 170, "mean_wait_s": 170 / 3, "n_placed": 3, "n_vm": 3}
    assert seen(last)["request.cores"] == [0]
    assert seen(last)["globals.memory_used"] == pytest.approx([4 / 180])


def seen(observation: dict[str, Any]) -> dict[str, list[float]]:
    """Columns by name."""
    names = {"nodes": NODE_COLUMNS, "request": REQUEST_COLUMNS, "globals": GLOBAL_COLUMNS}
    return {
        f"{part}.{column.name}": observation[part].reshape(-1, len(columns))[:, i].tolist()
        for part, columns in names.items()
        for i, column in enumerate(columns)
    }


@pytest.mark.parametrize("rule", ["worst_fit", "first_host_emptier_node"])
def test_an_episode_is_the_window_that_rules_play(rule: str) -> None:
    requests = generate_requests(np.random.default_rng(1), 3000)
    starts = np.arange(0, 2000, 40)
    window = int(starts[np.argmax(run_windows(requests, starts, rule)[0])])  # the one with most to wait for
    waits, placed = run_windows(requests, [window], rule)
    assert waits[0] > 0
    for reward, expected in (
        ("wait", -waits[0] / 60),
        ("delay", -waits[0] / 60),
        ("placed", placed[0]),
        ("spane", None),
    ):
        env = PlacementEnv(requests, reward=reward, wait_scale_s=60.0)
        total, info = play(env, rule, options={"window": window})
        assert info["metrics"]["total_wait_s"] == waits[0]
        assert info["metrics"]["n_placed"] == info["metrics"]["n_vm"] == placed[0]
        assert info["window"] == window
        assert total == pytest.approx(expected) if expected is not None else total < 0


def test_survival_games_end_where_nothing_fits() -> None:
    env = PlacementEnv(config={"protocol": "fading", "n_hosts": 2})
    total, info = play(env, seed=1)
    assert total == info["metrics"]["n_placed"] < info["metrics"]["n_vm"]
    assert info["metrics"]["total_wait_s"] == 0
    short = PlacementEnv(config={"protocol": "recovering", "max_requests": 5})
    short.reset(seed=0)
    ends = [short.step(by_rule(short))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_windows_come_from_the_list_in_order_or_from_the_range_by_seed() -> None:
    env = PlacementEnv(windows=[7, 3])
    assert [env.reset()[1]["window"] for _ in range(3)] == [7, 3, 7]
    assert env.reset(seed=1)[1]["window"] == 7
    env = PlacementEnv(rows=(100, 140))
    drawn = [env.reset(seed=5)[1]["window"], *(env.reset()[1]["window"] for _ in range(30))]
    assert min(drawn) >= 100
    assert max(drawn) < 140
    assert len(set(drawn)) > 10
    again = [env.reset(seed=5)[1]["window"], *(env.reset()[1]["window"] for _ in range(30))]
    assert drawn == again
    assert env.reset(seed=6)[1]["window"] != drawn[0]


def forfeit_by_hand(requests: Any) -> float:
    """Every request as if it had waited until all had run one after the other from the last arrival on."""
    end = float(requests.arrival_s[-1]) + float(np.sum(requests.lifetime_s))
    return -float(np.log1p(end - requests.arrival_s).sum())


def test_illegal_actions_change_nothing_and_are_reported() -> None:
    requests = stream([(30, 8, 0, 9)] * 3)
    env = PlacementEnv(requests, {"n_hosts": 1}, illegal_penalty=2.5, max_illegal=3)
    env.reset(seed=0)
    observation, *_ = env.step(0)
    assert env.action_masks().tolist() == [False, True]
    before = pickle.dumps(env.games)
    for action, reason, cut in ((0, "does not fit", False), (9, "no such", False), (-1, "no such", True)):
        after, reward, terminated, truncated, info = env.step(np.int64(action))
        assert reason in info["illegal_action"]
        assert (terminated, truncated) == (False, cut)
        assert reward == -2.5 + cut * forfeit_by_hand(requests)
        np.testing.assert_equal(after, observation)
        assert pickle.dumps(env.games) == before
    assert info["illegal_actions"] == 3
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


@pytest.mark.parametrize("observation", ["basic", "slots"])
def test_a_copy_goes_on_as_the_original(observation: str) -> None:
    env = PlacementEnv(observation=observation)
    env.reset(seed=3)
    for _ in range(50):
        env.step(by_rule(env))
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(300):
        a, b = env.step(by_rule(env)), twin.step(by_rule(twin))
        np.testing.assert_equal(a, b)
        if a[2]:
            np.testing.assert_equal(env.reset(), twin.reset())


def test_observations_are_copies() -> None:
    env = PlacementEnv()
    observation, _ = env.reset(seed=0)
    before = observation["nodes"].copy()
    env.step(0)
    np.testing.assert_array_equal(observation["nodes"], before)


def test_the_stream_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("vmid,cpu,mem,at,lt\n0,4,16,0,194\n1,4,8,2,498\n", encoding="utf-8")
    env = PlacementEnv(path)
    assert env.reset()[1]["n_vm"] == 2
    assert env.games.params.double.tolist() == [True, False]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"config": {"n_host": 3}}, "placement.n_host: there is no such key, only protocol, n_hosts"),
        ({"reward": "gold"}, "placement.reward=gold"),
        ({"windows": []}, "at least one row"),
        ({"windows": [10**6]}, "whole row numbers"),
        ({"rows": (5, 5)}, "placement.rows"),
        ({"wait_scale_s": 0.0}, "wait_scale_s"),
        ({"max_illegal": 0}, "max_illegal"),
        ({"illegal_penalty": -1.0}, "illegal_penalty"),
        ({"observation": "all"}, "env.observation=all: must be one of basic, slots"),
        ({"scenario": "demo_placment"}, "demo_placement"),
        ({"scenario": "small"}, "kind cluster"),
        ({"scenario": "demo_placement", "config": {"n_hosts": 2}}, "placement.config: the scenario brings"),
    ],
)
def test_bad_settings_are_refused(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PlacementEnv(**kwargs)


def test_a_scenario_brings_requests_and_protocol() -> None:
    """By name, as for clusters, or built; windows are those for training unless others are named."""
    env: Any = gym.make(ID, scenario="demo_placement").unwrapped
    built = build_placement_scenario("demo_placement")
    np.testing.assert_array_equal(env.games.params.arrival, built.games(1).params.arrival)
    assert env.games.config == built.placement
    assert env.task.rows == built.train_rows
    changed = {"kind": "placement", "placement": {"protocol": "fading", "n_hosts": 2}}
    other: Any = gym.make(ID, scenario=changed, synthetic_seed=3).unwrapped
    assert other.games.config.protocol == "fading"
    batch = virtgym.envs.make_vec(ID, num_envs=2, scenario=built, windows=built.windows[:2])
    assert batch.reset()[1]["window"].tolist() == [built.windows[0]] * 2


def test_text_frames() -> None:
    env = PlacementEnv(render_mode="ansi", windows=[0])
    env.reset()
    env.step(3)
    lines = env.render().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("window 0, 1 placed")
    assert PlacementEnv().render() is None
