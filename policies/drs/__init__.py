"""Distributed resource scheduling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .policy import DrsPolicy

__all__ = [
    "DrsPolicy",
]

__getattr__ = lazy(
    __name__,
    {
        "DrsPolicy": "policy",
    },
)
