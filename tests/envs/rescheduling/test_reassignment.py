"""Machine reassignment: files, costs and constraints against plain Python, and against what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import plain_reassignment as plain
from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.rescheduling.reassignment.reading import read_number, read_problem
from virtgym.envs.rescheduling.reassignment.state import (
    State,
    open_books,
    shift,
    shift_delta,
    shift_fits,
    swap,
    swap_delta,
    swap_fits,
)

INSTANCES = [f"{x}_{i}" for x in ("a1", "a2") for i in range(1, 6)] + ["b_01", "b_02", "b_03"]


def write(folder: Path, texts: tuple[str, str]) -> tuple[Path, Path]:
    """A model and an assignment as files."""
    paths = folder / "model_x.txt", folder / "assignment_x.txt"
    for path, text in zip(paths, texts):
        path.write_text(text)
    return paths


@pytest.mark.parametrize("name", INSTANCES)
def test_original_costs_equal_the_published(traces_dir: Path, name: str) -> None:
    folder = traces_dir / "roadef-2012"
    if not folder.is_dir():
        pytest.skip(f"no instances at {folder}")
    problem = read_problem(folder / f"model_{name}.txt", folder / f"assignment_{name}.txt")
    state = State(problem)
    assert state.objective == read_number(folder / f"original_cost_{name}.txt")
    assert state.violations() == []
    assert problem.name == name


@pytest.mark.parametrize("seed", range(40))
def test_every_move_and_swap_is_judged_as_in_plain_python(tmp_path: Path, seed: int) -> None:
    texts = plain.draw(seed, n_processes=7, n_machines=4)
    judge = plain.parse(*texts)
    problem = read_problem(*write(tmp_path, texts))
    state, rng = State(problem), np.random.default_rng(seed)
    p, w = problem.handle, state.handle
    for _ in range(12):
        where = state.books.machine.tolist()
        moves: list[tuple[Any, ...]] = []
        for i, m in np.ndindex(problem.n_processes, problem.n_machines):
            if where[i] != m:
                after = [*where[:i], m, *where[i + 1 :]]
                moves.append((after, shift_fits(p, w, i, m), shift_delta(p, w, i, m), shift, i, m))
        for i, j in np.ndindex(problem.n_processes, problem.n_processes):
            if where[i] != where[j]:
                after = list(where)
                after[i], after[j] = where[j], where[i]
                moves.append((after, swap_fits(p, w, i, j), swap_delta(p, w, i, j), swap, i, j))
        for after, fits, delta, *_ in moves:
            assert fits == plain.allowed(judge, after)
            assert state.objective + delta == plain.cost(judge, after)
        legal = [move for move in moves if move[1]]
        if not legal:
            return
        after, _, delta, make, i, j = legal[rng.integers(len(legal))]
        make(p, w, i, j, delta)
        kept = [np.array(array) for array in state.books]
        open_books(p, w)
        for name, before, now in zip(state.books._fields, kept, state.books):
            assert name in ("change", "costs") or np.array_equal(before, np.asarray(now)), name
        assert sum(state.costs().values()) == state.objective == plain.cost(judge, after)
        assert state.violations() == []


@pytest.mark.parametrize("seed", range(20))
def test_violations_are_those_of_plain_python(tmp_path: Path, seed: int) -> None:
    texts = plain.draw(seed)
    judge = plain.parse(*texts)
    problem = read_problem(*write(tmp_path, texts))
    rng = np.random.default_rng(seed)
    for _ in range(30):
        where = rng.integers(problem.n_machines, size=problem.n_processes)
        state = State(problem, where)
        assert (state.violations() == []) == plain.allowed(judge, where.tolist())
        assert state.objective == plain.cost(judge, where.tolist())


MODEL = """2
1 10
0 5
2
0 0 10 10 5 5 0 1
0 1 10 10 5 5 1 0
2
1 0
1 1 0
2
0 3 4 1
1 5 6 1
1
0 1 2 10
1 10 100
"""
ASSIGNMENT = "0 1\n"

DAMAGES = {
    "more resources than numbers": (("2\n1 10", "99999999 1 10"), ":1, number 1: number of resources"),
    "no resource": (("2\n1 10", "0\n1 10"), ":1, number 1: number of resources is 0, must be at least 1"),
    "a word": (("0 5\n2", "x 5\n2"), ":3, number 1: 'x': must be a whole number"),
    "a fraction": (("1 10\n", "1 1.5\n"), ":2, number 2: '1.5'"),
    "too long": (("1 10\n", "1 1" + "0" * 30 + "\n"), ":2, number 2: "),
    "too great": (("1 10\n", "1 " + "9" * 16 + "\n"), ":2, number 2: load weight of resource 0 is 99999999"),
    "neither transient nor not": (("1 10\n", "2 10\n"), ":2, number 1: transient is 2, must lie in 0..1"),
    "a negative capacity": (("0 1 10 10", "0 1 10 -3"), ":6, number 4: capacity 1 of machine 1 is -3"),
    "a negative requirement": (("1 5 6 1", "1 5 -6 1"), ":12, number 3: requirement 1 of process 1 is -6"),
    "a service that there is not": (("1 5 6 1", "2 5 6 1"), ":12, number 1: service is 2, must lie in 0..1"),
    "a dependency that there is not": (("1 1 0\n", "1 1 7\n"), ":9, number 3: dependency of service 1 is 7"),
    "a balance of no resource": (("0 1 2 10", "0 2 2 10"), ":14, number 2: second resource is 2"),
    "a file that ends": (("1 10 100\n", "1 10\n"), "the file ends where it needs the weight of machine m"),
    "a file that goes on": (("1 10 100", "1 10 100 4"), ":15, number 4: 1 numbers more than the file needs"),
    "an overflow": (("0 1 2 10", f"0 1 {2**40} {2**40}"), "a cost could exceed 62 bits"),
    "over capacity": (("0 0 10 10", "0 0 10 3"), ": cannot be: machine 0 lacks 1 of resource 1"),
    "too little spread": (("2\n1 0\n", "2\n2 0\n"), "cannot be: service 0 is in 1 locations, needs 2"),
    "a dependency not kept": (("0 1 10 10", "1 1 10 10"), "in neighbourhood 1 without service 0"),
    "two of a service on a machine": (("1 5 6 1", "0 5 6 1"), "cannot be: "),
    "nothing": ((MODEL, ""), ":1: the file ends where it needs the number of resources"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line_with_file_and_position(tmp_path: Path, damage: str) -> None:
    (old, new), expected = DAMAGES[damage]
    assert old in MODEL
    paths = write(tmp_path, (MODEL.replace(old, new, 1), "0 0" if "two of" in damage else ASSIGNMENT))
    with pytest.raises((TraceError, ConfigError)) as caught:
        read_problem(*paths)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "0": "assignment_x.txt:1: the file ends where it needs the machine of process 1",
        "0 2": "assignment_x.txt:1, number 2: machine of process 1 is 2, must lie in 0..1",
        "0\n-1": "assignment_x.txt:2, number 1: machine of process 1 is -1",
        "0 1 1": "assignment_x.txt:1, number 3: 1 numbers more than the file needs",
    }.items(),
)
def test_a_damaged_assignment_is_one_line_with_file_and_position(
    tmp_path: Path, text: str, expected: str
) -> None:
    paths = write(tmp_path, (MODEL, text))
    with pytest.raises(TraceError) as caught:
        read_problem(*paths)
    assert expected in str(caught.value)


def test_a_model_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for end in range(len(MODEL) - 4):
        with pytest.raises(TraceError, match=r"model_x\.txt:\d+"):
            read_problem(*write(tmp_path, (MODEL[:end], ASSIGNMENT)))
