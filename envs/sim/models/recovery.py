"""Recovery after failures (docs §8): cold restart of VMs, and stateless hosts whose identity moves.

Cold standby. A host is taken for dead 15 s after its last heartbeat (verified), then its VMs restart on other
hosts in the order of their restart priority:

    VM outage = detect + placement + boot (60 s), and waiting while nothing fits

A VM that crashes alone boots again where it is: VM outage = VM detect (30 s) + boot.

Stateless computing. A host's identity (UUID, MAC/WWN, BIOS and boot-from-SAN settings) is a *profile* that
can move to a spare of compatible hardware, that is of the same host type:

    host outage = detect + associate (600 s, from memory; below 20 min verified in a public demo) + boot

The cluster has its capacity back then, before the broken machine is repaired; it is HA that brings the VMs
back. Once repaired, the machine that lost its profile is the spare. The two outages are reported apart.

The engine's side of this is ``outages``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays import F8, I4
from ...checks import need_not_negative


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
