"""Run the replica of CloudSim 3.0.3 as a cell: the same columns, NaN for what the peer does not have."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.sim.models.cost import MHZ_S_PER_GHZ_H, gate

from ..config.overrides import PolicySpec
from ..replication import Quirks, run_replica
from ..replication.metrics import ReplicaResult
from ..replication.replica import REPLICA_POLICIES
from .rows import EXTRAS

if TYPE_CHECKING:
    import pandas as pd

_KNOWN = (*REPLICA_POLICIES, *(f"ols-{selection}" for selection in ("mmt", "mc", "mu", "rs")))
_WARM: set[str] = set()


def check_replica_policy(spec: PolicySpec) -> None:
    """Refuse what the replica does not know.

    Raises:
        ConfigError: Naming what it knows.
    """
    if spec.name not in _KNOWN:
        raise ConfigError(
            f"policy={spec.name}: the replica has no such policy{hint(spec.name, _KNOWN)}; "
            f"there are: {', '.join(_KNOWN)}"
        )
    for key in spec.params:
        if key != "safety":
            raise ConfigError(
                f"policy.{key}: {spec.name} of the replica has no such parameter; allowed: safety"
            )
    safety = spec.params.get("safety", 1.0)
    if isinstance(safety, bool) or not isinstance(safety, (int, float)) or not safety > 0:
        raise ConfigError(f"policy.safety={safety}: must be positive")


def run_replica_cell(
    scenario: Scenario, spec: PolicySpec, seed: int, keys: dict[str, Any]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run a day.

    Args:
        scenario: Scenario of kind ``replica``.
        spec: Policy.
        seed: Seed of the ``rs`` selection.
        keys: First columns of the per-interval table.

    Returns:
        Values of the result row, and the per-interval table.
    """
    import pandas as pd

    quirks = Quirks(**scenario.config.quirks)
    percent = np.ascontiguousarray(np.rint(scenario.trace.util.T * 100.0 * 1e9) / 1e9)
    safety = spec.params.get("safety")
    if "replica" not in _WARM:  # see evaluate: compiled kernels are loaded outside the clock
        run_replica(percent, spec.name, quirks, seed, safety)
        _WARM.add("replica")
    start = time.perf_counter()
    result = run_replica(percent, spec.name, quirks, seed, safety)
    wall_s = time.perf_counter() - start
    rounds = len(result.events.migrations)
    names = ["energy_kwh", "migrations", "host_shutdowns", "slatah", "pdm", "slav", "esv", "active_hosts"]
    values = {
        "information": "instant",  # CloudSim decides by the demand that holds until the next sample
        "finished": True,
        "steps": rounds,
        "sim_hours": float(result.events.t[-1]) / 3600.0,
        "wall_s": wall_s,
        "vm_intervals_per_s": rounds * percent.shape[0] / wall_s if wall_s > 0 else math.nan,
        "memory": "ignored" if quirks.memory_ignored else "binding",
        **{name: float(getattr(result, name)) for name in names},
        "sla_unserved": result.sla_overall,
        **_costs(scenario, result),
        **{name: float(getattr(result, name)) for name in EXTRAS},
    }
    columns = _columns(scenario, result, quirks)
    n = len(columns["step"])
    return values, pd.DataFrame({**{k: [v] * n for k, v in keys.items()}, **columns})


def _costs(scenario: Scenario, result: ReplicaResult) -> dict[str, Any]:
    """What the peer's numbers cost: all VMs are of the standard class, and it knows no causes."""
    prices, work = scenario.cluster.cost, scenario.workload
    asked_mhz_s = float(np.einsum("sv,v->", work.util, work.vm_cpu_mhz)) * work.sample_s
    unserved = prices.weights.standard * result.sla_overall * asked_mhz_s / MHZ_S_PER_GHZ_H
    terms = {
        "cost_energy": prices.energy * result.energy_kwh,
        "cost_unserved": prices.unserved * unserved,
        "cost_migrations": prices.migration * result.migrations,
    }
    return {
        **terms,
        "cost": sum(terms.values()),
        "unserved_weighted": result.sla_overall,
        "gate": gate(result.sla_overall, prices.objective),
    }


def _columns(scenario: Scenario, result: ReplicaResult, quirks: Quirks) -> dict[str, NDArray[Any]]:
    """The per-interval table: the state after the last event of every interval."""
    work = scenario.workload
    n, span = work.util.shape[0], work.sample_s
    edges = span * np.arange(n + 1)
    last = np.searchsorted(result.events.t, edges + 1e-9, side="right") - 1
    energy = np.where(last >= 0, result.events.energy_kwh[np.maximum(last, 0)], 0.0)
    inside = np.maximum(last[1:], 0)
    moves = np.zeros(n, dtype=np.int64)
    first = 1 if quirks.skip_first_sample else 0
    count = min(n - first, len(result.events.migrations))
    moves[first : first + count] = result.events.migrations[:count]
    nothing = np.full(n, np.nan)
    delta = np.diff(energy)
    return {
        "step": np.arange(n),
        "time_s": edges[:-1],
        "hosts_on": result.events.hosts[inside].astype(np.float64),
        "power_w": delta * 3.6e6 / span,
        "energy_kwh": delta,
        "cpu_load": nothing,
        "demand_mhz": np.einsum("sv,v->s", work.util, work.vm_cpu_mhz),
        "unserved_mhz": nothing,
        "saturated_hosts": nothing,
        "migrations": moves,
        "migrations_in_flight": nothing,
        "boots": nothing,
        "shutdowns": nothing,
        "vms_running": result.events.vms[inside].astype(np.int64),
        "vms_waiting": np.zeros(n, dtype=np.int64),
        "imbalance_cpu": nothing,
        "imbalance_mem": nothing,
        "decision_ms": nothing,
    }
