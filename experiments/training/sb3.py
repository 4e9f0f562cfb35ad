"""Stable-Baselines3's algorithms as learners."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger

from virtgym.envs.errors import ConfigError
from virtgym.policies.learned.architecture import Layout
from virtgym.policies.learned.sb3_algorithms import (
    BatchedA2C,
    BatchedDQN,
    BatchedMaskablePPO,
    BatchedPPO,
    BatchedReplayBuffer,
    BatchedRolloutBuffer,
    MaskedRolloutBuffer,
    RewardScale,
)
from virtgym.policies.learned.sb3_policies import ActorCriticNetPolicy, MaskableNetPolicy, QNetPolicy
from virtgym.policies.learned.storage import Member

from .learners import Arrays, TrainTask
from .settings.base import A2cConfig, AgentConfig, DqnConfig, MaskablePpoConfig, PpoConfig
from .torch_state import as_numpy, by_prefix, optimizer_arrays, restore_optimizer

_NUMBERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num", "exploration_rate")
"""Counters of a model that a checkpoint holds."""


class _Recorder(KVWriter):
    """Keeps the last measurements that an algorithm logged."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        """Keep numbers."""
        self.last.update(
            {k: float(v) for k, v in key_values.items() if isinstance(v, (int, float, np.number))}
        )

    def close(self) -> None:
        """Nothing is open."""


def _rate(config: AgentConfig) -> Any:
    """Step size by remaining progress."""
    base = config.learning_rate
    return base if config.schedule == "constant" else lambda remaining: base * remaining


def make_sb3_learner(task: TrainTask, config: AgentConfig, envs: Any = None) -> Sb3Learner:
    """Make a learner of PPO, A2C, DQN or MaskablePPO.

    Args:
        task: What is to be learned.
        config: The algorithm's settings; their class says which.
        envs: Its environments; None = the task's.

    Raises:
        ConfigError: If the settings do not fit the task.
    """
    torch.set_num_threads(1)
    if task.n_extra and not isinstance(config, MaskablePpoConfig):
        raise ConfigError(
            f"agent={config.name}: reads legal actions off the observation, which tells those of nodes only; "
            "with allow_reject or queue_window use agent=maskable_ppo"
        )
    if envs is None:
        envs = task.vec_env(observation=config.observation)
    # SB3 given a seed would seed the global generators of Python and NumPy, which are not its to seed.
    torch.manual_seed(task.seeds(1)[0])
    shared: dict[str, Any] = {
        "env": envs,
        "learning_rate": _rate(config),
        "gamma": config.gamma,
        "max_grad_norm": config.max_grad_norm,
        "policy_kwargs": {
            "network": config.network,
            "hidden": tuple(config.hidden),
            "activation": config.activation,
            "queue_window": task.queue_window,
            "observation": config.observation,
        },
        "device": task.device,
    }
    return Sb3Learner(task, config, _make_model(config, shared, task), envs)


def _make_model(config: AgentConfig, shared: dict[str, Any], task: TrainTask) -> Any:
    if isinstance(config, DqnConfig):
        return BatchedDQN(
            policy=QNetPolicy,
            replay_buffer_class=BatchedReplayBuffer,
            buffer_size=config.buffer_size,
            learning_starts=config.learning_starts,
            batch_size=config.batch_size,
            train_freq=config.train_freq,
            gradient_steps=config.gradient_steps,
            tau=config.tau,
            target_update_interval=max(config.target_update_interval, task.num_envs),
            exploration_fraction=config.exploration_fraction,
            exploration_final_eps=config.exploration_final,
            **shared,
        )
    if isinstance(config, A2cConfig):
        keys: tuple[str, ...] = ("n_steps", "gae_lambda", "ent_coef", "vf_coef")
        own: dict[str, Any] = {key: getattr(config, key) for key in keys}
        return BatchedA2C(
            policy=ActorCriticNetPolicy, rollout_buffer_class=BatchedRolloutBuffer, **own, **shared
        )
    assert isinstance(config, PpoConfig)
    keys = ("n_steps", "n_epochs", "gae_lambda", "clip_range", "ent_coef", "vf_coef", "target_kl")
    own = {key: getattr(config, key) for key in keys}
    own["batch_size"] = min(config.batch_size, config.n_steps * task.num_envs)
    if own["batch_size"] < 2:
        raise ConfigError(
            f"agent.batch_size={config.batch_size}: must be at least 2 (num_envs * n_steps, too)"
        )
    if isinstance(config, MaskablePpoConfig):
        return BatchedMaskablePPO(
            policy=MaskableNetPolicy, rollout_buffer_class=MaskedRolloutBuffer, **own, **shared
        )
    return BatchedPPO(policy=ActorCriticNetPolicy, rollout_buffer_class=BatchedRolloutBuffer, **own, **shared)


def algorithm_of(config: AgentConfig) -> str:
    """The algorithm that settings are of, as ``sb3_zip.ALGORITHMS`` names it."""
    kinds: dict[type[Any], str] = {DqnConfig: "dqn", A2cConfig: "a2c", PpoConfig: "ppo"}
    return kinds.get(type(config), "maskable_ppo")


class Sb3Learner:
    """Drives a model of Stable-Baselines3 in chunks, and takes its state apart into arrays.

    Args:
        task: What is to be learned.
        config: The algorithm's settings.
        model: The model.
        envs: Its environments.

    Attributes:
        generator: Of actions; PyTorch's global one, unless several learn in a batch.
    """

    def __init__(self, task: TrainTask, config: AgentConfig, model: Any, envs: Any) -> None:
        self.task = task
        self.config = config
        self.model = model
        self.envs = envs
        self.generator: torch.Generator = (
            torch.default_generator if task.device == "cpu" else torch.cuda.default_generators[0]
        )
        self._recorder = _Recorder()
        model.set_logger(Logger(folder=None, output_formats=[self._recorder]))
        model.total_timesteps = task.total_timesteps
        model.rng = np.random.default_rng(np.random.SeedSequence(task.seeds(2)[1]))
        if getattr(config, "scale_reward", False):
            model.reward_scale = RewardScale(task.num_envs, config.gamma)

    @property
    def timesteps(self) -> int:
        """Decisions learned from so far."""
        return int(self.model.num_timesteps)

    def learn_chunk(self, timesteps: int) -> dict[str, float]:
        """Learn from one rollout (PPO, A2C: several short ones; DQN: some steps)."""
        self.model.learn(self.chunk(timesteps), reset_num_timesteps=False, log_interval=None)
        return self.measured()

    def chunk(self, timesteps: int) -> int:
        """How many decisions of those wanted are learned from at once."""
        unit = self.task.num_envs * int(getattr(self.config, "n_steps", 16))
        return max(1, min(timesteps, max(unit, 16_384)))

    def measured(self) -> dict[str, float]:
        """What the algorithm logged last, and means over the last episodes."""
        self.model.logger.dump(step=self.timesteps)
        found = {
            name.removeprefix("train/"): value
            for name, value in self._recorder.last.items()
            if name.startswith("train/") and name != "train/n_updates"
        }
        episodes = list(self.model.ep_info_buffer)
        if episodes:
            names = {"r": "reward", "l": "steps", "total_wait_s": "wait_s"}
            for key in (key for key in episodes[-1] if key != "t"):
                found[f"episode_{names.get(key, key)}"] = float(np.mean([e[key] for e in episodes]))
        return found

    @property
    def layout(self) -> Layout:
        """What it observes."""
        return self.task.layout(self.config)

    @property
    def _network(self) -> Any:
        policy = self.model.policy
        return policy.q_net.net if isinstance(self.config, DqnConfig) else policy.net

    def snapshot(self) -> tuple[Member, ...]:
        """The policy as it is now."""
        net = self._network
        weights = {name: as_numpy(value) for name, value in net.state_dict().items()}
        scores = "values" if isinstance(self.config, DqnConfig) else "logits"
        return (Member(net.architecture, self.layout, weights, scores),)

    def load_member(self, member: Member) -> None:
        """Begin with the weights of an agent.

        Raises:
            ConfigError: If it is of another architecture, or reads other columns.
        """
        net = self._network
        if (observation := member.layout.observation()) != self.config.observation:
            raise ConfigError(
                f"agent.observation={self.config.observation}: the agent to begin with reads {observation}; "
                f"use agent.observation={observation}"
            )
        if member.architecture != net.architecture or member.layout != self.layout:
            raise ConfigError(
                f"import: the agent is {member.architecture.to_dict()}, "
                f"and {net.architecture.to_dict()} is to be trained"
            )
        net.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in member.weights.items()})
        if isinstance(self.config, DqnConfig):
            self.model.policy.q_net_target.load_state_dict(self.model.policy.q_net.state_dict())

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Networks, optimiser, environments, generators and, for DQN, the replay buffer."""
        model = self.model
        found: Arrays = {f"policy/{k}": as_numpy(v) for k, v in model.policy.state_dict().items()}
        found |= {f"optimizer/{k}": v for k, v in optimizer_arrays(model.policy.optimizer).items()}
        found["torch_rng"] = self.generator.get_state().numpy()
        state: dict[str, Any] = {k: getattr(model, k) for k in _NUMBERS if hasattr(model, k)}
        state["rng"] = model.rng.bit_generator.state
        state["episodes"] = list(model.ep_info_buffer or [])
        if model._last_obs is not None:
            found["last_obs"], found["last_starts"] = model._last_obs, model._last_episode_starts
            found |= {f"env/{k}": v for k, v in self.envs.batch.export_state().items()}
        if getattr(model, "reward_scale", None) is not None:
            found["returns"], found["moments"] = model.reward_scale.returns, model.reward_scale.moments
        if isinstance(self.config, DqnConfig):
            buffer = model.replay_buffer
            state["replay"] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
            n = buffer.buffer_size if buffer.full else buffer.pos
            kept = {name: getattr(buffer, name) for name in _REPLAY}
            found |= {f"replay/{name}": kept[name][:n] for name in _REPLAY if kept[name] is not None}
        return found, json.loads(json.dumps(state, default=_plain))

    def restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Take up where ``arrays`` was called."""
        model = self.model
        parts = by_prefix(arrays)
        model.policy.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in parts["policy"].items()})
        restore_optimizer(model.policy.optimizer, parts.get("optimizer", {}))
        for key in _NUMBERS:
            if key in state:
                setattr(model, key, state[key])
        model.rng.bit_generator.state = state["rng"]
        if model.ep_info_buffer is None:
            from collections import deque

            model.ep_info_buffer = deque(maxlen=model._stats_window_size)
            model.ep_success_buffer = deque(maxlen=model._stats_window_size)
        model.ep_info_buffer.extend(state["episodes"])
        if "last_obs" in arrays:
            model._last_obs, model._last_episode_starts = arrays["last_obs"], arrays["last_starts"]
            self.envs.reset()
            self.envs.batch.import_state(parts["env"])
        if "returns" in arrays and model.reward_scale is not None:
            model.reward_scale.returns[:] = arrays["returns"]
            model.reward_scale.moments[:] = arrays["moments"]
        if "replay" in state:
            buffer = model.replay_buffer
            buffer.pos, buffer.full = state["replay"]["pos"], state["replay"]["full"]
            for name, value in parts.get("replay", {}).items():
                if getattr(buffer, name) is None:
                    setattr(buffer, name, np.ones((buffer.buffer_size, buffer.n_envs), dtype=value.dtype))
                getattr(buffer, name)[: len(value)] = value
        self.generator.set_state(torch.from_numpy(arrays["torch_rng"].copy()))


_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "durations")


def _plain(value: Any) -> Any:
    """NumPy's numbers as JSON takes them."""
    return value.item() if isinstance(value, np.generic) else str(value)
