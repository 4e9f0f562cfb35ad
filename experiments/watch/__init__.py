"""Watching an episode: a page that replays it, and a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .episode import Watched, watch

__all__ = [
    "Watched",
    "watch",
]

__getattr__ = lazy(
    __name__,
    {
        "Watched": "episode",
        "watch": "episode",
    },
)
