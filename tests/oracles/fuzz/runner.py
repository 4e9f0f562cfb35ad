"""Mutated inputs of every kind (in ``tests``: ``python -m oracles.fuzz traces --count 2000``).

Whatever a file or key holds, virtgym takes it or refuses it in one line. Each attempt runs in a process of
its own with a limit on time and memory, and what became of it is counted. All follows from seed and number:
attempt N of a seed is the same on every machine.

A kind is a module with a function ``draw(rng) -> Attempt``; ``KINDS`` lists them.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import io
import json
import math
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtgym.envs.errors import ConfigError, VirtgymError

KINDS = {
    "traces": "traces",
    "configs": "configs",
    "agents": "agents",
    "results": "results",
    "inputs": "inputs",
}
"""Kinds of input: name to the module, beside this one, that draws attempts."""
OUTCOMES = ("accepted", "refused", "traceback", "warning", "hang", "memory", "crash")
"""What can become of an attempt; the first two are as it should be."""
HOSTILE: tuple[str, ...] = (
    *("", " ", "x", "nan", "inf", "-inf", "-1", "1e30", "1e300", "-1e300", "1e-300", "9223372036854775807"),
    *("18446744073709551616", "9" * 400, "0x10", "1_000", "²", "٣", "\0", "\ufeff1", "'", '"', "1,2", "1;2"),
    *("true", "null", "None", "[1]", "{}", "../x", "[/]", "\x1b[2J", "1e5", "0.1", "-0.0", "1e18", "1e12"),
)
"""Texts for a cell, a value or a name."""

Rng = np.random.Generator
_MEMORY = 1 << 30


@dataclass(frozen=True)
class Attempt:
    """One mutated input.

    Attributes:
        label: What was done to what.
        run: Makes the input in an empty folder and uses it; raises `VirtgymError` where that is refused.
    """

    label: str
    run: Callable[[Path], None]


def draw_attempts(kind: str, seed: int, numbers: Sequence[int]) -> Iterator[tuple[int, Attempt]]:
    """Draw attempts by number.

    Args:
        kind: One of ``KINDS``.
        seed: Seed of all of them.
        numbers: Which ones.
    """
    draw: Callable[[Rng], Attempt] = importlib.import_module(f".{KINDS[kind]}", __package__).draw
    for number in numbers:
        yield number, draw(np.random.default_rng([seed, number]))


def run_command(arguments: Sequence[str]) -> None:
    """Run ``virtgym`` in this process.

    Raises:
        ConfigError: For exit code 2, with what it said.
        RuntimeError: For another one that is not 0.
    """
    from virtgym.experiments.cli.commands import main as virtgym

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = virtgym(list(arguments))
    if code == 2:
        raise ConfigError(said.getvalue().strip().rpartition("virtgym")[2])
    if code != 0:
        raise RuntimeError(said.getvalue())


def mutate_bytes(rng: Rng, content: bytes) -> bytes:
    """Flip a bit, cut the end off, or drop, double, zero or replace some bytes."""
    place = int(rng.integers(len(content) + 1))
    width = int(rng.choice([1, 2, 8, 64]))
    middle = content[place : place + width]
    junk = str(rng.choice(HOSTILE[1:])).encode(errors="surrogateescape") + b"\xff" * int(rng.integers(2))
    what = rng.choice(["flip", "cut", "drop", "double", "zero", "junk", "splice"])
    if what == "flip" and middle:
        flipped = bytes([middle[0] ^ (1 << int(rng.integers(8)))])
        return content[:place] + flipped + content[place + 1 :]
    if what == "cut":
        return content[:place]
    changed = {"drop": b"", "double": middle * 2, "zero": bytes(len(middle)), "junk": junk}
    return content[:place] + changed.get(str(what), middle + junk) + content[place + len(middle) :]


def mutate_gzip(rng: Rng, content: bytes) -> bytes:
    """Pack a text and damage the package; or make one that unpacks to far more than text does."""
    what = rng.choice(["flip", "flip", "cut", "member", "tail", "zeros", "lines", "rows"])
    packed = bytearray(gzip.compress(content, mtime=0))
    if what == "flip":
        packed[int(rng.integers(len(packed)))] ^= 1 << int(rng.integers(8))
    elif what == "cut":
        del packed[int(rng.integers(len(packed))) :]
    elif what == "member":
        packed += gzip.compress(content[len(content) // 2 :], mtime=0)[: int(rng.integers(60))]
    elif what == "tail":
        packed += bytes(rng.integers(0, 256, 8, dtype=np.uint8))
    else:
        unit = {"zeros": b"\0", "lines": b"\n", "rows": content.splitlines(keepends=True)[-1]}[str(what)]
        bomb = unit * (20_000_000 // len(unit))
        packed = bytearray(gzip.compress(content + bomb, 1, mtime=0))
    return bytes(packed)


def answer_of(attempt: Attempt, folder: Path, number: int) -> str:
    """The line by which an attempt, made in this process, is refused; empty = it is accepted.

    Raises:
        AssertionError: If it ends otherwise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = ""
        try:
            attempt.run(folder)
        except VirtgymError as error:
            text = str(error)
        except Exception as error:
            raise AssertionError(f"{number}: {attempt.label}: {error!r}") from error
    assert "\n" not in text, attempt.label
    return text


def _in_child(attempt: Attempt, folder: Path, send: int) -> None:
    """Run an attempt and write its outcome and a text to a pipe."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            attempt.run(folder)
            found = ("accepted", "")
        except VirtgymError as error:
            text = str(error).strip("\n")
            kind = "memory" if "more memory" in text else "traceback" if "\n" in text else "refused"
            found = (kind, text)
        except MemoryError:
            found = ("memory", traceback.format_exc())
        except BaseException:
            found = ("traceback", traceback.format_exc())
    if caught and found[0] in ("accepted", "refused"):
        found = ("warning", str(caught[0].message))
    os.write(send, json.dumps(found).encode()[:60_000])


def _held_bytes(place: int) -> int:
    """Memory of this process that is mapped (0) or in use (1) now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[place]
    return int(pages) * resource.getpagesize()


def _try(attempt: Attempt, timeout_s: float) -> tuple[str, str]:
    """Run an attempt in a process of its own; return what became of it."""
    folder = Path(tempfile.mkdtemp(prefix="virtgym-fuzz-"))
    receive, send = os.pipe()
    held = _held_bytes(1)
    child = os.fork()
    if child == 0:
        most = _held_bytes(0) + 4 * _MEMORY  # a child begins with all that its parent has mapped
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            _in_child(attempt, folder, send)
        finally:
            os._exit(0)
    os.close(send)
    late = not select.select([receive], [], [], timeout_s)[0]
    if late:
        os.kill(child, signal.SIGKILL)
    found = os.read(receive, 65_536)
    os.close(receive)
    usage = os.wait4(child, 0)[2]
    shutil.rmtree(folder, ignore_errors=True)
    if late:
        return "hang", f"no answer after {timeout_s:g} s"
    taken = usage.ru_maxrss * 1024 - held
    if taken > _MEMORY:
        return "memory", f"{taken / 2**20:,.0f} MiB"
    outcome, text = json.loads(found) if found else ("crash", "the process died")
    return str(outcome), str(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run attempts, print what is not as it should be and counts by outcome; 1 if there is any such."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--count", type=int, default=2000, help="number of attempts (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first attempt (0)")
    parser.add_argument("--timeout", type=float, default=20.0, help="s for one attempt (20)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no attempt after so long")
    parser.add_argument("--verbose", action="store_true", help="print every attempt")
    chosen = parser.parse_args(argv)
    counts: Counter[str] = Counter()
    start = time.monotonic()
    numbers = range(chosen.first, chosen.first + chosen.count)
    for number, attempt in draw_attempts(chosen.kind, chosen.seed, numbers):
        outcome, text = _try(attempt, chosen.timeout)
        counts[outcome] += 1
        if chosen.verbose or outcome not in OUTCOMES[:2]:
            print(f"{number} {outcome}: {attempt.label}: {text}", flush=True)
        if time.monotonic() - start > chosen.seconds:
            break
    spent = time.monotonic() - start
    print(f"{chosen.kind}: {counts.total()} attempts of seed {chosen.seed} in {spent:.0f} s")
    print(*(f"  {outcome:<10} {counts[outcome]:>6}" for outcome in OUTCOMES), sep="\n")
    return int(sum(counts[outcome] for outcome in OUTCOMES[2:]) > 0)
