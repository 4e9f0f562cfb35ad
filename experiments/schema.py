"""Typed schema of a run: every key that the command line takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from virtgym.envs.scenarios import ScenarioConfig

__all__ = ["COMMAND_KEYS", "REPLICA_KEYS", "RunConfig", "ScenarioNode"]


@dataclass
class ScenarioNode(ScenarioConfig):
    """A scenario as it stands in a configuration file, with what builds it."""

    _target_: str = "virtgym.envs.scenarios.build_scenario"


@dataclass
class RunConfig:
    """Every key of ``virtgym evaluate`` and ``virtgym benchmark``.

    Attributes:
        scenario: Cluster, load and rules (group ``conf/scenario``).
        policy: The policy of ``evaluate`` and its parameters (group ``conf/policy``).
        policies: The policies of ``benchmark``: ``NAME`` or ``NAME(parameter=value,…)``.
        seed: One seed.
        seeds: Several; takes precedence over ``seed``.
        workers: Processes that ``benchmark`` may use.
        out: Run folder; None = ``runs/<scenario>-<date>-<time>``.
        report: Whether ``benchmark`` writes ``report.html``.
    """

    scenario: ScenarioNode = field(default_factory=ScenarioNode)
    policy: dict[str, Any] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    seed: int = 0
    seeds: list[int] | None = None
    workers: int = 1
    out: str | None = None
    report: bool = True


COMMAND_KEYS: dict[str, tuple[str, ...]] = {
    "evaluate": ("scenario", "policy", "experiment", "seed", "seeds", "out"),
    "benchmark": ("scenario", "policies", "experiment", "seed", "seeds", "workers", "out", "report"),
}
"""Keys that each command reads; any other is an error."""

REPLICA_KEYS: tuple[str, ...] = ("name", "description", "kind", "trace", "quirks")
"""Keys of a scenario of kind ``replica``: its cluster and rules are the peer's."""
