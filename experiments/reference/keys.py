"""Keys of a configuration: the fields of a dataclass, with the meanings that its docstring gives them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from virtgym.envs.registry import field_default

_ATTRIBUTES = re.compile(r"^(?:Attributes|Args):\n((?:[ \t]+.*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^\*{0,2}(\w+): +(\S(?:.*\n?(?:^[ \t]+.*\n?)*))", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: Dotted; ``[]`` stands for an item of a list, ``NAME`` for a name of the user's.
        kind: What it may hold.
        default: Its default, as YAML has it; empty = it must be given.
        meaning: What it is, with its unit.
        docstring: Text of the class that has it, first paragraph.
    """

    name: str
    kind: str
    default: str
    meaning: str
    docstring: str = field(default="", repr=False)


def meanings(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields, in one line each.

    Args:
        kind: A class with docstrings in Google's style, fields under ``Attributes:`` or ``Args:``.
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = f"{inspect.cleandoc(base.__doc__)}\n" if "__doc__" in vars(base) and base.__doc__ else ""
        for section in _ATTRIBUTES.findall(text):
            entries = textwrap.dedent(section)
            found |= {name: " ".join(words.split()) for name, words in _ENTRY.findall(entries)}
    return found


def keys_of(kind: type[Any], prefix: str = "", whole: Any = None) -> Iterator[Key]:
    """Every key of a dataclass, those of the dataclasses among its fields in their place.

    Args:
        kind: The dataclass.
        prefix: Key of the whole, with a dot; in front of every name.
        whole: One of the class that has the defaults; None = those of the class.
    """
    hints, texts = get_type_hints(kind), meanings(kind)
    about = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
    for one in fields(kind):
        if not one.init or one.name.startswith("_"):
            continue
        value = field_default(one) if whole is None else getattr(whole, one.name)
        inner, mark = _inner(hints[one.name])
        if inner is not None and mark == "":
            yield from keys_of(inner, f"{prefix}{one.name}.", value if is_dataclass(value) else None)
            continue
        text = texts.get(one.name, "")
        yield Key(f"{prefix}{one.name}", _shown_type(hints[one.name]), shown(value), text, about)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{one.name}{mark}.")


def _inner(hint: Any) -> tuple[type[Any] | None, str]:
    """The dataclass of a field, and what stands between its key and the keys of the class."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint, ""
    kinds = [a for a in get_args(hint) if isinstance(a, type) and is_dataclass(a)]
    if not kinds:
        return None, ""
    return kinds[0], "[]" if get_origin(hint) in (list, tuple) else ".NAME" if get_origin(
        hint
    ) is dict else ""


_WORDS: dict[Any, str] = {float: "number", int: "integer", bool: "true, false", str: "text", Any: "any"}


def _shown_type(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("null" if kind is NoneType else _shown_type(kind) for kind in inner)
    if origin in (list, tuple):
        return f"list of {_shown_type(inner[0])}"
    if origin is not None and inner:
        return "mapping" if len(inner) == 2 else _shown_type(inner[0])
    return "group" if is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A default as YAML has it; empty for one that there is not.

    Examples:
        >>> shown(None), shown(True), shown((1.0, 2)), shown("")
        ('null', 'true', '[1.0, 2]', "''")
    """
    if is_dataclass(value) or "MISSING" in type(value).__name__:
        return ""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(v) or "…" for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    words = {"None": "null", "True": "true", "False": "false", "": "''"}
    return words.get(str(value), str(value))
