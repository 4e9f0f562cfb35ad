"""Training of guides: searches on training snapshots, and guided searches on others to validate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.annealing import AnnealingPolicy
from virtgym.policies.rescheduling.guide import Guide

from ...config.overrides import PolicySpec
from ..rescheduling_task import ReschedulingTrainTask, ReschedulingValidation

if TYPE_CHECKING:
    import pandas as pd

PROPOSALS = 200_000
"""Of a search that is learned from, or validated."""


class ProposalValidation(ReschedulingValidation):
    """Plans with a guide on the snapshots of ``VALIDATION``; the objective is the mean of theirs."""

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of a guide."""
        policy, games, found = AnnealingPolicy(iterations=PROPOSALS), self._env.games, []
        policy.follow(Guide(tuple(members)))
        for k in range(len(games.snapshots)):
            games.begin(snapshot=k)
            plan = policy.plan_moves(games.fork(), np.random.default_rng(k), np.inf)
            games.play(plan.moves)
            found.append(float(games.state.objective[0]))
        return float(np.mean(found))


@dataclass(frozen=True)
class ProposalTrainTask(ReschedulingTrainTask):
    """Searches to be guided. A timestep is an action of a game: two for every move that a search may plan."""

    kind: ClassVar[str] = "proposals"

    def validation(self) -> ProposalValidation:
        """Plans on the snapshots of ``VALIDATION``."""
        return ProposalValidation(self)

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """Annealing with the guide, and as many proposals without."""
        count = {"iterations": PROPOSALS}
        plain = [PolicySpec("annealing", count), PolicySpec("greedy_rescheduling")] if rules else []
        return self.compare([PolicySpec("annealing", {**count, "guide": str(agent)}), *plain])
