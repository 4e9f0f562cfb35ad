"""Distributed power management: relief, evacuation, hosts on and off; greedy, or planned with OR-Tools."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.admission import AdmissionConfig, vm_hosts_allowed
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.handle import make_handle
from virtgym.envs.sim.power import BOOTING, ON, SHUTTING_DOWN
from virtgym.envs.sim.power_states import RESUMING
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state import PENDING, RUNNING, STARTING

from . import dpm_kernels as kernels
from .base import PlanningPolicy
from .consolidation_model import migration_energy_j
from .dpm_guard import keep_guarantee, legal_part, host_pool, running_reservations
from .dpm_work import (
    K_FILL,
    K_HIGH,
    K_HORIZON_S,
    K_LOW,
    K_MAX_MOVES,
    K_MIN_OFF_S,
    K_MIN_ON_S,
    K_MOVE_COST,
    K_OVERLOAD,
    K_RELIEF,
    K_SETTLE_S,
    K_SPREAD,
    N_MOVES,
    N_ON,
    allocate_work,
)
from .forecast import make_forecaster
from .history import History

__all__ = ["DpmPolicy"]

F8 = NDArray[np.float64]
B1 = NDArray[np.bool_]

UNLIMITED = 2.0**31
YOUNG_SHARE = 0.1
"""Standard deviation that is assumed of a VM without history, as a share of its nominal CPU."""
YOUNG_SAMPLES = 2.0
"""Samples that this assumption counts for."""


@dataclass
class DpmPolicy(PlanningPolicy):
    """Greedy power management.

    Attributes:
        target: Utilisation that hosts should have.
        tolerance: Hosts are emptied below ``target - tolerance`` and filled up to ``target + tolerance``.
        off_window_s: Past that decides what may go off, s.
        on_window_s: Past that decides what must go on, s.
        spread: Standard deviations added to the expected load of a host.
        forecaster: Name of the forecaster, a key of ``forecast.FORECASTERS``.
        overload: A host that is asked for more than this share of its CPU is relieved.
        relief: Share of its CPU that relief goes down to.
        fill: Share of its CPU that may be asked of a host that receives a VM.
        min_hosts: Hosts that stay on at least.
        spare_hosts: Hosts that stay on empty, for what arrives.
        spare_share: Share of the CPU of hosts that are on that stays free beside.
        settle_s: A VM does not move back to a host that it left less than this ago, s.
        min_on_s: A host that was switched on is not emptied before, s.
        min_off_s: A host that was switched off is not switched on before if another will do, s.
        horizon_s: Time over which an evacuation must pay, s.
        move_cost: Weight of the energy of migrations.
        max_migrations: Most migrations ordered per interval; None = no limit.
        admission: Admission control that switching off must keep: a name of ``ADMISSION_RULES``; None = the
            cluster's own, if it has one.
        host_failures: Host failures to tolerate (``slots``).
        admission_share: Share of CPU and memory kept free of reservations (``percentage``).
        failover_hosts: Hosts kept empty, those of the highest index (``dedicated``).
    """

    target: float = 0.63
    tolerance: float = 0.18
    off_window_s: float = 2400.0
    on_window_s: float = 300.0
    spread: float = 1.0
    forecaster: str = "ewma"
    overload: float = 1.0
    relief: float = 0.95
    fill: float = 0.95
    min_hosts: int = 1
    spare_hosts: int = 0
    spare_share: float = 0.0
    settle_s: float = 3600.0
    min_on_s: float = 1800.0
    min_off_s: float = 1800.0
    horizon_s: float = 3600.0
    move_cost: float = 1.0
    max_migrations: int | None = None
    admission: str | None = None
    host_failures: int = 1
    admission_share: float = 0.25
    failover_hosts: int = 1

    arrival: ClassVar[str | None] = "pabfd"

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past, allocate the kernels' memory."""
        super().reset(view, rng)
        p = view.params
        self._forecaster = make_forecaster(self.forecaster)
        self._off_window = max(1, round(self.off_window_s / p.interval_s))
        self._on_window = max(1, round(self.on_window_s / p.interval_s))
        self._lead = math.ceil(float(p.host_boot_s.max()) / p.interval_s)
        depth = max(self._off_window, self._on_window, self._forecaster.samples or 0)
        self._history = History(view.n_vms, depth)
        self._work = allocate_work(p)
        self._handle = make_handle("dpm", self._work)
        self._last_time_s = -np.inf
        self._was_on = view.state.host_power_state == ON
        self._admission = self._admission_config(view)
        w = self._work
        w.vm_move_j[:] = migration_energy_j(p.vm_mem_mib)
        self._write_rules()

    def _admission_config(self, view: ClusterView) -> AdmissionConfig | None:
        if self.admission is None:
            return getattr(view.config, "admission", None)
        if self.admission == "none":
            return None
        failover = tuple(range(view.n_hosts - self.failover_hosts, view.n_hosts))
        return AdmissionConfig(
            rule=self.admission,  # type: ignore[arg-type]
            host_failures=self.host_failures,
            cpu_share=self.admission_share,
            mem_share=self.admission_share,
            hosts=failover if self.admission == "dedicated" else (),
        )

    def _write_rules(self) -> None:
        r = self._work.rules
        limit = self.max_migrations
        r[K_SPREAD] = self.spread
        r[K_OVERLOAD] = self.overload
        r[K_RELIEF] = self.relief
        r[K_FILL] = self.fill
        r[K_HIGH] = self.target + self.tolerance
        r[K_LOW] = self.target - self.tolerance
        r[K_SETTLE_S] = self.settle_s
        r[K_MIN_ON_S] = self.min_on_s
        r[K_MIN_OFF_S] = self.min_off_s
        r[K_HORIZON_S] = self.horizon_s
        r[K_MOVE_COST] = self.move_cost
        r[K_MAX_MOVES] = UNLIMITED if limit is None else float(limit)

    def plan(self, view: ClusterView) -> Decisions:
        """Plan one interval."""
        p, s, w = view.kernel_params, view.kernel_state, self._handle
        self._observe(view)
        kernels.gather(p, s, w)
        kernels.relieve(p, s, w)
        self._consolidate(view)
        waiting = kernels.open_for_waiting(p, s, w)
        kernels.open_for_load(p, s, w, self._needed_mhz, self.spare_hosts)
        off = self._switch_off(view) if waiting == 0 else np.empty(0, dtype=np.int32)
        work = self._work
        moves = np.flatnonzero(work.dest >= 0).astype(np.int32)
        decisions = Decisions(
            power_on=work.out_on[: int(work.tally[N_ON])].copy(),
            move_vm=moves,
            move_host=work.dest[moves],
            power_off=off,
        )
        work.host_off_s[off] = view.time_s
        return legal_part(view, decisions) if view.params.full else decisions

    def _consolidate(self, view: ClusterView) -> None:
        """Empty hosts under the low threshold."""
        kernels.evacuate(view.kernel_params, view.kernel_state, self._handle)

    def _observe(self, view: ClusterView) -> None:
        """Record what is measured now and forecast; asked twice at one time, it takes one sample."""
        s, w = view.state, self._work
        now = view.time_s
        there = (s.vm_state == RUNNING) | (s.vm_state == STARTING) | (s.vm_state == PENDING)
        demand = np.where(there, s.vm_demand_mhz, 0.0)
        if view.params.full:
            demand = np.maximum(demand, np.where(there, s.vm_claim_mhz, 0.0))
        state = s.host_power_state
        on = (state == ON) | (state == BOOTING) | (state == RESUMING)
        if now > self._last_time_s:
            self._history.push(demand, there)
            w.host_on_s[on & ~self._was_on] = now
            self._was_on = on
            self._last_time_s = now
        self._forecast(demand)
        high = self.target + self.tolerance
        self._needed_mhz = float(np.maximum(self._recent, w.vm_soon).sum()) / (high * (1.0 - self.spare_share))
        w.closed[:] = 0
        if self._admission is not None and self._admission.rule == "dedicated":
            w.closed[:] = ~vm_hosts_allowed(self._admission, host_pool(view, np.ones(view.n_hosts, bool)))

    def _forecast(self, demand: F8) -> None:
        """Write what every VM asks for now, soon and until the next plan, and how much that varies."""
        w, history = self._work, self._history
        past, counts = history.values, history.counts
        top = self.view.params.vm_cpu_mhz
        w.vm_now[:] = demand
        w.vm_soon[:] = demand
        if self._lead > 0:
            ahead = self._forecaster.predict(past, self._lead, counts)
            np.clip(ahead, demand, np.maximum(top, demand), out=w.vm_soon)
        w.vm_mean[:] = np.maximum(self._forecaster.predict(past, self._lead + 1, counts), 0.0)
        window = past[-self._off_window :]
        age = np.arange(len(window), 0, -1)[:, None]
        known = age <= counts
        n = np.minimum(counts, self._off_window)
        mean = np.where(known, window, 0.0).sum(axis=0) / np.maximum(n, 1)
        squares = np.where(known, (window - mean) ** 2, 0.0).sum(axis=0)
        w.vm_var[:] = (squares + YOUNG_SAMPLES * (YOUNG_SHARE * top) ** 2) / (
            np.maximum(n - 1, 0) + YOUNG_SAMPLES
        )
        w.vm_var[demand <= 0.0] *= counts[demand <= 0.0] > 0
        late = past[-self._on_window :]
        seen = np.minimum(counts, self._on_window)
        self._recent = np.where(np.arange(len(late), 0, -1)[:, None] <= counts, late, 0.0).sum(axis=0)
        self._recent /= np.maximum(seen, 1)

    def _switch_off(self, view: ClusterView) -> NDArray[np.int32]:
        """Hosts that are empty, or will be, and are not needed: the most wasteful first."""
        s, w = view.state, self._work
        stays = w.n_home - w.n_out + w.received
        idle = (s.host_power_state == ON) & (s.host_drain == 0) & (s.host_n_in == 0) & (stays == 0)
        idle &= (w.received == 0) & (w.closed == 0) & (view.time_s - w.host_on_s >= self.min_on_s)
        if not idle.any():
            return np.empty(0, dtype=np.int32)
        on = (s.host_power_state == ON) & (s.host_drain == 0)
        on |= (s.host_power_state == BOOTING) | (s.host_power_state == RESUMING) | (w.opened > 0)
        hosts = w.rank[::-1][idle[w.rank[::-1]]]
        cpu = view.params.host_cpu_mhz
        left = float(cpu[on & (w.closed == 0)].sum()) - np.cumsum(cpu[hosts])
        number = int((on & (w.closed == 0)).sum()) - np.arange(1, len(hosts) + 1)
        empty = int((on & (stays == 0) & (w.closed == 0)).sum()) - np.arange(1, len(hosts) + 1)
        keep = (left >= self._needed_mhz) & (number >= self.min_hosts) & (empty >= self.spare_hosts)
        hosts = hosts[: int(keep.sum())]
        if self._admission is not None:
            hosts = keep_guarantee(view, self._admission, on, hosts)
        return np.sort(hosts).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        return {key: value for key, value in self.__dict__.items() if key[0] != "_" and key not in ("view", "rng")}
