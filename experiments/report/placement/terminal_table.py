"""The final table of placement runs on a terminal, and what it says in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...analysis.placement_summary import Comparison, Entry
from ...analysis.stats import Interval, trimmed_mean

if TYPE_CHECKING:
    from rich.table import Table

DROPPED = ("time", "iqm", "won", "per_vm", "mean")
"""Columns that a narrow terminal goes without, the least telling first."""


def placement_table(found: Comparison, title: str, left_out: Collection[str] = ()) -> Table:
    """A line per policy and learner, best first.

    Args:
        found: Policies on common windows.
        title: What was run.
        left_out: Names of ``DROPPED`` that get no column.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column("policy", overflow="fold")
    heads = [(key, head) for key, head in _heads(found) if key not in left_out]
    for _, head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for entry in found.entries:
        cells = _cells(found, entry)
        table.add_row(escape(_name(entry)), *(cells[key] for key, _ in heads))
    return table


def notes(found: Comparison) -> list[str]:
    """What stands under the table: how to read it, what was left out, and the verdicts."""
    n = len(found.windows)
    text = f"{n} window{'s' * (n > 1)}"
    if n > 1:
        text += "; trimmed mean: without the lowest and the highest 10 %"
        blocks = f"{found.n_blocks} independent blocks of windows"
        text += f"; Δ of it: paired bootstrap over {blocks}" if len(found.entries) > 1 else ""
    lines = [text]
    if found.n_dropped:
        lines.append(f"{found.n_dropped} windows left out, in which not every policy has a result")
    for policy, stuck in found.n_stuck.items():
        lines.append(f"{policy}: requests rejected or never placed in {stuck} windows")
    for policy in found.left_out:
        lines.append(f"{policy}: left out, it has no window in common with the others")
    return lines + verdicts(found)


def _name(entry: Entry) -> str:
    if entry.members:
        return f"{entry.name} ({len(entry.members)} agents)"
    return f"{entry.name} (not attainable)" if entry.reference else entry.name


def _heads(found: Comparison) -> list[tuple[str, str]]:
    unit = "placed" if found.survival else "wait s"
    heads = [("trimmed", f"trimmed mean {unit}"), ("mean", f"mean {unit}"), ("iqm", f"IQM {unit}")]
    heads.append(("per_vm", "placed %" if found.survival else "wait/VM s"))
    heads.append(("time", "µs/decision"))
    if len(found.entries) < 2:
        return heads
    heads.append(("won", "best in"))
    rule = found.best_rule
    return [*heads, ("gap", f"Δ {rule.name} [95 %]")] if rule else heads


def _cells(found: Comparison, entry: Entry) -> dict[str, str]:
    cells = {key: f"{found.value(entry, key):,.1f}" for key in ("trimmed", "mean", "iqm")}
    per_vm = found.per_vm(entry)
    cells["per_vm"] = f"{100.0 * per_vm:.1f}" if found.survival else f"{per_vm:,.1f}"
    cells["time"] = "–" if math.isnan(entry.decision_us) else f"{entry.decision_us:,.2f}"
    cells["won"] = "" if entry.members else f"{found.won(entry)}/{len(found.windows)}"
    rule = found.best_rule
    if rule is not None:
        cells["gap"] = "" if entry is rule else gap_text(found.gap(entry, rule))
    return cells


def gap_text(gap: Interval) -> str:
    """A difference with its interval."""
    text = f"{gap.estimate:+,.0f}"
    return f"{text} [{gap.low:+,.0f}, {gap.high:+,.0f}]" if gap.known else text


def verdicts(found: Comparison) -> list[str]:
    """What the comparison says of each learner and of each agent that is of none, against the best rule.

    A loss is said as one, and what the windows cannot tell apart as that.
    """
    from .words import agent_verdict

    rule = found.best_rule
    if rule is None:
        return []
    return ["".join(agent_verdict(found, entry, rule)) for entry in found.judged]


def progress_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result of one cell, for a line of progress."""
    wall = sum(float(row["wall_s"]) for row in rows)
    results, what = np.array([row["total_wait_s"] for row in rows]), "s waited"
    if not np.isfinite(results).any():
        results, what = np.array([row["n_vms"] - row["failed_placements"] for row in rows]), "requests placed"
    return f"trimmed mean {trimmed_mean(results):,.1f} {what} in {len(rows)} windows, {wall:.2f} s"
