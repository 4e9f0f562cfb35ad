"""Simulated annealing over where VMs end, with at most as many away from home as may be moved.

A state is a place for every VM. A proposal moves a random VM to a random place that has room for its shape,
or sends one that is away home; with as many away as the limit allows, only these are moved. The objective is
looked at where VMs end, so that moves on the way may be in any order, see ``ordering``.

Three things make a good search of it (energies in units of a typical change of the objective):

- only VMs whose move can change the objective are drawn (for fragments: those that are no multiple of the
  size), and places from lists of those with room, kept up for every shape;
- each VM that is away costs a little, so that moves which gain nothing are taken back;
- fragments of equal sum are better when they are unequal: a node with much of a fragment is soon a whole one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I4, I8, U8
from virtgym.envs.checks import need, need_count, need_positive, need_share
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.splitmix import draw_below, draw_share
from virtgym.envs.rescheduling.game import fits, host_of, kept_apart, room_for, shift_vm, write_terms
from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.state import ReschedulingParams, ReschedulingState

from .base import Plan, ReschedulingPolicy
from .change import change_of
from .guide import BINS, STRETCHES, TRIES, Guide, features, load_guide
from .ordering import order_moves
from .reassigning import Reassigning

CHUNK, CHUNKS = 20_000, 100
"""Proposals between two looks at the clock, and chunks at least: in one the temperature stays the same."""

COLDER = 20.0
"""The first temperature over the last one."""


class Search(NamedTuple):
    """Working memory of a search in game 0; C candidates, L moves."""

    keys: U8  # (1,) random numbers
    candidates: I4  # (C,) VMs that are drawn
    home: I4  # (V,) places at the start
    away: I4  # (L + 1,) VMs that are not at home, in the first places
    away_at: I4  # (V,) where in away a VM is
    rest: I4  # (A,) free CPU that is no whole VM of the size
    vm_rest: I4  # (V,) CPU of a VM modulo the size
    places: I4  # (K, A) places with room for a shape, in the first places of its row
    place_at: I4  # (K, A) where in its row a place is, -1 = no room
    n_places: I4  # (K,)
    best_vm: I4  # (L + 1,) VMs away in the best state
    best_place: I4  # (L + 1,) and where
    n_away: I8  # (2,) VMs away now, and in the best state
    energy: F8  # (2,) objective over unit now, and of the best state, both against the start
    limit: int  # L
    fragments: int  # 1: only fragments count
    unit: float  # change of the objective that energies are counted in
    size: float  # size, or 0 where no fragment counts
    home_share: float
    away_cost: float
    uneven: float
    bins: I4  # (A,) fragment of a node in bins of the guide; of length 0 without one
    vm_odds: F8  # (K, bins * bins) of a VM to be drawn, by its shape and the fragments of its nodes
    place_odds: F8  # (K, bins * bins) of a place likewise
    watched: F8  # (2 K, 2 * bins * bins) proposals of VMs at home, odds of acceptance; by VM, place; or empty


@kernel
def _list_place(p: ReschedulingParams, s: ReschedulingState, w: Search, a: int) -> None:
    """Bring the lists up to date after what is free on a node has changed."""
    k = s.snapshot[0]
    for shape in range(p.n_classes):
        double = p.class_double[k, shape]
        place = a - a % 2 if double else a
        ok = room_for(p, s, 0, p.class_cpu[k, shape], p.class_mem[k, shape], double, place)
        at, n = w.place_at[shape, place], w.n_places[shape]
        if ok and at < 0:
            w.places[shape, n] = place
            w.place_at[shape, place] = n
            w.n_places[shape] = n + 1
        elif at >= 0 and not ok:
            last = w.places[shape, n - 1]
            w.places[shape, at] = last
            w.place_at[shape, last] = at
            w.place_at[shape, place] = -1
            w.n_places[shape] = n - 1


@kernel
def _list_all(p: ReschedulingParams, s: ReschedulingState, w: Search) -> None:
    for a in range(p.n_nodes):
        _list_place(p, s, w, a)
        w.rest[a] = s.free_cpu[0, a] % p.size
        if len(w.bins) > 0:
            w.bins[a] = BINS * np.int64(w.rest[a]) // p.size


@kernel
def _draw_by_odds(p: ReschedulingParams, s: ReschedulingState, w: Search, v: int) -> Any:
    """A VM, or with a VM given (v >= 0) a place for it, by the guide's odds."""
    k = s.snapshot[0]
    found = np.int32(-1)
    for _ in range(TRIES):
        if v < 0:
            found = w.candidates[draw_below(w.keys, 0, len(w.candidates))]
            shape, a, odds = p.vm_class[k, found], s.vm_node[0, found], w.vm_odds
        else:
            shape = p.vm_class[k, v]
            found = w.places[shape, draw_below(w.keys, 0, w.n_places[shape])]
            a, odds = found, w.place_odds
        other = w.bins[a ^ 1] if p.class_double[k, shape] else np.int32(0)
        if draw_share(w.keys, 0) < odds[shape, BINS * w.bins[a] + other]:
            break
    return found


@kernel
def _propose(p: ReschedulingParams, s: ReschedulingState, w: Search) -> Any:
    """A VM and a place where it may go, or -1."""
    k, n_away = s.snapshot[0], w.n_away[0]
    if n_away > 0 and draw_share(w.keys, 0) < w.home_share:
        v = w.away[draw_below(w.keys, 0, n_away)]
        a = w.home[v]
        if not fits(p, s, 0, v, a):
            return -1, -1
    else:
        v = w.away[draw_below(w.keys, 0, n_away)] if n_away >= w.limit else np.int32(-1)
        guided = len(w.bins) > 0
        if v < 0:
            v = (
                _draw_by_odds(p, s, w, -1)
                if guided
                else w.candidates[draw_below(w.keys, 0, len(w.candidates))]
            )
        shape = p.vm_class[k, v]
        n = w.n_places[shape]
        if n == 0:
            return -1, -1
        a = _draw_by_odds(p, s, w, v) if guided else w.places[shape, draw_below(w.keys, 0, n)]
        if a == s.vm_node[0, v]:
            return -1, -1
    if p.vm_group[k, v] >= 0 and kept_apart(p, s, 0, v, host_of(p, a)):
        return -1, -1
    return v, a


@kernel(inline="always")
def _less(rest: int, by: int, size: int) -> Any:
    """(rest - by) mod size."""
    return rest - by if rest >= by else rest - by + size


@kernel
def _fragment_change(p: ReschedulingParams, s: ReschedulingState, w: Search, v: int, a: int) -> Any:
    """Change of the sum of fragments, and of their squares over size, when a VM moves."""
    home, cpu = s.vm_node[0, v], w.vm_rest[v]
    size: Any = np.int32(p.size)
    change, square = np.int64(0), 0.0
    for i in range(1 + p.vm_double[s.snapshot[0], v]):
        source, target = w.rest[home + i], w.rest[a + i]
        left, got = _less(source, size - cpu, size), _less(target, cpu, size)
        change += left - source + got - target
        square += np.float64(left) * left - np.float64(source) * source
        square += np.float64(got) * got - np.float64(target) * target
    return change, square / size


@kernel
def _accept(p: ReschedulingParams, s: ReschedulingState, w: Search, v: int, a: int) -> None:
    """Move a VM, and bring everything up to date."""
    home, double = s.vm_node[0, v], p.vm_double[s.snapshot[0], v]
    if w.fragments > 0:
        k = s.snapshot[0]
        for i in range(1 + double):
            s.free_cpu[0, home + i] += p.vm_cpu[k, v]
            s.free_mem[0, home + i] += p.vm_mem[k, v]
            s.free_cpu[0, a + i] -= p.vm_cpu[k, v]
            s.free_mem[0, a + i] -= p.vm_mem[k, v]
        s.vm_node[0, v] = a
    else:
        shift_vm(p, s, 0, v, a)
        write_terms(p, s, 0)
    for i in range(1 + double):
        w.rest[home + i] = s.free_cpu[0, home + i] % p.size
        w.rest[a + i] = s.free_cpu[0, a + i] % p.size
        if len(w.bins) > 0:
            w.bins[home + i] = BINS * np.int64(w.rest[home + i]) // p.size
            w.bins[a + i] = BINS * np.int64(w.rest[a + i]) // p.size
        _list_place(p, s, w, home + i)
        _list_place(p, s, w, a + i)
    was, now, n = home != w.home[v], a != w.home[v], w.n_away[0]
    if now and not was:
        w.away[n] = v
        w.away_at[v] = n
        w.n_away[0] = n + 1
    elif was and not now:
        last = w.away[n - 1]
        w.away[w.away_at[v]] = last
        w.away_at[last] = w.away_at[v]
        w.n_away[0] = n - 1


@kernel
def _change(p: ReschedulingParams, s: ReschedulingState, w: Search, v: int, a: int) -> Any:
    """Change of the objective, and of the squares of fragments over their size, both over the unit."""
    square = 0.0
    if w.size > 0.0:
        change, square = _fragment_change(p, s, w, v, a)
        square /= w.size
        if w.fragments > 0:
            return change / w.size, square
    change_all = change_of(p, s, 0, v, a)
    if p.weights[4] > 0.0:  # where VMs end counts: a VM that is away has been moved once
        hours = p.weights[4] * p.vm_ms[s.snapshot[0], v] / 3.6e6
        change_all += hours * (np.int64(a != w.home[v]) - np.int64(s.vm_node[0, v] != w.home[v]) - 1)
    return change_all / w.unit, square


@kernel
def _watch(p: ReschedulingParams, s: ReschedulingState, w: Search, v: int, a: int, odds: float) -> None:
    """Count a proposal to move a VM from home, by what the guide knows of it."""
    shape = p.vm_class[s.snapshot[0], v]
    for i in range(2):
        at = s.vm_node[0, v] if i == 0 else a
        other = w.bins[at ^ 1] if p.class_double[s.snapshot[0], shape] else np.int32(0)
        kind = 2 * (BINS * w.bins[at] + other)
        w.watched[i * p.n_classes + shape, kind] += 1.0
        w.watched[i * p.n_classes + shape, kind + 1] += odds


@kernel
def anneal(p: ReschedulingParams, s: ReschedulingState, w: Search, n: int, temperature: float) -> None:
    """Make n proposals at a temperature, in units of energy."""
    for _ in range(n):
        v, a = _propose(p, s, w)
        if v < 0:
            continue
        change, square = _change(p, s, w, v, a)
        away = np.int64(a != w.home[v]) - np.int64(s.vm_node[0, v] != w.home[v])
        total = change - w.uneven * square + w.away_cost * away
        if len(w.watched) > 0 and s.vm_node[0, v] == w.home[v]:
            _watch(p, s, w, v, a, 1.0 if total <= 0.0 else np.exp(-total / temperature))
        if total > 0.0 and draw_share(w.keys, 0) >= np.exp(-total / temperature):
            continue
        _accept(p, s, w, v, a)
        w.energy[0] += change
        if w.energy[0] < w.energy[1] - 1e-9:
            w.energy[1] = w.energy[0]
            w.n_away[1] = w.n_away[0]
            for i in range(w.n_away[0]):
                w.best_vm[i] = w.away[i]
                w.best_place[i] = s.vm_node[0, w.away[i]]


@kernel
def _typical_change(p: ReschedulingParams, s: ReschedulingState, w: Search, n: int) -> Any:
    """Mean size of the changes of the objective, other than 0, among n proposals."""
    total, count = 0.0, 0
    for _ in range(n):
        v, a = _propose(p, s, w)
        if v >= 0:
            change = abs(_change(p, s, w, v, a)[0])
            total += change
            count += change > 1e-12
    return total / count if count > 0 else 1.0


@dataclass
class AnnealingPolicy(Reassigning, ReschedulingPolicy):
    """Simulated annealing.

    Attributes:
        iterations: Proposals, some 20,000 a millisecond.
        temperature: The first temperature; the last one is a 20th of it. As all energies, in units of a
            typical change of the objective (for fragments: one whole VM more, or less).
        home_share: Share of proposals that send a VM home.
        away_cost: Energy of each VM that is not at home.
        uneven: Weight of unequal fragments: energy of a node's fragment f is f - uneven * f**2.
        reheat_every: Proposals after which the search is heated again; 0 = never.
        reheat: Temperature that it then begins with, to cool down as before.
        guide: Folder of a guide (``virtgym train agent=proposer``), which says what VMs and places are drawn;
            None = all alike.
    """

    method: ClassVar[str] = "annealing"

    iterations: int = 10_000_000
    temperature: float = 0.25
    home_share: float = 0.3
    away_cost: float = 0.06
    uneven: float = 0.35
    reheat_every: int = 0
    reheat: float = 0.1
    guide: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need_positive("policy", temperature=self.temperature, reheat=self.reheat)
        need_count("policy", low=0, reheat_every=self.reheat_every)
        need_share("policy", home_share=self.home_share, uneven=self.uneven)
        self._guide: Guide | None = None if self.guide is None else load_guide(self.guide)
        need(0 <= self.away_cost < math.inf, f"policy.away_cost={self.away_cost}: must be 0 or more")

    def _memory(self, games: ReschedulingGames, rng: np.random.Generator, unit: float) -> Search:
        p, s = games.params, games.state
        limit = games.limit - int(s.moves[0])
        k = int(s.snapshot[0])
        counts = (p.weights > 0.0).tolist()
        fragments = counts[0] and not any(counts[1:]) and int(s.spare[0]) > 0
        movable = ~p.vm_fixed[k]
        if fragments:
            movable &= p.vm_cpu[k] % p.size != 0
        found = np.flatnonzero(movable).astype(np.int32)
        zeros, wide = np.zeros(limit + 1, np.int32), (p.n_classes, p.n_nodes)
        return Search(
            rng.integers(0, 2**64, 1, dtype=np.uint64), found, s.vm_node[0].copy(), zeros,
            np.zeros(p.n_vms, np.int32), np.zeros(p.n_nodes, np.int32),
            (p.vm_cpu[k] % p.size).astype(np.int32), np.zeros(wide, np.int32), np.full(wide, -1, np.int32),
            np.zeros(p.n_classes, np.int32), zeros.copy(), zeros.copy(), np.zeros(2, np.int64), np.zeros(2),
            limit, int(fragments), unit, float(p.size) if counts[0] else 0.0, self.home_share,
            self.away_cost, self.uneven if counts[0] else 0.0,
            *self._guidance(games, fragments),
        )  # fmt: skip

    def follow(self, guide: Guide) -> None:
        """Be led by a guide that is no folder."""
        self._guide = guide

    def _guidance(self, games: ReschedulingGames, fragments: bool) -> tuple[I4, F8, F8, F8]:
        """Room for the bins of nodes, for the guide's odds, and for what is counted of proposals."""
        nothing = np.zeros((0, 0))
        if self._guide is not None:
            alone = games.params.weights[0] > 0.0 and not games.params.weights[1:].any()
            need(
                bool(alone), f"policy.guide={self.guide}: guides searches whose objective is fragments alone"
            )
        if self._guide is None or not fragments:  # without free CPU there is nothing to guide
            return np.zeros(0, np.int32), nothing, nothing, nothing
        odds = np.ones((games.params.n_classes, BINS * BINS))
        return np.zeros(games.params.n_nodes, np.int32), odds, odds.copy(), nothing

    def _turn(self, games: ReschedulingGames, memory: Search, stretch: int) -> None:
        """Another stretch of the search begins: write its odds."""
        if self._guide is not None and len(memory.bins):
            inputs = features(games.params, int(games.state.snapshot[0]), (stretch + 0.5) / STRETCHES)
            memory.vm_odds[:], memory.place_odds[:] = self._guide.odds(inputs)

    def _begin(self, games: ReschedulingGames, rng: np.random.Generator) -> tuple[Search, Any]:
        """Working memory with the unit of energy found."""
        memory = self._memory(games, rng, 1.0)
        handle: Any = make_handle("annealing", memory)
        if not len(memory.candidates):
            return memory, handle
        _list_all(games.kernel_params, games.kernel_state, handle)
        if memory.fragments:
            p = games.params
            unit = float(p.weights[0]) * p.size / float(games.state.spare[0])
        else:
            unit = float(_typical_change(games.kernel_params, games.kernel_state, handle, 2000))
        memory = memory._replace(unit=unit)
        return memory, make_handle("annealing", memory)

    def plan_moves(self, games: ReschedulingGames, rng: np.random.Generator, deadline: float) -> Plan:
        """Anneal, then order the moves."""
        begun, clock, start = time.perf_counter(), time.process_time(), games.fork()
        memory, handle = self._begin(games, rng)
        objective = float(games.state.objective[0])
        curve, done, best = [(0.0, objective)], 0, 0.0
        span = max(0.97 * (deadline - begun), 1e-9)  # the rest is for putting the moves in order
        chunk = CHUNK if math.isfinite(span) else min(CHUNK, max(1, self.iterations // CHUNKS))
        stretch = -1
        while len(memory.candidates) and memory.limit > 0:
            passed = time.perf_counter() - begun
            share = passed / span if math.isfinite(span) else done / self.iterations
            if share >= 1.0:
                break
            n = chunk if math.isfinite(span) else min(chunk, self.iterations - done)
            hot = self.temperature if done < self.reheat_every or not self.reheat_every else self.reheat
            if self.reheat_every:
                share = done % self.reheat_every / self.reheat_every
            if stretch != (now := int(STRETCHES * share)):
                stretch = now
                self._turn(games, memory, stretch)
            anneal(
                games.kernel_params,
                games.kernel_state,
                handle,
                n,
                hot * (COLDER * hot / self.temperature) ** -share,
            )
            done += n
            if memory.energy[1] < best:
                best = float(memory.energy[1])
                curve.append((time.process_time() - clock, objective + best * memory.unit))
        target = memory.home.copy()
        n = int(memory.n_away[1])
        target[memory.best_vm[:n]] = memory.best_place[:n]
        moves, left = order_moves(start, target)
        return Plan(moves, tuple(curve), left)
