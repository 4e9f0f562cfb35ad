"""Policies of the rescheduling game: they plan all moves, in an order in which each fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .base import Plan, ReschedulingPolicy
    from .destroy import DESTROYS, Destroy, Scene
    from .ordering import order_moves

__all__ = ["DESTROYS", "Destroy", "Plan", "ReschedulingPolicy", "Scene", "order_moves"]

__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Plan", "ReschedulingPolicy"), "base"),
        **dict.fromkeys(("DESTROYS", "Destroy", "Scene"), "destroy"),
        "order_moves": "ordering",
    },
)
