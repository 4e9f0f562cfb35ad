"""What a policy's configuration may hold: keys and types, taken from the fields of the policy's class."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Container, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from virtgym.envs.checks import need_plain, unknown_name
from virtgym.envs.errors import ConfigError
from virtgym.envs.registry import Entry

TARGET = "virtgym.policies.make_policy"
"""What ``hydra.utils.instantiate`` calls for a policy's configuration."""

RESERVED = ("_target_", "name", "description")
"""Keys of every policy's configuration that are not parameters."""

_WORDS: dict[type[Any], str] = {float: "a number", int: "an integer", bool: "true or false", str: "a name"}


def parameter_types(kind: type[Any]) -> dict[str, Any]:
    """The parameters of a policy's class with their types.

    Args:
        kind: A dataclass.

    Returns:
        Type by name, in the order of the fields.
    """
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.init}


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with dotted names as mappings of mappings.

    Args:
        params: Value by name.

    Examples:
        >>> nested({"power": "dpm", "drs.level": 4, "drs.period": 2})
        {'power': 'dpm', 'drs': {'level': 4, 'period': 2}}
    """
    tree: dict[str, Any] = {}
    for key, value in params.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"policy.{key}: {part} is a plain value")
        if isinstance(value, Mapping) and isinstance(node.get(last), dict):
            node[last].update(value)
        else:
            node[last] = dict(value) if isinstance(value, Mapping) else value
    return tree


def is_folder(name: str, names: Container[str]) -> bool:
    """Whether a text means the folder of something trained, and not one of some names or a dotted path."""
    return os.sep in name or (os.path.isdir(name) and name not in names)


def construct(name: str, entry: Entry, params: Mapping[str, Any], what: str = "policy") -> Any:
    """Make the thing of an entry, with parameters that it is known to take.

    Args:
        name: What the user called it.
        entry: The entry.
        params: Parameters given; they win over those that the name implies.
        what: What it is, the first word of the key in messages.

    Raises:
        ConfigError: Naming the key, its neighbours and what is allowed.
    """
    params = nested({**entry.implied, **params})
    check_parameters(name, entry.factory, params, what)
    try:
        return entry.factory(**params)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} {name}: {error}") from error


def check_parameters(name: str, kind: type[Any], params: Mapping[str, Any], what: str = "policy") -> None:
    """Check names and types of parameters; a class that is not a dataclass checks its own.

    Args:
        name: Name of the policy.
        kind: Its class.
        params: Parameters given.
        what: What the class is, the first word of the key in messages.

    Raises:
        ConfigError: Naming the key, its neighbours and what is allowed.
    """
    if not is_dataclass(kind):
        return
    hints = parameter_types(kind)
    for key, value in params.items():
        if key not in hints:
            raise _unknown_parameter(name, key, list(hints), what)
        need_plain(f"{what}.{key}", value)
        _check_type(f"{what}.{key}", value, hints[key])


def _check_type(key: str, value: Any, hint: Any) -> None:
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return
    kind = next(o for o in options if o is not types.NoneType)
    if get_origin(kind) is dict and not isinstance(value, dict):
        raise ConfigError(f"{key}={value}: must be a mapping, as in {key}.NAME=VALUE")
    if kind not in _WORDS:
        return
    if isinstance(value, bool):
        fits = kind is bool
    elif kind is float:
        fits = isinstance(value, (int, float))
    else:
        fits = isinstance(value, kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number")
    if not fits:
        nothing = " or null" if types.NoneType in options else ""
        raise ConfigError(f"{key}={value}: must be {_WORDS[kind]}{nothing}")


def _unknown_parameter(name: str, key: str, allowed: list[str], what: str) -> ConfigError:
    if not allowed:
        return ConfigError(f"{what}.{key}: {name} has no parameters")
    hint = str(unknown_name("", key, allowed)).split(": ", 1)[1]
    return ConfigError(f"{what}.{key}: {name} has no such parameter; {hint}")
