"""Policies of the rescheduling game: they plan all moves, in an order in which each fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .base import Plan, ReschedulingPolicy
    from .ordering import order_moves

__all__ = ["Plan", "ReschedulingPolicy", "order_moves"]

__getattr__ = lazy(__name__, {"Plan": "base", "ReschedulingPolicy": "base", "order_moves": "ordering"})
