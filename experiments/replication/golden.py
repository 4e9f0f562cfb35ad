"""Compare the replica with the peer's own results, row by row.

    python -m virtgym.experiments.replication.golden TRACES_DIR CSV

``TRACES_DIR`` holds the PlanetLab days (or a folder ``planetlab`` that does), ``CSV`` the peer's results:
columns ``day, policy, energy_kwh, migrations, ...``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import TraceError, VirtgymError
from virtgym.envs.traces.formats.planetlab import read_planetlab

from .metrics import ReplicaResult
from .replica import run_replica

ENERGY_RTOL = 1e-9
RATIO_ATOL = 1e-6
RANDOM_RTOL = 0.06
"""Allowed for ``rs``, which the peer does not seed: twice the spread of its own two runs of one policy."""

COUNTS = ("migrations", "host_shutdowns", "vms_left_at_end")
RATIOS = ("slatah", "pdm", "sla_overall", "sla_average")


@dataclass(frozen=True)
class RowCheck:
    """Comparison of one row.

    Attributes:
        day: Trace.
        policy: Policy.
        energy_error: Relative difference of the energy.
        migrations_error: Difference of the migrations.
        shutdowns_error: Difference of the shutdowns.
        ratio_error: Largest absolute difference of the SLA metrics.
        time_error: Relative difference of the mean time before a shutdown.
        passed: Whether the row agrees.
    """

    day: str
    policy: str
    energy_error: float
    migrations_error: int
    shutdowns_error: int
    ratio_error: float
    time_error: float
    passed: bool


def read_day(path: str | Path) -> NDArray[np.int16]:
    """Read a PlanetLab day as the replica takes it.

    Args:
        path: Day folder.

    Returns:
        Percent, (N, 288), in code-point order of the file names.
    """
    return np.ascontiguousarray(np.rint(read_planetlab(path).util.T * 100.0).astype(np.int16))


def read_reference(path: str | Path) -> list[dict[str, str]]:
    """Read the peer's results.

    Args:
        path: CSV file.

    Returns:
        One mapping per row.

    Raises:
        TraceError: If the file is missing or lacks a column.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    needed = {"day", "policy", "energy_kwh", "mean_time_before_shutdown_s", *COUNTS, *RATIOS}
    missing = sorted(needed - set(rows[0] if rows else ()))
    if missing:
        raise TraceError(f"{path}: lacks the columns {', '.join(missing)}")
    return rows


def check_row(row: Mapping[str, str], result: ReplicaResult) -> RowCheck:
    """Compare a result with the peer's row; random selection is compared loosely, all else exactly.

    Args:
        row: The peer's row.
        result: The replica's result.

    Returns:
        The differences and the verdict.
    """
    energy = abs(result.energy_kwh / float(row["energy_kwh"]) - 1.0)
    counts = {name: getattr(result, name) - int(row[name]) for name in COUNTS}
    ratio = max(abs(getattr(result, name) - float(row[name])) for name in RATIOS)
    time = abs(result.mean_time_before_shutdown_s / float(row["mean_time_before_shutdown_s"]) - 1.0)
    if row["policy"].endswith("-rs"):
        off = [abs(counts[name]) / int(row[name]) for name in COUNTS]
        passed = max(energy, *off) <= RANDOM_RTOL
    else:
        passed = energy <= ENERGY_RTOL and ratio <= RATIO_ATOL and not any(counts.values())
    moves, stops = counts["migrations"], counts["host_shutdowns"]
    return RowCheck(row["day"], row["policy"], energy, moves, stops, ratio, time, passed)


def main(argv: list[str] | None = None) -> int:
    """Print every row's comparison.

    Args:
        argv: Arguments; None = the command line's.

    Returns:
        0 if all rows agree, 1 if one does not, 2 for a user's error.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", type=Path, help="folder of the days")
    parser.add_argument("csv", type=Path, help="the peer's results")
    options = parser.parse_args(argv)
    root = options.traces / "planetlab" if (options.traces / "planetlab").is_dir() else options.traces
    days: dict[str, NDArray[np.int16]] = {}
    failed = 0
    print(f"{'day':9} {'policy':8} {'energy':>8} {'migr.':>6} {'stops':>6} {'SLA':>8} {'time':>8}")
    try:
        for row in read_reference(options.csv):
            if row["day"] not in days:
                days[row["day"]] = read_day(root / row["day"])
            check = check_row(row, run_replica(days[row["day"]], row["policy"]))
            failed += not check.passed
            print(
                f"{check.day:9} {check.policy:8} {check.energy_error:8.1e} {check.migrations_error:6d}"
                f" {check.shutdowns_error:6d} {check.ratio_error:8.1e} {check.time_error:8.1e}"
                f"  {'pass' if check.passed else 'FAIL'}"
            )
    except VirtgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{failed} rows differ" if failed else "all rows agree")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
