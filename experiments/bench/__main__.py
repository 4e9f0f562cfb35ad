"""The speed benchmark (`make bench`): ratios against plain Python and against the published peer.

Numbers are CPU time of one process, best of several warm runs. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import measure
from .measure import Measured

CLOUDSIM_CPU_S = 33.17
"""CPU time of CloudSim 3.0.3 for one day of lr-mmt (20110303) on one core of this class of machine, s."""


def _run(trace: str | None, quick: bool) -> list[Measured]:
    repeats = 2 if quick else 5
    results = [measure.physics_day(trace, 2 * repeats), measure.plain_physics_day(trace)]
    for policy in ("ols-mmt", "loess-mmt", "thr-mmt"):
        for memory in ("ignored", "binding"):
            results.append(measure.planned_day(trace, policy, memory, repeats))
    results.append(measure.replica_day(trace, "lr-mmt", repeats))
    results.append(measure.decisions_per_second("small", 5_000 if quick else 50_000))
    results.append(measure.decisions_per_second("planetlab", 1_000 if quick else 10_000))
    results.extend(measure.scaling((100, 1000) if quick else (100, 1000, 10000)))
    results.append(measure.full_interval(trace, repeats))
    results.extend(measure.full_scaling((100, 1000) if quick else (1000, 10000)))
    results.append(measure.cold_start())
    return results


def _ratios(results: list[Measured]) -> list[str]:
    named = {result.name: result for result in results}
    physics, plain = named["physics alone, one day"], named["physics alone, plain Python"]
    lines = [
        f"physics: {1e9 / physics.per_second:.2f} ns per VM-interval, {1 / physics.seconds:,.0f} days/s, "
        f"{plain.seconds / physics.seconds:,.0f} x plain Python",
    ]
    for name, result in named.items():
        if result.unit == "day":
            lines.append(
                f"{name}: {CLOUDSIM_CPU_S / result.seconds:,.0f} x CloudSim 3.0.3 (lr-mmt, 33 CPU s a day)"
            )
    sizes = [result for result in results if result.unit == "VM-interval" and " hosts x " in result.name]
    for prefix in ("", "full: "):
        same = [result for result in sizes if result.name.startswith("full: ") == bool(prefix)]
        if len(same) < 2:
            continue
        first, last = same[-2], same[-1]
        exponent = math.log(last.seconds / first.seconds) / math.log(last.work / first.work)
        lines.append(f"growth exponent {first.name} -> {last.name}: {exponent:.2f}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table and the ratios, and optionally write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m virtgym.experiments.bench", description=__doc__)
    parser.add_argument("--trace", help="a PlanetLab day folder (default: a generated day of the same size)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(argv)
    results = _run(options.trace, options.quick)
    table = Table(title="virtgym speed (CPU time, best of several warm runs)")
    for column in ("what", "time", "per second", "note"):
        table.add_column(column, justify="left" if column in ("what", "note") else "right")
    for result in results:
        time_ms = result.seconds * 1e3
        table.add_row(
            result.name, f"{time_ms:,.2f} ms", f"{result.per_second:,.0f} {result.unit}s", result.note
        )
    console = Console()
    console.print(table)
    ratios = _ratios(results)
    for line in ratios:
        console.print(line, highlight=False)
    if options.json:
        rows = [vars(result) | {"per_second": result.per_second} for result in results]
        options.json.write_text(json.dumps({"results": rows, "ratios": ratios}, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
