"""Sweeps: ``virtgym COMMAND … -m``, one job per combination of values, by Hydra's own machinery.

Hydra's sweeper makes the combinations and its launcher runs them, so that every launcher and sweeper plugin
works: the basic ones, ``hydra/launcher=joblib``, and whatever else is installed. A job is ``sweep_job``: it
runs the command in a folder of its own in the sweep's, named by what is swept, and returns its objective.
What a job is and gave stands in its ``job.json``, never in a name: a job that is finished is not run again,
one that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import write_atomically
from virtgym.envs.scenarios.choices import FOLDERS, STORED, search_path

from ..config.compose import (
    CONFIG_NAMES,
    Composed,
    hydra_overrides,
    make_run,
    parse_override,
    told_in_one_line,
)
from ..config.overrides import plain_value, quote
from ..run.folder import write_text
from ..run.pool import end_with
from ..run.rows import worst_gate

if TYPE_CHECKING:
    import pandas as pd
    from hydra.core.override_parser.types import Override

_JOB = "job.json"
_LONGEST = 120
"""Longest readable part of a job's folder, characters."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep gave.

    Attributes:
        folder: Its folder.
        table: What ``sweep.csv`` says.
        failures: Jobs of this sweep that failed, one line each.
        internal: Whether one of them failed for no fault of the user's.
    """

    folder: Path
    table: pd.DataFrame
    failures: tuple[str, ...]
    internal: bool


def run_sweep(command: str, arguments: Sequence[str]) -> Sweep:
    """Run a sweep, or what is left of it.

    Args:
        command: The command.
        arguments: Overrides as typed, several values of a key by commas; Hydra's own keys like
            ``hydra/launcher=joblib`` and ``hydra.launcher.n_jobs=2``.

    Raises:
        ConfigError: If a key or value is impossible, or a plugin is not installed.
    """
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    texts = hydra_overrides(command, arguments, sweep=True)
    parsed = [parse_override(text) for text in texts]
    out = next((str(plain_value(o.value())) for o in reversed(parsed) if o.key_or_group == "out"), "")
    if not out:
        out = f"runs/sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        texts.append(f"out={out}")
        parsed.append(parse_override(texts[-1]))
    if not any(o.key_or_group == "hydra.sweep.dir" for o in parsed):
        texts.append(f"hydra.sweep.dir={quote(out)}")
    folder = Path(out)
    forget_failures(folder)
    _check_plugins(parsed)
    fixed = frozenset(o.get_key_element() for o in parsed if not o.is_sweep_override())
    names = dict(STORED)
    job = partial(
        sweep_job,
        command=command,
        folder=folder,
        fixed=fixed,
        typed=names,
        folders=tuple(FOLDERS),
        starter=os.getpid(),
    )
    GlobalHydra.instance().clear()
    try:
        with told_in_one_line(texts):
            hydra = Hydra.create_main_hydra2(command, search_path())
            hydra.multirun(CONFIG_NAMES[command], job, texts, with_log_configuration=False)
    finally:
        GlobalHydra.instance().clear()
        collect_sweep(folder)
    notes = [(path.parent.name, note) for path, note in _notes(folder) if "error" in note]
    failures = tuple(f"job {name}: {note['error']}" for name, note in notes)
    return Sweep(folder, collect_sweep(folder), failures, any(note.get("internal") for _, note in notes))


def forget_failures(folder: Path) -> None:
    """Take away the notes of jobs that failed before, so that the table tells of this sweep's failures only.

    Raises:
        ConfigError: If the folder has a table that no sweep wrote.
    """
    notes = list(folder.glob(f"*/{_JOB}"))
    if not notes and (folder / "sweep.csv").exists():
        raise ConfigError(f"out={folder}: its sweep.csv is not of a sweep; choose another out=")
    for path, note in _notes(folder):
        if "error" in note:
            path.unlink(missing_ok=True)
            (folder / "sweep.csv").unlink(missing_ok=True)  # written anew with the first job
            with suppress(OSError):  # it also holds what had begun
                path.parent.rmdir()


def _check_plugins(parsed: Sequence[Override]) -> None:
    """Say what to install for a launcher or sweeper that is not there."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # they register their configurations
    extras = {"joblib": "sweep", "ray": "ray", "submitit_local": "slurm", "submitit_slurm": "slurm"}
    advice = {name: f"; install it: pip install 'virtgym[{extra}]'" for name, extra in extras.items()}
    advice["optuna"] = (
        "; no extra brings it: hydra-optuna-sweeper needs optuna<3 and is installed by itself; without it "
        "leave this key out: every combination of values is tried, like agent.gamma=0.9,0.99 seed=range(3)"
    )
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        value = text.partition("=")[2]
        if key not in ("hydra/launcher", "hydra/sweeper"):
            continue
        there = ConfigStore.instance().list(key)
        known = sorted(name.removesuffix(".yaml") for name in there)
        if value not in known:
            raise ConfigError(
                f"{text}: no such {key.split('/')[1]} is installed{hint(value, known)}; "
                f"there are: {', '.join(known)}{advice.get(value, '')}"
            )


def job_folder(folder: Path, swept: Mapping[str, Any]) -> Path:
    """The folder of a job: what is swept, as far as that may stand in a name, and a digest of all of it.

    Args:
        folder: The sweep's folder.
        swept: Values of the swept keys.
    """
    text = ",".join(f"{key}={_shown(value)}" for key, value in sorted(swept.items()))
    slug = re.sub(r"[^\w=,.+-]+", "_", text, flags=re.ASCII)[:_LONGEST] or "only"
    return folder / f"{slug}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _shown(value: Any) -> Any:
    """A value as a table has it: lists and mappings as text."""
    return value if isinstance(value, str | int | float) else json.dumps(value)


def sweep_job(
    config: Any,
    *,
    command: str,
    folder: Path,
    fixed: frozenset[str],
    typed: Mapping[str, str],
    folders: Sequence[str],
    starter: int,
) -> float:
    """Run one combination.

    Args:
        config: What Hydra composed for it.
        command: The command.
        folder: The sweep's folder.
        fixed: Keys with one value.
        typed: What was typed for choices that Hydra knows by another name.
        folders: Search path, which another process does not have.
        starter: Number of the process that started the sweep.

    Returns:
        The objective; small is good. NaN if the job failed, so that the others go on; the reason stands in
        ``sweep.csv``.
    """
    from hydra.core.hydra_config import HydraConfig

    end_with(starter)  # a worker of this machine; jobs of Slurm are meant to outlive their command
    FOLDERS[:] = folders
    own = HydraConfig.get()
    mine = [parse_override(text) for text in own.overrides.task]
    keys = {o.key_or_group: plain_value(o.value()) for o in mine if o.get_key_element() not in fixed}
    swept = {key: typed.get(str(value), value) for key, value in keys.items()}
    out = job_folder(folder, swept)
    note: dict[str, Any] = {"swept": swept}
    note_job(out, note)
    if command == "train":
        from ..training.compose import register_resolver

        register_resolver()  # a worker may be another process
    try:
        rows = _RUNS[command](Composed.of(config, own, swept), out)
    except (VirtgymError, OSError) as error:
        note |= {"error": " ".join(str(error).split())}
    except Exception as error:  # a job's fault stops no other job; its own log says where
        write_text(out / "error.log", traceback.format_exc())
        line = f"{type(error).__name__}: {' '.join(str(error).split())} ({out / 'error.log'})"
        note |= {"error": line, "internal": True}
    else:
        note |= {"rows": rows}
    note_job(out, note)
    collect_sweep(folder)  # also while others still run
    found = [row["objective"] for row in note.get("rows", ()) if row["objective"] is not None]
    return float(sum(found) / len(found)) if found else math.nan


def _train_job(composed: Composed, out: Path) -> list[dict[str, Any]]:
    from ..training.compose import make_run as make_training
    from ..training.train import train

    plain = {**composed.config, "out": str(out)}
    train(make_training(plain, composed.typed_scenario, composed.own_scenario))
    return train_rows(out)


def train_rows(out: Path) -> list[dict[str, Any]]:
    """What the table says of a finished training in a folder."""
    from ..training.folder import TrainFolder

    info = TrainFolder(out).info()
    return [{key: info.get(key) for key in ("objective", "best_timesteps", "start", "end")}]


def _grid_job(command: str, composed: Composed, out: Path) -> list[dict[str, Any]]:
    """A row per policy: the mean of its rows' costs, and the first reason why it is not ranked."""
    from .benchmark import benchmark

    composed.config["out"] = str(out)
    run = make_run(command, composed)
    outcome = benchmark(run)
    if outcome.failures:
        first = outcome.failures[0]
        if first.trace:
            raise RuntimeError(f"{first.name}: {first.message}")
        raise ConfigError(f"{first.name}: {first.message}")
    rows = []
    for policy, group in outcome.rows.groupby("policy", sort=False):
        cost = float(group["cost"].mean())
        rows.append(
            {
                "policy": str(policy),
                "objective": cost if math.isfinite(cost) else None,
                "energy_kwh": _finite(group, "energy_kwh"),
                "gate": worst_gate(group.get("gate", ())),
            }
        )
    return rows


def _finite(rows: pd.DataFrame, column: str) -> float | None:
    mean = float(rows[column].mean()) if column in rows else math.nan
    return mean if math.isfinite(mean) else None


_RUNS: dict[str, Any] = {
    "train": _train_job,
    "evaluate": partial(_grid_job, "evaluate"),
    "benchmark": partial(_grid_job, "benchmark"),
}
"""What runs a job of each command that can be swept, and gives its rows of ``sweep.csv``."""


def note_job(out: Path, job: dict[str, Any]) -> None:
    """Write what is known of a job into its folder."""
    try:
        write_text(out / _JOB, json.dumps(job))
    except OSError as error:
        raise ConfigError(f"out={out.parent}: cannot be made or written ({error.strerror})") from None


def _read_note(path: Path) -> dict[str, Any]:
    """A job's note; empty if it cannot be read."""
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) and isinstance(job.get("swept"), dict) else {}


def _notes(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = [(path, _read_note(path)) for path in sorted(folder.glob(f"*/{_JOB}"))]
    return [(path, note) for path, note in found if note]


def collect_sweep(folder: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` of the jobs in a folder.

    Args:
        folder: The sweep's folder.

    Returns:
        A row per job (and policy), best first: ``job``, every swept key, ``finished``, ``objective`` (NaN
        until finished), what the command adds, and ``error`` if a job failed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    notes = _notes(folder)
    for path, note in notes:
        swept = {key: _shown(value) for key, value in note["swept"].items()}
        shared = {"job": path.parent.name, **swept, "finished": "rows" in note}
        error = {"error": note["error"]} if "error" in note else {}
        # A swept policy stands in the table as it was typed; of several policies of a job each has a row.
        rows += [{**row, **shared, **error} for row in note.get("rows", ({"objective": None},))]
    table = pd.DataFrame(rows)
    if rows:
        first = ["job", *dict.fromkeys(key for _, note in notes for key in note["swept"])]
        first += ["finished", "objective"]
        table = table[[*first, *(key for key in table if key not in first)]]
        table["objective"] = pd.to_numeric(table["objective"])
        table = table.sort_values("objective", kind="stable", na_position="last").reset_index(drop=True)
        write_atomically(folder / "sweep.csv", lambda draft: table.to_csv(draft, index=False))
    return table
