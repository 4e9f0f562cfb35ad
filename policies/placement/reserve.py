"""How much of what may come a cluster could still take, and the node that keeps most of it.

A *class* is a size that requests have: cores and memory asked of a node, double or not. With p the share of a
class among the requests seen so far, the number of its requests among the next M is about Poisson(M·p). Let
n be how many VMs of the class, by itself, would fit beside what is there. The *reserve* is

    Σ over classes of E[min(n, Poisson(M·p))],

how many of the next M requests would find room if each class had the rest of the cluster for itself. It
counts room in units that somebody is likely to ask for: whole hosts are kept free for large double VMs as far
as these are likely, and fragments that nobody asks for count nothing. It uses nothing of the future, and no
lifetimes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.state import PlacementParams, PlacementState, fits

SAME = 1e-9
"""Reserves that differ by less are the same: then the base rule decides."""

MOST_SIZES, COARSE = 256, 16
"""With more sizes than this they are rounded up to one part of a node in so many."""

RELEARN = 32
"""Values are worked out anew when the requests counted have grown by one part in this."""


class ReserveTable(NamedTuple):
    """K classes of sizes, and what n slots of each are worth in each of B games."""

    of_row: I8  # (R,) class of each request
    cores: F8  # (K,) asked of a node
    memory: F8  # (K,) GiB asked of a node
    double: NDArray[np.bool_]  # (K,)
    history: int  # rows before the window that count as seen
    horizon: float  # M
    window: I8  # (B,) row of the first request of the window that the rest is about, -1 = none
    seen: I8  # (B,) row after the last request that is counted
    known: I8  # (B,) requests counted
    learnt: I8  # (B,) how many they were when the values were worked out
    counts: F8  # (B, K) requests of each class
    value: F8  # (B, K·J) E[min(n, Poisson)] of each class for n = 0 … J - 1
    slots: I8  # (N, K) scratch: VMs of the class that fit on the host
    total: I8  # (K,) scratch: the sum over hosts


def make_reserve(p: PlacementParams, n_games: int, horizon: float, history: int) -> tuple[ReserveTable, Any]:
    """An empty table for B games.

    Args:
        p: Parameters. The classes are the sizes in the stream, each unknown until a request has it; if there
            are more than 256, sizes are rounded up to 1/16 of a node.
        n_games: B.
        horizon: M, requests.
        history: Rows before a window that count as seen.

    Returns:
        The arrays, and a handle to them for kernels.
    """
    asked = np.column_stack([p.cores, p.memory, p.double])
    sizes, of_row = np.unique(asked, axis=0, return_inverse=True)
    if len(sizes) > MOST_SIZES:
        grid = np.array([p.node_cores, p.node_memory, COARSE]) / COARSE
        sizes, of_row = np.unique(np.ceil(asked / grid) * grid, axis=0, return_inverse=True)
    k, most = len(sizes), int(horizon + 8.0 * np.sqrt(horizon)) + 9  # beyond it the Poisson tail is nothing
    whole = np.zeros((4, n_games), dtype=np.int64)
    table = ReserveTable(
        np.ascontiguousarray(of_row.ravel(), dtype=np.int64), sizes[:, 0].copy(), sizes[:, 1].copy(),
        sizes[:, 2] > 0, history, float(horizon), whole[0] - 1, whole[1], whole[2], whole[3],
        np.zeros((n_games, k)), np.zeros((n_games, k * most)),
        np.zeros((p.n_nodes // 2, k), dtype=np.int64), np.zeros(k, dtype=np.int64),
    )  # fmt: skip
    return table, make_handle("reserve table", table)


@kernel
def fill_values(rate: float, value: F8) -> None:
    """Write E[min(n, Poisson(rate))] = Σ_{j=1…n} P(Poisson ≥ j) for n = 0 … J - 1, (J,)."""
    term = np.exp(-rate)
    tail = 1.0 - term  # P(Poisson ≥ 1)
    value[0] = 0.0
    for n in range(1, len(value)):
        value[n] = value[n - 1] + max(tail, 0.0)
        term *= rate / n
        tail -= term


@kernel
def learn_classes(p: PlacementParams, s: PlacementState, b: int, table: ReserveTable) -> None:
    """Count the requests seen up to the pending one; a window that has begun anew forgets the last."""
    row, first = s.cursor[b], s.first[b]
    if table.window[b] != first or s.n_placed[b] + s.n_rejected[b] == 0:
        table.window[b] = first
        table.seen[b] = max(0, first - table.history)
        table.known[b] = table.learnt[b] = 0
        table.counts[b] = 0.0
    for i in range(table.seen[b], row + 1):
        table.counts[b, table.of_row[i]] += 1.0
        table.known[b] += 1
    table.seen[b] = max(table.seen[b], row + 1)
    if table.known[b] * RELEARN >= table.learnt[b] * (RELEARN + 1):
        table.learnt[b] = table.known[b]
        n = len(table.cores)
        most = table.value.shape[1] // n
        for k in range(n):
            rate = table.horizon * table.counts[b, k] / table.known[b]
            fill_values(rate, table.value[b, k * most : (k + 1) * most])


@kernel
def _rooms(free: Any, asked: float) -> Any:
    """How often an amount of memory goes into what is free; a VM may ask for none."""
    return free / asked if asked > 0.0 else np.inf


@kernel
def count_slots(
    cores: float, memory: float, double: bool, left: Any, right: Any, left_memory: Any, right_memory: Any
) -> Any:
    """VMs of one size that fit on a host with this much free on its left and right node."""
    if double:
        return int(min(min(left, right) / cores, _rooms(min(left_memory, right_memory), memory)))
    on_left = int(min(left / cores, _rooms(left_memory, memory)))
    return on_left + int(min(right / cores, _rooms(right_memory, memory)))


@kernel
def _host_slots(
    p: PlacementParams, s: PlacementState, b: int, table: ReserveTable, k: int, host: int, row: int, a: int
) -> Any:
    """Slots of class k on a host once request ``row`` is on node ``a`` (-1: on none)."""
    left, right = 2 * host, 2 * host + 1
    free_l, free_r = s.free_cores[b, left], s.free_cores[b, right]
    memory_l, memory_r = s.free_memory[b, left], s.free_memory[b, right]
    if a >= 0 and (a == left or p.double[row]):
        free_l -= p.cores[row]
        memory_l -= p.memory[row]
    if a >= 0 and (a == right or p.double[row]):
        free_r -= p.cores[row]
        memory_r -= p.memory[row]
    return count_slots(table.cores[k], table.memory[k], table.double[k], free_l, free_r, memory_l, memory_r)


@kernel
def write_slots(p: PlacementParams, s: PlacementState, b: int, table: ReserveTable) -> None:
    """Count the slots of every host and class as things are."""
    table.total[:] = 0
    for host in range(p.n_nodes // 2):
        for k in range(len(table.cores)):
            n = _host_slots(p, s, b, table, k, host, 0, -1)
            table.slots[host, k] = n
            table.total[k] += n


@kernel
def reserve_change(
    p: PlacementParams, s: PlacementState, b: int, table: ReserveTable, g: int, row: int, a: int
) -> Any:
    """What placing request ``row`` on node ``a`` does to the reserve (≤ 0); ``write_slots`` comes first."""
    host, n_classes = a >> 1, len(table.cores)
    size = table.value.shape[1] // n_classes
    change = 0.0
    for k in range(n_classes):
        before = table.slots[host, k]
        if before > 0 and table.counts[g, k] > 0.0:
            after = table.total[k] - before + _host_slots(p, s, b, table, k, host, row, a)
            now = min(table.total[k], size - 1)
            change += table.value[g, k * size + min(after, size - 1)] - table.value[g, k * size + now]
    return change


@kernel
def reserve_node(
    p: PlacementParams, s: PlacementState, b: int, table: ReserveTable, g: int, base: int
) -> Any:
    """The feasible node that keeps the greatest reserve; among equals ``base``, then the lowest.

    Args:
        s: State; it is read.
        b: The game in it.
        table: Classes and values; its scratch is written.
        g: The game in it, for which ``learn_classes`` has been called.
        base: The node that a base rule would take, -1 = none fits.

    Returns:
        The node, -1 if there is none.
    """
    if base < 0:
        return -1
    row = s.cursor[b]
    write_slots(p, s, b, table)
    best, most = base, reserve_change(p, s, b, table, g, row, base)
    for a in range(p.n_nodes):
        if a != base and fits(p, s, b, row, a) and not (p.double[row] and a & 1):
            change = reserve_change(p, s, b, table, g, row, a)
            if change > most + SAME:
                best, most = a, change
    return best
