"""Machine reassignment: what methods find, against all assignments and against the instance's constraints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oracles import plain_reassignment as plain
from virtgym.envs.rescheduling.reassignment.instance import ReassignmentProblem
from virtgym.envs.rescheduling.reassignment.reading import read_problem
from virtgym.envs.rescheduling.reassignment.state import State
from virtgym.policies.solvers.reassignment.methods import METHODS, Clock
from virtgym.policies.solvers.reassignment.neighbourhood import place_anew


def draw(folder: Path, seed: int, **size: int) -> tuple[ReassignmentProblem, plain.PlainProblem]:
    """A small instance, and the same in plain Python."""
    texts = plain.draw(seed, **size)
    for name, text in zip(("model_x.txt", "assignment_x.txt"), texts):
        (folder / name).write_text(text)
    return read_problem(folder / "model_x.txt", folder / "assignment_x.txt"), plain.parse(*texts)


def test_the_exact_model_equals_brute_force_on_200_instances(tmp_path: Path) -> None:
    for seed in range(200):
        problem, judge = draw(tmp_path, seed, n_processes=5)
        found = METHODS["neighbourhoods"](problem, Clock(iterations=4), seed)
        assert plain.allowed(judge, found.machine.tolist())
        assert found.bound == plain.cost(judge, found.machine.tolist()) == plain.best(judge), seed


@pytest.mark.parametrize("method", METHODS)
def test_a_method_answers_with_an_allowed_assignment_that_costs_no_more(tmp_path: Path, method: str) -> None:
    budgets = {"descent": 100, "annealing": 1_000_000, "neighbourhoods": 6, "parts": 3}
    gains = []
    for seed in range(4):
        problem, judge = draw(tmp_path, seed, n_processes=80, n_machines=30)
        start = State(problem).objective
        found = METHODS[method](problem, Clock(iterations=budgets[method]), seed)
        where = found.machine.tolist()
        assert plain.allowed(judge, where)
        assert State(problem, found.machine).violations() == []
        gains.append(start - plain.cost(judge, where))
        again = METHODS[method](problem, Clock(iterations=budgets[method]), seed)
        assert again.machine.tolist() == where
    assert min(gains) >= 0
    assert sum(gains) > 0


def test_a_neighbourhood_is_never_left_worse_and_leaves_all_others(tmp_path: Path) -> None:
    for seed in range(20):
        problem, judge = draw(tmp_path, seed, n_processes=20, n_machines=6)
        state = State(problem)
        rng = np.random.default_rng(seed)
        for _ in range(4):
            machines = np.sort(rng.permutation(problem.n_machines)[:3])
            processes = np.flatnonzero(np.isin(state.books.machine, machines) & (rng.random(20) < 0.8))
            before = state.books.machine.copy()
            found = place_anew(state, machines, processes, work=1.0)
            assert found is not None
            where = found.machine.tolist()
            assert plain.allowed(judge, where)
            assert found.bound <= plain.cost(judge, where) <= state.objective
            others = np.setdiff1d(np.arange(problem.n_processes), processes)
            assert np.array_equal(found.machine[others], before[others])
            assert np.isin(found.machine[processes], machines).all()
            state.assign(found.machine)


def test_little_time_is_enough_for_an_answer(tmp_path: Path) -> None:
    problem, judge = draw(tmp_path, 0, n_processes=80, n_machines=30)
    for method in METHODS.values():
        found = method(problem, Clock(seconds=1e-3), 0)
        assert plain.allowed(judge, found.machine.tolist())
        assert State(problem, found.machine).objective <= State(problem).objective
