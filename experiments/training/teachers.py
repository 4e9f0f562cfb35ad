"""Teachers of imitation: what an environment's candidates are worth to them, as probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.policies import make_policy
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.search.policy import RolloutSearchPolicy


class Teacher(Protocol):
    """Says what it would choose."""

    def begin(self, env: ClusterEnv, rng: np.random.Generator) -> None:
        """Begin an episode, which the environment has just begun."""

    def target(self) -> F8:
        """Probability of every candidate that the environment offers now, (K,)."""


def make_teacher(
    name: str, params: Mapping[str, Any], reward: Mapping[str, float], temperature: float
) -> Teacher:
    """Make a teacher of a policy.

    Args:
        name: Name of a policy, dotted path or agent's folder.
        params: Its parameters.
        reward: Weights of the reward that is to be earned.
        temperature: How soft the choices of a search are, in rewards of an interval.

    Raises:
        ConfigError: If there is no such policy, or it is none of clusters.
    """
    policy: Any = make_policy(name, **params)
    if isinstance(policy, RolloutSearchPolicy):
        if not policy.reward:
            policy = make_policy(name, **{**params, "reward": dict(reward)})
        return SearchTeacher(policy, temperature)
    if isinstance(policy, LearnedPolicy) and policy.task == "cluster":
        return AgentTeacher(policy)
    if not hasattr(policy, "plan"):
        raise ConfigError(f"agent.teacher={name}: neither plans intervals nor chooses candidates")
    return PlanTeacher(policy)


class SearchTeacher:
    """Prefers what a search finds best: a softmax of the values.

    Args:
        policy: The search.
        temperature: In rewards of an interval in which nothing is done.
    """

    def __init__(self, policy: RolloutSearchPolicy, temperature: float) -> None:
        self.policy, self.temperature = policy, temperature

    def begin(self, env: ClusterEnv, rng: np.random.Generator) -> None:
        """Search among what the environment offers."""
        self._env = env
        self.policy.bind(env.view, env.form)

    def target(self) -> F8:
        """The softmax."""
        self.policy.take_up(self._env.view)
        values = self.policy.rate()
        unit = max(abs(values[0]) / self.policy.horizon, 1e-12)
        return _softmax(values / (self.temperature * unit))


class AgentTeacher:
    """Another agent.

    Args:
        policy: The agent.
    """

    def __init__(self, policy: LearnedPolicy) -> None:
        self.policy = policy

    def begin(self, env: ClusterEnv, rng: np.random.Generator) -> None:
        """Look at what the environment shows.

        Raises:
            ConfigError: If the agent plays with other candidates.
        """
        self._form = env.form
        if self.policy.env_options.get("candidates") != env.form.settings.plain():
            raise ConfigError(
                f"agent.teacher={self.policy.name}: chooses from other candidates; "
                "set env.candidates to what its agent.json says"
            )

    def target(self) -> F8:
        """Its probabilities."""
        form = self._form
        parts = [part.reshape(1, -1) for part in form.split(form.flat).values()]
        return _softmax(self.policy.scores(parts, form.candidates.mask[None])[0].astype(np.float64))


class PlanTeacher:
    """A policy that plans whole intervals: of the candidates, the one most like its plan.

    Likeness is the share of orders that both have of those that one has; a VM that moves elsewhere counts as
    half of one. With the policy among ``env.candidates.plans`` its plan is a candidate itself.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def begin(self, env: ClusterEnv, rng: np.random.Generator) -> None:
        """Plan for this cluster."""
        self._env = env
        self.policy.reset(env.view, rng)
        self._planned_s = -np.inf

    def target(self) -> F8:
        """1 for the choice; nothing once the plan of the interval has been followed."""
        env = self._env
        mask = env.form.candidates.mask
        found: F8 = np.zeros(len(mask))
        best, likeness = 0, 0.0
        if env.view.time_s > self._planned_s:
            self._planned_s = env.view.time_s
            plan = (
                self.policy.plan_kept() if hasattr(self.policy, "plan_kept") else self.policy.plan(env.view)
            )
            for k in np.flatnonzero(mask).tolist() if len(plan) else ():
                if (alike := _likeness(plan, env.form.decisions(k))) > likeness:
                    best, likeness = k, alike
        found[best] = 1.0
        return found


def _likeness(a: Decisions, b: Decisions) -> float:
    """0 = nothing in common, 1 = the same orders."""
    mine, theirs = set(a.subjects()), set(b.subjects())
    elsewhere = {(kind, vm) for kind, vm, _ in mine - theirs if vm >= 0}
    half = sum((kind, vm) in elsewhere for kind, vm, _ in theirs - mine)
    return (len(mine & theirs) + 0.5 * half) / max(1, len(mine | theirs) - half)


def _softmax(scores: F8) -> F8:
    found: F8 = np.exp(scores - scores.max())
    found /= found.sum()
    return found
