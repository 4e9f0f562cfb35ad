"""Settings of virtgym's own learners: rollout iteration, forecaster, imitation, expert iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from virtgym.envs.errors import ConfigError

from .base import AgentConfig, PpoConfig

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

    SHARES: ClassVar[tuple[str, ...]] = (
        *AgentConfig.SHARES,
        *("rule_share", "probability", "noise", "average"),
    )
    POSITIVE: ClassVar[tuple[str, ...]] = (
        *AgentConfig.POSITIVE,
        *("probability", "states", "cost_scale_s", "cost_cap_s", "population", "selection_windows"),
    )

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

    SHARES: ClassVar[tuple[str, ...]] = (*AgentConfig.SHARES, "young")

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
        for key, most in (("horizon", 1000), ("days", 1000), ("batch_size", 1 << 16)):
            if not 1 <= getattr(self, key) <= most:
                raise ConfigError(f"agent.{key}={getattr(self, key)}: must be from 1 to {most}")


@dataclass
class SearchGuideConfig(AgentConfig):
    """Settings of the learners of what leads a search; a timestep is an action of a game, two of a move.

    Attributes:
        n_epochs: Steps of the optimiser after every search.
    """

    learning_rate: float = 3e-3
    gamma: float = 1.0
    n_epochs: int = 100

    def choices(self, task: str) -> dict[str, tuple[str, ...]]:
        """One of each: it has one network that reads one thing."""
        fixed = {key: (str(self.RESCHEDULING[key]),) for key in ("observation", "network")}
        return {**super().choices(task), **fixed, "activation": ("relu",)}


@dataclass
class ProposerConfig(SearchGuideConfig):
    """Settings of the learner of a guide of annealing."""

    RESCHEDULING: ClassVar[Mapping[str, Any]] = {
        **{"observation": "proposal", "network": "odds", "hidden": [16, 16]},
    }


@dataclass
class DestroyerConfig(SearchGuideConfig):
    """Settings of the learner of a destroy operator of large-neighbourhood search.

    Attributes:
        iterations: Neighbourhoods of a search.
        begin: What they begin with, as of ``ortools_rescheduling``.
        noise: Share of neighbourhoods that are drawn at random.
        buffer_size: Hosts of states that are kept to learn from, the latest.
    """

    SHARES: ClassVar[tuple[str, ...]] = (*AgentConfig.SHARES, "noise")
    POSITIVE: ClassVar[tuple[str, ...]] = (*AgentConfig.POSITIVE, "iterations")
    RESCHEDULING: ClassVar[Mapping[str, Any]] = {
        **{"observation": "host", "network": "host_odds", "hidden": [16, 16]},
    }

    n_epochs: int = 30
    iterations: int = 8
    begin: str = "exchanges"
    noise: float = 0.3
    buffer_size: int = 40_000

    def choices(self, task: str) -> dict[str, tuple[str, ...]]:
        """With what a search begins."""
        from virtgym.policies.rescheduling.ortools import BEGINNINGS

        return {**super().choices(task), "begin": BEGINNINGS}

    def arrays(self, num_envs: int, width: int, n_actions: int) -> dict[str, float]:
        """As ``AgentConfig.arrays``."""
        return {"agent.buffer_size": 32.0 * self.buffer_size}


@dataclass
class ImitationConfig(AgentConfig):
    """Settings of imitation.

    Attributes:
        teacher: Who says what to choose: ``rollout_search``, another policy that plans, or an agent's folder;
            of rescheduling a policy that plans moves.
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

    SHARES: ClassVar[tuple[str, ...]] = (*AgentConfig.SHARES, "student_share", "noise")
    POSITIVE: ClassVar[tuple[str, ...]] = (*AgentConfig.POSITIVE, "temperature")

    CLUSTER: ClassVar[Mapping[str, Any]] = {"gamma": 0.98}
    RESCHEDULING: ClassVar[Mapping[str, Any]] = {
        **{"teacher": "annealing", "student_share": 0.5, "noise": 0.02, "buffer_size": 1000},
        **{"batch_size": 50, "n_epochs": 2},
    }

    learning_rate: float = 1e-3
    teacher: str = "rollout_search"
    teacher_params: dict[str, Any] = field(default_factory=dict)
    student_share: float = 0.8
    noise: float = 0.1
    temperature: float = 0.1
    buffer_size: int = 50_000
    batch_size: int = 256
    n_epochs: int = 4

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
