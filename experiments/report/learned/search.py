"""Pictures of a search: a point per run, and a line per run across what was searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8

from ..columns import write_number
from ..figures import new_figure
from ..parts import add_figure

if TYPE_CHECKING:
    import pandas as pd

N_LINES = 400
"""Lines across the axes, at most, the best."""

N_TICKS = 8
"""Values that are told at an axis of names."""


@dataclass(frozen=True)
class Picture:
    """A figure that is a block of its own.

    Attributes:
        title: Heading.
        key: Of the figure.
        label: What it shows, for those who do not see it.
        kind: Classes that say how it is drawn.
        height: px; None = by class.
        lead: What a reader has to know.
    """

    title: str
    key: str
    label: str
    kind: str = ""
    height: int | None = None
    lead: str = ""


def point_plot(
    figures: dict[str, Any],
    key: str,
    title: str,
    x: str,
    y: str,
    done: pd.DataFrame,
    line: pd.DataFrame | None = None,
    shape: str = "hv",
) -> Picture:
    """A point per run, and a line through the points of a table.

    Args:
        figures: Those of the page, to which it is added.
        key: Its key.
        title: Heading.
        x: Column across.
        y: Column upwards.
        done: The runs; a column ``label`` says which each is.
        line: Table with the same two columns, or any two.
        shape: How plotly joins its points.
    """
    import pandas as pd

    figure = new_figure(xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}})
    values = pd.to_numeric(done[x], errors="coerce")
    if _spans_decades(values.to_numpy(float)):
        figure.update_xaxes(type="log", dtick=1, exponentformat="power")
    figure.add_scatter(
        x=list(done[x].map(str) if values.isna().any() else values),
        y=list(done[y]),
        text=list(done["label"]),
        hovertemplate="%{text}<br>%{x}, %{y}<extra></extra>",
        mode="markers",
        marker={"size": 7},
        meta={"ink": "p0", "priority": 0},
    )
    if line is not None:
        xs, ys = (list(line[column]) for column in line)
        style = {"line": {"shape": shape}, "meta": {"ink": "p1", "priority": 0}, "hoverinfo": "skip"}
        figure.add_scatter(x=xs, y=ys, mode="lines", **style)
    add_figure(figures, key, figure)
    return Picture(title, key, f"{y} over {x}, a point per run", height=300)


def parallel_plot(
    figures: dict[str, Any], key: str, axes: Sequence[str], objective: str, done: pd.DataFrame
) -> Picture:
    """An axis per key and one for the objective, a line per run, the better ones coloured.

    Args:
        figures: Those of the page, to which it is added.
        key: Its key.
        axes: Columns of what was searched.
        objective: Column of the objective; small is good.
        done: The runs; a column ``label`` says which each is.
    """
    names = [*axes, objective]
    best = done.sort_values(objective, kind="stable").head(N_LINES)
    places, ticks = zip(*(_scaled(best[name]) for name in names))
    table = np.array(places)
    figure = new_figure(
        xaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [name.rpartition(".")[2] for name in names],
            "range": [-0.15, len(names) - 0.6],
            "fixedrange": True,
            "showgrid": True,
        },
        yaxis={"visible": False, "fixedrange": True, "range": [-0.06, 1.06]},
    )
    n_good = max(1, len(best) // 4)
    # The best last, so that nothing lies over it.
    for i in range(len(best) - 1, -1, -1):
        ink, width, opacity = (
            ("p1", 3, 1.0) if i == 0 else ("p0", 1.6, 0.8) if i < n_good else ("ref", 1, 0.45)
        )
        figure.add_scatter(
            x=list(range(len(names))),
            y=table[:, i].tolist(),
            mode="lines",
            line={"width": width},
            opacity=opacity,
            text=[f"{best['label'].iloc[i]}<br>{name}: {best[name].iloc[i]}" for name in names],
            hovertemplate="%{text}<extra></extra>",
            meta={"ink": ink, "priority": 0},
        )
    for at, marks in enumerate(ticks):
        for place, text in marks:
            figure.add_annotation(
                x=at, y=place, text=text, showarrow=False, xanchor="left", xshift=4, font={"size": 11}
            )
    add_figure(figures, key, figure)
    label = f"A line per run across {', '.join(names)}"
    text = "A line per run, up is more. Orange: the best; blue: the best quarter; grey: the others."
    return Picture("Parallel coordinates", key, label, "high", lead=text)


def _spans_decades(values: F8) -> bool:
    return bool(len(values) and values.min() > 0.0 and values.max() >= 50.0 * values.min())


def _scaled(column: pd.Series[Any]) -> tuple[F8, list[tuple[float, str]]]:
    """Values laid between 0 and 1, and what is told at which place; logarithmic if they span decades."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        names = sorted(set(column.map(str)))
        place = {name: i / max(1, len(names) - 1) for i, name in enumerate(names)}
        told = names[:: -(-len(names) // N_TICKS)]
        return np.array([place[text] for text in column.map(str)]), [(place[t], t[:18]) for t in told]
    low, high = float(numbers.min()), float(numbers.max())
    log = _spans_decades(numbers)
    scale = np.log if log else np.asarray
    a, b = float(scale(low)), float(scale(high))
    width = (b - a) or 1.0
    different = np.unique(numbers)
    values = different if len(different) <= 4 else np.array([low, high])
    marks = [(float((scale(v) - a) / width), write_number(float(v))) for v in values]
    return (scale(numbers) - a) / width, marks
