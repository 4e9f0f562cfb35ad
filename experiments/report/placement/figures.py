"""Figures of placement windows: performance profile, differences to the best rule, pairs of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8

from ...analysis.placement_summary import Comparison, Entry
from ...analysis.stats import performance_profile
from ..figures import Style, axis, label, new_figure, rank_styles, short

if TYPE_CHECKING:
    import plotly.graph_objects as go


FLOOR = 1.0
"""Waits below this, s, are drawn here: a logarithm has no place for 0."""

TIMES = (
    *((1.0, "≤ 1 s"), (60.0, "1 min"), (3600.0, "1 h"), (86400.0, "1 d"), (864000.0, "10 d")),
    *((8640000.0, "100 d"), (86400000.0, "1,000 d")),
)
"""Ticks of an axis of waiting, s."""

POINTS = 240
WIDTH = 28
"""Most letters of a name in a figure."""


def placement_styles(found: Comparison) -> dict[str, Style]:
    """How each entry looks in every figure, by rank."""
    return rank_styles([(entry.name, entry.reference) for entry in found.entries])


def _result_axis(found: Comparison, title: str, values: F8, **more: Any) -> dict[str, Any]:
    """An axis of results: logarithmic for waits, with times as ticks."""
    if found.survival:
        return axis(title, rangemode="tozero", **more)
    high = max(float(values.max()), 10.0 * FLOOR)
    ticks = [(value, text) for value, text in TIMES if value <= 1.3 * high]
    return axis(
        title,
        type="log",
        range=[np.log10(0.8 * FLOOR), np.log10(1.4 * high)],
        tickmode="array",
        tickvals=[value for value, _ in ticks],
        ticktext=[text for _, text in ticks],
        **more,
    )


def _shown(found: Comparison, values: F8) -> F8:
    return values if found.survival else np.maximum(values, FLOOR)


def _what(found: Comparison) -> str:
    return "requests placed in a window" if found.survival else "total wait of a window"


def profile_figure(found: Comparison, default: Sequence[str]) -> go.Figure:
    """Share of windows with at most a wait (survival: with more than a number of requests), by policy."""
    styles = placement_styles(found)
    every = np.concatenate([entry.runs.ravel() for entry in found.entries])
    if found.survival:
        taus = np.linspace(0.0, float(every.max()), POINTS)
    else:
        taus = np.geomspace(FLOOR, max(float(every.max()), 10.0 * FLOOR), POINTS)
    rule = "more than %{x:,.0f} requests" if found.survival else "at most %{x:,.0f} s"
    figure = new_figure(
        xaxis=_result_axis(found, _what(found), every),
        yaxis=axis("share of windows, %", range=[0, 101]),
    )
    for entry in found.entries:
        style = styles[entry.name]
        share = 100.0 * performance_profile(entry.runs, taus, lower_is_better=not found.survival)
        figure.add_scatter(
            x=taus.astype(np.float32),
            y=share.astype(np.float32),
            name=entry.name,
            mode="lines",
            line={"width": 2, "dash": style.dash},
            hovertemplate=f"<b>%{{meta.text}}</b><br>{rule} in %{{y:.0f}} % of windows<extra></extra>",
            visible=entry.name in default,
            meta={"ink": style.ink, **label(entry.name)},
        )
    return figure


def forest_figure(found: Comparison, rule: Entry) -> go.Figure:
    """Difference of every entry's trimmed mean to the best rule's, with intervals, best at the top."""
    styles = placement_styles(found)
    others = [entry for entry in found.entries if entry is not rule]
    names = [short(entry.name, WIDTH) for entry in others]
    unit = "requests" if found.survival else "s"
    figure = new_figure(
        xaxis=axis(f"difference of trimmed means, {unit}", zeroline=True, nticks=6),
        yaxis=axis(
            "",
            tickmode="array",
            tickvals=list(range(len(names))),
            ticktext=names[::-1],
            range=[-0.6, len(names) - 0.4],
        ),
    )
    for place, entry in enumerate(reversed(others)):
        gap = found.gap(entry, rule)
        style = styles[entry.name]
        bar = {}
        if gap.known:
            arms = {"array": [gap.high - gap.estimate], "arrayminus": [gap.estimate - gap.low]}
            bar = {"error_x": {**arms, "thickness": 2, "width": 5}}
        figure.add_scatter(
            x=[gap.estimate],
            y=[place],
            name=entry.name,
            mode="markers",
            marker={"size": 11, "symbol": style.symbol, "line": {"width": 1.5}},
            hovertemplate=f"<b>%{{meta.text}}</b><br>%{{x:+,.0f}} {unit}<extra></extra>",
            meta={"ink": style.ink, **label(entry.name), "priority": 0},
            **bar,
        )
    return figure


def pairs_figure(found: Comparison, entry: Entry, rule: Entry) -> go.Figure:
    """Every window as a point: the best rule's result and this policy's."""
    style = placement_styles(found)[entry.name]
    x, y = (_shown(found, e.runs.mean(axis=0)) for e in (rule, entry))
    both = np.concatenate([x, y])
    figure = new_figure(
        xaxis=_result_axis(found, short(rule.name, WIDTH), both),
        yaxis=_result_axis(found, short(entry.name, WIDTH), both),
    )
    ends = [0.0 if found.survival else 0.8 * FLOOR, 1.4 * float(both.max())]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        meta={"ink": "muted"},
    )
    figure.add_scatter(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        mode="markers",
        marker={"size": 7, "symbol": style.symbol, "opacity": 0.75, "line": {"width": 0.5}},
        customdata=found.windows,
        hovertemplate="window %{customdata}<br>%{x:,.0f} → %{y:,.0f}<extra></extra>",
        meta={"ink": style.ink, **label(entry.name), "priority": 0},
    )
    return figure


def gaps_figure(found: Comparison, entry: Entry, rule: Entry) -> go.Figure:
    """Difference to the best rule in every window, sorted; the scale is logarithmic in both directions."""
    style = placement_styles(found)[entry.name]
    gap = entry.runs.mean(axis=0) - rule.runs.mean(axis=0)
    order = np.argsort(gap, kind="stable")
    gap = gap[order]
    squeeze = np.sign(gap) * np.log10(1.0 + np.abs(gap))
    most = float(np.abs(squeeze).max(initial=1.0))
    marks = [(value, text) for value, text in TIMES[1:] if np.log10(1.0 + value) <= most]
    if found.survival:
        marks = [(10.0**k, f"{10**k:,}") for k in range(0, 6) if k <= most]
    values = [-np.log10(1.0 + v) for v, _ in marks[::-1]] + [0.0] + [np.log10(1.0 + v) for v, _ in marks]
    texts = [f"−{text}" for _, text in marks[::-1]] + ["0"] + [f"+{text}" for _, text in marks]
    figure = new_figure(
        xaxis=axis("windows, sorted by the difference", showticklabels=False, ticks=""),
        yaxis=axis("", tickmode="array", tickvals=values, ticktext=texts, zeroline=True),
    )
    figure.update_layout(bargap=0.0)
    unit = "requests" if found.survival else "s"
    figure.add_bar(
        x=list(range(len(gap))),
        y=squeeze.astype(np.float32),
        customdata=np.stack([found.windows[order], gap], axis=1),
        hovertemplate=f"window %{{customdata[0]:d}}<br>%{{customdata[1]:+,.0f}} {unit}<extra></extra>",
        meta={"ink": style.ink, **label(entry.name)},
    )
    return figure
