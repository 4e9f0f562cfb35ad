"""``virtgym/Placement-v0``: place VM requests one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .env import PlacementEnv

__all__ = [
    "PlacementEnv",
]

__getattr__ = lazy(
    __name__,
    {
        "PlacementEnv": "env",
    },
)
