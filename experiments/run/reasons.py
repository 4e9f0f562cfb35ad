"""Why a policy did what it did, interval by interval: what it foretold, and between what it chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.cluster.candidates.form import CandidateForm
from virtgym.envs.cluster.env import ClusterEnv
from virtgym.envs.sim.decisions import Decisions
from virtgym.policies.forecast.told import Foretold

MOST_CHOICES = 50_000
"""Of an episode that are kept; those after them only count."""


class Reasons:
    """Notes of one episode; a policy need not say anything.

    Args:
        policy: Who plays. One with ``foretold()`` is asked for it once an interval. One with ``explain()``
            that chooses candidates is asked what its last choice was made by; one with a ``listener`` says
            so itself, also to whoever listened before.
        capacity: Intervals of the episode.
    """

    def __init__(self, policy: Any, capacity: int) -> None:
        self._policy = policy
        self._ask: Callable[[], Foretold | None] | None = getattr(policy, "foretold", None)
        self._told = np.full((capacity if self._ask else 0, 3), np.nan)
        self._forecaster, self._steps = "", 0
        self.n = 0
        self._rows: list[tuple[int, int, int, int]] = []
        self._values: list[tuple[float, float]] = []
        self._names: list[str] = []
        self._measure = ""
        self._offered = self._rated = np.zeros(0, dtype=np.int64)
        self._sums = np.zeros(0)
        self._before: Any = getattr(policy, "listener", None)
        if hasattr(policy, "listener"):
            policy.listener = self._listen

    def _listen(self, form: CandidateForm, values: Any, chosen: int) -> None:
        self.hear(form, values, chosen, "value")
        if self._before is not None:
            self._before(form, values, chosen)

    def close(self) -> None:
        """Listen no longer."""
        if hasattr(self._policy, "listener"):
            self._policy.listener = self._before

    def look(self, env: ClusterEnv, action: Any) -> None:
        """Note the choice that a policy of observations has just made."""
        chooses = env.actions == "candidates" and not isinstance(action, Decisions)
        if chooses and hasattr(self._policy, "explain"):
            measure, values = self._policy.explain()
            self.hear(env.form, values[0], int(action), measure)

    def end_interval(self) -> None:
        """Note what was foretold in the interval that has just ended."""
        if self._ask is not None and (told := self._ask()) is not None:
            self._forecaster, self._steps = told.forecaster, told.steps
            self._told[self.n] = told[2:]
        self.n += 1

    def hear(self, form: CandidateForm, values: Any, chosen: int, measure: str) -> None:
        """Note a choice.

        Args:
            form: What offers.
            values: What the policy makes of every candidate, (K,), -inf of those not rated.
            chosen: The candidate that is chosen.
            measure: What the values are.
        """
        mask = form.candidates.mask
        if not self._names:
            self._names, self._measure = form.names, measure
            self._offered, self._rated = (np.zeros(len(mask), dtype=np.int64) for _ in range(2))
            self._sums = np.zeros(len(mask))
        rated = mask & np.isfinite(values)
        self._offered += mask
        self._rated += rated
        self._sums[rated] += values[rated]
        if len(self._rows) < MOST_CHOICES:
            others = np.where(rated, values, -np.inf)
            best = int(np.argmax(others))
            others[chosen] = -np.inf
            self._rows.append((self.n, chosen, int(mask.sum()), best))
            self._values.append((float(values[chosen]), float(others.max())))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept, for the file of the cell; nothing of a policy that said nothing.

        ``forecast`` (intervals, 3): demand now, as expected ``forecast_steps`` decisions later, and the
        standard deviation of that, MHz. ``choices`` (N, 4): interval, slot that was chosen, candidates that
        were offered, slot that was rated highest. ``choice_values`` (N, 2): value of what was chosen, and the
        highest of the others. By slot, (K,): ``choice_slots``, ``choice_offered`` how often it was,
        ``choice_mean`` its mean value when it was rated.
        """
        found: dict[str, NDArray[Any]] = {}
        if self._forecaster:
            found["forecast"] = self._told[: self.n].astype(np.float32)
            found["forecast_steps"] = np.array(self._steps, dtype=np.int64)
            found["forecaster"] = np.array(self._forecaster)
        if self._rows:
            found["choices"] = np.array(self._rows, dtype=np.int32)
            found["choice_values"] = np.array(self._values, dtype=np.float32)
            found["choice_slots"] = np.array(self._names)
            found["choice_offered"] = self._offered
            with np.errstate(invalid="ignore"):
                found["choice_mean"] = (self._sums / self._rated).astype(np.float32)
            found["choice_measure"] = np.array(self._measure)
        return found
