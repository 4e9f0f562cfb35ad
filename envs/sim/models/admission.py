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

Which hosts and VMs count says ``guarantee``; everything here is about those that do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arrays import B1, F8, I1, I4, I8
from ...checks import need, need_choice, need_count, need_not_negative, need_share
from ...jit.kernels import kernel, of_records

ADMISSION_RULES = ("none", "slots", "percentage", "dedicated")
ADMISSION_COUNTS = ("configured", "reservations")

SLOTS, PERCENTAGE, DEDICATED = 1, 2, 3
"""Their codes, for kernels."""

SLACK = 1e-9
"""Quotients of floats: this much below a whole slot is one."""

MOST_SLOTS = 2.0**40
"""Of a host, where a slot needs nothing."""


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
        enforce: Whether orders that would break the guarantee are refused: hosts that leave, new VMs, VMs
            that go to dedicated hosts. Otherwise it is up to the policies.
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
    enforce: bool = True

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

    @property
    def numbers(self) -> AdmissionNumbers:
        """The same as numbers for the kernels; who counts with configured sizes needs nothing on top."""
        reserved = self.counts == "reservations"
        return AdmissionNumbers(
            ADMISSION_RULES.index(self.rule),
            int(self.host_failures),
            float(self.cpu_share),
            float(self.mem_share),
            float(self.default_cpu_mhz) if reserved else 0.0,
            float(self.overhead_mib) if reserved else 0.0,
            int(self.survive_domain),
        )


class AdmissionNumbers(NamedTuple):
    """``AdmissionConfig`` as numbers, but for the dedicated hosts, which are in ``HostPool``."""

    admission_rule: int  # index into ADMISSION_RULES
    admission_failures: int
    admission_cpu_share: float
    admission_mem_share: float
    admission_default_mhz: float  # CPU of a VM without a reservation
    admission_overhead_mib: float
    admission_survive: int  # 1: any one failure domain may be lost


def dedicated_hosts(config: AdmissionConfig, n_hosts: int) -> I1:
    """Which hosts are kept empty for failover, shape (H,).

    Raises:
        ConfigError: If there is no such host.
    """
    found = np.zeros(n_hosts, dtype=np.int8)
    if config.rule == "dedicated":
        need(max(config.hosts) < n_hosts, f"admission.hosts={max(config.hosts)}: must be below {n_hosts}")
        found[list(config.hosts)] = 1
    return found


def counted_sizes(config: AdmissionConfig, p: Any) -> tuple[F8, F8]:
    """CPU (MHz) and memory (MiB) with which every VM counts, shape (V,) each.

    Args:
        config: Says what counts.
        p: The fields of ``parameters.ClusterParams``.
    """
    if config.counts == "configured":
        return p.vm_cpu_mhz / p.arrival_overcommit, p.vm_mem_mib / p.mem_overcommit
    nothing = np.zeros(p.vm_mem_mib.shape[0])
    cpu = p.vm_reservation_mhz if p.has_cpu else nothing
    if p.has_tiers:
        return cpu, p.vm_mem_reservation_mib
    return cpu, p.vm_mem_mib if p.memory_binding else nothing  # memory that binds is reserved whole


class HostPool(NamedTuple):
    """The hosts, for admission control."""

    host_cpu_mhz: F8  # (H,) MHz
    host_mem_mib: F8  # (H,) MiB
    usable: B1  # (H,) on, healthy, not on the way out
    vms: I4  # (H,) VMs on it
    host_dedicated: I1  # (H,) 1: kept empty for failover
    host_domains: I4  # (H, D) failure domain per kind, -1 = none


class Reservations(NamedTuple):
    """The VMs that count, for admission control."""

    cpu_mhz: F8  # (N,) CPU reservation, MHz
    mem_mib: F8  # (N,) memory reservation, MiB


class Failover(NamedTuple):
    """What a cluster can still take."""

    holds: bool  # whether the guarantee holds
    capacity: int  # slots: host failures it can take, -1 = not even the VMs that run have slots
    slot_cpu_mhz: float  # slots: CPU of a slot, MHz
    slot_mem_mib: float  # slots: memory of a slot, MiB
    cpu_free: float  # share of CPU not reserved
    mem_free: float  # share of memory not reserved


@kernel
def slot_size(c: AdmissionNumbers, vms: Reservations) -> tuple[float, float]:
    """CPU (MHz) and memory (MiB) of a slot; without VMs, of a VM without reservations."""
    cpu, mem = 0.0, 0.0
    for i in range(vms.cpu_mhz.shape[0]):
        cpu = max(cpu, _counted_mhz(c, vms, i))
        mem = max(mem, vms.mem_mib[i])
    if vms.cpu_mhz.shape[0] == 0:
        cpu = c.admission_default_mhz
    return cpu, mem + c.admission_overhead_mib


@kernel
def _counted_mhz(c: AdmissionNumbers, vms: Reservations, i: int) -> float:
    return vms.cpu_mhz[i] if vms.cpu_mhz[i] > 0.0 else c.admission_default_mhz


@kernel
def host_slots(pool: HostPool, slot_cpu_mhz: float, slot_mem_mib: float) -> I8:
    """Slots of every host, shape (H,); hosts that are not usable have none."""
    slots = np.zeros(pool.usable.shape[0], dtype=np.int64)
    for h in range(slots.shape[0]):
        most = MOST_SLOTS
        if slot_cpu_mhz > 0.0:
            most = min(most, pool.host_cpu_mhz[h] / slot_cpu_mhz)
        if slot_mem_mib > 0.0:
            most = min(most, pool.host_mem_mib[h] / slot_mem_mib)
        if pool.usable[h]:
            slots[h] = int(min(np.floor(most * (1.0 + SLACK)), MOST_SLOTS))
    return slots


@kernel
def failover_capacity(slots: I8, needed: int) -> int:
    """Largest k such that without the k hosts of most slots at least ``needed`` remain; -1 if k = 0 fails.

    Args:
        slots: Slots per usable host, shape (H,).
        needed: VMs that need a slot.
    """
    rising = np.sort(slots)
    left = rising.sum()
    k = 0
    while left >= needed and k < rising.shape[0]:
        k += 1
        left -= rising[rising.shape[0] - k]
    return k if left >= needed else k - 1  # what is left only falls with k


@kernel
def _free(total: F8, usable: B1, reserved: float) -> tuple[float, float]:
    """What usable hosts have, and the part of it that is not reserved."""
    have = 0.0
    for h in range(usable.shape[0]):
        have += total[h] if usable[h] else 0.0
    return have, have - reserved


@kernel
def _reserved(c: AdmissionNumbers, vms: Reservations) -> tuple[float, float]:
    """CPU and memory that all VMs reserve, MHz and MiB."""
    cpu, mem = 0.0, 0.0
    for i in range(vms.cpu_mhz.shape[0]):
        cpu += _counted_mhz(c, vms, i)
        mem += vms.mem_mib[i] + c.admission_overhead_mib
    return cpu, mem


@kernel
def _lost_slots(domains: I4, column: int, slots: I8, h: int) -> Any:
    """Slots of all hosts that are in one failure domain with a host."""
    lost = np.int64(0)
    for g in range(slots.shape[0]):
        if domains[g, column] == domains[h, column]:
            lost += slots[g]
    return lost


@of_records
@kernel
def guarantee_margin(c: AdmissionNumbers, pool: HostPool, vms: Reservations) -> float:
    """How far the guarantee is from failing; below 0 it fails.

    Args:
        c: Handle or record with the fields of ``AdmissionNumbers``.
        pool: The hosts.
        vms: The VMs that count.

    Returns:
        Slots: those that are free once the worst has happened. Percentage: the share free beyond what has to
        be. Dedicated: 0, or -1. Without a rule 0.
    """
    if c.admission_rule == SLOTS:
        cpu, mem = slot_size(c, vms)
        slots = host_slots(pool, cpu, mem)
        usable = np.count_nonzero(pool.usable)
        if usable < c.admission_failures:
            return -1.0
        rising = np.sort(slots)
        worst = rising[rising.shape[0] - c.admission_failures :].sum()
        for column in range(pool.host_domains.shape[1] if c.admission_survive else 0):
            for h in range(slots.shape[0]):
                if pool.host_domains[h, column] >= 0:
                    worst = max(worst, _lost_slots(pool.host_domains, column, slots, h))
        return float(slots.sum() - worst - vms.cpu_mhz.shape[0])
    if c.admission_rule == PERCENTAGE:
        cpu, mem = _reserved(c, vms)
        have, free = _free(pool.host_cpu_mhz, pool.usable, cpu)
        margin = (free / have if have > 0.0 else 0.0) - c.admission_cpu_share
        have, free = _free(pool.host_mem_mib, pool.usable, mem)
        return min(margin, (free / have if have > 0.0 else 0.0) - c.admission_mem_share)
    for h in range(pool.usable.shape[0] if c.admission_rule == DEDICATED else 0):
        if pool.host_dedicated[h] and (not pool.usable[h] or pool.vms[h] > 0):
            return -1.0
    return 0.0


@kernel
def with_vm(vms: Reservations, cpu_mhz: float, mem_mib: float, times: int) -> Reservations:
    """The VMs that count and one more, counted as often as ``times``."""
    n = vms.cpu_mhz.shape[0]
    cpu, mem = np.empty(n + times), np.empty(n + times)
    cpu[:n], mem[:n] = vms.cpu_mhz, vms.mem_mib
    cpu[n:], mem[n:] = cpu_mhz, mem_mib
    return Reservations(cpu, mem)


@of_records
@kernel
def admits(
    c: AdmissionNumbers, pool: HostPool, vms: Reservations, cpu_mhz: float, mem_mib: float, times: int
) -> bool:
    """Whether one more VM may be switched on without breaking the guarantee.

    Args:
        c: Handle or record with the fields of ``AdmissionNumbers``.
        pool: The hosts.
        vms: The VMs that count.
        cpu_mhz: CPU reservation of the new VM, MHz.
        mem_mib: Memory reservation of the new VM, MiB.
        times: How often it counts.
    """
    if c.admission_rule == DEDICATED:
        return True  # these hosts are closed to it, wherever it may go else
    return guarantee_margin(c, pool, with_vm(vms, cpu_mhz, mem_mib, times)) >= -SLACK


@of_records
@kernel
def write_may_leave(c: AdmissionNumbers, pool: HostPool, vms: Reservations, may: B1) -> None:
    """Hosts that could be switched off or taken for maintenance, one of them, with the guarantee kept.

    Their VMs are taken to run on elsewhere: whether they fit there is another question. A host that does not
    count may leave, a dedicated one not.

    Args:
        c: Handle or record with the fields of ``AdmissionNumbers``.
        pool: The hosts.
        vms: The VMs that count.
        may: Written, shape (H,).
    """
    may[:] = True
    if c.admission_rule == SLOTS:
        _write_slots_may_leave(c, pool, vms, may)
    elif c.admission_rule == PERCENTAGE:
        cpu, mem = _reserved(c, vms)
        for total, reserved, share in (
            (pool.host_cpu_mhz, cpu, c.admission_cpu_share),
            (pool.host_mem_mib, mem, c.admission_mem_share),
        ):
            have, _ = _free(total, pool.usable, 0.0)
            for h in range(may.shape[0]):
                rest = have - total[h]
                enough = rest > 0.0 and rest - reserved >= (share - SLACK) * rest
                may[h] = may[h] and (enough or not pool.usable[h])
    for h in range(may.shape[0]):
        may[h] = may[h] and not (c.admission_rule == DEDICATED and pool.host_dedicated[h])


@kernel
def _write_slots_may_leave(c: AdmissionNumbers, pool: HostPool, vms: Reservations, may: B1) -> None:
    cpu, mem = slot_size(c, vms)
    slots = host_slots(pool, cpu, mem)
    k, needed, n = c.admission_failures, vms.cpu_mhz.shape[0], slots.shape[0]
    total, usable = slots.sum(), np.count_nonzero(pool.usable)
    order = np.argsort(slots)[::-1]
    top = slots[order[: min(k, n)]].sum()
    one_more = slots[order[: min(k + 1, n)]].sum()
    for i in range(n):
        h = order[i]
        if pool.usable[h]:
            # The k largest of the others: one more of all where the host itself is among them.
            worst = one_more - slots[h] if i < k else top
            may[h] = usable - 1 >= k and total - slots[h] - worst >= needed  # k failures need k hosts
    for column in range(pool.host_domains.shape[1] if c.admission_survive else 0):
        for g in range(n):
            if pool.host_domains[g, column] < 0:
                continue
            lost = _lost_slots(pool.host_domains, column, slots, g)
            for h in range(n):  # the host's slots are lost anyway where it is in the domain
                inside = pool.host_domains[h, column] == pool.host_domains[g, column]
                gone = lost if inside else lost + slots[h]
                may[h] = may[h] and (total - gone >= needed or not pool.usable[h])


def failover_state(c: AdmissionNumbers, pool: HostPool, vms: Reservations) -> Failover:
    """What the cluster can still take.

    Args:
        c: Parameters.
        pool: The hosts.
        vms: The VMs that count.

    Returns:
        The state, of all rules; ``holds`` is that of the configured one.
    """
    cpu, mem = slot_size(c, vms)
    capacity = failover_capacity(host_slots(pool, cpu, mem)[pool.usable], vms.cpu_mhz.size)
    free = []
    for total, reserved in zip((pool.host_cpu_mhz, pool.host_mem_mib), _reserved(c, vms)):
        have, left = _free(total, pool.usable, reserved)
        free.append(left / have if have > 0 else 0.0)
    holds = bool(guarantee_margin(c, pool, vms) >= -SLACK)
    return Failover(holds, int(capacity), float(cpu), float(mem), free[0], free[1])
