"""Indices into ``ClusterState.totals`` and ``ClusterState.counters``: what the kernels add up.

Integrals use one scheme everywhere: at the end of a segment every rate is multiplied by the whole segment's
length; an event that changed a rate ``elapsed`` seconds into the segment has already added
``(old - new) * elapsed``. The sum is the exact integral of a piecewise constant rate, and a segment without
events costs one dense pass.
"""

from __future__ import annotations

__all__ = [
    "C_ARRIVED",
    "C_BALANCED",
    "C_DOWN",
    "C_FAULT",
    "C_FRESH",
    "C_HEAP",
    "C_JUDGED",
    "C_LOSS",
    "C_MOVING",
    "C_NEXT_COPY",
    "C_ON",
    "C_PENDING",
    "C_SAMPLE",
    "C_SHORT",
    "FRESH",
    "N_COUNTERS",
    "N_RATES",
    "N_TOTALS",
    "PIECES_FRESH",
    "RATES",
    "T_RATE_FIRST",
]

C_ARRIVED, C_HEAP, C_SAMPLE, C_PENDING, C_LOSS, C_MOVING, C_ON, C_SHORT = 0, 1, 2, 3, 4, 5, 6, 7
"""Counters: VMs that have arrived, events in the queue, current trace sample, VMs waiting for a host,
non-zero if some VM may get less than it demands, copies under way, hosts that are on, non-zero if some
host may be short of CPU."""

C_DOWN, C_FAULT, C_BALANCED, C_NEXT_COPY = 8, 9, 10, 11
"""VMs whose downtime runs, faults that have happened, trace sample at which NUMA nodes were last levelled
(plus one), VM of the copy whose phase ends next (-1 = none)."""

C_FRESH = 12
"""Whether the rates of every host have been worked out at this instant: 0, ``FRESH`` or ``PIECES_FRESH``."""

C_JUDGED = 13
"""VMs that have arrived and of which it is known whether the policy gave them a host at its first chance."""

FRESH, PIECES_FRESH = 1, 2
"""All of them at once; the same, and some of them alone since then: the network as a whole may look different
to a bit."""

N_COUNTERS, N_TOTALS = 16, 64
"""Length of ``counters`` and ``totals``."""

T_ENERGY_J = 0
T_REQUESTED = 1  # MHz s
T_MISSED = 2  # MHz s
T_MIG_LOST = 3  # MHz s
T_MIG_STARTED = 4
T_MIG_DONE = 5
T_MIG_MIB = 6
T_BOOTS = 7
T_SHUTDOWNS = 8
T_ARRIVALS = 9
T_DEPARTURES = 10
T_FAILED_PLACEMENTS = 11
T_THRASH = 12
T_ON_S = 13  # host s in state ON
T_ACTIVE_S = 14  # host s on with load
T_SAT_S = 15  # host s short of CPU
T_DOWN_S = 16  # VM s without a host
T_IMB_CPU_S = 17  # s-weighted standard deviation of CPU load over hosts that are on
T_IMB_MEM_S = 18
T_TIME_S = 19
T_ILLEGAL = 20
T_MIG_ABORTED = 21
T_MIG_STOP_S = 22  # VM s stopped by a migration
T_MIG_ENERGY_J = 23  # estimate of Liu et al. 2011, beside the hosts' energy
T_RESTARTS = 24
T_HOST_FAILURES = 25
T_VM_CRASHES = 26
T_TAKEOVERS = 27
T_PROFILE_MOVES = 28
T_CARBON_G = 29
T_FRAGMENT_S = 30  # s-weighted fragment rate
T_NUMA_MOVES = 31
T_RATE_FIRST = 32  # the totals of RATES follow

RATES: tuple[tuple[str, str], ...] = (
    ("ready", "vCPUs ready and not scheduled"),
    ("vcpus", "vCPUs of running VMs"),
    ("limited", "demand beyond the VMs' limits, MHz"),
    ("capped", "demand beyond what vCPUs can do on their hosts, MHz"),
    ("co_stop", "allocated and lost to co-scheduling, MHz"),
    ("overhead", "CPU that hypervisors add, MHz"),
    ("io_cpu", "CPU that interrupts add, MHz"),
    ("numa_loss", "work lost to remote memory, MHz"),
    ("memory_loss", "work lost to memory tiers, MHz"),
    ("mirror_loss", "work lost to mirroring, MHz"),
    ("shared", "memory shared, MiB"),
    ("ballooned", "memory in balloons, MiB"),
    ("compressed", "memory saved by compression, MiB"),
    ("swapped", "memory swapped by hosts, MiB"),
    ("blocked", "memory never allocated, MiB"),
    ("remote", "remote share of accesses, weighted by CPU allocated, MHz"),
    ("alloc", "CPU allocated to VMs, MHz"),
    ("net_dropped", "traffic that NICs did not let through, Mbit/s"),
    ("latency", "latency times rate of packets and requests"),
    ("io_rate", "packets and disk requests, 1/s"),
)
"""What a host adds to the totals in a second, in the order of ``ClusterState.host_rates``; total k stands at
``T_RATE_FIRST + k``."""

N_RATES = len(RATES)

R_READY, R_VCPUS, R_LIMITED, R_CAPPED, R_CO_STOP, R_OVERHEAD, R_IO_CPU = 0, 1, 2, 3, 4, 5, 6
R_NUMA_LOSS, R_MEMORY_LOSS, R_MIRROR_LOSS, R_SHARED, R_BALLOONED, R_COMPRESSED = 7, 8, 9, 10, 11, 12
R_SWAPPED, R_BLOCKED, R_REMOTE, R_ALLOC, R_NET_DROPPED, R_LATENCY, R_IO_RATE = 13, 14, 15, 16, 17, 18, 19
