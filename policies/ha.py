"""High availability: admission, restart in order, placement that expects failures (model.md §8, §9).

The engine detects failures, takes hot standbys over, moves profiles to spares. What is left to decide, and is
decided here once per interval:

1. **Restart** VMs whose host failed (``recovery.restart: policy``): by priority, then by who is down longest;
   groups that depend on others wait until those are up.
2. **Place** arrivals (``arrival: policy``), as many as the failover guarantee admits.
3. **Restore** what a failure has used up: switch hosts on while the guarantee fails, clear dedicated failover
   hosts, and move protected VMs away from hosts with so many mirrored images that they get no secondary.

Placement is HA-aware: VMs of one group (guest profile) are spread over failure domains and hosts, then the
host with most room is taken, so that the loss of any one costs least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.config import ARRIVAL_RULES
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.errors import ConfigError
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.orders import check_power_on
from virtgym.envs.sim.recovery import restart_order
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.standby import MAX_VCPUS, MAX_VMS
from virtgym.envs.sim.state import MIG_NONE, PENDING, RUNNING, STARTING

from .base import PlanningPolicy
from .draft import Draft
from .ha_guard import AdmissionGuard
from .ha_kernels import choose_host, choose_host_to_boot
from .names import one_of

__all__ = ["FAILOVER_MODES", "HaPolicy", "HaRestarts", "restart_dependencies"]

B1 = NDArray[np.bool_]
I4 = NDArray[np.int32]

FAILOVER_MODES: tuple[str, ...] = ("cluster", "home")
"""Where VMs restart: on any host, or only where their host's identity is up again."""

BY_POLICY = ARRIVAL_RULES.index("policy")


def restart_dependencies(profiles: Sequence[GuestProfile]) -> B1:
    """Which groups of VMs have to be up before others restart.

    Args:
        profiles: Kinds of guests; names that no VM has are passed over.

    Returns:
        Shape (P, P): ``[a, b]`` = VMs of profile a wait for those of b.

    Raises:
        ConfigError: If profiles wait for each other in a circle.
    """
    names = [profile.name for profile in profiles]
    after = np.zeros((len(names), len(names)), dtype=np.bool_)
    for i, profile in enumerate(profiles):
        after[i, [names.index(name) for name in profile.restart_after if name in names]] = True
    reach = after.copy()
    for k in range(len(names)):  # Warshall's transitive closure
        reach |= reach[:, k : k + 1] & reach[k : k + 1, :]
    circle = np.flatnonzero(np.diagonal(reach))
    if circle.size:
        raise ConfigError(
            f"restart_after: {', '.join(names[i] for i in circle)} wait for each other in a circle"
        )
    return after


class HaRestarts:
    """Which VMs may be placed now, in which order, and where: what an episode has to remember.

    Args:
        view: The cluster.
        failover: One of ``FAILOVER_MODES``.
        spread: Whether VMs of a group are spread over failure domains and hosts.
        dependency_timeout_s: How long a VM waits for other groups at most, s.
    """

    def __init__(self, view: ClusterView, failover: str, spread: bool, dependency_timeout_s: float) -> None:
        workload = view.simulator.workload
        self.view = view
        self.failover = failover
        self.spread = spread
        self.timeout_s = dependency_timeout_s
        self.group: I4 = np.ascontiguousarray(workload.vm_profile, dtype=np.int32)
        self.after = restart_dependencies(workload.profiles)
        self.home = np.full(view.n_vms, -1, dtype=np.int32)
        self._anywhere = np.ones(view.n_hosts, dtype=np.bool_)
        self._nowhere = np.zeros(view.n_hosts, dtype=np.bool_)

    def remember(self) -> None:
        """Note which host's identity every VM runs on."""
        s = self.view.state
        if self.failover == "home" and self.view.params.has_failures:
            placed = s.vm_host >= 0
            self.home[placed] = s.host_profile[s.vm_host[placed]]

    def due(self) -> I4:
        """VMs that may restart now, in order."""
        p, s = self.view.params, self.view.state
        if not p.has_failures:
            return np.empty(0, dtype=np.int32)
        down = (s.vm_state == PENDING) & (s.vm_restart > 0)
        ready = down & (s.vm_restart == 2) & (s.vm_dest < 0)
        if not ready.any():
            return np.empty(0, dtype=np.int32)
        if self.after.any():
            missing = np.zeros(len(self.after), dtype=np.bool_)
            missing[self.group[down | (s.vm_state == STARTING)]] = True
            held: B1 = np.any(self.after & missing, axis=1)
            held = held[self.group]
            ready &= ~held | (self.view.time_s - s.vm_down_since_s >= self.timeout_s)
        return restart_order(np.flatnonzero(ready).astype(np.int32), p.vm_priority, s.vm_down_since_s)

    def hosts_for(self, v: int) -> B1:
        """Hosts on which a VM may restart, shape (H,)."""
        if self.failover == "cluster" or self.home[v] < 0:
            return self._anywhere
        there: B1 = self.view.state.host_profile == self.home[v]
        return there

    def choose(
        self, sim: Simulator, v: int, allowed: B1, preferred: B1 | None = None, moves: bool = False
    ) -> int:
        """The best host of a VM in a what-if copy; -1 = none."""
        first = self._nowhere if preferred is None else preferred
        params, state = sim.kernel_params, sim.kernel_state
        return int(choose_host(params, state, v, self.group, allowed, first, self.spread, moves))


@dataclass
class HaPolicy(PlanningPolicy):
    """Restart, admit, place and keep failover capacity.

    Attributes:
        failover: ``cluster``: a VM restarts on any host (cold standby); ``home``: only where the identity of
            its host is up again, after the repair or on a spare (no HA, or stateless computing alone).
        spread: Whether VMs of one guest profile are spread over failure domains and hosts.
        boot_hosts: Whether a VM that fits nowhere has a host booted for it.
        restore: Whether hosts are switched on while the guarantee fails.
        dependency_timeout_s: How long a VM waits for the groups it depends on, s (vSphere's default, from
            memory).
        failback_moves: Migrations per interval that clear dedicated failover hosts.
        protection_moves: Migrations per interval that bring protected VMs to where they may be mirrored.
    """

    failover: str = "cluster"
    spread: bool = True
    boot_hosts: bool = True
    restore: bool = True
    dependency_timeout_s: float = 600.0
    failback_moves: int = 4
    protection_moves: int = 4

    arrival: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        one_of("policy.failover", self.failover, FAILOVER_MODES)
        for key in ("dependency_timeout_s", "failback_moves", "protection_moves"):
            value = getattr(self, key)
            if not value >= 0:
                raise ConfigError(f"policy.{key}={value}: must be 0 or more")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget where VMs were."""
        super().reset(view, rng)
        self.guard = AdmissionGuard(view)
        self._restarts = HaRestarts(view, self.failover, self.spread, self.dependency_timeout_s)

    def plan(self, view: ClusterView) -> Decisions:
        """Decide restarts, arrivals and what restores the guarantee."""
        guard, restarts = self.guard, self._restarts
        guard.renew()
        restarts.remember()
        due, new = restarts.due(), self._arrivals(view)
        stranded, bare = self._on_failover_hosts(view), self._without_mirror(view)
        broken = self.restore and guard.active and not guard.holds
        if not (due.size or new.size or stranded.size or bare.size or broken):
            return Decisions()
        draft = Draft(view)
        for v in due.tolist():
            self._restart(draft, v)
        for v in new.tolist():
            self._admit(draft, v)
        if broken:
            for h in self._hosts_to_restore(view, draft.switched_on):
                draft.power_on(h)
        for v in stranded.tolist():
            h = restarts.choose(draft.sim, v, guard.hosts_allowed(), moves=True)
            if h >= 0:
                draft.move(v, h)
        for v in bare.tolist():
            h = restarts.choose(draft.sim, v, self._may_mirror(draft.sim, v), moves=True)
            if h >= 0:
                draft.move(v, h)
        return draft.decisions()

    def _arrivals(self, view: ClusterView) -> I4:
        """VMs that wait for their first host, if the policy gives it to them."""
        p, s = view.params, view.state
        if p.arrival_rule != BY_POLICY:
            return np.empty(0, dtype=np.int32)
        new = (s.vm_state == PENDING) & (s.vm_dest < 0)
        if p.has_failures:
            new &= s.vm_restart == 0
        vms = np.flatnonzero(new)
        return vms[np.argsort(p.vm_arrival_s[vms], kind="stable")].astype(np.int32)

    def _on_failover_hosts(self, view: ClusterView) -> I4:
        """VMs that run on dedicated failover hosts, as many as may move back in an interval."""
        if self.guard.config.rule != "dedicated" or self.failback_moves == 0:
            return np.empty(0, dtype=np.int32)
        s = view.state
        there = (s.vm_state == RUNNING) & (s.vm_mig == MIG_NONE) & (s.vm_host >= 0)
        there &= self.guard.dedicated[np.maximum(s.vm_host, 0)]
        return np.flatnonzero(there)[: self.failback_moves].astype(np.int32)

    def _without_mirror(self, view: ClusterView) -> I4:
        """Protected VMs that have no secondary because their own host is at a limit."""
        p, s = view.params, view.state
        if not p.has_standby or self.protection_moves == 0:
            return np.empty(0, dtype=np.int32)
        vms = p.protected_vms[s.vm_secondary[p.protected_vms] < 0]
        vms = vms[(s.vm_state[vms] == RUNNING) & (s.vm_mig[vms] == MIG_NONE)]
        at = s.vm_host[vms]
        full = s.host_mirrors[at] >= p.mirror_params[MAX_VMS]
        full |= s.host_mirror_vcpus[at] + p.vm_vcpus[vms] > p.mirror_params[MAX_VCPUS]
        bare: I4 = vms[full][: self.protection_moves]
        return bare

    def _may_mirror(self, sim: Simulator, v: int) -> B1:
        """Hosts where a VM would be below the limits, with those that are on their way there, shape (H,)."""
        p, s = sim.params, sim.state
        coming = p.protected_vms[s.vm_dest[p.protected_vms] >= 0]
        hosts = s.vm_dest[coming]
        n = len(s.host_mirrors)
        images = s.host_mirrors + np.bincount(hosts, minlength=n)
        vcpus = s.host_mirror_vcpus + np.bincount(hosts, weights=p.vm_vcpus[coming], minlength=n)
        allowed: B1 = self.guard.hosts_allowed()
        allowed &= images < p.mirror_params[MAX_VMS]
        allowed &= vcpus + p.vm_vcpus[v] <= p.mirror_params[MAX_VCPUS]
        return allowed

    def _restart(self, draft: Draft, v: int) -> None:
        """Place one VM again; dedicated failover hosts are taken first."""
        allowed = self._restarts.hosts_for(v)
        h = self._restarts.choose(draft.sim, v, allowed, self.guard.dedicated)
        if h < 0:
            h = self._boot_for(draft, v, allowed)
        if h >= 0 and draft.place(v, h):
            self._note(v, h)

    def _admit(self, draft: Draft, v: int) -> None:
        """Place one arrival if the guarantee allows it."""
        allowed = self.guard.hosts_allowed()
        if self.guard.active and not self.guard.may_admit(np.array([v], dtype=np.int32))[0]:
            return
        h = self._restarts.choose(draft.sim, v, allowed)
        if h < 0:
            h = self._boot_for(draft, v, allowed)
        if h >= 0 and draft.place(v, h):
            self.guard.admit(v)
            self._note(v, h)

    def _boot_for(self, draft: Draft, v: int, allowed: B1) -> int:
        if not self.boot_hosts:
            return -1
        h = int(choose_host_to_boot(draft.sim.kernel_params, draft.sim.kernel_state, v, allowed))
        return h if h >= 0 and draft.power_on(h) else -1

    def _note(self, v: int, h: int) -> None:
        """Remember a host in case it fails before the next interval."""
        if self.view.params.has_failures:
            self._restarts.home[v] = self.view.state.host_profile[h]

    def _hosts_to_restore(self, view: ClusterView, already: list[int]) -> Iterator[int]:
        """Hosts to switch on, largest first, until the guarantee would hold with all that are coming."""
        guard = self.guard
        guard.renew()
        for h in [*np.flatnonzero(guard.coming()).tolist(), *already]:
            guard.join(h)
        p = view.params
        useful = guard.dedicated if guard.config.rule == "dedicated" else ~guard.dedicated
        size = np.minimum(p.host_cpu_mhz / p.host_cpu_mhz.max(), p.host_mem_mib / p.host_mem_mib.max())
        for h in np.argsort(-size, kind="stable").tolist():
            if guard.holds:
                return
            shut = not useful[h] or h in already or (p.full and view.state.host_maintenance[h])
            if not shut and check_power_on(view.kernel_params, view.kernel_state, h) == 0:
                guard.join(h)
                yield h
