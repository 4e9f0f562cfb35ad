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

from .config import ARRIVAL_RULES, ClusterConfig
from .workload import Workload

__all__ = [
    "ABSENT",
    "DEPARTED",
    "MIG_COPYING",
    "MIG_NONE",
    "MIG_WAITING",
    "PENDING",
    "RUNNING",
    "ClusterParams",
    "ClusterState",
    "allocate_state",
    "copy_state",
    "digest",
    "make_params",
    "read_only",
]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

ABSENT, PENDING, RUNNING, DEPARTED = 0, 1, 2, 3
"""VM states, the values of ``ClusterState.vm_state``: not yet arrived, without a host, on a host, gone."""

MIG_NONE, MIG_WAITING, MIG_COPYING = 0, 1, 2
"""Migration states, the values of ``ClusterState.vm_mig``: none, waiting for the host to boot, copying."""

N_TOTALS = 32
"""Room for running totals; their meaning is in ``metrics.py``."""


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
    memory_binding: int  # 0: memory binds at arrival only, 1: at every placement
    arrival_rule: int  # index into config.ARRIVAL_RULES
    arrival_overcommit: float
    arrival_core_speed: int  # 1: a vCPU needs a core at least as fast at arrival
    auto_boot: int  # 1: an arrival that fits nowhere boots a host


class ClusterState(NamedTuple):
    """Everything that changes during an episode. Arrays are views into one block of bytes."""

    clock: F8  # (2,) now, s; end of the last full measurement, s
    counters: I4  # (8,) see the C_* indices in engine.py
    totals: F8  # (N_TOTALS,) running totals, see metrics.py
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
    heap_time: F8  # (V + V + H,) event queue: time, s
    heap_kind: I4  # (V + V + H,) event queue: kind
    heap_item: I4  # (V + V + H,) event queue: VM or host


_SHAPES: dict[str, str] = {
    **dict.fromkeys(ClusterState._fields, ""),
    "clock": "2",
    "counters": "8",
    "totals": "N",
    **{name: "H" for name in ClusterState._fields if name.startswith("host_")},
    **{name: "V" for name in ClusterState._fields if name.startswith("vm_")},
    **{name: "E" for name in ClusterState._fields if name.startswith("heap_")},
}
_INT8 = {"host_power_state", "host_drain", "host_full_power", "vm_state", "vm_mig"}
_INT32 = {
    *("counters", "host_n_vms", "host_n_in", "host_head", "host_tail", "host_in_head", "heap_kind"),
    *("vm_host", "vm_dest", "vm_next", "vm_prev", "vm_in_next", "vm_in_prev", "vm_last_from", "heap_item"),
}


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype(np.int8 if name in _INT8 else np.int32 if name in _INT32 else np.float64)


def _views(arena: NDArray[np.uint8], n_hosts: int, n_vms: int) -> ClusterState:
    sizes = {"2": 2, "8": 8, "N": N_TOTALS, "H": n_hosts, "V": n_vms, "E": 2 * n_vms + n_hosts}
    arrays = []
    offset = 0
    for name in ClusterState._fields:
        dtype = _dtype(name)
        nbytes = sizes[_SHAPES[name]] * dtype.itemsize
        arrays.append(arena[offset : offset + nbytes].view(dtype))
        offset += -(-nbytes // 64) * 64  # every array starts on a cache line
    return ClusterState(*arrays)


def _arena_bytes(n_hosts: int, n_vms: int) -> int:
    sizes = {"2": 2, "8": 8, "N": N_TOTALS, "H": n_hosts, "V": n_vms, "E": 2 * n_vms + n_hosts}
    return sum(-(-sizes[_SHAPES[n]] * _dtype(n).itemsize // 64) * 64 for n in ClusterState._fields)


def allocate_state(n_hosts: int, n_vms: int) -> tuple[NDArray[np.uint8], ClusterState]:
    """Make an all-zero state.

    Args:
        n_hosts: H.
        n_vms: V.

    Returns:
        The block of bytes and the arrays that view it.
    """
    arena = np.zeros(_arena_bytes(n_hosts, n_vms), dtype=np.uint8)
    return arena, _views(arena, n_hosts, n_vms)


def copy_state(arena: NDArray[np.uint8], n_hosts: int, n_vms: int) -> tuple[NDArray[np.uint8], ClusterState]:
    """Copy a state: one memory copy."""
    twin = arena.copy()
    return twin, _views(twin, n_hosts, n_vms)


def read_only(arena: NDArray[np.uint8], n_hosts: int, n_vms: int) -> ClusterState:
    """Read-only arrays over the same memory: what policies are shown."""
    frozen = arena.view()
    frozen.flags.writeable = False
    return _views(frozen, n_hosts, n_vms)


def digest(arena: NDArray[np.uint8]) -> str:
    """A fingerprint of a state: equal states, equal digests."""
    return hashlib.blake2b(arena.tobytes(), digest_size=16).hexdigest()


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

    mid = [0.5 * (t.table_w[0] + t.table_w[-1]) if t.boot_power_w is None else t.boot_power_w for t in types]
    down = [t.table_w[0] if t.shutdown_power_w is None else t.shutdown_power_w for t in types]
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
        mig_mib_s=float(config.migration.rate_mib_s),
        mig_cpu_loss=float(config.migration.cpu_loss),
        mig_dest_share=float(config.migration.dest_cpu_share),
        memory_binding=int(config.memory == "binding"),
        arrival_rule=ARRIVAL_RULES.index(config.arrival),
        arrival_overcommit=float(config.arrival_cpu_overcommit),
        arrival_core_speed=int(config.arrival_core_speed),
        auto_boot=int(config.auto_boot),
    )
    return ClusterParams(*(_frozen(value) for value in params))


def _frozen(value: Any) -> Any:
    """The same array, not to be written to: policies are shown the parameters, and forks share them."""
    if not isinstance(value, np.ndarray):
        return value
    shown = value.view()
    shown.flags.writeable = False
    return shown
