"""The page of a suite: one number a policy, a row a task, a bar a policy, then the report of every task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.sim.models.cost import GATE_OK

from ..suite.scores import Part, Standing, parts
from ..suite.tasks import Suite
from . import write_report
from .figures import N_COLOURS, axis, new_figure, plain_text, short
from .page import Lead
from .parts import add_figure, render
from .verdict import Sentence, Strong

if TYPE_CHECKING:
    import pandas as pd


def write_suite_report(
    suite: Suite, table: pd.DataFrame, found: Sequence[Standing], folders: Sequence[Path], dest: Path
) -> Path:
    """Write ``report.html`` and ``report.md`` of a suite that was played.

    Args:
        suite: The suite.
        table: Lines of ``suite.csv``.
        found: Policies over all tasks, best first.
        folders: Run folder of each task.
        dest: Folder to write into.

    Returns:
        The page.
    """
    figures: dict[str, Any] = {}
    seeds = table["seed"].nunique()
    html = render(
        "report/templates/suite.html",
        title=suite.name,
        said=verdict(table, found),
        facts=(
            f"{table['task'].nunique()} tasks",
            f"{len(found)} policies",
            f"{seeds} seed{'s' if seeds > 1 else ''}",
        ),
        parts=[_part(part, table, figures) for part in parts(suite, table, found)],
    )
    return write_report(folders, dest, [Lead(suite.name, html, figures, _markdown(suite, table, found))])


def verdict(table: pd.DataFrame, found: Sequence[Standing]) -> list[Sentence]:
    """What the scores say, and how far they can be trusted."""
    sentences: list[Sentence] = []
    for kinds in dict.fromkeys(s.kinds for s in found):
        same = [s for s in found if s.kinds == kinds]
        best = same[0]
        what = f"Highest score in {' and '.join(kinds)} tasks: "
        sentences.append([what, Strong(best.policy), " with ", Strong(_interval(best)), "."])
        near = [s.policy for s in same[1:] if s.score.known and s.score.high >= best.score.low]
        if near:
            names: Sentence = [part for name in near[:4] for part in (", ", Strong(name))][1:]
            sentences.append(["Its interval overlaps with that of ", *names, "."])
    seeds = table["seed"].nunique()
    sure = f"and their {seeds} seeds; intervals resample seeds within tasks"
    if seeds == 1:
        sure = "of one seed: no intervals, and other days may rank the policies otherwise"
    sentences.append(
        [
            f"Interquartile mean over the tasks of a kind, {table['task'].nunique()} in all, {sure}. A run "
            "that does not pass its task's gate counts no more than 0, and so does a task of that kind that "
            "is not played."
        ]
    )
    return sentences


def _interval(one: Standing) -> str:
    text = f"{one.score.estimate:.1f}"
    text += f" [{one.score.low:.1f}, {one.score.high:.1f}]" if one.score.known else ""
    return text.replace("-", "−")


def _part(part: Part, table: pd.DataFrame, figures: dict[str, Any]) -> dict[str, Any]:
    """Tasks of a kind, as the template has them."""
    totals, bars = f"suite-total-{part.kind}", f"suite-tasks-{part.kind}"
    _scores(part, figures, totals, bars)
    found = part.standings
    return {
        "kind": part.kind,
        "totals": totals,
        "bars": bars,
        "height": 26 * len(found) + 90,
        "policies": [s.policy for s in found],
        "rows": task_rows(part, table),
        "all": [_interval(s).partition(" ")[::2] for s in found],
    }


def _scores(part: Part, figures: dict[str, Any], totals: str, bars: str) -> None:
    """Draw the scores over all tasks, and task by task."""
    import plotly.graph_objects as go

    found = part.standings
    names = [task.name for task in part.tasks]
    order = list(reversed(found))
    places = list(range(len(order)))
    values = [v for s in found for v in (s.score.estimate, s.score.low, s.score.high) if math.isfinite(v)]
    total = new_figure(
        xaxis=axis("score", range=[max(LOWEST, min([0.0, *values])) - 5, 108]),
        yaxis=axis("", tickvals=places, ticktext=[short(s.policy) for s in order]),
    )
    known = any(s.score.known for s in order)
    total.add_trace(
        go.Bar(
            orientation="h",
            y=places,
            x=[s.score.estimate for s in order],
            customdata=[plain_text(s.policy) for s in order],
            hovertemplate="%{customdata}: %{x:.1f}<extra></extra>",
            error_x={
                "array": [_arm(s.score.high, s.score.estimate) for s in order],
                "arrayminus": [_arm(s.score.estimate, s.score.low) for s in order],
                "visible": known,
            },
            meta={"ink": "p0", "priority": 0},
        )
    )
    add_figure(figures, totals, total)
    each = new_figure(
        barmode="group",
        yaxis={"title": {"text": "score"}},
        shapes=_lines(),
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 58, "r": 70, "t": 30 + 20 * math.ceil(len(found) / 5), "b": 90},
    )
    for number, one in enumerate(found):
        values = [one.tasks.get(name, math.nan) for name in names]
        turn = number // N_COLOURS
        each.add_trace(
            go.Bar(
                name=one.policy,
                x=names,
                y=[None if math.isnan(v) else max(v, LOWEST) for v in values],
                customdata=[None if math.isnan(v) else v for v in values],
                hovertemplate=f"{one.policy}<br>%{{x}}: %{{customdata:.1f}}<extra></extra>",
                marker={"pattern": {"shape": PATTERNS[turn % len(PATTERNS)], "size": 5, "solidity": 0.5}},
                meta={"ink": f"p{number % N_COLOURS}", "policy": one.policy, "priority": 0},
            )
        )
    add_figure(figures, bars, each)


GREY = "#888"
"""Colour of the lines at 0 and 100, in every theme."""
PATTERNS = ("", "/", ".", "x")
"""Hatching of bars, where the colours run out."""
LOWEST = -100.0
"""Where pictures are cut off; the table has the number."""


def _lines() -> list[dict[str, Any]]:
    """The bound and the reference, across the figure."""
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": y,
            "y1": y,
            "line": {"color": GREY, "dash": dash},
        }
        for y, dash in ((0.0, "solid"), (100.0, "dot"))
    ]


def _arm(a: float, b: float) -> float:
    return a - b if math.isfinite(a - b) else 0.0


def task_rows(part: Part, table: pd.DataFrame) -> list[tuple[str, str, str, str, list[str]]]:
    """A row per task: name, question, cost of the reference, cost of the bound, a cell per policy."""
    rows = []
    for task in part.tasks:
        mine = table[table["task"] == task.name]
        cells = []
        for one in part.standings:
            runs = mine[mine["policy"] == one.policy]
            failed = int((runs["gate"] != GATE_OK).sum())
            value = one.tasks.get(task.name, math.nan)
            text = "–" if math.isnan(value) else f"{value:.1f}".replace("-", "−")
            cells.append(f"{text} ({failed})" if failed else text)
        per_seed = mine.drop_duplicates("seed")
        means = [float(per_seed[key].mean()) for key in ("static", "bound")]
        scale = [f"{mean:,.0f}" if mean >= 1000 else f"{mean:.4g}" for mean in means]
        rows.append((task.name, task.asks, scale[0], scale[1], cells))
    return rows


def _markdown(suite: Suite, table: pd.DataFrame, found: Sequence[Standing]) -> list[str]:
    lines = [f"## {suite.name}", "", *(f"- {''.join(sentence)}" for sentence in verdict(table, found)), ""]
    for part in parts(suite, table, found):
        heads = ["Task", "Reference", "Bound", *(s.policy.replace("|", "\\|") for s in part.standings)]
        lines += [f"| {' | '.join(heads)} |", f"|:--|{'--:|' * (len(heads) - 1)}"]
        for name, _, reference, bound, cells in task_rows(part, table):
            lines.append(f"| {name} | {reference} | {bound} | {' | '.join(cells)} |")
        lines += [f"| **all** | 0 | 100 | {' | '.join(_interval(s) for s in part.standings)} |", ""]
    return lines
