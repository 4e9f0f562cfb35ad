"""Distributed power management."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .policy import DpmPolicy

__all__ = [
    "DpmPolicy",
]

__getattr__ = lazy(
    __name__,
    {
        "DpmPolicy": "policy",
    },
)
