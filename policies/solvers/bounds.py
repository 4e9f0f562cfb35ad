"""Lower bounds for consolidation: a mixed-integer programme over kinds of hosts, solved with OR-Tools.

The assignment model (V x H binaries) cannot be solved at 1,000 x 800 and its relaxation is weak. Here hosts
that hold something keep a variable each, all others are counted by kind, and VMs that move are only told the
type of host that they move to:

    y_h          host h, which holds items now, stays on          e_l   empty hosts of kind l that are opened
    s_ih         item i stays on h, s_ih <= y_h                   m_it  item i moves to some host of type t
    n_t = sum y_h + sum e_l over hosts of type t, whole            E_t   power drawn by type t

    sum_h s_ih + sum_t m_it = 1                                   every item is somewhere
    L_t = sum cpu_i (s_ih + m_it) <= sum_h cap_h y_h + cap_t sum e_l      the same of memory
    E_t >= a_k n_t + b_k L_t                                      (a_k, b_k): lower hull of the power table

Sums over hosts do not see that items are whole. So every resource that is packed tightly adds *patterns*:
classes of item sizes (a size counts as the least of its class), and all maximal ways p to fill one host. With
x_kp hosts of kind k (same type, same residents by class) filled by p,

    sum_p x_kp = sum of y_h (or e_l) over the kind                one pattern per host that is on
    items of class c on type t  <=  sum_kp p_c x_kp               patterns make the room
    items of class c that stay on kind k  <=  sum_p min(p_c, residents_kc) x_kp

The last row is what makes it tight: whoever fills the gaps of a host as it is now moves fewer VMs and wastes
more room. (Patterns: Gilmore & Gomory, Oper. Res. 9, 1961; classes: the dual feasible functions of Fekete &
Schepers, Math. Program. 91, 2001, are their special cases.) Only n_t and y_h need to be whole.

A host over its limit counts twice: the load that it keeps is shrunk to its limit in L_t (``_shrunk``), but
less so in E_t (``_drawn``). ``consolidation_arrivals`` adds rows by which one large VM cannot fill many gaps.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import B1, F8, I8

from .arrivals import Held, Resource, count_arrivals, fill_gaps
from .classes import Classes, make_classes
from .items import Items
from .model import ConsolidationProblem, sums
from .programme import TOLERANCE, Programme, Rows, solve_counts, solve_programme

INF = np.inf

BRANCHES = 12
"""Relaxations that are solved to make numbers of hosts by type whole."""
COUNT_SHARE = 0.1
"""Share of the wall time after which no more of them are begun."""


def power_hull(energy: F8, most: float) -> list[tuple[float, float]]:
    """Lines under the lower convex hull of a table from load 0 to ``most``; beyond 1 it is flat.

    Args:
        energy: The table at equally spaced loads, (P,).
        most: Greatest load.

    Returns:
        Value at 0 and slope per unit of load of each line.
    """
    grid = np.linspace(0.0, 1.0, len(energy))
    x = np.append(grid[grid < most], most)
    w = np.interp(x, grid, energy)
    hull = [0]
    for i in range(1, len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (w[b] - w[a]) * (x[i] - x[a]) < (w[i] - w[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    lines = []
    for a, b in itertools.pairwise(hull):
        slope = float((w[b] - w[a]) / (x[b] - x[a]))
        lines.append((float(w[a] - slope * x[a]), slope))
    return lines or [(float(w[0]), 0.0)]


def least_slope(energy: F8, low: float, high: float) -> float:
    """The least slope from a table's point at load ``low`` to any point up to ``high``, per unit of load.

    Args:
        energy: The table at equally spaced loads 0...1, (P,); beyond 1 it is flat.
        low: Where the lines begin.
        high: Greatest load, above ``low``.
    """
    grid = np.linspace(0.0, 1.0, len(energy))
    x = np.append(grid[(grid > low) & (grid < high)], high)
    rise = np.interp(x, grid, energy) - np.interp(low, grid, energy)
    return float((rise / (x - low)).min())


class BoundModel(NamedTuple):
    """The programme of a bound and where its parts are."""

    programme: Programme
    whole: B1  # columns that must be whole
    keep_host: I8  # hosts of the columns y
    keep: I8  # columns y
    stay_item: I8  # items of the columns s
    stay_host: I8  # and their hosts
    stay: I8  # columns s
    number: I8  # columns n


class Bound(NamedTuple):
    """What is proven, and what the relaxed plan looks like."""

    value_j: float  # no plan costs less, J; -inf if nothing is known
    exact: bool  # whether the programme was solved to its end
    kept: F8  # (H,) y_h, 1 = stays on; NaN without a solution
    stays: F8  # (I,) share of each item that stays; NaN without a solution


class _Builder:
    """Builds the programme, one family of rows at a time."""

    def __init__(self, problem: ConsolidationProblem, items: Items) -> None:
        self.p, self.items, self.rows = problem, items, Rows()
        n_items = len(items.cpu)
        usable = items.allowed.max(axis=0) > 0
        kinds = np.column_stack([items.table, items.host_cpu, np.nan_to_num(items.host_mem, posinf=-1.0)])
        self.type_of = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)
        self.n_types = int(self.type_of.max()) + 1
        # Columns s: an item and a host that holds it (or some of it) now, if it may stay.
        item = np.repeat(np.arange(n_items), np.diff(items.saved_first))
        ok = items.allowed[items.row[item], items.saved_host] > 0
        self.stay_item, self.stay_host = item[ok], items.saved_host[ok]
        self.held = np.zeros(len(usable), dtype=np.bool_)
        self.held[self.stay_host] = True
        self.keep_host = np.flatnonzero(self.held).astype(np.int64)
        self.empty = np.flatnonzero(usable & ~self.held)
        self._add_columns(items.saved_j[ok])

    def _add_columns(self, saved: F8) -> None:
        rows, items = self.rows, self.items
        self.keep = rows.columns(len(self.keep_host), items.switch_j[self.keep_host], 1.0)
        self.column_of_host = np.full(len(self.held), -1, dtype=np.int64)
        self.column_of_host[self.keep_host] = self.keep
        kinds, which = np.unique(items.like[self.empty], return_inverse=True)
        self.open_host = np.array(
            [self.empty[np.flatnonzero(which == k)[0]] for k in range(len(kinds))], dtype=np.int64
        )
        self.open = rows.columns(
            len(kinds), items.switch_j[self.open_host], np.bincount(which, minlength=len(kinds))
        )
        self.stay = rows.columns(len(self.stay_item), items.move_j[self.stay_item] - saved, 1.0)
        moves = []
        for t in range(self.n_types):
            hosts = np.flatnonzero(self.type_of == t)
            reach = (items.allowed[:, hosts].max(axis=1) > 0)[items.row]
            fits = (items.cpu <= items.cap_cpu[hosts].max()) & (items.mem <= items.cap_mem[hosts].max())
            moves.append(np.flatnonzero(reach & fits))
        self.move_item = np.concatenate(moves).astype(np.int64)
        self.move_type = np.repeat(np.arange(self.n_types), [len(m) for m in moves])
        self.move = rows.columns(len(self.move_item), items.move_j[self.move_item], 1.0)
        self.number = rows.columns(self.n_types)
        # In idle hosts, not J: solvers want numbers near 1.
        self.unit = max(float(items.numbers.idle), 1e-9)
        self.energy = rows.columns(self.n_types, self.unit)

    def place(self) -> None:
        """Every item is somewhere, and stays only on hosts that stay on."""
        rows, n_items = self.rows, len(self.items.cpu)
        rows.rows(n_items, 1.0, 1.0, (self.stay_item, self.stay, 1.0), (self.move_item, self.move, 1.0))
        at = np.arange(len(self.stay))
        rows.rows(len(at), -INF, 0.0, (at, self.stay, 1.0), (at, self.column_of_host[self.stay_host], -1.0))
        first, group = self.items.anti_first, self.items.anti_group
        for g in range(int(self.items.n_anti[0])):
            members = np.repeat(np.arange(n_items), np.diff(first))[group == g]
            inside = np.isin(self.stay_item, members)
            if inside.any():
                hosts, which = np.unique(self.stay_host[inside], return_inverse=True)
                keep = self.column_of_host[hosts]
                terms = (which, self.stay[inside], 1.0), (np.arange(len(hosts)), keep, -1.0)
                rows.rows(len(hosts), -INF, 0.0, *terms)
            rows.rows(1, float(len(members)), INF, (0, self.number, 1.0))

    def count(self) -> None:
        """Numbers of hosts, and their room in total."""
        rows, items = self.rows, self.items
        terms = [(self.type_of[self.keep_host], self.keep), (self.type_of[self.open_host], self.open)]
        number = (np.arange(self.n_types), self.number, -1.0)
        rows.rows(self.n_types, 0.0, 0.0, *[(at, c, 1.0) for at, c in terms], number)
        stay, move = (self.type_of[self.stay_host], self.stay), (self.move_type, self.move)
        for size, cap, keep in (
            (items.cpu, items.cap_cpu, items.keep_cpu),
            (items.mem, items.cap_mem, items.keep_mem),
        ):
            if not np.isfinite(cap).all():
                continue
            rows.rows(
                self.n_types, -INF, 0.0,
                (*stay, self._shrunk(size, cap, keep)), (*move, size[self.move_item]),
                (*terms[0], -cap[self.keep_host]), (*terms[1], -cap[self.open_host]),
            )  # fmt: skip

    def draw(self) -> None:
        """What the hosts of each type draw at least, by the lines under their power table."""
        rows, items = self.rows, self.items
        falls = bool((np.diff(items.energy_j, axis=1) < 0.0).any())
        for t in range(self.n_types):
            hosts = np.flatnonzero(self.type_of == t)
            room = items.keep_cpu.max(initial=0.0) if falls else items.cap_cpu[hosts[0]]
            inside = self.type_of[self.stay_host] == t
            of_type = self.move_type == t
            host_cpu = items.host_cpu[hosts[0]]
            for base, slope in power_hull(items.energy_j[items.table[hosts[0]]], float(room / host_cpu)):
                b = slope / host_cpu
                stays = b * items.cpu[self.stay_item[inside]]
                if not falls:
                    stays = stays * self._drawn(t, b)[self.stay_host[inside]]
                rows.rows(
                    1, 0.0, INF, (0, self.energy[[t]], self.unit), (0, self.number[[t]], -base),
                    (0, self.stay[inside], -stays),
                    (0, self.move[of_type], -b * items.cpu[self.move_item[of_type]]),
                )  # fmt: skip

    def _drawn(self, t: int, b: float) -> F8:
        """What counts of the slope b of a line for loads that stay, (H,): 1 but on hosts over their limit.

        The line holds up to the limit. Above it a host draws at least s J more per MHz, so that at a load x
        it draws at least b min(x, cap) + s (x - cap)+ more than idle. For s < b that is concave, thus above
        its chord from 0 to what the host holds now.
        """
        items = self.items
        factor = np.ones(len(self.held))
        for h in np.flatnonzero((self.type_of == t) & (items.keep_cpu > items.cap_cpu)).tolist():
            if b <= 0.0:
                break
            cap, now = float(items.cap_cpu[h]), float(items.keep_cpu[h])
            s = least_slope(items.energy_j[items.table[h]], cap / items.host_cpu[h], now / items.host_cpu[h])
            factor[h] = min(1.0, (b * cap + s / items.host_cpu[h] * (now - cap)) / (b * now))
        return factor

    def _shrunk(self, size: F8, cap: F8, keep: F8) -> F8:
        """Sizes of items that stay, (columns s,); shrunk on a host over its limit until they fill it exactly.

        Such a host holds more than its limit only while nothing comes, so what may come is at most
        (cap - held)+, and that is at most cap - held * cap / now for 0 <= held <= now.
        """
        now = np.minimum(1.0, cap / np.maximum(keep, 1e-12))[self.stay_host]
        return np.asarray(size[self.stay_item] * now)

    def arrive(self) -> None:
        """Who receives, receives a VM of its own (``consolidation_arrivals``)."""
        items = self.items
        at = np.searchsorted(self.keep_host, self.stay_host)
        held = Held(
            self.type_of[self.keep_host], self.keep, self.stay, at, self.stay_item,
            items.home[self.stay_item] == self.stay_host, self.move, self.move_item, self.move_type,
            self.open, self.type_of[self.open_host],
        )  # fmt: skip
        if len(self.keep_host) == 0:
            return
        receives = count_arrivals(self.rows, held, self.n_types)
        for size, cap in ((items.cpu, items.cap_cpu), (items.mem, items.cap_mem)):
            if np.isfinite(cap).all():
                resource = Resource(size, cap[self.keep_host], cap[self.open_host])
                fill_gaps(self.rows, held, resource, receives, self.n_types)

    def reserve(self) -> None:
        """Hosts that must be on, in number, CPU and memory."""
        p, items = self.p, self.items
        needed = [(float(p.min_hosts), np.ones(self.n_types))]
        sample = np.array([np.flatnonzero(self.type_of == t)[0] for t in range(self.n_types)])
        need_cpu, need_mem = p.needed
        cpu, mem = float(items.cpu.sum()), float(items.mem.sum())
        usable = items.allowed.max(axis=0) > 0
        if p.failover_hosts and usable.any():
            # The k largest of the hosts that are on are at least as large as the k smallest there are.
            k = p.failover_hosts
            need_cpu = max(need_cpu, cpu + float(np.sort(items.host_cpu[usable])[:k].sum()))
            need_mem = max(need_mem, mem + float(np.sort(items.host_mem[usable])[:k].sum()))
        needed.append((need_cpu, items.host_cpu[sample]))
        if np.isfinite(items.host_mem).all():
            needed.append((need_mem, items.host_mem[sample]))
        for total, each in needed:
            if total > 0.0:
                self.rows.rows(1, total, INF, (0, self.number, each))

    def fill(self, size: F8, cap: F8, classes: Classes) -> None:
        """Patterns of one resource, type by type.

        Args:
            size: Of each item, (I,).
            cap: Of each host, (H,).
            classes: Classes of sizes.
        """
        for t in range(self.n_types):
            hosts = np.flatnonzero(self.type_of == t)
            self._fill_type(t, classes, classes.patterns(float(cap[hosts[0]])), size, float(cap[hosts[0]]))

    def _fill_type(self, t: int, classes: Classes, patterns: I8, size: F8, cap: float) -> None:
        rows, n = self.rows, len(classes.size)
        room: list[tuple[I8, I8]] = []
        opened = self.open[self.type_of[self.open_host] == t]
        if len(opened):
            x = rows.columns(len(patterns))
            rows.rows(1, 0.0, 0.0, (0, x, 1.0), (0, opened, -1.0))
            room.append((x, patterns))
        of_type = np.flatnonzero(self.type_of[self.stay_host] == t)
        class_of = classes.of[self.stay_item[of_type]]
        held = np.zeros((len(self.held), n + 1), dtype=np.int64)  # last column: of no class
        np.add.at(held, (self.stay_host[of_type], class_of), 1)
        used = sums(self.stay_host[of_type], size[self.stay_item[of_type]], len(held))
        keep = self.keep_host[self.type_of[self.keep_host] == t]
        over = used[keep] > cap
        table = np.column_stack([held[keep, :n], over])
        kinds, which = np.unique(table, axis=0, return_inverse=True)
        which = which.reshape(-1)
        kind_of_host = np.full(len(self.held), -1, dtype=np.int64)
        kind_of_host[keep] = which
        for k, kind in enumerate(kinds):
            # A host that is too full now may stay as it is: that is one more pattern.
            ways = np.vstack([patterns, kind[None, :n]]) if kind[n] else patterns
            ways = np.unique(ways, axis=0)
            x = rows.columns(len(ways))
            room.append((x, ways))
            kept = self.column_of_host[keep[which == k]]
            rows.rows(1, 0.0, 0.0, (0, x, 1.0), (0, kept, -1.0))
            inside = (kind_of_host[self.stay_host[of_type]] == k) & (class_of < n)
            stay, c = self.stay[of_type[inside]], class_of[inside]
            most = np.minimum(ways, kind[None, :n])
            at = np.broadcast_to(np.arange(n), most.shape)
            rows.rows(n, -INF, 0.0, (c, stay, 1.0), (at, np.broadcast_to(x[:, None], most.shape), -most))
        move = np.flatnonzero((self.move_type == t) & (classes.of[self.move_item] < n))
        inside = class_of < n
        terms: list[tuple[Any, I8, Any]] = [
            (class_of[inside], self.stay[of_type[inside]], 1.0),
            (classes.of[self.move_item[move]], self.move[move], 1.0),
        ]
        for x, ways in room:
            at = np.broadcast_to(np.arange(n), ways.shape)
            terms.append((at, np.broadcast_to(x[:, None], ways.shape), -ways))
        rows.rows(n, -INF, 0.0, *terms)

    def done(self) -> BoundModel:
        """The programme."""
        rows = self.rows
        whole = np.zeros(rows.n_columns, dtype=np.bool_)
        whole[self.number] = whole[self.keep] = whole[self.open] = True
        return BoundModel(
            rows.programme(),
            whole,
            self.keep_host,
            self.keep,
            self.stay_item,
            self.stay_host,
            self.stay,
            self.number,
        )


def build_bound(
    problem: ConsolidationProblem, items: Items, *, patterns: bool = True, arrivals: bool = True
) -> BoundModel:
    """Build the programme of the module's text.

    Args:
        problem: The instance.
        items: The same, flattened.
        patterns: Whether to add patterns where a resource is packed tightly; False = sums alone.
        arrivals: Whether to add that a host that receives, receives a VM of its own.
    """
    builder = _Builder(problem, items)
    builder.place()
    builder.count()
    builder.draw()
    builder.reserve()
    if arrivals:
        builder.arrive()
    if patterns:
        for size, cap in ((items.mem, items.cap_mem), (items.cpu, items.cap_cpu)):
            caps = np.unique(cap[items.allowed.max(axis=0) > 0])
            classes = make_classes(size, caps)
            if classes is not None:
                builder.fill(size, cap, classes)
    return builder.done()


def solve_bound(
    model: BoundModel, items: Items, seconds: float, *, whole: bool = True, nodes: int | None = None
) -> Bound:
    """Solve the programme: its relaxation with whole n_t (GLOP), or, if asked, itself with HiGHS.

    Args:
        model: The programme.
        items: The instance.
        seconds: Wall time; what is proven by then counts.
        whole: Whether y and e are whole too; False = n_t alone, in a few branches of the relaxation.
        nodes: Most nodes of the search tree: the same result on every machine if time does not run out first.

    Returns:
        The bound; ``value_j`` is ``-inf`` if the relaxation was not solved or has no solution.
    """
    start = time.monotonic()
    n_hosts, n_items = len(items.cap_cpu), len(items.cpu)
    unknown = Bound(-INF, False, np.full(n_hosts, np.nan), np.full(n_items, np.nan))
    if n_items == 0:
        return Bound(0.0, True, np.zeros(n_hosts), np.zeros(0))
    optimal = True
    share, most = (0.0, 0) if whole else (COUNT_SHARE, BRANCHES)
    value, x = solve_counts(model.programme, model.number, share * seconds, most, seconds)
    if x is None:
        value, x, optimal = solve_programme(model.programme, model.whole & False, seconds)
        if x is None or not optimal:
            return unknown
    left = seconds - (time.monotonic() - start)
    if whole and left > 0.0:
        proven, found, optimal = solve_programme(model.programme, model.whole, left, nodes)
        value = max(value, proven) if np.isfinite(proven) else value
        x = x if found is None else found
    kept = np.zeros(n_hosts)
    kept[model.keep_host] = x[model.keep]
    stays = sums(model.stay_item, x[model.stay], n_items)
    # Solvers prove to within a tolerance: what they may be off by is taken off.
    return Bound(value - 2.0 * TOLERANCE * abs(value), optimal, kept, stays)
