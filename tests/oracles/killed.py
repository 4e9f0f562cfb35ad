"""Commands in processes of their own that are sent a signal in the middle."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def killed_run(
    out: Path, arguments: tuple[str, ...], evaluations: int, number: int, first: str = "pass"
) -> str:
    """Start a training, send it a signal after so many evaluations, and return what it said on stderr.

    Args:
        out: Its run folder.
        arguments: Of ``virtgym train``.
        evaluations: Validations that it has told before the signal; at least one checkpoint is written then.
        number: The signal.
        first: Statement that the process carries out before the command.
    """
    code = f"import sys\nfrom virtgym.experiments.cli.commands import main\n{first}\nsys.exit(main())"
    command = [sys.executable, "-c", code, "train", *arguments, f"out={out}"]
    for _ in range(5):
        text, code_at_end = _killed(command, out, evaluations, number)
        if code_at_end:
            return text
        shutil.rmtree(out)  # it was over before the signal came: the machine is busy
    raise AssertionError("five trainings were over before they could be killed")


def _killed(command: list[str], out: Path, evaluations: int, number: int) -> tuple[str, int]:
    """What it said on stderr, and its exit code."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    seen, text = 0, ""
    for line in process.stderr:
        text += line
        seen += "validation" in line
        if seen == evaluations:
            break
    # The evaluation is told before the checkpoint is written: wait for that.
    while not (out / "checkpoint.npz").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    text += process.stderr.read()
    process.stderr.close()
    return text, process.wait()


_ENDING = """
import os, sys
from virtgym.experiments.cli import progress
from virtgym.experiments.cli.commands import main
tick = progress.Progress.tick
def tell(self, *told):
    tick(self, *told)
    if self._done == {done}:
        os.killpg(0, {number})
progress.Progress.tick = tell
sys.exit(main())
"""


def ended_command(arguments: Sequence[str], done: int, number: int) -> subprocess.Popen[str]:
    """Start a command that gets a signal, with all its processes, once so many cells or trials are done.

    Args:
        arguments: Of ``virtgym``.
        done: How many.
        number: The signal.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _ENDING.format(done=done, number=int(number)), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals go to the whole group, as from a terminal
        # whoever started the tests in the background let them ignore Ctrl-C
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
