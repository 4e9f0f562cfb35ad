"""Tune the thresholds of rules on training days, under what a controller can know, and record what was tried.

    python -m virtgym.experiments.bench.retune DAY [DAY ...] [--memory binding] [--out retuned.json]

A day is a folder of a PlanetLab trace. Of the values in ``GRID`` a policy keeps those with the lowest mean
cost over the days, of those whose every day passes the gate (``sim.models.cost.gate``); one parameter after
the other, each with the best of those before it. Give training days only: a day that a claim is made on must
not be looked at here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virtgym.envs.errors import VirtgymError
from virtgym.envs.sim.models.cost import GATE_OK, CostConfig, gate

from ..config.overrides import PolicySpec
from .control_plane import Row, day_rows

_SAFETY = [0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0]
_SPREADS = [1.5, 2.5, 3.5, 4.5, 6.0, 8.0]

GRID: dict[str, dict[str, list[Any]]] = {
    "thr-mmt": {"safety": [0.5, 0.6, 0.7, 0.8, 0.9]},
    "mad-mmt": {"safety": _SPREADS},
    "iqr-mmt": {"safety": _SPREADS},
    "ols-mmt": {"safety": _SAFETY},
    "loess-mmt": {"safety": _SAFETY},
    "loess_robust-mmt": {"safety": _SAFETY},
    "drs": {"level": [1, 2, 3, 4, 5], "threshold": [None, 0.1, 0.2, 0.3]},
    "dpm": {"fill": [0.75, 0.85, 0.95], "risk": [0.0, 0.5, 1.0, 1.5, 2.0], "target": [0.55, 0.63, 0.7]},
    "dpm_ortools": {"fill": [0.75, 0.85, 0.95], "risk": [0.0, 0.5, 1.0], "move_cost": [1.0, 5.0, 20.0]},
}
"""Values tried, by policy and parameter, in the order in which they are tried."""


def tune(policy: str, grid: Mapping[str, Sequence[Any]], days: Sequence[str], memory: str) -> dict[str, Any]:
    """Find the parameters of a policy that cost least on some days.

    Args:
        policy: Its name.
        grid: Values to try by parameter.
        days: Folders of the days.
        memory: ``scenario.memory``.

    Returns:
        ``params`` (the best), ``tried`` (every setting with its mean cost, its largest weighted unserved
        share, and whether all days passed).
    """
    best: dict[str, Any] = {}
    tried: dict[str, dict[str, float | bool]] = {}
    for key, values in grid.items():
        options = [{**best, key: value} for value in values]
        labels = [PolicySpec(policy, option).label for option in options]
        new = [label for label in labels if label not in tried]
        rows = [row for day in days for row in day_rows(day, new, memory)] if new else []
        for label in new:
            tried[label] = _sum_up([row for row in rows if row["policy"] == label])
        known = [tried[label] for label in labels]
        order = sorted(range(len(known)), key=lambda i: (not known[i]["passed"], known[i]["cost"]))
        best = options[order[0]]
    return {"params": best, "tried": tried}


def _sum_up(rows: Sequence[Row]) -> dict[str, float | bool]:
    worst = max(float(row["unserved_weighted"]) for row in rows)
    cost = sum(float(row["cost"]) for row in rows) / len(rows)
    return {"cost": cost, "unserved_weighted": worst, "passed": gate(worst, CostConfig.objective) == GATE_OK}


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, print what was tried, and write it."""
    parser = argparse.ArgumentParser(description="Tune the thresholds of rules on training days.")
    parser.add_argument("days", nargs="+", help="folders of PlanetLab days, for training")
    parser.add_argument("--policies", nargs="+", default=list(GRID), choices=list(GRID), metavar="NAME")
    parser.add_argument("--memory", choices=("ignored", "binding"), default="ignored")
    parser.add_argument("--out", type=Path, help="file to write what was tried to, JSON")
    given = parser.parse_args(arguments)
    found = {}
    try:
        for policy in given.policies:
            found[policy] = tune(policy, GRID[policy], given.days, given.memory)
            for label, values in found[policy]["tried"].items():
                mark = "*" if label == PolicySpec(policy, found[policy]["params"]).label else " "
                share = f"unserved {100 * values['unserved_weighted']:7.3f} %"
                end = "" if values["passed"] else "  gate"
                print(f"{mark} {label:<40} cost {values['cost']:9.1f}  {share}{end}", flush=True)
    except VirtgymError as error:
        print(error, file=sys.stderr)
        return 2
    if given.out is not None:
        record = {"days": [Path(day).name for day in given.days], "memory": given.memory, "policies": found}
        given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
