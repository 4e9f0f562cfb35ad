"""The grid: policies x seeds, in parallel, resumable after anything."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import VirtgymError

from ..config.compose import Run
from ..config.overrides import PolicySpec
from ..run.cell import load_scenario, make_cell, run_cell, scenario_hash
from ..run.folder import RunFolder, default_out
from ..run.pool import KILLED, results
from .progress import Progress

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Failure:
    """A cell that did not finish.

    Attributes:
        name: Policy and seed.
        message: What went wrong, one line.
        trace: Where; empty for a user's error.
    """

    name: str
    message: str
    trace: str


@dataclass(frozen=True)
class Outcome:
    """What a benchmark gave.

    Attributes:
        out: Run folder.
        rows: Rows of the cells that were asked for and are finished, this time or before.
        skipped: Cells that were finished before.
        failures: Cells that failed.
    """

    out: Path
    rows: pd.DataFrame
    skipped: int
    failures: tuple[Failure, ...]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: what is finished is kept; the text says how to go on."""


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know of a cell."""

    scenario: dict[str, Any]
    policy: PolicySpec
    env: dict[str, Any]
    seed: int
    out: Path
    identity: str
    owner: int

    @property
    def name(self) -> str:
        return f"{self.policy.label} seed {self.seed}"


_Result = tuple[list[dict[str, Any]] | None, Failure | None]
"""Result rows of a task, and why there are none."""


def benchmark(run: Run, what: str = "") -> Outcome:
    """Run a grid; cells that its folder holds already are not run again.

    Args:
        run: What to run.
        what: What the grid belongs to, as its progress says it; empty where there is only one.

    Returns:
        Rows and failures.

    Raises:
        VirtgymError: For a user's error that concerns all cells.
        Interrupted: After Ctrl-C.
    """
    out = Path(run.config["out"] or default_out(str(run.scenario.get("name"))))
    first = load_scenario(run.scenario, run.seeds[0])
    hashes = {spec.label: make_cell(first, spec, env=run.env).config_hash for spec in run.policies}
    folder = RunFolder(out, scenario_hash(first, run.env))
    folder.open(run.config, run.seeds)
    wanted = [(spec, seed) for seed in run.seeds for spec in run.policies]
    tasks = [
        _Task(run.scenario, spec, run.env, seed, out, folder.identity, os.getpid())
        for spec, seed in wanted
        if folder.read_cell(spec.label, seed, hashes[spec.label]) is None
    ]
    skipped = len(wanted) - len(tasks)
    with Progress(len(tasks), what) as progress:
        if skipped:
            progress.note(f"skipped {skipped} finished cell{'s' * (skipped > 1)} of {len(wanted)} in {out}")
        for text in folder.damaged.values():
            progress.note(f"damaged, run again: {text}")
        try:
            failures = _run_all(tasks, int(run.config["workers"]), progress)
        except KeyboardInterrupt:
            failures = None
    order = [(label, seed) for label in hashes for seed in run.seeds]
    rows = folder.collect(order)
    for text in folder.damaged.values():
        print(f"damaged, left out: {text}", file=sys.stderr)
    folder.finish(finished=failures == ())
    if failures is None:
        kept = sum(folder.read_cell(policy, seed) is not None for policy, seed in order)
        raise Interrupted(
            f"interrupted: {kept} of {len(order)} cells are kept in {out}; "
            f"the same command with out={out} runs the rest"
        )
    asked = set(order)
    mine = [pair in asked for pair in zip(rows["policy"], rows["seed"])]
    return Outcome(out, rows[mine].reset_index(drop=True), skipped, failures)


def _run_all(tasks: Sequence[_Task], workers: int, progress: Progress) -> tuple[Failure, ...]:
    failures = []
    for task, result in results(tasks, _work, min(workers, len(tasks))):
        rows, failure = result or (None, Failure(task.name, KILLED, "the process ended without a result"))
        progress.advance(task.name, rows, failure.message if failure else None)
        if failure:
            failures.append(failure)
    return tuple(failures)


def _work(task: _Task) -> _Result:
    """Run a cell and store it, in this process; an error is a result, so that it stops no other cell."""
    try:
        scenario = load_scenario(task.scenario, task.seed)
        result = run_cell(make_cell(scenario, task.policy, env=task.env), task.seed)
        RunFolder(task.out, task.identity).write_cell(result)
    except VirtgymError as error:
        return None, Failure(task.name, str(error), "")
    except BaseException as error:  # also SystemExit, which would end the grid as if all were well
        if isinstance(error, KeyboardInterrupt) and os.getpid() == task.owner:
            raise  # Ctrl-C; workers do not get it
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, Failure(task.name, message, traceback.format_exc())
    return result.rows, None
