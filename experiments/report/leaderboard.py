"""Policies side by side: means, intervals, order, and which values are best."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..stats import Interval, mean_interval, paired_bootstrap_difference, stratified_bootstrap
from .columns import LEADERBOARD, Column, Scale, fit_scale
from .data import Group, is_learned

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "Leaderboard", "Line", "compare", "make_leaderboard", "unit_values"]

BASELINE = "static"


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        value: Mean and interval.
        best: Whether it is the best of its column.
        tied: Whether it lies within the best one's interval.
        constant: Whether it is the same in every run, so that an interval says nothing.
    """

    value: Interval
    best: bool = False
    tied: bool = False
    constant: bool = False


@dataclass(frozen=True)
class Line:
    """One policy.

    Attributes:
        policy: Policy.
        reference: Never migrates though others do: SLAV and ESV are 0 by definition, it is not ranked.
        learned: A trained agent.
        cells: By column key.
    """

    policy: str
    reference: bool
    learned: bool
    cells: dict[str, Cell]

    def mean(self, key: str) -> float:
        """Mean of a column, NaN where there is none."""
        return self.cells[key].value.estimate if key in self.cells else math.nan


@dataclass(frozen=True)
class Leaderboard:
    """The whole table.

    Attributes:
        columns: Columns shown.
        scales: How their numbers are written.
        lines: Policies; ranked ones first, best first, then the references.
        primary: Column that gives the order.
        n_units: Most values behind one mean.
        units: What the values behind a mean are.
        method: How intervals were made; empty = there are none.
    """

    columns: list[Column]
    scales: dict[str, Scale]
    lines: list[Line]
    primary: Column
    n_units: int
    units: str
    method: str

    @property
    def ranked(self) -> list[Line]:
        """Lines that are not references."""
        return [line for line in self.lines if not line.reference]

    def column(self, key: str) -> Column | None:
        """A shown column by key."""
        return next((c for c in self.columns if c.key == key), None)


def unit_values(group: Group) -> pd.DataFrame:
    """One row per (trace, policy, unit), with the energy against static worked out.

    A unit is a seed (its windows averaged first); with one seed and several windows it is a window.
    """
    rows = group.rows.copy()
    rows["energy_delta_pct"] = _energy_delta(rows)
    windows = "window" in rows and rows["window"].nunique() > 1
    unit = "window" if windows and rows["seed"].nunique() == 1 else "seed"
    rows["unit"] = rows[unit]
    numbers = [c.key for c in LEADERBOARD if c.key in rows]
    extra = [c for c in ("thrash", "vm_intervals_per_s", "wall_s") if c in rows]
    table = rows.groupby(["trace", "policy", "unit"], sort=False)[numbers + extra].mean().reset_index()
    table.attrs["unit"] = unit
    return table


def _energy_delta(rows: pd.DataFrame) -> pd.Series:
    """Energy against static, %, on the same trace, seed and window (else against its mean on the trace)."""
    import pandas as pd

    nothing = pd.Series(math.nan, index=rows.index)
    if "energy_kwh" not in rows or not bool((rows["policy"] == BASELINE).any()):
        return nothing
    base = rows[rows["policy"] == BASELINE]
    cells = ["trace", "seed", *(["window"] if "window" in rows else [])]
    same = rows[cells].merge(base[[*cells, "energy_kwh"]].drop_duplicates(cells), on=cells, how="left")[
        "energy_kwh"
    ]
    fallback = rows["trace"].map(base.groupby("trace")["energy_kwh"].mean())
    reference = pd.Series(same.to_numpy(), index=rows.index).fillna(fallback)
    return 100.0 * (rows["energy_kwh"] / reference - 1.0)


def _rng(*names: str) -> np.random.Generator:
    """The same resamples for the same data every time, whatever the order of policies."""
    return np.random.default_rng(zlib.crc32("\0".join(names).encode()))


def _cell(group: Group, table: pd.DataFrame, policy: str, key: str) -> Cell:
    mine = table[table["policy"] == policy]
    tasks = [np.asarray(part[key], dtype=np.float64) for _, part in mine.groupby("trace", sort=False)]
    tasks = [x[np.isfinite(x)] for x in tasks]
    repeated = max((len(x) for x in tasks), default=0) > 1
    constant = repeated and all(bool((x == x[0]).all()) for x in tasks if len(x))
    pooled = np.concatenate(tasks) if tasks else np.empty(0)
    if group.pooled and repeated:
        value = stratified_bootstrap(tasks, _rng(policy, key))
    else:
        value = mean_interval(pooled)
    if value.known and value.low < 0 <= float(pooled.min()):
        value = replace(value, low=0.0)  # a quantity that cannot be negative
    return Cell(value, constant=constant)


def _shown(table: pd.DataFrame) -> list[Column]:
    found = []
    for column in LEADERBOARD:
        if column.key not in table:
            continue
        values = np.asarray(table[column.key], dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values) and not (column.optional and float(np.ptp(values)) == 0):
            found.append(column)
    return found


def _primary(columns: list[Column], lines: list[Line]) -> Column:
    """The first of a few measures that tells the ranked policies apart."""
    ranked = [line for line in lines if not line.reference]
    by_key = {c.key: c for c in columns}
    for key in ("esv", "total_wait_s", "energy_kwh", "sla_unserved"):
        means = [line.mean(key) for line in ranked if math.isfinite(line.mean(key))]
        if key in by_key and means and (len(set(means)) > 1 or (len(ranked) == 1 and means[0] != 0)):
            return by_key[key]
    return next((by_key[k] for k in ("esv", "energy_kwh") if k in by_key), columns[0])


def make_leaderboard(group: Group) -> Leaderboard:
    """Work out the table of a group."""
    table = unit_values(group)
    columns = _shown(table)
    moved = table.groupby("policy")["migrations"].max() if "migrations" in table else None
    some_move = moved is not None and bool((moved > 0).any())
    lines = []
    for policy in group.policies:
        cells = {c.key: _cell(group, table, policy, c.key) for c in columns}
        still = some_move and moved is not None and not float(moved[policy]) > 0
        lines.append(Line(policy, still, is_learned(policy), cells))
    primary = _primary(columns, lines)
    keys = (primary.key, "sla_unserved" if primary.key == "energy_kwh" else "energy_kwh")
    lines.sort(key=lambda x: (x.reference, *(_rank(x.mean(key)) for key in keys), x.policy))
    lines = _mark_best(columns, lines)
    scales = {c.key: fit_scale(c, [line.mean(c.key) for line in lines]) for c in columns}
    sizes = table.groupby(["trace", "policy"]).size()
    n_units, units, method = _describe(group, int(sizes.max()), str(table.attrs["unit"]))
    return Leaderboard(columns, scales, lines, primary, n_units, units, method)


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _describe(group: Group, per_trace: int, unit: str) -> tuple[int, str, str]:
    if group.pooled and per_trace > 1:
        method = "stratified bootstrap, runs resampled within each trace"
        return per_trace, f"{unit}s on each of {len(group.traces)} traces", method
    if group.pooled:
        return len(group.traces), "traces, one run each", "Student's t over traces"
    return per_trace, f"{unit}s" if per_trace > 1 else unit, "Student's t" if per_trace > 1 else ""


def _mark_best(columns: list[Column], lines: list[Line]) -> list[Line]:
    """Mark the best ranked mean of each column and those within its interval."""
    marked = [dict(line.cells) for line in lines]
    open_to = [i for i, line in enumerate(lines) if not line.reference]
    for column in columns:
        sign = 1.0 if column.lower_is_better else -1.0
        means = {i: lines[i].mean(column.key) for i in open_to}
        means = {i: m for i, m in means.items() if math.isfinite(m)}
        if len(means) < 2 or len(set(means.values())) < 2:
            continue
        best = min(means, key=lambda i: sign * means[i])
        interval = lines[best].cells[column.key].value
        for i, mean in means.items():
            old = marked[i][column.key]
            equal = mean == means[best]
            marked[i][column.key] = Cell(old.value, equal, not equal and interval.holds(mean), old.constant)
    return [
        Line(line.policy, line.reference, line.learned, cells)
        for line, cells in zip(lines, marked, strict=True)
    ]


def compare(group: Group, a: str, b: str, key: str) -> Interval:
    """Mean difference ``a - b`` over the runs that both have (same trace and unit), with its interval."""
    table = unit_values(group)
    left, right = (table[table["policy"] == p][["trace", "unit", key]] for p in (a, b))
    both = left.merge(right, on=["trace", "unit"], suffixes=("_a", "_b"))
    x: NDArray[np.float64] = both[f"{key}_a"].to_numpy(dtype=np.float64)
    y: NDArray[np.float64] = both[f"{key}_b"].to_numpy(dtype=np.float64)
    return paired_bootstrap_difference(x, y, _rng(a, b, key))
