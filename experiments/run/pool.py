"""Tasks in processes: results as they come, whatever happens to a process, and an end at Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

KILLED = "its process was ended by the system (out of memory?); the same command runs it again"
"""What is said of a task whose process ended without a result."""

_PATIENCE_S = 0.2
"""How long the main process waits for a result before it looks whether somebody pressed Ctrl-C."""


_WATCH_S = 0.5
"""How long a process works on after its owner has gone, at most."""


def results(
    tasks: Iterable[Task], work: Callable[[Task], Result], workers: int
) -> Iterator[tuple[Task, Result | None]]:
    """Results as they come; None where a process was ended by the system.

    Args:
        tasks: Taken one by one, whenever a process has nothing to do: what comes may depend on results.
        work: Done in another process; with one worker in this one. It must not raise.
        workers: Processes.
    """
    if workers <= 1:
        for task in tasks:
            yield task, work(task)
        return
    # A pool of one process per worker: when the system ends one, its task is known and no other is lost.
    pools = [_start_pool() for _ in range(workers)]
    running: dict[Any, tuple[Task, int]] = {}
    idle, left = list(range(workers)), iter(tasks)
    with _interrupts_noted() as interrupted:
        try:
            while True:
                for slot in list(idle):
                    for task in left:
                        idle.remove(slot)
                        running[pools[slot].submit(_in_worker, work, task, os.getpid())] = (task, slot)
                        break
                if not running:
                    return
                done = wait(running, timeout=_PATIENCE_S, return_when=FIRST_COMPLETED).done
                for future in done:
                    task, slot = running.pop(future)
                    idle.append(slot)
                    try:
                        yield task, future.result()
                    except BrokenExecutor:
                        pools[slot].shutdown(wait=False, kill_workers=True)
                        pools[slot] = _start_pool()
                        yield task, None
                if interrupted.is_set():
                    raise KeyboardInterrupt
        finally:
            # A pool that is ended while a task is on its way to the process prints a traceback of its own.
            while any(not (future.running() or future.done()) for future in running):
                time.sleep(0.001)
            for pool in pools:
                pool.shutdown(wait=True, kill_workers=True)


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


def _in_worker(work: Callable[[Task], Result], task: Task, owner: int) -> Result:
    """Do a task in a process of the pool's, which ends with its owner and hears no Ctrl-C."""
    end_with(owner)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return work(task)


@functools.cache
def end_with(owner: int) -> None:
    """End this process soon after its owner, if that is its parent, has gone (kill -9): it must not work on.

    Args:
        owner: Number of the process that started it.
    """

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(_WATCH_S)
        os._exit(1)

    if os.getppid() == owner:
        threading.Thread(target=watch, daemon=True).start()
