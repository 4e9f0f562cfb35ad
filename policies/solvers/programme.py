"""Linear programmes built from arrays and solved with OR-Tools' MathOpt: GLOP, or HiGHS for whole columns."""

from __future__ import annotations

import heapq
import time
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import B1, F8, I8

from ..ties import first_best
from .calls import CALLS, attempt

INF = np.inf
Box = tuple[float, ...]

TOLERANCE = 1e-7
"""Relative gap at which the solver may stop."""
WHOLE = 1e-6
"""A number so near to a whole one is whole."""


class Programme(NamedTuple):
    """A linear programme: minimise objective . x over row_lower <= matrix x <= row_upper, 0 <= x <= upper."""

    objective: F8
    upper: F8
    matrix: Any  # sparse, (rows, columns)
    row_lower: F8
    row_upper: F8


class Rows:
    """Collects columns and rows of a sparse programme; all variables are 0 or more."""

    def __init__(self) -> None:
        self.n_columns = self.n_rows = 0
        self.parts: list[tuple[I8, I8, F8]] = []
        self.low: list[F8] = []
        self.high: list[F8] = []
        self.cost: list[F8] = []
        self.top: list[F8] = []

    def columns(self, n: int, cost: Any = 0.0, top: Any = INF) -> I8:
        """Add n columns."""
        first = self.n_columns
        self.n_columns += n
        self.cost.append(np.broadcast_to(np.asarray(cost, dtype=np.float64), (n,)))
        self.top.append(np.broadcast_to(np.asarray(top, dtype=np.float64), (n,)))
        return np.arange(first, first + n, dtype=np.int64)

    def rows(self, n: int, low: float, high: float | F8, *terms: tuple[Any, I8, Any]) -> None:
        """Add n rows, with one upper end or one each; a term is (row of an entry from 0, column, factor)."""
        for row, column, factor in terms:
            at = np.broadcast_to(np.asarray(row, dtype=np.int64) + self.n_rows, column.shape)
            value = np.broadcast_to(np.asarray(factor, dtype=np.float64), column.shape)
            self.parts.append((at.ravel(), column.ravel(), value.ravel()))
        self.n_rows += n
        self.low.append(np.full(n, low))
        self.high.append(np.full(n, high))

    def programme(self) -> Programme:
        """What was added so far, every row scaled to a largest factor of 1."""
        row, column, value = (np.concatenate([part[k] for part in self.parts]) for k in range(3))
        cost, top, low, high = (np.concatenate(x) for x in (self.cost, self.top, self.low, self.high))
        largest = np.zeros(self.n_rows)
        np.maximum.at(largest, row, np.abs(value))
        scale = 1.0 / np.where(largest > 0.0, largest, 1.0)
        shape = self.n_rows, self.n_columns
        from scipy.sparse import csr_matrix  # loads as long as a small plan takes

        matrix = csr_matrix((value * scale[row], (row, column)), shape=shape)
        return Programme(cost, top, matrix, low * scale, high * scale)


def _mathopt_model(model: Programme, whole: B1) -> Any:
    """The programme as OR-Tools' MathOpt takes it, filled from arrays."""
    from ortools.math_opt import model_pb2  # type: ignore[import-untyped]
    from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]

    proto = model_pb2.ModelProto()
    n, n_rows = len(model.objective), len(model.row_lower)
    proto.variables.ids.extend(range(n))
    proto.variables.lower_bounds.extend([0.0] * n)
    proto.variables.upper_bounds.extend(model.upper.tolist())
    proto.variables.integers.extend(whole.tolist())
    costly = np.flatnonzero(model.objective)
    proto.objective.linear_coefficients.ids.extend(costly.tolist())
    proto.objective.linear_coefficients.values.extend(model.objective[costly].tolist())
    proto.linear_constraints.ids.extend(range(n_rows))
    proto.linear_constraints.lower_bounds.extend(model.row_lower.tolist())
    proto.linear_constraints.upper_bounds.extend(model.row_upper.tolist())
    matrix = model.matrix.tocoo()
    proto.linear_constraint_matrix.row_ids.extend(matrix.row.tolist())
    proto.linear_constraint_matrix.column_ids.extend(matrix.col.tolist())
    proto.linear_constraint_matrix.coefficients.extend(matrix.data.tolist())
    return mathopt.Model.from_model_proto(proto)


def solve_programme(
    model: Programme, whole: B1, seconds: float, nodes: int | None = None, gap: float = TOLERANCE
) -> tuple[float, F8 | None, bool]:
    """Solve with GLOP, or HiGHS if something must be whole.

    Args:
        model: The programme.
        whole: Columns that must be whole, (columns,).
        seconds: Wall time.
        nodes: Most nodes of HiGHS's tree.
        gap: Relative gap at which HiGHS may stop.

    Returns:
        What is proven of the least value, the best solution found or None, and whether that is optimal. A
        solver that fails proves nothing: ``-inf``, None, False.
    """
    found = attempt(lambda: _solve(model, whole, seconds, nodes, gap))
    if found is None or found[1] is None:
        CALLS.note_failure()
    return (-INF, None, False) if found is None else found


def _solve(
    model: Programme, whole: B1, seconds: float, nodes: int | None, gap: float
) -> tuple[float, F8 | None, bool]:
    from ortools.math_opt.python import mathopt

    parameters = mathopt.SolveParameters(
        time_limit=timedelta(seconds=max(0.01, seconds)), random_seed=1, enable_output=False
    )
    kind = mathopt.SolverType.GLOP
    if whole.any():
        kind = mathopt.SolverType.HIGHS
        parameters.relative_gap_tolerance = gap
        parameters.node_limit = nodes
    scale = max(1e-9, float(np.abs(model.objective).max(initial=0.0)))
    scaled = _mathopt_model(model._replace(objective=model.objective / scale), whole)
    result = mathopt.solve(scaled, kind, params=parameters)
    ill = mathopt.TerminationReason
    if kind == mathopt.SolverType.GLOP and result.termination.reason in (
        *(ill.IMPRECISE, ill.NUMERICAL_ERROR, ill.OTHER_ERROR),
    ):
        result = mathopt.solve(scaled, mathopt.SolverType.HIGHS, params=parameters)
    proven = float(result.termination.objective_bounds.dual_bound) * scale
    optimal = result.termination.reason == mathopt.TerminationReason.OPTIMAL
    if not result.has_primal_feasible_solution():
        return proven, None, optimal
    values = result.variable_values()
    return proven, np.array([values[v] for v in values]), optimal


def improve(model: Programme, whole: B1, wanted: float, seconds: float, nodes: int, gap: float) -> F8 | None:
    """Look for a solution that is as good as wanted, with HiGHS.

    The relaxation (GLOP) says whether there can be one, and by its reduced costs which whole columns are 0 in
    all of them: those are left out, and what is not good enough is cut off.

    Args:
        model: The programme.
        whole: Columns that must be whole, (columns,).
        wanted: The value.
        seconds: Wall time.
        nodes: Most nodes of HiGHS's tree.
        gap: Relative gap at which HiGHS may stop.

    Returns:
        A solution; None where there is none, none was found, or the solver failed, which is noted.
    """
    relaxed = attempt(lambda: _reduced_costs(model))
    least, costs = (INF, np.zeros(0)) if relaxed is None else relaxed
    if relaxed is None:
        CALLS.note_failure()
    if least > wanted:
        return None
    from scipy.sparse import csr_matrix, vstack

    kept = np.flatnonzero(~whole | ((costs <= wanted - least + WHOLE * abs(wanted)) & (model.upper > 0.0)))
    rows = vstack([model.matrix.tocsc()[:, kept], csr_matrix(model.objective[None, kept])]).tocsr()
    low, high = np.append(model.row_lower, -INF), np.append(model.row_upper, wanted)
    small = Programme(model.objective[kept], model.upper[kept], rows, low, high)
    found = attempt(lambda: _solve(small, whole[kept], seconds, nodes, gap))
    if found is None:
        CALLS.note_failure()
    if found is None or found[1] is None:
        return None
    better = np.zeros(len(whole))
    better[kept] = found[1]
    return better


def _reduced_costs(model: Programme) -> tuple[float, F8]:
    """Least value of the relaxation, inf = it has no solution, and the reduced cost of every column."""
    from ortools.math_opt.python import mathopt

    filled = _mathopt_model(model, np.zeros(len(model.objective), dtype=np.bool_))
    result = mathopt.solve(filled, mathopt.SolverType.GLOP)
    if result.termination.reason == mathopt.TerminationReason.INFEASIBLE:
        return INF, np.zeros(0)
    costs = result.reduced_costs(list(filled.variables()))
    return float(result.termination.objective_bounds.dual_bound), np.array(costs)


def row_prices(model: Programme) -> F8 | None:
    """What one more of each row's limit changes the least value of the relaxation by (GLOP), (rows,)."""

    def call() -> F8:
        from ortools.math_opt.python import mathopt

        filled = _mathopt_model(model, np.zeros(len(model.objective), dtype=np.bool_))
        duals = mathopt.solve(filled, mathopt.SolverType.GLOP).dual_values()
        return np.array([duals[row] for row in filled.linear_constraints()])

    return attempt(call)


class _Relaxation:
    """A relaxation in GLOP that is solved again and again with other bounds of some columns."""

    def __init__(self, model: Programme, counts: I8, patience: float) -> None:
        from ortools.math_opt.python import mathopt

        self.mathopt = mathopt
        self.scale = max(1e-9, float(np.abs(model.objective).max(initial=0.0)))
        none = np.zeros(len(model.objective), dtype=np.bool_)
        self.model = _mathopt_model(model._replace(objective=model.objective / self.scale), none)
        self.solver = mathopt.IncrementalSolver(self.model, mathopt.SolverType.GLOP)
        self.variables = list(self.model.variables())
        self.columns = [self.variables[c] for c in counts.tolist()]
        # Without presolve: with it GLOP would begin from nothing in each branch.
        self.parameters = mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(0.01, patience)), presolve=mathopt.Emphasis.OFF
        )

    def solve(self, low: Box, high: Box, wanted: list[Any]) -> tuple[float, F8, bool]:
        """Value, what is wanted of the solution (empty: there is none), and whether all that is sure."""
        found = attempt(lambda: self._solve(low, high, wanted))
        return (INF, np.zeros(0), False) if found is None else found

    def _solve(self, low: Box, high: Box, wanted: list[Any]) -> tuple[float, F8, bool]:
        mathopt = self.mathopt
        for column, a, b in zip(self.columns, low, high):
            column.lower_bound, column.upper_bound = a, b
        # Only what is asked for: reading all of a solution takes longer than finding it.
        only = mathopt.ModelSolveParameters(
            variable_values_filter=mathopt.VariableFilter(filtered_items=set(wanted)),
            reduced_costs_filter=mathopt.VariableFilter(filtered_items=set()),
            dual_values_filter=mathopt.LinearConstraintFilter(filtered_items=set()),
        )
        result = self.solver.solve(params=self.parameters, model_params=only)
        reason = result.termination.reason
        if reason != mathopt.TerminationReason.OPTIMAL:
            return INF, np.zeros(0), bool(reason == mathopt.TerminationReason.INFEASIBLE)
        proven = float(result.termination.objective_bounds.dual_bound) * self.scale
        return proven, np.array(result.variable_values(wanted)), True


def solve_counts(
    model: Programme, counts: I8, seconds: float, most: int, patience: float
) -> tuple[float, F8 | None]:
    """Solve with GLOP, and branch until a few columns are whole: each branch starts from the last basis.

    Args:
        model: The programme.
        counts: Columns that should be whole.
        seconds: Wall time after which no further branches are made.
        most: Most branches.
        patience: Wall time of one relaxation at most.

    Returns:
        What is proven of the least value, ``-inf`` if nothing is, and the solution of the relaxation or None.
    """
    end = time.monotonic() + seconds
    box = (0.0,) * len(counts), tuple(model.upper[counts].tolist())
    relaxed = attempt(lambda: _Relaxation(model, counts, patience))
    value, x, solved = -INF, np.zeros(0), False
    if relaxed is not None:
        value, x, solved = relaxed.solve(*box, relaxed.variables)
    if relaxed is None or not solved or len(x) == 0:
        CALLS.note_failure()
        return -INF, None
    # The open branches, the least first: what it has bounds them all.
    tree = [(value, 0, box, x[counts])]
    made = 0
    while tree and made < most and time.monotonic() < end:
        value, _, (low, high), number = tree[0]
        part = number - np.floor(number)
        far = np.minimum(part, 1.0 - part)
        k = int(first_best(far, np.ones(len(far), np.bool_)))
        if far[k] < WHOLE:
            break
        floor = float(np.floor(number[k]))
        children = []
        for a, b in ((low[k], floor), (floor + 1.0, high[k])):
            box = (*low[:k], a, *low[k + 1 :]), (*high[:k], b, *high[k + 1 :])
            found, number, solved = relaxed.solve(*box, relaxed.columns)
            if not solved:
                CALLS.note_failure()
                return value, x
            made += 1
            if len(number):
                children.append((max(found, value), made, box, number))
        heapq.heappop(tree)
        for child in children:
            heapq.heappush(tree, child)
    return (tree[0][0] if tree else value), x
