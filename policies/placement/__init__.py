"""Rules of the placement game, and the OR-Tools policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .rules import run_windows

__all__ = [
    "run_windows",
]

__getattr__ = lazy(
    __name__,
    {
        "run_windows": "rules",
    },
)
