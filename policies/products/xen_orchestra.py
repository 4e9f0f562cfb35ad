"""Xen Orchestra's load balancer: performance and density plans by thresholds of CPU and free memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cmp_to_key

import numpy as np

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need_not_negative, need_positive, one_of
from virtgym.envs.sim.models.power import OFF, ON
from virtgym.envs.sim.simulator import ClusterView

from ..planning.rounds import Round
from .base import Means, ProductPolicy

MODES = ("performance", "density")
BEHAVIOURS = ("conservative", "preventive")
PERIOD_S, HISTORY_S = 60.0, 1800.0
NOW = 0.75
"""Weight of what is measured now; the rest is the mean over ``HISTORY_S``."""
HIGH, LOW, FREE_HIGH, FREE_LOW = 0.85, 0.65, 1.2, 1.5
"""Factors of the critical CPU, and of the critical free memory."""
ABOVE_MEAN, ABOVE_MEAN_LOW, SIGNIFICANT = 1.5, 1.25, 25.0
"""Preventive: factors of the pool's mean CPU, and the CPU (%) below which a host is left alone."""


@dataclass
class XenOrchestraPolicy(ProductPolicy):
    """Relieve hosts above a threshold (``performance``), or empty hosts and shut them down (``density``).

    Attributes:
        mode: One of ``MODES``.
        behaviour: Of the performance plan: ``preventive`` also evens out hosts far above the pool's mean.
        critical_cpu: Critical CPU of a host, %; high is 0.85 and low 0.65 of it.
        critical_free_mib: Critical free memory, MiB; high is 1.2 and low 1.5 times it.
        cooldown_s: Time that a VM rests after a migration, s.
        max_concurrent: Most migrations under way at a time.
    """

    mode: str = "performance"
    behaviour: str = "conservative"
    critical_cpu: float = 90.0
    critical_free_mib: float = 1000.0
    cooldown_s: float = field(default=1800.0, kw_only=True)
    max_concurrent: int | None = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.mode", self.mode, MODES)
        one_of("policy.behaviour", self.behaviour, BEHAVIOURS)
        need_positive("policy", critical_cpu=self.critical_cpu)
        need_not_negative("policy", critical_free_mib=self.critical_free_mib)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        sizes = (view.n_hosts, view.n_hosts, view.n_vms, view.n_vms)
        self._past = [Means(n, self.samples(HISTORY_S)) for n in sizes]

    def observe(self, now: Round) -> None:
        """Take CPU and memory of hosts and VMs down."""
        on, there = now.view.state.host_power_state == ON, (now.home >= 0) & now.view.measured
        taken = ((100.0 * now.util(), on), (now.free_mib(), on), (now.cpu, there), (now.mem, there))
        for past, (values, known) in zip(self._past, taken):
            past.push(values, known)

    def act(self, now: Round) -> None:
        """Carry the plan out."""
        if self.rounds(PERIOD_S) == 0:
            return
        present = (100.0 * now.util(), now.free_mib(), now.cpu, now.mem)
        blend = [NOW * x + (1 - NOW) * past.mean(x) for x, past in zip(present, self._past)]
        self._cpu, self._free = blend[:2]
        self._mhz, self._mib = (now.of_units(x) for x in blend[2:])
        if self.mode == "density":
            self._pack(now, present[1])
        else:
            self._relieve(now, present[0], present[1])

    def _vm_cpu(self, now: Round, u: int, h: int) -> float:
        """CPU of a unit, % of a host."""
        return 100.0 * float(self._mhz[u] * now.view.params.host_inv_cpu[h])

    def _relieve(self, now: Round, cpu: F8, free: F8) -> None:
        """The performance plan: all hosts on; hosts above the thresholds, now and blended, give VMs away."""
        for h in np.flatnonzero(now.view.state.host_power_state == OFF).tolist():
            now.switch_on(h)
        self._limits(self.critical_cpu * HIGH, self.critical_cpu * LOW)
        worst = float(self._cpu[now.on].max(initial=0.0))
        chosen = now.on & self._over(cpu, free) & self._over(self._cpu, self._free)
        if not chosen.any() and self.behaviour == "preventive":
            weights = now.view.params.host_cpu_mhz * now.on
            mean, present = (float((x * weights).sum() / max(1e-9, weights.sum())) for x in (self._cpu, cpu))
            chosen = now.on & (cpu >= max(ABOVE_MEAN * present, SIGNIFICANT))
            chosen &= self._cpu >= max(ABOVE_MEAN * mean, SIGNIFICANT)
            self._limits(ABOVE_MEAN * mean, ABOVE_MEAN_LOW * mean)
        hosts = sorted(np.flatnonzero(chosen).tolist(), key=cmp_to_key(self._compare_hosts), reverse=True)
        moves = sum(self._relieve_host(now, h) for h in hosts)
        self.say(worst, self._high, moves, bool(chosen.any()))

    def _limits(self, high: float, low: float) -> None:
        self._high, self._low = high, low
        self._free_high = self.critical_free_mib * FREE_HIGH
        self._free_low = self.critical_free_mib * FREE_LOW

    def _over(self, cpu: F8, free: F8) -> B1:
        return np.asarray((cpu >= self._high) | (free <= self._free_high))

    def _compare_hosts(self, a: int, b: int) -> int:
        """Negative: host a is better off. By limits that are reached, then by CPU, then by free memory."""
        over_a = self._cpu[a] >= self._high, self._free[a] <= self._free_high
        over_b = self._cpu[b] >= self._high, self._free[b] <= self._free_high
        if over_a == over_b:
            if _equal(self._cpu[a], self._cpu[b], 0.001):
                return int(np.sign(self._free[b] - self._free[a]))
            return int(np.sign(self._cpu[a] - self._cpu[b]))
        if not any(over_a) or all(over_b):
            return -1
        if not any(over_b) or all(over_a):
            return 1
        return 1 if over_a[0] else -1

    def _relieve_host(self, now: Round, h: int) -> int:
        def compare(a: int, b: int) -> int:
            x, y = self._vm_cpu(now, a, h), self._vm_cpu(now, b, h)
            return int(np.sign(self._mib[b] - self._mib[a] if _equal(x, y, 3.0) else y - x))

        moves = 0
        for u in sorted(now.units_on(h), key=cmp_to_key(compare)):
            if self._cpu[h] <= self._low and self._free[h] >= self._free_low:
                break
            hosts = np.flatnonzero(now.hosts_for(u)).tolist()
            if now.rules.ruled[now.units[u]].any() or not hosts:  # tags keep a VM where it is
                continue
            b = min(hosts, key=cmp_to_key(self._compare_hosts))
            full = self._cpu[b] + self._vm_cpu(now, u, b) >= self._low
            full |= self._free[b] - self._mib[u] <= self._free_high
            if full or not now.move(u, b):
                continue
            self._take(now, u, h, b)
            moves += 1
        return moves

    def _take(self, now: Round, u: int, a: int, b: int) -> None:
        self._cpu[a] -= self._vm_cpu(now, u, a)
        self._cpu[b] += self._vm_cpu(now, u, b)
        self._free[a] += self._mib[u]
        self._free[b] -= self._mib[u]

    def _pack(self, now: Round, free: F8) -> None:
        """The density plan: hosts with free memory give all VMs away and shut down; the master stays."""
        low = self.critical_free_mib * FREE_LOW
        chosen = now.on & (free > low) & (self._free > low)
        master = int(np.argmax(now.on))
        moves, received = 0, set[int]()
        for h in np.flatnonzero(chosen).tolist():
            if h == master or h in received:
                continue
            saved = self._cpu.copy(), self._free.copy()
            pairs = self._destinations(now, h, master)
            if pairs is None:
                self._cpu, self._free = saved
                continue
            done = [b for u, b in pairs if now.move(u, b)]
            received.update(done)
            moves += len(done)
            now.switch_off(h)
        self.say(float(chosen.sum()), 0.0, moves, bool(chosen.any()))

    def _destinations(self, now: Round, h: int, master: int) -> list[tuple[int, int]] | None:
        """A destination for every VM of a host, the largest first; None if one has none."""
        units = sorted(now.units_on(h), key=lambda u: -self._mib[u])
        stay = now.home_count(h) - sum(len(now.units[u]) for u in units)
        if any(now.rules.ruled[now.units[u]].any() for u in units) or stay > 0:
            return None
        pairs: list[tuple[int, int]] = []
        for u in units:
            hosts = np.flatnonzero(now.hosts_for(u))
            order = sorted(hosts.tolist(), key=lambda k: (k != master, self._free[k], k))
            for b in order:
                fits = self._cpu[b] + self._vm_cpu(now, u, b) < self.critical_cpu
                if fits and self._free[b] - self._mib[u] > self.critical_free_mib:
                    self._take(now, u, h, b)
                    pairs.append((u, b))
                    break
            else:
                return None
        return pairs


def _equal(a: float, b: float, share: float) -> bool:
    """Whether two numbers differ by no more than a share of the smaller one, or are both below that share."""
    return abs(a - b) <= min(abs(a), abs(b)) * share or (abs(a) <= share and abs(b) <= share)
