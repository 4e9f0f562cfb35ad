"""Sweeps: ``virtgym train … -m``, one training per combination of values, by Hydra's own machinery.

Hydra's sweeper makes the combinations and its launcher runs them, so that every launcher and sweeper plugin
works: the basic ones, ``hydra/launcher=joblib``, and whatever else is installed. A job is ``sweep_job``: it
trains in a folder that is named by what is swept, and returns its objective. A job that is finished is not
run again, one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.files import write_atomically
from virtgym.envs.sim.errors import ConfigError, VirtgymError

from .overrides import hint, split_override, unquote
from .train_compose import check_train_keys, make_run, store_schemas
from .train_folder import TrainFolder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["collect_sweep", "is_sweep", "run_sweep", "sweep_job"]

_FLAGS = ("-m", "--multirun")
_JOB = "job.json"


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
    fixed = [split_override(text)[0] for text in texts if not _is_swept(text)]
    unnamed = ",".join(sorted({key for key in fixed if not key.startswith("hydra")}))
    texts.append(f"hydra.job.config.override_dirname.exclude_keys=[{unnamed}]")
    store_schemas()
    _check_plugins(texts)
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2("train", create_config_search_path("pkg://virtgym.conf"))
        hydra.multirun("train", sweep_job, texts, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    finally:
        GlobalHydra.instance().clear()
        collect_sweep(Path(out))
    table = collect_sweep(Path(out))
    if "error" in table and (failed := table[table["error"].notna()]).size:
        others = f" ({len(failed) - 1} more in {out}/sweep.csv)" if len(failed) > 1 else ""
        raise ConfigError(f"job {failed['job'].iloc[0]}: {failed['error'].iloc[0]}{others}")
    return Path(out), table


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
    extras = {
        "joblib": "sweep",
        "optuna": "sweep",
        "ray": "ray",
        "submitit_local": "slurm",
        "submitit_slurm": "slurm",
    }
    for text in texts:
        key, value = split_override(text)
        if key not in ("hydra/launcher", "hydra/sweeper"):
            continue
        there = ConfigStore.instance().list(key)
        known = sorted(name.removesuffix(".yaml") for name in there)
        if value not in known:
            install = f"; install it: pip install 'virtgym[{extras[value]}]'" if value in extras else ""
            raise ConfigError(
                f"{text}: no such {key.split('/')[1]} is installed{hint(value, known)}; "
                f"there are: {', '.join(known)}{install}"
            )


def sweep_job(config: Any) -> float:
    """Train one combination.

    Args:
        config: What Hydra composed for it.

    Returns:
        The objective; small is good. NaN if the combination is impossible, so that the others go on; the
        reason stands in ``sweep.csv``.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from .train import train

    hydra = HydraConfig.get()
    out = Path(hydra.runtime.output_dir)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    skipped = set(hydra.job.config.override_dirname.exclude_keys)
    swept = dict(split_override(text) for text in hydra.overrides.task)
    job = {"swept": {k: v for k, v in swept.items() if k not in skipped}}
    _note_job(out, job)
    try:
        objective = train(make_run({**plain, "out": str(out)})).objective
    except VirtgymError as error:
        _note_job(out, {**job, "error": str(error)})
        return math.nan
    collect_sweep(out.parent)  # also while others still run
    return objective


def _note_job(out: Path, job: dict[str, Any]) -> None:
    def write(draft: Path) -> None:
        draft.write_text(json.dumps(job), encoding="utf-8")

    write_atomically(out / _JOB, write)


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
        try:
            job = json.loads(path.read_text(encoding="utf-8"))
            info = TrainFolder(path.parent).info()
            told = ("finished", "objective", "best_timesteps", "start", "end")
            row = {"job": path.parent.name, **job["swept"], **{key: info.get(key) for key in told}}
        except (OSError, ValueError, KeyError):
            continue
        rows.append(
            {**row, "finished": bool(row["finished"])} | ({"error": job["error"]} if "error" in job else {})
        )
    table = pd.DataFrame(rows)
    if rows:
        table["objective"] = pd.to_numeric(table["objective"])
        table = table.sort_values("objective", kind="stable", na_position="last").reset_index(drop=True)
        write_atomically(folder / "sweep.csv", lambda draft: table.to_csv(draft, index=False))
    return table
