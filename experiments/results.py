"""The result row: one line per policy, scenario, trace, seed and window, always with the same columns."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from virtgym.envs.placement_scenarios import PlacementScenario
from virtgym.envs.scenarios import Scenario
from virtgym.envs.sim.metrics import METRICS

from .overrides import PolicySpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS",
    "EXTRAS",
    "KEYS",
    "PLANS",
    "agent_digest",
    "config_hash",
    "make_row",
    "rows_frame",
    "trace_digest",
    "virtgym_version",
]

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
}
"""Columns that policies fill which have ``plan_metrics()``: what a solver says of its plans."""

COLUMNS: tuple[str, ...] = (
    *KEYS,
    *("window", "finished", "steps", "sim_hours", "wall_s", "vm_intervals_per_s", "config_hash"),
    "virtgym_version",
    *METRICS,
    *("total_wait_s", "mean_wait_s"),
    *("memory", "n_hosts", "n_vms"),
    *EXTRAS,
    *PLANS,
)
"""Columns of a result row, in order. NaN where a metric has no meaning: the waits outside of placement
windows, what clusters are measured by inside them, ``EXTRAS`` outside of the CloudSim replica (whose overall
SLA violation is ``sla_unserved``), ``PLANS`` for policies without a solver.
"""


@functools.cache
def virtgym_version() -> str:
    """Version of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("virtgym")
    except metadata.PackageNotFoundError:  # used from a checkout that is not installed
        return "unknown"


def trace_digest(scenario: Scenario | PlacementScenario) -> str:
    """Fingerprint of what was read, the demand or the requests, whatever path it came from."""
    if isinstance(scenario, PlacementScenario):
        trace = scenario.trace
        return _digest(trace.cores, trace.memory_gib, trace.arrival_s, trace.lifetime_s)
    util = scenario.trace.util
    head = f"{scenario.trace.format} {scenario.trace.sample_s} {util.shape} {util.dtype}"
    return hashlib.blake2b(head.encode() + util.tobytes(), digest_size=8).hexdigest()


def _digest(*arrays: NDArray[Any]) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for array in arrays:
        whole.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return whole.hexdigest()


def config_hash(
    scenario: Scenario | PlacementScenario, policy: PolicySpec, defaults: Mapping[str, Any]
) -> str:
    """Fingerprint of everything but the seed that decides a row: scenario, trace, policy and version.

    A file counts by what is in it, so that a run folder stays valid where the file lies somewhere else: the
    trace, a file of windows, the weights of a trained agent.

    Args:
        scenario: The scenario.
        policy: The policy.
        defaults: What else decides what the policy does: parameters that ``policy`` does not name, and the
            content of an agent's folder.
    """
    config = asdict(scenario.config)
    config.pop("description")
    if scenario.config.trace.oversized == "refuse":  # the VMs are those of the trace
        config["trace"].pop("oversized")
    if scenario.config.trace.path is not None:
        config["trace"]["path"] = trace_digest(scenario)
    if isinstance(scenario, Scenario):
        if scenario.cluster.carbon is not None:
            config["carbon"]["path"] = scenario.cluster.carbon.source  # with the file's SHA-256
        if scenario.config.failures.path is not None:
            config["failures"]["path"] = repr(scenario.cluster.incidents)
    if isinstance(scenario, PlacementScenario):
        # Only what says which windows are played: rows for training do where nothing else does.
        idle = {"n_windows", "rows", "train_rows"} if scenario.config.windows is not None else set()
        idle |= {"train_rows"} if scenario.config.rows is not None else set()
        config = {k: v for k, v in config.items() if k not in idle}
        if scenario.config.windows is not None:
            config["windows"] = _digest(scenario.windows)
    what = {
        "scenario": config,
        "policy": {"name": policy.name, **defaults, **policy.params},
        "version": virtgym_version(),
    }
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def agent_digest(folder: Path) -> dict[str, str]:
    """Fingerprint of an agent's folder: training it anew makes another policy of the same name.

    Args:
        folder: The folder; one that is not there gives nothing.
    """
    if not folder.is_dir():
        return {}
    whole = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        whole.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return {"content": whole.hexdigest()}


def make_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values in the order of ``COLUMNS``; what is not given is NaN.

    Args:
        values: Values by column.

    Raises:
        KeyError: For a column that does not exist.
    """
    unknown = set(values) - set(COLUMNS)
    if unknown:
        raise KeyError(f"no such column: {', '.join(sorted(unknown))}")
    return {name: values.get(name, math.nan) for name in COLUMNS}


def rows_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Result rows as a table with the same column types for every mix of rows."""
    import pandas as pd

    frame = pd.DataFrame([dict(row) for row in rows], columns=list(COLUMNS))
    text = ("scenario", "trace", "policy", "config_hash", "virtgym_version", "memory")
    whole = ("seed", "steps", "n_hosts", "n_vms")
    types: dict[str, Any] = dict.fromkeys(COLUMNS, "float64")
    types |= dict.fromkeys(text, "str") | dict.fromkeys(whole, "int64") | {"finished": "bool"}
    return frame.astype(types)
