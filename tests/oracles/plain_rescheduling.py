"""A rescheduling game checked from nothing but its snapshot and where its VMs are, in plain Python.

It shares no code with the kernels: capacity, anti-affinity, pinned VMs, every term of the objective, and
which actions are legal are worked out anew, VM by VM and node by node.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from virtgym.envs.rescheduling.games import ReschedulingGames
from virtgym.envs.rescheduling.snapshot import Snapshot


def random_snapshot(seed: int, **fixed: Any) -> Snapshot:
    """A small snapshot with everything in it: one or two nodes a host, groups, pinned VMs, tight memory."""
    rng = np.random.default_rng(seed)
    n_hosts, per_host = (
        int(fixed.get("n_hosts", rng.integers(2, 6))),
        int(fixed.get("per_host", rng.integers(1, 3))),
    )
    n_nodes = n_hosts * per_host
    node_cpu = (rng.integers(4, 13, n_hosts) * 4000).repeat(per_host).astype(np.int32)
    node_mem = (rng.integers(8, 33, n_hosts) * 1024).repeat(per_host).astype(np.int32)
    free_cpu, free_mem = node_cpu.copy(), node_mem.copy()
    rows: list[tuple[int, int, bool, int]] = []
    for _ in range(int(rng.integers(4, 25))):
        cpu, mem = int(rng.choice([0, 1000, 2000, 4000, 8000, 16000])), int(rng.choice([0, 512, 2048, 4096]))
        double = per_host == 2 and rng.random() < 0.25
        places = []
        for a in range(0, n_nodes, 2 if double else 1):
            nodes = [a, a + 1] if double else [a]
            if all(free_cpu[x] >= cpu and free_mem[x] >= mem for x in nodes):
                places.append(nodes)
        if places:
            nodes = places[int(rng.integers(len(places)))]
            for x in nodes:
                free_cpu[x] -= cpu
                free_mem[x] -= mem
            rows.append((cpu, mem, double, nodes[0]))
    if not rows:
        rows.append((0, 0, False, 0))
    cpu_of, mem_of, double_of, node_of = map(np.array, zip(*rows))
    n = len(rows)
    group = np.full(n, -1, np.int32)
    for g in range(int(rng.integers(0, 4))):
        hosts: set[int] = set()
        for v in rng.permutation(n)[:4].tolist():
            if group[v] < 0 and node_of[v] // per_host not in hosts:
                group[v] = g
                hosts.add(int(node_of[v]) // per_host)
    return Snapshot(
        f"random {seed}", node_cpu, node_mem, cpu_of.astype(np.int32), mem_of.astype(np.int32),
        double_of.astype(np.bool_), node_of.astype(np.int32), rng.random(n) < 0.15, group, per_host,
        rng.integers(0, 2, n_hosts).astype(np.int32), np.array([[90.0, 100.0, 140.0], [50.0, 60.0, 200.0]]),
    )  # fmt: skip


def nodes_of(snapshot: Snapshot, v: int, place: int) -> list[int]:
    """The nodes that a VM takes at a place."""
    return [place, place + 1] if snapshot.vm_double[v] else [place]


def plain_free(snapshot: Snapshot, where: list[int]) -> tuple[list[int], list[int]]:
    """Free CPU and memory of every node."""
    cpu, mem = snapshot.node_cpu.tolist(), snapshot.node_mem.tolist()
    for v, place in enumerate(where):
        for a in nodes_of(snapshot, v, place):
            cpu[a] -= int(snapshot.vm_cpu[v])
            mem[a] -= int(snapshot.vm_mem[v])
    return cpu, mem


def plain_legal(snapshot: Snapshot, where: list[int], v: int) -> list[int]:
    """Places where a VM may go."""
    n = snapshot.nodes_per_host
    if snapshot.vm_fixed[v]:
        return []
    cpu, mem = plain_free(snapshot, where)
    taken = {
        where[w] // n
        for w in range(snapshot.n_vms)
        if w != v and snapshot.vm_group[v] >= 0 and snapshot.vm_group[w] == snapshot.vm_group[v]
    }
    found = []
    for place in range(0, snapshot.n_nodes, 2 if snapshot.vm_double[v] else 1):
        fits = all(
            cpu[a] >= snapshot.vm_cpu[v] and mem[a] >= snapshot.vm_mem[v]
            for a in nodes_of(snapshot, v, place)
        )
        if fits and place != where[v] and place // n not in taken:
            found.append(place)
    return found


def plain_terms(snapshot: Snapshot, where: list[int], size: int, move_s: float) -> list[float]:
    """The terms of the objective by their definitions."""
    n = snapshot.nodes_per_host
    cpu, _ = plain_free(snapshot, where)
    used = {place // n for place in where}
    loads, watts, peak = [], 0.0, 0.0
    for h in range(snapshot.n_hosts):
        total = sum(int(x) for x in snapshot.node_cpu[h * n : (h + 1) * n])
        load = (total - sum(cpu[h * n : (h + 1) * n])) / total
        table = snapshot.power_w[snapshot.host_power[h]]
        loads.append(load)
        peak += table[-1]
        if h in used:
            watts += float(np.interp(load, np.linspace(0, 1, len(table)), table))
    mean = sum(loads) / len(loads)
    return [
        sum(x % size for x in cpu) / sum(cpu) if sum(cpu) else 0.0,
        len(used) / snapshot.n_hosts,
        math.sqrt(sum((x - mean) ** 2 for x in loads) / len(loads)),
        watts / peak,
        move_s / 3600.0,
    ]


def check_game(games: ReschedulingGames, b: int, mask: Any, move_s: float) -> None:
    """Compare a game and its mask with what follows from where its VMs are, and seconds moved."""
    s, snapshot = games.state, games.snapshot_of(b)
    where = s.vm_node[b, : snapshot.n_vms].tolist()
    n = snapshot.nodes_per_host
    cpu, mem = plain_free(snapshot, where)
    assert min(cpu) >= 0
    assert min(mem) >= 0
    assert s.free_cpu[b].tolist() == cpu
    assert s.free_mem[b].tolist() == mem
    for v in range(snapshot.n_vms):
        assert not snapshot.vm_fixed[v] or where[v] == snapshot.vm_node[v]
        for w in range(v):
            apart = snapshot.vm_group[v] >= 0 and snapshot.vm_group[v] == snapshot.vm_group[w]
            assert not apart or where[v] // n != where[w] // n
    terms = plain_terms(snapshot, where, games.params.size, move_s)
    np.testing.assert_allclose(s.terms[b], terms, rtol=1e-5, atol=1e-5)
    assert math.isclose(s.objective[b], float(np.dot(games.params.weights, s.terms[b])), rel_tol=1e-12)
    for h in range(snapshot.n_hosts):
        assert s.host_vms[b, h] == sum(place // n == h for place in where)
    legal = [plain_legal(snapshot, where, v) for v in range(snapshot.n_vms)]
    n_vms, chosen, playing = games.params.n_vms, int(s.chosen[b]), s.status[b] == 0
    expected = np.zeros(games.n_actions, dtype=bool)
    if playing and chosen < 0:
        expected[: snapshot.n_vms] = [bool(places) for places in legal]
        expected[-1] = True
    elif playing:
        expected[[n_vms + a for a in legal[chosen]]] = True
    np.testing.assert_array_equal(mask, expected)
    assert s.movable[b, : snapshot.n_vms].tolist() == [bool(places) for places in legal]


class PlainMover:
    """The game in plain Python, written for speed: lists, a fragment kept up, masks by comprehension.

    Args:
        snapshot: A snapshot.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.cpu, self.mem = plain_free(snapshot, snapshot.vm_node.tolist())
        self.where: list[int] = snapshot.vm_node.tolist()
        self.need = list(zip(snapshot.vm_cpu.tolist(), snapshot.vm_mem.tolist(), snapshot.vm_double.tolist()))
        self.fragment = sum(x % 16_000 for x in self.cpu)
        self.rng = np.random.default_rng(0)

    def targets(self, v: int) -> list[bool]:
        """Where a VM may go."""
        cpu, mem, double = self.need[v]
        fits = [a >= cpu and b >= mem for a, b in zip(self.cpu, self.mem)]
        if double:
            fits = [fits[a] and fits[a + 1] and a % 2 == 0 for a in range(len(fits) - 1)] + [False]
        fits[self.where[v]] = False
        return fits

    def move(self, v: int, place: int) -> None:
        """Move a VM."""
        cpu, mem, double = self.need[v]
        for first, sign in ((self.where[v], 1), (place, -1)):
            for a in (first, first + 1) if double else (first,):
                self.fragment -= self.cpu[a] % 16_000
                self.cpu[a] += sign * cpu
                self.mem[a] += sign * mem
                self.fragment += self.cpu[a] % 16_000
        self.where[v] = place

    def play(self, n: int) -> int:
        """Make n random moves."""
        made = 0
        while made < n:
            v = int(self.rng.integers(len(self.where)))
            legal = self.targets(v)
            if any(legal):
                self.move(v, legal.index(True, int(self.rng.integers(legal.index(True) + 1))))
                made += 1
        return made
