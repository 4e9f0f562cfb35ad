"""Settings that every agent has, and those of Stable-Baselines3's algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError

_MOST = 1 << 53


def check_whole(key: str, value: float) -> None:
    """Refuse a whole number that neither a float nor a kernel can count to.

    Raises:
        ConfigError: Naming the key.
    """
    if isinstance(value, int) and value > _MOST:
        raise ConfigError(
            f"{key}={value:.6g}: must be at most 2^53" if value < 1e300 else f"{key}: must be at most 2^53"
        )


@dataclass
class AgentConfig:
    """Settings that every agent has.

    Attributes:
        name: Its name.
        description: One line for ``virtgym list agents``.
        observation: What is observed: ``basic``, or ``slots``, with more columns; of clusters ``candidates``,
            of rescheduling ``actions``.
        network: ``equivariant`` (any number of hosts), else ``scorer`` (any cluster); or ``mlp``.
        hidden: Widths of hidden layers; ``equivariant`` and ``scorer`` have two of the same width.
        activation: ``relu`` or ``tanh``.
        learning_rate: Step size of the optimiser.
        schedule: ``linear``: the step size falls to 0 over the training; or ``constant``.
        gamma: Discount per decision; of clusters, per interval.
        max_grad_norm: Gradients are shortened to this length.
        CLUSTER: Settings that have another default on clusters. Those of a class hold for the classes that
            are derived from it.
        RESCHEDULING: Likewise of rescheduling.
        NAMES: Settings that are lists of names.
        SHARES: Settings that are at most 1, where an algorithm has them.
        POSITIVE: Settings that are above 0, likewise.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"observation": "candidates", "network": "scorer"}
    RESCHEDULING: ClassVar[Mapping[str, Any]] = {
        **{"observation": "actions", "network": "scorer", "hidden": [32, 32], "gamma": 1.0},
    }
    NAMES: ClassVar[tuple[str, ...]] = ()
    SHARES: ClassVar[tuple[str, ...]] = (
        *("gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_final"),
    )
    POSITIVE: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "n_steps", "batch_size", "n_epochs", "buffer_size", "train_freq"),
    )

    name: str = ""
    description: str = ""
    observation: str = "slots"
    network: str = "equivariant"
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    activation: str = "relu"
    learning_rate: float = 3e-4
    schedule: str = "linear"
    gamma: float = 0.99
    max_grad_norm: float = 0.5

    def check(self, task: str = "placement") -> None:
        """Refuse impossible values.

        Args:
            task: Kind of scenario that is trained on.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        for key, allowed in self.choices(task).items():
            if (value := getattr(self, key)) not in allowed:
                raise ConfigError(
                    f"agent.{key}={value}: must be one of {', '.join(allowed)}{hint(value, allowed)}"
                )
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool | str | dict) or value is None or f.name in self.NAMES:
                continue
            for number in value if isinstance(value, list) else [value]:
                if not 0.0 <= number < float("inf"):
                    raise ConfigError(f"agent.{f.name}={value}: must be at least 0 and finite")
                check_whole(f"agent.{f.name}", number)
        for key in self.SHARES:
            if getattr(self, key, 0.0) > 1.0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be at most 1")
        for key in self.POSITIVE:
            if getattr(self, key, 1) <= 0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be positive")

    def choices(self, task: str) -> dict[str, tuple[str, ...]]:
        """What is allowed of the settings that are names."""
        from virtgym.policies.learned.architecture import ACTIVATIONS, NETWORKS, SEEN

        return {
            "observation": SEEN[task],
            "network": NETWORKS[task],
            "activation": ACTIVATIONS,
            "schedule": ("linear", "constant"),
        }

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """Numbers of the largest arrays of a training, by the keys that say how many.

        Args:
            num_envs: Environments that step together.
            width: Numbers of an observation.
            n_actions: Actions.
        """
        return {"num_envs": num_envs * 4.0 * (width + n_actions)}


@dataclass
class PpoConfig(AgentConfig):
    """Settings of PPO; they mean what they mean in Stable-Baselines3.

    Attributes:
        n_steps: Steps of each environment per rollout.
        batch_size: Transitions of a minibatch.
        n_epochs: Passes over a rollout.
        gae_lambda: λ of the advantages.
        clip_range: Bound of the policy's ratio.
        ent_coef: Weight of the entropy.
        vf_coef: Weight of the value's error.
        target_kl: An update ends when the policy has moved so far; null = never.
        scale_reward: Whether rewards are divided by the running deviation of returns.
    """

    # Eight games of 50 moves a batch.
    RESCHEDULING: ClassVar[Mapping[str, Any]] = {
        **{"gae_lambda": 0.95, "n_steps": 100, "batch_size": 100, "n_epochs": 3, "ent_coef": 0.001},
    }
    # Eight days of five-minute intervals a batch, in minibatches of a day.
    CLUSTER: ClassVar[Mapping[str, Any]] = {
        **{"gamma": 0.98, "gae_lambda": 0.95, "n_steps": 288, "batch_size": 288, "ent_coef": 0.003},
    }

    learning_rate: float = 1e-3
    n_steps: int = 64
    batch_size: int = 1024
    n_epochs: int = 4
    gae_lambda: float = 0.99
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    target_kl: float | None = None
    scale_reward: bool = True

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        return _rollout_arrays(self, num_envs, width, n_actions)


def _rollout_arrays(
    config: PpoConfig | A2cConfig, num_envs: int, width: int, n_actions: int
) -> dict[str, float]:
    """Numbers of what PPO and A2C collect between updates, once in the buffer and once in minibatches."""
    return {"num_envs x agent.n_steps": 2.0 * num_envs * config.n_steps * (width + n_actions + 8)}


@dataclass
class MaskablePpoConfig(PpoConfig):
    """Settings of sb3-contrib's MaskablePPO, those of PPO."""


@dataclass
class A2cConfig(AgentConfig):
    """Settings of A2C; they mean what they mean in Stable-Baselines3.

    Attributes:
        n_steps: Steps of each environment per update.
        gae_lambda: λ of the advantages.
        ent_coef: Weight of the entropy.
        vf_coef: Weight of the value's error.
        scale_reward: Whether rewards are divided by the running deviation of returns.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"gamma": 0.98, "n_steps": 36, "ent_coef": 0.003}
    RESCHEDULING: ClassVar[Mapping[str, Any]] = {"n_steps": 20, "ent_coef": 0.001}

    learning_rate: float = 7e-4
    n_steps: int = 16
    gae_lambda: float = 0.95
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    scale_reward: bool = True

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        return _rollout_arrays(self, num_envs, width, n_actions)


@dataclass
class DqnConfig(AgentConfig):
    """Settings of DQN; they mean what they mean in Stable-Baselines3.

    Attributes:
        buffer_size: Transitions that are kept.
        learning_starts: Transitions before the first update.
        batch_size: Transitions of an update.
        train_freq: Steps of all environments between updates.
        gradient_steps: Updates then.
        tau: How far the target network moves each time.
        target_update_interval: Transitions between moves of the target network.
        exploration_fraction: Part of the training over which epsilon falls from 1.
        exploration_final: Epsilon afterwards.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {
        **{"gamma": 0.98, "buffer_size": 100_000, "learning_starts": 5000, "batch_size": 256},
        "target_update_interval": 2000,
    }

    learning_rate: float = 1e-3
    max_grad_norm: float = 10.0
    buffer_size: int = 200_000
    learning_starts: int = 20_000
    batch_size: int = 1024
    train_freq: int = 1
    gradient_steps: int = 1
    tau: float = 1.0
    target_update_interval: int = 20_000
    exploration_fraction: float = 0.2
    exploration_final: float = 0.02

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        kept = max(self.buffer_size, num_envs) * (2.0 * width + 8)
        batch = float(self.batch_size) * (4 * width + n_actions)
        return {
            **super().arrays(num_envs, width, n_actions),
            "agent.buffer_size": kept,
            "agent.batch_size": batch,
        }
