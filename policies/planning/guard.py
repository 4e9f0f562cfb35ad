"""What may be done without breaking the failover guarantee: admission control as a guard for every policy.

The guarantee is the scenario's (``scenario.admission``, ``sim.admission``): failover slots, a share of every
resource, or dedicated hosts. What uses some of it up, and so has to ask:

    a new VM is placed        ``admit``: slots or shares must be left for it
    a host leaves             ``leave``: switched off, suspended or taken for maintenance
    a VM comes to a host      only dedicated failover hosts are closed; else a move changes no slot, no share

A policy that plans several steps asks for each: what was granted counts from then on. ``keep`` does it for a
whole plan, as a last gate before the orders are given::

    guard = AdmissionGuard(view)
    hosts = guard.may_leave()            # (H,) each by itself
    if guard.leave(h): ...               # and from now on without host h
    return guard.keep(decisions)         # nothing in it breaks the guarantee

Counted are hosts that are on, not to be switched off and not in maintenance; and VMs that run, that start,
that wait to restart (their slot is what the guarantee is for) or for a host that boots, and every secondary
of hot standby once more. A guarantee that already fails forbids what would use more, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8, I4
from virtgym.envs.checks import need_index, need_indices
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.admission import (
    AdmissionConfig,
    Failover,
    HostPool,
    Reservations,
    admits,
    failover_state,
    host_slots,
    hosts_that_may_leave,
    slot_size,
)
from virtgym.envs.sim.models.power import BOOTING, ON, RESUMING
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING


class AdmissionGuard:
    """Answers for one interval what the failover guarantee lets pass.

    Args:
        view: The cluster; read when the guard is made and at every ``renew``.
        config: The guarantee; None = the scenario's (``view.config.admission``), none where it has none.

    Raises:
        ConfigError: If a dedicated host does not exist.
    """

    def __init__(self, view: ClusterView, config: AdmissionConfig | None = None) -> None:
        self.view = view
        self.config = config or view.config.admission or AdmissionConfig(rule="none")
        if self.config.counts == "configured":
            # What a restart needs is its nominal CPU and memory, nothing on top.
            self._config = replace(self.config, default_cpu_mhz=0.0, overhead_mib=0.0)
        else:
            self._config = self.config
        self.vm_cpu_mhz, self.vm_mem_mib = _needs(view, self.config)
        self.dedicated = np.zeros(view.n_hosts, dtype=np.bool_)
        if self.config.rule == "dedicated":
            self.dedicated[np.asarray(self.config.hosts, dtype=np.int64)] = True
        self.renew()

    def renew(self, view: ClusterView | None = None) -> None:
        """Read the cluster again, and forget what was granted.

        Args:
            view: The cluster from now on, such as a what-if copy with orders carried out; None = as before.
        """
        self.view = view or self.view
        p, s = self.view.params, self.view.state
        usable = (s.host_power_state == ON) & (s.host_drain == 0) & (s.host_maintenance == 0)
        self._pool = HostPool(p.host_cpu_mhz, p.host_mem_mib, usable, s.host_n_vms + s.host_n_in)
        counted = (s.vm_state == RUNNING) | (s.vm_state == STARTING)
        waiting = s.vm_state == PENDING
        counted |= waiting & (s.vm_dest >= 0)
        if p.has_failures:
            counted |= waiting & (s.vm_restart > 0)
        cpu, mem = self.vm_cpu_mhz[counted], self.vm_mem_mib[counted]
        if p.has_standby:
            mirrored = s.vm_secondary >= 0
            cpu = np.concatenate([cpu, self.vm_cpu_mhz[mirrored]])
            mem = np.concatenate([mem, self.vm_mem_mib[mirrored]])
        self._vms = Reservations(cpu, mem)

    @property
    def active(self) -> bool:
        """Whether there is a guarantee at all."""
        return self.config.rule != "none"

    @property
    def usable(self) -> B1:
        """Hosts that count, shape (H,): on and there to stay, as far as granted until now."""
        return self._pool.usable

    def failover(self) -> Failover:
        """What the cluster can still take, with everything granted until now."""
        state = failover_state(self._config, self._pool, self._vms)
        return state._replace(holds=state.holds and self._survives_domains(self._pool, self._vms))

    @property
    def holds(self) -> bool:
        """Whether the guarantee holds, with everything granted until now."""
        return not self.active or self.failover().holds

    def hosts_allowed(self) -> B1:
        """Hosts that VMs may be placed on or moved to for all the guarantee cares, shape (H,).

        Restarts after a failure may use all hosts: dedicated ones are there for them.
        """
        return ~self.dedicated

    def may_move(self, v: int, h: int) -> bool:
        """Whether a VM may migrate to a host."""
        return not self.dedicated[need_index("guarantee", "host", h, self.view.n_hosts)]

    def may_admit(self, vms: I4) -> B1:
        """Whether each of some VMs, by itself, may be started, shape (N,).

        Args:
            vms: VMs that arrive, shape (N,). VMs that restart are counted already and need not ask.
        """
        vms = need_indices("guarantee", "VM", vms, self.view.n_vms)
        sizes = np.stack([self.vm_cpu_mhz[vms], self.vm_mem_mib[vms]], axis=1).reshape(-1, 2)
        kinds, of = np.unique(sizes, axis=0, return_inverse=True)
        answers = np.array([self._admits(float(cpu), float(mem)) for cpu, mem in kinds], dtype=np.bool_)
        return answers[of.reshape(-1)] if len(kinds) else np.zeros(0, dtype=np.bool_)

    def admit(self, v: int) -> bool:
        """Let a VM start if the guarantee allows it; it counts from then on."""
        v = need_index("guarantee", "VM", v, self.view.n_vms)
        cpu, mem = float(self.vm_cpu_mhz[v]), float(self.vm_mem_mib[v])
        if not self._admits(cpu, mem):
            return False
        self._vms = Reservations(np.append(self._vms.cpu_mhz, cpu), np.append(self._vms.mem_mib, mem))
        return True

    def may_leave(self) -> B1:
        """Hosts of which any one may leave, shape (H,); those that do not count may, dedicated ones not."""
        if not self.active:
            return np.ones(self.view.n_hosts, dtype=np.bool_)
        leave = hosts_that_may_leave(self._config, self._pool, self._vms)
        if self.config.survive_domain and bool(leave.any()):
            leave &= self._domains_allow()
        may: B1 = (leave | ~self._pool.usable) & ~self.dedicated
        return may

    def leave(self, h: int) -> bool:
        """Let a host go if the guarantee allows it; it does not count from then on."""
        if not self.may_leave()[need_index("guarantee", "host", h, self.view.n_hosts)]:
            return False
        self._count(h, False)
        return True

    def holds_without(self, hosts: NDArray[np.integer[Any]]) -> bool:
        """Whether the guarantee would hold if some hosts left together."""
        if not self.active:
            return True
        usable = self._pool.usable.copy()
        usable[need_indices("guarantee", "host", hosts, self.view.n_hosts)] = False
        pool = self._pool._replace(usable=usable)
        return failover_state(self._config, pool, self._vms).holds and self._survives_domains(pool, self._vms)

    def join(self, h: int) -> None:
        """Count a host that is going to be on."""
        self._count(need_index("guarantee", "host", h, self.view.n_hosts), True)

    def coming(self) -> B1:
        """Hosts that are booting or resuming and will count, shape (H,)."""
        s = self.view.state
        booting = (s.host_power_state == BOOTING) | (s.host_power_state == RESUMING)
        coming: B1 = booting & (s.host_maintenance == 0)
        return coming

    def switch_on_until(
        self, enough: Callable[[], bool], hosts: Iterable[int], switch_on: Callable[[int], bool]
    ) -> None:
        """Switch hosts on until that is enough, with all that are coming counted, or no host is left.

        Args:
            enough: Whether the guarantee is content.
            hosts: Hosts in the order in which they are tried; those that do not help it are passed over.
            switch_on: Puts a host into the plan; whether that is legal.
        """
        for h in np.flatnonzero(self.coming()).tolist():
            self.join(h)
        useful = self.dedicated if self.config.rule == "dedicated" else ~self.dedicated
        useful = useful & (self.view.state.host_maintenance == 0)
        for h in hosts:
            if enough():
                return
            if useful[h] and switch_on(h):
                self.join(h)

    def keep(self, plan: Decisions) -> Decisions:
        """Leave out the orders of a plan that would break the guarantee.

        Args:
            plan: A plan made of legal orders.

        Returns:
            The rest of it, legal as well: a host does not go off where a VM now stays.
        """
        if not self.active:
            return plan
        self.renew()
        place = np.array([self._may_place(v, h) for v, h in zip(plan.place_vm, plan.place_host)], np.bool_)
        move = ~self.dedicated[plan.move_host]
        stays = self.view.state.vm_host[plan.move_vm[~move]]
        go = {name: self._granted(getattr(plan, name), stays) for name in ("power_off", "suspend")}
        maintenance = self._granted(plan.maintenance, stays[:0])
        return replace(
            plan,
            place_vm=plan.place_vm[place],
            place_host=plan.place_host[place],
            move_vm=plan.move_vm[move],
            move_host=plan.move_host[move],
            maintenance=maintenance,
            **go,
        )

    def _may_place(self, v: int, h: int) -> bool:
        if self.view.params.has_failures and self.view.state.vm_restart[v] > 0:
            return True
        return not self.dedicated[h] and self.admit(int(v))

    def _granted(self, hosts: I4, stays: I4) -> I4:
        fine = [h not in stays and self.leave(int(h)) for h in hosts]
        return hosts[np.array(fine, dtype=np.bool_)]

    def _count(self, h: int, counts: bool) -> None:
        usable = self._pool.usable.copy()
        usable[h] = counts
        self._pool = self._pool._replace(usable=usable)

    def _admits(self, cpu_mhz: float, mem_mib: float) -> bool:
        if not admits(self._config, self._pool, self._vms, cpu_mhz, mem_mib):
            return False
        if not self.config.survive_domain:
            return True
        more = Reservations(np.append(self._vms.cpu_mhz, cpu_mhz), np.append(self._vms.mem_mib, mem_mib))
        return self._survives_domains(self._pool, more)

    def _survives_domains(self, pool: HostPool, vms: Reservations) -> bool:
        if not self.config.survive_domain:
            return True
        slots = host_slots(pool, *slot_size(self._config, vms))
        lost = self._slots_by_domain(slots)
        return lost.size == 0 or int(slots.sum() - lost.max()) >= vms.cpu_mhz.size

    def _slots_by_domain(self, slots: NDArray[np.int64]) -> F8:
        """Slots that are lost with every failure domain, those of all kinds one after the other."""
        sums = [np.bincount(column[column >= 0], weights=slots[column >= 0]) for column in self._domains().T]
        return np.concatenate(sums) if sums else np.empty(0)

    def _domains_allow(self) -> B1:
        """Hosts without which any one failure domain may still be lost, shape (H,)."""
        slots = host_slots(self._pool, *slot_size(self._config, self._vms))
        needed, total = self._vms.cpu_mhz.size, int(slots.sum())
        allow = np.ones(slots.size, dtype=np.bool_)
        for column in self._domains().T:
            inside = column >= 0
            if not inside.any():
                continue
            lost = np.bincount(column[inside], weights=slots[inside])
            for d in range(lost.size):  # the host's slots are lost anyway where it is in the domain
                gone = np.where(column == d, lost[d], lost[d] + slots)
                allow &= total - gone >= needed
        return allow

    def _domains(self) -> NDArray[Any]:
        return self.view.params.host_domains


def _needs(view: ClusterView, config: AdmissionConfig) -> tuple[F8, F8]:
    """CPU (MHz) and memory (MiB) with which every VM counts, shape (V,) each."""
    p = view.params
    if config.counts == "configured":
        return p.vm_cpu_mhz / p.arrival_overcommit, p.vm_mem_mib / p.mem_overcommit
    cpu = p.vm_reservation_mhz if p.has_cpu else np.zeros(view.n_vms)
    if p.has_tiers:
        mem = p.vm_mem_reservation_mib
    else:  # memory that binds is reserved whole
        mem = p.vm_mem_mib if p.memory_binding else np.zeros(view.n_vms)
    return cpu, mem
