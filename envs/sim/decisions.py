"""What a policy may order at an interval, and the reasons for which an order is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..arrays import I4

REASONS: dict[int, str] = {
    0: "legal",
    1: "no such VM or host",
    2: "the VM is not running",
    3: "the VM is already migrating",
    4: "the VM already runs on this host",
    5: "the host is off or shutting down",
    6: "the host lacks memory",
    7: "the host is to be switched off",
    8: "the VM is not waiting for a host",
    9: "the host is not off",
    10: "the host still holds VMs that stay",
    11: "the host is not on",
    12: "the host lacks nominal CPU for an arrival",
    13: "the host's cores are slower than the VM's vCPUs",
    14: "the host is in maintenance",
    15: "the host does not offer this virtualization type",
    16: "the host's CPU has no virtualization extension",
    17: "an os_level VM needs a host with the same kernel",
    18: "the host lacks CPU for the VM's reservation",
    19: "the host lacks passthrough functions",
    20: "the host lacks CPU features that the VM sees",
    21: "an os_level VM cannot move to another kernel",
    22: "the VM has a passthrough device that cannot migrate",
    23: "no NUMA node of the host has room",
    24: "nobody has noticed yet that the VM failed",
    25: "the host has failed",
    26: "the host is a spare without a profile",
    27: "the host holds the secondary of a protected VM",
    28: "a simple cluster has no standby",
    29: "the host lacks memory for the VM's reservation",
}
"""Reason codes of refusals."""


def _empty() -> I4:
    return np.empty(0, dtype=np.int32)


@dataclass
class Decisions:
    """Orders for one interval, applied in the order of the fields.

    Attributes:
        power_on: Hosts to switch on, shape (n,). Also cancels a pending switch-off.
        full_power: Hosts to run without power management from now on (they draw peak power), shape (n,).
        place_vm: Waiting VMs to place, shape (n,).
        place_host: Their hosts, shape (n,).
        move_vm: VMs to migrate, shape (m,).
        move_host: Their destinations, shape (m,).
        power_off: Hosts to switch off, shape (n,): at once where empty, else when the last VM that is
            leaving has left.
        suspend: Hosts to suspend to memory, shape (n,); they must be empty.
        maintenance: Hosts that take no VM from now on, shape (n,); what is on them is to be moved away.
        end_maintenance: Hosts that take VMs again, shape (n,). Both come before all other orders.
    """

    power_on: I4 = field(default_factory=_empty)
    full_power: I4 = field(default_factory=_empty)
    place_vm: I4 = field(default_factory=_empty)
    place_host: I4 = field(default_factory=_empty)
    move_vm: I4 = field(default_factory=_empty)
    move_host: I4 = field(default_factory=_empty)
    power_off: I4 = field(default_factory=_empty)
    suspend: I4 = field(default_factory=_empty)
    maintenance: I4 = field(default_factory=_empty)
    end_maintenance: I4 = field(default_factory=_empty)

    def __len__(self) -> int:
        """Number of orders."""
        return sum(
            len(part)
            for part in (
                *(self.power_on, self.full_power, self.place_vm, self.move_vm, self.power_off),
                *(self.suspend, self.maintenance, self.end_maintenance),
            )
        )


@dataclass(frozen=True)
class Refusal:
    """An order that was refused.

    Attributes:
        kind: Field of ``Decisions`` that the order stands in, ``place`` and ``move`` for the pairs.
        vm: VM, -1 = none.
        host: Host.
        code: Key of ``REASONS``.
    """

    kind: str
    vm: int
    host: int
    code: int

    def __str__(self) -> str:
        """One line: what was refused and why."""
        subject = (
            f"{self.kind}: vm {self.vm} to host {self.host}"
            if self.vm >= 0
            else f"{self.kind}: host {self.host}"
        )
        return f"{subject}: {REASONS[self.code]}"
