"""Agents that can be trained: their typed settings, and what makes a learner of them.

An agent of your own is a dataclass derived from ``AgentConfig`` and a function that makes a
``learners.Learner`` of it: an ``AgentKind``, which ``AGENTS.register`` gives a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Registry

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
        observation: What is observed: ``basic``, or ``slots``, with more columns; of clusters ``candidates``.
        network: ``equivariant`` (any number of hosts), for clusters ``scorer`` (any cluster); or ``mlp``.
        hidden: Widths of hidden layers; ``equivariant`` and ``scorer`` have two of the same width.
        activation: ``relu`` or ``tanh``.
        learning_rate: Step size of the optimiser.
        schedule: ``linear``: the step size falls to 0 over the training; or ``constant``.
        gamma: Discount per decision; of clusters, per interval.
        max_grad_norm: Gradients are shortened to this length.
        CLUSTER: Settings that have another default on clusters. Those of a class hold for the classes that
            are derived from it.
        NAMES: Settings that are lists of names.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"observation": "candidates", "network": "scorer"}
    NAMES: ClassVar[tuple[str, ...]] = ()

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
        for key in ("gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_final"):
            if getattr(self, key, 0.0) > 1.0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be at most 1")
        for key in ("learning_rate", "n_steps", "batch_size", "n_epochs", "buffer_size", "train_freq"):
            if getattr(self, key, 1) <= 0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be positive")

    def choices(self, task: str) -> dict[str, tuple[str, ...]]:
        """What is allowed of the settings that are names."""
        from virtgym.envs.placement.observations import OBSERVATIONS
        from virtgym.policies.learned.architecture import ACTIVATIONS, CANDIDATES, NETWORKS

        return {
            "observation": (CANDIDATES,) if task == "cluster" else OBSERVATIONS,
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


_PLAYERS = ("first_host_emptier_node", "best_host_emptier_node", "balance_fit", "first_fit")


@dataclass
class RolloutConfig(AgentConfig):
    """Settings of rollout policy iteration.

    Attributes:
        rules: Who plays the windows of the first rounds; each window draws one.
        base: The rule that plays on from trials in these rounds.
        rule_share: Share of the training in which rules do so; afterwards the network does both.
        horizon: Decisions for which the network plays on from a trial, then ``first_host_emptier_node`` does.
        probability: Of a state being compared.
        noise: Of a random action in the games, so that states vary.
        states: States compared in a round.
        batch_size: States of a minibatch.
        n_epochs: Passes over a round's states.
        ent_coef: β.
        cost_scale_s: c, s.
        level_weight: l.
        cost_cap_s: Costs are cut off here, s: the few worst games decide nothing else.
        average: Weight of the past in the moving average of the weights, per minibatch.
        population: Networks that learn from the same comparisons.
        resampled: Requests, resampled from the rows for training, that select beside these rows.
        large_share: Share of them replaced by requests for more than half a node.
        safety: The rule that plays unless the agent is sure; empty = none.
        margins: Margins of the safety that are tried, in logits.
        least_share: Room is kept for the large requests that are at least this share of all.
        selection_windows: Windows that decide which network is the policy: without a safety by the trimmed
            mean of waits, else together with the margin by ``certainty``.
        certainty: Confidence of being better than the safety's rule.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("rules",)

    hidden: list[int] = field(default_factory=lambda: [32, 32])
    learning_rate: float = 1e-3
    gamma: float = 1.0
    rules: list[str] = field(default_factory=lambda: list(_PLAYERS))
    base: str = "first_host_emptier_node"
    rule_share: float = 1.0
    horizon: int = 60
    probability: float = 0.05
    noise: float = 0.05
    states: int = 8192
    batch_size: int = 1024
    n_epochs: int = 4
    ent_coef: float = 0.05
    cost_scale_s: float = 30_000.0
    level_weight: float = 0.0
    cost_cap_s: float = 1e6
    average: float = 0.99
    population: int = 12
    resampled: int = 0
    large_share: float = 0.001
    safety: str = ""
    margins: list[float] = field(default_factory=lambda: [0.02, 0.05, 0.1])
    least_share: float = 2e-4
    selection_windows: int = 500
    certainty: float = 0.9

    def check(self, task: str = "placement") -> None:
        """Refuse impossible values.

        Args:
            task: Kind of scenario that is trained on.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        from virtgym.policies.learned.safety import Safety
        from virtgym.policies.placement.rules import rule_number

        if not self.rules:
            raise ConfigError("agent.rules=[]: name at least one rule of the placement game")
        for name in (*self.rules, self.base):
            rule_number(name)
        if self.safety:
            Safety(self.safety)
            if not self.margins:
                raise ConfigError("agent.margins=[]: name at least one margin of the safety")
        super().check(task)
        for key in ("certainty", "large_share", "least_share"):
            if getattr(self, key) >= 1.0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be below 1")
        for key in ("rule_share", "probability", "noise", "average"):
            if getattr(self, key) > 1.0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be at most 1")
        for key in ("probability", "states", "cost_scale_s", "cost_cap_s", "population", "selection_windows"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be positive")
        if self.average == 1.0:
            raise ConfigError("agent.average=1: must be below 1, or nothing is ever learned")
        if self.network != "equivariant" or self.activation != "relu":
            raise ConfigError(f"agent={self.name}: plays equivariant networks with relu only")

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        return {
            "agent.states": float(self.states) * (2 * width + 8 * n_actions),
            "agent.states / agent.probability": 40.0 * self.states / self.probability,  # windows drawn
            "agent.resampled": 40.0 * self.resampled,
            "agent.selection_windows": 8.0 * self.selection_windows,
            "agent.population": 6.0 * self.population * sum(self.hidden) * (width + 8 * max(self.hidden)),
        }


@dataclass
class ForecasterConfig(AgentConfig):
    """Settings of the forecaster, which learns the demand of VMs and not to act; a timestep is a forecast.

    Attributes:
        batch_size: Forecasts of a minibatch.
        horizon: Steps ahead, from 1 on, that it learns.
        young: Share of forecasts that are made of at most ``inputs.RECENT`` samples.
        days: Generated days to learn from.
        traces: Where load is read from a trace: others to learn from, whole. Without any, it learns from the
            first part of the trace that it is validated on the rest of.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"observation": "series", "network": "quantiles"}
    NAMES: ClassVar[tuple[str, ...]] = ("traces",)

    hidden: list[int] = field(default_factory=lambda: [32, 32])
    learning_rate: float = 2e-3
    gamma: float = 1.0
    max_grad_norm: float = 1.0
    batch_size: int = 1024
    horizon: int = 12
    young: float = 0.2
    days: int = 20
    traces: list[str] = field(default_factory=list)

    def choices(self, task: str) -> dict[str, tuple[str, ...]]:
        """One of each: it has one network that reads one thing."""
        fixed = {"observation": ("series",), "network": ("quantiles",), "activation": ("relu",)}
        return {**super().choices(task), **fixed}

    def check(self, task: str = "cluster") -> None:
        """Refuse impossible values.

        Args:
            task: Kind of scenario that is trained on.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        super().check(task)
        if self.young > 1.0:
            raise ConfigError(f"agent.young={self.young}: must be at most 1")
        for key, most in (("horizon", 1000), ("days", 1000), ("batch_size", 1 << 16)):
            if not 1 <= getattr(self, key) <= most:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be from 1 to {most}")


@dataclass
class ImitationConfig(AgentConfig):
    """Settings of imitation.

    Attributes:
        teacher: Who says what to choose: ``rollout_search``, another policy that plans, or an agent's folder.
        teacher_params: Parameters of the teacher.
        student_share: Share of decisions that the student makes itself at the end of training, from 0 at its
            beginning (DAgger); the teacher makes the others.
        noise: Share of decisions that are drawn at random.
        temperature: How much less a choice may be worth, in rewards of an interval, for its probability to be
            1/e of the best one's (teacher ``rollout_search``).
        buffer_size: States that are kept to learn from, the latest.
        batch_size: States of a minibatch.
        n_epochs: Passes over all states after each ``num_envs`` episodes.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"gamma": 0.98}

    learning_rate: float = 1e-3
    teacher: str = "rollout_search"
    teacher_params: dict[str, Any] = field(default_factory=dict)
    student_share: float = 0.8
    noise: float = 0.1
    temperature: float = 0.1
    buffer_size: int = 50_000
    batch_size: int = 256
    n_epochs: int = 4

    def check(self, task: str = "cluster") -> None:
        """Refuse impossible values.

        Args:
            task: Kind of scenario that is trained on.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        super().check(task)
        for key in ("student_share", "noise"):
            if getattr(self, key) > 1.0:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be at most 1")
        if self.temperature <= 0:
            raise ConfigError(f"agent.temperature={self.temperature}: must be positive")

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        return {
            "agent.buffer_size": float(self.buffer_size) * (width + n_actions),
            "agent.batch_size": 4.0 * self.batch_size * (width + n_actions),
        }


@dataclass
class ExpertConfig(PpoConfig, ImitationConfig):
    """Settings of expert iteration: imitation of a search that the student improves, then PPO.

    Attributes:
        search_share: Share of the training in which a search is imitated; PPO goes on from there.
        warm_up: Rounds of imitation before the student plays on in the forks of the search.
        search_rollouts: Candidates that a guided search tries, the student's best; null = all.
        ppo_learning_rate: Step size of PPO.
    """

    CLUSTER: ClassVar[Mapping[str, Any]] = {"schedule": "linear"}

    search_share: float = 0.5
    warm_up: int = 1
    search_rollouts: int | None = None
    ppo_learning_rate: float = 3e-4

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        imitation = ImitationConfig.arrays(self, num_envs, width, n_actions)
        return {**imitation, **PpoConfig.arrays(self, num_envs, width, n_actions)}


@dataclass(frozen=True)
class AgentKind:
    """How an agent is trained.

    Attributes:
        schema: Its settings, a dataclass derived from ``AgentConfig``.
        factory: ``module:function`` that makes a learner of a ``TrainTask`` and the settings; imported only
            when it trains.
        tasks: Kinds of scenario that it is trained on.
        forecasts: Whether it learns the load of a scenario and not to play it.
    """

    schema: type[AgentConfig]
    factory: str
    tasks: tuple[str, ...] = ("placement",)
    forecasts: bool = False

    def make_learner(self, task: Any, config: AgentConfig) -> Any:
        """Make the learner.

        Raises:
            ConfigError: If what it needs is not installed.
        """
        module, _, function = self.factory.partition(":")
        try:
            make: Callable[[Any, AgentConfig], Any] = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("virtgym"):
                raise
            raise ConfigError(
                f"agent={config.name}: needs {error.name}, which is not installed; "
                "install PyTorch and the extra: pip install 'virtgym[rl]'"
            ) from None
        return make(task, config)


AGENTS = Registry("agent", lambda thing: isinstance(thing, AgentKind), f"an AgentKind of {__name__}")
"""Every agent by name."""


def _register_agents() -> None:
    sb3: dict[str, tuple[str, type[AgentConfig]]] = {
        "ppo": ("PPO of Stable-Baselines3; illegal actions are masked", PpoConfig),
        "a2c": ("A2C of Stable-Baselines3; illegal actions are masked", A2cConfig),
        "dqn": (
            "DQN of Stable-Baselines3; illegal actions are neither played nor bootstrapped from",
            DqnConfig,
        ),
        "maskable_ppo": ("MaskablePPO of sb3-contrib, with the environment's masks", MaskablePpoConfig),
    }
    for name, (description, schema) in sb3.items():
        made = AgentKind(schema, f"{__package__}.sb3:make_sb3_learner", ("placement", "cluster"))
        AGENTS.register(name, description, made)
    AGENTS.register(
        "imitation",
        "imitates a policy's choices of candidates (DAgger): a search, a rule or an agent",
        AgentKind(ImitationConfig, f"{__package__}.imitation:make_imitation_learner", ("cluster",)),
    )
    AGENTS.register(
        "expert_iteration",
        "imitates a search that plays on with what it has taught, then learns by PPO",
        AgentKind(ExpertConfig, f"{__package__}.expert:make_expert_learner", ("cluster",)),
    )
    AGENTS.register(
        "rollout_iteration",
        "rollout policy iteration: compares all actions of a state under one future; "
        "placement by waiting time",
        AgentKind(RolloutConfig, f"{__package__}.rollouts:make_rollout_learner"),
    )
    AGENTS.register(
        "forecaster",
        "mean and upper quantiles of VMs' demand, for policy.forecaster=FOLDER of dpm, dpm_ortools, drs",
        AgentKind(
            ForecasterConfig,
            f"{__package__}.forecasts.learner:make_forecast_learner",
            ("cluster",),
            forecasts=True,
        ),
    )


_register_agents()


def agent_kind(name: str) -> AgentKind:
    """Look an agent up, by name or dotted path.

    Raises:
        ConfigError: If there is none.
    """
    kind: AgentKind = AGENTS.find(name).factory
    return kind


def default_config(name: str) -> AgentConfig:
    """The settings of an agent with all defaults, those of placement.

    Raises:
        ConfigError: If there is none of this name.
    """
    return agent_kind(name).schema(name=name, description=AGENTS.get(name, ""))


def cluster_defaults(schema: type[AgentConfig]) -> dict[str, Any]:
    """Settings of an agent that have another default on clusters."""
    bases = [kind for kind in reversed(schema.__mro__) if issubclass(kind, AgentConfig)]
    return {key: value for kind in bases for key, value in vars(kind).get("CLUSTER", {}).items()}
