"""What a policy's configuration may hold: keys and types, taken from the fields of the policy's class."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from virtgym.envs.checks import need_plain
from virtgym.envs.errors import ConfigError
from virtgym.envs.suggestions import unknown_name

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


def field_default(parameter: Field[Any]) -> Any:
    """Default of a parameter, ``dataclasses.MISSING`` if it has none."""
    if parameter.default_factory is not MISSING:
        return parameter.default_factory()
    return parameter.default


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


def structured(name: str, description: str, kind: type[Any], implied: Mapping[str, Any]) -> type[Any]:
    """Make the structured configuration of a named policy, for Hydra's ``ConfigStore`` or ``OmegaConf``.

    Args:
        name: Name of the policy.
        description: One line about it.
        kind: Its class, a dataclass.
        implied: Parameters that the name implies.

    Returns:
        A dataclass with ``_target_``, ``name``, ``description`` and one field per parameter.
    """
    hints = parameter_types(kind)
    members: list[tuple[str, Any, Any]] = [
        ("_target_", str, field(default=TARGET)),
        ("name", str, field(default=name)),
        ("description", str, field(default=description)),
    ]
    for f in fields(kind):
        if f.init:
            default = implied.get(f.name, field_default(f))
            default = None if default is MISSING else default
            # A mapping must not be shared by all configurations.
            own: Any = field(default_factory=dict) if default == {} else field(default=default)
            members.append((f.name, hints[f.name], own))
    return make_dataclass(f"{kind.__name__}Config", members)


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
