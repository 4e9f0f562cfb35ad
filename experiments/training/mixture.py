"""Training on several clusters at once, and over a rule: scales, rules by kind of cluster, margins.

What is learned on is a mixture of scenarios of any shape (``mix=``). So that a dear task does not drown a
cheap one, rewards are multiplied by what makes the suite's score of them: 100 / (cost of ``static`` - bound),
means over training seeds. With rules to fall back on (``fallback=``), the best of them on these seeds is
found for each kind of cluster (``policies.learned.fallback``); its plan is a candidate of training, and what
plays unless the agent is sure. At the end days of validation say for each kind how sure that must be
(``margins=``): the margin that is most certainly better than the rule, or none, and the rule alone plays. A
search among the rules is no plan of training, whose teacher it may be: at the end it plays alone, where it is
better than all rules.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.policies import make_policy
from virtgym.policies.learned.fallback import Fallback, traits_of
from virtgym.policies.learned.safety import NEVER
from virtgym.policies.learned.storage import Agent, Member
from virtgym.policies.search.policy import RolloutSearchPolicy

from ..analysis.stats import resampled_means
from ..run.cell import load_scenario, make_cell, run_cell
from ..suite.bound import cost_bound
from ..suite.scores import counted, score
from ..suite.tasks import SUITE, load_suite
from .cluster_task import ClusterTrainTask, ClusterValidation
from .learners import Validate

if TYPE_CHECKING:
    import pandas as pd

N_DAYS = 3
"""Seeds that scales and rules are found on, and days of each scenario in an evaluation."""

MARGIN_DAYS = 6
"""Days of validation of each scenario that margins are chosen on."""

CERTAINTY = 0.9
"""Confidence that a margin is better than the rule on a kind of cluster."""

MARGINS: tuple[float, ...] = (0.5, 1.0, 2.0)
"""Margins that are tried unless ``margins=`` says otherwise."""


@dataclass(frozen=True)
class Measured:
    """What training days say of a scenario before anything is learned.

    Attributes:
        name: Of the scenario.
        traits: Of its kind of cluster.
        static: Mean cost of doing nothing.
        scale: Points of the score that a unit of cost is worth.
        scores: Mean counted score of every rule.
        rule: The one of its kind; empty = none.
    """

    name: str
    traits: tuple[str, ...]
    static: float
    scale: float
    scores: Mapping[str, float]
    rule: str = ""


def measure(scenarios: Sequence[Scenario], rules: Sequence[str]) -> list[Measured]:
    """Find scales of scenarios, and the best rule of each kind of cluster.

    Args:
        scenarios: The scenarios, of kind cluster.
        rules: Policies that plan.

    Raises:
        ConfigError: If a rule does not plan.
    """
    for name in rules:
        need(hasattr(make_policy(name), "plan"), f"fallback: {name}: does not plan whole intervals")
    return with_best_rules([_measure(scenario, rules) for scenario in scenarios], searches=False)


def is_search(rule: str) -> bool:
    """Whether a policy tries in forks what a network could only guess."""
    return isinstance(make_policy(rule), RolloutSearchPolicy)


def with_best_rules(found: Sequence[Measured], searches: bool = True) -> list[Measured]:
    """With the rule of every kind of cluster: that with the best mean score, searches among them or not."""

    def best(traits: tuple[str, ...]) -> str:
        alike = [one.scores for one in found if one.traits == traits]
        rules = [rule for rule in alike[0] if searches or not is_search(rule)]
        return max(rules, key=lambda rule: sum(scores[rule] for scores in alike), default="")

    return [replace(one, rule=best(one.traits)) for one in found]


def _measure(scenario: Scenario, rules: Sequence[str]) -> Measured:
    days = [_day(scenario, rules, seed) for seed in load_suite(SUITE).train.seeds[:N_DAYS]]
    static, bound = (float(np.mean([day[k] for day in days])) for k in (0, 1))
    room = static - bound
    need(room > 0.0, f"scenario {scenario.name}: doing nothing is at the bound; there is nothing to learn")
    means = {rule: float(np.mean([day[2][rule] for day in days])) for rule in rules}
    return Measured(scenario.name, traits_of(scenario), static, 100.0 / room, means)


def _day(scenario: Scenario, rules: Sequence[str], seed: int) -> tuple[float, float, dict[str, float]]:
    """What doing nothing costs on a day, the bound, and the counted score of every rule."""
    day = load_scenario(asdict(scenario.config), seed)
    assert isinstance(day, Scenario)
    bound, static = cost_bound(day), float(run_cell(make_cell(day, "static"), seed).rows[0]["cost"])
    scores = {}
    for rule in rules:
        row = run_cell(make_cell(day, rule), seed).rows[0]
        scores[rule] = counted(score(row["cost"], static, bound), row["gate"])
    return static, bound, scores


@dataclass(frozen=True)
class MixedTrainTask(ClusterTrainTask):
    """Clusters of several scenarios, or one, with a rule to fall back on or without.

    Lanes are dealt out among the scenarios; episodes of imitation draw theirs.

    Attributes:
        others: Scenarios besides the first.
        measured: What is known of each scenario.
        margins: Margins that are tried.
    """

    others: tuple[Scenario, ...] = ()
    measured: tuple[Measured, ...] = ()
    margins: tuple[float, ...] = MARGINS

    def with_measured(
        self, known: Sequence[Mapping[str, Any]] | None, rules: Sequence[str]
    ) -> MixedTrainTask:
        """With what is known of the scenarios.

        Args:
            known: As a run folder has it; None = it is measured now.
            rules: What may be fallen back on.

        Raises:
            ConfigError: If a rule does not plan, or the run folder tells something else.
        """
        if known is None:
            return replace(self, measured=tuple(measure((self.scenario, *self.others), rules)))
        try:
            told = tuple(Measured(**{**one, "traits": tuple(one["traits"])}) for one in known)
        except (TypeError, KeyError) as error:
            raise ConfigError(f"scenarios.json: damaged ({error}); delete it to measure anew") from None
        return replace(self, measured=told)

    @functools.cached_property
    def _parts(self) -> tuple[ClusterTrainTask, ...]:
        shared = (self.num_envs, self.seed, self.total_timesteps, self.env)
        return tuple(
            ClusterTrainTask(scenario, *shared, rule=known.rule, scale=known.scale, device=self.device)
            for scenario, known in zip((self.scenario, *self.others), self.measured, strict=True)
        )

    @property
    def stages(self) -> tuple[ClusterTrainTask, ...]:
        """One for each scenario."""
        return self._parts

    def vec_env(self, *, flat: bool = True, observation: str = "candidates") -> Any:
        """The environments of all scenarios, as many of each as goes."""
        from virtgym.envs.sb3_lanes import MixedVecEnv

        n, rest = divmod(self.num_envs, len(self._parts))
        need(n > 0, f"num_envs={self.num_envs}: must be at least {len(self._parts)}, the number of scenarios")
        each = [replace(part, num_envs=n + (i < rest)) for i, part in enumerate(self._parts)]
        envs = MixedVecEnv([part.vec_env(flat=flat, observation=observation) for part in each])
        envs.seed(self.env_seed)
        return envs

    def fallbacks(self, margins: Mapping[tuple[str, ...], float] | None = None) -> tuple[Fallback, ...]:
        """The rule of every kind of cluster, with a margin: the least that is tried, unless one is given."""
        rules = {one.traits: one.rule for one in self.measured if one.rule}
        known = margins or {}
        return tuple(Fallback(t, rule, known.get(t, min(self.margins))) for t, rule in rules.items())

    def choose_margins(self, members: Sequence[Member]) -> tuple[Fallback, ...]:
        """The rule of every kind of cluster, now on more days, with the margin that is surely better on them.

        A margin must be better with confidence ``CERTAINTY``, and on no scenario worse in the mean. Rules are
        searches, too, which play alone.
        """
        task = replace(self, measured=tuple(with_best_rules([self._met(i) for i in range(len(self._parts))])))
        alone = {one.traits: is_search(one.rule) for one in task.measured if one.rule}
        return task.fallbacks(
            {traits: NEVER if search else task._margin(members, traits) for traits, search in alone.items()}
        )

    def _met(self, i: int) -> Measured:
        """What is known of scenario i, scores of rules on days of validation included."""
        known, part = self.measured[i], self._parts[i]
        seeds = ClusterValidation(part, MARGIN_DAYS).seeds
        days = [_day(part.scenario, list(known.scores), seed)[2] for seed in seeds]
        n = N_DAYS + len(days)
        scores = {
            rule: (N_DAYS * mean + sum(day[rule] for day in days)) / n for rule, mean in known.scores.items()
        }
        return replace(known, scores=scores)

    def _margin(self, members: Sequence[Member], traits: tuple[str, ...]) -> float:
        plays = [
            ClusterValidation(p, MARGIN_DAYS)
            for p, m in zip(self._parts, self.measured)
            if m.traits == traits
        ]

        def costs(margin: float) -> list[F8]:
            return [play.costs(self.agent_of(members, {traits: margin})) for play in plays]

        rule = costs(NEVER)
        gains = {margin: [base - mine for base, mine in zip(rule, costs(margin))] for margin in self.margins}
        best = max(gains, key=lambda margin: _sure(gains[margin]))
        return best if _sure(gains[best]) > 0.0 else NEVER

    def agent_of(
        self, members: Sequence[Member], margins: Mapping[tuple[str, ...], float] | None = None
    ) -> Agent:
        """An agent of networks that falls back by these margins alone; None = on every kind, by the least."""
        kinds = self.fallbacks(margins)
        kinds = tuple(one for one in kinds if margins is None or one.traits in margins)
        return Agent(tuple(members), self.kind, self.protocol, fallbacks=kinds)

    def described(self) -> dict[str, Any]:
        """With all scenarios and what was found about them."""
        return {**super().described(), "scenarios": [asdict(one) for one in self.measured]}

    def validation(self) -> Validate:
        """Plays some days of every scenario."""
        return MixedValidation(self)

    def compare_with_rules(self, agent: Path, rules: bool = True, n_days: int | None = 1) -> pd.DataFrame:
        """As ``TrainTask``, on some days of validation of every scenario."""
        import pandas as pd

        rows = [part.compare_with_rules(agent, rules, n_days) for part in self._parts]
        return pd.concat(rows, ignore_index=True)

    def fingerprint(self) -> str:
        """Fingerprints of all scenarios."""
        every = (self.scenario, *self.others)
        return " ".join(ClusterTrainTask(scenario).fingerprint() for scenario in every)


def mixture_of(task: ClusterTrainTask, others: Sequence[Any], margins: Sequence[float]) -> MixedTrainTask:
    """A task with other scenarios beside its own, not measured yet.

    Args:
        task: The task.
        others: Scenarios of kind cluster.
        margins: Margins that are tried; () = ``MARGINS``.
    """
    own = {f.name: getattr(task, f.name) for f in fields(ClusterTrainTask)}
    return MixedTrainTask(**own, others=tuple(others), margins=tuple(margins) or MARGINS)


def _sure(gains: Sequence[F8]) -> float:
    """What a margin surely gains over the rule, mean over scenarios; minus infinity if it loses on one."""
    if min(float(part.mean()) for part in gains) < 0.0:
        return -np.inf
    rng = np.random.default_rng(0)
    means = np.mean([resampled_means(part[:, None], rng) for part in gains], axis=0)
    return float(np.quantile(means, 1.0 - CERTAINTY))


class MixedValidation:
    """The objective, which is to be small: minus the mean score over scenarios.

    Where a rule plays unless the agent is sure, it is played alone, too, and the better of both counts: where
    the agent is worse, margins will leave the scenario to the rule.

    Args:
        task: The task.
    """

    unit = "minus the score"

    def __init__(self, task: MixedTrainTask) -> None:
        self.task = task
        self._plays = [ClusterValidation(part, N_DAYS) for part in task.stages]
        self._rules: list[float] = []

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of an agent."""
        if not self._rules:
            self._rules = [
                self._cost(i, members, NEVER) if known.rule else np.inf
                for i, known in enumerate(self.task.measured)
            ]
        margin = min(self.task.margins)
        found = [
            min(rule, self._cost(i, members, margin)) - known.scale * known.static
            for i, (rule, known) in enumerate(zip(self._rules, self.task.measured))
        ]
        return float(np.mean(found))

    def _cost(self, i: int, members: Sequence[Member], margin: float) -> float:
        """Mean cost of scenario i, in points."""
        kinds = {self.task.measured[i].traits: margin}
        return float(self._plays[i].costs(self.task.agent_of(members, kinds)).mean())
