"""Jobs of a sweep: what each command does with one combination of values, and what it says of it.

The cells of all jobs are one heap of work for the launcher. A job's rows of ``sweep.csv`` come when the last
of its cells has ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError, VirtgymError

from ..config.compose import Composed, Run, make_run
from ..config.launchers import Launcher, make_launcher
from ..run.folder import default_out, hold_folder, write_text
from ..run.launchers.drive import results
from ..run.launchers.engine import LostError
from ..run.rows import worst_gate
from .benchmark import Failure, Grid, Outcome, play_grids
from .progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from ..training.compose import TrainRun
    from ..training.train import TrainOutcome

Rows = list[dict[str, Any]]


class FaultError(Exception):
    """A job failed by no fault of the user's.

    Attributes:
        trace: Where.
    """

    def __init__(self, text: str, trace: str) -> None:
        super().__init__(text)
        self.trace = trace


_WAIT_S = 60.0
"""How long a training waits for one in its folder that is being ended."""


@dataclass(eq=False)
class Job:
    """One combination of a sweep.

    Attributes:
        out: Its folder.
        swept: Values of the swept keys.
        compose: Makes the command of it.
    """

    out: Path
    swept: dict[str, Any]
    compose: Callable[[], Composed]

    @property
    def what(self) -> str:
        """For people."""
        return ",".join(f"{key}={value}" for key, value in self.swept.items()) or self.out.name


def play_jobs(
    command: str, jobs: Sequence[Job], launcher: Launcher
) -> Iterator[tuple[Job, Rows | Exception]]:
    """Run jobs on a launcher.

    Args:
        command: The command.
        jobs: Combinations.
        launcher: What runs their cells.

    Yields:
        A job that has ended, and its rows of ``sweep.csv``, or what went wrong.
    """
    yield from (_train if command == "train" else _play)(command, jobs, launcher)


def _play(command: str, jobs: Sequence[Job], launcher: Launcher) -> Iterator[tuple[Job, Rows | Exception]]:
    """Jobs that play policies: their grids are one list."""
    grids: list[Grid] = []
    owners: list[tuple[Job, int]] = []
    open_jobs: dict[Job, tuple[dict[int, Outcome], int, Callable[[list[Outcome]], Rows]]] = {}
    for job in jobs:
        try:
            runs, tell = (_suite if command == "suite" else _grid)(command, job)
            mine = [
                Grid(run, ", ".join(filter(None, (job.what, name))), len(grids) + i)
                for i, (name, run) in enumerate(runs.items())
            ]
        except Exception as error:  # a job's fault stops no other job
            yield job, error
            continue
        grids += mine
        owners += [(job, i) for i in range(len(mine))]
        open_jobs[job] = {}, len(mine), tell
    for place, outcome in play_grids(grids, launcher):
        job, i = owners[place]
        outcomes, n, tell = open_jobs[job]
        outcomes[i] = outcome
        if len(outcomes) == n:
            try:
                yield job, tell([outcomes[k] for k in range(n)])
            except (VirtgymError, FaultError) as error:
                yield job, error


def _grid(command: str, job: Job) -> tuple[dict[str, Run], Callable[[list[Outcome]], Rows]]:
    composed = job.compose()
    composed.config["out"] = str(job.out)
    return {"": make_run(command, composed)}, _grid_rows


def _grid_rows(outcomes: list[Outcome]) -> Rows:
    """A row per policy: the mean of its rows' costs, and the first reason why it is not ranked."""
    _raise_first(outcomes)
    rows = []
    for policy, group in outcomes[0].rows.groupby("policy", sort=False):
        rows.append(
            {
                "policy": str(policy),
                "objective": _finite(group, "cost"),
                "energy_kwh": _finite(group, "energy_kwh"),
                "gate": worst_gate(group.get("gate", ())),
                "runs": len(group),
            }
        )
    return rows


def _suite(command: str, job: Job) -> tuple[dict[str, Run], Callable[[list[Outcome]], Rows]]:
    from ..suite.play import finish_suite, make_plan, suite_runs

    composed = job.compose()
    composed.config["out"] = str(job.out)
    plan = make_plan(composed)
    runs = suite_runs(plan)

    def tell(outcomes: list[Outcome]) -> Rows:
        """A row per policy: how far it is from the bound, 100 minus its score."""
        _raise_first(outcomes)
        found = finish_suite(plan, runs, outcomes).standings
        scores = [(one.policy, one.score.estimate, one.passed == one.runs) for one in found]
        return [
            {"policy": policy, "objective": 100.0 - score, "score": score, "passed": passed}
            for policy, score, passed in scores
        ]

    return runs, tell


def _raise_first(outcomes: Sequence[Outcome]) -> None:
    """Raise the first failure of a job's cells."""
    for failure in (failure for outcome in outcomes for failure in outcome.failures):
        if failure.trace:
            raise FaultError(f"{failure.name}: {failure.message}", failure.trace)
        raise ConfigError(f"{failure.name}: {failure.message}")


def _finite(rows: pd.DataFrame, column: str) -> float | None:
    mean = float(rows[column].mean()) if column in rows else math.nan
    return mean if math.isfinite(mean) else None


@dataclass(frozen=True)
class Training:
    """What a worker needs to know of a training.

    Attributes:
        config: As composed.
        typed: Keys of the scenario that were typed.
        own: The scenario before anything was laid over it.
        out: Its folder.
        log: File that takes what it says; None = nothing does.
        owner: Number of the main process.
    """

    config: dict[str, Any]
    typed: list[str]
    own: dict[str, Any]
    out: Path
    log: Path | None
    owner: int

    @classmethod
    def of(cls, composed: Composed, out: Path, launcher: Launcher) -> Training:
        """The training of a composed command."""
        log = None if launcher.here else out / "train.log"
        config = {**composed.config, "out": str(out)}
        return cls(config, composed.typed_scenario, composed.own_scenario, out, log, os.getpid())


def train_cell(task: Training) -> tuple[dict[str, Any] | None, Failure | None]:
    """Train; a training that was begun goes on from its checkpoint, one that is finished is not run again."""
    from ..training.compose import make_run as make_training
    from ..training.compose import register_resolver
    from ..training.train import train

    register_resolver()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold_folder(task.out, _WAIT_S))
            if task.log is not None:
                log = stack.enter_context(open(task.log, "a", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(log))
            train(make_training(task.config, task.typed, task.own))
    except (VirtgymError, OSError) as error:
        return None, Failure("", " ".join(str(error).split()), "")
    except BaseException as error:  # also SystemExit, which would end the sweep as if all were well
        if isinstance(error, KeyboardInterrupt) and os.getpid() == task.owner:
            raise  # Ctrl-C; workers do not get it
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None, Failure("", line, traceback.format_exc())
    return train_row(task.out), None


def train_row(out: Path) -> dict[str, Any]:
    """What the table says of a finished training in a folder."""
    from ..training.folder import TrainFolder

    info = TrainFolder(out).info()
    return {key: info.get(key) for key in ("objective", "best_timesteps", "start", "end")}


def train_here_or_elsewhere(composed: Composed, run: TrainRun) -> TrainOutcome:
    """Train, on a launcher if it is not of this machine, and wait for it.

    Args:
        composed: The command.
        run: The training that was made of it.

    Raises:
        ConfigError: If the training is refused, or failed by a fault of the user's.
    """
    from ..training.train import train

    out = Path(run.config["out"] or default_out(f"{run.agent.name}-{run.scenario['name']}"))
    run.config["out"] = composed.config["out"] = str(out)
    launcher = make_launcher(composed.config, out)
    elsewhere = launcher.config.name != "local"
    if elsewhere:
        ((_, gave),) = play_jobs("train", [Job(out, {}, lambda: composed)], launcher)
        if isinstance(gave, FaultError):
            write_text(out / "error.log", gave.trace)
            raise RuntimeError(f"{gave} (log: {out / 'error.log'})") from gave
        if isinstance(gave, Exception):
            raise gave
    with hold_folder(out):
        outcome = train(run)  # only read, if it is finished
    if outcome.before and not elsewhere:
        print(f"{outcome.out}: finished before; another out= trains anew", file=sys.stderr)
    return outcome


def _train(command: str, jobs: Sequence[Job], launcher: Launcher) -> Iterator[tuple[Job, Rows | Exception]]:
    """Jobs that train: each is one cell."""
    tasks: list[Training] = []
    owners: dict[Path, Job] = {}
    for job in jobs:
        try:
            tasks.append(Training.of(job.compose(), job.out, launcher))
        except Exception as error:  # a job's fault stops no other job
            yield job, error
            continue
        owners[job.out] = job
    # Trainings in this process show a bar of their own.
    with nullcontext() if launcher.here else Progress(len(tasks)) as progress:
        for task, gave in results(tasks, train_cell, launcher, lambda gave: bool(gave[1] and gave[1].trace)):
            if isinstance(gave, LostError):
                gave = None, Failure("", f"{gave}; the same command goes on with it", str(gave))
            row, failure = gave
            job = owners[task.out]
            if progress is not None:
                text = f"failed: {failure.message}" if failure else f"objective {(row or {})['objective']}"
                progress.tick(job.what, text)
            if failure is None:
                yield job, [row or {}]
            elif failure.trace:
                yield job, FaultError(failure.message, failure.trace)
            else:
                yield job, ConfigError(failure.message)
