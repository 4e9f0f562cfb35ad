"""Stretches of the full model in which nothing happened at all: every total, exactly.

Between two observations within one sample of the trace, with the same rates at both ends and nothing counted
in between, every integral is its rate times the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checker_parts import TOLERANCE, Report
from .power import ON
from .state import ClusterParams, ClusterState
from .totals import (
    C_BALANCED,
    C_DOWN,
    C_ON,
    C_SAMPLE,
    N_RATES,
    RATES,
    T_ACTIVE_S,
    T_ARRIVALS,
    T_BOOTS,
    T_DEPARTURES,
    T_DOWN_S,
    T_ENERGY_J,
    T_FRAGMENT_S,
    T_HOST_FAILURES,
    T_IMB_CPU_S,
    T_IMB_MEM_S,
    T_MIG_ABORTED,
    T_MIG_DONE,
    T_MIG_LOST,
    T_MIG_STARTED,
    T_MISSED,
    T_NUMA_MOVES,
    T_ON_S,
    T_PROFILE_MOVES,
    T_RATE_FIRST,
    T_RESTARTS,
    T_SAT_S,
    T_SHUTDOWNS,
    T_TAKEOVERS,
    T_VM_CRASHES,
)

__all__ = ["check_still", "fragments"]

Old = dict[str, NDArray[Any]]

RATE_ARRAYS = (
    *("host_rates", "host_power_now_w", "host_sat_now", "host_active_now", "host_power_state"),
    *("host_mem_mib", "host_ask_mhz", "host_n_in", "vm_state", "vm_host", "vm_dest", "vm_mig", "vm_down_now"),
    *("vm_miss_mhz", "vm_mig_loss_mhz", "node_vcpus", "copy_phase", "copy_rate_mib_s", "vm_secondary"),
)
"""What must be the same at both ends."""

COUNTED = (
    *(T_MIG_STARTED, T_MIG_DONE, T_MIG_ABORTED, T_BOOTS, T_SHUTDOWNS, T_ARRIVALS, T_DEPARTURES, T_RESTARTS),
    *(T_HOST_FAILURES, T_VM_CRASHES, T_TAKEOVERS, T_PROFILE_MOVES, T_NUMA_MOVES),
)
"""Totals that count what happens: migrations, boots, arrivals, failures, and so on."""

UNIT_CORES = 16.0


def check_still(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> bool:
    """Work out every total of a stretch in which nothing happened.

    Args:
        p: Parameters.
        s: State now.
        old: Arrays of the state before.
        report: Where violations go.

    Returns:
        Whether it was such a stretch.
    """
    if not _is_still(s, old):
        return False
    dt = float(s.clock[0] - old["clock"][0])
    on = s.host_power_state == ON
    added = s.totals - old["totals"]
    cpu = np.minimum(1.0, s.host_ask_mhz * p.host_inv_cpu)
    rates: list[tuple[int, str, float]] = [
        (T_ENERGY_J, "energy", float(s.host_power_now_w.sum())),
        (T_ACTIVE_S, "time with load", float(s.host_active_now.sum())),
        (T_SAT_S, "time short of CPU", float(s.host_sat_now.sum())),
        (T_ON_S, "time on", float(s.counters[C_ON])),
        (T_DOWN_S, "downtime", float(s.counters[C_DOWN])),
        (T_MISSED, "missed CPU", float(s.vm_miss_mhz.sum())),
        (T_MIG_LOST, "CPU lost to migration", float(s.vm_mig_loss_mhz.sum())),
        (T_IMB_CPU_S, "imbalance of CPU", float(cpu[on].std()) if on.any() else 0.0),
        (T_IMB_MEM_S, "imbalance of memory", _spread_mem(p, s, on)),
        (T_FRAGMENT_S, "fragments", fragments(p, s) if p.has_numa else 0.0),
    ]
    for k in range(N_RATES):
        rates.append((T_RATE_FIRST + k, RATES[k][0], float(s.host_rates[on, k].sum())))
    for index, name, rate in rates:
        # A spread near 0 is a root of a difference: half of its digits are left.
        slack = 1e-6 * dt if "imbalance" in name else 0.0
        slack += 10 * TOLERANCE * max(1.0, abs(float(s.totals[index])), rate * dt)
        if abs(float(added[index]) - rate * dt) > slack:
            report.lines.append(f"total of {name} grew by {added[index]:g}, expected {rate * dt:g}")
    return True


def _is_still(s: ClusterState, old: Old) -> bool:
    added = s.totals - old["totals"]
    counters = (C_SAMPLE, C_BALANCED)
    return (
        all(int(s.counters[i]) == int(old["counters"][i]) for i in counters)
        and not any(added[list(COUNTED)])
        and all(np.array_equal(getattr(s, name), old[name]) for name in RATE_ARRAYS)
    )


def _spread_mem(p: ClusterParams, s: ClusterState, on: Any) -> float:
    return float((s.host_mem_mib * p.host_inv_mem)[on].std()) if on.any() else 0.0


def fragments(p: ClusterParams, s: ClusterState) -> float:
    """Free CPU of the nodes that are on which cannot hold one more VM of 16 cores, over all that is free."""
    exists = np.arange(s.node_vcpus.shape[1])[None, :] < p.host_nodes[:, None]
    room = (p.node_cores * p.numa_overcommit)[:, None] - s.node_vcpus
    free = room[exists & (s.host_power_state == ON)[:, None] & (room > TOLERANCE)]
    lost = np.maximum(0.0, free - np.floor(free / UNIT_CORES + TOLERANCE) * UNIT_CORES)
    return float(lost.sum() / free.sum()) if len(free) else 0.0
