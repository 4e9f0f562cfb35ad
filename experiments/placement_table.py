"""The final table of placement runs on a terminal, and what it says in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .placement_summary import Comparison, Entry, compare_windows
from .stats import Interval, trimmed_mean

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["DROPPED", "gap_text", "placement_table", "progress_text", "verdict", "verdicts"]

DROPPED = ("iqm", "won", "per_vm", "mean")
"""Columns that a narrow terminal goes without, the least telling first."""


def placement_table(rows: pd.DataFrame, left_out: Collection[str] = ()) -> Table:
    """A line per policy and learner, best first.

    Args:
        rows: Result rows of placement windows.
        left_out: Names of ``DROPPED`` that get no column.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    found = compare_windows(rows)
    names = ", ".join(dict.fromkeys(f"{s} / {t}" for s, t in zip(rows["scenario"], rows["trace"])))
    caption = "\n".join([_caption(found), *verdicts(found)])
    table = Table(title=escape(names), caption=escape(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column("policy", overflow="fold")
    for key, head in _heads(found):
        if key not in left_out:
            table.add_column(head, justify="right", no_wrap=True)
    for entry in found.entries:
        cells = _cells(found, entry)
        table.add_row(escape(_name(entry)), *(cells[key] for key, _ in _heads(found) if key not in left_out))
    return table


def _name(entry: Entry) -> str:
    if entry.members:
        return f"{entry.name} ({len(entry.members)} agents)"
    return f"{entry.name} (not attainable)" if entry.reference else entry.name


def _heads(found: Comparison) -> list[tuple[str, str]]:
    unit = "placed" if found.survival else "wait s"
    heads = [("trimmed", f"trimmed mean {unit}"), ("mean", f"mean {unit}"), ("iqm", f"IQM {unit}")]
    heads += [("per_vm", "placed %" if found.survival else "wait/VM s"), ("won", "best in")]
    rule = found.best_rule
    return [*heads, ("gap", f"Δ {rule.name} [95 %]")] if rule and len(found.entries) > 1 else heads


def _cells(found: Comparison, entry: Entry) -> dict[str, str]:
    cells = {key: f"{found.value(entry, key):,.1f}" for key in ("trimmed", "mean", "iqm")}
    per_vm = found.per_vm(entry)
    cells["per_vm"] = f"{100.0 * per_vm:.1f}" if found.survival else f"{per_vm:,.1f}"
    cells["won"] = "" if entry.members else f"{found.won(entry)}/{len(found.windows)}"
    rule = found.best_rule
    if rule is not None:
        cells["gap"] = "" if entry is rule else gap_text(found.gap(entry, rule))
    return cells


def gap_text(gap: Interval) -> str:
    """A difference with its interval."""
    text = f"{gap.estimate:+,.0f}"
    return f"{text} [{gap.low:+,.0f}, {gap.high:+,.0f}]" if gap.known else text


def _caption(found: Comparison) -> str:
    n = len(found.windows)
    text = f"{n} window{'s' * (n > 1)}"
    if n > 1:
        text += "; trimmed mean: without the lowest and the highest 10 %; Δ of it: paired bootstrap"
    if found.n_dropped:
        text += f"; {found.n_dropped} windows left out, which not every policy finished"
    return text


def verdicts(found: Comparison) -> list[str]:
    """What the comparison says of each learner and of the best trained agent against the best rule.

    A loss is said as one, and what the windows cannot tell apart as that.
    """
    rule = found.best_rule
    if rule is None:
        return []
    agents = [e for e in (found.best_agent,) if e is not None]
    return [verdict(found, entry, rule) for entry in (*found.learners, *agents)]


def verdict(found: Comparison, entry: Entry, rule: Entry) -> str:
    """One sentence about a trained policy and the best rule."""
    gap = found.gap(entry, rule)
    who = f"{entry.name}, mean of {len(entry.members)} agents," if entry.members else entry.name
    verb = (
        "beats" if found.better(gap) else "loses against" if found.worse(gap) else "cannot be told apart from"
    )
    if not gap.known:
        good = gap.estimate > 0 if found.survival else gap.estimate < 0
        verb = "is ahead of" if good else "equals" if gap.estimate == 0 else "is behind"
    unit = "" if found.survival else " s"
    values = f"{found.value(entry):,.0f} against {found.value(rule):,.0f}{unit}"
    return f"{who} {verb} the best rule {rule.name}: trimmed mean {values}, difference {gap_text(gap)}"


def progress_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result of one cell, for a line of progress."""
    wall = sum(float(row["wall_s"]) for row in rows)
    results, what = np.array([row["total_wait_s"] for row in rows]), "s waited"
    if not np.isfinite(results).any():
        results, what = np.array([row["n_vms"] - row["failed_placements"] for row in rows]), "requests placed"
    return f"trimmed mean {trimmed_mean(results):,.1f} {what} in {len(rows)} windows, {wall:.2f} s"
