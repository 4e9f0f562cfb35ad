"""Distributed power management: relief, evacuation, hosts on and off; greedy, or planned with OR-Tools."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.orders import may_go_on
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING
from virtgym.envs.sim.state.parameters import ClusterParams

from ..base import MovingPolicy
from ..forecast.forecasters import make_forecaster
from ..forecast.history import History, squares_of_past, young_variance
from ..forecast.told import Foretold
from ..planning.guard import AdmissionGuard
from ..planning.plans import legal_part
from ..planning.power import boot_energy_j, idle_watts
from ..planning.room import write_need
from . import kernels
from .evacuation import evacuate
from .workspace import (
    FOR_FAILOVER,
    KEPT_OFF,
    allocate_work,
)

UNLIMITED = 2.0**31


@dataclass
class DpmPolicy(MovingPolicy):
    """Greedy power management.

    Attributes:
        target: Utilisation that hosts should have.
        tolerance: Hosts are emptied below ``target - tolerance`` and filled up to ``target + tolerance``.
        off_window_s: Past that decides what may go off, s.
        on_window_s: Past that decides what must go on, s.
        risk: Standard deviations added to what is forecast: to the load of a host and to the memory of a VM.
            They are those of the past, or of CPU what the forecaster says of its error.
        forecaster: Name of the forecaster, one of ``forecast.FORECASTERS``, a dotted path, or the folder of a
            trained one.
        overload: A host that is asked for more than this share of its CPU is relieved.
        relief: Share of its CPU that relief goes down to.
        fill: Share of its CPU that may be asked of a host that receives a VM.
        min_hosts: Hosts that stay on at least.
        spare_hosts: Hosts that stay on empty, for what arrives.
        spare_share: Share of the CPU of hosts that are on that stays free beside.
        settle_steps: A VM does not move back to a host that it left within so many intervals.
        min_on_s: A host that was switched on is not emptied before, s.
        min_off_s: A host that was switched off is not switched on before if another will do, s.
        horizon_s: Time over which an evacuation must pay, s.
        move_cost: Weight of the energy of migrations.
        max_migrations: Most migrations ordered per interval; None = no limit.
    """

    target: float = 0.63
    tolerance: float = 0.18
    off_window_s: float = 2400.0
    on_window_s: float = 300.0
    risk: float = 0.5
    forecaster: str = "ewma"
    overload: float = 1.0
    relief: float = 0.95
    fill: float = 0.85
    min_hosts: int = 1
    spare_hosts: int = 0
    spare_share: float = 0.0
    settle_steps: int = 12
    min_on_s: float = 1800.0
    min_off_s: float = 1800.0
    horizon_s: float = 3600.0
    move_cost: float = 1.0
    max_migrations: int | None = None

    arrival: ClassVar[str | None] = "pabfd"

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        make_forecaster(self.forecaster, "policy.forecaster")
        low, high = self.target - self.tolerance, self.target + self.tolerance
        if not (self.tolerance >= 0.0 and low >= 0.0 and 0.0 < high <= 1.0):
            raise ConfigError(
                f"policy.target={self.target}, policy.tolerance={self.tolerance}: target - tolerance and "
                "target + tolerance must lie in 0..1"
            )
        for name in ("off_window_s", "on_window_s", "horizon_s", "overload", "relief", "fill"):
            need(getattr(self, name) > 0.0, f"policy.{name}={getattr(self, name)}: must be positive")
        for name in (
            "risk",
            "min_hosts",
            "spare_hosts",
            "settle_steps",
            "min_on_s",
            "min_off_s",
            "move_cost",
        ):
            need(getattr(self, name) >= 0, f"policy.{name}={getattr(self, name)}: must be 0 or more")
        if self.relief > self.overload:
            raise ConfigError(f"policy.relief={self.relief}: must be at most overload, {self.overload}")
        need(
            0.0 <= self.spare_share < 1.0, f"policy.spare_share={self.spare_share}: must lie in 0..1, below 1"
        )
        if self.max_migrations is not None and self.max_migrations < 0:
            raise ConfigError(
                f"policy.max_migrations={self.max_migrations}: must be 0 or more, or null for no limit"
            )

    def set_targets(
        self,
        target: float | None = None,
        tolerance: float | None = None,
        spare_share: float | None = None,
        risk: float | None = None,
    ) -> None:
        """Change thresholds in the middle of an episode; what would leave 0..1 is cut off.

        Args:
            target: Utilisation that hosts should have; None = as it is, as for the others.
            tolerance: Width of the band on either side of it.
            spare_share: Share of the CPU of hosts that are on that stays free beside.
            risk: Standard deviations added to what is forecast.
        """
        self.target = min(max(self.target if target is None else target, 0.0), 1.0)
        wide = self.tolerance if tolerance is None else max(tolerance, 0.0)
        self.tolerance = min(wide, self.target, 1.0 - self.target)
        self.spare_share = self.spare_share if spare_share is None else min(max(spare_share, 0.0), 0.99)
        self.risk = self.risk if risk is None else max(risk, 0.0)
        self._write_rules()

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past, allocate the kernels' memory."""
        super().reset(view, rng)
        p = view.params
        self._forecaster = make_forecaster(self.forecaster, "policy.forecaster")
        self._off_window = max(1, round(self.off_window_s / p.interval_s))
        self._on_window = max(1, round(self.on_window_s / p.interval_s))
        self._lead = math.ceil(float(p.host_boot_s.max()) / p.interval_s)
        depth = max(self._off_window, self._on_window, self._forecaster.samples or 0)
        self._history = History(view.n_vms, depth)
        self._memory = History(view.n_vms, depth) if p.has_tiers else None
        lookback_s = break_even_s(p)
        self._switching_costs = lookback_s > 0.0
        lookback_s = max(lookback_s, self.off_window_s) if self._switching_costs else 0.0
        samples = 1 + math.ceil(lookback_s / p.interval_s)
        self._needed_past: deque[float] = deque(maxlen=samples)
        self._work = allocate_work(p, view.state, view.config.rules)
        self._handle: Any = make_handle("dpm", self._work)
        self._last_time_s = -np.inf
        self._was_on = view.state.host_power_state == ON
        self._fastest_mhz = p.vm_vcpus * float(p.host_core_mhz.max())
        self._guard = AdmissionGuard(view)
        self._held: B1 = np.zeros(view.n_hosts, dtype=np.bool_)
        self._write_rules()

    def _write_rules(self) -> None:
        r = self._work.rules
        limit = self.max_migrations
        r.risk = self.risk
        r.overload = self.overload
        r.relief = self.relief
        r.fill_share = self.fill
        r.high = self.target + self.tolerance
        r.low = self.target - self.tolerance
        r.settle_s = self.settle_steps * self.view.params.interval_s * (1.0 + 1e-9)
        r.min_on_s = self.min_on_s
        r.min_off_s = self.min_off_s
        r.horizon_s = self.horizon_s
        r.move_cost = self.move_cost
        r.max_moves = UNLIMITED if limit is None else float(limit)

    def hold(self, hosts: Iterable[int]) -> None:
        """Name the hosts that are not emptied for the time being.

        Args:
            hosts: All of them; they take the place of those named before.
        """
        named = self.hosts_named(hosts)
        self._held[:] = False
        self._held[named] = True

    def on_for_s(self, view: ClusterView) -> F8:
        """How long ago hosts were switched on, s, shape (H,); infinite for those that always were."""
        return np.asarray(view.time_s - self._work.host_on_s)

    def underused(self, view: ClusterView) -> B1:
        """Hosts that this policy would empty if the others had room, shape (H,): few enough to go off now.

        Args:
            view: The cluster, with this policy's last plan carried out.
        """
        w = self._work
        load = w.mean + self.risk * np.sqrt(np.maximum(w.var, 0.0))
        hosts, enough = self._least_loaded(view, load)
        hosts = hosts[: max(0, min(enough, len(hosts) - self._stay_on) - self.spare_hosts)]
        low = load[hosts] * view.params.host_inv_cpu[hosts] < self.target - self.tolerance
        chosen = np.zeros(view.n_hosts, dtype=np.bool_)
        chosen[hosts[low & (self.on_for_s(view)[hosts] >= self.min_on_s)]] = True
        return chosen

    def empty_hosts_kept(self, view: ClusterView) -> list[int]:
        """Hosts that stay on as ``spare_hosts``: of the empty ones those that have been on longest.

        Args:
            view: The cluster, with this policy's plan carried out.
        """
        s = view.state
        empty = (s.host_power_state == ON) & (s.host_drain == 0) & (s.host_n_vms + s.host_n_in == 0)
        hosts = np.flatnonzero(empty & (s.host_maintenance == 0))
        since = np.argsort(self._work.host_on_s[hosts], kind="stable")
        return [int(h) for h in hosts[since][: self.spare_hosts]]

    def plan(self, view: ClusterView) -> Decisions:
        """Plan one interval."""
        p, s, w = view.kernel_params, view.kernel_state, self._handle
        self._observe(view)
        kernels.gather(p, s, w)
        known = bool(self._history.counts.any())  # nobody moves for what is only assumed
        if known:
            kernels.relieve(p, s, w)
        self._limit_emptying(view)
        if known:
            self._consolidate(view)
        waiting = kernels.open_for_waiting(p, s, w)
        kernels.open_for_load(p, s, w, *self._needed, self.spare_hosts)
        self._restore_guarantee(view)
        off = self._switch_off(view) if waiting == 0 else np.empty(0, dtype=np.int32)
        work = self._work
        moves = np.flatnonzero(work.dest >= 0).astype(np.int32)
        decisions = Decisions(
            power_on=work.out_on[: int(work.tally.on)].copy(),
            move_vm=moves,
            move_host=work.dest[moves],
            power_off=off,
        )
        decisions = self._guard.keep(self.limits.keep(view, decisions))
        work.host_off_s[decisions.power_off] = view.time_s
        return legal_part(view, decisions) if view.params.full else decisions

    def _limit_emptying(self, view: ClusterView) -> None:
        """How many hosts may be emptied: an empty host that has to stay on saves next to nothing."""
        w = self._work
        w.held[:] = self._held
        hosts, enough = self._least_loaded(view, w.mean)
        empty = int((w.n_home[hosts] - w.n_out[hosts] + w.received[hosts] == 0).sum())
        may_go = len(hosts) - self.min_hosts
        if self._switching_costs:  # else what is empty goes off as soon as load allows
            may_go = min(may_go, enough)
        if self._guard.active:
            may_go = min(may_go, self._that_may_go(hosts))
        self._stay_on = len(hosts) - max(may_go, 0)
        w.rules.max_emptied = max(0, may_go - max(empty, self.spare_hosts))

    def _least_loaded(self, view: ClusterView, load_mhz: F8) -> tuple[NDArray[np.intp], int]:
        """Hosts that are on and take VMs, the least loaded first, and how many of these load lets go."""
        s, p = view.state, view.params
        on = (s.host_power_state == ON) & (s.host_drain == 0) & (self._work.closed == 0)
        hosts = np.flatnonzero(on)
        hosts = hosts[np.argsort(load_mhz[hosts] * p.host_inv_cpu[hosts], kind="stable")]
        return hosts, int(self._enough_without(view, on, hosts).sum())

    def _enough_without(self, view: ClusterView, on: B1, hosts: NDArray[Any]) -> B1:
        """Whether the hosts that are on have what is needed once so many of a list are off, shape (n,)."""
        cpu, mem = view.params.host_cpu_mhz, self._work.need_most
        cpu_needed, mem_needed = self._needed_for_off
        enough: B1 = float(cpu[on].sum()) - np.cumsum(cpu[hosts]) >= cpu_needed
        if mem_needed > 0.0:
            enough &= float(mem[on].sum()) - np.cumsum(mem[hosts]) >= mem_needed
        return enough

    def _that_may_go(self, hosts: NDArray[np.intp]) -> int:
        """How many hosts, from the first of a list on, the failover guarantee can do without together."""
        low, high = 0, len(hosts)
        if not self._guard.holds:
            return 0
        while low < high:  # whoever holds without some hosts holds without fewer
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._guard.holds_without(hosts[:middle]) else (low, middle - 1)
        return low

    def _restore_guarantee(self, view: ClusterView) -> None:
        """Count what comes on, and switch hosts on until the failover guarantee holds or no host is left."""
        if not self._guard.active:
            return
        w, guard = self._work, self._guard
        for h in np.flatnonzero(w.opened).tolist():
            guard.join(h)

        def switch_on(h: int) -> bool:
            shut = w.opened[h] or w.closed[h] == KEPT_OFF
            if shut or may_go_on(view.kernel_params, view.kernel_state, h) != 0:
                return False
            kernels.switch_on(self._handle, h)
            return True

        guard.switch_on_until(lambda: guard.holds, w.rank.tolist(), switch_on)

    def _consolidate(self, view: ClusterView) -> None:
        """Empty hosts under the low threshold."""
        evacuate(view.kernel_params, view.kernel_state, self._handle)

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
        new = now > self._last_time_s
        if new:
            measured = there & view.measured  # what is only assumed of a VM is no part of its past
            self._history.push(demand, measured)
            if self._memory is not None:
                self._memory.push(s.vm_touched_mib, measured)
            w.host_on_s[on & ~self._was_on] = now
            self._was_on = on
            self._last_time_s = now
        self._forecast(demand)
        self._forecast_memory(view, there)
        high = self.target + self.tolerance
        load = max(float(self._recent.sum()), self._ahead_mhz)
        kept = 1.0 - self.spare_share
        self._needed = load / (high * kept), float(w.vm_need_mib.sum()) / kept
        if new:  # what was assumed of VMs for an interval is not needed for the whole window
            self._needed_past.append((load - float(demand[self._history.counts == 0].sum())) / (high * kept))
        self._needed_for_off = max(self._needed[0], *self._needed_past), self._needed[1]
        w.closed[:] = 0
        if self._guard.active:
            self._guard.renew(view)
            w.closed[~self._guard.hosts_allowed()] = FOR_FAILOVER
        w.closed[s.host_maintenance != 0] = KEPT_OFF

    def _forecast(self, demand: F8) -> None:
        """Write what every VM asks for now, soon and until the next plan, and how much that varies."""
        w, history = self._work, self._history
        past, counts = history.values, history.counts
        top = self.view.params.vm_cpu_mhz
        w.vm_now[:] = demand
        w.vm_soon[:] = demand
        self._ahead_mhz = float(demand.sum())
        if self._lead > 0:
            ahead = np.where(counts > 0, self._forecaster.predict(past, self._lead, counts), demand)
            np.clip(ahead, demand, np.maximum(top, demand), out=w.vm_soon)
            self._ahead_mhz = float(ahead.sum())  # of many VMs: those that rise and those that fall
        later = self._forecaster.predict(past, self._lead + 1, counts)
        w.vm_mean[:] = self._mean = np.where(counts > 0, np.maximum(later, 0.0), demand)
        told = self._forecaster.deviation(past, self._lead + 1, counts)
        if told is None:
            squares, n = squares_of_past(past, counts, self._off_window)
        else:
            squares, n = told**2 * np.maximum(counts - 1, 0), counts
        w.vm_var[:] = young_variance(squares, n, top)
        w.vm_var[demand <= 0.0] *= counts[demand <= 0.0] > 0
        self._variance = float(w.vm_var.sum())
        np.minimum(np.maximum(top, demand), self._fastest_mhz, out=w.vm_peak)
        late = past[-self._on_window :]
        seen = np.minimum(counts, self._on_window)
        self._recent = np.where(np.arange(len(late), 0, -1)[:, None] <= counts, late, 0.0).sum(axis=0)
        self._recent = np.where(seen > 0, self._recent / np.maximum(seen, 1), demand)

    def foretold(self) -> Foretold | None:
        """The demand of the first plan that can rely on a host that is switched on now."""
        if not self._history.counts.any():  # all is assumed
            return None
        now, ahead = float(self._work.vm_now.sum()), float(self._mean.sum())
        return Foretold(self.forecaster, self._lead + 1, now, ahead, math.sqrt(max(self._variance, 0.0)))

    def _forecast_memory(self, view: ClusterView, there: B1) -> None:
        """Write the memory that every VM will need resident: at least that of now, at most its own."""
        history = self._memory
        if history is None:
            return
        now, own = view.state.vm_touched_mib, view.params.vm_mem_mib
        squares, n = squares_of_past(history.values, history.counts, self._off_window)
        ahead = self._forecaster.predict(history.values, self._lead + 1, history.counts)
        ahead = np.maximum(ahead, now) + self.risk * np.sqrt(squares / np.maximum(n - 1, 1))
        touched = np.where(there, np.clip(ahead, now, np.maximum(own, now)), 0.0)
        write_need(view.kernel_params, self._handle, touched)

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
        number = int((on & (w.closed == 0)).sum()) - np.arange(1, len(hosts) + 1)
        empty = int((on & (stays == 0) & (w.closed == 0)).sum()) - np.arange(1, len(hosts) + 1)
        keep = (
            self._enough_without(view, on & (w.closed == 0), hosts)
            & (number >= self.min_hosts)
            & (empty >= self.spare_hosts)
        )
        hosts = hosts[: int(keep.sum())]
        if self._guard.active:
            self._guard.renew()  # hosts that were asked to come on hold nobody up yet
            hosts = np.array([h for h in hosts.tolist() if self._guard.leave(h)], dtype=np.int32)
        return np.sort(hosts).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key[0] != "_" and key not in ("view", "rng", "limits")
        }


def break_even_s(p: ClusterParams) -> float:
    """Time off from which on switching a host off and on saves energy, and the time that it takes, s.

    Who does not know the future loses least by waiting that long before switching off, as for renting or
    buying skis (Karlin et al., *Competitive snoopy caching*, Algorithmica 3, 1988).

    Args:
        p: Parameters of the cluster; the host that needs longest counts.
    """
    return float(np.max(boot_energy_j(p) / np.maximum(idle_watts(p), 1e-9) + p.host_boot_s, initial=0.0))
