"""Hostile folders of agents: what a stranger may hand over as ``policy=FOLDER``.

Each is made from a good agent by one change, most with a checksum that is right, so that what comes after
the checksum is met, too. ``load_agent`` must refuse all of them in one line of a ``ConfigError``, at once, in
little memory, and run no code.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from virtgym.policies.learned.agent import load_policy
from virtgym.policies.learned.architecture import PARTS, Architecture, Layout
from virtgym.policies.learned.storage import META, WEIGHTS, Agent, Member, save_agent

from .runner import Attempt, Rng

Make = Callable[[Path], object]


def _good(folder: Path, network: str = "equivariant") -> dict[str, Any]:
    """Save an agent that is as it should be; returns its ``agent.json``."""
    layout = Layout.current("candidates" if network == "scorer" else "basic")
    architecture = Architecture(network, *layout.sizes, 10 if network == "mlp" else 0, hidden=(8, 8))
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in architecture.shapes().items()}
    protocol = {"actions": "candidates"} if network == "scorer" else {}
    save_agent(folder, Agent((Member(architecture, layout, weights),), layout.task, protocol))
    meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
    return meta


def _with_meta(change: Callable[[dict[str, Any]], object], network: str = "equivariant") -> Make:
    """An agent whose description is changed."""

    def make(folder: Path) -> None:
        meta = _good(folder, network)
        change(meta)
        (folder / META).write_text(json.dumps(meta), encoding="utf-8")

    return make


def _with_text(text: bytes) -> Make:
    """An agent whose description is this."""

    def make(folder: Path) -> None:
        _good(folder)
        (folder / META).write_bytes(text)

    return make


def _with_weights(change: Callable[[bytes], bytes]) -> Make:
    """An agent whose weights are changed and whose checksum is right."""

    def make(folder: Path) -> None:
        meta = _good(folder)
        data = change((folder / WEIGHTS).read_bytes())
        (folder / WEIGHTS).write_bytes(data)
        meta["weights_sha256"] = hashlib.sha256(data).hexdigest()
        (folder / META).write_text(json.dumps(meta), encoding="utf-8")

    return make


def _with_entry(change: Callable[[bytes], bytes], name: str = "0/node.weight.npy", method: int = 0) -> Make:
    """An agent one of whose arrays is changed, as bytes of the ``.npy`` format."""

    def rezip(data: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
            for entry in old.namelist():
                content = old.read(entry)
                new.writestr(entry, change(content) if entry == name else content)
            if name not in old.namelist():
                new.writestr(name, change(b""))
        return out.getvalue()

    return _with_weights(rezip)


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> Callable[[bytes], bytes]:
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return lambda _: b"\x93NUMPY" + version + length + text + data


def _array(array: Any, **options: Any) -> Callable[[bytes], bytes]:
    out = io.BytesIO()
    np.save(out, array, **options)
    return lambda _: out.getvalue()


def _header(shape: str, descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


class _Bomb:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


def _patch(data: bytes, at: int, value: bytes) -> bytes:
    at %= len(data)
    return data[:at] + value + data[at + len(value) :]


def _declare(size: int) -> Callable[[bytes], bytes]:
    """Every entry of the archive's directory declares this size."""

    def change(data: bytes) -> bytes:
        at = data.find(b"PK\x01\x02")
        while at >= 0:
            data = _patch(data, at + 24, struct.pack("<I", size))
            at = data.find(b"PK\x01\x02", at + 4)
        return data

    return change


def _replaced(name: str, replace: Callable[[Path], object]) -> Make:
    """An agent one of whose files is something else than a file."""

    def make(folder: Path) -> None:
        _good(folder)
        (folder / name).unlink()
        replace(folder / name)

    return make


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], object]:
    """Set ``meta[key][key]…``."""

    def change(meta: Any) -> None:
        for key in keys[:-1]:
            meta = meta[key]
        meta[keys[-1]] = to

    return change


def _hidden_sizes() -> Iterator[tuple[str, Make]]:
    huge = 1_000_000
    sizes: tuple[tuple[str, Any], ...] = (
        ("a million twice", [huge, huge]),
        ("one of a million", [huge]),
        ("int64", [2**63 - 1, 2**63 - 1]),
        ("of 400 digits", [10**400, 10**400]),
        ("zero", [0, 0]),
        ("negative", [-8, -8]),
        ("fractions", [8.5, 8.5]),
        ("texts", ["8", "8"]),
        ("nothing", []),
        ("null", None),
        ("a number", 8),
        ("nested", [[8], [8]]),
        ("a hundred thousand layers", [8] * 100_000),
        ("a mapping", {"8": 8}),
        ("infinite", [float("inf"), float("inf")]),
        ("others", [16, 16]),
    )
    for network in ("equivariant", "mlp", "scorer"):
        for label, value in sizes:
            yield (
                f"hidden: {label} ({network})",
                _with_meta(_set("members", 0, "architecture", "hidden", to=value), network),
            )


def _descriptions() -> Iterator[tuple[str, Make]]:
    for key in ("n_node", "n_request", "n_globals", "n_nodes", "n_extra"):
        for number in (-1, 10**9, 2**63, 1.5, "7", None, True, [7]):
            network = "mlp" if key == "n_nodes" else "equivariant"
            yield f"{key}={number!r}", _with_meta(_set("members", 0, "architecture", key, to=number), network)
    for key in ("network", "activation"):
        for text in ("lstm", "os.system", None, ["relu"], {"a": 1}, 5):
            yield f"{key}={text!r}", _with_meta(_set("members", 0, "architecture", key, to=text))
    names: tuple[tuple[str, Any], ...] = (
        ("ten thousand others", [f"c{i}" for i in range(10_000)]),
        ("one ten thousand times", ["fits"] * 10_000),
        ("numbers", list(range(11))),
        ("null", None),
        ("a text", "fits"),
        ("nothing", []),
        ("rows of a window", [f"window.{i}.cores" for i in range(20_000)]),
        ("a window without row", ["window."]),
    )
    parts = [(part, network) for network, task in (("equivariant", "placement"), ("scorer", "cluster"))
             for part in PARTS[task]]  # fmt: skip
    for part, network in parts:
        for label, value in names:
            change = _set("members", 0, "columns", part, to=value)
            yield f"columns.{part}: {label} ({network})", _with_meta(change, network)
    yield from _protocols()
    for key in ("format", "format_version", "members", "task", "protocol", "training", "weights_sha256"):
        for value in (None, -1, [], "x" * 100_000, [[]], 1e308):
            yield f"{key}={str(value)[:8]!r}", _with_meta(_set(key, to=value))
    for key in ("architecture", "columns", "scores"):
        for value in (None, 5, [], {}, "logits2"):
            yield f"members.{key}={value!r}", _with_meta(_set("members", 0, key, to=value))
    yield "members: twice, weights of one", _with_meta(lambda m: m["members"].append(m["members"][0]))
    yield "members: a thousand", _with_meta(lambda m: m.update(members=m["members"] * 1000))
    yield "architecture: an unknown key", _with_meta(_set("members", 0, "architecture", "__class__", to="x"))
    texts: tuple[tuple[str, bytes], ...] = (
        ("empty", b""),
        ("deeply nested", b"[" * 200_000),
        ("deep mappings", b'{"a":' * 100_000),
        ("not UTF-8", b'{"format": "\xff\xfe"}'),
        ("a lone surrogate", b'{"format": "\\ud800"}'),
        ("NUL", b"\0" * 1000),
        ("a number of 100,000 digits", b'{"format": ' + b"9" * 100_000 + b"}"),
        ("a pickle", pickle.dumps(_Bomb())),
        ("two megabytes of blanks", b" " * 2_000_000),
        ("cut off", b'{"format": "virtgym-agent", "format_'),
    )
    for label, data in texts:
        yield f"{META}: {label}", _with_text(data)


def _protocols() -> Iterator[tuple[str, Make]]:
    """What an agent of clusters says of its environment: nothing in it may name code, a file, or a flood."""
    protocols: tuple[tuple[str, Any], ...] = (
        ("nothing", {}),
        ("another form", {"actions": "knobs", "knobs_policy": "os.system"}),
        ("no form", {"actions": ["candidates"]}),
        *(
            (f"{key} {value!r}", {"actions": "candidates", "candidates": {key: value}})
            for key, value in (
                ("plans", ["os.system"]),
                ("plans", ["antigravity:Policy"]),
                ("plans", ["drs(forecaster=os.system)"]),
                ("plans", ["/tmp/agent"]),
                ("plans", [["drs", ["a.b"]]]),
                ("plans", "drs"),
                ("own", ["os:system"]),
                ("own", {"os.system": 1}),
                ("os.system", 1),
                ("no_such_key", 1),
                ("empty_least", 10**9),
                ("relieve", -1),
                ("on", "2"),
                ("fills", [float("nan")] * 3),
            )
        ),
        ("settings of a list", {"actions": "candidates", "candidates": ["relieve"]}),
        ("a rule by path", {"actions": "candidates", "arrival": "os.system"}),
        ("a rule that is a number", {"actions": "candidates", "arrival": 7}),
        ("choices of a text", {"actions": "candidates", "max_decisions_per_interval": "2"}),
        ("no choices", {"actions": "candidates", "max_decisions_per_interval": 0}),
    )
    for label, value in protocols:
        yield f"protocol: {label}", _with_meta(_set("protocol", to=value), "scorer")


def _archives() -> Iterator[tuple[str, Make]]:
    zeros = bytes(32 << 20)
    yield "zip: bomb in one array", _with_entry(lambda _: zeros, method=zipfile.ZIP_DEFLATED)
    yield "zip: bomb beside the arrays", _with_entry(lambda _: zeros, "0/x.npy", zipfile.ZIP_DEFLATED)
    yield "zip: bomb in bzip2", _with_entry(lambda _: zeros, method=zipfile.ZIP_BZIP2)
    yield "zip: bomb in LZMA", _with_entry(lambda _: zeros, method=zipfile.ZIP_LZMA)
    for size in (0, 1, 1 << 20, (1 << 32) - 2, (1 << 32) - 1):
        yield f"zip: declares {size:,} bytes", _with_weights(_declare(size))
    for name in (
        "../../x.npy",
        "/etc/x.npy",
        "x.npy",
        "1/node.weight.npy",
        "0/\0.npy",
        "0/x.py",
        "/",
        "0/.npy",
    ):
        yield f"zip: an entry {name!r}", _with_entry(_array(np.zeros(1, np.float32)), name)
    yield "zip: thousands of entries", _with_weights(_many_entries)
    yield (
        "zip: an encrypted entry",
        _with_weights(lambda d: _patch(d, d.find(b"PK\x01\x02") + 8, b"\x01")),
    )
    yield (
        "zip: an unknown method",
        _with_weights(lambda d: _patch(d, d.find(b"PK\x01\x02") + 10, b"\x63\x00")),
    )
    for at in (0, 30, 100, 200, -22, -6):
        yield f"zip: damaged at byte {at}", _with_weights(lambda d, at=at: _patch(d, at, b"\xff\xff"))  # type: ignore[misc]
    for part in (0, 1, 4, 50, 90, 99):
        yield f"zip: cut off at {part} %", _with_weights(lambda d, p=part: d[: len(d) * p // 100])  # type: ignore[misc]
    yield "weights: a pickle", _with_weights(lambda _: pickle.dumps(_Bomb()))
    yield "weights: one array, no archive", _with_weights(_array(np.zeros(3, np.float32)))
    yield "weights: a bit flipped, checksum as before", _flipped


def _flipped(folder: Path) -> None:
    _good(folder)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def _many_entries(data: bytes) -> bytes:
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        for i in range(20_000):
            archive.writestr(f"{i}", b"")
    return out.getvalue()


def _arrays() -> Iterator[tuple[str, Make]]:
    for shape in (
        "(2500000000000,)", "(8, 10**12)", "(8, 1000000000000)", "(1000000, 1000000, 1000000)", "(-1, 22)",
        "(99999999999999999999,)", "()", "(0,)", "(8,)", "(8, 22.0)", "'x'", "None", "(8, None)", "[8, 22]",
    ):  # fmt: skip
        yield f"array: a shape {shape}", _with_entry(_npy(_header(shape)))
    for descr in ("'|O'", "'<f8'", "'<i8'", "'<c16'", "'|V8'", "'<U1000000000'", "'|S4'", "'<M8[s]'",
                  "[('a', '<f4'), ('b', '|O')]", "'x'", "None", "'<f4, <f4'",
                  "'(1000000000,1000000000)<f4'"):  # fmt: skip
        yield f"array: of {descr}", _with_entry(_npy(_header("(8, 22)", descr), bytes(704)))
    for order in ("True", "None", "'x'", "2"):
        yield f"array: fortran_order={order}", _with_entry(_npy(_header("(9, 9)", order=order), bytes(704)))
    headers = (
        ("", "empty"),
        ("{", "cut off"),
        ("[" * 5000, "nested"),
        ("(" * 200 + ")" * 200, "of parentheses"),
        ("{'shape': (8, 22)}", "without dtype"),
        ("__import__('os')._exit(99)", "a call"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (8, 22), 'x': 1}", "with a key too much"),
        ("'" * 3 + "x" * 9000, "a text without end"),
        ("{1: 2, 'a': 3}", "of other keys"),
        ("x" * 60_000, "long"),
    )
    for text, label in headers:
        for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
            yield f"array: header {label}, version {version[0]}", _with_entry(_npy(text, bytes(704), version))
    yield "array: version 9", _with_entry(_npy(_header("(8, 22)"), bytes(704), b"\x09\x00"))
    yield "array: a header of 4 GB", _with_entry(lambda _: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")
    yield "array: objects", _with_entry(_array(np.array([_Bomb()], dtype=object), allow_pickle=True))
    for value in (np.nan, np.inf, -np.inf):
        yield f"array: holds {value}", _with_entry(_array(np.full((8, 22), value, np.float32)))
    yield "array: empty", _with_entry(lambda _: b"")
    yield "array: a byte too much", _with_entry(lambda data: data + b"\0")
    yield "array: a byte too few", _with_entry(lambda data: data[:-1])


def _files() -> Iterator[tuple[str, Make]]:
    for name in (META, WEIGHTS):
        yield f"{name}: missing", _replaced(name, lambda path: None)
        yield f"{name}: a folder", _replaced(name, lambda path: path.mkdir())
        yield f"{name}: a FIFO", _replaced(name, os.mkfifo)
        yield f"{name}: a link to /dev/zero", _replaced(name, lambda path: path.symlink_to("/dev/zero"))
        yield f"{name}: a link to itself", _replaced(name, lambda path: path.symlink_to(path))
        yield f"{name}: a link to nothing", _replaced(name, lambda path: path.symlink_to("/nonexistent"))
        yield f"{name}: a sparse file of 1 TB", _replaced(name, _sparse)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def hostile_agents() -> Iterator[tuple[str, Make]]:
    """Every hostile agent: what is wrong with it, and what makes it in a folder that does not exist yet."""
    yield from _hidden_sizes()
    yield from _descriptions()
    yield from _archives()
    yield from _arrays()
    yield from _files()


@functools.cache
def _agents() -> tuple[tuple[str, Make], ...]:
    return tuple(hostile_agents())


def draw(rng: Rng) -> Attempt:
    """Draw one of the agents, to be loaded."""
    label, make = _agents()[int(rng.integers(len(_agents())))]

    def run(folder: Path) -> None:
        make(folder / "agent")
        load_policy(folder / "agent")

    return Attempt(label, run)
