"""A run folder: finished cells one by one, tables of all of them, and what they were run with.

    config.yaml  run.json  results.parquet  results.csv  steps.parquet
    cells/POLICY__SEED.json  cells/POLICY__SEED.steps.parquet  heat/POLICY__SEED.npz

A cell is one policy with one seed (and all windows of a placement scenario). Its ``.json``, a row or a list
of rows, is written last and by renaming, so it is there if and only if the cell is finished and complete,
whatever happened to the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.files import read_parquet, write_atomically
from virtgym.envs.sim.errors import ConfigError

from .results import COLUMNS, make_row, rows_frame, virtgym_version
from .yamlio import YamlError, dump_yaml, load_yaml

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellResult", "RunFolder", "cell_stem"]

_LONGEST = 160
"""Longest name of a policy in a file name, bytes; file systems allow 255 for all of it."""

_PACKAGES = ("numpy", "numba", "gymnasium", "pandas", "scipy", "hydra-core", "ortools", "torch")


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


def cell_stem(policy: str, seed: int) -> str:
    """File name of a cell: policy, with anything but letters, digits and ``-_.`` replaced, and seed.

    Of a name that is too long for a file (an agent's folder) the end is kept, after a fingerprint of all.
    """
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in policy)
    if len(name.encode()) > _LONGEST:
        digest = hashlib.blake2b(policy.encode(), digest_size=6).hexdigest()
        name = f"{digest}_{name.encode()[-_LONGEST:].decode(errors='ignore')}"
    return f"{name}__{seed}"


def _write_text(path: Path, text: str) -> None:
    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_atomically(path, write)


class RunFolder:
    """A run folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, config: Mapping[str, Any], identity: str, seeds: Sequence[int]) -> None:
        """Make the folder, or check that it holds runs of the same scenario.

        Args:
            config: Resolved configuration.
            identity: Fingerprint of the scenario and its trace.
            seeds: Seeds of this run.

        Raises:
            ConfigError: If the folder cannot be made, or holds something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"out={self.path}: cannot be made ({error.strerror})") from None
        before = self.info()
        if before.get("scenario_hash", identity) != identity:
            raise ConfigError(
                f"out={self.path}: holds results of another configuration{self._difference(config)}; "
                "choose another out=, or delete that folder"
            )
        self._info = {
            **before,
            "command": " ".join(_shown(sys.argv)),
            "versions": _versions(),
            "commit": _commit(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "scenario_hash": identity,
            "seeds": sorted({*before.get("seeds", []), *seeds}),
            "start": before.get("start") or _now(),
            "end": None,
            "finished": False,
        }
        try:
            self._write_info()
            self._write_config(config)
        except OSError as error:
            raise ConfigError(f"out={self.path}: cannot be written ({error.strerror})") from None

    def info(self) -> dict[str, Any]:
        """What ``run.json`` says; empty if there is none."""
        try:
            found = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_info(self) -> None:
        _write_text(self.path / "run.json", json.dumps(self._info, indent=1) + "\n")

    def _write_config(self, config: Mapping[str, Any]) -> None:
        _write_text(self.path / "config.yaml", dump_yaml(config))

    def _difference(self, config: Mapping[str, Any]) -> str:
        """Which keys of the scenario differ from the stored ones, as text."""
        try:
            stored = load_yaml((self.path / "config.yaml").read_text(encoding="utf-8"))
            old, new = _flat(stored["scenario"]), _flat(config["scenario"])
        except (OSError, ValueError, KeyError, TypeError, YamlError):
            return ""
        keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        texts = [f"scenario.{k}: {old.get(k)} there, {new.get(k)} now" for k in keys[:3]]
        return (
            f" ({'; '.join(texts)}{'; …' if len(keys) > 3 else ''})" if texts else " (the trace has changed)"
        )

    def finish(self, *, finished: bool) -> None:
        """Write the end of the run into ``run.json``."""
        self._info |= {"end": _now(), "finished": finished}
        self._write_info()

    def write_cell(self, result: CellResult) -> None:
        """Store a finished cell; its row comes last."""
        first = result.rows[0]
        stem = cell_stem(str(first["policy"]), int(first["seed"]))
        if result.heat:
            heat: dict[str, Any] = result.heat
            write_atomically(
                self.path / "heat" / f"{stem}.npz", lambda draft: np.savez_compressed(draft, **heat)
            )
        write_atomically(
            self.path / "cells" / f"{stem}.steps.parquet",
            lambda draft: result.steps.to_parquet(draft, index=False),
        )
        stored = first if len(result.rows) == 1 else result.rows
        _write_text(self.path / "cells" / f"{stem}.json", json.dumps(stored))

    def read_cell(
        self, policy: str, seed: int, wanted_hash: str | None = None
    ) -> list[dict[str, Any]] | None:
        """Read the rows of a finished cell.

        Args:
            policy: Label of the policy.
            seed: Seed.
            wanted_hash: The configuration that it must come from; None = any.

        Returns:
            The rows; None if the cell is not there or not complete, so that it has to be run.

        Raises:
            ConfigError: If it comes from another configuration.
        """
        stem = cell_stem(policy, seed)
        rows = self._read_rows(self.path / "cells" / f"{stem}.json")
        if rows is None:
            return None
        row = rows[0]
        if row["policy"] != policy or row["seed"] != seed:
            raise ConfigError(
                f"out={self.path}: {row['policy']} and {policy} would share the file name {stem}; "
                "choose another out="
            )
        if wanted_hash is not None and row["config_hash"] != wanted_hash:
            raise ConfigError(
                f"out={self.path}: {policy} with seed {seed} is there from another configuration or version "
                f"(hash {row['config_hash']} of virtgym {row['virtgym_version']}, now {wanted_hash} of "
                f"{virtgym_version()}); choose another out=, or delete that folder"
            )
        return rows

    @staticmethod
    def _read_rows(path: Path) -> list[dict[str, Any]] | None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        rows = stored if isinstance(stored, list) else [stored]
        complete = bool(rows) and all(isinstance(row, dict) and set(row) == set(COLUMNS) for row in rows)
        if not complete or not _is_parquet(path.with_suffix(".steps.parquet")):
            return None
        return [make_row(row) for row in rows]

    def collect(self, order: Sequence[tuple[str, int]]) -> pd.DataFrame:
        """Write the tables of all finished cells.

        Args:
            order: Policies and seeds that come first; others that the folder holds follow.

        Returns:
            The result rows.
        """
        import pandas as pd

        ranks = {cell_stem(*cell): rank for rank, cell in enumerate(order)}
        files = sorted(
            (self.path / "cells").glob("*.json"), key=lambda f: (ranks.get(f.stem, len(ranks)), f.stem)
        )
        kept = [
            (f, rows)
            for f in files
            if not f.name.startswith(".") and (rows := self._read_rows(f)) is not None
        ]
        frame = rows_frame([row for _, rows in kept for row in rows])
        steps = [read_parquet(f.with_suffix(".steps.parquet")).to_pandas(use_threads=False) for f, _ in kept]
        write_atomically(self.path / "results.parquet", lambda d: frame.to_parquet(d, index=False))
        write_atomically(self.path / "results.csv", lambda d: frame.to_csv(d, index=False))
        if steps:
            table = pd.concat(steps, ignore_index=True)
            write_atomically(self.path / "steps.parquet", lambda d: table.to_parquet(d, index=False))
        return frame


def _is_parquet(path: Path) -> bool:
    """Whether a Parquet file is there in full: its magic number closes it."""
    try:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except OSError:
        return False


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, inner in tree.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _shown(argv: Sequence[str]) -> list[str]:
    import shlex

    return ["virtgym" if i == 0 else shlex.quote(text) for i, text in enumerate(argv)]


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"virtgym": virtgym_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of the checkout that the code runs from; None where it is installed otherwise."""
    import subprocess

    root = Path(__file__).resolve().parent.parent
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
