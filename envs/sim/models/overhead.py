"""Virtualization types: what the hypervisor adds to a VM's demand, and which host can run it (docs §1).

Five types: ``full`` (trap and emulate, binary translation), ``para`` (hypercalls), ``hardware_assisted``
(VT-x or SVM with nested paging), ``partial`` (address space only, the rest emulated), ``os_level``
(containers). A monitor must catch four classes of sensitive, unprivileged instructions: 1 ``state`` (access
to machine or VM state), 2 ``clock`` (sensitive registers and memory, such as clock and interrupt registers),
3 ``memory`` (storage protection, memory and address relocation), 4 ``io``. With rate_k operations per second,
the cost table and the steady tax t,

    overhead = 1e-6 sum_k rate_k cost_cycles[type, k] + t[type] d              MHz, for a demand of d MHz
    rate_k   = idle_k n_vcpus + busy_k d / 1000                                per second

The claim on the host's CPU is d + overhead; of what is then allocated, the share d / (d + overhead) does the
guest's work. Class 4 is left out where the I/O sub-model (§5) charges for it, and no less (``io_path``).

How far to trust the numbers: the cost table is of the right order, not measured [assumed]. Near it lie: a
world switch costs 2,000 cycles directly on Xeon X5570 with KVM [verified: SplitX, WIOV 2011]; a modern exit
1,000-1,500 [assumed: Dall et al., ISCA 2016]; containers equal or beat VMs in almost all cases [verified:
Felter et al., ISPASS 2015]; binary translation against hardware [assumed: Adams & Agesen, ASPLOS 2006]; Xen
paravirtualization [assumed: Barham et al., SOSP 2003]. The rates of the instruction profiles are assumed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays import F8, I1, I4
from ...checks import need, need_choice, need_not_negative, need_share
from ...jit.kernels import kernel, of_records
from ..decisions import NO_VIRT_EXTENSION, NO_VIRT_TYPE, OTHER_KERNEL

VIRT_TYPES = ("full", "para", "hardware_assisted", "partial", "os_level")
"""Virtualization types; their index is the code that kernels use."""

INSTRUCTION_CLASSES = ("state", "clock", "memory", "io")
"""Classes of sensitive instructions, columns of every rate and cost array."""

GUEST_MUST_CHANGE = ("para", "partial")
"""Types that need a modified guest."""

HARDWARE_ASSISTED, OS_LEVEL, IO_CLASS = 2, 4, 3


@dataclass(frozen=True)
class VirtCosts:
    """What one virtualization type costs.

    Attributes:
        state: Cycles per class 1 operation.
        clock: Cycles per class 2 operation.
        memory: Cycles per class 3 operation.
        io: Cycles per class 4 operation.
        steady_tax: Share of CPU-bound work that is added to it, 0...1.
    """

    state: float
    clock: float
    memory: float
    io: float
    steady_tax: float

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative("overhead", state=self.state, clock=self.clock, memory=self.memory, io=self.io)
        need_share("overhead", steady_tax=self.steady_tax)


@dataclass(frozen=True)
class OverheadConfig:
    """The cost table of docs §1: priors of the right order, one row per type.

    Attributes:
        full: Trap and emulate, binary translation.
        para: Hypercalls.
        hardware_assisted: VT-x or SVM with nested paging.
        partial: Address space only, the rest emulated.
        os_level: Containers.
    """

    full: VirtCosts = VirtCosts(1500.0, 2500.0, 3500.0, 10_000.0, 0.03)
    para: VirtCosts = VirtCosts(800.0, 1000.0, 1200.0, 3000.0, 0.01)
    hardware_assisted: VirtCosts = VirtCosts(1200.0, 1200.0, 300.0, 2000.0, 0.02)
    partial: VirtCosts = VirtCosts(3000.0, 4000.0, 6000.0, 20_000.0, 0.10)
    os_level: VirtCosts = VirtCosts(0.0, 0.0, 0.0, 300.0, 0.005)

    @property
    def cost_cycles(self) -> F8:
        """Cycles per operation, shape (5, 4): types by classes."""
        rows = [getattr(self, name) for name in VIRT_TYPES]
        return np.array([[getattr(row, k) for k in INSTRUCTION_CLASSES] for row in rows], dtype=np.float64)

    @property
    def steady_tax(self) -> F8:
        """Steady tax per type, shape (5,)."""
        return np.array([getattr(self, name).steady_tax for name in VIRT_TYPES], dtype=np.float64)


@dataclass(frozen=True)
class InstructionProfile:
    """How many sensitive operations a workload issues, per class (state, clock, memory, io).

    Attributes:
        idle_per_s: Operations per second of every vCPU, busy or not (timer ticks above all).
        busy_per_ghz_s: Operations per second for every GHz of demand.
    """

    idle_per_s: tuple[float, float, float, float]
    busy_per_ghz_s: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        for key in ("idle_per_s", "busy_per_ghz_s"):
            rates = getattr(self, key)
            need(len(rates) == len(INSTRUCTION_CLASSES), f"profile.{key}: needs 4 rates, one per class")
            need_not_negative("profile", **{f"{key}[{i}]": rate for i, rate in enumerate(rates)})


PROFILES: dict[str, InstructionProfile] = {
    "cpu_bound": InstructionProfile((10.0, 100.0, 10.0, 5.0), (100.0, 100.0, 500.0, 20.0)),
    "general": InstructionProfile((10.0, 100.0, 10.0, 5.0), (500.0, 250.0, 2000.0, 500.0)),
    "memory_bound": InstructionProfile((10.0, 100.0, 10.0, 5.0), (500.0, 250.0, 10_000.0, 200.0)),
    "io_bound": InstructionProfile((10.0, 100.0, 10.0, 5.0), (2000.0, 1000.0, 2000.0, 5000.0)),
}
"""Workload profiles [assumed]: a tick of 100 Hz when idle; context switches, page-table updates and device
accesses in the numbers that such work usually shows."""


@dataclass(frozen=True)
class HostVirtualization:
    """What a kind of host can run.

    Attributes:
        types: Virtualization types on offer.
        extension: Whether the CPU has VT-x or SVM with nested paging.
        kernel: Name of the host's kernel, which its containers share.
    """

    types: tuple[str, ...] = VIRT_TYPES
    extension: bool = True
    kernel: str = "linux"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need(len(self.types) > 0, "host.virtualization.types: needs at least one type")
        for name in self.types:
            need_choice("host.virtualization", "types", name, VIRT_TYPES)


@dataclass(frozen=True)
class GuestVirtualization:
    """How a kind of VM is virtualized.

    Attributes:
        type: Virtualization type.
        kernel: Kernel that an ``os_level`` VM needs; others bring their own.
        modifiable: Whether the guest may be modified, as ``para`` and ``partial`` need it.
    """

    type: str = "hardware_assisted"
    kernel: str = "linux"
    modifiable: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("vm.virtualization", "type", self.type, VIRT_TYPES)
        need(
            self.modifiable or self.type not in GUEST_MUST_CHANGE,
            f"vm.virtualization.type={self.type}: needs a guest that may be modified (modifiable: true)",
        )


class SupportTable(NamedTuple):
    """Who can run what; H hosts, V VMs."""

    host_virt_types: I4  # (H,) bit t: virtualization type t is on offer
    host_extension: I1  # (H,) 1: the CPU has a virtualization extension
    host_kernel: I4  # (H,) kernel, numbered
    vm_virt_type: I4  # (V,) index into VIRT_TYPES
    vm_kernel: I4  # (V,) kernel, numbered; -1 = one that no host has


def support_table(
    hosts: Sequence[HostVirtualization], host_of: I4, guests: Sequence[GuestVirtualization], guest_of: I4
) -> SupportTable:
    """Flatten what hosts offer and VMs need.

    Args:
        hosts: Kinds of hosts.
        host_of: Index into ``hosts`` per host, shape (H,).
        guests: Kinds of VMs.
        guest_of: Index into ``guests`` per VM, shape (V,).

    Returns:
        Arrays for the kernels.
    """
    number = {name: i for i, name in enumerate(sorted({host.kernel for host in hosts}))}
    bits = [sum(1 << VIRT_TYPES.index(name) for name in set(host.types)) for host in hosts]
    return SupportTable(
        np.array(bits, dtype=np.int32)[host_of],
        np.array([host.extension for host in hosts], dtype=np.int8)[host_of],
        np.array([number[host.kernel] for host in hosts], dtype=np.int32)[host_of],
        np.array([VIRT_TYPES.index(guest.type) for guest in guests], dtype=np.int32)[guest_of],
        np.array([number.get(guest.kernel, -1) for guest in guests], dtype=np.int32)[guest_of],
    )


@of_records
@kernel
def support_code(p: SupportTable, v: int, h: int) -> int:
    """Whether host h can run VM v; asked at placement and for the destination of a migration.

    Args:
        p: Handle or record with the fields of ``SupportTable``.
        v: VM.
        h: Host.

    Returns:
        0, or one of ``NO_VIRT_TYPE``, ``NO_VIRT_EXTENSION``, ``OTHER_KERNEL``.
    """
    kind = p.vm_virt_type[v]
    if not (p.host_virt_types[h] >> kind) & 1:
        return NO_VIRT_TYPE
    if kind == HARDWARE_ASSISTED and p.host_extension[h] == 0:
        return NO_VIRT_EXTENSION
    if kind == OS_LEVEL and p.host_kernel[h] != p.vm_kernel[v]:
        return OTHER_KERNEL
    return 0


def profile_tables(profiles: Sequence[InstructionProfile]) -> tuple[F8, F8]:
    """The rates of K profiles as arrays.

    Args:
        profiles: At least one.

    Returns:
        ``idle_per_s`` and ``busy_per_ghz_s``, each of shape (K, 4).
    """
    idle = np.array([profile.idle_per_s for profile in profiles], dtype=np.float64)
    return idle, np.array([profile.busy_per_ghz_s for profile in profiles], dtype=np.float64)


class OverheadTable(NamedTuple):
    """What overhead follows from; V VMs, R instruction profiles."""

    cost_cycles: F8  # (5, 4) cycles per operation, by virtualization type and class
    steady_tax: F8  # (5,) added share of demand
    idle_per_s: F8  # (R, 4) operations per second and vCPU
    busy_per_ghz_s: F8  # (R, 4) operations per second and GHz of demand
    vm_instructions: I4  # (V,) instruction profile
    vm_virt_type: I4  # (V,) index into VIRT_TYPES
    vm_vcpus: I4  # (V,)
    has_io: int  # 1: §5 charges for class 4


@of_records
@kernel
def class_cycles(p: OverheadTable, v: int, k: int, demand_mhz: float) -> float:
    """Cycles per second that the operations of class k of one VM cost: rate_k cost_cycles[type, k]."""
    row = p.vm_instructions[v]
    rate = p.idle_per_s[row, k] * p.vm_vcpus[v] + p.busy_per_ghz_s[row, k] * (demand_mhz / 1000.0)
    return float(rate * p.cost_cycles[p.vm_virt_type[v], k])


@of_records
@kernel
def vm_overhead(p: OverheadTable, v: int, demand_mhz: float) -> float:
    """Hypervisor overhead of one VM, MHz: 1e-6 sum_k rate_k cost_cycles[type, k] + t[type] d.

    Args:
        p: Handle or record with the fields of ``OverheadTable``.
        v: VM.
        demand_mhz: Its demand d, MHz.
    """
    classes = IO_CLASS if p.has_io else IO_CLASS + 1
    cycles = 0.0
    for k in range(classes):
        cycles += class_cycles(p, v, k, demand_mhz)
    return float(1e-6 * cycles + p.steady_tax[p.vm_virt_type[v]] * demand_mhz)


@kernel
def guest_work(demand_mhz: float, claim_mhz: float, alloc_mhz: float) -> float:
    """The part of a VM's CPU that does its guest's work, MHz: alloc * demand / claim, never above demand.

    Args:
        demand_mhz: Demand of the guest, MHz.
        claim_mhz: Demand with all overhead (§1, §5), above 0, MHz.
        alloc_mhz: What the scheduler gave and co-stop left, MHz.
    """
    return demand_mhz * min(1.0, alloc_mhz / claim_mhz)
