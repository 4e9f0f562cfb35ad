"""The report's figures; colours are names of CSS variables that the page's script fills in per theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.models.cost import TERMS

from ..analysis.run_data import Group
from ..analysis.stats import Interval
from .columns import Column, write_number
from .leaderboard import Leaderboard, Line, shared_intervals

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

N_COLOURS = 7
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")
REFERENCE_SYMBOLS = ("circle-open", "diamond-open", "square-open", "triangle-up-open")
MAX_POINTS = 600


@dataclass(frozen=True)
class Style:
    """How a policy looks in every figure.

    Attributes:
        ink: CSS variable of its colour, without the dashes in front.
        dash: Line dash.
        symbol: Marker.
    """

    ink: str
    dash: str
    symbol: str


def styles_of(board: Leaderboard) -> dict[str, Style]:
    """How each policy of a leaderboard looks."""
    return rank_styles([(line.policy, line.below) for line in board.lines])


def rank_styles(names: Sequence[tuple[str, bool]]) -> dict[str, Style]:
    """Colours by rank, then dashes and markers where the colours run out; grey for those not ranked.

    Args:
        names: Name of each policy, best first, and whether it is not ranked.
    """
    styles: dict[str, Style] = {}
    ranked = others = 0
    for name, greyed in names:
        if greyed:
            turn = others % 4
            styles[name] = Style("ref", DASHES[turn], REFERENCE_SYMBOLS[turn])
            others += 1
        else:
            turn = (ranked // N_COLOURS) % len(DASHES)
            styles[name] = Style(f"p{ranked % N_COLOURS}", DASHES[turn], SYMBOLS[turn])
            ranked += 1
    return styles


def new_figure(**layout: Any) -> go.Figure:
    """An empty figure without plotly's own template: the page's script gives the colours."""
    import plotly.graph_objects as go

    margin = {"l": 58, "r": 24, "t": 12, "b": 44}
    return go.Figure(
        layout={"template": "none", "margin": margin, "showlegend": False, "hovermode": "closest", **layout}
    )


def pareto_figures(board: Leaderboard) -> list[tuple[Column, go.Figure, list[str]]]:
    """Energy against each quality measure that has values: (measure, figure, policies left outside)."""
    energy = board.column("energy_kwh")
    found = []
    unserved = "sla_unserved" if board.column("unserved_weighted") is None else "unserved_weighted"
    for key in (unserved, "slav", "total_wait_s"):
        column = board.column(key)
        if energy is None or column is None:
            continue
        lines = [x for x in board.lines if math.isfinite(x.mean(key)) and math.isfinite(x.mean("energy_kwh"))]
        if len(lines) >= 2 and any(x.mean(key) > 0 for x in lines):
            found.append((column, *_pareto(board, lines, column)))
    return found


def _pareto(board: Leaderboard, lines: list[Line], quality: Column) -> tuple[go.Figure, list[str]]:
    styles = styles_of(board)
    factor = 100.0 if quality.percent else 1.0
    y = {x.policy: x.mean(quality.key) * factor for x in lines}
    positive = [v for v in y.values() if v > 0]
    log = max(positive) / min(positive) > 20
    floor = min(positive) / 4 if log else 0.0
    figure = new_figure(
        xaxis=axis("energy, kWh"), yaxis=_quality_axis(quality, positive, floor, log, min(y.values()))
    )
    # SLAV is 0 by definition where nothing moves: such a point says nothing about the front.
    fair = [x for x in lines if not (quality.key == "slav" and x.mean("migrations") == 0)]
    front = _front([(x.mean("energy_kwh"), max(y[x.policy], floor), x.policy) for x in fair])
    figure.add_scatter(
        x=[p[0] for p in front],
        y=[p[1] for p in front],
        mode="lines",
        line={"shape": "hv", "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        meta={"ink": "muted"},
    )
    on_front = {p[2] for p in front}
    bars = {key: shared_intervals(board, key)[0] for key in ("energy_kwh", quality.key)}
    for rank, line in enumerate(lines):
        _add_point(
            figure,
            line,
            styles[line.policy],
            quality,
            floor,
            rank + 100 * (line.policy not in on_front),
            bars,
        )
    outside = _fit_x(figure, lines)
    return figure, outside


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title."""
    return {"title": {"text": title, "standoff": 8}, "zeroline": False, "automargin": True, **more}


def _quality_axis(
    quality: Column, positive: Sequence[float], floor: float, log: bool, least: float
) -> dict[str, Any]:
    unit = f", {quality.unit}" if quality.unit else ""
    if not log:
        return axis(f"{quality.label}{unit}", rangemode="tozero", exponentformat="power")
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [m * 10.0**e for e in range(low, high + 1) for m in steps]
    ticks = [v for v in ticks if min(positive) / 1.5 <= v <= max(positive) * 1.5]
    texts = [write_number(v, 1) for v in ticks]
    if least <= 0:
        ticks, texts = [floor, *ticks], ["0", *texts]
    return axis(
        f"{quality.label}{unit} (log scale)", type="log", tickmode="array", tickvals=ticks, ticktext=texts
    )


def _front(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points that no other beats in both measures, by energy."""
    best = math.inf
    front = []
    for x, y, policy in sorted(points):
        if y < best:
            front.append((x, y, policy))
            best = y
    return front


def _add_point(
    figure: go.Figure,
    line: Line,
    style: Style,
    quality: Column,
    floor: float,
    priority: int,
    bars: dict[str, dict[str, Interval]],
) -> None:
    factor = 100.0 if quality.percent else 1.0
    energy, worth = line.mean("energy_kwh"), line.mean(quality.key)
    shown = max(worth * factor, floor)
    errors: dict[str, Any] = {}
    half = _half_width(bars["energy_kwh"].get(line.policy))
    if half > 0:
        errors["error_x"] = _error(half, half)
    half = factor * _half_width(bars[quality.key].get(line.policy))
    if half > 0 and worth * factor >= floor:
        errors["error_y"] = _error(half, shown - max(shown - half, floor))
    figure.add_scatter(
        x=[energy],
        y=[shown],
        name=line.policy,
        mode="markers",
        marker={"size": 11, "symbol": style.symbol, "line": {"width": 1.5}},
        hovertemplate=(
            f"<b>%{{meta.text}}</b><br>{write_number(energy)} kWh"
            f"<br>{quality.label} {write_number(worth * factor)} {quality.unit}<extra></extra>"
        ),
        meta={"ink": style.ink, **label(line.policy), "priority": priority},
        **errors,
    )


def _half_width(interval: Interval | None) -> float:
    return interval.high - interval.estimate if interval is not None and interval.known else 0.0


def _error(up: float, down: float) -> dict[str, Any]:
    return {"array": [up], "arrayminus": [down], "thickness": 1, "width": 3}


def _fit_x(figure: go.Figure, lines: list[Line]) -> list[str]:
    """Zoom to the ranked policies, without far outliers; names those left outside."""
    ranked = [x.mean("energy_kwh") for x in lines if not x.below]
    every = [x.mean("energy_kwh") for x in lines]
    if len(ranked) >= 5:
        first, third = np.percentile(ranked, [25, 75])
        fence = 3.0 * max(third - first, 0.02 * third)
        ranked = [e for e in ranked if first - fence <= e <= third + fence]
    if len(ranked) < 2 or max(ranked) <= min(ranked):
        return []
    width = max(max(ranked) - min(ranked), 0.02 * max(ranked))
    low, high = min(ranked) - 0.6 * width, max(ranked) + 0.6 * width
    if min(every) >= low and max(every) <= high:
        return []
    kept = [e for e in every if low <= e <= high]
    pad = 0.08 * (max(kept) - min(kept))
    figure.update_xaxes(range=[min(kept) - pad, max(kept) + pad])
    return [x.policy for x in lines if not low <= x.mean("energy_kwh") <= high]


def _bin(steps: pd.DataFrame) -> int:
    """How many intervals are drawn as one, their mean."""
    return -(-steps["time_s"].nunique() // MAX_POINTS)


def _trails(steps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean over seeds of every column by time, per policy; long episodes are averaged in bins."""
    numbers = [c for c in steps.columns if c not in ("scenario", "trace", "policy", "seed", "window", "step")]
    steps = steps.assign(_tick=np.rint(steps["time_s"]).astype("int64"))
    ticks = np.sort(steps["_tick"].unique())
    place = np.searchsorted(ticks, steps["_tick"].to_numpy()) // _bin(steps)
    means = steps.assign(_bin=place).groupby(["policy", "_bin"], sort=False)[numbers].mean()
    return {
        str(policy): part.droplevel(0).sort_index() for policy, part in means.groupby(level=0, sort=False)
    }


@dataclass(frozen=True)
class Panel:
    """A measure over time.

    Attributes:
        title: Heading, with its unit.
        unit: Unit.
        digits: How values are written, a format of d3.
        factor: What values are multiplied by.
        so_far: Whether it is added up from the start.
        steps: Whether it is drawn as steps.
        rare: Whether it is left out where it is 0 for every policy.
    """

    title: str
    unit: str
    digits: str
    factor: float = 1.0
    so_far: bool = False
    steps: bool = False
    rare: bool = True


PANELS = {
    "cost": Panel("Cost so far", "", ",.3f", so_far=True),
    "hosts_on": Panel("Hosts that are on", "hosts", ",.1f", steps=True, rare=False),
    "cpu_load": Panel("CPU load of the hosts that are on, %", "%", ".1f", 100.0, rare=False),
    "power_w": Panel("Power of the cluster, kW", "kW", ",.2f", 1e-3, rare=False),
    "unserved_mhz": Panel("CPU demand left unserved so far, GHz h", "GHz h", ",.2f", rare=False),
    "hosts_failed": Panel("Hosts that have failed", "hosts", ",.1f", steps=True),
    "vms_down": Panel("VMs that are down", "VMs", ",.1f", steps=True),
    "vms_waiting": Panel("VMs that wait for a host", "VMs", ",.1f", steps=True),
    "swapped_mib": Panel("Memory swapped by hosts, GiB", "GiB", ",.2f", 1 / 1024),
    "ballooned_mib": Panel("Memory in balloons, GiB", "GiB", ",.2f", 1 / 1024),
    "imbalance_cpu": Panel("Imbalance of CPU load, %", "%", ".1f", 100.0),
}
"""Measures by column of the per-interval table, in the order of the page."""


MIGRATIONS = {"migrations": Panel("Migrations so far", "migrations", ",.0f", so_far=True)}
"""The measure that stands beside the bars of migrations."""


def _panel(part: pd.DataFrame, key: str, panel: Panel, size: int) -> NDArray[np.float64]:
    """Values of a measure; a row of the part is the mean of ``size`` intervals."""
    y = np.asarray(part[key], dtype=np.float64) * panel.factor
    if panel.so_far:
        return np.asarray(np.cumsum(np.nan_to_num(y)) * size)
    if key == "unserved_mhz":
        hours = np.diff(np.asarray(part["time_s"], dtype=np.float64), append=math.nan) / 3600.0
        hours[-1:] = hours[-2:-1] if len(hours) > 1 else 0.0
        return np.asarray(np.cumsum(np.nan_to_num(y) * hours) / 1000.0)
    return y


def day_figures(
    group: Group, board: Leaderboard, default: Sequence[str], panels: Mapping[str, Panel] = PANELS
) -> list[tuple[str, go.Figure]]:
    """One figure per measure over time, one line per policy: (title, figure)."""
    if group.steps is None:
        return []
    trails, size = _trails(group.steps), _bin(group.steps)
    found = []
    for key, panel in panels.items():
        values = group.steps.get(key)
        if values is None or (panel.rare and not bool((values.fillna(0.0) != 0.0).any())):
            continue
        series = {policy: _panel(part, key, panel, size) for policy, part in trails.items()}
        figure = _lines(
            board, trails, series, default, f"%{{y:{panel.digits}}} {panel.unit}", step_line=panel.steps
        )
        figure.update_yaxes(title=None, rangemode="tozero")
        found.append((panel.title, figure))
    return found


def _lines(
    board: Leaderboard,
    trails: dict[str, pd.DataFrame],
    series: dict[str, NDArray[np.float64]],
    default: Sequence[str],
    hover: str,
    *,
    step_line: bool,
) -> go.Figure:
    styles = styles_of(board)
    hours = max(float(part["time_s"].max()) for part in trails.values()) / 3600.0
    figure = new_figure(xaxis=time_axis(hours), yaxis=axis(""))
    for line in board.lines:
        if line.policy not in trails:
            continue
        style = styles[line.policy]
        x = trails[line.policy]["time_s"].to_numpy(dtype=np.float64) / 3600.0
        step = np.diff(x)
        regular = len(x) > 2 and float(np.ptp(step[:-1])) < 1e-6
        where = {"x0": float(x[0]), "dx": float(step[0])} if regular else {"x": x.astype(np.float32)}
        figure.add_scatter(
            y=series[line.policy].astype(np.float32),
            name=line.policy,
            mode="lines",
            line={"width": 2, "dash": style.dash, "shape": "hv" if step_line else "linear"},
            hovertemplate=f"<b>%{{meta.text}}</b><br>%{{x:.1f}} h: {hover}<extra></extra>",
            visible=line.policy in default,
            meta={"ink": style.ink, **label(line.policy)},
            **where,
        )
    return figure


def time_axis(hours: float) -> dict[str, Any]:
    """An axis of hours from the start."""
    step = next((s for s in (0.25, 0.5, 1, 2, 4, 6, 12, 24, 48, 168) if hours / s <= 8), 336)
    return axis("", dtick=step, ticksuffix=" h", range=[0, hours])


def bar_figure(board: Leaderboard) -> go.Figure | None:
    """Total migrations per policy, the part that was undone apart."""
    lines = [x for x in board.lines if x.mean("migrations") > 0][::-1]
    if not lines:
        return None
    total = np.array([x.mean("migrations") for x in lines])
    back = np.array([board.values.mean(x.policy, "thrash") for x in lines])
    back = np.minimum(np.nan_to_num(back), total)
    half = [_half_width(x.cells["migrations"].value) for x in lines]
    figure = _stack(
        [x.policy for x in lines],
        "migrations",
        {"stay": total - back, "moved back within 12 intervals": back},
        "%{x:,.0f} ",
    )
    figure.update_layout(hovermode="y")
    if any(half):
        figure.data[-1].error_x = _bar_error(half, total)
    return figure


def _stack(
    names: Sequence[str], title: str, parts: Mapping[str, NDArray[np.float64]], hover: str
) -> go.Figure:
    """A bar for each policy, in parts that lie one behind the other.

    Args:
        names: Policies, the lowest first.
        title: Of the axis.
        parts: Length of each part of each bar, by name.
        hover: How a part's length is told, before its name.
    """
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "range": [-0.6, len(names) - 0.4]}
    figure = new_figure(
        xaxis=axis(title),
        yaxis=axis("", ticktext=[short(n) for n in names], **ticks),
        barmode="stack",
        bargap=0.3,
    )
    for number, (part, values) in enumerate(parts.items()):
        figure.add_bar(
            x=values.astype(np.float32),
            y=list(range(len(names))),
            orientation="h",
            name=part,
            customdata=[plain_text(n) for n in names],
            hovertemplate=f"%{{customdata}}: {hover}{part}<extra></extra>",
            meta={"ink": f"p{number}"},
        )
    return figure


def _bar_error(half: list[float], total: NDArray[np.float64]) -> dict[str, Any]:
    return {"array": half, "arrayminus": np.minimum(half, total), "thickness": 1, "width": 3}


def terms_figure(board: Leaderboard) -> go.Figure | None:
    """The terms of every policy's cost, stacked; None where rows do not have them."""
    lines = [x for x in board.lines if math.isfinite(x.mean("cost"))][::-1]
    parts = {
        term: np.nan_to_num([board.values.mean(x.policy, f"cost_{term}") for x in lines]) for term in TERMS
    }
    if not lines or not any(values.any() for values in parts.values()):
        return None
    # One policy that serves nobody would press all others to the left.
    ranked = [x.mean("cost") for x in board.ranked]
    most = 1.25 * max(ranked) if ranked else max(x.mean("cost") for x in lines)
    unit = board.primary.unit if board.primary.key == "cost" else ""
    figure = _stack(
        [x.policy for x in lines],
        f"cost, {unit}" if unit else "cost",
        {term: values for term, values in parts.items() if values.any()},
        "%{x:,.4g} of ",
    )
    if max(x.mean("cost") for x in lines) > most:
        figure.update_xaxes(range=[0.0, most])
    return figure


def label(policy: str) -> dict[str, str]:
    """A policy as plotly text: whole for hovering, cut for labels in the picture."""
    return {"policy": policy, "text": plain_text(policy), "label": short(policy)}


def plain_text(name: str) -> str:
    """A name as plotly's text, which reads some tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(name: str, most: int = 22) -> str:
    """A label that fits."""
    return plain_text(name if len(name) <= most else f"…{name[-most + 1 :]}")


def heat_figure() -> go.Figure:
    """The frame of the heat map; the page's script puts the chosen table in."""
    figure = new_figure(
        xaxis=axis("", ticksuffix=" h", showgrid=False),
        yaxis=axis("", autorange="reversed", showgrid=False, showticklabels=False, ticks=""),
        margin={"l": 8, "r": 18, "t": 8, "b": 34},
    )
    figure.add_heatmap(
        z=[[0]], zmin=-40, zmax=130, zsmooth=False, showscale=False, hovertemplate="%{text}<extra></extra>"
    )
    return figure
