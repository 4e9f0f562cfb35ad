"""What a person sees of a training: the lines that it logs, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any, Self

LOG = logging.getLogger("virtgym")
"""Everything that trainings log goes through it."""


class _Lines(logging.Handler):
    """Writes what is logged on stderr, above the bar if there is one."""

    def __init__(self, bar: Any) -> None:
        super().__init__(logging.INFO)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if self._bar is not None:
            self._bar.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
        else:
            print(record.getMessage(), file=sys.stderr, flush=True)


class TrainProgress:
    """A bar on a terminal, and the lines that are logged, unless the program has set logging up itself.

    Args:
        name: What is trained.
        total: Decisions to train for.
        done: Decisions already trained for.
    """

    def __init__(self, name: str, total: int, done: int) -> None:
        from rich.console import Console

        self._name, self._total, self._done = name, total, done
        self._console = Console(stderr=True)
        self._bar: Any = None
        self._lines: logging.Handler | None = None
        self._level = LOG.level

    def __enter__(self) -> Self:
        """Show the bar, and what is logged."""
        if self._console.file.isatty():
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.completed:,.0f}/{task.total:,.0f}  {task.fields[note]}")
            columns = (TextColumn(self._name, markup=False), BarColumn(), text, TimeRemainingColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._done, note="")
        if not LOG.hasHandlers():
            self._lines, self._level = _Lines(self._bar), LOG.level
            LOG.addHandler(self._lines)
            LOG.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, and leave logging as it was."""
        if self._lines is not None:
            LOG.removeHandler(self._lines)
            LOG.setLevel(self._level)
        if self._bar is not None:
            self._bar.stop()

    def advance(self, timesteps: int, frames_per_s: float) -> None:
        """So many decisions have been learned from, so many a second of late."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=min(timesteps, self._total), note=f"{frames_per_s:,.0f} frames/s"
            )
