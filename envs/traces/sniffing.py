"""What is at a path, looked at once so that each reader can say whether it is its format."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ..errors import TraceError
from ..files import open_regular

_HEAD_BYTES = 1 << 14
_TABLES_LOOKED_AT = 3
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save it as CSV"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"ARROW1", "an Arrow file: save it as Parquet"),
    (b"ORC", "an ORC file: save it as Parquet"),
    (b"Obj\x01", "an Avro file"),
    (b"%PDF", "a PDF document"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)
# How text begins, with blanks and case left out.
_STARTS = (
    ("versionhttps://git-lfs", "a Git LFS pointer in place of the file: fetch it with git lfs pull"),
    ("<!doctypehtml", "a web page: did the download fail?"),
    ("<html", "a web page: did the download fail?"),
    ("<adag", "a workflow of Pegasus (DAX)"),
    ("<", "an XML file"),
    ("hashowner,hashapp", "the Azure Functions trace"),
    ("timestamp,contexttokens", "an Azure LLM inference trace"),
    ("{", "a JSON file"),
    ("[", "a JSON file"),
)
# How names begin that other tables of published traces have.
_STEMS = {
    "batch_": "batch jobs of Alibaba's trace: a folder with container_usage is needed",
    "machine_": "the machines of a cluster trace: a folder with the usage of tasks or containers is needed",
    "pai_": "Alibaba's GPU trace",
    "task_events": "events of Google's trace: the folder with task_usage beside it is needed",
    "instance_events": "events of Google's trace: the folder with instance_usage beside it is needed",
}


class Look:
    """What is at a path, read as far as readers ask, and never more than the beginning of a few files."""

    def __init__(self, root: Path) -> None:
        """Prepare to look at a file or folder."""
        self.root = root
        self.name = root.name.lower()
        self.is_dir = root.is_dir()

    @cached_property
    def names(self) -> list[str]:
        """Names in the folder but hidden ones, sorted; empty for a file."""
        try:
            return sorted(name for name in os.listdir(self.root) if not name.startswith("."))
        except OSError:
            return []

    def starts(self, magic: bytes) -> bool:
        """Whether the file begins with ``magic``."""
        return _read_start(self.root).startswith(magic)

    def has_stem(self, *stems: str) -> bool:
        """Whether a name in the folder begins with one of ``stems``."""
        return any(name.startswith(stems) for name in self.names)

    @cached_property
    def head(self) -> str:
        """Beginning of the file as text; "" if it is binary, cannot be read, or is a folder."""
        return read_head(self.root)

    def heads(self, ends: tuple[str, ...] = ("",)) -> Iterator[str]:
        """Beginnings of the file, or of the first files of the folder that end in one of ``ends``."""
        if not self.is_dir:
            yield self.head
            return
        files = [name for name in self.names if name.lower().endswith(ends) and (self.root / name).is_file()]
        for name in files[:_TABLES_LOOKED_AT]:
            yield read_head(self.root / name)

    @property
    def header(self) -> list[str]:
        """Names of the columns of a CSV or Parquet file; empty if it is none."""
        if self.name.endswith((".parquet", ".pq")):
            return self._parquet_columns
        if self.is_dir or not self.head:
            return []
        line = self.head.splitlines()[0]
        return [cell.strip().strip('"').strip() for cell in re.split(r"[,;\t]", line)]

    @cached_property
    def _parquet_columns(self) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with open_regular(self.root) as file:
                return list(pq.read_schema(file).names)
        except (OSError, TraceError, pa.ArrowException):
            return []


def read_head(path: Path) -> str:
    """Return the beginning of a plain or gzip file as text, whole lines of it; "" if it is none."""
    content = _read_start(path)
    if b"\0" in content:
        return ""
    text = content.decode("utf-8-sig", errors="replace")
    if len(content) >= _HEAD_BYTES:
        text = text[: text.rfind("\n") + 1] or text
    # A letter cut in two is no sign of binary data, many odd ones are.
    return "" if text.count("\ufffd") > len(text) / 100 + 1 else text


def _read_start(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked if it is gzip; nothing of what is no regular file."""
    try:
        with open_regular(path) as file:
            content = file.read(_HEAD_BYTES)
    except (OSError, TraceError):
        return b""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, _HEAD_BYTES)
    except zlib.error:
        return content


def name_look(look: Look) -> str:
    """Say what a path looks like that is of no known format; "" if that cannot be told."""
    if look.is_dir:
        if not look.names:
            return "an empty folder"
        return next((what for stem, what in _STEMS.items() if look.has_stem(stem)), "")
    content = _read_start(look.root)
    if not content:
        return "an empty file"
    if b"xl/" in content or look.name.endswith(".xlsx"):
        return "an Excel workbook: save it as CSV"
    if content[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if look.name.endswith((".parquet", ".pq")) and look.header:
        if "ts_submit" in look.header:
            return "a table of the Workflow Trace Archive"
        if "fragments.parquet" in os.listdir(look.root.parent):
            return "a file of an OpenDC trace: give its folder"
        return f"a Parquet file with the columns {_list(look.header)}"
    for start, what in _MAGIC:
        if content.startswith(start):
            return what
    if not look.head:
        return "binary data"
    return _name_text(look)


def _name_text(look: Look) -> str:
    plain = re.sub(r"\s", "", look.head[:400]).lower()
    for start, what in _STARTS:
        if plain.startswith(start):
            return what
    for stem, what in _STEMS.items():
        if look.name.startswith(stem):
            return what
    lines = [line for line in look.head.splitlines() if line.strip() and line.lstrip()[0] not in ";#"]
    widths = {len(line.split()) for line in lines}
    if ".swf" in look.name or widths == {18}:
        return "a trace in the Standard Workload Format (SWF)"
    if ".gwf" in look.name or widths == {29}:
        return "a trace in the Grid Workload Format (GWF)"
    if len(look.header) > 1 and not any(re.fullmatch(r"[-+.\deE]*", cell) for cell in look.header):
        return f"a table with the columns {_list(look.header)}"
    return ""


def _list(names: list[str]) -> str:
    shown = [name if name.isprintable() else "?" for name in names[:8]]
    return ", ".join(name[:40] for name in shown) + (", …" if len(names) > 8 else "")
