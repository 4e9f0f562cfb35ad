"""The columns of the leaderboard and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from virtgym.envs.sim.metrics import METRICS
from virtgym.envs.sim.models.cost import TERMS

DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        key: Column of the result rows (or ``energy_delta_pct``, worked out by the report).
        label: Heading.
        unit: Unit; empty = none.
        help: Definition.
        percent: Multiply by 100.
        optional: Shown only where it has numbers that differ.
        lower_is_better: Direction in which it is better.
        shown: Where it is seen at once: ``always``, or one of the words of ``exercised``; elsewhere it is
            among *all columns*. Empty = only there.
    """

    key: str
    label: str
    unit: str
    help: str
    percent: bool = False
    optional: bool = False
    lower_is_better: bool = True
    shown: str = ""


def _of(
    key: str,
    label: str,
    unit: str = "",
    shown: str = "",
    *,
    percent: bool = False,
    higher: bool = False,
    always: bool = False,
) -> Column:
    """A column of a metric, left out where its numbers do not differ."""
    return Column(key, label, unit, METRICS[key], percent, not always, not higher, shown)


LEADERBOARD: tuple[Column, ...] = (
    _of("cost", "Cost", "kWh", "always", always=True),
    _of("unserved_weighted", "Unserved, weighted", "%", "always", percent=True, always=True),
    *(_of(f"cost_{term}", f"… of {term}", "kWh") for term in TERMS if term != "energy"),
    _of("energy_kwh", "Energy", "kWh", "always", always=True),
    Column(
        "energy_delta_pct",
        "Δ energy",
        "% vs static",
        "energy against the static policy on the same seed; negative = saved",
        shown="always",
    ),
    _of("migrations", "Migrations", "", "always", always=True),
    _of("slatah", "SLATAH", "%", "literature", percent=True, always=True),
    _of("pdm", "PDM", "%", "literature", percent=True, always=True),
    Column("slav", "SLAV", "", f"SLATAH × PDM, as a fraction ({METRICS['slav']})", shown="literature"),
    Column("esv", "ESV", "", f"energy in kWh × SLAV ({METRICS['esv']})", shown="literature"),
    _of("sla_unserved", "Unserved", "%", percent=True, always=True),
    _of("vm_availability", "Availability", "%", "failures", percent=True, higher=True),
    _of("downtime_s", "Downtime", "s", "failures"),
    _of("restarts", "Restarts", "", "failures"),
    _of("takeovers", "Take-overs", "", "standby"),
    _of("guarantee_lost", "Guarantee lost", "", "admission"),
    _of("ready_pct", "Ready", "%", "cpu"),
    _of("drs_score", "DRS score", "%", "cpu", higher=True),
    _of("numa_loss", "Lost to NUMA", "%", "numa", percent=True),
    _of("memory_loss", "Lost to memory", "%", "tiers", percent=True),
    _of("swap_mib", "Swap", "MiB", "tiers"),
    _of("ballooned_mib", "Balloons", "MiB"),
    _of("io_latency_ms", "I/O latency", "ms", "io"),
    _of("net_dropped_mbps", "Dropped", "Mbit/s", "io"),
    _of("migration_stop_s", "Stopped by moves", "s", "precopy"),
    _of("carbon_kg", "Carbon", "kg CO₂e", "carbon"),
    _of("imbalance_cpu", "Imbalance, CPU", "%", "balance", percent=True),
    _of("imbalance_mem", "Imbalance, memory", "%", percent=True),
    _of("futile_moves", "Futile moves", ""),
    _of("active_hosts", "Active hosts", "", "always", always=True),
    _of("host_shutdowns", "Shutdowns", "", always=True),
    _of("failed_placements", "Failed placements", "", "always"),
    Column("total_wait_s", "Total wait", "s", "waiting time of requests, sum", optional=True, shown="always"),
    Column("mean_wait_s", "Mean wait", "s", "waiting time of requests, mean", optional=True, shown="always"),
    _of("fragment_rate", "Fragments", "%", percent=True),
    _of("decision_ms_p99", "Decision p99", "ms", "always", always=True),
)
"""Columns in the order of the table."""


def exercised(scenario: Mapping[str, Any]) -> set[str]:
    """What of the model a scenario exercises, as ``Column.shown`` names it.

    Args:
        scenario: Its configuration, as stored with a run.
    """

    def group(name: str) -> Mapping[str, Any]:
        found = scenario.get(name)
        return found if isinstance(found, Mapping) else {}

    words = {"always"}
    words |= {
        name
        for name in ("failures", "standby", "admission", "cpu", "numa", "io")
        if group(name).get("enabled")
    }
    words |= {"tiers"} if scenario.get("memory") == "multiplexed" else set()
    words |= {"literature"} if scenario.get("memory") == "ignored" else set()
    words |= {"precopy"} if group("migration").get("mode") == "precopy" else set()
    words |= {"carbon"} if any(group("carbon").values()) else set()
    words |= (
        {"balance"} if not group("failures").get("enabled") and _one_kind(scenario.get("hosts")) else set()
    )
    return words


def _one_kind(hosts: Any) -> bool:
    """Whether all hosts are alike, so that evenness is a question."""
    return isinstance(hosts, Sequence) and len(hosts) == 1


COUNTS = (
    *("migrations", "host_shutdowns", "failed_placements", "restarts", "takeovers", "futile_moves"),
    "guarantee_lost",
)


@dataclass(frozen=True)
class Scale:
    """How the numbers of one column are written.

    Attributes:
        factor: What values are multiplied by first.
        exponent: Power of ten taken out of the numbers and written in the heading; 0 = none.
        decimals: Digits after the point.
    """

    factor: float
    exponent: int
    decimals: int

    def write(self, value: float, *, signed: bool = False) -> str:
        """A value as text; NaN is a dash."""
        if not math.isfinite(value):
            return "–"
        shown = value * self.factor
        if shown == 0:
            return "0"
        text = f"{shown:+,.{self.decimals}f}" if signed else f"{shown:,.{self.decimals}f}"
        if not text.strip("+-0.,"):  # rounded to nothing, it has no sign
            return text.lstrip("+-")
        return text.replace("-", "−")


def superscript(exponent: int) -> str:
    """Small digits."""
    return str(exponent).translate(DIGITS)


def fit_scale(column: Column, values: Iterable[float]) -> Scale:
    """Choose a power of ten and decimals so that the middle of a column shows three digits."""
    factor = 100.0 if column.percent else 1.0
    if column.key == "vm_availability":  # of 99.9921 % it is the last digits that matter
        values = [v for v in values if math.isfinite(v)]
        missing = [1.0 - v for v in values if v < 1.0]
        magnitude = math.floor(math.log10(100.0 * float(np.median(missing)))) if missing else 1
        return Scale(factor, 0, min(5, max(0, 1 - magnitude)))
    sizes = np.abs(np.array([v for v in values if math.isfinite(v) and v != 0], dtype=np.float64)) * factor
    if len(sizes) == 0:
        return Scale(factor, 0, 0)
    magnitude = math.floor(math.log10(float(np.median(sizes))))
    exponent = 0
    if magnitude < -2:
        exponent = magnitude
        factor *= 10.0**-exponent
        magnitude = 0
    if column.key in COUNTS and magnitude >= 1:
        return Scale(factor, exponent, 0 if magnitude >= 2 else 1)
    return Scale(factor, exponent, min(4, max(0, 2 - magnitude)) if magnitude < 3 else 0)


def write_number(value: float, digits: int = 3) -> str:
    """A number for running text: three digits, a power of ten where it is very small or large."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # rounded first: 99.96 has the magnitude of 100
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -3 or magnitude > 6:
        mantissa = f"{value / 10.0**magnitude:.{digits - 1}f}"
        return f"{mantissa}\u00a0×\u00a010{superscript(magnitude)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}".replace("-", "−")
