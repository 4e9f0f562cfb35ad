"""The page: figures as JSON, everything else as HTML that reads without a script."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..analysis.placement_summary import Comparison
from ..analysis.rescheduling_summary import Movers
from ..analysis.run_data import Group
from .facts import notes, run_facts, short_facts
from .figures import (
    bar_figure,
    day_figures,
    heat_figure,
    migration_figure,
    pareto_figures,
    styles_of,
)
from .heat import pack_heats
from .leaderboard import Leaderboard, shared_intervals
from .parts import (
    add_figure,
    block,
    chip_fieldset,
    document,
    json_script,
    pieces,
    plot_div,
    read_part,
    tile_list,
)
from .placement.overview import render_overview
from .placement.page import placement_parts
from .placement.words import placement_remarks
from .rescheduling import mover_parts
from .sections import Section, section_html
from .table import render_legend, render_table
from .values import BASELINE
from .verdict import make_tiles, make_verdict

N_SHOWN = 6
"""Ranked policies whose lines are shown at first; the static policy is shown with them."""


@dataclass(frozen=True)
class Lead:
    """A part of its own that stands before all groups.

    Attributes:
        title: Its name in the picker.
        html: It.
        figures: The figures in it, by key.
        markdown: The same as lines of Markdown.
    """

    title: str
    html: str
    figures: dict[str, Any]
    markdown: list[str]


Board = Leaderboard | Comparison | Movers
"""What there is to say of a group, by its kind."""


def render_page(
    groups: Sequence[tuple[Group, Board]],
    leads: Sequence[Lead] = (),
    own: Sequence[Sequence[Section]] = (),
) -> str:
    """The whole page as text; ``own`` are sections of one's own, by group."""
    from plotly.offline import get_plotlyjs

    names = [lead.title for lead in leads] or sorted({g.scenario for g, _ in groups})
    title = f"virtgym report: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
    windows = [(g, board) for g, board in groups if isinstance(board, Comparison)]
    across = render_overview(windows)
    first = [_framed(i, lead.html, lead.figures, []) for i, lead in enumerate(leads)]
    titles = [*(lead.title for lead in leads), *(g.title for g, _ in groups)]
    more = own or [()] * len(groups)
    parts = [
        _section(i, g, board, across, sections)
        for i, ((g, board), sections) in enumerate(zip(groups, more, strict=True), start=len(first))
    ]
    sections, data = zip(*first, *parts, strict=True)
    versions = sorted({str(v) for g, _ in groups for v in g.rows.get("virtgym_version", [])})
    return document(
        title,
        versions,
        "\n".join(sections),
        "\n".join(data),
        script=read_part(__package__, "report.js"),
        picker=_picker(titles),
        library=get_plotlyjs(),
    )


def _picker(titles: Sequence[str]) -> str:
    if len(titles) < 2:
        return ""
    options = "".join(f'<option value="{i}">{escape(title)}</option>' for i, title in enumerate(titles))
    return f'<label class="picker">Scenario and trace <select id="picker">{options}</select></label>'


def _section(index: int, group: Group, board: Board, across: str, own: Sequence[Section]) -> tuple[str, str]:
    """HTML of a group and the JSON block that its figures come from."""
    figures: dict[str, Any] = {}
    heats: list[dict[str, Any]] = []
    if isinstance(board, Comparison):
        run = _run(group, placement_remarks(group, board))
        parts = [*placement_parts(group, board, figures), across, run]
    elif isinstance(board, Movers):
        parts = [*mover_parts(group, board, figures), _run(group, [])]
    else:
        heats, damaged = pack_heats(group.heats, [line.policy for line in board.lines])
        parts = [
            _head(group, board),
            _leaderboard(group, board),
            _pareto(board, figures),
            _day(group, board, figures),
            _heat(index, group, board, figures, {table["policy"] for table in heats}),
            _migrations(group, board, figures),
            _run(group, [*notes(group, board), *(f"Left out: {text}" for text in damaged)]),
        ]
    parts.insert(-1, section_html(own, figures))
    return _framed(index, "".join(parts), figures, heats)


def _framed(index: int, body: str, figures: dict[str, Any], heats: list[dict[str, Any]]) -> tuple[str, str]:
    """A section that the picker shows or hides, and the JSON block of its figures."""
    data = {"figures": figures, "heats": heats}
    hidden = " hidden" if index else ""
    html = f'<section class="group" id="group-{index}" data-group="{index}"{hidden}>{body}</section>'
    return html, json_script(f"data-{index}", data)


def _head(group: Group, board: Leaderboard) -> str:
    first, *rest = make_verdict(board)
    facts = "".join(f"<li>{escape(f)}</li>" for f in short_facts(group, board))
    more = "".join(f"<li>{pieces(s)}</li>" for s in rest)
    return (
        f'<header class="head"><h2>{escape(group.title)}</h2><ul class="facts">{facts}</ul>'
        f'<p class="verdict">{pieces(first)}</p><ul class="sure">{more}</ul>'
        f"{tile_list(make_tiles(board))}</header>"
    )


def _leaderboard(group: Group, board: Leaderboard) -> str:
    column = board.primary
    order = f"Ordered by {column.label}, those that serve first; click a heading to sort by it."
    return block("board", "Leaderboard", render_table(group, board) + render_legend(board), escape(order))


def _pareto(board: Leaderboard, figures: dict[str, Any]) -> str:
    title = "Energy against service quality"
    found = pareto_figures(board)
    if not found:
        return block("pareto", title, "", "Needs energy and a quality measure of two policies or more.")
    options, plots = [], []
    for number, (column, figure, outside) in enumerate(found):
        key = f"pareto-{column.key}"
        add_figure(figures, key, figure)
        options.append(f'<option value="{key}">{escape(column.label)}</option>')
        label = f"Scatter of energy and {column.label} per policy; the numbers are in the leaderboard"
        note = _outside(board, outside) if outside else ""
        plot = plot_div(key, label, "tall")
        hidden = " hidden" if number else ""
        plots.append(f'<div class="choice" data-choice="{key}"{hidden}>{note}{plot}</div>')
    choose = f'<label>Quality <select class="chooser">{"".join(options)}</select></label>'
    controls = f'<div class="controls">{choose}</div>' if len(options) > 1 else ""
    text = "Lower left is better. Dotted: the front that no other policy beats in both."
    if board.method:
        shared = shared_intervals(board, "energy_kwh")[1]
        text += " Bars: 95 % intervals"
        text += f", without what all policies share on a {board.values.unit}." if shared else "."
    return block("pareto", title, controls + "".join(plots), text)


def _outside(board: Leaderboard, policies: Sequence[str]) -> str:
    scale = board.scales["energy_kwh"]
    lines = [line for line in board.lines if line.policy in policies]
    names = ", ".join(f"{x.policy} ({scale.write(x.mean('energy_kwh'))} kWh)" for x in lines)
    box = '<label class="whole"><input type="checkbox" class="widen"> show everything</label>'
    return f'<p class="note">Outside the picture: {escape(names)}. {box}</p>'


def _default(board: Leaderboard) -> list[str]:
    top = [line.policy for line in board.lines[:N_SHOWN]]
    return top if _static_is_far(board) else [*top, *(p for p in (BASELINE,) if p not in top)]


def _static_is_far(board: Leaderboard) -> bool:
    """Whether the static policy's lines would press all others to the bottom."""
    energy = {line.policy: line.mean("energy_kwh") for line in board.lines}
    return energy.get(BASELINE, 0.0) > 4.0 * energy[board.leader.policy]


def _chips(board: Leaderboard) -> str:
    styles = styles_of(board)
    return chip_fieldset([(x.policy, styles[x.policy]) for x in board.lines], _default(board), N_SHOWN)


def _day(group: Group, board: Leaderboard, figures: dict[str, Any]) -> str:
    title = "Over time"
    found = day_figures(group, board, _default(board))
    if not found:
        return block("day", title, "", _no_steps(group, "Per-interval figures"))
    panels = []
    for number, (name, figure) in enumerate(found):
        key = f"day-{number}"
        add_figure(figures, key, figure)
        plot = plot_div(key, f"{name} over time, one line per policy", "lines")
        panels.append(f"<figure><figcaption>{escape(name)}</figcaption>{plot}</figure>")
    seeds = len(group.seeds)
    lead = f"Means over {seeds} seeds. " if seeds > 1 else ""
    text = f"{lead}Point at a line or a name to bring it forward."
    if _static_is_far(board):
        text += f" {BASELINE} is far above the others: tick it to compare."
    return block("day", title, f'{_chips(board)}<div class="grid">{"".join(panels)}</div>', text)


def _no_steps(group: Group, what: str) -> str:
    if group.pooled:
        return f"{what} are shown for each trace by itself: choose one at the top of the page."
    return f"{what} are left out: no steps.parquet with these runs."


def _heat(
    index: int, group: Group, board: Leaderboard, figures: dict[str, Any], packed: Collection[str]
) -> str:
    title = "Every host over time"
    known = [x.policy for x in board.lines if x.policy in packed]
    if not known:
        why = "Heat maps are left out: no heat folder with these runs, or none that can be read."
        return block("heat", title, "", _no_steps(group, "Heat maps") if group.pooled else why)
    add_figure(figures, "heat", heat_figure())
    others = [p for p in (BASELINE, *known) if p in known and p != known[0]]
    second = others[0] if others else None
    panels = []
    for side, policy in enumerate([known[0]] if second is None else [known[0], second]):
        options = "".join(f"<option{' selected' if p == policy else ''}>{escape(p)}</option>" for p in known)
        ident = f"heat-{index}-{side}"
        panels.append(
            f'<figure class="heatmap"><figcaption><label for="{ident}">Policy</label> '
            f'<select id="{ident}">{options}</select> <span class="heat-note"></span></figcaption>'
            '<div class="plot heatplot" data-heat role="img" aria-label="Heat map of hosts over time"></div>'
            "</figure>"
        )
    return block("heat", title, f'{HEAT_LEGEND}<div class="grid">{"".join(panels)}</div>', HEAT_TEXT)


HEAT_TEXT = "One row per host, sorted: those that are on for longest at the top. One seed of each policy."
HEAT_LEGEND = (
    '<p class="key"><span><i class="cell off"></i>off</span><span><i class="cell switching"></i>booting or '
    'shutting down</span><span>idle <i class="cell ramp"></i> full</span>'
    '<span><i class="cell over"></i>short of CPU</span></p>'
)


def _migrations(group: Group, board: Leaderboard, figures: dict[str, Any]) -> str:
    title = "Migrations"
    panels = []
    trail = migration_figure(group, board, _default(board))
    if trail is not None:
        add_figure(figures, "moves", trail)
        name = "Migrations so far"
        plot = plot_div("moves", f"{name}, one line per policy", "lines")
        panels.append(f"<figure><figcaption>{name}</figcaption>{plot}</figure>")
    bars = bar_figure(board)
    if bars is not None:
        add_figure(figures, "bars", bars)
        name = "Migrations in all"
        height = max(220, 24 * len(bars.data[0].y) + 70)
        key = (
            '<span class="key"><span><i class="cell" style="--ink:var(--p0)"></i>stay</span>'
            '<span><i class="cell" style="--ink:var(--p1)"></i>moved back within 12 intervals</span></span>'
        )
        plot = plot_div("bars", f"{name} per policy", "bars", height)
        panels.append(f"<figure><figcaption>{name} {key}</figcaption>{plot}</figure>")
    if not panels:
        return block("moves", title, "", "No policy migrated a VM.")
    text = "" if trail is not None else _no_steps(group, "Migrations over time")
    height = 24 * len(board.lines) + 70
    return block("moves", title, f'<div class="grid" style="--h:{height}px">{"".join(panels)}</div>', text)


def _run(group: Group, texts: Sequence[str]) -> str:
    remarks = "".join(f"<li>{escape(n)}</li>" for n in texts)
    folders = []
    for run in group.runs:
        facts = "".join(
            f"<dt>{escape(k)}</dt><dd>{f'<code>{escape(v)}</code>' if k == 'Command' else escape(v)}</dd>"
            for k, v in run_facts(run)
        )
        config = ""
        if run.config:
            text = f"<pre>{escape(run.config)}</pre>"
            config = f"<details><summary>Resolved configuration</summary>{text}</details>"
        folders.append(
            f'<h4>{escape(run.path.name or str(run.path))}</h4><dl class="run">{facts}</dl>{config}'
        )
    return block("ran", "What was run", f'<ul class="notes">{remarks}</ul>{"".join(folders)}')
