"""The reward: a weighted sum of named terms of one interval, the weights in the configuration.

    reward = sum over terms of weight[term] * term

Every term is a cost of 0 or more without a unit, so weights are negative; see ``TERMS``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from ..errors import ConfigError
from ..sim.metrics import J_PER_KWH, StepMetrics
from ..sim.state.accumulators import Totals
from ..sim.state.parameters import ClusterParams

TERMS: dict[str, str] = {
    "energy": "energy / energy of all hosts at peak power over the interval",
    "energy_kwh": "energy times PUE, kWh",
    "unserved": "unserved CPU / requested CPU",
    "migrations": "migrations started / V",
    "violations": "host-time short of CPU / host-time with load",
    "power_actions": "(boots + switch-offs) / H",
    "downtime": "time that VMs had arrived and did not run / (V * interval)",
    "restarts": "VMs restarted after a failure / V",
    "ready": "time that vCPUs were ready but not scheduled / time of vCPUs (full model)",
    "swap": "memory swapped by hosts / memory of all hosts, mean over the interval (memory=multiplexed)",
    "illegal": "refused orders of a Decisions object; 1 for an illegal single action, at once",
}
"""Every term, computed from the interval's ``StepMetrics``."""

DEFAULT_WEIGHTS: dict[str, float] = {
    "energy": -1.0,
    "energy_kwh": 0.0,
    "unserved": -10.0,
    "migrations": -0.1,
    "violations": -1.0,
    "power_actions": 0.0,
    "downtime": 0.0,
    "restarts": 0.0,
    "ready": 0.0,
    "swap": 0.0,
    "illegal": 0.0,
}
"""Weights unless configured: 1 % of the work unserved, 10 % of the peak energy and moving every VM once cost
the same."""


def check_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """Lay weights over the defaults.

    Args:
        weights: Weight by term; terms that are not named keep the default. None = the defaults.

    Returns:
        The weight of every term.

    Raises:
        ConfigError: If there is no such term or a weight is not a finite number.
    """
    result = dict(DEFAULT_WEIGHTS)
    for term, weight in (weights or {}).items():
        if term not in TERMS:
            near = difflib.get_close_matches(str(term), TERMS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"env.reward.{term}: no such term{hint}; allowed are: {', '.join(TERMS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"env.reward.{term}={weight}: must be a finite number")
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
        self.n_vms = int(params.vm_vcpus.shape[0])
        self.n_hosts = int(params.host_type.shape[0])
        self.memory_mib = float(params.host_mem_mib.sum())
        self.pue = float(params.pue)
        self.peak_w = max(float(params.power_w[params.host_type].max(axis=1).sum()), 1e-9)

    def terms(self, step: StepMetrics, illegal: int = 0) -> dict[str, float]:
        """Every term of an interval.

        Args:
            step: What the interval added to the running totals.
            illegal: Refused orders.
        """
        d = step.delta.tolist()
        active, requested, duration = d[Totals.active_s], d[Totals.requested], d[Totals.time_s]
        ready, vcpus, swapped = (d[k] for k in (Totals.ready, Totals.vcpus, Totals.swapped))
        return {
            "energy": d[Totals.energy_j] / (self.peak_w * duration) if duration > 0 else 0.0,
            "energy_kwh": self.pue * d[Totals.energy_j] / J_PER_KWH,
            "unserved": d[Totals.missed] / requested if requested > 0 else 0.0,
            "migrations": d[Totals.mig_started] / self.n_vms,
            "violations": d[Totals.sat_s] / active if active > 0 else 0.0,
            "power_actions": (d[Totals.boots] + d[Totals.shutdowns]) / self.n_hosts,
            "downtime": d[Totals.down_s] / (self.n_vms * duration) if duration > 0 else 0.0,
            "restarts": d[Totals.restarts] / self.n_vms,
            "ready": ready / vcpus if vcpus > 0 else 0.0,
            "swap": swapped / (self.memory_mib * duration) if duration > 0 else 0.0,
            "illegal": float(illegal),
        }

    def total(self, terms: Mapping[str, float]) -> float:
        """The reward of some terms."""
        weights = self.weights
        return sum(weights[name] * value for name, value in terms.items())
