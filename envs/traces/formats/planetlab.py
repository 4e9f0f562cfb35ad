"""Reader of PlanetLab days: one text file per VM, one integer percentage per line.

The format is that of ``beloglazov/planetlab-workload-traces`` (CoMon project): a folder per day, a file per
VM whose name holds spaces, dots and trailing blanks, and 288 lines of CPU utilisation, an integer from 0 to
100 sampled every 300 s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...files import names_its_file, read_bytes, show_found, show_path
from ..base import Trace
from ..sniffing import Look

SAMPLES_PER_DAY = 288
SAMPLE_S = 300.0

# A file that is longer than this holds no numbers from 0 to 100, not even between blanks.
_LINE_BYTES, _SPARE_BYTES = 64, 1 << 20
_NEWLINE = 10
_ZERO = 48
_ALLOWED = "an integer from 0 to 100"


@names_its_file
def read_planetlab(
    path: str | os.PathLike[str], *, expected: int = SAMPLES_PER_DAY, sample_s: float = SAMPLE_S
) -> Trace:
    """Read a PlanetLab day folder, or one VM's file.

    VMs stand in the code-point order of their file names, the order that fixes VM types in the literature's
    scenarios. Hidden files are skipped; sub-folders beside VM files are skipped and noted.

    Args:
        path: Folder with one file per VM, or a single file.
        expected: Lines that every file must have.
        sample_s: Sampling period, s.

    Returns:
        The trace, ``util`` of shape (expected, V) = integer / 100.0; every VM lives for the whole trace.

    Raises:
        TraceError: For a missing or empty path, a wrong number of lines, or a line that is not an integer
            from 0 to 100; the text names file and line.
    """
    if expected < 1:
        raise TraceError(f"planetlab: expected must be at least 1 line per file, is {expected}")
    root = Path(path)
    files, notes = list_vm_files(root)
    limit = _LINE_BYTES * expected + _SPARE_BYTES
    contents = [read_bytes(root / name if name else root, limit=limit) for name in files]
    percent = _parse_fast(contents, expected)
    if percent is None:
        paths = [root / name if name else root for name in files]
        percent = _parse_slow(paths, contents, expected)
    vms = len(files)
    return Trace(
        name=root.resolve().name,
        format="planetlab",
        source=str(path),
        sample_s=sample_s,
        util=np.ascontiguousarray(percent.T) / 100.0,
        vm_names=tuple(name or root.name for name in files),
        arrival_s=np.zeros(vms),
        departure_s=np.full(vms, np.inf),
        notes=(
            "units: whole % of the VM's nominal CPU, made a fraction",
            f"gaps: none (each file has {expected} values); repairs: none, a value out of order is an error",
            *notes,
        ),
    )


def sniff(look: Look) -> bool:
    """Whether most lines of a file, or of one of the first files of a folder, are numbers."""
    return any(_is_numbers(head) for head in look.heads())


def _is_numbers(head: str) -> bool:
    lines = [line.strip() for line in head.splitlines()]
    numbers = sum(line.lstrip("-").replace(".", "", 1).isdecimal() for line in lines)
    return numbers > len(lines) / 2


def list_vm_files(root: Path) -> tuple[list[str], list[str]]:
    """List the VM files of a day folder in code-point order.

    Args:
        root: Folder, or a single file.

    Returns:
        File names relative to ``root`` (the single entry ``""`` if ``root`` is a file itself), and notes.

    Raises:
        TraceError: If ``root`` is missing, unreadable, empty, or holds day folders only.
    """
    if root.is_file():
        return [""], []
    try:
        with os.scandir(root) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            folders = sorted(entry.name for entry in visible if entry.is_dir())
            files = sorted(entry.name for entry in visible if not entry.is_dir())
    except FileNotFoundError:
        raise TraceError(
            f"{show_path(root)}: no such file or folder; "
            "a planetlab trace is a day folder with one file per VM"
        ) from None
    except OSError as error:
        raise TraceError(f"{show_path(root)}: cannot be read ({error.strerror})") from None
    if not files and folders:
        listed = ", ".join(show_path(name) for name in folders[:8]) + (", …" if len(folders) > 8 else "")
        raise TraceError(f"{show_path(root)}: this folder holds day folders, pick one of them: {listed}")
    if not files:
        raise TraceError(f"{show_path(root)}: the folder is empty; expected one file per VM")
    notes = [f"skipped the sub-folder {show_path(name)}" for name in folders]
    return files, notes


def _parse_fast(contents: Sequence[bytes], expected: int) -> NDArray[np.int64] | None:
    """Parse well-formed files all at once.

    Args:
        contents: Bytes of each file.
        expected: Lines per file.

    Returns:
        Percentages, shape (V, expected), or None when any byte is out of the ordinary: the slow path then
        decides whether that is an error, and where.
    """
    closed = [text if text.endswith(b"\n") else text + b"\n" for text in contents]
    buffer = np.frombuffer(b"".join(closed), dtype=np.uint8)
    ends = np.flatnonzero(buffer == _NEWLINE)
    if ends.size != expected * len(contents):
        return None
    file_ends = np.cumsum([len(text) for text in closed]) - 1
    if not np.array_equal(ends[expected - 1 :: expected], file_ends):
        return None
    width = np.diff(ends, prepend=-1) - 1
    if width.min() < 1 or width.max() > 3:
        return None
    # Bytes below "0" wrap round to large numbers, so one comparison finds every non-digit.
    digits = buffer - np.uint8(_ZERO)
    if np.count_nonzero(digits > 9) != ends.size:
        return None
    percent = digits[ends - 1].astype(np.int64)
    percent += np.where(width >= 2, 10 * digits[ends - 2].astype(np.int64), 0)
    percent += np.where(width == 3, 100 * digits[ends - 3].astype(np.int64), 0)
    if percent.max() > 100:
        return None
    return percent.reshape(len(contents), expected)


def _parse_slow(paths: Sequence[Path], contents: Sequence[bytes], expected: int) -> NDArray[np.int64]:
    """Parse line by line; blanks round a number, CRLF and blank lines at the end are no errors.

    Raises:
        TraceError: With file and line of the first offence.
    """
    percent = []
    for path, text in zip(paths, contents):
        lines = text.rstrip().split(b"\n") if text.strip() else []
        values = [_parse_line(path, number, line) for number, line in enumerate(lines, start=1)]
        if len(values) != expected:
            what = "truncated" if len(values) < expected else "too long"
            raise TraceError(
                f"{show_path(path)}:{len(values)}: {what}, has {len(values)} of {expected} lines; "
                f"every file must have {expected}"
            )
        percent.append(values)
    return np.array(percent, dtype=np.int64)


def _parse_line(path: Path, number: int, line: bytes) -> int:
    token = line.strip()
    if token.isdigit() and len(token) <= 3 and int(token) <= 100:
        return int(token)
    found = show_found(token) if token else "a blank line"
    raise TraceError(f"{show_path(path)}:{number}: expected {_ALLOWED}, found {found}")
