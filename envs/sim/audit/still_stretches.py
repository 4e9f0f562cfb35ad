"""Stretches of the full model in which nothing happened at all: every total, exactly.

Between two observations within one sample of the trace, with the same rates at both ends and nothing counted
in between, every integral is its rate times the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..models.power import ON
from ..state.accumulators import Counters, Rates, Totals
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from .common import TOLERANCE, Report

Old = dict[str, Any]

RATE_ARRAYS = (
    *("host_rates", "host_power_now_w", "host_sat_now", "host_active_now", "host_power_state"),
    *("host_mem_mib", "host_ask_mhz", "host_n_in", "vm_state", "vm_host", "vm_dest", "vm_mig", "vm_down_now"),
    *("vm_miss_mhz", "vm_mig_loss_mhz", "node_vcpus", "copy_phase", "copy_rate_mib_s", "vm_secondary"),
)
"""What must be the same at both ends."""

COUNTED = (
    *(Totals.mig_started, Totals.mig_done, Totals.mig_aborted, Totals.boots, Totals.shutdowns),
    *(Totals.arrivals, Totals.departures, Totals.restarts),
    *(Totals.host_failures, Totals.vm_crashes, Totals.takeovers, Totals.profile_moves, Totals.numa_moves),
)
"""Totals that count what happens: migrations, boots, arrivals, failures, and so on."""

UNIT_CORES = 16.0


def check_still(p: ClusterParams, s: ClusterState, old: Old, report: Report) -> bool:
    """Work out every total of a stretch in which nothing happened.

    Args:
        s: State now.
        old: Arrays of the state before.
        report: Where violations go.

    Returns:
        Whether it was such a stretch.
    """
    if not _is_still(s, old):
        return False
    dt = float(s.clock.now_s - old["clock"].now_s)
    on = s.host_power_state == ON
    added = s.totals - old["totals"]
    cpu = np.minimum(1.0, s.host_ask_mhz * p.host_inv_cpu)
    rates: list[tuple[int, str, float]] = [
        (Totals.energy_j, "energy", float(s.host_power_now_w.sum())),
        (Totals.active_s, "time with load", float(s.host_active_now.sum())),
        (Totals.sat_s, "time short of CPU", float(s.host_sat_now.sum())),
        (Totals.on_s, "time on", float(s.counters.on)),
        (Totals.down_s, "downtime", float(s.counters.down)),
        (Totals.missed, "missed CPU", float(s.vm_miss_mhz.sum())),
        (Totals.mig_lost, "CPU lost to migration", float(s.vm_mig_loss_mhz.sum())),
        *_weighted(p, s),
        (Totals.imb_cpu_s, "imbalance of CPU", float(cpu[on].std()) if on.any() else 0.0),
        (Totals.imb_mem_s, "imbalance of memory", _spread_mem(p, s, on)),
        (Totals.fragment_s, "fragments", fragments(p, s) if p.has_numa else 0.0),
    ]
    for name, place in Rates.places.items():
        rates.append((place.number, name, float(s.host_rates[on, place.number].sum())))
    for index, name, rate in rates:
        # A spread near 0 is a root of a difference: half of its digits are left.
        slack = 1e-6 * dt if "imbalance" in name else 0.0
        slack += 10 * TOLERANCE * max(1.0, abs(float(s.totals[index])), rate * dt)
        if abs(float(added[index]) - rate * dt) > slack:
            report.lines.append(f"total of {name} grew by {added[index]:g}, expected {rate * dt:g}")
    return True


def _is_still(s: ClusterState, old: Old) -> bool:
    added = s.totals - old["totals"]
    counters = (Counters.sample, Counters.balanced)
    return (
        all(int(s.counters[i]) == int(old["counters"][i]) for i in counters)
        and not any(added[list(COUNTED)])
        and all(np.array_equal(getattr(s, name), old[name]) for name in RATE_ARRAYS)
    )


def _weighted(p: ClusterParams, s: ClusterState) -> list[tuple[int, str, float]]:
    """What service classes weigh (section 13)."""
    down = s.vm_down_now.astype(np.float64)
    miss, moved = s.vm_miss_mhz, s.vm_mig_loss_mhz
    return [
        (Totals.w_requested, "weighted demand", float((p.vm_weight * s.vm_demand_mhz).sum())),
        (Totals.w_missed, "weighted missed CPU", float((p.vm_weight * miss).sum())),
        (Totals.w_migration, "weighted CPU lost to migration", float((p.vm_weight * moved).sum())),
        (Totals.w_down, "weighted CPU missed while down", float((p.vm_weight * down * (miss - moved)).sum())),
        (Totals.w_down_s, "weighted downtime", float((p.vm_weight * down).sum())),
    ]


def _spread_mem(p: ClusterParams, s: ClusterState, on: Any) -> float:
    return float((s.host_mem_mib * p.host_inv_mem)[on].std()) if on.any() else 0.0


def fragments(p: ClusterParams, s: ClusterState) -> float:
    """Free CPU of the nodes that are on which cannot hold one more VM of 16 cores, over all that is free."""
    exists = np.arange(s.node_vcpus.shape[1])[None, :] < p.host_nodes[:, None]
    room = (p.node_cores * p.numa_overcommit)[:, None] - s.node_vcpus
    free = room[exists & (s.host_power_state == ON)[:, None] & (room > TOLERANCE)]
    lost = np.maximum(0.0, free - np.floor(free / UNIT_CORES + TOLERANCE) * UNIT_CORES)
    return float(lost.sum() / free.sum()) if len(free) else 0.0
