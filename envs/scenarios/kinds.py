"""Kinds of scenarios that are no clusters to operate: games, each with its schema and what builds it.

A kind is one entry of ``GAMES``; its cell is one entry of ``experiments.run.cell.GAME_CELLS``, its default
policies one of ``experiments.config.schema.DEFAULT_POLICIES``. Keys that it alone has stand in
``experiments.config.schema.ScenarioNode``, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from .nodes import made
from .placement import PlacementScenarioConfig, build_placement_scenario, check_placement_node
from .reassignment import ReassignmentScenarioConfig, build_reassignment_scenario, check_reassignment
from .rescheduling import ReschedulingScenarioConfig, build_rescheduling_scenario, check_rescheduling


class GameScenario(Protocol):
    """A scenario of one of these kinds, with everything read."""

    @property
    def config(self) -> Any:
        """The resolved configuration."""

    @property
    def name(self) -> str:
        """Name in result rows."""

    @property
    def seed(self) -> int:
        """What is random in it was drawn from this."""

    @property
    def trace(self) -> Any:
        """What was read or generated; its ``name`` is the trace of result rows."""

    @property
    def n_dropped(self) -> int:
        """What of it was left out."""

    def arrays(self) -> Sequence[NDArray[Any]]:
        """The numbers that were read or generated, for a fingerprint."""


@dataclass(frozen=True)
class GameKind:
    """A kind of scenario.

    Attributes:
        schema: Every key that such a scenario may have.
        build: Builds one of a name or mapping, ``seed`` and ``overrides``.
        check: Checks values of a composed configuration (its keys, those that were typed) and returns it.
        task: What its policies are made for, one of ``policies.registry.TASKS``.
    """

    schema: type[Any]
    build: Callable[..., GameScenario]
    check: Callable[[dict[str, Any], Sequence[str]], dict[str, Any]]
    task: str


def _check_node(
    schema: type[Any], check: Callable[[Any, Sequence[str]], Any]
) -> Callable[..., dict[str, Any]]:
    """The check of a composed configuration, by that of the schema's values."""

    def check_node(node: dict[str, Any], typed: Sequence[str]) -> dict[str, Any]:
        check(
            made(schema, {key: value for key, value in node.items() if key != "_target_"}, "scenario"), typed
        )
        return node

    return check_node


GAMES: Mapping[str, GameKind] = {
    "placement": GameKind(
        PlacementScenarioConfig, build_placement_scenario, check_placement_node, "placement"
    ),
    "rescheduling": GameKind(
        ReschedulingScenarioConfig,
        build_rescheduling_scenario,
        _check_node(ReschedulingScenarioConfig, check_rescheduling),
        "rescheduling",
    ),
    "reassignment": GameKind(
        ReassignmentScenarioConfig,
        build_reassignment_scenario,
        _check_node(ReassignmentScenarioConfig, check_reassignment),
        "reassignment",
    ),
}
"""The kinds by name, the value of ``scenario.kind``."""
