"""The state of a cluster: fixed-capacity arrays in one block of memory, apart from the parameters.

Both types are named tuples of arrays, which Numba kernels take as they are. Shape and unit of every array
stand on its field; H hosts, V VMs, T host types, S trace samples.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...jit.records import Record
from .accumulators import Clock, Counters, Rates, Totals
from .parameters import ClusterParams

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

ABSENT, PENDING, RUNNING, DEPARTED, STARTING = 0, 1, 2, 3, 4
"""VM states, the values of ``ClusterState.vm_state``: not yet arrived, without a host, on a host, gone, on a
host and booting after a failure."""

MIG_NONE, MIG_WAITING, MIG_COPYING = 0, 1, 2
"""Migration states, the values of ``ClusterState.vm_mig``: none, waiting for the host to boot, copying."""


class ClusterState(NamedTuple):
    """Everything that changes during an episode. Arrays are views into one block of bytes."""

    clock: Clock  # s
    counters: Counters  # int32
    totals: Totals
    host_power_state: I1  # (H,) power.OFF, BOOTING, ON, SHUTTING_DOWN
    host_drain: I1  # (H,) 1: switch off when the last VM has left
    host_full_power: I1  # (H,) 1: draws peak power whenever it is on (no power management)
    host_n_vms: I4  # (H,) VMs that run here
    host_n_in: I4  # (H,) VMs that move or wait to come here
    host_head: I4  # (H,) first VM of the list of residents, -1 = none
    host_tail: I4  # (H,) last VM of that list
    host_in_head: I4  # (H,) first VM of the list of incoming copies, -1 = none
    host_trans_end_s: F8  # (H,) end of the boot or shutdown under way, inf = none
    host_demand_mhz: F8  # (H,) sum of the residents' demand, MHz (not capped)
    host_ask_mhz: F8  # (H,) CPU asked of the host: capped demand + cost of incoming copies, MHz
    host_mem_mib: F8  # (H,) memory of residents and of incoming copies, MiB
    host_nominal_mhz: F8  # (H,) nominal CPU of residents and incoming copies, MHz
    host_power_now_w: F8  # (H,) W since the last event
    host_sat_now: F8  # (H,) 1 while the host cannot serve what is asked of it
    host_active_now: F8  # (H,) 1 while the host is on and holds a VM or an incoming copy
    host_scale: F8  # (H,) granted share of what is asked, 1 without contention
    host_energy_j: F8  # (H,) J
    host_active_s: F8  # (H,) time with at least one VM or incoming copy, s
    host_sat_s: F8  # (H,) time short of CPU, s
    vm_state: I1  # (V,) ABSENT, PENDING, RUNNING, DEPARTED
    vm_mig: I1  # (V,) MIG_NONE, MIG_WAITING, MIG_COPYING
    vm_host: I4  # (V,) host, -1 = none
    vm_dest: I4  # (V,) destination of a migration, or host that a pending VM waits for; -1 = none
    vm_next: I4  # (V,) links of the list of residents
    vm_prev: I4  # (V,)
    vm_in_next: I4  # (V,) links of the list of incoming copies
    vm_in_prev: I4  # (V,)
    vm_mig_end_s: F8  # (V,) end of the copy, inf = none
    vm_demand_mhz: F8  # (V,) demand, MHz
    vm_ask_mhz: F8  # (V,) demand capped by the speed of the host's cores, MHz
    vm_cap_mhz: F8  # (V,) vCPUs * core speed of the host, MHz; 0 without a host
    vm_live_mhz: F8  # (V,) nominal CPU while the VM is there (waiting or running), else 0, MHz
    vm_granted_mhz: F8  # (V,) CPU that does the VM's work, MHz
    vm_miss_mhz: F8  # (V,) demand that is not served, MHz
    vm_mig_loss_mhz: F8  # (V,) the part of it that a migration costs, MHz
    vm_requested: F8  # (V,) integral of demand, MHz s
    vm_missed: F8  # (V,) integral of unserved demand, MHz s
    vm_mig_lost: F8  # (V,) integral of the loss to migration, MHz s
    vm_down_s: F8  # (V,) time arrived but without a host, s
    vm_last_from: I4  # (V,) host that the VM last left, -1 = never moved (for thrash)
    vm_last_move_s: F8  # (V,) start of the last migration, s, -inf = never
    vm_down_now: I1  # (V,) 1 while downtime runs: waiting for a host, starting, or stopped by a migration
    heap_time: F8  # (E,) event queue: time, s; E = 2 V + H, 5 V + 2 H with the full model
    heap_kind: I4  # (E,) event queue: kind
    heap_item: I4  # (E,) event queue: VM or host
    # --- the full model; length 0 where the sub-model is off ---
    host_mark: I4  # (H,) working memory of network.py, 0 between calls
    host_rates: Rates  # (H, K) what a host adds to the totals of the same names in a second
    host_alloc_mhz: F8  # (H,) CPU allocated to its VMs, MHz
    host_wanted_mhz: F8  # (H,) CPU that its VMs can use, MHz
    host_reserved_mhz: F8  # (H,) CPU reservations of residents, incoming VMs and secondaries, MHz
    host_mem_reserved_mib: F8  # (H,) memory reservations of the same, MiB
    host_functions_used: I4  # (H,) passthrough functions of the same
    vm_claim_mhz: F8  # (V,) demand with all overhead, MHz
    vm_overhead_mhz: F8  # (V,) what the hypervisor adds (§1), MHz
    vm_io_mhz: F8  # (V,) what interrupts add (§5), MHz
    vm_alloc_mhz: F8  # (V,) CPU allocated, MHz
    vm_ready_mhz: F8  # (V,) ready and not scheduled, MHz per vCPU
    vm_ready_share: F8  # (V,) the same as a share of the time, per vCPU
    vm_limited_mhz: F8  # (V,) beyond the VM's limit, MHz
    vm_capped_mhz: F8  # (V,) beyond what its vCPUs can do on this host, MHz
    vm_co_stop_mhz: F8  # (V,) allocated, and lost to co-scheduling, MHz
    vm_starts_s: F8  # (V,) when a STARTING VM will run, s
    node_vcpus: F8  # (H, N) vCPUs at home on the node
    node_used_mib: F8  # (H, N) memory at home on the node, MiB
    node_load_mhz: F8  # (H, N) CPU allocated to the VMs at home there, MHz
    vm_nodes: NDArray[np.int64]  # (V,) bit j: at home on node j of its host
    vm_dest_nodes: NDArray[np.int64]  # (V,) the same on the host that it migrates to
    vm_pages_end_s: F8  # (V,) when the last page has followed, s
    vm_remote_share: F8  # (V,) share of accesses to another node
    vm_numa_slowdown: F8  # (V,) at least 1
    vm_touched_mib: F8  # (V,) memory that the guest has used, MiB
    vm_active_mib: F8  # (V,) memory in use now, MiB
    vm_touch_rate: F8  # (V,) page touches per second
    vm_resident_mib: F8  # (V,) MiB
    vm_shared_mib: F8  # (V,) MiB
    vm_ballooned_mib: F8  # (V,) MiB
    vm_compressed_mib: F8  # (V,) saved by compression, MiB
    vm_swapped_mib: F8  # (V,) MiB
    vm_blocked_mib: F8  # (V,) never allocated, MiB
    vm_mem_slowdown: F8  # (V,) at least 1
    host_free_mib: F8  # (H,) free memory after reclamation, MiB
    host_mem_state: I1  # (H,) index into memory.MEMORY_STATES
    vm_net_out_ask: F8  # (V,) Mbit/s
    vm_net_in_ask: F8  # (V,) Mbit/s
    vm_net_out_mbps: F8  # (V,) what the NIC lets through, Mbit/s
    vm_net_in_mbps: F8  # (V,) Mbit/s
    vm_disk_mb_s: F8  # (V,) reads and writes, MB/s
    vm_io_rate: F8  # (V,) packets and disk requests, 1/s
    vm_io_latency_s: F8  # (V,) mean latency of one, s
    vm_dirty_mib_s: F8  # (V,) rate at which the VM dirties memory, MiB/s
    copy_phase: I1  # (V,) see precopy.PrecopyState
    copy_diverged: I1  # (V,)
    copy_round: I4  # (V,)
    copy_left_s: F8  # (V,)
    copy_left_mib: F8  # (V,)
    copy_volume_mib: F8  # (V,)
    copy_dirty_mib: F8  # (V,)
    copy_pull_mib: F8  # (V,)
    copy_sent_mib: F8  # (V,)
    copy_down_s: F8  # (V,)
    copy_throttle: F8  # (V,)
    copy_rate_mib_s: F8  # (V,) rate of the copy, MiB/s
    copy_dirtying_mib_s: F8  # (V,) dirty rate since the copy was last looked at, MiB/s
    copy_since_s: F8  # (V,) when the copy was last looked at, s
    copy_list: I4  # (V,) VMs that are being copied, in the order in which they began
    copy_queue: I4  # (V,) the same VMs as a heap, by the end of their phase
    copy_place: I4  # (V,) place of a VM in that heap, 0 without a copy
    host_copies: I4  # (H,) copies under way, in and out
    vm_baseline: NDArray[np.uint64]  # (V,) CPU features that the VM sees
    vm_restart: I1  # (V,) 0 no, 1 down and not yet noticed, 2 waits for a host
    vm_down_since_s: F8  # (V,) when it failed, s
    host_profile: I4  # (H,) identity of the host (stateless computing), -1 = a spare without one,
    # -2 - i: identity i is on its way to it
    host_was_on: I1  # (H,) 1: a failed host that was on, and is to be on again
    vm_secondary: I4  # (V,) host of the secondary, -1 = none
    vm_mirror_nodes: NDArray[np.int64]  # (V,) bit j: its room is on node j of that host
    host_mirrors: I4  # (H,) protected VMs, primaries and secondaries
    host_mirror_vcpus: I4  # (H,) their vCPUs
    host_mirror_mib: F8  # (H,) memory of secondaries, MiB
    vm_mirror_need_mbps: F8  # (V,) logging traffic that a protected VM needs, Mbit/s
    vm_mirror_mbps: F8  # (V,) what the network gives it, Mbit/s
    host_maintenance: I1  # (H,) 1: takes no VM, to be emptied


FullState = Any
"""``ClusterState`` where a kernel passes it on as the record of one sub-model, whose fields it has."""


class StateShape(NamedTuple):
    """Sizes of a state.

    Attributes:
        hosts: H.
        vms: V.
        nodes: NUMA nodes of the host that has most; 0 = no NUMA.
        parts: The sub-models whose arrays have a length, of ``PARTS``.
    """

    hosts: int
    vms: int
    nodes: int = 0
    parts: tuple[str, ...] = ()


def shape_of(params: ClusterParams) -> StateShape:
    """Sizes of the state that belongs to some parameters."""
    has = {
        "full": params.full,
        "overhead": params.has_overhead,
        "numa": params.has_numa,
        "tiers": params.has_tiers,
        "io": params.has_io,
        "precopy": params.has_precopy,
        "failures": params.has_failures,
        "standby": params.has_standby,
        "features": len(params.host_features),
    }
    nodes = int(params.host_nodes.max()) if params.has_numa else 0
    parts = tuple(name for name in has if has[name])
    return StateShape(len(params.host_type), len(params.vm_vcpus), nodes, parts)


_PARTS: dict[str, tuple[str, ...]] = {
    "full": (
        *(
            "host_mark",
            "host_rates",
            "host_alloc_mhz",
            "host_wanted_mhz",
            "host_reserved_mhz",
            "vm_claim_mhz",
        ),
        *("vm_overhead_mhz", "vm_io_mhz", "vm_alloc_mhz", "vm_ready_mhz", "vm_ready_share"),
        *("vm_limited_mhz", "vm_capped_mhz", "vm_co_stop_mhz"),
    ),
    "numa": (
        *("node_vcpus", "node_used_mib", "node_load_mhz", "vm_nodes", "vm_dest_nodes", "vm_pages_end_s"),
        *("vm_remote_share", "vm_numa_slowdown"),
    ),
    "tiers": (
        *("vm_touched_mib", "vm_active_mib", "vm_touch_rate", "vm_resident_mib", "vm_shared_mib"),
        *("vm_ballooned_mib", "vm_compressed_mib", "vm_swapped_mib", "vm_blocked_mib", "vm_mem_slowdown"),
        *("host_free_mib", "host_mem_state", "host_mem_reserved_mib"),
    ),
    "io": (
        *("vm_net_out_ask", "vm_net_in_ask", "vm_net_out_mbps", "vm_net_in_mbps", "vm_disk_mb_s"),
        *("vm_io_rate", "vm_io_latency_s", "host_functions_used"),
    ),
    "precopy": (
        *("copy_phase", "copy_diverged", "copy_round", "copy_left_s", "copy_left_mib", "copy_volume_mib"),
        *("copy_dirty_mib", "copy_pull_mib", "copy_sent_mib", "copy_down_s", "copy_throttle"),
        *("copy_rate_mib_s", "copy_dirtying_mib_s", "copy_since_s", "copy_list", "copy_queue", "copy_place"),
        "host_copies",
    ),
    "failures": ("vm_restart", "vm_down_since_s", "vm_starts_s", "host_profile", "host_was_on"),
    "standby": (
        *("vm_secondary", "vm_mirror_nodes", "host_mirrors", "host_mirror_vcpus", "host_mirror_mib"),
        *("vm_mirror_need_mbps", "vm_mirror_mbps"),
    ),
    "precopy or standby": ("vm_dirty_mib_s",),
    "features": ("vm_baseline",),
}
"""Which sub-model needs which arrays; all others are always there."""

_OWNER = {name: part for part, names in _PARTS.items() for name in names}
_RECORDS: dict[str, type[Record]] = {
    "clock": Clock,
    "counters": Counters,
    "totals": Totals,
    "host_rates": Rates,
}
_MATRICES = {"host_rates": "K", "node_vcpus": "N", "node_used_mib": "N", "node_load_mhz": "N"}
_INT8 = {
    *("host_power_state", "host_drain", "host_full_power", "vm_state", "vm_mig", "vm_down_now"),
    *("host_mem_state", "copy_phase", "copy_diverged", "vm_restart", "host_was_on", "host_maintenance"),
}
_INT32 = {
    *("counters", "host_n_vms", "host_n_in", "host_head", "host_tail", "host_in_head", "heap_kind"),
    *("vm_host", "vm_dest", "vm_next", "vm_prev", "vm_in_next", "vm_in_prev", "vm_last_from", "heap_item"),
    *("host_functions_used", "copy_round", "copy_list", "copy_queue", "copy_place", "host_copies"),
    *("host_profile", "vm_secondary"),
    *("host_mirrors", "host_mirror_vcpus", "host_mark"),
}
_INT64 = {"vm_nodes", "vm_dest_nodes", "vm_mirror_nodes"}
_UINT64 = {"vm_baseline"}


def _dtype(name: str) -> np.dtype[np.generic]:
    for names, dtype in ((_INT8, np.int8), (_INT32, np.int32), (_INT64, np.int64), (_UINT64, np.uint64)):
        if name in names:
            return np.dtype(dtype)
    return np.dtype(np.float64)


def _shape(name: str, size: StateShape) -> tuple[int, ...]:
    """Shape of one array."""
    if name in _RECORDS and name not in _MATRICES:
        return (len(_RECORDS[name].places),)
    parts = set(size.parts)
    if parts & {"precopy", "standby"}:
        parts.add("precopy or standby")
    if name in _OWNER and _OWNER[name] not in parts:
        return (0, 0) if name in _MATRICES else (0,)
    if name in _MATRICES:
        return size.hosts, len(Rates.places) if _MATRICES[name] == "K" else size.nodes
    if name.startswith("heap_"):
        more = "full" in parts
        return ((5 * size.vms + 2 * size.hosts) if more else (2 * size.vms + size.hosts),)
    return (size.hosts if name.startswith("host_") else size.vms,)


def _views(arena: NDArray[np.uint8], size: StateShape) -> ClusterState:
    arrays: list[Any] = []
    offset = 0
    for name in ClusterState._fields:
        dtype, shape = _dtype(name), _shape(name, size)
        nbytes = math.prod(shape) * dtype.itemsize
        array = arena[offset : offset + nbytes].view(dtype).reshape(shape)
        arrays.append(array.view(_RECORDS[name]) if name in _RECORDS else array)
        offset += -(-nbytes // 64) * 64  # every array starts on a cache line
    return ClusterState(*arrays)


def _arena_bytes(size: StateShape) -> int:
    return sum(-(-math.prod(_shape(n, size)) * _dtype(n).itemsize // 64) * 64 for n in ClusterState._fields)


def allocate_state(size: StateShape) -> tuple[NDArray[np.uint8], ClusterState]:
    """Make an all-zero state.

    Args:
        size: Sizes, as from ``shape_of``.

    Returns:
        The block of bytes and the arrays that view it.
    """
    arena = np.zeros(_arena_bytes(size), dtype=np.uint8)
    return arena, _views(arena, size)


def copy_state(arena: NDArray[np.uint8], size: StateShape) -> tuple[NDArray[np.uint8], ClusterState]:
    """Copy a state: one memory copy."""
    twin = arena.copy()
    return twin, _views(twin, size)


def read_only(arena: NDArray[np.uint8], size: StateShape) -> ClusterState:
    """Read-only arrays over the same memory: what policies are shown."""
    frozen = arena.view()
    frozen.flags.writeable = False
    return _views(frozen, size)


def digest(arena: NDArray[np.uint8]) -> str:
    """A fingerprint of a state: equal states, equal digests."""
    return hashlib.blake2b(arena.tobytes(), digest_size=16).hexdigest()
