"""The literature's dynamic consolidation: detector x selector x placer, and underload evacuation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.checks import need, need_memory, one_of
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView

from ..base import PlanningPolicy
from ..forecast.regression import tricube_weights
from ..forecast.told import Foretold
from .expected import forecast_hosts
from .parts import ADDITIVE, DETECTORS, RS, SELECTORS
from .placers import PLACERS
from .rounds import plan_round
from .selectors import MMT_TIES
from .workspace import (
    allocate_workspace,
)

UNLIMITED = 2**31 - 1

KNOBS: dict[str, tuple[float, float, float]] = {
    "safety": (0.5, 3.0, 1.2),
    "fallback_threshold": (0.4, 1.0, 0.7),
    "underload_threshold": (0.0, 1.0, 1.0),
    "max_migrations_fraction": (0.0, 1.0, 1.0),
}
"""What an agent may turn while an episode runs: name -> (lowest, highest, default).

``safety`` is the detector's parameter (for ``thr`` only up to 1 makes sense; the default shown is that of
the regressions), ``max_migrations_fraction`` bounds the migrations ordered per interval, as a fraction of
all VMs.
"""


@dataclass
class ConsolidationPolicy(PlanningPolicy):
    """Drain overloaded hosts, empty underloaded ones, switch empty hosts off.

    Attributes:
        detector: Overload detector, a name of ``parts.DETECTORS`` or a dotted path.
        selector: VM selection, a name of ``parts.SELECTORS``.
        placer: VM placement, a key of ``placers.PLACERS``.
        safety: The detector's parameter; None = its default.
        fallback_threshold: Fraction of CPU above which a host is overloaded while its history is too short.
        window: Samples the detector looks at; None = its default.
        underload: Whether underloaded hosts are evacuated.
        underload_threshold: A host is a candidate for evacuation below this fraction of CPU; 1 = every host
            that is not overloaded, as in the literature.
        max_migrations: Most migrations ordered per interval; None = no limit.
        horizon_steps: Intervals ahead that the regressions forecast.
        mmt_ties: Which VM ``mmt`` takes among those of equal memory: one of ``selectors.MMT_TIES``.
        require_saving: Refuse an evacuation that would not lower the predicted power.
        amortise_s: Time over which the energy of a boot is spread when a host that is off is considered, s.
    """

    detector: str = "ols"
    selector: str = "mmt"
    placer: str = "pabfd"
    safety: float | None = None
    fallback_threshold: float = 0.7
    window: int | None = None
    underload: bool = True
    underload_threshold: float = 1.0
    max_migrations: int | None = None
    horizon_steps: int = 1
    mmt_ties: str = "larger"
    require_saving: bool = False
    amortise_s: float = 3600.0

    arrival: ClassVar[str | None] = "pabfd"

    def __post_init__(self) -> None:
        """Look the parts up and check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        self._detector = DETECTORS.find(self.detector, "policy.detector").factory
        self._selector = SELECTORS.find(self.selector, "policy.selector").factory
        self._placer = PLACERS[one_of("policy.placer", self.placer, PLACERS)]
        one_of("policy.mmt_ties", self.mmt_ties, MMT_TIES)
        self._window = self._detector.window if self.window is None else self.window
        fixed_window = self._detector.window == 1
        need(fixed_window or self._window >= 3, f"policy.window={self._window}: must be at least 3")
        if fixed_window:
            self._window = 1
        self._safety = self._detector.safety if self.safety is None else float(self.safety)
        need(0 < self._safety < 1e6, f"policy.safety={self.safety}: must be positive, below a million")
        need(
            self.fallback_threshold > 0,
            f"policy.fallback_threshold={self.fallback_threshold}: must be positive",
        )
        need(
            self.underload_threshold >= 0,
            f"policy.underload_threshold={self.underload_threshold}: must be 0 or more",
        )
        need(self.horizon_steps >= 1, f"policy.horizon_steps={self.horizon_steps}: must be at least 1")
        need(self.amortise_s > 0, f"policy.amortise_s={self.amortise_s}: must be positive")
        limit = self.max_migrations
        need(
            limit is None or limit >= 0,
            f"policy.max_migrations={limit}: must be 0 or more, or null for no limit",
        )
        self._max_moves = UNLIMITED if limit is None else int(limit)
        self._fallback = float(self.fallback_threshold)
        self._underload_threshold = float(self.underload_threshold)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the history, allocate the kernel's memory."""
        super().reset(view, rng)
        detector = self._detector
        self._depth = max(self._window, self._selector.window)
        need_memory(f"policy.window={self.window}", self._depth, 8 * (view.n_vms + 4))
        self._work = allocate_workspace(
            view.params,
            view.state,
            detector.taps(self._window, self.horizon_steps),
            tricube_weights(max(self._window, 3)),
            self._depth,
            detector.kind != ADDITIVE,
        )
        self._handle: Any = make_handle("consolidation", self._work)
        self._last_time_s = -np.inf
        self._write_rules()

    def _write_rules(self) -> None:
        """Copy the parameters to where the kernel reads them."""
        w, detector = self._work, self._detector
        w.options.kind = detector.kind
        w.options.selector = self._selector.kind
        w.options.placer = self._placer.kind
        w.options.max_moves = self._max_moves
        w.options.evacuate = self.underload
        w.options.saving = self.require_saving
        w.options.min_samples = detector.min_samples(self._window)
        w.options.horizon = self.horizon_steps
        w.options.mc_window = SELECTORS.find("mc").factory.window
        w.options.window = self._window
        w.options.mmt_ties = MMT_TIES.index(self.mmt_ties)
        w.rules.safety = self._safety
        w.rules.fallback = self._fallback
        w.rules.underload = self._underload_threshold
        w.rules.amortise = self.amortise_s
        factor = detector.factor(self._safety)
        # A VM without enough history counts with its demand, scaled such that a host with only such VMs is
        # overloaded exactly above the fall-back threshold.
        w.rules.young_gain = factor / self._fallback
        if detector.kind == ADDITIVE:
            w.limit[:] = factor * self.view.params.host_cpu_mhz
            if detector.forecasts:  # the kernel tests "signal > limit", the regressions mean "at least"
                w.limit[:] = np.nextafter(w.limit, -np.inf)
        else:
            w.limit[:] = np.inf

    def set_knobs(self, values: Mapping[str, float]) -> None:
        """Turn parameters while an episode runs.

        Args:
            values: New values by the names of ``KNOBS``; they are clipped to the ranges there.

        Raises:
            ConfigError: For an unknown name.
        """
        for name, value in values.items():
            low, high, _ = KNOBS[one_of("knob", name, KNOBS)]
            x = min(max(float(value), low), high)
            if name == "safety":
                self._safety = x
            elif name == "fallback_threshold":
                self._fallback = x
            elif name == "underload_threshold":
                self._underload_threshold = x
            else:
                self._max_moves = round(x * self.view.n_vms)
        self._write_rules()

    def plan(self, view: ClusterView) -> Decisions:
        """Plan one round; see ``rounds.plan_round``."""
        tally = self._work.tally
        now = view.time_s
        if self._selector.kind == RS:
            tally.seed = self.rng.integers(0, 2**62)
        # Asked twice at the same time, it must not take one measurement for two.
        plan_round(view.kernel_params, view.kernel_state, self._handle, now > self._last_time_s)
        self._last_time_s = now
        moves, on, off = int(tally.moves), int(tally.on), int(tally.off)
        w = self._work
        return Decisions(
            power_on=w.out_on[:on].copy(),
            move_vm=w.out_vm[:moves].copy(),
            move_host=w.out_host[:moves].copy(),
            power_off=w.out_off[:off].copy(),
        )

    def foretold(self) -> Foretold | None:
        """The demand of all hosts as a regression expects it; None of other detectors, and while none is due.

        A VM (of the robust regression a host) whose history is too short counts as it is.
        """
        w, need = self._work, self._detector.min_samples(self._window)
        here = w.home >= 0
        known = here & (w.samples >= need)
        if not self._detector.forecasts or not known.any():
            return None
        newest = (int(w.tally.samples_taken) - 1) % self._depth
        demand = np.where(here & (w.samples > 0), w.hist[:, newest], 0.0)
        if self._detector.kind == ADDITIVE:
            ahead = np.where(known, w.signal, demand).sum()
        else:
            ahead = forecast_hosts(self._handle, demand)
        return Foretold(self.detector, self.horizon_steps, demand.sum(), float(ahead))

    @property
    def overloaded_hosts(self) -> NDArray[np.int32]:
        """Hosts that were overloaded at the start of the last round."""
        return np.flatnonzero(self._work.over).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        transient = ("view", "rng", "_keeper", "_work", "_handle", "_last_time_s", "_depth")
        return {key: value for key, value in self.__dict__.items() if key not in transient}
