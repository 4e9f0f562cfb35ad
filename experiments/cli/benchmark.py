"""Grids of cells: policies x seeds of one scenario or many, on any launcher, resumable after anything."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError, VirtgymError

from ..config.compose import Run
from ..config.launchers import Launcher, make_launcher
from ..config.overrides import PolicySpec
from ..run.cell import load_scenario, make_cell, run_cell, scenario_hash
from ..run.folder import RunFolder, UnwritableError, cell_name, default_out, hold_folder, write_text
from ..run.launchers.drive import results
from ..run.launchers.engine import LostError
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
        log: File that holds the trace; empty without one.
        full: Whether its folder cannot be written.
    """

    name: str
    message: str
    trace: str
    log: str = ""
    full: bool = False


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
    """What a worker needs to know of a cell.

    Attributes:
        grid: Place of its grid.
        scenario: As ``load_scenario`` takes it.
        policy: The policy.
        env: Arguments of the environment.
        seed: Seed.
        out: Run folder.
        identity: What the folder is for.
        owner: Number of the main process.
    """

    grid: int
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


class Grid:
    """The cells of one run folder.

    Attributes:
        what: What it belongs to, as its progress says it; empty where there is only one.
        folder: The folder.
        order: Labels and seeds of all that are asked for.
        hashes: Fingerprint of each policy's cells.
        tasks: Cells that are not there.
        left: How many of them are still to come.
        failures: Those that failed.
    """

    def __init__(self, run: Run, what: str = "", place: int = 0) -> None:
        """Check a run and open its folder.

        Args:
            run: What to run.
            what: What it belongs to.
            place: Its place among all grids.

        Raises:
            VirtgymError: For a user's error that concerns all cells.
        """
        self.what = what
        out = Path(run.config["out"] or default_out(str(run.scenario.get("name"))))
        first = load_scenario(run.scenario, run.seeds[0])
        self.hashes = {spec.label: make_cell(first, spec, env=run.env).config_hash for spec in run.policies}
        self.folder = RunFolder(out, scenario_hash(first, run.env))
        self.folder.open(run.config, run.seeds)
        self.order = [(label, seed) for label in self.hashes for seed in run.seeds]
        self.tasks = [
            _Task(place, run.scenario, spec, run.env, seed, out, self.folder.identity, os.getpid())
            for seed in run.seeds
            for spec in run.policies
            if self.folder.read_cell(spec.label, seed, self.hashes[spec.label]) is None
        ]
        self.left = len(self.tasks)
        self.failures: list[Failure] = []

    @property
    def kept(self) -> int:
        """How many of the cells are there."""
        return sum(self.folder.read_cell(*cell, self.hashes[cell[0]]) is not None for cell in self.order)

    def tell(self, progress: Progress) -> None:
        """Say what is there already."""
        if skipped := len(self.order) - len(self.tasks):
            cells = f"{skipped} finished cell{'s' * (skipped > 1)} of {len(self.order)}"
            progress.note(f"skipped {cells} in {self.folder.path}")
        for text in self.folder.damaged.values():
            progress.note(f"damaged, run again: {text}")

    def fail(self, failure: Failure, seed: int, policy: str) -> Failure:
        """Note a failure, and write its log.

        Returns:
            The failure with its log.
        """
        if failure.trace:
            log = self.folder.path / "logs" / f"{cell_name(policy, seed)}.log"
            with suppress(OSError):  # a full disk
                write_text(log, failure.trace)
                failure = replace(failure, log=str(log))
        self.failures.append(failure)
        return failure

    def close(self) -> Outcome:
        """Write the tables."""
        rows = self.folder.collect(self.order)
        for text in self.folder.damaged.values():
            print(f"damaged, left out: {text}", file=sys.stderr)
        self.folder.finish(finished=not self.left and not self.failures)
        asked = set(self.order)
        mine = [pair in asked for pair in zip(rows["policy"], rows["seed"])]
        skipped = len(self.order) - len(self.tasks)
        return Outcome(self.folder.path, rows[mine].reset_index(drop=True), skipped, tuple(self.failures))


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
    run = replace(run, config={**run.config, "out": str(out)})
    with hold_folder(out):
        ((_, outcome),) = play_grids([Grid(run, what)], make_launcher(run.config, out))
    return outcome


def play_grids(grids: Sequence[Grid], launcher: Launcher) -> Iterator[tuple[int, Outcome]]:
    """Run the cells of all grids, as one heap of work.

    Args:
        grids: The grids, by place.
        launcher: What runs the cells; its ``home`` is the folder of the whole command.

    Yields:
        Place and outcome of a grid whenever the last of its cells has ended.

    Raises:
        ConfigError: If the engine cannot be started, or the folders cannot be written.
        Interrupted: After Ctrl-C.
    """
    tasks = [task for grid in grids for task in grid.tasks]
    with Progress(len(tasks)) as progress:
        for place, grid in enumerate(grids):
            grid.tell(progress)
            if not grid.left:
                yield place, grid.close()
        came = results(tasks, _work, launcher, lambda result: bool(result[1] and result[1].trace))
        try:
            for task, result in came:
                grid = grids[task.grid]
                grid.left -= 1
                _note(grid, task, result, progress)
                if not grid.left:
                    yield task.grid, grid.close()
        except (KeyboardInterrupt, UnwritableError) as stop:
            came.close()  # what still runs ends before the tables are written
            with suppress(UnwritableError):
                for grid in (grid for grid in grids if grid.left):
                    grid.close()
            _tell_rest(grids, launcher.home, stop)
        finally:
            came.close()


def _note(grid: Grid, task: _Task, result: _Result | LostError, progress: Progress) -> None:
    """Take what a cell gave.

    Raises:
        UnwritableError: If no other cell can be kept either.
    """
    if isinstance(result, LostError):
        trace = f"the process ended without a result: {result}\n"
        result = None, Failure(task.name, f"{result}; the same command runs it again", trace)
    rows, failure = result
    if failure and failure.full:
        raise UnwritableError(failure.message)
    if failure:
        failure = grid.fail(failure, task.seed, task.policy.label)
    name = f"{grid.what}: {task.name}" if grid.what else task.name
    progress.advance(name, rows, failure.message if failure else None)


def _tell_rest(grids: Sequence[Grid], home: Path, stop: BaseException) -> None:
    """Say what is kept of a command that cannot go on, and how it does.

    Raises:
        UnwritableError: If the folders cannot be written.
        Interrupted: Else.
    """
    cells = sum(len(grid.order) for grid in grids)
    kept = f"{sum(grid.kept for grid in grids)} of {cells} cells are kept in {home}"
    rest = f"the same command with out={home} runs the rest"
    if isinstance(stop, UnwritableError):
        raise UnwritableError(f"{stop}; {kept}; {rest}") from None
    raise Interrupted(f"interrupted: {kept}; {rest}") from None


def _work(task: _Task) -> _Result:
    """Run a cell and store it, in this process; an error is a result, so that it stops no other cell."""
    try:
        folder = RunFolder(task.out, task.identity)
        if not folder.path.is_dir():
            raise ConfigError(
                f"out={task.out}: is not there on {platform.node()}; the nodes of launcher=ray and "
                "launcher=slurm need a file system that they share"
            )
        scenario = load_scenario(task.scenario, task.seed)
        result = run_cell(make_cell(scenario, task.policy, env=task.env), task.seed)
        folder.write_cell(result)
    except VirtgymError as error:
        return None, Failure(task.name, str(error), "", full=isinstance(error, UnwritableError))
    except BaseException as error:  # also SystemExit, which would end the grid as if all were well
        if isinstance(error, KeyboardInterrupt) and os.getpid() == task.owner:
            raise  # Ctrl-C; workers do not get it
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, Failure(task.name, message, traceback.format_exc())
    return result.rows, None
