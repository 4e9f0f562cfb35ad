"""Follow README literally, with nothing but a clone: ``make newcomer``.

Its commands run in their order in a fresh clone, with an empty home and no cache. What stands in the comment
of a command is held against what it does: files that the comment names must have been written, and where it
says that a path is printed, it is. The program that README shows runs last. Nothing of virtgym is imported
here: it is not installed yet.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
NAMED = re.compile(r"\b[\w-]+\.(?:html|csv|yaml|md|parquet)\b")
"""Files that a comment names."""
OWN = {"DAY": "a day of the PlanetLab trace (--day)", "rvtools.xlsx": "an export of one's own"}
"""Words of commands that stand for what a reader has."""
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
"""Variables of the environment that a newcomer has, too."""


@dataclass(frozen=True)
class Step:
    """One command of README, or its program.

    Attributes:
        text: What is typed.
        says: The comment beside it.
        program: Whether it is a program in Python.
    """

    text: str
    says: str = ""
    program: bool = False


def read_steps(page: str) -> Iterator[Step]:
    """The commands of a page in their order, then its programs."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines: list[list[str]] = []
        for line in block.replace("\\\n", " ").splitlines():
            text, _, comment = (part.strip() for part in line.partition(" #"))
            if text:
                lines.append([text, comment])
            elif lines:  # the comment goes on
                lines[-1][1] += f" {comment.lstrip('# ')}"
        yield from (Step(text, comment) for text, comment in lines)
    for text in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        yield Step(text, program=True)


def missing(step: Step, told: str, folder: Path, begun: float) -> list[str]:
    """What README says of a step that is not so."""
    wrong = []
    fresh = {path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime >= begun}
    for name in NAMED.findall(step.says):
        if name not in fresh:
            wrong.append(f"wrote no {name}")
        elif "prints the path" in step.says and not re.search(rf"/{re.escape(name)}\s*$", told, re.MULTILINE):
            wrong.append(f"printed no path of {name}")
    return wrong


def follow(steps: Sequence[Step], clone: Path, home: Path, options: argparse.Namespace) -> int:
    """Carry the steps out, and print what came of each.

    Args:
        steps: What README says.
        clone: Where it is followed.
        home: An empty folder.
        options: The command line.

    Returns:
        How many steps did not do what README says.
    """
    there = Path(options.environment) if options.environment else clone / ".venv" / "bin"
    variables = {name: os.environ[name] for name in KEPT if name in os.environ}
    variables |= {"HOME": str(home), "PATH": f"{there}{os.pathsep}{os.environ['PATH']}"}
    failed = 0
    for step in steps:
        text = step.text.replace("DAY", options.day) if options.day else step.text
        words = text.split() if step.program else shlex.split(text)
        needs = [why for word, why in OWN.items() if any(re.search(rf"\b{word}\b", one) for one in words)]
        if not step.program and options.environment and words[0] == "make":
            needs = ["a machine of its own (without --environment)"]
        if needs:
            print(f"  left out  {text.splitlines()[0]}: needs {', '.join(needs)}", flush=True)
            continue
        begun = time.time()
        command = [str(there / "python"), "-c", text] if step.program else ["bash", "-c", text]
        run = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)
        wrong = missing(step, run.stdout, clone, begun - 1.0)
        if run.returncode:
            wrong.insert(0, f"ended with {run.returncode}: {run.stderr.strip()[-500:]}")
        failed += bool(wrong)
        shown = "the program" if step.program else text
        print(f"{time.time() - begun:8.1f} s  {shown}{': ' if wrong else ''}{'; '.join(wrong)}", flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow README; 1 if something was not as it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", help="bin folder of an environment to use; make is not run then")
    parser.add_argument("--day", help="folder of a PlanetLab day, for the commands that name DAY")
    parser.add_argument("--only", default="", help="only steps in which this text stands")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        clone, home = Path(folder) / "virtgym", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPO, clone], check=True)
        steps = read_steps((clone / "README.md").read_text(encoding="utf-8"))
        failed = follow([step for step in steps if options.only in step.text], clone, home, options)
    print(f"{failed} of README's steps did not do what it says" if failed else "README says what happens")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
