"""Checks of configuration values: one line that names the key and says what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

__all__ = [
    "need",
    "need_choice",
    "need_count",
    "need_index",
    "need_indices",
    "need_not_negative",
    "need_positive",
    "need_seed",
    "need_share",
    "whole_number",
]


def need(ok: bool, message: str) -> None:
    """Raise unless a condition holds.

    Raises:
        ConfigError: With the message.
    """
    if not ok:
        raise ConfigError(message)


def need_positive(owner: str, **values: float) -> None:
    """Every value must be a finite number above 0.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for key, value in values.items():
        need(math.isfinite(value) and value > 0, f"{owner}.{key}={value}: must be a positive number")


def need_not_negative(owner: str, **values: float) -> None:
    """Every value must be a finite number of at least 0.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for key, value in values.items():
        need(math.isfinite(value) and value >= 0, f"{owner}.{key}={value}: must be 0 or more")


def need_share(owner: str, **values: float) -> None:
    """Every value must lie in 0...1.

    Raises:
        ConfigError: Naming the first that does not.
    """
    for key, value in values.items():
        need(0 <= value <= 1, f"{owner}.{key}={value}: must lie in 0..1")


def need_count(owner: str, low: int = 1, **values: float) -> None:
    """Every value must be a whole number of at least ``low``.

    Raises:
        ConfigError: Naming the first that is not.
    """
    for key, value in values.items():
        whole = math.isfinite(value) and float(value).is_integer() and value >= low
        need(whole, f"{owner}.{key}={value}: must be a whole number, at least {low}")


def need_choice(owner: str, key: str, value: str, allowed: Sequence[str]) -> None:
    """A value must be one of a few words.

    Raises:
        ConfigError: Naming key, value and the words.
    """
    need(value in allowed, f"{owner}.{key}={value}: must be one of {', '.join(allowed)}")


def whole_number(value: Any) -> int | None:
    """A value as an int where it is one (Python's or NumPy's, not a truth value), else None."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def need_index(owner: str, what: str, value: Any, n: int) -> int:
    """The number of a host, a VM or the like: a whole number from 0 to ``n`` - 1.

    Raises:
        ConfigError: If it is not.
    """
    number = whole_number(value)
    if number is None or not 0 <= number < n:
        raise ConfigError(f"{owner}: {what} {value}: no such {what}, must lie in 0..{n - 1}")
    return number


def need_indices(owner: str, what: str, values: Iterable[Any], n: int) -> NDArray[np.int32]:
    """Several such numbers, (k,).

    Raises:
        ConfigError: If one of them is none, or there is no list of them.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        for wrong in values[(values < 0) | (values >= n)]:
            need_index(owner, what, wrong, n)
        return values.astype(np.int32)
    if isinstance(values, str) or not np.iterable(values):
        raise ConfigError(f"{owner}: {values!r}: must be a list of numbers, each a {what}")
    return np.array([need_index(owner, what, value, n) for value in values], dtype=np.int32)


def need_seed(owner: str, value: Any) -> int:
    """A seed: a whole number of at least 0, of any length.

    Raises:
        ConfigError: If it is not.
    """
    number = whole_number(value)
    if number is None or number < 0:
        raise ConfigError(f"{owner}={value!r}: must be a whole number, at least 0")
    return number
