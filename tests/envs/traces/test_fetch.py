"""Fetching by name from a loopback server: success, wrong content, broken connections, hostile archives."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from virtgym.envs.errors import TraceError
from virtgym.envs.traces import catalog, read_trace
from virtgym.envs.traces.catalog import CatalogEntry, fetch_traces, load_catalog
from virtgym.experiments.cli import traces as traces_cli

FILES = {f"host {number}. ": f"{number}\n".encode() * 288 for number in range(4)}
NAME = "planetlab/20990101"
ENTRY = CatalogEntry(
    name=NAME,
    format="planetlab",
    url="http://127.0.0.1:9/none.tar.gz",
    url_sha256=None,
    folder="20990101",
    files=len(FILES),
    bytes=sum(map(len, FILES.values())),
    sha256=catalog.content_digest(FILES),
    use="test",
    source="made up",
    licence="none",
)


class Server(ThreadingHTTPServer):
    """A mirror that counts requests and can break off in the middle of an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.break_after: int | None = None
        self.endless = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has enough closes the connection."""

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Serve what stands in the server's dictionary."""

    server: Server

    def do_GET(self) -> None:
        """Answer one request."""
        self.server.requests.append(self.path)
        body = self.server.pages.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (10**9 if self.server.endless else 0)))
        self.end_headers()
        with suppress(OSError):  # the client has enough
            self.wfile.write(body[: self.server.break_after])
            while self.server.endless:
                self.wfile.write(b"x")
                time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def tar_of(files: dict[str, bytes], prefix: str = "20990101/") -> bytes:
    """Pack files into a tar.gz."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            item = tarfile.TarInfo(prefix + name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    return stream.getvalue()


def zip_of(files: dict[str, bytes], prefix: str) -> bytes:
    """Pack files into a zip."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(prefix + name, content)
    return stream.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    """A running mirror with the made-up day."""
    mirror = Server()
    mirror.pages[f"/{NAME}.tar.gz"] = tar_of(FILES)
    thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield mirror
    mirror.shutdown()
    thread.join()
    mirror.server_close()


@pytest.fixture(autouse=True)
def made_up_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server) -> None:
    """Put the made-up day into the catalog, and everything written into the test's folder."""
    real = load_catalog()
    monkeypatch.setattr(catalog, "load_catalog", lambda: {**real, NAME: ENTRY})
    monkeypatch.setenv("VIRTGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIRTGYM_TRACES_URL", server.url)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)


def everything(folder: Path) -> list[Path]:
    """List all that lies below a folder, hidden or not."""
    return sorted(folder.rglob("*"))


def refused(tmp_path: Path) -> str:
    """Fetch, which must fail with one line and leave nothing."""
    with pytest.raises(TraceError) as caught:
        fetch_traces([NAME], to=tmp_path / "to")
    assert not [path for path in everything(tmp_path) if path.is_file()]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_fetch_and_read_by_name(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_traces([NAME])
    assert path == tmp_path / "cache" / "data" / NAME
    assert {item.name: item.read_bytes() for item in path.iterdir()} == FILES
    assert read_trace(NAME).vm_names == tuple(FILES)
    assert server.requests == [f"/{NAME}.tar.gz"]


def test_present_means_no_download(server: Server, tmp_path: Path) -> None:
    assert fetch_traces([NAME], to=tmp_path) == fetch_traces(["20990101"], to=tmp_path) == [tmp_path / NAME]
    assert len(server.requests) == 1


def test_changed_folder_is_kept_unless_forced(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_traces([NAME], to=tmp_path)
    (path / "mine").write_text("1\n")
    with pytest.raises(TraceError, match="is not planetlab/20990101 as published; replace it with --force"):
        fetch_traces([NAME], to=tmp_path)
    assert (path / "mine").exists()
    fetch_traces([NAME], to=tmp_path, force=True)
    assert {item.name for item in path.iterdir()} == set(FILES)


def test_archive_of_a_repository(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mirror: one archive of several days, downloaded once, whichever way it is packed."""
    monkeypatch.delenv("VIRTGYM_TRACES_URL")
    other = {name: content + b"1\n" for name, content in FILES.items()}
    digest = catalog.content_digest(other)
    entries = {
        NAME: replace(ENTRY, url=f"{server.url}/all"),
        "planetlab/b": replace(
            ENTRY, name="planetlab/b", folder="b", url=f"{server.url}/all", sha256=digest, bytes=10**5
        ),
    }
    monkeypatch.setattr(catalog, "load_catalog", lambda: entries)
    both = {f"20990101/{name}": content for name, content in FILES.items()}
    both.update({f"b/{name}": content for name, content in other.items()}, README=b"hello")
    for number, pack in enumerate((tar_of, zip_of)):
        server.requests.clear()
        server.pages["/all"] = pack(both, "repo-HEAD/")
        first, second = fetch_traces(list(entries), to=tmp_path / str(number))
        assert {item.name: item.read_bytes() for item in first.iterdir()} == FILES
        assert {item.name: item.read_bytes() for item in second.iterdir()} == other
        assert server.requests == ["/all"]


def test_wrong_content(server: Server, tmp_path: Path) -> None:
    changed = dict(FILES)
    changed["host 0. "] = b"7\n" * 288
    server.pages[f"/{NAME}.tar.gz"] = tar_of(changed)
    assert f"the checksum of {NAME} is wrong" in refused(tmp_path)
    server.pages[f"/{NAME}.tar.gz"] = tar_of({"host 0. ": FILES["host 0. "]})
    assert "is wrong" in refused(tmp_path)
    server.pages[f"/{NAME}.tar.gz"] = tar_of(FILES, "elsewhere/")
    assert "has no folder 20990101" in refused(tmp_path)


def test_known_archive_checksum(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTGYM_TRACES_URL")
    url = f"{server.url}/{NAME}.tar.gz"
    good = hashlib.sha256(server.pages[f"/{NAME}.tar.gz"]).hexdigest()
    for digest, works in (("0" * 64, False), (good, True)):
        entry = replace(ENTRY, url=url, url_sha256=digest)
        monkeypatch.setattr(catalog, "load_catalog", lambda entry=entry: {NAME: entry})
        if works:
            fetch_traces([NAME], to=tmp_path / "to")
        else:
            assert "does not have the known checksum" in refused(tmp_path)


def test_interrupted_download_can_be_repeated(server: Server, tmp_path: Path) -> None:
    server.break_after = 100
    assert f"the download of {NAME} failed" in refused(tmp_path)
    server.break_after = None
    assert fetch_traces([NAME], to=tmp_path / "to")[0].is_dir()


def test_without_pooch_the_extra_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert "needs pooch: pip install 'virtgym[fetch]'" in refused(tmp_path)
    assert server.requests == []


def test_server_trouble(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = server.pages.pop(f"/{NAME}.tar.gz")
    assert "404" in refused(tmp_path)
    server.pages[f"/{NAME}.tar.gz"] = page[: len(page) // 2]
    assert "damaged" in refused(tmp_path)
    server.pages[f"/{NAME}.tar.gz"] = b"<html>Please log in</html>"
    assert "damaged" in refused(tmp_path)
    monkeypatch.setenv("VIRTGYM_TRACES_URL", "http://127.0.0.1:9")
    assert "failed" in refused(tmp_path)
    monkeypatch.setenv("VIRTGYM_TRACES_URL", "file:///etc")
    assert "expected an http or https address" in refused(tmp_path)


@pytest.mark.parametrize("name", ["../20990101/../../evil", "/20990101/evil", "../../20990101/evil"])
def test_hostile_paths(server: Server, tmp_path: Path, name: str) -> None:
    server.pages[f"/{NAME}.tar.gz"] = tar_of(
        {**{f"20990101/{k}": v for k, v in FILES.items()}, name: b""}, ""
    )
    text = refused(tmp_path) if "20990101/evil" in name else str(fetch_traces([NAME], to=tmp_path / "to"))
    assert "nothing was kept" in text or "is wrong" in text or "PosixPath" in text
    assert not list(tmp_path.parent.rglob("evil"))


def test_links_and_bombs(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        link = tarfile.TarInfo("20990101/host 0. ")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    server.pages[f"/{NAME}.tar.gz"] = stream.getvalue()
    assert "has no folder" in refused(tmp_path)
    server.pages[f"/{NAME}.tar.gz"] = tar_of({**FILES, "bomb": bytes(10**7)})
    assert "nothing was kept" in refused(tmp_path)


def test_more_than_the_catalog_accounts_for(server: Server, tmp_path: Path) -> None:
    """As downloaded, and as unpacked, of other files than are wanted."""
    server.pages[f"/{NAME}.tar.gz"] = bytes(20_000_000)
    assert "failed (more than" in refused(tmp_path)
    for name in ("elsewhere/bomb", "20990101/bomb"):
        server.pages[f"/{NAME}.tar.gz"] = tar_of({name: bytes(20_000_000)}, "")
        assert "unpacking failed (more than" in refused(tmp_path)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40  # a header that declares a terabyte
    server.pages[f"/{NAME}.tar.gz"] = header.tobuf() + bytes(1024)
    assert "damaged" in refused(tmp_path)


def test_a_server_that_never_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte from time to time keeps every timeout of the connection from running out."""
    monkeypatch.setattr(catalog, "_DEADLINE_S", 0.3)
    server.endless = True
    assert "not complete after 0.3 s" in refused(tmp_path)
    server.endless = False


def test_unknown_name_and_unwritable_target(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no trace is called 'planetlab/nope'; there are: planetlab/2011"):
        fetch_traces(["planetlab/nope"])
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        fetch_traces([NAME], to=tmp_path / "file")


def test_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--to", str(tmp_path / "to"), "--base-url", server.url + "/"]
    assert traces_cli.main(["fetch", NAME, *options]) == 0
    out, err = capsys.readouterr()
    assert NAME in out
    assert err == ""
    server.pages[f"/{NAME}.tar.gz"] = tar_of({})
    assert traces_cli.main(["fetch", NAME, "--to", str(tmp_path / "again")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("virtgym traces: ")
    assert err.count("\n") == 1


def test_catalog_is_complete(traces_dir: Path) -> None:
    """The digests are those of the days."""
    for entry in load_catalog().values():
        folder = traces_dir / entry.name
        if not folder.is_dir():
            pytest.skip(f"no {entry.name}")
        contents = {item.name: item.read_bytes() for item in folder.iterdir()}
        assert len(contents) == entry.files
        assert sum(map(len, contents.values())) == entry.bytes
        assert catalog.content_digest(contents) == entry.sha256
        assert entry.url.startswith("https://")
