"""A training's folder: what it was started with, where it stands, and what came out.

    agent/          the best agent on the validation windows so far; play it with policy=DIR/agent
    progress.csv    a row per evaluation
    validation.csv  result rows of the agent and of every rule, at the end
    tensorboard/    event files; wandb/ likewise
    scenarios.json  of a mixture: scales, and rules by kind of cluster
    checkpoint.npz  everything needed to go on; taken away at the end
    config.yaml  train.json

Every file is written in full or not at all, and the checkpoint holds all that the others are made of: after a
crash or ``kill -9`` the same command goes on from the last one. A checkpoint is arrays and JSON, no pickle.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line, read_arrays, write_atomically
from virtgym.envs.scenarios.schema import WORDS

from ..config.yamlio import dump_yaml, flat_difference, load_yaml
from ..run.folder import claim_folder

Arrays = dict[str, NDArray[Any]]

LARGEST_CHECKPOINT = 1 << 36
"""Most bytes of a checkpoint, which may hold a replay buffer."""

_OWN = (
    *("config.yaml", "scenarios.json", "progress.csv", "validation.csv"),
    *("agent", "tensorboard", "wandb", "checkpoint.npz"),
)
"""What a training writes, before or after ``train.json``."""

_FREE = ("out", "tensorboard", "tracker", "seeds", "checkpoint_every")
"""Keys that do not change what a training gives."""


class Checkpoint:
    """Where a training stands.

    Attributes:
        arrays: Arrays by name.
        state: Data that JSON can hold.
    """

    def __init__(self, arrays: Arrays, state: dict[str, Any]) -> None:
        self.arrays = arrays
        self.state = state

    def part(self, prefix: str) -> Arrays:
        """The arrays below a prefix, without it."""
        n = len(prefix) + 1
        return {name[n:]: array for name, array in self.arrays.items() if name.startswith(prefix + "/")}


class TrainFolder:
    """A training's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._info: dict[str, Any] = {}

    @property
    def agent(self) -> Path:
        """The agent's folder."""
        return self.path / "agent"

    @property
    def ident(self) -> str:
        """What trackers know its training by: the same as long as it goes on here."""
        start = self._info.get("start", "")
        text = f"{platform.node()} {self.path.resolve()} {start}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def checkpoint_timesteps(self) -> int:
        """Decisions learned from when the last checkpoint was written; 0 if there is none."""
        found = self.read_checkpoint()
        return 0 if found is None else int(found.state.get("timesteps", -1))

    def check(self, config: Mapping[str, Any], identity: str) -> dict[str, Any]:
        """Check that the folder holds this training, or nothing that a training would replace.

        Args:
            config: Resolved configuration.
            identity: Fingerprint of the scenario and its requests.

        Returns:
            What ``train.json`` says; ``finished`` tells whether there is anything left to do.

        Raises:
            ConfigError: If the folder holds something else.
        """
        kept = _deciding(config)
        before = self.info()
        if not before and (self.path / "run.json").exists():
            raise ConfigError(f"out={self.path}: holds results of another command; choose another out=")
        if before:
            differences = flat_difference(self._stored_config(), kept)
            if not differences and before.get("scenario_hash") != identity:
                differences = ["the requests or windows have changed"]
            if differences:
                more = "; …" if len(differences) > 3 else ""
                raise ConfigError(
                    f"out={self.path}: holds another training ({'; '.join(differences[:3])}{more}); "
                    "choose another out=, or delete that folder"
                )
        else:
            self._check_foreign(dump_yaml(dict(config)))
        self._info = {
            **before,
            "command": " ".join(["virtgym", *sys.argv[1:]]),
            "platform": platform.platform(),
            "scenario_hash": identity,
            "start": before.get("start") or _now(),
            "resumed": [*before.get("resumed", []), *([_now()] if before else [])],
            "end": None,
            "finished": False,
        }
        return before

    def _check_foreign(self, config: str) -> None:
        """Refuse a folder with files of somebody else that a training would replace."""
        for name in _OWN:
            path = self.path / name
            # A training that was killed at its very beginning has written its configuration and no more.
            if path.exists() and not (
                name == "config.yaml" and path.is_file() and path.read_text("utf-8") == config
            ):
                raise ConfigError(f"out={self.path}: its {name} is not of a training; choose another out=")

    def begin(self, config: Mapping[str, Any], unit: str) -> None:
        """Make the folder that ``check`` has checked, or note that its training goes on.

        Args:
            config: Resolved configuration.
            unit: Of the objective of validation.

        Raises:
            ConfigError: If it cannot be written.
        """
        try:
            claim_folder(self.path, "train", known=("job.json", "train.log"))  # of a sweep, a launcher
            self._write_text("config.yaml", dump_yaml(dict(config)))
            self._info["unit"] = unit
            self._write_info()
        except OSError as error:
            raise ConfigError(f"out={self.path}: cannot be written ({error.strerror})") from None

    def info(self) -> dict[str, Any]:
        """What ``train.json`` says; empty if there is none."""
        try:
            found = json.loads((self.path / "train.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _stored_config(self) -> dict[str, Any]:
        try:
            stored = load_yaml((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise ConfigError(f"out={self.path}: its config.yaml is damaged; choose another out=")
        return _deciding(stored)

    def _write_text(self, name: str, text: str) -> None:
        def write(draft: Path) -> None:
            draft.write_text(text, encoding="utf-8")

        write_atomically(self.path / name, write)

    def _write_info(self) -> None:
        self._write_text("train.json", json.dumps(self._info, indent=1) + "\n")

    def finish(self, **result: Any) -> dict[str, Any]:
        """Note the end and the result; the checkpoint is taken away.

        Returns:
            What ``train.json`` says now.
        """
        self._info |= {"end": _now(), "finished": True, **result}
        self._write_info()
        (self.path / "checkpoint.npz").unlink(missing_ok=True)
        return self._info

    def measured(self) -> list[dict[str, Any]] | None:
        """What ``scenarios.json`` says; None if there is none yet.

        Raises:
            ConfigError: If it is damaged.
        """
        path = self.path / "scenarios.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({one_line(error)}); delete it to measure anew") from None
        return found if isinstance(found, list) else None

    def write_measured(self, scenarios: Sequence[Mapping[str, Any]]) -> None:
        """Write ``scenarios.json``."""
        self._write_text("scenarios.json", json.dumps(list(scenarios), indent=1) + "\n")

    def write_progress(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``progress.csv``: a row per evaluation."""
        import pandas as pd

        table = pd.DataFrame(list(rows))
        write_atomically(self.path / "progress.csv", lambda draft: table.to_csv(draft, index=False))

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        text = np.frombuffer(json.dumps(checkpoint.state).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {**checkpoint.arrays, "state": text}
        write_atomically(self.path / "checkpoint.npz", lambda draft: np.savez(draft, **arrays))

    def read_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None if there is none.

        Raises:
            ConfigError: If it is damaged.
        """
        path = self.path / "checkpoint.npz"
        for draft in self.path.glob(".checkpoint.*"):  # of a process that was killed
            draft.unlink(missing_ok=True)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path, limit=LARGEST_CHECKPOINT, refusal=ConfigError)
            return Checkpoint(arrays, json.loads(arrays.pop("state").tobytes()))
        except (ConfigError, ValueError, KeyError) as error:
            reason = one_line(error).removeprefix(f"{path}: ")
            raise ConfigError(f"{path}: damaged ({reason}); delete it to begin anew") from None


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what a training gives; files count by what is in them (the fingerprint), not by path."""
    kept = {key: value for key, value in config.items() if key not in _FREE}
    if isinstance(scenario := kept.get("scenario"), dict):
        trace = {k: v for k, v in dict(scenario.get("trace") or {}).items() if k != "path"}
        hidden = ("trace", "windows", *WORDS)
        kept["scenario"] = {**{k: v for k, v in scenario.items() if k not in hidden}, "trace": trace}
    return kept


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
