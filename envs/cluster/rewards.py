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
from typing import Any, NamedTuple

from ..checks import need
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..jit.records import Place, Record
from ..registry import Registry
from ..sim.metrics import METRICS, StepMetrics
from ..sim.models.carbon import J_PER_KWH
from ..sim.models.cost import TERMS as COST_TERMS
from ..sim.models.cost import Prices, write_cost
from ..sim.models.power import peak_watts
from ..sim.state.accumulators import Totals
from ..sim.state.parameters import ClusterParams
from .buffers import ratio


class Yardstick(Record):
    """What terms are measured against: constants of a cluster."""

    n_vms = Place("V")
    n_hosts = Place("H")
    memory_mib = Place("memory of all hosts, MiB")
    peak_w = Place("peak power of all hosts, W")
    pue = Place("energy of the site / energy of the hosts")


class Terms(Record):
    """The terms that ship, and what each is."""

    cost = Place(METRICS["cost"])
    cost_energy = Place(METRICS["cost_energy"])
    cost_unserved = Place(METRICS["cost_unserved"])
    cost_outage = Place(METRICS["cost_outage"])
    cost_latency = Place(METRICS["cost_latency"])
    cost_dropped = Place(METRICS["cost_dropped"])
    cost_migrations = Place(METRICS["cost_migrations"])
    cost_carbon = Place(METRICS["cost_carbon"])
    energy = Place("energy / energy of all hosts at peak power over the interval")
    energy_kwh = Place("energy times PUE, kWh")
    unserved = Place("unserved CPU / requested CPU")
    migrations = Place("migrations started / V")
    violations = Place("host-time short of CPU / host-time with load")
    power_actions = Place("(boots + switch-offs) / H")
    downtime = Place("time that VMs had arrived and did not run / (V * interval)")
    restarts = Place("VMs restarted after a failure / V")
    ready = Place("time that vCPUs were ready but not scheduled / time of vCPUs (full model)")
    swap = Place("memory swapped by hosts / memory of all hosts, mean over the interval (memory=multiplexed)")
    illegal = Place("refused orders of a Decisions object; 1 for an illegal single action, at once")


@dataclass(frozen=True)
class RewardTerm:
    """One term of the reward.

    Attributes:
        name: Key of its weight in ``env.reward``.
        weight: Weight unless configured.
        doc: What it is.
        value: Its value, of what the interval added to the running totals (the ``Record`` ``Totals``), of the
            cluster's constants, and of the number of refused orders. None: the place of this name in
            ``Terms``, which a kernel writes.
    """

    name: str
    weight: float
    doc: str
    value: Callable[[Totals, Yardstick, int], float] | None = None

    @property
    def schema(self) -> dict[str, float]:
        """What can be set."""
        return {"weight": self.weight}


class RewardBuffers(NamedTuple):
    """What the kernels of a reward read and write."""

    before: Totals  # running totals when the interval began
    delta: Totals  # what the interval has added to them
    yardstick: Yardstick
    prices: Prices
    weights: Terms
    terms: Terms  # of the last interval


@kernel
def write_terms(b: RewardBuffers, illegal: float) -> None:
    """Work out the terms that ship of what an interval has added to the totals.

    Args:
        b: Buffers; ``terms`` is written, ``delta`` is read.
        illegal: Refused orders.
    """
    d, c, t, first = b.delta, b.yardstick, b.terms, FIRST_COST
    costs = t[first : first + N_COSTS]
    write_cost(b.prices, c.pue, d, costs)
    t.cost = 0.0
    for i in range(N_COSTS):
        t.cost += costs[i]
    t.energy = ratio(d.energy_j, c.peak_w * d.time_s)
    t.energy_kwh = c.pue * d.energy_j / J_PER_KWH
    t.unserved = ratio(d.missed, d.requested)
    t.migrations = d.mig_started / c.n_vms
    t.violations = ratio(d.sat_s, d.active_s)
    t.power_actions = (d.boots + d.shutdowns) / c.n_hosts
    t.downtime = ratio(d.down_s, c.n_vms * d.time_s)
    t.restarts = d.restarts / c.n_vms
    t.ready = ratio(d.ready, d.vcpus)
    t.swap = ratio(d.swapped, c.memory_mib * d.time_s)
    t.illegal = illegal


FIRST_COST, N_COSTS = Terms.cost_energy, len(COST_TERMS)


@kernel
def weigh_terms(weights: Terms, terms: Terms) -> float:
    """The reward: the terms that weigh something, added up in their order."""
    total = 0.0
    for i in range(weights.shape[0]):
        if weights[i] != 0.0:
            total += weights[i] * terms[i]
    return total


@kernel
def close_interval(b: RewardBuffers, totals: Totals, illegal: float) -> Any:
    """Work out the terms of the interval that ends, and begin the next.

    Args:
        b: Buffers; all but yardstick, prices and weights are written.
        totals: Running totals now.
        illegal: Refused orders.

    Returns:
        The reward.
    """
    for i in range(b.delta.shape[0]):
        b.delta[i] = totals[i] - b.before[i]
        b.before[i] = totals[i]
    write_terms(b, illegal)
    return weigh_terms(b.weights, b.terms)


TERMS = Registry("env.reward", lambda thing: isinstance(thing, RewardTerm), f"a RewardTerm of {__name__}")
"""Every term by name."""


def register_reward_term(term: RewardTerm) -> None:
    """Add a term, for every environment that is made from now on.

    Raises:
        ConfigError: If the name is that of one that ships.
    """
    TERMS.register(term.name, term.doc, term)


for _name, _place in Terms.places.items():
    register_reward_term(RewardTerm(_name, -1.0 if _name == "cost" else 0.0, _place.meaning))


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
        weights: Weight of every term, from ``check_weights``.
        params: Parameters of the cluster, for what the terms are measured against.
    """

    def __init__(self, weights: Mapping[str, float], params: ClusterParams) -> None:
        self.weights = dict(weights)
        shipped = Terms.zeros()
        for name in Terms.places:
            setattr(shipped, name, self.weights[name])
        yardstick = Yardstick.zeros()
        yardstick.n_vms, yardstick.n_hosts = params.vm_vcpus.shape[0], params.host_type.shape[0]
        yardstick.memory_mib = params.host_mem_mib.sum()
        yardstick.peak_w = max(float(peak_watts(params)[params.host_type].sum()), 1e-9)
        yardstick.pue = params.pue
        prices = params.prices.copy().view(Prices)
        self._bind(RewardBuffers(Totals.zeros(), Totals.zeros(), yardstick, prices, shipped, Terms.zeros()))

    def _bind(self, buffers: RewardBuffers) -> None:
        self.buffers = buffers
        self.handle: Any = make_handle("reward", buffers)

    @functools.cached_property
    def own(self) -> dict[str, Callable[[Totals, Yardstick, int], float]]:
        """The terms that no kernel writes, in the order of their weights."""
        values = {name: term_of(name).value for name in self.weights if name not in Terms.places}
        return {name: value for name, value in values.items() if value is not None}

    def __getstate__(self) -> dict[str, Any]:
        """All but the functions of the terms, which need not be such that can be pickled."""
        kept = {key: value for key, value in vars(self).items() if key not in ("own", "buffers", "handle")}
        return kept | {"buffers": tuple(self.buffers)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the handle."""
        self.__dict__.update(saved)
        self._bind(RewardBuffers(*saved["buffers"]))

    def terms(self, step: StepMetrics, illegal: int = 0) -> dict[str, float]:
        """Every term of an interval.

        Args:
            step: What the interval added to the running totals.
            illegal: Refused orders.
        """
        delta, buffers = step.delta, self.buffers
        buffers.delta[:] = delta
        write_terms(self.handle, float(illegal))
        found = self.shipped_terms()
        for name, value in self.own.items():
            found[name] = float(value(delta, buffers.yardstick, illegal))
        return found

    def shipped_terms(self) -> dict[str, float]:
        """The terms of the interval that ``write_terms`` was last asked for."""
        return dict(zip(Terms.places, self.buffers.terms.tolist()))

    def total(self, terms: Mapping[str, float]) -> float:
        """The reward of some terms; ``weigh_terms`` of those that ship."""
        total = 0.0
        for name, weight in self.weights.items():
            if weight and name in terms:
                total += weight * terms[name]
        return total
