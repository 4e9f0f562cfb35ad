"""A training in a process of its own that is sent a signal in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
    process.wait()
    process.stderr.close()
    return text
