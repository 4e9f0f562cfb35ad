"""Indices into ``ClusterState.totals`` and ``ClusterState.counters``: what the kernels add up.

Integrals use one scheme everywhere: at the end of a segment every rate is multiplied by the whole segment's
length; an event that changed a rate ``elapsed`` seconds into the segment has already added
``(old - new) * elapsed``. The sum is the exact integral of a piecewise constant rate, and a segment without
events costs one dense pass.
"""

from __future__ import annotations

__all__ = ["C_ARRIVED", "C_HEAP", "C_LOSS", "C_MOVING", "C_ON", "C_PENDING", "C_SAMPLE", "C_SHORT"]

C_ARRIVED, C_HEAP, C_SAMPLE, C_PENDING, C_LOSS, C_MOVING, C_ON, C_SHORT = 0, 1, 2, 3, 4, 5, 6, 7
"""Counters: VMs that have arrived, events in the queue, current trace sample, VMs waiting for a host,
non-zero if some VM may get less than it demands, copies under way, hosts that are on, non-zero if some
host may be short of CPU."""

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
