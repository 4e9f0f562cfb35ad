"""Hosts and VMs of the plain-Python twin: each remembers when its rates last changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from virtgym.envs.sim.config import HostType

__all__ = ["PlainHost", "PlainVm"]


@dataclass(eq=False, slots=True)
class PlainHost:
    """One host: what it holds, its rates since ``since_s`` and its integrals up to then."""

    index: int
    kind: HostType
    state: str = "off"  # off, booting, on, stopping
    draining: bool = False
    full_power: bool = False
    closed: bool = False  # in maintenance
    residents: list[PlainVm] = field(default_factory=list)
    incoming: list[PlainVm] = field(default_factory=list)
    since_s: float = 0.0
    power_w: float = 0.0
    short: bool = False
    energy_j: float = 0.0
    short_s: float = 0.0
    active_s: float = 0.0
    on_s: float = 0.0
    was_on: bool = False
    was_active: bool = False

    def capacity(self) -> float:
        """CPU, MHz."""
        return self.kind.cores * self.kind.core_mhz

    def memory(self) -> float:
        """Memory that is spoken for, MiB."""
        return math.fsum(vm.mem_mib for vm in self.residents + self.incoming)

    def nominal(self) -> float:
        """Nominal CPU that is spoken for, MHz."""
        return math.fsum(vm.cpu_mhz for vm in self.residents + self.incoming)

    def power_at(self, load: float) -> float:
        """Power while on at a load, W: linear between the points of the table."""
        table = self.kind.table_w
        x = min(max(load, 0.0), 1.0) * (len(table) - 1)
        below = min(int(x), len(table) - 2)
        return table[below] + (table[below + 1] - table[below]) * (x - below)

    def settle(self, now_s: float) -> None:
        """Bring the integrals up to now."""
        duration = now_s - self.since_s
        self.energy_j += self.power_w * duration
        self.short_s += self.short * duration
        self.active_s += self.was_active * duration
        self.on_s += self.was_on * duration
        self.since_s = now_s


@dataclass(eq=False, slots=True)
class PlainVm:
    """One VM: where it is, its rates since ``since_s`` and its integrals up to then."""

    index: int
    cpu_mhz: float
    vcpus: int
    mem_mib: float
    arrival_s: float
    departure_s: float
    state: str = "absent"  # absent, waiting, running, gone
    host: PlainHost | None = None
    dest: PlainHost | None = None  # of a migration, or the booting host that a waiting VM was given
    copying: bool = False
    copying_since_s: float = 0.0
    judged: bool = False  # whether the policy had its first chance to place it
    demand: float = 0.0
    missing: float = 0.0
    losing: float = 0.0
    since_s: float = 0.0
    requested: float = 0.0
    missed: float = 0.0
    lost: float = 0.0
    down_s: float = 0.0
    left: PlainHost | None = None
    moved_s: float = -math.inf

    def ask(self) -> float:
        """What it asks of its host: no vCPU gets more than one core, MHz."""
        return min(self.demand, self.vcpus * self.host.kind.core_mhz) if self.host else 0.0

    def settle(self, now_s: float) -> None:
        """Bring the integrals up to now."""
        duration = now_s - self.since_s
        self.requested += self.demand * duration
        self.missed += self.missing * duration
        self.lost += self.losing * duration
        if self.state == "waiting":
            self.down_s += duration
        self.since_s = now_s
