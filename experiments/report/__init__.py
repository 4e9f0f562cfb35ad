"""The report of a benchmark: one page that opens offline, and the same as Markdown, from stored rows only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import one_line, open_regular

if TYPE_CHECKING:
    from .page import Lead

__all__ = ["write_report"]


def write_report(dirs: Sequence[Path], dest: Path, lead: Lead | None = None) -> Path:
    """Write ``report.html`` and ``report.md``.

    Args:
        dirs: Run folders written by ``virtgym benchmark`` or ``virtgym evaluate``.
        dest: Folder to write into, made if it is not there; or the name of the page (``….html``), which the
            Markdown file is put beside.
        lead: A part of its own that stands before all folders'.

    Returns:
        The page.

    Raises:
        VirtgymError: If a folder has no result rows, or the report cannot be written.
    """
    from ..analysis.placement_summary import Comparison, compare_windows, has_windows
    from ..analysis.rescheduling_summary import Movers, compare_movers, has_moves
    from ..analysis.run_data import Group, group_runs, read_run
    from ..run.folder import write_text
    from .leaderboard import Leaderboard, make_leaderboard
    from .markdown import render_markdown
    from .page import render_page

    if not dirs:
        raise VirtgymError("report: no folder given; give folders written by virtgym benchmark")
    page = Path(dest) if Path(dest).suffix.lower() in (".html", ".htm") else Path(dest) / "report.html"
    for path in (page, page.with_suffix(".md")):
        if path.exists() and not _is_ours(path):
            raise ConfigError(f"report {path}: is no report of virtgym's; choose another out=")
    shown = ", ".join(map(str, dirs))
    try:
        groups = group_runs([read_run(Path(folder)) for folder in dirs])
        tables: list[tuple[Group, Leaderboard | Comparison | Movers]] = []
        for group in groups:
            if has_moves(group.rows):
                tables.append((group, compare_movers(group)))
            else:
                windows = has_windows(group.rows)
                tables.append((group, compare_windows(group.rows) if windows else make_leaderboard(group)))
        texts = {page: render_page(tables, lead), page.with_suffix(".md"): render_markdown(tables, lead)}
    except VirtgymError:
        raise
    except Exception as error:  # the outermost edge: rows of anyone's making may be what no run gives
        why = f"{type(error).__name__}: {one_line(error)}"
        raise VirtgymError(f"report {shown}: no report can be made of what is there ({why})") from error
    try:
        for path, text in texts.items():
            write_text(path, text)
    except OSError as error:
        raise VirtgymError(f"report {page}: cannot be written: {error.strerror or error}") from None
    return page


def _is_ours(path: Path) -> bool:
    """Whether a file may be replaced: it begins as a report does, or lies in a folder of virtgym's."""
    from ..run.folder import MARK

    if (path.parent / MARK).exists():
        return True
    try:
        with open_regular(path) as file:
            head = file.read(2000)
    except VirtgymError:
        return False
    return head.startswith(b"# virtgym report\n") or b"<title>virtgym report: " in head
