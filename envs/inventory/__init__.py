"""An operator's own cluster: exports of platforms become one neutral form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .base import Host, Inventory, Vm
    from .formats.neutral import write_inventory
    from .readers import INVENTORY_FORMATS, read_inventory

__all__ = ["INVENTORY_FORMATS", "Host", "Inventory", "Vm", "read_inventory", "write_inventory"]

__getattr__ = lazy(
    __name__,
    {
        "Host": "base",
        "Inventory": "base",
        "Vm": "base",
        "INVENTORY_FORMATS": "readers",
        "read_inventory": "readers",
        "write_inventory": "formats.neutral",
    },
)
