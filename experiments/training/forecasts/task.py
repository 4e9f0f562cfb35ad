"""Training of forecasters: days of a scenario to learn from; other days, or a later time, to validate on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.traces import Trace
from virtgym.policies.forecast.forecasters import make_forecaster
from virtgym.policies.forecast.inputs import OUTPUTS
from virtgym.policies.forecast.learned import LAYOUT, LearnedForecaster
from virtgym.policies.learned.architecture import Layout
from virtgym.policies.learned.storage import Agent, Member

from ...analysis.forecast_skill import Load, SkillSettings, forecast_skill, mean_of, measure, vm_load
from ...config.overrides import PolicySpec
from ...run.cell import load_scenario
from ...suite.tasks import SUITE, load_suite
from ..learners import TrainTask
from ..settings.base import AgentConfig
from ..settings.own import ForecasterConfig

if TYPE_CHECKING:
    import pandas as pd

HORIZONS: tuple[int, ...] = (1, 2, 6)
"""Steps ahead that are validated."""
LEARNED_SHARE = 0.75
"""Share of a trace that is learned from where there is no other."""
REFERENCE = "ewma"
"""Whose pinball loss the objective is a share of."""

_DAYS = 4
"""Generated days of validation."""
_ORIGINS = 60
"""Points in time that forecasts of validation are made at, on the way; the last table has all."""


def measured(trace: Trace, interval_s: float) -> Trace:
    """A trace as telemetry shows it: the mean demand of every interval, an interval a sample."""
    if trace.sample_s == interval_s:
        return trace
    edges = np.arange(trace.n_samples + 1) * trace.sample_s
    bounds = np.arange(max(1, int(edges[-1] / interval_s + 1e-9)) + 1) * interval_s
    used = np.vstack((np.zeros(trace.n_vms), np.cumsum(trace.util * trace.sample_s, axis=0)))
    at = np.stack([np.interp(bounds, edges, column) for column in used.T], axis=1)
    return replace(trace, util=np.maximum(np.diff(at, axis=0) / interval_s, 0.0), sample_s=interval_s)


def _side_by_side(traces: Sequence[Trace]) -> Trace:
    """Traces of the same length as one, with the VMs of all."""
    if len(traces) == 1:
        return traces[0]
    first = traces[0]
    return Trace(
        name=first.name,
        format=first.format,
        source=first.source,
        sample_s=first.sample_s,
        util=np.hstack([t.util for t in traces]),
        vm_names=tuple(f"{i}/{name}" for i, t in enumerate(traces) for name in t.vm_names),
        arrival_s=np.concatenate([t.arrival_s for t in traces]),
        departure_s=np.concatenate([t.departure_s for t in traces]),
    )


class ForecastValidation:
    """Scores forecasters on load that training does not see.

    The objective, which is to be small, is the pinball loss of the upper quantiles over that of
    ``REFERENCE`` with the standard deviation of the past, in %, mean over ``HORIZONS``.

    Args:
        load: The load.
        begin: Share of it before which nothing is scored.
    """

    unit = f"% of the loss of {REFERENCE}"

    def __init__(self, load: Load, begin: float) -> None:
        self.load = load
        self.settings = SkillSettings(origins=_ORIGINS, begin=begin)
        self._reference = self._losses(make_forecaster(REFERENCE))

    def _losses(self, forecaster: Any) -> F8:
        errors = [measure(self.load, forecaster, steps, self.settings) for steps in HORIZONS]
        return np.array([mean_of(e.pinball, e) for e in errors])

    def __call__(self, members: Sequence[Member]) -> float:
        """The objective of a forecaster."""
        found = self._losses(LearnedForecaster(Agent(tuple(members), "forecast")))
        return float(100.0 * np.mean(found / self._reference))


@dataclass(frozen=True)
class ForecastTrainTask(TrainTask):
    """The load of a cluster scenario, to be forecast.

    Generated load is learned from the seeds of the suite's split for training, whatever the scenario, and
    validated on those of its split for validation. A trace is validated on its last part.

    Attributes:
        agent: The learner's settings.
    """

    kind: ClassVar[str] = "forecast"
    scenario: Scenario
    agent: ForecasterConfig = field(default_factory=ForecasterConfig)

    @property
    def protocol(self) -> dict[str, Any]:
        """The length of a sample, s."""
        return {"sample_s": self._interval_s}

    @property
    def n_extra(self) -> int:
        """Numbers that the network gives."""
        return OUTPUTS

    def layout(self, config: AgentConfig) -> Layout:
        """What the network reads."""
        return LAYOUT

    @property
    def _interval_s(self) -> float:
        return float(self.scenario.cluster.interval_s)

    @property
    def _generated(self) -> bool:
        return self.scenario.config.trace.path is None

    def _trace(self, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> Trace:
        day = load_scenario(asdict(self.scenario.config), seed, overrides)
        assert isinstance(day, Scenario)
        return measured(day.trace, self._interval_s)

    @cached_property
    def loads(self) -> list[Load]:
        """What is learned from.

        Raises:
            ConfigError: If there is nothing to forecast in it.
        """
        if self._generated:
            if self.agent.traces:
                raise ConfigError(
                    f"agent.traces={self.agent.traces}: scenario={self.scenario.name} generates its load; "
                    "name scenario.trace.path, too"
                )
            first = load_suite(SUITE).train.first
            days = [self._trace(seed) for seed in range(first, first + self.agent.days)]
            found = [vm_load(_side_by_side(days))]
        elif self.agent.traces:
            found = [vm_load(self._trace(0, {"trace.path": path})) for path in self.agent.traces]
        else:
            whole = vm_load(self.held_out)
            cut = math.ceil(LEARNED_SHARE * len(whole.util))
            found = [Load(whole.util[:cut].copy(), whole.first, np.minimum(whole.last, cut - 1))]
        if not any((load.last > load.first).any() for load in found):
            raise ConfigError(f"scenario={self.scenario.name}: no VM has two samples to learn from")
        return found

    @cached_property
    def held_out(self) -> Trace:
        """What is validated on."""
        if not self._generated:
            return measured(self.scenario.trace, self._interval_s)
        seeds = load_suite(SUITE).validation.seeds[:_DAYS]
        return _side_by_side([self._trace(seed) for seed in seeds])

    @property
    def _begin(self) -> float:
        return 0.0 if self._generated or self.agent.traces else LEARNED_SHARE

    def described(self) -> dict[str, Any]:
        """With what was learned from."""
        first = load_suite(SUITE).train.first
        seeds = [first, first + self.agent.days]
        names = [Path(path).name for path in self.agent.traces]
        learned = {"seeds": seeds} if self._generated else {"traces": names}
        return {**super().described(), **learned, "validated_from": self._begin}

    def validation(self) -> ForecastValidation:
        """Scores on ``held_out``."""
        return ForecastValidation(vm_load(self.held_out), self._begin)

    def compare_with_rules(self, agent: Path, rules: bool = True) -> pd.DataFrame:
        """Skill, loss and coverage of the forecaster and of three rules on ``held_out``."""
        names = (str(agent), *((REFERENCE, "loess", "persistence") if rules else ()))
        settings = SkillSettings(tuple(map(PolicySpec, names)), HORIZONS, begin=self._begin)
        return forecast_skill(self.held_out, settings)

    def fingerprint(self) -> str:
        """Fingerprint of the load that is learned from and validated on."""
        whole = hashlib.blake2b(digest_size=8)
        for load in (*self.loads, vm_load(self.held_out)):
            for array in (load.util, load.first, load.last):
                whole.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()
