"""A balancer's round: what it sees, the moves that it may make, and those that it has ordered.

Every order is tried on a copy of the cluster first (``Draft``), within placement rules, the failover
guarantee and the operator's limits, so that none is refused. What moves is a *unit*: a VM, or the VMs of an
affinity group that are on one host. A unit is moved once in a round and counts where it will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8, I4
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.host_requirements import MEM_SLACK
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import MIG_NONE, PENDING, RUNNING

from .draft import Draft
from .guard import AdmissionGuard
from .limits import MoveLimits
from .positions import homes_of
from .rule_hosts import RuleHosts

F8_2 = NDArray[np.float64]
MOST_TRIES = 64
"""Pairs of unit and host that are tried in a search, the best first; each is an order on the copy."""


class Round:
    """One round of a policy.

    Args:
        view: The cluster.
        limits: The operator's limits.
        rules: Its placement rules.
        guard: Its failover guarantee.
        demand_mhz: CPU of every VM, MHz, (V,); None = what was measured.

    Attributes:
        cpu: CPU of every VM, MHz, (V,); no more than its vCPUs can do where it is.
        mem: Memory that a VM counts with, MiB, (V,): configured; touched where memory is multiplexed; 0 where
            it is ignored.
        home: Host of every VM with the orders so far, -1 = none, (V,).
        on: Hosts that give and take VMs: on and there to stay, (H,).
        load_mhz: CPU of the VMs at home on every host, (H,).
        load_mib: The same of memory, (H,).
        units: VMs that move together, by number of unit; those that may not be moved now are no units.
        unit_home: Home of every unit, (N,).
        unit_mhz: Its CPU, (N,).
        unit_mib: Its memory, (N,).
        moved: Units that have been moved, (N,).
        left: Migrations that may still begin.
    """

    def __init__(
        self,
        view: ClusterView,
        limits: MoveLimits,
        rules: RuleHosts,
        guard: AdmissionGuard,
        demand_mhz: F8 | None = None,
    ) -> None:
        p, s = view.params, view.state
        self.view, self.rules, self._guard, self.limits = view, rules, guard, limits
        guard.renew(view)
        self._draft: Draft | None = None
        self.left = limits.left(view)
        self.home: I4 = homes_of(s, np.arange(view.n_vms, dtype=np.int32)).copy()
        there = self.home >= 0
        demand = measured_demand(view) if demand_mhz is None else demand_mhz
        core = np.where(there, p.host_core_mhz[self.home], np.inf)
        self.cpu: F8 = np.where(there, np.minimum(demand, p.vm_vcpus * core), 0.0)
        counts = p.vm_mem_mib if p.memory_binding else np.zeros(view.n_vms)
        self.mem: F8 = np.where(there, s.vm_touched_mib if p.has_tiers else counts, 0.0)
        up = (s.host_power_state == ON) & (s.host_drain == 0) & (s.host_maintenance == 0)
        self.on: B1 = up & ~limits.closed & guard.hosts_allowed()
        self.load_mhz: F8 = self.at_home(self.cpu)
        self.load_mib: F8 = self.at_home(self.mem)
        self._list_units(s, p, limits.held(view))

    def at_home(self, of: F8) -> F8:
        """Sums over the VMs at home on every host, (H,), of something of every VM, (V,)."""
        there = self.home >= 0
        return np.asarray(np.bincount(self.home[there], of[there], self.view.n_hosts), dtype=np.float64)

    def _list_units(self, s: Any, p: Any, held: B1) -> None:
        free = (s.vm_state == RUNNING) & (s.vm_mig == MIG_NONE) & (self.home == s.vm_host) & ~held
        if p.has_standby:  # a move would cost a protected VM its secondary
            free &= s.vm_secondary < 0
        if p.has_io:
            free &= p.vm_pinned == 0
        self.units: list[list[int]] = []
        for v in np.flatnonzero(free).tolist():
            unit = self.rules.mates(s, v) if self.rules.has_group(v) else [v]
            if unit[0] == v and free[unit].all():
                self.units.append(unit)
        self.unit_home: NDArray[np.intp] = np.array([self.home[u[0]] for u in self.units], dtype=np.intp)
        self.unit_mhz: F8 = self.of_units(self.cpu)
        self.unit_mib: F8 = self.of_units(self.mem)
        self.moved: B1 = np.zeros(len(self.units), dtype=np.bool_)

    def of_units(self, of: F8) -> F8:
        """Sums over the VMs of every unit, (N,), of something of every VM, (V,)."""
        if not self.units:
            return np.zeros(0)
        first = np.cumsum([0, *(len(unit) for unit in self.units[:-1])])
        return np.add.reduceat(of[[v for unit in self.units for v in unit]].astype(np.float64), first)

    @property
    def draft(self) -> Draft:
        """The orders so far, on a copy that is made when it is first needed."""
        if self._draft is None:
            self._draft = Draft(self.view)
        return self._draft

    @property
    def state(self) -> Any:
        """State of the cluster with the orders so far."""
        return self.view.state if self._draft is None else self._draft.sim.state

    def util(self) -> F8:
        """CPU of every host as a share of what it has, at most 1, (H,)."""
        return np.minimum(1.0, self.load_mhz * self.view.params.host_inv_cpu)

    def memory(self) -> F8:
        """Memory of every host as a share of what it has, (H,)."""
        return np.asarray(self.load_mib * self.view.params.host_inv_mem)

    def free_mib(self) -> F8:
        """Memory that is free on every host, MiB, (H,)."""
        return np.asarray(self.view.params.host_mem_mib - self.load_mib)

    def n_vms(self) -> NDArray[np.intp]:
        """VMs at home on every host, (H,)."""
        return np.bincount(self.home[self.home >= 0], minlength=self.view.n_hosts)

    def units_on(self, h: int) -> list[int]:
        """Units on a host that may still be moved."""
        return np.flatnonzero((self.unit_home == h) & ~self.moved).tolist()

    def hosts_for(self, u: int) -> B1:
        """Hosts that rules and memory leave to a unit, (H,): whether the order is legal, ``move`` says."""
        p, unit = self.view.params, self.units[u]
        hosts = self.on.copy()
        hosts[self.unit_home[u]] = False
        if p.memory_binding:
            need = float(p.vm_mem_mib[unit].sum())
            hosts &= self.state.host_mem_mib + need <= p.host_mem_mib * p.mem_overcommit * MEM_SLACK
        if self.rules.ruled[unit].any():
            hosts &= self.rules.allowed(self.state, *unit)
        return hosts

    def open(self, units: Sequence[int], hosts: NDArray[np.intp]) -> NDArray[np.bool_]:
        """The same of several units, for some hosts, (n, k)."""
        return np.array([self.hosts_for(u)[hosts] for u in units]).reshape(len(units), len(hosts))

    def move(self, u: int, h: int) -> bool:
        """Order the migration of a unit, if that is legal; whether it was."""
        unit = self.units[u]
        if self.moved[u] or len(unit) > self.left or not self.hosts_for(u)[h]:
            return False
        if not self.draft.move_all(unit, h):
            return False
        self.moved[u] = True
        self._count(unit, h)
        self.unit_home[u] = h
        return True

    def carry_out(self, plan: Decisions) -> None:
        """Take moves of a legal plan over as orders."""
        for v, h in zip(plan.move_vm.tolist(), plan.move_host.tolist()):
            if self.draft.move(v, h):
                self._count([v], h)
                for u, unit in enumerate(self.units):
                    if v in unit:
                        self.moved[u], self.unit_home[u] = True, h

    def _count(self, unit: list[int], h: int) -> None:
        a = self.home[unit[0]]
        for loads, of in ((self.load_mhz, self.cpu), (self.load_mib, self.mem)):
            size = float(of[unit].sum())
            loads[a] -= size
            loads[h] += size
        self.home[unit] = h
        self.left -= len(unit)

    def switch_on(self, h: int) -> bool:
        """Switch a host on, if that is legal and it is not left alone; whether it was."""
        s = self.view.state
        return not (self.limits.closed[h] or s.host_maintenance[h]) and self.draft.power_on(h)

    def switch_off(self, h: int) -> bool:
        """Switch off a host that is empty or will be, if the guarantee holds without it; whether it is done.

        No host goes off while a VM waits for room.
        """
        s = self.state
        if not self.on[h] or self.home_count(h) or s.host_n_in[h] or bool(self.waiting()):
            return False
        if not self._guard.leave(h) or not self.draft.power_off(h):
            return False
        self.on[h] = False
        return True

    def home_count(self, h: int) -> int:
        """VMs at home on a host."""
        return int((self.home == h).sum())

    def waiting(self) -> int:
        """VMs that wait for a host."""
        s = self.view.state
        return int(((s.vm_state == PENDING) & (s.vm_dest < 0)).sum())

    def moving(self) -> bool:
        """Whether a migration is under way, ordered in this round or before."""
        return bool((self.state.vm_mig != MIG_NONE).any())

    def coming_on(self) -> bool:
        """Whether a host is booting or resuming."""
        power = self.view.state.host_power_state
        return bool(((power == BOOTING) | (power == RESUMING)).any())

    def decisions(self) -> Decisions:
        """The orders."""
        return Decisions() if self._draft is None else self._draft.decisions()


def measured_demand(view: ClusterView) -> F8:
    """CPU that every VM asks for now, with what the hypervisor adds to it, MHz, (V,)."""
    s = view.state
    if not view.params.full:
        return np.array(s.vm_demand_mhz)
    return np.maximum(s.vm_demand_mhz, s.vm_claim_mhz)


def best_first(values: F8_2, most: int = MOST_TRIES) -> Iterator[tuple[int, int]]:
    """Places of the least values of a matrix, the least first; among equals the first; none that is inf."""
    flat = values.ravel()
    if flat.size > most:
        last = np.partition(flat, most - 1)[most - 1]
        near = np.flatnonzero(flat <= last)
    else:
        near = np.arange(flat.size)
    near = near[np.isfinite(flat[near])]
    for k in near[np.argsort(flat[near], kind="stable")][:most].tolist():
        yield divmod(k, values.shape[1])


def variation(x: F8) -> float:
    """Coefficient of variation: standard deviation over mean; 0 for a mean of 0."""
    mean = float(x.mean()) if x.size else 0.0
    return float(x.std()) / mean if mean > 0.0 else 0.0


def variation_after(x: F8, a: NDArray[np.intp], out: F8, come: F8_2) -> F8_2:
    """The same of n values after a move: entry a loses ``out``, entry j gains ``come``; all pairs, (N, n).

    Args:
        x: The values, (n,).
        a: Entry that each unit leaves, (N,).
        out: What is taken off there, (N,).
        come: What is added at every entry, (N, n) or what broadcasts to it.
    """
    n = len(x)
    total, squares = float(x.sum()), float((x * x).sum())
    less = x[a] - out
    more = x[None, :] + come
    mean = (total - out[:, None] + come) / n
    square = (squares + (less * less - x[a] ** 2)[:, None] + more * more - x[None, :] ** 2) / n
    spread = np.sqrt(np.maximum(0.0, square - mean * mean))
    return np.divide(spread, mean, out=np.zeros_like(spread), where=mean > 0.0)
