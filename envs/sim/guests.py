"""What kinds of guests there are: how a VM is virtualized, shares its host, uses memory, and does I/O.

A profile holds what no trace says; the sub-models read it: §1 instructions and virtualization, §2 ``cpu``, §3
``stall_share``, §4 ``memory``, §5 ``io``, §6 dirty rate and working set, §8 ``restart_priority``, §9
``protected``, §13 ``service_class`` (sections of docs/simulator.md). A sub-model that is off reads nothing.

A pair (idle, busy) is a rate that follows the load, where the trace has no signal of its own:

    value = idle + busy * utilisation,      utilisation = demand over nominal CPU

Every number here is assumed, of the order that such work usually shows; set what you know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..checks import need, need_choice, need_count, need_not_negative, need_positive, need_share
from .models.cost import VM_CLASSES
from .models.io_path import IO_MODES
from .models.memory import MemoryProfile
from .models.numa_nodes import STALL_SHARES
from .models.overhead import PROFILES, GuestVirtualization, InstructionProfile
from .models.scheduling import CpuControl

Pair = tuple[float, float]
"""Rate of an idle VM, and what full load adds to it."""


def _need_pairs(owner: str, **pairs: Pair) -> None:
    for key, pair in pairs.items():
        need(len(pair) == 2, f"{owner}.{key}: needs 2 numbers, idle and busy")
        need_not_negative(owner, **{f"{key}[{i}]": value for i, value in enumerate(pair)})


@dataclass(frozen=True)
class IoProfile:
    """The I/O of a kind of VM; rates as (idle, busy) [assumed].

    Attributes:
        mode: ``emulated``, ``virtio`` or ``passthrough``.
        net_out_mbps: Network traffic sent, Mbit/s.
        net_in_mbps: Network traffic received, Mbit/s.
        disk_read_mb_s: Disk reads, MB/s (1e6 bytes).
        disk_write_mb_s: Disk writes, MB/s.
        packet_bytes: Mean size of a packet.
        request_kib: Mean size of a disk request, KiB.
        functions: Passthrough functions that a ``passthrough`` VM needs.
    """

    mode: str = "virtio"
    net_out_mbps: Pair = (0.1, 20.0)
    net_in_mbps: Pair = (0.1, 10.0)
    disk_read_mb_s: Pair = (0.0, 2.0)
    disk_write_mb_s: Pair = (0.05, 1.0)
    packet_bytes: float = 1000.0
    request_kib: float = 32.0
    functions: int = 1

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("io", "mode", self.mode, IO_MODES)
        _need_pairs(
            "io",
            net_out_mbps=self.net_out_mbps,
            net_in_mbps=self.net_in_mbps,
            disk_read_mb_s=self.disk_read_mb_s,
            disk_write_mb_s=self.disk_write_mb_s,
        )
        need_positive("io", packet_bytes=self.packet_bytes, request_kib=self.request_kib)
        need_count("io", functions=self.functions)

    @property
    def code(self) -> int:
        """The mode as kernels know it."""
        return IO_MODES.index(self.mode)


@dataclass(frozen=True)
class GuestProfile:
    """A kind of guest.

    Attributes:
        name: Label in messages.
        instructions: Sensitive operations that it issues: a name of ``overhead.PROFILES``, or rates.
        virtualization: How it is virtualized.
        cpu: Reservation, limit and shares.
        memory: How it uses memory.
        stall_share: Share of its time that waits for memory, 0...1; None = ``numa_nodes.STALL_SHARES`` of its
            instructions, 0.3 where those are rates.
        io: Its I/O.
        dirty_mib_s: Rate at which it dirties memory, (idle, busy), MiB/s. [assumed]
        working_share: Writable working set, share of the configured memory. [assumed]
        restart_priority: Higher restarts first after a failure.
        restart_after: Names of profiles whose VMs must be up before VMs of this one restart; read by policies
            that place restarts (``recovery.restart: policy``).
        protected: Whether it has a hot standby, where that is on.
        service_class: ``best_effort``, ``standard`` or ``critical``: what its work is worth (§13).
    """

    name: str = "default"
    instructions: str | InstructionProfile = "general"
    virtualization: GuestVirtualization = field(default_factory=GuestVirtualization)
    cpu: CpuControl = field(default_factory=CpuControl)
    memory: MemoryProfile = field(default_factory=MemoryProfile)
    stall_share: float | None = None
    io: IoProfile = field(default_factory=IoProfile)
    dirty_mib_s: Pair = (0.5, 20.0)
    working_share: float = 0.10
    restart_priority: int = 0
    restart_after: tuple[str, ...] = ()
    protected: bool = False
    service_class: str = "standard"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"profile {self.name}"
        need(bool(self.name.strip()), "profile.name: must not be empty")
        if isinstance(self.instructions, str):
            need_choice(owner, "instructions", self.instructions, sorted(PROFILES))
        need_choice(owner, "service_class", self.service_class, VM_CLASSES)
        if self.stall_share is not None:
            need_share(owner, stall_share=self.stall_share)
        need_share(owner, working_share=self.working_share)
        _need_pairs(owner, dirty_mib_s=self.dirty_mib_s)
        need(self.name not in self.restart_after, f"{owner}.restart_after: names itself")
        whole = math.isfinite(self.restart_priority) and float(self.restart_priority).is_integer()
        need(whole, f"{owner}.restart_priority={self.restart_priority}: must be a whole number")

    @property
    def operations(self) -> InstructionProfile:
        """Its sensitive operations as rates."""
        return PROFILES[self.instructions] if isinstance(self.instructions, str) else self.instructions

    @property
    def stalls(self) -> float:
        """Its memory-stall share as a number."""
        if self.stall_share is not None:
            return self.stall_share
        return STALL_SHARES[self.instructions if isinstance(self.instructions, str) else "general"]


GUEST_PROFILES: dict[str, GuestProfile] = {
    "default": GuestProfile(),
    "web": GuestProfile(
        name="web",
        instructions="io_bound",
        memory=MemoryProfile(touched_share=0.80, active_share=0.25, domain="web"),
        io=IoProfile(net_out_mbps=(0.5, 100.0), net_in_mbps=(0.2, 20.0), disk_read_mb_s=(0.0, 1.0)),
        dirty_mib_s=(0.5, 25.0),
        working_share=0.10,
        restart_priority=1,
    ),
    "batch": GuestProfile(
        name="batch",
        instructions="cpu_bound",
        cpu=CpuControl(shares="low"),
        memory=MemoryProfile(touched_share=0.90, active_share=0.40, domain="batch"),
        io=IoProfile(net_out_mbps=(0.1, 2.0), net_in_mbps=(0.1, 5.0), disk_read_mb_s=(0.0, 5.0)),
        dirty_mib_s=(0.5, 60.0),
        working_share=0.25,
        service_class="best_effort",
    ),
    "database": GuestProfile(
        name="database",
        instructions="memory_bound",
        cpu=CpuControl(shares="high"),
        memory=MemoryProfile(
            touched_share=0.95, active_share=0.60, zero_share=0.02, dup_share=0.05, domain="database"
        ),
        io=IoProfile(disk_read_mb_s=(0.2, 20.0), disk_write_mb_s=(0.2, 10.0), request_kib=16.0),
        dirty_mib_s=(2.0, 60.0),
        working_share=0.20,
        restart_priority=2,
        service_class="critical",
    ),
    "idle": GuestProfile(
        name="idle",
        memory=MemoryProfile(touched_share=0.40, active_share=0.05, zero_share=0.20, domain="idle"),
        io=IoProfile(
            net_out_mbps=(0.05, 1.0),
            net_in_mbps=(0.05, 1.0),
            disk_read_mb_s=(0.0, 0.1),
            disk_write_mb_s=(0.02, 0.1),
        ),
        dirty_mib_s=(0.2, 5.0),
        working_share=0.05,
    ),
}
"""Profiles by name [assumed]: what each is like, not what anybody's is."""
