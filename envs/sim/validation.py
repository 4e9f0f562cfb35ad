"""Checks of configuration values: one line that names the key and says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import ConfigError

__all__ = ["need", "need_choice", "need_count", "need_not_negative", "need_positive", "need_share"]


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
