"""An assignment of processes to machines, what it costs, and what one move or swap would change.

With U(m, r) the sum of requirements on a machine, C its capacity and A = C - U what is free, it costs

    sum_r load weight_r * sum_m max(0, U(m, r) - safety(m, r))
    + sum_b balance weight_b * sum_m max(0, target_b * A(m, r1_b) - A(m, r2_b))
    + process weight * sum of process move costs over processes that leave their home
    + service weight * largest number of such processes in a service
    + machine weight * sum_p machine move cost(home_p, machine_p)

All processes move at once: of a transient resource a process that has left its home still takes its share
there. A move costs O(R + B) to judge, and O(R + B) to make. All numbers are integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import I4, I8
from virtgym.envs.checks import need_memory
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.records import Place, Record

from .instance import Instance, ReassignmentProblem


class Costs(Record):
    """Terms of the objective."""

    number = np.int64

    load = Place("load above the safety capacities")
    balance = Place("resources free in other proportions than wanted")
    process_move = Place("processes that leave their homes")
    service_move = Place("the service of which most processes leave")
    machine_move = Place("from which machines to which")


class Score(Record):
    """Numbers that moves keep up to date."""

    number = np.int64

    objective = Place("what the assignment costs")
    most_moved = Place("most processes of a service that are away")


class Books(NamedTuple):
    """The assignment and what is kept up to date with it."""

    machine: I8  # (P,)
    usage: I8  # (M, R)
    free: I8  # (M, R) capacity less what is taken, by processes that have left as well if transient
    present: I4  # (S, M) processes of a service on a machine
    at_location: I4  # (S, L)
    spread: I4  # (S,) locations that have one of a service
    in_neighbourhood: I4  # (S, N)
    moved: I8  # (S,) processes away from home
    tally: I8  # (P + 1,) services that have so many processes away
    machine_cost: I8  # (M,) load and balance costs
    change: I8  # (R,) scratch: what a move adds to a machine
    score: Score
    costs: Costs  # terms when the books were opened


class State:
    """An assignment of an instance.

    Attributes:
        problem: The instance.
        books: What is known of it; the kernels of this file keep it up to date.
        handle: Handle to the books.
    """

    def __init__(self, problem: ReassignmentProblem, machine: I8 | None = None) -> None:
        """Take an assignment, (P,); None = every process at home."""
        p = problem
        m, r, s = p.n_machines, p.n_resources, p.n_services
        need_memory(f"{p.name}: {s} services on {m} machines", s, m, 4)
        self.problem = problem
        whole, small = np.int64, np.int32
        self.books = Books(
            machine=(p.arrays.home if machine is None else machine).astype(whole),
            usage=np.zeros((m, r), whole),
            free=np.zeros((m, r), whole),
            present=np.zeros((s, m), small),
            at_location=np.zeros((s, p.n_locations), small),
            spread=np.zeros(s, small),
            in_neighbourhood=np.zeros((s, p.n_neighbourhoods), small),
            moved=np.zeros(s, whole),
            tally=np.zeros(p.n_processes + 1, whole),
            machine_cost=np.zeros(m, whole),
            change=np.zeros(r, whole),
            score=Score.zeros(),
            costs=Costs.zeros(),
        )
        self.handle: Any = make_handle("reassignment books", self.books)
        self.assign(self.books.machine)

    @property
    def objective(self) -> int:
        """What the assignment costs."""
        return int(self.books.score.objective)

    def assign(self, machine: I8) -> None:
        """Take another assignment, (P,)."""
        self.books.machine[:] = machine
        open_books(self.problem.handle, self.handle)

    def costs(self) -> dict[str, int]:
        """Every term of the objective, computed anew."""
        open_books(self.problem.handle, self.handle)
        return {name: int(value) for name, value in zip(Costs.places, self.books.costs)}

    def violations(self) -> list[str]:
        """What the assignment breaks, in words."""
        a, w = self.problem.arrays, self.books
        found = [
            f"machine {m} lacks {-w.free[m, r]} of resource {r}" for m, r in np.argwhere(w.free < 0).tolist()
        ]
        found += [
            f"machine {m} holds {w.present[s, m]} processes of service {s}"
            for s, m in np.argwhere(w.present > 1).tolist()
        ]
        found += [
            f"service {s} is in {w.spread[s]} locations, needs {a.spread_min[s]}"
            for s in np.flatnonzero(w.spread < a.spread_min).tolist()
        ]
        owner = np.repeat(np.arange(self.problem.n_services), np.diff(a.need_first))
        alone = (w.in_neighbourhood[owner] > 0) & (w.in_neighbourhood[a.need] == 0)
        found += [
            f"service {owner[d]} is in neighbourhood {n} without service {a.need[d]}, on which it depends"
            for d, n in np.argwhere(alone).tolist()
        ]
        return found


@kernel
def open_books(a: Instance, w: Books) -> None:
    """Compute everything anew from the assignment.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
    """
    n_machines, n_resources = a.capacity.shape
    w.usage[:] = 0
    w.free[:] = a.capacity
    w.present[:] = 0
    w.at_location[:] = 0
    w.spread[:] = 0
    w.in_neighbourhood[:] = 0
    w.moved[:] = 0
    w.tally[:] = 0
    w.costs[:] = 0
    for i in range(a.service.shape[0]):
        s, m, home = a.service[i], w.machine[i], a.home[i]
        for r in range(n_resources):
            w.usage[m, r] += a.demand[i, r]
            w.free[m, r] -= a.demand[i, r]
            if m != home and a.transient[r] == 1:
                w.free[home, r] -= a.demand[i, r]
        w.present[s, m] += 1
        w.spread[s] += w.at_location[s, a.location[m]] == 0
        w.at_location[s, a.location[m]] += 1
        w.in_neighbourhood[s, a.neighbourhood[m]] += 1
        w.costs.machine_move += a.weights[2] * a.machine_move[home, m]
        if m != home:
            w.moved[s] += 1
            w.costs.process_move += a.weights[0] * a.process_move[i]
    most = 0
    for s in range(w.moved.shape[0]):
        w.tally[w.moved[s]] += 1
        most = max(most, w.moved[s])
    w.score.most_moved = most
    w.costs.service_move = a.weights[1] * most
    for m in range(n_machines):
        w.costs.load += _load_cost(a, w, m, 0)
        w.costs.balance += _balance_cost(a, w, m, 0)
        w.machine_cost[m] = _load_cost(a, w, m, 0) + _balance_cost(a, w, m, 0)
    w.score.objective = w.costs.sum()


@kernel(inline="always")
def _load_cost(a: Instance, w: Books, m: int, sign: int) -> Any:
    """Load cost of a machine whose usage grows by ``sign * w.change``."""
    cost = 0
    for r in range(w.change.shape[0]):
        over = w.usage[m, r] + sign * w.change[r] - a.safety[m, r]
        cost += a.load_weight[r] * max(over, 0)
    return cost


@kernel(inline="always")
def _balance_cost(a: Instance, w: Books, m: int, sign: int) -> Any:
    """Balance cost of a machine whose usage grows by ``sign * w.change``."""
    cost = 0
    for b in range(a.balance_have.shape[0]):
        r, q = a.balance_have[b], a.balance_want[b]
        have = a.capacity[m, r] - w.usage[m, r] - sign * w.change[r]
        want = a.capacity[m, q] - w.usage[m, q] - sign * w.change[q]
        cost += a.balance_weight[b] * max(a.balance_target[b] * have - want, 0)
    return cost


@kernel
def shift_fits(a: Instance, w: Books, i: int, dest: int) -> Any:
    """Whether a process may move to another machine, all else as it is.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        i: The process.
        dest: The machine, not its present one.
    """
    s, source = a.service[i], w.machine[i]
    if w.present[s, dest] > 0:
        return False
    back = a.home[i] == dest
    for r in range(w.change.shape[0]):
        if a.demand[i, r] > w.free[dest, r] and not (back and a.transient[r] == 1):
            return False
    return _spread_stays(a, w, s, source, dest) and _needs_stay(a, w, s, source, dest, -1)


@kernel
def _spread_stays(a: Instance, w: Books, s: int, source: int, dest: int) -> Any:
    """Whether a service keeps its least spread when one of its processes moves."""
    x, y = a.location[source], a.location[dest]
    if x == y or w.at_location[s, x] > 1 or w.at_location[s, y] == 0:
        return True
    return w.spread[s] > a.spread_min[s]


@kernel
def _needs_stay(a: Instance, w: Books, s: int, source: int, dest: int, other: int) -> Any:
    """Whether dependencies hold when a process of a service moves and one of ``other`` the other way."""
    x, y = a.neighbourhood[source], a.neighbourhood[dest]
    if x == y:
        return True
    for k in range(a.need_first[s], a.need_first[s + 1]):
        d = a.need[k]
        if d != s and w.in_neighbourhood[d, y] == (d == other):
            return False
    if w.in_neighbourhood[s, x] == 1:
        for k in range(a.needed_first[s], a.needed_first[s + 1]):
            d = a.needed[k]
            if d != s and (w.in_neighbourhood[d, x] > 0 or d == other):
                return False
    return True


@kernel
def swap_fits(a: Instance, w: Books, i: int, j: int) -> Any:
    """Whether two processes on different machines may change places, all else as it is."""
    s, t, x, y = a.service[i], a.service[j], w.machine[i], w.machine[j]
    if s != t and (w.present[s, y] > 0 or w.present[t, x] > 0):
        return False
    for r in range(w.change.shape[0]):
        p, q = a.demand[i, r], a.demand[j, r]
        if a.transient[r] == 1:  # what leaves its home frees nothing there, what comes home takes nothing
            into_y = (p if a.home[i] != y else 0) - (q if a.home[j] != y else 0)
            into_x = (q if a.home[j] != x else 0) - (p if a.home[i] != x else 0)
        else:
            into_y, into_x = p - q, q - p
        if into_y > w.free[y, r] or into_x > w.free[x, r]:
            return False
    if s == t:
        return True
    if not (_spread_stays(a, w, s, x, y) and _spread_stays(a, w, t, y, x)):
        return False
    return _needs_stay(a, w, s, x, y, t) and _needs_stay(a, w, t, y, x, s)


@kernel
def _moves_delta(a: Instance, i: int, source: int, dest: int) -> Any:
    """What process and machine move costs grow by when a process moves."""
    home = a.home[i]
    away = (dest != home) - (source != home)
    machines = a.machine_move[home, dest] - a.machine_move[home, source]
    return a.weights[0] * a.process_move[i] * away + a.weights[2] * machines


@kernel
def _away(a: Instance, i: int, source: int, dest: int) -> Any:
    return (dest != a.home[i]) - (source != a.home[i])


@kernel
def _most_moved(w: Books, s: int, more: int, t: int, more_t: int) -> Any:
    """Most processes of a service that are away, once two services (or one, s = t) have more away."""
    most = w.score.most_moved
    if s == t:
        more, more_t = more + more_t, 0
    here, there = w.moved[s] + more, w.moved[t] + more_t if s != t else 0
    left = w.tally[most] - (w.moved[s] == most) - (s != t and w.moved[t] == most)
    if left > 0:
        return max(most, here, there)
    # both of one service may come home: then another that has one less than the most may exceed it
    below = most - 1 if most > 0 and w.tally[most - 1] > 0 else 0
    return max(below, here, there)


@kernel
def shift_delta(a: Instance, w: Books, i: int, dest: int) -> Any:
    """By how much the objective grows when a process moves.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        i: The process.
        dest: The machine, not its present one.
    """
    source, s = w.machine[i], a.service[i]
    for r in range(w.change.shape[0]):
        w.change[r] = a.demand[i, r]
    delta = _moves_delta(a, i, source, dest) + _machines_delta(a, w, source, dest)
    more = _away(a, i, source, dest)
    if more != 0:
        delta += a.weights[1] * (_most_moved(w, s, more, s, 0) - w.score.most_moved)
    return delta


@kernel
def swap_delta(a: Instance, w: Books, i: int, j: int) -> Any:
    """By how much the objective grows when two processes on different machines change places."""
    x, y = w.machine[i], w.machine[j]
    for r in range(w.change.shape[0]):
        w.change[r] = a.demand[i, r] - a.demand[j, r]
    delta = _moves_delta(a, i, x, y) + _moves_delta(a, j, y, x) + _machines_delta(a, w, x, y)
    more, more_j = _away(a, i, x, y), _away(a, j, y, x)
    if more != 0 or more_j != 0:
        delta += a.weights[1] * (
            _most_moved(w, a.service[i], more, a.service[j], more_j) - w.score.most_moved
        )
    return delta


@kernel
def _machines_delta(a: Instance, w: Books, source: int, dest: int) -> Any:
    """By how much load and balance costs grow when ``w.change`` goes from one machine to another."""
    after = _load_cost(a, w, source, -1) + _balance_cost(a, w, source, -1)
    after += _load_cost(a, w, dest, 1) + _balance_cost(a, w, dest, 1)
    return after - w.machine_cost[source] - w.machine_cost[dest]


@kernel
def shift(a: Instance, w: Books, i: int, dest: int, delta: int) -> None:
    """Move a process, whatever that breaks.

    Args:
        a: Handle to ``Instance``.
        w: Handle to ``Books``.
        i: The process.
        dest: The machine, not its present one.
        delta: What ``shift_delta`` says.
    """
    _relocate(a, w, i, dest)
    w.score.objective += delta


@kernel
def swap(a: Instance, w: Books, i: int, j: int, delta: int) -> None:
    """Let two processes on different machines change places; ``delta`` is what ``swap_delta`` says."""
    x, y = w.machine[i], w.machine[j]
    _relocate(a, w, i, y)
    _relocate(a, w, j, x)
    w.score.objective += delta


@kernel
def _relocate(a: Instance, w: Books, i: int, dest: int) -> None:
    """Move a process in all books but the objective."""
    source, s, home = w.machine[i], a.service[i], a.home[i]
    for r in range(w.change.shape[0]):
        w.usage[source, r] -= a.demand[i, r]
        w.usage[dest, r] += a.demand[i, r]
        w.free[source, r] += 0 if a.transient[r] == 1 and home == source else a.demand[i, r]
        w.free[dest, r] -= 0 if a.transient[r] == 1 and home == dest else a.demand[i, r]
    for m in (source, dest):
        w.machine_cost[m] = _load_cost(a, w, m, 0) + _balance_cost(a, w, m, 0)
    w.machine[i] = dest
    w.present[s, source] -= 1
    w.present[s, dest] += 1
    x, y = a.location[source], a.location[dest]
    w.at_location[s, x] -= 1
    w.spread[s] -= w.at_location[s, x] == 0
    w.spread[s] += w.at_location[s, y] == 0
    w.at_location[s, y] += 1
    w.in_neighbourhood[s, a.neighbourhood[source]] -= 1
    w.in_neighbourhood[s, a.neighbourhood[dest]] += 1
    more = _away(a, i, source, dest)
    w.tally[w.moved[s]] -= 1
    w.moved[s] += more
    w.tally[w.moved[s]] += 1
    w.score.most_moved = max(w.score.most_moved, w.moved[s])
    while w.score.most_moved > 0 and w.tally[w.score.most_moved] == 0:
        w.score.most_moved -= 1
