"""A rolling hardware upgrade: every old host is emptied by live migration, switched off and done with.

Hosts whose CPU level is not the newest of the cluster are old. VMs keep the CPU features that they were
switched on with, so they may go from old hosts to new ones, and never have to come back.

``must`` and anti-affinity are kept, and VMs of an affinity group that share a host move together. A host on
which a rule leaves a VM no new host stays as it is, and does not hold up the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from virtgym.envs.arrays import B1, I4
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE, RUNNING

from ..base import PlanningPolicy
from ..planning.draft import Draft
from ..planning.guard import AdmissionGuard
from ..planning.rule_hosts import RuleHosts, move_together
from .kernels import choose_host


def host_generations(view: ClusterView) -> I4:
    """How many CPU features every host lacks of the newest hosts', shape (H,); 0 = a newest host.

    Args:
        view: The cluster.

    Raises:
        ConfigError: If host types have no CPU level, or one is another vendor's: nothing on it can move live.
    """
    features = view.params.host_features
    if features.size == 0:
        raise ConfigError("policy=nfv_upgrade: needs scenario.hosts with a cpu_level, which says who is old")
    counts = np.array([int(word).bit_count() for word in features], dtype=np.int32)
    newest = features[int(np.argmax(counts))]
    foreign = np.flatnonzero(features & ~newest)
    if foreign.size:
        kind = view.config.host_types[view.params.host_type[foreign[0]]]
        raise ConfigError(
            f"policy=nfv_upgrade: host type {kind.name} ({kind.cpu_level}) has CPU features that the newest "
            "hosts lack, so no VM can move live from it to them"
        )
    lacks: I4 = (counts.max() - counts).astype(np.int32)
    return lacks


@dataclass
class RollingUpgradePolicy(PlanningPolicy):
    """Replace old hosts by newer ones without stopping a VM.

    Attributes:
        at_once: Old hosts that are emptied at the same time.
        keep_on: New hosts without a VM that stay on, ready for the next old host.
        start_s: When the upgrade begins, s.
    """

    at_once: int = 1
    keep_on: int = 1
    start_s: float = 0.0

    arrival: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        for key in ("at_once", "keep_on"):
            need(getattr(self, key) >= 1, f"policy.{key}={getattr(self, key)}: must be at least 1")
        need(self.start_s >= 0, f"policy.start_s={self.start_s}: must be 0 or more")

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view and find out which hosts are old."""
        super().reset(view, rng)
        lacks = host_generations(view)
        self._is_old: B1 = lacks > 0
        self._oldest_first = np.argsort(-lacks, kind="stable")[: int(self._is_old.sum())].tolist()
        self._group = np.ascontiguousarray(view.vm_profile, dtype=np.int32)
        self._short = False  # the next old host has to wait for another new one
        self._stuck = np.zeros(view.n_hosts, dtype=np.bool_)  # old hosts that cannot be emptied
        self.guard = AdmissionGuard(view)
        self._rules = RuleHosts(view)

    def plan(self, view: ClusterView) -> Decisions:
        """Take the next old hosts out of service, move what is on them, switch off what is empty."""
        s = view.state
        if not self._is_old.any():
            return Decisions()
        self.guard.renew()
        self._short = False
        self._stuck[:] = False
        draft = Draft(view)
        if view.time_s >= self.start_s - 1e-9:
            chosen = self._in_work(view) + self._next_hosts(view, draft)
            for h in chosen:
                self._empty(view, draft, h)
            for h in np.flatnonzero(self._is_old & (s.host_maintenance > 0)).tolist() + chosen:
                if s.host_power_state[h] == ON and not s.host_drain[h]:
                    draft.power_off(h)
        self._switch_new_hosts(view, draft)
        return draft.decisions()

    def _in_work(self, view: ClusterView) -> list[int]:
        """Old hosts in maintenance that still hold VMs."""
        s = view.state
        busy = self._is_old & (s.host_maintenance > 0) & (s.host_n_vms > 0)
        return [int(h) for h in np.flatnonzero(busy)]

    def _next_hosts(self, view: ClusterView, draft: Draft) -> list[int]:
        """Old hosts to begin with now: all their VMs fit on new hosts that are on, nothing is coming."""
        s = view.state
        chosen: list[int] = []
        room = self.at_once - len(self._in_work(view))
        for h in self._oldest_first:
            if len(chosen) >= room:
                break
            ready = s.host_power_state[h] == ON and not s.host_maintenance[h] and not s.host_drain[h]
            if not ready or s.host_n_in[h] > 0:
                continue
            self._stuck[h] = self._keeps_vms(view, h)
            if self._stuck[h]:
                continue
            self._short = not self._can_empty(view, [*chosen, h]) or not self.guard.leave(h)
            if self._short:
                break
            if draft.maintenance(h):
                chosen.append(h)
        return chosen

    def _keeps_vms(self, view: ClusterView, h: int) -> bool:
        """Whether a VM cannot leave a host whatever is switched on; its host stays as it is.

        Its device cannot migrate, or placement rules leave no new host that could hold it with its group.
        """
        p, s, rules = view.params, view.state, self._rules
        vms = np.flatnonzero(s.vm_host == h)
        if p.has_io and p.vm_pinned[vms].any():
            return True
        for v in vms[rules.ruled[vms]].tolist():
            unit = rules.mates(s, v)
            large = p.host_cpu_mhz * p.arrival_overcommit >= p.vm_cpu_mhz[unit].sum()
            large &= p.host_mem_mib * p.mem_overcommit >= p.vm_mem_mib[unit].sum()
            if not (~self._is_old & large & rules.hard(s, *unit)).any():
                return True
        return False

    def _can_empty(self, view: ClusterView, hosts: list[int]) -> bool:
        """Whether all VMs of some hosts could move to new hosts now."""
        vms = np.flatnonzero(np.isin(view.state.vm_host, hosts))
        trial = Draft(view)
        for h in hosts:
            trial.maintenance(h)
        return all(self._move(view, trial, int(v)) for v in vms)

    def _empty(self, view: ClusterView, draft: Draft, h: int) -> None:
        s = view.state
        leaving = (s.vm_host == h) & (s.vm_state == RUNNING) & (s.vm_mig == MIG_NONE)
        for v in np.flatnonzero(leaving).tolist():
            self._move(view, draft, v)

    def _move(self, view: ClusterView, draft: Draft, v: int) -> bool:
        """Order the migration of a VM and its mates to a new host, one that holds VMs already if it fits."""
        s = draft.sim.state
        if s.vm_dest[v] != view.state.vm_dest[v]:
            return True  # it went with a mate
        allowed = ~self._is_old & (s.host_power_state == ON) & self.guard.hosts_allowed()
        used = s.host_n_vms + s.host_n_in > 0
        return move_together(draft, self._rules, self._rules.mates(s, v), allowed, self._choose, used)

    def _choose(self, sim: Simulator, v: int, allowed: B1, rank: I4) -> int:
        return int(
            choose_host(sim.kernel_params, sim.kernel_state, v, self._group, allowed, rank, True, True)
        )

    def _switch_new_hosts(self, view: ClusterView, draft: Draft) -> None:
        """Keep ``keep_on`` empty new hosts on while old ones are left to empty; switch hosts to match."""
        s = draft.sim.state
        state = s.host_power_state
        on = (state == ON) & (s.host_drain == 0)
        coming = (state == BOOTING) | (state == RESUMING)
        serves = ~self._is_old & (s.host_maintenance == 0)
        empty = serves & (on | coming) & (s.host_n_vms + s.host_n_in == 0)
        left = bool((self._is_old & (state == ON) & ~self._stuck).any())
        idle = np.flatnonzero(empty & on)
        wanted = self.keep_on if left else 0
        if self._short:
            wanted = max(wanted, int(empty.sum()) + (not coming.any()))
        for h in idle[::-1][: max(0, int(empty.sum()) - wanted)].tolist():
            if self.guard.leave(h):
                draft.power_off(h)
        missing = wanted - int(empty.sum())
        for h in np.flatnonzero(serves).tolist():
            if missing <= 0:
                break
            missing -= draft.power_on(h)
