"""Solvers that fail: whatever a call ends with, policies that use OR-Tools plan legally and say so."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]
from ortools.sat.python import cp_model

from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.run.cell import evaluate
from virtgym.policies import make_policy
from virtgym.policies.placement.ortools_policy import OrtoolsPlacementPolicy
from virtgym.policies.solvers.consolidation import solve_consolidation
from virtgym.policies.solvers.model import ConsolidationProblem

REASON = mathopt.TerminationReason
ENDINGS = {
    "exception": None,
    "abnormal": REASON.OTHER_ERROR,
    "numbers": REASON.NUMERICAL_ERROR,
    "infeasible": REASON.INFEASIBLE,
    "time limit": REASON.NO_SOLUTION_FOUND,
}


@pytest.fixture(params=list(ENDINGS))
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of a solver fails in one way; returns the calls that were made."""
    reason = ENDINGS[request.param]
    calls: list[str] = []

    def answer(*_: Any, **__: Any) -> Any:
        calls.append("mathopt")
        if reason is None:
            raise RuntimeError("ABNORMAL: the solver has given up")
        bounds = SimpleNamespace(dual_bound=float("nan"))
        end = SimpleNamespace(reason=reason, objective_bounds=bounds)
        return SimpleNamespace(termination=end, has_primal_feasible_solution=lambda: False)

    def cp_sat(*_: Any, **__: Any) -> Any:
        calls.append("cp-sat")
        if reason is None:
            raise RuntimeError("the solver has given up")
        return cp_model.INFEASIBLE if reason == REASON.INFEASIBLE else cp_model.UNKNOWN

    monkeypatch.setattr(mathopt, "solve", answer)
    monkeypatch.setattr(mathopt.IncrementalSolver, "solve", answer)
    monkeypatch.setattr(cp_model.CpSolver, "solve", cp_sat)
    return calls


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("dpm_ortools", {"rounds": 50}),
        ("dpm_ortools", {"rounds": 50, "whole": True}),
        ("dpm_ortools", {"time_limit_s": 0.05}),
        ("drs_ortools", {"solver_rounds": 5, "level": 5}),
        ("platform", {"power": "dpm_ortools", "balance": "drs_ortools"}),
    ],
)
def test_managers_plan_without_the_solver(failing: list[str], name: str, params: dict[str, Any]) -> None:
    scenario = build_scenario("small", seed=1, overrides={"horizon_s": 7200.0})
    policy: Any = make_policy(name, **params)
    sim = scenario.simulator(arrival=policy.arrival_in(scenario.cluster), strict=True)
    policy.reset(sim.reset(np.random.default_rng(0)), np.random.default_rng(0))
    while not sim.done:
        sim.step(policy.plan(sim.view))  # strict: a refused order would raise
    assert sim.metrics()["sla_unserved"] < 0.05
    said = policy.plan_metrics()["solver_fallbacks"]
    assert (said > 0) == bool(failing)
    assert bool(failing) == (name != "drs_ortools")  # balance asks for no bound: its search is no solver's


def test_placement_follows_the_rule_without_the_solver(failing: list[str]) -> None:
    rule = evaluate("demo_placement", "best_host_emptier_node", overrides={"n_windows": 1})
    policy = OrtoolsPlacementPolicy(min_loss=0.0)
    row = evaluate("demo_placement", policy, overrides={"n_windows": 1}).iloc[0]
    assert policy.n_fallbacks == len(failing) == row["solver_fallbacks"]
    assert failing
    assert row["steps"] >= 0.9 * rule["steps"].iloc[0]


def test_a_bound_that_fails_is_no_bound(failing: list[str]) -> None:
    solve: Callable[..., Any] = solve_consolidation
    n = 12
    problem = ConsolidationProblem(
        np.full(n, 400.0), np.full(n, 512.0), np.arange(n, dtype=np.int64) % 6, np.full(6, 4000.0),
        np.full(6, 8192.0), np.zeros(6, dtype=np.int64), np.array([[100.0, 150.0, 200.0]]), horizon_s=3600.0,
    )  # fmt: skip
    for settings in ({"rounds": 100}, {"time_limit_s": 0.2}, {"time_limit_s": 0.2, "workers": 2}):
        found = solve(problem, **settings)
        assert found.bound_j == 0.0
        assert found.evaluation.violations == 0
        if "rounds" in settings:  # a busy machine may use up a limit of time
            assert found.objective_j < found.stay.objective_j
    assert failing
