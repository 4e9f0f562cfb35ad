"""From a cluster and its workload to ``ClusterParams``: hosts, VMs, demand and all sub-models as arrays.

Every sub-model gives its fields where it is on; where it is off they are empty, so that a simple cluster pays
nothing. H hosts, V VMs, T host types, S samples; the numbers of the sections are those of docs/simulator.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import F8, I4
from ...errors import ConfigError
from ..config import ARRIVAL_RULES, RESTART_RULES, ClusterConfig, MigrationConfig
from ..feasibility import check_models
from ..models.admission import AdmissionConfig, counted_sizes, dedicated_hosts
from ..models.compatibility import CPU_LEVELS, CpuLevels, baselines_at_power_on
from ..models.cost import class_values, prices_of
from ..models.failures import FailureDomain
from ..models.io_path import PASSTHROUGH, IoConfig, mode_table
from ..models.memory import MemoryConfig, memory_inputs
from ..models.numa_nodes import NumaParams, numa_params
from ..models.overhead import SupportTable, profile_tables, support_code, support_table
from ..models.power import CURVES, PowerConfig
from ..models.precopy import PrecopyConfig, migration_slots, precopy_params
from ..models.rules import rule_arrays
from ..models.scheduling import cpu_claims
from ..models.standby import StandbyConfig, standby_params
from ..models.telemetry import telemetry_params
from ..workload import Workload
from .fields import switched_off
from .parameters import ClusterParams

SIGNALS: dict[str, tuple[str, float]] = {
    "sig_active": ("memory_active", 1.0),
    "sig_net_out": ("net_tx_mbit_s", 1.0),
    "sig_net_in": ("net_rx_mbit_s", 1.0),
    "sig_disk_read": ("disk_read_mbit_s", 1.0 / 8.0),
    "sig_disk_write": ("disk_write_mbit_s", 1.0 / 8.0),
    "sig_dirty": ("dirty_mib_s", 1.0),
}
"""Parameter, signal of the workload that it is read from, and factor between their units (Mbit/s to MB/s for
disks). Signals without a known unit, such as shares of the largest value of all machines, are not read."""

TABLES = ("table", "linear")
"""Kinds of power curves that a table holds."""


def make_params(config: ClusterConfig, workload: Workload) -> ClusterParams:
    """Flatten a cluster and its workload into the arrays that kernels read.

    Args:
        config: The cluster.
        workload: The load; its profiles say what kinds of guests there are.

    Returns:
        Every field, but the faults, which are drawn at every reset (``faults.sample_faults``): C-contiguous
        arrays that cannot be written to, as policies are shown them and forks share them; int and float.

    Raises:
        ConfigError: For a configuration that cannot be, in one line.
    """
    check_models(config, workload)
    made: dict[str, Any] = {
        **switched_off(ClusterParams),
        **_hosts(config),
        **_load(workload),
        **_service(config, workload),
        **_rules(config),
        **_switches(config),
        **_overhead(config, workload),
        **_cpu(config, workload),
        **_numa(config, workload),
        **_memory(config, workload),
        **_io(config, workload),
        **_copies(config, workload),
        **_features(config),
        **_power(config),
        **_recovery(config, workload),
        **_standby(config, workload),
        **telemetry_params(config.telemetry, config.interval_s),
    }
    made.update(_promises(config, workload, made))
    made["protected_vms"] = np.flatnonzero(made["vm_protected"]).astype(np.int32)
    made["full"] = int(made["full"] or _needs_full(config, made))
    return frozen_params(ClusterParams(**made))


def frozen_params(params: ClusterParams) -> ClusterParams:
    """The same with arrays that cannot be written to."""
    return ClusterParams(*(_frozen(value) for value in params))


def _frozen(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    shown = np.ascontiguousarray(value).view()
    shown.flags.writeable = False
    return shown


def _needs_full(config: ClusterConfig, model: dict[str, Any]) -> bool:
    """Whether something is on that the simple cluster's kernels do not know.

    They know power curves, PUE, power while booting and carbon, but no standby.
    """
    asked, plain = config.power, PowerConfig()
    return bool(
        model["has_failures"]
        or replace(asked, pue=plain.pue, boot_level=plain.boot_level) != plain
        or len(model["host_features"])
        or len(model["host_virt_types"])
    )


def _hosts(config: ClusterConfig) -> dict[str, Any]:
    """What hosts have, and draw."""
    kinds = np.ascontiguousarray(config.host_type_of, dtype=np.int32)
    types = config.host_types
    # Tables of different length meet on the coarsest grid that holds every given point, so none is bent.
    points = math.lcm(*(len(t.table_w) - 1 for t in types)) + 1
    grid = np.linspace(0.0, 1.0, points)
    level = config.power.boot_level
    booting = [t.table_w[0] + level * (t.table_w[-1] - t.table_w[0]) for t in types]
    mid = [w if t.boot_power_w is None else t.boot_power_w for t, w in zip(types, booting)]
    down = [t.table_w[0] if t.shutdown_power_w is None else t.shutdown_power_w for t in types]
    cpu = _per_host(config, [t.cpu_mhz for t in types])
    memory = _per_host(config, [t.memory_mib for t in types])
    return {
        "host_type": kinds,
        "host_cpu_mhz": cpu,
        "host_core_mhz": _per_host(config, [t.core_mhz for t in types]),
        "host_mem_mib": memory,
        "host_inv_cpu": 1.0 / cpu,
        "host_inv_mem": 1.0 / memory,
        "host_boot_s": _per_host(config, [t.boot_time_s for t in types]),
        "host_shutdown_s": _per_host(config, [t.shutdown_time_s for t in types]),
        "host_boot_w": _per_host(config, mid),
        "host_shutdown_w": _per_host(config, down),
        "power_w": np.array(
            [np.interp(grid, np.linspace(0.0, 1.0, len(t.table_w)), t.table_w) for t in types]
        ),
    }


def _load(workload: Workload) -> dict[str, Any]:
    """What VMs are, and ask for."""
    floats = ("vm_cpu_mhz", "vm_mem_mib", "vm_departure_s", "vm_arrival_s", "util")
    return {
        **{name: np.asarray(getattr(workload, name), dtype=np.float64) for name in floats},
        "vm_vcpus": np.asarray(workload.vm_vcpus, dtype=np.int32),
        "arrival_order": np.argsort(workload.vm_arrival_s, kind="stable").astype(np.int32),
        "departure_order": np.argsort(workload.vm_departure_s, kind="stable").astype(np.int32),
        "sample_s": float(workload.sample_s),
    }


def _service(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§13: service classes and prices."""
    weight = class_values(config.cost.weights, workload.vm_class)
    return {
        "vm_class": workload.vm_class,
        "vm_weight": weight,
        "one_weight": float(weight[0]) if bool((weight == weight[0]).all()) else 0.0,
        "prices": prices_of(config.cost),
        "latency_most": float(config.cost.latency_most),
    }


def _rules(config: ClusterConfig) -> dict[str, Any]:
    """How VMs are placed and moved."""
    migration = config.migration
    return {
        "interval_s": float(config.interval_s),
        "mig_mib_s": float(migration.rate_mib_s) if isinstance(migration, MigrationConfig) else 0.0,
        "mig_cpu_loss": float(migration.cpu_loss),
        "mig_dest_share": float(migration.dest_cpu_share),
        "memory_binding": int(config.memory != "ignored"),
        "arrival_rule": ARRIVAL_RULES.index(config.arrival),
        "arrival_overcommit": float(config.arrival_cpu_overcommit),
        "arrival_core_speed": int(config.arrival_core_speed),
        "auto_boot": int(config.auto_boot),
        "mem_overcommit": float(config.memory_overcommit) if config.memory == "multiplexed" else 1.0,
    }


def _promises(config: ClusterConfig, workload: Workload, made: dict[str, Any]) -> dict[str, Any]:
    """What orders and choices are held to: the failover guarantee (§8) and placement rules."""
    asked = config.admission or AdmissionConfig(rule="none")
    found: dict[str, Any] = {**asked.numbers._asdict(), "has_admission": int(asked.rule != "none")}
    found["admission_enforced"] = int(found["has_admission"] and asked.enforce)
    if found["has_admission"]:
        found["vm_counted_mhz"], found["vm_counted_mib"] = counted_sizes(asked, SimpleNamespace(**made))
        found["host_dedicated"] = dedicated_hosts(asked, config.n_hosts)
        found["host_domains"] = domain_columns(config.domains, config.n_hosts)
    if config.rules:
        found.update(has_rules=1, **rule_arrays(config.rules, workload.n_vms, config.n_hosts))
    return {"has_rules": 0, **found}


def _is_precopy(config: ClusterConfig) -> bool:
    return isinstance(config.migration, PrecopyConfig)


def _switches(config: ClusterConfig) -> dict[str, Any]:
    has = {
        "has_overhead": config.overhead is not None,
        "has_cpu": config.cpu is not None,
        "has_numa": config.numa is not None,
        "has_tiers": config.memory == "multiplexed",
        "has_io": config.io is not None,
        "has_precopy": _is_precopy(config),
        "has_standby": config.standby is not None,
    }
    return {
        "full": int(any(has.values())),
        **{name: int(on) for name, on in has.items()},
        "has_failures": int(config.failures is not None),
    }


def _per_host(config: ClusterConfig, values: list[Any], dtype: Any = np.float64) -> NDArray[Any]:
    return np.array(values, dtype=dtype)[config.host_type_of]


def _per_vm(workload: Workload, values: list[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """One value per profile to one per VM."""
    return np.array(values, dtype=dtype)[workload.vm_profile]


def _overhead(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§1; who can run what is there too where some VM does not suit some host."""
    support = support_table(
        [kind.virtualization for kind in config.host_types],
        np.asarray(config.host_type_of, dtype=np.int32),
        [profile.virtualization for profile in workload.profiles],
        workload.vm_profile,
    )
    if config.overhead is None:
        return support._asdict() if _refuses_any(config, workload, support) else {}
    idle, busy = profile_tables([profile.operations for profile in workload.profiles])
    return {
        "cost_cycles": config.overhead.cost_cycles,
        "steady_tax": config.overhead.steady_tax,
        "idle_per_s": idle,
        "busy_per_ghz_s": busy,
        "vm_instructions": workload.vm_profile,
        **support._asdict(),
    }


def _refuses_any(config: ClusterConfig, workload: Workload, support: SupportTable) -> bool:
    """Whether some host cannot run some VM; asked of one of each kind."""
    hosts = np.unique(config.host_type_of, return_index=True)[1]
    vms = np.unique(workload.vm_profile, return_index=True)[1]
    return any(support_code(support, int(v), int(h)) != 0 for v in vms for h in hosts)


def _cpu(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§2."""
    if config.cpu is None:
        return {}
    claims = cpu_claims(
        [profile.cpu for profile in workload.profiles], workload.vm_profile, workload.vm_vcpus
    )
    names = ("vm_reservation_mhz", "vm_limit_mhz", "vm_shares")
    return {"co_stop": float(config.cpu.co_stop), **{name: getattr(claims, name) for name in names}}


def _numa(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§3."""
    if config.numa is None:
        return {}
    types = config.host_types
    p = numa_params(
        config.numa,
        _per_host(config, [kind.numa_nodes for kind in types], np.int32),
        _per_host(config, [kind.cores for kind in types]),
        _per_host(config, [kind.core_mhz for kind in types]),
        _per_host(config, [kind.memory_mib for kind in types]),
        workload.vm_vcpus,
        workload.vm_mem_mib,
        _per_vm(workload, [profile.stalls for profile in workload.profiles]),
    )
    arrays = ("host_nodes", "node_cores", "node_cpu_mhz", "node_mem_mib", "vm_stall_share")
    numbers = [name for name in NumaParams._fields if name.startswith("numa_")]
    fields = {name: getattr(p, name) for name in (*arrays, *numbers)}
    if config.memory != "binding":
        # Memory binds on nodes where it binds on hosts: tiers reclaim nothing if nodes refuse to overcommit.
        fields["node_mem_mib"] = np.full(config.n_hosts, math.inf)
    return {**fields, "numa_moves": config.numa.moves_in(workload.sample_s)}


def _memory(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§4."""
    if config.memory != "multiplexed":
        return MemoryConfig().costs._asdict()
    inputs = ("vm_mem_reservation_mib", "vm_mem_shares", "vm_zero_share", "vm_dup_share", "vm_domain")
    profiles = [profile.memory for profile in workload.profiles]
    p = memory_inputs(profiles, workload.vm_profile, workload.vm_mem_mib, config.memory_tiers)
    active = _signal(workload, "sig_active")
    return {
        **config.memory_tiers.costs._asdict(),
        "memory_window_s": float(config.memory_tiers.active_window_s),
        "vm_touched_share": _per_vm(workload, [profile.touched_share for profile in profiles]),
        "vm_active_share": _per_vm(workload, [profile.active_share for profile in profiles]),
        **{name: getattr(p, name) for name in (*inputs, "vm_balloon_driver")},
        "sig_active": np.minimum(active, 1.0),  # readings above the configured memory are noise
    }


def _io(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§5, and the rates that §6 and §9 need too."""
    kinds = workload.profiles
    moves = _is_precopy(config) or config.standby is not None
    shared: dict[str, Any] = {}
    if config.io is not None or moves:
        shared["host_nic_mbps"] = _per_host(config, [kind.nic_mbps for kind in config.host_types])
        shared["drive"] = _drive(workload)
    if config.io is not None or config.standby is not None:
        streams = ("sig_net_out", "sig_net_in", "sig_disk_read", "sig_disk_write")
        shared.update({name: _signal(workload, name) for name in streams})
    if moves:
        shared["sig_dirty"] = _signal(workload, "sig_dirty")
    if config.io is None:
        return shared
    modes = _per_vm(workload, [kind.io.code for kind in kinds], np.int8)
    passthrough = modes == PASSTHROUGH
    return {
        "io_table": mode_table(config.io),
        "io_slice_s": float(config.io.slice_ms) * 1e-3,
        "vm_io_mode": modes,
        "vm_latency_s": class_values(config.cost.latency_target_ms, workload.vm_class) * 1e-3,
        "vm_functions": np.where(
            passthrough, _per_vm(workload, [kind.io.functions for kind in kinds], np.int32), 0
        ).astype(np.int32),
        "host_functions": _host_functions(config, config.io),
        "vm_packet_mbit": _per_vm(workload, [kind.io.packet_bytes * 8e-6 for kind in kinds]),
        "vm_request_mb": _per_vm(workload, [kind.io.request_kib * 1024e-6 for kind in kinds]),
        "vm_pinned": (passthrough & (not config.io.passthrough.migratable)).astype(np.int8),
        **shared,
    }


def _host_functions(config: ClusterConfig, io: IoConfig) -> I4:
    own = [kind.io_functions for kind in config.host_types]
    return _per_host(config, [io.functions_per_host if n is None else n for n in own], np.int32)


def _drive(workload: Workload) -> F8:
    """Idle and busy rates of every VM, (V, 10): net out and in (Mbit/s), disk (MB/s), dirty (MiB/s)."""
    rows = [
        [
            *(*kind.io.net_out_mbps, *kind.io.net_in_mbps),
            *(*kind.io.disk_read_mb_s, *kind.io.disk_write_mb_s),
            *kind.dirty_mib_s,
        ]
        for kind in workload.profiles
    ]
    return _per_vm(workload, rows)


def _signal(workload: Workload, name: str) -> F8:
    """A signal of the workload in the model's unit, shape (S, V), or (0, 0) if the trace does not have it."""
    key, factor = SIGNALS[name]
    matrix = workload.signals.get(key)
    if matrix is None:
        return np.empty((0, 0))
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != workload.util.shape:
        raise ConfigError(
            f"workload {workload.name}: signal {key} has shape {values.shape}, expected {workload.util.shape}"
        )
    if not (np.isfinite(values).all() and float(values.min()) >= 0):
        raise ConfigError(f"workload {workload.name}: signal {key} must be finite and at least 0")
    return np.ascontiguousarray(values * factor)


def _copies(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§6: pre-copy."""
    # Results know no energy of a copy at a fixed rate; who plans reckons with the published one.
    own = config.migration if isinstance(config.migration, PrecopyConfig) else PrecopyConfig()
    numbers = {
        **precopy_params(own)._asdict(),
        "copy_max_mbps": math.inf if own.max_mbps is None else float(own.max_mbps),
        "migration_j": own.energy_j,
        "migration_j_per_mb": own.energy_j_per_mb,
    }
    if own is not config.migration:
        return numbers
    nics = _per_host(config, [kind.nic_mbps for kind in config.host_types])
    working = _per_vm(workload, [kind.working_share for kind in workload.profiles])
    return {
        **numbers,
        "host_slots": migration_slots(own, nics),
        "vm_working_mib": working * workload.vm_mem_mib,
    }


def _features(config: ClusterConfig) -> dict[str, Any]:
    """§6: CPU features, where host types have a level."""
    names = [kind.cpu_level for kind in config.host_types]
    if any(name is None for name in names):
        return {}
    levels = CpuLevels(CPU_LEVELS)
    bits = levels.bits()
    offered = np.array([bits[levels.code(str(name))] for name in names], dtype=np.uint64)
    allowed = None if config.evc_level is None else bits[levels.code(config.evc_level)]
    found = baselines_at_power_on(offered, bits, allowed)
    for kind, code in zip(config.host_types, found):
        if code < 0:
            raise ConfigError(
                f"cluster.evc_level={config.evc_level}: host type {kind.name} ({kind.cpu_level}) has none of "
                "its features; it is another vendor's"
            )
    return {
        "host_features": offered[config.host_type_of],
        "host_baseline": bits[found][config.host_type_of],
    }


def _power(config: ClusterConfig) -> dict[str, Any]:
    """§7."""
    curves = [kind.curve for kind in config.host_types]
    power, carbon, n = config.power, config.carbon, config.n_hosts
    idle = _per_host(config, [kind.table_w[0] for kind in config.host_types])
    return {
        "curve_kind": np.array([CURVES.index(c.kind) for c in curves], dtype=np.int8),
        "curve_exponent": np.array([1.0 if c.kind == "table" else c.exponent for c in curves]),
        "curve_scale": np.array([float(c.scale) for c in curves]),
        "curve_busy_w": np.array([float(c.busy_w) for c in curves]),
        "curve_plain": np.array([c.kind in TABLES and c.busy_w == 0 for c in curves], dtype=np.int8),
        "suspend_s": np.full(n, float(power.suspend_time_s)),
        "resume_s": np.full(n, float(power.resume_time_s)),
        "standby_w": power.standby_share * idle,
        "pue": float(power.pue),
        **({} if carbon is None else {"carbon_g_kwh": np.array(carbon.g_per_kwh, dtype=np.float64)}),
        "carbon_start_s": 0.0 if carbon is None else 0.0 - float(carbon.offset_s),
        "carbon_sample_s": 3600.0 if carbon is None else float(carbon.step_s),
    }


def _recovery(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§8, but the faults themselves."""
    times = config.recovery
    made: dict[str, Any] = {
        "detect_s": float(times.detect_s),
        "vm_detect_s": float(times.vm_detect_s),
        "place_s": float(times.placement_s),
        "vm_boot_s": float(times.boot_s),
        "associate_s": float(times.associate_s),
        "restart_rule": RESTART_RULES.index(config.restart),
    }
    if config.failures is not None:
        made["vm_priority"] = _per_vm(
            workload, [kind.restart_priority for kind in workload.profiles], np.int32
        )
        made["host_is_spare"] = np.zeros(config.n_hosts, dtype=np.int8)
        made["host_is_spare"][list(config.spares)] = 1
    if config.failures is not None or config.standby is not None:
        made["host_domains"] = domain_columns(config.domains, config.n_hosts)
    return made


def domain_columns(domains: tuple[FailureDomain, ...], n_hosts: int) -> I4:
    """Which failure domains every host is in.

    A host may be in several (its rack, its power feed): each kind of domain has a column. Domains that have
    no host in common may share one, so the columns are found here and need not be named.

    Args:
        domains: The domains.
        n_hosts: H.

    Returns:
        Shape (H, D): index into ``domains`` per column, -1 = none; D = 0 without domains. Two hosts share a
        domain where they have the same index in a column.
    """
    columns: list[I4] = []
    for i, domain in enumerate(domains):
        hosts = list(domain.hosts)
        free = next((column for column in columns if bool((column[hosts] < 0).all())), None)
        if free is None:
            free = np.full(n_hosts, -1, dtype=np.int32)
            columns.append(free)
        free[hosts] = i
    return np.stack(columns, axis=1) if columns else np.empty((n_hosts, 0), dtype=np.int32)


def _standby(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§9."""
    if config.standby is None:
        return standby_params(StandbyConfig())._asdict()
    return {
        "vm_protected": _per_vm(workload, [kind.protected for kind in workload.profiles], np.int8),
        **standby_params(config.standby)._asdict(),
    }
