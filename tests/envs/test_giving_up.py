"""Giving up never pays: an episode that is cut off, or stuck, earns no more than any that is played."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.rewards import TERMS
from virtgym.envs.placement.env import PlacementEnv
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.vector import PlacementVectorEnv

REWARDS = ("spane", "wait", "delay", "placed")
PROTOCOLS: dict[str, dict[str, Any]] = {
    "queue": {"n_hosts": 2, "extra_requests": 6},
    "window": {"n_hosts": 2, "extra_requests": 6, "queue_window": 4},
    "reject": {"n_hosts": 1, "extra_requests": 4, "allow_reject": True, "reject_penalty": 7.0},
    "fading": {"protocol": "fading", "n_hosts": 1},
    "recovering": {"protocol": "recovering", "n_hosts": 1, "max_requests": 30, "allow_reject": True},
}


def stream(*columns: Any) -> Any:
    """Requests: cores, GiB, arrivals, lifetimes."""
    names = ("cores", "memory_gib", "arrival_s", "lifetime_s")
    return SimpleNamespace(**{name: np.asarray(column) for name, column in zip(names, columns)})


def draw(rng: np.random.Generator, forever: float = 0.0, n: int = 60) -> Any:
    """A short, crowded stream; some VMs may never end."""
    lifetime = rng.exponential(500.0, n)
    lifetime[rng.random(n) < forever] = np.inf
    return stream(
        rng.choice([4.0, 10.0, 30.0, 40.0], n), rng.choice([4.0, 8.0, 40.0, 120.0], n),
        np.cumsum(rng.exponential(20.0, n)), lifetime,
    )  # fmt: skip


def play(env: PlacementEnv, choose: Any) -> tuple[float, dict[str, Any], int]:
    env.reset(seed=0)
    info: dict[str, Any] = {}
    total, over, steps = 0.0, False, 0
    while not over:
        _, reward, terminated, truncated, info = env.step(choose(env, steps))
        total, over, steps = total + reward, terminated or truncated, steps + 1
    return total, info, steps


def legal(rng: np.random.Generator) -> Any:
    return lambda env, k: int(rng.choice(np.flatnonzero(env.action_masks())))


def late(env: PlacementEnv, k: int) -> int:
    """The last legal action: rejects and skips whenever it may."""
    return int(np.flatnonzero(env.action_masks())[-1])


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_who_gives_up_earns_no_more_than_who_plays(name: str, reward: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        forever = 0.3 if seed % 3 == 2 and name != "reject" else 0.0
        env = PlacementEnv(
            draw(rng, forever), PROTOCOLS[name], reward=reward, windows=[0], max_illegal=3, wait_scale_s=50.0
        )
        ended = [play(env, choose)[:2] for choose in (late, *[legal(rng)] * 4)]
        played = [total for total, info in ended if not np.isnan(info["metrics"]["total_wait_s"])]
        if not played:
            continue  # every one of them was stuck
        for after in (0, 1, 5, 11):
            begin = legal(np.random.default_rng(after))
            given_up = lambda env, k: begin(env, k) if k < after else -1  # noqa: B023, E731
            total, info, steps = play(env, given_up)
            if steps < after + 3:
                continue  # it was over before
            assert total <= min(played) + 1e-9 * abs(min(played))
            told = info["metrics"]
            assert all(np.isnan(value) for key, value in told.items() if key != "n_vm")


def test_what_is_forfeited_worked_by_hand() -> None:
    """Two requests at 0 s and 10 s, that run 100 s and 30 s: the worst end is 10 + 130 = 140 s."""
    requests = stream([4.0] * 2, [4.0] * 2, [0.0, 10.0], [100.0, 30.0])
    by_hand = {
        "spane": -np.log1p(140.0) - np.log1p(130.0),
        "wait": -270.0 / 10.0,
        "delay": -270.0 / 10.0,
        "placed": -2.0,
    }
    for reward, expected in by_hand.items():
        env = PlacementEnv(requests, {"n_hosts": 1}, reward=reward, wait_scale_s=10.0, max_illegal=1)
        assert play(env, lambda env, k: -1)[0] == pytest.approx(expected, rel=1e-12)


def test_getting_stuck_is_giving_up() -> None:
    """A VM that never ends fills the host: the rest of the queue can never be placed."""
    requests = stream([40.0] * 3, [8.0] * 3, [0.0] * 3, [np.inf, np.inf, 5.0])
    env = PlacementEnv(requests, {"n_hosts": 1}, windows=[0], reward="wait", wait_scale_s=1.0)
    total, info, _ = play(env, late)
    assert total == -15.0  # three requests, 5 s each
    assert np.isnan(info["metrics"]["total_wait_s"])


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("reward", REWARDS)
def test_a_batch_forfeits_as_a_single_environment(name: str, reward: str) -> None:
    requests = draw(np.random.default_rng(3), forever=0.2 if name == "queue" else 0.0)
    options: Any = {"reward": reward, "windows": [0, 5], "max_illegal": 2, "illegal_penalty": 0.5}
    batch = PlacementVectorEnv(2, requests, PROTOCOLS[name], **options)
    singles = [PlacementEnv(requests, PROTOCOLS[name], **options) for _ in range(2)]
    batch.reset(seed=4)
    for i, env in enumerate(singles):
        env.reset(seed=4 + i)
    rng, ended = np.random.default_rng(0), 0
    over = np.zeros(2, dtype=np.bool_)
    for _ in range(200):
        actions = rng.integers(-1, batch.single_action_space.n, 2)
        _, rewards, terminations, truncations, _ = batch.step(actions)
        for i, env in enumerate(singles):
            if over[i]:
                env.reset()
                over[i] = False
                continue
            _, reward_i, terminated, truncated, _ = env.step(int(actions[i]))
            assert (rewards[i], terminations[i], truncations[i]) == (reward_i, terminated, truncated)
            over[i] = terminated or truncated
            ended += over[i]
    assert ended > 4


@pytest.mark.parametrize("arrival", [None, "policy"])
def test_illegal_actions_do_not_end_a_cluster_and_earn_nothing(arrival: str | None) -> None:
    """Whoever only answers nonsense is paid as whoever does nothing at all: intervals pass either way."""
    options: Any = {"arrival": arrival, "max_decisions_per_interval": 3, "reward": {"illegal": -0.01}}
    totals, lengths = [], []
    for action in (Decisions(), -1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = ClusterEnv("small", **options)
        env.reset(seed=0)
        total, intervals, over = 0.0, 0, False
        while not over:
            _, reward, terminated, over, info = env.step(action)
            assert not terminated
            total, intervals = total + reward, intervals + ("time_s" in info)
        totals.append(total)
        lengths.append(intervals)
    assert lengths[0] == lengths[1]
    assert totals[1] < totals[0]


def test_a_cluster_that_serves_nobody_earns_least() -> None:
    """Every host off and no VM placed saves all energy; by default it pays less than playing."""

    def total(arrival: str, first: Decisions) -> float:
        env = ClusterEnv("small", arrival=arrival)
        env.reset(seed=0)
        over, earned, orders = False, 0.0, first
        while not over:
            _, reward, _, over, _ = env.step(orders)
            earned, orders = earned + reward, Decisions()
        return earned

    off = Decisions(power_off=np.arange(10, dtype=np.int32))
    assert total("policy", off) < total("first_fit", Decisions())


def test_every_reward_term_is_a_cost() -> None:
    """So nothing is earned by an interval that is left out, and none ever is."""
    env = ClusterEnv("small")
    env.reset(seed=0)
    over = False
    while not over:
        *_, over, info = env.step(Decisions())
        assert set(info["reward_terms"]) == set(TERMS)
        assert min(info["reward_terms"].values()) >= -1e-12
