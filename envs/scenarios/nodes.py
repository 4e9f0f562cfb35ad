"""Dataclasses as schemas of OmegaConf and back: what the simulator takes is what a scenario has keys for."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass, make_dataclass
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigError

T = TypeVar("T")


@functools.cache
def schema_of(kind: Any, *without: str) -> type[Any]:
    """A class with the fields, types and defaults of a dataclass, which OmegaConf can fill.

    OmegaConf makes nodes of a frozen class read-only, and knows no choice between types: the class itself
    checks those, when it is made of the values (``made``).

    Args:
        kind: The dataclass; those among its fields become schemas too, tuples become lists.
        *without: Fields that are no keys.
    """
    hints = get_type_hints(kind)
    own = [f for f in fields(kind) if f.name not in without]
    keys = [(f.name, _open_hint(hints[f.name]), _open_default(f, hints[f.name])) for f in own]
    made_class = make_dataclass(kind.__name__, keys, repr=False, eq=False)  # which take half of the time
    # Pickled by its name, each process makes its own: cloudpickle would send the class itself, and
    # a class that comes back from a worker would lay copies of dataclasses.MISSING over the fields here.
    made_class.__module__ = __name__
    home = kind.__module__.replace(".", "/")
    made_class.__qualname__ = _NAME.format(home, kind.__qualname__, ",".join(without))
    return made_class


_NAME = "schema of {}:{} without <{}>"


def __getattr__(name: str) -> Any:
    """The schema of a pickled name."""
    found = re.fullmatch(r"schema of (\S+):(\w+) without <(\S*)>", name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind = getattr(import_module(found[1].replace("/", ".")), found[2])
    return schema_of(kind, *filter(None, found[3].split(",")))


def _open_hint(hint: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return schema_of(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (tuple, list):
        return list[_open_hint(inner[0])]  # type: ignore[misc]  # types are values here
    if origin in (Union, UnionType):
        kinds = [a for a in inner if a is not NoneType]
        return Any if len(kinds) > 1 else _open_hint(kinds[0]) | None
    return hint


def _open_default(of: Field[Any], hint: Any) -> Any:
    if of.default is MISSING and of.default_factory is MISSING:
        return field()
    value = of.default_factory() if of.default_factory is not MISSING else of.default
    return field(default_factory=functools.partial(copy.deepcopy, value if hint is Any else _opened(value)))


def _opened(value: Any) -> Any:
    if is_dataclass(value):
        kind: Any = type(value)
        return schema_of(kind)(**{f.name: _opened(getattr(value, f.name)) for f in fields(value)})
    return [_opened(item) for item in value] if isinstance(value, tuple | list) else value


def default_keys(kind: Any) -> dict[str, Any]:
    """Every key of a schema with its default, in plain mappings and lists."""
    return asdict(schema_of(kind)())


def made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass of the plain values of its schema.

    Args:
        kind: The class.
        values: Its fields; mappings become the dataclasses among them, lists become tuples where it has them.
        where: Key of the whole, for messages.

    Raises:
        ConfigError: From the class, for a value that is not allowed; names the key.
    """
    hints = get_type_hints(kind)
    given = {key: _made(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _made(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return made(hint, value, where)
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and origin in (Union, UnionType):
        kinds = [kind for kind in inner if is_dataclass(kind)]
        return _made(kinds[0], value, where) if kinds else value
    if not isinstance(value, list):
        return value
    if origin in (tuple, list):
        value = [_made(inner[0], item, f"{where}.{i}") for i, item in enumerate(value)]
    return tuple(value) if tuple in (origin, *map(get_origin, inner)) else value


def only(kind: type[T], value: Any) -> T:
    """The fields that a value has of one of its base classes, a dataclass, as one of that class."""
    base: Any = kind
    return kind(**{f.name: getattr(value, f.name) for f in fields(base)})
