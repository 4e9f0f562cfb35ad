"""Rules, solvers and agents that operate a cluster or place requests."""

from __future__ import annotations

from .base import PlanningPolicy, Policy
from .registry import POLICIES, make_policy, register_loader, register_policy

__all__ = ["POLICIES", "PlanningPolicy", "Policy", "make_policy", "register_loader", "register_policy"]
