"""Recovery after failures (model.md §8): cold restart of VMs, and stateless hosts whose identity moves.

Cold standby. A host is taken for dead 15 s after its last heartbeat (verified), then its VMs restart on other
hosts in the order of their restart priority:

    VM outage = detect + placement + boot (60 s), and waiting while nothing fits

Stateless computing. A host's identity (UUID, MAC/WWN, BIOS and boot-from-SAN settings) is a *profile* that
can move to a spare of compatible hardware:

    host outage = detect + associate (600 s, from memory; below 20 min verified in a public demo) + boot

The cluster has its capacity back then, before the broken machine is repaired; it is HA that brings the VMs
back. Once repaired, the machine that lost its profile is the spare. The two outages are reported apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .validation import need_not_negative

__all__ = [
    "RecoveryConfig",
    "first_attempt_s",
    "move_profiles",
    "place_restarts",
    "profile_up_s",
    "restart_order",
    "vm_up_s",
]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]
B1 = NDArray[np.bool_]

MEM_SLACK = 1.0 + 1e-9
"""Sums of floats: this much above capacity still fits."""


@dataclass(frozen=True)
class RecoveryConfig:
    """Times of recovery.

    Attributes:
        detect_s: From a host's failure to its being taken for dead, s (verified, 15).
        vm_detect_s: From the crash of a VM alone to its being noticed, s (vSphere's VM monitoring, 30, from
            memory).
        placement_s: To find a host and register the VM, s (assumed, 0).
        boot_s: To boot a VM, s.
        associate_s: To move a profile to a spare, s (from memory, 600).
    """

    detect_s: float = 15.0
    vm_detect_s: float = 30.0
    placement_s: float = 0.0
    boot_s: float = 60.0
    associate_s: float = 600.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative(
            "recovery",
            detect_s=self.detect_s,
            vm_detect_s=self.vm_detect_s,
            placement_s=self.placement_s,
            boot_s=self.boot_s,
            associate_s=self.associate_s,
        )


def first_attempt_s(config: RecoveryConfig, down_s: float, host_failed: bool) -> float:
    """When a VM that went down can first be placed again, s.

    Args:
        config: Times.
        down_s: When it went down, s.
        host_failed: Whether its host failed; else it crashed alone.
    """
    return down_s + (config.detect_s if host_failed else config.vm_detect_s) + config.placement_s


def vm_up_s(config: RecoveryConfig, placed_s: float) -> float:
    """When a VM that was placed again at ``placed_s`` works, s."""
    return placed_s + config.boot_s


def profile_up_s(config: RecoveryConfig, down_s: float, host_boot_s: float) -> float:
    """When a failed host's profile is up on a spare that was free at once, s.

    Args:
        config: Times.
        down_s: When the host failed, s.
        host_boot_s: Boot time of the spare, s.
    """
    return down_s + config.detect_s + config.associate_s + host_boot_s


def restart_order(vms: I4, vm_priority: I4, vm_down_since_s: F8) -> I4:
    """Order in which VMs restart: highest priority, then longest down, then lowest index.

    Args:
        vms: VMs that wait, shape (N,).
        vm_priority: Restart priority of every VM, shape (V,).
        vm_down_since_s: When each went down, s, shape (V,).

    Returns:
        The VMs in order, shape (N,).
    """
    return vms[np.lexsort((vms, vm_down_since_s[vms], -vm_priority[vms]))].astype(np.int32)


@njit(cache=True)
def place_restarts(
    vms: I4,
    vm_cpu_mhz: F8,
    vm_mem_mib: F8,
    host_usable: B1,
    host_cpu_mhz: F8,
    host_mem_mib: F8,
    used_cpu_mhz: F8,
    used_mem_mib: F8,
    to_host: I4,
) -> int:
    """Place VMs by first fit: each in turn on the lowest host with room for it.

    A VM that fits nowhere waits and does not hold up the ones after it.

    Args:
        vms: In order of restart, shape (N,).
        vm_cpu_mhz: CPU that counts for room (a reservation, or the nominal CPU), MHz, shape (V,).
        vm_mem_mib: Memory, MiB, shape (V,).
        host_usable: On, healthy, not on the way out, shape (H,).
        host_cpu_mhz: CPU that may be given out, MHz, shape (H,).
        host_mem_mib: Memory that may be given out, MiB, shape (H,).
        used_cpu_mhz: CPU given out, MHz, shape (H,); increased.
        used_mem_mib: Memory given out, MiB, shape (H,); increased.
        to_host: Written: host per VM of ``vms``, -1 = waits, shape (N,).

    Returns:
        Number of VMs placed.
    """
    placed = 0
    for i in range(vms.shape[0]):
        cpu, mem = vm_cpu_mhz[vms[i]], vm_mem_mib[vms[i]]
        to_host[i] = -1
        for h in range(host_usable.shape[0]):
            if (
                host_usable[h]
                and used_mem_mib[h] + mem <= host_mem_mib[h] * MEM_SLACK
                and used_cpu_mhz[h] + cpu <= host_cpu_mhz[h] * MEM_SLACK
            ):
                used_cpu_mhz[h] += cpu
                used_mem_mib[h] += mem
                to_host[i] = h
                placed += 1
                break
    return placed


@njit(cache=True)
def move_profiles(
    failed: I4, host_profile: I4, host_hardware: I4, spare_ready: B1, fits: B1, to_spare: I4
) -> Any:
    """Move the profiles of failed hosts to spares, each to the lowest compatible one.

    Args:
        failed: Failed hosts in the order in which they are served, shape (N,).
        host_profile: Profile on every host, -1 = none, shape (H,); rewritten.
        host_hardware: Hardware model of every host, shape (H,).
        spare_ready: Healthy and idle, so that it could take a profile; only hosts without one do, shape (H,).
        fits: ``fits[a, b]``: a profile made for hardware a runs on hardware b, shape (K, K).
        to_spare: Written: spare per host of ``failed``; -1 = there is none, or it had no profile, shape (N,).

    Returns:
        Number of profiles moved.
    """
    moved = 0
    for i in range(failed.shape[0]):
        a = failed[i]
        to_spare[i] = -1
        if host_profile[a] < 0:
            continue
        for h in range(host_profile.shape[0]):
            if spare_ready[h] and h != a and host_profile[h] < 0 and fits[host_hardware[a], host_hardware[h]]:
                host_profile[h] = host_profile[a]
                host_profile[a] = -1
                to_spare[i] = h
                moved += 1
                break
    return moved
