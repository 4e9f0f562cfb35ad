"""Every call of an OR-Tools solver: what it raises is no plan, and never ends a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class SolverCalls:
    """How many calls brought nothing that a caller could use; whoever counts for itself takes differences.

    Attributes:
        failed: Such calls in this process.
    """

    def __init__(self) -> None:
        self.failed = 0

    def note_failure(self) -> None:
        """Count a call without a solution; its caller falls back on what it has without one."""
        self.failed += 1


CALLS = SolverCalls()


def attempt(call: Callable[[], T]) -> T | None:
    """What a solver answers, None if it gives up by an exception.

    GLOP ends with ABNORMAL, or MathOpt with INTERNAL, where numbers go wrong; the bindings raise whatever
    their library does.

    Args:
        call: Builds the model and solves it.
    """
    try:
        return call()
    except Exception:  # every caller has a plan without the solver
        return None
