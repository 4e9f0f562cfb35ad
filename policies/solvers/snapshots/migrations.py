"""Some hosts of a snapshot, and where the VMs on them go, at the least objective, by CP-SAT; all others stay.

VMs of one kind are alike: they take the same, and move for the same. So y[k, a] counts the VMs of kind k at
place a (a node, or for a double VM the first one of a host), and u[k, a] those that had to move to it:

    sum_a y[k, a] = VMs of the kind,    u[k, a] >= y[k, a] - h[k, a],    sum u <= moves
    sum_k y[k, a] * cpu[k] + size * q[a] <= CPU of a,    sum_k y[k, a] * memory[k] <= memory of a

h counts the kind's VMs that are at home at a, and q the whole VMs of the size that the rest of a holds: the
sum of fragments is what is free less size * sum q. What a host costs by its load is a table over its load.
VMs of an anti-affinity group are a kind each. The standard deviation of loads is replaced by its tangent in
the loads and their squares, which is never below it; if it is to be exact, H**2 times the variance is at
most r**2.

With *steps* there is a y for each move, one after the other, of which each must fit: that is the game itself.
All amounts of CPU are divided by the greatest unit that divides what VMs take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I4, I8
from virtgym.envs.rescheduling.game import LOAD_BITS
from virtgym.envs.rescheduling.games import ReschedulingGames

from ..calls import CALLS, attempt

SCALE_BITS = 40
"""Whole numbers of the objective, bits."""
LEVELS = 1024
"""Loads of a host that are told apart at most; if there are more, what is found is not proven the best."""


@dataclass(frozen=True, eq=False)
class Question:
    """Which VMs may go where.

    Attributes:
        games: One game (number 0), in which VMs are where they are now; it is not changed.
        home: Place of each VM from which it moves, (V,).
        kind: Kind of each VM, -1 = it stays where it is, (V,).
        hosts: The hosts that are freed, in ascending order, (h,).
        moves: How many VMs on these hosts may be away from home.
        steps: Moves one by one from where VMs are; 0 = only where they end.
        exact: Whether all hosts are freed, and a bound is wanted.
    """

    games: ReschedulingGames
    home: I4
    kind: I8
    hosts: I8
    moves: int
    steps: int = 0
    exact: bool = False


class Found(NamedTuple):
    """What CP-SAT says."""

    target: I4  # (V,) where VMs end
    moves: I8  # (n, 2) VM and place of each step
    optimal: bool  # nothing else is better
    bound: float | None  # the objective is no lower, if all hosts are freed and all amounts exact


def answer(question: Question, *, work: float, seconds: float = np.inf, seed: int = 0) -> Found | None:
    """Place the VMs on some hosts at the least objective.

    Args:
        question: Which VMs, and where.
        work: Deterministic seconds of CP-SAT.
        seconds: Wall time at most, s.
        seed: Seed of CP-SAT.

    Returns:
        What was found, None if the solver gave up.
    """
    found = attempt(lambda: _Model(question).solve(work, seconds, seed))
    if found is None:
        CALLS.note_failure()
    return found


class _Model:
    """One model: K kinds, A places, h hosts."""

    def __init__(self, question: Question) -> None:
        from ortools.sat.python import cp_model

        self.cp_model, self.linear = cp_model, cp_model.LinearExpr
        self.model = cp_model.CpModel()
        self.q = question
        self.p, self.s = question.games.params, question.games.state
        self.k = int(self.s.snapshot[0])
        self.whole = self.exact = question.exact
        n = self.p.per_host
        self.nodes = (question.hosts[:, None] * n + np.arange(n)).reshape(-1)
        self._count()
        self.terms: list[Any] = []
        self.costs: list[int] = []
        self.constant = 0.0
        w = self.p.weights
        hours = float(self.ms.max(initial=0)) * max(question.moves, question.steps) / 3.6e6
        self.scale = 2.0**SCALE_BITS / max(float(w[:4].sum() + w[4] * hours), 1e-9)
        self._add_places()
        self._add_fragments()
        self._add_hosts()
        self._add_moves()

    def _count(self) -> None:
        """Kinds of VMs that are freed, how many of them are where, and what room there is for them."""
        p, s, q, k = self.p, self.s, self.q, self.k
        at = np.full(p.n_nodes, -1)
        at[self.nodes] = np.arange(len(self.nodes))
        now, home = at[s.vm_node[0]], at[q.home]
        self.vms = np.flatnonzero((now >= 0) & (q.kind >= 0))
        kinds, self.row = np.unique(q.kind[self.vms], return_inverse=True)
        shape = (len(kinds), len(self.nodes))
        self.now, self.home = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        np.add.at(self.now, (self.row, now[self.vms]), 1)
        place = np.full(int(q.kind.max(initial=0)) + 1, -1)
        place[kinds] = np.arange(len(kinds))
        native = np.flatnonzero((home >= 0) & (q.kind >= 0))
        native = native[place[q.kind[native]] >= 0]
        np.add.at(self.home, (place[q.kind[native]], home[native]), 1)
        one = self.vms[np.unique(self.row, return_index=True)[1]]  # a VM of each kind
        self.one = one
        self.cpu, self.mem = p.vm_cpu[k, one].astype(np.int64), p.vm_mem[k, one].astype(np.int64)
        self.double, self.group, self.ms = p.vm_double[k, one], p.vm_group[k, one], p.vm_ms[k, one]
        self.n = self.now.sum(axis=1)
        taken = self.now + np.where(self.double[:, None], np.roll(self.now, 1, axis=1), 0)
        self.room_cpu = s.free_cpu[0, self.nodes] + self.cpu @ taken
        self.room_mem = s.free_mem[0, self.nodes] + self.mem @ taken
        parts = [*self.cpu.tolist(), *([p.size] if p.weights[0] > 0 else [])]
        self.unit = max(1, int(np.gcd.reduce(np.array(parts, np.int64))) if parts else 1)

    def _most(self) -> I8:
        """How many VMs of a kind a place can hold, (K, A)."""
        most = np.broadcast_to(self.n[:, None], self.now.shape).copy()
        for need, room in ((self.cpu, self.room_cpu), (self.mem, self.room_mem)):
            fits = np.where(need[:, None] > 0, room[None, :] // np.maximum(need[:, None], 1), self.n[:, None])
            if self.p.per_host == 2:
                both = np.minimum(fits[:, ::2], fits[:, 1::2]).repeat(2, axis=1)
                fits = np.where(self.double[:, None], both, fits)
            most = np.minimum(most, fits)
        most[np.ix_(self.double, np.arange(len(self.nodes)) % 2 == 1)] = 0
        grouped = np.flatnonzero(self.group >= 0)
        if len(grouped):
            p, where = self.p, self.s.vm_node[0] // self.p.per_host
            stays = np.ones(p.n_vms, bool)
            stays[self.vms] = False
            stays &= p.vm_group[self.k] >= 0
            for i in grouped.tolist():
                members = stays & (p.vm_group[self.k] == self.group[i])
                taken = np.isin(self.nodes // p.per_host, where[members])
                most[i, taken] = 0
        return np.asarray(most)

    def _add_places(self) -> None:
        """The counts y of every layer, that they fit, and the moves u between layers."""
        most, model = self._most(), self.model
        layers = max(1, self.q.steps)
        self.y: list[dict[tuple[int, int], Any]] = []
        self.up: list[tuple[Any, int]] = []
        before: Any = self.home if not self.q.steps else self.now
        keys = [(int(i), int(a)) for i, a in np.argwhere(most > 0)]
        for _ in range(layers):
            y = {(i, a): model.new_int_var(0, int(most[i, a]), "") for i, a in keys}
            for i in range(len(self.n)):
                model.add(sum(y[i, a] for a in np.flatnonzero(most[i] > 0).tolist()) == int(self.n[i]))
            ups = self._ups(y, before, most)
            limit = 1 if self.q.steps else self.q.moves
            if len(ups):
                model.add(self.linear.sum([var for var, _ in ups]) <= limit)
            self.up += ups
            self._add_apart(y)
            self.y.append(y)
            before = y
        self.load: list[list[tuple[Any, int]]] = []
        for a in range(len(self.nodes)):
            for y in self.y:
                self._add_room(y, a, y is self.y[-1])
        for key, var in self.y[-1].items() if not self.q.steps else ():
            model.add_hint(var, int(self.now[key]))

    def _ups(self, y: dict[tuple[int, int], Any], before: Any, most: I8) -> list[tuple[Any, int]]:
        """Variables of how many VMs have come to each place, and each one's kind."""
        found = []
        for (i, a), var in y.items():
            was = before[i, a]
            if isinstance(was, np.integer):
                was = int(was)
                if was >= most[i, a]:
                    continue
            if isinstance(was, int) and was == 0:
                found.append((var, i))
                continue
            up = self.model.new_int_var(0, int(most[i, a]), "")
            self.model.add(up >= var - was)
            if isinstance(was, int):
                self.model.add_hint(up, max(0, int(self.now[i, a]) - was))
            found.append((up, i))
        return found

    def _here(self, y: dict[tuple[int, int], Any], a: int) -> list[tuple[Any, int]]:
        """Variables of the VMs that take something of a node, and their kinds."""
        first = a - a % self.p.per_host
        found = []
        for i in range(len(self.n)):
            var = y.get((i, first if self.double[i] else a))
            if var is not None:
                found.append((var, i))
        return found

    def _add_room(self, y: dict[tuple[int, int], Any], a: int, last: bool) -> None:
        """What is taken of a node fits."""
        here = self._here(y, a)
        if last:
            self.load.append(here)
        for need, room, unit in ((self.cpu, self.room_cpu, self.unit), (self.mem, self.room_mem, 1)):
            wanted = [(var, int(need[i]) // unit) for var, i in here if need[i] > 0]
            if wanted:
                variables, amounts = map(list, zip(*wanted))
                self.model.add(self.linear.weighted_sum(variables, amounts) <= int(room[a]) // unit)

    def _add_apart(self, y: dict[tuple[int, int], Any]) -> None:
        """VMs of a group are on different hosts."""
        by: dict[tuple[int, int], list[Any]] = {}
        for (i, a), var in y.items():
            if self.group[i] >= 0:
                by.setdefault((int(self.group[i]), a // self.p.per_host), []).append(var)
        for variables in by.values():
            if len(variables) > 1:
                self.model.add(self.linear.sum(variables) <= 1)

    def _charge(self, term: Any, cost: float) -> None:
        amount = round(cost * self.scale)
        if amount:
            self.terms.append(term)
            self.costs.append(amount)

    def _used(self, here: list[tuple[Any, int]]) -> tuple[list[Any], list[int]]:
        wanted = [(var, int(self.cpu[i]) // self.unit) for var, i in here if self.cpu[i] > 0]
        return [var for var, _ in wanted], [amount for _, amount in wanted]

    def _add_fragments(self) -> None:
        p, spare = self.p, int(self.s.spare[0])
        if p.weights[0] <= 0 or spare <= 0:
            return
        self.constant += float(p.weights[0])
        size = p.size // self.unit
        for a, here in enumerate(self.load):
            room = int(self.room_cpu[a]) // self.unit
            if room < size:
                continue
            variables, amounts = self._used(here)
            most = room // size
            if not variables:
                self.constant -= float(p.weights[0]) * p.size * most / spare
                continue
            whole = self.model.new_int_var(0, most, "")
            self.model.add(self.linear.weighted_sum([*variables, whole], [*amounts, size]) <= room)
            self._charge(whole, -float(p.weights[0]) * p.size / spare)
            self.model.add_hint(whole, int(self.s.free_cpu[0, self.nodes[a]]) // p.size)

    def _add_hosts(self) -> None:
        """Hosts in use, and what they cost by their loads."""
        p, s, n = self.p, self.s, self.p.per_host
        _, hosts_used, imbalance, energy, _ = p.weights.tolist()
        if not (hosts_used or imbalance or energy):
            return
        self.loads: list[Any] = []
        self.squares: list[Any] = []
        others = np.bincount(s.vm_node[0, p.vm_class[self.k] >= 0] // n, minlength=p.n_hosts)
        np.subtract.at(others, s.vm_node[0, self.vms] // n, 1)
        for j, h in enumerate(self.q.hosts.tolist()):
            nodes = range(j * n, (j + 1) * n)
            here = [part for a in nodes for part in self.load[a] if a % n == 0 or not self.double[part[1]]]
            use: Any = 1
            if others[h] == 0:
                use = self.model.new_bool_var("")
                for var, i in here:
                    self.model.add(var <= int(self.n[i]) * use)
                if not here:
                    self.model.add(use == 0)
                self.model.add_hint(use, int(s.host_vms[0, h] > 0))
                self._charge(use, hosts_used / p.n_hosts)
            else:
                self.constant += hosts_used / p.n_hosts
            if imbalance or energy:
                self._add_load(h, [part for a in nodes for part in self.load[a]], list(nodes), use)
        if imbalance and self.whole:
            self._add_spread(imbalance)

    def _add_load(self, h: int, here: list[tuple[Any, int]], nodes: list[int], use: Any) -> None:
        """What a host costs by its load: a table of all loads that it can have."""
        p, s, k, n = self.p, self.s, self.k, self.p.per_host
        _, _, imbalance, energy, _ = p.weights.tolist()
        total = int(p.node_cpu[k, h * n : (h + 1) * n].sum())
        room = int(self.room_cpu[nodes].sum())
        variables, amounts = self._used(here)
        top = room // self.unit
        step = -(-(top + 1) // LEVELS)
        self.exact &= step == 1
        used = total - room + self.unit * step * np.arange(top // step + 1)
        level: Any = 0
        now = (room - int(s.free_cpu[0, self.nodes[nodes]].sum())) // self.unit // step
        if variables:
            level = self.model.new_int_var(0, top // step, "")
            sum_of = self.linear.weighted_sum(variables, amounts)
            if step == 1:
                self.model.add(level == sum_of)
            else:
                self.model.add(step * level <= sum_of)
                self.model.add(sum_of <= step * level + step - 1)
            self.model.add_hint(
                level, (room - int(s.free_cpu[0, self.nodes[nodes]].sum())) // self.unit // step
            )
        load = (used << LOAD_BITS) // total if total > 0 else np.zeros(len(used), np.int64)
        cost = np.zeros(len(used))
        if energy:
            peak = float(p.peak_w[k])
            watts = np.rint(1000.0 * _power(p.power_w[p.host_power[k, h]], load / (1 << LOAD_BITS))) / 1000.0
            cost += energy * watts / peak
            off = energy * float(watts[0]) / peak  # a host that is off has no load
            if isinstance(use, int):
                off = 0.0
            self._charge(use, off)
            self.constant -= off
        if imbalance and not self.whole:
            mean = float(s.load[0]) / p.n_hosts
            variance = max(float(s.load_sq[0]) / p.n_hosts - mean * mean, (1e-3 * (1 << LOAD_BITS)) ** 2)
            slope = imbalance / (2.0 * np.sqrt(variance) * (1 << LOAD_BITS) * p.n_hosts)
            cost += slope * (load.astype(np.float64) ** 2 - 2.0 * mean * load)
        self._look_up(level, now, np.rint(cost * self.scale).astype(np.int64))
        if imbalance and self.whole:
            shift = LOAD_BITS - self._load_bits()
            self.exact &= shift == 0
            self.loads.append(self._table(level, now, load >> shift))
            self.squares.append(self._table(level, now, (load >> shift) ** 2))

    def _load_bits(self) -> int:
        return min(LOAD_BITS, 29 - (self.p.n_hosts - 1).bit_length())

    def _table(self, level: Any, now: int, values: I8) -> Any:
        """A variable that is a value of a table; ``now``: the level at present."""
        if isinstance(level, int):
            return int(values[level])
        var = self.model.new_int_var(int(values.min()), int(values.max()), "")
        self.model.add_element(level, values.tolist(), var)
        self.model.add_hint(var, int(values[now]))
        return var

    def _look_up(self, level: Any, now: int, values: I8) -> None:
        """Charge what a table says."""
        if not values.any():
            return
        base = int(values.min())
        self.constant += base / self.scale
        self.terms.append(self._table(level, now, values - base))
        self.costs.append(1)

    def _add_spread(self, weight: float) -> None:
        """The standard deviation: r**2 is at least H times the sum of squares less the square of the sum."""
        bits, n = self._load_bits(), self.p.n_hosts
        most = n << bits
        total, root = self.model.new_int_var(0, most, ""), self.model.new_int_var(0, most, "")
        square, needed = (
            self.model.new_int_var(0, most * most, ""),
            self.model.new_int_var(0, most * most, ""),
        )
        self.model.add(total == sum(self.loads))
        self.model.add_multiplication_equality(square, [total, total])
        self.model.add_multiplication_equality(needed, [root, root])
        self.model.add(needed >= n * sum(self.squares) - square)
        self._charge(root, weight / (n << bits))

    def _add_moves(self) -> None:
        """The objective: what moves cost, and of equal answers the one with fewer moves."""
        p, s = self.p, self.s
        weight = float(p.weights[4]) / 3.6e6
        self.constant += weight * float(s.move_ms[0]) if self.whole else 0.0
        for var, i in self.up:
            self._charge(var, weight * float(self.ms[i]))
        self.gcd = max(1, int(np.gcd.reduce(np.array(self.costs, np.int64)))) if self.costs else 1
        self.tie = max(self.q.moves, self.q.steps) + 1
        costs = [cost // self.gcd * self.tie for cost in self.costs]
        variables = [*self.terms, *(var for var, _ in self.up)]
        self.model.minimize(self.linear.weighted_sum(variables, [*costs, *[1] * len(self.up)]))

    def solve(self, work: float, seconds: float, seed: int) -> Found | None:
        """The best answer that is found, None without one."""
        solver = self.cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers = 1
        if work < np.inf:
            parameters.max_deterministic_time = work
        if seconds < np.inf:
            parameters.max_time_in_seconds = max(seconds, 0.001)
        parameters.random_seed = seed % 2**31
        parameters.linearization_level = 2
        status = solver.solve(self.model)
        if status not in (self.cp_model.OPTIMAL, self.cp_model.FEASIBLE):
            return None
        counts = [np.zeros_like(self.now) for _ in self.y]
        for layer, y in zip(counts, self.y):
            for key, var in y.items():
                layer[key] = solver.value(var)
        optimal = status == self.cp_model.OPTIMAL
        bound = None
        if self.exact:
            lowest = solver.objective_value if optimal else solver.best_objective_bound
            least = -((self.tie - 1 - round(lowest)) // self.tie)
            bound = self.constant + self.gcd * least / self.scale
        target, moves = self._moves(counts)
        return Found(target, moves, optimal, bound)

    def _moves(self, counts: list[I8]) -> tuple[I4, I8]:
        """Which VMs go where, one after the other as far as the counts change."""
        target, moves = self.s.vm_node[0].copy(), []
        before = self.now
        for after in counts:
            step = []
            for i in range(len(self.n)):
                leave, come = np.maximum(before[i] - after[i], 0), np.maximum(after[i] - before[i], 0)
                places = iter(np.repeat(self.nodes, come).tolist())
                own = self.vms[self.row == i]
                for a in np.flatnonzero(leave).tolist():
                    there = own[target[own] == self.nodes[a]]
                    step += list(zip(there[: leave[a]].tolist(), places))
            for v, place in step:
                target[v] = place
            moves += step
            before = after
        return target, np.array(moves, np.int64).reshape(-1, 2)


def _power(table: F8, load: F8) -> F8:
    """``power_at`` for many loads."""
    last = len(table) - 1
    x = np.clip(load * last, 0.0, last)
    a = np.minimum(x.astype(np.int64), max(last - 1, 0))
    return np.asarray(table[a] + (table[np.minimum(a + 1, last)] - table[a]) * (x - a))
