"""The command line: ``virtgym COMMAND [key=value…]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .commands import main

__all__ = [
    "main",
]

__getattr__ = lazy(
    __name__,
    {
        "main": "commands",
    },
)
