"""Scenarios: a cluster or a placement game, its workload and its rules, from one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .placement import build_placement_scenario
    from .reassignment import build_reassignment_scenario
    from .rescheduling import build_rescheduling_scenario
    from .scenario import build_scenario

__all__ = [
    "build_placement_scenario",
    "build_reassignment_scenario",
    "build_rescheduling_scenario",
    "build_scenario",
]

__getattr__ = lazy(
    __name__,
    {
        "build_placement_scenario": "placement",
        "build_reassignment_scenario": "reassignment",
        "build_rescheduling_scenario": "rescheduling",
        "build_scenario": "scenario",
    },
)
