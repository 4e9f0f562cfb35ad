"""Reader of the ROADEF/EURO 2012 files: a model, and an assignment of its processes to machines.

Both are whole numbers separated by white space. The numbers of a model, in this order:

    R, then for every resource: transient (0 or 1), load weight
    M, then for every machine: neighbourhood, location, R capacities, R safety capacities, M move costs
    S, then for every service: least spread, number of dependencies, the services that it depends on
    P, then for every process: service, R requirements, move cost
    B, then for every balance cost: resource, resource, target, weight
    weights of process, service and machine moves

An assignment has a machine for every process. What is missing, too much or out of range is an error that
names file, line and number; so is an initial assignment that breaks a constraint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.errors import TraceError
from virtgym.envs.files import Located, names_its_file, read_bytes, show_found, show_path

from .instance import ReassignmentProblem, derive
from .state import State

LARGEST = 1 << 28
"""Bytes of a file at most: the largest of the challenge has 4 MB."""

MOST = 2**53
"""Every number of a file is below this."""

Columns = Sequence[tuple[str, int]]
"""Name of a column, and how many there are of it side by side."""

BALANCE = ("first resource", "second resource", "target", "weight")
WEIGHTS = ("weight of process moves", "weight of service moves", "weight of machine moves")


@names_its_file
def read_model(path: Located) -> dict[str, I8]:
    """Read a model file.

    Args:
        path: The file.

    Returns:
        The declared arrays of an ``Instance`` by name, without ``home``.

    Raises:
        TraceError: Naming file, line and number.
    """
    file = _Numbers(path)
    n = file.count("number of resources", 1)
    resources = file.table(n, (("transient", 1), ("load weight", 1)), "resource")
    file.check(resources, 0, 2, "transient")
    m = file.count("number of machines", 1)
    place = (("neighbourhood", 1), ("location", 1), ("capacity", n), ("safety capacity", n), ("move cost", m))
    machines = file.table(m, place, "machine")
    spread, first, needs = _read_services(file)
    p = file.count("number of processes", 1)
    processes = file.table(p, (("service", 1), ("requirement", n), ("move cost", 1)), "process")
    file.check(processes, 0, len(spread), "service")
    b = file.count("number of balance costs")
    balance = file.table(b, tuple((name, 1) for name in BALANCE), "balance cost")
    for column, name in enumerate(BALANCE[:2]):
        file.check(balance, column, n, name)
    weights = file.table(1, tuple((name, 1) for name in WEIGHTS), "")
    file.end()
    return {
        "transient": resources[:, 0],
        "load_weight": resources[:, 1],
        "neighbourhood": machines[:, 0],
        "location": machines[:, 1],
        "capacity": machines[:, 2 : 2 + n],
        "safety": machines[:, 2 + n : 2 + 2 * n],
        "machine_move": machines[:, 2 + 2 * n :],
        "spread_min": spread,
        "need_first": first,
        "need": needs,
        "service": processes[:, 0],
        "demand": processes[:, 1 : 1 + n],
        "process_move": processes[:, 1 + n],
        "balance_have": balance[:, 0],
        "balance_want": balance[:, 1],
        "balance_target": balance[:, 2],
        "balance_weight": balance[:, 3],
        "weights": weights[0],
    }


def _read_services(file: _Numbers) -> tuple[I8, I8, I8]:
    """Least spread of each service, and the services that it depends on."""
    s = file.count("number of services", 1)
    spread, first, needs = np.zeros(s, dtype=np.int64), np.zeros(s + 1, dtype=np.int64), []
    for i in range(s):
        spread[i], k = file.table(1, (("least spread", 1), ("number of dependencies", 1)), "service", i)[0]
        needs.append(file.table(1, (("dependency", int(k)),), "service", i, below=s)[0])
        first[i + 1] = first[i] + k
    return spread, first, np.concatenate(needs)


@names_its_file
def read_assignment(path: Located, n_processes: int, n_machines: int) -> I8:
    """Read an assignment file.

    Args:
        path: The file.
        n_processes: P.
        n_machines: M.

    Returns:
        Machine of each process, (P,).

    Raises:
        TraceError: Naming file, line and number.
    """
    file = _Numbers(path)
    found = file.table(n_processes, (("machine", 1),), "process", below=n_machines)
    file.end()
    return found[:, 0]


def read_problem(model: Located, assignment: Located) -> ReassignmentProblem:
    """Read a model and the initial assignment of its processes.

    Raises:
        TraceError: If a file is damaged, or the assignment breaks a constraint of the model.
    """
    declared = read_model(model)
    declared["home"] = read_assignment(assignment, len(declared["service"]), len(declared["location"]))
    name = Path(model).stem.removeprefix("model_")
    problem = ReassignmentProblem(name, derive(declared))
    if broken := State(problem).violations():
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise TraceError(f"{show_path(assignment)}: cannot be: {broken[0]}{more}")
    return problem


@names_its_file
def read_number(path: Located) -> int:
    """Read a file of one number, such as a lower bound.

    Raises:
        TraceError: Naming file, line and number.
    """
    file = _Numbers(path)
    value = int(file.table(1, (("number", 1),), "")[0, 0])
    file.end()
    return value


class _Numbers:
    """The numbers of a file, one after the other."""

    def __init__(self, path: Located) -> None:
        self.path = path
        self.content = read_bytes(path, limit=LARGEST)
        words = self.content.split()
        for place, word in enumerate(words):
            if len(word) > 17 or not re.fullmatch(rb"-?[0-9]+", word):
                self.fail(place, f"{show_found(word)}: must be a whole number of at most 16 digits")
        self.values = np.array(words, dtype="S18").astype(np.int64)
        self.at = 0

    def fail(self, place: int, text: str) -> NoReturn:
        """Raise an error about a number, counted from 0; one after the last is the end of the file.

        Raises:
            TraceError: Always.
        """
        line, before = 0, 0
        for line, content in enumerate(self.content.split(b"\n"), start=1):
            here = len(content.split())
            if before + here > place:
                raise TraceError(f"{show_path(self.path)}:{line}, number {place - before + 1}: {text}")
            before += here
        raise TraceError(f"{show_path(self.path)}:{line}: {text}")

    def count(self, what: str, least: int = 0) -> int:
        """The next number, of things of which each has a number of its own in what follows."""
        value = int(self.table(1, ((what, 1),), "")[0, 0])
        if value < least:
            self.fail(self.at - 1, f"{what} is {value}, must be at least {least}")
        if value > len(self.values) - self.at:
            self.fail(
                self.at - 1, f"{what} is {value:,}, but only {len(self.values) - self.at:,} numbers follow"
            )
        return value

    def table(self, rows: int, columns: Columns, owner: str, first: int = 0, below: int = MOST) -> I8:
        """The next numbers as a table, (rows, sum of the columns' widths).

        Args:
            rows: Rows.
            columns: Name of a column, and how many there are of it side by side.
            owner: What a row is.
            first: Number of the first row, for messages.
            below: Every number must lie in 0 ... ``below`` - 1.
        """
        width = sum(count for _, count in columns)
        start, size = self.at, rows * width
        self.at += size
        found = self.values[start : self.at]
        wrong = np.flatnonzero((found < 0) | (found >= below))
        if wrong.size or found.size < size:
            place = int(wrong[0]) if wrong.size else found.size
            name = _column(columns, place % width)
            what = f"{name} of {owner} {first + place // width}" if owner else name
            if not wrong.size:
                self.fail(start + place, f"the file ends where it needs the {what}")
            self.fail(start + place, f"{what} is {found[place]}, must lie in 0..{below - 1}")
        return found.reshape(rows, width)

    def check(self, table: I8, column: int, below: int, what: str) -> None:
        """Every number of a column of the table that was read last must be below a limit."""
        wrong = np.flatnonzero(table[:, column] >= below)
        if wrong.size:
            place = self.at - table.size + int(wrong[0]) * table.shape[1] + column
            self.fail(place, f"{what} is {table[wrong[0], column]}, must lie in 0..{below - 1}")

    def end(self) -> None:
        """Nothing may follow."""
        if self.at < len(self.values):
            self.fail(self.at, f"{len(self.values) - self.at:,} numbers more than the file needs")


def _column(columns: Columns, place: int) -> str:
    """Name of the column of a place in a row."""
    for name, count in columns:
        if place < count:
            return name if count == 1 else f"{name} {place}"
        place -= count
    raise IndexError(place)
