"""Rebalancing with OR-Tools: the fewest migrations that bring imbalance down to a threshold.

Imbalance of a resource is the standard deviation of the loads x_h = demand_h / capacity_h over the n hosts
that are on, or the largest deviation from their mean x̄. Two questions, one model:

* the least cost of moves such that imbalance <= threshold (``limit`` = inf),
* the least imbalance with moves that cost at most ``limit`` (``threshold`` = 0).

**Bound.** Let z_i in 0...1 say that item i leaves its host, and let what left arrive anywhere:

    x_h >= load_h now - sum_{i on h} size_i z_i / capacity_h,   sum_h capacity_h x_h = total demand
    d . x <= sqrt(n) * imbalance  for every d with sum d = 0, |d| = 1  (``max``: |x_h - x̄| <= imbalance)

In small instances it is also said where each item arrives, and what that takes of CPU and memory; the
solution is then a plan to start from. The directions d are cutting planes: the relaxation is solved with
GLOP, the direction of its solution is added, and so on; then with whole z (HiGHS). Every step is a valid
bound. If the price is the same for all, the bound on cost is rounded up to whole moves.

**Plan.** Greedy moves with the best gain, then rounds that send some moved VMs home and add other moves
(``rebalancing_search``), under all rules and limits of ``ConsolidationProblem``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need, one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle

from .items import Items, legal_homes, make_items, vm_hosts
from .model import ConsolidationProblem, evaluate, sums
from .moves import allocate_plan, load_plan
from .programme import TOLERANCE, Rows, solve_programme
from .rebalancing_search import (
    M_MAX,
    M_STD,
    SOURCES,
    TARGETS,
    Balance,
    Scratch,
    balance,
    start_balance,
)
from .search import fill_bank

MEASURES: dict[str, int] = {"std": M_STD, "max": M_MAX}
"""Measures of imbalance."""

SMALL = 6000
"""VMs x hosts up to which the bound says where each item arrives."""
CHUNK = 20
CUTS = 60
"""Most cutting planes of a bound."""
PATIENCE_S = 20.0
"""Wall time that the bound may take at most when rounds are counted."""


@dataclass(frozen=True)
class RebalancingResult:
    """A plan and what is known about it.

    Attributes:
        vm_host: Host of each VM, (V,).
        imbalance: Of CPU and memory after the moves, by the measure asked for, (2,).
        before: The same before, (2,).
        reached: Whether every threshold is met.
        migrations: VMs that move.
        cost: Sum of their prices (1 each by default).
        bound: With a threshold: no plan that meets it costs less. With a limit: no plan within it leaves
            less imbalance (sum of what is left above the thresholds).
        gap: (value - bound) / value of what was minimised; 0 = proven; ``inf`` = threshold not reached.
        violations: Rules and limits that the plan breaks, at most as many as before.
        seconds: Wall time, s.
        rounds: Rounds of the search.
    """

    vm_host: I8
    imbalance: F8
    before: F8
    reached: bool
    migrations: int
    cost: float
    bound: float
    gap: float
    violations: int
    seconds: float
    rounds: int


def host_imbalance(problem: ConsolidationProblem, vm_host: I8, measure: str = "std") -> F8:
    """Imbalance of CPU and memory over the hosts that are on and allowed, (2,).

    Args:
        problem: The instance.
        vm_host: Host of each VM, (V,); VMs elsewhere do not count.
        measure: ``std`` or ``max``.
    """
    p = problem
    on = np.asarray(p.host_on & p.host_allowed)  # type: ignore[operator]
    if not on.any():
        return np.zeros(2)
    placed = vm_host >= 0
    found = np.zeros(2)
    for r, (size, cap) in enumerate(((p.vm_cpu_mhz, p.host_cpu_mhz), (p.vm_mem_mib, p.host_mem_mib))):
        x = (sums(vm_host[placed], size[placed], p.n_hosts) / np.maximum(cap, 1e-9))[on]
        found[r] = np.std(x) if measure == "std" else np.abs(x - x.mean()).max()
    return found


class _Bound:
    """The relaxation of the module's text, with its cutting planes."""

    def __init__(self, items: Items, task: Balance, by_cost: bool) -> None:
        self.items, self.task, self.by_cost = items, task, by_cost
        self.std = task.rules[1] == M_STD
        self.plan: I8 | None = None
        n, n_hosts = len(items.cpu), len(task.host)
        rows = self.rows = Rows()
        self.counted = [r for r in range(2) if np.isfinite(task.target[r])]
        self.leave = rows.columns(n, task.price if by_cost else 0.0, 1.0)
        self.load = [rows.columns(n_hosts) for _ in self.counted]
        self.mean = [rows.columns(1) for _ in self.counted]
        self.left = [rows.columns(1, 0.0 if by_cost else 1.0) for _ in self.counted]
        self.at = np.full(task.inv.shape[1], -1, dtype=np.int64)
        self.at[task.host] = np.arange(n_hosts)
        self.home = np.where(items.home >= 0, self.at[items.home], -1)
        self.arrive = self._arrivals() if n * n_hosts <= SMALL else None
        if not by_cost:
            rows.rows(1, -np.inf, float(task.rules[0]), (0, self.leave, task.price))
        for k in range(len(self.counted)):
            self._loads(k)

    def _arrivals(self) -> I8:
        """Where items arrive, (I, n), and the limits of hosts."""
        rows, items, host = self.rows, self.items, self.task.host
        n, n_hosts = len(items.cpu), len(host)
        open_to = (items.allowed[items.row][:, host] > 0).astype(np.float64)
        known = np.flatnonzero(self.home >= 0)
        open_to[known, self.home[known]] = 0.0
        arrive = rows.columns(n * n_hosts, 0.0, open_to.ravel()).reshape(n, n_hosts)
        which = np.repeat(np.arange(n), n_hosts).reshape(n, n_hosts)
        lost = np.flatnonzero(self.home < 0)
        rows.rows(n, 0.0, 0.0, (which, arrive, 1.0), (known, self.leave[known], -1.0))
        rows.low[-1][lost] = rows.high[-1][lost] = 1.0
        to = np.tile(np.arange(n_hosts), (n, 1))
        for size, keep in ((items.cpu, items.keep_cpu), (items.mem, items.keep_mem)):
            if not np.isfinite(keep[host]).all():
                continue
            now = sums(self.home[known], size[known], n_hosts)
            rows.rows(n_hosts, -np.inf, 0.0, (to, arrive, np.repeat(size[:, None], n_hosts, axis=1)),
                      (self.home[known], self.leave[known], -size[known]))  # fmt: skip
            rows.high[-1][:] = keep[host] - now
        return arrive

    def _loads(self, k: int) -> None:
        rows, task, items = self.rows, self.task, self.items
        r, n_hosts = self.counted[k], len(task.host)
        size, inv = (items.cpu if r == 0 else items.mem), task.inv[self.counted[k], task.host]
        known = np.flatnonzero(self.home >= 0)
        where = self.home[known]
        hosts = np.arange(n_hosts)
        terms = [(hosts, self.load[k], 1.0), (where, self.leave[known], size[known] * inv[where])]
        if self.arrive is not None:
            to = np.tile(hosts, (len(size), 1))
            terms.append((to, self.arrive, -size[:, None] * inv[None, :]))
        now = sums(where, size[known], n_hosts) * inv
        rows.rows(n_hosts, 0.0, np.inf if self.arrive is None else 0.0, *terms)
        rows.low[-1][:] = now
        if self.arrive is not None:
            rows.high[-1][:] = now
        rows.rows(1, float(size.sum()), float(size.sum()), (0, self.load[k], 1.0 / inv))
        rows.rows(1, 0.0, 0.0, (0, self.load[k], 1.0 / n_hosts), (0, self.mean[k], -1.0))
        if self.by_cost:
            rows.rows(1, -np.inf, 0.0, (0, self.left[k], 1.0))
        if not self.std:
            mean, left = np.repeat(self.mean[k], n_hosts), np.repeat(self.left[k], n_hosts)
            for sign in (1.0, -1.0):
                either = (hosts, self.load[k], sign), (hosts, mean, -sign), (hosts, left, -1.0)
                rows.rows(n_hosts, -np.inf, float(task.target[r]), *either)

    def cut(self, x: F8) -> bool:
        """Add the directions in which a solution is too uneven; whether there were any."""
        found = False
        for k, r in enumerate(self.counted):
            n = len(self.task.host)
            d = x[self.load[k]] - x[self.load[k]].mean()
            norm = math.sqrt(float((d * d).sum()))  # not BLAS: its rounding depends on the CPU
            allowed = math.sqrt(n) * float(self.task.target[r] + x[self.left[k][0]])
            if not self.std or norm <= allowed * (1.0 + 1e-6) + 1e-9:
                continue
            found = True
            self.rows.rows(1, -np.inf, math.sqrt(n) * float(self.task.target[r]),
                           (0, self.load[k], d / norm), (0, self.left[k], -math.sqrt(n)))  # fmt: skip
        return found

    def solve(self, seconds: float) -> float:
        """The bound; ``plan`` is then the host of every item in the last solution, if that says so."""
        end, best = time.monotonic() + seconds, 0.0
        none = np.zeros(self.rows.n_columns, dtype=np.bool_)
        whole = none.copy()
        whole[self.leave] = True
        if self.arrive is not None:
            whole[self.arrive] = True
        for kinds, last in ((none, end - 0.5 * seconds), (whole, end)):
            for _ in range(CUTS):
                left = last - time.monotonic()
                if left < 0.02:
                    break
                value, x, optimal = solve_programme(self.rows.programme(), kinds, left)
                if np.isfinite(value) and (optimal or kinds is whole):
                    best = max(best, value)
                if x is None:
                    break
                if kinds is whole and self.arrive is not None:
                    self._read(x)
                if not self.cut(x) or not optimal:
                    break
        return self._rounded(best)

    def _read(self, x: F8) -> None:
        assert self.arrive is not None
        goes = x[self.arrive]
        to = self.task.host[goes.argmax(axis=1)]
        self.plan = np.where(goes.max(axis=1) > 0.5, to, self.items.home)

    def _rounded(self, value: float) -> float:
        value -= 2.0 * TOLERANCE * abs(value)
        price = self.task.price
        if self.by_cost and len(price) and float(price.min()) == float(price.max()) and price[0] > 0.0:
            return float(np.ceil(value / price[0] - 1e-6) * price[0])
        return value


def _on_only(problem: ConsolidationProblem) -> ConsolidationProblem:
    """The same with VMs on hosts that are on only, and no hosts to be kept in reserve: none is switched."""
    assert problem.host_on is not None
    assert problem.host_allowed is not None
    allowed = problem.host_allowed & problem.host_on
    return replace(
        problem, host_allowed=allowed, min_hosts=0, reserve_cpu=0.0, reserve_mem=0.0, failover_hosts=0
    )


def _prices(problem: ConsolidationProblem, items: Items, price: F8 | None) -> F8:
    """What moving each item costs: the sum over its members, or one per VM."""
    each = np.ones(problem.n_vms) if price is None else np.asarray(price, dtype=np.float64)
    if each.shape != (problem.n_vms,) or not (np.isfinite(each).all() and (each >= 0.0).all()):
        raise ConfigError("rebalancing.price: needs one number per VM, 0 or more")
    return np.add.reduceat(each[items.vm], items.vm_first[:-1]) if len(items.vm) else np.zeros(0)


def _check(threshold: float, memory_threshold: float, limit: float, measure: str) -> None:
    one_of("rebalancing.measure", measure, MEASURES)
    for name, value in (("threshold", threshold), ("memory_threshold", memory_threshold), ("limit", limit)):
        need(value >= 0.0, f"rebalancing.{name}={value}: must be 0 or more")
    if threshold == np.inf and memory_threshold == np.inf:
        raise ConfigError("rebalancing.threshold: CPU or memory needs one")


def solve_rebalancing(
    problem: ConsolidationProblem,
    *,
    threshold: float = 0.0,
    memory_threshold: float = np.inf,
    limit: float = np.inf,
    price: F8 | None = None,
    measure: str = "std",
    time_limit_s: float = 1.0,
    rounds: int | None = None,
    seed: int = 0,
    bound: bool = True,
) -> RebalancingResult:
    """Even out the load of hosts with the least cost of migrations.

    Args:
        problem: The instance; hosts that are on (and allowed) are balanced, ``horizon_s``, power and what is
            kept in reserve have no meaning here.
        threshold: Imbalance of CPU to be reached; ``inf`` = CPU does not count.
        memory_threshold: The same of memory.
        limit: Most that all moves may cost.
        price: Cost of moving each VM, (V,): None = 1 (count migrations), or memory, seconds, J.
        measure: ``std`` or ``max``.
        time_limit_s: Wall time, s, half of it at most for the bound.
        rounds: So many rounds of search instead: the same result every time.
        seed: Seed of the search.
        bound: Whether to compute a bound.

    Returns:
        The plan. It is never further from the thresholds than doing nothing.

    Raises:
        ConfigError: If an argument is not allowed.
    """
    _check(threshold, memory_threshold, limit, measure)
    need(0.0 < time_limit_s < np.inf, f"rebalancing.time_limit_s={time_limit_s}: must be positive")
    started = time.monotonic()
    inner = _on_only(problem)
    items = make_items(inner)
    usable = np.flatnonzero(inner.host_allowed)  # type: ignore[arg-type]
    targets = np.array([threshold, memory_threshold])
    if not np.isfinite(inner.host_mem_mib[usable]).all():
        targets[1] = np.inf
    inv = np.stack([1.0 / inner.host_cpu_mhz, 1.0 / np.maximum(inner.host_mem_mib, 1e-9)])
    task = Balance(
        usable.astype(np.int64), np.ascontiguousarray(inv), targets, _prices(problem, items, price),
        np.array([limit, MEASURES[measure]], dtype=np.float64), np.zeros(2),
        np.zeros(len(items.cpu), dtype=np.int64),
    )  # fmt: skip
    by_cost = limit == np.inf
    lower, guide = 0.0, None
    if bound and len(items.cpu) and len(usable) and np.isfinite(targets).any():
        relaxed = _Bound(items, task, by_cost)
        lower = relaxed.solve(PATIENCE_S if rounds is not None else 0.5 * time_limit_s)
        guide = relaxed.plan
    vm_host, done = _search(inner, items, task, started + time_limit_s, rounds, seed, lower, guide)
    return _result(problem, inner, vm_host, task, measure, lower, started, done)


def _search(
    problem: ConsolidationProblem, items: Items, task: Balance, end: float, rounds: int | None, seed: int,
    lower: float, guide: I8 | None,
) -> tuple[I8, int]:  # fmt: skip
    """Hosts of the VMs, and rounds searched."""
    if len(items.cpu) == 0 or len(task.host) == 0:
        return problem.vm_host.copy(), 0
    plan = allocate_plan(items, seed)
    p: Any = make_handle("consolidation_items", items, readonly=True)
    w: Any = make_handle("consolidation_plan", plan)
    b: Any = make_handle("rebalancing", task)
    n = len(items.cpu)
    found, hosts = np.zeros(SOURCES, dtype=np.int64), np.zeros(TARGETS, dtype=np.int64)
    s: Any = make_handle(
        "rebalancing_scratch", Scratch(found, hosts, np.zeros(2), np.zeros(n, dtype=np.int64))
    )
    load_plan(p, w, legal_homes(items))
    fill_bank(p, w, 0.0, 0.0, 0.0)
    if (plan.host_of < 0).any():
        return problem.vm_host.copy(), 0  # something fits nowhere: not a question of balance
    start_balance(p, w, b, s)
    stay = evaluate(problem, problem.vm_host).violations
    if guide is not None and evaluate(problem, vm_hosts(items, guide, problem)).violations <= stay:
        best, reached = plan.best.copy(), tuple(task.state)
        load_plan(p, w, guide)
        start_balance(p, w, b, s)
        if tuple(task.state) > reached or task.state[1] > task.rules[0] + 1e-9:
            load_plan(p, w, best)
            start_balance(p, w, b, s)
    done, by_cost = 0, task.rules[0] == np.inf
    while done < rounds if rounds is not None else time.monotonic() < end:
        value = task.state[1] if by_cost else task.state[0]
        if task.state[0] <= 0.0 and (value <= lower + 1e-9 or task.state[1] == 0.0):
            break
        n = CHUNK if rounds is None else min(CHUNK, rounds - done)
        balance(p, w, b, n, s)
        done += n
    return vm_hosts(items, plan.best, problem), done


def _result(
    problem: ConsolidationProblem, inner: ConsolidationProblem, vm_host: I8, task: Balance, measure: str,
    lower: float, started: float, rounds: int,
) -> RebalancingResult:  # fmt: skip
    before, after = (host_imbalance(inner, hosts, measure) for hosts in (inner.vm_host, vm_host))
    value, stay = evaluate(inner, vm_host), evaluate(inner, inner.vm_host)
    if value.violations > stay.violations:
        vm_host, after, value = inner.vm_host.copy(), before, stay
    left = float(np.maximum(after - task.target, 0.0).sum())
    reached = left <= 1e-9
    moved = vm_host != problem.vm_host
    cost = float(task.state[1]) if moved.any() else 0.0
    if task.rules[0] == np.inf:
        gap = 0.0 if cost <= lower else (cost - lower) / max(cost, 1e-300)
        gap = gap if reached else np.inf
    else:
        gap = 0.0 if left <= lower + 1e-9 else (left - lower) / left
    return RebalancingResult(
        vm_host, after, before, reached, int(moved.sum()), cost, lower, gap, value.violations,
        time.monotonic() - started, rounds,
    )  # fmt: skip
