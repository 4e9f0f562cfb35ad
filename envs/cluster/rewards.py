"""The reward: a weighted sum of named terms of one interval, the weights in the configuration.

    reward = sum over terms of weight[term] * term

Every term is 0 or more, so weights are negative; see ``TERMS``. Unless configured the reward is minus the
cost of the interval: rewards add up to minus the ``cost`` of the result row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import need
from ..registry import Registry
from ..sim.metrics import METRICS, StepMetrics, cost_terms
from ..sim.models.carbon import J_PER_KWH
from ..sim.models.cost import TERMS as COST_TERMS
from ..sim.models.cost import Prices
from ..sim.state.accumulators import Totals
from ..sim.state.parameters import ClusterParams


class CostMeter:
    """The terms of the cost of an interval, worked out once for all terms of the reward that ask.

    Args:
        params: Parameters of the cluster.
    """

    def __init__(self, params: ClusterParams) -> None:
        self._prices, self._pue = params.prices.view(Prices), float(params.pue)
        self._of: Totals | None = None
        self._terms: dict[str, float] = {}

    def __call__(self, delta: Totals) -> dict[str, float]:
        """Cost by ``cost.TERMS``."""
        if delta is not self._of:
            self._of, self._terms = delta, cost_terms(self._prices, self._pue, delta)
        return self._terms


@dataclass(frozen=True)
class Yardstick:
    """What terms are measured against: constants of a cluster.

    Attributes:
        n_vms: V.
        n_hosts: H.
        memory_mib: Memory of all hosts, MiB.
        peak_w: Peak power of all hosts, W.
        pue: Energy of the site / energy of the hosts.
        costs: What an interval costs, by ``cost.TERMS``.
    """

    n_vms: int
    n_hosts: int
    memory_mib: float
    peak_w: float
    pue: float
    costs: CostMeter


@dataclass(frozen=True)
class RewardTerm:
    """One term of the reward.

    Attributes:
        name: Key of its weight in ``env.reward``.
        weight: Weight unless configured.
        doc: What it is.
        value: Its value, of what the interval added to the running totals (the ``Record`` ``Totals``), of the
            cluster's constants, and of the number of refused orders.
    """

    name: str
    weight: float
    doc: str
    value: Callable[[Totals, Yardstick, int], float]

    @property
    def schema(self) -> dict[str, float]:
        """What can be set."""
        return {"weight": self.weight}


def _ratio(part: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole > 0 else 0.0


def _cost_term(name: str) -> RewardTerm:
    return RewardTerm(f"cost_{name}", 0.0, METRICS[f"cost_{name}"], lambda d, c, illegal: c.costs(d)[name])


_SHIPPED: tuple[RewardTerm, ...] = (
    RewardTerm("cost", -1.0, METRICS["cost"], lambda d, c, illegal: sum(c.costs(d).values())),
    *(_cost_term(name) for name in COST_TERMS),
    RewardTerm("energy", 0.0, "energy / energy of all hosts at peak power over the interval",
        lambda d, c, illegal: _ratio(d.energy_j, c.peak_w * d.time_s)),
    RewardTerm("energy_kwh", 0.0, "energy times PUE, kWh",
        lambda d, c, illegal: c.pue * d.energy_j / J_PER_KWH),
    RewardTerm("unserved", 0.0, "unserved CPU / requested CPU",
        lambda d, c, illegal: _ratio(d.missed, d.requested)),
    RewardTerm("migrations", 0.0, "migrations started / V", lambda d, c, illegal: d.mig_started / c.n_vms),
    RewardTerm("violations", 0.0, "host-time short of CPU / host-time with load",
        lambda d, c, illegal: _ratio(d.sat_s, d.active_s)),
    RewardTerm("power_actions", 0.0, "(boots + switch-offs) / H",
        lambda d, c, illegal: (d.boots + d.shutdowns) / c.n_hosts),
    RewardTerm("downtime", 0.0, "time that VMs had arrived and did not run / (V * interval)",
        lambda d, c, illegal: _ratio(d.down_s, c.n_vms * d.time_s)),
    RewardTerm("restarts", 0.0, "VMs restarted after a failure / V",
        lambda d, c, illegal: d.restarts / c.n_vms),
    RewardTerm("ready", 0.0, "time that vCPUs were ready but not scheduled / time of vCPUs (full model)",
        lambda d, c, illegal: _ratio(d.ready, d.vcpus)),
    RewardTerm(
        "swap", 0.0,
        "memory swapped by hosts / memory of all hosts, mean over the interval (memory=multiplexed)",
        lambda d, c, illegal: _ratio(d.swapped, c.memory_mib * d.time_s),
    ),
    RewardTerm(
        "illegal", 0.0, "refused orders of a Decisions object; 1 for an illegal single action, at once",
        lambda d, c, illegal: illegal,
    ),
)  # fmt: skip

TERMS = Registry("env.reward", lambda thing: isinstance(thing, RewardTerm), f"a RewardTerm of {__name__}")
"""Every term by name."""


def register_reward_term(term: RewardTerm) -> None:
    """Add a term, for every environment that is made from now on.

    Raises:
        ConfigError: If the name is that of one that ships.
    """
    TERMS.register(term.name, term.doc, term)


for _term in _SHIPPED:
    register_reward_term(_term)


def term_of(name: str) -> RewardTerm:
    """The term of a name, or of a dotted path of one's own.

    Raises:
        ConfigError: If there is none.
    """
    term: RewardTerm = TERMS.find(name).factory
    return term


def default_weights() -> dict[str, float]:
    """Weight of every term unless configured."""
    return {name: term_of(name).weight for name in TERMS}


def check_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """Lay weights over the defaults.

    Args:
        weights: Weight by term, a name or dotted path; others keep the default. None = the defaults.

    Returns:
        The weight of every term.

    Raises:
        ConfigError: If there is no such term or a weight is not a finite number.
    """
    result = default_weights()
    for term, weight in (weights or {}).items():
        term_of(term)
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
        need(number, f"env.reward.{term}={weight}: must be a finite number")
        result[term] = float(weight)
    return result


class RewardFunction:
    """Terms and reward of an interval of one cluster.

    Args:
        weights: Weight by term, see ``check_weights``.
        params: Parameters of the cluster, for what the terms are measured against.
    """

    def __init__(self, weights: Mapping[str, float] | None, params: ClusterParams) -> None:
        self.weights = check_weights(weights)
        self._weighed = {name: weight for name, weight in self.weights.items() if weight}
        self.yardstick = Yardstick(
            n_vms=int(params.vm_vcpus.shape[0]),
            n_hosts=int(params.host_type.shape[0]),
            memory_mib=float(params.host_mem_mib.sum()),
            peak_w=max(float(params.power_w[params.host_type].max(axis=1).sum()), 1e-9),
            pue=float(params.pue),
            costs=CostMeter(params),
        )

    @functools.cached_property
    def _values(self) -> dict[str, Callable[[Totals, Yardstick, int], float]]:
        return {name: term_of(name).value for name in self.weights}

    def __getstate__(self) -> dict[str, Any]:
        """All but the functions of the terms, which need not be such that can be pickled."""
        return {key: value for key, value in vars(self).items() if key != "_values"}

    def terms(self, step: StepMetrics, illegal: int = 0) -> dict[str, float]:
        """Every term of an interval.

        Args:
            step: What the interval added to the running totals.
            illegal: Refused orders.
        """
        delta = step.delta
        return {name: float(value(delta, self.yardstick, illegal)) for name, value in self._values.items()}

    def total(self, terms: Mapping[str, float]) -> float:
        """The reward of some terms."""
        return sum(weight * terms[name] for name, weight in self._weighed.items() if name in terms)
