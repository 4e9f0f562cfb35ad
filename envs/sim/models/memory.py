"""Memory multiplexing: what hosts may reclaim and what it costs; parameters and arrays (docs §4).

The order of the tiers, who pays and the slowdown are in ``memory_tiers``.

**minFree**, which a host tries to keep free, is 899 MiB for the first 28 GiB plus 1 % of the rest [verified:
vSphere 6 memory states]. Smaller hosts keep less: 6 % of the first 4 GiB, 4 % of the next 8, 2 % of the next
16 [verified: sliding scale of Mem.MinFreePct], scaled by 0.998 to meet 899 MiB at 28 GiB.

**Touches.** Unless a trace says better, a VM touches each active page once in the window in which activity is
measured, 60 s [assumed: vSphere]: touch_rate = active / (page * 60 s).

Sources of the defaults: thresholds [verified: vSphere 6 memory states]; tax 0.75 and cost of a balloon, 1.4 %
at an eighth of the memory and 4.4 % at half of it [assumed: Waldspurger, OSDI 2002]; balloon limit 65 %,
compression limit 10 % [assumed: vSphere]; copy on write 1-2 us, decompression 20 us, swap 100 us (SSD) or
5-10 ms (disk) [assumed]; memory shares low / normal / high = 5 / 10 / 20 per MiB [assumed: vSphere]; the
shares of pages in ``MemoryProfile`` [assumed].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays import F8, I1, I4
from ...checks import need, need_choice, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel

DEVICES = ("ssd", "disk")

MEMORY_STATES = ("high", "clear", "soft", "hard", "low")
"""States of a host by free memory; their index is the code that kernels write."""

MEMORY_SHARES: dict[str, float] = {"low": 5.0, "normal": 10.0, "high": 20.0}
"""Memory shares per MiB by name."""

SCALE_MIB = ((4096.0, 0.06), (8192.0, 0.04), (16_384.0, 0.02))
MIN_FREE_MIB = 899.0
REST_SHARE = 0.01
PAGE_MIB = 4.0 / 1024.0
BALLOON_EIGHTH, BALLOON_HALF = 0.125, 0.5
"""Ballooned shares of a VM's memory at which the cost of a balloon is given."""
TINY_MIB = 1e-9
"""Amounts below this are rounding, not pressure (a page has 4e-3 MiB)."""


@dataclass(frozen=True)
class MemoryConfig:
    """How hosts reclaim memory, and what it costs.

    Attributes:
        soft: Ballooning starts below this multiple of minFree.
        hard: Compression and swapping start below this one.
        low: New memory is blocked below this one.
        idle_tax: tau, the tax on idle memory, 0 <= tau < 1.
        sharing: Whether zero and duplicate pages are shared.
        ballooning: Whether balloons inflate.
        compression: Whether pages are compressed before they are swapped.
        balloon_limit: Share of a VM's memory that its balloon takes at most.
        compression_limit: Share of a VM's memory that compression saves at most.
        compression_ratio: Size of a page over its compressed size, above 1.
        swap_device: ``ssd`` or ``disk``.
        shared_write_share: Share of touches of shared pages that write, and so break the sharing.
        copy_on_write_us: Cost of such a write, microseconds.
        decompress_us: Cost of touching a compressed page, microseconds.
        swap_ssd_us: Cost of touching a swapped page on SSD, microseconds.
        swap_disk_us: The same on disk.
        balloon_cpu_min: Share of a VM's CPU that a balloon of an eighth of its memory costs; a smaller one
            costs in proportion.
        balloon_cpu_max: The same for a balloon of half its memory; linear between the two, and beyond.
        active_window_s: Time in which every active page is touched once, s.
    """

    soft: float = 0.64
    hard: float = 0.32
    low: float = 0.16
    idle_tax: float = 0.75
    sharing: bool = True
    ballooning: bool = True
    compression: bool = True
    balloon_limit: float = 0.65
    compression_limit: float = 0.10
    compression_ratio: float = 2.0
    swap_device: str = "ssd"
    shared_write_share: float = 0.10
    copy_on_write_us: float = 1.5
    decompress_us: float = 20.0
    swap_ssd_us: float = 100.0
    swap_disk_us: float = 7500.0
    balloon_cpu_min: float = 0.014
    balloon_cpu_max: float = 0.044
    active_window_s: float = 60.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need(
            1 >= self.soft >= self.hard >= self.low >= 0,
            f"memory.soft={self.soft}, hard={self.hard}, low={self.low}: must fall, within 1..0",
        )
        need(0 <= self.idle_tax < 1, f"memory.idle_tax={self.idle_tax}: must be at least 0 and under 1")
        need_share(
            "memory",
            balloon_limit=self.balloon_limit,
            compression_limit=self.compression_limit,
            shared_write_share=self.shared_write_share,
            balloon_cpu_min=self.balloon_cpu_min,
            balloon_cpu_max=self.balloon_cpu_max,
        )
        ratio = self.compression_ratio
        need(math.isfinite(ratio) and ratio > 1, f"memory.compression_ratio={ratio}: must be above 1")
        need_choice("memory", "swap_device", self.swap_device, DEVICES)
        need(
            self.balloon_cpu_max >= self.balloon_cpu_min,
            f"memory.balloon_cpu_max={self.balloon_cpu_max}: must be at least balloon_cpu_min",
        )
        need_not_negative(
            "memory",
            copy_on_write_us=self.copy_on_write_us,
            decompress_us=self.decompress_us,
            swap_ssd_us=self.swap_ssd_us,
            swap_disk_us=self.swap_disk_us,
        )
        need_positive("memory", active_window_s=self.active_window_s)

    @property
    def costs(self) -> MemoryCosts:
        """The same as numbers for the kernels."""
        return MemoryCosts(
            self.soft,
            self.hard,
            self.low,
            1.0 / (1.0 - self.idle_tax),
            float(self.sharing),
            self.balloon_limit if self.ballooning else 0.0,
            self.compression_limit if self.compression else 0.0,
            self.compression_ratio / (self.compression_ratio - 1.0),
            self.shared_write_share * self.copy_on_write_us * 1e-6,
            self.decompress_us * 1e-6,
            (self.swap_ssd_us if self.swap_device == "ssd" else self.swap_disk_us) * 1e-6,
            self.balloon_cpu_min,
            self.balloon_cpu_max,
        )


@dataclass(frozen=True)
class MemoryProfile:
    """How a kind of VM uses its memory, where no trace says it.

    Attributes:
        touched_share: Share of the configured memory that the guest has ever used.
        active_share: Share of the configured memory in use now, at most ``touched_share``.
        zero_share: Zero pages, share of touched memory.
        dup_share: Pages that others in the sharing domain hold too, share of touched memory.
        domain: Sharing domain, such as an operating system image; empty = shares with nobody.
        reservation_mib: Memory that is never reclaimed, MiB.
        shares: Priority per MiB: a number, or ``low``, ``normal``, ``high``.
        balloon_driver: Whether the guest has a balloon (containers have none).
    """

    touched_share: float = 1.0
    active_share: float = 0.25
    zero_share: float = 0.05
    dup_share: float = 0.10
    domain: str = ""
    reservation_mib: float = 0.0
    shares: float | str = "normal"
    balloon_driver: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = "memory.profile"
        need_share(owner, touched_share=self.touched_share, active_share=self.active_share)
        need_share(owner, zero_share=self.zero_share, dup_share=self.dup_share)
        need(
            self.active_share <= self.touched_share,
            f"{owner}.active_share={self.active_share}: must be at most touched_share={self.touched_share}",
        )
        need(
            self.zero_share + self.dup_share <= 1,
            f"{owner}.zero_share={self.zero_share}, dup_share={self.dup_share}: their sum must be at most 1",
        )
        need_not_negative(owner, reservation_mib=self.reservation_mib)
        if isinstance(self.shares, str):
            known = ", ".join(MEMORY_SHARES)
            need(self.shares in MEMORY_SHARES, f"{owner}.shares={self.shares}: a number or one of {known}")
        else:
            need_positive(owner, shares=self.shares)

    @property
    def shares_per_mib(self) -> float:
        """Shares of one MiB as a number."""
        return MEMORY_SHARES[self.shares] if isinstance(self.shares, str) else float(self.shares)


class MemoryCosts(NamedTuple):
    """``MemoryConfig`` as numbers."""

    memory_soft: float
    memory_hard: float
    memory_low: float
    memory_idle_cost: float  # k = 1 / (1 - tau)
    memory_sharing: float  # 1 or 0
    memory_balloon_limit: float  # share of the VM's memory
    memory_compression_limit: float  # share of the VM's memory
    memory_pages_per_saved: float  # MiB of pages compressed per MiB saved
    memory_share_s: float  # cost of one touch of a shared page, s
    memory_decompress_s: float  # s
    memory_swap_s: float  # s
    memory_balloon_cpu_min: float
    memory_balloon_cpu_max: float


class MemoryInputs(NamedTuple):
    """What VMs hold and what they are entitled to; V VMs."""

    vm_mem_mib: F8  # (V,) configured, MiB
    vm_touched_mib: F8  # (V,) ever used by the guest, at most configured, MiB
    vm_active_mib: F8  # (V,) in use now, at most touched, MiB
    vm_mem_reservation_mib: F8  # (V,) MiB
    vm_mem_shares: F8  # (V,) > 0
    vm_zero_share: F8  # (V,) zero pages, share of touched
    vm_dup_share: F8  # (V,) pages that others in the domain hold too, share of touched; zero + dup <= 1
    vm_domain: I4  # (V,) sharing domain, -1 = none
    vm_balloon_driver: I1  # (V,) 1: the guest has one
    vm_touch_rate: F8  # (V,) page touches per second


class MemoryOutputs(NamedTuple):
    """Where the memory is, and what it costs; V VMs, H hosts."""

    vm_resident_mib: F8  # (V,)
    vm_shared_mib: F8  # (V,)
    vm_ballooned_mib: F8  # (V,)
    vm_compressed_mib: F8  # (V,) saved by compression
    vm_swapped_mib: F8  # (V,)
    vm_blocked_mib: F8  # (V,) never allocated
    vm_mem_slowdown: F8  # (V,) at least 1
    host_free_mib: F8  # (H,) after reclamation
    host_mem_state: I1  # (H,) index into MEMORY_STATES


def memory_inputs(
    profiles: Sequence[MemoryProfile], profile_of: I4, vm_mem_mib: F8, config: MemoryConfig
) -> MemoryInputs:
    """Flatten the profiles of all VMs.

    Args:
        profiles: Kinds of VMs.
        profile_of: Index into ``profiles`` per VM, shape (V,).
        vm_mem_mib: Configured memory, shape (V,), MiB.
        config: For the window of ``touch_rates``.

    Returns:
        Arrays for the kernels; where a trace has its own, overwrite them.

    Raises:
        ConfigError: If a VM reserves more memory than it has.
    """
    mem = np.ascontiguousarray(vm_mem_mib, dtype=np.float64)
    number = {name: i for i, name in enumerate(sorted({profile.domain for profile in profiles} - {""}))}

    def column(values: list[float]) -> F8:
        return np.ascontiguousarray(np.array(values, dtype=np.float64)[profile_of])

    reservation = column([profile.reservation_mib for profile in profiles])
    for v in np.flatnonzero(reservation > mem)[:1].tolist():
        need(False, f"vm {v}: reservation_mib={reservation[v]}: must be at most its memory, {mem[v]} MiB")
    active = column([profile.active_share for profile in profiles]) * mem
    return MemoryInputs(
        vm_mem_mib=mem,
        vm_touched_mib=column([profile.touched_share for profile in profiles]) * mem,
        vm_active_mib=active,
        vm_mem_reservation_mib=reservation,
        vm_mem_shares=column([profile.shares_per_mib for profile in profiles]) * mem,
        vm_zero_share=column([profile.zero_share for profile in profiles]),
        vm_dup_share=column([profile.dup_share for profile in profiles]),
        vm_domain=np.array([number.get(profile.domain, -1) for profile in profiles], np.int32)[profile_of],
        vm_balloon_driver=np.array([profile.balloon_driver for profile in profiles], np.int8)[profile_of],
        vm_touch_rate=touch_rates(active, config.active_window_s),
    )


def memory_outputs(n_hosts: int, n_vms: int) -> MemoryOutputs:
    """Allocate the answer for H hosts and V VMs."""
    resident, shared, ballooned, compressed, swapped, blocked = np.zeros((6, n_vms))
    return MemoryOutputs(
        *(resident, shared, ballooned, compressed, swapped, blocked),
        vm_mem_slowdown=np.ones(n_vms),
        host_free_mib=np.zeros(n_hosts),
        host_mem_state=np.zeros(n_hosts, dtype=np.int8),
    )


@kernel
def min_free_mib(memory_mib: float) -> float:
    """minFree: the memory that a host tries to keep free.

    Args:
        memory_mib: Physical memory, MiB.

    Returns:
        MiB; 899 at 28 GiB.
    """
    kept = 0.0
    full = 0.0
    left = memory_mib
    for size, share in SCALE_MIB:
        kept += min(left, size) * share
        full += size * share
        left = max(0.0, left - size)
    return kept * (MIN_FREE_MIB / full) + left * REST_SHARE


def touch_rates(vm_active_mib: F8, active_window_s: float) -> F8:
    """Page touches per second if every active page is touched once in a window.

    Args:
        vm_active_mib: Active memory, any shape, MiB.
        active_window_s: The window, s (``MemoryConfig.active_window_s``).

    Returns:
        Touches per second, same shape.
    """
    return vm_active_mib / (PAGE_MIB * active_window_s)
