"""One way to answer a misspelt name: the key, what is close to it, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .errors import ConfigError


def unknown_name(key: str, value: object, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist.

    Args:
        key: What was being set.
        value: The name given.
        allowed: The names that exist.

    Returns:
        An error of one line.
    """
    names = list(allowed)
    close = difflib.get_close_matches(str(value), names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return ConfigError(f"{key}={value}: {hint}allowed: {', '.join(names)}")


def one_of(key: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        ConfigError: Naming the key, close matches and what is allowed.
    """
    names = list(allowed)
    if value not in names:
        raise unknown_name(key, value, names)
    return value
