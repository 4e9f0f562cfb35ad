"""Public traces by name: download, verify, unpack.

A trace is accepted by the digest of its content, which stands in ``catalog.json``: an archive that a server
packs anew has other bytes and the same content. No file of an archive touches the disk before that digest is
right, and the only thing ever written is the files of that trace under their plain names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..sim.errors import TraceError
from .cache import cache_dir
from .planetlab import show_path

__all__ = ["CatalogEntry", "content_digest", "fetch_traces", "fetched_path", "find_entry", "load_catalog"]

_TIMEOUT_S = 30.0


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
        TraceError: If a name is unknown, a download fails, or the content is not that of the catalog; then
            nothing is left behind.
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
        return content_digest({item.name: item.read_bytes() for item in folder.iterdir()})
    except OSError:  # a sub-folder or an unreadable file: not what was fetched
        return None


def _download(entry: CatalogEntry, url: str, scratch: Path, progressbar: Any) -> Path:
    """Download an archive once per call of `fetch_traces`; several traces may share it."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise TraceError(f"{url}: expected an http or https address")
    import pooch

    # pooch would tell the user to trust whatever arrived, by printing its hash.
    pooch.get_logger().setLevel("ERROR")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    if (scratch / name).exists():
        return scratch / name
    is_public = url == entry.url
    try:
        pooch.retrieve(
            url,
            known_hash=entry.url_sha256 if is_public else None,
            fname=name,
            path=scratch,
            downloader=pooch.HTTPDownloader(progressbar=progressbar, timeout=_TIMEOUT_S, chunk_size=65536),
        )
    except ValueError as error:
        raise TraceError(
            f"{url}: the download does not have the known checksum ({_one_line(error)})"
        ) from None
    except OSError as error:  # requests' errors are OSErrors, too
        raise TraceError(f"{url}: the download of {entry.name} failed ({_one_line(error)})") from None
    return scratch / name


def _unpack(entry: CatalogEntry, archive: Path, url: str) -> dict[str, bytes]:
    """Read the trace's files from an archive into memory and verify them.

    Raises:
        TraceError: If the archive is damaged or its content is not that of the catalog.
    """
    contents: dict[str, bytes] = {}
    size = 0
    try:
        for path, length, read in _members(archive):
            parts = PurePosixPath(path).parts
            if len(parts) < 2 or parts[-2] != entry.folder:
                continue
            size += length
            if ".." in parts or "\\" in path or size > entry.bytes or parts[-1] in contents:
                raise TraceError(f"{url}: the content is not {entry.name} as published; nothing was kept")
            contents[parts[-1]] = read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError) as error:
        raise TraceError(f"{url}: the archive is damaged ({_one_line(error)}); try again") from None
    if not contents:
        raise TraceError(f"{url}: the archive has no folder {entry.folder}")
    found = content_digest(contents)
    if found != entry.sha256:
        raise TraceError(
            f"{url}: the checksum of {entry.name} is wrong (sha256 {found[:12]}…, "
            f"expected {entry.sha256[:12]}…); nothing was kept"
        )
    return contents


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield path, size and a reader of every regular file of a tar (of any compression) or zip archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                if not item.is_dir():
                    yield item.filename, item.file_size, partial(packed.read, item)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                yield member.name, member.size, stream.read


def _install(entry: CatalogEntry, contents: Mapping[str, bytes], target: Path) -> None:
    """Write the files beside ``target`` and rename the folder into place: it is there whole or not at all."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
