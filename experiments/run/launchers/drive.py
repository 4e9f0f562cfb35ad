"""Tasks on an engine: results as they come, lost ones again, and an end at Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from importlib import import_module
from typing import Any, TypeVar

from ...config.launchers import Launcher
from .engine import Call, Engine, LostError

Task = TypeVar("Task")
Result = TypeVar("Result")

_PATIENCE_S = 0.2
"""How long the main process waits for a result before it looks whether somebody pressed Ctrl-C."""

_ENGINES = {"local": "LocalEngine", "joblib": "JoblibEngine", "ray": "RayEngine", "slurm": "SlurmEngine"}
"""Classes by launcher, each in a module of the launcher's name."""

log = logging.getLogger(__name__)


def results(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    launcher: Launcher,
    failed: Callable[[Result], bool] = lambda result: False,
) -> Generator[tuple[Task, Result | LostError]]:
    """Results as they come; what was lost or failed is run again, as often as the launcher says.

    Args:
        tasks: Of a sequence an engine may take all at once; anything else is taken one by one, whenever
            a worker has nothing to do: what comes may depend on results.
        work: Done in another process, or in this one if one at a time is enough. It must not raise.
        launcher: The engine and its settings.
        failed: Whether a result is a fault that may not happen again.

    Yields:
        A task and its result, or why it is lost.

    Raises:
        ConfigError: If the engine cannot be started.
    """
    if launcher.here:
        for task in tasks:
            result = work(task)
            for _ in range(launcher.config.retries):
                if failed(result):
                    result = work(task)
            yield task, result
        return
    if isinstance(tasks, Sequence) and not tasks:
        return
    engine = _start(launcher)
    with _interrupts_noted() as interrupted:
        try:
            yield from _drive(engine, tasks, Call(work), launcher.config.retries, failed, interrupted)
        finally:
            engine.close()


def _start(launcher: Launcher) -> Engine:
    name = launcher.config.name
    made: Engine = getattr(import_module(f".{name}", __package__), _ENGINES[name])(launcher)
    return made


def _drive(
    engine: Engine,
    tasks: Iterable[Task],
    call: Call,
    retries: int,
    failed: Callable[[Result], bool],
    interrupted: threading.Event,
) -> Generator[tuple[Task, Result | LostError]]:
    again: deque[tuple[Task, int]] = deque()
    source = iter(tasks)
    bulk = engine.bulk and isinstance(tasks, Sequence)
    running: dict[Future[Any], tuple[Task, int]] = {}
    while True:
        room = math.inf if bulk else engine.workers - len(running)
        batch: list[tuple[Task, int]] = []
        while len(batch) < room:
            if again:
                batch.append(again.popleft())
                continue
            try:
                batch.append((next(source), 0))
            except StopIteration:
                break
        if batch:
            running |= zip(engine.submit(call, [task for task, _ in batch]), batch)
        if not running:
            return
        for future in engine.wait(running, _PATIENCE_S):
            task, tries = running.pop(future)
            try:
                result = engine.result(future)
                begun, over = True, not failed(result)
            except LostError as lost:
                result, begun, over = lost, lost.begun, False
            if over or tries >= retries:
                yield task, result
            else:
                log.debug("again, after try %d: %s (%s)", tries + 1, task, result)
                again.append((task, tries + begun))
        if interrupted.is_set():
            raise KeyboardInterrupt


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
