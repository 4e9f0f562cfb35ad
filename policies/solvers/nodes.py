"""Room on the NUMA nodes of one host for a set of VMs (docs §3), as the optimisers ask for it.

A VM that fits into one empty node is given one node; a wide VM is split evenly over the fewest nodes that
have room. VMs are packed the largest first, each into the fullest nodes that hold it, so the answer depends
on the set alone, not on the order in which VMs came. "No room" is therefore safe, not exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.kernels import kernel

ROOM = 1e-9
"""Thirds of VMs do not add up exactly: a node holds this share more."""


class VmNodes(NamedTuple):
    """What each of n VMs takes of its nodes."""

    cpu: F8  # (n,) in the unit of the nodes' CPU
    mem: F8  # (n,) MiB


@kernel(nogil=True)
def _nodes_of(need_cpu: float, need_mem: float, node_cpu: F8, node_mem: F8, free: F8, k: int) -> Any:
    """Bits of the k fullest nodes with room for 1/k of a VM each, 0 if there are fewer."""
    mask = 0
    for _ in range(k):
        best, least = -1, np.inf
        for j in range(node_cpu.shape[0]):
            if (mask >> j) & 1 or node_cpu[j] <= 0.0:
                continue
            cpu = free[2 * j] - need_cpu / k
            mem = free[2 * j + 1] - need_mem / k
            if cpu < -ROOM * node_cpu[j] or mem < -ROOM * node_mem[j]:
                continue
            left = cpu / node_cpu[j] + (mem / node_mem[j] if 0.0 < node_mem[j] < np.inf else 0.0)
            if left < least:
                best, least = j, left
        if best < 0:
            return 0
        mask |= 1 << best
    return mask


@kernel(nogil=True)
def pack_nodes(
    n: int, cpu: F8, mem: F8, node_cpu: F8, node_mem: F8, order: I8, key: F8, free: F8, bits: I8
) -> Any:
    """Put n VMs on the nodes of an empty host.

    Args:
        n: Number of VMs.
        cpu: What each takes of the nodes' CPU, (>= n,).
        mem: The same of memory, MiB, (>= n,).
        node_cpu: CPU of every node, (N,); 0 = no such node.
        node_mem: Memory of every node, MiB, (N,).
        order: Scratch, (>= n,).
        key: Scratch, (>= n,).
        free: Scratch, (>= 2 N,).
        bits: Result: bits of the nodes of each VM, (>= n,).

    Returns:
        Whether all fit.
    """
    n_nodes = node_cpu.shape[0]
    most_cpu, most_mem = 0.0, 0.0
    for j in range(n_nodes):
        free[2 * j], free[2 * j + 1] = node_cpu[j], node_mem[j]
        most_cpu, most_mem = max(most_cpu, node_cpu[j]), max(most_mem, node_mem[j])
    if most_cpu <= 0.0:
        return n == 0
    for i in range(n):
        share = mem[i] / most_mem if 0.0 < most_mem < np.inf else 0.0
        key[i] = max(cpu[i] / most_cpu, share)
        k = i
        while k > 0 and key[order[k - 1]] < key[i]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = i
    for k in range(n):
        i = order[k]
        wide = key[i] > 1.0 + ROOM
        bits[i] = 0
        for parts in range(2 if wide else 1, (n_nodes if wide else 1) + 1):
            bits[i] = _nodes_of(cpu[i], mem[i], node_cpu, node_mem, free, parts)
            if bits[i] != 0:
                for j in range(n_nodes):
                    if (bits[i] >> j) & 1:
                        free[2 * j] -= cpu[i] / parts
                        free[2 * j + 1] -= mem[i] / parts
                break
        if bits[i] == 0:
            return False
    return True


def nodes_have_room(vms: VmNodes, node_cpu: F8, node_mem: F8) -> bool:
    """Whether VMs fit on the nodes of one host, packed as ``pack_nodes`` does.

    Args:
        vms: The VMs.
        node_cpu: CPU of every node, (N,).
        node_mem: Memory of every node, MiB, (N,).
    """
    n = len(vms.cpu)
    scratch = np.empty(n, dtype=np.int64), np.empty(n), np.empty(2 * len(node_cpu))
    bits = np.empty(n, dtype=np.int64)
    return bool(pack_nodes(n, vms.cpu, vms.mem, node_cpu, node_mem, *scratch, bits))
