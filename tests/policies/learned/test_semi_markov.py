"""Decisions that take no time, or different times: discounts are by the time that passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")
from stable_baselines3.common.buffers import RolloutBuffer  # noqa: E402

from virtgym.policies.learned.sb3_algorithms import (  # noqa: E402
    BatchedReplayBuffer,
    BatchedRolloutBuffer,
    MaskedRolloutBuffer,
    RewardScale,
)

SPACE, ACTIONS = spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(3)
GAMMA, LAMBDA = 0.9, 0.8


def filled(kind: Any, n: int, envs: int, durations: NDArray[Any] | None, **arrays: NDArray[Any]) -> Any:
    buffer = kind(n, SPACE, ACTIONS, "cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=envs)
    rng = np.random.default_rng(0)
    buffer.rewards[:] = arrays.get("rewards", rng.normal(size=(n, envs)))
    buffer.values[:] = arrays.get("values", rng.normal(size=(n, envs)))
    buffer.episode_starts[:] = arrays.get("starts", rng.random((n, envs)) < 0.2)
    buffer.durations = durations
    last = arrays.get("last", rng.normal(size=envs).astype(np.float32))
    dones = arrays.get("dones", np.arange(envs) % 2 == 1)
    buffer.compute_returns_and_advantage(torch.from_numpy(last), dones)
    return buffer


@pytest.mark.parametrize("kind", [BatchedRolloutBuffer, MaskedRolloutBuffer])
def test_where_every_step_takes_an_interval_advantages_are_those_of_sb3(kind: Any) -> None:
    a = filled(RolloutBuffer, 40, 5, None)
    for durations in (None, np.ones((40, 5))):
        b = filled(kind, 40, 5, durations)
        np.testing.assert_array_equal(a.advantages, b.advantages)
        np.testing.assert_array_equal(a.returns, b.returns)


@pytest.mark.parametrize("kind", [BatchedRolloutBuffer, MaskedRolloutBuffer])
def test_advantages_are_the_sum_that_defines_them(kind: Any) -> None:
    """A = Σ (γ λ)^(time until then) δ, up to the end of the episode, straight from the definition."""
    rng = np.random.default_rng(2)
    n, envs = 30, 4
    durations = rng.integers(0, 4, (n, envs)).astype(float)
    got = filled(kind, n, envs, durations)
    want_rng = np.random.default_rng(0)
    rewards, values = want_rng.normal(size=(n, envs)), want_rng.normal(size=(n, envs))
    starts = want_rng.random((n, envs)) < 0.2
    values = np.vstack((values, want_rng.normal(size=envs)))
    ends = np.vstack((starts[1:], np.arange(envs) % 2 == 1))
    for e in range(envs):
        for t in range(n):
            total, passed = 0.0, 0.0
            for u in range(t, n):
                after = 0.0 if ends[u, e] else GAMMA ** durations[u, e] * values[u + 1, e]
                total += (GAMMA * LAMBDA) ** passed * (rewards[u, e] + after - values[u, e])
                passed += durations[u, e]
                if ends[u, e]:
                    break
            assert got.advantages[t, e] == pytest.approx(total, abs=1e-5)
    np.testing.assert_allclose(got.returns, got.advantages + values[:-1], atol=1e-6)


def test_choices_that_take_no_time_do_not_discount() -> None:
    """A cost of 1 an interval for ever is worth -1 / (1 - γ), however many choices an interval has.

    With these values no step has an advantage; discounted by decision, padding would have one.
    """
    n, forever = 24, -1.0 / (1.0 - GAMMA)
    durations = np.tile([0.0, 0.0, 1.0], n // 3)[:, None]
    arrays = {"rewards": -durations, "values": np.full((n, 1), forever), "starts": np.zeros((n, 1))}
    last, dones = np.full(1, forever, np.float32), np.zeros(1, bool)
    got = filled(BatchedRolloutBuffer, n, 1, durations, last=last, dones=dones, **arrays)
    np.testing.assert_allclose(got.advantages, 0.0, atol=1e-5)
    by_decision = filled(BatchedRolloutBuffer, n, 1, None, last=last, dones=dones, **arrays)
    assert by_decision.advantages[0, 0] > 0.5


def test_replay_discounts_by_duration() -> None:
    buffer = BatchedReplayBuffer(60, SPACE, ACTIONS, "cpu", n_envs=2)
    rng = np.random.default_rng(0)
    for t in range(20):
        seen = np.array([[t, t], [t + 0.25, t + 0.25]], np.float32)
        infos = [{"duration": float(t % 3)}, {"duration": float(t % 2)}]
        buffer.add(seen, seen, np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), infos)
    buffer.rng, buffer.gamma = rng, GAMMA
    batch: Any = buffer.sample(200)
    t, env = np.divmod(batch.observations[:, 0].numpy(), 1.0)
    want = GAMMA ** np.where(env == 0.0, t % 3, t % 2)
    np.testing.assert_allclose(batch.discounts.numpy()[:, 0], want, rtol=1e-6)
    plain = BatchedReplayBuffer(60, SPACE, ACTIONS, "cpu", n_envs=2)
    plain.add(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), [{}, {}])
    plain.rng, plain.gamma = rng, GAMMA
    assert plain.sample(4).discounts is None


def test_rewards_are_scaled_by_returns_over_time() -> None:
    by_step, by_time = RewardScale(3, GAMMA), RewardScale(3, GAMMA)
    rng, over = np.random.default_rng(0), np.zeros(3, bool)
    for _ in range(50):
        rewards = rng.normal(size=3)
        np.testing.assert_array_equal(by_step(rewards, over), by_time(rewards, over, np.ones(3)))
    by_time.returns[:] = 2.0
    by_time(np.ones(3), over, np.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(by_time.returns, 1.0 + 2.0 * GAMMA ** np.arange(3))
