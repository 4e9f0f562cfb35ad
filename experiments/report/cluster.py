"""The part of the page about runs of clusters: what its template shows and its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.run_data import Group
from ..analysis.stats import MIN_BLOCKS
from .facts import notes, question_of, run_folders, short_facts
from .figures import (
    MIGRATIONS,
    bar_figure,
    day_figures,
    heat_figure,
    pareto_figures,
    styles_of,
    terms_figure,
)
from .heat import LAYERS, pack_heats
from .leaderboard import Leaderboard, shared_intervals
from .moves import move_choices
from .pairs import side_by_side
from .parts import Chips, PagePart, add_figure, render
from .reasons import reasons_of
from .sections import Section, section_html
from .table import make_table
from .values import BASELINE
from .verdict import make_tiles, make_verdict

N_SHOWN = 6
"""Ranked policies whose lines are shown at first; the static policy is shown with them."""


@dataclass(frozen=True)
class Choice:
    """A figure among several.

    Attributes:
        key: Of the figure.
        text: By which it is chosen.
        label: What it shows, for those who do not see it.
        outside: Policies that it has no place for.
    """

    key: str
    text: str
    label: str
    outside: str = ""


def cluster_section(index: int, group: Group, board: Leaderboard, own: Sequence[Section] = ()) -> PagePart:
    """A group of the page.

    Args:
        index: Its place.
        group: Runs.
        board: What they say.
        own: Sections of one's own.
    """
    figures: dict[str, Any] = {}
    pairs = side_by_side(board)
    heats, damaged = pack_heats(group.heats, [line.policy for line in board.lines])
    html = render(
        "report/templates/cluster.html",
        title=group.title,
        question=question_of(group),
        facts=short_facts(group, board),
        verdict=make_verdict(board),
        tiles=make_tiles(board),
        order=f"Ordered by {board.primary.label}, those that serve first; click a heading to sort by it.",
        table=make_table(group, board),
        terms=_terms(board, figures),
        pairs=pairs,
        few=board.n_blocks < MIN_BLOCKS,
        pareto=_pareto(board, figures),
        chips=Chips(styles_of(board), _default(board), N_SHOWN),
        day=_day(group, board, figures),
        heat=_heat(index, group, board, figures, heats),
        moves=_migrations(group, board, figures),
        who=move_choices(group, board, figures),
        told=reasons_of(group, board, figures),
        own=section_html(own, figures),
        remarks=[*notes(group, board), *(f"Left out: {text}" for text in damaged)],
        folders=run_folders(group),
    )
    return PagePart(html, {"figures": figures, "heats": heats, "pairs": pairs})


def _terms(board: Leaderboard, figures: dict[str, Any]) -> dict[str, Any] | None:
    """The bars of what the cost is made of, with their legend."""
    figure = terms_figure(board)
    if figure is None:
        return None
    add_figure(figures, "terms", figure)
    outside = figure.layout.xaxis.range is not None
    return {
        "key": [(bar.name, bar.meta["ink"]) for bar in figure.data],
        "height": max(200, 26 * len(figure.data[0].y) + 70),
        "lead": "Means over runs."
        + (" Bars that reach the right end go on: see the table." if outside else ""),
    }


def _pareto(board: Leaderboard, figures: dict[str, Any]) -> dict[str, Any]:
    found = pareto_figures(board)
    if not found:
        return {"choices": [], "lead": "Needs energy and a quality measure of two policies or more."}
    choices = []
    for column, figure, outside in found:
        key = f"pareto-{column.key}"
        add_figure(figures, key, figure)
        label = f"Scatter of energy and {column.label} per policy; the numbers are in the leaderboard"
        choices.append(Choice(key, column.label, label, _outside(board, outside)))
    text = "Lower left is better. Dotted: the front that no other policy beats in both."
    if board.method:
        shared = shared_intervals(board, "energy_kwh")[1]
        text += " Bars: 95 % intervals"
        text += f", without what all policies share on a {board.values.unit}." if shared else "."
    return {"choices": choices, "options": [(c.key, c.text) for c in choices], "lead": text}


def _outside(board: Leaderboard, policies: Sequence[str]) -> str:
    scale = board.scales["energy_kwh"]
    lines = [line for line in board.lines if line.policy in policies]
    return ", ".join(f"{x.policy} ({scale.write(x.mean('energy_kwh'))} kWh)" for x in lines)


def _default(board: Leaderboard) -> list[str]:
    top = [line.policy for line in board.lines[:N_SHOWN]]
    return top if _static_is_far(board) else [*top, *(p for p in (BASELINE,) if p not in top)]


def _static_is_far(board: Leaderboard) -> bool:
    """Whether the static policy's lines would press all others to the bottom."""
    energy = {line.policy: line.mean("energy_kwh") for line in board.lines}
    return energy.get(BASELINE, 0.0) > 4.0 * energy[board.leader.policy]


def _day(group: Group, board: Leaderboard, figures: dict[str, Any]) -> dict[str, Any]:
    found = day_figures(group, board, _default(board))
    if not found:
        return {"panels": [], "lead": _no_steps(group, "Per-interval figures")}
    panels = []
    for number, (name, figure) in enumerate(found):
        key = f"day-{number}"
        add_figure(figures, key, figure)
        panels.append({"title": name, "key": key, "label": f"{name} over time, one line per policy"})
    seeds = len(group.seeds)
    text = f"Means over {seeds} seeds. " if seeds > 1 else ""
    text += "Point at a line or a name to bring it forward."
    if _static_is_far(board):
        text += f" {BASELINE} is far above the others: tick it to compare."
    return {"panels": panels, "lead": text}


def _no_steps(group: Group, what: str) -> str:
    if group.pooled:
        return f"{what} are shown for each trace by itself: choose one at the top of the page."
    return f"{what} are left out: no steps.parquet with these runs."


def _heat(
    index: int, group: Group, board: Leaderboard, figures: dict[str, Any], heats: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    packed = {table["policy"] for table in heats}
    known = [x.policy for x in board.lines if x.policy in packed]
    if not known:
        why = "Heat maps are left out: no heat folder with these runs, or none that can be read."
        return {"policies": [], "lead": _no_steps(group, "Heat maps") if group.pooled else why}
    add_figure(figures, "heat", heat_figure())
    others = [p for p in (BASELINE, *known) if p in known and p != known[0]]
    text = "One row per host, sorted: those that are on for longest at the top. One seed of each policy."
    return {
        "policies": known,
        "shown": [known[0], *others[:1]],
        "ident": f"heat-{index}",
        "layers": [(n, LAYERS[n]) for n in LAYERS if any(n in table["data"] for table in heats)],
        "failed": any(table["failed"] for table in heats),
        "lead": text,
    }


def _migrations(group: Group, board: Leaderboard, figures: dict[str, Any]) -> dict[str, Any]:
    trails, bars = day_figures(group, board, _default(board), MIGRATIONS), bar_figure(board)
    for _, trail in trails:
        add_figure(figures, "moves", trail)
    if bars is not None:
        add_figure(figures, "bars", bars)
    if bars is None and not trails:
        lead = "No policy migrated a VM."
    else:
        lead = "" if trails else _no_steps(group, "Migrations over time")
    return {
        "trail": bool(trails),
        "bars": 0 if bars is None else max(220, 24 * len(bars.data[0].y) + 70),
        "height": 24 * len(board.lines) + 70,
        "lead": lead,
    }
