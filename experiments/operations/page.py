"""Tables of an answer: on the terminal, as CSV, and as a page that opens offline."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    tables: Sequence[tuple[str, str, pd.DataFrame]]
    notes: Sequence[str] = ()
    files: Sequence[tuple[str, pd.DataFrame]] = ()


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
        write_atomically(folder / name, functools.partial(rows.to_csv, index=False))


def print_answer(answer: Answer) -> None:
    """Print tables, then what they say."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    for title, _, rows in answer.tables:
        if not len(rows):
            continue
        table = Table(title=plain(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for name in rows.columns:
            table.add_column(
                plain(name), justify="right" if rows[name].dtype.kind in "if" else "left", overflow="fold"
            )
        for row in rows.head(N_SHOWN).itertuples(index=False):
            table.add_row(*(plain(shown(value)) for value in row))
        console.print(table)
        if len(rows) > N_SHOWN:
            print(f"… and {len(rows) - N_SHOWN:,} more")
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
        (title, list(rows.columns), [[shown(value) for value in row] for row in rows.itertuples(index=False)])
        for title, _, rows in answer.tables
        if len(rows)
    ]
    return render("operations/answer.html", answer=answer, tables=tables, pictures=pictures)


def render_answer(answer: Answer) -> str:
    """The page as text."""
    title = f"virtgym report: {answer.title}"
    parts = [PagePart(answer_html(answer))]
    return document(title, [virtgym_version()], parts, script="Page.ready();")
