"""The report of runs that go on: served on this machine, and written anew as cells finish."""

from __future__ import annotations

import http.server
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import one_line

HOST = "127.0.0.1"
"""Nobody else is shown anything."""

PORT = 8337

_FILES = ("cells/*.json", "results.parquet", "progress.csv", "sweep.csv", "run.json")
"""What of a folder changes while it is worked in."""


class LiveReport:
    """The page of some folders as they are.

    Args:
        folders: Run folders, trainings, sweeps.
        scratch: A folder of its own to work in.
        sections: Sections of one's own by dotted path.
    """

    def __init__(self, folders: Sequence[Path], scratch: Path, sections: Sequence[str] = ()) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.sections = sections
        self.scratch = scratch
        self._lock = threading.Lock()
        self._known = ""
        self._page = b""

    def stamp(self) -> str:
        """What tells a state of the folders from the next."""
        found = (path for folder in self.folders for name in _FILES for path in sorted(folder.glob(name)))
        marks = []
        for path in found:
            try:
                at = path.stat()
            except OSError:  # replaced in between: the next look sees it
                continue
            marks.append((str(path), at.st_mtime_ns, at.st_size))
        return f"{hash(tuple(marks)):x}"

    def page(self) -> bytes:
        """The page, written anew if anything has changed."""
        from . import write_report

        with self._lock:
            now = self.stamp()
            if now == self._known:
                return self._page
            try:
                folders = [self._finished(i, folder) for i, folder in enumerate(self.folders)]
                text = write_report(folders, self.scratch / "page", (), self.sections, live=True).read_bytes()
            except VirtgymError as error:
                text = _waiting(one_line(error))
            self._page, self._known = text, now
            return text

    def _finished(self, number: int, folder: Path) -> Path:
        """A folder with what is finished of a run; the folder itself where it is none."""
        from ..run.folder import RunFolder

        if not (folder / "cells").is_dir():
            return folder
        run = RunFolder(folder, "")
        run.identity = str(run.info().get("scenario_hash", ""))
        copy = self.scratch / str(number) / folder.resolve().name
        copy.mkdir(parents=True, exist_ok=True)
        for name in ("heat", "run.json", "config.yaml"):
            if not (copy / name).is_symlink() and (folder / name).exists():
                (copy / name).symlink_to((folder / name).resolve())
        run.write_tables(copy)
        return copy


def _waiting(why: str) -> bytes:
    from .parts import PagePart, document, render

    html = render("report/templates/waiting.html", why=why)
    title = "virtgym report: nothing yet"
    return document(title, [], [PagePart(html)], script="Page.ready();", live=True).encode()


def make_server(report: LiveReport, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a report, which is not started yet.

    Args:
        report: What it shows.
        port: 0 = a free one.

    Raises:
        ConfigError: If the port cannot be had.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in ("/", "/report.html"):
                self._answer(report.page(), "text/html; charset=utf-8")
            elif self.path == "/stamp":
                self._answer(report.stamp().encode(), "text/plain")
            else:
                self.send_error(404)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """The terminal is for the address."""

    try:
        return http.server.ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"--serve={port}: cannot be had ({error.strerror}); name another port, 0 = a free one"
        ) from None


def serve(folders: Sequence[Path], port: str, sections: Sequence[str] = ()) -> int:
    """Serve a report until Ctrl-C.

    Args:
        folders: What it is of.
        port: As typed; empty = ``PORT``.
        sections: Sections of one's own by dotted path.

    Raises:
        ConfigError: If it is no port, or cannot be had.
    """
    if not (port == "" or (port.isascii() and port.isdigit() and int(port) < 65536)):
        raise ConfigError(f"--serve={port}: must be a port, 0 to 65535")
    with tempfile.TemporaryDirectory(prefix="virtgym-report-") as scratch:
        server = make_server(LiveReport(folders, Path(scratch), sections), int(port or PORT))
        print(f"report: http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()
    return 0
