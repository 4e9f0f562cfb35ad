"""``rollout_search``: every candidate is tried in a fork of what is shown, the best is carried out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import B1, F8, I8
from virtgym.envs.checks import need, one_of
from virtgym.envs.cluster.candidates.form import CandidateForm
from virtgym.envs.cluster.candidates.plugins import make_plugins
from virtgym.envs.cluster.candidates.settings import NOTHING as IDLE
from virtgym.envs.cluster.candidates.settings import PLACE, CandidateSettings
from virtgym.envs.sim.config import ARRIVAL_RULES, ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED

from ..base import PlanningPolicy
from ..forecast.forecasters import make_forecaster
from ..forecast.history import History
from ..learned.architecture import CANDIDATES, Layout
from ..planning.arrivals import is_guarded
from ..planning.plans import merge_plans
from ..registry import make_policy
from ..ties import first_best
from .kernels import NOTHING, UPKEEP
from .trials import Trials

FUTURES = ("mean", "recent")
"""What demand does in forks."""

LONGEST_PAST = 2000
"""Samples that are kept for a forecaster that looks at all of them."""


@dataclass
class RolloutSearchPolicy(PlanningPolicy):
    """Try candidates under a forecast of demand, carry the best out, and go on until nothing is better.

    Attributes:
        horizon: Intervals for which a candidate is tried.
        discount: Weight of an interval in that of the one before.
        future: What demand does in forks: ``mean``, it stays at its forecast; ``recent``, it goes back over
            the newest samples, so that it varies as it did, and then stays there.
        forecaster: What it stays at: a name of ``forecast.FORECASTERS``, or a dotted path.
        forecast: Parameters of the forecaster.
        candidates: What is offered: settings of ``CandidateSettings``; with an agent as ``base``, its own.
        base: What plays on in the fork after the candidate that is tried: ``nothing``; ``upkeep``, which
            places what waits, relieves overloaded hosts and switches empty ones off; or an agent's folder,
            whose scores also order what is tried.
        choices: Candidates that are carried out in one interval, at most; null = max(8, H // 10).
        rollouts: Candidates that are tried for one choice, at most, ``nothing`` first, then in the order of
            their slots, or with an agent as ``base`` of its scores; null = all.
        budget_ms: Time for one choice in place of that, ms: results cannot be reproduced then. null = none.
        arrivals: Rule that places VMs that arrive, one of ``config.ARRIVAL_RULES``; null = the scenario's.
            Where placement rules or a guarantee are to be kept, the search places them itself.
        reward: Weights of reward terms laid over the default, minus the cost.
    """

    kind: ClassVar[str] = "solver"

    horizon: int = 24
    discount: float = 0.95
    future: str = "mean"
    forecaster: str = "ewma"
    forecast: dict[str, Any] = field(default_factory=lambda: {"alpha": 0.2})
    candidates: dict[str, Any] = field(default_factory=lambda: {"plans": ["dpm_ortools"]})
    base: str = NOTHING
    choices: int | None = None
    rollouts: int | None = None
    budget_ms: float | None = None
    arrivals: str | None = None
    reward: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        need(self.horizon >= 1, f"policy.horizon={self.horizon}: must be at least 1")
        need(0.0 < self.discount <= 1.0, f"policy.discount={self.discount}: must be above 0 and at most 1")
        for name in ("choices", "rollouts"):
            value = getattr(self, name)
            need(value is None or value >= 1, f"policy.{name}={value}: must be at least 1, or null")
        need(
            self.budget_ms is None or self.budget_ms > 0.0,
            f"policy.budget_ms={self.budget_ms}: must be positive, or null",
        )
        one_of("policy.future", self.future, FUTURES)
        if self.arrivals is not None:
            one_of("policy.arrivals", self.arrivals, ARRIVAL_RULES)
        self._forecaster = make_forecaster(self.forecaster, "policy.forecaster", **self.forecast)
        folder = os.sep in self.base or os.path.isdir(self.base)
        if not folder:
            one_of("policy.base", self.base, (NOTHING, UPKEEP))
        self.follow(make_policy(self.base) if folder else None)
        # Told of every choice: what offers, what each candidate is worth, and the one that is chosen.
        self.listener: Callable[[CandidateForm, F8, int], None] | None = None

    def follow(self, agent: Any) -> None:
        """Let an agent play on in forks, from the next episode on; None = what ``base`` says.

        Raises:
            ConfigError: If the agent is an ensemble, of placement, or reads other columns.
        """
        self._agent, given = agent, self.candidates
        base: Any = self.base
        if agent is not None:
            members = agent.agent.members
            fits = len(members) == 1 and members[0].layout == Layout.current(CANDIDATES)
            need(fits, f"policy.base={agent.name}: must be one network with this version's columns")
            base, given = members[0], agent.env_options.get("candidates", given)
        self._settings = CandidateSettings.of(given)
        self._plugins = make_plugins(self._settings)
        self._trials = Trials(self.reward, self.horizon, self.discount, base)

    def arrival_in(self, cluster: ClusterConfig) -> str | None:
        """``arrivals``; where rules or a guarantee are to be kept, the search places itself."""
        return "policy" if is_guarded(cluster) else self.arrivals

    def restart_in(self, cluster: ClusterConfig) -> str | None:
        """The engine restarts, or where there are rules the search."""
        return "policy" if cluster.rules else self.restart

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view; nothing is known of the past."""
        super().reset(view, rng)
        limit = self.choices or max(8, view.n_hosts // 10)
        form = CandidateForm(view.fork(), self._settings, self._plugins, limit)
        form.reset()
        for plugin in self._plugins:
            if hasattr(plugin, "reset"):
                plugin.reset(view, np.random.default_rng(rng.integers(2**31 - 1)))
        self.bind(view, form)

    def bind(self, view: ClusterView, form: CandidateForm) -> None:
        """Begin an episode in which ``form`` offers what is tried.

        Args:
            view: The cluster.
            form: Of the policy itself, or of an environment.
        """
        self._form = form
        self._trials.bind(view, form)
        depth = max(self._forecaster.samples or LONGEST_PAST, self.horizon)
        self._history = History(view.n_vms, depth)
        self._seen_s = -np.inf

    def plan(self, view: ClusterView) -> Decisions:
        """Choose candidates until *nothing* is best, or enough are chosen."""
        form = self._form
        self.take_up(view)
        form.sim = self._trials.sim
        if view.time_s > 0.0:
            form.remember()
        plans, n = [Decisions()], 0
        while n < form.limit:
            form.write(-1, n)
            values = self.rate()
            k = first_best(values, form.candidates.mask)
            if self.listener is not None:
                self.listener(form, values, max(k, 0))
            if k <= 0:
                break
            plans.append(form.decisions(k))
            self._trials.take(k)
            n += form.candidates.kind[k] != PLACE  # who waits is no reason to put off the rest
        return _one_plan(plans)

    def take_up(self, view: ClusterView) -> None:
        """Take note of what was measured, and try candidates from what is shown now."""
        if view.time_s > self._seen_s:
            self._seen_s = view.time_s
            state = view.state.vm_state
            there = (state != ABSENT) & (state != DEPARTED) & view.measured
            self._history.push(np.where(there, view.state.vm_demand_mhz, 0.0), there)
        self._trials.begin(view, self._demand(view))

    def _demand(self, view: ClusterView) -> F8:
        """Demand in forks, MHz, (V,), or (S, V) for samples of the trace's length."""
        history = self._history
        mean = self._forecaster.predict(history.values, counts=history.counts)
        mean = np.where(history.counts > 0, mean, view.state.vm_demand_mhz)
        if self.future == "mean":
            return mean
        n = min(self.horizon, int(history.counts.max(initial=0)))
        back = np.arange(n)[:, None]  # what was measured so many intervals ago
        rows = np.where(back < history.counts, history.values[::-1][:n], mean)
        per_interval = max(1, round(view.params.interval_s / view.params.sample_s))
        return np.concatenate([np.repeat(rows, per_interval, axis=0), mean[None]])

    def rate(self) -> F8:
        """What the candidates that are offered are worth, -inf where they are not or were not tried, (K,)."""
        mask = self._form.candidates.mask
        values: F8 = np.full(len(mask), -np.inf)
        which = self._order(mask)[: self.rollouts]
        if self.budget_ms is None:
            self._trials.values(which, values)
            return values
        end = time.perf_counter() + 1e-3 * self.budget_ms
        for i in range(len(which)):
            self._trials.values(which[i : i + 1], values)
            if time.perf_counter() >= end:
                break
        return values

    def _order(self, mask: B1) -> I8:
        """The slots that are offered, in the order in which they are tried."""
        offered: I8 = np.flatnonzero(mask)
        if not self._trials.sim.view.measured.any():  # nobody is moved for what is only assumed
            offered = offered[np.isin(self._form.candidates.kind[offered], (IDLE, PLACE))]
        if self._agent is None or (self.rollouts is None and self.budget_ms is None):
            return offered
        parts = [part.reshape(1, -1) for part in self._form.split(self._form.flat).values()]
        scores = self._agent.scores(parts, mask[None])[0]
        scores[0] = np.inf
        best: I8 = np.argsort(-scores[offered], kind="stable")
        return offered[best]


def _one_plan(plans: list[Decisions]) -> Decisions:
    """Plans that follow each other in one interval as one.

    Orders are carried out kind by kind, hosts on before hosts off: a host that is to be switched off, then
    after all to stay on, gets neither order.
    """
    merged = merge_plans(plans)
    off: set[int] = set()
    undone: set[int] = set()
    for plan in plans:
        undone |= off & set(plan.power_on.tolist())
        off |= set(plan.power_off.tolist())
    for name in ("power_on", "power_off") if undone else ():
        hosts = getattr(merged, name)
        setattr(merged, name, hosts[~np.isin(hosts, list(undone))])
    return merged
