"""High availability: restarts, placement that expects failures, rolling upgrades."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .policy import HaPolicy

__all__ = [
    "HaPolicy",
]

__getattr__ = lazy(
    __name__,
    {
        "HaPolicy": "policy",
    },
)
