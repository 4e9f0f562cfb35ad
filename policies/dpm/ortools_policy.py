"""Power management towards a target placement from OR-Tools (``optimal_consolidation``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.engine.orders import may_go_on
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import MIG_NONE, RUNNING

from ..planning.problem import cluster_problem
from ..solvers.calls import CALLS
from ..solvers.consolidation import ConsolidationResult, solve_consolidation
from ..solvers.model import ConsolidationProblem, evaluate
from .follow import follow_target, take_back
from .policy import DpmPolicy

ROUNDING = 1e-6
"""Sums of floats in another order: this share more than planned still fits."""


class PlanReport(NamedTuple):
    """What is known about one target placement."""

    time_s: float  # when it was planned, s
    status: str  # of ``ConsolidationResult``, or ``refused``: what is legal of it is no better than staying
    objective_j: float  # energy over the horizon and migrations, J
    bound_j: float  # no allowed plan costs less, J
    gap: float  # (objective - bound) / objective
    stay_j: float  # objective of staying, J
    carried_out_j: float  # objective of what was ordered of it, J
    migrations: int  # ordered for it
    seconds: float  # wall time, s


@dataclass
class OrtoolsDpmPolicy(DpmPolicy):
    """Power management that follows the plans of ``solve_consolidation``.

    Attributes:
        period_s: Time from one plan to the next, s; in between overloaded hosts are relieved.
        rounds: Neighbourhoods that a plan searches; the same result every time.
        time_limit_s: Wall time of a plan in place of that, s; None = by ``rounds``.
        whole: Whether the bound asks for whole numbers of hosts (a tighter gap, about 1 s more per plan).
        solver_seed: Seed of the search.
    """

    kind: ClassVar[str] = "solver"

    risk: float = 1.0
    fill: float = 0.95
    move_cost: float = 5.0
    period_s: float = 3600.0
    rounds: int = 2000
    time_limit_s: float | None = None
    whole: bool = False
    solver_seed: int = 0

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need(self.period_s > 0.0, f"policy.period_s={self.period_s}: must be positive")
        need(self.rounds >= 0, f"policy.rounds={self.rounds}: must be 0 or more")
        if self.time_limit_s is not None and not 0.0 < self.time_limit_s < np.inf:
            raise ConfigError(f"policy.time_limit_s={self.time_limit_s}: must be positive, or null")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view; the first plan is made at once."""
        super().reset(view, rng)
        self.plans: list[PlanReport] = []  # of this episode
        self.solver_fallbacks = 0
        self._next_plan_s = -np.inf

    def plan_metrics(self) -> dict[str, float]:
        """What the results say of this episode's plans: mean gap and time, solver calls that failed."""
        if not self.plans:
            return {}
        gaps = [report.gap for report in self.plans if np.isfinite(report.gap)]
        return {
            "plan_gap": float(np.mean(gaps)) if gaps else float("nan"),
            "plan_s": float(np.mean([report.seconds for report in self.plans])),
            "solver_fallbacks": float(self.solver_fallbacks),
        }

    def _forecast(self, demand: F8) -> None:
        """Forecast, and split the margin of hosts among VMs: the solver adds up sizes, so must kernels."""
        super()._forecast(demand)
        w = self._work
        full = (self.target + self.tolerance) * float(self.view.params.host_cpu_mhz.max())
        w.vm_mean[:] = planning_size(w.vm_mean, w.vm_var, self.risk, full)
        w.vm_var[:] = 0.0

    def _consolidate(self, view: ClusterView) -> None:
        """Plan anew if it is time to, and order what is legal of it and better than staying."""
        if view.time_s < self._next_plan_s:
            return
        s, w = view.state, self._work
        here = np.where(w.dest >= 0, w.dest, w.home)
        vms = np.flatnonzero(here >= 0)
        fixed = (s.vm_state[vms] != RUNNING) | (s.vm_mig[vms] != MIG_NONE)
        fixed |= (view.time_s - w.host_on_s[here[vms]] < self.min_on_s) | (w.held[here[vms]] != 0)
        if 2 * int(fixed.sum()) > vms.size or vms.size == 0:
            return  # most of what there is cannot move now: at the next interval then
        self._next_plan_s = view.time_s + self.period_s
        problem = self._problem(view, vms, here[vms].astype(np.int64), np.flatnonzero(fixed))
        failed = CALLS.failed
        result = self._solve(problem)
        self.solver_fallbacks += CALLS.failed - failed
        target = np.full(view.n_vms, -1, dtype=np.int64)
        target[vms] = result.vm_host
        self._carry_out(view, problem, result, vms, target)

    def _solve(self, problem: ConsolidationProblem) -> ConsolidationResult:
        if self.time_limit_s is not None:
            return solve_consolidation(
                problem, time_limit_s=self.time_limit_s, seed=self.solver_seed, whole=self.whole
            )
        return solve_consolidation(problem, rounds=self.rounds, seed=self.solver_seed, whole=self.whole)

    def _carry_out(
        self,
        view: ClusterView,
        problem: ConsolidationProblem,
        result: ConsolidationResult,
        vms: I8,
        target: I8,
    ) -> None:
        """Order a plan; take it back if what is legal of it is no better than staying."""
        w = self._work
        high = self.target + self.tolerance + ROUNDING
        follow_target(view.kernel_params, view.kernel_state, self._handle, target, 1.0, high)
        here = np.where(w.dest >= 0, w.dest, w.home)[vms].astype(np.int64)
        value = evaluate(problem, here)
        # What was ordered is legal; the problem, which is on the safe side, may see limits broken in it.
        stay = result.stay
        worse = value.objective_j >= stay.objective_j and value.violations >= stay.violations
        status = result.status
        if worse:
            status = "stay" if result.status == "stay" else "refused"
            take_back(view.kernel_params, self._handle)
            value = stay
        self.plans.append(
            PlanReport(
                view.time_s, status, result.objective_j, result.bound_j, result.gap,
                stay.objective_j, value.objective_j, value.migrations, result.seconds,
            )
        )  # fmt: skip

    def _problem(self, view: ClusterView, vms: I8, here: I8, fixed: I8) -> ConsolidationProblem:
        """The consolidation problem of now: what stands, what moves already, and what may go on."""
        s, w = view.state, self._work
        state = s.host_power_state
        up = (state == ON) | (state == BOOTING) | (state == RESUMING)
        may_hold = (w.accepts > 0) | (w.n_home + w.received > 0)
        may_hold |= np.fromiter(
            (may_go_on(view.kernel_params, view.kernel_state, h) == 0 for h in range(view.n_hosts)),
            np.bool_,
            view.n_hosts,
        )
        closed = w.closed > 0
        closed[here[fixed]] = False  # what cannot leave stays: no plan would be allowed
        return cluster_problem(
            view,
            vms,
            np.arange(view.n_hosts),
            here,
            fixed,
            self.move_cost,
            peak_mhz=w.vm_peak[vms],
            need=(w.vm_need_mib[vms], w.need_most),
            vm_cpu_mhz=w.vm_mean[vms],
            horizon_s=self.horizon_s,
            host_on=up | (w.opened > 0),
            host_allowed=may_hold & ~closed,
            cpu_share=self.target + self.tolerance,
            min_hosts=min(max(self.min_hosts + self.spare_hosts, self._stay_on), view.n_hosts),
            reserve_cpu=self.spare_share,
        )


def planning_size(mean: F8, variance: F8, risk: float, full_mhz: float) -> F8:
    """CPU that each VM is planned with, MHz, (V,): expected demand and its part of the host's margin.

    A host needs ``mean + risk * sqrt(sum of variances)``. A VM's part of the margin is taken to be
    ``risk * variance / sqrt(W)``, which is exact for hosts with the variance W that a full one would have
    if VMs were spread evenly, and errs on the safe side for hosts with more.

    Args:
        mean: Expected demand, MHz, (V,).
        variance: Variance around it, MHz^2, (V,).
        risk: Standard deviations.
        full_mhz: Load of a full host, MHz.
    """
    hosts = max(1.0, float(mean.sum()) / full_mhz)
    typical = max(float(variance.sum()) / hosts, float(variance.max(initial=0.0)), 1e-9)
    return np.asarray(mean + risk * variance / np.sqrt(typical))
