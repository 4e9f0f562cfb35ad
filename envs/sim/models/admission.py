"""Admission control of a cluster with failover: how many host failures it can still take (docs §8).

- ``slots``. A slot holds any VM: its CPU is the largest CPU reservation, its memory the largest memory
  reservation with overhead; a host has min(floor(CPU / slot CPU), floor(memory / slot memory)) slots. The
  *failover capacity* is the largest k such that without the k hosts of most slots there are enough slots for
  all VMs that run. A VM without a CPU reservation counts as 32 MHz (verified with the worked case of
  vSphere's documentation, a test).
- ``percentage``. Of each resource of the usable hosts a share stays unreserved:
  (total - sum of reservations) / total >= share.
- ``dedicated``. Named hosts are kept empty for failover; nothing else may be placed on them.

A guarantee that already fails forbids no departure, only what would use more: a new VM, a host that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays import B1, F8, I4, I8
from ...checks import need, need_choice, need_count, need_not_negative, need_share

ADMISSION_RULES = ("none", "slots", "percentage", "dedicated")
ADMISSION_COUNTS = ("configured", "reservations")

_SLACK = 1e-9
"""Quotients of floats: this much below a whole slot is one."""


@dataclass(frozen=True)
class AdmissionConfig:
    """Admission control.

    Attributes:
        rule: ``none``, ``slots``, ``percentage`` or ``dedicated``.
        host_failures: Host failures to tolerate (slots).
        cpu_share: Share of CPU kept free (percentage).
        mem_share: Share of memory kept free (percentage).
        hosts: Failover hosts (dedicated).
        default_cpu_mhz: Reservation counted for a VM without one, MHz (verified: vSphere, 32).
        overhead_mib: Memory overhead of a VM, added to its reservation, MiB (vSphere lists about 26 for
            1 vCPU and 1 GiB, from memory).
        counts: What a VM counts with: ``configured``: what a restart needs of a host, nominal CPU over the
            overcommit of arrivals and configured memory over the overcommit of memory, without overhead;
            ``reservations``: its reservations (vSphere's rule; it says nothing about VMs without any).
        survive_domain: Besides, under ``slots``, whether any one failure domain may be lost as a whole.
    """

    rule: str = "slots"
    host_failures: int = 1
    cpu_share: float = 0.25
    mem_share: float = 0.25
    hosts: tuple[int, ...] = ()
    default_cpu_mhz: float = 32.0
    overhead_mib: float = 26.0
    counts: str = "configured"
    survive_domain: bool = False

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = "admission"
        need_choice(owner, "rule", self.rule, ADMISSION_RULES)
        need_choice(owner, "counts", self.counts, ADMISSION_COUNTS)
        need_count(owner, low=0, host_failures=self.host_failures)
        need_share(owner, cpu_share=self.cpu_share, mem_share=self.mem_share)
        need_not_negative(owner, default_cpu_mhz=self.default_cpu_mhz, overhead_mib=self.overhead_mib)
        need(self.rule != "dedicated" or bool(self.hosts), f"{owner}.hosts: needs at least one failover host")
        need(all(h >= 0 for h in self.hosts), f"{owner}.hosts={self.hosts}: must be 0 or more")
        only_slots = not self.survive_domain or self.rule == "slots"
        need(only_slots, f"{owner}.survive_domain: is for rule=slots, not {self.rule}")


class HostPool(NamedTuple):
    """The hosts, for admission control."""

    cpu_mhz: F8  # (H,) CPU that VMs can use, MHz
    mem_mib: F8  # (H,) memory that VMs can use, MiB
    usable: B1  # (H,) on, healthy, not on the way out
    vms: I4  # (H,) VMs on it


class Reservations(NamedTuple):
    """The VMs that run, for admission control."""

    cpu_mhz: F8  # (V,) CPU reservation, MHz
    mem_mib: F8  # (V,) memory reservation, MiB


class Failover(NamedTuple):
    """What a cluster can still take."""

    holds: bool  # whether the guarantee holds
    capacity: int  # slots: host failures it can take, -1 = not even the VMs that run have slots
    slot_cpu_mhz: float  # slots: CPU of a slot, MHz
    slot_mem_mib: float  # slots: memory of a slot, MiB
    cpu_free: float  # share of CPU not reserved
    mem_free: float  # share of memory not reserved


def _counted(config: AdmissionConfig, vms: Reservations) -> Reservations:
    """Reservations as admission control counts them."""
    return Reservations(
        np.where(vms.cpu_mhz > 0, vms.cpu_mhz, config.default_cpu_mhz), vms.mem_mib + config.overhead_mib
    )


def slot_size(config: AdmissionConfig, vms: Reservations) -> tuple[float, float]:
    """CPU (MHz) and memory (MiB) of a slot; without VMs, of a VM without reservations."""
    counted = _counted(config, vms)
    if counted.cpu_mhz.size == 0:
        return config.default_cpu_mhz, config.overhead_mib
    return float(counted.cpu_mhz.max()), float(counted.mem_mib.max())


def host_slots(pool: HostPool, slot_cpu_mhz: float, slot_mem_mib: float) -> I8:
    """Slots of every host, shape (H,); hosts that are not usable have none."""
    none = np.full(pool.cpu_mhz.shape, np.inf)
    by_cpu = pool.cpu_mhz / slot_cpu_mhz if slot_cpu_mhz > 0 else none
    by_mem = pool.mem_mib / slot_mem_mib if slot_mem_mib > 0 else none
    slots = np.minimum(np.floor(np.minimum(by_cpu, by_mem) * (1.0 + _SLACK)), 2.0**40)
    return np.where(pool.usable, slots, 0.0).astype(np.int64)


def failover_capacity(slots: I8, needed: int) -> int:
    """Largest k such that without the k hosts of most slots at least ``needed`` remain; -1 if k = 0 fails.

    Args:
        slots: Slots per usable host, shape (H,).
        needed: VMs that need a slot.
    """
    largest = np.sort(slots)[::-1]
    left = int(slots.sum()) - np.concatenate([[0], np.cumsum(largest)])
    return int(np.count_nonzero(left >= needed)) - 1  # what is left only falls with k


def failover_state(config: AdmissionConfig, pool: HostPool, vms: Reservations) -> Failover:
    """What the cluster can still take.

    Args:
        config: Parameters.
        pool: The hosts.
        vms: The VMs that run.

    Returns:
        The state, of all rules; ``holds`` is that of the configured one.
    """
    counted = _counted(config, vms)
    cpu, mem = slot_size(config, vms)
    capacity = failover_capacity(host_slots(pool, cpu, mem)[pool.usable], counted.cpu_mhz.size)
    free = []
    for total, reserved in ((pool.cpu_mhz, counted.cpu_mhz), (pool.mem_mib, counted.mem_mib)):
        have = float(total[pool.usable].sum())
        free.append((have - float(reserved.sum())) / have if have > 0 else 0.0)
    holds = True
    if config.rule == "slots":
        holds = capacity >= config.host_failures
    elif config.rule == "percentage":
        holds = free[0] >= config.cpu_share - _SLACK and free[1] >= config.mem_share - _SLACK
    elif config.rule == "dedicated":
        spare = _dedicated(config, pool)
        holds = bool(np.all(pool.usable[spare] & (pool.vms[spare] == 0)))
    return Failover(holds, capacity, cpu, mem, free[0], free[1])


def _dedicated(config: AdmissionConfig, pool: HostPool) -> I4:
    top = max(config.hosts)
    n_hosts = pool.usable.shape[0]
    need(top < n_hosts, f"admission.hosts={top}: must be below {n_hosts}")
    return np.asarray(config.hosts, dtype=np.int32)


def admits(
    config: AdmissionConfig, pool: HostPool, vms: Reservations, cpu_mhz: float, mem_mib: float
) -> bool:
    """Whether one more VM may be switched on without breaking the guarantee.

    Args:
        config: Parameters.
        pool: The hosts.
        vms: The VMs that run.
        cpu_mhz: CPU reservation of the new VM, MHz.
        mem_mib: Memory reservation of the new VM, MiB.
    """
    if config.rule in ("none", "dedicated"):
        return True  # dedicated hosts are kept free by vm_hosts_allowed
    more = Reservations(np.append(vms.cpu_mhz, cpu_mhz), np.append(vms.mem_mib, mem_mib))
    return failover_state(config, pool, more).holds


def vm_hosts_allowed(config: AdmissionConfig, pool: HostPool) -> B1:
    """Hosts on which policies may place VMs, shape (H,): usable, and not kept for failover.

    Restarts after a failure may use all usable hosts.
    """
    allowed = pool.usable.copy()
    if config.rule == "dedicated":
        allowed[_dedicated(config, pool)] = False
    return allowed


def hosts_that_may_leave(config: AdmissionConfig, pool: HostPool, vms: Reservations) -> B1:
    """Hosts that could be switched off or taken for maintenance, one of them, with the guarantee kept.

    Their VMs are taken to run on elsewhere: whether they fit there is another question.

    Args:
        config: Parameters.
        pool: The hosts.
        vms: The VMs that run.

    Returns:
        Shape (H,); False for hosts that are not usable.
    """
    leave = pool.usable.copy()
    if config.rule == "slots":
        k, needed = config.host_failures, vms.cpu_mhz.size
        slots = host_slots(pool, *slot_size(config, vms))
        order = np.argsort(-slots, kind="stable")
        falling = np.concatenate([[0], np.cumsum(slots[order])])
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size)
        n = order.size
        # The k largest of the others: one more of all where the host itself is among them.
        worst = np.where(rank < k, falling[min(n, k + 1)] - slots, falling[min(n, k)])
        leave &= int(slots.sum()) - slots - worst >= needed
        leave &= int(np.count_nonzero(pool.usable)) - 1 >= k  # k failures need k hosts
    elif config.rule == "percentage":
        counted = _counted(config, vms)
        for total, reserved, share in (
            (pool.cpu_mhz, counted.cpu_mhz, config.cpu_share),
            (pool.mem_mib, counted.mem_mib, config.mem_share),
        ):
            rest = float(total[pool.usable].sum()) - total
            leave &= (rest > 0) & (rest - float(reserved.sum()) >= (share - _SLACK) * rest)
    elif config.rule == "dedicated":
        leave[_dedicated(config, pool)] = False
    return leave
