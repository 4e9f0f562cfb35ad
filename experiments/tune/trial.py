"""One trial: a setting, played with every seed in their order, pruned when it looks bad in between."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError, VirtgymError
from virtgym.envs.files import one_line

from ..run.cell import load_scenario, make_cell, run_cell
from ..run.rows import rows_frame, worst_gate
from .plan import Plan
from .space import Setting

if TYPE_CHECKING:
    import optuna
    import pandas as pd

ASHA_ETA = 2
"""Of trials that come to a rung of successive halving one in so many goes on."""


@dataclass(frozen=True)
class Task:
    """What a process needs to know of a trial.

    Attributes:
        plan: The study.
        number: Number of the trial; None = the default setting, which is no trial.
        ident: Optuna's number of it, of all studies in a storage.
        setting: Its values.
        owner: Number of the main process.
    """

    plan: Plan
    number: int | None
    ident: int
    setting: Setting
    owner: int

    @property
    def name(self) -> str:
        """For people."""
        return f"trial {self.number}" if self.number is not None else "default"

    @property
    def folder(self) -> Path:
        """Where its trainings lie."""
        return self.plan.out / "trials" / ("default" if self.number is None else str(self.number))


@dataclass(frozen=True)
class Played:
    """What a trial gave.

    Attributes:
        values: Means over the seeds, one per objective; None if it was pruned or failed.
        error: Why it failed, one line.
        trace: Where; empty for a user's error.
    """

    values: tuple[float, ...] | None = None
    error: str = ""
    trace: str = ""


class _Pruned(Exception):
    """The trial looks bad."""


def open_study(plan: Plan, create: bool = False) -> optuna.Study:
    """The study in its storage.

    Args:
        plan: What it is.
        create: Whether it is made where there is none.

    Raises:
        ConfigError: If a database cannot be opened, or the journal is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    pruner = {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(),
        "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ASHA_ETA),
    }[str(plan.config.pruning)]

    def of(storage: Any) -> optuna.Study:
        shared: Any = {"study_name": f"virtgym-{plan.identity}", "storage": storage, "pruner": pruner}
        shared["sampler"] = optuna.samplers.RandomSampler()  # draws nothing: each trial has its own
        if not create:
            return optuna.load_study(**shared)
        directions = [optuna.study.StudyDirection.MINIMIZE] * len(plan.objectives)
        return optuna.create_study(directions=directions, load_if_exists=True, **shared)

    if plan.config.storage is None:
        journal = plan.out / "study.journal"
        try:
            return of(optuna.storages.JournalStorage(JournalFileBackend(str(journal))))
        except Exception as error:  # the edge: Optuna carries out what anyone may have written there
            why = f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(
                f"{journal}: damaged ({why}); delete that folder, or choose another out="
            ) from error
    try:
        return of(optuna.storages.RDBStorage(plan.config.storage))
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"storage={plan.config.storage}: cannot be opened ({why})") from None


def play(task: Task) -> Played:
    """Play a trial in this process; an error is a result, so that it stops no other trial."""
    trial, begun = None, time.perf_counter()
    try:
        trial = None if task.number is None else _open_trial(task)
        run = _play_policy if task.plan.config.what == "policy" else _train_agents
        return Played(run(task, trial))
    except _Pruned:
        return Played()
    except VirtgymError as error:
        return Played(error=" ".join(str(error).splitlines()))
    except BaseException as error:  # also SystemExit, which would end the study as if all were well
        if isinstance(error, KeyboardInterrupt) and os.getpid() == task.owner:
            raise  # Ctrl-C; workers do not get it
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return Played(error=message, trace=traceback.format_exc())
    finally:
        if trial is not None:  # Optuna's own count goes on while a study is interrupted
            spent = time.perf_counter() - begun + trial.user_attrs.get("seconds", 0.0)
            trial.set_user_attr("seconds", spent)


def _open_trial(task: Task) -> optuna.Trial:
    import optuna

    return optuna.Trial(open_study(task.plan), task.ident)


def _report(task: Task, trial: optuna.Trial | None, step: int, value: float, last: bool) -> None:
    """Tell how a trial goes so far, and end it if it looks bad."""
    if trial is None or task.plan.config.pruning == "none":
        return
    if step not in trial.study.trials[trial.number].intermediate_values:  # else of a process that was killed
        trial.report(value, step)
    if not last and trial.should_prune():
        raise _Pruned


def _play_policy(task: Task, trial: optuna.Trial | None) -> tuple[float, ...]:
    """Play the scenario with every seed; what a process that was killed has played is not played again."""
    plan, every = task.plan, []
    spec = plan.policy(task.setting)
    for i, (path, seed) in enumerate(plan.repetitions):
        known = None if trial is None else trial.user_attrs.get(f"run {i}")
        if known is None:
            scenario = load_scenario(plan.scenario, seed, {"trace.path": path} if path else None)
            rows = rows_frame(run_cell(make_cell(scenario, spec), seed).rows)
            known = [*_means(plan, rows), worst_gate(rows["gate"])]
            if trial is not None:
                trial.set_user_attr(f"run {i}", known)
        every.append([float(value) for value in known[:-1]])
        so_far = sum(one[0] for one in every) / len(every)
        _report(task, trial, i + 1, so_far, last=len(every) == len(plan.repetitions))
    return tuple(sum(values) / len(values) for values in zip(*every))


def _train_agents(task: Task, trial: optuna.Trial | None) -> tuple[float, ...]:
    """Train with every seed; a training that was begun goes on from its checkpoint."""
    import pandas as pd

    from ..training.compose import compose_training
    from ..training.train import train

    plan, seeds = task.plan, task.plan.config.seeds or []
    every: list[float] = []
    steps = 0
    typed = [*plan.fixed, *(f"{key}={text}" for key, text in task.setting.items())]
    for i, seed in enumerate(seeds):
        out = task.folder / f"seed-{seed}"
        run = compose_training([*typed, f"seed={seed}", f"out={out}", "tensorboard=false"])

        def watch(history: list[dict[str, Any]], i: int = i, before: int = steps) -> None:
            now, end = history[-1]["timesteps"], run.config["total_timesteps"]  # noqa: B023 - called in its turn
            best = [*every, _best(pd.DataFrame(history))]
            if now > 0:  # else it has learned nothing
                last = i + 1 == len(seeds) and now >= end
                _report(task, trial, before + len(history), sum(best) / len(best), last)

        task.folder.mkdir(parents=True, exist_ok=True)
        with open(out.with_suffix(".log"), "a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
            outcome = train(run, watch)
        history = pd.read_csv(out / "progress.csv")
        steps += len(history)
        mine = outcome.rows[outcome.rows["policy"] == str(out / "agent")]
        every.append(_best(history))
        if trial is not None:
            trial.set_user_attr(f"run {i}", [every[-1], worst_gate(mine["gate"])])
    return (sum(every) / len(every),)


def _best(history: pd.DataFrame) -> float:
    """The least objective of a training; the network that has learned nothing does not count."""
    learned = history[history["timesteps"] > 0]
    return float((learned if len(learned) else history)["objective"].min())


def _means(plan: Plan, rows: pd.DataFrame) -> list[float]:
    found = [float(rows[name].mean()) for name in plan.objectives]
    for name, value in zip(plan.objectives, found):
        if not math.isfinite(value):
            raise ConfigError(f"objectives: {name}: has no value in scenario={plan.scenario['name']}")
    return found
