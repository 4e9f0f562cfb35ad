"""What an engine is: it takes tasks, gives their results, and may lose some."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from virtgym.envs.scenarios.choices import FOLDERS

_WATCH_S = 0.5
"""How long a process works on after its owner has gone, at most."""


@dataclass(frozen=True)
class Call:
    """What is done with a task in another process, maybe on another machine.

    Attributes:
        work: Takes the task; it must not raise.
        owner: Number of the process that started it.
        folder: Where the command stands: paths of tasks are relative to it.
        search: Folders in which groups are looked for.
    """

    work: Callable[[Any], Any]
    owner: int = field(default_factory=os.getpid)
    folder: str = field(default_factory=os.getcwd)
    search: tuple[str, ...] = field(default_factory=lambda: tuple(FOLDERS))

    def __call__(self, task: Any) -> Any:
        """Do a task; the process ends with its owner, if that is its parent, and hears no Ctrl-C."""
        end_with(self.owner)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.chdir(self.folder)
        if self.folder not in sys.path:  # modules of one's own
            sys.path.append(self.folder)
        FOLDERS[:] = self.search
        return self.work(task)


class LostError(Exception):
    """A task has ended without a result.

    Attributes:
        begun: Whether it had begun.
    """

    def __init__(self, text: str, begun: bool = True) -> None:
        super().__init__(text)
        self.begun = begun


class Engine(ABC):
    """Runs tasks; made before the first one, closed after the last one or in the middle.

    Attributes:
        workers: Tasks that it is given at once.
        bulk: Whether it rather takes all that there are, and runs ``workers`` of them at once.
    """

    workers = 1
    bulk = False

    @abstractmethod
    def submit(self, call: Call, tasks: Sequence[Any]) -> list[Future[Any]]:
        """Begin with some tasks."""

    def wait(self, futures: Collection[Future[Any]], timeout_s: float) -> Collection[Future[Any]]:
        """Those that have ended; returns when one has, or after a time."""
        return wait(futures, timeout=timeout_s, return_when=FIRST_COMPLETED).done

    @abstractmethod
    def result(self, future: Future[Any]) -> Any:
        """What a task that has ended gave.

        Raises:
            LostError: If it gave nothing.
        """

    @abstractmethod
    def close(self) -> None:
        """End all that still runs."""


def settle(futures: Collection[Future[Any]]) -> None:
    """Wait until no task is on its way to a process: a pool that is ended then prints a traceback."""
    while any(not (future.running() or future.done()) for future in futures):
        time.sleep(0.001)


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; processes that start in it inherit that.

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
