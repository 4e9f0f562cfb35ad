"""Tasks in a folder that several jobs share: each takes one after the other until none is left.

    tasks      pickled: what is to be done
    K.begun    task K has begun, in the job whose place the file says
    K.done     pickled: its result

Only jobs that see the same file system can share; the scheduler starts and ends them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle

from virtgym.envs.files import write_atomically

from .engine import Call, LostError


class Batch:
    """Tasks that were submitted together.

    Attributes:
        folder: Where they are.
        futures: What is waited for, by place.
        jobs: Who shares them; to be set.
    """

    def __init__(self, folder: Path, call: Call, tasks: Sequence[Any]) -> None:
        self.folder = folder
        self.futures: dict[int, Future[Any]] = {place: Future() for place in range(len(tasks))}
        self.jobs: list[Any] = []
        self._results = 0
        content = cloudpickle.dumps((call, tasks))
        write_atomically(folder / "tasks", lambda draft: draft.write_bytes(content))

    def look(self) -> None:
        """Take the results that are there."""
        if not self.futures:
            return
        for name in os.listdir(self.folder):
            place, _, kind = name.partition(".")
            if kind == "done" and int(place) in self.futures:
                result = pickle.loads((self.folder / name).read_bytes())
                self.futures.pop(int(place)).set_result(result)
                self._results += 1

    def give_up(self, ended: Mapping[int, str]) -> bool:
        """Say that what jobs had begun that have ended is lost; with the last of them all the rest.

        Args:
            ended: By their places, what to say of each.

        Returns:
            Whether something is lost.
        """
        lost = False
        for place in list(self.futures):
            begun = self._begun_by(place)
            if begun in ended or len(ended) == len(self.jobs):
                job = begun if begun is not None and begun in ended else min(ended)
                # Jobs that give nothing at all are told after as many tries as a cell that is lost itself.
                error = LostError(ended[job], begun is not None or not self._results)
                self.futures.pop(place).set_exception(error)
                lost = True
        return lost

    def _begun_by(self, place: int) -> int | None:
        try:
            return int((self.folder / f"{place}.begun").read_text(encoding="utf-8") or -1)
        except FileNotFoundError:
            return None


def share_tasks(folder: Path, job: int) -> None:
    """Do tasks of a folder until none is left.

    Args:
        folder: The folder.
        job: Place of this job.
    """
    call, tasks = pickle.loads((folder / "tasks").read_bytes())
    for place, task in enumerate(tasks):
        try:
            with open(folder / f"{place}.begun", "x", encoding="utf-8") as file:
                file.write(str(job))
        except FileExistsError:
            continue
        except FileNotFoundError:  # the command was killed, and the next one has taken its folder away
            return
        _write(folder / f"{place}.done", call(task))


def _write(path: Path, result: Any) -> None:
    content = cloudpickle.dumps(result)
    with suppress(FileNotFoundError):
        write_atomically(path, lambda draft: draft.write_bytes(content))
