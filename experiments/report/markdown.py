"""The report as Markdown: the same numbers for a README, an issue or a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ..analysis.placement_summary import Comparison
from ..analysis.rescheduling_summary import Movers
from ..analysis.run_data import Group
from .columns import Column
from .facts import notes, run_facts, short_facts
from .leaderboard import Cell, Leaderboard
from .page import Lead
from .placement.overview import overview_rows
from .placement.page import learner_rows, placement_cells, placement_columns
from .placement.words import entry_label, make_placement_verdict, placement_facts, placement_remarks
from .rescheduling import mover_markdown
from .sections import Section
from .table import TableCell, half_width, heading_unit
from .verdict import Sentence, Strong, make_verdict


def escape_md(text: str) -> str:
    """Text that Markdown and the HTML in it leave alone."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("\r", " ").replace("\n", " ")


def _sentence(pieces: Sentence) -> str:
    return "".join(f"**{escape_md(p)}**" if isinstance(p, Strong) else escape_md(p) for p in pieces)


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
        place, why = ("–", f" ({escape_md(line.gate)})") if line.below else (str(rank), "")
        lines.append(f"| {place} | {escape_md(line.policy)}{why} | {' | '.join(cells)} |")
    return lines


def _section(group: Group, board: Leaderboard) -> list[str]:
    facts = " · ".join(escape_md(f) for f in short_facts(group, board))
    verdict = [f"- {_sentence(s)}" for s in make_verdict(board)]
    remarks = [f"- {escape_md(n)}" for n in notes(group, board)]
    return [
        f"## {escape_md(group.title)}",
        "",
        facts,
        "",
        *verdict,
        "",
        *_table(board),
        "",
        *remarks,
        "",
    ]


def _placement_section(group: Group, found: Comparison) -> list[str]:
    facts = " · ".join(escape_md(f) for f in placement_facts(group, found))
    verdict = [f"- {_sentence(s)}" for s in make_placement_verdict(found)]
    remarks = [f"- {escape_md(n)}" for n in placement_remarks(group, found)]
    columns = placement_columns(found)
    heads = [
        "#",
        "Policy",
        *(escape_md(f"{c.label} ({c.unit})" if c.unit else c.label) for c in columns),
    ]
    table = [f"| {' | '.join(heads)} |", f"|--:|:--{'|--:' * len(columns)}|"]
    rank = 0
    for entry in found.entries:
        ranked = not entry.members and not entry.reference
        rank += ranked
        cells = placement_cells(found, entry)
        texts = [_placement_cell(cells[c.key]) for c in columns]
        place = str(rank) if ranked else ""
        table.append(f"| {place} | {escape_md(entry_label(entry))} | {' | '.join(texts)} |")
    learners = [
        f"- {escape_md(name)}: {n} agents, mean over agents of the trimmed mean {escape_md(mean)}; "
        f"best {escape_md(best)}, worst {escape_md(worst)}"
        for name, n, mean, best, worst in learner_rows(found)
    ]
    parts = [f"## {escape_md(group.title)}", "", facts, "", *verdict, "", *table, ""]
    return [*parts, *learners, *([""] if learners else []), *remarks, ""]


def _placement_cell(cell: TableCell) -> str:
    text = f"{cell.text} [{cell.small}]" if cell.small else cell.text
    return f"**{escape_md(text)}**" if cell.mark == "best" else escape_md(text)


def _overview(boards: Sequence[tuple[Group, Comparison]]) -> list[str]:
    """Trimmed means of policies across scenarios, and their difference to the best rule there."""
    rows = overview_rows(boards)
    if len(boards) < 2 or not rows:
        return []
    heads = [escape_md(group.title) for group, _ in boards]
    lines = ["## Across scenarios", "", f"| Policy | {' | '.join(heads)} |", f"|:--{'|--:' * len(heads)}|"]
    for label, cells in rows:
        texts = [f"{c.text} ({c.small})" if c.small else f"**{c.text}**" if c.text else "" for c in cells]
        lines.append(f"| {escape_md(label)} | {' | '.join(texts)} |")
    return [*lines, "", "Trimmed mean; in brackets: against the best rule there, which is bold.", ""]


def render_markdown(
    groups: Sequence[tuple[Group, Leaderboard | Comparison | Movers]],
    leads: Sequence[Lead] = (),
    own: Sequence[Sequence[Section]] = (),
) -> str:
    """The leaderboards, sections of one's own by group, and what was run."""
    lines = ["# virtgym report", "", *(line for lead in leads for line in lead.markdown)]
    for (group, board), sections in zip(groups, own or [()] * len(groups), strict=True):
        if isinstance(board, Comparison):
            lines += _placement_section(group, board)
        elif isinstance(board, Movers):
            lines += mover_markdown(group, board)
        else:
            lines += _section(group, board)
        for section in sections:
            lines += [f"### {escape_md(section.title)}", "", *section.markdown, ""]
    lines += _overview([(g, board) for g, board in groups if isinstance(board, Comparison)])
    lines += ["## What was run", ""]
    for run in {id(r): r for g, _ in groups for r in g.runs}.values():
        lines += [f"### {escape_md(run.path.name or str(run.path))}", ""]
        lines += [f"- {name}: {escape_md(value)}" for name, value in run_facts(run)]
        lines.append("")
    return "\n".join(lines)
