"""Tables as a spreadsheet has them: a workbook, or a CSV, with names of columns in several languages."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TraceError
from ..files import one_line, open_regular, read_bytes, show_path
from .quantities import limit_of, quantity, truth

MOST_ROWS = 1_000_000
MOST_BYTES = 1 << 30
"""Largest file, packed or not."""
_MOST_PACKED, _FREE = 200, 64 << 20
_HEAD_ROWS = 25
_UNIT = re.compile(r"[\s(\[]*\b(kib|kb|mib|mb|gib|gb|tib|tb|mhz|ghz)\b[)\]\s]*$", re.IGNORECASE)


def plain_name(text: Any, tab: str = "") -> str:
    """A column's name without what differs between versions and languages of a tool: case, blanks, accents,
    units, the tab's own name in front.

    Examples:
        >>> plain_name(" Size MiB "), plain_name("vInfoCPUs", "vInfo"), plain_name("# Cores")
        ('size', 'cpus', '#cores')
    """
    bare = _UNIT.sub("", str(text))
    bare = unicodedata.normalize("NFKD", bare.replace("ß", "ss"))
    bare = re.sub(r"[^a-z0-9#%]", "", bare.lower())
    cut = bare.removeprefix(tab.lower())
    return cut or bare


@dataclass(frozen=True)
class Tab:
    """A table with a head.

    Attributes:
        where: File and sheet, for messages.
        columns: Place of each known column in a row.
        heads: What each is called there.
        rows: Cells of the rows below the head.
        first: Number of the first of them, as the tool shows it.
        mark: What stands before a row's number in messages.
    """

    where: str
    columns: Mapping[str, int]
    heads: Mapping[str, str]
    rows: Sequence[Sequence[Any]]
    first: int
    mark: str

    def __iter__(self) -> Iterator[Row]:
        """The rows that hold something."""
        for i, cells in enumerate(self.rows):
            if any(cell not in (None, "") for cell in cells):
                yield Row(self, i, cells)

    def need(self, *keys: str) -> None:
        """Refuse a table without a column.

        Raises:
            TraceError: Naming it and those that are there.
        """
        for key in keys:
            if key not in self.columns:
                found = ", ".join(self.heads.values()) or "none"
                raise TraceError(f"{self.where}: has no column {key!r}; known columns there: {found}")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    tab: Tab
    index: int
    cells: Sequence[Any]

    @property
    def where(self) -> str:
        """File, sheet and row."""
        return f"{self.tab.where}{self.tab.mark}{self.tab.first + self.index}"

    def cell(self, key: str) -> Any:
        """What stands in a column; None if there is no such column, or nothing."""
        at = self.tab.columns.get(key)
        found = None if at is None or at >= len(self.cells) else self.cells[at]
        return None if isinstance(found, str) and not found.strip() else found

    def head(self, key: str) -> str:
        """What the column is called there."""
        return self.tab.heads.get(key, key)

    def unit(self, key: str) -> str:
        """Unit that the column's name says, "" = none."""
        match = _UNIT.search(self.head(key))
        return match[1] if match else ""

    def text(self, key: str) -> str:
        """Text of a cell, "" = nothing."""
        found = self.cell(key)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        return "" if found is None else str(found).strip()

    def number(self, key: str, meant: str = "", *, whole: bool = True) -> float | None:
        """A quantity; None = nothing."""
        return quantity(self.where, self.head(key), self.cell(key), meant, unit=self.unit(key), whole=whole)

    def needed(self, key: str, meant: str = "", *, whole: bool = True) -> float:
        """A quantity that must be there.

        Raises:
            TraceError: If it is not.
        """
        found = self.number(key, meant, whole=whole)
        if found is None:
            raise TraceError(f"{self.where}, column {self.head(key)!r}: expected a number, found nothing")
        return found

    def count(self, key: str) -> int:
        """A whole number that must be there.

        Raises:
            TraceError: If it is not.
        """
        found = self.needed(key)
        if found % 1:
            raise TraceError(f"{self.where}, column {self.head(key)!r}: {found:g}: must be a whole number")
        return int(found)

    def limit(self, key: str, meant: str) -> float:
        """A limit; inf = none."""
        return limit_of(self.where, self.head(key), self.cell(key), meant, unit=self.unit(key))

    def truth(self, key: str) -> bool:
        """Yes or no; nothing means no."""
        return truth(self.where, self.head(key), self.cell(key))


def make_tab(
    where: str, rows: Sequence[Sequence[Any]], tab: str, known: Mapping[str, Sequence[str]], mark: str
) -> Tab:
    """Find the head of a table, which titles and empty rows may stand before.

    Args:
        where: File and sheet.
        rows: All rows.
        tab: Name of the tab.
        known: Names of each column that is read, as ``plain_name`` makes them.
        mark: What stands before a row's number in messages.

    Raises:
        TraceError: If no row is a head, or a column is named twice.
    """
    if len(rows) > MOST_ROWS:
        raise TraceError(f"{where}: {len(rows):,} rows, at most {MOST_ROWS:,} are read")
    of_name = {name: key for key, names in known.items() for name in names}
    best, head = 0, -1
    for i, row in enumerate(rows[:_HEAD_ROWS]):
        hits = len({of_name[n] for cell in row if (n := plain_name(cell or "", tab)) in of_name})
        if hits > best:
            best, head = hits, i
    if head < 0 or best < min(2, len(known)):
        raise TraceError(f"{where}: no row in the first {_HEAD_ROWS} has the names of its columns")
    columns: dict[str, int] = {}
    heads: dict[str, str] = {}
    for at, cell in enumerate(rows[head]):
        key = of_name.get(plain_name(cell or "", tab))
        if key is None:
            continue
        if key in columns:
            if plain_name(cell, tab) == plain_name(heads[key], tab):
                raise TraceError(f"{where}: column {str(cell).strip()!r} stands there twice")
            if known[key].index(plain_name(heads[key], tab)) < known[key].index(plain_name(cell, tab)):
                continue
        columns[key], heads[key] = at, str(cell).strip()
    return Tab(where, columns, heads, rows[head + 1 :], head + 2, mark)


def read_workbook(path: Path) -> dict[str, list[list[Any]]]:
    """Read all sheets of an Excel workbook.

    Args:
        path: The file.

    Raises:
        TraceError: If it is none, is damaged, or unpacks to far more than a workbook does; or if what reads
            workbooks is not installed.
    """
    where = show_path(path)
    try:
        from python_calamine import CalamineWorkbook
    except ModuleNotFoundError:
        raise TraceError(
            f"{where}: a workbook needs the extra virtgym[excel]: pip install 'virtgym[excel]'; "
            "or export the tabs as CSV"
        ) from None
    _check_packed(path)
    try:
        with open_regular(path, limit=MOST_BYTES) as file:
            book = CalamineWorkbook.from_filelike(file)
            return {
                name: book.get_sheet_by_name(name).to_python(skip_empty_area=False)
                for name in book.sheet_names
            }
    except TraceError:
        raise
    except BaseException as error:  # what a library in Rust panics with is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TraceError(f"{where}: not an Excel workbook ({one_line(error)})") from None


def _check_packed(path: Path) -> None:
    """Refuse an archive that would unpack to far more than it says or a workbook has."""
    where = show_path(path)
    try:
        with open_regular(path, limit=MOST_BYTES) as file, zipfile.ZipFile(file) as archive:
            size = path.stat().st_size
            most = min(MOST_BYTES, max(_FREE, _MOST_PACKED * size))
            declared = sum(entry.file_size for entry in archive.infolist())
            if declared > most:
                raise TraceError(
                    f"{where}: unpacks to {declared:,} bytes from {size:,}, at most {most:,} are read"
                )
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    while stream.read(1 << 20):  # an entry that is longer than it says fails its checksum
                        pass
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise TraceError(f"{where}: not an Excel workbook ({one_line(error)})") from None


def read_csv_rows(path: Path) -> list[list[str]]:
    """Read a CSV as a spreadsheet writes it: comma, semicolon or tab; UTF-8, UTF-16 or Windows' Latin.

    Raises:
        TraceError: If it is no text, or too long.
    """
    where = show_path(path)
    content = read_bytes(path, limit=MOST_BYTES)
    text = _decode(content, where)
    head = "\n".join(text.splitlines()[:_HEAD_ROWS])
    mark = max(";\t,", key=head.count)
    rows = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark):
            rows.append(row)
            if len(rows) > MOST_ROWS:
                raise TraceError(f"{where}: more than {MOST_ROWS:,} rows")
    except csv.Error as error:
        raise TraceError(f"{where}: not a CSV file ({one_line(error)})") from None
    return rows


def _decode(content: bytes, where: str) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[: 1 << 16]:
        raise TraceError(f"{where}: not a CSV file (binary data)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
