"""Stable-Baselines3's algorithms for many fast environments: less Python per step, no global random state.

The learning rules are SB3's, line for line: its ``train`` runs unchanged. What differs is around them.
Rollouts are collected without a loop over environments; minibatches are drawn by a generator of the
algorithm's own; schedules run over the whole training although it is learned in chunks; and DQN explores
legal actions only, each environment by itself.

Decisions may take no time, or different times: environments that tell ``durations`` (B,), the intervals that
passed in the last step, are semi-Markov. A step then is discounted by γ^duration, and advantages by
(γ λ)^duration (Sutton, Precup & Singh, Artificial Intelligence 1999), so that neither γ nor λ says anything
about how many decisions an interval has.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer, MaskableRolloutBufferSamples
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples

from .architecture import Layout
from .sb3_policies import sample_legal


class RewardScale:
    """Divides rewards by the running standard deviation of discounted returns, as SB3's ``VecNormalize``.

    Args:
        shape: B, or (S, B): S scales that are worked out together.
        gamma: Discount.
    """

    def __init__(self, shape: int | tuple[int, ...], gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(shape)
        # Count, mean, sum of squared deviations.
        self.moments = np.broadcast_to([1e-4, 0.0, 1e-4], (*self.returns.shape[:-1], 3)).copy()

    def share(self, others: RewardScale, i: int) -> None:
        """Become number i of several scales, in the same memory."""
        others.returns[i], others.moments[i] = self.returns, self.moments
        self.returns, self.moments = others.returns[i], others.moments[i]

    def __call__(
        self, rewards: NDArray[Any], dones: NDArray[np.bool_], durations: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Take rewards (…, B) of steps of such durations (…, B) into account, and scale them."""
        discount = self.gamma if durations is None else self.gamma**durations
        self.returns[...] = self.returns * discount + rewards
        count, mean, squares = (self.moments[..., k] for k in range(3))
        n, new = rewards.shape[-1], self.returns.mean(axis=-1)
        total = count + n
        spread = ((self.returns - new[..., None]) ** 2).sum(axis=-1) + (new - mean) ** 2 * count * n / total
        # Chan et al., 1979
        self.moments[...] = np.stack((total, mean + (new - mean) * n / total, squares + spread), axis=-1)
        self.returns[dones] = 0.0
        deviation = np.sqrt(self.moments[..., 2] / total + 1e-8)[..., None]
        scaled: NDArray[Any] = (rewards / deviation).astype(np.float32)
        return scaled


def _flat_tensor(array: NDArray[Any]) -> torch.Tensor:
    """(steps, B, …) as (steps · B, …), without a copy: minibatches are permuted anyway."""
    return torch.from_numpy(array.reshape(-1, *array.shape[2:]))


class SemiMarkov:
    """What rollout buffers share: advantages where steps have durations."""

    durations: NDArray[Any] | None = None

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[Any]) -> None:
        """Advantages and returns of a full buffer.

        With d the duration of a step: δ = r + γ^d V(s') - V(s) and A = δ + (γ λ)^d A(s').

        Args:
            last_values: Values of the last observations.
            dones: Whether the last steps ended episodes, (B,).
        """
        me: Any = self
        if self.durations is None:
            before: Any = super()
            before.compute_returns_and_advantage(last_values, dones)
            return
        discounts = (me.gamma**self.durations).astype(np.float32)
        decays = ((me.gamma * me.gae_lambda) ** self.durations).astype(np.float32)
        values = np.concatenate((me.values, last_values.cpu().numpy().reshape(1, -1)))
        goes_on = 1.0 - np.concatenate((me.episode_starts[1:], dones.reshape(1, -1))).astype(np.float32)
        deltas = me.rewards + discounts * values[1:] * goes_on - me.values
        advantage = np.zeros(me.n_envs, dtype=np.float32)
        for step in range(me.buffer_size - 1, -1, -1):
            advantage = deltas[step] + decays[step] * goes_on[step] * advantage
            me.advantages[step] = advantage
        me.returns = me.advantages + me.values


class BatchedRolloutBuffer(SemiMarkov, RolloutBuffer):
    """SB3's buffer, with minibatches picked by PyTorch and drawn by ``rng``."""

    rng: np.random.Generator

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Every transition once, in minibatches of random order."""
        assert self.full, "the buffer is not full"
        n = self.buffer_size * self.n_envs
        arrays = (self.observations, self.actions, self.values, self.log_probs, self.advantages, self.returns)
        tensors = [_flat_tensor(array).to(self.device) for array in arrays]
        order = torch.from_numpy(self.rng.permutation(n)).to(self.device)
        for start in range(0, n, batch_size or n):
            yield RolloutBufferSamples(*(x[order[start : start + (batch_size or n)]] for x in tensors))


class MaskedRolloutBuffer(SemiMarkov, MaskableRolloutBuffer):
    """sb3-contrib's buffer, likewise."""

    rng: np.random.Generator

    def get(  # type: ignore[override]
        self, batch_size: int | None = None
    ) -> Generator[MaskableRolloutBufferSamples, None, None]:
        """Every transition once, in minibatches of random order."""
        assert self.full, "the buffer is not full"
        n = self.buffer_size * self.n_envs
        arrays = (self.observations, self.actions, self.values, self.log_probs, self.advantages, self.returns)
        tensors = [_flat_tensor(array).to(self.device) for array in (*arrays, self.action_masks)]
        order = torch.from_numpy(self.rng.permutation(n)).to(self.device)
        for start in range(0, n, batch_size or n):
            yield MaskableRolloutBufferSamples(
                *(x[order[start : start + (batch_size or n)]] for x in tensors)
            )


class BatchedReplayBuffer(ReplayBuffer):
    """SB3's buffer, sampled by ``rng``; with ``durations`` of steps where their infos have them.

    Attributes:
        gamma: Discount of an interval, for steps that have durations.
    """

    rng: np.random.Generator
    gamma: float
    durations: NDArray[np.float32] | None = None

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Keep a transition of every environment."""
        if "duration" in infos[0]:
            if self.durations is None:
                self.durations = np.ones((self.buffer_size, self.n_envs), dtype=np.float32)
            self.durations[self.pos] = [info["duration"] for info in infos]
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Transitions drawn uniformly, with replacement."""
        upper = self.buffer_size if self.full else self.pos
        rows, games = (self.rng.integers(0, n, batch_size) for n in (upper, self.n_envs))
        ended = self.dones[rows, games] * (1.0 - self.timeouts[rows, games])
        arrays = (
            self.observations[rows, games],
            self.actions[rows, games],
            self.next_observations[rows, games],
            ended.astype(np.float32).reshape(-1, 1),
            self.rewards[rows, games].reshape(-1, 1),
            *(() if self.durations is None else (self.gamma ** self.durations[rows, games].reshape(-1, 1),)),
        )
        return ReplayBufferSamples(*(torch.from_numpy(array).to(self.device) for array in arrays))


class _Batched:
    """What the algorithms share.

    Attributes:
        total_timesteps: Length of the whole training, over which schedules run.
        rng: Generator of minibatches and exploration.
    """

    total_timesteps: int = 0
    rng: np.random.Generator

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        total = max(self.total_timesteps or total_timesteps, 1)
        self._current_progress_remaining = max(0.0, 1.0 - num_timesteps / total)


class _OnPolicy(_Batched):
    """Collects rollouts of B environments with a few array operations a step."""

    reward_scale: RewardScale | None = None
    masked = False

    def collect_rollouts(
        self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int, use_masking: bool = True
    ) -> bool:
        """Fill a buffer.

        Args:
            env: The environments; their observations are flat.
            callback: SB3's.
            rollout_buffer: The buffer.
            n_rollout_steps: Steps of each environment.
            use_masking: Not used: masks are always taken.

        Returns:
            False if the callback asked to stop.
        """
        me: Any = self
        me.policy.set_training_mode(False)
        rollout_buffer.reset()
        rollout_buffer.rng = self.rng
        rollout_buffer.durations = None
        callback.on_rollout_start()
        for step in range(n_rollout_steps):
            masks = {"action_masks": env.action_masks()} if self.masked else {}
            with torch.no_grad():
                actions, values, log_probs = me.policy(torch.from_numpy(me._last_obs).to(me.device), **masks)
            chosen = actions.cpu().numpy()
            observations, rewards, dones, infos = env.step(chosen)
            me.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            durations = getattr(env, "durations", None)
            if durations is not None:
                if step == 0:
                    rollout_buffer.durations = np.empty((n_rollout_steps, env.num_envs))
                rollout_buffer.durations[step] = durations
            if self.reward_scale is not None:
                rewards = self.reward_scale(rewards, dones, durations)
            if dones.any():
                self._end_episodes(rewards, dones, infos)
            last = me._last_obs, chosen.reshape(-1, 1), rewards, me._last_episode_starts, values, log_probs
            rollout_buffer.add(*last, **masks)
            me._last_obs, me._last_episode_starts = observations, dones
        with torch.no_grad():
            values = me.policy.predict_values(torch.from_numpy(me._last_obs).to(me.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=me._last_episode_starts)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _end_episodes(self, rewards: Any, dones: Any, infos: list[dict[str, Any]]) -> None:
        """Note statistics of ended episodes; the value of what was cut off is added to its last reward."""
        me: Any = self
        cut = []
        for i in np.flatnonzero(dones).tolist():
            if "episode" in infos[i]:
                me.ep_info_buffer.append(infos[i]["episode"])
            if infos[i].get("TimeLimit.truncated", False):
                cut.append(i)
        if cut:
            last = np.stack([infos[i]["terminal_observation"] for i in cut])
            with torch.no_grad():
                values = me.policy.predict_values(torch.from_numpy(last).to(me.device)).cpu().numpy()[:, 0]
            durations = np.array([infos[i].get("duration", 1.0) for i in cut], dtype=np.float32)
            rewards[cut] += me.gamma**durations * values


class BatchedPPO(_OnPolicy, PPO):
    """PPO (Schulman et al., 2017)."""


class BatchedA2C(_OnPolicy, A2C):
    """A2C (Mnih et al., ICML 2016, synchronous)."""


class BatchedMaskablePPO(_OnPolicy, MaskablePPO):
    """PPO with invalid actions masked by the environment (Huang & Ontañón, FLAIRS 2022)."""

    masked = True


class BatchedDQN(_Batched, DQN):
    """DQN (Mnih et al., Nature 2015) that explores legal actions, each environment by itself."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Greedy actions (B,), or with probability epsilon, in each environment, a random legal one."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if deterministic:
            return actions, state
        n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        wander = self.rng.random(len(actions)) < self.exploration_rate
        return np.where(wander, sample_legal(observation, n_actions, self.rng, self._layout), actions), state

    @property
    def _layout(self) -> Layout:
        """What its network reads; networks of SB3 do not say, and are taken to read ``basic``."""
        layout: Layout | None = getattr(self.policy.q_net, "layout", None)
        return layout or Layout.current()

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.num_timesteps < learning_starts:
            n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
            actions: NDArray[Any] = sample_legal(self._last_obs, n_actions, self.rng, self._layout)
        else:
            actions, _ = self.predict(self._last_obs, deterministic=False)
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """SB3's update, on samples that this algorithm's generator draws."""
        buffer: Any = self.replay_buffer
        buffer.rng, buffer.gamma = self.rng, self.gamma
        super().train(gradient_steps, batch_size)
