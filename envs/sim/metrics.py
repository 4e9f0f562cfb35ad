"""The metrics of model.md §11 (slatah, pdm, slav, esv: Beloglazov & Buyya, CCPE 24(13), 2012)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .state import ABSENT, ClusterParams, ClusterState
from .totals import (
    T_ENERGY_J,
    T_FAILED_PLACEMENTS,
    T_IMB_CPU_S,
    T_IMB_MEM_S,
    T_MIG_MIB,
    T_MIG_STARTED,
    T_MISSED,
    T_ON_S,
    T_REQUESTED,
    T_SHUTDOWNS,
    T_THRASH,
    T_TIME_S,
)

__all__ = ["METRICS", "StepMetrics", "summarize"]

J_PER_KWH = 3.6e6

METRICS: dict[str, str] = {
    "energy_kwh": "energy of all hosts in every power state, kWh",
    "migrations": "live migrations started",
    "slatah": "mean over hosts of (time short of CPU / time with load)",
    "pdm": "mean over VMs of (CPU lost to migration / CPU requested)",
    "slav": "slatah * pdm",
    "esv": "energy_kwh * slav",
    "sla_unserved": "unserved CPU / requested CPU",
    "active_hosts": "hosts that are on, mean over time",
    "host_shutdowns": "hosts switched off",
    "imbalance_cpu": "standard deviation of CPU load over hosts that are on, mean over time",
    "imbalance_mem": "the same of configured memory",
    "ready_pct": "time that a VM was ready but not scheduled, % (needs the vCPU scheduling sub-model)",
    "swap_mib": "memory swapped by hosts (needs the memory sub-model)",
    "downtime_s": "time that VMs had arrived but had no host, summed over VMs, s",
    "vm_availability": "1 - downtime / time since arrival, over all VMs",
    "restarts": "VMs restarted after a failure (needs the failure sub-model)",
    "failed_placements": "arrivals that fitted on no host at their time",
    "migration_data_gib": "memory copied by finished migrations, GiB",
    "thrash": "moves back to the host that a VM had left within 12 intervals",
    "carbon_kg": "CO2-equivalent (needs a carbon series), kg",
    "decision_ms_p50": "median time of the policy for one decision, ms",
    "decision_ms_p99": "99th percentile of it, ms",
    "fragment_rate": "free CPU that cannot hold one more 16-core VM (needs the NUMA sub-model)",
}
"""Every metric by its column name in result rows."""


@dataclass(frozen=True)
class StepMetrics:
    """What one interval added to the running totals.

    Attributes:
        delta: Differences of ``ClusterState.totals``, shape (32,); the indices are in ``totals.py``.
    """

    delta: NDArray[np.float64]

    def __getitem__(self, index: int) -> float:
        """One total by its index."""
        return float(self.delta[index])

    @property
    def energy_j(self) -> float:
        """Energy, J."""
        return float(self.delta[T_ENERGY_J])

    @property
    def unserved(self) -> float:
        """Unserved demand, MHz s."""
        return float(self.delta[T_MISSED])

    @property
    def requested(self) -> float:
        """Demand, MHz s."""
        return float(self.delta[T_REQUESTED])

    @property
    def migrations(self) -> int:
        """Migrations started."""
        return int(self.delta[T_MIG_STARTED])


def _ratio_mean(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> float:
    used = denominator > 0
    return float(np.mean(numerator[used] / denominator[used])) if bool(used.any()) else 0.0


def _alive_s(p: ClusterParams, s: ClusterState) -> NDArray[np.float64]:
    now = float(s.clock[0])
    alive = np.minimum(p.vm_departure_s, now) - p.vm_arrival_s
    return np.where(s.vm_state != ABSENT, alive, 0.0)


def summarize(p: ClusterParams, s: ClusterState) -> dict[str, float]:
    """Work out every metric of an episode so far.

    Args:
        p: Parameters.
        s: State.

    Returns:
        Metric by column name; NaN for those that the present sub-models cannot give.
    """
    t = s.totals
    time_s = max(float(t[T_TIME_S]), 1e-300)
    requested = float(t[T_REQUESTED])
    energy = float(s.host_energy_j.sum()) / J_PER_KWH
    slatah = _ratio_mean(s.host_sat_s, s.host_active_s)
    pdm = _ratio_mean(s.vm_mig_lost, s.vm_requested)
    down = float(s.vm_down_s.sum())
    alive = float(_alive_s(p, s).sum())
    known = {
        "energy_kwh": energy,
        "migrations": float(t[T_MIG_STARTED]),
        "slatah": slatah,
        "pdm": pdm,
        "slav": slatah * pdm,
        "esv": energy * slatah * pdm,
        "sla_unserved": float(s.vm_missed.sum()) / requested if requested > 0 else 0.0,
        "active_hosts": float(t[T_ON_S]) / time_s,
        "host_shutdowns": float(t[T_SHUTDOWNS]),
        "imbalance_cpu": float(t[T_IMB_CPU_S]) / time_s,
        "imbalance_mem": float(t[T_IMB_MEM_S]) / time_s,
        "downtime_s": down,
        "vm_availability": 1.0 - down / alive if alive > 0 else math.nan,
        "failed_placements": float(t[T_FAILED_PLACEMENTS]),
        "migration_data_gib": float(t[T_MIG_MIB]) / 1024.0,
        "thrash": float(t[T_THRASH]),
    }
    return {name: known.get(name, math.nan) for name in METRICS}
