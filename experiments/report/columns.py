"""The columns of the leaderboard and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
    """

    key: str
    label: str
    unit: str
    help: str
    percent: bool = False
    optional: bool = False
    lower_is_better: bool = True


LEADERBOARD: tuple[Column, ...] = (
    Column("cost", "Cost", "kWh", METRICS["cost"]),
    Column("unserved_weighted", "Unserved, weighted", "%", METRICS["unserved_weighted"], percent=True),
    *(
        Column(f"cost_{term}", f"… of {term}", "kWh", METRICS[f"cost_{term}"], optional=True)
        for term in TERMS
        if term != "energy"
    ),
    Column("energy_kwh", "Energy", "kWh", METRICS["energy_kwh"]),
    Column(
        "energy_delta_pct",
        "Δ energy",
        "% vs static",
        "energy against the static policy on the same seed; negative = saved",
    ),
    Column("migrations", "Migrations", "", METRICS["migrations"]),
    Column("slatah", "SLATAH", "%", METRICS["slatah"], percent=True),
    Column("pdm", "PDM", "%", METRICS["pdm"], percent=True),
    Column("slav", "SLAV", "", f"SLATAH × PDM, as a fraction ({METRICS['slav']})"),
    Column("esv", "ESV", "", f"energy in kWh × SLAV ({METRICS['esv']})"),
    Column("sla_unserved", "Unserved", "%", METRICS["sla_unserved"], percent=True),
    Column("active_hosts", "Active hosts", "", METRICS["active_hosts"]),
    Column("host_shutdowns", "Shutdowns", "", METRICS["host_shutdowns"]),
    Column("failed_placements", "Failed placements", "", METRICS["failed_placements"], optional=True),
    Column("downtime_s", "Downtime", "s", METRICS["downtime_s"], optional=True),
    Column("restarts", "Restarts", "", METRICS["restarts"], optional=True),
    Column("takeovers", "Take-overs", "", METRICS["takeovers"], optional=True),
    Column("ready_pct", "Ready", "%", METRICS["ready_pct"], optional=True),
    Column("swap_mib", "Swap", "MiB", METRICS["swap_mib"], optional=True),
    Column("carbon_kg", "Carbon", "kg CO₂e", METRICS["carbon_kg"], optional=True),
    Column("total_wait_s", "Total wait", "s", "waiting time of requests, sum", optional=True),
    Column("mean_wait_s", "Mean wait", "s", "waiting time of requests, mean", optional=True),
    Column("fragment_rate", "Fragments", "%", METRICS["fragment_rate"], percent=True, optional=True),
    Column("decision_ms_p99", "Decision p99", "ms", METRICS["decision_ms_p99"]),
)
"""Columns in the order of the table."""

COUNTS = ("migrations", "host_shutdowns", "failed_placements", "restarts", "takeovers")


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
        return text.replace("-", "−")


def superscript(exponent: int) -> str:
    """Small digits."""
    return str(exponent).translate(DIGITS)


def fit_scale(column: Column, values: Iterable[float]) -> Scale:
    """Choose a power of ten and decimals so that the middle of a column shows three digits."""
    factor = 100.0 if column.percent else 1.0
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
