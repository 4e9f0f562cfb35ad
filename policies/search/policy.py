"""``rollout_search``: every candidate is tried in a fork of what is shown, the best is carried out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.cluster.candidates.buffers import make_candidate_buffers
from virtgym.envs.cluster.candidates.form import orders_of
from virtgym.envs.cluster.candidates.loads import remember_demand
from virtgym.envs.cluster.candidates.offer import lay_orders, offer
from virtgym.envs.cluster.candidates.plugins import flatten, make_plugins
from virtgym.envs.cluster.candidates.settings import CandidateSettings
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import ABSENT, DEPARTED

from ..base import PlanningPolicy
from ..forecast.forecasters import make_forecaster
from ..forecast.history import History
from ..planning.plans import merge_plans
from ..ties import first_best
from .trials import Trials, check_trials

LONGEST_PAST = 2000
"""Samples that are kept for a forecaster that looks at all of them."""


@dataclass
class RolloutSearchPolicy(PlanningPolicy):
    """Try candidates under a forecast of demand, carry the best out, and go on until nothing is better.

    Attributes:
        horizon: Intervals for which a candidate is tried.
        discount: Weight of an interval in that of the one before.
        forecaster: What demand is frozen at: a name of ``forecast.FORECASTERS``, or a dotted path.
        forecast: Parameters of the forecaster.
        candidates: Settings of ``CandidateSettings``: what is offered.
        choices: Candidates that are carried out in one interval, at most; null = max(1, H // 10).
        rollouts: Candidates that are tried for one choice, at most, in the order of their slots; null = all.
        budget_ms: Time for one choice in place of that, ms: results cannot be reproduced then. null = none.
        reward: Weights of reward terms laid over the default, minus the cost.
    """

    kind: ClassVar[str] = "solver"

    horizon: int = 24
    discount: float = 1.0
    forecaster: str = "ewma"
    forecast: dict[str, Any] = field(default_factory=lambda: {"alpha": 0.2})
    candidates: dict[str, Any] = field(default_factory=dict)
    choices: int | None = None
    rollouts: int | None = None
    budget_ms: float | None = None
    reward: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        check_trials(self.horizon, self.discount)
        for name in ("choices", "rollouts"):
            value = getattr(self, name)
            need(value is None or value >= 1, f"policy.{name}={value}: must be at least 1, or null")
        need(
            self.budget_ms is None or self.budget_ms > 0.0,
            f"policy.budget_ms={self.budget_ms}: must be positive, or null",
        )
        self._forecaster = make_forecaster(self.forecaster, "policy.forecaster", **self.forecast)
        self._settings = CandidateSettings.of(self.candidates)
        self._trials = Trials(self.reward, self.horizon, self.discount)
        self._plugins = make_plugins(self._settings)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view; nothing is known of the past."""
        super().reset(view, rng)
        self._trials.bind(view)
        for plugin in self._plugins:
            if hasattr(plugin, "reset"):
                plugin.reset(view, np.random.default_rng(rng.integers(2**31 - 1)))
        self._history = History(view.n_vms, self._forecaster.samples or LONGEST_PAST)
        self._offered = make_candidate_buffers(view.params, view.state, self._settings)
        self._handle: Any = make_handle("candidates", self._offered)
        self._values: F8 = np.full(self._settings.n, -np.inf)

    def plan(self, view: ClusterView) -> Decisions:
        """Choose candidates until *nothing* is best, or enough are chosen."""
        self._remember(view)
        self._trials.begin(view, self._forecaster.predict(self._history.values, counts=self._history.counts))
        plans = [Decisions()]
        for _ in range(self.choices or max(1, view.n_hosts // 10)):
            self._offer(view)
            self._try()
            k = first_best(self._values, self._offered.mask)
            if k <= 0:
                break
            plans.append(orders_of(self._offered, k))
            self._trials.take(self._handle, k)
        return merge_plans(plans)

    def _remember(self, view: ClusterView) -> None:
        """Take note of what was measured."""
        state = view.state.vm_state
        there = (state != ABSENT) & (state != DEPARTED)
        self._history.push(np.where(there, view.state.vm_demand_mhz, 0.0), there)
        remember_demand(view.kernel_params, view.kernel_state, self._handle)

    def _offer(self, view: ClusterView) -> None:
        """Offer candidates of the fork, in which what was chosen before has been carried out."""
        now = self._trials.sim.view
        p, s = now.kernel_params, now.kernel_state
        offer(p, s, self._handle)
        first = self._settings.n - len(self._plugins)
        for k, plugin in enumerate(self._plugins, first):
            orders = plugin(view)
            if orders is not None and len(orders):
                lay_orders(p, s, self._handle, k, *flatten(orders))

    def _try(self) -> None:
        """Try what is offered, as far as the budget goes; *nothing* always is."""
        values, mask = self._values, self._offered.mask
        values[:] = -np.inf
        which: I8 = np.flatnonzero(mask)[: self.rollouts]
        if self.budget_ms is None:
            self._trials.values(self._handle, which, values)
            return
        end = time.perf_counter() + 1e-3 * self.budget_ms
        for i in range(len(which)):
            self._trials.values(self._handle, which[i : i + 1], values)
            if time.perf_counter() >= end:
                break
