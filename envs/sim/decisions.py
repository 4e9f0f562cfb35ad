"""What a policy may order at an interval, and the reasons for which an order is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from ..arrays import I4


class Reasons(dict[int, str]):
    """Texts by code; codes are numbered in the order in which they are declared, 0 = legal."""

    def add(self, text: str) -> int:
        """Declare a reason; returns its code."""
        code = len(self)
        self[code] = text
        return code


REASONS = Reasons({0: "legal"})
"""Why an order is refused; kernels answer with the codes, which are declared here by name."""

NO_SUCH = REASONS.add("no such VM or host")
NOT_RUNNING = REASONS.add("the VM is not running")
IS_MIGRATING = REASONS.add("the VM is already migrating")
IS_THERE = REASONS.add("the VM already runs on this host")
HOST_NOT_ON = REASONS.add("the host is off or shutting down")
LACKS_MEMORY = REASONS.add("the host lacks memory")
IS_DRAINING = REASONS.add("the host is to be switched off")
NOT_WAITING = REASONS.add("the VM is not waiting for a host")
NOT_OFF = REASONS.add("the host is not off")
HOLDS_VMS = REASONS.add("the host still holds VMs that stay")
NOT_ON = REASONS.add("the host is not on")
LACKS_CPU = REASONS.add("the host lacks nominal CPU for an arrival")
CORES_TOO_SLOW = REASONS.add("the host's cores are slower than the VM's vCPUs")
IN_MAINTENANCE = REASONS.add("the host is in maintenance")
NO_VIRT_TYPE = REASONS.add("the host does not offer this virtualization type")
NO_VIRT_EXTENSION = REASONS.add("the host's CPU has no virtualization extension")
OTHER_KERNEL = REASONS.add("an os_level VM needs a host with the same kernel")
LACKS_RESERVED_CPU = REASONS.add("the host lacks CPU for the VM's reservation")
LACKS_FUNCTIONS = REASONS.add("the host lacks passthrough functions")
MOVE_REFUSED_FEATURES = REASONS.add("the host lacks CPU features that the VM sees")
MOVE_REFUSED_KERNEL = REASONS.add("an os_level VM cannot move to another kernel")
MOVE_REFUSED_DEVICE = REASONS.add("the VM has a passthrough device that cannot migrate")
NO_NODE = REASONS.add("no NUMA node of the host has room")
UNNOTICED = REASONS.add("nobody has noticed yet that the VM failed")
HAS_FAILED = REASONS.add("the host has failed")
IS_SPARE = REASONS.add("the host is a spare without a profile")
HOLDS_SECONDARY = REASONS.add("the host holds the secondary of a protected VM")
NO_STANDBY = REASONS.add("a simple cluster has no standby")
LACKS_RESERVED_MEMORY = REASONS.add("the host lacks memory for the VM's reservation")
BREAKS_GUARANTEE = REASONS.add("the failover guarantee would not hold")
KEPT_FREE = REASONS.add("the host is kept free for failover")
BREAKS_MUST = REASONS.add("the VM must not run on this host")
BREAKS_ANTI_AFFINITY = REASONS.add("a VM that it is to be apart from is on the host")
BREAKS_AFFINITY = REASONS.add("the VMs that it is to be together with are elsewhere")


def _empty() -> I4:
    return np.empty(0, dtype=np.int32)


@dataclass(kw_only=True)
class Decisions:
    """Orders for one interval, applied in the order of the fields; a new kind of order is a field here, and a
    loop of ``orders.apply_orders``.

    Attributes:
        maintenance: Hosts that take no VM from now on, shape (n,); what is on them is to be moved away.
        end_maintenance: Hosts that take VMs again, shape (n,).
        power_on: Hosts to switch on, shape (n,). Also cancels a pending switch-off.
        full_power: Hosts to run without power management from now on (they draw peak power), shape (n,).
        place_vm: Waiting VMs to place, shape (n,).
        place_host: Their hosts, shape (n,).
        move_vm: VMs to migrate, shape (m,).
        move_host: Their destinations, shape (m,).
        power_off: Hosts to switch off, shape (n,): at once where empty, else when the last VM that is
            leaving has left.
        suspend: Hosts to suspend to memory, shape (n,); they must be empty.
    """

    maintenance: I4 = field(default_factory=_empty)
    end_maintenance: I4 = field(default_factory=_empty)
    power_on: I4 = field(default_factory=_empty)
    full_power: I4 = field(default_factory=_empty)
    place_vm: I4 = field(default_factory=_empty)
    place_host: I4 = field(default_factory=_empty)
    move_vm: I4 = field(default_factory=_empty)
    move_host: I4 = field(default_factory=_empty)
    power_off: I4 = field(default_factory=_empty)
    suspend: I4 = field(default_factory=_empty)

    def __len__(self) -> int:
        """Number of orders."""
        return sum(len(getattr(self, names[0])) for names in ORDERS.values())

    def subjects(self) -> Iterator[tuple[str, int, int]]:
        """Kind, VM (-1 = none) and host of every order, in the order in which they are applied."""
        for kind, names in ORDERS.items():
            parts = [np.asarray(getattr(self, name)).tolist() for name in names]
            vms = parts[0] if len(parts) == 2 else itertools.repeat(-1)
            yield from zip(itertools.repeat(kind), vms, parts[-1])


ORDERS: dict[str, tuple[str, ...]] = {
    f.name.removesuffix("_vm"): (f.name, f.name.removesuffix("vm") + "host")
    if f.name.endswith("_vm")
    else (f.name,)
    for f in fields(Decisions)
    if not f.name.endswith("_host")
}
"""The fields of every kind of order: hosts alone, or VMs and their hosts."""


@dataclass(frozen=True)
class Refusal:
    """An order that was refused.

    Attributes:
        kind: Key of ``ORDERS``.
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
