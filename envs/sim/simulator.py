"""The simulator: reset, orders in, physics, metrics out, cheap what-if copies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import B1, F8, I4
from ..errors import ConfigError, IllegalDecision
from ..jit.handle import make_handle
from .agenda import Agenda, check_events
from .config import ClusterConfig
from .decisions import ORDERS, Decisions, Refusal
from .engine.clock import advance, begin, measure_again, settle_homes, start, step_end
from .engine.hub import connect
from .engine.orders import apply_orders
from .guests import GuestProfile
from .metrics import StepMetrics, summarize
from .models.telemetry import HIDDEN, PAST
from .state.build import frozen_params, make_params
from .state.cluster_state import Blocks, ClusterState, allocate_state, digest, shape_of, state_in
from .state.faults import sample_faults
from .state.parameters import ClusterParams, bind_params
from .telemetry.shown import forget, freeze_demand, hide_future, show
from .workload import Workload


@dataclass(frozen=True)
class ClusterView:
    """What a policy may read: parameters and state without the future, always those of now.

    It has no way to the simulator, its trace or what will fail (docs/simulator.md, Telemetry).

    Attributes:
        params: Host and VM tables. ``util`` has one row, the demand that was measured; times of arrivals and
            departures that are yet to come are inf; there are no faults.
        state: Read-only arrays. Structure (who is where, power states, room) is that of now; signals, such as
            ``vm_demand_mhz``, are what was measured.
        config: The cluster's description, without series of what is to come.
        profiles: Kinds of guests.
        vm_profile: Index into ``profiles`` of every VM, shape (V,).
        horizon_s: End of the episode, s.
        strict: Whether refused orders raise.
        kernel_params: ``params`` as one argument for Numba kernels.
        kernel_state: ``state`` as one argument for Numba kernels; writing through it does not compile.
    """

    params: ClusterParams
    state: ClusterState
    config: ClusterConfig
    profiles: tuple[GuestProfile, ...]
    vm_profile: I4
    horizon_s: float
    strict: bool
    kernel_params: Any
    kernel_state: Any
    _blocks: Blocks
    _oracle: Callable[[], Simulator] | None = None
    _known: B1 | None = None

    @property
    def time_s(self) -> float:
        """Now, s."""
        return float(self.state.clock.now_s)

    @property
    def n_hosts(self) -> int:
        """H."""
        return int(self.params.host_type.shape[0])

    @property
    def n_vms(self) -> int:
        """V."""
        return int(self.params.vm_vcpus.shape[0])

    @property
    def measured(self) -> B1:
        """Of which VMs there is a measurement, shape (V,); of the others ``telemetry.prior`` is shown."""
        known = self.state.vm_known_mhz
        if self._known is not None:
            return self._known
        return np.asarray(known >= 0.0) if known.size else np.ones(self.n_vms, dtype=np.bool_)

    def fork(self, demand: ArrayLike | None = None) -> Simulator:
        """A what-if simulator made of what is shown, in which nothing arrives, leaves or fails any more.

        Args:
            demand: Demand of every VM from now on, MHz, shape (V,), or (S, V) for samples of the trace's
                length, the first of which is the one that holds now. None = what was measured, for ever.

        Raises:
            ConfigError: If it has another shape, or is not finite and at least 0.
        """
        sample = 0 if demand is None else int(self.time_s / self.params.sample_s + 1e-9)
        util = self.params.util if demand is None else self._forecast(demand, sample)
        twin = object.__new__(Simulator)
        twin.config, twin.strict, twin.horizon_s = self.config, self.strict, self.horizon_s
        twin.profiles, twin.vm_profile = self.profiles, self.vm_profile
        twin.vm_home = np.empty(0, dtype=np.int32)
        twin.params = freeze_demand(self.params, util)
        twin.oracle = False
        twin.agenda = Agenda((), self.config.interval_s)
        twin._bind(self._blocks.view()._replace(past=NOTHING, shown=NOTHING).copy())
        twin.view._fill(_known=self.measured)
        counters = twin.state.counters
        counters.balanced = int(counters.balanced == counters.sample + 1)
        counters.sample = 0
        twin._unmeasured = True
        return twin

    def _forecast(self, demand: ArrayLike, sample: int) -> F8:
        """Rows of utilisation, so many ahead of the first of which nobody reads."""
        rows = np.atleast_2d(np.asarray(demand, dtype=np.float64))
        if rows.shape[1:] != (self.n_vms,) or not (np.isfinite(rows).all() and (rows >= 0).all()):
            raise ConfigError(
                f"fork: demand must be finite MHz of shape ({self.n_vms},) or (S, {self.n_vms})"
            )
        rows = rows / self.params.vm_cpu_mhz
        return rows if len(rows) == 1 else np.concatenate([np.repeat(rows[:1], sample, axis=0), rows])

    def oracle(self) -> Simulator:
        """A true copy of the simulator, with all that is to come.

        Raises:
            ConfigError: Unless the run was started for an oracle, which its rows say.
        """
        if self._oracle is None:
            raise ConfigError(
                "view.oracle(): this run shows no future; Simulator(..., oracle=True) and gym.make(..., "
                'oracle=True) do, and on the command line a policy whose class has information = "oracle"'
            )
        return self._oracle()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what is shown; the simulator that it belongs to, if it is pickled too, binds it again."""
        gone = ("state", "kernel_params", "kernel_state", "_oracle")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in gone}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild arrays and handles: what was shown then."""
        blocks = Blocks(*saved["_blocks"])
        size = shape_of(saved["params"]._replace(telemetry=PAST if blocks.past.size else HIDDEN))
        saved["params"] = frozen_params(saved["params"])
        state = state_in(blocks.view().read_only(), size)
        self._fill(
            **saved,
            state=state,
            kernel_params=_bound(saved["params"], state, None),
            kernel_state=make_handle("view", state, readonly=True),
            _oracle=None,
        )

    def _fill(self, **values: Any) -> None:
        """Show something else: whoever has the view sees it."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


NOTHING = np.empty(0, dtype=np.uint8)


def _bound(params: ClusterParams, state: ClusterState, kernel_state: Any) -> Any:
    """Parameters as one argument for kernels."""
    bound = bind_params(params, state)
    if params.full:
        connect(bound, make_handle("state", state) if kernel_state is None else kernel_state)
    return bound


class Simulator:
    """A cluster under a workload, operated interval by interval.

    Args:
        config: The cluster.
        workload: The load.
        strict: Raise on a refused order instead of counting it.
        horizon_s: End of the episode, s; None = the length of the demand signal.
        oracle: Whether ``view.oracle()`` hands out the future.

    Raises:
        ConfigError: For a rule about a VM or host that does not exist.
    """

    def __init__(
        self,
        config: ClusterConfig,
        workload: Workload,
        *,
        strict: bool = False,
        horizon_s: float | None = None,
        oracle: bool = False,
    ) -> None:
        self.config = config
        self.profiles, self.vm_profile = workload.profiles, workload.vm_profile.copy()
        self.strict = strict
        self.oracle = oracle
        self.horizon_s = workload.span_s if horizon_s is None else float(horizon_s)
        if not 0 < self.horizon_s < math.inf:
            raise ConfigError(f"horizon_s={horizon_s}: must be a positive number")
        config.rules.check(
            workload.n_vms, config.n_hosts, workload.vm_arrival_s, workload.vm_departure_s, self.horizon_s
        )
        check_events(config.events, config.n_hosts, workload.n_vms, self.horizon_s)
        self.vm_home = np.ascontiguousarray(workload.vm_home, dtype=np.int32)
        if self.vm_home.size and int(self.vm_home.max()) >= config.n_hosts:
            raise ConfigError(
                f"workload {workload.name}: vm_home={self.vm_home.max()}: must be below {config.n_hosts}"
            )
        self.agenda = Agenda(config.events, config.interval_s)
        self.params = make_params(config, workload)
        self._bind(allocate_state(shape_of(self.params)))
        self.reset()

    def _bind(self, blocks: Blocks, view: ClusterView | None = None) -> None:
        """Use this memory, and show it in a view, which may be known to others already."""
        self._blocks = blocks
        size = shape_of(self.params)
        self.state = state_in(blocks, size)
        self.kernel_state: Any = make_handle("state", self.state)
        self.kernel_params: Any = _bound(self.params, self.state, self.kernel_state)
        shown = state_in(blocks.view().read_only(), size)
        params, bound, config = self.params, self.kernel_params, self.config
        self.shown: tuple[Any, ...] = ()  # what ``show`` writes: nothing in a fork
        self._unmeasured = False
        if params.telemetry != HIDDEN:
            params, self._changing = hide_future(self.params)
            config = replace(config, carbon=None, incidents=(), replayed=None)
            bound = _bound(params, shown, self.kernel_state)
            writable = self.kernel_state
            if blocks.shown.size:
                writable = make_handle("state", state_in(blocks.view(), size))
            self.shown = bound, writable, make_handle("shown", self._changing)
        self.view = object.__new__(ClusterView) if view is None else view
        self.view._fill(
            params=params,
            state=shown,
            config=config,
            profiles=self.profiles,
            vm_profile=self.vm_profile,
            horizon_s=self.horizon_s,
            strict=self.strict,
            kernel_params=bound,
            kernel_state=make_handle("view", shown, readonly=True),
            _blocks=blocks.view().read_only(),
            _oracle=self.fork if self.oracle else None,
        )
        self.refusals: list[Refusal] = []

    @property
    def information(self) -> str:
        """What policies know: ``past``, ``instant`` or ``oracle``."""
        return "oracle" if self.oracle else self.config.telemetry.mode

    def show(self) -> None:
        """Bring the view up to now, after the engine's kernels have changed the state."""
        if self.shown:
            show(self.kernel_params, self.kernel_state, *self.shown)

    def reset(self, rng: np.random.Generator | None = None) -> ClusterView:
        """Go back to time 0: hosts on (or off), the VMs of time 0 placed by the arrival rule.

        Args:
            rng: Source of randomness: the faults of the episode, then noise and gaps of telemetry, are drawn
                from it. None = no faults.

        Returns:
            The view of this simulator's state; the same object stays valid after every reset.
        """
        for block in self._blocks:
            block[:] = 0
        if self.params.has_failures:
            self._draw_faults(rng)
        if rng is not None and (self.params.telemetry_noise > 0 or self.params.telemetry_missing > 0):
            self.state.counters.noise = int(rng.integers(2**31 - 1))
        begin(self.kernel_params, self.kernel_state, self.config.hosts_start_on)
        if self.vm_home.size:
            settle_homes(self.kernel_params, self.kernel_state, self.vm_home)
        start(self.kernel_params, self.kernel_state)
        self.refusals = []
        self.agenda.begin()
        self.agenda.carry_out(self, self._carry_out)
        if self.shown:
            forget(self._changing)
        self.show()
        return self.view

    def _draw_faults(self, rng: np.random.Generator | None) -> None:
        """Draw what will break, and put it where the kernels find it."""
        time_s, item, kind = sample_faults(self.config, self.view.n_vms, self.horizon_s, rng)
        drawn: dict[str, Any] = {"fail_time_s": time_s, "fail_item": item, "fail_kind": kind}
        self.params = self.params._replace(**drawn)
        self.kernel_params = self.kernel_params.replaced(**drawn)

    @property
    def time_s(self) -> float:
        """Now, s."""
        return float(self.state.clock.now_s)

    @property
    def done(self) -> bool:
        """Whether the horizon is reached."""
        return self.time_s >= self.horizon_s - 1e-9

    def apply(self, decisions: Decisions) -> list[Refusal]:
        """Carry out orders now; no time passes.

        Args:
            decisions: The orders.

        Returns:
            The refused ones, each with its reason; they changed nothing.

        Raises:
            IllegalDecision: For the first refused order, in strict mode (the legal ones are carried out).
            ConfigError: If VM and host lists differ in length.
        """
        self._obey(decisions)
        self.show()
        if self.refusals and self.strict:
            raise IllegalDecision(str(self.refusals[0]))
        return self.refusals

    def _obey(self, decisions: Decisions) -> None:
        """Carry out orders of whoever operates the cluster, and count those that are refused."""
        self.refusals = self._carry_out(decisions)
        self.state.totals.illegal += len(self.refusals)

    def _carry_out(self, decisions: Decisions) -> list[Refusal]:
        """Carry out orders, whoever gives them; returns the refused ones."""
        orders = [_indices(getattr(decisions, name)) for names in ORDERS.values() for name in names]
        if any(len({len(getattr(decisions, name)) for name in names}) > 1 for names in ORDERS.values()):
            raise ConfigError("decisions: every VM to move or place needs one host")
        codes = np.zeros(len(decisions), dtype=np.int32)
        if _apply(self.kernel_params, self.kernel_state, *orders, codes) == 0:
            return []
        return [Refusal(*one, code) for one, code in zip(decisions.subjects(), codes.tolist()) if code]

    def advance(self, duration_s: float | None = None) -> None:
        """Let time pass: one interval, or ``duration_s`` (cut at the horizon).

        Raises:
            ConfigError: If the duration is not positive.
        """
        interval = self.params.interval_s
        step = interval if duration_s is None else duration_s
        if not step > 0:
            raise ConfigError(f"duration_s={duration_s}: must be positive")
        self.advance_to(step_end(self.time_s, float(step), interval, self.horizon_s))

    def run(self) -> None:
        """Let time pass up to the horizon without a decision, in one kernel call."""
        self.advance_to(self.horizon_s)

    def advance_to(self, until_s: float) -> None:
        """Let time pass up to ``until_s``, with what an operator does on the way."""
        if self._unmeasured:
            measure_again(self.kernel_params, self.kernel_state)
            self._unmeasured = False
        while self.agenda.next_s <= until_s:
            if self.agenda.next_s > self.time_s:
                advance(self.kernel_params, self.kernel_state, self.agenda.next_s)
            self.agenda.carry_out(self, self._carry_out)
        if until_s > self.time_s:
            advance(self.kernel_params, self.kernel_state, until_s)
        self.show()

    def step(self, decisions: Decisions | None = None) -> StepMetrics:
        """Apply orders, then run one interval.

        Args:
            decisions: The orders; None = none.

        Returns:
            What happened in the interval.
        """
        before = self.state.totals.copy()
        self.refusals = []
        if decisions is not None and len(decisions):
            self._obey(decisions)
            if self.refusals and self.strict:
                self.show()
                raise IllegalDecision(str(self.refusals[0]))
        self.advance()
        return StepMetrics(self.state.totals - before)

    def fork(self) -> Simulator:
        """A copy that shares the parameters and owns its state: neither sees what happens to the other.

        It goes on with the trace: no policy is given it, but by ``view.oracle``.
        """
        twin = object.__new__(Simulator)
        twin.__setstate__({**self.__getstate__(), "blocks": self._blocks.copy(), "view": None})
        return twin

    def digest(self) -> str:
        """A fingerprint of the state."""
        return digest(self._blocks)

    def metrics(self) -> dict[str, float]:
        """The metrics of docs, Metrics since the last reset."""
        return summarize(self.params, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle parameters and memory, and the view, which others may have too."""
        plain = (
            *("config", "params", "profiles", "vm_profile", "vm_home", "strict", "horizon_s", "oracle"),
            "view",
        )
        return {
            **{name: getattr(self, name) for name in plain},
            "agenda": self.agenda.copy(),
            "blocks": self._blocks,
            "unmeasured": self._unmeasured,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild arrays and handles."""
        self.config, self.params = saved["config"], frozen_params(saved["params"])
        self.profiles, self.vm_profile = saved["profiles"], saved["vm_profile"]
        self.vm_home = saved["vm_home"]
        self.strict, self.horizon_s, self.oracle = saved["strict"], saved["horizon_s"], saved["oracle"]
        self.agenda = saved["agenda"]
        self._bind(Blocks(*saved["blocks"]), saved["view"])
        self._unmeasured = saved["unmeasured"]
        self.show()


_apply: Any = apply_orders  # a tuple of order lists is no signature that a checker can follow


def _indices(part: I4) -> I4:
    """Order lists as the kernels take them; an index beyond int32 becomes -1, which no VM and no host has."""
    wide = np.asarray(part)
    if wide.ndim != 1:
        raise ConfigError(f"decisions: {part!r}: must be a list of VMs or hosts")
    if wide.dtype != np.int32:
        if wide.size and wide.dtype.kind not in "iu":
            raise ConfigError(f"decisions: VMs and hosts are integers, not {wide.dtype}")
        wide = np.where((wide >= 0) & (wide < 2**31), wide, -1).astype(np.int32)
    return np.ascontiguousarray(wide)
