"""Leaderboards as the page's template writes them: what a cell says, which is the best of its column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.run_data import Group
from .columns import Column, superscript
from .figures import Style, styles_of
from .leaderboard import Cell, Leaderboard, Line


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        label: Heading.
        unit: Unit; empty = none.
        help: Definition.
        order: ``ascending`` or ``descending`` for the column that the rows are ordered by.
        more: Whether it is only shown with all columns.
    """

    label: str
    unit: str
    help: str
    order: str = ""
    more: bool = False


@dataclass(frozen=True)
class TableCell:
    """One number of a table.

    Attributes:
        value: By which the column is sorted; NaN = empty.
        text: As written.
        small: Its interval; empty = none.
        mark: ``best``, ``tied`` (not clearly worse) or empty.
    """

    value: float
    text: str
    small: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """One policy.

    Attributes:
        name: Its name.
        rank: Its place; empty = not ranked.
        style: Its look.
        tags: Short remarks beside the name.
        cells: A number for each column.
        greyed: Whether it is not ranked.
    """

    name: str
    rank: str
    style: Style
    tags: Sequence[str]
    cells: Sequence[TableCell]
    greyed: bool


@dataclass(frozen=True)
class Table:
    """A leaderboard.

    Attributes:
        caption: What it is of.
        heads: Heads of the columns beside that of names.
        rows: Policies.
        tied: Whether cells may be marked as not clearly worse than the best.
        note: What else the marks mean.
    """

    caption: str
    heads: Sequence[Head]
    rows: Sequence[Row]
    tied: bool
    note: str


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


def make_table(group: Group, board: Leaderboard) -> Table:
    """The leaderboard of runs of clusters."""
    styles = styles_of(board)
    heads = [
        Head(
            column.label,
            heading_unit(board, column),
            column.help,
            "ascending" if column.key == board.primary.key else "",
            column.key in board.more,
        )
        for column in board.columns
    ]
    rows = [
        Row(
            line.policy,
            "" if line.below else str(rank),
            styles[line.policy],
            _tags(line),
            [_cell(board, column, line.cells[column.key]) for column in board.columns],
            line.below,
        )
        for rank, line in enumerate(board.lines, start=1)
    ]
    note = _note(board)
    if any(line.below for line in board.lines):
        note += " Grey: below the line, not ranked, with the reason."
    return Table(f"Leaderboard of {group.title}: means per policy", heads, rows, bool(board.method), note)


def _tags(line: Line) -> list[str]:
    return [*([line.gate] if line.below else []), *(["trained"] if line.learned else [])]


def _cell(board: Leaderboard, column: Column, cell: Cell) -> TableCell:
    mean = cell.value.estimate
    text = board.scales[column.key].write(mean, signed=column.key == "energy_delta_pct")
    mark = "best" if cell.best else "tied" if cell.tied else ""
    return TableCell(mean if math.isfinite(mean) else math.nan, text, half_width(board, column, cell), mark)


def _note(board: Leaderboard) -> str:
    if not board.method:
        return "One run per policy, so no intervals are given."
    over = f"{board.n_units} {board.units} ({board.method})"
    return f"± half a 95 % interval over {over}; without ± every run gave the same number."
