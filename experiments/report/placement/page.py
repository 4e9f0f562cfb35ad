"""The part of the page about one group of placement windows, and its tables for HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...analysis.placement_summary import Comparison, Entry, learner_name
from ...analysis.run_data import Group
from ...analysis.stats import Interval
from ..columns import write_number
from ..facts import question_of, run_folders
from ..figures import short
from ..parts import Chips, PagePart, add_figure, render
from ..sections import Section, section_html
from ..table import Head, Row, Table, TableCell
from .figures import forest_figure, gaps_figure, pairs_figure, placement_styles, profile_figure
from .overview import overview_rows
from .words import (
    difference,
    entry_label,
    make_placement_tiles,
    make_placement_verdict,
    placement_facts,
    placement_remarks,
)

N_SHOWN = 6
"""Ranked policies whose lines are shown at first; the best agent is shown with them."""

N_MATRIX = 24
"""Most policies of the matrix of pairs."""


@dataclass(frozen=True)
class PlacementColumn:
    """One column of the table.

    Attributes:
        key: What it is.
        label: Heading.
        unit: Unit; empty = none.
        help: Definition.
    """

    key: str
    label: str
    unit: str
    help: str


def placement_columns(found: Comparison) -> list[PlacementColumn]:
    """The columns that this comparison has."""
    unit = "" if found.survival else "s"
    what = "requests placed" if found.survival else "total wait of a window"
    trimmed = f"{what}, mean without the lowest and the highest 10 % of windows"
    columns = {
        "trimmed": ("Trimmed mean", unit, trimmed),
        "gap": ("Δ trimmed", "vs best rule", "difference of trimmed means to the best rule, paired"),
        "mean": ("Mean", unit, f"{what}, mean of all windows"),
        "gap_mean": ("Δ mean", "vs best rule", "difference of means to the best rule, paired"),
        "iqm": ("IQM", unit, f"{what}, interquartile mean: of the middle half of windows"),
        "per_vm": ("Wait per VM", "s", "all waiting / requests of all windows"),
        "won": ("Best in", "windows", "windows in which no ranked policy is better; ties count for all"),
        "chance": (
            *("Better", "% vs best rule"),
            "probability of improvement: chance of beating the best rule in a window; ties count half",
        ),
        "time": (
            "Time",
            "µs/decision",
            "wall time of policy and games by decisions, all windows in one batch",
        ),
    }
    if found.survival:
        columns["per_vm"] = ("Placed", "%", "requests placed / requests of all windows")
    hidden = set() if found.best_rule is not None else {"gap", "gap_mean", "chance"}
    if len(found.entries) < 2:
        hidden = {"gap", "gap_mean", "chance", "won"}
    return [PlacementColumn(key, *texts) for key, texts in columns.items() if key not in hidden]


def placement_cells(found: Comparison, entry: Entry) -> dict[str, TableCell]:
    """The numbers of a policy or learner by column."""
    digits = 1 if found.survival else 0
    cells = {}
    for key in ("trimmed", "mean", "iqm"):
        interval = found.interval(entry, key)
        small = f"{interval.low:,.{digits}f} – {interval.high:,.{digits}f}" if interval.known else ""
        text = f"{interval.estimate:,.{digits}f}"
        cells[key] = TableCell(interval.estimate, text, small, _mark(found, entry, key))
    per_vm = found.per_vm(entry) * (100.0 if found.survival else 1.0)
    cells["per_vm"] = TableCell(per_vm, f"{per_vm:,.1f}")
    won = math.nan if entry.members or entry.reference else float(found.won(entry))
    cells["won"] = TableCell(won, f"{won:.0f}" if math.isfinite(won) else "")
    time = entry.decision_us
    cells["time"] = TableCell(time, write_number(time))
    rule = found.best_rule
    if rule is not None:
        for key, statistic in (("gap", "trimmed"), ("gap_mean", "mean")):
            cells[key] = _gap_cell(found.gap(entry, rule, statistic), entry is rule, digits)
        chance = 100.0 * found.chance(entry, rule)
        cells["chance"] = TableCell(chance, "–" if entry is rule else f"{chance:.0f}")
    return cells


def _gap_cell(gap: Interval, same: bool, digits: int) -> TableCell:
    if same:
        return TableCell(0.0, "–")
    return TableCell(gap.estimate, difference(gap.estimate, digits), _ends(gap, digits))


def _mark(found: Comparison, entry: Entry, key: str) -> str:
    """Whether an entry is the best ranked policy by a statistic, or not clearly worse than that."""
    ranked = [e for e in found.policies if not e.reference]
    if entry.reference or entry.members or len(ranked) < 2:
        return ""
    sign = -1.0 if found.survival else 1.0
    best = min(ranked, key=lambda e: sign * found.value(e, key))
    if found.value(entry, key) == found.value(best, key):
        return "best"
    gap = found.gap(entry, best, key)
    return "tied" if gap.known and not found.worse(gap) else ""


def placement_section(
    group: Group,
    found: Comparison,
    windows: Sequence[tuple[Group, Comparison]],
    own: Sequence[Section] = (),
) -> PagePart:
    """A group of the page.

    Args:
        group: Runs.
        found: What they say.
        windows: All groups of windows of the page.
        own: Sections of one's own.
    """
    figures: dict[str, Any] = {}
    default, styles = _default(found), placement_styles(found)
    add_figure(figures, "profile", profile_figure(found, default))
    what = "in which more requests are placed" if found.survival else "that wait no longer"
    html = render(
        "report/templates/placement.html",
        title=group.title,
        question=question_of(group),
        facts=placement_facts(group, found),
        verdict=make_placement_verdict(found),
        tiles=make_placement_tiles(found),
        table=_table(group, found),
        learners=learner_rows(found),
        profile=f"Performance profile: the share of windows {what} than the value below; higher is better.",
        chips=Chips({e.name: styles[e.name] for e in found.entries}, default, N_SHOWN),
        against=_against_rule(found, figures),
        matrix=_matrix(found),
        across=_across(windows),
        own=section_html(own, figures),
        remarks=placement_remarks(group, found),
        folders=run_folders(group),
    )
    return PagePart(html, {"figures": figures, "heats": []})


def _across(windows: Sequence[tuple[Group, Comparison]]) -> dict[str, Any] | None:
    """Policies across scenarios; None where fewer than two share one."""
    rows = overview_rows(windows)
    if len(windows) < 2 or not rows:
        return None
    heads = [(group.title, "requests" if found.survival else "s") for group, found in windows]
    return {"heads": heads, "rows": rows}


def _table(group: Group, found: Comparison) -> Table:
    columns, styles = placement_columns(found), placement_styles(found)
    order = "descending" if found.survival else "ascending"
    heads = [Head(c.label, short(c.unit), c.help, order if c.key == "trimmed" else "") for c in columns]
    rows, rank = [], 0
    for entry in found.entries:
        ranked = not entry.reference and not entry.members
        rank += ranked
        tags = ["not attainable"] if entry.reference else []
        tags += ["trained"] if entry.learned and not entry.members else []
        tags += [f"{len(entry.members)} agents"] if entry.members else []
        cells = placement_cells(found, entry)
        place = str(rank) if ranked else ""
        shown = [cells[column.key] for column in columns]
        rows.append(Row(entry.name, place, styles[entry.name], tags, shown, not ranked))
    note = "Grey: not ranked." if any(e.members or e.reference for e in found.entries) else ""
    return Table(f"Leaderboard of {group.title}", heads, rows, len(found.windows) > 1, note)


def learner_rows(found: Comparison) -> list[tuple[str, ...]]:
    """Per learner: name, agents, mean of their trimmed means with its interval, best and worst agent."""
    digits = 1 if found.survival else 0
    rows = []
    for learner in found.learners:
        over = found.over_seeds(learner)
        mean = f"{over.estimate:,.{digits}f}"
        if over.known:
            mean += f" [{over.low:,.{digits}f}, {over.high:,.{digits}f}]"
        members = [e for e in found.policies if e.name in learner.members]  # best first, as all entries
        ends = [f"{found.value(e):,.{digits}f} ({_seed_of(e.name)})" for e in (members[0], members[-1])]
        rows.append((learner.name, str(len(members)), mean, *ends))
    return rows


def _seed_of(agent: str) -> str:
    """The part of an agent's folder that tells it from its siblings."""
    return next((part for part in agent.replace("\\", "/").split("/") if learner_name(part) != part), agent)


def _default(found: Comparison) -> list[str]:
    shown = [e.name for e in found.policies if not e.reference][:N_SHOWN]
    also = [e.name for e in (found.best_rule, found.best_agent) if e is not None]
    return list(dict.fromkeys([*shown, *also]))


def _against_rule(found: Comparison, figures: dict[str, Any]) -> dict[str, Any] | None:
    rule = found.best_rule
    others = [e for e in found.entries if e is not rule]
    if rule is None or not others:
        return None
    add_figure(figures, "forest", forest_figure(found, rule))
    side = "right" if found.survival else "left"
    text = f"Differences of trimmed means with paired 95 % intervals; {side} of 0 is better than the rule."
    agent = found.best_agent
    first = agent if agent is not None else others[0]
    pairs, options = [], []
    ordered = [first, *(e for e in others if e is not first)] if len(found.windows) > 1 else []
    for number, entry in enumerate(ordered):
        pair = {"key": f"pair-{number}", "gaps": f"gaps-{number}", "name": entry.name}
        add_figure(figures, pair["key"], pairs_figure(found, entry, rule))
        add_figure(figures, pair["gaps"], gaps_figure(found, entry, rule))
        pairs.append(pair)
        options.append((pair["key"], entry_label(entry)))
    return {
        "rule": rule.name,
        "lead": text,
        "height": 26 * len(others) + 90,
        "pairs": pairs,
        "options": options,
        "side": "above the line it places more" if found.survival else "below the line it waits less",
    }


def _matrix(found: Comparison) -> dict[str, Any] | None:
    """Every pair: trimmed mean of the row minus that of the column."""
    entries = found.entries[:N_MATRIX]
    if len(entries) < 3:
        return None
    digits = 1 if found.survival else 0
    rows: list[list[TableCell | None]] = []
    for a in entries:
        gaps = [None if a is b else found.gap(a, b) for b in entries]
        rows.append([None if gap is None else _pair_cell(found, gap, digits) for gap in gaps])
    sign = "positive" if found.survival else "negative"
    text = (
        f"Trimmed mean of the row minus that of the column, paired 95 % interval; {sign}: the row is better."
    )
    text += f" The best {N_MATRIX} are shown." if len(found.entries) > N_MATRIX else ""
    return {"names": [e.name for e in entries], "rows": rows, "lead": text}


def _pair_cell(found: Comparison, gap: Interval, digits: int) -> TableCell:
    mark = "good" if found.better(gap) else "bad" if found.worse(gap) else ""
    return TableCell(gap.estimate, difference(gap.estimate, digits), _ends(gap, digits), mark)


def _ends(gap: Interval, digits: int) -> str:
    return f"{difference(gap.low, digits)} … {difference(gap.high, digits)}" if gap.known else ""
