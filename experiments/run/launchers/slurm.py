"""Slurm, by submitit: an array of jobs that share the cells of a command.

A job costs seconds to start, a cell may take less: so a job is no cell, but takes one after the other
(``sharing``). Files of a command, on a file system that all nodes see:

    OUT/.launcher/ID/jobs    numbers of its arrays, a line each: the next command ends what a killed one left
    OUT/.launcher/ID/N/      a batch of tasks
    OUT/.launcher/ID/*       what submitit writes: its pickles, and the logs of jobs
"""

from __future__ import annotations

import io
import secrets
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, cast

import submitit

from virtgym.envs.errors import ConfigError
from virtgym.envs.files import one_line

from ...config.launchers import Launcher, SlurmConfig
from .engine import Call, Engine
from .sharing import Batch, share_tasks

WORKERS = 16
"""Jobs of an array unless ``workers=N`` says otherwise."""

_POLL_S = 0.1
_ASK_S = 3.0
"""How often Slurm is asked which jobs are left, s."""


class SlurmEngine(Engine):
    """Arrays of jobs."""

    bulk = True

    def __init__(self, launcher: Launcher) -> None:
        config = cast(SlurmConfig, launcher.config)
        self.workers = launcher.workers or WORKERS
        self._here = config.cluster == "local"
        if not self._here and shutil.which("sbatch") is None:
            raise ConfigError(
                "launcher=slurm: sbatch is not on the path; give the command on a machine of the cluster, "
                "or launcher.cluster=local to run its jobs as processes of this one"
            )
        home = launcher.home.absolute() / ".launcher"
        for folder in home.glob("*"):
            _end_leftovers(folder)
        self._folder = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self._folder.mkdir(parents=True)
        self._executor = submitit.AutoExecutor(self._folder, cluster=config.cluster)
        self._executor.update_parameters(name="virtgym", **config.submitit)
        self._batches: list[Batch] = []
        self._asked_s, self._lost = 0.0, False

    def submit(self, call: Call, tasks: Sequence[Any]) -> list[Future[Any]]:
        """An array of jobs that share the tasks.

        Raises:
            ConfigError: If Slurm takes no such job.
        """
        batch = Batch(self._folder / str(len(self._batches)), call, tasks)
        futures = list(batch.futures.values())
        places = range(min(len(tasks), self.workers))
        try:
            with redirect_stderr(io.StringIO()):  # sbatch's words are in the error
                batch.jobs = self._executor.map_array(share_tasks, [batch.folder] * len(places), places)
        except submitit.core.utils.FailedJobError as error:
            words = one_line(error, 1000).rpartition("stderr:")[2].split("sbatch: error:")
            said = "; ".join(text.strip(" `") for text in words if text.strip(" `"))
            raise ConfigError(f"launcher=slurm: sbatch refuses the job ({said})") from None
        with open(self._folder / "jobs", "a", encoding="utf-8") as file:
            file.writelines(f"{number}\n" for number in _arrays(batch.jobs))
        self._batches.append(batch)
        return futures

    def wait(self, futures: Collection[Future[Any]], timeout_s: float) -> Collection[Future[Any]]:
        """Look at the folder, and now and then whether the jobs are still there."""
        end = time.monotonic() + timeout_s
        while True:
            for batch in self._batches:
                batch.look()
            done = [future for future in futures if future.done()]
            if done or time.monotonic() >= end:
                return done
            time.sleep(_POLL_S)
            if time.monotonic() - self._asked_s > _ASK_S:
                alive = self._alive()  # before the folder: what they did before they ended is in there
                for batch in self._batches:
                    batch.look()
                    ended = {k: _why(job) for k, job in enumerate(batch.jobs) if job.job_id not in alive}
                    self._lost |= batch.give_up(ended)
                self._asked_s = time.monotonic()

    def result(self, future: Future[Any]) -> Any:
        """The result."""
        return future.result()

    def close(self) -> None:
        """Cancel the jobs; logs stay where a job was lost."""
        for batch in self._batches:
            for job in batch.jobs:
                if batch.futures or not self._here:
                    job.cancel(check=False)
        if not self._lost:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):
                self._folder.parent.rmdir()

    def _alive(self) -> set[str]:
        """Numbers of the jobs that wait or run."""
        jobs = [job for batch in self._batches if batch.futures for job in batch.jobs]
        if self._here:
            return {job.job_id for job in jobs if not job.done()}
        asked = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(_arrays(jobs))}"]
        told = subprocess.run(asked, capture_output=True, text=True)
        if told.returncode and "Invalid job id" not in told.stderr:
            return {job.job_id for job in jobs}  # Slurm itself does not answer: it may be back soon
        return {*told.stdout.split()}


def _arrays(jobs: Sequence[Any]) -> list[str]:
    return sorted({job.job_id.partition("_")[0] for job in jobs})


def _why(job: Any) -> str:
    why = "killed, out of time or memory?"
    return f"job {job.job_id} ended without its result ({why}); log: {job.paths.stderr}"


def _end_leftovers(folder: Path) -> None:
    """End the jobs of a command that was killed."""
    numbers = (folder / "jobs").read_text(encoding="utf-8").split() if (folder / "jobs").exists() else []
    if numbers and shutil.which("scancel"):
        subprocess.run(["scancel", "--quiet", *numbers], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
