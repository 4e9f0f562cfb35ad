"""The grid: policies x seeds, in parallel, resumable after anything."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import VirtgymError

from ..config.compose import Run
from ..config.overrides import PolicySpec
from ..run.cell import load_scenario, make_cell, run_cell, scenario_hash
from ..run.folder import RunFolder, default_out
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


_Result = tuple[_Task, list[dict[str, Any]] | None, Failure | None]
"""A task, its result rows, and why there are none."""


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
    for task, rows, failure in _results(tasks, min(workers, len(tasks))):
        progress.advance(task.name, rows, failure.message if failure else None)
        if failure:
            failures.append(failure)
    return tuple(failures)


def _results(tasks: Sequence[_Task], workers: int) -> Iterator[_Result]:
    """Results as they come."""
    if workers <= 1:
        yield from map(_work, tasks)
        return
    # A pool of one process per worker: when the system ends one, its cell is known and no other is lost.
    pools = [_start_pool() for _ in range(workers)]
    running: dict[Any, tuple[_Task, int]] = {}
    idle, left = list(range(workers)), list(reversed(tasks))
    with _interrupts_noted() as interrupted:
        try:
            while left or running:
                while left and idle:
                    task, slot = left.pop(), idle.pop()
                    running[pools[slot].submit(_work, task)] = (task, slot)
                done = wait(running, timeout=_PATIENCE_S, return_when=FIRST_COMPLETED).done
                for future in done:
                    task, slot = running.pop(future)
                    idle.append(slot)
                    try:
                        yield future.result()
                    except BrokenExecutor:
                        pools[slot].shutdown(wait=False, kill_workers=True)
                        pools[slot] = _start_pool()
                        yield task, None, Failure(task.name, _KILLED, "the process ended without a result")
                if interrupted.is_set():
                    raise KeyboardInterrupt
        finally:
            # A pool that is ended while a task is on its way to the process prints a traceback of its own.
            while any(not (future.running() or future.done()) for future in running):
                time.sleep(0.001)
            for pool in pools:
                pool.shutdown(wait=True, kill_workers=True)


_PATIENCE_S = 0.2
"""How long the main process waits for a result before it looks whether somebody pressed Ctrl-C."""

_KILLED = "its process was ended by the system (out of memory?); the same command runs it again"


def _start_pool() -> Any:
    """A pool of one process, started."""
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(max_workers=1)
    with _interrupts_ignored():  # the process starts here and inherits it
        pool.submit(int)
    return pool


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a moment.

    A terminal sends it to the workers as well. The main process ends them; a worker that is interrupted
    somewhere in the pool's own code would only print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event: raised anywhere in a pool's own code, it would leave the pool in pieces."""
    event = threading.Event()
    mine = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT)
    if mine and previous is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: event.set())
    try:
        yield event
    finally:
        if mine:
            signal.signal(signal.SIGINT, previous)


def _work(task: _Task) -> _Result:
    """Run a cell and store it, in this process; an error is a result, so that it stops no other cell."""
    if inner := os.getpid() != task.owner:
        _die_with(task.owner)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        scenario = load_scenario(task.scenario, task.seed)
        result = run_cell(make_cell(scenario, task.policy, env=task.env), task.seed)
        RunFolder(task.out, task.identity).write_cell(result)
    except VirtgymError as error:
        return task, None, Failure(task.name, str(error), "")
    except BaseException as error:  # also SystemExit, which would end the grid as if all were well
        if isinstance(error, KeyboardInterrupt) and not inner:
            raise  # Ctrl-C; workers do not get it
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return task, None, Failure(task.name, message, traceback.format_exc())
    return task, result.rows, None


@functools.cache
def _die_with(owner: int) -> None:
    """End this worker soon after its owner has gone (kill -9): nobody else would end it for minutes."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(1.0)
        os._exit(1)

    if os.getppid() == owner:
        threading.Thread(target=watch, daemon=True).start()
