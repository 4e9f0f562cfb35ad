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

Which hosts and VMs count says ``sim.guarantee``, which also refuses orders that break the scenario's
guarantee. A guarantee that already fails forbids what would use more, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, I4
from virtgym.envs.checks import need_index, need_indices
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guarantee import count_hosts, count_vms, times_counted
from virtgym.envs.sim.models.admission import (
    SLACK,
    AdmissionConfig,
    Failover,
    admits,
    counted_sizes,
    dedicated_hosts,
    failover_state,
    guarantee_margin,
    with_vm,
    write_may_leave,
)
from virtgym.envs.sim.models.power import BOOTING, RESUMING
from virtgym.envs.sim.simulator import ClusterView


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
        self._numbers = self.config.numbers
        self.vm_cpu_mhz, self.vm_mem_mib = counted_sizes(self.config, view.params)
        self._dedicated = dedicated_hosts(self.config, view.n_hosts)
        self.dedicated: B1 = self._dedicated != 0
        self.renew()

    def renew(self, view: ClusterView | None = None) -> None:
        """Read the cluster again, and forget what was granted.

        Args:
            view: The cluster from now on, such as a what-if copy with orders carried out; None = as before.
        """
        self.view = view or self.view
        p, s = self.view.kernel_params, self.view.kernel_state
        self._pool = count_hosts(p, s, self._dedicated)
        self._vms = count_vms(p, s, self.vm_cpu_mhz, self.vm_mem_mib)

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
        return failover_state(self._numbers, self._pool, self._vms)

    @property
    def holds(self) -> bool:
        """Whether the guarantee holds, with everything granted until now."""
        return not self.active or self.failover().holds

    def hosts_allowed(self) -> B1:
        """Hosts that VMs may be placed on or moved to for all the guarantee cares, shape (H,).

        Restarts after a failure may use all hosts: dedicated ones are there for them.
        """
        return ~self.dedicated

    def may_admit(self, vms: I4) -> B1:
        """Whether each of some VMs, by itself, may be started, shape (N,).

        Args:
            vms: VMs that arrive, shape (N,). VMs that restart are counted already and need not ask.
        """
        vms = need_indices("guarantee", "VM", vms, self.view.n_vms)
        known: dict[tuple[float, float, int], bool] = {}
        found = np.zeros(len(vms), dtype=np.bool_)
        for i, v in enumerate(vms.tolist()):
            size = self._size(v)
            if size not in known:
                known[size] = self._admits(*size)
            found[i] = known[size]
        return found

    def admit(self, v: int) -> bool:
        """Let a VM start if the guarantee allows it; it counts from then on."""
        v = need_index("guarantee", "VM", v, self.view.n_vms)
        if not self._admits(*self._size(v)):
            return False
        self._vms = with_vm(self._vms, *self._size(v))
        return True

    def _size(self, v: int) -> tuple[float, float, int]:
        """CPU and memory with which a VM counts, MHz and MiB, and how often."""
        times = int(times_counted(self.view.kernel_params, v))
        return float(self.vm_cpu_mhz[v]), float(self.vm_mem_mib[v]), times

    def may_leave(self) -> B1:
        """Hosts of which any one may leave, shape (H,); those that do not count may, dedicated ones not."""
        may = np.ones(self.view.n_hosts, dtype=np.bool_)
        write_may_leave(self._numbers, self._pool, self._vms, may)
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
        return bool(guarantee_margin(self._numbers, pool, self._vms) >= -SLACK)

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

    def _admits(self, cpu_mhz: float, mem_mib: float, times: int) -> bool:
        return bool(admits(self._numbers, self._pool, self._vms, cpu_mhz, mem_mib, times))
