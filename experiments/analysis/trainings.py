"""What trainings and sweeps have left in their folders, and curves over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from virtgym.envs.arrays import F8
from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import one_line, read_bytes

from ..config.yamlio import YamlError, flat, load_yaml
from .stats import Interval, mean_interval

N_POINTS = 200
"""Points of a curve, at most."""

SEED = "seed"
"""The key over whose values means are taken."""

_SAME = ("out", "tensorboard", "tracker", "checkpoint_every", "device", "seeds", SEED)
"""Keys that do not tell settings apart."""


@dataclass(frozen=True)
class TrainingData:
    """A training's folder.

    Attributes:
        path: The folder.
        agent: Name of the agent.
        scenario: Name of the scenario.
        seed: Its seed.
        keys: What else it was started with, by dotted keys.
        progress: A row per evaluation.
        finished: Whether it has ended.
        unit: Of its objective; empty = it does not say.
    """

    path: Path
    agent: str
    scenario: str
    seed: int
    keys: Mapping[str, Any]
    progress: pd.DataFrame
    finished: bool
    unit: str = ""

    @property
    def best(self) -> float:
        """Least objective of all evaluations."""
        return float(self.progress["objective"].min())


def is_training(folder: Path) -> bool:
    """Whether a training wrote a folder."""
    return (folder / "train.json").is_file()


def is_sweep(folder: Path) -> bool:
    """Whether a sweep, or a training over several seeds, wrote a folder."""
    return any(True for _ in folder.glob("*/job.json"))


def read_training(folder: Path) -> TrainingData | None:
    """Read a training's folder; None if it has not been evaluated yet.

    Raises:
        VirtgymError: If a file in it is damaged.
    """
    if not (folder / "progress.csv").exists():
        return None
    try:
        config = load_yaml(_text(folder / "config.yaml"))
        info = json.loads(_text(folder / "train.json"))
        progress = pd.read_csv(folder / "progress.csv")
        keys = flat(config)
        numbers = progress.select_dtypes("number")
        if not {"timesteps", "objective"} <= set(numbers) or not len(numbers):
            raise ValueError("progress.csv: has no columns timesteps and objective")
        kept = {k: v for k, v in keys.items() if k.split(".")[0] not in (*_SAME, "scenario")}
        names = str(keys["agent.name"]), str(keys["scenario.name"])
        unit = str(info.get("unit") or "")[:40]
        return TrainingData(folder, *names, int(keys[SEED]), kept, numbers, bool(info.get("finished")), unit)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YamlError) as error:
        raise VirtgymError(f"report {folder}: is no training that can be read ({one_line(error)})") from None


def _text(path: Path) -> str:
    return read_bytes(path, refusal=VirtgymError).decode("utf-8")


def read_sweep(folder: Path) -> pd.DataFrame:
    """The table of a sweep.

    Raises:
        VirtgymError: If there is none, or it is damaged.
    """
    path = folder / "sweep.csv"
    if not path.exists():
        raise VirtgymError(f"report {folder}: no sweep.csv in it yet; no job has finished")
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise VirtgymError(f"report {path}: damaged ({one_line(error)})") from None
    if not {"job", "finished", "objective"} <= set(table):
        raise VirtgymError(f"report {path}: has no columns job, finished and objective")
    return table


def swept_keys(table: pd.DataFrame) -> list[str]:
    """What was swept: columns between the job and whether it has finished."""
    columns = [str(name) for name in table]
    return columns[columns.index("job") + 1 : columns.index("finished")]


@dataclass(frozen=True)
class SettingResult:
    """What a setting of a sweep gave.

    Attributes:
        values: Values of the swept keys but the seed.
        objective: Mean over jobs, with Student's t interval: those of the values of ``seed``.
        runs: Runs that it is a mean of; a job of several seeds has several.
    """

    values: Mapping[str, Any]
    objective: Interval
    runs: int


def settings_of(table: pd.DataFrame) -> list[SettingResult]:
    """The settings of a sweep with their objectives, best first; jobs that gave none are left out.

    Args:
        table: As of ``read_sweep``.
    """
    keys = [key for key in swept_keys(table) if key != SEED]
    done = table[table["objective"].notna()]
    if "policy" in table and "policy" not in keys and done["job"].duplicated().any():
        keys.append("policy")  # a job of several has a row of each
    groups = done.groupby(keys, sort=False, dropna=False) if keys else [((), done)]
    found = [
        SettingResult(dict(zip(keys, values)), mean_interval(rows["objective"]), _runs(rows))
        for values, rows in groups
    ]
    return sorted((one for one in found if one.objective.n), key=lambda one: one.objective.estimate)


def _runs(rows: pd.DataFrame) -> int:
    """Runs of some jobs; a sweep that does not say how many has one each."""
    return int(rows["runs"].fillna(1).sum()) if "runs" in rows else len(rows)


@dataclass(frozen=True)
class Curve:
    """A mean over seeds along the training.

    Attributes:
        x: Decisions.
        mean: Mean of the seeds.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end.
        n: Seeds.
    """

    x: F8
    mean: F8
    low: F8
    high: F8
    n: int


def curve(runs: Sequence[TrainingData], column: str) -> Curve | None:
    """A column of ``progress.csv`` over the decisions that all runs have made, mean over runs.

    Args:
        runs: Trainings of one setting.
        column: The column.
    """
    parts = []
    for run in runs:
        table = run.progress
        known = table[table[column].notna()] if column in table else table[:0]
        if len(known):
            parts.append((known["timesteps"].to_numpy(float), known[column].to_numpy(float)))
    if not parts:
        return None
    low, high = max(x[0] for x, _ in parts), min(x[-1] for x, _ in parts)
    grid = np.unique(np.concatenate([x for x, _ in parts]))
    grid = grid[(grid >= low) & (grid <= high)]
    if not len(grid):
        return None
    if len(grid) > N_POINTS:
        grid = np.linspace(low, high, N_POINTS)
    values = np.array([np.interp(grid, x, y) for x, y in parts])
    ends = [mean_interval(at) for at in values.T]
    mean, below, above = (
        np.array([getattr(one, key) for one in ends]) for key in ("estimate", "low", "high")
    )
    return Curve(grid, mean, below, above, len(parts))


def group_trainings(runs: Sequence[TrainingData]) -> dict[str, list[TrainingData]]:
    """Trainings of one setting together, by what tells the settings apart."""
    keys = [{"agent": r.agent, "scenario": r.scenario, **r.keys} for r in runs]
    every = sorted({key for one in keys for key in one})
    differing = [key for key in every if len({str(one.get(key)) for one in keys}) > 1]
    if "agent" in differing:  # settings that agents do not share say nothing more
        differing = [key for key in differing if all(key in one for one in keys)]
        differing = [key for key in differing if key != "agent.name" and key != "agent.description"]
    found: dict[str, list[TrainingData]] = {}
    for run, mine in zip(runs, keys):
        name = ", ".join(f"{key}={mine.get(key)}" for key in differing if key != "agent.description")
        found.setdefault(name or run.agent, []).append(run)
    return found
