"""The report of a benchmark: one page that opens offline, and the same as Markdown, from stored rows only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virtgym.envs.files import write_atomically
from virtgym.envs.sim.errors import VirtgymError

__all__ = ["write_report"]


def write_report(dirs: Sequence[Path], dest: Path) -> Path:
    """Write ``report.html`` and ``report.md``.

    Args:
        dirs: Run folders written by ``virtgym benchmark`` or ``virtgym evaluate``.
        dest: Folder to write into, made if it is not there; or the name of the page (``….html``), which the
            Markdown file is put beside.

    Returns:
        The page.

    Raises:
        VirtgymError: If a folder has no result rows, or the report cannot be written.
    """
    from ..placement_summary import Comparison, compare_windows, has_windows
    from .data import Group, group_runs, read_run
    from .leaderboard import Leaderboard, make_leaderboard
    from .markdown import render_markdown
    from .page import render_page

    if not dirs:
        raise VirtgymError("report: no folder given; give folders written by virtgym benchmark")
    groups = group_runs([read_run(Path(folder)) for folder in dirs])
    tables: list[tuple[Group, Leaderboard | Comparison]] = []
    for group in groups:
        windows = has_windows(group.rows)
        tables.append((group, compare_windows(group.rows) if windows else make_leaderboard(group)))
    page = Path(dest) if Path(dest).suffix.lower() in (".html", ".htm") else Path(dest) / "report.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write(page, render_page(tables))
        _write(page.with_suffix(".md"), render_markdown(tables))
    except OSError as error:
        raise VirtgymError(f"report {page}: cannot be written: {error.strerror or error}") from None
    return page


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))
