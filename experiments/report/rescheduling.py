"""The part of the page about snapshots: who reaches what, against moves and seconds, the nodes, the moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import read_arrays

from ..analysis.rescheduling_summary import Mover, Movers
from ..analysis.run_data import Group, HeatFile
from ..analysis.stats import Interval, mean_interval
from .facts import question_of, run_folders
from .figures import Style, axis, label, new_figure, rank_styles
from .parts import Chips, PagePart, add_figure, render
from .sections import Section, section_html

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_SHOWN, N_MAPS, N_MOVES, MOST_NODES = 8, 6, 200, 6000
"""Policies whose lines are shown at first; policies with a map; moves shown of each; most nodes."""

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


def mover_section(group: Group, found: Movers, own: Sequence[Section] = ()) -> PagePart:
    """A group of the page, with sections of one's own."""
    figures: dict[str, Any] = {}
    styles = rank_styles([(entry.name, False) for entry in found.entries])
    shown = [entry.name for entry in found.entries[:N_SHOWN]]
    maps = _maps(group, found)
    html = render(
        "report/templates/rescheduling.html",
        title=group.title,
        question=question_of(group),
        words=mover_words(found),
        what=found.what,
        heads=HEADS,
        rows=[(name, cells) for name, *cells in (mover_cells(found, entry) for entry in found.entries)],
        styles=styles,
        lines=_lines(found, styles, shown, figures),
        chips=Chips(styles, shown, N_SHOWN),
        seed=found.seeds[0],
        maps=maps,
        options=[(one["key"], one["name"]) for one in maps],
        own=section_html(own, figures),
        folders=run_folders(group),
    )
    return PagePart(html, {"figures": figures, "heats": []})


def _lines(
    found: Movers, styles: dict[str, Style], shown: Sequence[str], figures: dict[str, Any]
) -> dict[str, Any]:
    if not any(entry.by_move.size for entry in found.entries):
        return {"panels": [], "lead": "Left out: no steps.parquet with these runs."}
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
            title = f"{found.what} against {what}"
            panels.append({"title": title, "key": key, "label": f"{title}, one line per policy"})
    text = "Means over snapshots with 95 % intervals. Moves are in the order in which they are made."
    return {"panels": panels, "lead": text}


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


def _maps(group: Group, found: Movers) -> list[dict[str, Any]]:
    """Nodes before and after, and the moves, of one snapshot and the best policies."""
    seed = found.seeds[0]
    maps = []
    for number, entry in enumerate(found.entries[:N_MAPS]):
        heat = next((h for h in group.heats if h.policy == entry.name and h.seed == seed), None)
        nodes, moves = _nodes(heat), _moves(group, entry.name, seed)
        if nodes or moves is not None:
            one = {"key": f"nodes-{number}", "name": entry.name, "nodes": nodes, "n_moves": len(moves or ())}
            maps.append({**one, "moves": None if moves is None else moves[:N_MOVES]})
    return maps


def _nodes(heat: HeatFile | None) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Before and after: number of nodes, and the bars as colour and path."""
    if heat is None:
        return []
    try:
        found = read_arrays(heat.path, refusal=VirtgymError)
        cpu, size = found["node_cpu"].astype(np.float64), float(found["fragment_size"])
        rows = [(name, found[name.lower()].astype(np.float64)) for name in ("Before", "After")]
    except (VirtgymError, KeyError, ValueError, TypeError):
        return []
    n = len(cpu)
    if not 0 < n <= MOST_NODES or size <= 0 or any(len(free) != n for _, free in rows):
        return []
    drawn = []
    for name, free in rows:
        share = np.clip(free, 0, None) / np.maximum(cpu, 1.0)
        rest = (np.clip(free, 0, None) % size) / np.maximum(cpu, 1.0)
        bars = [
            (ink, f"M{a} {100 - 100 * top:.1f}h1v{100 * (top - low):.1f}h-1z")
            for a, (whole, part) in enumerate(np.stack([share, rest], axis=1).tolist())
            for top, low, ink in ((whole, part, "p1"), (part, 0.0, "p0"))
            if top > low
        ]
        drawn.append((name, n, bars))
    return drawn


def _moves(group: Group, policy: str, seed: int) -> list[tuple[str, ...]] | None:
    """A row of texts per move; None where they were not kept."""
    steps = group.steps
    needed = {"step", "vm", "from", "to", "gain", "seconds", "objective"}
    if steps is None or not needed <= set(steps):
        return None
    own = steps[(steps["policy"].map(str) == policy) & (steps["seed"] == seed) & (steps["step"] > 0)]
    rows = []
    for row in own.sort_values("step").to_dict("records"):
        numbers = (f"{row['gain']:+.5f}", f"{row['seconds']:.1f}", f"{row['objective']:.4f}")
        rows.append((str(int(row["step"])), *(str(row[k]) for k in ("vm", "from", "to")), *numbers))
    return rows
