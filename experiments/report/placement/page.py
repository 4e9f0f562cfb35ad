"""The part of the page about one group of placement windows, and its tables for HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ...analysis.placement_summary import Comparison, Entry, learner_name
from ...analysis.run_data import Group
from ...analysis.stats import Interval
from ..columns import write_number
from ..figures import short
from ..parts import add_figure, block, chip_fieldset, pieces, plot_div, tile_list
from .figures import forest_figure, gaps_figure, pairs_figure, placement_styles, profile_figure
from .words import (
    difference,
    entry_label,
    make_placement_tiles,
    make_placement_verdict,
    placement_facts,
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


@dataclass(frozen=True)
class PlacementCell:
    """One number of the table.

    Attributes:
        value: By which the column is sorted; NaN = empty.
        text: As written.
        small: Its interval; empty = none.
        mark: ``best``, ``tied`` (not clearly worse) or empty.
    """

    value: float
    text: str
    small: str = ""
    mark: str = ""


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


def placement_cells(found: Comparison, entry: Entry) -> dict[str, PlacementCell]:
    """The numbers of a policy or learner by column."""
    digits = 1 if found.survival else 0
    cells = {}
    for key in ("trimmed", "mean", "iqm"):
        interval = found.interval(entry, key)
        small = f"{interval.low:,.{digits}f} – {interval.high:,.{digits}f}" if interval.known else ""
        text = f"{interval.estimate:,.{digits}f}"
        cells[key] = PlacementCell(interval.estimate, text, small, _mark(found, entry, key))
    per_vm = found.per_vm(entry) * (100.0 if found.survival else 1.0)
    cells["per_vm"] = PlacementCell(per_vm, f"{per_vm:,.1f}")
    won = math.nan if entry.members or entry.reference else float(found.won(entry))
    cells["won"] = PlacementCell(won, f"{won:.0f}" if math.isfinite(won) else "")
    time = entry.decision_us
    cells["time"] = PlacementCell(time, write_number(time))
    rule = found.best_rule
    if rule is not None:
        for key, statistic in (("gap", "trimmed"), ("gap_mean", "mean")):
            cells[key] = _gap_cell(found.gap(entry, rule, statistic), entry is rule, digits)
        chance = 100.0 * found.chance(entry, rule)
        cells["chance"] = PlacementCell(chance, "–" if entry is rule else f"{chance:.0f}")
    return cells


def _gap_cell(gap: Interval, same: bool, digits: int) -> PlacementCell:
    if same:
        return PlacementCell(0.0, "–")
    small = f"{difference(gap.low, digits)} … {difference(gap.high, digits)}" if gap.known else ""
    return PlacementCell(gap.estimate, difference(gap.estimate, digits), small)


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


def placement_parts(group: Group, found: Comparison, figures: dict[str, Any]) -> list[str]:
    """HTML blocks of a group; what they draw is added to ``figures``."""
    return [
        _head(group, found),
        _table(group, found),
        _learners(found),
        _profile(found, figures),
        _against_rule(found, figures),
        _matrix(found),
    ]


def _head(group: Group, found: Comparison) -> str:
    first, *rest = make_placement_verdict(found)
    facts = "".join(f"<li>{escape(f)}</li>" for f in placement_facts(group, found))
    more = "".join(f"<li>{pieces(s)}</li>" for s in rest)
    return (
        f'<header class="head"><h2>{escape(group.title)}</h2><ul class="facts">{facts}</ul>'
        f'<p class="verdict">{pieces(first)}</p><ul class="sure">{more}</ul>'
        f"{tile_list(make_placement_tiles(found))}</header>"
    )


def _table(group: Group, found: Comparison) -> str:
    columns = placement_columns(found)
    heads = '<th scope="col" class="corner"><button type="button">Policy</button></th>'
    for column in columns:
        order = "descending" if found.survival else "ascending"
        ordered = f' aria-sort="{order}"' if column.key == "trimmed" else ""
        unit = short(column.unit)
        heads += (
            f'<th scope="col"{ordered} title="{escape(column.help)}"><button type="button">'
            f"{escape(column.label)}<small>{unit}</small></button></th>"
        )
    styles = placement_styles(found)
    body, rank = [], 0
    for entry in found.entries:
        ranked = not entry.reference and not entry.members
        rank += ranked
        tags = '<span class="tag">not attainable</span>' if entry.reference else ""
        tags += '<span class="tag">trained</span>' if entry.learned and not entry.members else ""
        tags += f'<span class="tag">{len(entry.members)} agents</span>' if entry.members else ""
        style = styles[entry.name]
        name = (
            f'<th scope="row"><span class="rank">{rank if ranked else ""}</span>'
            f'<i class="swatch {style.dash}" style="--ink:var(--{style.ink})"></i>'
            f'<span class="name" title="{escape(entry.name)}">{escape(entry.name)}</span>{tags}</th>'
        )
        cells = placement_cells(found, entry)
        row = "".join(_cell(cells[column.key]) for column in columns)
        body.append(f"<tr{'' if ranked else ' class=ref'}>{name}{row}</tr>")
    caption = f"Leaderboard of {escape(group.title)}"
    table = (
        f'<div class="scroller" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="leaderboard"><caption class="unseen">{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
    lead = "Ordered by the trimmed mean; click a heading to sort by it. Small: 95 % intervals."
    return block("board", "Leaderboard", table + _legend(found, columns), escape(lead))


def _cell(cell: PlacementCell) -> str:
    raw = f"{cell.value:.12g}" if math.isfinite(cell.value) else ""
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    kind = f' class="{cell.mark}"' if cell.mark else ""
    return f'<td{kind} data-value="{raw}">{escape(cell.text)}{small}</td>'


def _legend(found: Comparison, columns: Sequence[PlacementColumn]) -> str:
    terms = "".join(f"<dt>{escape(c.label)}</dt><dd>{escape(c.help)}</dd>" for c in columns)
    tied = '; <span class="tied">not clearly worse</span> (95 % interval of the paired difference includes 0)'
    tied = tied if len(found.windows) > 1 else ""
    more = "Grey: not ranked." if any(e.members or e.reference for e in found.entries) else ""
    return (
        f'<p class="note"><span class="best">Best of its column</span>{tied}. {more}</p>'
        f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>"
    )


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


def _learners(found: Comparison) -> str:
    if not found.learners:
        return ""
    heads = ("Learner", "Agents", "Trimmed mean, mean over agents", "Best agent", "Worst agent")
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(text)}</td>" for text in rest)}</tr>'
        for name, *rest in learner_rows(found)
    )
    table = f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    text = (
        "Agents whose folders differ only in the seed. In brackets: 95 % interval over seeds (Student's t), "
        "which is about training again; the intervals above are about windows and seeds."
    )
    return block("learners", "Learners over seeds", f'<div class="scroller">{table}</div>', escape(text))


def _default(found: Comparison) -> list[str]:
    shown = [e.name for e in found.policies if not e.reference][:N_SHOWN]
    also = [e.name for e in (found.best_rule, found.best_agent) if e is not None]
    return list(dict.fromkeys([*shown, *also]))


def _profile(found: Comparison, figures: dict[str, Any]) -> str:
    default = _default(found)
    add_figure(figures, "profile", profile_figure(found, default))
    styles = placement_styles(found)
    chips = chip_fieldset([(e.name, styles[e.name]) for e in found.entries], default, N_SHOWN)
    title = "How results spread over windows"
    what = "in which more requests are placed" if found.survival else "that wait no longer"
    text = f"Performance profile: the share of windows {what} than the value below; higher is better."
    plot = plot_div("profile", f"{title}; the numbers are in the leaderboard", "lines high")
    return block("profile", title, chips + plot, escape(text))


def _against_rule(found: Comparison, figures: dict[str, Any]) -> str:
    rule = found.best_rule
    others = [e for e in found.entries if e is not rule]
    if rule is None or not others:
        return ""
    add_figure(figures, "forest", forest_figure(found, rule))
    height = 26 * len(others) + 90
    forest = plot_div("forest", f"Differences of trimmed means to {rule.name}", "bars", height)
    title = f"Against the best rule, {rule.name}"
    side = "right" if found.survival else "left"
    text = f"Differences of trimmed means with paired 95 % intervals; {side} of 0 is better than the rule."
    if len(found.windows) < 2:
        return block("against", title, forest, escape(text))
    agent = found.best_agent
    first = agent if agent is not None else others[0]
    options, choices = [], []
    for number, entry in enumerate([first, *(e for e in others if e is not first)]):
        key = f"pair-{number}"
        add_figure(figures, key, pairs_figure(found, entry, rule))
        add_figure(figures, f"gaps-{number}", gaps_figure(found, entry, rule))
        options.append(f'<option value="{key}">{escape(entry_label(entry))}</option>')
        left = plot_div(key, f"Results of {entry.name} and {rule.name} in every window", "high")
        right = plot_div(f"gaps-{number}", f"Differences of {entry.name} to {rule.name} by window", "high")
        choices.append(
            f'<div class="choice" data-choice="{key}"{" hidden" if number else ""}><div class="grid">'
            f"<figure><figcaption>Window by window{_below(found)}</figcaption>{left}</figure>"
            "<figure><figcaption>Difference in every window, sorted (log scale)</figcaption>"
            f"{right}</figure></div></div>"
        )
    choose = f'<label>Policy <select class="chooser">{"".join(options)}</select></label>'
    body = f'{forest}<div class="controls">{choose}</div>{"".join(choices)}'
    return block("against", title, body, escape(text))


def _below(found: Comparison) -> str:
    return ": above the line it places more" if found.survival else ": below the line it waits less"


def _matrix(found: Comparison) -> str:
    """Every pair: trimmed mean of the row minus that of the column."""
    entries = found.entries[:N_MATRIX]
    if len(entries) < 3:
        return ""
    digits = 1 if found.survival else 0
    heads = "".join(f'<th scope="col" title="{escape(e.name)}">{escape(e.name)}</th>' for e in entries)
    rows = []
    for a in entries:
        cells = []
        for b in entries:
            if a is b:
                cells.append('<td class="self"></td>')
                continue
            gap = found.gap(a, b)
            kind = "good" if found.better(gap) else "bad" if found.worse(gap) else ""
            small = f"{difference(gap.low, digits)} … {difference(gap.high, digits)}" if gap.known else ""
            cells.append(
                f'<td class="{kind}">{difference(gap.estimate, digits)}<small>{escape(small)}</small></td>'
            )
        name = f'<span class="name" title="{escape(a.name)}">{escape(a.name)}</span>'
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    table = (
        '<table class="matrix"><thead><tr><th class="corner"></th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    title = "Every pair"
    sign = "positive" if found.survival else "negative"
    text = (
        f"Trimmed mean of the row minus that of the column, paired 95 % interval; {sign}: the row is better."
    )
    key = (
        '<p class="key"><span><i class="cell good"></i>row clearly better</span>'
        '<span><i class="cell bad"></i>row clearly worse</span></p>'
    )
    more = f" The best {N_MATRIX} are shown." if len(found.entries) > N_MATRIX else ""
    scroller = f'<div class="scroller" tabindex="0" role="region" aria-label="{title}">{table}</div>'
    return block("pairs", title, key + scroller, escape(text + more))
