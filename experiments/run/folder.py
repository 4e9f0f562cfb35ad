"""A run folder: finished cells one by one, tables of all of them, and what they were run with.

    virtgym.json  config.yaml  run.json  results.parquet  results.csv  steps.parquet  moves.csv
    cells/NAME.json  cells/NAME.steps.parquet  heat/NAME.npz

A cell is one policy with one seed (and all windows of a placement scenario). Its files are named by a digest
of both; what was run is in them. The ``.json`` has the rows and the digests of the other files and of itself.
It is written last and by renaming, so it is there if and only if the cell is finished and complete, whatever
happened to the process, and a cell that was damaged since is told from a whole one.

``moves.csv`` has the moves of what is rescheduled or reassigned. ``virtgym.json`` says which command a folder
belongs to, and for what; see ``claim_folder``.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import read_parquet, write_atomically

from ..config.yamlio import dump_yaml, flat_difference, load_stored
from .fingerprint import content_digest
from .rows import COLUMNS, make_row, rows_frame, virtgym_version

if TYPE_CHECKING:
    import pandas as pd

MARK = "virtgym.json"
"""File that says whose a folder is."""

_LOCK_S = 0.02
"""How often to look whether a folder is held, s."""
_WRITE_S = 60.0
"""How long to wait for who else writes a cell, s."""

_PACKAGES = ("numpy", "numba", "gymnasium", "pandas", "hydra-core", "ortools", "torch")


@dataclass(frozen=True)
class CellResult:
    """What one cell gave.

    Attributes:
        rows: Its result rows: one, or one per window.
        steps: Its per-interval (per-request) table.
        heat: Arrays of its heat file; empty = none.
    """

    rows: list[dict[str, Any]]
    steps: pd.DataFrame
    heat: dict[str, NDArray[Any]]


def cell_name(policy: str, seed: int) -> str:
    """Name of a cell's files: a digest of policy and seed, then as much of both as a person needs.

    Args:
        policy: Label of the policy, any text.
        seed: Seed.
    """
    digest = hashlib.blake2b(json.dumps([policy, seed]).encode(), digest_size=8).hexdigest()
    return f"{digest}-{_slug(policy)}-{seed}"


def default_out(what: str) -> Path:
    """Folder of a run that names none; no other run has the same.

    Args:
        what: What is run, any text.
    """
    return Path("runs") / f"{_slug(what)}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _slug(text: str) -> str:
    """At most 40 characters of a text, none of which means anything in a path."""
    return re.sub("[^a-z0-9_]+", "-", text.lower())[:40].strip("-") or "x"


def claim_folder(path: Path, kind: str, identity: str = "", known: Collection[str] = ()) -> str:
    """Make a folder, or check that it is this command's; of two commands at once, one gets it.

    A folder with files in it that virtgym did not mark as its own is never written into.

    Args:
        path: The folder.
        kind: Which command's: ``run`` (benchmark and evaluate), ``train``, ``forecast``, …
        identity: Fingerprint of what the folder is for.
        known: Files that the command itself has put there before.

    Returns:
        The identity that it was claimed with: another one if it was there before, for something else.

    Raises:
        ConfigError: If it cannot be made or written, or is not ours.
    """
    mark = path / MARK
    text = json.dumps({"kind": kind, "identity": identity}) + "\n"
    try:
        path.mkdir(parents=True, exist_ok=True)
        there = {name for name in os.listdir(path) if not name.startswith(".")}
        found = load_stored(mark)  # after the list: what others claim now has a mark before it has files
        marked = _is_mark(found)
        if there - {MARK} and not marked and not there & {f"{kind}.json", *known}:
            shown = ", ".join(sorted(there)[:3]) + (", …" if len(there) > 3 else "")
            raise ConfigError(
                f"out={path}: holds files that are not virtgym's ({shown}); name a new or an empty folder"
            )
        if not marked:
            if _create(mark, text):
                return identity
            found = load_stored(mark)
            if not _is_mark(found):  # damaged
                write_text(mark, text)
                return identity
    except OSError as error:
        raise ConfigError(f"out={path}: cannot be made or written ({error.strerror})") from None
    if found.get("kind") != kind:
        raise ConfigError(
            f"out={path}: belongs to another command ({found.get('kind')}); choose another out="
        )
    return str(found.get("identity"))


@contextmanager
def hold_folder(path: Path, wait_s: float = 0.0, lock_name: str = ".lock") -> Iterator[None]:
    """Hold a folder alone: of two commands at once, the second one is told so.

    The system lets go of it with the process, whatever happens to that. A file system that knows no locks
    holds nothing.

    Args:
        path: The folder; made if it is not there.
        wait_s: How long to wait for who holds it.
        lock_name: What of it is held.

    Raises:
        ConfigError: If another process holds it, or it cannot be made or written.
    """
    name, end, made = path / lock_name, time.monotonic() + wait_s, not path.exists()
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UnwritableError(f"out={path}: cannot be made or written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            if time.monotonic() >= end:
                raise ConfigError(
                    f"out={path}: another virtgym command is at work in it; workers=N runs more at once"
                ) from None
            time.sleep(_LOCK_S)
            continue
        except OSError:  # such a file system
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(name)):
                break
        os.close(lock)  # it was taken away by who held it before
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(lock)
        if made:  # nothing came of it
            with suppress(OSError):
                path.rmdir()


class UnwritableError(ConfigError):
    """A folder that cannot be written, like one of a full disk: no other cell can be kept either."""


def _is_mark(found: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(found, dict) and {type(found.get(k)) for k in ("kind", "identity")} == {str}


def _create(path: Path, text: str) -> bool:
    """Create a file with its text in one step; False if there is one already."""
    draft = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        with open(draft, "x", encoding="utf-8") as file:
            file.write(text)
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there in full or not at all.

    Args:
        path: The file.
        text: Its text.
    """
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


class _DamagedError(Exception):
    """What is wrong with a stored cell, in a few words."""


class RunFolder:
    """A run folder.

    Args:
        path: The folder.
        identity: Fingerprint of the scenario and its trace.

    Attributes:
        damaged: Cells that were found damaged, one text each, and why.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.damaged: dict[str, str] = {}

    def open(self, config: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Make the folder, or check that it holds runs of the same scenario.

        Args:
            config: Resolved configuration.
            seeds: Seeds of this run.

        Raises:
            ConfigError: If the folder cannot be made, or holds something else.
        """
        claimed = claim_folder(self.path, "run", self.identity, known=("job.json",))  # of a sweep
        before = self.info()
        if {claimed, before.get("scenario_hash", claimed)} != {self.identity}:
            raise ConfigError(
                f"out={self.path}: holds results of another configuration{self._difference(config)}; "
                "choose another out=, or delete that folder"
            )
        known = before.get("seeds")
        kept = [seed for seed in known if type(seed) is int] if isinstance(known, list) else []
        self._info = {
            **before,
            "command": " ".join(_shown(sys.argv)),
            "versions": _versions(),
            "commit": _commit(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "scenario_hash": self.identity,
            "seeds": sorted({*kept, *seeds}),
            "start": before.get("start") or _now(),
            "end": None,
            "finished": False,
        }
        with self._writing():
            self._write_info()
            write_text(self.path / "config.yaml", dump_yaml(config))

    def info(self) -> dict[str, Any]:
        """What ``run.json`` says; empty if there is none."""
        found = load_stored(self.path / "run.json")
        return found if isinstance(found, dict) else {}

    def _write_info(self) -> None:
        write_text(self.path / "run.json", json.dumps(self._info, indent=1) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in one line why the folder cannot be written."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)  # Arrow has words of its own
            raise UnwritableError(f"out={self.path}: cannot be written ({why})") from None

    def _difference(self, config: Mapping[str, Any]) -> str:
        """Which keys of the scenario differ from the stored ones, as text."""
        stored = load_stored(self.path / "config.yaml")
        if not isinstance(stored, dict) or not isinstance(stored.get("scenario"), dict):
            return ""
        said = flat_difference(*({"scenario": tree["scenario"]} for tree in (stored, config)))
        return (
            f" ({'; '.join(said[:3])}{'; …' if len(said) > 3 else ''})"
            if said
            else " (the trace has changed)"
        )

    def finish(self, *, finished: bool) -> None:
        """Write the end of the run into ``run.json``."""
        self._info |= {"end": _now(), "finished": finished}
        with self._writing():
            self._write_info()

    def _files(self, name: str) -> dict[str, Path]:
        """The files of a cell beside its rows."""
        return {
            "steps": self.path / "cells" / f"{name}.steps.parquet",
            "heat": self.path / "heat" / f"{name}.npz",
        }

    def write_cell(self, result: CellResult) -> None:
        """Store a finished cell; its rows come last. Of one that was run twice the first result stays.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        policy, seed = str(result.rows[0]["policy"]), int(result.rows[0]["seed"])
        name = cell_name(policy, seed)
        with hold_folder(self.path, _WRITE_S, ".writing"):  # the files of a cell are of one process
            there = self._try_load(path) if os.path.lexists(path := self._rows(name)) else None
            if there is None or there["rows"][0]["config_hash"] != result.rows[0]["config_hash"]:
                self._write_cell(result, name)

    def _rows(self, name: str) -> Path:
        return self.path / "cells" / f"{name}.json"

    def _write_cell(self, result: CellResult, name: str) -> None:
        files = self._files(name)
        heat: dict[str, Any] = result.heat
        writers: dict[str, Callable[[Path], None]] = {
            "steps": lambda draft: result.steps.to_parquet(draft, index=False)
        }
        if heat:
            writers["heat"] = lambda draft: np.savez_compressed(draft, **heat)
        with self._writing():
            for key, write in writers.items():
                _make_way(files[key])
                write_atomically(files[key], write)
            cell = {
                "policy": str(result.rows[0]["policy"]),
                "seed": int(result.rows[0]["seed"]),
                "scenario_hash": self.identity,
                "files": {key: content_digest(files[key]) for key in writers},
                "rows": result.rows,
            }
            path = self._rows(name)
            _make_way(path)
            write_text(path, json.dumps({"digest": _digest(cell), "cell": cell}))

    def read_cell(
        self, policy: str, seed: int, wanted_hash: str | None = None
    ) -> list[dict[str, Any]] | None:
        """Read the rows of a finished cell.

        Args:
            policy: Label of the policy.
            seed: Seed.
            wanted_hash: The configuration that it must come from; None = any.

        Returns:
            The rows; None if the cell is not there or damaged (``damaged`` says how), so that it has to be
            run.

        Raises:
            ConfigError: If it comes from another configuration.
        """
        path = self._rows(cell_name(policy, seed))
        if not os.path.lexists(path):
            return None
        cell = self._try_load(path)
        if cell is None:
            return None
        rows: list[dict[str, Any]] = cell["rows"]
        found = rows[0]["config_hash"]
        if wanted_hash is not None and (found != wanted_hash or cell["scenario_hash"] != self.identity):
            raise ConfigError(
                f"out={self.path}: {policy} with seed {seed} is there from another configuration or version "
                f"(hash {found} of virtgym {rows[0]['virtgym_version']}, now {wanted_hash} of "
                f"{virtgym_version()}); choose another out=, or delete that folder"
            )
        return rows

    def _try_load(self, path: Path) -> dict[str, Any] | None:
        """Read a cell; None, and a word in ``damaged``, if it is not whole."""
        try:
            return self._load(path)
        except _DamagedError as error:
            self.damaged[path.stem] = f"{path.relative_to(self.path)}: {error}"
            return None

    def _load(self, path: Path) -> dict[str, Any]:
        stored = load_stored(path)
        cell = stored.get("cell") if isinstance(stored, dict) else None
        if not isinstance(cell, dict) or stored.get("digest") != _digest(cell):
            raise _DamagedError("cannot be read, or its digest is another")
        try:
            rows = [make_row(row) for row in cell["rows"]]
            rows_frame(rows)
            named = cell_name(cell["policy"], cell["seed"])
            wanted: dict[str, str] = cell["files"]
            whole = {*cell, "steps"} >= {"scenario_hash", *wanted} - {"heat"} and bool(rows)
        except (KeyError, TypeError, ValueError, AttributeError):
            whole = False
        if not whole or any(not set(row) >= set(COLUMNS) for row in cell["rows"]):
            raise _DamagedError("was written by another version")
        if path.stem != named:
            raise _DamagedError(f"holds another cell, {cell['policy']} seed {cell['seed']}")
        files = self._files(path.stem)
        for key, digest in wanted.items():
            if not files[key].is_file() or content_digest(files[key]) != digest:
                raise _DamagedError(f"{files[key].relative_to(self.path)} is missing or was changed")
        return {**cell, "rows": rows}

    def collect(self, order: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """Write the tables of all finished cells; damaged ones are left out and stand in ``damaged``.

        Args:
            order: Policies and seeds that come first; others that the folder holds follow.

        Returns:
            The result rows.
        """
        return self.write_tables(self.path, order)

    def write_tables(self, dest: Path, order: Sequence[tuple[str, int]] = ()) -> pd.DataFrame:
        """``collect``, into another folder: this one may be at work.

        Args:
            dest: Where to.
            order: As in ``collect``.

        Returns:
            The result rows.
        """
        import pandas as pd

        self.damaged.clear()
        ranks = {cell: rank for rank, cell in enumerate(order)}
        files = [f for f in sorted((self.path / "cells").glob("*.json")) if not f.name.startswith(".")]
        cells = [
            (f.stem, cell)
            for f in files
            if (cell := self._try_load(f)) is not None and cell["scenario_hash"] == self.identity
        ]
        cells.sort(key=lambda pair: ranks.get((pair[1]["policy"], pair[1]["seed"]), len(ranks)))
        frame = rows_frame([row for _, cell in cells for row in cell["rows"]])
        tables = [read_parquet(self._files(name)["steps"]) for name, _ in cells]
        with self._writing():
            write_atomically(dest / "results.parquet", lambda d: frame.to_parquet(d, index=False))
            write_atomically(dest / "results.csv", lambda d: frame.to_csv(d, index=False))
            if tables:
                table = pd.concat([t.to_pandas(use_threads=False) for t in tables], ignore_index=True)
                write_atomically(dest / "steps.parquet", lambda d: table.to_parquet(d, index=False))
                if "event" in table:
                    moves = table[table["event"] == "move"].drop(columns="event")
                    write_atomically(dest / "moves.csv", lambda d: moves.to_csv(d, index=False))
        return frame


def _digest(cell: Mapping[str, Any]) -> str:
    """Fingerprint of the content of a cell's file: numbers are written so that they are read as they were."""
    return hashlib.blake2b(json.dumps(cell, sort_keys=True).encode(), digest_size=16).hexdigest()


def _make_way(path: Path) -> None:
    """Put aside what is no file where a cell's file goes, and what is no folder where its folder goes."""
    for there, wrong in ((path.parent, Path.is_file), (path, Path.is_dir)):
        if wrong(there):
            os.replace(there, there.with_name(f".{there.name}.{secrets.token_hex(4)}.damaged"))


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _shown(argv: Sequence[str]) -> list[str]:
    import shlex

    return ["virtgym" if i == 0 else shlex.quote(text) for i, text in enumerate(argv)]


@functools.cache
def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"virtgym": virtgym_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout that the code runs from; None where it is installed otherwise."""
    import subprocess

    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=16", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
