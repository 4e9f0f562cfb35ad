"""Training of what leads a search: searches on training snapshots, and searches on others to validate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.policies.learned.storage import Member
from virtgym.policies.rescheduling.annealing import AnnealingPolicy
from virtgym.policies.rescheduling.base import ReschedulingPolicy
from virtgym.policies.rescheduling.guide import Guide
from virtgym.policies.rescheduling.learned_destroy import LearnedDestroy
from virtgym.policies.rescheduling.ortools import OrtoolsReschedulingPolicy

from ...config.overrides import PolicySpec
from ..rescheduling_task import ReschedulingTrainTask, ReschedulingValidation
from ..settings.own import DestroyerConfig

if TYPE_CHECKING:
    import pandas as pd

PROPOSALS = 200_000
"""Of a search by annealing that is learned from, or validated."""


class SearchValidation(ReschedulingValidation):
    """Plans of a search that is led, on the snapshots of ``VALIDATION``; the mean of their objectives."""

    task: SearchTrainTask

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective with some networks."""
        policy, games, found = self.task.search(tuple(members)), self._env.games, []
        for k in range(len(games.snapshots)):
            games.begin(snapshot=k)
            plan = policy.plan_moves(games.fork(), np.random.default_rng(k), np.inf)
            games.play(plan.moves)
            found.append(float(games.state.objective[0]))
        return float(np.mean(found))


@dataclass(frozen=True)
class SearchTrainTask(ReschedulingTrainTask):
    """Searches to be led. A timestep is an action of a game: two for every move that a search may plan."""

    def search(self, members: tuple[Member, ...]) -> ReschedulingPolicy:
        """The search, led by some networks."""
        raise NotImplementedError

    def spec(self, **params: Any) -> PolicySpec:
        """The same search as a policy, with more parameters."""
        raise NotImplementedError

    folder_key: ClassVar[str]
    """The parameter that names the folder."""

    def validation(self) -> SearchValidation:
        """Plans on the snapshots of ``VALIDATION``."""
        return SearchValidation(self)

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """The search as it is led, and as much of it without."""
        plain = [self.spec(), PolicySpec("greedy_rescheduling")] if rules else []
        return self.compare([self.spec(**{self.folder_key: str(agent)}), *plain])


@dataclass(frozen=True)
class ProposalTrainTask(SearchTrainTask):
    """Annealing whose proposals are guided."""

    kind: ClassVar[str] = "proposals"
    folder_key: ClassVar[str] = "guide"

    def search(self, members: tuple[Member, ...]) -> AnnealingPolicy:
        """Annealing with a guide."""
        policy = AnnealingPolicy(iterations=PROPOSALS)
        policy.follow(Guide(members))
        return policy

    def spec(self, **params: Any) -> PolicySpec:
        """Annealing of as many proposals."""
        return PolicySpec("annealing", {"iterations": PROPOSALS, **params})


@dataclass(frozen=True)
class DestroyTrainTask(SearchTrainTask):
    """Large-neighbourhood search whose hosts are chosen.

    Attributes:
        agent: Settings of the learner, which say how long a search is and what it begins with.
    """

    kind: ClassVar[str] = "destroy"
    folder_key: ClassVar[str] = "destroy"
    agent: DestroyerConfig = field(kw_only=True)

    def search(self, members: tuple[Member, ...]) -> OrtoolsReschedulingPolicy:
        """Large-neighbourhood search with a learned operator."""
        policy = OrtoolsReschedulingPolicy(iterations=self.agent.iterations, begin=self.agent.begin)
        policy.follow(LearnedDestroy(members))
        return policy

    def spec(self, **params: Any) -> PolicySpec:
        """Large-neighbourhood search of as many neighbourhoods."""
        own = {"iterations": self.agent.iterations, "begin": self.agent.begin}
        return PolicySpec("ortools_rescheduling", {**own, **params})
