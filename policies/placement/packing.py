"""Placement rules that remember a window: move to front, and vector packing by dot product and by norm.

Sizes are shares of a node's cores and memory; d is what the request asks of a node, f what is free on it.

- ``move_to_front``: the feasible node used last, that is with the latest placement of this window on it;
  nodes never used come last. For a double VM, which uses both nodes of its host, the feasible host used last.
- ``dot_product``: the greatest Σ w·d·f over the resources, for a double VM summed over both nodes of a host.
- ``norm_based``: the least Σ w·(f - d)², likewise.

The weight w of a resource is the sum of the shares that the requests of the window have asked of a node so
far, the pending one included: their mean, but for a factor that changes nothing. Ties go to the lowest
number; sums are double precision, cores before memory.

Dot product and norm with average demands as weights are heuristics of Panigrahy, Talwar, Uyeda & Wieder,
*Heuristics for vector bin packing*, Microsoft Research 2011, which choose an item for a bin; here they choose
a node for the request, as requests come one by one. Move to front is that of Kamali & López-Ortiz, *Efficient
online strategies for renting servers in the cloud*, SOFSEM 2015.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8, U8
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.placement.state import PlacementParams, PlacementState, fits


class RuleMemory(NamedTuple):
    """What rules remember of n games; each game has its own row."""

    keys: U8  # (n,) state of the random generator
    window: I8  # (n,) row of the first request of the window that the rest is about
    seen: I8  # (n,) row after the last request that the rest knows of
    recency: I8  # (n, 2N) number, from 1, of the latest placement on a node, 0 = none
    asked: F8  # (n, 2) sum over requests of cores and memory asked of a node, as shares of it


def make_keys(n: int, seed: int | np.random.SeedSequence = 0) -> U8:
    """Initial states of n independent generators, (n,)."""
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return sequence.generate_state(n, np.uint64).astype(np.uint64)


def make_memory(keys: U8, n_nodes: int) -> Any:
    """An empty memory of n games, as a handle for kernels.

    Args:
        keys: States of the random generators, (n,).
        n_nodes: 2N.
    """
    n = len(keys)
    whole = np.zeros((2, n), dtype=np.int64)
    recency = np.zeros((n, n_nodes), dtype=np.int64)
    return make_handle("rule memory", RuleMemory(keys, whole[0] - 1, whole[1], recency, np.zeros((n, 2))))


@kernel
def recall(p: PlacementParams, s: PlacementState, b: int, memory: RuleMemory, k: int) -> None:
    """Bring the memory of a game up to its pending request; a window that has begun anew empties it."""
    row, first = s.cursor[b], s.first[b]
    if memory.window[k] != first or s.n_placed[b] + s.n_rejected[b] == 0:
        memory.window[k] = memory.seen[k] = first
        memory.recency[k] = 0
        memory.asked[k] = 0.0
    for i in range(memory.seen[k], row + 1):
        memory.asked[k, 0] += p.cores[i] / p.node_cores
        memory.asked[k, 1] += p.memory[i] / p.node_memory
    memory.seen[k] = max(memory.seen[k], row + 1)  # in a queue window an earlier request may come later


@kernel
def remember_node(p: PlacementParams, s: PlacementState, b: int, memory: RuleMemory, k: int, a: int) -> None:
    """Note that the pending request of a game goes to a node, to both of the host if it is double."""
    now = s.n_placed[b] + 1
    memory.recency[k, a] = now
    if p.double[s.cursor[b]]:
        memory.recency[k, a ^ 1] = now


@kernel
def move_to_front_node(p: PlacementParams, s: PlacementState, b: int, memory: RuleMemory, k: int) -> Any:
    """The feasible node used last, -1 = none."""
    row = s.cursor[b]
    best, latest = -1, -1
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            used = memory.recency[k, a]
            if p.double[row]:
                used = max(used, memory.recency[k, a ^ 1])
            if used > latest:
                best, latest = a, used
    return best


@kernel
def _product(p: PlacementParams, s: PlacementState, b: int, w: F8, a: int) -> Any:
    """Σ w·d·f on a node."""
    row = s.cursor[b]
    cores = w[0] * (p.cores[row] / p.node_cores) * (s.free_cores[b, a] / p.node_cores)
    return cores + w[1] * (p.memory[row] / p.node_memory) * (s.free_memory[b, a] / p.node_memory)


@kernel
def _distance(p: PlacementParams, s: PlacementState, b: int, w: F8, a: int) -> Any:
    """Σ w·(f - d)² on a node."""
    row = s.cursor[b]
    cores = (s.free_cores[b, a] - p.cores[row]) / p.node_cores
    memory = (s.free_memory[b, a] - p.memory[row]) / p.node_memory
    return w[0] * cores * cores + w[1] * memory * memory


@kernel
def dot_product_node(p: PlacementParams, s: PlacementState, b: int, memory: RuleMemory, k: int) -> Any:
    """The feasible node with the greatest Σ w·d·f, -1 = none."""
    row, w = s.cursor[b], memory.asked[k]
    best, most = -1, -1.0
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            product = _product(p, s, b, w, a)
            if p.double[row]:
                product += _product(p, s, b, w, a ^ 1)
            if product > most:
                best, most = a, product
    return best


@kernel
def norm_based_node(p: PlacementParams, s: PlacementState, b: int, memory: RuleMemory, k: int) -> Any:
    """The feasible node with the least Σ w·(f - d)², -1 = none."""
    row, w = s.cursor[b], memory.asked[k]
    best, least = -1, np.inf
    for a in range(p.n_nodes):
        if fits(p, s, b, row, a):
            distance = _distance(p, s, b, w, a)
            if p.double[row]:
                distance += _distance(p, s, b, w, a ^ 1)
            if distance < least:
                best, least = a, distance
    return best
