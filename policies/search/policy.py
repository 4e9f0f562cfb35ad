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
from virtgym.envs.cluster.candidates.settings import OFF, OWN, PLACE, PLAN, CandidateSettings
from virtgym.envs.sim.config import ARRIVAL_RULES, ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED

from ..base import PlanningPolicy
from ..forecast.told import Foretold
from ..learned.architecture import CANDIDATES, Layout
from ..planning.arrivals import is_guarded
from ..planning.plans import merge_plans
from ..registry import make_policy
from ..ties import first_best
from .daily import DAILY, make_outlook
from .futures import Futures, surely
from .kernels import NOTHING, UPKEEP
from .trials import Trials


@dataclass
class RolloutSearchPolicy(PlanningPolicy):
    """Try candidates under forecasts of what may come, carry the best out, and go on until nothing is better.

    Attributes:
        horizon: Intervals for which a candidate is tried.
        discount: Weight of an interval in that of the one before.
        tail: Intervals after those, each with the weight of the last, that are to be like the second half of
            them; what is left of the episode, at most.
        forecaster: What is forecast of demand: ``daily`` (``daily.py``), or what it stays at by a name of
            ``forecast.FORECASTERS``, or a dotted path.
        forecast: Parameters of the forecaster.
        candidates: What is offered: settings of ``CandidateSettings``; with an agent as ``base``, its own.
        base: What plays on in the fork after the candidate that is tried: ``nothing``; ``upkeep``, which
            places what waits, relieves overloaded hosts and switches empty ones off; or an agent's folder,
            whose scores also order what is tried.
        choices: Candidates that are carried out in one interval, at most; null = max(8, H // 10).
        rollouts: Candidates that are tried for one choice, at most, ``nothing`` first, then in the order of
            their slots, or with an agent as ``base`` of its scores; null = all.
        budget_ms: Time for one choice in place of that, ms: results cannot be reproduced then, and
            there are no scenarios. null = none.
        arrivals: Rule that places VMs that arrive, one of ``config.ARRIVAL_RULES``; null = the scenario's,
            and ``pabfd`` where there is I/O. Where placement rules or a guarantee are to be kept, the search
            places them itself.
        scenarios: Futures of demand in which finalists are tried (``futures.py``); 0 = the forecast alone,
            and nothing fails, comes or leaves.
        past: Intervals of the past that they are made of, at most.
        finalists: Candidates that are tried in all of them, those that are best under the forecast, besides
            *nothing* and all plans.
        margin: Standard errors by which a candidate must be better over the scenarios than the plan of the
            first of ``candidates.plans``, or if that has none, than *nothing*.
        reward: Weights of reward terms laid over the default, minus the cost.
    """

    kind: ClassVar[str] = "solver"

    horizon: int = 24
    discount: float = 0.95
    tail: float = 72.0
    forecaster: str = DAILY
    forecast: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, Any] = field(default_factory=lambda: {"plans": ["dpm_ortools", "ha"]})
    base: str = NOTHING
    choices: int | None = None
    rollouts: int | None = None
    budget_ms: float | None = None
    arrivals: str | None = None
    scenarios: int = 8
    past: int = 96
    finalists: int = 6
    margin: float = 1.0
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
        for name, least in (("tail", 0), ("scenarios", 0), ("past", 1), ("finalists", 1), ("margin", 0)):
            value = getattr(self, name)
            need(least <= value < np.inf, f"policy.{name}={value}: must be at least {least}")
        need(
            self.budget_ms is None or self.budget_ms > 0.0,
            f"policy.budget_ms={self.budget_ms}: must be positive, or null",
        )
        if self.arrivals is not None:
            one_of("policy.arrivals", self.arrivals, ARRIVAL_RULES)
        self._outlook = make_outlook(self.forecaster, self.forecast)
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
        self._trials = Trials(self.reward, self._weights_of(self.tail), base)

    def _weights_of(self, tail: float) -> F8:
        """Weights of the intervals that are tried, where so many more are to be like the second half."""
        weights = np.cumprod(np.array([1.0, *[self.discount] * (self.horizon - 1)]))
        late = weights[self.horizon // 2 :]
        late += weights[-1] * tail / len(late)
        return weights

    def arrival_in(self, cluster: ClusterConfig) -> str | None:
        """``arrivals``, or by default what the cluster asks for.

        Where rules or a guarantee are to be kept, the search places itself. Where there is I/O, devices that
        are passed through may pin VMs for good to where they first are, so that place is to be a tight one.
        """
        if is_guarded(cluster):
            return "policy"
        return "pabfd" if self.arrivals is None and cluster.io is not None else self.arrivals

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
        self.bind(view, form, int(rng.integers(2**31 - 1)))

    def bind(self, view: ClusterView, form: CandidateForm, seed: int = 0) -> None:
        """Begin an episode in which ``form`` offers what is tried.

        Args:
            view: The cluster.
            form: Of the policy itself, or of an environment.
            seed: Of who comes and leaves in futures.
        """
        self._form = form
        self._trials.bind(view, form)
        outlook = self._outlook(view.n_vms, view.params.interval_s)
        self._futures = Futures(view, outlook, self.scenarios, self.past, self.horizon, seed)
        self._level = np.zeros(view.n_vms)
        self._told: Foretold | None = None
        kinds = form.candidates.kind
        self._rule = int(np.argmax(kinds == PLAN)) if (kinds == PLAN).any() else 0
        self._first = True
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
            self._first = n == 0
            values = self.rate()
            k = first_best(values, form.candidates.mask)
            rule = self._default()
            if k >= 0 and values[k] <= values[rule]:
                k = rule
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
        state = view.state.vm_state
        there = (state != ABSENT) & (state != DEPARTED) & view.measured
        new = view.time_s > self._seen_s
        if new:
            self._seen_s = view.time_s
        futures, nominal = self._futures, view.params.vm_cpu_mhz
        if new:
            self._level = futures.outlook.push(view.time_s, view.state.vm_demand_mhz / nominal, there)
            futures.note(view, there, self._level)
        ahead = futures.outlook.path(self._level, view.time_s, self.horizon)
        left = view.horizon_s / view.params.interval_s - view.time_s / view.params.interval_s - self.horizon
        self._trials.weights = self._weights_of(min(self.tail, max(left, 0.0)))
        back = futures.repairs(view)
        self._trials.begin(view, self._frozen(ahead) * nominal, **back)
        self._demands = [one | back for one in futures.demand(view, ahead)]
        self._failing, self._weights = futures.failures(view)
        self._first = True
        now, then = view.state.vm_demand_mhz[there], (ahead[0] * nominal)[there]
        self._told = Foretold(self.forecaster, 1, float(now.sum()), float(then.sum())) if len(now) else None

    def foretold(self) -> Foretold | None:
        """The demand under which candidates are tried: that of the next decision, which others follow."""
        return self._told

    def _frozen(self, ahead: F8) -> F8:
        """One level in place of a path: its mean, weighted as rewards are, (V,)."""
        if len(ahead) == 1:
            return np.asarray(ahead[0])
        weights = self._trials.weights
        return np.asarray((ahead * (weights / weights.sum())[:, None]).sum(axis=0))

    def _default(self) -> int:
        """The slot that is taken unless another is surely better: the rule's plan, then *nothing*."""
        return self._rule if self._first and self._form.candidates.mask[self._rule] else 0

    def rate(self) -> F8:
        """What the candidates that are offered are worth, -inf where they are not or were not tried, (K,)."""
        mask = self._form.candidates.mask
        values: F8 = np.full(len(mask), -np.inf)
        which = self._order(mask)[: self.rollouts]
        if (rule := self._default()) not in which:
            which = np.append(which, rule)
        if self.budget_ms is None:
            self._trials.values(which, values)
            return self._judge(which, values)
        end = time.perf_counter() + 1e-3 * self.budget_ms
        for i in range(len(which)):
            self._trials.values(which[i : i + 1], values)
            if time.perf_counter() >= end:
                break
        return values

    def _judge(self, which: I8, values: F8) -> F8:
        """Values under many futures: that of the default, and by how much others are surely better."""
        futures = [*self._demands, *self._failing]
        if len(which) < 2 or not futures:
            return values
        rule = self._default()
        rest = which[(which != rule) & (which != 0)]
        best = rest[np.argsort(-values[rest], kind="stable")[: self.finalists]]
        kinds = self._form.candidates.kind
        plans = rest[(kinds[rest] == PLAN) | (kinds[rest] == OWN)]
        which = np.unique(np.concatenate([[0, rule], plans, best]))
        found = np.array([values.copy() for _ in futures])
        for future, row in zip(futures, found):
            self._trials.values(which, row, **future)
        judged = np.full(len(values), -np.inf)
        gains = found[:, which] - found[:, [rule]]
        n = len(self._demands)
        base = values[which] - values[rule]
        sure = surely(gains[:n], self.margin) if n else base
        if len(self._weights):
            sure = sure + self._weights @ (gains[n:] - base)
        judged[which] = values[rule] + sure
        return judged

    def _order(self, mask: B1) -> I8:
        """The slots that are offered, in the order in which they are tried."""
        offered: I8 = np.flatnonzero(mask)
        if not self._trials.sim.view.measured.any():  # nobody is moved for what is only assumed
            first = np.isin(self._form.candidates.kind[offered], (IDLE, OFF, PLACE)) | (
                offered == self._default()
            )
            offered = offered[first]
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
