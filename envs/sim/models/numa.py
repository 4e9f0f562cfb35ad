"""NUMA effects: remote accesses slow work, a balancer levels the nodes (docs §3).

Where VMs are at home is in ``numa_nodes``. Accesses to the memory of another node slow work:

    slowdown = 1 + m rho (L_remote / L_local - 1),      delivered = a / slowdown

m is the memory-stall share of the VM, rho the share of its accesses that go to another node:

    blind scheduling     rho = (N - 1) / N: memory is interleaved, vCPUs run anywhere
    aware, home node     rho = 0
    aware, wide on k     rho = 0 if the guest sees its virtual nodes, else (k - 1) / k
    pages on the way     rho = 1/2: after a change of home node the pages follow at a constant rate, so that
                         rho falls linearly from 1 to 0; its mean is held until the last page has arrived
    node over capacity   the share 1 - C_node / (work on the node) of its time a vCPU runs elsewhere, remotely

The last line combines with those above as 1 - rho = (1 - rho_home) (1 - rho_elsewhere) [assumed]. With the
mean held while pages move, every rate is constant between events: no integral depends on when one looks.

The balancer of an aware host moves VMs from its most to its least loaded node while the two differ by more
than a threshold, at most one VM in each period of 2 s; the moves of one call count as made at once.

Sources: L_remote / L_local = 2.05, 242.5 and 118.4 ns on a two-node cloud VM [verified], 1.5-2.0 usual
[assumed]; m = 0.1 CPU-bound ... 0.6 memory-bound [assumed]; period 2,000 ms, threshold 10 %, virtual nodes
shown from 9 vCPUs [verified: vSphere Resource Management, advanced NUMA attributes]; speed of moving pages
[assumed]; fragment rate [verified: VMR2L, EuroSys 2025].
"""

from __future__ import annotations

import numpy as np

from ...arrays import F8, I4
from ...jit.kernels import kernel, of_records
from .numa_nodes import ROOM, NumaParams, NumaState, add_to_nodes, count_bits, has_room

MEAN_REMOTE_WHILE_MOVING = 0.5
"""Mean remote share while pages follow their vCPUs at a constant rate."""


@kernel
def _load_nodes(p: NumaParams, s: NumaState, vms: I4, vm_alloc_mhz: F8, h: int) -> None:
    s.node_load_mhz[h, :] = 0.0
    for v in vms:
        mask = s.vm_nodes[v]
        k = count_bits(mask)
        for j in range(p.host_nodes[h]):
            if (mask >> j) & 1:
                s.node_load_mhz[h, j] += vm_alloc_mhz[v] / k


@kernel
def _home_remote_share(p: NumaParams, s: NumaState, v: int, n: int, k: int, now_s: float) -> float:
    if p.numa_aware == 0:
        return (n - 1.0) / n
    if now_s < s.vm_pages_end_s[v]:
        return MEAN_REMOTE_WHILE_MOVING
    return (k - 1.0) / k if p.vm_vcpus[v] < p.numa_vnuma_min else 0.0


@of_records
@kernel
def apply_numa_host(p: NumaParams, s: NumaState, vms: I4, vm_alloc_mhz: F8, h: int, now_s: float) -> None:
    """Remote shares and slowdowns of the VMs of one host, from what the scheduler gave them.

    Args:
        p: Handle or record with the fields of ``NumaParams``.
        s: Handle or record with the fields of ``NumaState``; loads, shares and slowdowns are rewritten.
        vms: VMs of the host, shape (n,); one without a home (``vm_nodes`` 0) is not slowed.
        vm_alloc_mhz: CPU allocated, shape (V,), MHz.
        h: Host.
        now_s: Now, s.
    """
    n = p.host_nodes[h]
    _load_nodes(p, s, vms, vm_alloc_mhz, h)
    capacity = p.node_cpu_mhz[h]
    for v in vms:
        mask = s.vm_nodes[v]
        if mask == 0 or n == 1:
            s.vm_remote_share[v] = 0.0
            s.vm_numa_slowdown[v] = 1.0
            continue
        k = count_bits(mask)
        elsewhere = 0.0
        if p.numa_aware != 0:
            for j in range(n):
                if (mask >> j) & 1 and s.node_load_mhz[h, j] > capacity * ROOM:
                    elsewhere += (1.0 - capacity / s.node_load_mhz[h, j]) / k
        home = _home_remote_share(p, s, v, n, k, now_s)
        rho = 1.0 - (1.0 - home) * (1.0 - elsewhere)
        s.vm_remote_share[v] = rho
        s.vm_numa_slowdown[v] = 1.0 + p.vm_stall_share[v] * rho * p.numa_extra_latency


@kernel
def _best_move(
    p: NumaParams, s: NumaState, vms: I4, vm_alloc_mhz: F8, h: int, hot: int, cold: int, now_s: float
) -> int:
    """The VM whose move levels the two nodes best, -1 if none brings them closer."""
    gap = s.node_load_mhz[h, hot] - s.node_load_mhz[h, cold]
    best = -1
    left = gap
    for v in vms:
        a = vm_alloc_mhz[v]
        if s.vm_nodes[v] != np.int64(1) << hot or now_s < s.vm_pages_end_s[v] or a <= 0.0:
            continue
        if abs(gap - 2.0 * a) < left and has_room(p, s, h, cold, p.vm_vcpus[v], p.vm_mem_mib[v]):
            best = v
            left = abs(gap - 2.0 * a)
    return best


@of_records
@kernel
def rebalance_host(
    p: NumaParams, s: NumaState, vms: I4, vm_alloc_mhz: F8, h: int, now_s: float, max_moves: int
) -> int:
    """Level the nodes of one aware host, one VM after the other.

    Wide VMs, and VMs whose pages are still on the way, stay. A moved VM runs on its new node at once; its
    pages arrive ``memory / page_move_mib_s`` later, at ``vm_pages_end_s``: an event for the caller to
    schedule, at which ``apply_numa_host`` is called again.

    Args:
        p: Handle or record with the fields of ``NumaParams``.
        s: Handle or record with the fields of ``NumaState``; homes, loads and page times are rewritten.
        vms: VMs of the host, shape (n,).
        vm_alloc_mhz: CPU allocated, shape (V,), MHz.
        h: Host.
        now_s: Now, s.
        max_moves: At most so many (``NumaConfig.moves_in``).

    Returns:
        Number of VMs moved.
    """
    n = p.host_nodes[h]
    if p.numa_aware == 0 or n == 1:
        return 0
    _load_nodes(p, s, vms, vm_alloc_mhz, h)
    moves = 0
    while moves < max_moves:
        hot = int(np.argmax(s.node_load_mhz[h, :n]))
        cold = int(np.argmin(s.node_load_mhz[h, :n]))
        gap = s.node_load_mhz[h, hot] - s.node_load_mhz[h, cold]
        if gap <= p.numa_threshold * p.node_cpu_mhz[h]:
            break
        v = _best_move(p, s, vms, vm_alloc_mhz, h, hot, cold, now_s)
        if v < 0:
            break
        add_to_nodes(p, s, v, h, s.vm_nodes[v], -1.0)
        s.vm_nodes[v] = np.int64(1) << cold
        add_to_nodes(p, s, v, h, s.vm_nodes[v], 1.0)
        s.vm_pages_end_s[v] = now_s + p.vm_mem_mib[v] / p.numa_page_mib_s
        s.node_load_mhz[h, hot] -= vm_alloc_mhz[v]
        s.node_load_mhz[h, cold] += vm_alloc_mhz[v]
        moves += 1
    return moves
