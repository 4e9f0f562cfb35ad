"""What the policies of products share: the clock, rules and maintenance, the log of a round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import B1, F8
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView

from ..base import MovingPolicy
from ..drs.policy import DrsPolicy
from ..forecast.history import History
from ..planning.guard import AdmissionGuard
from ..planning.rounds import Round
from ..planning.rule_hosts import RuleHosts

ENDINGS = ("not due", "below threshold", "no beneficial move", "moved")
"""How a round can end."""


@dataclass(frozen=True)
class ProductRound:
    """What a product's last round saw and did.

    Attributes:
        trigger: The value that its rule looks at, NaN if it looked at none.
        threshold: What that is compared with.
        moves: Migrations that it ordered, without those for rules and maintenance.
        ending: One of ``ENDINGS``.
    """

    trigger: float = math.nan
    threshold: float = math.nan
    moves: int = 0
    ending: str = "not due"


@dataclass
class ProductPolicy(MovingPolicy):
    """Base of the products.

    In every interval first what each of them does by other means: hosts in maintenance are emptied and broken
    rules mended, as DRS does it. Then ``act``, by what was measured; never before anything was.

    A product with a period of P acts at the first decision at or after each multiple of P since the episode
    began: every 50 minutes where decisions are 5 minutes apart is exact, every minute is every decision.
    """

    arrival: ClassVar[str | None] = "first_fit"

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._rules = RuleHosts(view)
        self._guard = AdmissionGuard(view)
        self._duties = DrsPolicy(level=1, forecaster=None)
        self._duties.reset(view, rng)
        self._began_s = view.time_s
        self._now_s = self._before_s = -math.inf
        self.last_round = ProductRound()

    def plan(self, view: ClusterView) -> Decisions:
        """Plan one interval."""
        fresh = view.time_s > self._now_s  # asked twice at one time, it has seen one sample
        if fresh:
            self._before_s, self._now_s = self._now_s, view.time_s
        now = Round(view, self.limits, self._rules, self._guard)
        self.last_round = ProductRound()
        if view.config.rules or view.state.host_maintenance.any():
            now.carry_out(self.limits.keep(view, self._duties.plan(view)))
        if view.measured.any():
            if fresh:
                self.observe(now)
            self.act(now)
        return now.decisions()

    def observe(self, now: Round) -> None:
        """Take what is measured down, once per time."""

    def act(self, now: Round) -> None:
        """Order what the product would."""
        raise TypeError(f"{type(self).__name__} does not define act()")

    def rounds(self, period_s: float) -> int:
        """Rounds of a period that have come due since the last decision."""
        if self._before_s == -math.inf:
            return 0
        return self._count(self._now_s, period_s) - self._count(self._before_s, period_s)

    def _count(self, time_s: float, period_s: float) -> int:
        return math.floor((time_s - self._began_s) / period_s + 1e-9)

    def samples(self, span_s: float) -> int:
        """Decisions that a span of the past has, at least one."""
        return max(1, math.ceil(span_s / self.view.params.interval_s - 1e-9))

    def say(self, trigger: float, threshold: float, moves: int, above: bool) -> None:
        """Log a round; with none or several in an interval the last one that moved counts."""
        if moves or not self.last_round.moves:
            ending = "moved" if moves else "no beneficial move" if above else "below threshold"
            self.last_round = ProductRound(trigger, threshold, moves + self.last_round.moves, ending)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        gone = ("view", "rng", "limits", "last_round")
        return {key: value for key, value in vars(self).items() if key[0] != "_" and key not in gone}


class Means:
    """Means over the past of something measured at every decision.

    Args:
        n: Things that are measured.
        depth: Samples that are kept.
    """

    def __init__(self, n: int, depth: int) -> None:
        self._history = History(n, depth)

    def push(self, values: F8, there: B1) -> None:
        """Take a sample, (n,), of those that are there; the others begin anew."""
        self._history.push(np.where(there, values, 0.0), there)

    def window(self) -> tuple[F8, B1]:
        """The samples, oldest first, (depth, n), and which of them there are."""
        depth, counts = self._history.depth, self._history.counts
        return self._history.values, np.arange(depth, 0, -1)[:, None] <= counts

    def mean(self, otherwise: F8) -> F8:
        """Mean of the samples, (n,); of things without one what is given."""
        values, known = self.window()
        n = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        return np.where(n > 0, total / np.maximum(n, 1), otherwise)

    def all_above(self, level: float) -> B1:
        """Whether all of ``depth`` samples are above a level, (n,)."""
        values, known = self.window()
        return np.asarray((known & (values > level)).all(axis=0))
