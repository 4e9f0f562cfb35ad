"""How good plans of consolidation are, and how well proven, on real intervals: objective, bound, gap, time.

python -m virtgym.experiments.bench.consolidation --trace DAY_FOLDER [DAY_FOLDER ...]

An instance is a day at some hour: the demand measured then, and the placement that arrival left behind
(nobody has moved anything since). The small ones are every n-th VM of the day, spread over fewer hosts by
memory (worst fit decreasing); the full one is all of it on 800 hosts, with the literature's first fit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.simulator import Simulator
from virtgym.policies.planning.power import power_tables
from virtgym.policies.solvers.consolidation import ConsolidationResult, pack_decreasing, solve_consolidation
from virtgym.policies.solvers.model import ConsolidationProblem, evaluate

SIZES: tuple[tuple[int | None, int], ...] = ((100, 40), (300, 100), (None, 800))
"""VMs (None = all of the day) and hosts, the sizes of the table."""

COLUMNS = ("day", "memory", "VMs x hosts", "horizon", "stay", "FFD", "BFD", "limit", "plan", "bound", "gap",
           "seconds", "hosts", "moves")  # fmt: skip


def real_interval(trace: str | None, hours: float) -> Simulator:
    """The literature's cluster as it is some hours into a day, nothing moved since arrival.

    Args:
        trace: A PlanetLab day folder; None = the generated day.
        hours: Time of the day.
    """
    overrides: dict[str, Any] = {"memory": "binding"}
    if trace is not None:
        overrides["trace.path"] = trace
    simulator = build_scenario("planetlab", overrides=overrides).simulator()
    simulator.advance(hours * 3600.0)
    return simulator


def problem_of(
    simulator: Simulator,
    *,
    n_vms: int | None = None,
    n_hosts: int | None = None,
    memory: str = "binding",
    cpu_share: float = 0.8,
    horizon_s: float = 300.0,
) -> ConsolidationProblem:
    """The consolidation problem of a cluster as it is, or of a part of it.

    Args:
        simulator: The cluster; VMs that have no host are left out.
        n_vms: VMs, evenly picked from all; they are spread over the hosts anew. None = all, where they are.
        n_hosts: Hosts, the first ones; with ``n_vms`` only.
        memory: ``binding`` or ``ignored``.
        cpu_share: Share of a host's CPU that may be planned for.
        horizon_s: Time that a plan is judged over, s.
    """
    p, s = simulator.params, simulator.state
    vms, hosts = np.flatnonzero(s.vm_host >= 0), np.arange(len(p.host_cpu_mhz))
    vm_host = s.vm_host[vms].astype(np.int64)
    if n_vms is not None:
        vms = vms[np.linspace(0, len(vms) - 1, n_vms).round().astype(np.int64)]
        hosts = hosts[:n_hosts]
        vm_host = _spread(p.vm_mem_mib[vms], p.host_mem_mib[hosts])
    host_mem = p.host_mem_mib[hosts] if memory == "binding" else np.full(len(hosts), np.inf)
    return ConsolidationProblem(
        vm_cpu_mhz=np.minimum(s.vm_demand_mhz, p.vm_cpu_mhz)[vms],
        vm_mem_mib=p.vm_mem_mib[vms],
        vm_host=vm_host,
        host_cpu_mhz=p.host_cpu_mhz[hosts],
        host_mem_mib=host_mem,
        host_power=p.host_type[hosts].astype(np.int64),
        power_w=power_tables(p),
        horizon_s=horizon_s,
        cpu_share=cpu_share,
    )


def _spread(vm_mem: NDArray[np.float64], host_mem: NDArray[np.float64]) -> NDArray[np.int64]:
    """Worst fit decreasing by memory: every VM on the host with the most left."""
    left, found = host_mem.copy(), np.empty(len(vm_mem), dtype=np.int64)
    for v in np.argsort(-vm_mem, kind="stable").tolist():
        found[v] = int(left.argmax())
        left[found[v]] -= vm_mem[v]
    return found


def _rows(problem: ConsolidationProblem, limits: Sequence[float], workers: int) -> list[dict[str, Any]]:
    """Solve one instance at every limit."""
    packed = [evaluate(problem, pack_decreasing(problem, best_fit=best)) for best in (False, True)]
    rows = []
    for limit in limits:
        result = solve_consolidation(problem, time_limit_s=limit, workers=workers)
        rows.append(_row(result, limit) | {"ffd_j": packed[0].objective_j, "bfd_j": packed[1].objective_j})
    return rows


def _row(result: ConsolidationResult, limit: float) -> dict[str, Any]:
    return {
        "limit_s": limit,
        "objective_j": result.objective_j,
        "bound_j": result.bound_j,
        "gap": result.gap,
        "seconds": result.seconds,
        "status": result.status,
        "source": result.source,
        "rounds": result.rounds,
        "hosts": result.evaluation.n_on,
        "migrations": result.evaluation.migrations,
        "stay_j": result.stay.objective_j,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    plan = row["objective_j"]

    def above(value: float) -> str:
        return f"+{100.0 * (value / plan - 1.0):.1f} %"

    return [
        row["day"], row["memory"], f"{row['n_vms']:,} x {row['n_hosts']}", f"{row['horizon_s']:.0f} s",
        above(row["stay_j"]), above(row["ffd_j"]), above(row["bfd_j"]), f"{row['limit_s']:g} s",
        f"{plan / 1e3:,.1f}", f"{row['bound_j'] / 1e3:,.1f}", f"{100.0 * row['gap']:.3f} %",
        f"{row['seconds']:.2f}", f"{row['hosts']}", f"{row['migrations']}",
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m virtgym.experiments.bench.consolidation", description=__doc__
    )
    parser.add_argument("--trace", nargs="+", help="PlanetLab day folders (default: a generated day)")
    parser.add_argument("--hours", type=float, nargs="+", default=[8.0], help="times of the day")
    parser.add_argument("--limits", type=float, nargs="+", default=[1.0, 5.0, 30.0], help="time limits, s")
    parser.add_argument("--memory", nargs="+", choices=("binding", "ignored"), default=["binding", "ignored"])
    parser.add_argument("--horizon", type=float, nargs="+", default=[300.0], help="horizons of the plan, s")
    parser.add_argument("--cpu-share", type=float, default=0.8, help="share of a host's CPU to plan for")
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1, 2], help=f"which of {SIZES}")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2))
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Solve, and print the table; objective and bound in kJ, the others relative to the plan."""
    options = _parser().parse_args(argv)
    table = Table(title="consolidation (plan and bound in kJ; stay, FFD, BFD relative to the plan)")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("day", "memory") else "right")
    found: list[dict[str, Any]] = []
    for trace in options.trace or [None]:
        for hours in options.hours:
            simulator = real_interval(trace, hours)
            for size in options.sizes:
                n_vms, n_hosts = SIZES[size]
                day = f"{Path(trace).name if trace else 'generated'} {hours:g} h"
                for memory in options.memory:
                    for horizon in options.horizon:
                        problem = problem_of(
                            simulator, n_vms=n_vms, n_hosts=n_hosts, memory=memory,
                            cpu_share=options.cpu_share, horizon_s=horizon,
                        )  # fmt: skip
                        about = {
                            "day": day, "memory": memory, "horizon_s": horizon,
                            "n_vms": problem.n_vms, "n_hosts": problem.n_hosts,
                        }  # fmt: skip
                        for row in _rows(problem, options.limits, options.workers):
                            found.append(about | row)
                            table.add_row(*_cells(found[-1]))
    Console(width=180).print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
