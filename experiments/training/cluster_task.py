"""Training on clusters: days to learn on, days to validate on, and the rules to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.envs.arrays import B1, F4, F8
from virtgym.envs.cluster.candidates.settings import CandidateSettings
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.cluster.rewards import check_weights
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.policies.base import placers_in
from virtgym.policies.learned.agent import LearnedPolicy, env_options
from virtgym.policies.learned.architecture import CANDIDATES, ENV_OPTIONS
from virtgym.policies.learned.fallback import with_plan
from virtgym.policies.learned.storage import Agent, Member
from virtgym.policies.registry import make_policy

from ..config.overrides import PolicySpec
from ..run.cell import load_scenario, make_cell, run_cell
from ..run.fingerprint import trace_digest
from ..run.rollout import make_env, rollout
from ..run.rows import rows_frame
from ..suite.tasks import SUITE, load_suite
from .learners import TrainTask, Validate

if TYPE_CHECKING:
    import pandas as pd

RULES: tuple[str, ...] = ("static", "drs", "dpm", "platform")
"""Rules that a trained agent is compared with at the end: one of each kind, and all of them together."""

_REAL_DAYS = 3
"""Seeds of validation on a trace that is read: the load is the same, so that less differs between seeds."""


def validation_seeds(scenario: Scenario) -> list[int]:
    """Seeds of the days that agents are validated on: the suite's split of this name, whatever the scenario.

    Training draws its days from a generator of its own, of 2³¹ seeds; that it ever meets one of these is as
    good as impossible.
    """
    seeds = load_suite(SUITE).validation.seeds
    return seeds if scenario.config.trace.path is None else seeds[:_REAL_DAYS]


class ClusterValidation:
    """Plays agents on days that training does not play.

    The objective, which is to be small, is the mean over days of minus the episode's return: with the default
    reward the cost of a day.

    Args:
        task: The task.
        n_days: Days, at most.
    """

    def __init__(self, task: ClusterTrainTask, n_days: int | None = None) -> None:
        self.task = task
        self.seeds = validation_seeds(task.scenario)[:n_days]

    @property
    def unit(self) -> str:
        """What an objective is, for people."""
        return f"{self.task.scenario.cluster.cost.unit} a day" if not self.task.reward else "minus return"

    @cached_property
    def _envs(self) -> list[Any]:
        """An environment for each day."""
        scenarios = [load_scenario(asdict(self.task.scenario.config), seed) for seed in self.seeds]
        return [make_env(one, reward=self.task.reward, **self.task.options) for one in scenarios]  # type: ignore[arg-type]

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of an agent."""
        return float(self.costs(Agent(tuple(members), "cluster", self.task.protocol)).mean())

    def costs(self, agent: Agent) -> F8:
        """Minus the return of every day, (days,)."""
        policy = LearnedPolicy(agent)
        played = [rollout(env, policy, seed, heat=False) for env, seed in zip(self._envs, self.seeds)]
        return -np.array([one.episode_return for one in played])


@dataclass(frozen=True)
class ClusterTrainTask(TrainTask):
    """A cluster to be operated: a generated day anew in each episode, or one trace with different seeds.

    Attributes:
        env: Arguments of the environment, those of ``config.env.env_options``.
        rule: A policy whose plan is the last of the plans among candidates, and which says who places VMs;
            empty = none.
        scale: What rewards are multiplied by.
    """

    kind: ClassVar[str] = "cluster"
    scenario: Scenario
    env: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no agent's folder could say.

        Raises:
            ConfigError: Naming the key.
        """
        env_options("env.", self.options)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the environment that decide what is observed and what actions mean."""
        given = {key: value for key, value in self.env.items() if key in ENV_OPTIONS and value is not None}
        offered = CandidateSettings.of(given.get("candidates")).plain()
        if self.rule:
            offered = with_plan(offered, self.rule)
            given |= placers_in(make_policy(self.rule), self.scenario.cluster)
        return {**given, "actions": CANDIDATES, "candidates": offered}  # in full: defaults may change one day

    @property
    def reward(self) -> dict[str, float]:
        """Weights of reward terms laid over the default; empty = minus the cost."""
        own = dict(self.env.get("reward") or {})
        if self.scale == 1.0:
            return own
        return {term: weight * self.scale for term, weight in check_weights(own).items() if weight}

    @property
    def stages(self) -> tuple[ClusterTrainTask, ...]:
        """What is learned by turns: of a mixture its parts."""
        return (self,)

    @property
    def protocol(self) -> dict[str, Any]:
        """The same options, for the agent's folder."""
        return self.options

    def vec_env(self, *, flat: bool = True, observation: str = CANDIDATES) -> Any:
        """Environments that draw a new day for each episode, where days are generated.

        Args:
            flat: Whether observations are vectors, or a Dict.
            observation: ``candidates``.
        """
        from virtgym.envs.sb3 import ClusterVecEnv

        anew = self.scenario.config.trace.path is None
        own: dict[str, Any] = {"reward": self.reward, "resample_trace": anew, **self.options}
        envs = ClusterVecEnv(self.num_envs, self.scenario, flat=flat, **own)
        envs.seed(self.env_seed)
        return envs

    def make_env(self) -> ClusterEnv:
        """A single environment to learn in."""
        anew = self.scenario.config.trace.path is None
        made = make_env(self.scenario, reward=self.reward, resample_trace=anew, **self.options)
        return made.unwrapped  # type: ignore[return-value]

    @staticmethod
    def look(env: ClusterEnv) -> tuple[F4, B1]:
        """What an environment shows, in one vector, and what is offered."""
        return env.form.flat, env.form.candidates.mask

    def described(self) -> dict[str, Any]:
        """With the reward and the seeds of the days of validation."""
        return {
            **super().described(),
            "reward": self.reward,
            "validation_seeds": validation_seeds(self.scenario),
        }

    def validation(self) -> Validate:
        """Plays the days of ``validation_seeds``."""
        return ClusterValidation(self)

    def compare_with_rules(self, agent: Path, rules: bool = True, n_days: int | None = None) -> pd.DataFrame:
        """As ``TrainTask``, with ``RULES`` and the days of validation, so many at most."""
        rows = []
        for seed in validation_seeds(self.scenario)[:n_days]:
            day = load_scenario(asdict(self.scenario.config), seed)
            for name in (str(agent), *(RULES if rules else ())):
                rows += run_cell(make_cell(day, PolicySpec(name)), seed).rows
        return rows_frame(rows)

    def fingerprint(self) -> str:
        """Fingerprint of the load of the first day: where it is read, no configuration tells it."""
        return trace_digest(self.scenario)
