"""Tables of an answer: on the terminal, as CSV, and as a page that opens offline."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.files import write_atomically

from ..report.parts import PagePart, document, render
from ..run.folder import claim_folder, default_out, write_text
from ..run.rows import virtgym_version

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

    from ..report.learned.search import Picture

N_SHOWN = 40
"""Rows that the terminal shows of a table."""


@dataclass(frozen=True)
class Table:
    """Rows below the names of their columns: pandas takes as long to load as a whole plan.

    Attributes:
        columns: Names.
        rows: Values.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Table:
        """The rows of a data frame."""
        return cls(list(frame.columns), list(frame.itertuples(index=False, name=None)))

    def is_number(self, at: int) -> bool:
        """Whether a column holds nothing but numbers."""
        values = [row[at] for row in self.rows]
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

    def write(self, path: Path) -> None:
        """Write it as CSV; what is not known is left empty."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(["" if value != value else value for value in row] for row in self.rows)


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        title: What it is about.
        verdict: The answer in one sentence.
        sentences: What else is to be said, a sentence each.
        tables: Tables by title, with the names of their CSV files.
        files: Further tables, by the names of their files alone.
        notes: What the export lacks, or was assumed.
    """

    title: str
    verdict: str
    sentences: Sequence[str]
    tables: Sequence[tuple[str, str, Table]]
    notes: Sequence[str] = ()
    files: Sequence[tuple[str, Table]] = ()


def open_folder(command: str, out: str | None) -> Path:
    """The folder of a command, made or checked to be its own."""
    folder = default_out(command) if out is None else Path(out)
    claim_folder(folder, command)
    return folder


def deliver(answer: Answer, folder: Path) -> Path:
    """Print an answer, and write its tables and page; returns the page."""
    print_answer(answer)
    write_tables(answer, folder)
    page = folder / "report.html"
    write_text(page, render_answer(answer))
    return page


def write_tables(answer: Answer, folder: Path) -> None:
    """Write the tables of an answer, and its further ones."""
    for name, rows in (*((name, rows) for _, name, rows in answer.tables), *answer.files):
        write_atomically(folder / name, rows.write)


def print_answer(answer: Answer) -> None:
    """Print tables, then what they say."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    for title, _, found in answer.tables:
        if not found.rows:
            continue
        table = Table(title=plain(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for at, name in enumerate(found.columns):
            table.add_column(plain(name), justify="right" if found.is_number(at) else "left", overflow="fold")
        for row in found.rows[:N_SHOWN]:
            table.add_row(*(plain(shown(value)) for value in row))
        console.print(table)
        if len(found.rows) > N_SHOWN:
            print(f"… and {len(found.rows) - N_SHOWN:,} more")
    print(answer.verdict)
    for text in answer.sentences:
        print(text)
    for text in answer.notes:
        print(f"note: {text}")


def shown(value: object) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def answer_html(answer: Answer, pictures: Sequence[Picture] = ()) -> Markup:
    """An answer as a part of a page.

    Args:
        answer: It.
        pictures: Figures that stand before its tables.
    """
    tables = [
        (title, found.columns, [[shown(value) for value in row] for row in found.rows])
        for title, _, found in answer.tables
        if found.rows
    ]
    return render("operations/answer.html", answer=answer, tables=tables, pictures=pictures)


def render_answer(answer: Answer) -> str:
    """The page as text."""
    title = f"virtgym report: {answer.title}"
    parts = [PagePart(answer_html(answer))]
    return document(title, [virtgym_version()], parts, script="Page.ready();")
