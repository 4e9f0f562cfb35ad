"""Fingerprints: what decides a result row, by its content, so that no stored row outlives what it came from.

A file counts by what is in it and not by its name or its times: a run folder stays valid where a trace lies
somewhere else, and a file that was rewritten in place makes another run.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import open_regular
from virtgym.envs.scenarios.kinds import GameScenario
from virtgym.envs.scenarios.placement import PlacementScenario
from virtgym.envs.scenarios.scenario import Scenario
from virtgym.envs.scenarios.schema import WORDS

from ..config.overrides import PolicySpec
from .rows import virtgym_version

_MOST_FILES = 100_000
"""Files of a folder that are read for its digest; a larger one is no trace and no agent."""


def content_digest(path: Path) -> str | None:
    """Fingerprint of a file, or of all regular files of a folder with their names.

    Args:
        path: File or folder.

    Returns:
        The fingerprint; None if there is nothing that can be read.
    """
    try:
        if not path.is_dir():
            return _digest_files([path])
        files = []
        for folder, inner, names in os.walk(path):
            inner.sort()
            files += [Path(folder, name) for name in sorted(names)]
            if len(files) > _MOST_FILES:
                return None
        return _digest_files((file for file in files if file.is_file()), path)
    except (OSError, ValueError, VirtgymError):
        return None


def _digest_files(files: Iterable[Path], root: Path | None = None) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        if root is not None:
            whole.update(b"\0" + os.fsencode(file.relative_to(root)) + b"\0")
        one = hashlib.blake2b(digest_size=16)
        with open_regular(file) as stream:
            while piece := stream.read(1 << 20):
                one.update(piece)
        whole.update(one.digest())
    return whole.hexdigest()


def with_contents(value: Any, digest_of: Callable[[Path], Any] = content_digest) -> Any:
    """Replace every text in nested data that names a file or folder by a fingerprint of what is in it.

    Args:
        value: Plain data.
        digest_of: Gives the fingerprint; None where there is no such file.
    """
    if isinstance(value, Mapping):
        return {str(key): with_contents(inner, digest_of) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_contents(inner, digest_of) for inner in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    # A bare word is a choice, like a rule's name, even if a file happens to be called so.
    if isinstance(value, str) and (os.sep in value or "." in value) and "\0" not in value:
        digest = digest_of(Path(value)) if value.strip("./") else None
        return value if digest is None else {"content": digest}
    return value


@functools.cache
def code_digest(kind: type) -> str | None:
    """Fingerprint of the source of a class of one's own.

    It covers the modules of the class and of its bases, and what they import from beside them or from their
    package. It is taken once a process: what was imported stays what runs.

    Args:
        kind: The class.

    Returns:
        The fingerprint; None for virtgym's own classes, which the version stands for, and where there is no
        source.
    """
    return source_digest({base.__module__ for base in kind.__mro__})


def source_digest(modules: Iterable[str]) -> str | None:
    """Fingerprint of the source of modules and of what they import from beside them; None without any."""
    files: set[Path] = set()
    for module in modules:
        if module.partition(".")[0] not in (*sys.stdlib_module_names, "virtgym"):
            files |= _source_files(module)
    return _digest_files(sorted(files)) if files else None


def _source_files(module: str) -> set[Path]:
    """Source of a module and of what it imports from its own package or from beside it."""
    spelled = getattr(sys.modules.get(module), "__file__", None)
    if spelled is None or not spelled.endswith(".py") or not Path(spelled).is_file():
        return set()
    first = Path(spelled)
    above = module.count(".") + (first.name == "__init__.py")
    root = first.parents[above]
    installed = {"site-packages", "dist-packages"} & set(root.parts)
    found = {first: module}
    queue = [first]
    for file in queue:  # grows
        for name in _imports(file, found[file]):
            parts = name.split(".")
            if parts[0] == "virtgym" or (installed and parts[0] != module.partition(".")[0]):
                continue
            stem = root.joinpath(*parts)
            for candidate in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
                if candidate not in found and candidate.is_file():
                    found[candidate] = name
                    queue.append(candidate)
    return set(found)


def _imports(file: Path, module: str) -> list[str]:
    """Absolute names of all modules that a source file may import, with the packages they are in."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            names += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
    return [
        ".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)
    ]


def trace_digest(scenario: Scenario | GameScenario) -> str:
    """Fingerprint of what was read: demand, requests or a snapshot, whatever path it came from."""
    if not isinstance(scenario, Scenario):
        return _digest(*scenario.arrays())
    load = scenario.trace
    columns = (load.arrival_s, load.departure_s, load.vcpus, load.cpu_mhz, load.memory_mib, load.vm_class)
    signals = [load.signals[name] for name in sorted(load.signals)]
    head = f"{load.format} {load.sample_s} {sorted(load.signals)} {[c is not None for c in columns]}"
    return _digest(load.util, *(c for c in columns if c is not None), *signals, head=head)


def _digest(*arrays: NDArray[Any], head: str = "") -> str:
    whole = hashlib.blake2b(head.encode(), digest_size=8)
    for array in arrays:
        whole.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return whole.hexdigest()


def config_hash(scenario: Scenario | GameScenario, policy: PolicySpec, defaults: Mapping[str, Any]) -> str:
    """Fingerprint of everything but the seed that decides a row: scenario, trace, policy and version.

    Args:
        scenario: The scenario.
        policy: The policy.
        defaults: What else decides what the policy does: parameters that ``policy`` does not name, the
            content of an agent's folder, and the code of a class of one's own.
    """
    config = asdict(scenario.config)
    for name in WORDS:
        config.pop(name)
    if config.get("inventory", {}).get("path") is None:
        config.pop("inventory", None)
    else:
        for key in ("path", "usage", "overlay"):
            named = config["inventory"][key]
            config["inventory"][key] = named and content_digest(Path(str(named)))
    trace = getattr(scenario.config, "trace", None)
    if trace is not None and trace.oversized == "refuse":  # the VMs are those of the trace
        config["trace"].pop("oversized")
    if trace is not None and trace.path is not None:
        config["trace"]["path"] = trace_digest(scenario)
    if source := getattr(scenario, "source", None):  # another scenario that it was taken of
        config["source"] = dict(source)
    if isinstance(scenario, Scenario):
        if scenario.cluster.carbon is not None and scenario.config.carbon.path is not None:
            config["carbon"]["path"] = scenario.cluster.carbon.source  # with the file's SHA-256
        if scenario.config.failures.path is not None:
            config["failures"]["path"] = repr(scenario.cluster.incidents)
    if isinstance(scenario, PlacementScenario):
        # Only what says which windows are played: rows for training do where nothing else does.
        idle = {"n_windows", "rows", "train_rows"} if scenario.config.windows is not None else set()
        idle |= {"train_rows"} if scenario.config.rows is not None else set()
        config = {k: v for k, v in config.items() if k not in idle}
        if scenario.config.windows is not None:
            config["windows"] = _digest(scenario.windows)
    what = {
        "scenario": with_contents(config),
        "policy": with_contents({**defaults, **policy.params}) | {"name": policy.name},
        "version": virtgym_version(),
    }
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
