"""The report as Markdown: the same numbers for a README, an issue or a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from .columns import Column
from .data import Group
from .facts import notes, run_facts, short_facts
from .leaderboard import Cell, Leaderboard
from .table import half_width, heading_unit
from .verdict import Sentence, Strong, make_verdict

__all__ = ["render_markdown"]


def _escape(text: str) -> str:
    """Text that Markdown and the HTML in it leave alone."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("\r", " ").replace("\n", " ")


def _sentence(pieces: Sentence) -> str:
    return "".join(f"**{_escape(p)}**" if isinstance(p, Strong) else _escape(p) for p in pieces)


def _heading(board: Leaderboard, column: Column) -> str:
    unit = heading_unit(board, column)
    return f"{column.label} ({unit})" if unit else column.label


def _cell(board: Leaderboard, column: Column, cell: Cell) -> str:
    scale = board.scales[column.key]
    text = scale.write(cell.value.estimate, signed=column.key == "energy_delta_pct")
    text = f"{text} {half_width(board, column, cell)}".strip()
    return f"**{text}**" if cell.best else text


def _table(board: Leaderboard) -> list[str]:
    heads = ["#", "Policy", *(_heading(board, c) for c in board.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|--:|:--{'|--:' * len(board.columns)}|"]
    for rank, line in enumerate(board.lines, start=1):
        cells = [_cell(board, c, line.cells[c.key]) for c in board.columns]
        place = "ref" if line.reference else str(rank)
        lines.append(f"| {place} | {_escape(line.policy)} | {' | '.join(cells)} |")
    return lines


def _section(group: Group, board: Leaderboard) -> list[str]:
    facts = " · ".join(_escape(f) for f in short_facts(group, board))
    verdict = [f"- {_sentence(s)}" for s in make_verdict(board)]
    remarks = [f"- {_escape(n)}" for n in notes(group, board)]
    return [f"## {_escape(group.title)}", "", facts, "", *verdict, "", *_table(board), "", *remarks, ""]


def render_markdown(groups: Sequence[tuple[Group, Leaderboard]]) -> str:
    """The leaderboards and what was run."""
    lines = ["# virtgym report", ""]
    for group, board in groups:
        lines += _section(group, board)
    lines += ["## What was run", ""]
    for run in {id(r): r for g, _ in groups for r in g.runs}.values():
        lines += [f"### {_escape(run.path.name or str(run.path))}", ""]
        lines += [f"- {name}: {_escape(value)}" for name, value in run_facts(run)]
        lines.append("")
    return "\n".join(lines)
