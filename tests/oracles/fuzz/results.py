"""Damaged run folders: what disks, people and strangers do to stored results.

``cell_mutations`` damages one cell of a run, which then has to be run again. ``folder_mutations`` damages
what ``virtgym report`` reads; it must say what is wrong in a line, or leave the part out and say so. Both are
the same every time, but a run's files are not (times, paths): what a flipped bit meets differs by run.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from virtgym.experiments.cli.commands import main
from virtgym.experiments.report import write_report

from .runner import Attempt, Rng

Mutate = Callable[[Path], None]
"""Damages a copy of a run folder."""


def _bytes_mutations(path: Callable[[Path], Path]) -> Iterator[tuple[str, Mutate]]:
    """Damage to any file, found in a run folder by ``path``."""

    def change(new: Callable[[bytes], bytes]) -> Mutate:
        def mutate(folder: Path) -> None:
            file = path(folder)
            file.write_bytes(new(file.read_bytes()))

        return mutate

    def replace(make: Callable[[Path], object]) -> Mutate:
        def mutate(folder: Path) -> None:
            file = path(folder)
            file.unlink()
            make(file)

        return mutate

    def directory(file: Path) -> None:
        file.mkdir()
        (file / "inside").write_text("x")

    def flip(share: float) -> Callable[[bytes], bytes]:
        def new(b: bytes) -> bytes:
            at = int(share * (len(b) - 1))
            return b[:at] + bytes([b[at] ^ 0x10]) + b[at + 1 :]

        return new

    yield "gone", lambda folder: path(folder).unlink()
    yield "empty", change(lambda b: b"")
    yield "first byte only", change(lambda b: b[:1])
    yield "half", change(lambda b: b[: len(b) // 2])
    yield "last bytes gone", change(lambda b: b[:-9])
    yield "zeros", change(lambda b: b"\0" * len(b))
    yield "text", change(lambda b: b"hello, world\n" * 40)
    yield "twice", change(lambda b: b + b)
    yield "longer", change(lambda b: b + b"\0")
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        yield f"bit flipped at {share:.0%}", change(flip(share))
    yield "directory", replace(directory)
    yield "pipe", replace(lambda file: os.mkfifo(file))
    yield "endless device", replace(lambda file: file.symlink_to("/dev/zero"))
    yield "link to itself", replace(lambda file: file.symlink_to(file.name))
    yield "link to nothing", replace(lambda file: file.symlink_to("nowhere"))


def _cell_file(number: int) -> Callable[[Path], Path]:
    """The n-th kind of file (rows, steps, heat) of a run's last cell."""

    def path(folder: Path) -> Path:
        rows = max(folder.glob("cells/*.json"))
        names = (rows.name, f"{rows.stem}.steps.parquet", f"{rows.stem}.npz")
        return folder / ("heat" if number == 2 else "cells") / names[number]

    return path


def cell_mutations() -> Iterator[tuple[str, Mutate]]:
    """Damage to one finished cell: label and what does it."""
    for number, what in enumerate(("rows", "steps", "heat")):
        for label, mutate in _bytes_mutations(_cell_file(number)):
            yield f"{what}: {label}", mutate
    yield from _row_mutations()

    def swap(number: int) -> Mutate:
        def mutate(folder: Path) -> None:
            mine = _cell_file(number)(folder)
            other = min(mine.parent.glob(f"*{''.join(mine.suffixes[-2:])}"))
            shutil.copy(other, mine)

        return mutate

    for number, what in enumerate(("rows", "steps", "heat")):
        yield f"{what}: another cell's", swap(number)


def _row_mutations() -> Iterator[tuple[str, Mutate]]:
    """Changes to a cell's rows that leave them readable."""

    def rows(change: Callable[[Any], Any]) -> Mutate:
        def mutate(folder: Path) -> None:
            file = _cell_file(0)(folder)
            stored = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps(change(stored)), encoding="utf-8")

        return mutate

    def value(key: str, new: Any) -> Mutate:
        def change(stored: Any) -> Any:
            stored["cell"]["rows"][0][key] = new
            return stored

        return rows(change)

    yield "rows: a digit", value("energy_kwh", 1.25)
    yield "rows: a sign", value("migrations", -1.0)
    yield "rows: text for a number", value("energy_kwh", "much")
    yield "rows: null", value("slav", None)
    yield "rows: list", value("esv", [1])
    yield "rows: NaN", value("energy_kwh", float("nan"))
    yield "rows: seed", value("seed", 1)
    yield "rows: policy", value("policy", "other")
    yield "rows: none left", rows(lambda s: {**s, "cell": {**s["cell"], "rows": []}})
    yield "rows: no digest", rows(lambda s: {"cell": s["cell"]})
    yield "rows: no cell", rows(lambda s: {"digest": s["digest"]})
    yield "rows: digest of another type", rows(lambda s: {**s, "digest": 7})
    yield "rows: list at the top", rows(lambda s: [s])
    yield "rows: rows alone", rows(lambda s: s["cell"]["rows"])
    yield "rows: deep", rows(lambda s: json.loads("[" * 400 + "]" * 400))
    yield "rows: no files", rows(lambda s: {**s, "cell": {**s["cell"], "files": {}}})


def _named(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def folder_mutations() -> Iterator[tuple[str, Mutate]]:
    """Damage to what a report reads: label and what does it."""
    for name in ("results.parquet", "steps.parquet", "run.json", "config.yaml"):
        for label, mutate in _bytes_mutations(_named(name)):
            yield f"{name}: {label}", mutate
    for label, mutate in _bytes_mutations(_cell_file(2)):
        yield f"heat: {label}", mutate
    yield from _table_mutations(
        "results.parquet", ("energy_kwh", "migrations", "slav", "n_vms", "wall_s", "window")
    )
    yield from _table_mutations("steps.parquet", ("time_s", "hosts_on", "migrations", "power_w"))
    yield from _heat_mutations()
    yield from _text_mutations()


_COLUMNS: dict[str, Callable[[int], Any]] = {
    "NaN": lambda n: np.full(n, np.nan),
    "infinite": lambda n: np.full(n, np.inf),
    "minus infinite": lambda n: np.full(n, -np.inf),
    "largest": lambda n: np.full(n, 1.7e308),
    "smallest": lambda n: np.full(n, 5e-324),
    "negative": lambda n: np.full(n, -1.0),
    "zero": lambda n: np.zeros(n),
    "int64 maximum": lambda n: np.full(n, 2**63 - 1),
    "booleans": lambda n: np.arange(n) % 2 == 0,
    "text": lambda n: ["x"] * n,
    "numbers as text": lambda n: ["1.5"] * n,
    "bytes": lambda n: [b"\xff\x00"] * n,
    "nulls": lambda n: [None] * n,
    "lists": lambda n: [[1.0, 2.0]] * n,
    "structs": lambda n: [{"a": 1}] * n,
    "time stamps": lambda n: np.full(n, "2020-01-01", dtype="datetime64[ns]"),
    "complicated text": lambda n: ["</script><b>\u2028\0${oc.env:HOME}"] * n,
    "long text": lambda n: ["y" * 10_000] * n,
}


def _table_mutations(name: str, numbers: tuple[str, ...]) -> Iterator[tuple[str, Mutate]]:
    """Other content of columns of a Parquet table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(change: Callable[[pa.Table], pa.Table]) -> Mutate:
        def mutate(folder: Path) -> None:
            pq.write_table(change(pq.read_table(folder / name)), folder / name)

        return mutate

    def column(key: str, values: Callable[[int], Any]) -> Mutate:
        def change(t: pa.Table) -> pa.Table:
            there = t.column_names.index(key) if key in t.column_names else -1
            new = pa.array(values(t.num_rows))
            return t.append_column(key, new) if there < 0 else t.set_column(there, key, new)

        return table(change)

    def without(key: str) -> Callable[[pa.Table], pa.Table]:
        return lambda t: t.select([name for name in t.column_names if name != key])

    for key in (*numbers, "scenario", "policy", "trace", "seed", "finished", "kind", "memory", "other"):
        for label, values in _COLUMNS.items():
            yield f"{name}: {key} {label}", column(key, values)
        yield f"{name}: {key} gone", table(without(key))
    yield f"{name}: no rows", table(lambda t: t.slice(0, 0))
    yield f"{name}: one row", table(lambda t: t.slice(0, 1))
    yield f"{name}: every row twice", table(lambda t: pa.concat_tables([t, t]))
    yield f"{name}: no columns", table(lambda t: t.select([]))
    yield f"{name}: a column twice", table(lambda t: t.append_column("policy", t.column("policy")))
    yield f"{name}: many rows", table(lambda t: t.take([0] * 300_000))
    yield f"{name}: many policies", column("policy", lambda n: [f"p{i}" for i in range(n)])
    yield f"{name}: 5,000 policies", table(_many_policies)


def _many_policies(t: Any) -> Any:
    import pyarrow as pa

    names = pa.array([f"p{i}" for i in range(5000)])
    return t.take([0] * 5000).set_column(t.column_names.index("policy"), "policy", names)


def _heat_mutations() -> Iterator[tuple[str, Mutate]]:
    """Archives that are none of heat, or declare what they do not have."""

    def arrays(**changes: Any) -> Mutate:
        def mutate(folder: Path) -> None:
            file = _cell_file(2)(folder)
            with np.load(file) as stored:
                kept = {key: stored[key] for key in stored.files}
            kept = {key: value for key, value in (kept | changes).items() if value is not None}
            np.savez_compressed(file, **kept)

        return mutate

    def member(content: Callable[[], bytes]) -> Mutate:
        def mutate(folder: Path) -> None:
            with zipfile.ZipFile(_cell_file(2)(folder), "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("heat.npy", content())

        return mutate

    def header(shape: tuple[int, ...], dtype: str = "|u1", body: int = 10) -> Callable[[], bytes]:
        def content() -> bytes:
            out = io.BytesIO()
            described = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, described)
            return out.getvalue() + bytes(body)

        return content

    for key in ("heat", "host_type", "type_names", "interval_s"):
        yield f"heat: {key} gone", arrays(**{key: None})
        for label, value in (
            ("NaN", np.full((10, 6), np.nan)),
            ("infinite scalar", np.float64(np.inf)),
            ("NaN scalar", np.float64(np.nan)),
            ("negative", np.full(10, -3)),
            ("text", np.array(["a", "b"])),
            ("empty", np.empty((0, 0), np.uint8)),
            ("empty rows", np.empty((5, 0), np.uint8)),
            ("three axes", np.zeros((2, 2, 2), np.uint8)),
            ("complex", np.zeros((2, 2), complex)),
            ("times", np.zeros((2, 2), "datetime64[s]")),
            ("records", np.zeros(3, dtype=[("a", "i4")])),
            ("large integers", np.full(10, 2**40)),
            ("one cell", np.zeros((1, 1), np.uint8)),
            ("long text", np.array(["z" * 10_000] * 10)),
        ):
            yield f"heat: {key} {label}", arrays(**{key: value})
    for shape in ((50_000, 5_000), (2**40, 2), (2**62, 2**62), (-1, 5), (10,), ()):
        yield f"heat: declares {shape}", member(header(shape))
    yield "heat: declares objects", member(header((5, 5), "|O"))
    yield "heat: declares wide text", member(header((5, 5), "<U1000000"))
    yield "heat: a bomb", member(lambda: header((20_000, 20_000), body=0)() + bytes(400_000_000))
    yield "heat: no array", member(lambda: b"not an array")
    yield "heat: a pickle", member(lambda: b"\x80\x04\x8c\x05hello.")


def _text_mutations() -> Iterator[tuple[str, Mutate]]:
    """Other content of ``config.yaml`` and ``run.json``."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    texts = {
        "list": "[1, 2]",
        "number": "7",
        "null": "null",
        "text": '"hello"',
        "deep": "[" * 900 + "]" * 900,
        "very deep": "[" * 200_000,
        "circle": "scenario: &s {memory: *s}",
        "laughs": laughs,
        "tag": "!!python/object/apply:os.system ['true']",
        "environment": "scenario: {memory: '${oc.env:HOME}', placement: {protocol: '${oc.env:HOME}'}}",
        "environment in JSON": '{"command": "${oc.env:HOME}", "commit": {"a": ["${oc.env:HOME}"]}}',
        "scenario a list": "scenario: [1]",
        "scenario text": "scenario: x",
        "memory a list": "scenario: {memory: [1, 2]}",
        "memory a number": "scenario: {memory: 1e400}",
        "placement odd": "scenario: {placement: {node_cores: x, node_memory_gib: [1], protocol: {a: 1}}}",
        "keys odd": "{1: 2, null: 3, [1, 2]: 4}",
        "dates": "scenario: 2001-01-01",
        "binary": "scenario: !!binary R0lGODlhDAAMAIQAAP",
        "not UTF-8": "\udcff\udcfe: \udc80",
        "NUL": "a\0b",
        "long": "command: " + "x" * 3_000_000,
        "facts odd": '{"command": [1, null], "versions": [[]], "seeds": {"a": 1}, "start": 1e999}',
        "markup": '{"command": "<script>alert(1)</script>", "platform": "| a | b |\\n# c"}',
    }
    for name in ("config.yaml", "run.json"):
        for label, text in texts.items():

            def mutate(folder: Path, name: str = name, text: str = text) -> None:
                (folder / name).write_bytes(text.encode(errors="surrogateescape"))

            yield f"{name}: {label}", mutate


@functools.cache
def _whole_run() -> Path:
    """A small run folder, made once a process and left to the system's clean-up of temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="virtgym-fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            ["benchmark", "scenario=small", "policies=[static,dvfs]", f"out={folder / 'run'}", "report=false"]
        )
    return folder / "run"


@functools.cache
def _mutations() -> tuple[tuple[str, Mutate], ...]:
    return tuple(folder_mutations())


def draw(rng: Rng) -> Attempt:
    """Draw one way to damage a run folder, to be reported on."""
    label, mutate = _mutations()[int(rng.integers(len(_mutations())))]
    whole = _whole_run()

    def run(folder: Path) -> None:
        shutil.copytree(whole, folder / "run")
        mutate(folder / "run")
        write_report([folder / "run"], folder / "out")

    return Attempt(label, run)
