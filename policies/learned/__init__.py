"""Trained agents: networks, safe storage, and the policy that plays one without PyTorch.

Only ``networks`` and the ``sb3_…`` modules need ``virtgym[rl]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

if TYPE_CHECKING:
    from .storage import merge_agents

__all__ = ["merge_agents"]

__getattr__ = lazy(
    __name__,
    {"merge_agents": "storage"},
)
