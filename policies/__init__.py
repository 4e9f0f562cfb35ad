"""Rules, solvers and agents that operate a cluster or place requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtgym.envs.lazy import lazy

from .registry import POLICIES, make_policy

if TYPE_CHECKING:
    from .base import PlanningPolicy, Policy

__all__ = ["POLICIES", "PlanningPolicy", "Policy", "make_policy"]

__getattr__ = lazy(__name__, {"PlanningPolicy": "base", "Policy": "base"})
