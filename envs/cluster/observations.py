"""What an agent sees: a host table, a VM table and a global vector, written by one kernel call.

The columns are named and documented in ``observation_columns``; with the full model more of them follow those
of a simple cluster (``full_observations``). Every value is float32 in ``[0, high]`` (``[-1, 1]`` for the two
phases of the day), clipped where it could leave. Nothing names a host or VM by its number but ``vm_host``, so
a network that treats rows alike runs on any cluster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..arrays import F4, F8
from ..jit.handle import make_handle
from ..jit.kernels import kernel
from ..observation_columns import HOST_COLUMNS, VM_COLUMNS, Column, columns_of
from ..sim.models.power import BOOTING, OFF, ON, RESUMING, SHUTTING_DOWN, SUSPENDING
from ..sim.simulator import Simulator
from ..sim.state.cluster_state import ABSENT, DEPARTED, MIG_COPYING, MIG_NONE, PENDING, RUNNING, ClusterState
from ..sim.state.parameters import ClusterParams
from .actions import check_toggle, write_host_mask, write_vm_mask
from .full_observations import static_host_columns, static_vm_columns, write_full_columns

EWMA_WEIGHT = 0.2
"""Weight of the newest demand in ``recent_demand``: half of its memory is 3 intervals old."""

DAY_S = 86_400.0
THRASH_INTERVALS = 12.0
COUNT_SCALE = 1.0 / float(np.log1p(128.0))


_H = {column.name: i for i, column in enumerate(HOST_COLUMNS)}
_V = {column.name: i for i, column in enumerate(VM_COLUMNS)}
H_TARGET, H_HOLDS, H_SWITCHABLE = _H["target"], _H["holds_chosen"], _H["switchable"]
H_STATIC = _H["capacity"]
V_MOVABLE, V_CHOSEN, V_STATIC = _V["movable"], _V["chosen"], _V["nominal_size"]
H_END, V_END = len(HOST_COLUMNS), len(VM_COLUMNS)


class Buffers(NamedTuple):
    """What the kernels read and write besides the simulator: H hosts, V VMs, A = 1 + V + 2H actions."""

    hosts: F4  # (H, F_h) observation
    vms: F4  # (V, F_v) observation
    globals: F4  # (F_g,) observation
    vm_host: NDArray[np.int32]  # (V,) observation
    mask: NDArray[np.bool_]  # (A,) legal actions
    inv_cpu: F8  # (H,) 1 / capacity, 1/MHz
    inv_mem: F8  # (H,) 1 / memory, 1/MiB
    inv_nominal: F8  # (V,) 1 / nominal CPU, 1/MHz
    host_out_mbps: F8  # (H,) traffic sent, Mbit/s (full model)
    host_in_mbps: F8  # (H,) traffic received, Mbit/s (full model)
    host_sat_s: F8  # (H,) host_sat_s at the end of the interval before the last
    host_sat_share: F8  # (H,) share of the last interval short of CPU
    vm_missed: F8  # (V,) vm_missed at the end of the last interval, MHz s
    vm_requested: F8  # (V,) vm_requested at the end of the last interval, MHz s
    vm_miss_share: F8  # (V,) unserved share of the last interval
    vm_recent: F8  # (V,) weighted mean of demand / nominal, -1 = not seen yet
    cluster: F8  # (4,) totals missed and requested, time at the end of the last interval; unserved share
    scale: F8  # (6,) see _make_buffers


MEMORY = (
    *("host_sat_s", "host_sat_share", "vm_missed", "vm_requested", "vm_miss_share", "vm_recent", "cluster"),
)
"""The buffers that carry something from one interval to the next."""


@kernel
def _clip(x: float, high: float) -> Any:
    return min(max(x, 0.0), high)


@kernel
def remember(p: ClusterParams, s: ClusterState, b: Buffers, weight: float) -> None:
    """Work out what the last interval did: shares of shortage and the weighted mean of demand.

    Args:
        s: State at the end of an interval.
        b: Buffers; their memory is rewritten.
        weight: Weight of the newest demand, 0...1.
    """
    span = s.clock.now_s - b.cluster[2]
    inv_span = 1.0 / span if span > 0.0 else 0.0
    for h in range(p.host_type.shape[0]):
        b.host_sat_share[h] = _clip((s.host_sat_s[h] - b.host_sat_s[h]) * inv_span, 1.0)
        b.host_sat_s[h] = s.host_sat_s[h]
    for v in range(p.vm_vcpus.shape[0]):
        requested = s.vm_requested[v] - b.vm_requested[v]
        missed = s.vm_missed[v] - b.vm_missed[v]
        b.vm_miss_share[v] = _clip(missed / requested, 1.0) if requested > 0.0 else 0.0
        b.vm_requested[v] = s.vm_requested[v]
        b.vm_missed[v] = s.vm_missed[v]
        demand = s.vm_demand_mhz[v] * b.inv_nominal[v]
        if s.vm_state[v] in (ABSENT, DEPARTED):
            b.vm_recent[v] = -1.0
        elif b.vm_recent[v] < 0.0:
            b.vm_recent[v] = demand
        else:
            b.vm_recent[v] += weight * (demand - b.vm_recent[v])
    requested = s.totals.requested - b.cluster[1]
    missed = s.totals.missed - b.cluster[0]
    b.cluster[3] = _clip(missed / requested, 1.0) if requested > 0.0 else 0.0
    b.cluster[0] = s.totals.missed
    b.cluster[1] = s.totals.requested
    b.cluster[2] = s.clock.now_s


@kernel
def _write_hosts(p: ClusterParams, s: ClusterState, b: Buffers) -> None:
    """Host rows and the sums over hosts."""
    n_on, n_booting, n_short = 0, 0, 0
    ask, capacity, memory, memory_capacity, power = 0.0, 0.0, 0.0, 0.0, 0.0
    inv_interval = 1.0 / p.interval_s
    now = s.clock.now_s
    for h in range(p.host_type.shape[0]):
        row = b.hosts[h]
        state = s.host_power_state[h]
        row[0] = _clip(s.host_ask_mhz[h] * b.inv_cpu[h], 2.0)
        row[1] = _clip(s.host_demand_mhz[h] * b.inv_cpu[h], 2.0)
        row[2] = _clip(s.host_mem_mib[h] * b.inv_mem[h], 2.0)
        row[3] = _clip(s.host_nominal_mhz[h] * b.inv_cpu[h], 4.0)
        row[4] = _clip(np.log1p(s.host_n_vms[h]) * COUNT_SCALE, 1.0) if s.host_n_vms[h] > 0 else 0.0
        row[5] = _clip(np.log1p(s.host_n_in[h]) * COUNT_SCALE, 1.0) if s.host_n_in[h] > 0 else 0.0
        row[6] = 1.0 if state == OFF else 0.0
        row[7] = 1.0 if state == BOOTING else 0.0
        row[8] = 1.0 if state == ON else 0.0
        row[9] = 1.0 if state == SHUTTING_DOWN else 0.0
        row[10] = 1.0 if s.host_drain[h] else 0.0
        row[11] = _clip(s.host_power_now_w[h] * b.scale[1], 1.0)
        left = (s.host_trans_end_s[h] - now) * inv_interval
        changing = state in (BOOTING, SHUTTING_DOWN, SUSPENDING, RESUMING)
        row[12] = _clip(left, 2.0) if changing else 0.0
        row[13] = b.host_sat_share[h]
        power += s.host_power_now_w[h]
        n_booting += state == BOOTING
        if state == ON:
            n_on += 1
            n_short += s.host_sat_now[h] > 0.0
            ask += s.host_ask_mhz[h]
            capacity += p.host_cpu_mhz[h]
            memory += s.host_mem_mib[h]
            memory_capacity += p.host_mem_mib[h]
    inv_h = 1.0 / p.host_type.shape[0]
    b.globals[3] = n_on * inv_h
    b.globals[4] = n_booting * inv_h
    b.globals[5] = n_short * inv_h
    b.globals[6] = _clip(ask / capacity, 2.0) if n_on > 0 else 0.0
    b.globals[8] = _clip(memory / memory_capacity, 2.0) if n_on > 0 else 0.0
    b.globals[9] = _clip(power * b.scale[3], 1.0)


@kernel
def _write_vms(p: ClusterParams, s: ClusterState, b: Buffers) -> None:
    """VM rows and the sums over VMs."""
    n_hosts = p.host_type.shape[0]
    inv_interval = 1.0 / p.interval_s
    now = s.clock.now_s
    total = 0.0
    n_migrating = 0
    for v in range(p.vm_vcpus.shape[0]):
        row = b.vms[v]
        state = s.vm_state[v]
        if state in (ABSENT, DEPARTED):
            row[:V_STATIC] = 0.0
            b.vm_host[v] = n_hosts
            continue
        h = s.vm_host[v]
        inv = b.inv_nominal[v]
        demand = s.vm_demand_mhz[v]
        total += demand
        row[0] = 1.0 if state == RUNNING else 0.0
        row[1] = 1.0 if state == PENDING else 0.0
        row[2] = 1.0 if s.vm_mig[v] != MIG_NONE else 0.0
        n_migrating += s.vm_mig[v] != MIG_NONE
        copying = s.vm_mig[v] == MIG_COPYING
        row[3] = _clip((s.vm_mig_end_s[v] - now) * inv_interval, 2.0) if copying else 0.0
        row[4] = _clip(demand * inv, 1.0)
        row[5] = _clip(b.vm_recent[v], 1.0)
        row[6] = _clip(s.vm_granted_mhz[v] * inv, 1.0) if h >= 0 else 0.0
        row[7] = b.vm_miss_share[v]
        row[8] = _clip(demand * b.scale[0], 1.0)
        row[9] = _clip((now - p.vm_arrival_s[v]) / DAY_S, 1.0)
        row[10] = _clip(1.0 - (now - s.vm_last_move_s[v]) * inv_interval / THRASH_INTERVALS, 1.0)
        row[13] = b.hosts[h, 0] if h >= 0 else 0.0
        row[14] = b.hosts[h, 2] if h >= 0 else 0.0
        row[15] = b.hosts[h, 13] if h >= 0 else 0.0
        row[16] = _clip(s.vm_ask_mhz[v] * b.inv_cpu[h], 2.0) if h >= 0 else 0.0
        b.vm_host[v] = h if h >= 0 else n_hosts
    b.globals[7] = _clip(total * b.scale[2], 2.0)
    b.globals[10] = s.counters.pending / p.vm_vcpus.shape[0]
    b.globals[11] = n_migrating / p.vm_vcpus.shape[0]


@kernel
def _write_choices(p: ClusterParams, s: ClusterState, b: Buffers, chosen: int) -> None:
    """The mask, and the columns that repeat it: rows are all an equivariant network sees."""
    n_hosts, n_vms = p.host_type.shape[0], p.vm_vcpus.shape[0]
    b.mask[0] = chosen < 0
    if chosen < 0:
        write_vm_mask(p, s, b.mask[1 : 1 + n_vms])
        b.mask[1 + n_vms : 1 + n_vms + n_hosts] = False
    else:
        b.mask[1 : 1 + n_vms] = False
        write_host_mask(p, s, chosen, b.mask[1 + n_vms : 1 + n_vms + n_hosts])
    for v in range(n_vms):
        b.vms[v, V_MOVABLE] = b.mask[1 + v]
        b.vms[v, V_CHOSEN] = 0.0
    where = -1
    if chosen >= 0:
        b.vms[chosen, V_CHOSEN] = 1.0
        where = s.vm_host[chosen]
    for h in range(n_hosts):
        switchable = chosen < 0 and check_toggle(p, s, h) == 0
        b.mask[1 + n_vms + n_hosts + h] = switchable
        b.hosts[h, H_TARGET] = b.mask[1 + n_vms + h]
        b.hosts[h, H_HOLDS] = 1.0 if h == where else 0.0
        b.hosts[h, H_SWITCHABLE] = switchable
    b.globals[14] = 1.0 if chosen >= 0 else 0.0


@kernel
def observe(
    p: ClusterParams, s: ClusterState, b: Buffers, chosen: int, n_decisions: int, moved: bool
) -> None:
    """Write the observation and the mask.

    Args:
        b: Buffers.
        chosen: The chosen VM, -1 = none.
        n_decisions: Decisions in this interval.
        moved: Whether the state has changed since the last call; else only the choice is written.
    """
    if moved:
        phase = 2.0 * np.pi * s.clock.now_s / DAY_S
        b.globals[0] = np.sin(phase)
        b.globals[1] = np.cos(phase)
        b.globals[2] = _clip(s.clock.now_s / b.scale[4], 1.0)
        b.globals[12] = b.cluster[3]
        _write_hosts(p, s, b)
        _write_vms(p, s, b)
        write_full_columns(p, s, b)
    b.globals[13] = _clip(n_decisions * b.scale[5], 1.0)
    _write_choices(p, s, b, chosen)


def _write_constants(p: ClusterParams, hosts: F4, vms: F4, largest: float, hungriest: float) -> None:
    """The columns that never change."""
    idle, peak = p.power_w[p.host_type, 0], p.power_w[p.host_type].max(axis=1)
    hosts[:, H_STATIC:H_END] = np.column_stack(
        [
            p.host_cpu_mhz / largest,
            p.host_core_mhz / p.host_core_mhz.max(),
            p.host_mem_mib / p.host_mem_mib.max(),
            idle / hungriest,
            peak / hungriest,
        ]
    )
    vms[:, V_STATIC:V_END] = np.minimum(
        1.0, np.column_stack([p.vm_cpu_mhz / largest, p.vm_mem_mib / p.host_mem_mib.max()])
    )
    if p.full:
        constant = static_host_columns(p, largest)
        hosts[:, hosts.shape[1] - constant.shape[1] :] = constant
        constant = static_vm_columns(p)
        vms[:, vms.shape[1] - constant.shape[1] :] = constant


def _make_buffers(p: ClusterParams, flat: F4, horizon_s: float, limit: int) -> Buffers:
    n_hosts, n_vms = p.host_type.shape[0], p.vm_vcpus.shape[0]
    host_columns, vm_columns, _ = columns_of(bool(p.full))
    split = n_hosts * len(host_columns)
    rest = split + n_vms * len(vm_columns)
    hosts = flat[:split].reshape(n_hosts, len(host_columns))
    vms = flat[split:rest].reshape(n_vms, len(vm_columns))
    peak = p.power_w[p.host_type].max(axis=1)
    largest, hungriest = float(p.host_cpu_mhz.max()), max(float(peak.max()), 1e-9)
    _write_constants(p, hosts, vms, largest, hungriest)
    totals = [float(p.host_cpu_mhz.sum()), max(float(peak.sum()), 1e-9)]
    return Buffers(
        hosts=hosts,
        vms=vms,
        globals=flat[rest:],
        vm_host=np.zeros(n_vms, dtype=np.int32),
        mask=np.zeros(1 + n_vms + 2 * n_hosts, dtype=np.bool_),
        inv_cpu=1.0 / p.host_cpu_mhz,
        inv_mem=1.0 / p.host_mem_mib,
        inv_nominal=1.0 / p.vm_cpu_mhz,
        host_out_mbps=np.zeros(n_hosts),
        host_in_mbps=np.zeros(n_hosts),
        host_sat_s=np.zeros(n_hosts),
        host_sat_share=np.zeros(n_hosts),
        vm_missed=np.zeros(n_vms),
        vm_requested=np.zeros(n_vms),
        vm_miss_share=np.zeros(n_vms),
        vm_recent=np.full(n_vms, -1.0),
        cluster=np.zeros(4),
        scale=np.array([1 / largest, 1 / hungriest, 1 / totals[0], 1 / totals[1], horizon_s, 1 / limit]),
    )


class Observer:
    """Writes observations and masks of one simulator into memory of its own.

    Args:
        sim: The simulator; its state is read, never written.
        limit: Decisions allowed in one interval, for the column ``decisions``.
        tables: Whether ``hosts`` and ``vms`` have one row per host and VM, or their rows in one vector.
    """

    def __init__(self, sim: Simulator, limit: int, tables: bool = False) -> None:
        self.sim = sim
        self.limit = limit
        self.tables = tables
        self.n_hosts, self.n_vms = sim.config.n_hosts, sim.workload.n_vms
        self.full = bool(sim.params.full)
        host_columns, vm_columns, global_columns = columns_of(self.full)
        self._split = self.n_hosts * len(host_columns)
        self._rest = self._split + self.n_vms * len(vm_columns)
        self.flat = np.zeros(self._rest + len(global_columns), dtype=np.float32)
        self.buffers = _make_buffers(sim.params, self.flat, sim.horizon_s, limit)
        self._handle: Any = make_handle("observer", self.buffers)
        self._last: tuple[int, int] | None = None  # what the buffers show: chosen VM, decisions

    @staticmethod
    def space(n_hosts: int, n_vms: int, tables: bool = False, full: bool = False) -> spaces.Dict:
        """The observation space of a cluster.

        Args:
            n_hosts: H.
            n_vms: V.
            tables: As for the class.
            full: Whether the cluster uses the full model.
        """
        host_columns, vm_columns, global_columns = columns_of(full)

        def box(columns: tuple[Column, ...], *rows: int) -> spaces.Box:
            shape = (*rows, len(columns))
            low = np.array([column.low for column in columns], dtype=np.float32)
            high = np.array([column.high for column in columns], dtype=np.float32)
            lows, highs = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
            return spaces.Box(lows, highs) if tables else spaces.Box(lows.ravel(), highs.ravel())

        return spaces.Dict(
            {
                "hosts": box(host_columns, n_hosts),
                "vms": box(vm_columns, n_vms),
                "globals": box(global_columns),
                "vm_host": spaces.Box(0, n_hosts, (n_vms,), np.int32),
            }
        )

    def reset(self) -> None:
        """Forget the episode; the simulator must have been reset before."""
        for name in MEMORY:
            getattr(self.buffers, name).fill(-1.0 if name == "vm_recent" else 0.0)
        self.remember()

    def remember(self) -> None:
        """Take note of the interval that has just ended."""
        remember(self.sim.kernel_params, self.sim.kernel_state, self._handle, EWMA_WEIGHT)

    def write(self, chosen: int, n_decisions: int, moved: bool = True) -> None:
        """Bring the buffers up to date.

        Args:
            chosen: The chosen VM, -1 = none.
            n_decisions: Decisions in this interval.
            moved: Whether the simulator's state may have changed since the last call.
        """
        sim = self.sim
        observe(sim.kernel_params, sim.kernel_state, self._handle, chosen, n_decisions, moved)
        self._last = (chosen, n_decisions)

    def copy(self) -> dict[str, NDArray[Any]]:
        """The observation in fresh memory: one copy, and views of that copy."""
        return self._split_up(self.flat.copy(), self.buffers.vm_host.copy())

    def blank(self) -> dict[str, NDArray[Any]]:
        """An observation of zeros, for those who do not look."""
        return self._split_up(np.zeros(len(self.flat), np.float32), np.zeros(self.n_vms, np.int32))

    def _split_up(self, flat: F4, vm_host: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        hosts, vms = flat[: self._split], flat[self._split : self._rest]
        return {
            "hosts": hosts.reshape(self.n_hosts, -1) if self.tables else hosts,
            "vms": vms.reshape(self.n_vms, -1) if self.tables else vms,
            "globals": flat[self._rest :],
            "vm_host": vm_host,
        }

    def mask(self) -> NDArray[np.bool_]:
        """The legal actions, in fresh memory, shape (1 + V + 2H,)."""
        return self.buffers.mask.copy()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the simulator and what is remembered; views do not survive pickling."""
        memory = {name: getattr(self.buffers, name) for name in MEMORY}
        shown = {"sim": self.sim, "limit": self.limit, "tables": self.tables}
        return {**shown, "memory": memory, "last": self._last}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild buffers and handle."""
        self.__init__(saved["sim"], saved["limit"], saved["tables"])  # type: ignore[misc]
        for name, values in saved["memory"].items():
            getattr(self.buffers, name)[:] = values
        if saved["last"] is not None:
            self.write(*saved["last"])
