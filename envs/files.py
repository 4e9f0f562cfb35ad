"""The one gate to files that a user names, and the one way to write a file in full or not at all.

A file may be anything: a FIFO, a device, a link to either, a few bytes that unpack to terabytes, a header
that declares exabytes. Only regular files are opened, no more is read than a limit, and what a file declares
is compared with what it can hold before memory is taken. What goes wrong is a `VirtgymError` of one line that
names the file.
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import os
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TextIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .errors import TraceError, VirtgymError

Located = str | os.PathLike[str]
"""A path, as the standard library takes it."""
P = ParamSpec("P")
T = TypeVar("T")
Refusal = type[VirtgymError]

LARGEST_FILE = 1 << 38
"""Largest file that is read as a stream, bytes, packed or not."""
LARGEST_WHOLE = 1 << 32
"""Largest file that is read as a whole, bytes."""

_LONGEST_LINE = 1 << 22
# Text and tables pack to a hundredth at best; what unpacks to far more is made to fill memory or time.
_MOST_PACKED = 200
_MOST_PACKED_COLUMNS = 1000
_FREE, _FREE_TEXT = 64 << 20, 16 << 20
_LONGEST_STEM = 100


def show_path(path: Located) -> str:
    """Return ``path`` as printable text, quoted where blanks or odd characters would hide in a message."""
    text = os.fspath(path)
    plain = text.isprintable() and text == text.strip() and " " not in text
    return text if plain else repr(text)


def show_found(text: str | bytes) -> str:
    """Return what stands in a file as a quoted and short text for a message; binary data is not shown."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    text = text.strip()
    if any(not (letter.isprintable() or letter.isspace()) or letter == "\ufffd" for letter in text[:200]):
        return "binary data"
    return repr(text if len(text) <= 60 else text[:59] + "…")


def one_line(error: object, longest: int = 160) -> str:
    """Return the text of an error, or of anything else, as one line."""
    return " ".join(str(error).split())[:longest]


def file_stem(text: str) -> str:
    """Return a file name that shows ``text`` and can lead nowhere: without separator, suffix or first dot."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)
    return safe.lstrip(".")[:_LONGEST_STEM] or "_"


def names_its_file(read: Callable[Concatenate[Located, P], T]) -> Callable[Concatenate[Located, P], T]:
    """Make every failure of a reader an error of one line that names the file: the reader's outermost edge.

    Readers raise `TraceError` for what they foresee. Whatever else a hostile file brings about in them or in
    the libraries below (memory that is not there, numbers that overflow, text that is none) is told here.

    Args:
        read: The reader; its first argument is the path.
    """

    @functools.wraps(read)
    def guarded(path: Located, *args: P.args, **options: P.kwargs) -> T:
        try:
            # Results are checked for what is not finite; warnings on the way to an error tell nothing.
            with np.errstate(all="ignore"):
                return read(path, *args, **options)
        except VirtgymError:
            raise
        except MemoryError as error:
            raise TraceError(f"{show_path(path)}: needs more memory than there is") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__
            raise TraceError(f"{show_path(path)}: cannot be read ({reason})") from error

    return cast(Callable[Concatenate[Located, P], T], guarded)


def open_regular(path: Located, *, limit: int = LARGEST_FILE, refusal: Refusal = TraceError) -> io.FileIO:
    """Open a file for unbuffered reading if it is a regular one of at most ``limit`` bytes.

    Args:
        path: The file, or a link to it.
        limit: Most bytes that it may have.
        refusal: Kind of the error.

    Raises:
        VirtgymError: Of that kind, naming the file.
    """
    where = show_path(path)
    try:
        # A FIFO without writer would block the opening itself.
        flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
        file = open(os.open(path, flags), "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        raise refusal(f"{where}: no such file or folder") from None
    except IsADirectoryError:
        raise refusal(f"{where}: cannot be read (a folder, not a file)") from None
    except OSError as error:
        raise refusal(f"{where}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise refusal(f"{where}: cannot be read (no path has a NUL)") from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise refusal(f"{where}: cannot be read (a FIFO, socket or device, not a regular file)")
    if found.st_size > limit:
        file.close()
        raise refusal(f"{where}: has {found.st_size:,} bytes, at most {limit:,} are read")
    return file


def read_bytes(path: Located, *, limit: int = LARGEST_WHOLE, refusal: Refusal = TraceError) -> bytes:
    """Read a regular file of at most ``limit`` bytes; what grows meanwhile is refused, too.

    Raises:
        VirtgymError: Of the kind ``refusal``, naming the file.
    """
    with open_regular(path, limit=limit, refusal=refusal) as file:
        try:
            content = file.read(os.fstat(file.fileno()).st_size + 1)
            while more := file.read(1 << 20):  # files of /proc have a size of 0
                content += more
                if len(content) > limit:
                    raise refusal(f"{show_path(path)}: has more than {limit:,} bytes")
        except OSError as error:
            raise refusal(f"{show_path(path)}: cannot be read ({error.strerror})") from None
    return content


class _Lines(io.RawIOBase):
    """Bytes of a text file, unpacked; damage, a line without end and a bomb are errors that name the file."""

    def __init__(self, path: Located, limit: int) -> None:
        self._where = show_path(path)
        self._limit = limit
        self._raw = open_regular(path, limit=limit)
        packed = os.fspath(path).lower().endswith(".gz")
        self._source: Any = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        self._bytes = 0
        self._since_newline = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` with the next bytes; return how many there were."""
        try:
            data: bytes = self._source.read(len(buffer))
            consumed = self._raw.tell()
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"{self._where}: cannot be read ({one_line(error)})") from None
        newline = data.rfind(b"\n")
        self._since_newline = self._since_newline + len(data) if newline < 0 else len(data) - newline - 1
        if self._since_newline > _LONGEST_LINE:
            raise TraceError(f"{self._where}: no text (a line of more than {_LONGEST_LINE:,} bytes)")
        self._bytes += len(data)
        most = min(self._limit, max(_FREE_TEXT, _MOST_PACKED * consumed))
        if self._bytes > most:
            raise TraceError(f"{self._where}: unpacks to more than {most:,} bytes from {consumed:,}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if not self.closed and hasattr(self, "_source"):
            self._source.close()
            self._raw.close()
        super().close()


def open_stream(path: Located, *, limit: int = LARGEST_FILE) -> io.BufferedReader:
    """Open a text file, plain or gzip (``.gz``), as bytes that are unpacked while they are read.

    Args:
        path: The file.
        limit: Most bytes that it may have, packed or not.

    Raises:
        TraceError: Naming the file, here or while reading: if it is not regular, damaged, too large, unpacks
            to far more than text does, or has a line without end.
    """
    return io.BufferedReader(_Lines(path, limit), 1 << 18)


def open_text(path: Located, errors: str = "strict", *, limit: int = LARGEST_FILE) -> TextIO:
    """Open a text file as `open_stream` does, in UTF-8; ``errors`` as for the built-in ``open``."""
    stream = open_stream(path, limit=limit)
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")


def _take_npy(file: Any, size: int) -> NDArray[Any]:
    """Read an array from a stream of ``size`` bytes; what its header declares must be what there is."""
    layout = np.lib.format
    version = layout.read_magic(file)
    read_header = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    declared = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + declared != size:
        raise ValueError(f"the header declares {shape} of {dtype}, {declared:.3g} bytes")
    flat = np.frombuffer(file.read(declared), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C").copy(order="K")


def read_npy(path: Located, *, limit: int = LARGEST_WHOLE, refusal: Refusal = TraceError) -> NDArray[Any]:
    """Read an array in numpy's ``.npy`` format, without objects.

    Raises:
        VirtgymError: Of the kind ``refusal``, naming the file: also if it declares another size than it has.
    """
    content = read_bytes(path, limit=limit, refusal=refusal)
    try:
        return _take_npy(io.BytesIO(content), len(content))
    except (ValueError, EOFError, OSError, TypeError, OverflowError) as error:
        where = show_path(path)
        raise refusal(f"{where}: not an array in numpy's .npy format ({one_line(error)})") from None


def read_arrays(
    path: Located | BinaryIO, *, limit: int = 1 << 30, refusal: Refusal = TraceError, where: str = ""
) -> dict[str, NDArray[Any]]:
    """Read all arrays of a ``.npz`` archive, without objects.

    Args:
        path: The file, or an open one.
        limit: Most bytes of the file, and of all arrays together when unpacked.
        refusal: Kind of the error.
        where: What to call an open file in messages.

    Raises:
        VirtgymError: Of that kind, naming the file: if it is damaged, or declares more than ``limit``.
    """
    opened: BinaryIO | io.IOBase
    if isinstance(path, str | os.PathLike):
        where, opened = show_path(path), open_regular(path, limit=limit, refusal=refusal)
    else:
        opened = path
    try:
        with opened, zipfile.ZipFile(opened) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if declared > limit:
                raise refusal(f"{where}: unpacks to {declared:,} bytes, at most {limit:,} are read")
            arrays = {}
            for entry in entries:
                content = archive.read(entry)
                arrays[entry.filename.removesuffix(".npy")] = _take_npy(io.BytesIO(content), len(content))
            return arrays
    except VirtgymError:
        raise
    except (ValueError, OSError, EOFError, LookupError, RuntimeError, TypeError, OverflowError) as error:
        raise refusal(f"{where}: not an archive of plain arrays ({one_line(error)})") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise refusal(f"{where}: not an archive of plain arrays ({one_line(error)})") from None


def read_parquet(
    path: Located,
    check: Callable[[Any], Sequence[str]] | None = None,
    *,
    lists: Sequence[str] = (),
    refusal: Refusal = TraceError,
) -> Any:
    """Read a Parquet file without starting a thread.

    A process that ends while Arrow starts threads is aborted (SIGABRT), so all is done in the caller's.

    Args:
        path: The file.
        check: Is shown the schema, a ``pyarrow.Schema``, before anything else is read, may raise, and
            returns the names of the columns to read; by default all.
        lists: Columns that may hold a list of integers or texts in each row; of another type they are not
            read, and texts stay a dictionary.
        refusal: Kind of the error.

    Returns:
        The ``pyarrow.Table``, without the notes of pandas: nobody needs them, and damage to them
        would be met in ``to_pandas`` only.

    Raises:
        VirtgymError: Of that kind, naming the file: if it is no Parquet file, a column to read has a nested
            or extension type, or it declares far more than it can hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = show_path(path)
    with open_regular(path, limit=LARGEST_WHOLE, refusal=refusal) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            stored = pq.read_metadata(file).schema
            schema = stored.to_arrow_schema()
            if len(set(schema.names)) != len(schema.names):
                raise refusal(f"{where}: a column is named twice: {', '.join(schema.names)}")
            wanted = schema.names if check is None else check(schema)
            names = [name for name in wanted if name not in lists or _is_plain_list(schema.field(name).type)]
            plain = [name for name in names if name not in lists]
            texts = [name for name in plain if _check_column(where, schema, name, refusal)]
            texts += [
                part.path
                for part in map(stored.column, range(len(stored)))
                if part.path.split(".")[0] in lists and part.physical_type == "BYTE_ARRAY"
            ]
            # Text that is stored once and repeated would fill memory, so it is unpacked only after a check.
            with pq.ParquetFile(file, read_dictionary=texts, pre_buffer=False) as parquet:
                _check_declared(where, parquet, names, size, refusal)
                table = parquet.read(names, use_threads=False)
            table.validate(full=True)
            for place, name in enumerate(table.column_names):
                column = table.column(place)
                if pa.types.is_dictionary(column.type):
                    _check_text(where, column, name, size, refusal)
                    table = table.set_column(place, name, column.cast(column.type.value_type))
            notes = {key: note for key, note in (table.schema.metadata or {}).items() if key != b"pandas"}
            table = table.replace_schema_metadata(notes)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise refusal(f"{where}: not a Parquet file ({one_line(error)})") from None
    return table


def _check_column(where: str, schema: Any, name: str, refusal: Refusal) -> bool:
    """Refuse a column that can hold anything but plain values; return whether it is one of text."""
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise refusal(
            f"{where}: column {name!r} has type {one_line(kind, 60)}, expected one plain value per row"
        )
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain_list(kind: Any) -> Any:
    import pyarrow as pa

    return pa.types.is_list(kind) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_string(kind.value_type)
    )


def _check_declared(where: str, parquet: Any, names: Sequence[str], size: int, refusal: Refusal) -> None:
    """Refuse a file that unpacks to far more than its size, before it is unpacked."""
    metadata = parquet.metadata
    parts = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    groups = [part.num_rows for part in parts]
    rows = metadata.num_rows
    if rows < 0 or min(groups, default=0) < 0 or sum(groups) != rows:
        raise refusal(f"{where}: not a Parquet file (it declares {rows:,} rows, its parts {sum(groups):,})")
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    chosen = [index for index, path in enumerate(paths) if path.split(".")[0] in names]
    _begin_columns(parquet, [paths[index] for index in chosen])
    values = sum(part.column(index).num_values for part in parts for index in chosen)
    if max(rows * len(names), values) * 8 > max(_FREE, _MOST_PACKED_COLUMNS * size):
        raise refusal(f"{where}: declares {rows:,} rows of {len(names)} columns in only {size:,} bytes")


def _begin_columns(parquet: Any, paths: Sequence[str]) -> None:
    """Begin to read every column, in bounded memory, so that damage to what describes them is an error.

    ``RowGroupMetaData.column`` ends the process (SIGABRT) where a column's statistics contradict its type.

    Raises:
        pyarrow.ArrowException, OSError: If a column cannot be read.
    """
    plain = [path for path in paths if "." not in path]
    for index in range(parquet.num_row_groups if plain else 0):
        next(parquet.iter_batches(1, [index], plain, use_threads=False), None)
    if len(plain) < len(paths):  # one row may hold a list of any length
        parquet.scan_contents([path for path in paths if "." in path])


def _check_text(where: str, column: Any, name: str, size: int, refusal: Refusal) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string(column.type.value_type) or pa.types.is_large_string(column.type.value_type)):
        return
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
        used = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        total += int(lengths[used].sum()) if used.size else 0
    if total > max(_FREE, _MOST_PACKED_COLUMNS * size):
        raise refusal(f"{where}: column {name!r} holds {total:,} bytes of text in a file of {size:,}")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is there in full or not at all, also after a power cut.

    The draft beside it has a name that nobody can foresee and is created anew, so that no link that lies
    there is followed; its last suffix is that of ``path``, since writers of tables choose by it.

    Args:
        path: The file; its folder is made.
        write: Writes a given path.

    Raises:
        OSError: If that fails; no draft stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(8)}{path.suffix[:40]}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        write(draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
