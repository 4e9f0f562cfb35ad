"""Forecasters of demand, and the history that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .forecasters import make_forecaster

__all__ = ["make_forecaster"]

__getattr__ = lazy(
    __name__,
    {"make_forecaster": "forecasters"},
)
