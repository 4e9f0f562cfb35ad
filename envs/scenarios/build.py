"""From the keys of a scenario to the cluster and the workload that the simulator takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checks import need, need_choice, need_memory
from ..errors import ConfigError, TraceError
from ..sim.config import ClusterConfig, HostType, MigrationConfig
from ..sim.feasibility import fits_some_host
from ..sim.models.admission import AdmissionConfig
from ..sim.models.carbon import CarbonSeries, constant_carbon, daily_carbon
from ..sim.models.cost import VM_CLASSES
from ..sim.models.failures import FailureConfig, FailureDomain, replay_outages
from ..sim.models.io_path import IoConfig
from ..sim.models.numa_nodes import NumaConfig
from ..sim.models.overhead import OverheadConfig
from ..sim.models.recovery import RecoveryConfig
from ..sim.models.scheduling import SchedulingConfig
from ..sim.models.standby import StandbyConfig
from ..sim.workload import Workload
from ..traces import Trace, read_trace
from ..traces.formats.carbon import read_carbon
from ..traces.formats.failure_trace import read_failures
from .nodes import only
from .profiles import build_profiles, draw_profiles, profile_index
from .schema import GENERATORS, OVERSIZED, CarbonGroup, FailuresGroup, ScenarioConfig, Switch, TraceConfig

T = TypeVar("T")

_COLUMNS = ("vm_cpu_mhz", "vm_vcpus", "vm_mem_mib", "vm_arrival_s", "vm_departure_s", "vm_class")


class OversizedWarning(UserWarning):
    """VMs of a trace were left out because they fit on no host."""


def read_demand(config: TraceConfig, rng: np.random.Generator) -> Trace:
    """Read a scenario's trace, or generate one.

    Args:
        config: Where the demand comes from.
        rng: Source of randomness of the generator.

    Raises:
        TraceError: If it cannot be read.
    """
    check_source(config)
    generated = config.path is None and config.format in ("auto", *GENERATORS)
    if generated:
        need_generated(config, n_vms=1000, n_samples=288)
    own = {"rng": rng} if generated and "seed" not in config.options else {}
    return read_trace(config.path, config.format, **own, **config.options)


def check_source(config: TraceConfig) -> None:
    """Refuse a file for the generator, and what is no choice, in a scenario of any kind.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    if config.path is not None and config.format in GENERATORS:
        raise ConfigError(
            f"scenario.trace.path={config.path}: the generator (format={config.format}) reads no file; "
            "scenario.trace.format=auto guesses the format"
        )
    need_choice("scenario.trace", "oversized", config.oversized, OVERSIZED)


def need_generated(config: TraceConfig, **defaults: int) -> None:
    """Refuse a generated trace that would not fit into memory, before it is made.

    Args:
        config: Where the demand comes from.
        **defaults: The generator's options that its size is the product of, with their defaults.

    Raises:
        ConfigError: Naming the options.
    """
    counts = [config.options.get(key, default) for key, default in defaults.items()]
    if all(isinstance(count, int | float) for count in counts):  # the generator says what others are worth
        # A sample takes 8 bytes; the generator holds it about six times.
        need_memory(
            f"scenario.trace.options: {' x '.join(f'{k}={v}' for k, v in zip(defaults, counts))}", *counts, 48
        )


def need_episode(config: ScenarioConfig, cluster: ClusterConfig, horizon_s: float) -> None:
    """Refuse an episode whose log would not fit into memory.

    Raises:
        ConfigError: Naming horizon and interval.
    """
    intervals = horizon_s / cluster.interval_s
    what = f"scenario.horizon_s={horizon_s:g}: {intervals:.3g} intervals of {cluster.interval_s:g} s"
    need(intervals > 1e-6, f"{what}: at least a millionth of one is needed")
    need_memory(what, intervals, cluster.n_hosts + 1000)  # a byte of each host, the columns of the log


def build_cluster(config: ScenarioConfig) -> ClusterConfig:
    """Build the cluster of a scenario.

    Raises:
        ConfigError: For a value that is not allowed, in one line.
        TraceError: If a carbon series or a trace of failures cannot be read.
    """
    if not config.hosts:
        raise ConfigError("scenario.hosts: needs at least one group of hosts")
    counts = [group.count for group in config.hosts]
    for group in config.hosts:
        need_memory(f"scenario.hosts: {group.name}.count={group.count}", group.count, 1000)
    return ClusterConfig(
        host_types=tuple(only(HostType, group) for group in config.hosts),
        host_type_of=_host_order(counts, config.host_order),
        interval_s=config.interval_s,
        memory=config.memory,
        arrival=config.arrival,
        memory_overcommit=config.memory_overcommit,
        arrival_cpu_overcommit=config.arrival_cpu_overcommit,
        arrival_core_speed=config.arrival_core_speed,
        auto_boot=config.auto_boot,
        hosts_start_on=config.hosts_start_on,
        migration=config.precopy
        if config.migration.mode == "precopy"
        else only(MigrationConfig, config.migration),
        overhead=_switched(OverheadConfig, config.overhead),
        cpu=_switched(SchedulingConfig, config.cpu),
        numa=_switched(NumaConfig, config.numa),
        memory_tiers=config.memory_tiers,
        io=_switched(IoConfig, config.io),
        power=config.power,
        carbon=_carbon(config.carbon),
        failures=_switched(FailureConfig, config.failures),
        domains=_domains(config.failures),
        **_replayed(config.failures, sum(counts)),
        recovery=only(RecoveryConfig, config.recovery),
        restart=config.recovery.restart,
        spares=config.recovery.spares,
        standby=_switched(StandbyConfig, config.standby),
        admission=_switched(AdmissionConfig, config.admission),
        evc_level=config.evc_level,
        cost=config.cost,
        telemetry=config.telemetry,
        events=tuple(config.events),
    )


def _switched(kind: type[T], group: Switch) -> T | None:
    """A sub-model's configuration, None where it is off."""
    return only(kind, group) if group.enabled else None


def _carbon(group: CarbonGroup) -> CarbonSeries | None:
    """The series of a file, of a zone's file in a folder, or a constant."""
    if sum((group.path is not None, group.g_per_kwh is not None, len(group.hourly_g_per_kwh) > 0)) > 1:
        raise ConfigError("scenario.carbon: give one of path, g_per_kwh and hourly_g_per_kwh")
    if group.g_per_kwh is not None:
        return constant_carbon(group.g_per_kwh, group.source or "")
    if group.hourly_g_per_kwh:
        return daily_carbon(group.hourly_g_per_kwh, group.source or "")
    if group.path is None:
        return None
    path = Path(group.path)
    if path.is_dir():
        path = _zone_file(path, group.zone)
    source = ", ".join(text for text in (group.source, group.zone and f"zone {group.zone}") if text)
    return read_carbon(path, start=group.start, source=source or None, fill=group.fill, series=group.series)


def _zone_file(folder: Path, zone: str | None) -> Path:
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*.csv")])
    zones = sorted({path.stem.partition("_")[0] for path in files})
    found = [path for path in files if zone and path.name.startswith((f"{zone}_", f"{zone}."))]
    if len(found) != 1:
        what = f"{len(found)} files of zone {zone}" if zone else "is a folder: say which zone"
        raise ConfigError(
            f"scenario.carbon.path={folder}: {what}; zones there: {', '.join(zones) or 'none'} "
            "(files are named ZONE_*.parquet or ZONE_*.csv)"
        )
    return found[0]


def _domains(group: FailuresGroup) -> tuple[FailureDomain, ...]:
    """Hosts that fail together; hot standby keeps them apart, so they are there in any case."""
    names = [domain.name for domain in group.domains]
    for name in names:
        need(names.count(name) == 1, f"scenario.failures.domains: {name} is named twice")
    return group.domains


def _replayed(group: FailuresGroup, n_hosts: int) -> dict[str, Any]:
    """Incidents and outages to replay, where failures are on."""
    if not group.enabled:
        return {}
    replayed = None
    if group.outages:
        host, down_s, up_s = zip(*((o.host, o.down_s, o.up_s) for o in group.outages))
        replayed = replay_outages(
            np.array(host, dtype=np.int32), np.array(down_s, float), np.array(up_s, float), n_hosts
        )
    incidents = () if group.path is None else read_failures(group.path, since=group.since).incidents
    return {"incidents": incidents, "replayed": replayed}


def _host_order(counts: Sequence[int], order: str) -> NDArray[np.int32]:
    """Type of each host: one type after the other, or types taking turns until each is used up."""
    grouped = np.repeat(np.arange(len(counts)), counts)
    if order == "grouped":
        return grouped.astype(np.int32)
    turn = np.concatenate([np.arange(n) for n in counts])
    return grouped[np.lexsort((grouped, turn))].astype(np.int32)


def size_vms(config: ScenarioConfig, trace: Trace, rng: np.random.Generator) -> Workload:
    """Give the VMs of a trace sizes and profiles.

    Args:
        config: The scenario.
        trace: Its trace.
        rng: Source of randomness of types and profiles.

    Raises:
        ConfigError: If the trace has no sizes, or there are no VM types or no such profile.
    """
    n = trace.n_vms
    known = build_profiles(config.profiles)
    vm_class = np.full(n, -1, dtype=np.int8)
    if config.vm_assignment == "trace":
        if trace.cpu_mhz is None or trace.memory_mib is None:
            raise ConfigError(
                f"scenario.vm_assignment=trace: {trace.source} has no VM sizes; use blocks or random"
            )
        cpu, memory = trace.cpu_mhz, trace.memory_mib
        vcpus = np.ones(n, dtype=np.int32) if trace.vcpus is None else trace.vcpus
        weights = config.profile_assignment or {"default": 1.0}
        profile = draw_profiles(known, weights, n, rng)
    else:
        if not config.vm_types:
            raise ConfigError("scenario.vm_types: needs at least one VM type")
        types = config.vm_types
        kinds = _assign_types(config, n, rng)
        cpu = np.array([t.cpu_mhz for t in types])[kinds]
        memory = np.array([t.memory_mib for t in types])[kinds]
        vcpus = np.array([t.vcpus for t in types], dtype=np.int32)[kinds]
        profile = np.array(
            [profile_index(known, f"vm_types.{t.name}.profile", t.profile) for t in config.vm_types], np.int32
        )[kinds]
        own = [-1 if t.service_class is None else VM_CLASSES.index(t.service_class) for t in types]
        vm_class = np.array(own, dtype=np.int8)[kinds]
    if trace.vm_class is not None:
        vm_class = np.where(trace.vm_class < 0, vm_class, trace.vm_class)
    used, index = np.unique(profile, return_inverse=True)
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
        profiles=tuple(list(known.values())[i] for i in used),
        vm_profile=index.astype(np.int32),
        vm_class=vm_class,
    )


def drop_oversized(config: ScenarioConfig, cluster: ClusterConfig, workload: Workload) -> Workload:
    """Deal with VMs that fit on no host, as ``trace.oversized`` says.

    Raises:
        TraceError: If there are some, and they are to be refused or nothing else is left.
    """
    fits = fits_some_host(cluster, workload)
    if fits.all():
        return workload
    cpu, mem = workload.vm_cpu_mhz, workload.vm_mem_mib
    most = max(cluster.host_types, key=lambda kind: (kind.memory_mib, kind.cpu_mhz))
    sizes = [
        f"{workload.vm_names[v] if workload.vm_names else v} ({cpu[v]:g} MHz, {mem[v]:g} MiB)"
        for v in np.flatnonzero(~fits)[:3]
    ]
    largest = f"{most.name} ({most.cpu_mhz:g} MHz, {most.memory_mib:g} MiB)"
    if config.arrival_core_speed:
        core = max(kind.core_mhz for kind in cluster.host_types)
        largest += f", and arrival_core_speed allows no vCPU above {core:g} MHz"
    refuse_oversized(config.trace, workload.name, fits, sizes, largest)
    kept = workload.vm_profile[fits]
    return replace(
        workload,
        util=np.ascontiguousarray(workload.util[:, fits]),
        vm_profile=kept,
        vm_names=tuple(name for name, fit in zip(workload.vm_names, fits) if fit),
        signals={key: np.ascontiguousarray(rows[:, fits]) for key, rows in workload.signals.items()},
        **{key: getattr(workload, key)[fits] for key in _COLUMNS},
    )


def refuse_oversized(
    config: TraceConfig, name: str, fits: NDArray[np.bool_], some: Sequence[str], largest: str
) -> None:
    """Refuse VMs that fit on no host, or warn that they are left out; the same in scenarios of every kind.

    Args:
        config: Says what is to happen.
        name: Name of the trace.
        fits: Whether each VM fits on a host that is empty, at least one does not.
        some: Names and sizes of a few that do not.
        largest: Name and size of the largest host.

    Raises:
        TraceError: Unless they are to be dropped and others are left.
    """
    n = int(np.count_nonzero(~fits))
    more = ", …" if n > len(some) else ""
    text = (
        f"scenario.trace: {n} of {fits.size} VMs of {name} fit on no host: {', '.join(some)}{more}; "
        f"the largest host is {largest}"
    )
    if config.oversized == "refuse":
        raise TraceError(f"{text}; scenario.trace.oversized=drop leaves them out")
    if n == fits.size:
        raise TraceError(f"{text}; nothing is left")
    warnings.warn(f"{text}; they are left out", OversizedWarning, stacklevel=2)


def _assign_types(config: ScenarioConfig, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    n_types = len(config.vm_types)
    if config.vm_assignment == "blocks":
        block = -(-n // n_types)  # the literature's rule: type = floor(i / ceil(N / types))
        return np.arange(n) // block
    weights = np.array([t.weight for t in config.vm_types], dtype=np.float64)
    if not (np.isfinite(weights).all() and float(weights.min()) >= 0 and float(weights.sum()) > 0):
        raise ConfigError("scenario.vm_types: weights must be 0 or more and not all 0")
    return rng.choice(n_types, size=n, p=weights / weights.sum())
