"""Some processes on some machines, placed anew at the least cost by CP-SAT; all others stay.

x[i, m] says that process i goes to machine m. Of a machine the load above the safety capacity and what a
balance cost lacks are variables at least as large as their terms; of the service moves the greatest. A
process takes nothing of a transient resource at home, where it has it anyway:

    sum_i x[i, m] * demand[i, r] <= room[m, r]          over i (for r transient: whose home is not m)
    sum_m x[i, m] = 1,    sum_(i of s) x[i, m] <= 1
    sum_l y[s, l] >= spread that is missing,    y[s, l] <= sum over i of s, m in l of x[i, m]
    x[i, m] <= sum of x[j, n] over j of d, n near m     for every service d that i's depends on

With all processes and machines it is the whole problem: then the bound is one of the instance.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import B1, I8
from virtgym.envs.rescheduling.reassignment.state import State

from ..calls import CALLS, attempt


class Found(NamedTuple):
    """What CP-SAT says of a neighbourhood."""

    machine: I8  # (P,) the best assignment found
    optimal: bool  # whether no other of the neighbourhood is better
    bound: int  # none of them costs less


def place_anew(
    state: State, machines: I8, processes: I8, *, work: float, seconds: float = np.inf, seed: int = 0
) -> Found | None:
    """Place some processes at the least cost.

    Args:
        state: The assignment now; it is not changed.
        machines: Machines that they may go to, (K,); those where they are now among them.
        processes: The processes, (F,).
        work: Deterministic seconds of CP-SAT.
        seconds: Wall time at most, s.
        seed: Seed of CP-SAT.

    Returns:
        What was found, None if the solver gave up.
    """
    found = attempt(lambda: _Model(state, machines, processes).solve(work, seconds, seed))
    if found is None:
        CALLS.note_failure()
    return found


class _Model:
    """One model; F processes, K machines."""

    def __init__(self, state: State, machines: I8, processes: I8) -> None:
        from ortools.sat.python import cp_model

        self.cp_model = cp_model
        self.model = cp_model.CpModel()
        self.a, self.w = state.problem.arrays, state.books
        self.state, self.machines, self.processes = state, machines, processes
        self.place = {int(m): k for k, m in enumerate(machines)}
        self.now = np.array([self.place[int(m)] for m in self.w.machine[processes]], dtype=np.int64)
        self.demand = self.a.demand[processes]
        self.service = self.a.service[processes]
        # (F, K): whether a machine is a process's home
        self.home = self.a.home[processes][:, None] == machines[None, :]
        self.terms: list[Any] = []
        self.weights: list[int] = []
        self.fixed_cost = 0
        self._add_places()
        self._add_machines()
        self._add_services()
        self.model.minimize(self.cp_model.LinearExpr.weighted_sum(self.terms, self.weights) + self.fixed_cost)

    def _charge(self, term: Any, weight: int) -> None:
        if weight:
            self.terms.append(term)
            self.weights.append(int(weight))

    def _room(self) -> I8:
        """What the processes may take of every machine, (K, R)."""
        room = self.w.free[self.machines].copy()
        at_home = self.home[np.arange(len(self.now)), self.now]
        taken = np.where(self.a.transient[None, :] * at_home[:, None] == 1, 0, self.demand)
        np.add.at(room, self.now, taken)
        return room

    def _add_places(self) -> None:
        """The variables x, where a process can go at all, and what moving costs."""
        a, model = self.a, self.model
        self.room = self._room()
        takes = self.demand[:, None, :] * ~(self.home[:, :, None] & (a.transient == 1))
        fits = (takes <= self.room[None, :, :]).all(axis=2) & ~self._excluded()
        fits[np.arange(len(self.now)), self.now] = True
        self.takes = takes
        self.x: list[dict[int, Any]] = [
            {k: model.new_bool_var("") for k in np.flatnonzero(row).tolist()} for row in fits
        ]
        homes = a.home[self.processes]
        moves = a.weights[2] * a.machine_move[homes[:, None], self.machines[None, :]]
        moves = moves + np.where(self.home, 0, (a.weights[0] * a.process_move[self.processes])[:, None])
        for i, row in enumerate(self.x):
            model.add_exactly_one(row.values())
            for k, var in row.items():
                self._charge(var, moves[i, k])
                model.add_hint(var, k == self.now[i])
        rest = np.ones(len(a.service), dtype=bool)
        rest[self.processes] = False
        away = rest & (self.w.machine != a.home)
        self.fixed_cost += int(a.weights[0] * a.process_move[away].sum())
        self.fixed_cost += int(a.weights[2] * a.machine_move[a.home[rest], self.w.machine[rest]].sum())

    def _excluded(self) -> B1:
        """Machines that hold a process of the same service that stays, (F, K)."""
        present = self.w.present[self.service][:, self.machines]
        same = self.service[:, None] == self.service[None, :]
        here = np.zeros((len(self.now), len(self.machines)), dtype=np.int64)
        here[np.arange(len(self.now)), self.now] = 1
        return np.asarray(present - same @ here > 0)

    def _add_machines(self) -> None:
        """Capacities, and costs of load and balance."""
        a, w, linear = self.a, self.w, self.cp_model.LinearExpr
        usage = w.usage[self.machines].copy()
        np.subtract.at(usage, self.now, self.demand)
        others = np.ones(len(w.machine_cost), dtype=bool)
        others[self.machines] = False
        self.fixed_cost += int(w.machine_cost[others].sum())
        for k, m in enumerate(self.machines.tolist()):
            here = [i for i, row in enumerate(self.x) if k in row]
            variables = [self.x[i][k] for i in here]
            most = self.demand[here].sum(axis=0)
            for r in range(self.demand.shape[1]):
                takes = self.takes[here, k, r]
                if takes.sum() > self.room[k, r]:
                    self.model.add(linear.weighted_sum(variables, takes.tolist()) <= int(self.room[k, r]))
                over = int(usage[k, r] - a.safety[m, r])
                demand = self.demand[here, r].tolist()
                self._add_excess(variables, demand, over, int(a.load_weight[r]), int(over + most[r]))
            for b in range(len(a.balance_have)):
                r, q, target = int(a.balance_have[b]), int(a.balance_want[b]), int(a.balance_target[b])
                lack = target * int(a.capacity[m, r] - usage[k, r]) - int(a.capacity[m, q] - usage[k, q])
                change = (self.demand[here, q] - target * self.demand[here, r]).tolist()
                highest = lack + sum(max(c, 0) for c in change)
                self._add_excess(variables, change, lack, int(a.balance_weight[b]), highest)

    def _add_excess(self, variables: list[Any], change: list[int], now: int, weight: int, most: int) -> None:
        """Charge ``weight * max(0, now + change · variables)``, which is at most ``most``."""
        if weight == 0 or most <= 0:
            return
        total = self.cp_model.LinearExpr.weighted_sum(variables, change) + now
        if now + sum(min(c, 0) for c in change) >= 0:
            self._charge(total, weight)
            return
        excess = self.model.new_int_var(0, most, "")
        self.model.add(excess >= total)
        self._charge(excess, weight)

    def _add_services(self) -> None:
        """What holds of the processes of a service together."""
        a, w, model = self.a, self.w, self.model
        members: dict[int, list[int]] = defaultdict(list)
        for i, s in enumerate(self.service.tolist()):
            members[s].append(i)
        rest = w.moved.copy()
        rest[list(members)] = 0
        least = int(rest.max())
        most = model.new_int_var(least, int(max(w.score.most_moved, least) + len(self.processes)), "")
        self._charge(most, int(a.weights[1]))
        for s, group in members.items():
            if len(group) > 1:
                for k in range(len(self.machines)):
                    model.add_at_most_one([self.x[i][k] for i in group if k in self.x[i]])
            stays = int(w.moved[s]) - sum(not self.home[i, self.now[i]] for i in group)
            if stays + len(group) > least:
                away = [var for i in group for k, var in self.x[i].items() if not self.home[i, k]]
                model.add(most >= sum(away) + stays)
            self._add_spread(s, group)
        self._add_needs(members)

    def _parts(self, group: list[int], zone: I8) -> tuple[dict[int, list[Any]], dict[int, int]]:
        """Variables of a service's processes by zone, and how many of them are there now."""
        variables: dict[int, list[Any]] = defaultdict(list)
        now: dict[int, int] = defaultdict(int)
        for i in group:
            now[int(zone[self.machines[self.now[i]]])] += 1
            for k, var in self.x[i].items():
                variables[int(zone[self.machines[k]])].append(var)
        return variables, now

    def _add_spread(self, s: int, group: list[int]) -> None:
        variables, now = self._parts(group, self.a.location)
        fixed = self.w.at_location[s].copy()
        for place, count in now.items():
            fixed[place] -= count
        missing = int(self.a.spread_min[s]) - int((fixed > 0).sum())
        if missing <= 0:
            return
        there = []
        for place, inside in variables.items():
            if fixed[place] == 0:
                there.append(self.model.new_bool_var(""))
                self.model.add_bool_or([~there[-1], *inside])
        self.model.add(sum(there) >= missing)

    def _add_needs(self, members: dict[int, list[int]]) -> None:
        a, w = self.a, self.w
        zones = np.unique(a.neighbourhood[self.machines]).tolist()
        parts = {s: self._parts(group, a.neighbourhood) for s, group in members.items()}
        pairs = {(s, int(d)) for s in members for d in a.need[a.need_first[s] : a.need_first[s + 1]]}
        pairs |= {(int(s), d) for d in members for s in a.needed[a.needed_first[d] : a.needed_first[d + 1]]}
        nothing: tuple[dict[int, list[Any]], dict[int, int]] = {}, {}
        for s, d in sorted(pairs):
            (coming, now), (needed, needed_now) = parts.get(s, nothing), parts.get(d, nothing)
            for n in zones:
                if s == d or w.in_neighbourhood[d, n] > needed_now.get(n, 0):
                    continue
                options = needed.get(n, [])
                if w.in_neighbourhood[s, n] > now.get(n, 0):
                    self.model.add_bool_or(options)
                for var in coming.get(n, []):
                    self.model.add_bool_or([~var, *options])

    def solve(self, work: float, seconds: float, seed: int) -> Found | None:
        """The best placement that is found, None without one."""
        solver = self.cp_model.CpSolver()
        solver.parameters.num_workers = 1
        if work < np.inf:
            solver.parameters.max_deterministic_time = work
        if seconds < np.inf:
            solver.parameters.max_time_in_seconds = max(seconds, 0.001)
        solver.parameters.random_seed = seed % 2**31
        solver.parameters.linearization_level = 2
        status = solver.solve(self.model)
        if status not in (self.cp_model.OPTIMAL, self.cp_model.FEASIBLE):
            return None
        machine = self.w.machine.copy()
        for i, row in zip(self.processes.tolist(), self.x):
            k = next(k for k, var in row.items() if solver.boolean_value(var))
            machine[i] = self.machines[k]
        optimal = status == self.cp_model.OPTIMAL
        bound = round(solver.objective_value if optimal else solver.best_objective_bound)
        return Found(machine, optimal, bound)
