"""High availability: admission, restart in order, placement that expects failures (docs §8, §9).

The engine detects failures, takes hot standbys over, moves profiles to spares. What is left to decide, and is
decided here once per interval:

1. **Restart** VMs whose host failed (``recovery.restart: policy``): by priority, then by who is down longest;
   groups that depend on others wait until those are up.
2. **Place** arrivals (``arrival: policy``), as many as the failover guarantee admits.
3. **Restore** what a failure has used up: switch hosts on while the guarantee fails, clear dedicated failover
   hosts, and move protected VMs away from hosts with so many mirrored images that they get no secondary.

Placement is HA-aware: VMs of one group (guest profile) are spread over failure domains and hosts, then the
host with most room is taken, so that the loss of any one costs least. The cluster's placement rules are kept:
``must`` and anti-affinity always, affinity unless a VM would be down for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from virtgym.envs.arrays import B1, I4
from virtgym.envs.checks import need, one_of
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.config import ARRIVAL_RULES
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.waiting import is_hopeless, no_failures, note_failure
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.power import BOOTING, RESUMING
from virtgym.envs.sim.models.recovery import restart_order
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE, PENDING, RUNNING, STARTING

from ..base import PlanningPolicy
from ..planning.draft import Draft
from ..planning.guard import AdmissionGuard
from ..planning.positions import homes_of
from ..planning.rule_hosts import NOT_FIRST, RuleHosts, move_together
from .kernels import choose_host, choose_host_to_boot

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
        self.view = view
        self.failover = failover
        self.spread = spread
        self.timeout_s = dependency_timeout_s
        self.group: I4 = np.ascontiguousarray(view.vm_profile, dtype=np.int32)
        self.after = restart_dependencies(view.profiles)
        self.home = np.full(view.n_vms, -1, dtype=np.int32)
        self._anywhere = np.ones(view.n_hosts, dtype=np.bool_)

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

    def choose(self, sim: Simulator, v: int, allowed: B1, rank: I4, moves: bool = False) -> int:
        """The best host of a VM in a what-if copy, those of lowest rank first; -1 = none."""
        params, state = sim.kernel_params, sim.kernel_state
        return int(choose_host(params, state, v, self.group, allowed, rank, self.spread, moves))

    def choose_to_move(self, sim: Simulator, v: int, allowed: B1, rank: I4) -> int:
        """The same for a migration."""
        return self.choose(sim, v, allowed, rank, moves=True)


@dataclass
class HaPolicy(PlanningPolicy):
    """Restart, admit, place and keep failover capacity.

    Attributes:
        failover: ``cluster``: a VM restarts on any host (cold standby); ``home``: only where the identity of
            its host is up again, after the repair or on a spare (no HA, or stateless computing alone).
        spread: Whether VMs of one guest profile are spread over failure domains and hosts.
        boot_hosts: Whether a VM that fits nowhere has a host booted for it.
        restore: Whether hosts are switched on while the guarantee fails.
        dependency_timeout_s: How long a VM waits for others at most, s (vSphere's default, from memory): a
            restart for the groups it depends on, an arrival for room beside its affinity group.
        failback_moves: VMs per interval that move off dedicated failover hosts; those of their affinity group
            move with them.
        protection_moves: VMs per interval that move to where they may be mirrored, likewise.
    """

    failover: str = "cluster"
    spread: bool = True
    boot_hosts: bool = True
    restore: bool = True
    dependency_timeout_s: float = 600.0
    failback_moves: int = 4
    protection_moves: int = 4

    arrival: ClassVar[str | None] = None
    restart: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        one_of("policy.failover", self.failover, FAILOVER_MODES)
        for key in ("dependency_timeout_s", "failback_moves", "protection_moves"):
            value = getattr(self, key)
            need(value >= 0, f"policy.{key}={value}: must be 0 or more")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget where VMs were."""
        super().reset(view, rng)
        self.guard = AdmissionGuard(view)
        self._wanted: list[int] = []
        self.rules = RuleHosts(view)
        self._restarts = HaRestarts(view, self.failover, self.spread, self.dependency_timeout_s)

    def plan(self, view: ClusterView) -> Decisions:
        """Decide restarts, arrivals and what restores the guarantee."""
        guard, restarts = self.guard, self._restarts
        guard.renew(view)
        restarts.remember()
        due = self.rules.gathered(restarts.due(), view.params.vm_priority)
        new = self.rules.gathered(self._arrivals(view), np.zeros(view.n_vms))
        stranded, bare = self._on_failover_hosts(view), self._without_mirror(view)
        broken = self.restore and guard.active and not guard.holds
        needed = [h for h in self._wanted if not guard.may_leave()[h]]
        stuck = self._in_maintenance(view)
        if not (due.size or new.size or stranded.size or bare.size or broken or needed or stuck.size):
            return Decisions()
        draft = Draft(view)
        for v in due.tolist():
            self._restart(draft, v)
        refused = self._admit_all(draft, new)
        if broken:
            self._switch_on_until(draft, lambda: guard.holds)
        if refused.size and self.boot_hosts:
            self._switch_on_until(draft, lambda: bool(guard.may_admit(refused).all()))
        if needed:
            self._switch_on_until(draft, lambda: bool(guard.may_leave()[needed].all()))
        guard.renew(view)
        self._boot_for_stuck(draft, stuck)
        self._move(draft, stranded, self.failback_moves, lambda unit: self.guard.hosts_allowed())
        self._move(draft, bare, self.protection_moves, lambda unit: self._may_mirror(draft.sim, unit))
        return draft.decisions()

    def make_room_for(self, hosts: Iterable[int]) -> None:
        """Name the hosts that are to leave: others are switched on until the guarantee can do without them.

        Args:
            hosts: All of them; they take the place of those named before.
        """
        self._wanted = self.hosts_named(hosts).tolist()

    def _in_maintenance(self, view: ClusterView) -> I4:
        """VMs that run on hosts in maintenance and do not leave yet."""
        s = view.state
        if not self.boot_hosts or not s.host_maintenance.any():
            return np.empty(0, dtype=np.int32)
        return _movable_on(view, s.host_maintenance != 0)

    def _boot_for_stuck(self, draft: Draft, vms: I4) -> None:
        """Switch a host on for the first VM that is to leave a host in maintenance and fits nowhere else."""
        state = draft.sim.state.host_power_state
        if ((state == BOOTING) | (state == RESUMING)).any():
            return  # see first what that one takes
        for v in vms.tolist():
            allowed = self.guard.hosts_allowed() & self.rules.hard(draft.sim.state, v)
            rank = self.rules.rank(draft.sim, v)
            stays = self._restarts.choose_to_move(draft.sim, v, allowed, rank) < 0
            if stays and self._boot(draft, v, allowed, rank, moves=True) >= 0:
                return

    def _move(self, draft: Draft, vms: I4, most: int, hosts: Callable[[list[int]], B1]) -> None:
        """Order migrations until so many VMs move; one that fits nowhere does not hold up the next."""
        moved = 0
        for v in vms.tolist():
            if moved >= most:
                return
            unit = self.rules.mates(draft.sim.state, v)
            if move_together(draft, self.rules, unit, hosts(unit), self._restarts.choose_to_move):
                moved += len(unit)

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
        """VMs that run on dedicated failover hosts."""
        if self.guard.config.rule != "dedicated" or self.failback_moves == 0:
            return np.empty(0, dtype=np.int32)
        return _movable_on(view, self.guard.dedicated)

    def _without_mirror(self, view: ClusterView) -> I4:
        """Protected VMs that have no secondary because their own host is at a limit."""
        p, s = view.params, view.state
        if not p.has_standby or self.protection_moves == 0:
            return np.empty(0, dtype=np.int32)
        vms = p.protected_vms[s.vm_secondary[p.protected_vms] < 0]
        vms = vms[(s.vm_state[vms] == RUNNING) & (s.vm_mig[vms] == MIG_NONE)]
        at = s.vm_host[vms]
        full = s.host_mirrors[at] >= p.mirror_max_vms
        full |= s.host_mirror_vcpus[at] + p.vm_vcpus[vms] > p.mirror_max_vcpus
        bare: I4 = vms[full]
        return bare

    def _may_mirror(self, sim: Simulator, vms: list[int]) -> B1:
        """Hosts where VMs would be below the limits, with those that are on their way there, shape (H,)."""
        p, s = sim.params, sim.state
        home = homes_of(s, p.protected_vms)
        there = (home >= 0) & (home != s.vm_host[p.protected_vms])
        coming, hosts = p.protected_vms[there], home[there]
        more = p.protected_vms[np.isin(p.protected_vms, vms)]
        n = len(s.host_mirrors)
        images = s.host_mirrors + np.bincount(hosts, minlength=n)
        vcpus = s.host_mirror_vcpus + np.bincount(hosts, weights=p.vm_vcpus[coming], minlength=n)
        allowed = self.guard.hosts_allowed()
        allowed &= images + len(more) <= p.mirror_max_vms
        allowed &= vcpus + p.vm_vcpus[more].sum() <= p.mirror_max_vcpus
        return allowed

    def _restart(self, draft: Draft, v: int) -> None:
        """Place one VM again; dedicated failover hosts are taken first.

        Affinity is kept where a host that is on allows it. Else the VM goes elsewhere: being up is worth more
        than a rule that DRS can mend. For ``must`` and anti-affinity it waits.
        """
        hard = self._restarts.hosts_for(v) & self.rules.hard(draft.sim.state, v)
        rank = self.rules.rank(draft.sim, v)
        rank[~self.guard.dedicated] += NOT_FIRST
        h = -1
        if self.rules.has_group(v):
            near = hard & self.rules.near(draft.sim.state, v)
            h = self._restarts.choose(draft.sim, v, near, rank)
        if h < 0:
            h = self._choose_or_boot(draft, v, hard, rank)
        if h >= 0 and draft.place(v, h):
            self._note(v, h)

    def _admit_all(self, draft: Draft, new: I4) -> I4:
        """Place arrivals; returns those that the guarantee does not allow.

        A VM that no rule names is not tried after one that needs no more was refused, or found no host.
        """
        params = draft.sim.kernel_params
        refused, hostless = no_failures(), no_failures()
        answers = np.ones(len(new), dtype=np.bool_)
        for i, v in enumerate(new.tolist()):
            plain = not self.rules.ruled[v]
            answers[i] = not (plain and is_hopeless(params, refused, v))
            if not answers[i] or (plain and is_hopeless(params, hostless, v)):
                continue
            answers[i] = self._admit(draft, v)
            if plain and draft.sim.state.vm_state[v] == PENDING and draft.sim.state.vm_dest[v] < 0:
                note_failure(hostless if answers[i] else refused, v)
        return new[~answers]

    def _admit(self, draft: Draft, v: int) -> bool:
        """Place one arrival if the guarantee allows it; returns whether it does.

        It waits for room beside its affinity group, but not for ever: the group may be where it cannot go.
        """
        if self.guard.active and not self.guard.may_admit(np.array([v], dtype=np.int32))[0]:
            return False
        state = draft.sim.state
        hard = self.guard.hosts_allowed() & self.rules.hard(state, v)
        rank = self.rules.rank(draft.sim, v)
        h = self._choose_or_boot(draft, v, hard & self.rules.near(state, v), rank)
        waited_s = draft.sim.view.time_s - draft.sim.params.vm_arrival_s[v]
        if h < 0 and self.rules.has_group(v) and waited_s >= self.dependency_timeout_s:
            h = self._choose_or_boot(draft, v, hard, rank)
        if h >= 0 and draft.place(v, h):
            self.guard.admit(v)
            self._note(v, h)
        return True

    def _choose_or_boot(self, draft: Draft, v: int, allowed: B1, rank: I4) -> int:
        """The best host that is on, else one that is booted for the VM; -1 = none."""
        h = self._restarts.choose(draft.sim, v, allowed, rank)
        return self._boot(draft, v, allowed, rank) if h < 0 and self.boot_hosts else h

    def _boot(self, draft: Draft, v: int, allowed: B1, rank: I4, moves: bool = False) -> int:
        """A host that is switched on for a VM that waits, or (``moves``) runs; -1 = none."""
        params, state = draft.sim.kernel_params, draft.sim.kernel_state
        h = int(choose_host_to_boot(params, state, v, allowed, rank, moves))
        return h if h >= 0 and draft.power_on(h) else -1

    def _note(self, v: int, h: int) -> None:
        """Remember a host in case it fails before the next interval."""
        if self.view.params.has_failures:
            self._restarts.home[v] = self.view.state.host_profile[h]

    def _switch_on_until(self, draft: Draft, enough: Callable[[], bool]) -> None:
        """Switch hosts on, largest first, until the guard says enough, with all that are coming counted."""
        p = draft.sim.params
        self.guard.renew(draft.sim.view)
        size = np.minimum(p.host_cpu_mhz / p.host_cpu_mhz.max(), p.host_mem_mib / p.host_mem_mib.max())
        order = np.argsort(-size, kind="stable").tolist()
        self.guard.switch_on_until(enough, order, draft.power_on)


def _movable_on(view: ClusterView, hosts: B1) -> I4:
    """VMs on some hosts that run and do not migrate."""
    s = view.state
    there = (s.vm_state == RUNNING) & (s.vm_mig == MIG_NONE) & (s.vm_host >= 0)
    return np.flatnonzero(there & hosts[np.maximum(s.vm_host, 0)]).astype(np.int32)
