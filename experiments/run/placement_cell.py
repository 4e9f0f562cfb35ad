"""A cell of a placement scenario: one policy in all windows, one result row per window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.placement.batch import PlacementBatch
from virtgym.envs.placement.settings import PlacementSettings
from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.envs.sim.models.cost import GATE_OK

from .placement_rollout import PlayedWindows, play_windows
from .rollout import policy_rng

if TYPE_CHECKING:
    import pandas as pd

_WARM: set[Any] = set()


def run_placement_cell(
    scenario: PlacementScenario, policy: Any, seed: int, keys: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], pd.DataFrame, dict[str, Any]]:
    """Play all windows of a scenario.

    Args:
        scenario: The scenario.
        policy: A policy for placement.
        seed: Seed of the policy.
        keys: First columns of the table.

    Returns:
        Values of each window's result row, and a table with a row per placement: ``window``, ``step``,
        ``request`` (row of the stream), ``time_s``, ``wait_s``, ``node``; no heat.
    """
    import pandas as pd

    batch = PlacementBatch(
        len(scenario.windows),
        PlacementSettings(
            scenario.trace, scenario.placement, observation=getattr(policy, "observation", "basic")
        ),
    )
    if type(policy) not in _WARM:  # loading compiled kernels is not the policy's fault
        play_windows(policy, batch, scenario.windows, rng=policy_rng(seed), max_calls=2)
        _WARM.add(type(policy))
    played = play_windows(policy, batch, scenario.windows, rng=policy_rng(seed))
    log = {**played.log, "window": scenario.windows[played.log["window"]]}
    n = len(log["step"])
    table = pd.DataFrame({**{key: [value] * n for key, value in keys.items()}, **log})
    rows = _rows(scenario, played)
    if hasattr(policy, "plan_metrics"):  # of all windows together, like the decision times
        rows = [row | policy.plan_metrics() for row in rows]
    return rows, table, {}


def _gate(finished: bool, failed: int) -> str:
    if not finished:
        return "unfinished"
    return GATE_OK if failed == 0 else f"{failed} requests without a node"


def _rows(scenario: PlacementScenario, played: PlayedWindows) -> list[dict[str, Any]]:
    """One mapping per window. A wait that never ends has no sum: NaN, and the request counts as failed."""
    waits = scenario.placement.protocol == "huawei_placement"
    failed = scenario.lengths - played.n_placed
    p50, p99 = np.percentile(played.decision_ms, (50, 99))
    rows = []
    for i, window in enumerate(scenario.windows.tolist()):
        meant = waits and bool(played.finished[i]) and failed[i] == played.n_rejected[i]
        total = float(played.total_wait_s[i]) if meant else math.nan
        rows.append(
            {
                "window": float(window),
                "finished": bool(played.finished[i]),
                "steps": int(played.n_decisions[i]),
                "sim_hours": float(played.span_s[i]) / 3600.0,
                "wall_s": played.wall_s / len(scenario.windows),
                "n_hosts": scenario.placement.n_hosts,
                "n_vms": int(scenario.lengths[i]),
                "memory": "binding",
                "failed_placements": float(failed[i]),
                "decision_ms_p50": float(p50),
                "decision_ms_p99": float(p99),
                "cost": total,
                "gate": _gate(bool(played.finished[i]), int(failed[i])),
                "total_wait_s": total,
                "mean_wait_s": total / int(scenario.lengths[i]),
            }
        )
    return rows
