"""What a person sees of a training, and what TensorBoard gets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class TrainProgress:
    """A bar on a terminal, a line per evaluation elsewhere.

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

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._console.file.isatty():
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.completed:,.0f}/{task.total:,.0f}  {task.fields[note]}")
            columns = (TextColumn(self._name, markup=False), BarColumn(), text, TimeRemainingColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._done, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Say something beside the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, timesteps: int, frames_per_s: float) -> None:
        """So many decisions have been learned from, so many a second of late."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=min(timesteps, self._total), note=f"{frames_per_s:,.0f} frames/s"
            )

    def evaluated(self, row: Mapping[str, Any], unit: str) -> None:
        """An evaluation is there."""
        share = 100.0 * min(1.0, row["timesteps"] / max(1, self._total))
        speed = f"  {row['frames_per_s']:,.0f} frames/s" if row["frames_per_s"] else ""
        mark = " *" if row["objective"] == row["best"] else ""
        self.say(
            f"{self._name} {row['timesteps']:>11,} ({share:3.0f} %)  validation {row['objective']:,.1f} "
            f"{unit}, best {row['best']:,.1f}{mark}{speed}"
        )


class Board:
    """TensorBoard's event files; does nothing where it is not wanted or not installed.

    Args:
        folder: Where they go.
        wanted: Whether to write.
        begun: Decisions at which this process begins: what an earlier one wrote after them is void.
    """

    def __init__(self, folder: Path, wanted: bool, begun: int) -> None:
        self._writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            make: Any = SummaryWriter
            self._writer = make(str(folder), purge_step=begun if begun else None)

    def write(self, timesteps: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Add a point to each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, timesteps)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.close()
