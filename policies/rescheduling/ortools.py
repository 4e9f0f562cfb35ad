"""Rescheduling with OR-Tools: large-neighbourhood search, and hosts in parts (POP)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.checks import need_choice, need_count
from virtgym.envs.rescheduling.games import ReschedulingGames

from ..solvers.snapshots.bound import bound_gain
from ..solvers.snapshots.exchanges import FOREVER, Exchange, exchange, exchangeable
from ..solvers.snapshots.migrations import Found, Question, answer
from .annealing import AnnealingPolicy
from .base import Plan, ReschedulingPolicy
from .destroy import Destroy, chosen_hosts, find_destroy
from .neighbourhoods import Neighbourhoods
from .ordering import order_moves
from .reassigning import Reassigning

PROPOSALS = 30_000
"""Proposals of the annealing before, for each neighbourhood."""
SHARE, SHARE_EXCHANGE = 0.3, 0.8
"""Share of the time for annealing, and at most for an exchange, before neighbourhoods."""
WORK, WORK_PART, WORK_ALL = 0.03, 0.1, 10.0
"""Deterministic seconds of CP-SAT for a neighbourhood, for a part, and for a snapshot as a whole."""
HOSTS = 8.0
"""Hosts of the first neighbourhood; then as many as can be solved in that time."""
EXCHANGED = 64
"""Hosts of the first neighbourhood that is an exchange, beside those at the ends of moves."""
AT_ONCE = 500
"""Hosts of a snapshot up to which ``exchange`` takes all at once; of twice as many it takes seconds."""
BEGINNINGS = ("exchange", "exchanges", "annealing", "home")
"""What neighbourhoods begin with."""
PART_HOSTS = 12
"""Hosts of a part that CP-SAT solves, at most."""
SMALL, SMALL_STEPS = 1000, 4000
"""Kinds of VMs times places up to which all of a snapshot is solved, and times moves for the game itself."""
LAST = 0.95
"""Share of the time after which the moves are put in order."""


class _Run:
    """One plan in the making: the time there is, and the best moves so far."""

    def __init__(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> None:
        self.start, self.rng = games.fork(), rng
        self.begun, self.deadline, self.clock = time.perf_counter(), deadline, time.process_time()
        self.objective = float(games.state.objective[0])
        self.moves: I8 = np.zeros((0, 2), np.int64)
        self.curve = [(0.0, self.objective)]
        self.unordered, self.failed = 0, 0
        self.bound: float | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the moves are to be put in order."""
        return self.begun + LAST * (self.deadline - self.begun) - time.perf_counter()

    def effort(self, work: float) -> dict[str, Any]:
        """What a call of the solver may take."""
        return {"work": work, "seconds": max(self.left_s, 1e-3), "seed": int(self.rng.integers(2**31))}

    def note(self, objective: float) -> None:
        """Note how good what is known is."""
        if objective < self.curve[-1][1] - 1e-12:
            self.curve.append((time.process_time() - self.clock, objective))

    def offer(self, moves: I8, unordered: int = 0) -> None:
        """Take moves if they end better than the best so far."""
        game = self.start.fork()
        game.play(moves)
        objective = float(game.state.objective[0])
        if objective < self.objective - 1e-12:
            self.objective, self.moves, self.unordered = objective, moves, unordered
            self.note(objective)

    def exchange(self, search: Neighbourhoods, hosts: I8, moves: int) -> Exchange | None:
        """Let VMs on hosts on which all are at home make the best exchange; None without an answer."""
        seconds = max(0.0, min(SHARE_EXCHANGE * self.left_s, FOREVER))
        found = exchange(self.start, search.kind, hosts, moves, seconds=seconds)
        if found is None:
            self.failed += 1
            return None
        target, gone = search.target, found.target != search.scene.home
        target[gone] = found.target[gone]
        search.take(target)
        self.note(search.objective)
        return found

    def exchange_again(self, search: Neighbourhoods, hosts: I8) -> bool:
        """Make the best exchange between hosts and those at the ends of moves; whether it gained."""
        before, was, freed = search.objective, search.target, np.union1d(hosts, search.scene.ends())
        search.take(search.scene.home)
        found = self.exchange(search, freed, search.scene.limit)
        if found is None or search.objective > before + 1e-12:
            search.take(was)
        if found is not None and len(freed) == len(search.scene.tried):
            self.bound_exchange(found, search)
        return search.settle(hosts, before, was)

    def bound_exchange(self, found: Exchange, search: Neighbourhoods) -> None:
        """No plan is better than this, where moves cost nothing and there was time to prove it."""
        p, s, prices = self.start.params, self.start.state, found.prices()
        if prices is None or self.left_s <= 0 or p.weights[4] > 0:
            return
        gained = round((s.fragment[0] - search.games.state.fragment[0]) / p.size)
        until = self.begun + LAST * (self.deadline - self.begun)
        most = bound_gain(self.start, *prices, search.scene.limit, gained, until)
        if np.isfinite(most):
            least = float(s.fragment[0]) - p.size * math.floor(most + 1e-6)
            self.bound = float(p.weights[0]) * max(0.0, least) / float(s.spare[0])

    @property
    def proven(self) -> bool:
        """Whether no plan is better."""
        return self.bound is not None and self.objective <= self.bound + 1e-9

    def offer_ends(self, search: Neighbourhoods) -> None:
        """Put moves to where a search ended in order, and take them if they are better."""
        self.failed, search.failed = self.failed + search.failed, 0
        self.offer(*order_moves(self.start.fork(), search.target))

    def plan(self) -> Plan:
        """The best plan."""
        said = {"solver_fallbacks": float(self.failed)}
        if self.bound is not None:
            said["plan_bound"] = self.bound
        return Plan(self.moves, tuple(self.curve), self.unordered, said)


@dataclass
class OrtoolsReschedulingPolicy(Reassigning, ReschedulingPolicy):
    """Large-neighbourhood search on CP-SAT; a small instance is solved with a bound.

    Attributes:
        iterations: Neighbourhoods, each also a part of the annealing before.
        destroy: Which hosts are freed next: a name of ``destroy.DESTROYS``, the dotted path of a function, or
            the folder of a learned operator (``virtgym train agent=destroyer``).
        begin: What neighbourhoods begin with: ``exchange``, the best exchange of VMs between all nodes
            (HiGHS) where only fragments count, else annealing; ``annealing``; ``home``, nothing moved.
            ``exchanges``: annealing, then the best exchange between the hosts that are freed and those at the
            ends of moves, again and again; where nothing is gained more are freed, at last all. So does
            ``exchange`` on more than ``AT_ONCE`` hosts.
    """

    kind: ClassVar[str] = "solver"
    method: ClassVar[str] = "neighbourhoods"

    iterations: int = 100
    destroy: str = "fragments"
    begin: str = "exchange"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need_choice("policy", "begin", self.begin, BEGINNINGS)
        self._destroy = find_destroy(self.destroy)

    def follow(self, destroy: Destroy) -> None:
        """Free what an operator says that is no name and no folder."""
        self._destroy = destroy

    def plan_moves(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Anneal, free hosts again and again, and put the moves in order."""
        run = _Run(games, rng, deadline)
        if games.limit <= int(games.state.moves[0]):
            return run.plan()
        small = Neighbourhoods(games.fork(), everything=True)
        if small.n_variables() <= SMALL:
            self._solve(run, small)
        else:
            self._search(run, Neighbourhoods(games.fork()))
        return run.plan()

    def _search(self, run: _Run, search: Neighbourhoods) -> None:
        most = float(len(search.scene.tried))
        done = self._begin(run, search)
        if run.bound is not None:
            run.offer_ends(search)
            if run.proven:
                return
        n_hosts = HOSTS
        while run.left_s > 0 and (done < self.iterations or math.isfinite(run.deadline)):
            hosts = chosen_hosts(self._destroy, search.scene, round(min(n_hosts, most)), run.rng)
            found = search.free(hosts, search.scene.moves_left, **run.effort(WORK))
            n_hosts = max(2.0, min(most, n_hosts * (1.1 if found and found.optimal else 0.9)))
            run.note(search.objective)
            done += 1
        run.offer_ends(search)

    def _begin(self, run: _Run, search: Neighbourhoods) -> int:
        """What the neighbourhoods are to make better; how many it took."""
        if self.begin == "home":
            return 0
        if self.begin.startswith("exchange") and exchangeable(run.start, search.kind):
            n_hosts = len(search.scene.tried)
            if self.begin == "exchanges" or n_hosts > AT_ONCE:
                return self._exchange_some(run, search)
            found = run.exchange(search, np.arange(n_hosts), search.scene.limit)
            if found is not None:
                run.bound_exchange(found, search)
                return 0
        self._anneal(run, search)
        return 0

    def _anneal(self, run: _Run, search: Neighbourhoods) -> None:
        """Let VMs end where annealing says."""
        first = AnnealingPolicy(iterations=PROPOSALS * self.iterations)
        annealed = first.plan_moves(run.start.fork(), run.rng, time.perf_counter() + SHARE * run.left_s)
        run.curve += annealed.curve[1:]
        run.offer(annealed.moves, annealed.unordered)
        ended = run.start.fork()
        ended.play(run.moves)
        search.take(ended.state.vm_node[0])

    def _exchange_some(self, run: _Run, search: Neighbourhoods) -> int:
        """Anneal, then exchanges between some hosts, until they are all; how many there were."""
        self._anneal(run, search)
        most, n_hosts, done = len(search.scene.tried), EXCHANGED, 0
        while run.left_s > 0 and (done < self.iterations or math.isfinite(run.deadline)):
            n_hosts = min(n_hosts, most)
            hosts = chosen_hosts(self._destroy, search.scene, n_hosts, run.rng)
            gained, done = run.exchange_again(search, hosts), done + 1
            if n_hosts == most:
                break
            n_hosts = n_hosts if gained else 2 * n_hosts
        return done

    def _solve(self, run: _Run, search: Neighbourhoods) -> None:
        """All of a small snapshot: where VMs end, and if there is no order for that the game move by move."""
        everything = np.arange(len(search.scene.tried))
        effort = WORK_ALL / 100 * self.iterations
        self._bound(run, search.free(everything, search.scene.moves_left, True, **run.effort(effort)))
        run.offer_ends(search)
        if run.proven:
            return
        annealed = AnnealingPolicy(iterations=PROPOSALS).plan_moves(run.start.fork(), run.rng, np.inf)
        run.offer(annealed.moves, annealed.unordered)
        scene = search.scene
        if search.n_variables() * scene.limit <= SMALL_STEPS:
            question = Question(run.start, scene.home, search.kind, everything, 0, scene.limit, True)
            found = answer(question, **run.effort(effort))
            run.failed += found is None
            self._bound(run, found)
            if found is not None:
                run.offer(found.moves)

    def _bound(self, run: _Run, found: Found | None) -> None:
        if found is not None and found.bound is not None:
            run.bound = found.bound if run.bound is None else max(run.bound, found.bound)


@dataclass
class PopPolicy(Reassigning, ReschedulingPolicy):
    """Partitioned: the hosts in random parts, each solved on its own with its share of the moves.

    Where only fragments count, parts are exchanges (HiGHS), and the best of several partitions is taken. Else
    CP-SAT solves parts, of a dozen hosts at most, from where those before have ended.

    Attributes:
        iterations: Parts that are solved: of one partition, then of others.
        parts: Parts of a partition, at least.
    """

    kind: ClassVar[str] = "solver"
    method: ClassVar[str] = "parts"

    iterations: int = 100
    parts: int = 8

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need_count("policy", parts=self.parts)

    def plan_moves(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Solve part after part, and put the moves in order."""
        run, search = _Run(games, rng, deadline), Neighbourhoods(games.fork())
        n_hosts, done, exchanges = games.params.n_hosts, 0, exchangeable(games, search.kind)
        n_parts = min(n_hosts, self.parts if exchanges else max(self.parts, -(-n_hosts // PART_HOSTS)))
        parts: list[I8] = []
        while run.left_s > 0 and (done < self.iterations or math.isfinite(deadline)):
            if not parts:
                parts = np.array_split(rng.permutation(n_hosts), n_parts)
                if exchanges and done:
                    run.offer_ends(search)
                    search.take(search.scene.home)
            # What a part leaves of its share goes to those after it.
            hosts, moves = np.sort(parts.pop()), search.scene.moves_left // (len(parts) + 1)
            if not exchanges or run.exchange(search, hosts, moves) is None:
                search.free(hosts, moves, **run.effort(WORK_PART))
            run.note(search.objective)
            done += 1
        run.offer_ends(search)
        return run.plan()
