"""Blocks of rows from files of one JSON object per line, as BigQuery exports tables."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..files import one_line, open_stream, show_found, show_path
from .delimited import Block, name_line
from .repairs import MISSING

_BLOCK_BYTES = 8 << 20


def read_json_blocks(path: Path, *, numbers: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Block]:
    """Read a file of JSON objects, ``.json`` or ``.json.gz``, block by block.

    Args:
        path: The file.
        numbers: Fields to read as numbers, which may stand as text; ``a.b`` is the field b of the object a.
            They are NaN where they are missing.
        texts: Fields to read as text, which may stand as numbers; "" where missing.

    Yields:
        Its rows, in order.

    Raises:
        TraceError: If the file cannot be read, or a line is not what it should be, naming file and line.
    """
    first = 0
    with open_stream(path) as file:
        while chunk := file.read(_BLOCK_BYTES) + file.readline():
            if chunk.strip():
                block = _parse(path, first, chunk, numbers, texts)
                yield block
                first += len(block)


def _parse(path: Path, first: int, chunk: bytes, numbers: Sequence[str], texts: Sequence[str]) -> Block:
    import pyarrow as pa
    import pyarrow.json as pajson

    _check_utf8(path, first, chunk)
    try:
        options = pajson.ReadOptions(use_threads=False, block_size=len(chunk) + 1)
        table = pajson.read_json(io.BytesIO(chunk), read_options=options)
    except pa.ArrowException as error:
        raise _explain(path, first, chunk, error) from None
    columns = _flatten(table)
    rows = table.num_rows
    return Block(
        path,
        first,
        {key: _numbers(path, first, key, columns, rows) for key in numbers},
        {key: _texts(columns, key, rows) for key in texts},
    )


def _check_utf8(path: Path, first: int, chunk: bytes) -> None:
    """Raise for bytes that are no text; the parser lets them pass."""
    try:
        chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        before = sum(1 for line in chunk[: error.start].split(b"\n")[:-1] if line.strip())
        where = name_line(path, first + before, 0)
        raise TraceError(
            f"{where}: expected text in UTF-8, found the byte {chunk[error.start]:#04x}"
        ) from None


def _flatten(table: Any) -> dict[str, Any]:
    import pyarrow as pa

    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return {name: table.column(place).combine_chunks() for place, name in enumerate(table.column_names)}


def _numbers(path: Path, first: int, key: str, columns: Mapping[str, Any], rows: int) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = columns.get(key)
    if column is None:
        return np.full(rows, np.nan)
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.is_in(column, pa.array(MISSING)), pa.scalar(None, column.type), column)
    try:
        floats = pc.cast(column, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = next((row for row, value in enumerate(column.to_pylist()) if not _is_number(value)), 0)
        found = show_found(str(column[row].as_py()))
        raise TraceError(
            f"{name_line(path, first + row, 0)}: {key}: expected a number, found {found}"
        ) from None
    return np.array(pc.fill_null(floats, float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value is None
    return True


def _texts(columns: Mapping[str, Any], key: str, rows: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = columns.get(key)
    if column is None or pa.types.is_null(column.type):
        return pa.array([""] * rows)
    return pc.fill_null(pc.cast(column, pa.string()), "")


def _explain(path: Path, first: int, chunk: bytes, error: Exception) -> TraceError:
    """Find the line that is no JSON object, which the parser does not tell."""
    filled = [line for line in chunk.split(b"\n") if line.strip()]
    for row, line in enumerate(filled):
        try:
            good = isinstance(json.loads(line), dict)
        except ValueError:
            good = False
        if not good:
            where = name_line(path, first + row, 0)
            return TraceError(f"{where}: expected a JSON object, found {show_found(line)}")
    return TraceError(f"{show_path(path)}: not a file of one JSON object per line ({one_line(error)})")
