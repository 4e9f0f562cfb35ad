"""All nodes of a snapshot at once, each with the few changes that can pay: one programme for all of it.

A change of a node is how many VMs of each kind come and leave, at most ``SINGLES`` of them; of a host with a
double VM that comes or leaves, that and at most ``BESIDE`` others on each of its nodes. Only changes that end
with one more whole VM of the size on the node, or take VMs in without one less, are columns. A node makes one
change at most, VMs of a kind come as often as they leave, and no more come than may move:

    maximise sum gain * x,    sum over changes of a node x <= 1,    sum coming * x <= moves
    sum (coming - leaving of kind k) * x = 0

Some two thousand columns joined by a row per kind and one for the moves: its relaxation is nearly whole, and
HiGHS ends within tenths of a second. What is best beyond such changes is not known to it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from virtgym.envs.arrays import B1, F8, I4, I8
from virtgym.envs.rescheduling.games import ReschedulingGames

from ..programme import Programme, Rows, row_prices, solve_programme

SINGLES, BESIDE = 3, 1
"""VMs of one node that a change moves at most, and beside a double VM."""
MOST_KINDS = 16
"""Kinds of VMs up to which there are few enough changes."""
FOREVER = 1e6
"""Seconds for a solver that ends by its nodes."""


class Exchange(NamedTuple):
    """The best exchange."""

    target: I4  # (V,) where VMs end
    programme: Programme
    kinds: I8  # (K,) shapes of VMs
    scale: F8  # (K + 1,) what the rows of the kinds, and of the moves, are divided by

    def prices(self) -> tuple[dict[int, float], float] | None:
        """What a VM of each shape is worth to a node, and what a move costs; None if the solver fails."""
        found = row_prices(self.programme)
        if found is None:
            return None
        own = (-found[-len(self.scale) :] / self.scale).tolist()
        return dict(zip(self.kinds.tolist(), own)), own[-1]


def exchangeable(games: ReschedulingGames, kind: I8) -> bool:
    """Whether exchanges are all that matters: only fragments, and moves, count, and VMs are of few kinds.

    Args:
        games: One game (number 0).
        kind: As of ``exchange``.
    """
    p, s = games.params, games.state
    others = p.weights[1:4].any() or p.weights[0] <= 0 or s.spare[0] <= 0
    return not others and len(np.unique(kind[_loose(games, kind)])) <= MOST_KINDS


def _loose(games: ReschedulingGames, kind: I8) -> B1:
    """VMs that may move, are in no anti-affinity group, and change fragments where they go, (V,)."""
    p = games.params
    return np.asarray((kind >= 0) & (kind < p.n_classes) & (p.vm_rest[int(games.state.snapshot[0])] > 0))


class _Changes(NamedTuple):
    """Columns: n changes, K kinds."""

    node: I8  # (n, 2) the nodes that they change, -1 = none
    delta: I8  # (n, 2, K) VMs that come to each, less those that leave; double VMs at the first node
    gain: I8  # (n,) whole VMs of the size


class _Nodes:
    """What is on the nodes and what is free, for the kinds of VMs that can change fragments."""

    def __init__(self, games: ReschedulingGames, kind: I8, hosts: I8) -> None:
        p, s = games.params, games.state
        k, n = int(s.snapshot[0]), p.per_host
        self.nodes = (hosts[:, None] * n + np.arange(n)).reshape(-1)
        loose = _loose(games, kind) & np.isin(s.vm_node[0] // n, hosts)
        self.size = p.size
        self.kinds = np.unique(kind[loose])
        self.cpu, self.mem = (x[k, self.kinds].astype(np.int64) for x in (p.class_cpu, p.class_mem))
        self.double = p.class_double[k, self.kinds]
        self.free_cpu, self.free_mem = s.free_cpu[0].astype(np.int64), s.free_mem[0].astype(np.int64)
        self.vms = [np.flatnonzero(loose & (kind == one)) for one in self.kinds.tolist()]
        self.where = s.vm_node[0]
        self.have = np.zeros((len(self.kinds), p.n_nodes), np.int64)
        for i, vms in enumerate(self.vms):
            np.add.at(self.have[i], self.where[vms], 1)

    def vectors(self, most: int) -> I8:
        """Every change of single VMs, at most so many, (n, K); the first is none."""
        signed = [(i, sign) for i in np.flatnonzero(~self.double).tolist() for sign in (-1, 1)]
        vectors = [np.zeros(len(self.kinds), np.int64)]
        for n in range(1, most + 1):
            for chosen in itertools.combinations_with_replacement(signed, n):
                vector = np.zeros(len(self.kinds), np.int64)
                for i, sign in chosen:
                    vector[i] += sign
                if np.abs(vector).sum() == n:  # none comes and leaves
                    vectors.append(vector)
        return np.array(vectors)

    def judge(self, vectors: I8, nodes: I8, cpu: int = 0, mem: int = 0) -> tuple[B1, I8]:
        """Whether changes are possible at nodes, and their gains, (n, nodes); ``cpu`` is taken besides."""
        left = self.free_cpu[nodes] - cpu - (vectors @ self.cpu)[:, None]
        possible = (left >= 0) & (self.free_mem[nodes] - mem >= (vectors @ self.mem)[:, None])
        for i in np.flatnonzero(~self.double).tolist():
            possible &= -vectors[:, i, None] <= self.have[i, nodes]
        return possible, left // self.size - self.free_cpu[nodes] // self.size

    def single(self) -> _Changes:
        """Changes of one node."""
        vectors, nodes = self.vectors(SINGLES)[1:], self.nodes
        possible, gain = self.judge(vectors, nodes)
        takes = np.asarray((vectors >= 0).all(axis=1))[:, None]
        c, a = np.nonzero(possible & ((gain > 0) | (takes & (gain == 0))))
        delta = np.stack([vectors[c], np.zeros_like(vectors[c])], axis=1)
        return _Changes(np.stack([nodes[a], np.full(len(a), -1)], axis=1), delta, gain[c, a])

    def double_ones(self, i: int, sign: int) -> _Changes:
        """Changes of hosts to which a double VM of a kind comes (sign 1), or from which one leaves (-1)."""
        need, vectors = (int(self.cpu[i]), int(self.mem[i])), self.vectors(BESIDE)
        first = self.nodes[::2]
        if sign < 0:
            first = first[self.have[i, first] > 0]
        (fits0, gain0), (fits1, gain1) = (
            self.judge(vectors, first + n, sign * need[0], sign * need[1]) for n in range(2)
        )
        gain = gain0[:, None] + gain1[None]
        takes = np.asarray((vectors >= 0).all(axis=1) & (sign > 0))
        keep = fits0[:, None] & fits1[None]
        keep &= (gain > 0) | ((takes[:, None] & takes[None])[:, :, None] & (gain == 0))
        x, y, h = np.nonzero(keep)
        delta = np.stack([vectors[x], vectors[y]], axis=1)
        delta[:, 0, i] += sign
        return _Changes(np.stack([first[h], first[h] + 1], axis=1), delta, gain[x, y, h])


def exchange(
    games: ReschedulingGames, kind: I8, hosts: I8, moves: int, *, seconds: float = FOREVER, nodes: int = 1000
) -> Exchange | None:
    """Where VMs on some hosts end at the least fragment rate, if every node changes by a few VMs at most.

    Args:
        games: One game (number 0), in which VMs are where they move from.
        kind: Kind of each VM, -1 = it stays, from ``n_classes`` on = it is in an anti-affinity group, (V,).
        hosts: The hosts, in ascending order.
        moves: How many VMs may move.
        seconds: Wall time, s.
        nodes: Nodes of the solver's tree.

    Returns:
        What it found, None if the solver found nothing.
    """
    on = _Nodes(games, kind, hosts)
    pairs = [(i, sign) for i in np.flatnonzero(on.double).tolist() for sign in (-1, 1)]
    parts = [on.single(), *(on.double_ones(*pair) for pair in pairs)]
    changes = _Changes(*(np.concatenate([part[j] for part in parts]) for j in range(3)))
    net = changes.delta.sum(axis=1)
    price = games.params.weights[4] * games.params.vm_ms[int(games.state.snapshot[0])] / 3.6e6
    each = np.array([price[vms[0]] for vms in on.vms], dtype=np.float64)
    worth = games.params.weights[0] * on.size / max(1.0, float(games.state.spare[0]))
    come = np.maximum(changes.delta, 0).sum(axis=1)
    cost = (come @ each) / worth - changes.gain
    rows = Rows()
    columns = rows.columns(len(cost), cost, 1.0)
    at = [(changes.node[:, j], changes.node[:, j] >= 0) for j in range(2)]
    rows.rows(len(on.free_cpu), 0.0, 1.0, *((node[there], columns[there], 1.0) for node, there in at))
    change, which = np.nonzero(net)
    rows.rows(net.shape[1], 0.0, 0.0, (which, columns[change], net[change, which]))
    rows.rows(1, 0.0, float(moves), (0, columns, come.sum(axis=1)))
    model = rows.programme()
    _, found, _ = solve_programme(model, np.ones(len(cost), np.bool_), seconds, nodes)
    if found is None:
        return None
    scale = np.maximum([*np.abs(net).max(axis=0, initial=0), come.sum(axis=1).max(initial=0)], 1)
    return Exchange(_ends(on, changes, found > 0.5), model, on.kinds, scale)


def _ends(on: _Nodes, changes: _Changes, chosen: B1) -> I4:
    """Where VMs end if some changes are made, (V,)."""
    target: I4 = on.where.copy()
    total = np.zeros_like(on.have)
    for j in range(2):
        used = chosen & (changes.node[:, j] >= 0)
        np.add.at(total.T, changes.node[used, j], changes.delta[used, j])
    for i, vms in enumerate(on.vms):
        places = np.repeat(np.arange(total.shape[1]), np.maximum(total[i], 0))
        leave = [vms[on.where[vms] == a][: -total[i, a]] for a in np.flatnonzero(total[i] < 0).tolist()]
        if leave:
            target[np.concatenate(leave)] = places
    return target
