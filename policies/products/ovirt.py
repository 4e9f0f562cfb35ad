"""oVirt's scheduling policies: power saving, even distribution and even guests; hosts kept in reserve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need_count, need_not_negative, need_share, one_of
from virtgym.envs.sim.models.power import OFF, SHUTTING_DOWN
from virtgym.envs.sim.simulator import ClusterView

from ..planning.rounds import Round
from .base import ProductPolicy

MODES = ("power_saving", "even", "even_guest")
PERIOD_S = 60.0
RECEIVES, VCPU = 0.8, 0.1
"""A host receives VMs below 0.8 of the high utilisation, and no nearer to it than 0.1."""


@dataclass
class OvirtPolicy(ProductPolicy):
    """One VM a minute leaves a host that is used too much, or (power saving) too little.

    Attributes:
        mode: One of ``MODES``.
        high: CPU from which on a host is over-utilised.
        low: CPU below which power saving empties a host.
        duration_s: Time for which a host must have been over-utilised, s.
        high_vm_count: Guests from which on ``even_guest`` balances.
        migration_threshold: Guests that a destination must have fewer than the fullest host.
        power_management: Power saving: whether hosts are switched.
        hosts_in_reserve: Hosts that stay on empty.
    """

    mode: str = "power_saving"
    high: float = 0.75
    low: float = 0.20
    duration_s: float = 120.0
    high_vm_count: int = 10
    migration_threshold: int = 5
    power_management: bool = True
    hosts_in_reserve: int = 0

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.mode", self.mode, MODES)
        need_share("policy", high=self.high, low=self.low)
        need_not_negative("policy", duration_s=self.duration_s)
        need_count("policy", high_vm_count=self.high_vm_count, migration_threshold=self.migration_threshold)
        need_count("policy", low=0, hosts_in_reserve=self.hosts_in_reserve)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._over_since: F8 = np.full(view.n_hosts, np.inf)

    def observe(self, now: Round) -> None:
        """Note since when hosts are over-utilised: a mean over an interval speaks for all of it."""
        began = self._now_s - now.view.params.interval_s
        over = now.on & (now.util() >= self.high)
        self._over_since = np.where(over, np.minimum(self._over_since, began), np.inf)

    def act(self, now: Round) -> None:
        """Move one VM for every minute that has passed, then look at the hosts' power once."""
        looks = self.rounds(PERIOD_S)
        moves = 0
        first = now.util()[now.on].max(initial=0.0)
        source = False
        for _ in range(looks):
            source = source or next(self._sources(now), None) is not None
            if now.left == 0 or not any(self._send(now, h) for h in self._sources(now)):
                break
            moves += 1
        if looks:
            self.say(float(first), self.high, moves, source)
        if looks and self.mode == "power_saving" and self.power_management:
            self._switch(now)

    def _sources(self, now: Round) -> Iterator[int]:
        """Hosts that are to give a VM, in the order in which they are tried."""
        util, count = now.util(), now.n_vms()
        if self.mode == "even_guest":
            most = int(count[now.on].max(initial=0))
            if most >= self.high_vm_count:
                yield from np.flatnonzero(now.on & (count == most)).tolist()
            return
        lasted = self._now_s - self._over_since >= self.duration_s * (1 - 1e-9)
        over = now.on & lasted & (util >= self.high) & (count > 0)
        by_use = np.argsort(util, kind="stable")
        yield from by_use[::-1][over[by_use[::-1]]].tolist()
        if self.mode == "power_saving":
            under = now.on & (util < self.low) & (count > 0)
            yield from by_use[under[by_use]].tolist()

    def _receives(self, now: Round) -> B1:
        """Hosts that may take a VM, (H,)."""
        util, count = now.util(), now.n_vms()
        if self.mode == "even_guest":
            few: B1 = now.on & (count[now.on].max(initial=0) - count >= self.migration_threshold)
            return few
        receives: B1 = now.on & (util < min(RECEIVES * self.high, self.high - VCPU))
        return receives & (util > self.low) if self.mode == "power_saving" else receives

    def _send(self, now: Round, h: int) -> bool:
        """Move the VM of a host that uses least CPU; the weights of the mode say where to."""
        units = now.units_on(h)
        if not units:
            return False
        u = min(units, key=lambda u: (now.unit_mhz[u], u))
        p = now.view.params
        with_it = (now.load_mhz + now.unit_mhz[u]) * p.host_inv_cpu
        hosts = np.flatnonzero(now.hosts_for(u) & self._receives(now) & (with_it <= self.high))
        weight = now.n_vms().astype(np.float64) if self.mode == "even_guest" else now.util()
        key = -weight[hosts] if self.mode == "power_saving" else weight[hosts]
        return any(now.move(u, int(b)) for b in hosts[np.argsort(key, kind="stable")])

    def _switch(self, now: Round) -> None:
        """One empty host off while there are more than the reserve, one on while there are fewer."""
        power = now.view.state.host_power_state
        empty = np.flatnonzero(now.on & (now.n_vms() == 0) & (now.view.state.host_n_vms == 0))
        if now.coming_on() or bool((power == SHUTTING_DOWN).any()):
            return
        if len(empty) > self.hosts_in_reserve and int(now.on.sum()) > 1:
            any(now.switch_off(int(h)) for h in empty[::-1])
        elif len(empty) < self.hosts_in_reserve:
            any(now.switch_on(int(h)) for h in np.flatnonzero(power == OFF))
