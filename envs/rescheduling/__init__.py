"""``virtgym/Rescheduling-v0``: migrate a few VMs of a full cluster, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .env import ReschedulingEnv
    from .games import ReschedulingGames
    from .snapshot import Snapshot

__all__ = [
    "ReschedulingEnv",
    "ReschedulingGames",
    "Snapshot",
]

__getattr__ = lazy(
    __name__,
    {
        "ReschedulingEnv": "env",
        "ReschedulingGames": "games",
        "Snapshot": "snapshot",
    },
)
