"""Keys of the sub-models in a scenario: one group per room of ``virtgym.envs.sim``.

A group has the fields of its room's configuration, with the same defaults (a test holds the two together),
and, where the sub-model can be off, ``enabled``. What a field means is said in the room; OmegaConf needs
classes of its own, because the rooms' are frozen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from ..sim.models.admission import AdmissionConfig
from ..sim.models.failures import FailureConfig
from ..sim.models.io_path import IoConfig, IoMode
from ..sim.models.memory import MemoryConfig
from ..sim.models.numa_nodes import NumaConfig
from ..sim.models.overhead import VIRT_TYPES, HostVirtualization, OverheadConfig, VirtCosts
from ..sim.models.power_states import PowerConfig, PowerCurve
from ..sim.models.precopy_config import PrecopyConfig
from ..sim.models.recovery import RecoveryConfig
from ..sim.models.scheduling import SchedulingConfig
from ..sim.models.standby import StandbyConfig

R = TypeVar("R")


@dataclass
class VirtCostsGroup:
    """The fields of ``sim.overhead.VirtCosts``."""

    state: float
    clock: float
    memory: float
    io: float
    steady_tax: float


def _costs(kind: str) -> VirtCostsGroup:
    return VirtCostsGroup(**asdict(getattr(OverheadConfig(), kind)))


@dataclass
class OverheadGroup:
    """§1: what the hypervisor adds; the fields of ``sim.overhead.OverheadConfig``."""

    enabled: bool = False
    full: VirtCostsGroup = field(default_factory=functools.partial(_costs, "full"))
    para: VirtCostsGroup = field(default_factory=functools.partial(_costs, "para"))
    hardware_assisted: VirtCostsGroup = field(default_factory=functools.partial(_costs, "hardware_assisted"))
    partial: VirtCostsGroup = field(default_factory=functools.partial(_costs, "partial"))
    os_level: VirtCostsGroup = field(default_factory=functools.partial(_costs, "os_level"))


@dataclass
class HostVirtualizationGroup:
    """What a kind of host can run; the fields of ``sim.overhead.HostVirtualization``."""

    types: list[str] = field(default_factory=lambda: list(VIRT_TYPES))
    extension: bool = True
    kernel: str = "linux"


@dataclass
class CpuGroup:
    """§2: reservations, limits and shares; the fields of ``sim.scheduling.SchedulingConfig``."""

    enabled: bool = False
    co_stop: float = 0.0


@dataclass
class NumaGroup:
    """§3: the fields of ``sim.numa_nodes.NumaConfig``."""

    enabled: bool = False
    scheduling: str = "aware"
    latency_ratio: float = 2.05
    cpu_overcommit: float = 1.0
    vnuma_min_vcpus: int = 9
    rebalance: bool = True
    rebalance_period_s: float = 2.0
    rebalance_threshold: float = 0.10
    page_move_mib_s: float = 1024.0


@dataclass
class MemoryTiersGroup:
    """§4: the fields of ``sim.memory.MemoryConfig``; read with ``memory: multiplexed``."""

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


@dataclass
class IoModeGroup:
    """The fields of ``sim.io_path.IoMode``."""

    exits: float
    exit_cycles: float
    handler_cycles: float
    latency_us: float
    batched: bool = True
    migratable: bool = True


def _mode(name: str) -> IoModeGroup:
    return IoModeGroup(**asdict(getattr(IoConfig(), name)))


@dataclass
class IoGroup:
    """§5: the fields of ``sim.io_path.IoConfig``."""

    enabled: bool = False
    emulated: IoModeGroup = field(default_factory=functools.partial(_mode, "emulated"))
    virtio: IoModeGroup = field(default_factory=functools.partial(_mode, "virtio"))
    passthrough: IoModeGroup = field(default_factory=functools.partial(_mode, "passthrough"))
    posted_interrupts: bool = False
    coalesce_us: float = 50.0
    slice_ms: float = 30.0
    functions_per_host: int = 64


@dataclass
class MigrationGroupConfig:
    """§6: how VMs migrate.

    Attributes:
        mode: ``fixed``: at the rate given here, the fields of ``sim.config.MigrationConfig``; ``precopy``: by
            the group ``precopy``.
        bandwidth_mbps: See there.
        cpu_loss: See there.
        dest_cpu_share: See there.
    """

    mode: str = "fixed"
    bandwidth_mbps: float = 524.288
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10


@dataclass
class PrecopyGroup:
    """§6: the fields of ``sim.precopy_config.PrecopyConfig``; read with ``migration.mode: precopy``."""

    on_divergence: str = "stop"
    threshold_mib: float = 0.1953125
    max_rounds: int = 29
    max_sent: float = 3.0
    init_s: float = 1.0
    resume_s: float = 0.05
    throttle_start: float = 0.20
    throttle_step: float = 0.10
    throttle_max: float = 0.99
    cpu_state_mib: float = 1.0
    postcopy_loss: float = 0.20
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10
    max_mbps: float | None = None
    slots_1g: int = 4
    slots_10g: int = 8
    energy_j_per_mb: float = 0.512
    energy_j: float = 20.2


@dataclass
class CurveGroup:
    """§7: an analytic power curve; ``kind: table`` = the host type's ``power_w``."""

    kind: str = "table"
    idle_w: float = 0.0
    peak_w: float = 0.0
    exponent: float = 1.4


@dataclass
class PowerGroup:
    """§7: the fields of ``sim.power_states.PowerConfig``."""

    standby_share: float = 0.05
    boot_level: float = 0.5
    suspend_time_s: float = 5.0
    resume_time_s: float = 10.0
    pue: float = 1.0


@dataclass
class CarbonGroup:
    """§7: carbon intensity of the electricity; off without ``path`` and ``g_per_kwh``.

    Attributes:
        path: File of a series, Parquet or CSV, or a folder with files ``ZONE_*.parquet`` or ``.csv``.
        zone: Zone of the file to take from a folder, such as ``DE``; with a file a label of its source.
        start: Date or time in the series at which the simulation begins; None = its first.
        source: Whom to cite; recorded with every result.
        fill: What to put where the file lacks a value: ``previous`` or ``zero``; None = that is an error.
        series: Which series of an Electricity Maps file: ``lifecycle`` (None) or ``direct``.
        g_per_kwh: In place of a series: an intensity that never changes, g/kWh; needs ``source``.
    """

    path: str | None = None
    zone: str | None = None
    start: str | None = None
    source: str | None = None
    fill: str | None = None
    series: str | None = None
    g_per_kwh: float | None = None


@dataclass
class DomainGroup:
    """§8: hosts that fail together; the fields of ``sim.failures.FailureDomain``."""

    name: str = "domain"
    hosts: list[int] = field(default_factory=list)
    mtbf_h: float = 8760.0
    mttr_h: float = 4.0


@dataclass
class OutageGroup:
    """§8: one outage of one host, to be replayed.

    Attributes:
        host: Its index.
        down_s: When it fails, s.
        up_s: When it is repaired, s; inf = never.
    """

    host: int = 0
    down_s: float = 0.0
    up_s: float = math.inf


@dataclass
class FailuresGroup:
    """§8: the fields of ``sim.failures.FailureConfig``, and what else fails.

    Attributes:
        enabled: Whether anything fails.
        path: Trace of incidents to replay (``traces.read_failures``).
        since: From where its intervals count: ``end`` or ``start`` of the incident before.
        domains: Hosts that fail together. Hot standby keeps them apart, failures on or not.
        outages: Outages of single hosts to replay.
    """

    enabled: bool = False
    model: str = "weibull"
    up_shape: float = 0.48
    up_scale_h: float = 816.6
    down_shape: float = 0.58
    down_scale_h: float = 2.18
    mtbf_h: float = 1780.0
    mttr_h: float = 5.9
    start: str = "stationary"
    vm_mtbf_h: float | None = None
    path: str | None = None
    since: str = "end"
    domains: list[DomainGroup] = field(default_factory=list)
    outages: list[OutageGroup] = field(default_factory=list)


@dataclass
class RecoveryGroup:
    """§8: the fields of ``sim.recovery.RecoveryConfig``; read where failures are on.

    Attributes:
        restart: Who places a VM that restarts: ``first_fit`` or ``policy``.
        spares: Hosts without a profile at time 0, to which a failed host's can move.
    """

    detect_s: float = 15.0
    vm_detect_s: float = 30.0
    placement_s: float = 0.0
    boot_s: float = 60.0
    associate_s: float = 600.0
    restart: str = "first_fit"
    spares: list[int] = field(default_factory=list)


@dataclass
class StandbyGroup:
    """§9: hot standby of protected VMs; the fields of ``sim.standby.StandbyConfig``."""

    enabled: bool = False
    mode: str = "checkpoint"
    epoch_s: float = 0.025
    fixed_pause_s: float = 0.002
    copy_mib_s: float = 2048.0
    lockstep_loss: float = 0.10
    takeover_s: float = 1.0
    max_vms: int = 4
    max_vcpus: int = 8


@dataclass
class AdmissionGroup:
    """§8: what is kept for failover; the fields of ``sim.admission.AdmissionConfig``."""

    enabled: bool = False
    rule: str = "slots"
    host_failures: int = 1
    cpu_share: float = 0.25
    mem_share: float = 0.25
    hosts: list[int] = field(default_factory=list)
    default_cpu_mhz: float = 32.0
    overhead_mib: float = 26.0
    counts: str = "configured"
    survive_domain: bool = False


ROOMS: Mapping[type, type] = {
    OverheadGroup: OverheadConfig,
    VirtCostsGroup: VirtCosts,
    HostVirtualizationGroup: HostVirtualization,
    CpuGroup: SchedulingConfig,
    NumaGroup: NumaConfig,
    MemoryTiersGroup: MemoryConfig,
    IoGroup: IoConfig,
    IoModeGroup: IoMode,
    PrecopyGroup: PrecopyConfig,
    CurveGroup: PowerCurve,
    PowerGroup: PowerConfig,
    FailuresGroup: FailureConfig,
    RecoveryGroup: RecoveryConfig,
    StandbyGroup: StandbyConfig,
    AdmissionGroup: AdmissionConfig,
}
"""The configuration of a room that each group stands for."""


def to_room(group: Any, room: type[R]) -> R:
    """Make a room's configuration of a group; keys that the room does not have are left out.

    Args:
        group: A group, with its values.
        room: Class of the result.

    Returns:
        The configuration, lists made tuples and groups within it converted too.

    Raises:
        ConfigError: From the room, for a value that is not allowed.
    """
    own: Any = room
    values = {}
    for f in fields(own):
        if hasattr(group, f.name):
            value = getattr(group, f.name)
            if is_dataclass(value):
                value = to_room(value, ROOMS[type(value)])
            values[f.name] = tuple(value) if isinstance(value, list) else value
    return room(**values)
