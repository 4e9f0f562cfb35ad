"""Consolidation with OR-Tools: a plan, a proven lower bound, and never a plan worse than staying.

1. **Starts** (milliseconds): stay; first fit and best fit decreasing; greedy evacuation in three orders.
2. **Bound** (OR-Tools: GLOP, then HiGHS; ``consolidation_bounds``): 0.1 s for the relaxation at 1,000 x 800,
   about 1 s for whole numbers of hosts. Hosts that the relaxed plan switches off are emptied at once: the
   *guided* start, mostly within 1 % of the bound.
3. **Search** (``consolidation_search``) from the best start until the gap is small enough or time is up; with
   two workers beside the solver, then a second one from the second best start.

With ``rounds`` in place of a time limit all is counted, not timed, and the result is the same each time.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle

from .bounds import Bound, build_bound, solve_bound
from .items import Items, legal_homes, make_items, vm_hosts
from .model import (
    ConsolidationProblem,
    Evaluation,
    evaluate,
)
from .moves import allocate_plan, load_plan
from .search import evacuate, fill_bank, improve, note_best, pack

CHUNK = 250
"""Rounds of the search between two looks at the clock."""
REWARDS = (0.02, 0.1, 0.5)
"""Bonuses for full hosts that the starts try, in idle hosts."""
TEMPERATURE = 0.003
"""Of the second search at its beginning, in idle hosts; the first only descends."""
NODES = 200
"""Nodes of HiGHS's tree when everything is counted."""
PATIENCE_S = 60.0
"""Wall time that the solver may take at most when everything is counted."""
BOUND_SHARE = 0.5
"""Share of the time limit that the solver may take of a single worker."""


@dataclass(frozen=True)
class ConsolidationResult:
    """A plan and what is known about it.

    Attributes:
        vm_host: Host of each VM, (V,); -1 only where a VM had none and none was found.
        host_on: Hosts to be on, (H,): those that hold VMs, and what ``min_hosts`` and reserves ask for.
        objective_j: Energy over the horizon and migrations, J.
        bound_j: No plan that is allowed costs less, J; 0 if nothing is known.
        gap: (objective - bound) / objective; 0 = proven optimal.
        status: ``optimal`` (gap below 1e-6), ``feasible``, ``stay`` (nothing better than staying was found),
            or ``infeasible`` (no allowed plan was found; this one breaks as much as ``evaluation`` says).
        seconds: Wall time, s.
        source: Which start it came from.
        rounds: Neighbourhoods that were searched.
        evaluation: The judge's account of the plan.
        stay: The same of staying.
        starts: Objective of each start that is allowed, J.
    """

    vm_host: I8
    host_on: NDArray[np.bool_]
    objective_j: float
    bound_j: float
    gap: float
    status: str
    seconds: float
    source: str
    rounds: int
    evaluation: Evaluation
    stay: Evaluation
    starts: dict[str, float] = field(default_factory=dict)


class _Start(NamedTuple):
    """A plan to search from."""

    name: str
    hosts: I8  # (I,) host of each item, -1 = none
    cost: float


class _Searcher:
    """One plan under construction; two of them may run at once, each in its thread."""

    def __init__(self, items: Items, seed: int) -> None:
        self.items = items
        self.plan = allocate_plan(items, seed)
        self.p: Any = make_handle("consolidation_items", items, readonly=True)
        self.w: Any = make_handle("consolidation_plan", self.plan)
        self.idle = float(items.numbers.idle)
        self.rounds = 0

    def load(self, hosts: I8) -> None:
        """Start from an assignment; it is the best one so far."""
        load_plan(self.p, self.w, np.ascontiguousarray(hosts))
        note_best(self.p, self.w)

    def best(self, name: str) -> _Start:
        """The best plan since the last ``load``."""
        return _Start(name, self.plan.best.copy(), float(self.plan.sums.best))

    def search(self, rounds: int, temperature: float = 0.0) -> float:
        """Search on; returns the cost of the best plan."""
        improve(self.p, self.w, rounds, temperature * self.idle, 0.0)
        self.rounds += rounds
        return float(self.plan.sums.best)

    def pack(self, best_fit: bool) -> _Start:
        """First or best fit decreasing, hosts by idle power per unit of what is scarce."""
        items, weight = self.items, self.plan.weight
        size = weight[0] * items.cpu * items.unit[0] + weight[1] * items.mem * items.unit[1]
        room = weight[0] * items.cap_cpu * items.unit[0]
        room = room + weight[1] * np.where(items.inv_mem > 0, items.cap_mem, 0.0) * items.unit[1]
        price = (items.energy_j[items.table, 0] + items.switch_j) / np.maximum(room, 1e-12)
        self.load(np.full(len(items.cpu), -1, dtype=np.int64))
        pack(self.p, self.w, np.argsort(-size, kind="stable"), np.argsort(price, kind="stable"), best_fit)
        return self.best("best fit decreasing" if best_fit else "first fit decreasing")

    def evacuate(self, hosts: I8, name: str, order: str = "fill") -> _Start:
        """Greedy evacuation from an assignment, with the best of ``REWARDS``."""
        best = _Start(name, hosts, np.inf)
        for reward in REWARDS:
            self.load(hosts)
            fill_bank(self.p, self.w, 0.0, reward * self.idle, 0.0)
            note_best(self.p, self.w)
            evacuate(self.p, self.w, self._order(order), reward * self.idle)
            if float(self.plan.sums.best) < best.cost:
                best = self.best(name)
        return best

    def _order(self, order: str) -> I8:
        """Hosts with items: the emptiest first, those with the cheapest moves, or those that yield least."""
        plan, items = self.plan, self.items
        key = plan.fill
        if order == "migration":  # cost of migration less idle energy
            home = items.home
            leave = np.bincount(home[home >= 0], weights=items.move_j[home >= 0], minlength=len(key))
            key = leave - items.energy_j[items.table, 0]
        elif order == "yield":
            key = plan.fill / np.maximum(plan.cost * items.inv_cpu, 1e-12)
        hosts = np.flatnonzero(plan.n > 0)
        return hosts[np.argsort(key[hosts], kind="stable")].astype(np.int64)


class _Solution:
    """The best plan that the judge allows, and the bound."""

    def __init__(self, problem: ConsolidationProblem, items: Items) -> None:
        self.problem, self.items = problem, items
        self.vm_host = problem.vm_host.copy()
        self.value = self.stay = evaluate(problem, self.vm_host)
        self.source = "stay"
        self.bound = 0.0
        self.starts: dict[str, float] = {}
        if self.stay.violations == 0:
            self.starts["stay"] = self.stay.objective_j

    def offer(self, start: _Start, *, note: bool = False) -> None:
        """Judge a plan; keep it if it breaks less, or costs less and breaks no more."""
        vm_host = vm_hosts(self.items, start.hosts, self.problem)
        value = evaluate(self.problem, vm_host)
        if note and value.violations == 0:
            self.starts[start.name] = value.objective_j
        if (value.violations, value.objective_j) < (self.value.violations, self.value.objective_j):
            self.vm_host, self.value, self.source = vm_host, value, start.name

    def gap(self) -> float:
        """The proven gap, 0 at least."""
        if self.value.violations:
            return float("inf")
        if self.value.objective_j <= 0.0:
            return 0.0
        return max(0.0, (self.value.objective_j - self.bound) / self.value.objective_j)

    def result(self, started: float, rounds: int) -> ConsolidationResult:
        """What the caller gets."""
        gap = self.gap()
        status = "optimal" if gap <= 1e-6 else "stay" if self.source == "stay" else "feasible"
        if self.value.violations:
            status = "infeasible"
        return ConsolidationResult(
            self.vm_host, self.value.host_on, self.value.objective_j, self.bound, gap, status,
            time.monotonic() - started, self.source, rounds, self.value, self.stay, self.starts,
        )  # fmt: skip


def pack_decreasing(problem: ConsolidationProblem, *, best_fit: bool = False) -> I8:
    """First fit or best fit decreasing: the usual baselines, with no eye on where VMs are now.

    VMs by size and hosts by idle power per capacity, both of the scarcer resource.

    Args:
        problem: The instance.
        best_fit: Best fit in place of first fit.

    Returns:
        Host of each VM, (V,); what fits nowhere stays.
    """
    items = make_items(problem)
    return vm_hosts(items, _Searcher(items, 0).pack(best_fit).hosts, problem)


def solve_consolidation(
    problem: ConsolidationProblem,
    *,
    time_limit_s: float = 5.0,
    rounds: int | None = None,
    workers: int = 1,
    gap: float = 0.0,
    seed: int = 0,
    bound: bool = True,
    whole: bool = True,
) -> ConsolidationResult:
    """Find a plan of least energy and migrations.

    Args:
        problem: The instance.
        time_limit_s: Wall time, s.
        rounds: Search so many neighbourhoods instead, whatever time that takes: the result is then the same
            on every run. One worker.
        workers: 1, or 2: search beside the solver.
        gap: Stop once the proven gap is at most this.
        seed: Seed of the search.
        bound: Whether to compute a bound; without one there is no guided start either.
        whole: Whether the bound asks for every host to be on or off as a whole (about 1 s at 1,000 x 800), or
            only for whole numbers of hosts by type, as far as a few branches of the relaxation give them
            (0.1 to 0.3 s).

    Returns:
        The plan; it never breaks more than staying does, and if it breaks as much it never costs more.

    Raises:
        ConfigError: If an argument is not allowed.
    """
    need(0.0 < time_limit_s < np.inf, f"consolidation.time_limit_s={time_limit_s}: must be positive")
    if rounds is not None and rounds < 0:
        raise ConfigError(f"consolidation.rounds={rounds}: must be 0 or more")
    if workers not in (1, 2):
        raise ConfigError(f"consolidation.workers={workers}: must be 1 or 2")
    need(gap >= 0.0, f"consolidation.gap={gap}: must be 0 or more")
    run = _Run(problem, gap, seed, whole)
    if problem.n_vms == 0 or problem.n_hosts == 0:
        run.solution.bound = run.solution.value.objective_j
    elif rounds is not None:
        run.counted(rounds, bound)
    elif workers == 1:
        run.timed(time_limit_s, bound)
    else:
        run.parallel(time_limit_s, bound)
    return run.solution.result(run.started, run.searched)


class _Run:
    """One call of ``solve_consolidation``."""

    def __init__(self, problem: ConsolidationProblem, gap: float, seed: int, whole: bool) -> None:
        self.started = time.monotonic()
        self.problem, self.target, self.seed, self.whole = problem, gap, seed, whole
        self.items = make_items(problem)
        self.solution = _Solution(problem, self.items)
        self.searched = 0
        self.model: Any = None
        self.found: list[_Start] = []

    def _starts(self, searcher: _Searcher) -> None:
        home = legal_homes(self.items)
        self._keep(searcher.pack(False))
        self._keep(searcher.pack(True))
        for order in ("fill", "migration", "yield"):
            self._keep(searcher.evacuate(home, f"evacuation by {order}", order))

    def _keep(self, start: _Start, note: bool = True) -> None:
        self.found.append(start)
        self.found.sort(key=lambda s: s.cost)
        self.solution.offer(start, note=note)

    def _guide(self, searcher: _Searcher, bound: Bound, name: str) -> None:
        """The start that follows the relaxed plan: hosts that it switches off are emptied."""
        if bound.value_j > self.solution.bound:
            self.solution.bound = bound.value_j
        if len(bound.kept) and np.isfinite(bound.kept).all():
            home = legal_homes(self.items)
            home[(home >= 0) & (bound.kept[home] < 0.5)] = -1
            self._keep(searcher.evacuate(home, name))

    def _bound(self, seconds: float, *, whole: bool, nodes: int | None = None) -> Bound:
        if self.model is None:
            self.model = build_bound(self.problem, self.items)
        return solve_bound(self.model, self.items, seconds, whole=whole, nodes=nodes)

    def _done(self) -> bool:
        return self.solution.gap() <= max(self.target, 1e-9)

    def counted(self, rounds: int, bound: bool) -> None:
        """Everything by count."""
        searcher = _Searcher(self.items, self.seed)
        self._starts(searcher)
        if bound:
            self._guide(searcher, self._bound(PATIENCE_S, whole=False), "guided by the relaxation")
            if self.whole:
                self._guide(searcher, self._bound(PATIENCE_S, whole=True, nodes=NODES), "guided by the bound")
        searcher.load(self.found[0].hosts)
        while searcher.rounds < rounds and not self._done():
            searcher.search(min(CHUNK, rounds - searcher.rounds))
            self.solution.offer(searcher.best(self.found[0].name))
        self.searched = searcher.rounds

    def timed(self, seconds: float, bound: bool) -> None:
        """One worker against the clock: starts, bound, search."""
        end = self.started + seconds
        searcher = _Searcher(self.items, self.seed)
        self._starts(searcher)
        if bound:
            self._guide(searcher, self._bound(seconds, whole=False), "guided by the relaxation")
            left = min(end - time.monotonic(), BOUND_SHARE * seconds)
            if self.whole and left > 0.05 and not self._done():
                self._guide(searcher, self._bound(left, whole=True), "guided by the bound")
        self._search(searcher, self.found[0], end)
        self.searched = searcher.rounds

    def _search(
        self, searcher: _Searcher, start: _Start, end: float, task: Future[Bound] | None = None
    ) -> None:
        """Search until time is up, the gap is small enough, or a task is done."""
        searcher.load(start.hosts)
        best = start.cost
        while time.monotonic() < end and not self._done() and not (task is not None and task.done()):
            cost = searcher.search(CHUNK)
            if cost < best:
                best = cost
                self.solution.offer(searcher.best(start.name))

    def parallel(self, seconds: float, bound: bool) -> None:
        """Two workers: the solver beside a search, then two searches."""
        end = self.started + seconds
        first, second = _Searcher(self.items, self.seed), _Searcher(self.items, self.seed + 1)
        with ThreadPoolExecutor(1) as pool:
            if bound:
                relaxed = pool.submit(self._bound, seconds, whole=False)
                self._starts(first)
                self._guide(first, relaxed.result(), "guided by the relaxation")
                left = end - time.monotonic()
                if self.whole and left > 0.05 and not self._done():
                    task = pool.submit(self._bound, left, whole=True)
                    self._search(first, self.found[0], end, task)
                    self._keep(first.best(self.found[0].name), note=False)
                    self._guide(first, task.result(), "guided by the bound")
            else:
                self._starts(first)
            other = self.found[min(1, len(self.found) - 1)]
            beside = pool.submit(self._anneal, second, other, end)
            self._search(first, self.found[0], end)
            self.solution.offer(beside.result())
        self.searched = first.rounds + second.rounds

    def _anneal(self, searcher: _Searcher, start: _Start, end: float) -> _Start:
        """The second search: from another start, and at first it accepts small losses."""
        searcher.load(start.hosts)
        began = time.monotonic()
        while (now := time.monotonic()) < end and not self._done():
            spent = (now - began) / max(end - began, 1e-9)
            searcher.search(CHUNK, TEMPERATURE * 0.01**spent if spent < 0.8 else 0.0)
        return searcher.best(start.name)
