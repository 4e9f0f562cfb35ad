"""Drop compiled kernels that are older than a kernel that they may contain.

Numba's cache notices a change of the file that a function is in, but not of the functions in other files that
it calls: after an update of an editable install a stale kernel would run. Once per process this compares the
times of files; only a file newer than a compiled kernel is opened.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["drop_stale_kernels"]

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds ``envs``, ``policies`` and ``experiments``, installed or checked out."""

FOLDERS = ("envs/sim", "envs", "policies", "experiments/replication")
"""Where kernels live; all may call those of the first, and of their own folder."""

MARKS = ("njit", "lean_kernel")
"""A file that holds one of these words defines kernels."""


def _defines_kernels(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in MARKS)


def drop_stale_kernels(root: Path = ROOT) -> int:
    """Delete every cached index that is older than a source it may include.

    Args:
        root: Folder that holds ``FOLDERS``.

    Returns:
        Number of indices deleted; what cannot be read or deleted is left alone.
    """
    dropped = 0
    times = {folder: _source_times(root / folder) for folder in FOLDERS}
    for folder in FOLDERS:
        sources = times[FOLDERS[0]] | times[folder]
        for index in (root / folder / "__pycache__").glob("*.nbi"):
            with contextlib.suppress(OSError):
                compiled = index.stat().st_mtime
                if any(time > compiled and _defines_kernels(path) for path, time in sources.items()):
                    index.unlink()
                    dropped += 1
    return dropped


def _source_times(folder: Path) -> dict[Path, float]:
    times = {}
    for path in folder.glob("*.py"):
        with contextlib.suppress(OSError):
            times[path] = path.stat().st_mtime
    return times
