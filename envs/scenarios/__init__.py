"""Scenarios: a cluster or a placement game, its workload and its rules, from one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .placement import PlacementScenario, build_placement_scenario
    from .reassignment import ReassignmentScenario, build_reassignment_scenario
    from .rescheduling import ReschedulingScenario, build_rescheduling_scenario
    from .scenario import Scenario, build_scenario, list_scenarios, load_scenario_config

__all__ = [
    "PlacementScenario",
    "ReassignmentScenario",
    "ReschedulingScenario",
    "Scenario",
    "build_placement_scenario",
    "build_reassignment_scenario",
    "build_rescheduling_scenario",
    "build_scenario",
    "list_scenarios",
    "load_scenario_config",
]

__getattr__ = lazy(
    __name__,
    {
        "PlacementScenario": "placement",
        "build_placement_scenario": "placement",
        "ReassignmentScenario": "reassignment",
        "build_reassignment_scenario": "reassignment",
        "ReschedulingScenario": "rescheduling",
        "build_rescheduling_scenario": "rescheduling",
        "Scenario": "scenario",
        "build_scenario": "scenario",
        "list_scenarios": "scenario",
        "load_scenario_config": "scenario",
    },
)
