"""Checks of configuration values: one line that names the key and says what is allowed."""

from __future__ import annotations

import difflib
import math
import operator
import os
import resource
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, VirtgymError


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


def hint(value: object, known: Iterable[str], form: str = " (did you mean {}?)", most: int = 1) -> str:
    """What a misspelt name may have meant, or nothing: the one place that looks for neighbours.

    Args:
        value: The name given.
        known: The names that exist.
        form: Text round the neighbours.
        most: Neighbours named at most.
    """
    near = difflib.get_close_matches(str(value), list(known), n=most)
    return form.format(" or ".join(near)) if near else ""


def unknown_name(
    key: str, value: object, allowed: Iterable[str], error: type[VirtgymError] = ConfigError
) -> VirtgymError:
    """The error for a name that does not exist.

    Args:
        key: What was being set.
        value: The name given.
        allowed: The names that exist.
        error: Its type.

    Returns:
        An error of one line.
    """
    names = list(allowed)
    close = hint(value, names, "did you mean {}? ", 3)
    return error(f"{key}={value}: {close}allowed: {', '.join(names)}")


def one_of(key: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        ConfigError: Naming the key, close matches and what is allowed.
    """
    names = list(allowed)
    if value not in names:
        raise unknown_name(key, value, names)
    return value


def need_choice(owner: str, key: str, value: str, allowed: Sequence[str]) -> None:
    """A value must be one of a few words.

    Raises:
        ConfigError: Naming key, value and the words.
    """
    need(value in allowed, f"{owner}.{key}={value}: must be one of {', '.join(allowed)}")


def need_plain(key: str, value: Any) -> None:
    """Refuse what means nothing under any key: NaN, integers beyond 64 bits, NUL in a text.

    Args:
        key: The key, dotted.
        value: Its value; mappings and lists are looked through.

    Raises:
        ConfigError: Naming the key of the first such value.
    """
    if isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            need_plain(f"{key}.{name}", inner)
        return
    need(not isinstance(value, float) or not math.isnan(value), f"{key}={value}: must be a number")
    need(not isinstance(value, int) or abs(value) < 2**63, f"{key}={value}: must be below 2**63")
    need(not isinstance(value, str) or "\0" not in value, f"{key}={value!r}: a text may not hold NUL")


def need_memory(what: str, *counts: float) -> None:
    """A product of counts, as bytes, must be below what this process may have; asked before it is allocated.

    Args:
        what: What is counted, with its key.
        *counts: Counts, and the bytes of one; their product is the size.

    Raises:
        ConfigError: Naming it, its size and the limit.
    """
    size = math.prod(float(count) for count in counts)
    limit = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        limit = min(limit, float(allowed))
    need(
        size <= limit,
        f"{what}: needs about {size / 2**30:.3g} GiB of memory, at most {limit / 2**30:.3g} GiB can be had",
    )


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
