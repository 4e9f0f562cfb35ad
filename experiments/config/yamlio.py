"""YAML in and out, without OmegaConf: it takes a quarter of a second to import and resolves what it reads.

What lies in a folder may come from anyone: it is read as plain data, ``${…}`` stays text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 16_000_000
_MOST_VALUES = 1_000_000
_DEEPEST = 50

YamlError: type[Exception] = yaml.YAMLError
"""What is raised for text that is not YAML."""


def load_yaml(text: str) -> Any:
    """Read plain data."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data, keys in their order."""
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True))


def read_stored(path: Path) -> str | None:
    """Text of a stored file; None if there is none, or nothing that can be read as a whole."""
    from virtgym.envs.errors import TraceError
    from virtgym.envs.files import read_bytes  # only now: ``virtgym list`` needs no NumPy

    try:
        return read_bytes(path, limit=_MOST_BYTES).decode("utf-8", errors="replace")
    except TraceError:
        return None


def load_stored(path: Path) -> Any:
    """Plain data of a stored ``.json`` or ``.yaml`` file; None if there is none, or it is damaged.

    A tree that refers to itself, or grows out of bounds by such references, counts as damaged.
    """
    text = read_stored(path)
    if text is None:
        return None
    try:
        data = json.loads(text) if path.suffix == ".json" else load_yaml(text)
    except (ValueError, YamlError, RecursionError):
        return None
    return data if _is_bounded(data) else None


def _is_bounded(data: Any) -> bool:
    """Whether a tree, with every reference in it followed, is neither large nor deep."""
    count, stack = 1, [(data, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, dict | list):
            count += len(value)
            if count > _MOST_VALUES or depth > _DEEPEST:
                return False
            inner = value.values() if isinstance(value, dict) else value
            stack += [(item, depth + 1) for item in inner]
    return True


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings, by dotted keys."""
    if not isinstance(tree, Mapping):
        return {prefix[:-1]: tree}
    return {k: v for key, inner in tree.items() for k, v in flat(inner, f"{prefix}{key}.").items()}


def flat_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between a stored configuration and another, ``key: there, now`` each."""
    there, now = (flat(_as_stored(tree)) for tree in (old, new))
    keys = [key for key in sorted({*there, *now}) if there.get(key) != now.get(key)]
    return [f"{key}: {there.get(key)} there, {now.get(key)} now" for key in keys]


def _as_stored(tree: Any) -> Any:
    """A tree with lists in place of tuples, as it is read again."""
    if isinstance(tree, Mapping):
        return {key: _as_stored(inner) for key, inner in tree.items()}
    return [_as_stored(inner) for inner in tree] if isinstance(tree, list | tuple) else tree
