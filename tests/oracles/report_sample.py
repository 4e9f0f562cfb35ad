"""Writes a run folder like ``virtgym benchmark`` does, from short real episodes of simple policies.

Not a test: the report's tests load it by path, because tests cannot import a sibling module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.accumulators import Totals
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING
from virtgym.experiments.run.folder import cell_name

__all__ = ["SAMPLE_POLICIES", "write_sample_run"]

Plan = Callable[[ClusterView, np.random.Generator], Decisions]


@dataclass(frozen=True)
class Consolidate:
    """Each interval empties a few of the least loaded hosts into fuller ones and switches empty hosts off.

    Attributes:
        moves: Moves per interval.
        ceiling: CPU load up to which a destination is filled.
        off: Whether empty hosts are switched off.
    """

    moves: int
    ceiling: float
    off: bool = True

    def __call__(self, view: ClusterView, rng: np.random.Generator) -> Decisions:
        s, p = view.state, view.params
        on = s.host_power_state == 2
        demand = s.host_demand_mhz.copy()
        memory = s.host_mem_mib.copy()
        load = demand / p.host_cpu_mhz
        movable = np.flatnonzero((s.vm_state == RUNNING) & (s.vm_mig == 0))
        movable = movable[np.argsort(load[s.vm_host[movable]] + 0.05 * rng.random(len(movable)))]
        vms, hosts = [], []
        for vm in movable[: self.moves]:
            fits = on & (memory + p.vm_mem_mib[vm] <= p.host_mem_mib)
            fits &= (demand + s.vm_demand_mhz[vm] <= self.ceiling * p.host_cpu_mhz) & (s.host_n_vms > 0)
            fits[s.vm_host[vm]] = False
            fits &= load >= load[s.vm_host[vm]]
            if fits.any():
                dest = int(np.argmax(np.where(fits, load, -1.0)))
                demand[dest] += s.vm_demand_mhz[vm]
                memory[dest] += p.vm_mem_mib[vm]
                vms.append(int(vm))
                hosts.append(dest)
        empty = on & (s.host_n_vms == 0) & (s.host_n_in == 0) if self.off else np.zeros(len(on), bool)
        empty[hosts] = False
        spare = np.flatnonzero(empty)[1:]
        return Decisions(
            move_vm=np.array(vms, np.int32),
            move_host=np.array(hosts, np.int32),
            power_off=spare.astype(np.int32),
        )


SAMPLE_POLICIES: dict[str, Plan] = {
    "static": lambda view, rng: Decisions(),
    "switch-off": Consolidate(0, 1.0),
    "thr-mmt": Consolidate(4, 0.80),
    "iqr-mc": Consolidate(4, 0.90),
    "ols-mmt": Consolidate(8, 0.85),
    "loess-mmt": Consolidate(8, 0.95),
    '<b>evil & "quoted"': Consolidate(16, 1.05),
    "runs/ppo/agent": Consolidate(2, 0.7, off=False),
}


def _step_row(sim: Simulator, d: Totals, n: int, before_s: float, ms: float) -> dict[str, float]:
    s, p = sim.state, sim.params
    span = sim.time_s - before_s
    on = s.host_power_state == 2
    load = s.host_demand_mhz[on] / p.host_cpu_mhz[on]
    return {
        "step": n,
        "time_s": before_s,
        "hosts_on": float(d.on_s) / span,
        "power_w": float(d.energy_j) / span,
        "energy_kwh": float(d.energy_j) / 3.6e6,
        "cpu_load": float(s.host_demand_mhz.sum() / max(p.host_cpu_mhz[on].sum(), 1.0)),
        "demand_mhz": float(d.requested) / span,
        "unserved_mhz": float(d.missed) / span,
        "saturated_hosts": float(s.host_sat_now.sum()),
        "migrations": float(d.mig_started),
        "boots": float(d.boots),
        "shutdowns": float(d.shutdowns),
        "vms_running": float((s.vm_state == RUNNING).sum()),
        "vms_waiting": float((s.vm_state == PENDING).sum()),
        "imbalance_cpu": float(load.std()) if len(load) else 0.0,
        "imbalance_mem": 0.0,
        "decision_ms": ms,
    }


def _heat_column(sim: Simulator) -> NDArray[np.uint8]:
    s, p = sim.state, sim.params
    used = np.clip(s.host_demand_mhz / p.host_cpu_mhz, 0.0, 1.0)
    column = np.rint(200.0 * used).astype(np.uint8)
    column[s.host_sat_now > 0] = 253
    column[(s.host_power_state == 1) | (s.host_power_state == 3)] = 254
    column[s.host_power_state == 0] = 255
    return column


def _episode(
    scenario: Scenario, policy: str, seed: int, max_steps: int
) -> tuple[dict[str, Any], list[dict[str, Any]], NDArray[np.uint8]]:
    sim = scenario.simulator()
    rng = np.random.default_rng(seed)
    keys: dict[str, Any] = {
        "scenario": scenario.name,
        "trace": scenario.trace.name,
        "policy": policy,
        "seed": seed,
    }
    steps: list[dict[str, Any]] = []
    columns = []
    while not sim.done and len(steps) < max_steps:
        before = sim.time_s
        ms = 0.2 + 0.1 * rng.random()
        decisions = SAMPLE_POLICIES[policy](sim.view, rng)
        delta = sim.step(decisions).delta
        steps.append({**keys, **_step_row(sim, delta, len(steps), before, ms)})
        columns.append(_heat_column(sim))
    row = {
        **keys,
        "window": math.nan,
        "finished": True,
        "steps": len(steps),
        "sim_hours": sim.time_s / 3600.0,
        "wall_s": 0.05,
        "vm_intervals_per_s": scenario.workload.n_vms * len(steps) / 0.05,
        "config_hash": "0123abcd",
        "virtgym_version": "0.1.0",
        **sim.metrics(),
        "decision_ms_p50": 0.25,
        "decision_ms_p99": float(np.quantile([s["decision_ms"] for s in steps], 0.99)),
        "kind": "agent" if policy == "runs/ppo/agent" else "rule",
        "memory": scenario.config.memory,
        "n_hosts": sim.config.n_hosts,
        "n_vms": scenario.workload.n_vms,
    }
    return row, steps, np.stack(columns, axis=1)


def _multiply(
    rows: list[dict[str, Any]], steps: list[dict[str, Any]], policies: Sequence[str], copies: int
) -> None:
    """Add policies that repeat the rows of those that move, scaled a little."""
    rng = np.random.default_rng(0)
    moving = [r for r in rows if r["migrations"] > 0]
    for number in range(copies):
        factor = float(rng.lognormal(0.0, 0.3))
        source = moving[number % len(policies[2:])]["policy"] if moving else policies[0]
        name = f"variant-{number:02d}"
        rows += [
            {
                **r,
                "policy": name,
                "energy_kwh": r["energy_kwh"] / factor**0.5,
                "slav": r["slav"] * factor,
                "esv": r["esv"] * factor**0.5,
                "migrations": r["migrations"] * factor,
            }
            for r in rows
            if r["policy"] == source
        ]
        steps += [
            {**s, "policy": name, "hosts_on": s["hosts_on"] / factor**0.3}
            for s in steps
            if s["policy"] == source
        ]


def _reasons(n: int) -> dict[str, Any]:
    """What a policy could have told in n intervals: a forecast of the next one, and a choice in each."""
    demand = 9000.0 + 1000.0 * np.sin(np.arange(n) / 5.0)
    return {
        "forecast": np.stack([demand, demand - 200.0, np.full(n, 300.0)], axis=1).astype(np.float32),
        "forecast_steps": np.array(1),
        "forecaster": np.array("ewma"),
        "choices": np.stack([np.arange(n), np.arange(n) % 2, np.full(n, 2), np.zeros(n)], axis=1).astype(int),
        "choice_values": np.tile(np.array([0.7, 0.2]), (n, 1)),
        "choice_slots": np.array(["nothing", "empty"]),
        "choice_offered": np.array([n, n]),
        "choice_mean": np.array([0.6, 0.3]),
        "choice_measure": np.array("probability"),
    }


def write_sample_run(
    folder: Path,
    *,
    scenario: str = "small",
    policies: Sequence[str] = tuple(SAMPLE_POLICIES),
    seeds: Sequence[int] = (0, 1, 2),
    max_steps: int = 72,
    copies: int = 0,
) -> Path:
    """Simulate and write ``results.parquet``, ``steps.parquet``, ``heat/``, ``run.json`` and ``config.yaml``.

    Args:
        folder: Where to; made.
        scenario: One that ships.
        policies: Keys of ``SAMPLE_POLICIES``.
        seeds: Seeds of the scenario and of the policies.
        max_steps: Longest episode.
        copies: Further policies, made by repeating the rows of the last ones under other names, to see how
            the report copes with many.
    """
    (folder / "heat").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for seed in seeds:
        built = build_scenario(scenario, seed=seed)
        for policy in policies:
            row, trail, heat = _episode(built, policy, seed, max_steps)
            rows.append(row)
            steps.extend(trail)
            np.savez_compressed(
                folder / "heat" / f"{cell_name(policy, seed)}.npz",
                heat=heat,
                host_type=built.cluster.host_type_of,
                type_names=np.array([k.name for k in built.cluster.host_types]),
                interval_s=built.cluster.interval_s,
                **_reasons(heat.shape[1]),
            )
    _multiply(rows, steps, policies, copies)
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    pd.DataFrame(steps).to_parquet(folder / "steps.parquet")
    command = f"virtgym benchmark scenario={scenario} policies=[{','.join(policies)}]"
    run = {
        "command": command,
        "versions": {"virtgym": "0.1.0", "numpy": np.__version__},
        "commit": "0123456789abcdef",
        "seeds": list(seeds),
        "start": "2026-01-01T10:00:00",
        "end": "2026-01-01T10:00:09",
        "finished": True,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "config.yaml").write_text(
        f"scenario:\n  name: {scenario}\n  memory: binding\nseeds: {list(seeds)}\n", encoding="utf-8"
    )
    return folder
