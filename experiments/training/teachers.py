"""Teachers of imitation: what an environment's candidates are worth to them, as probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.env import ReschedulingEnv
from virtgym.envs.rescheduling.game import refusal
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.sim.decisions import Decisions
from virtgym.policies import make_policy
from virtgym.policies.learned.agent import LearnedPolicy
from virtgym.policies.rescheduling.base import ReschedulingPolicy
from virtgym.policies.rescheduling.greedy import best_place
from virtgym.policies.search.policy import RolloutSearchPolicy


class Teacher(Protocol):
    """Says what it would choose."""

    def begin(self, env: Any, rng: np.random.Generator) -> None:
        """Begin an episode, which the environment has just begun."""

    def target(self) -> F8:
        """Probability of every candidate (action) that the environment offers now, (K,)."""


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


def make_move_teacher(name: str, params: Mapping[str, Any]) -> MoveTeacher:
    """Make a teacher of a policy of rescheduling; without ``iterations`` annealing makes 300,000.

    Raises:
        ConfigError: If there is no such policy, or it plans no moves.
    """
    own = {"iterations": 300_000} if name == "annealing" else {}
    policy: Any = make_policy(name, **{**own, **params})
    if not isinstance(policy, ReschedulingPolicy):
        raise ConfigError(
            f"agent.teacher={name}: plans no moves; on rescheduling use annealing or another that does"
        )
    return MoveTeacher(policy)


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


class MoveTeacher:
    """A policy that plans all moves: any of those that can be made now is as good as another.

    As long as the moves made are those of the plan, it is followed; after another one it is made anew. Of a
    VM that the plan leaves alone the best place is the one that gains most.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: ReschedulingPolicy) -> None:
        self.policy = policy

    def begin(self, env: ReschedulingEnv, rng: np.random.Generator) -> None:
        """Plan for this snapshot."""
        self._env, self._rng = env, rng
        self._plan: dict[int, int] | None = None
        self._moves = 0

    def target(self) -> F8:
        """Equal shares of the VMs that can be moved as planned; 1 for the place of the one that is chosen."""
        games = self._env.games
        p, s = games.params, games.state
        found: F8 = np.zeros(games.n_actions)
        plan, v = self._follow(games), int(s.chosen[0])
        if v >= 0:
            a = plan.get(v, -1)
            if a < 0 or refusal(games.kernel_params, games.kernel_state, 0, v, a):
                a = int(best_place(games.kernel_params, games.kernel_state, 0, v))
            found[p.n_vms + a] = 1.0
            return found
        ready = self._ready(games, plan)
        if plan and not ready:
            self._plan = None
            ready = self._ready(games, self._follow(games))
        found[ready or [p.n_vms + p.n_nodes]] = 1.0 / max(1, len(ready))
        return found

    def _follow(self, games: ReschedulingGames) -> dict[int, int]:
        """Places by VM of the moves that are left of the plan."""
        s, plan = games.state, self._plan
        if plan is not None and s.moves[0] > self._moves:
            v = int(s.last_vm[0])
            plan = plan if plan.pop(v, -1) == s.vm_node[0, v] else None
        if plan is None:
            moves = self.policy.plan_moves(games.fork(), self._rng, np.inf).moves
            plan = dict(moves.tolist())  # of a VM that waits at a spare place the last one
        self._plan, self._moves = plan, int(s.moves[0])
        return plan

    def _ready(self, games: ReschedulingGames, plan: dict[int, int]) -> list[int]:
        p, s = games.kernel_params, games.kernel_state
        return [v for v, a in plan.items() if refusal(p, s, 0, v, a) == 0]


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
