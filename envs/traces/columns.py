"""Columns of a CSV or Parquet file, with the line or row of every value at hand for error messages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import hint
from ..errors import TraceError
from ..files import one_line, open_stream, open_text, read_parquet, show_found, show_path
from .base import LARGEST
from .repairs import MISSING

METADATA_KEY = b"virtgym"
"""Key of the JSON that `convert_trace` leaves in a Parquet file's schema."""

_CSV = (".csv", ".csv.gz")
_PARQUET = (".parquet", ".pq")
# What pandas calls its index in a CSV file.
_INDEX = ("", "Unnamed: 0")


_Choose = Callable[[Sequence[str]], dict[str, str]]


def is_table_file(path: Path) -> bool:
    """Whether the name of ``path`` ends like a CSV or Parquet file."""
    return path.name.lower().endswith(_CSV + _PARQUET)


@dataclass(frozen=True)
class Columns:
    """The columns of one file.

    Attributes:
        path: The file.
        table: A ``pyarrow.Table``; every column is a string when the file is a CSV.
        is_csv: Whether the file is a CSV.
        metadata: What `convert_trace` left in a Parquet file, else empty.
        rows: Row of the file of each row here, shape (N,); None = all of them.
    """

    path: Path
    table: Any
    is_csv: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    def __contains__(self, name: object) -> bool:
        """Whether there is a column ``name``."""
        return name in self.table.column_names

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    def take(self, keep: NDArray[np.bool_]) -> Columns:
        """Return the rows to keep, shape (N,) of bool."""
        if keep.all():
            return self
        chosen = np.flatnonzero(keep)
        return replace(
            self, table=self.table.take(chosen), rows=chosen if self.rows is None else self.rows[chosen]
        )

    def where(self, row: int) -> str:
        """Return ``file:line`` of a 0-based data row (``file, row N`` for Parquet, counted from 1)."""
        row = row if self.rows is None else int(self.rows[row])
        if not self.is_csv:
            return f"{show_path(self.path)}, row {row + 1}"
        with open_text(self.path) as file:
            reader = csv.reader(file)
            filled = (reader.line_num for cells in reader if cells)
            for index, line in enumerate(filled, start=-1):
                if index == row:
                    return f"{show_path(self.path)}:{line}"
        return f"{show_path(self.path)}, row {row + 1}"

    def error(self, row: int, text: str) -> TraceError:
        """Return the error ``text`` at a 0-based data row."""
        return TraceError(f"{self.where(row)}: {text}")

    def numbers(
        self, name: str, allowed: str, *, low: float = 0.0, high: float = math.inf, blank: bool = False
    ) -> NDArray[np.float64]:
        """Return a numeric column, shape (N,), all of whose values must be allowed.

        Args:
            name: Column.
            allowed: What the values may be, in words, for the message.
            low: Smallest allowed value.
            high: Largest allowed value, and none is above `LARGEST`; infinity is allowed where a blank is.
            blank: Whether a value may be missing (`MISSING`); it is NaN then.

        Returns:
            The values.

        Raises:
            TraceError: Naming line, column and value of the first offence.
        """
        values = self.readings(name, allowed)
        valid = (values >= low) & (values <= high)
        valid &= (np.abs(values) <= LARGEST) | (np.isinf(values) & blank)
        if blank:
            valid |= np.isnan(values)
        if not valid.all():
            row = int(np.argmin(valid))
            large = LARGEST < abs(values[row]) < math.inf
            raise self.bad_value(name, row, f"{allowed}, at most {LARGEST:g}" if large else allowed)
        return values

    def labels(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return a column of names as codes, shape (N,), and the names in the order of their first row.

        Raises:
            TraceError: If the column holds neither text nor integers.
        """
        encoded = self._texts(name).combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()

    def unique(self, name: str, what: str) -> tuple[Columns, list[str], int]:
        """Return the rows with one for each name, the names in order, and how many rows repeat another.

        Args:
            name: Column of names.
            what: What a name stands for, for the message.

        Raises:
            TraceError: If two rows of a name differ.
        """
        codes, names = self.labels(name)
        first: dict[int, int] = {}
        keep = np.ones(len(codes), dtype=bool)
        if len(names) < len(codes):
            for row, code in enumerate(codes.tolist()):
                keep[row] = first.setdefault(code, row) == row
                if not keep[row] and not self.table.slice(row, 1).equals(self.table.slice(first[code], 1)):
                    raise self.error(row, f"{what} {names[code]!r} has a row already, with other values")
        return self.take(keep), names, int(np.count_nonzero(~keep))

    def named(self, name: str) -> NDArray[np.bool_]:
        """Return which rows have a name in a column, shape (N,)."""
        import pyarrow.compute as pc

        given: NDArray[np.bool_] = pc.not_equal(self._texts(name), "").to_numpy()
        return given

    def _texts(self, name: str) -> Any:
        """Return a column of names as text, "" where one is missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.table[name]
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise TraceError(
                f"{show_path(self.path)}: column {name!r} has type {kind}, expected text or integers"
            )
        return pc.fill_null(pc.cast(column, pa.string()), "")

    def readings(self, name: str, allowed: str) -> NDArray[np.float64]:
        """Return a numeric column as it is, shape (N,), NaN where a value is missing (`MISSING`).

        Raises:
            TraceError: If something is no number; ``allowed`` says what it may be.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.table[name]
        if self.is_csv:
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.is_in(column, pa.array(MISSING)), pa.scalar(None, pa.string()), column)
        elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise TraceError(
                f"{show_path(self.path)}: column {name!r} has type {column.type}, expected numbers"
            )
        try:
            floats = pc.cast(column, pa.float64(), safe=self.is_csv)
        except pa.ArrowInvalid:
            raise self.bad_value(name, _first_uncastable(column, pa.float64()), allowed) from None
        return np.array(pc.fill_null(floats, math.nan).to_numpy(), dtype=np.float64)

    def moments(self, name: str) -> NDArray[np.int64]:
        """Return a column of dates and times as ms since 1970, shape (N,); those without a zone are UTC.

        Raises:
            TraceError: Naming the line of the first value that is none.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.table[name]
        if self.is_csv:
            texts = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), " UTC$", "")
            zoned = pc.match_substring_regex(texts, "(Z|[+-][0-9]{2}:?[0-9]{2})$")
            kind = pa.timestamp("ms", "UTC" if pc.any(zoned).as_py() else None)
            try:
                column = pc.cast(texts, kind)
            except pa.ArrowInvalid:
                row = _first_uncastable(texts, kind)
                found = show_found(texts[row].as_py())
                raise self.error(
                    row, f"{name}: expected a time like 2023-06-01 12:00, found {found}"
                ) from None
        if not pa.types.is_timestamp(column.type):
            raise TraceError(f"{show_path(self.path)}: {name} must hold times, not {column.type}")
        if column.null_count:
            raise self.error(int(np.argmax(column.is_null())), f"{name}: expected a time, found nothing")
        try:
            milli = pc.cast(column, pa.timestamp("ms", column.type.tz))
        except pa.ArrowInvalid:
            raise TraceError(f"{show_path(self.path)}: {name} must hold full milliseconds") from None
        stamps: NDArray[np.int64] = pc.cast(milli, pa.int64()).to_numpy()
        return stamps

    def bad_value(self, name: str, row: int, allowed: str) -> TraceError:
        """Return the error for a value that is not what it may be."""
        found = self.table[name][row].as_py()
        shown = (
            "nothing" if found in (None, "") else found if not isinstance(found, str) else show_found(found)
        )
        return self.error(row, f"{name}: expected {allowed}, found {shown}")


def read_columns(
    path: Path,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    prefix: str | None = None,
    ignored: Sequence[str] = (),
    lists: Sequence[str] = (),
    rename: Callable[[str], str] | None = None,
    others: bool = False,
) -> Columns:
    """Read a CSV (``.csv``, ``.csv.gz``) or Parquet file whose columns must be known ones.

    Args:
        path: The file.
        required: Columns that must be there.
        optional: Columns that may be there.
        prefix: Columns that start with it may be there, too.
        ignored: Columns that may be there, of any type, and are not read.
        lists: Columns that may hold a list in each row of a Parquet file, as for `read_parquet`.
        rename: What a column is called here, from its name in the file.
        others: Whether any other column may be there; it is not read.

    Returns:
        The columns.

    Raises:
        TraceError: If the file cannot be read, has no rows, or a column is missing, unknown or doubled.
    """
    is_csv = path.name.lower().endswith(_CSV)

    def choose(found: Sequence[str]) -> dict[str, str]:
        """Return which columns of the file to read, and what they are called here."""
        # pandas leaves its index behind when it is not told otherwise.
        kept = [name for name in found if name not in _INDEX and not name.startswith("__index_level_")]
        names = {name: name if rename is None else rename(name) for name in kept}
        _check_names(path, list(names.values()), required, (*optional, *ignored), "" if others else prefix)
        known = (*required, *optional) if others else tuple(names.values())
        return {name: ours for name, ours in names.items() if ours in known and ours not in ignored}

    columns = _read_csv(path, choose) if is_csv else _read_parquet(path, choose, lists)
    if len(columns) == 0:
        raise TraceError(f"{show_path(path)}: the table has no rows")
    return columns


def _read_csv(path: Path, choose: _Choose) -> Columns:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    try:
        with open_text(path) as file:
            reader = csv.reader(file)
            header = next((cells for cells in reader if cells), [])
            lines = reader.line_num
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{show_path(path)}: not a CSV file in UTF-8 ({one_line(error)})") from None
    names = [name.strip() for name in header]
    if not names:
        raise TraceError(f"{show_path(path)}: the file is empty; expected a header line")
    if len(set(names)) != len(names):
        raise TraceError(f"{show_path(path)}:{lines}: a column is named twice: {', '.join(names)}")
    ours = choose(names)
    try:
        with open_stream(path) as stream:
            table = pacsv.read_csv(
                stream,
                read_options=pacsv.ReadOptions(column_names=names, skip_rows=lines, use_threads=False),
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(
                    include_columns=list(ours), column_types=dict.fromkeys(names, pa.string())
                ),
            )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise TraceError(f"{show_path(path)}: the table has no rows") from None
        raise _explain_csv(path, len(names), error) from None
    return Columns(path, table.rename_columns(list(ours.values())), is_csv=True)


def _explain_csv(path: Path, width: int, error: Exception) -> TraceError:
    """Find the line that a CSV parser stumbled over, which it does not tell."""
    try:
        with open_text(path) as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells and len(cells) != width:
                    return TraceError(
                        f"{show_path(path)}:{reader.line_num}: expected {width} columns, found {len(cells)}"
                    )
    except (UnicodeDecodeError, csv.Error) as reason:
        return TraceError(f"{show_path(path)}: not a CSV file in UTF-8 ({one_line(reason)})")
    return TraceError(f"{show_path(path)}: not a well-formed CSV file ({one_line(error)})")


def _read_parquet(path: Path, choose: _Choose, lists: Sequence[str]) -> Columns:
    ours: dict[str, str] = {}

    def check(schema: Any) -> list[str]:
        ours.update(choose(schema.names))
        return list(ours)

    table = read_parquet(path, check, lists=lists)
    metadata = _read_note(table.schema.metadata or {})
    names = [ours[name] for name in table.column_names]
    return Columns(path, table.rename_columns(names), is_csv=False, metadata=metadata)


def _read_note(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return what `convert_trace` left, as far as it is of the right kind: it is no more than a claim."""
    try:
        note = json.loads(metadata.get(METADATA_KEY, b"{}"))
    except (ValueError, RecursionError):
        return {}
    found = note if isinstance(note, dict) else {}
    kinds = {"name": (str,), "sample_s": (int, float)}
    return {key: found[key] for key, allowed in kinds.items() if type(found.get(key)) in allowed}


def _check_names(
    path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str], prefix: str | None
) -> None:
    known = [*required, *optional]
    allowed = ", ".join(known) + (f", {prefix}*" if prefix else "")
    where = show_path(path) + (":1" if path.name.lower().endswith(_CSV) else "")
    if len(set(names)) != len(names):
        raise TraceError(f"{where}: a column is named twice: {', '.join(names)}")
    for name in names:
        if name not in known and not (prefix is not None and name.startswith(prefix)):
            near = hint(name, known, ", did you mean '{}'?") or ";"
            raise TraceError(f"{where}: unknown column {name!r}{near} allowed are: {allowed}")
    missing = [name for name in required if name not in names]
    if missing:
        raise TraceError(f"{where}: needs the columns {', '.join(missing)}; found {', '.join(names)}")


def _first_uncastable(column: Any, kind: Any) -> int:
    """Return the first row that is not of a type, by bisection: a cast fails as a whole, and says no row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            pc.cast(column.slice(good, middle - good), kind)
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good
