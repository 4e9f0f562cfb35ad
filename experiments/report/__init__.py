"""The report of what was run: a page that opens offline, and the same as Markdown, from stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import one_line, open_regular

if TYPE_CHECKING:
    from ..analysis.run_data import Group
    from .page import Board, Lead

__all__ = ["write_report"]


def write_report(
    dirs: Sequence[Path],
    dest: Path,
    leads: Sequence[Lead] = (),
    sections: Sequence[str] = (),
    *,
    live: bool = False,
) -> Path:
    """Write ``report.html`` and ``report.md``.

    Args:
        dirs: Run folders written by ``virtgym benchmark`` or ``virtgym evaluate``, trainings and sweeps.
        dest: Folder to write into, made if it is not there; or the name of the page (``….html``), which the
            Markdown file is put beside.
        leads: Parts of their own that stand before all folders'.
        sections: Sections of one's own by dotted path, beside those that plug-ins register.
        live: Whether the page asks the server that it came from for a newer one.

    Returns:
        The page.

    Raises:
        VirtgymError: If a folder has no result rows, or the report cannot be written.
    """
    from ..analysis.run_data import group_runs, read_run
    from ..run.folder import write_text
    from .markdown import render_markdown
    from .page import render_page
    from .sections import make_sections

    if not dirs:
        raise VirtgymError("report: no folder given; give folders that virtgym has written")
    page = Path(dest) if Path(dest).suffix.lower() in (".html", ".htm") else Path(dest) / "report.html"
    for path in (page, page.with_suffix(".md")):
        if path.exists() and not _is_ours(path):
            raise ConfigError(f"report {path}: is no report of virtgym's; choose another out=")
    shown = ", ".join(map(str, dirs))
    try:
        others, learned = _learned([Path(folder) for folder in dirs])
        leads = [*leads, *learned]
        tables = [(group, _board(group)) for group in group_runs([read_run(folder) for folder in others])]
        own = [make_sections(group, sections) for group, _ in tables]
        texts = {
            page: render_page(tables, leads, own, live=live),
            page.with_suffix(".md"): render_markdown(tables, leads, own),
        }
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


def _board(group: Group) -> Board:
    """What there is to say of a group, by its kind."""
    from ..analysis.placement_summary import compare_windows, has_windows
    from ..analysis.rescheduling_summary import compare_movers, has_moves
    from .leaderboard import make_leaderboard

    if has_moves(group.rows):
        return compare_movers(group)
    return compare_windows(group.rows) if has_windows(group.rows) else make_leaderboard(group)


def _learned(folders: Sequence[Path]) -> tuple[list[Path], list[Lead]]:
    """Folders of runs, and the parts about those of trainings and sweeps."""
    from ..analysis.trainings import is_sweep, is_training, read_training
    from .learned.trainings import read_jobs, sweep_lead, training_lead

    trainings = [folder for folder in folders if is_training(folder)]
    sweeps = [folder for folder in folders if folder not in trainings and is_sweep(folder)]
    found = [(folder, read_training(folder)) for folder in trainings]
    runs = [run for _, run in found if run is not None]
    for folder, run in found:
        if run is None and not runs:
            raise VirtgymError(f"report {folder}: no progress.csv in it yet; nothing was evaluated")
    leads = [training_lead(runs)] if runs else []
    leads += [sweep_lead(folder, read_jobs(folder)) for folder in sweeps]
    return [folder for folder in folders if folder not in (*trainings, *sweeps)], leads


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
