"""Public traces by name: download, verify, unpack.

A trace is accepted by the digest of its content, which stands in ``catalog.json``: an archive that a server
packs anew has other bytes and the same content. No file of an archive touches the disk before that digest is
right, and the only thing ever written is the files of that trace under their plain names.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import secrets
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ..errors import TraceError
from ..files import one_line, read_bytes, show_path
from .cache import cache_dir

_TIMEOUT_S = 30.0
_DEADLINE_S = 900.0
_SPARE_BYTES = 16 << 20
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class CatalogEntry:
    """A downloadable trace.

    Attributes:
        name: Name to fetch it by, ``collection/folder``.
        format: Its format.
        url: Archive that holds it, perhaps among others.
        url_sha256: SHA-256 of the archive's bytes, where it is known.
        folder: Folder of the trace inside the archive.
        files: Number of files.
        bytes: Their size in total.
        sha256: `content_digest` of the files.
        use: What it is meant for: ``train``, ``validate`` or ``test``.
        source: Where it comes from.
        licence: Its licence, or how to cite it.
    """

    name: str
    format: str
    url: str
    url_sha256: str | None
    folder: str
    files: int
    bytes: int
    sha256: str
    use: str
    source: str
    licence: str

    def url_at(self, base_url: str | None) -> str:
        """Return the archive's address: the public one, or that on a mirror (``BASE/NAME.tar.gz``)."""
        return self.url if base_url is None else f"{base_url.rstrip('/')}/{self.name}.tar.gz"


@cache
def load_catalog() -> Mapping[str, CatalogEntry]:
    """Read ``catalog.json``: names to entries."""
    text = files(__package__).joinpath("catalog.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    catalog = {}
    for name, facts in raw["traces"].items():
        own = {key: value for key, value in facts.items() if key != "collection"}
        catalog[name] = CatalogEntry(name=name, **raw["collections"][facts["collection"]], **own)
    return catalog


def find_entry(name: str) -> CatalogEntry:
    """Return the entry called ``name``; the folder alone is enough where it is unique.

    Raises:
        TraceError: If there is none; the text lists what there is.
    """
    catalog = load_catalog()
    plain = name.strip("/")
    matches = [entry for entry in catalog.values() if plain in (entry.name, entry.folder)]
    if len(matches) != 1:
        raise TraceError(f"no trace is called {name!r}; there are: {', '.join(catalog)}")
    return matches[0]


def fetched_path(entry: CatalogEntry, to: str | os.PathLike[str] | None = None) -> Path:
    """Return where a trace lies once it is fetched: below ``to``, else below the user's cache folder."""
    return (cache_dir() / "data" if to is None else Path(to)) / entry.name


def content_digest(contents: Mapping[str, bytes]) -> str:
    """Return the SHA-256 over name, NUL, length, NUL and bytes of every file in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(name.encode("utf-8", errors="surrogateescape"))
        digest.update(b"\0%d\0" % len(contents[name]))
        digest.update(contents[name])
    return digest.hexdigest()


def fetch_traces(
    names: Sequence[str],
    *,
    to: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    force: bool = False,
    progressbar: Any = False,
) -> list[Path]:
    """Download traces, unless they are there already.

    Args:
        names: Names in the catalog.
        to: Folder to put them below; the user's cache folder by default.
        base_url: Mirror that has ``NAME.tar.gz``; by default ``VIRTGYM_TRACES_URL``, else the origin.
        force: Whether to replace a folder whose content is not that of the catalog.
        progressbar: A progress bar as pooch takes it, or False.

    Returns:
        The folders, in the order of ``names``.

    Raises:
        TraceError: If a name is unknown, a download fails, takes too long or is larger than the catalog
            accounts for, or the content is not that of the catalog; then nothing is left behind.
    """
    base_url = base_url or os.environ.get("VIRTGYM_TRACES_URL") or None
    entries = [find_entry(name) for name in names]
    paths = []
    with tempfile.TemporaryDirectory(prefix="virtgym-fetch-") as scratch:
        for entry in entries:
            target = fetched_path(entry, to)
            if not _is_there(entry, target, force):
                archive = _download(entry, entry.url_at(base_url), Path(scratch), progressbar)
                contents = _unpack(entry, archive, entry.url_at(base_url))
                _install(entry, contents, target)
            paths.append(target)
    return paths


def _is_there(entry: CatalogEntry, target: Path, force: bool) -> bool:
    """Whether ``target`` holds the trace.

    Raises:
        TraceError: If it holds something else, and that may not be replaced.
    """
    if not target.exists():
        return False
    if _digest_of_folder(target) == entry.sha256:
        return True
    if force:
        return False
    raise TraceError(
        f"{show_path(target)}: exists, but is not {entry.name} as published; replace it with --force"
    )


def _digest_of_folder(folder: Path) -> str | None:
    try:
        return content_digest({item.name: read_bytes(item) for item in folder.iterdir()})
    except (OSError, TraceError):  # a sub-folder or an unreadable file: not what was fetched
        return None


def _download(entry: CatalogEntry, url: str, scratch: Path, progressbar: Any) -> Path:
    """Download an archive once per call of `fetch_traces`; several traces may share it."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise TraceError(f"{url}: expected an http or https address")
    try:
        import pooch
    except ModuleNotFoundError:
        raise TraceError(f"{url}: a download needs pooch: pip install 'virtgym[fetch]'") from None
    # pooch would tell the user to trust whatever arrived, by printing its hash.
    pooch.get_logger().setLevel("ERROR")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    if (scratch / name).exists():
        return scratch / name
    is_public = url == entry.url
    limit = _archive_limit(entry)

    def download(url: str, to: str, _: Any) -> None:
        http = pooch.HTTPDownloader(progressbar=progressbar, timeout=_TIMEOUT_S, chunk_size=8192)
        with open(to, "wb") as file:
            http(url, _Capped(file, limit, f"{url}: the download of {entry.name}"), None)

    def retrieve() -> None:
        known = entry.url_sha256 if is_public else None
        pooch.retrieve(url, known_hash=known, fname=name, path=scratch, downloader=download)

    try:
        _within(_DEADLINE_S, retrieve)
    except TraceError:
        raise
    except TimeoutError:
        raise TraceError(
            f"{url}: the download of {entry.name} failed (not complete after {_DEADLINE_S:g} s)"
        ) from None
    except ValueError as error:
        raise TraceError(
            f"{url}: the download does not have the known checksum ({one_line(error)})"
        ) from None
    except OSError as error:  # requests' errors are OSErrors, too
        raise TraceError(f"{url}: the download of {entry.name} failed ({one_line(error)})") from None
    return scratch / name


def _archive_limit(entry: CatalogEntry) -> int:
    """Return how many bytes an archive may have, packed or not: some more than all it should hold."""
    sharing = [other.bytes for other in load_catalog().values() if other.url == entry.url]
    return _SPARE_BYTES + 4 * max(sum(sharing), entry.bytes)


class _Capped:
    """A file, as pooch and shutil write to it, that takes no more than so many bytes."""

    def __init__(self, file: BinaryIO, limit: int, what: str) -> None:
        self._file = file
        self._left = limit
        self._text = f"{what} failed (more than {limit:,} bytes, which the catalog does not account for)"

    def write(self, data: bytes) -> int:
        """Write the bytes, or raise a `TraceError`."""
        self._left -= len(data)
        if self._left < 0:
            raise TraceError(self._text)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do something in a thread that is left behind, and `TimeoutError` raised, if it takes longer.

    A server that sends a byte from time to time keeps within every timeout of the connection.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failure:
        raise failure[0]


def _unpack(entry: CatalogEntry, archive: Path, url: str) -> dict[str, bytes]:
    """Read the trace's files from an archive into memory and verify them.

    Raises:
        TraceError: If the archive is damaged or its content is not that of the catalog.
    """
    contents: dict[str, bytes] = {}
    size = 0
    try:
        for path, length, read in _members(archive, _archive_limit(entry)):
            parts = PurePosixPath(path).parts
            if len(parts) < 2 or parts[-2] != entry.folder:
                continue
            size += length
            if ".." in parts or "\\" in path or size > entry.bytes or parts[-1] in contents:
                raise TraceError(f"{url}: the content is not {entry.name} as published; nothing was kept")
            contents[parts[-1]] = read()
    except TraceError:
        raise
    except (*_DAMAGE, tarfile.TarError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise TraceError(f"{url}: the archive is damaged ({one_line(error)}); try again") from None
    if not contents:
        raise TraceError(f"{url}: the archive has no folder {entry.folder}")
    found = content_digest(contents)
    if found != entry.sha256:
        raise TraceError(
            f"{url}: the checksum of {entry.name} is wrong (sha256 {found[:12]}…, "
            f"expected {entry.sha256[:12]}…); nothing was kept"
        )
    return contents


def _members(archive: Path, limit: int) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield path, size and a reader of every regular file of a tar (of any compression) or zip archive.

    Raises:
        OSError: If it unpacks to more than ``limit`` bytes.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                if not item.is_dir():
                    yield item.filename, item.file_size, partial(packed.read, item)
        return
    # Unpacked first: headers of a tar may declare any length, and be many.
    with io.BytesIO() as plain:
        capped = _Capped(plain, limit, "unpacking")
        openers: tuple[Callable[..., Any], ...] = (gzip.open, bz2.open, lzma.open, open)
        for opener in openers:
            try:
                with opener(archive, "rb") as packed_file:
                    shutil.copyfileobj(packed_file, capped)
                break
            except _DAMAGE:
                if plain.tell():
                    raise
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, member.size, stream.read


def _install(entry: CatalogEntry, contents: Mapping[str, bytes], target: Path) -> None:
    """Write the files beside ``target`` and rename the folder into place: it is there whole or not at all."""
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        scratch.mkdir(parents=True)
        for name, text in contents.items():
            (scratch / name).write_bytes(text)
        if target.exists() and _digest_of_folder(target) != entry.sha256:
            shutil.rmtree(target)
        os.rename(scratch, target)
    except OSError as error:
        # Another process may have been faster; its files are as good.
        if _digest_of_folder(target) != entry.sha256:
            raise TraceError(f"{show_path(target)}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
