"""Generated snapshots that resemble real ones of VMR2L (EuroSys 2025): the same hosts, VMs and fragments.

Hosts have 88 cores and 368,776 MiB on two nodes. VMs are taken by cores per node, the largest first, those of
2 and 4 cores shuffled together, and each is put on a uniformly random node (a double one: host) where it
fits. That matches the start rate and the histogram of free cores of the real Medium snapshot; counts of the
other sizes and loads are in proportion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import I4, I8
from ..checks import need_choice
from ..jit.kernels import kernel
from ..sim.models.power import SPEC_POWER_W
from .snapshot import MILLI, Snapshot, check_snapshot

NODE_CORES, NODE_MIB = 44, 184_388

VM_TYPES: tuple[tuple[str, int, int, int, int], ...] = (
    ("large", 2, 4096, 337, 0),
    ("xlarge", 4, 8192, 906, 3),
    ("2xlarge", 8, 16384, 311, 57),
    ("4xlarge", 16, 32768, 184, 46),
    ("8xlarge", 32, 65536, 61, 50),
    ("16xlarge", 64, 131072, 0, 130),
    ("22xlarge", 88, 180224, 0, 4),
)
"""Name, cores, MiB, and how many there are on one node and on two, of the Medium snapshot: 2,089 VMs."""

SIZES: dict[str, tuple[int, int]] = {"medium": (279, 2089), "large": (1176, 4546)}
"""Hosts and VMs."""

LOADS: dict[str, float] = {"light": 0.5, "middle": 0.75, "heavy": 1.0}
"""Share of the VMs that there are at a load; ``heavy`` is the real one."""


def vm_counts(size: str, load: str) -> list[tuple[int, int]]:
    """How many VMs of each of ``VM_TYPES`` there are, on one node and on two.

    Raises:
        ConfigError: For a size or load that there is not.
    """
    need_choice("scenario", "size", size, tuple(SIZES))
    need_choice("scenario", "load", load, tuple(LOADS))
    counts = np.array([kind[3:] for kind in VM_TYPES], dtype=np.float64)
    total = round(SIZES[size][1] * LOADS[load])
    exact = counts * (total / counts.sum())
    whole = np.floor(exact).astype(np.int64)
    # The largest remainders are rounded up, so that the total is met.
    late = np.argsort(-(exact - whole).ravel(), kind="stable")[: total - int(whole.sum())]
    whole.ravel()[late] += 1
    return [(int(single), int(double)) for single, double in whole]


@kernel
def _place(
    cpu: I4, mem: I4, double: NDArray[np.bool_], draws: NDArray[np.float64], free: I4, room: I4, node: I4
) -> int:
    """Put VMs one after the other on random nodes; returns the first that fits nowhere, -1 = all fit."""
    feasible = np.empty(len(free), np.int32)
    for v in range(len(cpu)):
        n = 0
        step = 2 if double[v] else 1
        for a in range(0, len(free), step):
            ok = (free[a] >= cpu[v]) & (room[a] >= mem[v])
            if double[v]:
                ok = ok & (free[a + 1] >= cpu[v]) & (room[a + 1] >= mem[v])
            feasible[n] = a
            n += ok
        if n == 0:
            return v
        a = feasible[min(int(draws[v] * n), n - 1)]
        node[v] = a
        for b in range(a, a + step):
            free[b] -= cpu[v]
            room[b] -= mem[v]
    return -1


def generate_snapshot(seed: int, size: str = "medium", load: str = "heavy", groups: int = 0) -> Snapshot:
    """Generate a snapshot.

    Args:
        seed: What it is drawn from.
        size: One of ``SIZES``.
        load: One of ``LOADS``.
        groups: Anti-affinity groups, of 2 to 5 VMs each that are on different hosts.

    Raises:
        ConfigError: For a value that is not allowed.
    """
    n_hosts = SIZES[size][0] if size in SIZES else 0
    columns: list[tuple[int, int, bool, int]] = []  # cores and MiB on a node, double, how many
    for (_, cores, mib, *_), (single, double) in zip(VM_TYPES, vm_counts(size, load)):
        columns += [(cores, mib, False, single), (cores // 2, mib // 2, True, double)]
    sizes = np.array([(c, m, d) for c, m, d, n in columns for _ in range(n)], dtype=np.int64)
    rng = np.random.default_rng([seed, 15])
    # Drawn until every VM finds a place, which nearly always is the first time.
    while True:
        ranks = np.where(sizes[:, 0] <= 4, 4, sizes[:, 0])  # of 2 and 4 cores in one heap
        order = np.lexsort((rng.random(len(sizes)), -ranks))
        cores, mib, double = sizes[order].T
        cpu, mem = (cores * MILLI).astype(np.int32), mib.astype(np.int32)
        free = np.full(2 * n_hosts, NODE_CORES * MILLI, np.int32)
        room = np.full(2 * n_hosts, NODE_MIB, np.int32)
        node = np.zeros(len(cpu), np.int32)
        if _place(cpu, mem, double.astype(np.bool_), rng.random(len(cpu)), free, room, node) < 0:
            break
    group = _draw_groups(rng, node // 2, groups)
    snapshot = Snapshot(
        f"generated {size} {load}", np.full(2 * n_hosts, NODE_CORES * MILLI, np.int32),
        np.full(2 * n_hosts, NODE_MIB, np.int32), cpu, mem, double.astype(np.bool_), node,
        np.zeros(len(cpu), np.bool_), group, 2, np.zeros(n_hosts, np.int32),
        np.array([SPEC_POWER_W["dell_r740_8280"]]),
    )  # fmt: skip
    return check_snapshot(snapshot)


def _draw_groups(rng: np.random.Generator, hosts: I8 | I4, groups: int) -> I4:
    """Anti-affinity groups of VMs that are on different hosts, (V,)."""
    group = np.full(len(hosts), -1, np.int32)
    left = rng.permutation(len(hosts)).tolist()
    for g in range(groups):
        wanted = int(rng.integers(2, 6))
        taken: list[int] = []
        for v in list(left):
            if len(taken) == wanted:
                break
            if hosts[v] not in [hosts[w] for w in taken]:
                taken.append(v)
                left.remove(v)
        group[taken] = g
    return group
