"""What each sub-model does to the numbers: one switched off at a time.

python -m virtgym.experiments.bench.model_ablation DAY [--policies P ...] [--seeds N ...] [--set KEY=VALUE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import VirtgymError
from virtgym.envs.scenarios.scenario import build_scenario

from ..run.cell import evaluate

if TYPE_CHECKING:
    import pandas as pd

OFF: dict[str, dict[str, Any]] = {
    "overhead": {"overhead.enabled": False},
    "cpu scheduling": {"cpu.enabled": False},
    "numa": {"numa.enabled": False},
    "memory tiers (ignored)": {"memory": "ignored"},
    "io": {"io.enabled": False},
    "pre-copy": {"migration.mode": "fixed"},
    "failures": {"failures.enabled": False},
    "boot times": {f"hosts.{i}.{key}_time_s": 0.0 for i in (0, 1) for key in ("boot", "shutdown")},
}

CASES: dict[str, dict[str, Any]] = {
    "all on": {},
    **{f"{name} off": change for name, change in OFF.items()},
    "memory tiers (binding) off": {"memory": "binding"},
    "all off": {key: value for change in OFF.values() for key, value in change.items()},
}
"""Changes of ``planetlab_full`` by name: nothing, one sub-model off, everything off."""

COLUMNS: dict[str, str] = {
    "energy_kwh": "{:.2f}",
    "sla_unserved": "{:.5f}",
    "slatah": "{:.4f}",
    "pdm": "{:.6f}",
    "ready_pct": "{:.3f}",
    "swap_mib": "{:.0f}",
    "downtime_s": "{:.0f}",
    "migrations": "{:.0f}",
    "restarts": "{:.0f}",
    "active_hosts": "{:.1f}",
}
"""Columns of the table and how they are written."""


def ablate_models(
    path: str | None,
    policies: Sequence[str] = ("static", "ols-mmt"),
    seeds: Sequence[int] = (0,),
    base: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run a day once per policy, case and seed.

    Args:
        path: Folder of a PlanetLab day; None = a generated day.
        policies: Policies.
        seeds: Seeds; they draw the failures.
        base: Changes of ``planetlab_full`` that all cases have.

    Returns:
        One row per policy and case, means over the seeds.
    """
    import pandas as pd

    rows = []
    for policy in policies:
        for case, change in CASES.items():
            for seed in seeds:
                changes = {"trace.path": path, **(base or {}), **change}
                scenario = build_scenario("planetlab_full", seed=seed, overrides=changes)
                row = evaluate(scenario, policy, seed=seed).iloc[0]
                rows.append({"policy": policy, "case": case, **{name: row[name] for name in COLUMNS}})
    return pd.DataFrame(rows).groupby(["policy", "case"], sort=False).mean().reset_index()


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown."""
    names = ["policy", "case", *COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for _, row in table.iterrows():
        cells = ["–" if row[name] != row[name] else form.format(row[name]) for name, form in COLUMNS.items()]
        lines.append("| " + " | ".join([row["policy"], row["case"], *cells]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of a day."""
    parser = argparse.ArgumentParser(description="Switch off one sub-model at a time.")
    parser.add_argument("day", nargs="?", help="folder of a PlanetLab day (default: a generated day)")
    parser.add_argument("--policies", nargs="+", default=["static", "ols-mmt"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes that all cases have"
    )
    given = parser.parse_args(arguments)
    try:
        base = dict(pair.split("=", 1) for pair in given.set)
        print(to_markdown(ablate_models(given.day, given.policies, given.seeds, base)))
    except VirtgymError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
