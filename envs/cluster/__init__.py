"""``virtgym/Cluster-v0``: operate a cluster, interval by interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .env import ClusterEnv

__all__ = [
    "ClusterEnv",
]

__getattr__ = lazy(
    __name__,
    {
        "ClusterEnv": "env",
    },
)
