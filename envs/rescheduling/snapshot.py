"""A snapshot of a cluster: hosts with NUMA nodes, and where every VM is. Arrays of whole numbers.

CPU is counted in thousandths of a core and memory in MiB, so that sums are exact in any order. Nodes are
numbered through the cluster: with N nodes a host, node n of host h is a = N h + n. A *double* VM takes the
same of both nodes of a host, which has two; its place is the host's first node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..arrays import B1, F8, I4
from ..errors import VirtgymError

MILLI = 1000
"""CPU units of a core."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """H hosts with N nodes each, A = N H nodes; V VMs.

    Attributes:
        name: What it is, for result rows.
        node_cpu: Cores of each node in thousandths, without what is taken by no VM, (A,).
        node_mem: Memory likewise, MiB, (A,).
        vm_cpu: What a VM takes of each of its nodes, thousandths of a core, (V,).
        vm_mem: Likewise, MiB, (V,).
        vm_double: Whether it takes this of both nodes of a host, (V,).
        vm_node: Its node now; of a double VM the host's first one, (V,).
        vm_fixed: Whether it must stay where it is, (V,).
        vm_group: Its anti-affinity group, -1 = none, (V,): no two VMs of a group are on one host.
        nodes_per_host: N, 1 or 2.
        host_power: Kind of each host, a row of ``power_w``, (H,).
        power_w: Power of a host in use at equally spaced CPU loads 0...1, W, (kinds, points).
        host_names: (H,); empty = numbers.
        vm_names: (V,); empty = numbers.
    """

    name: str
    node_cpu: I4
    node_mem: I4
    vm_cpu: I4
    vm_mem: I4
    vm_double: B1
    vm_node: I4
    vm_fixed: B1
    vm_group: I4
    nodes_per_host: int
    host_power: I4
    power_w: F8
    host_names: Sequence[str] = ()
    vm_names: Sequence[str] = ()

    @property
    def n_hosts(self) -> int:
        """H."""
        return len(self.host_power)

    @property
    def n_nodes(self) -> int:
        """A."""
        return len(self.node_cpu)

    @property
    def n_vms(self) -> int:
        """V."""
        return len(self.vm_cpu)

    def host_name(self, h: int) -> str:
        """What a host is called."""
        return self.host_names[h] if self.host_names else str(h)

    def vm_name(self, v: int) -> str:
        """What a VM is called."""
        return self.vm_names[v] if self.vm_names else str(v)

    def free(self, vm_node: NDArray[np.integer] | None = None) -> tuple[I4, I4]:
        """What is free on every node when VMs are at some nodes, (A,) CPU and memory; None = where they are.

        It is negative where there is more than fits.
        """
        where = self.vm_node if vm_node is None else vm_node
        found = []
        for capacity, need in ((self.node_cpu, self.vm_cpu), (self.node_mem, self.vm_mem)):
            used = np.zeros(self.n_nodes, dtype=np.int64)
            np.add.at(used, where, need)
            np.add.at(used, where[self.vm_double] ^ 1, need[self.vm_double])
            found.append((capacity - used).astype(np.int32))
        return found[0], found[1]

    def arrays(self) -> list[NDArray[np.generic]]:
        """Everything in it that is a number, for a fingerprint."""
        return [value for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)]


MOST = 2**31 - 1


def check_snapshot(snapshot: Snapshot, where: str = "", error: type[VirtgymError] = VirtgymError) -> Snapshot:
    """Refuse a snapshot that cannot be; it is returned.

    Args:
        snapshot: The snapshot.
        where: What the message begins with: the file.
        error: Kind of the error.

    Raises:
        VirtgymError: Of that kind, in one line that names the VM or host.
    """
    s = snapshot

    def fail(text: str) -> VirtgymError:
        return error(f"{where or s.name}: {text}")

    if s.nodes_per_host not in (1, 2):
        raise fail(f"{s.nodes_per_host} NUMA nodes a host: must be 1 or 2")
    if s.n_hosts == 0 or s.n_vms == 0:
        raise fail("needs at least one host and one VM")
    for what, values in (("CPU", s.vm_cpu), ("memory", s.vm_mem)):
        if bool((values < 0).any()):
            v = int(np.argmax(values < 0))
            raise fail(f"VM {s.vm_name(v)}: negative {what}")
    for v in np.flatnonzero((s.vm_node < 0) | (s.vm_node >= s.n_nodes))[:1].tolist():
        raise fail(f"VM {s.vm_name(v)}: is on no host of the {s.n_hosts}")
    wrong = s.vm_double & ((s.vm_node % 2 == 1) | (s.nodes_per_host == 1))
    for v in np.flatnonzero(wrong)[:1].tolist():
        raise fail(f"VM {s.vm_name(v)}: takes two nodes, and stands on one")
    for what, unit, free in zip(("cores", "MiB"), (MILLI, 1), s.free()):
        for a in np.flatnonzero(free < 0)[:1].tolist():
            host = f"host {s.host_name(a // s.nodes_per_host)}, node {a % s.nodes_per_host}"
            raise fail(f"{host}: its VMs take {-free[a] / unit:g} more {what} than it has")
    grouped = np.flatnonzero(s.vm_group >= 0)
    pairs = s.vm_group[grouped].astype(np.int64) * s.n_hosts + s.vm_node[grouped] // s.nodes_per_host
    _, first, count = np.unique(pairs, return_index=True, return_counts=True)
    for i in np.flatnonzero(count > 1)[:1].tolist():
        v = int(grouped[first[i]])
        host = s.host_name(int(s.vm_node[v]) // s.nodes_per_host)
        raise fail(f"VM {s.vm_name(v)}: another VM of its anti-affinity group is on host {host}, too")
    return s
