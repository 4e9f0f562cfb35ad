"""The parameters of all sub-models as arrays: what ``params.ClusterParams`` has beside hosts, VMs and demand.

Arrays of a sub-model that is off have length 0, so that a simple cluster pays nothing. H hosts, V VMs, T host
types, S samples; the numbers of the sections are those of model.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..config import RESTART_RULES, ClusterConfig
from ..feasibility import check_models
from ..models.compatibility import CPU_LEVELS, CpuLevels, baselines_at_power_on
from ..models.failures import (
    HOST_FAILS,
    HOST_REPAIRED,
    VM_CRASHES,
    FailureDomain,
    sample_outages,
    sample_vm_crashes,
)
from ..models.io_path import PASSTHROUGH, IoConfig, mode_table
from ..models.memory import MemoryConfig, memory_inputs
from ..models.numa_nodes import NumaParams, numa_params
from ..models.overhead import SupportTable, profile_tables, support_code, support_table
from ..models.power_states import CURVES
from ..models.precopy_config import PrecopyConfig, migration_slots, precopy_params
from ..models.scheduling import cpu_claims
from ..models.standby import StandbyConfig, standby_params
from ..workload import Workload

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

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


def model_params(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """Flatten all sub-models into the arrays that kernels read.

    Args:
        config: The cluster.
        workload: The load; its profiles say what kinds of guests there are.

    Returns:
        Every field of ``ClusterParams`` of the full model by name, but the faults, which are drawn at every
        reset (``sample_faults``): C-contiguous arrays, of length 0 where the sub-model is off; int and float.

    Raises:
        ConfigError: For a configuration that cannot be, in one line.
    """
    check_models(config, workload)
    fields: dict[str, Any] = {
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
    }
    return {
        name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }


def _empty(*dtypes: Any) -> list[NDArray[Any]]:
    return [np.empty(0, dtype=dtype) for dtype in dtypes]


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
    table = support._asdict()
    if config.overhead is None and not _refuses_any(config, workload, support):
        table = dict(zip(SupportTable._fields, _empty(np.int32, np.int8, np.int32, np.int32, np.int32)))
    if config.overhead is None:
        return {
            **dict.fromkeys(("cost_cycles", "idle_per_s", "busy_per_ghz_s"), np.empty((0, 0))),
            "steady_tax": np.empty(0),
            "vm_instructions": np.empty(0, dtype=np.int32),
            **table,
        }
    idle, busy = profile_tables([profile.operations for profile in workload.profiles])
    return {
        "cost_cycles": config.overhead.cost_cycles,
        "steady_tax": config.overhead.steady_tax,
        "idle_per_s": idle,
        "busy_per_ghz_s": busy,
        "vm_instructions": workload.vm_profile,
        **table,
    }


def _refuses_any(config: ClusterConfig, workload: Workload, support: SupportTable) -> bool:
    """Whether some host cannot run some VM; asked of one of each kind."""
    hosts = np.unique(config.host_type_of, return_index=True)[1]
    vms = np.unique(workload.vm_profile, return_index=True)[1]
    return any(support_code(support, int(v), int(h)) != 0 for v in vms for h in hosts)


def _cpu(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§2."""
    names = ("vm_reservation_mhz", "vm_limit_mhz", "vm_shares")
    if config.cpu is None:
        return {"co_stop": 0.0, **dict(zip(names, _empty(*[np.float64] * 3)))}
    claims = cpu_claims(
        [profile.cpu for profile in workload.profiles], workload.vm_profile, workload.vm_vcpus
    )
    return {"co_stop": float(config.cpu.co_stop), **{name: getattr(claims, name) for name in names}}


def _numa(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§3."""
    arrays = ("host_nodes", "node_cores", "node_cpu_mhz", "node_mem_mib", "vm_stall_share")
    numbers = [name for name in NumaParams._fields if name.startswith("numa_")]
    if config.numa is None:
        whole = dict.fromkeys(("numa_aware", "numa_vnuma_min", "numa_moves"), 0)
        return {
            **dict.fromkeys(numbers, 0.0),
            **whole,
            **dict(zip(arrays, _empty(np.int32, *[np.float64] * 4))),
        }
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
    fields = {name: getattr(p, name) for name in (*arrays, *numbers)}
    if config.memory != "binding":
        # Memory binds on nodes where it binds on hosts: tiers reclaim nothing if nodes refuse to overcommit.
        fields["node_mem_mib"] = np.full(config.n_hosts, math.inf)
    return {**fields, "numa_moves": config.numa.moves_in(workload.sample_s)}


def _memory(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§4."""
    shares = ("vm_touched_share", "vm_active_share")
    inputs = ("vm_mem_reservation_mib", "vm_mem_shares", "vm_zero_share", "vm_dup_share", "vm_domain")
    names = (*shares, *inputs, "vm_balloon_driver")
    if config.memory != "multiplexed":
        return {
            **MemoryConfig().costs._asdict(),
            "memory_window_s": 0.0,
            **dict(zip(names, _empty(*[np.float64] * 6, np.int32, np.int8))),
            "sig_active": np.empty((0, 0)),
        }
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
    network = config.io is not None or moves
    streams = config.io is not None or config.standby is not None
    nothing = np.empty((0, 0))
    shared = {
        "host_nic_mbps": _per_host(config, [kind.nic_mbps for kind in config.host_types])
        if network
        else np.empty(0),
        "drive": _drive(workload) if network else nothing,
        **{
            name: _signal(workload, name) if streams else nothing
            for name in ("sig_net_out", "sig_net_in", "sig_disk_read", "sig_disk_write")
        },
        "sig_dirty": _signal(workload, "sig_dirty") if moves else nothing,
    }
    if config.io is None:
        dtypes = (np.int8, np.int32, np.int32, np.float64, np.float64, np.int8)
        names = ("vm_io_mode", "vm_functions", "host_functions", "vm_packet_mbit", "vm_request_mb")
        return {
            "io_table": nothing,
            "io_slice_s": 0.0,
            **dict(zip((*names, "vm_pinned"), _empty(*dtypes))),
            **shared,
        }
    modes = _per_vm(workload, [kind.io.code for kind in kinds], np.int8)
    passthrough = modes == PASSTHROUGH
    return {
        "io_table": mode_table(config.io),
        "io_slice_s": float(config.io.slice_ms) * 1e-3,
        "vm_io_mode": modes,
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
    """Idle and busy rates of every VM, shape (V, 10)."""
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
    if not isinstance(config.migration, PrecopyConfig):
        return {
            **precopy_params(PrecopyConfig())._asdict(),
            "copy_max_mbps": math.inf,
            "host_slots": np.empty(0, dtype=np.int32),
            "vm_working_mib": np.empty(0),
        }
    own = config.migration
    nics = _per_host(config, [kind.nic_mbps for kind in config.host_types])
    working = _per_vm(workload, [kind.working_share for kind in workload.profiles])
    return {
        **precopy_params(own)._asdict(),
        "copy_max_mbps": math.inf if own.max_mbps is None else float(own.max_mbps),
        "host_slots": migration_slots(own, nics),
        "vm_working_mib": working * workload.vm_mem_mib,
    }


def _features(config: ClusterConfig) -> dict[str, Any]:
    """§6: CPU features, where host types have a level."""
    names = [kind.cpu_level for kind in config.host_types]
    if any(name is None for name in names):
        return {name: np.empty(0, dtype=np.uint64) for name in ("host_features", "host_baseline")}
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
        "curve_kind": np.array([0 if c is None else CURVES.index(c.kind) for c in curves], dtype=np.int8),
        "curve_exponent": np.array([1.0 if c is None else c.exponent for c in curves], dtype=np.float64),
        "suspend_s": np.full(n, float(power.suspend_time_s)),
        "resume_s": np.full(n, float(power.resume_time_s)),
        "standby_w": power.standby_share * idle,
        "pue": float(power.pue),
        "carbon_g_kwh": np.empty(0) if carbon is None else np.array(carbon.g_per_kwh, dtype=np.float64),
        "carbon_start_s": 0.0 if carbon is None else 0.0 - float(carbon.offset_s),
        "carbon_sample_s": 3600.0 if carbon is None else float(carbon.step_s),
    }


def _recovery(config: ClusterConfig, workload: Workload) -> dict[str, Any]:
    """§8, but the faults themselves."""
    times = config.recovery
    on = config.failures is not None
    apart = on or config.standby is not None
    spare = np.zeros(config.n_hosts, dtype=np.int8)
    spare[list(config.spares)] = 1
    priority = _per_vm(workload, [kind.restart_priority for kind in workload.profiles], np.int32)
    return {
        "detect_s": float(times.detect_s),
        "vm_detect_s": float(times.vm_detect_s),
        "place_s": float(times.placement_s),
        "vm_boot_s": float(times.boot_s),
        "associate_s": float(times.associate_s),
        "restart_rule": RESTART_RULES.index(config.restart),
        "vm_priority": priority if on else np.empty(0, dtype=np.int32),
        "host_domains": domain_columns(config.domains, config.n_hosts)
        if apart
        else np.empty((0, 0), dtype=np.int32),
        "host_is_spare": spare if on else np.empty(0, dtype=np.int8),
    }


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
    own = config.standby
    if own is None:
        return {"vm_protected": np.empty(0, dtype=np.int8), **standby_params(StandbyConfig())._asdict()}
    return {
        "vm_protected": _per_vm(workload, [kind.protected for kind in workload.profiles], np.int8),
        **standby_params(own)._asdict(),
    }


def sample_faults(
    config: ClusterConfig, n_vms: int, horizon_s: float, rng: np.random.Generator | None
) -> tuple[F8, I4, I1]:
    """Draw what breaks and is mended in an episode.

    Hosts and VMs have seeds of their own, both drawn whatever is on: crashes of VMs change no host's failure.

    Args:
        config: The cluster.
        n_vms: V.
        horizon_s: Faults that begin before it are drawn, s; repairs may come later.
        rng: Source of the seeds; None = no faults.

    Returns:
        Time (s), host or VM, and kind (``HOST_FAILS``, ``HOST_REPAIRED``, ``VM_CRASHES``) of every event,
        each of shape (N,), sorted by time, kind and item; empty where failures are off.

    Raises:
        ConfigError: If the horizon is not a number, or domains or incidents cannot be.
    """
    if rng is None or config.failures is None:
        return np.empty(0), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int8)
    if not 0 <= horizon_s < math.inf:
        raise ConfigError(f"failures: horizon_s={horizon_s}: must be a number, at least 0")
    words = rng.integers(0, 2**32, size=(2, 4))
    hosts, vms = (np.random.SeedSequence(row.tolist()) for row in words)
    outages = sample_outages(
        config.failures,
        config.n_hosts,
        horizon_s,
        hosts,
        domains=config.domains,
        incidents=config.incidents,
        replayed=config.replayed,
    )
    begun = outages.down_s < horizon_s  # replayed outages have no horizon of their own
    mended = begun & np.isfinite(outages.up_s)
    vm, crash_s = sample_vm_crashes(config.failures, n_vms, horizon_s, vms)
    times = np.concatenate([outages.down_s[begun], outages.up_s[mended], crash_s])
    items = np.concatenate([outages.host[begun], outages.host[mended], vm]).astype(np.int32)
    counts = (int(begun.sum()), int(mended.sum()), len(vm))
    kinds = np.repeat([HOST_FAILS, HOST_REPAIRED, VM_CRASHES], counts).astype(np.int8)
    order = np.lexsort((items, kinds, times))
    return times[order], items[order], kinds[order]
