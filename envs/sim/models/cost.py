"""Service classes, and what a run costs (docs/cost.md): one number in one unit, and the terms it is made of.

    cost = energy price + sum_v weight_v unserved_v + sum_v weight_v outage_v + latency + dropped traffic
           + migrations + carbon

Every price is a prior: a number of the right order with its reason in docs/cost.md, not a measurement. The
default unit is the kWh, so that the price of energy is 1; with a currency all prices are given in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ...arrays import F8, I1
from ...checks import need, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel
from ...jit.records import Place, Record
from .carbon import J_PER_KWH

VM_CLASSES = ("best_effort", "standard", "critical")
"""Service classes; a VM's class is an index into them."""

MHZ_S_PER_GHZ_H = 3.6e6
MBIT_PER_GB = 8000.0


@dataclass(frozen=True)
class ClassWeights:
    """Weight of each service class: what its work and its time are worth, best effort = 1.

    Attributes:
        best_effort: Weight of best effort.
        standard: Weight of standard.
        critical: Weight of critical.
    """

    best_effort: float = 1.0
    standard: float = 3.0
    critical: float = 10.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_positive("cost.weights", **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class LatencyTargets:
    """Mean latency of I/O that each service class may have, ms; inf = any.

    Attributes:
        best_effort: Of best effort, ms.
        standard: Of standard, ms.
        critical: Of critical, ms.
    """

    best_effort: float = 50.0
    standard: float = 10.0
    critical: float = 2.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            need(value > 0, f"cost.latency_target_ms.{f.name}={value}: must be positive (inf = any)")


@dataclass(frozen=True)
class CostConfig:
    """What a run costs (docs/cost.md has the reasons of the defaults).

    Attributes:
        unit: Label of the unit in which all prices are.
        weights: Weight by service class.
        energy: Price of a kWh of the site.
        unserved: Price of a GHz·h of demand of weight 1 that was not served.
        outage: Price of an hour in which a VM of weight 1 has arrived and does not run.
        interruption: Price of a failure that stops a running VM of weight 1 and that no secondary takes over.
        latency_target_ms: Mean I/O latency that a VM may have, by service class, ms.
        latency: Price of an hour in which a VM of weight 1 has twice the latency of its target; in proportion
            to the relative excess, of which ``latency_most`` counts at most.
        latency_most: See ``latency``.
        dropped: Price of a GB of VM traffic that NICs did not let through.
        migration: Price of a live migration, beside the work and the energy that it costs.
        carbon: Price of a kg of CO2-equivalent, where there is a carbon series.
        objective: Weighted share of demand that may stay unserved before a policy is not ranked.
    """

    unit: str = "kWh"
    weights: ClassWeights = field(default_factory=ClassWeights)
    energy: float = 1.0
    unserved: float = 0.5
    outage: float = 0.1
    interruption: float = 0.05
    latency_target_ms: LatencyTargets = field(default_factory=LatencyTargets)
    latency: float = 0.02
    latency_most: float = 10.0
    dropped: float = 0.01
    migration: float = 0.001
    carbon: float = 0.0
    objective: float = 0.01

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need(bool(self.unit.strip()), "cost.unit: must not be empty")
        need_not_negative("cost", **{name: getattr(self, name) for name in Prices.places})
        need_not_negative("cost", latency_most=self.latency_most)
        need_share("cost", objective=self.objective)


class Prices(Record):
    """The prices of a ``CostConfig``, by the names of its fields."""

    energy = Place("of a kWh")
    unserved = Place("of a GHz h of weight 1")
    outage = Place("of a VM hour of weight 1")
    interruption = Place("of one of weight 1")
    latency = Place("of a VM hour of weight 1, per relative excess")
    dropped = Place("of a GB")
    migration = Place("of one")
    carbon = Place("of a kg")


def prices_of(config: CostConfig) -> F8:
    """The prices as an array."""
    return np.array([float(getattr(config, name)) for name in Prices.places])


def class_values(table: ClassWeights | LatencyTargets, vm_class: I1) -> F8:
    """The value of every VM's class, shape (V,)."""
    return np.array([float(getattr(table, name)) for name in VM_CLASSES])[vm_class]


TERMS: tuple[str, ...] = ("energy", "unserved", "outage", "latency", "dropped", "migrations", "carbon")
"""The terms of the cost, in the order of the formula."""


@kernel
def write_cost(unit: Prices, pue: float, t: Any, terms: F8) -> None:
    """What running totals, or the difference of two, cost.

    Args:
        unit: From ``prices_of``.
        pue: Energy of the site / energy of the hosts.
        t: ``ClusterState.totals``, or what an interval added to them.
        terms: Written, by ``TERMS``.
    """
    outage = unit.outage * t.w_down_s / 3600.0
    terms[0] = unit.energy * pue * t.energy_j / J_PER_KWH
    terms[1] = unit.unserved * t.w_missed / MHZ_S_PER_GHZ_H
    terms[2] = outage + unit.interruption * t.w_interruptions
    terms[3] = unit.latency * t.w_latency / 3600.0
    terms[4] = unit.dropped * t.net_dropped / MBIT_PER_GB
    terms[5] = unit.migration * t.mig_started
    terms[6] = unit.carbon * t.carbon_g / 1000.0


GATE_OK = "ok"
"""The gate of a run that is ranked."""


def gate(unserved_weighted: float, objective: float, finished: bool = True, broken: float = 0.0) -> str:
    """Whether a run is ranked: ``ok``, or the reason why not.

    Args:
        unserved_weighted: Weighted share of demand that was not served; NaN = not known.
        objective: What may stay unserved.
        finished: Whether the run came to its end.
        broken: Times that orders broke the failover guarantee; NaN = there is none.
    """
    if not finished:
        return "unfinished"
    if broken > 0:
        return f"orders broke the failover guarantee {broken:.0f} times"
    if math.isfinite(unserved_weighted) and unserved_weighted > objective:
        share, most = 100.0 * unserved_weighted, 100.0 * objective
        return f"{share:.3g} % of the weighted work unserved, {most:.3g} % allowed"
    return GATE_OK
