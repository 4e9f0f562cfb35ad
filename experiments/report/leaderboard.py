"""Policies side by side: means, intervals, order, and which values are best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from virtgym.envs.sim.models.cost import GATE_OK

from ..analysis.run_data import Group
from ..analysis.stats import Interval, mean_interval
from ..run.rows import gates_of
from .columns import LEADERBOARD, Column, Scale, exercised, fit_scale
from .values import Values, estimate, tabulate


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        value: Mean and interval.
        best: Whether it is the best of its column.
        tied: Whether it is not clearly worse than the best: the interval of the paired difference holds 0.
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
        gate: ``ok``, or why it is not ranked.
        learned: A trained agent.
        cells: By column key.
    """

    policy: str
    gate: str
    learned: bool
    cells: dict[str, Cell]

    @property
    def below(self) -> bool:
        """Whether it stands below the line: shown, and not ranked."""
        return self.gate != GATE_OK

    def mean(self, key: str) -> float:
        """Mean of a column, NaN where there is none."""
        return self.cells[key].value.estimate if key in self.cells else math.nan


@dataclass(frozen=True)
class Leaderboard:
    """The whole table.

    Attributes:
        columns: Columns shown.
        scales: How their numbers are written.
        lines: Policies; ranked ones first, best first, then those below the line.
        primary: Column that gives the order.
        n_units: Most values behind one mean.
        n_blocks: Independent runs behind all of them (``_count_blocks``); below ``stats.MIN_BLOCKS`` nothing
            is said to be better.
        units: What the values behind a mean are.
        method: How intervals were made; empty = there are none.
        values: The numbers behind it.
        more: Keys of columns that are not shown at first.
    """

    columns: list[Column]
    scales: dict[str, Scale]
    lines: list[Line]
    primary: Column
    n_units: int
    n_blocks: int
    units: str
    method: str
    values: Values
    more: frozenset[str] = frozenset()

    @property
    def ranked(self) -> list[Line]:
        """Lines that are not below the line."""
        return [line for line in self.lines if not line.below]

    @property
    def leader(self) -> Line:
        """The best ranked line; where nobody is ranked the first of the others."""
        return self.lines[0]

    def column(self, key: str) -> Column | None:
        """A shown column by key."""
        return next((c for c in self.columns if c.key == key), None)


def _cell(values: Values, policy: str, key: str) -> Cell:
    parts = values.of(policy, key)
    constant = any(len(x) > 1 for x in parts) and all(bool((x == x[0]).all()) for x in parts)
    value = estimate(parts, policy, key)
    if value.known and value.low < 0 <= min(float(x.min()) for x in parts):
        value = replace(value, low=0.0)  # a quantity that cannot be negative
    return Cell(value, constant=constant)


def _shown(values: Values) -> list[Column]:
    found = []
    for column in LEADERBOARD:
        known = values.arrays.get(column.key, np.empty(0))
        known = known[np.isfinite(known)]
        if len(known) and not (column.optional and float(np.ptp(known)) == 0):
            found.append(column)
    return found


def _primary(columns: list[Column], lines: list[Line]) -> Column:
    """Cost; for rows that were written before there was one, the first of a few measures that tells apart."""
    by_key = {c.key: c for c in columns}
    if "cost" in by_key:
        return by_key["cost"]
    ranked = [line for line in lines if not line.below] or lines
    for key in ("total_wait_s", "energy_kwh", "sla_unserved", "esv"):
        means = [line.mean(key) for line in ranked if math.isfinite(line.mean(key))]
        if key in by_key and means and (len(set(means)) > 1 or (len(ranked) == 1 and means[0] != 0)):
            return by_key[key]
    return next((by_key[k] for k in ("energy_kwh", "esv") if k in by_key), columns[0])


def make_leaderboard(group: Group) -> Leaderboard:
    """Work out the table of a group."""
    values = tabulate(group)
    columns = [_in_unit(group, column) for column in _shown(values)]
    gates = gates_of(group.rows)
    lines = []
    for policy in group.policies:
        cells = {c.key: _cell(values, policy, c.key) for c in columns}
        lines.append(Line(policy, gates[policy], policy in group.learned, cells))
    primary = _primary(columns, lines)
    keys = (primary.key, "sla_unserved" if primary.key == "energy_kwh" else "energy_kwh")
    lines.sort(key=lambda x: (x.below, *(_rank(x.mean(key)) for key in keys), x.policy))
    scales = {c.key: fit_scale(c, [line.mean(c.key) for line in lines]) for c in columns}
    lines = _mark_best(values, columns, lines, scales)
    more = _hidden(group, columns, primary)
    return Leaderboard(columns, scales, lines, primary, *_describe(group, values), values, more)


def _hidden(group: Group, columns: list[Column], primary: Column) -> frozenset[str]:
    """Columns about what the scenario does not exercise; none where that is not known."""
    words: set[str] = set()
    for run in group.runs:
        if isinstance(scenario := run.settings.get("scenario"), dict):
            words |= exercised(scenario)
    return frozenset(c.key for c in columns if words and c.shown not in words and c is not primary)


def _in_unit(group: Group, column: Column) -> Column:
    """A column of costs in the unit that the scenario of the runs names."""
    if not column.key.startswith("cost"):
        return column
    for run in group.runs:
        scenario = run.settings.get("scenario")
        cost = scenario.get("cost") if isinstance(scenario, dict) else None
        if isinstance(cost, dict) and isinstance(cost.get("unit"), str):
            return replace(column, unit=cost["unit"])
    return column


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _describe(group: Group, values: Values) -> tuple[int, int, str, str]:
    per_trace, unit, blocks = values.most_runs(), values.unit, _count_blocks(group, values)
    if group.pooled and per_trace > 1:
        method = "stratified bootstrap, runs resampled within each trace"
        return per_trace, blocks, f"{unit}s on each of {len(group.traces)} traces", method
    if group.pooled:
        return len(group.traces), blocks, "traces, one run each", "Student's t over traces"
    several = per_trace > 1
    return per_trace, blocks, f"{unit}s" if several else unit, "Student's t" if several else ""


def _count_blocks(group: Group, values: Values) -> int:
    """Independent runs: as many as there are loads; on one load, as many as there are seeds on it.

    Seeds on one load share its hours: what they say is about that load, with other failures and choices.
    """
    digests = group.rows["trace_digest"].astype(str) if "trace_digest" in group.rows else None
    known = set() if digests is None else set(digests) - {"", "nan"}
    runs = sum(len(columns) for columns in values.traces)
    return len(known) if len(known) > 1 else runs


def _mark_best(
    values: Values, columns: list[Column], lines: list[Line], scales: dict[str, Scale]
) -> list[Line]:
    """Mark the best ranked mean of each column, those written alike, and those not clearly worse."""
    marked = [dict(line.cells) for line in lines]
    open_to = [i for i, line in enumerate(lines) if not line.below]
    for column in columns:
        sign = 1.0 if column.lower_is_better else -1.0
        means = {i: lines[i].mean(column.key) for i in open_to}
        means = {i: m for i, m in means.items() if math.isfinite(m)}
        written = {i: scales[column.key].write(m) for i, m in means.items()}
        if len(set(written.values())) < 2:
            continue
        best = min(means, key=lambda i: sign * means[i])
        for i in means:
            old = marked[i][column.key]
            equal = written[i] == written[best]
            gap = _difference(values, lines[i].policy, lines[best].policy, column.key)
            tied = not equal and gap.known and gap.holds(0.0)
            marked[i][column.key] = replace(old, best=equal, tied=tied)
    return [
        Line(line.policy, line.gate, line.learned, cells) for line, cells in zip(lines, marked, strict=True)
    ]


def compare(board: Leaderboard, a: str, b: str, key: str) -> Interval:
    """Mean difference ``a - b`` over the runs that both have (same trace and unit), with its interval."""
    return _difference(board.values, a, b, key)


def _difference(values: Values, a: str, b: str, key: str) -> Interval:
    return estimate(values.gaps(a, b, key), a, b, key)


def shared_intervals(board: Leaderboard, key: str) -> tuple[dict[str, Interval], bool]:
    """Intervals of ranked policies for a picture, and whether what all share on a seed was taken out.

    A heavy day is heavy for every policy. Each run is corrected by the mean of all policies on its trace and
    seed (Cousineau 2005, with Morey's 2008 factor √(P / (P - 1)) for P policies). Where a policy gives the
    same number in every run, seeds share nothing and the plain intervals are given.
    """
    ranked = [line for line in board.ranked if math.isfinite(line.mean(key))]
    plain = {x.policy: x.cells[key].value for x in ranked if not x.cells[key].constant}
    rows = board.values.arrays[key][[board.values.row[x.policy] for x in ranked]]
    if len(plain) < len(ranked) or min(rows.shape) < 2 or not bool(np.isfinite(rows).all()):
        return plain, False
    corrected = rows - rows.mean(axis=0) + rows.mean()
    factor = math.sqrt(len(rows) / (len(rows) - 1))
    found = {}
    for line, runs in zip(ranked, corrected, strict=True):
        one = mean_interval(runs)
        half = factor * (one.high - one.estimate)
        found[line.policy] = replace(one, low=one.estimate - half, high=one.estimate + half)
    return found, True
