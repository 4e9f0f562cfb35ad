"""Sharing the CPU of a host: reservation, limit, shares, ready time, co-stop, admission (docs §2).

A VM claims d MHz, hypervisor overhead included (§1, §5). It has a reservation r (lower limit), a limit l
(upper limit), shares w (priority) and n vCPUs, none of which ever gets more than one core of c MHz. With

    u_i = min(l_i, d_i, n_i c)        the most it can use
    a_i = clamp(mu w_i, min(r_i, u_i), u_i),   mu such that  sum a_i = min(C, sum u_i)

mu is found exactly, by sorting the breakpoints (``waterlevel``). If the reservations in use exceed C, which
admission (sum r_i <= C) rules out unless capacity was lost, all get the same fraction of their lower bound.

What a VM does not get is told apart; the four parts and the allocation add up to the claim:

    ready   = max(0, u - a) / n        MHz per vCPU: runnable, and no core to run on
    limited = max(0, d - l)            MHz: beyond the limit, whatever the host could give
    capped  = max(0, min(d, l) - n c)  MHz: more than n cores of this host can do
    ready time share = ready / c       of the interval, per vCPU; times 100 = ready %

Model.md writes ready = (min(d, l) - a) / n; the part above n c is ``capped`` here, because a vCPU that
already runs all the time on a slow core does not wait for another one.

Co-stop (optional; form and size assumed): the sibling vCPUs of a wide VM must not drift apart. With
x = max(0, 1 - C / sum u), the share of wanted time that a vCPU of a short host does not run, a sibling lags
with probability kappa x, and the VM is stopped while one of n - 1 does:

    co_stop = a (1 - (1 - kappa x)^(n - 1))     MHz of the allocation that does no work

Sources: shares low / normal / high = 500 / 1000 / 2000 per vCPU [assumed: vSphere Resource Management]; Xen
credit scheduler: weight 256, cap in % of one core, 0 = none [verified: Xen wiki].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arrays import F8, I4
from ...checks import need, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel, of_records
from ...jit.waterlevel import find_bracket, sort_breakpoints

SHARE_LEVELS: dict[str, float] = {"low": 500.0, "normal": 1000.0, "high": 2000.0}
"""Shares per vCPU by name."""

XEN_WEIGHT = 256.0
"""Default weight of Xen's credit scheduler, which stands for normal shares."""

ADMISSION_SLACK = 1.0 + 1e-9
"""Sums of floats are not exact: reservations may exceed capacity by this factor."""


@dataclass(frozen=True)
class CpuControl:
    """How a VM shares the CPU of its host.

    Attributes:
        reservation_mhz: Guaranteed CPU while it is wanted, MHz.
        limit_mhz: Never more than this, MHz; inf = no limit.
        shares: Priority per vCPU: a number, or ``low``, ``normal``, ``high``.
    """

    reservation_mhz: float = 0.0
    limit_mhz: float = math.inf
    shares: float | str = "normal"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative("cpu", reservation_mhz=self.reservation_mhz)
        need(self.limit_mhz > 0, f"cpu.limit_mhz={self.limit_mhz}: must be positive (inf = no limit)")
        need(
            self.limit_mhz >= self.reservation_mhz,
            f"cpu.limit_mhz={self.limit_mhz}: must be at least reservation_mhz={self.reservation_mhz}",
        )
        if isinstance(self.shares, str):
            known = ", ".join(SHARE_LEVELS)
            need(self.shares in SHARE_LEVELS, f"cpu.shares={self.shares}: must be a number or one of {known}")
        else:
            need_positive("cpu", shares=self.shares)

    @property
    def shares_per_vcpu(self) -> float:
        """Shares of one vCPU as a number."""
        return SHARE_LEVELS[self.shares] if isinstance(self.shares, str) else float(self.shares)

    @classmethod
    def from_xen(
        cls, core_mhz: float, vcpus: int, weight: float = XEN_WEIGHT, cap_pct: float = 0.0
    ) -> CpuControl:
        """Translate Xen credit parameters; a weight belongs to the whole VM, shares to one vCPU.

        Args:
            core_mhz: Speed of a core, MHz.
            vcpus: Virtual CPUs of the VM.
            weight: Xen weight; 256 on one vCPU equals normal shares.
            cap_pct: Xen cap in percent of one core; 0 = none.

        Returns:
            The same as reservation, limit and shares.

        Raises:
            ConfigError: If a value is out of range.
        """
        need_not_negative("cpu", cap_pct=cap_pct)
        limit = math.inf if cap_pct == 0 else core_mhz * cap_pct / 100.0
        return cls(limit_mhz=limit, shares=SHARE_LEVELS["normal"] * weight / XEN_WEIGHT / vcpus)


@dataclass(frozen=True)
class SchedulingConfig:
    """The CPU scheduler of the hosts.

    Attributes:
        co_stop: Strength kappa of the co-scheduling penalty for wide VMs, 0...1; 0 = none. [assumed]
    """

    co_stop: float = 0.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_share("scheduling", co_stop=self.co_stop)


class CpuClaims(NamedTuple):
    """What the VMs want and what they are entitled to; V VMs."""

    vm_claim_mhz: F8  # (V,) demand with overhead, MHz
    vm_reservation_mhz: F8  # (V,) MHz
    vm_limit_mhz: F8  # (V,) MHz, inf = none
    vm_shares: F8  # (V,) of the whole VM, > 0
    vm_vcpus: I4  # (V,)


class CpuGrants(NamedTuple):
    """What the scheduler answers; V VMs, H hosts."""

    vm_alloc_mhz: F8  # (V,) MHz
    vm_ready_mhz: F8  # (V,) MHz per vCPU
    vm_limited_mhz: F8  # (V,) MHz
    vm_capped_mhz: F8  # (V,) MHz
    vm_co_stop_mhz: F8  # (V,) MHz of the allocation that does no work
    vm_ready_share: F8  # (V,) of the time, per vCPU, 0...1
    host_alloc_mhz: F8  # (H,) sum of the allocations, MHz
    host_wanted_mhz: F8  # (H,) sum of what the VMs can use; > capacity = short, MHz


def cpu_claims(controls: Sequence[CpuControl], control_of: I4, vm_vcpus: I4) -> CpuClaims:
    """Flatten the controls of all VMs; the claims themselves start at 0.

    Args:
        controls: Kinds of controls.
        control_of: Index into ``controls`` per VM, shape (V,).
        vm_vcpus: Virtual CPUs, shape (V,).

    Returns:
        Arrays for the kernels.
    """
    table = np.array(
        [(c.reservation_mhz, c.limit_mhz, c.shares_per_vcpu) for c in controls], dtype=np.float64
    )
    reservation, limit, shares = (np.ascontiguousarray(column[control_of]) for column in table.T)
    vcpus = np.ascontiguousarray(vm_vcpus, dtype=np.int32)
    return CpuClaims(np.zeros(vcpus.shape[0]), reservation, limit, shares * vcpus, vcpus)


def cpu_grants(n_hosts: int, n_vms: int) -> CpuGrants:
    """Allocate the answer for H hosts and V VMs."""
    shape = {"vm": n_vms, "host": n_hosts}
    return CpuGrants(*(np.zeros(shape[name.partition("_")[0]]) for name in CpuGrants._fields))


def scheduling_scratch(most_vms: int) -> F8:
    """Working memory for hosts with up to ``most_vms`` VMs."""
    return np.zeros((4, 2 * max(1, most_vms)))


@kernel
def admits(reserved: float, capacity: float, requested: float) -> bool:
    """Whether a host may take one more reservation: sum r <= C. The same for CPU (MHz) and memory (MiB)."""
    return reserved + requested <= capacity * ADMISSION_SLACK


@kernel
def _water_level(vms: I4, target_mhz: float, p: CpuClaims, scratch: F8) -> Any:
    """The level mu at which the allocations add up to the target (lower and upper bounds in ``scratch``)."""
    lower, upper, key, step = scratch[0], scratch[1], scratch[2], scratch[3]
    n = 0
    base = 0.0
    slope = 0.0
    for i in range(vms.shape[0]):
        if upper[i] <= lower[i]:
            base += lower[i]
            continue
        w = p.vm_shares[vms[i]]
        base += lower[i]
        if lower[i] > 0.0:
            key[n], step[n] = lower[i] / w, w
            n += 1
        else:
            slope += w
        key[n], step[n] = upper[i] / w, -w
        n += 1
    sort_breakpoints(key, step, n)
    below, above = find_bracket(key, step, n, base, slope, target_mhz)
    # Solve the bracket's equation afresh: slopes that were added and taken away have lost digits.
    pinned = 0.0
    weight = 0.0
    for i in range(vms.shape[0]):
        w = p.vm_shares[vms[i]]
        if upper[i] <= lower[i] or lower[i] / w >= above:
            pinned += lower[i]
        elif upper[i] / w <= below:
            pinned += upper[i]
        else:
            weight += w
    return (target_mhz - pinned) / weight if weight > 0.0 else above


@of_records
@kernel
def schedule_host(
    vms: I4,
    capacity_mhz: float,
    core_mhz: float,
    co_stop: float,
    p: CpuClaims,
    s: CpuGrants,
    scratch: F8,
) -> Any:
    """Share one host's CPU among its VMs.

    Args:
        vms: The VMs of the host, shape (n,).
        capacity_mhz: What there is for them, MHz.
        core_mhz: Speed of one core, MHz.
        co_stop: Strength of the co-scheduling penalty, 0...1.
        p: Handle or record with the fields of ``CpuClaims``.
        s: Handle or record with the ``vm_`` fields of ``CpuGrants``; rewritten for these VMs.
        scratch: From ``scheduling_scratch``.

    Returns:
        Sum of the allocations and sum of what the VMs can use, MHz.
    """
    capacity = max(0.0, capacity_mhz)
    lower, upper = scratch[0], scratch[1]
    least = 0.0
    wanted = 0.0
    for i in range(vms.shape[0]):
        v = vms[i]
        upper[i] = min(p.vm_claim_mhz[v], p.vm_limit_mhz[v], p.vm_vcpus[v] * core_mhz)
        lower[i] = min(p.vm_reservation_mhz[v], upper[i])
        least += lower[i]
        wanted += upper[i]
    short = wanted > capacity
    scarce = short and least >= capacity
    level = _water_level(vms, capacity, p, scratch) if short and not scarce else 0.0
    lag = co_stop * (1.0 - capacity / wanted) if short else 0.0
    total = 0.0
    for i in range(vms.shape[0]):
        v = vms[i]
        a = upper[i]
        if scarce:
            a = lower[i] * (capacity / least) if least > 0.0 else 0.0
        elif short:
            a = min(max(level * p.vm_shares[v], lower[i]), upper[i])
        _set_grant(v, a, upper[i], lag, core_mhz, p, s)
        total += a
    return total, wanted


@kernel
def _set_grant(
    v: int, alloc: float, usable: float, lag: float, core_mhz: float, p: CpuClaims, s: CpuGrants
) -> None:
    n = p.vm_vcpus[v]
    claim, limit = p.vm_claim_mhz[v], p.vm_limit_mhz[v]
    ready = max(0.0, usable - alloc) / n
    s.vm_alloc_mhz[v] = alloc
    s.vm_ready_mhz[v] = ready
    s.vm_ready_share[v] = ready / core_mhz
    s.vm_limited_mhz[v] = max(0.0, claim - limit)
    s.vm_capped_mhz[v] = max(0.0, min(claim, limit) - n * core_mhz)
    s.vm_co_stop_mhz[v] = alloc * (1.0 - (1.0 - lag) ** (n - 1)) if lag > 0.0 else 0.0
