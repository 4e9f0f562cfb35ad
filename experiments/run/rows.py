"""The result row: one line per policy, scenario, trace, seed and window, always with the same columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.metrics import METRICS
from virtgym.envs.sim.models.cost import GATE_OK, CostConfig, gate

if TYPE_CHECKING:
    import pandas as pd

KEYS: tuple[str, ...] = ("scenario", "trace", "policy", "seed")
"""Columns that name a row, and the rows of the per-interval table."""

EXTRAS: dict[str, str] = {
    "sla_average": "mean relative shortage of VMs that are short (CloudSim replica)",
    "mean_time_before_shutdown_s": "mean time a host was active before it went off, s (CloudSim replica)",
    "vms_left_at_end": "VMs that were not deleted (CloudSim replica)",
}
"""Columns that only the replica fills."""

PLANS: dict[str, str] = {
    "plan_gap": "mean proven gap of the placements that OR-Tools planned, (objective - bound) / objective",
    "plan_s": "mean time of such a plan, s",
    "solver_fallbacks": "solver calls that brought no solution, so that the plan was made without them",
}
"""Columns that policies fill which have ``plan_metrics()``: what a solver says of its plans."""

RESCHEDULING: dict[str, str] = {
    "objective": "what was to become small, at the end: sum of weights times terms",
    "objective_start": "the same at the start",
    "fragment_rate_start": "fragment rate at the start",
    "moves": "migrations made",
    "hosts_used": "share of hosts with a VM at the end",
    "imbalance": "standard deviation of CPU loads of hosts at the end",
    "energy": "power at the end / power of all hosts at full load",
    "migration": "hours that the migrations take, by pre-copy",
    "unordered": "moves of a plan that were left out: a cycle without a spare",
    "illegal_actions": "actions that were refused",
    "cpu_s": "processor time of the policy, s",
}
"""Columns of snapshots that are rescheduled, beside ``fragment_rate``."""

REASSIGNMENT: dict[str, str] = {
    "cost_load": "load above the safety capacities",
    "cost_balance": "resources free in other proportions than wanted",
    "cost_process_move": "processes that leave their machines",
    "cost_service_move": "the service of which most processes leave",
    "cost_machine_move": "from which machines to which processes go",
    "lower_bound": "what no assignment can cost less than, as given with the instance",
    "plan_bound": "what no plan can cost less than, as proven by a solver; of snapshots, too",
}
"""Terms of the objective of machine reassignment, and bounds of it; ``cost`` is the objective."""

COLUMNS: tuple[str, ...] = (
    *KEYS,
    *("window", "finished", "steps", "sim_hours", "wall_s", "vm_intervals_per_s", "config_hash"),
    "virtgym_version",
    *METRICS,
    *("gate", "episode_return"),
    *("total_wait_s", "mean_wait_s"),
    *("kind", "information", "memory", "n_hosts", "n_vms", "vms_dropped", "trace_digest", "events_refused"),
    *EXTRAS,
    *PLANS,
    *RESCHEDULING,
    *REASSIGNMENT,
)
"""Columns of a result row, in order. ``gate`` is ``ok``, or why a row is not ranked (``cost.gate``);
``episode_return`` is the sum of the rewards of the episode. The ``cost`` of a placement window is its total
wait, s. ``kind`` is what the policy is, one of ``registry.KINDS``; ``information`` what it was shown of a
cluster: ``past``, ``instant`` or ``oracle`` (of games only whether it read the future: ``oracle``, or NaN);
``vms_dropped`` counts VMs of the trace that fit on no host and were left out; ``trace_digest`` is a
fingerprint of the demand: rows that share it are of one load. NaN where a metric has no meaning: the waits
outside of placement windows, what clusters are measured by inside them, ``events_refused`` (orders of
``scenario.events`` that were not legal at their time) where there are none, ``RESCHEDULING`` and
``REASSIGNMENT`` outside of those, ``EXTRAS`` outside of the CloudSim replica (whose overall SLA violation is
``sla_unserved``), ``PLANS`` for policies without a solver, and every metric of an episode that was cut off.
"""

TEXTS: tuple[str, ...] = (
    *("scenario", "trace", "policy", "config_hash", "virtgym_version", "kind", "memory", "gate"),
    *("information", "trace_digest"),
)
"""Columns that hold text."""

STEP_TEXTS: tuple[str, ...] = ("event", "vm", "from", "to")
"""Columns of the table of steps that hold text."""

_COLUMNS = frozenset(COLUMNS)
_METRICS = frozenset(
    {*METRICS, "episode_return", "total_wait_s", "mean_wait_s", "events_refused", *EXTRAS, *PLANS}
    | {*RESCHEDULING, *REASSIGNMENT}
)


@functools.cache
def virtgym_version() -> str:
    """Version of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("virtgym")
    except metadata.PackageNotFoundError:  # used from a checkout that is not installed
        return "unknown"


def make_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values in the order of ``COLUMNS``, metrics of one's own last; what is not given is NaN.

    So is every metric of an episode that was cut off: half of one would look cheaper than a whole one.

    Args:
        values: Values by column.

    Raises:
        KeyError: For a column that does not exist.
    """
    own = [name for name in values if name not in _COLUMNS]
    unknown = [name for name in own if not _is_metric(name)]
    if unknown:
        raise KeyError(f"no such column: {', '.join(sorted(unknown))}")
    cut_off = {*_METRICS, *own} if not values.get("finished", True) else ()
    return {name: math.nan if name in cut_off else values.get(name, math.nan) for name in (*COLUMNS, *own)}


def _is_metric(name: str) -> bool:
    """Whether a column is a metric of one's own, by name or dotted path."""
    from virtgym.envs.cluster.metrics import METRIC_NAMES

    try:
        METRIC_NAMES.find(name)
    except ConfigError:
        return False
    return True


def kinds_of(rows: pd.DataFrame) -> dict[str, str]:
    """What each policy of result rows is, one of ``registry.KINDS``; empty for rows that do not say."""
    return dict(zip(rows["policy"].map(str), rows["kind"].map(str))) if "kind" in rows else {}


def worst_gate(gates: Iterable[object]) -> str:
    """``ok`` if all of some rows' gates are, else the first reason."""
    return next((str(gate) for gate in gates if gate != GATE_OK), GATE_OK)


def gates_of(rows: pd.DataFrame) -> dict[str, str]:
    """Whether each policy of result rows is ranked: ``ok``, or why not and in how many of its runs.

    Rows that were written before there was a gate are judged by all of their unserved work, unweighted, and
    the objective that is the default.
    """
    found = {}
    for policy, own in rows.groupby(rows["policy"].map(str), sort=False):
        said = [str(g) for g in own["gate"]] if "gate" in own else []
        reasons = [text for text in said if text not in (GATE_OK, "", "nan")]
        if reasons:
            count = f" (in {len(reasons)} of {len(own)} runs)" if len(own) > 1 else ""
            found[str(policy)] = f"{reasons[0]}{count}"
        elif GATE_OK in said or "sla_unserved" not in own:
            found[str(policy)] = GATE_OK
        else:
            found[str(policy)] = gate(float(own["sla_unserved"].mean()), CostConfig().objective)
    return found


def rows_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Result rows as a table with the same column types for every mix of rows."""
    import pandas as pd

    columns = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    whole = ("seed", "steps", "n_hosts", "n_vms")
    types: dict[str, Any] = dict.fromkeys(TEXTS, "str") | dict.fromkeys(whole, "int64") | {"finished": "bool"}
    found: dict[str, Any] = {}
    for name in columns:
        values = [row.get(name, math.nan) for row in rows]
        of_type = pd.Series(values, dtype="object").astype(types[name]) if name in types else None
        found[name] = np.array(values, dtype=np.float64) if of_type is None else of_type
    return pd.DataFrame(found)
