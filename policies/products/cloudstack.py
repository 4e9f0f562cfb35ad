"""CloudStack's cluster DRS: the variation of what is allocated, against the memory that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need_count, need_positive, need_share, one_of

from ..planning.rounds import Round, best_first, variation, variation_after
from .base import ProductPolicy

ALGORITHMS = ("balanced", "condensed")
METRICS = ("memory", "cpu", "both")
KINDS = ("used", "free")


@dataclass
class CloudStackPolicy(ProductPolicy):
    """Move VMs while the allocation of hosts is too uneven (``balanced``) or too even (``condensed``).

    Imbalance is the coefficient of variation of what VMs are configured with, whatever they use. A move is
    made if its benefit, the change of memory's imbalance times the destination's memory, exceeds its cost,
    the VM's memory; of these the one that changes imbalance most.

    Attributes:
        algorithm: One of ``ALGORITHMS``.
        imbalance: ``drs.imbalance``, x: balanced moves while imbalance > 1 - x, condensed while it is < x.
        metric: ``drs.metric``, what is balanced: ``memory``, ``cpu`` or ``both``.
        metric_type: ``drs.metric.type``: what is ``used`` of a host, or what is ``free``.
        use_ratio: ``drs.metric.use.ratio``: in shares of the host, for hosts of different sizes.
        max_migrations: ``drs.max.migrations``: most moves of a run.
        interval_s: ``drs.automatic.interval``: time between two runs, s.
    """

    algorithm: str = "balanced"
    imbalance: float = 0.4
    metric: str = "memory"
    metric_type: str = "used"
    use_ratio: bool = False
    max_migrations: int = 50
    interval_s: float = 3600.0

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.algorithm", self.algorithm, ALGORITHMS)
        one_of("policy.metric", self.metric, METRICS)
        one_of("policy.metric_type", self.metric_type, KINDS)
        need_share("policy", imbalance=self.imbalance)
        need_count("policy", low=0, max_migrations=self.max_migrations)
        need_positive("policy", interval_s=self.interval_s)

    def act(self, now: Round) -> None:
        """Order the moves of a run."""
        if self.rounds(self.interval_s) == 0:
            return
        p = now.view.params
        hosts = np.flatnonzero(now.on)
        sizes = {"cpu": (p.vm_cpu_mhz, p.host_cpu_mhz), "memory": (p.vm_mem_mib, p.host_mem_mib)}
        used = {key: now.at_home(vm)[hosts] for key, (vm, _) in sizes.items()}
        self._unit = {key: now.of_units(vm) for key, (vm, _) in sizes.items()}
        self._total = {key: host[hosts] for key, (_, host) in sizes.items()}
        sign = 1.0 if self.algorithm == "balanced" else -1.0
        limit = 1.0 - self.imbalance if sign > 0 else self.imbalance
        first = value = self._value({k: variation(self._shown(k, x)) for k, x in used.items()})
        moves = 0
        while moves < self.max_migrations and now.left > 0 and sign * (value - limit) > 0:
            if not self._best_move(now, hosts, used, sign):
                break
            moves += 1
            value = self._value({k: variation(self._shown(k, x)) for k, x in used.items()})
        self.say(first, limit, moves, sign * (first - limit) > 0)

    def _shown(self, key: str, used: F8) -> F8:
        """What the metric is of, for every host, (K,)."""
        total = self._total[key]
        shown = used if self.metric_type == "used" else total - used
        return np.asarray(shown / total if self.use_ratio else shown)

    def _value(self, of: dict[str, Any]) -> Any:
        """Imbalance by the metric; of both the worse one, which for condensed is the lower one."""
        if self.metric != "both":
            return of[self.metric]
        return (np.maximum if self.algorithm == "balanced" else np.minimum)(of["cpu"], of["memory"])

    def _best_move(self, now: Round, hosts: I8, used: dict[str, F8], sign: float) -> bool:
        place = np.full(now.view.n_hosts, -1, dtype=np.int64)
        place[hosts] = np.arange(len(hosts))
        units = np.flatnonzero(~now.moved & (place[now.unit_home] >= 0))
        if units.size == 0:
            return False
        a = place[now.unit_home[units]]
        before, after = {}, {}
        for key, x in used.items():
            size = self._unit[key][units][:, None] * (1.0 if self.metric_type == "used" else -1.0)
            share = size / self._total[key] if self.use_ratio else np.repeat(size, len(hosts), axis=1)
            before[key] = variation(self._shown(key, x))
            shown = self._shown(key, x)
            after[key] = variation_after(shown, a, share[np.arange(len(units)), a], share)
        gain = sign * (self._value(before) - self._value(after))
        benefit = sign * (before["memory"] - after["memory"]) * self._total["memory"]
        fine = (gain > 1e-12) & (benefit > self._unit["memory"][units][:, None])
        fine &= now.open(units.tolist(), hosts)
        for i, j in best_first(np.where(fine, -gain, np.inf)):
            if now.move(int(units[i]), int(hosts[j])):
                for key, x in used.items():
                    x[a[i]] -= self._unit[key][units[i]]
                    x[j] += self._unit[key][units[i]]
                return True
        return False
