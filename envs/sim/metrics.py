"""The metrics of docs, Metrics (slatah, pdm, slav, esv: Beloglazov & Buyya, CCPE 24(13), 2012)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .models.carbon import J_PER_KWH
from .models.cost import TERMS, Prices, write_cost
from .state.accumulators import Totals
from .state.cluster_state import ABSENT, ClusterState
from .state.parameters import ClusterParams

METRICS: dict[str, str] = {
    "cost": "sum of the cost_TERM, in the unit of scenario.cost: what a leaderboard is ordered by",
    "cost_energy": "energy_kwh times its price",
    "cost_unserved": "unserved work weighted by service class, times its price",
    "cost_outage": "weighted downtime and interruptions of VMs times their prices",
    "cost_latency": "weighted VM time over the class's I/O latency, by relative excess, priced (needs I/O)",
    "cost_dropped": "VM traffic that NICs did not let through times its price (needs I/O)",
    "cost_migrations": "migrations times their price",
    "cost_carbon": "carbon_kg times its price (needs a carbon series)",
    "unserved_weighted": "unserved CPU / requested CPU, both weighted by service class",
    "unserved_contention": "the part of unserved_weighted that shortage of CPU causes",
    "unserved_limit": "the part that VMs' limits cause (needs the CPU scheduler)",
    "unserved_capped": "the part beyond what vCPUs can do on their hosts",
    "unserved_co_stop": "the part that co-scheduling causes (needs the CPU scheduler)",
    "unserved_numa": "the part that remote memory causes (needs NUMA)",
    "unserved_memory": "the part that reclaimed memory causes (needs memory=multiplexed)",
    "unserved_mirror": "the part that mirroring causes (needs hot standby)",
    "unserved_migration": "the part that migrations cause",
    "unserved_down": "the part of VMs that wait for a host, start, or are stopped",
    "energy_kwh": "energy of all hosts in every power state, times PUE, kWh",
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
    "ready_pct": "time that vCPUs were ready but not scheduled / time of vCPUs, % (needs the full model)",
    "swap_mib": "memory swapped by hosts, mean over time, MiB (needs memory=multiplexed)",
    "downtime_s": "time that VMs had arrived and did not run, summed over VMs, s",
    "vm_availability": "1 - downtime / time since arrival, over all VMs",
    "restarts": "VMs restarted after a failure (needs failures)",
    "failed_placements": "arrivals that found no host at once, or at the first decision if the policy places",
    "migration_data_gib": "memory sent by migrations, GiB",
    "thrash": "moves back to the host that a VM had left within 12 intervals",
    "futile_moves": "migrations undone within 12 intervals, or that neither evened load nor emptied a host",
    "drs_score": "share of what a VM asked for that it got, mean over VMs, %",
    "drs_score_p05": "the same of the VM at the 5th percentile",
    "carbon_kg": "CO2-equivalent of energy_kwh, kg (needs a carbon series)",
    "decision_ms_p50": "median time of the policy for one decision, ms",
    "decision_ms_p99": "99th percentile of it, ms",
    "fragment_rate": "free CPU that cannot hold one more 16-core VM on a node, mean over time (needs NUMA)",
    "migration_stop_s": "time that migrations stopped VMs, summed over VMs, s (needs pre-copy)",
    "migration_energy_kwh": "energy of migrations, an estimate beside energy_kwh (needs pre-copy)",
    "capped_share": "demand beyond what vCPUs can do on their hosts / requested CPU (needs the full model)",
    "limited_share": "demand beyond the VMs' limits / requested CPU (needs the CPU scheduler)",
    "co_stop_share": "CPU lost to co-scheduling / requested CPU (needs the CPU scheduler)",
    "overhead_share": "CPU that hypervisors add / requested CPU (needs overhead)",
    "io_cpu_share": "CPU that interrupts add / requested CPU (needs I/O)",
    "io_latency_ms": "latency of a packet or disk request, mean over them, ms (needs I/O)",
    "net_dropped_mbps": "VM traffic that NICs did not let through, mean over time, Mbit/s (needs I/O)",
    "numa_loss": "work lost to remote memory / requested CPU (needs NUMA)",
    "remote_share": "remote share of memory accesses, weighted by CPU allocated (needs NUMA)",
    "numa_moves": "VMs moved to another node of their host (needs NUMA)",
    "memory_loss": "work lost to reclaimed memory / requested CPU (needs memory=multiplexed)",
    "shared_mib": "memory saved by page sharing, mean over time, MiB (needs memory=multiplexed)",
    "ballooned_mib": "memory in balloons, mean over time, MiB (needs memory=multiplexed)",
    "compressed_mib": "memory saved by compression, mean over time, MiB (needs memory=multiplexed)",
    "blocked_mib": "memory that VMs asked for and did not get, mean, MiB (needs memory=multiplexed)",
    "host_failures": "hosts that failed (needs failures)",
    "vm_crashes": "VMs that crashed alone (needs failures)",
    "profile_moves": "profiles of failed hosts moved to a spare (needs failures)",
    "mirror_loss": "work lost to mirroring / requested CPU (needs hot standby)",
    "takeovers": "secondaries that took over (needs hot standby)",
    "unguarded_s": "time in which the failover guarantee failed, s (needs admission)",
    "guarantee_lost": "times that events, such as failures, ended the guarantee (needs admission)",
    "guarantee_broken": "times that orders did, 0 where it is enforced (needs admission)",
}
"""Every metric by its column name in result rows; NaN where what it needs is off."""

IN_INTERVAL: tuple[str, ...] = (
    *("ready_pct", "swap_mib", "restarts", "host_failures", "takeovers", "migration_stop_s", "carbon_kg"),
    *("numa_loss", "memory_loss", "mirror_loss"),
)
"""Metrics of the full model that are also given for single intervals."""


@dataclass(frozen=True)
class StepMetrics:
    """What one interval added to the running totals.

    Attributes:
        delta: Differences of ``ClusterState.totals``.
    """

    delta: Totals

    def __post_init__(self) -> None:
        """Name the places of sums that came without names."""
        object.__setattr__(self, "delta", self.delta.view(Totals))

    def __getitem__(self, index: int) -> float:
        """One total by its index."""
        return float(self.delta[index])

    @property
    def energy_j(self) -> float:
        """Energy of the hosts (without PUE), J."""
        return float(self.delta.energy_j)

    @property
    def unserved(self) -> float:
        """Unserved demand, MHz s."""
        return float(self.delta.missed)

    @property
    def requested(self) -> float:
        """Demand, MHz s."""
        return float(self.delta.requested)

    @property
    def migrations(self) -> int:
        """Migrations started."""
        return int(self.delta.mig_started)

    @property
    def downtime_s(self) -> float:
        """Time that VMs had arrived and did not run, summed over VMs, s."""
        return float(self.delta.down_s)

    @property
    def restarts(self) -> int:
        """VMs restarted after a failure."""
        return int(self.delta.restarts)

    @property
    def host_failures(self) -> int:
        """Hosts that failed."""
        return int(self.delta.host_failures)

    @property
    def carbon_g(self) -> float:
        """CO2-equivalent, g; 0 without a carbon series."""
        return float(self.delta.carbon_g)

    @property
    def ready_share(self) -> float:
        """Share of their time that vCPUs were ready but not scheduled; 0 without the full model."""
        return _ratio(self.delta, Totals.ready, float(self.delta.vcpus))

    @property
    def swapped_mib(self) -> float:
        """Memory swapped by hosts, mean over the interval, MiB."""
        return _ratio(self.delta, Totals.swapped, float(self.delta.time_s))


def _ratio(totals: Totals, rate: int, over: float) -> float:
    """One of the totals over something; 0 over nothing."""
    return float(totals[rate]) / over if over > 0 else 0.0


def _ratio_mean(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> float:
    used = denominator > 0
    return float(np.mean(numerator[used] / denominator[used])) if bool(used.any()) else 0.0


def drs_scores(s: ClusterState) -> NDArray[np.float64]:
    """Of every VM that asked for CPU the share of it that it got until now, %, shape (n,)."""
    asked = s.vm_requested > 0
    return np.asarray(100.0 * (1.0 - s.vm_missed[asked] / s.vm_requested[asked]))


def _alive_s(p: ClusterParams, s: ClusterState) -> NDArray[np.float64]:
    now = float(s.clock.now_s)
    alive = np.minimum(p.vm_departure_s, now) - p.vm_arrival_s
    return np.where(s.vm_state != ABSENT, alive, 0.0)


def model_metrics(p: ClusterParams, totals: Totals) -> dict[str, float]:
    """What the sub-models that are on say of an episode, or of an interval.

    Args:
        totals: ``ClusterState.totals``, or what an interval added to them.

    Returns:
        Metric by column name; those of sub-models that are off are left out.
    """
    t = totals
    in_both = {"carbon_kg": float(t.carbon_g) / 1000.0} if len(p.carbon_g_kwh) else {}
    if p.has_admission:
        names = ("unguarded_s", "guarantee_lost", "guarantee_broken")
        in_both |= {name: float(getattr(t, name)) for name in names}
    if not p.full:
        return in_both  # a simple cluster has no other sub-model
    requested, time_s = float(t.requested), float(t.time_s)

    def shares(**rates: int) -> dict[str, float]:
        return {name: _ratio(t, rate, requested) for name, rate in rates.items()}

    def means(**rates: int) -> dict[str, float]:
        return {name: _ratio(t, rate, time_s) for name, rate in rates.items()}

    def counts(**indices: int) -> dict[str, float]:
        return {name: float(t[index]) for name, index in indices.items()}

    ready = 100.0 * _ratio(t, Totals.ready, float(t.vcpus))
    found = {"ready_pct": ready, **shares(capped_share=Totals.capped)}
    if p.has_cpu:
        found |= shares(limited_share=Totals.limited, co_stop_share=Totals.co_stop)
    if p.has_overhead:
        found |= shares(overhead_share=Totals.overhead)
    if p.has_numa:
        remote = _ratio(t, Totals.remote, float(t.alloc))
        fragments = float(t.fragment_s) / time_s if time_s > 0 else 0.0
        found |= shares(numa_loss=Totals.numa_loss) | counts(numa_moves=Totals.numa_moves)
        found |= {"remote_share": remote, "fragment_rate": fragments}
    if p.has_tiers:
        found |= shares(memory_loss=Totals.memory_loss)
        found |= means(swap_mib=Totals.swapped, shared_mib=Totals.shared, ballooned_mib=Totals.ballooned)
        found |= means(compressed_mib=Totals.compressed, blocked_mib=Totals.blocked)
    if p.has_io:
        latency = 1e3 * _ratio(t, Totals.latency, float(t.io_rate))
        found |= shares(io_cpu_share=Totals.io_cpu) | means(net_dropped_mbps=Totals.net_dropped)
        found["io_latency_ms"] = latency
    if p.has_precopy:
        found |= counts(migration_stop_s=Totals.mig_stop_s)
        found["migration_energy_kwh"] = float(t.mig_energy_j) / J_PER_KWH
    if p.has_failures:
        found |= counts(
            restarts=Totals.restarts, host_failures=Totals.host_failures, vm_crashes=Totals.vm_crashes
        )
        found |= counts(profile_moves=Totals.profile_moves)
    if p.has_standby:
        found |= shares(mirror_loss=Totals.mirror_loss) | counts(takeovers=Totals.takeovers)
    return found | in_both


def cost_terms(prices: Prices, pue: float, totals: Totals) -> dict[str, float]:
    """What running totals, or the difference of two, cost, by ``cost.TERMS``.

    Args:
        prices: From ``prices_of``.
        pue: Energy of the site / energy of the hosts.
        totals: ``ClusterState.totals``, or what an interval added to them.

    Returns:
        Every term; 0 for those whose sub-model is off. Their sum is the cost.
    """
    found = np.empty(len(TERMS))
    write_cost(prices, float(pue), totals, found)
    return dict(zip(TERMS, found.tolist()))


def unserved_causes(totals: Totals, full: bool) -> dict[str, float]:
    """Weighted demand that was not served, by cause, MHz s; the causes add up to ``w_missed``.

    On a simple cluster what vCPUs cannot do on their hosts is what is left of the whole.
    """
    t = totals
    found = {
        "contention": float(t.w_contention),
        "limit": float(t.w_limit),
        "capped": float(t.w_capped),
        "co_stop": float(t.w_co_stop),
        "numa": float(t.w_numa),
        "memory": float(t.w_memory),
        "mirror": float(t.w_mirror),
        "migration": float(t.w_migration),
        "down": float(t.w_down),
    }
    if not full:
        found["capped"] = max(0.0, float(t.w_missed) - sum(found.values()))
    return found


def service_metrics(p: ClusterParams, totals: Totals) -> dict[str, float]:
    """Cost and weighted unserved work of an episode, or of an interval.

    Args:
        totals: ``ClusterState.totals``, or what an interval added to them.

    Returns:
        Metric by column name; those of sub-models that are off are left out.
    """
    terms = cost_terms(p.prices.view(Prices), p.pue, totals)
    causes = unserved_causes(totals, bool(p.full))
    needs = {
        **dict.fromkeys(("latency", "dropped"), p.has_io),
        "carbon": len(p.carbon_g_kwh),
        **dict.fromkeys(("limit", "co_stop"), p.has_cpu),
        **{"numa": p.has_numa, "memory": p.has_tiers, "mirror": p.has_standby},
    }
    requested = float(totals.w_requested)
    return {
        "cost": sum(terms.values()),
        **{f"cost_{name}": value for name, value in terms.items() if needs.get(name, True)},
        "unserved_weighted": _ratio(totals, Totals.w_missed, requested),
        **{
            f"unserved_{name}": value / requested if requested > 0 else 0.0
            for name, value in causes.items()
            if needs.get(name, True)
        },
    }


def interval_metrics(p: ClusterParams, step: StepMetrics) -> dict[str, float]:
    """What an interval did, by the names of the metrics.

    Args:
        step: The interval.

    Returns:
        Six metrics of every cluster; with the full model also ``downtime_s``, ``migration_data_gib`` and
        those of ``IN_INTERVAL`` whose sub-model is on.
    """
    d = step.delta.tolist()
    found = {
        "energy_kwh": p.pue * d[Totals.energy_j] / J_PER_KWH,
        "sla_unserved": d[Totals.missed] / d[Totals.requested] if d[Totals.requested] > 0 else 0.0,
        "migrations": d[Totals.mig_started],
        "active_hosts": d[Totals.on_s] / d[Totals.time_s] if d[Totals.time_s] > 0 else 0.0,
        "host_shutdowns": d[Totals.shutdowns],
        "failed_placements": d[Totals.failed_placements],
    }
    if p.full:
        found |= {"downtime_s": d[Totals.down_s], "migration_data_gib": d[Totals.mig_mib] / 1024.0}
        model = model_metrics(p, step.delta)
        found |= {name: model[name] for name in IN_INTERVAL if name in model}
    return found


def summarize(p: ClusterParams, s: ClusterState) -> dict[str, float]:
    """Work out every metric of an episode so far.

    Returns:
        Metric by column name; NaN for those whose sub-model is off.
    """
    t = s.totals
    time_s = max(float(t.time_s), 1e-300)
    requested = float(t.requested)
    energy = p.pue * float(s.host_energy_j.sum()) / J_PER_KWH
    slatah = _ratio_mean(s.host_sat_s, s.host_active_s)
    pdm = _ratio_mean(s.vm_mig_lost, s.vm_requested)
    down = float(s.vm_down_s.sum())
    scores = drs_scores(s)
    alive = float(_alive_s(p, s).sum())
    known = {
        "energy_kwh": energy,
        "migrations": float(t.mig_started),
        "slatah": slatah,
        "pdm": pdm,
        "slav": slatah * pdm,
        "esv": energy * slatah * pdm,
        "sla_unserved": float(s.vm_missed.sum()) / requested if requested > 0 else 0.0,
        "active_hosts": float(t.on_s) / time_s,
        "host_shutdowns": float(t.shutdowns),
        "imbalance_cpu": float(t.imb_cpu_s) / time_s,
        "imbalance_mem": float(t.imb_mem_s) / time_s,
        "downtime_s": down,
        "vm_availability": 1.0 - down / alive if alive > 0 else math.nan,
        "failed_placements": float(t.failed_placements),
        "migration_data_gib": float(t.mig_mib) / 1024.0,
        "thrash": float(t.thrash),
        "drs_score": float(scores.mean()) if scores.size else math.nan,
        "drs_score_p05": float(np.percentile(scores, 5.0)) if scores.size else math.nan,
        **service_metrics(p, t),
        **model_metrics(p, t),
    }
    return {name: known.get(name, math.nan) for name in METRICS}
