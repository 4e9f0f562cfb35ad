"""Every key that a scenario may have, and what is wrong with one that it may not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast

from ..checks import hint, need_plain
from ..errors import ConfigError
from .groups import (
    AdmissionGroup,
    CarbonGroup,
    CpuGroup,
    CurveGroup,
    FailuresGroup,
    HostVirtualizationGroup,
    IoGroup,
    MemoryTiersGroup,
    MigrationGroupConfig,
    NumaGroup,
    OverheadGroup,
    PowerGroup,
    PrecopyGroup,
    RecoveryGroup,
    StandbyGroup,
)
from .rules import RulesGroup

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


@dataclass
class HostGroupConfig:
    """Hosts of one kind; the fields of ``sim.config.HostType`` and how many there are."""

    name: str = "host"
    count: int = 1
    cores: int = 2
    core_mhz: float = 2000.0
    memory_mib: float = 4096.0
    power_w: Any = "hp_ml110_g4"
    nic_mbps: float = 1000.0
    boot_time_s: float = 240.0
    shutdown_time_s: float = 60.0
    boot_power_w: float | None = None
    shutdown_power_w: float | None = None
    numa_nodes: int = 1
    virtualization: HostVirtualizationGroup = field(default_factory=HostVirtualizationGroup)
    cpu_level: str | None = None
    io_functions: int | None = None
    curve: CurveGroup = field(default_factory=CurveGroup)


@dataclass
class VmTypeConfig:
    """One kind of VM; the fields of ``sim.config.VmType``, how often it occurs and its guest profile."""

    name: str = "vm"
    vcpus: int = 1
    vcpu_mhz: float = 1000.0
    memory_mib: float = 1024.0
    weight: float = 1.0
    profile: str = "default"


@dataclass
class ScenarioConfig:
    """Every key that a scenario may have.

    Attributes:
        name: Name in result rows.
        description: One line for ``virtgym list``.
        kind: ``cluster`` (the main simulator) or ``replica`` (the CloudSim 3.0.3 replica); placement
            scenarios have a schema of their own, ``placement_scenarios.PlacementScenarioConfig``.
        trace: The demand.
        hosts: Groups of hosts.
        host_order: ``interleaved`` (types take turns) or ``grouped``.
        vm_types: Kinds of VMs.
        vm_assignment: How VMs get a type: ``blocks`` (equal blocks in the order of the trace's names, the
            literature's rule), ``random`` (by weight) or ``trace`` (the sizes of the trace).
        memory: ``ignored``, ``binding`` or ``multiplexed`` (then ``memory_tiers`` says how).
        arrival: Rule that places arriving VMs; policies may bring their own.
        memory_overcommit: See ``sim.config.ClusterConfig``; for ``memory: multiplexed``.
        arrival_cpu_overcommit: See ``sim.config.ClusterConfig``.
        arrival_core_speed: See there.
        auto_boot: See there.
        hosts_start_on: See there.
        interval_s: Time between decisions, s.
        horizon_s: End of the episode, s; None = the length of the trace.
        migration: Live migration, ``mode`` fixed or precopy.
        precopy: Live migration by pre-copy (§6).
        overhead: Hypervisor overhead (§1).
        cpu: Reservations, limits and shares (§2).
        numa: NUMA (§3).
        memory_tiers: Memory multiplexing (§4).
        io: I/O and interrupts (§5).
        evc_level: Highest CPU level that VMs see (§6); None = what their host offers.
        power: Power states and PUE (§7).
        carbon: Carbon intensity (§7).
        failures: Failures of hosts and VMs (§8).
        recovery: What follows them (§8).
        standby: Hot standby (§9).
        admission: What of the cluster policies keep for failover (§8).
        rules: Placement rules, ``scenario_rules.RulesGroup``: affinity, anti-affinity, VMs on hosts.
        profiles: Own guest profiles by name; keys of ``scenario_profiles.ProfileGroup``.
        profile_assignment: With ``vm_assignment: trace``: weight by name of profile; VMs are drawn. Empty =
            ``default`` for all.
        quirks: Switches of the replica (``kind: replica`` only).
    """

    name: str = "scenario"
    description: str = ""
    kind: str = "cluster"
    trace: TraceConfig = field(default_factory=TraceConfig)
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
    migration: MigrationGroupConfig = field(default_factory=MigrationGroupConfig)
    precopy: PrecopyGroup = field(default_factory=PrecopyGroup)
    overhead: OverheadGroup = field(default_factory=OverheadGroup)
    cpu: CpuGroup = field(default_factory=CpuGroup)
    numa: NumaGroup = field(default_factory=NumaGroup)
    memory_tiers: MemoryTiersGroup = field(default_factory=MemoryTiersGroup)
    io: IoGroup = field(default_factory=IoGroup)
    evc_level: str | None = None
    power: PowerGroup = field(default_factory=PowerGroup)
    carbon: CarbonGroup = field(default_factory=CarbonGroup)
    failures: FailuresGroup = field(default_factory=FailuresGroup)
    recovery: RecoveryGroup = field(default_factory=RecoveryGroup)
    standby: StandbyGroup = field(default_factory=StandbyGroup)
    admission: AdmissionGroup = field(default_factory=AdmissionGroup)
    rules: RulesGroup = field(default_factory=RulesGroup)
    profiles: dict[str, Any] = field(default_factory=dict)
    profile_assignment: dict[str, float] = field(default_factory=dict)
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
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(plain))
        own = cast(dict[str, Any], OmegaConf.to_container(merged.trace))
        for key, value in overrides.items():
            OmegaConf.update(merged, key, value, merge=True)
        trace = cast(dict[str, Any], OmegaConf.to_container(merged.trace))
        merged.trace = TraceConfig(**replace_generator(trace, own, dotted_keys(overrides)))
        need_plain("scenario", OmegaConf.to_container(merged, resolve=True))
        result = OmegaConf.to_object(merged)
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise unknown_key(error, schema) from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"scenario.{error.full_key}: {first}") from None
    assert isinstance(result, schema)
    return result


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


def unknown_key(error: Any, root: type[Any] = ScenarioConfig) -> ConfigError:
    """The error for a key that does not exist: its neighbours are those of the group that it stands in.

    Args:
        error: What OmegaConf raised (a ``ConfigKeyError`` or ``ConfigAttributeError``); within an item of a
            list it knows the key from there on only.
        root: Schema of the whole.
    """
    owner = error.object_type if is_dataclass(error.object_type) else root
    allowed = [f.name for f in fields(owner) if not f.name.startswith("_")]
    return no_key(str(error.full_key or error.key).removeprefix("scenario."), allowed)


def no_key(key: str, allowed: Sequence[str]) -> ConfigError:
    """The error for a key of a scenario that does not exist.

    Args:
        key: The key, dotted.
        allowed: What may stand in its place.
    """
    return ConfigError(
        f"scenario.{key}: no such key{hint(key.split('.')[-1], allowed)}; allowed are: {', '.join(allowed)}"
    )


def _check_choices(config: ScenarioConfig) -> None:
    choices: Sequence[tuple[str, tuple[str, ...]]] = (
        ("kind", ("cluster", "replica")),
        ("host_order", ("interleaved", "grouped")),
        ("vm_assignment", ("blocks", "random", "trace")),
        ("migration.mode", MIGRATION_MODES),
    )
    for key, allowed in choices:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value not in allowed:
            raise ConfigError(f"scenario.{key}={value}: must be one of {', '.join(allowed)}")
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
