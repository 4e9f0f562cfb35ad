"""Sweeps: ``virtgym train … -m``, one training per combination of values, by Hydra's own machinery.

Hydra's sweeper makes the combinations and its launcher runs them, so that every launcher and sweeper plugin
works: the basic ones, ``hydra/launcher=joblib``, and whatever else is installed. A job is ``sweep_job``: it
trains in a folder of its own in the sweep's, named by what is swept, and returns its objective. A job that is
finished is not run again, one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import write_atomically

from ..config.compose import tell_hydra_error
from ..config.overrides import split_override, unquote
from .compose import check_train_keys, make_run, register_resolver, store_schemas
from .folder import TrainFolder

if TYPE_CHECKING:
    import pandas as pd

_FLAGS = ("-m", "--multirun")
_JOB = "job.json"
_LONGEST = 120
"""Longest readable part of a job's folder, characters."""
_WATCH_S = 0.5
"""How often a worker looks whether the sweep is still there, s."""


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for a sweep."""
    return any(text in _FLAGS for text in arguments)


def run_sweep(arguments: Sequence[str]) -> tuple[Path, pd.DataFrame]:
    """Run a sweep, or what is left of it.

    Args:
        arguments: Overrides as typed, several values of a key by commas; Hydra's own keys like
            ``hydra/launcher=joblib`` and ``hydra.launcher.n_jobs=2``.

    Returns:
        The sweep's folder, and a row per job: the swept keys, ``objective`` and more.

    Raises:
        ConfigError: If a key or value is impossible, or a plugin is not installed.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    typed = [text for text in arguments if text not in _FLAGS]
    texts = check_train_keys(typed, sweep=True)
    out = next((unquote(v) for k, v in reversed([split_override(t) for t in typed]) if k == "out"), None)
    if out is None:
        out = f"runs/sweep-{datetime.now():%Y%m%d-%H%M%S}"
        texts.append(f"out={out}")
    folder = Path(out)
    _forget_refused(folder)
    swept = tuple(sorted({split_override(text)[0] for text in texts if _is_swept(text)}))
    job = partial(sweep_job, folder=folder, swept=swept, starter=os.getpid())
    store_schemas()
    _check_plugins(texts)
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2("train", create_config_search_path("pkg://virtgym.conf"))
        hydra.multirun("train", job, texts, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(tell_hydra_error(error)) from None
    finally:
        GlobalHydra.instance().clear()
        collect_sweep(folder)
    table = collect_sweep(folder)
    if "error" in table and (failed := table[table["error"].notna()]).size:
        others = f" ({len(failed) - 1} more in {out}/sweep.csv)" if len(failed) > 1 else ""
        raise ConfigError(f"job {failed['job'].iloc[0]}: {failed['error'].iloc[0]}{others}")
    return folder, table


def _forget_refused(folder: Path) -> None:
    """Take away the notes of jobs that failed before, so that the table tells of this sweep's failures only.

    Raises:
        ConfigError: If the folder has a table that no sweep wrote.
    """
    notes = list(folder.glob(f"*/{_JOB}"))
    if not notes and (folder / "sweep.csv").exists():
        raise ConfigError(f"out={folder}: its sweep.csv is not of a sweep; choose another out=")
    for path in notes:
        if "error" in _read_note(path):
            path.unlink(missing_ok=True)
            (folder / "sweep.csv").unlink(missing_ok=True)  # written anew with the first job
            with suppress(OSError):  # it also holds a training that had begun
                path.parent.rmdir()


def _is_swept(text: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(text).is_sweep_override())
    except HydraException:
        raise ConfigError(f"{text}: the value cannot be read; quote a text with special characters") from None


def _check_plugins(texts: Sequence[str]) -> None:
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
    for text in texts:
        key, value = split_override(text)
        if key not in ("hydra/launcher", "hydra/sweeper"):
            continue
        there = ConfigStore.instance().list(key)
        known = sorted(name.removesuffix(".yaml") for name in there)
        if value not in known:
            raise ConfigError(
                f"{text}: no such {key.split('/')[1]} is installed{hint(value, known)}; "
                f"there are: {', '.join(known)}{advice.get(value, '')}"
            )


def job_folder(folder: Path, swept: Mapping[str, str]) -> Path:
    """The folder of a job: what is swept, as far as that may stand in a name, and a digest of all of it.

    Args:
        folder: The sweep's folder.
        swept: Values of the swept keys.
    """
    text = ",".join(f"{key}={value}" for key, value in sorted(swept.items()))
    slug = re.sub(r"[^\w=,.+-]+", "_", text, flags=re.ASCII)[:_LONGEST] or "only"
    return folder / f"{slug}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def sweep_job(config: Any, *, folder: Path, swept: Sequence[str], starter: int) -> float:
    """Train one combination.

    Args:
        config: What Hydra composed for it.
        folder: The sweep's folder.
        swept: Keys with several values.
        starter: Number of the process that started the sweep.

    Returns:
        The objective; small is good. NaN if the combination is impossible, so that the others go on; the
        reason stands in ``sweep.csv``.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from .train import train

    if os.getppid() == starter:  # a worker of this machine; jobs of Slurm are meant to outlive their command
        _end_with(starter)
    values = {key: unquote(value) for key, value in map(split_override, HydraConfig.get().overrides.task)}
    job: dict[str, Any] = {"swept": {key: values[key] for key in swept if key in values}}
    out = job_folder(folder, job["swept"])
    _note_job(out, job)
    register_resolver()  # a worker may be another process
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        objective = train(make_run({**plain, "out": str(out)})).objective
    except (VirtgymError, OmegaConfBaseException) as error:
        text = str(error) if isinstance(error, VirtgymError) else tell_hydra_error(error)
        _note_job(out, {**job, "error": text})
        return math.nan
    collect_sweep(folder)  # also while others still run
    return objective


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, however: a killed sweep must not train on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with the sweep").start()


def _note_job(out: Path, job: dict[str, Any]) -> None:
    def write(draft: Path) -> None:
        draft.write_text(json.dumps(job), encoding="utf-8")

    write_atomically(out / _JOB, write)


def _read_note(path: Path) -> dict[str, Any]:
    """A job's note; empty if it cannot be read."""
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) and isinstance(job.get("swept"), dict) else {}


def collect_sweep(folder: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` of the jobs in a folder.

    Args:
        folder: The sweep's folder.

    Returns:
        A row per job, best first: ``job``, every swept key, ``finished``, ``objective`` (NaN until finished),
        ``best_timesteps``, ``start``, ``end``, and ``error`` if a job failed.
    """
    import pandas as pd

    rows = []
    for path in sorted(folder.glob(f"*/{_JOB}")):
        if not (job := _read_note(path)):
            continue
        info = TrainFolder(path.parent).info()
        told = ("finished", "objective", "best_timesteps", "start", "end")
        row = {"job": path.parent.name, **job["swept"], **{key: info.get(key) for key in told}}
        rows.append(
            {**row, "finished": bool(row["finished"])} | ({"error": job["error"]} if "error" in job else {})
        )
    table = pd.DataFrame(rows)
    if rows:
        table["objective"] = pd.to_numeric(table["objective"])
        table = table.sort_values("objective", kind="stable", na_position="last").reset_index(drop=True)
        write_atomically(folder / "sweep.csv", lambda draft: table.to_csv(draft, index=False))
    return table
