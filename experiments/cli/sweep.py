"""Sweeps: ``virtgym COMMAND … -m``, one job per combination of values, by Hydra's own machinery.

Hydra's sweeper makes the combinations. ``launcher=`` runs the cells of all jobs as one heap of work; with
``hydra/launcher=joblib``, or whatever else is installed, it is Hydra's launcher that runs the jobs, each in a
process of its own (``sweep_job``). A job has a folder of its own in the sweep's, named by what is swept.
What a job is and gave stands in its ``job.json``, never in a name: a job that is finished is not run again,
one that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.checks import hint
from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import write_atomically
from virtgym.envs.scenarios.choices import FOLDERS, STORED, search_path

from ..config.compose import CONFIG_NAMES, Composed, hydra_overrides, parse_override, told_in_one_line
from ..config.launchers import Launcher, LocalConfig, make_launcher
from ..config.overrides import plain_value, quote
from ..run.folder import default_out, hold_folder, write_text
from ..run.launchers.engine import end_with
from .jobs import FaultError, Job, play_jobs

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
    texts = hydra_overrides(command, arguments, sweep=True)
    parsed = [parse_override(text) for text in texts]
    out = next((str(plain_value(o.value())) for o in reversed(parsed) if o.key_or_group == "out"), "")
    if not out:
        out = default_out("sweep").as_posix()
        texts.append(f"out={out}")
        parsed.append(parse_override(texts[-1]))
    if not any(o.key_or_group == "hydra.sweep.dir" for o in parsed):
        texts.append(f"hydra.sweep.dir={quote(out)}")
    folder = Path(out)
    _check_plugins(parsed)
    by_hydra = any(o.key_or_group == "hydra/launcher" for o in parsed)
    if by_hydra and any(o.key_or_group.split(".")[0] == "launcher" for o in parsed):
        raise ConfigError("launcher, hydra/launcher: choose one of them")
    told = _Told(command, folder, frozenset(o.get_key_element() for o in parsed if not o.is_sweep_override()))
    from hydra.core.global_hydra import GlobalHydra

    try:
        with hold_folder(folder), told_in_one_line(texts):
            forget_failures(folder)
            try:
                _multirun(told, texts, by_hydra)
            finally:
                collect_sweep(folder)
    finally:
        GlobalHydra.instance().clear()
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


@dataclass(frozen=True)
class _Told:
    """What every job of a sweep is told.

    Attributes:
        command: The command.
        folder: The sweep's folder.
        fixed: Keys with one value.
        typed: What was typed for choices that Hydra knows by another name.
        folders: Search path, which another process does not have.
        starter: Number of the process that started the sweep.
    """

    command: str
    folder: Path
    fixed: frozenset[str]
    typed: Mapping[str, str] = field(default_factory=lambda: dict(STORED))
    folders: tuple[str, ...] = field(default_factory=lambda: tuple(FOLDERS))
    starter: int = field(default_factory=os.getpid)

    def begin(self, config: Any, own: Any) -> Job:
        """Note a job.

        Args:
            config: What Hydra composed for it.
            own: Hydra's own part of that.
        """
        mine = [parse_override(text) for text in own.overrides.task]
        keys = {o.key_or_group: plain_value(o.value()) for o in mine if o.get_key_element() not in self.fixed}
        swept = {key: self.typed.get(str(value), value) for key, value in keys.items()}
        job = Job(job_folder(self.folder, swept), swept, partial(Composed.of, config, own, swept))
        note_job(job.out, {"swept": swept})
        return job

    def end(self, job: Job, gave: list[dict[str, Any]] | Exception) -> float:
        """Note what a job gave.

        Returns:
            The objective; small is good. NaN if the job failed, so that the others go on; the reason stands
            in ``sweep.csv``.
        """
        note: dict[str, Any] = {"swept": job.swept}
        if not isinstance(gave, Exception):
            note |= {"rows": gave}
        elif isinstance(gave, (VirtgymError, OSError)):
            note |= {"error": " ".join(str(gave).split())}
        else:
            where = job.out / "error.log"
            if isinstance(gave, FaultError):
                text, line = gave.trace, str(gave)
            else:
                text, line = "".join(traceback.format_exception(gave)), f"{type(gave).__name__}: {gave}"
            write_text(where, text)
            note |= {"error": f"{' '.join(line.split())} (log: {where})", "internal": True}
        note_job(job.out, note)
        collect_sweep(self.folder)  # also while others still run
        found = [row["objective"] for row in note.get("rows", ()) if row["objective"] is not None]
        return float(sum(found) / len(found)) if found else math.nan


def _multirun(told: _Told, texts: list[str], by_hydra: bool) -> None:
    """Let Hydra's sweeper make the combinations, and its launcher or ours run them."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    GlobalHydra.instance().clear()
    name = CONFIG_NAMES[told.command]
    hydra = Hydra.create_main_hydra2(told.command, search_path())
    config = hydra.compose_config(name, texts, RunMode.MULTIRUN, with_log_configuration=False)
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=name)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
    job = partial(sweep_job, told=told)
    sweeper: Any = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=job
    )
    if not by_hydra:
        sweeper.launcher = _cell_launcher(told, config, hydra.config_loader)
    sweeper.sweep(arguments=list(config.hydra.overrides.task))
    callbacks.on_multirun_end(config=config, config_name=name)


def _cell_launcher(told: _Told, config: Any, loader: Any) -> Any:
    """A launcher, in Hydra's sense, that gives the cells of all jobs to ``launcher=``."""
    from hydra.core.utils import JobReturn, JobStatus
    from hydra.plugins.launcher import Launcher as HydraLauncher
    from omegaconf import flag_override

    class CellLauncher(HydraLauncher):
        def setup(self, **_: Any) -> None:
            pass

        def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
            jobs, launcher = [], Launcher(LocalConfig())
            for overrides in job_overrides:
                mine = loader.load_sweep_config(config, list(overrides))
                own, launcher = mine.hydra, make_launcher(mine, told.folder)  # the same in all jobs
                with flag_override(mine, ["struct", "readonly"], [False, False]):
                    del mine["hydra"]
                jobs.append(told.begin(mine, own))
            objectives = {
                job.out: told.end(job, gave) for job, gave in play_jobs(told.command, jobs, launcher)
            }
            values = [objectives[job.out] for job in jobs]
            return [JobReturn(_return_value=value, status=JobStatus.COMPLETED) for value in values]

    return CellLauncher()


def sweep_job(config: Any, *, told: _Told) -> float:
    """Run one combination, in a process of one of Hydra's launchers.

    Args:
        config: What Hydra composed for it.
        told: What every job is told.

    Returns:
        The objective.
    """
    from hydra.core.hydra_config import HydraConfig

    end_with(told.starter)  # a worker of this machine; jobs of Slurm are meant to outlive their command
    FOLDERS[:] = told.folders
    if told.command == "train":
        from ..training.compose import register_resolver

        register_resolver()  # a worker may be another process
    job = told.begin(config, HydraConfig.get())
    launcher = make_launcher({"workers": config.workers}, job.out)
    ((_, gave),) = play_jobs(told.command, [job], launcher)
    return told.end(job, gave)


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
