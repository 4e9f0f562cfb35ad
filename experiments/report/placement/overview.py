"""Placement policies across scenarios, as a table: other numbers of hosts, other windows, other traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...analysis.placement_summary import Comparison, Entry
from ...analysis.run_data import Group
from .words import difference, entry_label

Boards = Sequence[tuple[Group, Comparison]]


@dataclass(frozen=True)
class OverviewCell:
    """A policy in a scenario.

    Attributes:
        text: Its trimmed mean; empty = it was not run there.
        small: Its difference to the best rule there, %.
        mark: ``good`` or ``bad`` where it is clearly better or worse than the best rule, ``base`` for that
            rule itself.
    """

    text: str = ""
    small: str = ""
    mark: str = ""


def overview_rows(boards: Boards) -> list[tuple[str, list[OverviewCell]]]:
    """One row per policy and learner that was run in two scenarios or more, best of the first scenario first.

    Args:
        boards: Groups of placement windows.
    """
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for _, found in boards:
        for entry in found.entries:
            names.setdefault(entry.name, entry_label(entry))
            counts[entry.name] = counts.get(entry.name, 0) + 1
    rows = []
    for name, label in names.items():
        if counts[name] > 1:
            here = [next((e for e in found.entries if e.name == name), None) for _, found in boards]
            cells = [_cell(found, entry) for (_, found), entry in zip(boards, here, strict=True)]
            rows.append((label, cells))
    return rows


def _cell(found: Comparison, entry: Entry | None) -> OverviewCell:
    if entry is None:
        return OverviewCell()
    text = f"{found.value(entry):,.{1 if found.survival else 0}f}"
    rule = found.best_rule
    if rule is None or entry is rule or found.value(rule) == 0:
        return OverviewCell(text, mark="base" if entry is rule else "")
    gap = found.gap(entry, rule)
    mark = "good" if found.better(gap) else "bad" if found.worse(gap) else ""
    share = 100.0 * gap.estimate / found.value(rule)
    return OverviewCell(text, f"{difference(share, 1)} %", mark)
