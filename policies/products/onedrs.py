"""OpenNebula's OneDRS: an integer programme for the least loaded fullest host, with a cap on migrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need, need_count, need_positive, need_share, one_of
from virtgym.envs.sim.simulator import ClusterView

from ..forecast.forecasters import make_forecaster
from ..forecast.history import History
from ..forecast.told import Foretold
from ..planning.rounds import Round
from ..solvers.calls import CALLS
from ..solvers.levelling import Levelling, Moves, level, pairs_of
from ..solvers.programme import Rows, improve
from .base import ProductPolicy

GOALS = ("BALANCE", "PACK")
WEIGHTS = {"cpu_usage": 0.2, "cpu": 0.2, "memory": 0.4}
"""Published beside 0.1 for disk and for network, which are no load of a host here."""
PER_MOVE = 0.01
"""What a migration costs in the objective, beside the load of the fullest host or the number of hosts."""
GAP = 0.001
"""Relative gap at which the solver may stop, a tenth of what a migration costs."""
PATIENCE_S = 60.0
"""Wall time after which a solver is given up; its nodes are what ends it."""


@dataclass
class OneDrsPolicy(ProductPolicy):
    """Solve for at most ``migration_threshold`` moves that lower the fullest host's load, or empty hosts.

    Attributes:
        goal: ``POLICY``: ``BALANCE`` or ``PACK``.
        weights: Of CPU used, and of CPU and memory requested, in the load of a host.
        predictive: Weight of forecast CPU beside that measured now.
        migration_threshold: Most migrations of a run.
        interval_s: ``DRS_INTERVAL``, time between two runs, s [assumed: it ships switched off].
        forecaster: Forecaster of the predictive part.
        max_pairs: Most pairs of VM and host in the programme: VMs of the fullest hosts, emptiest hosts.
        solver_nodes: Nodes of the solver's tree, at which it stops with the best plan that it has.
    """

    goal: str = "BALANCE"
    weights: dict[str, Any] = field(default_factory=lambda: dict(WEIGHTS))
    predictive: float = 0.3
    migration_threshold: int = 10
    interval_s: float = 3600.0
    forecaster: str = "ewma"
    max_pairs: int = 1000
    solver_nodes: int = 20

    kind: ClassVar[str] = "solver"

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.goal", self.goal, GOALS)
        self.weights = {**dict.fromkeys(WEIGHTS, 0.0), **self.weights}
        for key in self.weights:
            one_of("policy.weights", key, WEIGHTS)
        need_share("policy.weights", **self.weights)
        need(sum(self.weights.values()) > 0, "policy.weights: one must be positive")
        need_share("policy", predictive=self.predictive)
        need_positive("policy", interval_s=self.interval_s)
        need_count("policy", low=0, migration_threshold=self.migration_threshold)
        need_count("policy", max_pairs=self.max_pairs, solver_nodes=self.solver_nodes)
        make_forecaster(self.forecaster, "policy.forecaster")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._ahead = make_forecaster(self.forecaster, "policy.forecaster")
        self._past = History(view.n_vms, self._ahead.samples or self.samples(2 * 3600.0))
        self.solver_fallbacks = 0

    def observe(self, now: Round) -> None:
        """Take every VM's CPU down."""
        self._past.push(now.cpu, (now.home >= 0) & now.view.measured)

    def foretold(self) -> Foretold | None:
        """The demand of the VMs at the next decision, by the forecaster of the predictive part."""
        past = self._past
        if not past.counts.any():
            return None
        there = past.counts > 0
        return Foretold(self.forecaster, 1, past.values[-1][there].sum(), self._predict()[there].sum())

    def plan_metrics(self) -> dict[str, float]:
        """What the results say of the solver: calls without a plan in this episode."""
        return {"solver_fallbacks": float(self.solver_fallbacks)}

    def act(self, now: Round) -> None:
        """Solve, and order the moves of the solution."""
        most = min(self.migration_threshold, now.left)
        if self.rounds(self.interval_s) == 0 or most == 0 or now.on.sum() < 2 or not now.units:
            return
        size, load = self._sizes(now)
        before = float(load[now.on].max())
        units, hosts = self._chosen(now, load)
        failed = CALLS.failed
        pairs = self._solve(now, units, hosts, size, load, most) if len(units) else []
        self.solver_fallbacks += CALLS.failed - failed
        moves = sum(now.move(u, h) for u, h in pairs)
        self.say(before, before - PER_MOVE, moves, True)

    def _predict(self) -> F8:
        """Demand of every VM at the next decision, MHz, (V,); means nothing for one without a past."""
        past = self._past
        return np.maximum(0.0, self._ahead.predict(past.values, 1, past.counts))

    def _sizes(self, now: Round) -> tuple[F8, F8]:
        """What a unit adds to the load of every host, (N, H), and the loads, (H,)."""
        p, w = now.view.params, self.weights
        mixed = (1 - self.predictive) * now.cpu + self.predictive * self._predict()
        used = np.where(self._past.counts > 0, mixed, now.cpu)
        parts = [(w["cpu_usage"], used, p.host_inv_cpu), (w["cpu"], p.vm_cpu_mhz, p.host_inv_cpu)]
        parts.append((w["memory"], p.vm_mem_mib, p.host_inv_mem))
        load = np.zeros(now.view.n_hosts)
        size = np.zeros((len(now.units), now.view.n_hosts))
        for weight, of, inverse in parts:
            load += weight * inverse * now.at_home(of)
            size += weight * now.of_units(of)[:, None] * inverse
        return size, load

    def _chosen(self, now: Round, load: F8) -> tuple[I8, I8]:
        """Units and hosts of the programme: of many hosts the fullest (PACK: emptiest) and the other end."""
        sign = -1.0 if self.goal == "BALANCE" else 1.0
        hosts = np.flatnonzero(now.on)
        hosts = hosts[np.argsort(sign * load[hosts], kind="stable")]
        units = np.flatnonzero(~now.moved & now.on[now.unit_home])
        if len(units) * len(hosts) <= self.max_pairs:
            return units, hosts
        side = max(1, int(self.max_pairs**0.5))
        rank = np.argsort(np.argsort(sign * load, kind="stable"), kind="stable")
        units = units[np.argsort(rank[now.unit_home[units]], kind="stable")][:side]
        homes = np.unique(now.unit_home[units])
        others = hosts[::-1][~np.isin(hosts[::-1], homes)]
        return units, np.concatenate([homes, others[: max(1, side - len(homes))]])

    def _solve(self, now: Round, units: I8, hosts: I8, size: F8, load: F8, most: int) -> Moves:
        """The programme, of units and hosts by their places in what is given."""
        p, place = now.view.params, np.zeros(now.view.n_hosts, dtype=np.int64)
        place[hosts] = np.arange(len(hosts))
        rooms = [(p.vm_cpu_mhz, p.host_cpu_mhz * max(1.0, p.arrival_overcommit))]
        if p.memory_binding:
            rooms.append((p.vm_mem_mib, p.host_mem_mib * p.mem_overcommit))
        problem = Levelling(
            load=load[hosts],
            home=place[now.unit_home[units]],
            size=size[np.ix_(units, hosts)],
            number=np.array([len(now.units[u]) for u in units], dtype=np.float64),
            legal=now.open(units.tolist(), hosts),
            # what is requested stays within what a host has, or holds now
            need=np.array([now.of_units(of)[units] for of, _ in rooms]),
            free=np.array([np.maximum(0.0, (cap - now.at_home(of))[hosts]) for of, cap in rooms]),
            most=most,
            price=PER_MOVE,
        )
        if self.goal == "BALANCE":
            moves = level(problem, GAP, self.solver_nodes, PATIENCE_S)
        else:
            moves = self._pack(problem, now.n_vms()[hosts].astype(np.float64))
        return [(int(units[u]), int(hosts[b])) for u, b in moves]

    def _pack(self, q: Levelling, there: F8) -> Moves:
        """x moves a unit, y says that a host is used; ``there`` are VMs on every host, (K,)."""
        i, j = np.nonzero(q.legal)
        k, number, grid = len(q.load), q.number[i], Rows()
        x = grid.columns(len(i), q.price * number, 1.0)
        y = grid.columns(k, 1.0, 1.0)
        grid.rows(len(q.home), -np.inf, 1.0, (i, x, 1.0))
        grid.rows(1, -np.inf, float(q.most), (0, x, number))
        # a host that is not used holds nothing
        come, go = (j, x, number), (q.home[i], x, -number)
        grid.rows(k, -np.inf, -there, come, go, (np.arange(k), y, -there - q.number.sum() - 1.0))
        for kind, free in zip(q.need, q.free):
            grid.rows(k, -np.inf, free, (j, x, kind[i]))
        whole, used = np.ones(grid.n_columns, dtype=np.bool_), float((there > 0).sum())
        found = improve(grid.programme(), whole, used * (1.0 - GAP), PATIENCE_S, self.solver_nodes, GAP)
        return [] if found is None else pairs_of(found[x], i, j)
