"""Distributed resource scheduling: keep the load of hosts even, by as few migrations as pay off.

The algorithm is that of VMware's DRS as published (Gulati et al., *VMware Distributed Resource Management*,
VMware Technical Journal 1(1), 2012): imbalance as the standard deviation of the hosts' normalised
entitlement, a greedy search of what-if moves, and a test of benefit against cost. docs/policies.md has it in
steps, ``drs_kernels`` the formulae.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need, need_indices, one_of
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.lifecycle import THRASH_INTERVALS
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING

from ..base import MovingPolicy
from ..forecast.forecasters import make_forecaster
from ..forecast.history import History
from ..forecast.told import Foretold
from ..planning.guard import AdmissionGuard
from ..planning.rounds import measured_demand
from ..solvers.calls import CALLS
from .balance import plan_evacuations, plan_round
from .state import (
    BY_SIZE,
    BY_UTILISATION,
    DrsState,
    allocate_drs,
)

LEVELS: dict[int, float] = {1: np.inf, 2: 0.30, 3: 0.20, 4: 0.10, 5: 0.05}
"""Aggressiveness: imbalance times the root of the number of hosts above which moves for balance begin. Level
1 makes none but what it must.

VMware gives a move the priority 6 - ceil(imbalance / 0.1 * sqrt(hosts)), and level l carries out what has
priority l or better: imbalance > (5 - l) * 0.1 / sqrt(hosts) [verified: its knowledge base as quoted in
https://vbrownbag.com/2010/06/the-math-behind-the-drs-stars/]. Of level 5 that makes 0, any imbalance; here
it is half of level 4's [assumed]. One host whose load is d off makes a deviation of about d / sqrt(hosts), so
the same host counts as much in a large cluster as in a small one."""
SOLVERS = ("greedy", "ortools")
"""How moves for balance are found."""
ORDERS: dict[str, int] = {"size": BY_SIZE, "utilisation": BY_UTILISATION}
"""In which order a host's VMs are given their destinations: most memory, or most CPU, first."""
ENDINGS = (
    "balanced",
    "migration limit",
    "no beneficial move",
    "search limit",
    "not due",
)
"""Why a round ended, by ``drs_state`` code."""

NO_LIMIT = 2**31 - 1
IDLE_MEMORY = 0.25
"""Share of a VM's idle touched memory that counts beside its active one (vSphere's default, from memory)."""
WINDOW_HOSTS = 16
"""Hosts at either end of the ranking that are looked at first."""


@dataclass(frozen=True)
class DrsRound:
    """What a round did, and why it ended.

    Attributes:
        before: Imbalance of CPU and memory that the moves for balance found; memory counts where it binds,
            else it is 0.
        after: The same as predicted with them.
        moves: Migrations ordered.
        mandatory: Of these, migrations for maintenance and rules.
        relief: Of these, migrations off hosts under contention.
        gain: What the moves for balance are worth over the horizon, host-seconds.
        cost: What they cost, host-seconds.
        ending: One of ``ENDINGS``.
    """

    before: tuple[float, float]
    after: tuple[float, float]
    moves: int
    mandatory: int
    relief: int
    gain: float
    cost: float
    ending: str


@dataclass
class DrsPolicy(MovingPolicy):
    """Balance the load of hosts, empty hosts in maintenance, keep placement rules.

    Attributes:
        level: Aggressiveness 1...5, see ``LEVELS``.
        threshold: Imbalance of CPU (and memory) above which moves begin, whatever the number of hosts; None =
            that of the level.
        memory_threshold: The same for memory; None = as for CPU.
        contention: Share of its CPU above which a host is relieved, however even the cluster is; level 1
            relieves none. So is a host whose multiplexed memory costs work.
        contention_s: Time for which it must have been so, s.
        forecaster: Name in ``forecast.FORECASTERS``, dotted path or folder of what predicts each VM's demand;
            None = the demand now.
        window: Samples that the forecaster looks at; None = its default.
        steps: Samples ahead that it forecasts.
        horizon_s: Time for which the load is expected to hold: what a move's benefit counts for, s.
        hysteresis: Once triggered, moves go on until imbalance is this share below the threshold.
        residence: Intervals that a VM stays where anyone moved it, before balance may move it again.
        period: Intervals between two looks at the trigger; what must be done is done in every interval.
        max_migrations: Most migrations ordered per interval (what must be done is not held back); None = no
            limit.
        max_per_host: Most migrations from and to a host at a time that balance may bring about (vSphere: 4
            on 1 Gbit/s, 8 on 10 Gbit/s).
        copy_cores: Cores that a copy keeps busy on either end (vSphere: 0.3 on 1 Gbit/s, from memory).
        evacuate_by: Order in which a host in maintenance is emptied, one of ``ORDERS``.
        solver: One of ``SOLVERS``: greedy moves, or the fewest migrations by OR-Tools.
        solver_rounds: Rounds of the search with ``ortools``; the plan is the same every time.
    """

    level: int = 3
    threshold: float | None = None
    memory_threshold: float | None = None
    contention: float = 1.0
    contention_s: float = 600.0
    forecaster: str | None = "ewma"
    window: int | None = None
    steps: int = 1
    horizon_s: float = 900.0
    hysteresis: float = 0.1
    residence: int = 6
    period: int = 1
    max_migrations: int | None = None
    max_per_host: int = 4
    copy_cores: float = 0.3
    evacuate_by: str = "size"
    solver: str = "greedy"
    solver_rounds: int = 100

    arrival: ClassVar[str | None] = "first_fit"

    @property
    def kind(self) -> str:
        """See ``registry.KINDS``."""
        return "rule" if self.solver == "greedy" else "solver"

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need(self.level in LEVELS, f"policy.level={self.level}: must be one of 1..5")
        for name in ("threshold", "memory_threshold"):
            value = getattr(self, name)
            need(value is None or value >= 0, f"policy.{name}={value}: must be 0 or more, or null")
        for name, least in (("steps", 1), ("period", 1), ("residence", 0), ("max_per_host", 1)):
            value = getattr(self, name)
            need(value >= least, f"policy.{name}={value}: must be at least {least}")
        need(self.contention > 0, f"policy.contention={self.contention}: must be positive")
        need(self.contention_s >= 0, f"policy.contention_s={self.contention_s}: must be 0 or more")
        need(self.solver_rounds >= 1, f"policy.solver_rounds={self.solver_rounds}: must be at least 1")
        need(0 < self.horizon_s < np.inf, f"policy.horizon_s={self.horizon_s}: must be positive")
        need(0 <= self.hysteresis < 1, f"policy.hysteresis={self.hysteresis}: must lie in 0..1, below 1")
        need(self.copy_cores >= 0, f"policy.copy_cores={self.copy_cores}: must be 0 or more")
        limit = self.max_migrations
        need(limit is None or limit >= 0, f"policy.max_migrations={limit}: must be 0 or more, or null")
        one_of("policy.solver", self.solver, SOLVERS)
        one_of("policy.evacuate_by", self.evacuate_by, ORDERS)
        self._forecaster = None
        if self.forecaster is not None:
            window = {} if self.window is None else {"window": self.window}
            self._forecaster = make_forecaster(self.forecaster, "policy.forecaster", **window)
        else:
            need(self.window is None, f"policy.window={self.window}: needs policy.forecaster")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past, allocate the kernels' memory."""
        super().reset(view, rng)
        params = view.params
        self._work = allocate_drs(params, view.state, view.config.rules)
        self._handle: Any = make_handle("drs", self._work)
        self._kept_off: B1 = np.zeros(view.n_hosts, dtype=np.bool_)
        self._leaving: B1 = np.zeros(view.n_hosts, dtype=np.bool_)
        self._asked: dict[int, bool] = {}  # whether a host is to be in maintenance, as long as it is not so
        self._guard = AdmissionGuard(view)
        self._calls = 0
        self.solver_fallbacks = 0
        self._last_time_s = -np.inf
        self._history: History | None = None
        self._demands: tuple[F8, F8] | None = None  # now, and as expected; None = nothing was measured yet
        if self._forecaster is not None:
            depth = self._forecaster.samples or 1 + int(view.horizon_s / params.interval_s)
            self._history = History(view.n_vms, depth)
        self._write_rules(view)

    def _write_rules(self, view: ClusterView) -> None:
        f, i = self._work.rules, self._work.options
        interval = view.params.interval_s
        given, given_mem = self.threshold, self.memory_threshold
        given_mem = given if given_mem is None else given_mem
        theta = LEVELS[self.level] if given is None else float(given)
        by_memory = LEVELS[self.level] if given_mem is None else float(given_mem)
        counts = bool(view.params.memory_binding)
        f.theta_cpu = theta
        f.theta_mem = by_memory if counts else np.inf
        f.by_hosts_cpu, f.by_hosts_mem = given is None, given_mem is None
        f.contention = self.contention if self.level > 1 or given is not None else np.inf
        f.contention_s = self.contention_s
        f.mem_counts = counts
        f.hysteresis = self.hysteresis
        f.horizon = self.horizon_s
        f.residence = self.residence * interval
        f.window = THRASH_INTERVALS * interval
        f.copy_cores = self.copy_cores
        f.idle_mem = IDLE_MEMORY
        i.max_moves = NO_LIMIT if self.max_migrations is None else self.max_migrations
        i.max_per_host = self.max_per_host
        i.by = ORDERS[self.evacuate_by]
        i.window_hosts = WINDOW_HOSTS

    def keep_off(self, hosts: Iterable[int]) -> None:
        """Name the hosts that take no VM from this policy and are not balanced, such as failover hosts.

        Args:
            hosts: All of them; they take the place of those named before.
        """
        named = self.hosts_named(hosts)
        self._kept_off[:] = False
        self._kept_off[named] = True

    def set_threshold(self, threshold: float) -> None:
        """Change the imbalance of CPU and memory above which moves begin, until the next reset.

        Args:
            threshold: Standard deviation, at least 0.
        """
        f = self._work.rules
        f.theta_cpu = max(threshold, 0.0)
        f.theta_mem = f.theta_cpu if f.mem_counts else np.inf
        f.by_hosts_cpu = f.by_hosts_mem = False

    def enter_maintenance(self, hosts: Iterable[int]) -> None:
        """Take hosts into maintenance at the next plan, which finds a destination for all of their VMs.

        Args:
            hosts: Hosts that are to be emptied and take no VM until ``leave_maintenance``.

        Raises:
            ConfigError: If there is no such host.
        """
        named = self.hosts_named(hosts).tolist()
        self._asked |= dict.fromkeys(named, True)

    def leave_maintenance(self, hosts: Iterable[int]) -> None:
        """Let hosts take VMs again from the next plan on.

        Args:
            hosts: Hosts in maintenance.

        Raises:
            ConfigError: If there is no such host.
        """
        named = self.hosts_named(hosts).tolist()
        self._asked |= dict.fromkeys(named, False)

    def plan(self, view: ClusterView) -> Decisions:
        """Plan one interval: maintenance, rules, then balance if it is time and imbalance is too large."""
        begin, end = self._maintenance(view)
        self._guard.renew(view)
        w = self._work
        write_input(w, view, self._expected(view))
        w.empty[:] = self._leaving
        w.closed[:] = self._leaving | self._kept_off | self._guard.dedicated
        due = self._calls % self.period == 0 and bool(view.measured.any())  # nobody moves for an assumption
        self._calls += 1
        if self.solver == "greedy":
            plan_round(view.kernel_params, view.kernel_state, self._handle, due)
        else:
            from .ortools_plan import plan_with_solver

            failed = CALLS.failed
            plan_with_solver(view, w, self._handle, due, self.solver_rounds)
            self.solver_fallbacks += CALLS.failed - failed
        plan = Decisions(
            maintenance=begin,
            end_maintenance=end,
            move_vm=w.out_vm[: w.tally.moves].copy(),
            move_host=w.out_host[: w.tally.moves].copy(),
        )
        return self._guard.keep(self.limits.keep(view, plan))

    def plan_metrics(self) -> dict[str, float]:
        """What the results say of OR-Tools' plans: solver calls that failed in this episode."""
        return {} if self.solver == "greedy" else {"solver_fallbacks": float(self.solver_fallbacks)}

    def _maintenance(self, view: ClusterView) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Hosts that enter and leave maintenance now; ``_leaving`` is then all that are in it."""
        self._leaving[:] = view.state.host_maintenance != 0
        self._asked = {h: on for h, on in self._asked.items() if self._leaving[h] != on}
        for h, on in self._asked.items():
            self._leaving[h] = on
        begin, end = ([h for h, on in self._asked.items() if on == kind] for kind in (True, False))
        return np.array(begin, dtype=np.int32), np.array(end, dtype=np.int32)

    def _expected(self, view: ClusterView) -> F8:
        """Demand of every VM that the plan is made for, MHz: measured now, or forecast."""
        demand = measured_demand(view)
        if self._history is None or self._forecaster is None:
            return demand
        s = view.state
        there = (s.vm_state == RUNNING) | (s.vm_state == PENDING) | (s.vm_state == STARTING)
        if view.time_s > self._last_time_s:  # asked twice at the same time, it has seen one sample
            self._history.push(demand, there & view.measured)
            self._last_time_s = view.time_s
        counts = self._history.counts
        ahead = self._forecaster.predict(self._history.values, self.steps, counts)
        ahead = np.where(counts > 0, np.maximum(ahead, 0.0), demand)
        self._demands = (demand * there, ahead * there) if counts.any() else None
        return ahead

    def foretold(self) -> Foretold | None:
        """The demand that the last plan was made for; None without one."""
        if self.forecaster is None or self._demands is None:
            return None
        now, ahead = (float(demand.sum()) for demand in self._demands)
        return Foretold(self.forecaster, self.steps, now, ahead)

    @property
    def last_round(self) -> DrsRound:
        """What the last plan did, and why it ended."""
        t, x = self._work.tally, self._work.stat
        counts = float(self._work.rules.mem_counts)
        return DrsRound(
            (float(x.before_cpu), counts * float(x.before_mem)),
            (float(x.after_cpu), counts * float(x.after_mem)),
            int(t.moves),
            int(t.mandatory),
            int(t.relief),
            float(x.gain),
            float(x.cost),
            ENDINGS[int(t.reason)],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the parameters; a policy starts an episode with ``reset``."""
        transient = {
            "view",
            "rng",
            "limits",
            "_keeper",
            "_work",
            "_handle",
            "_demands",
            "_kept_off",
            "_leaving",
            "_asked",
            "_calls",
        }
        transient |= {"_last_time_s", "_history"}
        return {key: value for key, value in self.__dict__.items() if key not in transient}


def write_input(work: DrsState, view: ClusterView, demand: F8) -> None:
    """Write the entitlement that goes with a demand: at least the reservation, at most the limit."""
    p = view.params
    if p.has_cpu:
        demand = np.maximum(np.minimum(demand, p.vm_limit_mhz), p.vm_reservation_mhz)
    work.vm_cpu[:] = demand


def plan_evacuation(view: ClusterView, hosts: Iterable[int], by: str = "size") -> Decisions:
    """Plan a batch of migrations that empties hosts, the destinations of all VMs chosen at once.

    Each VM goes to the host that is least loaded with it, of those that are on, are not emptied themselves
    and keep every rule; VMs that fit nowhere have no order.

    Args:
        view: The cluster.
        hosts: Hosts to empty.
        by: ``size``: most memory first; ``utilisation``: most CPU first.

    Returns:
        The migrations.

    Raises:
        ConfigError: For a host that does not exist or an unknown order.

    """
    chosen = need_indices("evacuation", "host", hosts, view.n_hosts)
    order = ORDERS[one_of("evacuation.by", by, ORDERS)]
    w = allocate_drs(view.params, view.state, view.config.rules)
    w.rules.mem_counts = view.params.memory_binding
    w.rules.window = THRASH_INTERVALS * view.params.interval_s
    w.rules.idle_mem = IDLE_MEMORY
    w.options.by = order
    w.empty[chosen] = 1
    w.closed[chosen] = 1
    w.closed[view.state.host_maintenance != 0] = 1
    write_input(w, view, measured_demand(view))
    handle: Any = make_handle("drs", w)
    plan_evacuations(view.kernel_params, view.kernel_state, handle)
    n = int(w.tally.moves)
    return Decisions(move_vm=w.out_vm[:n].copy(), move_host=w.out_host[:n].copy())
