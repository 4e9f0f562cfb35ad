"""The simulator: reset, orders in, physics, metrics out, cheap what-if copies."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import I4
from ..errors import ConfigError, IllegalDecision
from ..jit.handle import make_handle
from .agenda import Agenda, check_events
from .config import ClusterConfig
from .decisions import ORDERS, Decisions, Refusal
from .engine.clock import advance, begin, start
from .engine.hub import connect
from .engine.orders import apply_orders
from .metrics import StepMetrics, summarize
from .state.build import make_params
from .state.cluster_state import ClusterState, allocate_state, copy_state, digest, read_only, shape_of
from .state.faults import sample_faults
from .state.parameters import ClusterParams, bind_params
from .workload import Workload


@dataclass(frozen=True)
class ClusterView:
    """What a policy may read: parameters and a read-only, always current view of the state.

    Attributes:
        params: Host and VM tables. ``params.util`` is the future of the trace: an oracle may read it, an
            honest policy does not.
        state: Read-only arrays; ``vm_demand_mhz`` is the demand measured now.
        config: The cluster's description.
        simulator: Owner of the state, for ``fork()``.
        kernel_params: ``params`` as one argument for Numba kernels.
        kernel_state: ``state`` as one argument for Numba kernels; writing through it does not compile.
    """

    params: ClusterParams
    state: ClusterState
    config: ClusterConfig
    simulator: Simulator
    kernel_params: Any
    kernel_state: Any

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

    def fork(self) -> Simulator:
        """A what-if copy of the simulator."""
        return self.simulator.fork()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled view is the view of the copied simulator: addresses would dangle."""
        return operator.attrgetter("view"), (self.simulator,)


class Simulator:
    """A cluster under a workload, operated interval by interval.

    Args:
        config: The cluster.
        workload: The load.
        strict: Raise on a refused order instead of counting it.
        horizon_s: End of the episode, s; None = the length of the demand signal.

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
    ) -> None:
        self.config = config
        self.workload = workload
        self.strict = strict
        self.horizon_s = workload.span_s if horizon_s is None else float(horizon_s)
        if not 0 < self.horizon_s < math.inf:
            raise ConfigError(f"horizon_s={horizon_s}: must be a positive number")
        config.rules.check(
            workload.n_vms, config.n_hosts, workload.vm_arrival_s, workload.vm_departure_s, self.horizon_s
        )
        check_events(config.events, config.n_hosts, workload.n_vms, self.horizon_s)
        self.agenda = Agenda(config.events, config.interval_s)
        self.params = make_params(config, workload)
        self._bind(*allocate_state(shape_of(self.params)))
        self.reset()

    def _bind(self, arena: NDArray[np.uint8], state: ClusterState) -> None:
        self._arena = arena
        self.state = state
        self.kernel_params: Any = bind_params(self.params, state)
        self.kernel_state: Any = make_handle("state", state)
        if self.params.full:
            connect(self.kernel_params, self.kernel_state)
        shown = read_only(arena, shape_of(self.params))
        self.view = ClusterView(
            self.params,
            shown,
            self.config,
            self,
            self.kernel_params,
            make_handle("view", shown, readonly=True),
        )
        self.refusals: list[Refusal] = []

    def reset(self, rng: np.random.Generator | None = None) -> ClusterView:
        """Go back to time 0: hosts on (or off), the VMs of time 0 placed by the arrival rule.

        Args:
            rng: Source of randomness: the faults of the episode are drawn from it. None = no faults.

        Returns:
            The view of this simulator's state; the same object stays valid after every reset.
        """
        self._arena[:] = 0
        if self.params.has_failures:
            self._draw_faults(rng)
        begin(self.kernel_params, self.kernel_state, self.config.hosts_start_on)
        start(self.kernel_params, self.kernel_state)
        self.refusals = []
        self.agenda.begin()
        self.agenda.carry_out(self, self._carry_out)
        return self.view

    def _draw_faults(self, rng: np.random.Generator | None) -> None:
        """Draw what will break, and put it where the kernels and the view find it."""
        time_s, item, kind = sample_faults(self.config, self.workload.n_vms, self.horizon_s, rng)
        self.params = self.params._replace(fail_time_s=time_s, fail_item=item, fail_kind=kind)
        self.kernel_params = bind_params(self.params, self.state)
        connect(self.kernel_params, self.kernel_state)
        for name in ("params", "kernel_params"):  # the view stays the same object from reset to reset
            object.__setattr__(self.view, name, getattr(self, name))

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
        self.refusals = self._carry_out(decisions)
        if self.refusals:
            self.state.totals.illegal += len(self.refusals)
            if self.strict:
                raise IllegalDecision(str(self.refusals[0]))
        return self.refusals

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
        until = min(self.time_s + step, self.horizon_s)
        # Sums of floats drift; an event exactly at a decision must not fall to the other side of it.
        on_grid = round(until / interval) * interval
        if abs(until - on_grid) <= 1e-9 * interval:
            until = min(on_grid, self.horizon_s)
        self._advance(until)

    def run(self) -> None:
        """Let time pass up to the horizon without a decision, in one kernel call."""
        self._advance(self.horizon_s)

    def _advance(self, until_s: float) -> None:
        while self.agenda.next_s <= until_s:
            if self.agenda.next_s > self.time_s:
                advance(self.kernel_params, self.kernel_state, self.agenda.next_s)
            self.agenda.carry_out(self, self._carry_out)
        if until_s > self.time_s:
            advance(self.kernel_params, self.kernel_state, until_s)

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
            self.apply(decisions)
        self.advance()
        return StepMetrics(self.state.totals - before)

    def fork(self) -> Simulator:
        """A copy that shares the parameters and owns its state: neither sees what happens to the other."""
        twin = object.__new__(Simulator)
        twin.config, twin.workload, twin.params = self.config, self.workload, self.params
        twin.strict, twin.horizon_s = self.strict, self.horizon_s
        twin.agenda = self.agenda.copy()
        twin._bind(*copy_state(self._arena, shape_of(self.params)))
        return twin

    def digest(self) -> str:
        """A fingerprint of the state."""
        return digest(self._arena)

    def metrics(self) -> dict[str, float]:
        """The metrics of docs, Metrics since the last reset."""
        return summarize(self.params, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the description and one block of state."""
        return {
            "config": self.config,
            "workload": self.workload,
            "strict": self.strict,
            "horizon_s": self.horizon_s,
            "agenda": self.agenda,
            "arena": self._arena,
            "faults": (self.params.fail_time_s, self.params.fail_item, self.params.fail_kind),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the parameters and the views."""
        self.config, self.workload = saved["config"], saved["workload"]
        self.strict, self.horizon_s = saved["strict"], saved["horizon_s"]
        self.agenda = saved["agenda"].copy()
        time_s, item, kind = saved["faults"]
        self.params = make_params(self.config, self.workload)._replace(
            fail_time_s=time_s, fail_item=item, fail_kind=kind
        )
        self._bind(*copy_state(saved["arena"], shape_of(self.params)))


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
