"""Fallback of a cluster agent: a rule's plan is played unless the agent is sure; which, by kind of cluster.

The agent's last candidate of kind *plan* is what the rule would do. It is played (where the rule would do
nothing, nothing) unless a candidate's score exceeds the plan's by more than a margin. Which rule, and which
margin, is told for kinds of clusters, and a cluster's kind by what its controller sees when it begins: the
sub-models that are on, the hosts, and the VMs that are there. No name of a scenario is read, and nothing of
the VMs to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F4, I8
from virtgym.envs.cluster.candidates.settings import PLAN, CandidateSettings
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.models.precopy import PrecopyConfig

from ..ties import choose_first_best
from .safety import check_margin

if TYPE_CHECKING:
    from virtgym.envs.scenarios.scenario import Scenario

TRAITS: tuple[str, ...] = (
    *("multiplexed", "cpu", "numa", "io", "precopy", "failures", "standby", "carbon", "sparse", "slow_boot"),
)
"""What a cluster may have: multiplexed memory, sub-models, VMs that take little of it at the beginning
(``SPARSE``), and hosts that take longer than an interval to boot."""

SPARSE = 0.25
"""Share of the hosts' CPU below which the nominal CPU of the VMs of time 0 is little: a cluster with room for
three times as many is made for VMs that come and go [assumed]."""


def traits_of(scenario: Scenario) -> tuple[str, ...]:
    """Those of ``TRAITS`` that the cluster of a scenario has."""
    c, w = scenario.cluster, scenario.workload
    taken_mhz = float(w.vm_cpu_mhz[w.vm_arrival_s <= 0.0].sum())
    found = {
        "multiplexed": c.memory == "multiplexed",
        "precopy": isinstance(c.migration, PrecopyConfig),
        "slow_boot": max(kind.boot_time_s for kind in c.host_types) > c.interval_s,
        "sparse": taken_mhz < SPARSE * sum(c.host_types[i].cpu_mhz for i in c.host_type_of),
    }
    found |= {name: getattr(c, name) is not None for name in TRAITS if name not in found}
    return tuple(name for name in TRAITS if found[name])


@dataclass(frozen=True)
class Fallback:
    """What is played on a kind of cluster unless the agent is sure.

    Attributes:
        traits: Those of ``TRAITS`` that the kind has.
        rule: Name of a policy that plans.
        margin: How much better than the rule's plan a candidate must score; logits, or values.
    """

    traits: tuple[str, ...]
    rule: str
    margin: float

    def __post_init__(self) -> None:
        """Refuse what cannot be played; whether there is such a rule is seen when it is made."""
        if odd := [name for name in self.traits if name not in TRAITS]:
            raise ConfigError(f"fallbacks.traits: {odd[0]!r}: must be of {', '.join(TRAITS)}")
        check_margin("fallbacks", self.margin)

    @classmethod
    def from_dict(cls, data: Any) -> Fallback:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: If it is something else.
        """
        keys = {"traits", "rule", "margin"}
        if not isinstance(data, Mapping) or set(data) != keys or not isinstance(data["rule"], str):
            raise ConfigError("fallbacks: must be a list of mappings with traits, rule and margin")
        traits = data["traits"]
        if not isinstance(traits, list) or not all(isinstance(name, str) for name in traits):
            raise ConfigError("fallbacks.traits: must be a list of names")
        return cls(tuple(traits), data["rule"], data["margin"])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"traits": list(self.traits), "rule": self.rule, "margin": self.margin}


def nearest(fallbacks: Sequence[Fallback], traits: Sequence[str]) -> Fallback:
    """That of the kind which differs in the fewest traits, the first of equals; there must be one."""
    return min(fallbacks, key=lambda one: len(set(one.traits) ^ set(traits)))


def with_plan(settings: Mapping[str, Any] | None, rule: str) -> dict[str, Any]:
    """Settings of candidates in which the plan of a rule comes last of the plans."""
    plain = CandidateSettings.of(settings).plain()
    return {**plain, "plans": [*plain["plans"], rule]}


def plan_slot(settings: Mapping[str, Any]) -> int:
    """The slot of the last plan."""
    kinds = CandidateSettings.of(settings).slot_kinds
    return len(kinds) - 1 - kinds[::-1].index(PLAN)


def choose_sure(scores: F4, mask: NDArray[np.bool_], slot: int, margin: float) -> I8:
    """What is played, (B,): the best candidate where it is better by more than the margin, else the plan.

    Args:
        scores: Of the agent, (B, K); minus infinity where a candidate is not offered.
        mask: What is offered, (B, K).
        slot: Where the plan stands; where it is not offered, nothing is done in its place.
        margin: See ``Fallback``.
    """
    rows = np.arange(len(mask))
    plan = np.where(mask[:, slot], slot, 0)
    best = choose_first_best(scores, mask)
    sure = scores[rows, best] > scores[rows, plan] + np.float32(margin)
    chosen: I8 = np.where(sure, best, plan)
    return chosen
