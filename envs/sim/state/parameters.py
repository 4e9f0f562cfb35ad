"""What does not change during an episode: hosts, VMs, demand, the parameters of every sub-model, as arrays.

Shape and unit of every array stand on its field; H hosts, V VMs, T host types, S trace samples.
"""

from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...jit.handle import Handle, make_handle
from ..config import ARRIVAL_RULES, ClusterConfig, MigrationConfig
from ..models.power_states import PowerConfig
from ..models.precopy_config import PrecopyConfig
from ..workload import Workload
from .submodel_parameters import model_params

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

FullParams = Any
"""``ClusterParams`` where a kernel passes it on as the record of one sub-model, whose fields it has."""

DRIVEN = ("vm_claim_mhz", "vm_touched_mib", "vm_active_mib", "vm_touch_rate")
"""Arrays of the state that drive a sub-model: its kernels read them beside the parameters."""


class ClusterParams(NamedTuple):
    """What does not change during an episode."""

    host_type: I4  # (H,) index into the power tables
    host_cpu_mhz: F8  # (H,) CPU of the whole host, MHz
    host_core_mhz: F8  # (H,) speed of one core, MHz
    host_mem_mib: F8  # (H,) MiB
    host_inv_cpu: F8  # (H,) 1 / host_cpu_mhz
    host_inv_mem: F8  # (H,) 1 / host_mem_mib
    host_boot_s: F8  # (H,) s
    host_shutdown_s: F8  # (H,) s
    host_boot_w: F8  # (H,) W while booting
    host_shutdown_w: F8  # (H,) W while shutting down
    power_w: F8  # (T, P) W at equally spaced loads
    vm_cpu_mhz: F8  # (V,) nominal CPU, MHz
    vm_vcpus: I4  # (V,)
    vm_mem_mib: F8  # (V,) MiB
    vm_departure_s: F8  # (V,) s, inf = never
    vm_arrival_s: F8  # (V,) s
    arrival_order: I4  # (V,) VMs by arrival, ties by index
    util: F8  # (S, V) demand as a fraction of nominal CPU
    sample_s: float  # s
    interval_s: float  # s between two decisions
    mig_mib_s: float  # MiB/s of one migration
    mig_cpu_loss: float  # share of its CPU a moving VM loses
    mig_dest_share: float  # share of its CPU the copy costs on the destination
    memory_binding: int  # 0: memory binds at arrival only, 1: at every placement (times ``mem_overcommit``)
    arrival_rule: int  # index into config.ARRIVAL_RULES
    arrival_overcommit: float
    arrival_core_speed: int  # 1: a vCPU needs a core at least as fast at arrival
    auto_boot: int  # 1: an arrival that fits nowhere boots a host
    # --- the full model; arrays of a sub-model that is off have length 0 (see model_params.py) ---
    full: int  # 1: what VMs get is worked out by the chain of sub-models
    has_overhead: int
    has_cpu: int
    has_numa: int
    has_tiers: int  # memory tiers
    has_io: int
    has_precopy: int
    has_failures: int
    has_standby: int  # hot standby of VMs
    cost_cycles: F8  # (5, 4) cycles per operation, by virtualization type and class
    steady_tax: F8  # (5,) added share of demand
    idle_per_s: F8  # (R, 4) operations per second and vCPU, by instruction profile
    busy_per_ghz_s: F8  # (R, 4) operations per second and GHz of demand
    vm_instructions: I4  # (V,) instruction profile
    host_virt_types: I4  # (H,) bit t: virtualization type t is on offer
    host_extension: I1  # (H,) 1: the CPU has a virtualization extension
    host_kernel: I4  # (H,) kernel, numbered
    vm_virt_type: I4  # (V,) index into overhead.VIRT_TYPES
    vm_kernel: I4  # (V,) kernel, numbered; -1 = one that no host has
    co_stop: float  # strength of the co-scheduling penalty
    vm_reservation_mhz: F8  # (V,) MHz
    vm_limit_mhz: F8  # (V,) MHz, inf = none
    vm_shares: F8  # (V,) of the whole VM
    host_nodes: I4  # (H,) NUMA nodes
    node_cores: F8  # (H,) cores of one node
    node_cpu_mhz: F8  # (H,) CPU of one node, MHz
    node_mem_mib: F8  # (H,) memory of one node, MiB
    vm_stall_share: F8  # (V,) memory-stall share
    numa_aware: int  # 1: home nodes, 0: interleaved
    numa_extra_latency: float  # L_remote / L_local - 1
    numa_overcommit: float  # vCPUs per core of a node
    numa_vnuma_min: int  # vCPUs from which a wide VM stays local
    numa_threshold: float  # share of a node's CPU
    numa_page_mib_s: float  # MiB/s
    numa_moves: int  # changes of home node per host and sample, at most
    memory_soft: float  # this and the next 12: ``memory.MemoryCosts``
    memory_hard: float
    memory_low: float
    memory_idle_cost: float
    memory_sharing: float
    memory_balloon_limit: float
    memory_compression_limit: float
    memory_pages_per_saved: float
    memory_share_s: float
    memory_decompress_s: float
    memory_swap_s: float
    memory_balloon_cpu_min: float
    memory_balloon_cpu_max: float
    memory_window_s: float  # time in which every active page is touched once, s
    vm_touched_share: F8  # (V,) of configured memory
    vm_active_share: F8  # (V,) of configured memory
    vm_mem_reservation_mib: F8  # (V,) MiB
    vm_mem_shares: F8  # (V,)
    vm_zero_share: F8  # (V,) of touched memory
    vm_dup_share: F8  # (V,) of touched memory
    vm_domain: I4  # (V,) sharing domain, -1 = none
    vm_balloon_driver: I1  # (V,)
    sig_active: F8  # (S, V) active share of configured memory, or (0, 0)
    io_table: F8  # (3, 3) see io_path.mode_table
    io_slice_s: float  # time slice of the vCPU scheduler, s
    vm_io_mode: I1  # (V,)
    vm_functions: I4  # (V,) passthrough functions that a VM needs
    host_functions: I4  # (H,) passthrough functions
    host_nic_mbps: F8  # (H,) line rate per direction, Mbit/s
    vm_packet_mbit: F8  # (V,) Mbit per packet
    vm_request_mb: F8  # (V,) MB per disk request
    drive: F8  # (V, 10) idle and busy: net out, net in (Mbit/s), disk read, disk write (MB/s), dirty (MiB/s)
    sig_net_out: F8  # (S, V) Mbit/s, or (0, 0)
    sig_net_in: F8  # (S, V) Mbit/s, or (0, 0)
    sig_disk_read: F8  # (S, V) MB/s, or (0, 0)
    sig_disk_write: F8  # (S, V) MB/s, or (0, 0)
    sig_dirty: F8  # (S, V) MiB/s, or (0, 0)
    copy_rule: int  # this and the next 11: ``precopy_config.PrecopyParams``
    copy_threshold_mib: float
    copy_max_rounds: int
    copy_max_sent: float
    copy_init_s: float
    copy_resume_s: float
    copy_throttle_start: float
    copy_throttle_step: float
    copy_throttle_max: float
    copy_cpu_state_mib: float
    copy_postcopy_loss: float
    copy_cpu_loss: float
    migration_j: float  # energy of a migration, J (an estimate, beside the hosts' energy)
    migration_j_per_mb: float  # J per 1e6 bytes sent
    copy_max_mbps: float  # bound of one migration's rate, Mbit/s
    host_slots: I4  # (H,) concurrent migrations
    vm_working_mib: F8  # (V,) writable working set, MiB
    host_features: NDArray[np.uint64]  # (H,) CPU features
    host_baseline: NDArray[np.uint64]  # (H,) features that a VM switched on there sees
    vm_pinned: I1  # (V,) 1: a passthrough device that cannot migrate
    curve_kind: I1  # (T,) index into power_states.CURVES
    curve_exponent: F8  # (T,) exponent of the fan curve
    suspend_s: F8  # (H,) on to standby, s
    resume_s: F8  # (H,) standby to on, s
    standby_w: F8  # (H,) W in standby
    pue: float  # facility power over IT power
    protected_vms: I4  # (P,) VMs to have a secondary
    mem_overcommit: float  # configured memory that a host takes, as a multiple of its own
    carbon_g_kwh: F8  # (C,) carbon intensity, g/kWh; (0,) = unknown
    carbon_start_s: float  # time of its first sample, s
    carbon_sample_s: float  # s
    detect_s: float  # from a host's failure to its being taken for dead, s
    vm_detect_s: float  # from a VM's crash to its being noticed, s
    place_s: float  # to find a host for a VM that restarts, s
    vm_boot_s: float  # to boot a VM that restarts, s
    associate_s: float  # to move a host's profile to a spare, s
    restart_rule: int  # 0: first fit, 1: the policy places
    vm_priority: I4  # (V,) restart priority
    host_domains: I4  # (H, D) failure domain per kind, -1 = none
    host_is_spare: I1  # (H,) 1: no profile at time 0
    vm_protected: I1  # (V,) 1: to have a secondary
    mirror_mode: int  # this and the next 7: ``standby.MirrorParams``
    mirror_epoch_s: float
    mirror_fixed_pause_s: float
    mirror_copy_mib_s: float
    mirror_lockstep_loss: float
    mirror_takeover_s: float
    mirror_max_vms: float
    mirror_max_vcpus: float
    fail_time_s: F8  # (N,) what breaks and is mended, drawn at reset: time, s
    fail_item: I4  # (N,) host or VM
    fail_kind: I1  # (N,) 0 host fails, 1 host is repaired, 2 VM crashes


def make_params(config: ClusterConfig, workload: Workload) -> ClusterParams:
    """Flatten a cluster and its workload into the arrays that kernels read."""
    kinds = np.ascontiguousarray(config.host_type_of, dtype=np.int32)
    types = config.host_types
    # Tables of different length meet on the coarsest grid that holds every given point, so none is bent.
    points = math.lcm(*(len(t.table_w) - 1 for t in types)) + 1
    grid = np.linspace(0.0, 1.0, points)
    power = np.array([np.interp(grid, np.linspace(0.0, 1.0, len(t.table_w)), t.table_w) for t in types])

    def per_host(values: list[float]) -> F8:
        return np.asarray(values, dtype=np.float64)[kinds]

    level = config.power.boot_level
    booting = [t.table_w[0] + level * (t.table_w[-1] - t.table_w[0]) for t in types]
    mid = [w if t.boot_power_w is None else t.boot_power_w for t, w in zip(types, booting)]
    down = [t.table_w[0] if t.shutdown_power_w is None else t.shutdown_power_w for t in types]
    none = np.empty(0)
    model = model_params(config, workload)
    model["full"] = int(model["full"] or _needs_full(config, model))
    migration = config.migration
    # Results know no energy of a copy at a fixed rate; who plans reckons with the published one.
    estimate = migration if isinstance(migration, PrecopyConfig) else PrecopyConfig()
    params = ClusterParams(
        host_type=kinds,
        host_cpu_mhz=per_host([t.cpu_mhz for t in types]),
        host_core_mhz=per_host([t.core_mhz for t in types]),
        host_mem_mib=per_host([t.memory_mib for t in types]),
        host_inv_cpu=1.0 / per_host([t.cpu_mhz for t in types]),
        host_inv_mem=1.0 / per_host([t.memory_mib for t in types]),
        host_boot_s=per_host([t.boot_time_s for t in types]),
        host_shutdown_s=per_host([t.shutdown_time_s for t in types]),
        host_boot_w=per_host(mid),
        host_shutdown_w=per_host(down),
        power_w=np.ascontiguousarray(power),
        vm_cpu_mhz=np.ascontiguousarray(workload.vm_cpu_mhz, dtype=np.float64),
        vm_vcpus=np.ascontiguousarray(workload.vm_vcpus, dtype=np.int32),
        vm_mem_mib=np.ascontiguousarray(workload.vm_mem_mib, dtype=np.float64),
        vm_departure_s=np.ascontiguousarray(workload.vm_departure_s, dtype=np.float64),
        vm_arrival_s=np.ascontiguousarray(workload.vm_arrival_s, dtype=np.float64),
        arrival_order=np.argsort(workload.vm_arrival_s, kind="stable").astype(np.int32),
        util=np.ascontiguousarray(workload.util, dtype=np.float64),
        sample_s=float(workload.sample_s),
        interval_s=float(config.interval_s),
        mig_mib_s=float(migration.rate_mib_s) if isinstance(migration, MigrationConfig) else 0.0,
        mig_cpu_loss=float(migration.cpu_loss),
        mig_dest_share=float(migration.dest_cpu_share),
        memory_binding=int(config.memory != "ignored"),
        arrival_rule=ARRIVAL_RULES.index(config.arrival),
        arrival_overcommit=float(config.arrival_cpu_overcommit),
        arrival_core_speed=int(config.arrival_core_speed),
        auto_boot=int(config.auto_boot),
        protected_vms=np.flatnonzero(model["vm_protected"]).astype(np.int32),
        mem_overcommit=float(config.memory_overcommit) if config.memory == "multiplexed" else 1.0,
        migration_j=estimate.energy_j,
        migration_j_per_mb=estimate.energy_j_per_mb,
        **model,
        fail_time_s=none,
        fail_item=none.astype(np.int32),
        fail_kind=none.astype(np.int8),
    )
    return ClusterParams(*(_frozen(value) for value in params))


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


def _frozen(value: Any) -> Any:
    """The same array, not to be written to: policies are shown the parameters, and forks share them."""
    if not isinstance(value, np.ndarray):
        return value
    shown = value.view()
    shown.flags.writeable = False
    return shown


_Bound = namedtuple("_Bound", (*ClusterParams._fields, *DRIVEN, "fn_renew"))  # type: ignore[misc]  # names are not literal


def bind_params(params: ClusterParams, state: Any) -> Handle:
    """Parameters as one argument for Numba kernels, with read-only views of what drives the sub-models.

    Args:
        params: Parameters.
        state: The ``ClusterState`` whose arrays are viewed.

    Returns:
        The handle; in the full model ``hub.connect`` completes it.
    """
    label = "full" if params.full else "params"
    return make_handle(
        label, _Bound._make((*params, *(getattr(state, name) for name in DRIVEN), 0)), readonly=True
    )
