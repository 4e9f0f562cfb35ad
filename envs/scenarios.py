"""A scenario: a cluster, its workload and the rules of the game, built from one configuration.

The configuration is a mapping with the keys of ``ScenarioConfig``; the ones that ship are in
``conf/scenario/NAME.yaml``. A key that does not exist is an error that names it and its neighbours.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sim.config import ClusterConfig, HostType, MigrationConfig, VmType
from .sim.errors import ConfigError
from .sim.simulator import Simulator
from .sim.workload import Workload
from .traces import Trace, read_trace

__all__ = [
    "HostGroupConfig",
    "Scenario",
    "ScenarioConfig",
    "TraceConfig",
    "VmTypeConfig",
    "build_scenario",
    "list_scenarios",
    "load_scenario_config",
]


@dataclass
class TraceConfig:
    """Where the demand comes from.

    Attributes:
        path: File or folder; None = the embedded generator.
        format: Reader, or ``auto``.
        options: Keyword arguments of the reader.
    """

    path: str | None = None
    format: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


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


@dataclass
class VmTypeConfig:
    """One kind of VM; the fields of ``sim.config.VmType`` and how often it occurs."""

    name: str = "vm"
    vcpus: int = 1
    vcpu_mhz: float = 1000.0
    memory_mib: float = 1024.0
    weight: float = 1.0


@dataclass
class MigrationGroupConfig:
    """The fields of ``sim.config.MigrationConfig``."""

    bandwidth_mbps: float = 524.288
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10


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
        memory: ``ignored`` or ``binding``.
        arrival: Rule that places arriving VMs; policies may bring their own.
        arrival_cpu_overcommit: See ``sim.config.ClusterConfig``.
        arrival_core_speed: See there.
        auto_boot: See there.
        hosts_start_on: See there.
        interval_s: Time between decisions, s.
        horizon_s: End of the episode, s; None = the length of the trace.
        migration: Live migration.
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
    arrival_cpu_overcommit: float = 1.0
    arrival_core_speed: bool = False
    auto_boot: bool = True
    hosts_start_on: bool = True
    interval_s: float = 300.0
    horizon_s: float | None = None
    migration: MigrationGroupConfig = field(default_factory=MigrationGroupConfig)
    quirks: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A scenario with its trace read and its VMs sized.

    Attributes:
        config: The resolved configuration.
        cluster: The cluster.
        workload: The load.
        trace: The trace it came from.
        seed: Seed of everything random in it (generated traces, random VM types).
    """

    config: ScenarioConfig
    cluster: ClusterConfig
    workload: Workload
    trace: Trace
    seed: int

    @property
    def name(self) -> str:
        """Name in result rows."""
        return self.config.name

    @property
    def horizon_s(self) -> float:
        """Length of an episode, s."""
        return self.workload.span_s if self.config.horizon_s is None else float(self.config.horizon_s)

    def simulator(self, *, arrival: str | None = None, strict: bool = False) -> Simulator:
        """Make a simulator of it.

        Args:
            arrival: Rule for arrivals in place of the scenario's, as policies may ask for.
            strict: Raise on refused orders.
        """
        cluster = self.cluster
        if arrival is not None:
            cluster = replace(cluster, arrival=arrival)  # type: ignore[arg-type]  # checked there
        return Simulator(cluster, self.workload, strict=strict, horizon_s=self.horizon_s)


def list_scenarios() -> dict[str, str]:
    """Names and one-line descriptions of the scenarios that ship."""
    found = {}
    folder = resources.files("virtgym.conf") / "scenario"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            name = entry.name.removesuffix(".yaml")
            found[name] = str(load_scenario_config(name).get("description", ""))
    return found


def load_scenario_config(name: str) -> dict[str, Any]:
    """Read ``conf/scenario/NAME.yaml``.

    Raises:
        ConfigError: If there is no such scenario; names close ones and all that exist.
    """
    from omegaconf import OmegaConf

    entry = resources.files("virtgym.conf") / "scenario" / f"{name}.yaml"
    if not entry.is_file():
        known = list(list_scenarios())
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"scenario={name}: no such scenario{hint}; there are: {', '.join(known)}")
    loaded = OmegaConf.to_container(OmegaConf.create(entry.read_text(encoding="utf-8")))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def build_scenario(
    config: str | Mapping[str, Any], *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> Scenario:
    """Build a scenario.

    Args:
        config: Name of one that ships, or a mapping with the keys of ``ScenarioConfig``.
        seed: Seed of generated traces and random VM types.
        overrides: Nested mapping (or dotted keys) laid over the configuration.

    Returns:
        The scenario.

    Raises:
        ConfigError: If a key or value is not allowed.
        TraceError: If the trace cannot be read.
    """
    raw = load_scenario_config(config) if isinstance(config, str) else dict(config)
    if raw.get("kind") == "placement":
        raise ConfigError(
            f"scenario={raw.get('name')}: is a placement scenario, not a cluster to operate; it is built by "
            "virtgym.envs.placement_scenarios.build_placement_scenario and played in virtgym/Placement-v0"
        )
    checked = _check(raw, overrides or {})
    trace_rng, type_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    trace = _read(checked.trace, trace_rng)
    workload = _size_vms(checked, trace, type_rng)
    return Scenario(checked, _build_cluster(checked), workload, trace, seed)


def _check(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> ScenarioConfig:
    """Merge onto the schema; unknown keys and wrong types are errors."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    plain = {key: value for key, value in raw.items() if key not in ("_target_", "defaults")}
    schema = OmegaConf.structured(ScenarioConfig)
    try:
        merged = OmegaConf.merge(schema, OmegaConf.create(plain))
        for key, value in overrides.items():
            OmegaConf.update(merged, key, value, merge=True)
        result = OmegaConf.to_object(merged)
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(_unknown_key(str(error.full_key or error.key))) from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"scenario.{error.full_key}: {first}") from None
    assert isinstance(result, ScenarioConfig)
    _check_choices(result)
    return result


def _unknown_key(full_key: str) -> str:
    parts = [part.split("[")[0] for part in full_key.split(".")]
    kinds: dict[str, type] = {
        "trace": TraceConfig,
        "hosts": HostGroupConfig,
        "vm_types": VmTypeConfig,
        "migration": MigrationGroupConfig,
    }
    owner: type = kinds.get(parts[0], ScenarioConfig) if len(parts) > 1 else ScenarioConfig
    allowed = [f.name for f in fields(owner)]
    near = difflib.get_close_matches(parts[-1], allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"scenario.{full_key}: no such key{hint}; allowed are: {', '.join(allowed)}"


def _check_choices(config: ScenarioConfig) -> None:
    choices: Sequence[tuple[str, tuple[str, ...]]] = (
        ("kind", ("cluster", "replica")),
        ("host_order", ("interleaved", "grouped")),
        ("vm_assignment", ("blocks", "random", "trace")),
    )
    for key, allowed in choices:
        value = getattr(config, key)
        if value not in allowed:
            raise ConfigError(f"scenario.{key}={value}: must be one of {', '.join(allowed)}")
    if config.quirks and config.kind != "replica":
        raise ConfigError(
            f"scenario.quirks: only scenario=planetlab_cloudsim3 has quirks, {config.name} has none"
        )
    if config.horizon_s is not None and not config.horizon_s > 0:
        raise ConfigError(f"scenario.horizon_s={config.horizon_s}: must be positive")


def _read(config: TraceConfig, rng: np.random.Generator) -> Trace:
    if config.path is None:
        options = dict(config.options)
        return read_trace(None, config.format, **({"rng": rng} if "seed" not in options else {}), **options)
    return read_trace(config.path, config.format, **config.options)


def _build_cluster(config: ScenarioConfig) -> ClusterConfig:
    if not config.hosts:
        raise ConfigError("scenario.hosts: needs at least one group of hosts")
    types = []
    for group in config.hosts:
        if group.count < 1:
            raise ConfigError(
                f"scenario.hosts: host type {group.name}.count={group.count}: must be at least 1"
            )
        values = asdict(group)
        values.pop("count")
        if not isinstance(group.power_w, str):
            values["power_w"] = tuple(float(w) for w in group.power_w)
        types.append(HostType(**values))
    return ClusterConfig(
        host_types=tuple(types),
        host_type_of=_host_order([g.count for g in config.hosts], config.host_order),
        interval_s=config.interval_s,
        memory=config.memory,  # type: ignore[arg-type]  # checked by ClusterConfig
        arrival=config.arrival,  # type: ignore[arg-type]
        arrival_cpu_overcommit=config.arrival_cpu_overcommit,
        arrival_core_speed=config.arrival_core_speed,
        auto_boot=config.auto_boot,
        hosts_start_on=config.hosts_start_on,
        migration=MigrationConfig(**asdict(config.migration)),
    )


def _host_order(counts: Sequence[int], order: str) -> NDArray[np.int32]:
    """Type of each host: one type after the other, or types taking turns until each is used up."""
    grouped = np.repeat(np.arange(len(counts)), counts)
    if order == "grouped":
        return grouped.astype(np.int32)
    turn = np.concatenate([np.arange(n) for n in counts])
    return grouped[np.lexsort((grouped, turn))].astype(np.int32)


def _size_vms(config: ScenarioConfig, trace: Trace, rng: np.random.Generator) -> Workload:
    n = trace.n_vms
    if config.vm_assignment == "trace":
        if trace.cpu_mhz is None or trace.memory_mib is None:
            raise ConfigError(
                f"scenario.vm_assignment=trace: {trace.source} has no VM sizes; use blocks or random"
            )
        cpu, memory = trace.cpu_mhz, trace.memory_mib
        vcpus = np.ones(n, dtype=np.int32) if trace.vcpus is None else trace.vcpus
    else:
        if not config.vm_types:
            raise ConfigError("scenario.vm_types: needs at least one VM type")
        types = [VmType(t.name, t.vcpus, t.vcpu_mhz, t.memory_mib) for t in config.vm_types]
        kinds = _assign_types(config, n, rng)
        cpu = np.array([t.cpu_mhz for t in types])[kinds]
        memory = np.array([t.memory_mib for t in types])[kinds]
        vcpus = np.array([t.vcpus for t in types], dtype=np.int32)[kinds]
    return Workload(
        name=trace.name,
        sample_s=trace.sample_s,
        util=trace.util,
        vm_cpu_mhz=cpu,
        vm_vcpus=vcpus,
        vm_mem_mib=memory,
        vm_arrival_s=trace.arrival_s,
        vm_departure_s=trace.departure_s,
        vm_names=trace.vm_names,
        signals=dict(trace.signals),
    )


def _assign_types(config: ScenarioConfig, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    n_types = len(config.vm_types)
    if config.vm_assignment == "blocks":
        block = -(-n // n_types)  # the literature's rule: type = floor(i / ceil(N / types))
        return np.arange(n) // block
    weights = np.array([t.weight for t in config.vm_types], dtype=np.float64)
    if not (np.isfinite(weights).all() and float(weights.min()) >= 0 and float(weights.sum()) > 0):
        raise ConfigError("scenario.vm_types: weights must be 0 or more and not all 0")
    return rng.choice(n_types, size=n, p=weights / weights.sum())
