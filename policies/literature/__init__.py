"""Dynamic consolidation of the literature: detector, selector, placer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .policy import ConsolidationPolicy

__all__ = [
    "ConsolidationPolicy",
]

__getattr__ = lazy(
    __name__,
    {
        "ConsolidationPolicy": "policy",
    },
)
