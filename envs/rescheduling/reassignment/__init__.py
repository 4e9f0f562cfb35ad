"""Machine reassignment: the problem of the ROADEF/EURO challenge 2012, its files, costs and constraints."""

from __future__ import annotations

from .generate import generate_problem
from .instance import Instance, ReassignmentProblem
from .reading import read_assignment, read_model, read_number, read_problem
from .state import Costs, State

__all__ = [
    "Costs",
    "Instance",
    "ReassignmentProblem",
    "State",
    "generate_problem",
    "read_assignment",
    "read_model",
    "read_number",
    "read_problem",
]
