"""Scores: 0 = the task's reference policy, 100 = its bound, and one number over all tasks."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from virtgym.envs.sim.models.cost import GATE_OK

from ..analysis.stats import Interval, iqm_statistic, stratified_bootstrap
from .tasks import Suite, Task

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("task", "policy", "seed", "cost", "static", "bound", "score", "gate")
"""Columns of ``suite.csv``: a line per task, policy and seed."""


@dataclass(frozen=True)
class Standing:
    """A policy over all tasks.

    Attributes:
        policy: Its name.
        score: Interquartile mean of its counted scores, with a 95 % interval that resamples seeds within
            tasks.
        tasks: Its mean counted score by task; NaN where it does not play.
        passed: Runs that passed the gate.
        runs: Runs.
        missing: Tasks of the kinds it plays that it has no run of, which count 0.
        kinds: Kinds of tasks that it plays; tasks of other kinds are none of its business.
    """

    policy: str
    score: Interval
    tasks: dict[str, float]
    passed: int
    runs: int
    missing: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The tasks of one kind that were played, and who played them.

    Attributes:
        kind: Kind of task.
        tasks: Tasks, in the suite's order.
        standings: Policies, best first.
    """

    kind: str
    tasks: tuple[Task, ...]
    standings: tuple[Standing, ...]


def score(cost: float, static: float, bound: float) -> float:
    """``100 (static - cost) / (static - bound)``: 0 = as dear as the reference, 100 = the bound.

    NaN where the reference is at the bound already, so that there is nothing to gain.
    """
    room = static - bound
    return 100.0 * (static - cost) / room if room > 0 else math.nan


def counted(score: float, gate: str) -> float:
    """What a run counts: its score; no more than 0 if it did not pass the gate; 0 if it has none."""
    if not math.isfinite(score):
        return 0.0
    return score if gate == GATE_OK else min(0.0, score)


def standings(suite: Suite, table: pd.DataFrame) -> list[Standing]:
    """Policies over all tasks of the kinds they play, those of most tasks first, then best first.

    Args:
        suite: The suite.
        table: Lines of ``suite.csv``.
    """
    found = []
    played = {task.name: task.kind for task in suite.tasks if task.name in set(table["task"])}
    for policy, mine in table.groupby("policy", sort=False):
        kinds = tuple(dict.fromkeys(played[name] for name in mine["task"]))
        names = [name for name, kind in played.items() if kind in kinds]
        runs = {name: _counted(mine[mine["task"] == name]) for name in names}
        missing = tuple(name for name, values in runs.items() if not len(values))
        each = max(len(values) for values in runs.values())
        values = [np.zeros(each) if name in missing else runs[name] for name in names]
        rng = np.random.default_rng(zlib.crc32(str(policy).encode()))
        found.append(
            Standing(
                str(policy),
                stratified_bootstrap(values, rng, statistic=iqm_statistic),
                {name: float(v.mean()) if len(v) else math.nan for name, v in runs.items()},
                int((mine["gate"] == GATE_OK).sum()),
                len(mine),
                missing,
                kinds,
            )
        )
    return sorted(found, key=lambda s: (-len(s.tasks), -s.score.estimate, s.policy))


def parts(suite: Suite, table: pd.DataFrame, found: Sequence[Standing]) -> list[Part]:
    """What was played by kind of task: policies of different kinds never play the same tasks.

    Args:
        suite: The suite.
        table: Lines of ``suite.csv``.
        found: Policies, best first.
    """
    played = [task for task in suite.tasks if task.name in set(table["task"])]
    return [
        Part(
            kind,
            tuple(task for task in played if task.kind == kind),
            tuple(one for one in found if kind in one.kinds),
        )
        for kind in dict.fromkeys(task.kind for task in played)
    ]


def _counted(rows: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([counted(s, g) for s, g in zip(rows["score"], rows["gate"])], dtype=np.float64)
