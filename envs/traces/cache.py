"""The user's cache: traces already parsed, as uncompressed ``.npz``, and traces already downloaded.

Text takes tens of milliseconds to parse and large tables take seconds; a memory image loads in a few (wide
Parquet measured no faster than the text, so Parquet is for exchange, see `convert_trace`). The cache is only
ever an accelerator: a damaged file, a full disk or a read-only folder mean that a trace is read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from ..errors import TraceError
from ..files import LARGEST_WHOLE, open_regular, read_arrays, write_atomically
from .base import Trace

# Part of every key: raise it when a reader or this layout changes, and old files are not looked at again.
_LAYOUT = "5"
# A file changed twice within one tick of the file system's clock looks unchanged: younger ones stay uncached,
# and their content counts.
_SETTLED_S = 2.0
_DEPTH = 3  # of the deepest file that a reader looks for
_COLUMNS = ("arrival_s", "departure_s", "vcpus", "cpu_mhz", "memory_mib", "vm_class")
_SIGNAL = "signal:"


def cache_dir() -> Path:
    """Return the cache folder: ``VIRTGYM_CACHE``, else ``virtgym`` in the user's cache folder (XDG)."""
    chosen = os.environ.get("VIRTGYM_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("virtgym"))


def read_cached(
    path: str | os.PathLike[str], format: str, options: Mapping[str, Any], read: Callable[[], Trace]
) -> Trace:
    """Return the trace at ``path`` from the cache, or read it and put it there.

    Args:
        path: File or folder of the trace.
        format: Name of its format.
        options: Options of the reader; they are part of the key.
        read: Reads the trace.

    Returns:
        The trace, equal to what ``read()`` returns.

    Raises:
        TraceError: From ``read``; a failed read is never cached.
    """
    root = Path(path)
    before = content_signature(root)
    if before is None:
        return read()
    signature, changed_s = before
    file = _cache_file(root, format, options)
    cached = None if file is None else _load(file, signature)
    if cached is not None:
        return replace(cached, source=str(path))
    trace = read()
    if file is not None and time.time() - changed_s > _SETTLED_S and content_signature(root) == before:
        _store(file, signature, trace)
    return trace


def content_signature(root: Path) -> tuple[str, float] | None:
    """Return a hash that changes with the content of the files at ``root``, and when one last changed, s.

    Traces may be far larger than memory, so a file that has settled counts by name, size, number (inode) and
    times, among them that of its last change of any kind (ctime), which nobody can set back: a file that was
    rewritten in place with its old modification time has another. A younger file could change again within
    one tick of that clock, so its content counts.

    Returns:
        The hash and the latest change, or None if ``root`` cannot be read.
    """
    digest = hashlib.sha256()
    latest = 0.0
    try:
        found = [("", root.stat())] if root.is_file() else sorted(_list_files(root, ""))
        for name, stat in found:
            facts = (stat.st_mode, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
            digest.update(os.fsencode(name) + repr(facts).encode())
            latest = max(latest, stat.st_ctime)
            if S_ISREG(stat.st_mode) and time.time() - stat.st_ctime <= _SETTLED_S:
                with open_regular(root / name if name else root) as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    except (OSError, TraceError):
        return None
    return digest.hexdigest(), latest


def _list_files(folder: Path, prefix: str, depth: int = _DEPTH) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and state of everything below a folder that is not hidden; links may go round in circles."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != ".":
                yield prefix + entry.name, entry.stat()
                if entry.is_dir() and depth:
                    yield from _list_files(folder / entry.name, f"{prefix}{entry.name}/", depth - 1)


def _cache_file(root: Path, format: str, options: Mapping[str, Any]) -> Path | None:
    """Return the one cache file of a path and its options: new content overwrites it, so nothing piles up."""
    try:
        resolved = root.resolve()
        text = json.dumps([_LAYOUT, os.fspath(resolved), format, sorted(options.items())], default=repr)
        key = hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()[:20]
        return cache_dir() / "traces" / f"{key}.npz"
    except (OSError, RuntimeError):  # no home folder to put a cache in, or a loop of links
        return None


def _store(file: Path, signature: str, trace: Trace) -> None:
    """Write a trace so that a reader sees all of it or nothing; give up silently where that is impossible."""
    arrays: dict[str, Any] = {"util": trace.util}
    for key in _COLUMNS:
        column = getattr(trace, key)
        if column is not None:
            arrays[key] = column
    for key, matrix in trace.signals.items():
        arrays[_SIGNAL + key] = matrix
    note = {
        "signature": signature,
        "name": trace.name,
        "format": trace.format,
        "sample_s": trace.sample_s,
        "vm_names": trace.vm_names,
        "notes": trace.notes,
    }
    arrays["note"] = np.frombuffer(json.dumps(note).encode("ascii"), dtype=np.uint8)
    with suppress(OSError):
        write_atomically(file, lambda draft: np.savez(draft, **arrays))


def _load(file: Path, signature: str) -> Trace | None:
    """Read a cached trace; None if there is none, it is of other content, or it is damaged."""
    try:
        arrays = read_arrays(file, limit=LARGEST_WHOLE)
        note = json.loads(arrays.pop("note").tobytes())
        if note["signature"] != signature:
            return None
        return Trace(
            name=note["name"],
            format=note["format"],
            source="",
            sample_s=note["sample_s"],
            util=arrays.pop("util"),
            vm_names=tuple(note["vm_names"]),
            notes=tuple(note["notes"]),
            signals={
                key.removeprefix(_SIGNAL): arrays.pop(key) for key in list(arrays) if key.startswith(_SIGNAL)
            },
            **arrays,
        )
    except (ValueError, KeyError, TypeError):
        # Every member has a CRC that is checked; whatever is wrong with the file, the source is still there.
        return None
