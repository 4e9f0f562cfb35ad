"""The part of the page about snapshots: who reaches what, against moves and seconds, the nodes, the moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import read_arrays

from ..analysis.rescheduling_summary import Mover, Movers
from ..analysis.run_data import Group, HeatFile
from ..analysis.stats import Interval, mean_interval
from .figures import Style, axis, label, new_figure, rank_styles
from .parts import add_figure, block, chip_fieldset, plot_div

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_SHOWN, N_MAPS, MOST_NODES = 8, 6, 6000
"""Policies whose lines are shown at first; policies with a map and moves; nodes of a map at most."""

HEADS = ("Policy", "At the end", "Δ to the best", "Moves", "Processor s")


def _text(interval: Interval, digits: int = 4) -> str:
    if not math.isfinite(interval.estimate):
        return "–"
    text = f"{interval.estimate:.{digits}f}"
    return f"{text} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval.known else text


def mover_cells(found: Movers, entry: Mover) -> list[str]:
    """The numbers of a policy, in the order of ``HEADS``."""
    best = entry is found.entries[0]
    return [
        entry.name,
        _text(found.interval(entry.end)),
        "–" if best else _text(found.gap(entry)),
        _text(found.interval(entry.moves), 1),
        _text(found.interval(entry.seconds), 3),
    ]


def mover_words(found: Movers) -> list[str]:
    """What the table says, in sentences."""
    n, best = len(found.seeds), found.entries[0]
    start = (
        f"{n} snapshot{'s' if n > 1 else ''}, {found.what} {_text(mean_interval(found.start))} at the start."
    )
    words = [start, f"{best.name} reaches {_text(found.interval(best.end))}."]
    if len(found.entries) > 1 and n > 1:
        second = found.entries[1]
        gap = found.gap(second)
        sure = gap.known and gap.low > 0
        how = "clearly" if sure else "not clearly"
        words.append(f"{second.name} is {how} worse, by {_text(gap)} snapshot by snapshot.")
    if found.left_out:
        words.append(f"Left out, as they share no snapshot: {', '.join(found.left_out)}.")
    return words


def mover_markdown(group: Group, found: Movers) -> list[str]:
    """The same as lines of Markdown."""
    lines = [f"## {group.title}", "", *(f"- {text}" for text in mover_words(found)), ""]
    lines += [f"| {' | '.join(HEADS)} |", f"|:--{'|--:' * (len(HEADS) - 1)}|"]
    rows = (" | ".join(text.replace("|", "\\|") for text in mover_cells(found, e)) for e in found.entries)
    return [*lines, *(f"| {row} |" for row in rows), ""]


def mover_parts(group: Group, found: Movers, figures: dict[str, Any]) -> list[str]:
    """HTML blocks of a group; what they draw is added to ``figures``."""
    styles = rank_styles([(entry.name, False) for entry in found.entries])
    return [
        _head(group, found),
        _table(group, found, styles),
        _lines(found, styles, figures),
        _maps(group, found),
    ]


def _head(group: Group, found: Movers) -> str:
    first, *rest = mover_words(found)
    more = "".join(f"<li>{escape(text)}</li>" for text in rest)
    return (
        f'<header class="head"><h2>{escape(group.title)}</h2><p class="verdict">{escape(first)}</p>'
        f'<ul class="sure">{more}</ul></header>'
    )


def _table(group: Group, found: Movers, styles: dict[str, Style]) -> str:
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in HEADS)
    body = []
    for entry in found.entries:
        name, *cells = mover_cells(found, entry)
        style = styles[name]
        swatch = f'<i class="swatch {style.dash}" style="--ink:var(--{style.ink})"></i>'
        row = "".join(f"<td>{escape(text)}</td>" for text in cells)
        body.append(f'<tr><th scope="row">{swatch}<span class="name">{escape(name)}</span></th>{row}</tr>')
    table = f'<table class="plain"><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    text = f"Mean {found.what} over snapshots; in brackets 95 % intervals, of differences paired by snapshot."
    return block("board", "Who reaches what", f'<div class="scroller">{table}</div>', escape(text))


def _lines(found: Movers, styles: dict[str, Style], figures: dict[str, Any]) -> str:
    title = "Against moves and seconds"
    if not any(entry.by_move.size for entry in found.entries):
        return block("day", title, "", "Left out: no steps.parquet with these runs.")
    shown = [entry.name for entry in found.entries[:N_SHOWN]]
    panels = []
    moves = [(e, np.arange(float(e.by_move.shape[1])), e.by_move) for e in found.entries]
    times = [(e, found.times, e.by_time) for e in found.entries]
    curves = (
        ("by-move", "moves made", moves, "linear"),
        ("by-time", "processor seconds of search", times, "log"),
    )
    for key, what, lines, scale in curves:
        if any(values.shape[1] > 1 for _, _, values in lines):
            add_figure(figures, key, _figure(found, styles, shown, what, lines, scale))
            plot = plot_div(key, f"{found.what} against {what}, one line per policy", "lines")
            panels.append(
                f"<figure><figcaption>{escape(f'{found.what} against {what}')}</figcaption>{plot}</figure>"
            )
    chips = chip_fieldset([(e.name, styles[e.name]) for e in found.entries], shown, N_SHOWN)
    text = "Means over snapshots with 95 % intervals. Moves are in the order in which they are made."
    return block("day", title, f'{chips}<div class="grid">{"".join(panels)}</div>', text)


def _figure(
    found: Movers,
    styles: dict[str, Style],
    shown: Sequence[str],
    what: str,
    lines: Sequence[tuple[Mover, F8, F8]],
    scale: str,
) -> go.Figure:
    figure = new_figure(xaxis=axis(what, type=scale), yaxis=axis(found.what, rangemode="tozero"))
    for turn, (entry, x, values) in enumerate(lines):
        if values.shape[1] < 2:
            continue
        style, every = styles[entry.name], max(1, values.shape[1] // 10)
        means = [mean_interval(column) for column in values.T]
        arms = [
            m.high - m.estimate if m.known and (i + turn) % every == 0 else 0.0 for i, m in enumerate(means)
        ]
        figure.add_scatter(
            x=np.asarray(x, dtype=np.float64).round(6),
            y=[round(m.estimate, 5) for m in means],
            name=entry.name,
            mode="lines",
            line={"width": 2, "dash": style.dash, "shape": "hv" if scale == "log" else "linear"},
            error_y={"array": arms, "thickness": 1.5, "width": 3},
            hovertemplate="<b>%{meta.text}</b><br>%{x:.3g}: %{y:.4f}<extra></extra>",
            visible=entry.name in shown,
            meta={"ink": style.ink, **label(entry.name), "priority": 0},
        )
    return figure


def _maps(group: Group, found: Movers) -> str:
    """Nodes before and after, and the moves, of one snapshot and the best policies."""
    seed = found.seeds[0]
    options: list[str] = []
    choices: list[str] = []
    for number, entry in enumerate(found.entries[:N_MAPS]):
        heat = next((h for h in group.heats if h.policy == entry.name and h.seed == seed), None)
        body = _map(heat) + _moves(group, entry.name, seed)
        if body:
            key = f"nodes-{number}"
            options.append(f'<option value="{key}">{escape(entry.name)}</option>')
            hidden = " hidden" if choices else ""
            choices.append(f'<div class="choice" data-choice="{key}"{hidden}>{body}</div>')
    if not choices:
        return ""
    choose = f'<label>Policy <select class="chooser">{"".join(options)}</select></label>'
    key = (
        '<p class="key"><span><i class="cell" style="--ink:var(--p1)"></i>free, whole VMs of the size</span>'
        '<span><i class="cell" style="--ink:var(--p0)"></i>free, fragment</span></p>'
    )
    text = f"Snapshot of seed {seed}. A bar is a node, by host; its height is what is free of its CPU."
    body = f'<div class="controls">{choose}</div>{key}{"".join(choices)}'
    return block("nodes", "Nodes before and after, and the moves", body, escape(text))


def _map(heat: HeatFile | None) -> str:
    if heat is None:
        return ""
    try:
        found = read_arrays(heat.path, refusal=VirtgymError)
        cpu, size = found["node_cpu"].astype(np.float64), float(found["fragment_size"])
        rows = [(name, found[name.lower()].astype(np.float64)) for name in ("Before", "After")]
    except (VirtgymError, KeyError, ValueError, TypeError):
        return ""
    n = len(cpu)
    if not 0 < n <= MOST_NODES or size <= 0 or any(len(free) != n for _, free in rows):
        return ""
    parts = []
    for name, free in rows:
        share = np.clip(free, 0, None) / np.maximum(cpu, 1.0)
        rest = (np.clip(free, 0, None) % size) / np.maximum(cpu, 1.0)
        bars = "".join(
            f'<path d="M{a} {100 - 100 * top:.1f}h1v{100 * (top - low):.1f}h-1z" fill="var(--{ink})"/>'
            for values in (np.stack([share, rest], axis=1),)
            for a, (whole, part) in enumerate(values.tolist())
            for top, low, ink in ((whole, part, "p1"), (part, 0.0, "p0"))
            if top > low
        )
        parts.append(
            f"<figure><figcaption>{name}</figcaption>"
            f'<svg viewBox="0 0 {n} 100" preserveAspectRatio="none" role="img" '
            f'aria-label="Free CPU of nodes, {name.lower()}" '
            f'style="width:100%;height:110px;background:var(--card)">{bars}</svg></figure>'
        )
    return "".join(parts)


def _moves(group: Group, policy: str, seed: int) -> str:
    steps = group.steps
    needed = {"step", "vm", "from", "to", "gain", "seconds", "objective"}
    if steps is None or not needed <= set(steps):
        return ""
    own = steps[(steps["policy"].map(str) == policy) & (steps["seed"] == seed) & (steps["step"] > 0)]
    if own.empty:
        return '<p class="note">No move.</p>'
    heads = ("#", "VM", "From", "To", "Gain", "Migration s", "Objective after")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    rows = []
    for row in own.sort_values("step").head(200).to_dict("records"):
        numbers = (f"{row['gain']:+.5f}", f"{row['seconds']:.1f}", f"{row['objective']:.4f}")
        cells = (str(int(row["step"])), *(str(row[k]) for k in ("vm", "from", "to")), *numbers)
        rows.append(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in cells)}</tr>")
    table = f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f"<details><summary>The {len(own)} moves (all of all snapshots: moves.csv)</summary>"
        f'<div class="scroller">{table}</div></details>'
    )
