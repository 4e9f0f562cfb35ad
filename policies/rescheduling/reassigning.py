"""Policies of rescheduling that reassign the processes of a whole instance at once, too."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, cast

import numpy as np

from virtgym.envs.errors import ConfigError
from virtgym.envs.rescheduling.reassignment.instance import ReassignmentProblem

from ..solvers.reassignment.methods import METHODS, Answer, Clock


class Reassigning:
    """What a policy needs to play ``scenario=reassignment``: the name of its method.

    It has ``time_limit_s`` and ``iterations``; the latter counts what the method does.
    """

    also: ClassVar[tuple[str, ...]] = ("reassignment",)
    method: ClassVar[str]
    time_limit_s: float | None
    iterations: int

    def reassign(self, problem: ReassignmentProblem, rng: np.random.Generator) -> Answer:
        """The best assignment that is found within the limits.

        Args:
            problem: The instance.
            rng: Generator of what the policy draws.

        Raises:
            ConfigError: For a parameter that only says something of snapshots.
        """
        for f in fields(cast(Any, self)):
            if f.name not in ("time_limit_s", "iterations") and getattr(self, f.name) != f.default:
                raise ConfigError(f"policy.{f.name}: has no effect on scenarios of kind reassignment")
        clock = Clock(self.iterations if self.time_limit_s is None else None, self.time_limit_s)
        return METHODS[self.method](problem, clock, int(rng.integers(2**62)))
