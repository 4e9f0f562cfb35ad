"""Rules of the placement game, and the OR-Tools policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .rules import PLACEMENT_RULES, run_windows

__all__ = [
    "PLACEMENT_RULES",
    "run_windows",
]

__getattr__ = lazy(
    __name__,
    {
        "PLACEMENT_RULES": "rules",
        "run_windows": "rules",
    },
)
