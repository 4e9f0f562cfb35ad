"""Processes of this machine: a pool of one process per worker, so that no other task is lost with one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from ...config.launchers import Launcher
from .engine import Call, Engine, LostError, interrupts_ignored, settle

KILLED = "its process was ended by the system (out of memory?)"
"""What is said of a task whose process ended without a result."""


class LocalEngine(Engine):
    """A pool of one process per worker."""

    def __init__(self, launcher: Launcher) -> None:
        self.workers = launcher.workers or 1
        self._idle = [_start_pool() for _ in range(self.workers)]
        self._busy: dict[Future[Any], Any] = {}

    def submit(self, call: Call, tasks: Sequence[Any]) -> list[Future[Any]]:
        """Give each task to an idle process."""
        futures = []
        for task in tasks:
            pool = self._idle.pop()
            futures.append(pool.submit(call, task))
            self._busy[futures[-1]] = pool
        return futures

    def result(self, future: Future[Any]) -> Any:
        """The result; a process that was ended is replaced."""
        pool = self._busy.pop(future)
        try:
            result = future.result()
        except BrokenExecutor:
            pool.shutdown(wait=False, kill_workers=True)
            self._idle.append(_start_pool())
            raise LostError(KILLED) from None
        self._idle.append(pool)
        return result

    def close(self) -> None:
        """End the processes."""
        settle(self._busy)
        for pool in (*self._idle, *self._busy.values()):
            pool.shutdown(wait=True, kill_workers=True)


def _start_pool() -> Any:
    """A pool of one process, started."""
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(max_workers=1)
    with interrupts_ignored():  # the process starts here and inherits it
        pool.submit(int)
    return pool
