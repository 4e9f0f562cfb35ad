"""Which VMs restart after hosts have failed: an assignment into the room that the others have.

VMs on hosts that are left do not move. A VM needs room for its memory, and for its reserved CPU; it keeps off
VMs that it is to be apart from, and on the hosts on which it must run. Largest first usually finds room for
all; where it does not, CP-SAT finds the most that restart, and proves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from virtgym.envs.arrays import B1, F8, I8

from .calls import CALLS, attempt
from .model import SLACK, PlacementRules

UNIT = 1024.0
"""CP-SAT counts in whole numbers: sizes are rounded up, room down, to so small a part of a MiB or MHz."""


@dataclass(frozen=True, eq=False)
class Standing:
    """A cluster before anything fails. V VMs, H hosts.

    Attributes:
        vm_mem_mib: Memory that a VM needs to restart, MiB, (V,).
        vm_cpu_mhz: CPU that it needs, MHz, (V,).
        vm_host: Where it is, (V,).
        host_mem_mib: Memory that a host has for VMs, MiB, (H,).
        host_cpu_mhz: The same of CPU, MHz, (H,).
        closed: Hosts that take no VM, (H,).
        rules: Anti-affinity and hosts of VMs; affinity stops no restart.
    """

    vm_mem_mib: F8
    vm_cpu_mhz: F8
    vm_host: I8
    host_mem_mib: F8
    host_cpu_mhz: F8
    closed: B1
    rules: PlacementRules = field(default_factory=PlacementRules)


@dataclass(frozen=True)
class Restart:
    """What becomes of the VMs of hosts that failed.

    Attributes:
        vms: VMs that were on them.
        host: Where each restarts; -1 = it does not.
        proven: Whether no other assignment restarts more.
    """

    vms: tuple[int, ...]
    host: tuple[int, ...]
    proven: bool

    @property
    def left(self) -> tuple[int, ...]:
        """VMs that do not restart."""
        return tuple(v for v, h in zip(self.vms, self.host) if h < 0)


class Restarts:
    """Answers for one cluster.

    Args:
        standing: The cluster.
        time_limit_s: Wall time of one call of the solver, s.
    """

    def __init__(self, standing: Standing, time_limit_s: float = 5.0) -> None:
        self._s, self._limit = standing, time_limit_s
        s = standing
        n_hosts = len(s.host_mem_mib)
        self._mem = s.host_mem_mib - np.bincount(s.vm_host, s.vm_mem_mib, minlength=n_hosts)
        self._cpu = s.host_cpu_mhz - np.bincount(s.vm_host, s.vm_cpu_mhz, minlength=n_hosts)
        order = np.argsort(s.vm_host, kind="stable")
        self._on = np.split(order, np.searchsorted(s.vm_host[order], np.arange(1, n_hosts)))
        self._must: dict[int, set[int]] = {}
        for vms, hosts in s.rules.must:
            for v in vms:
                self._must[v] = self._must.get(v, set(range(n_hosts))) & set(hosts)
        self._apart: dict[int, list[int]] = {}
        for i, group in enumerate(s.rules.anti_affinity):
            for v in group:
                self._apart.setdefault(v, []).append(i)

    def after(self, failed: Iterable[int]) -> Restart:
        """What becomes of the VMs of hosts that fail together."""
        gone = sorted(set(failed))
        vms = np.concatenate([self._on[h] for h in gone])
        size = self._s.vm_mem_mib[vms] / self._s.host_mem_mib.max()
        cpu = self._s.vm_cpu_mhz[vms] / self._s.host_cpu_mhz.max()
        vms = vms[np.argsort(-np.maximum(size, cpu), kind="stable")]
        allowed = self._hosts_of(vms, gone)
        hosts = self._largest_first(vms, allowed)
        proven = all(h >= 0 for h in hosts)
        if not proven:
            better = self._most(vms, allowed)
            proven = better is not None and better[1]
            if better is not None and sum(h < 0 for h in better[0]) <= sum(h < 0 for h in hosts):
                hosts = better[0]
        return Restart(tuple(vms.tolist()), tuple(hosts), proven)

    def _hosts_of(self, vms: I8, gone: list[int]) -> B1:
        """Hosts on which each VM may restart while they are as they are, (n, H)."""
        s = self._s
        open_ = ~s.closed.astype(bool)
        open_[gone] = False
        fits: B1 = (s.vm_mem_mib[vms][:, None] <= self._mem * (1 + SLACK)) & open_
        fits &= s.vm_cpu_mhz[vms][:, None] <= self._cpu * (1 + SLACK)
        for i, v in enumerate(vms.tolist()):
            if v in self._must:
                fits[i] &= np.isin(np.arange(len(open_)), list(self._must[v]))
            for group in self._apart.get(v, ()):
                others = [u for u in s.rules.anti_affinity[group] if u != v]
                fits[i, s.vm_host[others]] = False
        return fits

    def _largest_first(self, vms: I8, allowed: B1) -> list[int]:
        """Each VM on the host with the least room that takes it."""
        s = self._s
        mem, cpu = self._mem.copy(), self._cpu.copy()
        taken: dict[int, set[int]] = {}
        hosts = []
        for i, v in enumerate(vms.tolist()):
            fits = (
                allowed[i] & (s.vm_mem_mib[v] <= mem * (1 + SLACK)) & (s.vm_cpu_mhz[v] <= cpu * (1 + SLACK))
            )
            for group in self._apart.get(v, ()):
                fits[list(taken.get(group, ()))] = False
            if not fits.any():
                hosts.append(-1)
                continue
            h = int(np.flatnonzero(fits)[np.argmin(mem[fits])])
            mem[h] -= s.vm_mem_mib[v]
            cpu[h] -= s.vm_cpu_mhz[v]
            for group in self._apart.get(v, ()):
                taken.setdefault(group, set()).add(h)
            hosts.append(h)
        return hosts

    def _most(self, vms: I8, allowed: B1) -> tuple[list[int], bool] | None:
        """The most that restart, and whether that is proven; None if the solver gives up."""
        found = attempt(lambda: self._solve(vms, allowed))
        if found is None:
            CALLS.note_failure()
        return found

    def _solve(self, vms: I8, allowed: B1) -> tuple[list[int], bool] | None:
        from ortools.sat.python import cp_model

        model, s = cp_model.CpModel(), self._s
        places = {
            (i, h): model.new_bool_var("")
            for i in range(len(vms))
            for h in np.flatnonzero(allowed[i]).tolist()
        }
        of_vm: dict[int, list[int]] = {}
        of_host: dict[int, list[int]] = {}
        for i, h in places:
            of_vm.setdefault(i, []).append(h)
            of_host.setdefault(h, []).append(i)
        for i, hosts in of_vm.items():
            model.add_at_most_one(places[i, h] for h in hosts)
        for size, room in ((s.vm_mem_mib, self._mem), (s.vm_cpu_mhz, self._cpu)):
            for h, mine in of_host.items():
                whole = [int(np.ceil(size[vms[i]] * UNIT - SLACK)) for i in mine]
                terms = [n * places[i, h] for n, i in zip(whole, mine)]
                model.add(sum(terms) <= int(np.floor(room[h] * UNIT + 1e-3)))
        place = {int(v): i for i, v in enumerate(vms)}
        for group in s.rules.anti_affinity:
            mine = [place[v] for v in group if v in place]
            for h in {h for i in mine for h in of_vm.get(i, ())} if len(mine) > 1 else ():
                model.add_at_most_one(places[i, h] for i in mine if (i, h) in places)
        model.maximize(sum(places.values()))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_time_in_seconds = self._limit
        status = solver.solve(model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        hosts = [-1] * len(vms)
        for (i, h), var in places.items():
            if solver.boolean_value(var):
                hosts[i] = h
        return hosts, status == cp_model.OPTIMAL
