"""What a cluster is made of: frozen descriptions with units, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .power import SPEC_POWER_W

__all__ = [
    "ARRIVAL_RULES",
    "MEMORY_RULES",
    "ClusterConfig",
    "HostType",
    "MigrationConfig",
    "VmType",
]

MemoryRule = Literal["ignored", "binding"]
ArrivalRule = Literal["first_fit", "best_fit", "worst_fit", "pabfd", "policy"]
MEMORY_RULES: tuple[str, ...] = get_args(MemoryRule)
ARRIVAL_RULES: tuple[str, ...] = get_args(ArrivalRule)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _is_count(value: float) -> bool:
    return value >= 1 and float(value).is_integer()


def _positive(owner: str, **values: float) -> None:
    for key, value in values.items():
        _require(math.isfinite(value) and value > 0, f"{owner}.{key}={value}: must be a positive number")


def _not_negative(owner: str, **values: float) -> None:
    for key, value in values.items():
        _require(math.isfinite(value) and value >= 0, f"{owner}.{key}={value}: must be 0 or more")


@dataclass(frozen=True)
class HostType:
    """One kind of physical host.

    Attributes:
        name: Label in reports.
        cores: Physical cores.
        core_mhz: Speed of one core, MHz (a CloudSim MIPS counts as 1 MHz).
        memory_mib: Physical memory, MiB.
        power_w: Power at equally spaced loads from 0 to 100 %, W (11 points in SPECpower tables), or
            the name of a table in ``power.SPEC_POWER_W``.
        nic_mbps: Network bandwidth, Mbit/s.
        boot_time_s: Off to on, s.
        shutdown_time_s: On to off, s.
        boot_power_w: Power while booting, W; None = mean of idle and peak.
        shutdown_power_w: Power while shutting down, W; None = idle.
    """

    name: str
    cores: int
    core_mhz: float
    memory_mib: float
    power_w: tuple[float, ...] | str
    nic_mbps: float = 1000.0
    boot_time_s: float = 240.0
    shutdown_time_s: float = 60.0
    boot_power_w: float | None = None
    shutdown_power_w: float | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"host type {self.name}"
        _require(_is_count(self.cores), f"{owner}.cores={self.cores}: must be a whole number, at least 1")
        _positive(owner, core_mhz=self.core_mhz, memory_mib=self.memory_mib, nic_mbps=self.nic_mbps)
        _not_negative(owner, boot_time_s=self.boot_time_s, shutdown_time_s=self.shutdown_time_s)
        if isinstance(self.power_w, str):
            known = ", ".join(sorted(SPEC_POWER_W))
            _require(
                self.power_w in SPEC_POWER_W,
                f"{owner}.power_w={self.power_w}: no such table (known: {known})",
            )
        else:
            _require(len(self.power_w) >= 2, f"{owner}.power_w: needs at least 2 points")
            _require(
                all(math.isfinite(w) and w >= 0 for w in self.power_w),
                f"{owner}.power_w: every point must be 0 or more",
            )
        for key in ("boot_power_w", "shutdown_power_w"):
            value = getattr(self, key)
            if value is not None:
                _not_negative(owner, **{key: value})

    @property
    def table_w(self) -> tuple[float, ...]:
        """The power table, W."""
        return SPEC_POWER_W[self.power_w] if isinstance(self.power_w, str) else tuple(self.power_w)

    @property
    def cpu_mhz(self) -> float:
        """CPU capacity of the whole host, MHz."""
        return self.cores * self.core_mhz


@dataclass(frozen=True)
class VmType:
    """One kind of virtual machine.

    Attributes:
        name: Label in reports.
        vcpus: Virtual CPUs.
        vcpu_mhz: Nominal speed of one vCPU, MHz.
        memory_mib: Configured memory, MiB.
    """

    name: str
    vcpus: int
    vcpu_mhz: float
    memory_mib: float

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"VM type {self.name}"
        _require(_is_count(self.vcpus), f"{owner}.vcpus={self.vcpus}: must be a whole number, at least 1")
        _positive(owner, vcpu_mhz=self.vcpu_mhz, memory_mib=self.memory_mib)

    @property
    def cpu_mhz(self) -> float:
        """Nominal CPU of the VM, MHz."""
        return self.vcpus * self.vcpu_mhz


@dataclass(frozen=True)
class MigrationConfig:
    """Live migration with a fixed copy rate: duration = memory / rate.

    Attributes:
        bandwidth_mbps: Rate of one memory copy, Mbit/s. The default moves 62.5 MiB/s, the literature's
            half of a 1 Gbit/s link (Beloglazov & Buyya 2012).
        cpu_loss: Share of its granted CPU that a VM loses while it moves.
        dest_cpu_share: Share of the VM's CPU that the copy costs on the destination.
    """

    bandwidth_mbps: float = 62.5 * 8.388608
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        _positive("migration", bandwidth_mbps=self.bandwidth_mbps)
        for key in ("cpu_loss", "dest_cpu_share"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"migration.{key}={value}: must lie in 0..1")

    @property
    def rate_mib_s(self) -> float:
        """Copy rate, MiB/s (1 Mbit/s = 1e6 / 8 / 2**20 MiB/s)."""
        return self.bandwidth_mbps / 8.388608


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster and the rules that it runs by.

    Attributes:
        host_types: Kinds of hosts.
        host_type_of: Index into ``host_types`` per host, shape (H,).
        interval_s: Time between two decisions, s.
        memory: ``ignored``: memory binds only when a VM arrives (the literature's rule); ``binding``:
            configured memory must fit at every placement, on both ends of a migration.
        arrival: Who places an arriving VM: a rule at its arrival, or ``policy`` at the next interval.
        arrival_cpu_overcommit: Arrivals fit while nominal CPU stays under this multiple of capacity.
        arrival_core_speed: Whether a vCPU may only arrive on a host with cores at least as fast.
        auto_boot: Whether an arrival that fits on no running host boots one.
        hosts_start_on: Whether hosts are on at time 0.
        migration: Live migration.
    """

    host_types: tuple[HostType, ...]
    host_type_of: NDArray[np.int32]
    interval_s: float = 300.0
    memory: MemoryRule = "binding"
    arrival: ArrivalRule = "first_fit"
    arrival_cpu_overcommit: float = 1.0
    arrival_core_speed: bool = False
    auto_boot: bool = True
    hosts_start_on: bool = True
    migration: MigrationConfig = field(default_factory=MigrationConfig)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        _require(len(self.host_types) > 0, "cluster.host_types: needs at least one host type")
        kinds = np.asarray(self.host_type_of)
        _require(kinds.ndim == 1 and kinds.size > 0, "cluster.hosts: needs at least one host")
        _require(
            kinds.dtype.kind in "iu" and int(kinds.min()) >= 0 and int(kinds.max()) < len(self.host_types),
            f"cluster.host_type_of: must be integers in 0..{len(self.host_types) - 1}",
        )
        _positive("cluster", interval_s=self.interval_s, arrival_cpu_overcommit=self.arrival_cpu_overcommit)
        for key, allowed in (("memory", MEMORY_RULES), ("arrival", ARRIVAL_RULES)):
            value = getattr(self, key)
            _require(value in allowed, f"cluster.{key}={value}: must be one of {', '.join(allowed)}")

    @property
    def n_hosts(self) -> int:
        """Number of hosts."""
        return int(self.host_type_of.shape[0])
