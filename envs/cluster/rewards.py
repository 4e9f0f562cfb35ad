"""The reward: a weighted sum of named terms of one interval, the weights in the configuration.

    reward = sum over terms of weight[term] * term

Every term is a cost of 0 or more without a unit, so weights are negative; see ``TERMS``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import need
from ..registry import Registry
from ..sim.metrics import J_PER_KWH, StepMetrics
from ..sim.state.accumulators import Totals
from ..sim.state.parameters import ClusterParams


@dataclass(frozen=True)
class Yardstick:
    """What terms are measured against: constants of a cluster.

    Attributes:
        n_vms: V.
        n_hosts: H.
        memory_mib: Memory of all hosts, MiB.
        peak_w: Peak power of all hosts, W.
        pue: Energy of the site / energy of the hosts.
    """

    n_vms: int
    n_hosts: int
    memory_mib: float
    peak_w: float
    pue: float


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


_SHIPPED: tuple[RewardTerm, ...] = (
    RewardTerm("energy", -1.0, "energy / energy of all hosts at peak power over the interval",
        lambda d, c, illegal: _ratio(d.energy_j, c.peak_w * d.time_s)),
    RewardTerm("energy_kwh", 0.0, "energy times PUE, kWh",
        lambda d, c, illegal: c.pue * d.energy_j / J_PER_KWH),
    RewardTerm("unserved", -10.0, "unserved CPU / requested CPU",
        lambda d, c, illegal: _ratio(d.missed, d.requested)),
    RewardTerm("migrations", -0.1, "migrations started / V", lambda d, c, illegal: d.mig_started / c.n_vms),
    RewardTerm("violations", -1.0, "host-time short of CPU / host-time with load",
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
"""Every term by name. With the default weights, 1 % of the work unserved, 10 % of the peak energy and moving
every VM once cost the same."""


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
        self.yardstick = Yardstick(
            n_vms=int(params.vm_vcpus.shape[0]),
            n_hosts=int(params.host_type.shape[0]),
            memory_mib=float(params.host_mem_mib.sum()),
            peak_w=max(float(params.power_w[params.host_type].max(axis=1).sum()), 1e-9),
            pue=float(params.pue),
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
        weights = self.weights
        return sum(weights[name] * value for name, value in terms.items())
