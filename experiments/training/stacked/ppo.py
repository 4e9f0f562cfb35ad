"""PPO of several seeds in a batch: one environment, one forward pass and one update for all of them.

What each seed learns is what Stable-Baselines3's PPO learns of it alone, up to rounding: its environments,
actions, minibatches and step sizes come from its own generators, and its gradient is clipped by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from virtgym.envs.arrays import F4, I8
from virtgym.envs.sb3 import ClusterVecEnv
from virtgym.envs.sb3_lanes import SomeLanes
from virtgym.policies.learned.sb3_algorithms import RewardScale, SemiMarkov

from ..learners import TrainTask
from ..sb3 import Sb3Learner, make_sb3_learner
from ..settings.base import PpoConfig
from .networks import Offers, StackedScorer, make_batch


def make_stacked_ppo(tasks: Sequence[TrainTask], config: PpoConfig) -> StackedPpo:
    """Make the learners of several seeds, which learn together.

    Args:
        tasks: What each is to learn: the same but for the seed.
        config: Settings of all.
    """
    n = tasks[0].num_envs
    envs = replace(tasks[0], num_envs=n * len(tasks)).vec_env(observation=config.observation)
    learners = []
    for i, task in enumerate(tasks):
        lanes = SomeLanes(envs, i * n, n)
        lanes.seed(task.env_seed)
        learners.append(make_sb3_learner(task, config, lanes))
        learners[-1].generator = torch.Generator().set_state(torch.get_rng_state())
    return StackedPpo(learners, envs, config)


class _Rollout(SemiMarkov):
    """What a rollout of T steps of S seeds with B environments each gave, (T, S * B) each."""

    def __init__(self, n_steps: int, n: int, config: PpoConfig) -> None:
        self.buffer_size, self.n_envs, self.gamma, self.gae_lambda = (
            n_steps,
            n,
            config.gamma,
            config.gae_lambda,
        )
        self.durations: Any = np.empty((n_steps, n))
        self.values, self.log_probs, self.rewards = (np.zeros((n_steps, n), np.float32) for _ in range(3))
        self.episode_starts, self.advantages, self.returns = (
            np.zeros((n_steps, n), np.float32) for _ in range(3)
        )
        self.ranks = np.zeros((n_steps, n), np.int64)  # of what was chosen among what was offered
        self.offers: list[Offers] = []

    def of_seeds(self, values: Any, s: int) -> Any:
        """(T, S * B) as (S, T * B): the order that minibatches are drawn in."""
        return values.reshape(self.buffer_size, s, -1).swapaxes(0, 1).reshape(s, -1)


class StackedPpo:
    """Learners of PPO or MaskablePPO on a cluster that learn together.

    Args:
        learners: The learners, whose environments are lanes of ``envs`` one after the other.
        envs: All environments.
        config: Settings of all.

    Attributes:
        learners: They may be looked at, saved and, before learning, restored like any others.
    """

    def __init__(self, learners: Sequence[Sb3Learner], envs: ClusterVecEnv, config: PpoConfig) -> None:
        self.learners, self.envs, self.config = list(learners), envs, config
        self.models = [one.model for one in learners]
        policies = [model.policy for model in self.models]
        self.stack = StackedScorer(
            [p.net for p in policies], [p.optimizer for p in policies], config.max_grad_norm
        )
        a = policies[0].net.architecture
        self._n_row, self._n_globals = a.n_node, a.n_globals
        self._offered = learners[0].layout.rows.index("offered")
        self._scale: RewardScale | None = None
        if config.scale_reward:
            shape = len(learners), learners[0].task.num_envs
            self._scale = RewardScale(shape, config.gamma)
            for i, model in enumerate(self.models):
                model.reward_scale.share(self._scale, i)

    def restored(self, i: int) -> None:
        """A learner was restored: what it knows becomes part of the batch again."""
        self.stack.adopt(i)

    def learn_chunk(self, timesteps: Sequence[int]) -> list[dict[str, float]]:
        """As ``Learner.learn_chunk``, of every seed; all have come equally far."""
        unit = self.learners[0].task.num_envs * self.config.n_steps
        wanted = self.learners[0].chunk(min(timesteps))
        for model in self.models:
            model._setup_learn(wanted, reset_num_timesteps=False)
        for _ in range(-(-wanted // unit)):
            rollout = self._collect()
            self._update(rollout)
        return [one.measured() for one in self.learners]

    def _offers(self, seen: F4) -> tuple[Offers, I8]:
        """What observations (N, K F + G) offer, and the candidate of each row, N K counted through."""
        n, split = len(seen), seen.shape[1] - self._n_globals
        rows = seen[:, :split].reshape(n, -1, self._n_row)
        place = np.flatnonzero(rows[:, :, self._offered] > 0.5)
        k = rows.shape[1]
        found = rows.reshape(n * k, -1)[place] if rows.base is None else rows[place // k, place % k]
        counts = np.bincount(place // k, minlength=n)
        return Offers(found, counts, seen[:, split:].copy()), place

    def _collect(self) -> _Rollout:
        """Play ``n_steps`` of all environments."""
        models, config = self.models, self.config
        s, b = len(models), self.learners[0].task.num_envs
        found = _Rollout(config.n_steps, s * b, config)
        seen = np.concatenate([model._last_obs for model in models])
        starts = np.concatenate([model._last_episode_starts for model in models])
        for step in range(config.n_steps):
            offers, place = self._offers(seen)
            found.offers.append(offers)
            with torch.no_grad():
                actions = self._act(offers, place, found, step)
            stepped: Any = self.envs.step(actions)
            seen, rewards, dones, infos = stepped
            found.durations[step] = self.envs.durations
            found.episode_starts[step] = starts
            if self._scale is not None:
                passed = self.envs.durations.reshape(s, b)
                rewards = self._scale(rewards.reshape(s, b), dones.reshape(s, b), passed).reshape(-1)
            for i in np.unique(np.flatnonzero(dones) // b).tolist():
                mine = slice(i * b, (i + 1) * b)
                models[i]._end_episodes(rewards[mine], dones[mine], infos[mine])
            found.rewards[step], starts = rewards, dones
        offers, _ = self._offers(seen)
        with torch.no_grad():
            values = self._read(offers, np.arange(s * b).reshape(s, b))[2]
        found.compute_returns_and_advantage(values.cpu().reshape(-1), starts)
        for i, model in enumerate(models):
            mine = slice(i * b, (i + 1) * b)
            model._last_obs, model._last_episode_starts = seen[mine].copy(), starts[mine]
            model.num_timesteps += config.n_steps * b
            model._update_current_progress_remaining(model.num_timesteps, 0)
        return found

    def _read(self, offers: Offers, which: I8) -> tuple[Any, Tensor, Tensor]:
        starts = np.concatenate(([0], offers.counts.cumsum()[:-1]))
        batch = make_batch(offers, starts, which, self.stack.device)
        return (batch, *self.stack.read(batch))

    def _act(self, offers: Offers, place: I8, found: _Rollout, step: int) -> I8:
        """Draw an action in every environment, and note what was thought of it."""
        s, b = len(self.models), self.learners[0].task.num_envs
        n_actions = int(self.envs.action_space.n)  # type: ignore[attr-defined]
        batch, log_odds, values = self._read(offers, np.arange(s * b).reshape(s, b))
        real = (batch.owner % (b + 1) != b).nonzero()[:, 0]
        mine = log_odds.reshape(-1)[real]
        odds = torch.zeros(s * b * n_actions)
        odds[torch.from_numpy(place)] = mine.exp().cpu()
        odds = odds.view(s, b, n_actions)
        drawn = [torch.multinomial(p, 1, generator=one.generator) for p, one in zip(odds, self.learners)]
        actions: I8 = torch.cat(drawn)[:, 0].numpy()
        row = np.searchsorted(place, np.arange(s * b) * n_actions + actions)
        found.ranks[step] = row - np.concatenate(([0], offers.counts.cumsum()[:-1]))
        found.log_probs[step] = mine.cpu().numpy()[row]
        found.values[step] = values.cpu().numpy().reshape(-1)
        return actions

    def _update(self, rollout: _Rollout) -> None:
        """PPO's passes over a rollout."""
        config, s = self.config, len(self.models)
        t, b = config.n_steps, self.learners[0].task.num_envs
        rows, counts, rest = (np.concatenate(parts) for parts in zip(*rollout.offers))
        offers = Offers(rows, counts, rest)
        starts = np.concatenate(([0], counts.cumsum()[:-1]))
        told: list[list[dict[str, float]]] = [[] for _ in range(s)]
        names = ("ranks", "values", "log_probs", "advantages", "returns")
        known = {name: rollout.of_seeds(getattr(rollout, name), s) for name in names}
        rates = [model.lr_schedule(model._current_progress_remaining) for model in self.models]
        size = self.models[0].batch_size
        active = torch.ones(s, dtype=torch.bool)
        for _ in range(config.n_epochs):
            epoch_begin = [len(one) for one in told]
            orders = np.stack(
                [m.rng.permutation(t * b) if go else np.arange(t * b) for m, go in zip(self.models, active)]
            )
            for at in range(0, t * b, size):
                which = orders[:, at : at + size]
                # Observations are stored by step, then seed, then environment.
                place = which // b * (s * b) + np.arange(s)[:, None] * b + which % b
                batch = make_batch(offers, starts, place, self.stack.device)
                parts = {name: np.take_along_axis(value, which, axis=1) for name, value in known.items()}
                loss, measured = self._loss(batch, parts)
                was = active.clone()
                if config.target_kl is not None:
                    active &= torch.tensor([m["approx_kl"] <= 1.5 * config.target_kl for m in measured])
                for i in was.nonzero()[:, 0].tolist():
                    told[i].append(measured[i])
                if not active.any():
                    break
                self.stack.step((loss * active.to(loss.device)).sum(), rates, active)
            for i, model in enumerate(self.models):
                model._n_updates += len(told[i]) > epoch_begin[i]
            if not active.any():
                break
        for i, model in enumerate(self.models):
            last = told[i][epoch_begin[i] :] or told[i]
            self._tell(model, told[i], last, known, i, rates[i])

    def _loss(self, batch: Any, parts: dict[str, Any]) -> tuple[Tensor, list[dict[str, float]]]:
        """PPO's losses of a minibatch of each seed, (S,), and what SB3 logs of them."""
        config, clip = self.config, self.config.clip_range
        log_odds, values = self.stack.read(batch)
        s, n = values.shape
        advantages, returns, old = (
            torch.from_numpy(parts[name]).to(values.device) for name in ("advantages", "returns", "log_probs")
        )
        if n > 1:
            deviation = advantages.std(dim=1, keepdim=True)
            advantages = (advantages - advantages.mean(dim=1, keepdim=True)) / (deviation + 1e-8)
        flat = log_odds.reshape(-1)
        rank = torch.from_numpy(parts["ranks"].ravel()).to(values.device)
        log_prob = flat.index_select(0, batch.first + rank).view(s, n)
        surprise = flat.new_zeros(len(batch.counts)).index_add(0, batch.owner, -(flat.exp() * flat))
        entropy = surprise.view(s, n + 1)[:, :-1].mean(dim=1)
        log_ratio = log_prob - old
        ratio = log_ratio.exp()
        gain = torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean(dim=1)
        error = ((returns - values) ** 2).mean(dim=1)
        loss = -gain - config.ent_coef * entropy + config.vf_coef * error
        with torch.no_grad():
            measured = {
                "entropy_loss": -entropy,
                "policy_gradient_loss": -gain,
                "value_loss": error,
                "approx_kl": (ratio - 1 - log_ratio).mean(dim=1),
                "clip_fraction": ((ratio - 1).abs() > clip).float().mean(dim=1),
                "loss": loss,
            }
            table = torch.stack(list(measured.values()), dim=1).tolist()
        return loss, [dict(zip(measured, row)) for row in table]

    def _tell(
        self,
        model: Any,
        told: list[dict[str, float]],
        last: list[dict[str, float]],
        known: dict[str, Any],
        i: int,
        rate: float,
    ) -> None:
        """Log what SB3's ``train`` logs."""
        log = model.logger
        log.record("train/learning_rate", rate)
        for name in ("entropy_loss", "policy_gradient_loss", "value_loss", "clip_fraction"):
            log.record(f"train/{name}", float(np.mean([one[name] for one in told])))
        log.record("train/approx_kl", float(np.mean([one["approx_kl"] for one in last])))
        log.record("train/loss", told[-1]["loss"])
        variance = explained_variance(known["values"][i], known["returns"][i])
        log.record("train/explained_variance", float(variance))
        log.record("train/n_updates", model._n_updates, exclude="tensorboard")
        log.record("train/clip_range", self.config.clip_range)
