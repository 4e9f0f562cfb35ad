"""The leaderboard as an HTML table that can be sorted and scrolled."""

from __future__ import annotations

import math
from html import escape

from ..analysis.run_data import Group
from .columns import Column, superscript
from .figures import styles_of
from .leaderboard import Cell, Leaderboard


def heading_unit(board: Leaderboard, column: Column) -> str:
    """Power of ten and unit of a column; empty where it has none."""
    exponent = board.scales[column.key].exponent
    parts = (f"× 10{superscript(exponent)}" if exponent else "", column.unit)
    return " ".join(part for part in parts if part)


def half_width(board: Leaderboard, column: Column, cell: Cell) -> str:
    """The interval as ``± half width``; empty where there is none or every run gave the same number."""
    if cell.constant or not cell.value.known:
        return ""
    low, mean, high = cell.value.low, cell.value.estimate, cell.value.high
    return f"± {board.scales[column.key].write(max(high - mean, mean - low))}"


def render_table(group: Group, board: Leaderboard) -> str:
    """The table."""
    heads = "".join(_head(board, c) for c in board.columns)
    styles = styles_of(board)
    body = []
    for rank, line in enumerate(board.lines, start=1):
        style = styles[line.policy]
        tags = f'<span class="tag">{escape(line.gate)}</span>' if line.below else ""
        tags += '<span class="tag">trained</span>' if line.learned else ""
        name = (
            f'<th scope="row"><span class="rank">{"" if line.below else rank}</span>'
            f'<i class="swatch {style.dash}" style="--ink:var(--{style.ink})"></i>'
            f'<span class="name" title="{escape(line.policy)}">{escape(line.policy)}</span>{tags}</th>'
        )
        cells = "".join(_cell(board, c, line.cells[c.key]) for c in board.columns)
        body.append(f"<tr{' class=ref' if line.below else ''}>{name}{cells}</tr>")
    caption = f"Leaderboard of {group.title}: means per policy"
    policy = '<th scope="col" class="corner"><button type="button">Policy</button></th>'
    return (
        f'<div class="scroller" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="leaderboard"><caption class="unseen">{escape(caption)}</caption>'
        f"<thead><tr>{policy}{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _head(board: Leaderboard, column: Column) -> str:
    ordered = ' aria-sort="ascending"' if column.key == board.primary.key else ""
    unit = heading_unit(board, column)
    return (
        f'<th scope="col"{ordered} title="{escape(column.help)}">'
        f'<button type="button">{escape(column.label)}<small>{escape(unit)}</small></button></th>'
    )


def _cell(board: Leaderboard, column: Column, cell: Cell) -> str:
    mean = cell.value.estimate
    text = board.scales[column.key].write(mean, signed=column.key == "energy_delta_pct")
    kind = ' class="best"' if cell.best else ' class="tied"' if cell.tied else ""
    raw = f"{mean:.12g}" if math.isfinite(mean) else ""
    half = half_width(board, column, cell)
    small = f"<small>{escape(half)}</small>" if half else ""
    return f'<td{kind} data-value="{raw}">{escape(text)}{small}</td>'


def render_legend(board: Leaderboard) -> str:
    """What the shading and the columns mean."""
    terms = "".join(f"<dt>{escape(c.label)}</dt><dd>{escape(c.help)}</dd>" for c in board.columns)
    still = " Grey: below the line, not ranked, with the reason." if any(x.below for x in board.lines) else ""
    tied = '; <span class="tied">not clearly worse</span> (95 % interval of the paired difference includes 0)'
    tied = tied if board.method else ""
    return (
        f'<p class="note"><span class="best">Best of its column</span>{tied}. '
        f"{escape(_legend_note(board))}{still}</p>"
        f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>"
    )


def _legend_note(board: Leaderboard) -> str:
    if not board.method:
        return "One run per policy, so no intervals are given."
    over = f"{board.n_units} {board.units} ({board.method})"
    return f"± half a 95 % interval over {over}; without ± every run gave the same number."
