"""What does not change during an episode: hosts, VMs, demand, the parameters of every sub-model, as arrays.

Shape and unit of every array stand on its field; H hosts, V VMs, T host types, S trace samples.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Annotated, Any, NamedTuple

from ...arrays import F8, I1, I4, I8, U8
from ...jit.handle import Handle, make_handle
from .fields import Of

DRIVEN = ("vm_claim_mhz", "vm_touched_mib", "vm_active_mib", "vm_touch_rate")
"""Arrays of the state that drive a sub-model: its kernels read them beside the parameters."""


class ClusterParams(NamedTuple):
    """What does not change during an episode."""

    host_type: Annotated[I4, Of("H", "index into the power tables")]
    host_cpu_mhz: Annotated[F8, Of("H", "CPU of the whole host, MHz")]
    host_core_mhz: Annotated[F8, Of("H", "speed of one core, MHz")]
    host_mem_mib: Annotated[F8, Of("H", "MiB")]
    host_inv_cpu: Annotated[F8, Of("H", "1 / host_cpu_mhz")]
    host_inv_mem: Annotated[F8, Of("H", "1 / host_mem_mib")]
    host_boot_s: Annotated[F8, Of("H", "s")]
    host_shutdown_s: Annotated[F8, Of("H", "s")]
    host_boot_w: Annotated[F8, Of("H", "W while booting")]
    host_shutdown_w: Annotated[F8, Of("H", "W while shutting down")]
    power_w: Annotated[F8, Of("T,P", "W at equally spaced loads")]
    vm_cpu_mhz: Annotated[F8, Of("V", "nominal CPU, MHz")]
    vm_vcpus: Annotated[I4, Of("V", "")]
    vm_mem_mib: Annotated[F8, Of("V", "MiB")]
    vm_departure_s: Annotated[F8, Of("V", "s, inf = never")]
    vm_arrival_s: Annotated[F8, Of("V", "s")]
    arrival_order: Annotated[I4, Of("V", "VMs by arrival, ties by index")]
    vm_class: Annotated[I1, Of("V", "service class, index into cost.VM_CLASSES")]
    vm_weight: Annotated[F8, Of("V", "weight of its service class")]
    one_weight: float  # the weight that all VMs have, 0 = they differ
    prices: Annotated[F8, Of("C", "see cost.Prices")]
    latency_most: float  # relative excess of I/O latency that counts at most
    vm_latency_s: Annotated[F8, Of("V", "I/O latency that its class may have, s", "io")]
    departure_order: Annotated[I4, Of("V", "VMs by departure, ties by index")]
    util: Annotated[F8, Of("S,V", "demand as a fraction of nominal CPU")]
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
    full: int  # 1: what VMs get is worked out by the chain of sub-models
    has_overhead: int
    has_cpu: int
    has_numa: int
    has_tiers: int  # memory tiers
    has_io: int
    has_precopy: int
    has_failures: int
    has_standby: int  # hot standby of VMs
    has_admission: int  # a failover guarantee
    has_rules: int  # placement rules
    cost_cycles: Annotated[F8, Of("5,4", "cycles per operation, by type and class", "overhead")]
    steady_tax: Annotated[F8, Of("5", "added share of demand", "overhead")]
    idle_per_s: Annotated[F8, Of("R,4", "operations per second and vCPU, by instruction profile", "overhead")]
    busy_per_ghz_s: Annotated[F8, Of("R,4", "operations per second and GHz of demand", "overhead")]
    vm_instructions: Annotated[I4, Of("V", "instruction profile", "overhead")]
    host_virt_types: Annotated[I4, Of("H", "bit t: virtualization type t is on offer", "support")]
    host_extension: Annotated[I1, Of("H", "1: the CPU has a virtualization extension", "support")]
    host_kernel: Annotated[I4, Of("H", "kernel, numbered", "support")]
    vm_virt_type: Annotated[I4, Of("V", "index into overhead.VIRT_TYPES", "support")]
    vm_kernel: Annotated[I4, Of("V", "kernel, numbered; -1 = one that no host has", "support")]
    co_stop: Annotated[float, Of("", "strength of the co-scheduling penalty", "cpu")]
    vm_reservation_mhz: Annotated[F8, Of("V", "MHz", "cpu")]
    vm_limit_mhz: Annotated[F8, Of("V", "MHz, inf = none", "cpu")]
    vm_shares: Annotated[F8, Of("V", "of the whole VM", "cpu")]
    host_nodes: Annotated[I4, Of("H", "NUMA nodes", "numa")]
    node_cores: Annotated[F8, Of("H", "cores of one node", "numa")]
    node_cpu_mhz: Annotated[F8, Of("H", "CPU of one node, MHz", "numa")]
    node_mem_mib: Annotated[F8, Of("H", "memory of one node, MiB", "numa")]
    vm_stall_share: Annotated[F8, Of("V", "memory-stall share", "numa")]
    numa_aware: Annotated[int, Of("", "1: home nodes, 0: interleaved", "numa")]
    numa_extra_latency: Annotated[float, Of("", "L_remote / L_local - 1", "numa")]
    numa_overcommit: Annotated[float, Of("", "vCPUs per core of a node", "numa")]
    numa_vnuma_min: Annotated[int, Of("", "vCPUs from which a wide VM stays local", "numa")]
    numa_threshold: Annotated[float, Of("", "share of a node's CPU", "numa")]
    numa_page_mib_s: Annotated[float, Of("", "MiB/s", "numa")]
    numa_moves: Annotated[int, Of("", "changes of home node per host and sample, at most", "numa")]
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
    memory_window_s: Annotated[float, Of("", "time in which every active page is touched once, s", "tiers")]
    vm_touched_share: Annotated[F8, Of("V", "of configured memory", "tiers")]
    vm_active_share: Annotated[F8, Of("V", "of configured memory", "tiers")]
    vm_mem_reservation_mib: Annotated[F8, Of("V", "MiB", "tiers")]
    vm_mem_shares: Annotated[F8, Of("V", "", "tiers")]
    vm_zero_share: Annotated[F8, Of("V", "of touched memory", "tiers")]
    vm_dup_share: Annotated[F8, Of("V", "of touched memory", "tiers")]
    vm_domain: Annotated[I4, Of("V", "sharing domain, -1 = none", "tiers")]
    vm_balloon_driver: Annotated[I1, Of("V", "", "tiers")]
    sig_active: Annotated[F8, Of("S,V", "active share of configured memory", "tiers")]
    io_table: Annotated[F8, Of("3,4", "see io_path.mode_table", "io")]
    io_slice_s: Annotated[float, Of("", "time slice of the vCPU scheduler, s", "io")]
    vm_io_mode: Annotated[I1, Of("V", "", "io")]
    vm_functions: Annotated[I4, Of("V", "passthrough functions that a VM needs", "io")]
    host_functions: Annotated[I4, Of("H", "passthrough functions", "io")]
    host_nic_mbps: Annotated[F8, Of("H", "line rate per direction, Mbit/s", "network")]
    vm_packet_mbit: Annotated[F8, Of("V", "Mbit per packet", "io")]
    vm_request_mb: Annotated[F8, Of("V", "MB per disk request", "io")]
    drive: Annotated[F8, Of("V,10", "idle and busy rates, as ``build`` has them", "network")]
    sig_net_out: Annotated[F8, Of("S,V", "Mbit/s", "streams")]
    sig_net_in: Annotated[F8, Of("S,V", "Mbit/s", "streams")]
    sig_disk_read: Annotated[F8, Of("S,V", "MB/s", "streams")]
    sig_disk_write: Annotated[F8, Of("S,V", "MB/s", "streams")]
    sig_dirty: Annotated[F8, Of("S,V", "MiB/s", "moves")]
    copy_rule: int  # this and the next 11: ``precopy.PrecopyParams``
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
    host_slots: Annotated[I4, Of("H", "concurrent migrations", "precopy")]
    vm_working_mib: Annotated[F8, Of("V", "writable working set, MiB", "precopy")]
    host_features: Annotated[U8, Of("H", "CPU features", "features")]
    host_baseline: Annotated[U8, Of("H", "features that a VM switched on there sees", "features")]
    vm_pinned: Annotated[I1, Of("V", "1: a passthrough device that cannot migrate", "io")]
    curve_kind: Annotated[I1, Of("T", "index into power.CURVES")]
    curve_exponent: Annotated[F8, Of("T", "exponent of the fan curve")]
    curve_scale: Annotated[F8, Of("T", "scale of load in the fan curve")]
    curve_busy_w: Annotated[F8, Of("T", "W beside table or curve with any load")]
    curve_plain: Annotated[I1, Of("T", "1: power is the table's")]
    suspend_s: Annotated[F8, Of("H", "on to standby, s")]
    resume_s: Annotated[F8, Of("H", "standby to on, s")]
    standby_w: Annotated[F8, Of("H", "W in standby")]
    pue: float  # facility power over IT power
    protected_vms: Annotated[I4, Of("P", "VMs to have a secondary")]
    mem_overcommit: float  # configured memory that a host takes, as a multiple of its own
    carbon_g_kwh: Annotated[F8, Of("C", "carbon intensity, g/kWh; (0,) = unknown", "carbon")]
    carbon_start_s: float  # time of its first sample, s
    carbon_sample_s: float  # s
    detect_s: float  # from a host's failure to its being taken for dead, s
    vm_detect_s: float  # from a VM's crash to its being noticed, s
    place_s: float  # to find a host for a VM that restarts, s
    vm_boot_s: float  # to boot a VM that restarts, s
    associate_s: float  # to move a host's profile to a spare, s
    restart_rule: int  # 0: first fit, 1: the policy places
    vm_priority: Annotated[I4, Of("V", "restart priority", "failures")]
    admission_enforced: int  # 1: orders that would break the guarantee are refused
    admission_rule: int  # this and the next 6: ``admission.AdmissionNumbers``
    admission_failures: int
    admission_cpu_share: float
    admission_mem_share: float
    admission_default_mhz: float
    admission_overhead_mib: float
    admission_survive: int
    vm_counted_mhz: Annotated[F8, Of("V", "CPU with which a VM counts for the guarantee, MHz", "admission")]
    vm_counted_mib: Annotated[F8, Of("V", "memory with which it counts, MiB", "admission")]
    host_dedicated: Annotated[I1, Of("H", "1: kept empty for failover", "admission")]
    aff: Annotated[I4, Of("V", "affinity group, -1 = none", "rules")]
    aff_first: Annotated[I8, Of("G", "start of each group in ``aff_vm``", "rules")]
    aff_vm: Annotated[I4, Of("G", "members", "rules")]
    anti_first: Annotated[I8, Of("V", "start of each VM's anti-affinity groups in ``anti_of``", "rules")]
    anti_of: Annotated[I4, Of("G", "groups", "rules")]
    apart_first: Annotated[I8, Of("G", "start of each anti-affinity group in ``apart_vm``", "rules")]
    apart_vm: Annotated[I4, Of("G", "members", "rules")]
    must_row: Annotated[I4, Of("V", "row of ``host_sets``, -1 = any host", "rules")]
    should_row: Annotated[I4, Of("V", "the same for wishes", "rules")]
    host_sets: Annotated[I1, Of("R,H", "1: in the set", "rules")]
    host_domains: Annotated[I4, Of("H,D", "failure domain per kind, -1 = none", "domains")]
    host_is_spare: Annotated[I1, Of("H", "1: no profile at time 0", "failures")]
    vm_protected: Annotated[I1, Of("V", "1: to have a secondary", "standby")]
    mirror_mode: int  # this and the next 7: ``standby.MirrorParams``
    mirror_epoch_s: float
    mirror_fixed_pause_s: float
    mirror_copy_mib_s: float
    mirror_lockstep_loss: float
    mirror_takeover_s: float
    mirror_max_vms: float
    mirror_max_vcpus: float
    telemetry: int  # what views show: telemetry.HIDDEN, INSTANT or PAST
    telemetry_sample_s: float  # length of a period, s
    telemetry_window: int  # periods
    telemetry_delay: int  # periods
    telemetry_noise: float
    telemetry_missing: float
    telemetry_prior: float
    fail_time_s: Annotated[F8, Of("N", "what breaks and is mended, drawn at reset: time, s", "failures")]
    fail_item: Annotated[I4, Of("N", "host or VM", "failures")]
    fail_kind: Annotated[I1, Of("N", "0 host fails, 1 host is repaired, 2 VM crashes", "failures")]


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
