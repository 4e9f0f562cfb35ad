"""The state of a cluster: fixed-capacity arrays in one block of memory, apart from the parameters.

Both types are named tuples of arrays, which Numba kernels take as they are. Shape and unit of every array
stand on its field; H hosts, V VMs, T host types, S trace samples.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from ...arrays import F8, I1, I4, I8, U1, U8
from ..models.telemetry import PAST
from .accumulators import Clock, Counters, Rates, Totals
from .fields import Field, Gauge, Of, Past, Rows, Signal, fields_of
from .parameters import ClusterParams

ABSENT, PENDING, RUNNING, DEPARTED, STARTING = 0, 1, 2, 3, 4
"""VM states, the values of ``ClusterState.vm_state``: not yet arrived, without a host, on a host, gone, on a
host and booting after a failure."""

MIG_NONE, MIG_WAITING, MIG_COPYING = 0, 1, 2
"""Migration states, the values of ``ClusterState.vm_mig``: none, waiting for the host to boot, copying."""


class ClusterState(NamedTuple):
    """Everything that changes during an episode. Arrays are views into blocks of bytes, one for each role."""

    clock: Annotated[Clock, Signal("", "s")]
    counters: Annotated[Counters, Signal("", "int32", dtype=np.int32)]
    totals: Annotated[Totals, Of("", "running totals")]
    host_power_state: Annotated[I1, Of("H", "power.OFF, BOOTING, ON, SHUTTING_DOWN")]
    host_drain: Annotated[I1, Of("H", "1: switch off when the last VM has left")]
    host_full_power: Annotated[I1, Of("H", "1: draws peak power whenever it is on (no power management)")]
    host_n_vms: Annotated[I4, Of("H", "VMs that run here")]
    host_n_in: Annotated[I4, Of("H", "VMs that move or wait to come here")]
    host_head: Annotated[I4, Of("H", "first VM of the list of residents, -1 = none")]
    host_tail: Annotated[I4, Of("H", "last VM of that list")]
    host_in_head: Annotated[I4, Of("H", "first VM of the list of incoming copies, -1 = none")]
    host_trans_end_s: Annotated[F8, Of("H", "end of the boot or shutdown under way, inf = none")]
    host_demand_mhz: Annotated[F8, Signal("H", "sum of the residents' demand, MHz (not capped)")]
    host_ask_mhz: Annotated[F8, Signal("H", "CPU asked of it: capped demand + cost of incoming copies, MHz")]
    host_mem_mib: Annotated[F8, Of("H", "memory of residents and of incoming copies, MiB")]
    host_nominal_mhz: Annotated[F8, Of("H", "nominal CPU of residents and incoming copies, MHz")]
    host_power_now_w: Annotated[F8, Signal("H", "W since the last event")]
    host_sat_now: Annotated[F8, Signal("H", "1 while the host cannot serve what is asked of it")]
    host_active_now: Annotated[F8, Of("H", "1 while the host is on and holds a VM or an incoming copy")]
    host_scale: Annotated[F8, Signal("H", "granted share of what is asked, 1 without contention")]
    host_held_back: Annotated[
        F8, Signal("H", "weighted demand that its shortage leaves unserved, MHz (simple)")
    ]
    host_energy_j: Annotated[F8, Of("H", "J")]
    host_active_s: Annotated[F8, Of("H", "time with at least one VM or incoming copy, s")]
    host_sat_s: Annotated[F8, Of("H", "time short of CPU, s")]
    vm_state: Annotated[I1, Of("V", "ABSENT, PENDING, RUNNING, DEPARTED")]
    vm_mig: Annotated[I1, Of("V", "MIG_NONE, MIG_WAITING, MIG_COPYING")]
    vm_host: Annotated[I4, Of("V", "host, -1 = none")]
    vm_dest: Annotated[I4, Of("V", "where it migrates to, or what host it waits for; -1 = none")]
    vm_next: Annotated[I4, Of("V", "links of the list of residents")]
    vm_prev: Annotated[I4, Of("V", "")]
    vm_in_next: Annotated[I4, Of("V", "links of the list of incoming copies")]
    vm_in_prev: Annotated[I4, Of("V", "")]
    vm_mig_end_s: Annotated[F8, Signal("V", "end of the copy, inf = none")]
    vm_demand_mhz: Annotated[F8, Signal("V", "demand, MHz")]
    vm_ask_mhz: Annotated[F8, Gauge("V", "demand capped by the speed of the host's cores, MHz")]
    vm_cap_mhz: Annotated[F8, Of("V", "vCPUs * core speed of the host, MHz; 0 without a host")]
    vm_live_mhz: Annotated[F8, Of("V", "nominal CPU while the VM is there (waiting or running), else 0, MHz")]
    vm_granted_mhz: Annotated[F8, Signal("V", "CPU that does the VM's work, MHz")]
    vm_miss_mhz: Annotated[F8, Signal("V", "demand that is not served, MHz")]
    vm_mig_loss_mhz: Annotated[F8, Signal("V", "the part of it that a migration costs, MHz")]
    vm_requested: Annotated[F8, Of("V", "integral of demand, MHz s")]
    vm_missed: Annotated[F8, Of("V", "integral of unserved demand, MHz s")]
    vm_mig_lost: Annotated[F8, Of("V", "integral of the loss to migration, MHz s")]
    vm_down_s: Annotated[F8, Of("V", "time arrived but without a host, s")]
    vm_down_missed: Annotated[F8, Of("V", "integral of demand unserved while down, MHz s")]
    vm_last_from: Annotated[I4, Of("V", "host that the VM last left, -1 = never moved (for thrash)")]
    vm_last_move_s: Annotated[F8, Of("V", "start of the last migration, s, -inf = never")]
    vm_down_now: Annotated[I1, Of("V", "1 while downtime runs: waits, starts, or is stopped by a migration")]
    heap_time: Annotated[F8, Of("E", "event queue: time, s; E = V + H, 4 V + 2 H with the full model")]
    heap_kind: Annotated[I4, Of("E", "event queue: kind")]
    heap_item: Annotated[I4, Of("E", "event queue: VM or host")]
    host_mark: Annotated[I4, Of("H", "working memory of network.py, 0 between calls", "full")]
    host_rates: Annotated[Rates, Signal("H,K", "added to the totals of the same names in a second", "full")]
    host_alloc_mhz: Annotated[F8, Signal("H", "CPU allocated to its VMs, MHz", "full")]
    host_wanted_mhz: Annotated[F8, Signal("H", "CPU that its VMs can use, MHz", "full")]
    host_reserved_mhz: Annotated[F8, Of("H", "CPU reserved here, incoming and secondaries too, MHz", "full")]
    host_mem_reserved_mib: Annotated[F8, Of("H", "memory reserved by the same, MiB", "tiers")]
    host_functions_used: Annotated[I4, Of("H", "passthrough functions of the same", "io")]
    vm_claim_mhz: Annotated[F8, Gauge("V", "demand with all overhead, MHz", "full")]
    vm_overhead_mhz: Annotated[F8, Gauge("V", "what the hypervisor adds (§1), MHz", "full")]
    vm_io_mhz: Annotated[F8, Gauge("V", "what interrupts add (§5), MHz", "full")]
    vm_alloc_mhz: Annotated[F8, Gauge("V", "CPU allocated, MHz", "full")]
    vm_ready_mhz: Annotated[F8, Signal("V", "ready and not scheduled, MHz per vCPU", "full")]
    vm_ready_share: Annotated[F8, Gauge("V", "the same as a share of the time, per vCPU", "full")]
    vm_limited_mhz: Annotated[F8, Gauge("V", "beyond the VM's limit, MHz", "full")]
    vm_capped_mhz: Annotated[F8, Gauge("V", "beyond what its vCPUs can do on this host, MHz", "full")]
    vm_co_stop_mhz: Annotated[F8, Gauge("V", "allocated, and lost to co-scheduling, MHz", "full")]
    vm_starts_s: Annotated[F8, Of("V", "when a STARTING VM will run, s", "failures")]
    node_vcpus: Annotated[F8, Of("H,N", "vCPUs at home on the node", "numa")]
    node_used_mib: Annotated[F8, Of("H,N", "memory at home on the node, MiB", "numa")]
    node_load_mhz: Annotated[F8, Signal("H,N", "CPU allocated to the VMs at home there, MHz", "numa")]
    vm_nodes: Annotated[I8, Of("V", "bit j: at home on node j of its host", "numa")]
    vm_dest_nodes: Annotated[I8, Of("V", "the same on the host that it migrates to", "numa")]
    vm_pages_end_s: Annotated[F8, Of("V", "when the last page has followed, s", "numa")]
    vm_remote_share: Annotated[F8, Gauge("V", "share of accesses to another node", "numa")]
    vm_numa_slowdown: Annotated[F8, Gauge("V", "at least 1", "numa")]
    vm_touched_mib: Annotated[F8, Signal("V", "memory that the guest has used, MiB", "tiers")]
    vm_active_mib: Annotated[F8, Gauge("V", "memory in use now, MiB", "tiers")]
    vm_touch_rate: Annotated[F8, Signal("V", "page touches per second", "tiers")]
    vm_resident_mib: Annotated[F8, Gauge("V", "MiB", "tiers")]
    vm_shared_mib: Annotated[F8, Gauge("V", "MiB", "tiers")]
    vm_ballooned_mib: Annotated[F8, Gauge("V", "MiB", "tiers")]
    vm_compressed_mib: Annotated[F8, Gauge("V", "saved by compression, MiB", "tiers")]
    vm_swapped_mib: Annotated[F8, Gauge("V", "MiB", "tiers")]
    vm_blocked_mib: Annotated[F8, Gauge("V", "never allocated, MiB", "tiers")]
    vm_mem_slowdown: Annotated[F8, Gauge("V", "at least 1", "tiers")]
    host_free_mib: Annotated[F8, Signal("H", "free memory after reclamation, MiB", "tiers")]
    host_mem_state: Annotated[I1, Signal("H", "index into memory.MEMORY_STATES", "tiers")]
    vm_net_out_ask: Annotated[F8, Gauge("V", "Mbit/s", "io")]
    vm_net_in_ask: Annotated[F8, Gauge("V", "Mbit/s", "io")]
    vm_net_out_mbps: Annotated[F8, Gauge("V", "what the NIC lets through, Mbit/s", "io")]
    vm_net_in_mbps: Annotated[F8, Gauge("V", "Mbit/s", "io")]
    vm_disk_mb_s: Annotated[F8, Gauge("V", "reads and writes, MB/s", "io")]
    vm_disk_read_mb_s: Annotated[F8, Gauge("V", "the reads among them, MB/s", "io")]
    vm_io_rate: Annotated[F8, Gauge("V", "packets and disk requests, 1/s", "io")]
    vm_io_latency_s: Annotated[F8, Gauge("V", "mean latency of one, s", "io")]
    vm_dirty_mib_s: Annotated[F8, Gauge("V", "memory that the VM dirties, MiB/s", "precopy or standby")]
    copy_phase: Annotated[I1, Of("V", "see precopy.PrecopyState", "precopy")]
    copy_diverged: Annotated[I1, Of("V", "", "precopy")]
    copy_round: Annotated[I4, Of("V", "", "precopy")]
    copy_left_s: Annotated[F8, Signal("V", "", "precopy")]
    copy_left_mib: Annotated[F8, Signal("V", "", "precopy")]
    copy_volume_mib: Annotated[F8, Of("V", "", "precopy")]
    copy_dirty_mib: Annotated[F8, Signal("V", "", "precopy")]
    copy_pull_mib: Annotated[F8, Of("V", "", "precopy")]
    copy_sent_mib: Annotated[F8, Signal("V", "", "precopy")]
    copy_down_s: Annotated[F8, Signal("V", "", "precopy")]
    copy_throttle: Annotated[F8, Of("V", "", "precopy")]
    copy_rate_mib_s: Annotated[F8, Signal("V", "rate of the copy, MiB/s", "precopy")]
    copy_dirtying_mib_s: Annotated[F8, Signal("V", "dirty rate since ``copy_since_s``, MiB/s", "precopy")]
    copy_since_s: Annotated[F8, Signal("V", "when the copy was last looked at, s", "precopy")]
    copy_list: Annotated[I4, Of("V", "VMs that are being copied, as they began", "precopy")]
    copy_queue: Annotated[I4, Signal("V", "the same VMs as a heap, by the end of their phase", "precopy")]
    copy_place: Annotated[I4, Signal("V", "place of a VM in that heap, 0 without a copy", "precopy")]
    host_copies: Annotated[I4, Of("H", "copies under way, in and out", "precopy")]
    vm_baseline: Annotated[U8, Of("V", "CPU features that the VM sees", "features")]
    vm_restart: Annotated[I1, Of("V", "0 no, 1 down and not yet noticed, 2 waits for a host", "failures")]
    vm_down_since_s: Annotated[F8, Of("V", "when it failed, s", "failures")]
    host_profile: Annotated[I4, Of("H", "identity, -1: none (a spare), -2 - i: i is on its way", "failures")]
    host_was_on: Annotated[I1, Of("H", "1: a failed host that was on, and is to be on again", "failures")]
    vm_secondary: Annotated[I4, Of("V", "host of the secondary, -1 = none", "standby")]
    vm_mirror_nodes: Annotated[I8, Of("V", "bit j: its room is on node j of that host", "standby")]
    host_mirrors: Annotated[I4, Of("H", "protected VMs, primaries and secondaries", "standby")]
    host_mirror_vcpus: Annotated[I4, Of("H", "their vCPUs", "standby")]
    host_mirror_mib: Annotated[F8, Of("H", "memory of secondaries, MiB", "standby")]
    vm_mirror_need_mbps: Annotated[F8, Signal("V", "logging traffic that it needs, Mbit/s", "standby")]
    vm_mirror_mbps: Annotated[F8, Signal("V", "what the network gives it, Mbit/s", "standby")]
    host_maintenance: Annotated[I1, Of("H", "1: takes no VM, to be emptied")]
    vm_gauges: Annotated[F8, Rows("G,W", "the gauges of all VMs", "past")]
    vm_shown: Annotated[F8, Rows("G,W", "what views show of them", "past")]
    vm_sums: Annotated[F8, Past("S,W", "their integrals in this period, last: time run, s", "past")]
    vm_held: Annotated[I1, Past("V", "1: a gauge of the VM has changed in this period", "past")]
    vm_ring: Annotated[F8, Past("L,W", "the same of the last periods of window and delay", "past")]
    vm_known_mhz: Annotated[F8, Past("V", "demand as last measured, MHz, -1 = never", "past")]


class StateShape(NamedTuple):
    """Sizes of a state.

    Attributes:
        hosts: H.
        vms: V.
        nodes: NUMA nodes of the host that has most; 0 = no NUMA.
        parts: The sub-models whose arrays have a length, such as ``numa``.
        periods: Periods of measurement that are kept besides the present one.
    """

    hosts: int
    vms: int
    nodes: int = 0
    parts: tuple[str, ...] = ()
    periods: int = 0


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
        "past": params.telemetry == PAST,
    }
    nodes = int(params.host_nodes.max()) if params.has_numa else 0
    parts = tuple(name for name in has if has[name])
    kept = params.telemetry_window + params.telemetry_delay
    periods = kept if has["past"] and kept > 1 else 0
    return StateShape(len(params.host_type), len(params.vm_vcpus), nodes, parts, periods)


_FIELDS = fields_of(ClusterState)
# Gauges come first in their block and have no gaps between them: together they are the rows of one array.
_BLOCKS = (
    {name: f for name, f in _FIELDS.items() if f.role is Of},
    {name: f for role in (Gauge, Signal) for name, f in _FIELDS.items() if f.role is role},
    {name: f for name, f in _FIELDS.items() if f.role is Past},
)


class Blocks(NamedTuple):
    """The memory of a state: bytes, apart from each other, so that no array of one leads to another.

    Attributes:
        structure: What a manager of the cluster knows exactly and at once.
        signals: What follows from the trace's sample of now.
        past: What was measured of the signals.
        shown: The signals as views show them; empty where they show those of now.
    """

    structure: U1
    signals: U1
    past: U1
    shown: U1

    def copy(self) -> Blocks:
        """The same in memory of its own."""
        return Blocks(*(block.copy() for block in self))

    def read_only(self) -> Blocks:
        """Read-only views of the same memory."""
        frozen = Blocks(*(block.view() for block in self))
        for block in frozen:
            block.flags.writeable = False
        return frozen

    def view(self) -> Blocks:
        """The blocks of the state that is shown: no true signal among them."""
        return self._replace(signals=self.shown) if self.shown.size else self


def _row(size: StateShape) -> int:
    """W: length of a row of gauges, whole cache lines."""
    return -(-size.vms // 8) * 8


def _has(field: Field, size: StateShape) -> bool:
    return not field.part or bool(set(field.part.split(" or ")) & set(size.parts))


@functools.lru_cache(maxsize=64)
def _lengths(size: StateShape) -> dict[str, int]:
    """Length of every dimension; known from then on, since every fork asks for all arrays."""
    h, v = size.hosts, size.vms
    events = 4 * v + 2 * h if "full" in size.parts else v + h
    gauges = sum(f.role is Gauge and _has(f, size) for f in _FIELDS.values())
    lengths = {"H": h, "V": v, "N": size.nodes, "K": len(Rates.places), "E": events, "G": gauges}
    return lengths | {"W": _row(size), "S": gauges + 1, "L": (gauges + 1) * size.periods}


def _shape(field: Field, size: StateShape) -> tuple[int, ...]:
    """Shape of one array."""
    if not field.dims:
        return (len(field.record.places),) if field.record else ()
    if not _has(field, size):
        return (0,) * len(field.dims)
    lengths = _lengths(size)
    return tuple(lengths[dim] for dim in field.dims)


def _nbytes(field: Field, size: StateShape) -> int:
    """Bytes that an array takes: every one starts on a cache line."""
    return -(-math.prod(_shape(field, size)) * field.dtype.itemsize // 64) * 64


def _block_bytes(fields: dict[str, Field], size: StateShape) -> int:
    return sum(_nbytes(field, size) for field in fields.values())


@functools.lru_cache(maxsize=64)
def _places(size: StateShape) -> tuple[tuple[str, int, int, int, Field, tuple[int, ...]], ...]:
    """Where every array lies: its name, block, first and last byte, field and shape."""
    found = []
    for k, fields in enumerate(_BLOCKS):
        offset = 0
        for name, field in fields.items():
            shape = _shape(field, size)
            found.append((name, k, offset, offset + math.prod(shape) * field.dtype.itemsize, field, shape))
            offset += _nbytes(field, size)
    for name, k in (("vm_gauges", 1), ("vm_shown", 3)):
        shape = _shape(_FIELDS[name], size)
        found.append((name, k, 0, math.prod(shape) * 8, _FIELDS[name], shape))
    return tuple(found)


def state_in(blocks: Blocks, size: StateShape) -> ClusterState:
    """The arrays that view some blocks."""
    arrays: dict[str, Any] = {}
    for name, k, first, last, field, shape in _places(size):
        array = blocks[k][first:last].view(field.dtype).reshape(shape)
        arrays[name] = array.view(field.record) if field.record else array
    return ClusterState(**arrays)


def allocate_state(size: StateShape) -> Blocks:
    """Make the memory of an all-zero state."""
    sizes = [_block_bytes(fields, size) for fields in _BLOCKS]
    sizes.append(sizes[1] if "past" in size.parts else 0)
    return Blocks(*(np.zeros(n, dtype=np.uint8) for n in sizes))


def digest(blocks: Blocks) -> str:
    """A fingerprint of a state: equal states, equal digests."""
    found = hashlib.blake2b(digest_size=16)
    for block in blocks[:3]:
        found.update(block.tobytes())
    return found.hexdigest()
