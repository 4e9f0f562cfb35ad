"""Streams of rows from published tables: CSV without or with a header, plain or gzip, file after file.

The tables of cluster traces are far larger than memory, so they are read block by block, and only rows that a
reader keeps stay. Nothing here guesses: a row of another width or a number that is none is an error with file
and line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..files import one_line, open_stream, open_text, show_found, show_path
from .repairs import MISSING

_BLOCK_BYTES = 8 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Some rows of one file.

    Attributes:
        path: The file.
        first: Row number of the first one, from 0.
        numbers: Numeric columns by name, shape (N,), float64; NaN where a field is missing (`MISSING`).
        texts: Text columns by name, each a ``pyarrow.Array``; "" where a field is blank.
    """

    path: Path
    first: int
    numbers: Mapping[str, NDArray[np.float64]]
    texts: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of rows."""
        columns = list(self.numbers.values()) or list(self.texts.values())
        return len(columns[0])


@dataclass(frozen=True)
class Window:
    """Which part of a large trace to read.

    Attributes:
        format: Name of the format, for messages.
        start_s: From when, s on the clock of the source.
        end_s: Until when, s; None = to the end.
        max_vms: How many VMs, the first that appear in the window; None = all.
    """

    format: str
    start_s: float = 0.0
    end_s: float | None = None
    max_vms: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TraceError: Naming the option and what is allowed.
        """
        if not 0 <= self.start_s < math.inf:
            raise TraceError(f"{self.format}: start_s must be at least 0 and finite, is {self.start_s}")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise TraceError(f"{self.format}: end_s must be after start_s={self.start_s:g}, is {self.end_s}")
        if self.max_vms is not None and self.max_vms < 1:
            raise TraceError(f"{self.format}: max_vms must be at least 1, is {self.max_vms}")

    def holds(self, time_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether times lie in the window, shape (N,)."""
        return (time_s >= self.start_s) & (time_s < (math.inf if self.end_s is None else self.end_s))


@dataclass
class Coder:
    """Numbers names in the order in which they are first seen; rows without a name have none.

    Attributes:
        limit: How many names to take; further ones have the code -1. None = all.
        allowed: Names to take; others have the code -1. None = all.
        codes: The names and their numbers.
        refused: Names seen that are not allowed.
        nobodys: Rows seen that have no name or no time.
    """

    limit: int | None = None
    allowed: Container[str] | None = None
    codes: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    nobodys: int = 0

    def encode(
        self, names: Any, wanted: NDArray[np.bool_], time: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        """Return the codes of a ``pyarrow`` array of names, shape (N,).

        Args:
            names: The names; "" = none.
            wanted: Rows to look at, shape (N,); the others have the code -1.
            time: Time of each row, shape (N,); rows where it is missing belong to nobody, too.
        """
        import pyarrow.compute as pc

        lost = np.zeros(wanted.shape, dtype=bool) if time is None else ~np.isfinite(time)
        lost |= wanted & np.asarray(pc.equal(names, "").to_numpy(zero_copy_only=False))
        self.nobodys += int(np.count_nonzero(lost))
        wanted = wanted & ~lost
        encoded = names.dictionary_encode()
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        table = np.full(len(encoded.dictionary), -1, dtype=np.int64)
        distinct = encoded.dictionary.to_pylist()
        for place in np.unique(indices[wanted]):
            table[place] = self._code(distinct[place])
        return np.where(wanted, table[indices], -1) if table.size else np.full(indices.shape, -1)

    def _code(self, name: str) -> int:
        code = self.codes.get(name)
        if code is not None:
            return code
        if self.allowed is not None and name not in self.allowed:
            self.refused.add(name)
            return -1
        if self.limit is not None and len(self.codes) >= self.limit:
            return -1
        self.codes[name] = len(self.codes)
        return self.codes[name]

    @property
    def names(self) -> list[str]:
        """The names in the order of their numbers."""
        return list(self.codes)


class Collector:
    """Gathers the kept rows of many blocks, and remembers where each came from."""

    def __init__(self, header: int = 0) -> None:
        """Prepare an empty collection; ``header`` lines stand before the rows of each file."""
        self._header = header
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._files: list[Path] = []
        self._file_of: list[NDArray[np.int32]] = []

    def add(self, block: Block, keep: NDArray[np.bool_], columns: Mapping[str, NDArray[Any]]) -> None:
        """Keep some rows of a block.

        Args:
            block: The block.
            keep: Rows to keep, shape (N,).
            columns: Columns to keep of them, shape (N,) each.
        """
        rows = np.flatnonzero(keep)
        if rows.size == 0:
            return
        if not self._files or self._files[-1] != block.path:
            self._files.append(block.path)
        self._parts.append({key: column[rows] for key, column in columns.items()})
        self._rows.append(rows + block.first)
        self._file_of.append(np.full(rows.size, len(self._files) - 1, dtype=np.int32))

    def __len__(self) -> int:
        """Number of rows kept."""
        return sum(rows.size for rows in self._rows)

    def column(self, key: str) -> NDArray[Any]:
        """Return one column of all kept rows."""
        return np.concatenate([part[key] for part in self._parts])

    def where(self, row: int) -> str:
        """Name file and line of a kept row."""
        for rows, files in zip(self._rows, self._file_of):
            if row < rows.size:
                path = self._files[files[row]]
                return name_line(path, int(rows[row]), self._header)
            row -= rows.size
        raise IndexError(row)


def name_line(path: Path, row: int, header: int) -> str:
    """Return ``file:line`` of a row, counted from 0 over the lines that are not blank."""
    if path.name.lower().endswith((".parquet", ".parquet.gz", ".pq")):
        return f"{show_path(path)}, row {row + 1}"
    with open_text(path, "replace") as file:
        filled = (number for number, line in enumerate(file, start=1) if line.strip())
        for index, number in enumerate(filled, start=-header):
            if index == row:
                return f"{show_path(path)}:{number}"
    return f"{show_path(path)}, row {row + 1}"


def find_parts(root: Path, stem: str, suffixes: Sequence[str] = (".csv", ".csv.gz")) -> list[Path]:
    """List the files of one table below a folder: ``stem*`` in it or in its sub-folder ``stem``.

    Returns:
        The files in natural order (part 2 before part 10); empty if there are none.
    """
    found = [*root.glob(f"{stem}*"), *(root / stem).glob("[!.]*")] if root.is_dir() else []
    ends = tuple(suffixes)
    return sorted((p for p in found if not p.is_dir() and p.name.lower().endswith(ends)), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    # Not c.isdigit(): a superscript two is a digit, too, of which int() makes nothing.
    digits = "".join(c if c.isdecimal() else " " for c in path.name).split()
    letters = "".join(" " if c.isdecimal() else c for c in path.name)
    return [(0, letters), *((int(number), "") for number in digits)]


def read_blocks(
    path: Path,
    fields: Sequence[str],
    *,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    delimiter: str = ",",
    decimal: str = ".",
    header: bool = False,
) -> Iterator[Block]:
    """Read a CSV file block by block.

    Args:
        path: The file, ``.csv`` or ``.csv.gz``.
        fields: Names of all its columns in their order.
        numbers: Columns to read as numbers.
        texts: Columns to read as text.
        delimiter: What stands between two fields.
        decimal: What stands before the decimals of a number.
        header: Whether the first line names the columns.

    Yields:
        Its rows, in order.

    Raises:
        TraceError: If the file cannot be read, has another number of columns, or a field is not what it
            should be; the text names file and line.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv

    kinds = {key: pa.float64() for key in numbers} | {key: pa.string() for key in texts}
    # Blanks round a number are skipped, those round a missing one are not.
    missing = [blank + text for blank in ("", " ", "\t") for text in MISSING]
    parse = pacsv.ParseOptions(delimiter=delimiter)
    convert = pacsv.ConvertOptions(
        include_columns=list(kinds),
        column_types=kinds,
        null_values=missing,
        strings_can_be_null=False,
        decimal_point=decimal,
    )
    explain = _Explainer(path, fields, frozenset(numbers), delimiter, decimal, header)
    first = 0
    for chunk in _chunks(path, header):
        read = pacsv.ReadOptions(column_names=list(fields), block_size=len(chunk) + 1, use_threads=False)
        try:
            table = pacsv.read_csv(pa.BufferReader(chunk), read, parse, convert)
        except pa.ArrowInvalid as error:
            raise explain(error) from None
        columns = {key: table[key].combine_chunks() for key in kinds}
        yield Block(
            path,
            first,
            {key: _as_floats(columns[key]) for key in numbers},
            {key: columns[key] for key in texts},
        )
        first += table.num_rows


def _chunks(path: Path, header: bool) -> Iterator[bytes]:
    """Yield whole lines, but for the header; parsed one by one, they need no thread that reads ahead."""
    with open_stream(path) as file:
        if file.peek(len(_BOM))[: len(_BOM)] == _BOM:
            file.read(len(_BOM))
        if header:
            file.readline()
        while chunk := file.read(_BLOCK_BYTES) + file.readline():
            if chunk.strip():
                yield chunk


def _as_floats(column: Any) -> NDArray[np.float64]:
    import pyarrow.compute as pc

    filled = pc.fill_null(column, float("nan"))
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.float64)


@dataclass(frozen=True)
class _Explainer:
    """Finds the line over which a CSV parser stumbled, which it does not tell."""

    path: Path
    fields: Sequence[str]
    numbers: frozenset[str]
    delimiter: str
    decimal: str
    header: bool

    def __call__(self, error: Exception) -> TraceError:
        try:
            with open_text(self.path) as file:
                reader = csv.reader(file, delimiter=self.delimiter)
                for index, cells in enumerate(reader):
                    text = self._offence(cells) if cells and index >= int(self.header) else None
                    if text:
                        return TraceError(f"{show_path(self.path)}:{reader.line_num}: {text}")
        except (UnicodeDecodeError, csv.Error) as reason:
            return TraceError(f"{show_path(self.path)}: not a CSV file in UTF-8 ({one_line(reason)})")
        return TraceError(f"{show_path(self.path)}: not a well-formed CSV file ({one_line(error)})")

    def _offence(self, cells: Sequence[str]) -> str | None:
        if len(cells) != len(self.fields):
            return f"expected {len(self.fields)} columns, found {len(cells)}"
        for key, cell in zip(self.fields, cells):
            if key in self.numbers and cell.strip() not in MISSING:
                try:
                    float(cell if self.decimal == "." else cell.replace(".", "x").replace(",", "."))
                except ValueError:
                    return f"{key}: expected a number, found {show_found(cell)}"
        return None
