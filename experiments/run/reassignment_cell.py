"""A cell of machine reassignment: one policy on one instance, judged by the evaluator alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.rescheduling.reassignment.instance import ReassignmentProblem
from virtgym.envs.rescheduling.reassignment.state import State, shift_delta
from virtgym.envs.scenarios.reassignment import ReassignmentScenario
from virtgym.envs.sim.models.cost import GATE_OK
from virtgym.policies.solvers.reassignment.methods import warm_up

from .rescheduling_cell import MOVE
from .rollout import policy_rng

if TYPE_CHECKING:
    import pandas as pd


def run_reassignment_cell(
    scenario: ReassignmentScenario, policy: Any, seed: int, keys: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], pd.DataFrame, dict[str, Any]]:
    """Reassign the processes of an instance.

    Args:
        scenario: The scenario.
        policy: A policy for reassignment.
        seed: Seed of the policy.
        keys: First columns of the table.

    Returns:
        Values of the result row; a table with a row per process that moves, of the columns of a rescheduled
        snapshot's moves: ``vm`` (the process), ``from``, ``to`` and ``gain``, by which the objective would be
        higher if it alone stayed; and nothing for a heat file.
    """
    problem = scenario.trace
    warm_up(problem)  # loading compiled kernels is not the policy's fault
    start, cpu = time.perf_counter(), time.process_time()
    answer = policy.reassign(problem, policy_rng(seed))
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    before, after = State(problem), State(problem, answer.machine)
    broken = after.violations()
    table = _table(problem, after, keys, wall_s)
    bounds = {"lower_bound": scenario.lower_bound, "plan_bound": answer.bound}
    values = {
        "objective": float(after.objective),
        "objective_start": float(before.objective),
        **{f"cost_{name}": float(value) for name, value in after.costs().items()},
        **{name: float(value) for name, value in bounds.items() if value is not None},
        "moves": float(len(table)),
        "finished": True,
        "steps": len(table),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "n_hosts": problem.n_machines,
        "n_vms": problem.n_processes,
        "memory": "binding",
        "cost": float(after.objective),
        "gate": GATE_OK if not broken else broken[0],
        "decision_ms_p50": 1e3 * wall_s,
        "decision_ms_p99": 1e3 * wall_s,
    }
    return [values], table, {}


def _table(
    problem: ReassignmentProblem, state: State, keys: Mapping[str, Any], time_s: float
) -> pd.DataFrame:
    """The plan: a row per process that moves. All move at once, so each row has the objective at the end."""
    import pandas as pd

    home, machine = problem.arrays.home, state.books.machine
    moved = np.flatnonzero(home != machine)
    gain = [float(shift_delta(problem.handle, state.handle, i, home[i])) for i in moved.tolist()]
    columns = {
        "event": np.full(len(moved), MOVE, dtype=object),
        "step": np.arange(1, len(moved) + 1),
        "time_s": np.full(len(moved), time_s),
        "vm": moved.astype(str).astype(object),
        "from": home[moved].astype(str).astype(object),
        "to": machine[moved].astype(str).astype(object),
        "gain": np.array(gain, dtype=np.float64),
        "objective": np.full(len(moved), float(state.objective)),
    }
    return pd.DataFrame({**{key: [value] * len(moved) for key, value in keys.items()}, **columns}).astype(
        {"event": "str", "vm": "str", "from": "str", "to": "str"}
    )
