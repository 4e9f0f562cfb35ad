"""Agents that can be trained: their typed settings, and what makes a learner of them.

An agent of your own is a dataclass derived from ``AgentConfig`` and a function that makes a
``learners.Learner`` of it: an ``AgentKind``, which ``AGENTS.register`` gives a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Registry

from .settings.base import A2cConfig, AgentConfig, DqnConfig, MaskablePpoConfig, PpoConfig
from .settings.own import (
    DestroyerConfig,
    ExpertConfig,
    ForecasterConfig,
    ImitationConfig,
    ProposerConfig,
    RolloutConfig,
)


@dataclass(frozen=True)
class AgentKind:
    """How an agent is trained.

    Attributes:
        schema: Its settings, a dataclass derived from ``AgentConfig``.
        factory: ``module:function`` that makes a learner of a ``TrainTask`` and the settings; imported only
            when it trains.
        tasks: Kinds of scenario that it is trained on.
        forecasts: Whether it learns the load of a scenario and not to play it.
        stack: ``module:function`` that makes a ``stacked.stack.Stack`` of several tasks and the settings:
            learners that differ in their seed alone learn in a batch. Empty = one after the other.
        in_step: Whether a batch takes those alone that have come equally far.
    """

    schema: type[AgentConfig]
    factory: str
    tasks: tuple[str, ...] = ("placement",)
    forecasts: bool = False
    stack: str = ""
    in_step: bool = True

    def make_learner(self, task: Any, config: AgentConfig) -> Any:
        """Make the learner.

        Raises:
            ConfigError: If what it needs is not installed.
        """
        return _make(self.factory, task, config)

    def make_stack(self, tasks: Sequence[Any], config: AgentConfig) -> Any:
        """Make learners of several tasks that learn in a batch, see ``make_learner``."""
        return _make(self.stack, tasks, config)


def _make(factory: str, what: Any, config: AgentConfig) -> Any:
    module, _, function = factory.partition(":")
    try:
        make: Callable[[Any, AgentConfig], Any] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("virtgym"):
            raise
        raise ConfigError(
            f"agent={config.name}: needs {error.name}, which is not installed; "
            "install PyTorch and the extra: pip install 'virtgym[rl]'"
        ) from None
    return make(what, config)


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
        stack = f"{__package__}.stacked.ppo:make_stacked_ppo" if issubclass(schema, PpoConfig) else ""
        factory = f"{__package__}.sb3:make_sb3_learner"
        tasks = ("placement", "cluster", *(() if schema is DqnConfig else ("rescheduling",)))
        made = AgentKind(schema, factory, tasks, stack=stack)
        AGENTS.register(name, description, made)
    AGENTS.register(
        "imitation",
        "imitates a policy's choices of candidates or moves (DAgger): a search, a rule or an agent",
        AgentKind(
            ImitationConfig,
            f"{__package__}.imitation:make_imitation_learner",
            ("cluster", "rescheduling"),
            stack=f"{__package__}.stacked.imitation:make_stacked_imitation",
            in_step=False,
        ),
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
        AgentKind(RolloutConfig, f"{__package__}.rollouts.learner:make_rollout_learner"),
    )
    AGENTS.register(
        "proposer",
        "what proposals of annealing are worth, for policy.guide=FOLDER of annealing",
        AgentKind(
            ProposerConfig,
            f"{__package__}.proposals.learner:make_proposal_learner",
            ("rescheduling",),
        ),
    )
    AGENTS.register(
        "destroyer",
        "which hosts to free, for policy.destroy=FOLDER of ortools_rescheduling",
        AgentKind(
            DestroyerConfig,
            f"{__package__}.proposals.destroyer:make_destroy_learner",
            ("rescheduling",),
        ),
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


def defaults_for(schema: type[AgentConfig], task: str) -> dict[str, Any]:
    """Settings of an agent that have another default on a kind of scenario than on placement."""
    bases = [kind for kind in reversed(schema.__mro__) if issubclass(kind, AgentConfig)]
    return {key: value for kind in bases for key, value in vars(kind).get(task.upper(), {}).items()}
