"""NUMA topology: nodes of hosts, home nodes of VMs, room on nodes, fragments (docs §3).

A host has N nodes with equal parts of its cores and memory. A VM whose vCPUs and memory fit into one node
gets a *home node*; a *wide* VM is split evenly over the fewest nodes that have room. A placement respects the
CPU and the memory of every node: a host may have room in total, and yet on no node. On NUMA-blind hosts every
VM is interleaved over all nodes. What that does to speed is in ``numa``.

Sources: virtual nodes shown from 9 vCPUs, balancing period 2,000 ms, threshold 10 % [verified: vSphere
Resource Management, advanced NUMA attributes]; L_remote / L_local = 2.05, 242.5 and 118.4 ns on a two-node
cloud VM [verified], 1.5-2.0 usual [assumed]; fragment rate [verified: VMR2L, EuroSys 2025].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8, I4, I8
from ...checks import need, need_choice, need_count, need_positive, need_share
from ...jit.kernels import kernel, of_records

SCHEDULING = ("aware", "blind")

MAX_NODES = 32
"""Nodes of a host at most: a VM's nodes are the bits of an int64."""

ROOM = 1.0 + 1e-9
"""Thirds of VMs do not add up exactly: a node is full from this multiple of its capacity."""

STALL_SHARES: dict[str, float] = {"cpu_bound": 0.1, "general": 0.3, "io_bound": 0.2, "memory_bound": 0.6}
"""Memory-stall share m by workload profile; the ends from the sources of docs §3, the others assumed."""


@dataclass(frozen=True)
class NumaConfig:
    """How hosts schedule on their nodes.

    Attributes:
        scheduling: ``aware``: VMs have home nodes; ``blind``: memory is interleaved, vCPUs run anywhere.
        latency_ratio: L_remote / L_local, at least 1.
        cpu_overcommit: vCPUs that a node takes, as a multiple of its cores.
        vnuma_min_vcpus: From so many vCPUs on a guest sees its virtual nodes and stays local on each.
        rebalance: Whether the balancer runs.
        rebalance_period_s: At most one VM changes its home node in so many seconds, per host.
        rebalance_threshold: Difference of load between two nodes, as a share of a node's CPU, that is let be.
        page_move_mib_s: Speed at which pages follow their VM to another node, MiB/s.
    """

    scheduling: str = "aware"
    latency_ratio: float = 2.05
    cpu_overcommit: float = 1.0
    vnuma_min_vcpus: int = 9
    rebalance: bool = True
    rebalance_period_s: float = 2.0
    rebalance_threshold: float = 0.10
    page_move_mib_s: float = 1024.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("numa", "scheduling", self.scheduling, SCHEDULING)
        ratio = self.latency_ratio
        need(math.isfinite(ratio) and ratio >= 1, f"numa.latency_ratio={ratio}: must be 1 or more")
        need_positive(
            "numa",
            cpu_overcommit=self.cpu_overcommit,
            rebalance_period_s=self.rebalance_period_s,
            page_move_mib_s=self.page_move_mib_s,
        )
        need_count("numa", vnuma_min_vcpus=self.vnuma_min_vcpus)
        need_share("numa", rebalance_threshold=self.rebalance_threshold)

    def moves_in(self, duration_s: float) -> int:
        """How many VMs of a host may change their home node in a time, at least one if the balancer runs."""
        return max(1, int(duration_s / self.rebalance_period_s)) if self.rebalance else 0


class NumaParams(NamedTuple):
    """What does not change during an episode; H hosts, V VMs."""

    host_nodes: I4  # (H,) nodes
    node_cores: F8  # (H,) cores of one node
    node_cpu_mhz: F8  # (H,) CPU of one node, MHz
    node_mem_mib: F8  # (H,) memory of one node, MiB
    vm_vcpus: I4  # (V,)
    vm_mem_mib: F8  # (V,) configured memory, MiB
    vm_stall_share: F8  # (V,) m
    numa_aware: int  # 1: home nodes, 0: interleaved
    numa_extra_latency: float  # L_remote / L_local - 1
    numa_overcommit: float  # vCPUs per core
    numa_vnuma_min: int  # vCPUs from which a wide VM stays local
    numa_threshold: float  # share of a node's CPU
    numa_page_mib_s: float  # MiB/s


class NumaState(NamedTuple):
    """What changes; H hosts, N nodes of the host that has most, V VMs."""

    node_vcpus: F8  # (H, N) vCPUs at home on the node
    node_used_mib: F8  # (H, N) memory at home on the node, MiB
    node_load_mhz: F8  # (H, N) CPU allocated to the VMs at home there, MHz
    vm_nodes: I8  # (V,) bit j: at home on node j of its host; 0 = none
    vm_dest_nodes: I8  # (V,) the same on the host that it migrates to
    vm_pages_end_s: F8  # (V,) when the last page has followed, s; -inf = they are here
    vm_remote_share: F8  # (V,) rho
    vm_numa_slowdown: F8  # (V,) at least 1


def numa_params(
    config: NumaConfig,
    host_nodes: I4,
    host_cores: F8,
    host_core_mhz: F8,
    host_mem_mib: F8,
    vm_vcpus: I4,
    vm_mem_mib: F8,
    vm_stall_share: F8,
) -> NumaParams:
    """Flatten a configuration into the arrays that kernels read.

    Args:
        config: How hosts schedule on their nodes.
        host_nodes: Nodes, 1...``MAX_NODES``, shape (H,).
        host_cores: Cores of the whole host, shape (H,).
        host_core_mhz: Speed of one core, shape (H,), MHz.
        host_mem_mib: Memory of the whole host, shape (H,), MiB.
        vm_vcpus: Virtual CPUs, shape (V,).
        vm_mem_mib: Configured memory, shape (V,), MiB.
        vm_stall_share: Memory-stall share m, shape (V,).

    Returns:
        The parameters.

    Raises:
        ConfigError: If a node would have no core, or a share lies outside 0...1.
    """
    nodes = np.ascontiguousarray(host_nodes, dtype=np.int32)
    for kind in np.unique(nodes).tolist():
        need(1 <= kind <= MAX_NODES, f"host.numa_nodes={kind}: must be a whole number in 1..{MAX_NODES}")
    need(bool((host_cores >= nodes).all()), "host.numa_nodes: every node needs at least one core")
    stall = np.ascontiguousarray(vm_stall_share, dtype=np.float64)
    need(bool(((stall >= 0) & (stall <= 1)).all()), "vm.stall_share: must lie in 0..1")
    cores = np.asarray(host_cores, dtype=np.float64) / nodes
    return NumaParams(
        nodes,
        cores,
        cores * host_core_mhz,
        np.asarray(host_mem_mib, dtype=np.float64) / nodes,
        np.ascontiguousarray(vm_vcpus, dtype=np.int32),
        np.ascontiguousarray(vm_mem_mib, dtype=np.float64),
        stall,
        int(config.scheduling == "aware"),
        config.latency_ratio - 1.0,
        float(config.cpu_overcommit),
        int(config.vnuma_min_vcpus),
        float(config.rebalance_threshold),
        float(config.page_move_mib_s),
    )


def numa_state(p: NumaParams) -> NumaState:
    """Allocate an empty state: no VM has a home."""
    shape = (p.host_nodes.shape[0], int(p.host_nodes.max(initial=1)))
    n = p.vm_vcpus.shape[0]
    return NumaState(
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.full(n, -np.inf),
        np.zeros(n),
        np.ones(n),
    )


@kernel
def count_bits(mask: int) -> int:
    """Number of nodes in a mask."""
    n = 0
    while mask != 0:
        mask &= mask - 1
        n += 1
    return n


@kernel
def has_room(p: NumaParams, s: NumaState, h: int, j: int, vcpus: float, mem_mib: float) -> bool:
    """Whether node j of host h has room for so many vCPUs and so much memory."""
    room = p.node_cores[h] * p.numa_overcommit * ROOM
    memory = p.node_mem_mib[h] * ROOM
    return bool(s.node_vcpus[h, j] + vcpus <= room and s.node_used_mib[h, j] + mem_mib <= memory)


@kernel
def nodes_fit(p: NumaParams, s: NumaState, v: int, h: int, mask: int) -> bool:
    """Whether VM v, split evenly over the nodes of a mask, fits: CPU and memory of every node.

    Args:
        p: Handle or record with the fields of ``NumaParams``.
        s: Handle or record with the fields of ``NumaState``.
        v: VM.
        h: Host.
        mask: Bit j for node j.

    Returns:
        False also for an empty mask or a node that the host does not have.
    """
    if mask <= 0 or mask >> p.host_nodes[h]:
        return False
    k = count_bits(mask)
    for j in range(p.host_nodes[h]):
        if (mask >> j) & 1 and not has_room(p, s, h, j, p.vm_vcpus[v] / k, p.vm_mem_mib[v] / k):
            return False
    return True


@kernel
def _least_nodes(p: NumaParams, v: int, h: int) -> int:
    """Fewest nodes of an empty host that could hold the VM; more than it has if none could."""
    for k in range(1, p.host_nodes[h] + 1):
        if (
            p.vm_vcpus[v] <= k * p.node_cores[h] * p.numa_overcommit * ROOM
            and p.vm_mem_mib[v] <= k * p.node_mem_mib[h] * ROOM
        ):
            return k
    return int(p.host_nodes[h]) + 1


@of_records
@kernel
def choose_nodes(p: NumaParams, s: NumaState, v: int, h: int) -> Any:
    """Where VM v would be at home on host h.

    Aware hosts take the fewest nodes that have room, the emptiest first (by vCPUs, then by memory, then by
    index); a VM that fits into one node is never split. Blind hosts interleave over all nodes.

    Args:
        p: Handle or record with the fields of ``NumaParams``.
        s: Handle or record with the fields of ``NumaState``.
        v: VM.
        h: Host.

    Returns:
        Bits of the nodes, 0 if it does not fit.
    """
    n = int(p.host_nodes[h])
    everywhere = (1 << n) - 1
    if p.numa_aware == 0:
        return everywhere if nodes_fit(p, s, v, h, everywhere) else 0
    least = _least_nodes(p, v, h)
    most = 1 if least == 1 else n
    for k in range(least, most + 1):
        mask = 0
        for _ in range(k):
            best = -1
            for j in range(n):
                if (mask >> j) & 1 or not has_room(p, s, h, j, p.vm_vcpus[v] / k, p.vm_mem_mib[v] / k):
                    continue
                if best < 0 or (s.node_vcpus[h, j], s.node_used_mib[h, j]) < (
                    s.node_vcpus[h, best],
                    s.node_used_mib[h, best],
                ):
                    best = j
            if best < 0:
                break
            mask |= 1 << best
        if count_bits(mask) == k:
            return mask
    return 0


@of_records
@kernel
def add_to_nodes(p: NumaParams, s: NumaState, v: int, h: int, mask: int, sign: float) -> None:
    """Add (sign 1) or take away (sign -1) what VM v occupies on the nodes of a mask."""
    k = count_bits(mask)
    for j in range(p.host_nodes[h]):
        if (mask >> j) & 1:
            s.node_vcpus[h, j] += sign * p.vm_vcpus[v] / k
            s.node_used_mib[h, j] += sign * p.vm_mem_mib[v] / k


@of_records
@kernel
def reserve_nodes(p: NumaParams, s: NumaState, v: int, h: int, mask: int) -> None:
    """Hold room for VM v on the nodes of a mask of the host that it comes to."""
    add_to_nodes(p, s, v, h, mask, 1.0)
    s.vm_dest_nodes[v] = mask


@of_records
@kernel
def arrive_on_nodes(s: NumaState, v: int) -> None:
    """VM v has come: the nodes that were held for it are its home, and its memory is there."""
    s.vm_nodes[v] = s.vm_dest_nodes[v]
    s.vm_dest_nodes[v] = 0
    s.vm_pages_end_s[v] = -np.inf


@of_records
@kernel
def fragment_rate(p: NumaParams, s: NumaState, host_on: NDArray[np.int8], unit_cores: float) -> Any:
    """Free CPU that cannot hold one more VM of ``unit_cores`` on a node, over all free CPU.

        sum over nodes (free mod unit) / sum over nodes free

    Args:
        p: Handle or record with the fields of ``NumaParams``.
        s: Handle or record with the fields of ``NumaState``.
        host_on: 1 for the hosts that count, shape (H,).
        unit_cores: Cores of the VM that is asked about; 16 in VMR2L.

    Returns:
        0...1; 0 where nothing is free.
    """
    lost = 0.0
    free = 0.0
    for h in range(p.host_nodes.shape[0]):
        if host_on[h] == 0:
            continue
        for j in range(p.host_nodes[h]):
            room = p.node_cores[h] * p.numa_overcommit - s.node_vcpus[h, j]
            if room > 1e-9:
                free += room
                units = np.floor(room / unit_cores + 1e-9)
                lost += max(0.0, room - units * unit_cores)
    return lost / free if free > 0.0 else 0.0
