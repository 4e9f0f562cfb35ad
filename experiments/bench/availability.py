"""What standby buys: availability without it, cold, hot and stateless, simulated and in closed form.

    python -m virtgym.experiments.bench.availability [--days 200] [--seeds 20]

Eight hosts that fail independently, up and down times exponential with the means of LANL05 (MTBF 1,780 h,
MTTR 5.9 h), one VM on each. A VM alternates between up and out; up times are exponential again wherever it
restarts, so that by the renewal theorem, to first order in outage / MTBF,

    A = MTBF / (MTBF + outage)

    none       outage = MTTR + E[max(b, W)] + vm_boot       it restarts where it was, when the host is mended
    cold       outage = detect + placement + vm_boot        it restarts on another host
    hot        outage = takeover                            its mirror on another host goes on
    stateless  outage = detect + associate + E[max(b, W)] + vm_boot     its host's identity moves to a spare

with b the boot time of a host. Where the policy restarts VMs it decides once per interval T; the wait W for
it, from the moment at which the host begins to boot, is uniform in 0...T, so E[max(b, W)] = b + (T - b)² / 2T
for b <= T and b beyond. ``hot`` holds while a mirror is alive, ``stateless`` while a spare is free.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.failures import FailureConfig
from virtgym.envs.sim.models.recovery import RecoveryConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.workload import Workload
from virtgym.policies.ha.policy import HaPolicy

from ..analysis.stats import Interval, stratified_bootstrap

MODES: tuple[str, ...] = ("none", "cold", "hot", "stateless")

DAY_S, YEAR_MIN = 86_400.0, 525_960.0
N_HOSTS, N_SPARES = 8, 2
HOST = HostType("host", 16, 2700.0, 65_536.0, "dell_r740_8280", nic_mbps=10_000.0)
FAILURES = FailureConfig("exponential")
RECOVERY = RecoveryConfig()
STANDBY = StandbyConfig()


@dataclass(frozen=True)
class AvailabilityRow:
    """One mode in the table.

    Attributes:
        mode: One of ``MODES``.
        availability: Mean over seeds with a bootstrap interval.
        analytic: The closed form.
        outage_s: Mean length of an outage, s; NaN without one.
        analytic_outage_s: The same in closed form, s.
        outages: Restarts and take-overs in all runs.
        host_failures: Failures of hosts in all runs.
    """

    mode: str
    availability: Interval
    analytic: float
    outage_s: float
    analytic_outage_s: float
    outages: int
    host_failures: int


def mean_outage_s(mode: str, interval_s: float = 900.0) -> float:
    """Mean outage of a VM in closed form, s; see the module.

    Args:
        mode: One of ``MODES``.
        interval_s: Time between two decisions of the policy, s.
    """
    r, boot, wait = RECOVERY, HOST.boot_time_s, interval_s
    up = boot if boot > wait else boot + (wait - boot) ** 2 / (2.0 * wait)
    return {
        "none": FAILURES.mttr_h * 3600.0 + up + r.boot_s,
        "cold": r.detect_s + r.placement_s + r.boot_s,
        "hot": STANDBY.takeover_s,
        "stateless": r.detect_s + r.associate_s + up + r.boot_s,
    }[mode]


def analytic_availability(mode: str, interval_s: float = 900.0) -> float:
    """MTBF / (MTBF + outage).

    Examples:
        >>> [round(analytic_availability(mode), 7) for mode in MODES]
        [0.9966123, 0.9999883, 0.9999998, 0.9998195]
    """
    mtbf_s = FAILURES.mtbf_h * 3600.0
    return mtbf_s / (mtbf_s + mean_outage_s(mode, interval_s))


def _simulator(mode: str, days: float, interval_s: float) -> Simulator:
    spares = N_SPARES if mode == "stateless" else 0
    cluster = ClusterConfig(
        host_types=(HOST,),
        host_type_of=np.zeros(N_HOSTS + spares, dtype=np.int32),
        interval_s=interval_s,
        arrival="worst_fit",
        failures=FAILURES,
        recovery=RECOVERY,
        restart="policy" if mode in ("none", "stateless") else "first_fit",
        spares=tuple(range(N_HOSTS, N_HOSTS + spares)),
        standby=STANDBY if mode == "hot" else None,
    )
    n = N_HOSTS
    workload = Workload(
        name="steady",
        sample_s=days * DAY_S,
        util=np.full((1, n), 0.3),
        vm_cpu_mhz=np.full(n, 5000.0),
        vm_vcpus=np.full(n, 2, dtype=np.int32),
        vm_mem_mib=np.full(n, 8192.0),
        vm_arrival_s=np.zeros(n),
        vm_departure_s=np.full(n, np.inf),
        profiles=(GuestProfile(protected=mode == "hot"),),
    )
    return Simulator(cluster, workload)


def simulate_availability(mode: str, seed: int, days: float = 200.0, interval_s: float = 900.0) -> Simulator:
    """Run one episode to its end.

    Args:
        mode: One of ``MODES``.
        seed: Seed of the failures; the same for all modes, which then have the same failures.
        days: Simulated time, days.
        interval_s: Time between two decisions, s.

    Returns:
        The simulator at the end.
    """
    sim = _simulator(mode, days, interval_s)
    view = sim.reset(np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0]))
    if mode == "cold":  # the engine's own rule restarts at once
        sim.run()
        return sim
    policy = HaPolicy(failover="cluster" if mode == "hot" else "home")
    policy.reset(view, np.random.default_rng(seed))
    while not sim.done:
        sim.step(policy.plan(view))
    return sim


def availability_table(
    days: float = 200.0, seeds: int = 20, interval_s: float = 900.0, modes: Sequence[str] = MODES
) -> list[AvailabilityRow]:
    """Simulate every mode and compare with the closed form.

    Args:
        days: Simulated time of a run, days.
        seeds: Runs per mode.
        interval_s: Time between two decisions, s.
        modes: Which.
    """
    rows = []
    for mode in modes:
        values, down_s = [], 0.0
        totals = np.zeros(3, dtype=np.int64)
        for seed in range(seeds):
            sim = simulate_availability(mode, seed, days, interval_s)
            values.append(sim.metrics()["vm_availability"])
            down_s += float(sim.state.vm_down_s.sum())
            t = sim.state.totals
            totals += np.array([t.restarts, t.takeovers, t.host_failures]).astype(np.int64)
        outages = int(totals[0] + totals[1])
        rows.append(
            AvailabilityRow(
                mode=mode,
                availability=stratified_bootstrap([values], np.random.default_rng(0)),
                analytic=analytic_availability(mode, interval_s),
                outage_s=down_s / outages if outages else np.nan,
                analytic_outage_s=mean_outage_s(mode, interval_s),
                outages=outages,
                host_failures=int(totals[2]),
            )
        )
    return rows


def to_markdown(rows: Sequence[AvailabilityRow]) -> str:
    """The table in Markdown; minutes without service are per VM and year."""
    lines = [
        "| standby | availability | 95 % interval | closed form | min/year | closed form | outages "
        "| mean outage, s | closed form |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        a = row.availability
        lines.append(
            f"| {row.mode} | {a.estimate:.7f} | {a.low:.7f} – {a.high:.7f} | {row.analytic:.7f} "
            f"| {(1 - a.estimate) * YEAR_MIN:.1f} | {(1 - row.analytic) * YEAR_MIN:.1f} | {row.outages} "
            f"| {row.outage_s:.1f} | {row.analytic_outage_s:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Availability without standby, cold, hot and stateless.")
    parser.add_argument("--days", type=float, default=200.0, help="simulated days of a run (default 200)")
    parser.add_argument("--seeds", type=int, default=20, help="runs per mode (default 20)")
    parser.add_argument("--interval", type=float, default=900.0, help="s between two decisions (default 900)")
    given = parser.parse_args(arguments)
    if given.days <= 0 or given.seeds < 1 or given.interval <= 0:
        print("--days, --seeds and --interval must be positive", file=sys.stderr)
        return 2
    print(to_markdown(availability_table(given.days, given.seeds, given.interval)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
