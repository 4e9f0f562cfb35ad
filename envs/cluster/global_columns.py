"""The elements of the global vector: of every cluster, and those that follow with the full model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit.kernels import kernel
from ..observation_columns import Column
from ..sim.engine.segments import fragments_now
from ..sim.guarantee import margin_now
from ..sim.models.admission import SLOTS
from ..sim.models.carbon import carbon_now
from ..sim.state.cluster_state import ClusterState
from ..sim.state.parameters import ClusterParams
from .buffers import Buffers, ratio
from .columns import GlobalColumn

DAY_S = 86_400.0


@kernel
def _phase(s: ClusterState) -> Any:
    """The time of the day as an angle."""
    return 2.0 * np.pi * s.clock.now_s / DAY_S


@kernel
def _has_carbon(p: ClusterParams, s: ClusterState, b: Buffers) -> bool:
    return bool(p.carbon_g_kwh.shape[0] > 0)


@kernel
def _has_guarantee(p: ClusterParams, s: ClusterState, b: Buffers) -> bool:
    return bool(p.has_admission)


@kernel
def _margin(p: ClusterParams, s: ClusterState) -> Any:
    margin = margin_now(p, s)
    return margin / s.host_power_state.shape[0] if p.admission_rule == SLOTS else margin


GLOBAL_COLUMNS: tuple[Column, ...] = (
    GlobalColumn("day_sin", 1, "sine of the time of day", lambda p, s, b: np.sin(_phase(s)), low=-1),
    GlobalColumn("day_cos", 1, "cosine of the time of day", lambda p, s, b: np.cos(_phase(s)), low=-1),
    GlobalColumn("elapsed", 1, "time / horizon", lambda p, s, b: s.clock.now_s / b.scale.horizon_s),
    GlobalColumn("hosts_on", 1, "hosts that are on / H", lambda p, s, b: b.sums.on * b.scale.hosts),
    GlobalColumn("hosts_booting", 1, "hosts that boot / H", lambda p, s, b: b.sums.booting * b.scale.hosts),
    GlobalColumn("hosts_short", 1, "hosts short of CPU now / H",
        lambda p, s, b: b.sums.short * b.scale.hosts),
    GlobalColumn("load", 2, "CPU asked of the hosts that are on / their capacity",
        lambda p, s, b: ratio(b.sums.ask, b.sums.capacity)),
    GlobalColumn("demand", 2, "demand of all VMs / capacity of all hosts",
        lambda p, s, b: b.sums.demand * b.scale.capacity),
    GlobalColumn("memory", 2, "memory of residents and incoming VMs / memory of hosts that are on",
        lambda p, s, b: ratio(b.sums.memory, b.sums.memory_capacity)),
    GlobalColumn("power", 1, "power now / peak power of all hosts",
        lambda p, s, b: b.sums.power * b.scale.peak),
    GlobalColumn("waiting", 1, "VMs without a host / V", lambda p, s, b: s.counters.pending / len(b.vm_host)),
    GlobalColumn("migrating", 1, "migrations ordered or under way / V",
        lambda p, s, b: b.sums.migrating / len(b.vm_host)),
    GlobalColumn("unserved", 1, "unserved share of all demand in the last interval",
        lambda p, s, b: b.past.unserved),
    GlobalColumn("decisions", 1, "decisions in this interval / their limit",
        lambda p, s, b: b.choice.decisions * b.scale.limit, often=True),
    GlobalColumn("choosing_host", 1, "1: a VM is chosen, its host comes next",
        lambda p, s, b: b.choice.vm >= 0, often=True),
)  # fmt: skip
"""Elements of ``observation["globals"]`` in a simple cluster."""

FULL_GLOBAL_COLUMNS: tuple[Column, ...] = (
    GlobalColumn("hosts_standby", 1, "hosts in standby / H", lambda p, s, b: b.sums.standby / len(b.inv_cpu)),
    GlobalColumn("hosts_failed", 1, "hosts that have failed / H",
        lambda p, s, b: b.sums.failed / len(b.inv_cpu)),
    GlobalColumn("hosts_maintenance", 1, "hosts in maintenance / H",
        lambda p, s, b: b.sums.maintenance / len(b.inv_cpu)),
    GlobalColumn("spares", 1, "hosts without a profile / H (failures)",
        lambda p, s, b: b.sums.spares / len(b.inv_cpu)),
    GlobalColumn("starting", 1, "VMs that boot after a failure / V",
        lambda p, s, b: b.sums.starting / len(b.vm_host)),
    GlobalColumn("restarting", 1, "VMs down after a failure without a host, noticed or not / V (failures)",
        lambda p, s, b: b.sums.restarting / len(b.vm_host)),
    GlobalColumn("down", 1, "VMs that have arrived and do not run now / V",
        lambda p, s, b: s.counters.down / len(b.vm_host)),
    GlobalColumn("copying", 1, "copies under way / V", lambda p, s, b: s.counters.moving / len(b.vm_host)),
    GlobalColumn("unprotected", 1, "protected VMs without a secondary / V (hot standby)",
        lambda p, s, b: b.sums.unprotected / len(b.vm_host)),
    GlobalColumn("ready", 1, "share of their time that all vCPUs are ready but not scheduled",
        lambda p, s, b: ratio(b.sums.ready, b.sums.vcpus)),
    GlobalColumn(
        "memory_free", 1, "free memory after reclamation / memory, of hosts that are on (memory tiers)",
        lambda p, s, b: ratio(b.sums.free_mib, b.sums.memory_capacity),
    ),
    GlobalColumn("swapped", 1, "memory swapped / memory, of hosts that are on (memory tiers)",
        lambda p, s, b: ratio(b.sums.swapped_mib, b.sums.memory_capacity)),
    GlobalColumn("nic", 1, "traffic sent and received / twice the line rate, of hosts that are on",
        lambda p, s, b: ratio(b.sums.traffic, b.sums.line_rate)),
    GlobalColumn("fragments", 1, "free CPU that cannot hold one more 16-core VM on a node (NUMA)",
        lambda p, s, b: fragments_now(p, s)),
    GlobalColumn("guarantee", 1,
        "margin of the failover guarantee, fails below 0: slots / H, or a share (admission)",
        lambda p, s, b: _margin(p, s), _has_guarantee, low=-1),
    GlobalColumn("carbon", 1, "carbon intensity now / the highest of the series",
        lambda p, s, b: ratio(carbon_now(p, s.clock.now_s), p.carbon_g_kwh.max()), _has_carbon),
)  # fmt: skip
"""Elements that follow with the full model."""
