"""An operator's own cluster: exports of platforms become one neutral form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .formats.neutral import write_inventory
    from .readers import read_inventory

__all__ = ["read_inventory", "write_inventory"]

__getattr__ = lazy(
    __name__,
    {"write_inventory": "formats.neutral", "read_inventory": "readers"},
)
