"""Huawei FusionCompute: load balancing every 50 minutes, power management every 10, plans by time of day."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.checks import need, need_positive, need_share, one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.models.power import OFF
from virtgym.envs.sim.simulator import ClusterView

from ..planning.rounds import Round
from .base import ProductPolicy

RESOURCES = ("cpu", "memory", "both")
LEVELS: dict[int, float] = {1: math.inf, 2: 0.30, 3: 0.20, 4: 0.10, 5: 0.05}
"""Level of load balancing: how far above the mean a host's load must be [assumed: the vendor has five levels,
from conservative to radical, and gives no numbers]."""
POWER_LEVELS: dict[int, tuple[float, float]] = {
    1: (0.10, 0.60), 2: (0.20, 0.65), 3: (0.30, 0.70), 4: (0.40, 0.75), 5: (0.50, 0.80)
}  # fmt: skip
"""Level of power management: light and heavy load of the hosts that are on [assumed likewise]."""
HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass
class FusionComputePolicy(ProductPolicy):
    """Even out hosts far above the mean; one host off under a light load, one on under a heavy one.

    Attributes:
        level: Level of load balancing, 1 (conservative: none) to 5 (radical), see ``LEVELS``.
        resource: What is balanced; of both the higher share.
        baseline: Share that the load of a host must exceed before anything is scheduled [assumed].
        busy: Mean load from which on the level is one step more conservative [assumed].
        balance_s: Time between two rounds of load balancing, s.
        power: Whether hosts are switched.
        power_level: Level of power management, see ``POWER_LEVELS``.
        power_s: Time between two rounds of power management, s.
        plans: Level of load balancing by time of day: ``8-18: 2`` is from 8 to 18 o'clock; 0 s is midnight.
        cooldown_s: Time that a VM rests after a migration, s: one round.
    """

    level: int = 3
    resource: str = "cpu"
    baseline: float = 0.5
    busy: float = 0.8
    balance_s: float = 3000.0
    power: bool = True
    power_level: int = 3
    power_s: float = 600.0
    plans: dict[str, Any] = field(default_factory=dict)
    cooldown_s: float = field(default=3000.0, kw_only=True)

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need(self.level in LEVELS, f"policy.level={self.level}: must be one of 1..5")
        need(self.power_level in POWER_LEVELS, f"policy.power_level={self.power_level}: must be one of 1..5")
        one_of("policy.resource", self.resource, RESOURCES)
        need_share("policy", baseline=self.baseline, busy=self.busy)
        need_positive("policy", balance_s=self.balance_s, power_s=self.power_s)
        self._read_plans()

    def _read_plans(self) -> None:
        self._plans = [(*_hours(span), _level(span, level)) for span, level in self.plans.items()]

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._read_plans()

    def level_at(self, time_s: float) -> int:
        """Level of load balancing at a time, by the first plan that covers it."""
        hour = time_s % DAY_S / HOUR_S
        inside = (k for a, b, k in self._plans if (a <= hour < b if a < b else hour >= a or hour < b))
        return next(inside, self.level)

    def act(self, now: Round) -> None:
        """Balance, then switch one host."""
        if self.rounds(self.balance_s):
            self._balance(now)
        if self.power and self.rounds(self.power_s):
            self._switch(now)

    def _loads(self, now: Round) -> F8:
        cpu, mem = now.load_mhz * now.view.params.host_inv_cpu, now.memory()
        return np.asarray({"cpu": cpu, "memory": mem, "both": np.maximum(cpu, mem)}[self.resource])

    def _balance(self, now: Round) -> None:
        x = self._loads(now)
        mean = float(x[now.on].mean()) if now.on.any() else 0.0
        level = self.level_at(self._now_s)
        level = max(1, level - 1) if mean >= self.busy else level
        limit = max(mean + LEVELS[level], self.baseline)
        highest = float(x[now.on].max(initial=0.0))
        moves = 0
        for h in np.argsort(-x, kind="stable")[: int((now.on & (x > limit)).sum())].tolist():
            while now.on[h] and self._loads(now)[h] > limit and self._relieve(now, h):
                moves += 1
        self.say(highest, limit, moves, highest > limit)

    def _relieve(self, now: Round, h: int) -> bool:
        """Move the VM that leaves the higher of host and destination, the least loaded one, lowest."""
        p, x = now.view.params, self._loads(now)
        best: list[tuple[float, int, int]] = []
        for u in now.units_on(h):
            hosts = np.flatnonzero(now.hosts_for(u))
            if hosts.size == 0:
                continue
            b = int(hosts[np.argmin(x[hosts])])
            sizes = {"cpu": (now.unit_mhz[u], p.host_inv_cpu), "memory": (now.unit_mib[u], p.host_inv_mem)}
            kinds = sizes if self.resource == "both" else (self.resource,)
            loads = {"cpu": now.load_mhz * p.host_inv_cpu, "memory": now.memory()}
            less = max(loads[k][h] - sizes[k][0] * sizes[k][1][h] for k in kinds)
            more = max(loads[k][b] + sizes[k][0] * sizes[k][1][b] for k in kinds)
            best.append((float(max(less, more)), u, b))
        return any(peak < x[h] - 1e-12 and now.move(u, b) for peak, u, b in sorted(best))

    def _switch(self, now: Round) -> None:
        """One host on above the heavy load, one emptied and off below the light load."""
        p = now.view.params
        light, heavy = POWER_LEVELS[self.power_level]
        if not now.on.any() or now.coming_on():
            return
        cpu = float(now.load_mhz[now.on].sum() / p.host_cpu_mhz[now.on].sum())
        mem = float(now.load_mib[now.on].sum() / p.host_mem_mib[now.on].sum())
        load = max(cpu, mem)
        if load > heavy:
            off = np.flatnonzero(now.view.state.host_power_state == OFF)
            any(now.switch_on(int(h)) for h in off)
        elif load < light and int(now.on.sum()) > 1:
            hosts = np.flatnonzero(now.on)
            by_load = hosts[np.argsort((now.load_mhz * p.host_inv_cpu)[hosts], kind="stable")]
            any(self._empty(now, int(h), heavy) for h in by_load)

    def _empty(self, now: Round, h: int, heavy: float) -> bool:
        """Empty a host and switch it off, if others take all of its VMs and none is heavily loaded then."""
        p = now.view.params
        units = sorted(now.units_on(h), key=lambda u: -now.unit_mhz[u])
        if now.home_count(h) > sum(len(now.units[u]) for u in units):
            return False
        cpu, mem = now.load_mhz.copy(), now.load_mib.copy()
        pairs: list[tuple[int, int]] = []
        for u in units:
            after = np.maximum(
                (cpu + now.unit_mhz[u]) * p.host_inv_cpu, (mem + now.unit_mib[u]) * p.host_inv_mem
            )
            hosts = np.flatnonzero(now.hosts_for(u) & (after <= heavy))
            if hosts.size == 0:
                return False
            b = int(hosts[np.argmax(after[hosts])])
            cpu[b] += now.unit_mhz[u]
            mem[b] += now.unit_mib[u]
            pairs.append((u, b))
        return len(units) <= now.left and all(now.move(u, b) for u, b in pairs) and now.switch_off(h)


def _hours(span: str) -> tuple[float, float]:
    """From and to of a time of day such as 8-18."""
    parts = str(span).split("-")
    try:
        hours = [float(part) for part in parts]
    except ValueError:
        hours = []
    if len(hours) != 2 or not all(0 <= hour <= 24 for hour in hours):
        raise ConfigError(f"policy.plans.{span}: must be hours from 0 to 24, such as 8-18")
    return hours[0], hours[1]


def _level(span: str, level: Any) -> int:
    need(level in LEVELS, f"policy.plans.{span}={level}: must be one of 1..5")
    return int(level)
