"""Policies of the rescheduling game: they plan all moves, in an order in which each fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .base import Plan, ReschedulingPolicy
    from .destroy import DESTROYS, Scene

__all__ = ["DESTROYS", "Plan", "ReschedulingPolicy", "Scene"]

__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Plan", "ReschedulingPolicy"), "base"),
        **dict.fromkeys(("DESTROYS", "Scene"), "destroy"),
    },
)
