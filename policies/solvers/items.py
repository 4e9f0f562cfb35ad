"""The consolidation problem as flat arrays for kernels: VMs of one affinity group become one item.

I items, H hosts, R rows of allowed hosts, G anti-affinity groups, T power tables of P points, N NUMA nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I1, I8
from virtgym.envs.jit.records import Place, Record

from .model import SLACK, ConsolidationProblem, host_energy, sums

ADDED = 1.0 + 1e-11
"""The same numbers added up in another order may give a little more."""


class Numbers(Record):
    """What the hosts that are on must reach, and some prices."""

    need_cpu = Place("CPU that they must have, MHz")
    need_mem = Place("memory that they must have, MiB")
    need_hosts = Place("least number of them")
    failover = Place("hosts that may fail")
    bank = Place("price of an item without a host, J")
    idle = Place("mean energy of a host without VMs, J")
    cpu = Place("CPU of all VMs, MHz")
    mem = Place("memory of all VMs, MiB")


class Items(NamedTuple):
    """What the searches read."""

    cpu: F8  # (I,) MHz
    mem: F8  # (I,) MiB
    move_j: F8  # (I,) cost if all members move, J
    home: I8  # (I,) host of all members now, -1 = none or several
    saved_first: I8  # (I + 1,) rows of the next two that are of an item
    saved_host: I8  # (n,) a host that holds members now
    saved_j: F8  # (n,) what need not be paid there, J
    row: I8  # (I,) row of ``allowed``
    allowed: I1  # (R, H) 1: may be placed there
    anti_first: I8  # (I + 1,) rows of the next one that are of an item
    anti_group: I8  # (n,) anti-affinity groups
    n_anti: I8  # (1,) G
    vm_first: I8  # (I + 1,) rows of the next three that are of an item
    vm: I8  # (V,) members
    vm_node_cpu: F8  # (V,) or (0,) without nodes
    vm_node_mem: F8  # (V,) or (0,)
    cap_cpu: F8  # (H,) limit, MHz
    cap_mem: F8  # (H,) limit, MiB
    keep_cpu: F8  # (H,) limit while only VMs that are there now remain, MHz
    keep_mem: F8  # (H,) the same, MiB
    inv_cpu: F8  # (H,) 1 / limit
    inv_mem: F8  # (H,) 1 / limit; 0 where memory does not bind
    unit: F8  # (2,) 1 / mean limit of CPU and memory of the hosts, 0 where memory does not bind
    host_cpu: F8  # (H,) MHz
    host_mem: F8  # (H,) MiB
    scale: F8  # (H,) intervals of the power table per MHz
    table: I8  # (H,) power table
    switch_j: F8  # (H,) cost of being on if it is off now, J
    energy_j: F8  # (T, P) energy over the horizon at equally spaced loads, J
    node_cpu: F8  # (H, N) or (0, 0)
    node_mem: F8  # (H, N) or (0, 0)
    like: I8  # (H,) hosts with one number are alike while empty
    spare: I8  # (3, H) hosts that may be on beside, by idle energy, per CPU, per memory; -1 = no more
    numbers: Numbers


def find_groups(n: int, groups: list[list[int]]) -> I8:
    """Number 0 ... n - 1 such that members of a group, and of groups that overlap, share one: (n,).

    Numbers are given in the order of the first member.
    """
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for group in groups:
        for v in group[1:]:
            a, b = sorted((root(group[0]), root(v)))
            parent[b] = a
    roots = np.array([root(i) for i in range(n)], dtype=np.int64) if groups else parent
    return np.asarray(np.unique(roots, return_inverse=True)[1], dtype=np.int64)


def _rows(counts: I8) -> I8:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _allowed(problem: ConsolidationProblem, item_of: I8, n_items: int) -> tuple[I8, I1]:
    """Row of each item, and the rows: hosts that it may be placed on."""
    p = problem
    assert p.host_allowed is not None
    base = p.host_allowed.astype(np.int8)
    masks: dict[int, I1] = {}
    for vms, hosts in p.rules.must:
        inside = np.zeros(p.n_hosts, dtype=np.int8)
        inside[list(hosts)] = 1
        for i in {int(item_of[v]) for v in vms}:
            masks[i] = masks.get(i, base) * inside
    row = np.zeros(n_items, dtype=np.int64)
    table = {base.tobytes(): 0}
    rows = [base]
    for i, mask in sorted(masks.items()):
        row[i] = table.setdefault(mask.tobytes(), len(rows))
        if row[i] == len(rows):
            rows.append(mask)
    return row, np.ascontiguousarray(np.stack(rows))


def _anti(problem: ConsolidationProblem, item_of: I8, n_items: int) -> tuple[I8, I8, I8]:
    of_item: list[list[int]] = [[] for _ in range(n_items)]
    groups = [sorted({int(item_of[v]) for v in g}) for g in problem.rules.anti_affinity]
    for g, group in enumerate(groups):
        for i in group:
            of_item[i].append(g)
    first = _rows(np.array([len(x) for x in of_item], dtype=np.int64))
    return first, np.array([g for x in of_item for g in x], dtype=np.int64), np.array([len(groups)])


def _moves(problem: ConsolidationProblem, item_of: I8, n_items: int) -> tuple[F8, I8, I8, I8, F8]:
    """Total cost of moving, home, and what staying saves by host."""
    p = problem
    assert p.vm_move_j is not None
    there = np.flatnonzero(p.vm_host >= 0)
    total = sums(item_of[there], p.vm_move_j[there], n_items)
    key = item_of[there] * p.n_hosts + p.vm_host[there]
    pairs, where = np.unique(key, return_inverse=True)
    saved = sums(where, p.vm_move_j[there], len(pairs))
    items, hosts = pairs // p.n_hosts, pairs % p.n_hosts
    count = np.bincount(items, minlength=n_items)
    first = _rows(count)
    home = np.full(n_items, -1, dtype=np.int64)
    one = np.flatnonzero(count == 1)
    all_placed = sums(item_of, p.vm_host < 0, n_items) == 0
    home[one] = hosts[first[one]]
    home[~all_placed] = -1
    return total, home, first, np.asarray(hosts, dtype=np.int64), saved


def _numbers(problem: ConsolidationProblem, energy_j: F8) -> Numbers:
    p = problem
    cpu, mem = p.needed
    assert p.vm_move_j is not None
    dear = 1e3 * (float(energy_j.max(initial=1.0)) + float(p.vm_move_j.max(initial=1.0)))
    idle = float(energy_j[p.host_power, 0].mean())
    total = float(p.vm_cpu_mhz.sum()), float(p.vm_mem_mib.sum())
    numbers = Numbers.zeros()
    numbers[:] = cpu, mem, p.min_hosts, p.failover_hosts, dear, idle, *total
    return numbers


def _spare(problem: ConsolidationProblem) -> I8:
    """Orders in which hosts are added to those with VMs, as ``on_hosts`` does."""
    p = problem
    assert p.host_allowed is not None
    idle = host_energy(p, np.zeros(p.n_hosts))
    usable = np.flatnonzero(p.host_allowed)
    spare = np.full((3, p.n_hosts), -1, dtype=np.int64)
    for row, size in enumerate((np.ones(p.n_hosts), p.host_cpu_mhz, p.host_mem_mib)):
        key = (idle / np.maximum(size, 1e-9))[usable]
        spare[row, : len(usable)] = usable[np.argsort(key, kind="stable")]
    return spare


def _like(problem: ConsolidationProblem, items: tuple[I8, I1]) -> I8:
    """Hosts that are the same to every item but those that live there."""
    p = problem
    assert p.host_switch_j is not None
    assert p.host_on is not None
    columns = [p.host_cpu_mhz, p.host_mem_mib, p.host_power, p.host_switch_j * ~p.host_on]
    nodes = [] if p.node_cpu is None or p.node_mem is None else [p.node_cpu, p.node_mem]
    table = np.column_stack([*columns, items[1].T, *nodes])
    table[~np.isfinite(table)] = -1.0
    return np.asarray(np.unique(table, axis=0, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def make_items(problem: ConsolidationProblem) -> Items:
    """Flatten a problem."""
    p = problem
    item_of = find_groups(p.n_vms, [list(g) for g in p.rules.affinity])
    n_items = int(item_of.max(initial=-1)) + 1
    total, home, saved_first, saved_host, saved_j = _moves(p, item_of, n_items)
    row, allowed = _allowed(p, item_of, n_items)
    vm = np.argsort(item_of, kind="stable").astype(np.int64)
    there = p.vm_host >= 0
    now_cpu = sums(p.vm_host[there], p.vm_cpu_mhz[there], p.n_hosts)
    now_mem = sums(p.vm_host[there], p.vm_mem_mib[there], p.n_hosts)
    cap_cpu = p.cpu_share * p.host_cpu_mhz * (1.0 + 0.5 * SLACK)
    cap_mem = p.mem_share * p.host_mem_mib * (1.0 + 0.5 * SLACK)
    energy = np.ascontiguousarray(p.horizon_s * p.power_w)
    none = np.zeros((0, 0))
    nodes = p.vm_node_cpu is not None and p.vm_node_mem is not None
    assert p.host_switch_j is not None
    assert p.host_on is not None
    inv_mem = np.where(np.isfinite(cap_mem), 1.0 / np.maximum(cap_mem, 1e-9), 0.0)
    return Items(
        sums(item_of, p.vm_cpu_mhz, n_items),
        sums(item_of, p.vm_mem_mib, n_items),
        total, home, saved_first, saved_host, saved_j, row, allowed,
        *_anti(p, item_of, n_items),
        _rows(np.bincount(item_of, minlength=n_items)), vm,
        p.vm_node_cpu[vm] if nodes else np.zeros(0),  # type: ignore[index]
        p.vm_node_mem[vm] if nodes else np.zeros(0),  # type: ignore[index]
        cap_cpu, cap_mem,
        np.maximum(cap_cpu, now_cpu * ADDED), np.maximum(cap_mem, now_mem * ADDED),
        1.0 / cap_cpu, inv_mem, np.array([1.0 / cap_cpu.mean(), inv_mem.mean()]),
        p.host_cpu_mhz, p.host_mem_mib,
        (p.power_w.shape[1] - 1) / p.host_cpu_mhz, p.host_power, p.host_switch_j * ~p.host_on, energy,
        none if p.node_cpu is None else p.node_cpu, none if p.node_mem is None else p.node_mem,
        _like(p, (row, allowed)), _spare(p), _numbers(p, energy),
    )  # fmt: skip


def vm_hosts(items: Items, item_host: I8, problem: ConsolidationProblem) -> I8:
    """Host of each VM, (V,); members of an item without a host stay where they are."""
    host = problem.vm_host.copy()
    of_row = np.repeat(item_host, np.diff(items.vm_first))
    host[items.vm] = np.where(of_row >= 0, of_row, host[items.vm])
    return host


def legal_homes(items: Items) -> I8:
    """Where items are now, (I,), but -1 for those that may not be there by a rule."""
    home = items.home.copy()
    at = np.flatnonzero(home >= 0)
    home[at[items.allowed[items.row[at], home[at]] == 0]] = -1
    seen = set()
    item = np.repeat(np.arange(len(home)), np.diff(items.anti_first))
    for i, group in zip(item.tolist(), items.anti_group.tolist()):
        if home[i] >= 0 and (group, home[i]) in seen:
            home[i] = -1
        seen.add((group, home[i]))
    return home
