"""Which hosts a cluster's placement rules let a VM go to now (docs §8): for policies that place and move.

``must`` and anti-affinity are *hard*: no order may break them. Affinity says which hosts are *near* (those of
the VM's group), ``should`` which ones are *wished* for; a policy may do without these where a VM would
otherwise be down. A VM counts where it runs, and where its migration or start will bring it::

    rules = RuleHosts(view)                          # once per episode
    hosts = rules.allowed(state, v)                  # (H,) every rule but wishes
    hosts = rules.hard(state, v)                     # (H,) must and anti-affinity only

All is read from the state that is given: with that of a draft's fork, the orders of one plan see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, I4
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.host_requirements import MEM_SLACK
from virtgym.envs.sim.models.rules import VmHostRule, named_hosts
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.cluster_state import DEPARTED, MIG_NONE, PENDING, RUNNING

from .draft import Draft
from .nodes import LEAST_MHZ, Nodes
from .positions import homes_of

NO_ROOM, NOT_FIRST, NOT_WISHED, COSTS_WORK = 8, 4, 2, 1
"""What a host's rank rises by: no room for those of the group that wait too; not among the hosts that the
policy itself takes first; not among the wished ones; more work lost to remote memory."""

MOST_TRIES = 4
"""Hosts that are tried for a group before it stays where it is; each costs a copy of the cluster."""

Choose = Callable[[Simulator, int, B1, I4], int]
"""``choose(sim, v, hosts, rank)``: the best host of a VM that may migrate there, -1 = none."""


class RuleHosts:
    """A cluster's placement rules as sets of hosts; costs O(H + size of the groups) for VMs with a rule.

    Arrays that are returned may be shared: do not write to them.

    Args:
        view: The cluster; its rules and sizes are read once.

    Attributes:
        ruled: VMs that a rule names, shape (V,).
    """

    def __init__(self, view: ClusterView) -> None:
        rules, n_vms, n_hosts = view.config.rules, view.n_vms, view.n_hosts
        self._all: B1 = _fixed(np.ones(n_hosts, dtype=np.bool_))
        self._must = _host_sets(rules.must, n_hosts, strict=True)
        self._should = _host_sets(rules.should, n_hosts, strict=False)
        self._group: dict[int, I4] = {}
        for group in rules.joined:
            self._group.update(dict.fromkeys(group, np.array(group, dtype=np.int32)))
        apart: dict[int, list[int]] = {}
        for group in rules.anti_affinity:
            for v in group:
                apart.setdefault(v, []).extend(w for w in group if w != v)
        self._apart = {v: np.unique(others).astype(np.int32) for v, others in apart.items()}
        self._nodes = Nodes(view) if view.params.has_numa else None
        self.ruled: B1 = np.zeros(n_vms, dtype=np.bool_)
        self.ruled[[*self._must, *self._should, *self._group, *self._apart]] = True

    def has_group(self, v: int) -> bool:
        """Whether a VM belongs together with others."""
        return v in self._group

    def group(self, v: int) -> I4:
        """The VMs of a VM's affinity group, itself among them, (n,)."""
        return self._group[v]

    def hard(self, state: Any, *vms: int) -> B1:
        """Hosts on which neither ``must`` nor anti-affinity is broken, shape (H,).

        Anti-affinity closes every host that another VM of the group is on, or comes to, or leaves.

        Args:
            state: Where VMs are: ``view.state``, or that of a fork.
            vms: The VM, or several that go to one host together.
        """
        hosts = self._all
        for v in vms:
            if v in self._must:
                hosts = np.logical_and(hosts, self._must[v])
            if v in self._apart:
                others = self._living(state, self._apart[v])
                taken = np.concatenate([state.vm_host[others], state.vm_dest[others]])
                hosts = hosts.copy()
                hosts[taken[taken >= 0]] = False
        return hosts

    def near(self, state: Any, *vms: int) -> B1:
        """Hosts on which affinity is kept, or where it is broken already not more than now, shape (H,).

        Where others of the group have a host: those hosts. Where none has: hosts on which all of them may
        run by ``must``, so that they can follow.

        Args:
            state: Where VMs are.
            vms: The VM, or several of its group that go together.
        """
        if vms[0] not in self._group:
            return self._all
        group = self._group[vms[0]]
        others = self._living(state, group[~np.isin(group, vms)])
        at = homes_of(state, others)
        if (at >= 0).any():
            hosts = np.zeros_like(self._all)
            hosts[at[at >= 0]] = True
            return hosts
        hosts = self._all
        for must in {id(self._must[w]): self._must[w] for w in others.tolist() if w in self._must}.values():
            hosts = hosts & must
        return hosts

    def allowed(self, state: Any, *vms: int) -> B1:
        """Hosts on which every rule but wishes is kept: ``hard`` and ``near``, shape (H,)."""
        both: B1 = self.hard(state, *vms) & self.near(state, *vms)
        return both

    def wished(self, *vms: int) -> B1:
        """Hosts where ``should`` wants the VMs, shape (H,)."""
        hosts = self._all
        for v in vms:
            if v in self._should:
                hosts = hosts & self._should[v]
        return hosts

    def rank(self, sim: Simulator, *vms: int) -> I4:
        """Which hosts to take first, the lowest number, shape (H,): wished ones, and those with room for all.

        Then those whose NUMA nodes take the first VM without losing work.

        Room counts for the first VM of a group that is placed: hosts that would also take those of its group
        that wait for a host.

        Args:
            sim: The cluster, or a what-if copy.
            vms: The VM, or several that go together.
        """
        rank = np.zeros(len(self._all), dtype=np.int32)
        if self.ruled[list(vms)].any():
            rank[~self.wished(*vms)] += NOT_WISHED
            waiting = self._waiting(sim, vms)
            if waiting:
                rank[~(room_for(sim, *vms, *waiting) & self.hard(sim.state, *waiting))] += NO_ROOM
        if self._nodes is not None:
            rank[self._nodes.losses(sim, vms[0]) > LEAST_MHZ] += COSTS_WORK
        return rank

    def gathered(self, vms: I4, kind: NDArray[Any]) -> I4:
        """The same VMs, those of one affinity group and kind right behind the first: nobody takes their room.

        Args:
            vms: VMs in the order in which they are to be placed, shape (N,).
            kind: What keeps VMs of a group apart in that order, such as their priority, shape (V,).
        """
        place = np.arange(len(vms))
        first: dict[tuple[int, Any], int] = {}
        for i, v in enumerate(vms.tolist()):
            if v in self._group:
                place[i] = first.setdefault((int(self._group[v][0]), kind[v]), i)
        order: I4 = vms[np.argsort(place, kind="stable")]
        return order

    def mates(self, state: Any, v: int) -> list[int]:
        """VMs that have to move with a VM: itself and those of its affinity group on its host, ascending."""
        if v not in self._group or state.vm_host[v] < 0:
            return [v]
        group = self._group[v]
        at = homes_of(state, group)
        here = at == at[group == v]
        return [int(w) for w in group[here & (state.vm_state[group] != DEPARTED)]]

    def _living(self, state: Any, vms: I4) -> I4:
        alive: I4 = vms[state.vm_state[vms] != DEPARTED]
        return alive

    def _waiting(self, sim: Simulator, vms: Sequence[int]) -> list[int]:
        """Others of a VM's group that wait for a host, if none of them has one."""
        if vms[0] not in self._group:
            return []
        s, group = sim.state, self._group[vms[0]]
        others = self._living(s, group[~np.isin(group, vms)])
        if (homes_of(s, others) >= 0).any():
            return []
        waits = s.vm_state[others] == PENDING
        if sim.params.has_failures:
            waits &= s.vm_restart[others] != 1  # that these are down nobody knows yet
        return [int(w) for w in others[waits]]


def room_for(sim: Simulator, *vms: int) -> B1:
    """Hosts whose nominal CPU and memory have room for several VMs together, shape (H,).

    Reservations, devices and NUMA nodes are left to the check of each order.

    Args:
        sim: The cluster, or a what-if copy.
        vms: VMs that go to one host.
    """
    p, s, some = sim.params, sim.state, list(vms)
    cpu, mem = float(p.vm_cpu_mhz[some].sum()), float(p.vm_mem_mib[some].sum())
    fits: B1 = s.host_nominal_mhz + cpu <= p.host_cpu_mhz * p.arrival_overcommit * MEM_SLACK
    fits &= s.host_mem_mib + mem <= p.host_mem_mib * p.mem_overcommit * MEM_SLACK
    return fits


def move_together(
    draft: Draft, rules: RuleHosts, unit: Sequence[int], hosts: B1, choose: Choose, first: B1 | None = None
) -> bool:
    """Order the migration of a VM with those of its affinity group that are on its host: all or none.

    Hosts of the rest of the group come first; where they will not do the unit goes elsewhere, which splits
    nothing that is not split already. ``must`` and anti-affinity are kept.

    Args:
        draft: The plan; extended.
        rules: The rules.
        unit: What moves, ``rules.mates(state, v)``.
        hosts: Hosts to choose from, shape (H,).
        choose: How to choose among them.
        first: Hosts to take before others, shape (H,); wishes count more.

    Returns:
        Whether the migrations are ordered.
    """
    s, vms = draft.sim.state, list(unit)
    if ((s.vm_state[vms] != RUNNING) | (s.vm_mig[vms] != MIG_NONE)).any():
        return False
    hard = hosts & rules.hard(s, *vms)
    if len(vms) > 1:
        hard &= room_for(draft.sim, *vms)
    rank = rules.rank(draft.sim, *vms)
    if first is not None:
        rank = np.asarray(2 * rank + ~first, dtype=np.int32)
    near = rules.near(s, *vms)
    for where in [hard] if near.all() else [hard & near, hard & ~near]:
        for _ in range(MOST_TRIES):
            h = choose(draft.sim, vms[0], where, rank)
            if h < 0:
                break
            if draft.move_all(vms, h):
                return True
            where[h] = False
    return False


def keep_rules(view: ClusterView, rules: RuleHosts, plan: Decisions) -> Decisions:
    """Leave out the moves of a plan that would break a rule; VMs of a group that go to one host are one move.

    Args:
        view: The cluster.
        rules: Its rules.
        plan: The plan.
    """
    ruled = rules.ruled[plan.move_vm]
    if not ruled.any():
        return plan
    draft = Draft(view)
    for h in plan.power_on.tolist():
        draft.power_on(h)
    kept = ~ruled
    seen: set[int] = set()
    for v, h in zip(plan.move_vm[ruled].tolist(), plan.move_host[ruled].tolist()):
        if v in seen:
            continue
        unit = plan.move_vm == v
        if rules.has_group(v):
            unit = np.isin(plan.move_vm, rules.group(v)) & (plan.move_host == h)
        vms = plan.move_vm[unit].tolist()
        seen.update(vms)
        if rules.allowed(draft.sim.state, *vms)[h] and draft.move_all(vms, h):
            kept |= unit
    return replace(plan, move_vm=plan.move_vm[kept], move_host=plan.move_host[kept])


def _fixed(array: Any) -> Any:
    """An array that is handed out to everyone: nobody may write to it."""
    array.flags.writeable = False
    return array


def _host_sets(rules: Sequence[VmHostRule], n_hosts: int, strict: bool) -> dict[int, B1]:
    """Hosts of every VM that a rule names; VMs with the same hosts share one array."""
    named = named_hosts(rules, strict)
    masks: dict[frozenset[int], B1] = {}
    for hosts in named.values():
        mask = masks.setdefault(hosts, np.zeros(n_hosts, dtype=np.bool_))
        mask[list(hosts)] = True
    return {v: _fixed(masks[hosts]) for v, hosts in named.items()}
