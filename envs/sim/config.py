"""What a cluster is made of: frozen descriptions with units, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checks import need, need_choice, need_count, need_not_negative, need_positive, need_share
from .agenda import Event
from .models.admission import AdmissionConfig
from .models.carbon import CarbonSeries
from .models.compatibility import CPU_LEVELS, CpuLevels
from .models.cost import CostConfig
from .models.failures import FailureConfig, FailureDomain, Incident, Outages
from .models.io_path import IoConfig
from .models.memory import MemoryConfig
from .models.numa_nodes import MAX_NODES, NumaConfig
from .models.overhead import HostVirtualization, OverheadConfig
from .models.power import SPEC_POWER_W, PowerConfig, PowerCurve
from .models.precopy import PrecopyConfig
from .models.recovery import RecoveryConfig
from .models.rules import Rules
from .models.scheduling import SchedulingConfig
from .models.standby import StandbyConfig
from .models.telemetry import TelemetryConfig

MEMORY_RULES = ("ignored", "binding", "multiplexed")
ARRIVAL_RULES = ("first_fit", "best_fit", "worst_fit", "pabfd", "policy")
RESTART_RULES = ("first_fit", "policy")


MOST_W = 1e9
"""Most that a host may draw, W: energies of many stay numbers."""


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
        numa_nodes: NUMA nodes; each has the same part of cores and memory (read where NUMA is on).
        virtualization: What it can run.
        cpu_level: CPU generation, a level of ``compatibility.CPU_LEVELS``; None = no limits of compatibility.
        io_functions: Passthrough functions; None = ``IoConfig.functions_per_host``.
        curve: Power over load in place of ``power_w``, if it is not of kind ``table``.
    """

    name: str = "host"
    cores: int = 2
    core_mhz: float = 2000.0
    memory_mib: float = 4096.0
    power_w: tuple[float, ...] | str = "hp_ml110_g4"
    nic_mbps: float = 1000.0
    boot_time_s: float = 240.0
    shutdown_time_s: float = 60.0
    boot_power_w: float | None = None
    shutdown_power_w: float | None = None
    numa_nodes: int = 1
    virtualization: HostVirtualization = field(default_factory=HostVirtualization)
    cpu_level: str | None = None
    io_functions: int | None = None
    curve: PowerCurve = field(default_factory=PowerCurve)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"host type {self.name}"
        need_count(owner, cores=self.cores)
        need_positive(owner, core_mhz=self.core_mhz, memory_mib=self.memory_mib, nic_mbps=self.nic_mbps)
        need_not_negative(owner, boot_time_s=self.boot_time_s, shutdown_time_s=self.shutdown_time_s)
        if isinstance(self.power_w, str):
            known = ", ".join(sorted(SPEC_POWER_W))
            need(
                self.power_w in SPEC_POWER_W,
                f"{owner}.power_w={self.power_w}: no such table (known: {known})",
            )
        else:
            shown = list(self.power_w) if isinstance(self.power_w, tuple) else self.power_w
            need(
                isinstance(self.power_w, Sequence)
                and all(isinstance(w, int | float) and not isinstance(w, bool) for w in self.power_w),
                f"{owner}.power_w={shown}: must be the name of a table, or a list of watts at equally "
                "spaced loads",
            )
            need(len(self.power_w) >= 2, f"{owner}.power_w: needs at least 2 points")
            need_not_negative(owner, **{f"power_w[{i}]": w for i, w in enumerate(self.power_w)})
        for key in ("boot_power_w", "shutdown_power_w"):
            value = getattr(self, key)
            if value is not None:
                need_not_negative(owner, **{key: value})
        peak = "power_w" if self.curve.kind == "table" else "curve.peak_w"
        drawn = {peak: max(self.table_w), "curve.busy_w": self.curve.busy_w}
        drawn |= {key: getattr(self, key) or 0.0 for key in ("boot_power_w", "shutdown_power_w")}
        for key, watts in drawn.items():
            need(watts <= MOST_W, f"{owner}.{key}={watts:g}: must be at most {MOST_W:g} W")
        self._check_models(owner)

    def _check_models(self, owner: str) -> None:
        nodes, most = self.numa_nodes, min(MAX_NODES, int(self.cores))
        need(
            nodes in range(1, most + 1),
            f"{owner}.numa_nodes={nodes}: must be a whole number in 1..{most} (every node needs a core)",
        )
        if self.cpu_level is not None:
            known = CpuLevels(CPU_LEVELS).names
            need(
                self.cpu_level in known,
                f"{owner}.cpu_level={self.cpu_level}: no such level (known: {', '.join(known)})",
            )
        if self.io_functions is not None:
            need_count(owner, low=0, io_functions=self.io_functions)

    @property
    def table_w(self) -> tuple[float, ...]:
        """The power table, W; of an analytic curve idle and peak."""
        if self.curve.kind != "table":
            return self.curve.idle_w, self.curve.peak_w
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

    name: str = "vm"
    vcpus: int = 1
    vcpu_mhz: float = 1000.0
    memory_mib: float = 1024.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = f"VM type {self.name}"
        need_count(owner, vcpus=self.vcpus)
        need_positive(owner, vcpu_mhz=self.vcpu_mhz, memory_mib=self.memory_mib)

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
        need_positive("migration", bandwidth_mbps=self.bandwidth_mbps)
        need_share("migration", cpu_loss=self.cpu_loss, dest_cpu_share=self.dest_cpu_share)

    @property
    def rate_mib_s(self) -> float:
        """Copy rate, MiB/s (1 Mbit/s = 1e6 / 8 / 2**20 MiB/s)."""
        return self.bandwidth_mbps / 8.388608


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster and the rules that it runs by.

    Every sub-model is off (None) unless it is given, and then costs nothing.

    Attributes:
        host_types: Kinds of hosts.
        host_type_of: Index into ``host_types`` per host, shape (H,).
        interval_s: Time between two decisions, s.
        memory: ``ignored``: memory binds only when a VM arrives (the literature's rule); ``binding``:
            configured memory must fit at every placement, on both ends of a migration; ``multiplexed``: hosts
            may hold more than they have, and reclaim memory (``memory_tiers``).
        memory_overcommit: Configured memory that a host takes, as a multiple of its own, where ``memory`` is
            ``multiplexed``; at least 1.
        arrival: Who places an arriving VM: a rule at its arrival, or ``policy`` at the next interval.
        arrival_cpu_overcommit: Arrivals fit while nominal CPU stays under this multiple of capacity.
        arrival_core_speed: Whether a vCPU may only arrive on a host with cores at least as fast.
        auto_boot: Whether an arrival that fits on no running host boots one.
        hosts_start_on: Whether hosts are on at time 0.
        migration: Live migration: at a fixed rate, or pre-copy.
        overhead: What the hypervisor adds (§1).
        cpu: Reservations, limits and shares (§2); None = all get the same share of what they ask.
        numa: Nodes of hosts (§3).
        memory_tiers: How memory is reclaimed (§4), where ``memory`` is ``multiplexed``.
        io: I/O and interrupts (§5).
        power: Power states and PUE (§7).
        carbon: Carbon intensity of the electricity (§7).
        failures: Failures of hosts and VMs (§8).
        domains: Hosts that fail together, such as racks; hot standby keeps them apart.
        incidents: Faults that strike a share of all hosts, replayed where ``failures`` is on.
        replayed: Outages of single hosts, replayed where ``failures`` is on.
        recovery: Times of recovery (§8).
        restart: Who places a VM that restarts: ``first_fit`` at once, or the ``policy``.
        spares: Hosts without a profile at time 0, off: a failed host's profile can move to them.
        standby: Hot standby of the VMs whose profile says ``protected`` (§9).
        admission: What of the cluster is kept for failover (§8). None = nothing.
        evc_level: Highest CPU level that VMs see; None = the highest that their host offers. Needs a
            ``cpu_level`` of every host type.
        telemetry: What controllers are shown (§12).
        rules: What belongs together, apart, or on certain hosts; kept by the policies that know of rules, and
            by single choices of agents.
        cost: Weights of the service classes and prices (§13).
        events: What an operator does by hand at certain times: maintenance and moves.
    """

    host_types: tuple[HostType, ...]
    host_type_of: NDArray[np.int32]
    interval_s: float = 300.0
    memory: str = "binding"
    memory_overcommit: float = 1.5
    arrival: str = "first_fit"
    arrival_cpu_overcommit: float = 1.0
    arrival_core_speed: bool = False
    auto_boot: bool = True
    hosts_start_on: bool = True
    migration: MigrationConfig | PrecopyConfig = field(default_factory=MigrationConfig)
    overhead: OverheadConfig | None = None
    cpu: SchedulingConfig | None = None
    numa: NumaConfig | None = None
    memory_tiers: MemoryConfig = field(default_factory=MemoryConfig)
    io: IoConfig | None = None
    power: PowerConfig = field(default_factory=PowerConfig)
    carbon: CarbonSeries | None = None
    failures: FailureConfig | None = None
    domains: tuple[FailureDomain, ...] = ()
    incidents: tuple[Incident, ...] = ()
    replayed: Outages | None = None
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    restart: str = "first_fit"
    spares: tuple[int, ...] = ()
    standby: StandbyConfig | None = None
    admission: AdmissionConfig | None = None
    evc_level: str | None = None
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    rules: Rules = field(default_factory=Rules)
    cost: CostConfig = field(default_factory=CostConfig)
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need(len(self.host_types) > 0, "cluster.host_types: needs at least one host type")
        kinds = np.asarray(self.host_type_of)
        need(kinds.ndim == 1 and kinds.size > 0, "cluster.hosts: needs at least one host")
        need(
            kinds.dtype.kind in "iu" and int(kinds.min()) >= 0 and int(kinds.max()) < len(self.host_types),
            f"cluster.host_type_of: must be integers in 0..{len(self.host_types) - 1}",
        )
        need_positive(
            "cluster", interval_s=self.interval_s, arrival_cpu_overcommit=self.arrival_cpu_overcommit
        )
        most = self.memory_overcommit
        need(math.isfinite(most) and most >= 1, f"cluster.memory_overcommit={most}: must be at least 1")
        need_choice("cluster", "memory", self.memory, MEMORY_RULES)
        need_choice("cluster", "arrival", self.arrival, ARRIVAL_RULES)
        need_choice("cluster", "restart", self.restart, RESTART_RULES)
        self.telemetry.check(self.interval_s)
        self._check_hosts_named()
        self._check_levels()

    def _check_hosts_named(self) -> None:
        """Hosts that domains, spares and replayed outages name must exist."""
        n = self.n_hosts
        for domain in self.domains:
            top = max(domain.hosts)
            need(top < n, f"failures.domain {domain.name}.hosts={top}: must be below {n}")
        for host in self.spares:
            need(0 <= host < n, f"recovery.spares={host}: no such host, must lie in 0..{n - 1}")
        need(len(set(self.spares)) == len(self.spares), "recovery.spares: a host is named twice")
        need(len(self.spares) < n, "recovery.spares: at least one host must not be a spare")
        for host in () if self.admission is None else self.admission.hosts:
            need(host < n, f"admission.hosts={host}: no such host, must lie in 0..{n - 1}")
        if self.replayed is not None and self.replayed.host.size:
            top = int(self.replayed.host.max())
            need(top < n, f"failures.replayed: host {top}: must be below {n}")

    def _check_levels(self) -> None:
        """CPU levels are for all hosts or for none, and the cluster's level for hosts that have one."""
        levels = CpuLevels(CPU_LEVELS)
        missing = [kind.name for kind in self.host_types if kind.cpu_level is None]
        mixed = 0 < len(missing) < len(self.host_types)
        need(
            not mixed,
            f"host type {missing[0] if missing else ''}.cpu_level: give every host type a level, or none",
        )
        if self.evc_level is None:
            return
        known = ", ".join(levels.names)
        need(
            self.evc_level in levels.names,
            f"cluster.evc_level={self.evc_level}: no such level (known: {known})",
        )
        need(not missing, f"cluster.evc_level={self.evc_level}: needs a cpu_level of every host type")

    @property
    def n_hosts(self) -> int:
        """Number of hosts."""
        return int(self.host_type_of.shape[0])

    @property
    def fixed_migration(self) -> MigrationConfig:
        """Parameters of migration at a fixed rate; the defaults where pre-copy is on."""
        return self.migration if isinstance(self.migration, MigrationConfig) else MigrationConfig()
