"""Joblib's pool of processes: one for all workers, kept for as many commands as a process runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import joblib
from joblib.executor import get_memmapping_executor  # that of joblib.Parallel, which would trip over another

from ...config.launchers import Launcher
from .engine import Call, Engine, LostError, interrupts_ignored, settle
from .local import KILLED


class JoblibEngine(Engine):
    """Joblib's reusable executor; a process that is ended takes with it what runs in the others."""

    def __init__(self, launcher: Launcher) -> None:
        self.workers = launcher.workers or joblib.cpu_count()
        self._futures: set[Future[Any]] = set()

    def submit(self, call: Call, tasks: Sequence[Any]) -> list[Future[Any]]:
        """Give tasks to the pool, which is started anew if it broke."""
        with interrupts_ignored():
            pool = get_memmapping_executor(self.workers)
            futures = [pool.submit(call, task) for task in tasks]
        self._futures |= {*futures}
        return futures

    def result(self, future: Future[Any]) -> Any:
        """The result."""
        self._futures.discard(future)
        try:
            return future.result()
        except BrokenExecutor:
            raise LostError(KILLED) from None

    def close(self) -> None:
        """End the processes if one still works; else they stay for the next command."""
        if self._futures:
            settle(self._futures)
            get_memmapping_executor(self.workers).shutdown(wait=True, kill_workers=True)
