"""Every key that a scenario may have, and what is wrong with one that it may not."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast

from ..checks import hint, need_choice, need_count, need_plain
from ..errors import ConfigError
from ..sim.agenda import Event
from ..sim.config import HostType, MigrationConfig, VmType
from ..sim.models.admission import AdmissionConfig
from ..sim.models.cost import VM_CLASSES, CostConfig
from ..sim.models.failures import FailureConfig, FailureDomain
from ..sim.models.io_path import IoConfig
from ..sim.models.memory import MemoryConfig
from ..sim.models.numa_nodes import NumaConfig
from ..sim.models.overhead import OverheadConfig
from ..sim.models.power import PowerConfig
from ..sim.models.precopy import PrecopyConfig
from ..sim.models.recovery import RecoveryConfig
from ..sim.models.scheduling import SchedulingConfig
from ..sim.models.standby import StandbyConfig
from ..sim.models.telemetry import TelemetryConfig
from .inventory import InventoryGroup
from .nodes import default_keys, made, schema_of
from .power_curves import with_table
from .rules import RulesGroup
from .unread import only_read
from .working_sets import WorkingSets

T = TypeVar("T")

GENERATORS = ("synthetic", "synthetic_requests")
"""Values of ``scenario.trace.format`` that read no file."""

OVERSIZED = ("refuse", "drop")
"""Values of ``scenario.trace.oversized``."""

MIGRATION_MODES = ("fixed", "precopy")
"""Values of ``scenario.migration.mode``."""


@dataclass
class TraceConfig:
    """Where the demand comes from, in a scenario of any kind.

    Attributes:
        path: File or folder; None = the embedded generator. A path that is laid over a scenario replaces its
            generator with the generator's format and options (``replace_generator``).
        format: Reader, or ``auto`` to guess it.
        options: Keyword arguments of the reader, or of the generator.
        oversized: VMs that fit on no host: ``refuse`` the trace, or ``drop`` them with a warning.
    """

    path: str | None = None
    format: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    oversized: str = "refuse"


@dataclass(frozen=True)
class HostGroupConfig(HostType):
    """Hosts of one kind, and how many there are.

    Attributes:
        count: Hosts of this kind.
    """

    count: int = 1

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        super().__post_init__()
        need_count(f"host type {self.name}", count=self.count)


@dataclass(frozen=True)
class VmTypeConfig(VmType):
    """One kind of VM, how often it occurs, its guest profile and its service class.

    Attributes:
        weight: How often it is drawn, relative to the others (``vm_assignment: random``).
        profile: Guest profile, by name.
        service_class: ``best_effort``, ``standard`` or ``critical``; None = the profile's.
    """

    weight: float = 1.0
    profile: str = "default"
    service_class: str | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        super().__post_init__()
        if self.service_class is not None:
            need_choice(f"VM type {self.name}", "service_class", self.service_class, VM_CLASSES)


@dataclass(frozen=True)
class Switch:
    """The key that switches a sub-model on, beside the fields of its configuration.

    Attributes:
        enabled: Whether the sub-model is on; its other keys have no effect without it.
    """

    enabled: bool = False


@dataclass(frozen=True)
class OverheadGroup(OverheadConfig, Switch):
    """§1: what the hypervisor adds."""


@dataclass(frozen=True)
class CpuGroup(SchedulingConfig, Switch):
    """§2: reservations, limits and shares."""


@dataclass(frozen=True)
class NumaGroup(NumaConfig, Switch):
    """§3: NUMA."""


@dataclass(frozen=True)
class WorkingSetsGroup(WorkingSets, Switch):
    """§4: memory activity that changes in time."""


@dataclass(frozen=True)
class IoGroup(IoConfig, Switch):
    """§5: I/O and interrupts."""


@dataclass(frozen=True)
class MigrationGroup(MigrationConfig):
    """§6: how VMs migrate.

    Attributes:
        mode: ``fixed``: at the rate given here; ``precopy``: by the group ``precopy``.
    """

    mode: str = "fixed"


@dataclass(frozen=True)
class CarbonGroup:
    """§7: carbon intensity of the electricity; off without ``path``, ``g_per_kwh`` and ``hourly_g_per_kwh``.

    Attributes:
        path: File of a series, Parquet or CSV, or a folder with files ``ZONE_*.parquet`` or ``.csv``.
        zone: Zone of the file to take from a folder, such as ``DE``; with a file a label of its source.
        start: Date or time in the series at which the simulation begins; None = its first.
        source: Whom to cite; recorded with every result.
        fill: What to put where the file lacks a value: ``previous`` or ``zero``; None = that is an error.
        series: Which series of an Electricity Maps file: ``lifecycle`` (None) or ``direct``.
        g_per_kwh: In place of a series: an intensity that never changes, g/kWh; needs ``source``.
        hourly_g_per_kwh: In place of a series: intensity of every hour of a day, which repeats, g/kWh; needs
            ``source``.
    """

    path: str | None = None
    zone: str | None = None
    start: str | None = None
    source: str | None = None
    fill: str | None = None
    series: str | None = None
    g_per_kwh: float | None = None
    hourly_g_per_kwh: tuple[float, ...] = ()


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class FailuresGroup(FailureConfig, Switch):
    """§8: failures of hosts and VMs, and what else fails.

    Attributes:
        path: Trace of incidents to replay (``traces.read_failures``).
        since: From where its intervals count: ``end`` or ``start`` of the incident before.
        domains: Hosts that fail together. Hot standby keeps them apart, failures on or not.
        outages: Outages of single hosts to replay.
    """

    path: str | None = None
    since: str = "end"
    domains: tuple[FailureDomain, ...] = ()
    outages: tuple[OutageGroup, ...] = ()


@dataclass(frozen=True)
class RecoveryGroup(RecoveryConfig):
    """§8: what follows failures, where they are on.

    Attributes:
        restart: Who places a VM that restarts: ``first_fit`` or ``policy``.
        spares: Hosts without a profile at time 0, to which a failed host's can move.
    """

    restart: str = "first_fit"
    spares: tuple[int, ...] = ()


@dataclass(frozen=True)
class StandbyGroup(StandbyConfig, Switch):
    """§9: hot standby of protected VMs."""


@dataclass(frozen=True)
class AdmissionGroup(AdmissionConfig, Switch):
    """§8: what is kept for failover."""


@dataclass
class About:
    """What a scenario of any kind says of itself; nothing but its name is in a result.

    Attributes:
        name: Name in result rows.
        description: One line for ``virtgym list``.
        question: What it asks of a policy, one sentence; reports begin with it.
        rivals: Policies that ``benchmark`` runs unless ``policies=`` says otherwise, the reference first;
            empty = those of its kind.
    """

    name: str = "scenario"
    description: str = ""
    question: str = ""
    rivals: list[str] = field(default_factory=list)


WORDS = ("description", "question", "rivals")
"""Keys of a scenario that change no result."""


@dataclass
class ScenarioConfig(About):
    """Every key that a scenario may have.

    Attributes:
        kind: ``cluster`` (the main simulator) or ``replica`` (the CloudSim 3.0.3 replica); placement
            scenarios have a schema of their own, ``placement_scenarios.PlacementScenarioConfig``.
        trace: The demand.
        inventory: An operator's own cluster, in place of ``trace``, ``hosts``, ``vm_types`` and ``rules``.
        hosts: Groups of hosts.
        host_order: ``interleaved`` (types take turns) or ``grouped``.
        vm_types: Kinds of VMs.
        vm_assignment: How VMs get a type: ``blocks`` (equal blocks in the order of the trace's names, the
            literature's rule), ``random`` (by weight) or ``trace`` (the sizes of the trace).
        memory: ``ignored``, ``binding`` or ``multiplexed`` (then ``memory_tiers`` says how).
        arrival: Rule that places arriving VMs; policies may bring their own.
        memory_overcommit: Configured memory that a host takes, as a multiple of its own, where ``memory`` is
            ``multiplexed``; at least 1.
        arrival_cpu_overcommit: Arrivals fit while nominal CPU stays under this multiple of capacity.
        arrival_core_speed: Whether a vCPU may only arrive on a host with cores at least as fast.
        auto_boot: Whether an arrival that fits on no running host boots one.
        hosts_start_on: Whether hosts are on at time 0.
        interval_s: Time between decisions, s.
        horizon_s: End of the episode, s; None = the length of the trace.
        migration: Live migration, ``mode`` fixed or precopy.
        precopy: Live migration by pre-copy (§6).
        overhead: Hypervisor overhead (§1).
        cpu: Reservations, limits and shares (§2).
        numa: NUMA (§3).
        memory_tiers: Memory multiplexing (§4).
        working_sets: Working sets with phases (§4), for VMs of which the trace does not say what is active.
        io: I/O and interrupts (§5).
        evc_level: Highest CPU level that VMs see (§6); None = what their host offers.
        power: Power states and PUE (§7).
        carbon: Carbon intensity (§7).
        failures: Failures of hosts and VMs (§8).
        recovery: What follows them (§8).
        standby: Hot standby (§9).
        admission: What of the cluster is kept for failover (§8).
        telemetry: What policies and agents are shown of the cluster (§12).
        rules: Placement rules, ``scenario_rules.RulesGroup``: affinity, anti-affinity, VMs on hosts.
        events: What an operator does by hand at certain times, ``sim.agenda.Event``: hosts into and out of
            maintenance, one VM moved, a host emptied.
        profiles: Own guest profiles by name; keys of ``scenario_profiles.ProfileGroup``.
        profile_assignment: With ``vm_assignment: trace``: weight by name of profile; VMs are drawn. Empty =
            ``default`` for all.
        cost: Service classes and prices (§13).
        quirks: Switches of the replica (``kind: replica`` only).
    """

    kind: str = "cluster"
    trace: TraceConfig = field(default_factory=TraceConfig)
    inventory: InventoryGroup = field(default_factory=InventoryGroup)
    hosts: list[HostGroupConfig] = field(default_factory=list)
    host_order: str = "interleaved"
    vm_types: list[VmTypeConfig] = field(default_factory=list)
    vm_assignment: str = "blocks"
    memory: str = "binding"
    arrival: str = "first_fit"
    memory_overcommit: float = 1.5
    arrival_cpu_overcommit: float = 1.0
    arrival_core_speed: bool = False
    auto_boot: bool = True
    hosts_start_on: bool = True
    interval_s: float = 300.0
    horizon_s: float | None = None
    migration: MigrationGroup = field(default_factory=MigrationGroup)
    precopy: PrecopyConfig = field(default_factory=PrecopyConfig)
    overhead: OverheadGroup = field(default_factory=OverheadGroup)
    cpu: CpuGroup = field(default_factory=CpuGroup)
    numa: NumaGroup = field(default_factory=NumaGroup)
    memory_tiers: MemoryConfig = field(default_factory=MemoryConfig)
    working_sets: WorkingSetsGroup = field(default_factory=WorkingSetsGroup)
    io: IoGroup = field(default_factory=IoGroup)
    evc_level: str | None = None
    power: PowerConfig = field(default_factory=PowerConfig)
    carbon: CarbonGroup = field(default_factory=CarbonGroup)
    failures: FailuresGroup = field(default_factory=FailuresGroup)
    recovery: RecoveryGroup = field(default_factory=RecoveryGroup)
    standby: StandbyGroup = field(default_factory=StandbyGroup)
    admission: AdmissionGroup = field(default_factory=AdmissionGroup)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    rules: RulesGroup = field(default_factory=RulesGroup)
    events: list[Event] = field(default_factory=list)
    profiles: dict[str, Any] = field(default_factory=dict)
    profile_assignment: dict[str, float] = field(default_factory=dict)
    cost: CostConfig = field(default_factory=CostConfig)
    quirks: dict[str, bool] = field(default_factory=dict)


def check_scenario(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> ScenarioConfig:
    """Merge a configuration onto the schema.

    Args:
        raw: The configuration.
        overrides: Nested mapping (or dotted keys) laid over it.

    Returns:
        Every key with its value.

    Raises:
        ConfigError: For a key that does not exist, naming its neighbours, or a value of the wrong type.
    """
    result = merge_schema(ScenarioConfig, raw, overrides)
    _check_choices(result)
    return result


def merge_schema(schema: type[T], raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> T:
    """Merge the configuration of a scenario of any kind onto its schema.

    Args:
        schema: ``ScenarioConfig``, or the class of another kind.
        raw: The configuration.
        overrides: Nested mapping (or dotted keys) laid over it.

    Returns:
        Every key with its value.

    Raises:
        ConfigError: For a key that does not exist, naming its neighbours, or a value of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    plain = {key: value for key, value in raw.items() if key not in ("_target_", "defaults")}
    try:
        merged = OmegaConf.structured(schema_of(cast(Any, schema)))
        merged.merge_with(OmegaConf.create(plain))
        own = cast(dict[str, Any], OmegaConf.to_container(merged))
        for key, value in overrides.items():
            OmegaConf.update(merged, key, value, merge=True)
        plain = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise unknown_key(error, schema) from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"scenario.{error.full_key}: {first}") from None
    plain = as_meant(plain, own, dotted_keys(overrides))
    need_plain("scenario", plain)
    return made(schema, plain, "scenario")


def as_meant(plain: dict[str, Any], own: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Settle what keys mean for each other, in a scenario of any kind.

    Args:
        plain: The scenario with everything laid over it.
        own: What the scenario itself has.
        typed: Keys that the user gave, dotted.

    Raises:
        ConfigError: For a key that would be ignored.
    """
    if "trace" in plain:
        plain["trace"] = replace_generator(plain["trace"], own.get("trace") or {}, typed)
    if isinstance(hosts := plain.get("hosts"), list):
        plain["hosts"] = [with_table(host, f"scenario.hosts.{i}") for i, host in enumerate(hosts)]
    return only_read(plain, own, typed, default_keys(ScenarioConfig)) if "failures" in plain else plain


def replace_generator(
    trace: Mapping[str, Any], own: Mapping[str, Any], typed: Collection[str]
) -> dict[str, Any]:
    """Let a path that is laid over a scenario replace the scenario's generator with its format and options.

    Args:
        trace: The group ``trace`` with everything laid over it.
        own: The same group as the scenario itself has it.
        typed: Keys that the user gave, dotted (``trace.path``, ``trace.options.n_vms``). What the user gave
            stays, so that a reader can refuse an option that it does not have.

    Returns:
        The group as it is meant.
    """
    meant = dict(trace)
    if meant.get("path") is not None:  # null is what a file says that inherits a generator's options
        meant["options"] = {key: value for key, value in meant["options"].items() if value is not None}
    generated = own.get("path") is None and own.get("format", "auto") in ("auto", *GENERATORS)
    if meant.get("path") is None or not generated:
        return meant
    before = own.get("options") or {}
    given = {key.split(".")[2] for key in typed if key.startswith("trace.options.")}
    # A path that was not typed came with a prepared set of overrides; so did what differs from the scenario.
    alike = () if "trace.path" in typed else [k for k, v in meant["options"].items() if before.get(k) != v]
    meant["options"] = {k: v for k, v in meant["options"].items() if k in given or k in alike}
    if "trace.format" not in typed and meant["format"] == own.get("format", "auto"):
        meant["format"] = "auto"
    return meant


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key of nested mappings in its dotted form; a mapping that is empty is a value."""
    found = []
    for key, value in tree.items():
        full = f"{prefix}{key}"
        found += dotted_keys(value, f"{full}.") if isinstance(value, Mapping) and value else [full]
    return found


def unknown_key(error: Any, root: type[Any] = ScenarioConfig, where: str = "scenario") -> ConfigError:
    """The error for a key that does not exist: its neighbours are those of the group that it stands in.

    Args:
        error: What OmegaConf raised (a ``ConfigKeyError`` or ``ConfigAttributeError``); within an item of a
            list it knows the key from there on only.
        root: Schema of the whole.
        where: Key of the whole.
    """
    owner = error.object_type if is_dataclass(error.object_type) else root
    allowed = [f.name for f in fields(owner) if not f.name.startswith("_")]
    return no_key(f"{where}.{str(error.full_key or error.key).removeprefix('scenario.')}", allowed)


def no_key(key: str, allowed: Sequence[str]) -> ConfigError:
    """The error for a key of a scenario that does not exist.

    Args:
        key: The key, dotted, with ``scenario.``.
        allowed: What may stand in its place.
    """
    return ConfigError(
        f"{key}: no such key{hint(key.split('.')[-1], allowed)}; allowed are: {', '.join(allowed)}"
    )


def _check_choices(config: ScenarioConfig) -> None:
    need_choice("scenario", "kind", config.kind, ("cluster", "replica"))
    need_choice("scenario", "host_order", config.host_order, ("interleaved", "grouped"))
    need_choice("scenario", "vm_assignment", config.vm_assignment, ("blocks", "random", "trace"))
    need_choice("scenario.migration", "mode", config.migration.mode, MIGRATION_MODES)
    if config.quirks and config.kind != "replica":
        raise ConfigError(
            f"scenario.quirks: only scenario=planetlab_cloudsim3 has quirks, {config.name} has none"
        )
    if config.profile_assignment and config.vm_assignment != "trace":
        raise ConfigError(
            f"scenario.profile_assignment: is for vm_assignment=trace; with {config.vm_assignment} give "
            "every item of vm_types a profile"
        )
    if config.horizon_s is not None and not config.horizon_s > 0:
        raise ConfigError(f"scenario.horizon_s={config.horizon_s}: must be positive")
