"""Which orders are legal, and carrying them out. Masks and refusals come from the same functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ..decisions import (
    CORES_TOO_SLOW,
    HAS_FAILED,
    HOLDS_SECONDARY,
    HOLDS_VMS,
    HOST_NOT_ON,
    IN_MAINTENANCE,
    IS_DRAINING,
    IS_MIGRATING,
    IS_SPARE,
    IS_THERE,
    LACKS_CPU,
    LACKS_MEMORY,
    MOVE_REFUSED_DEVICE,
    MOVE_REFUSED_FEATURES,
    MOVE_REFUSED_KERNEL,
    NO_STANDBY,
    NO_SUCH,
    NOT_OFF,
    NOT_ON,
    NOT_RUNNING,
    NOT_WAITING,
    UNNOTICED,
)
from ..guarantee import blame_orders, check_admission, check_dedicated, check_leave, guarantee_fails
from ..models.overhead import OS_LEVEL
from ..models.power import BOOTING, FAILED, OFF, ON, RESUMING, STANDBY
from ..models.precopy import PULL
from ..state.cluster_state import MIG_NONE, PENDING, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from .host_requirements import MEM_SLACK, check_suits, fits_memory, fits_nominal, lacks_features
from .lifecycle import place, start_migration
from .power_cycle import boot_host, refresh_power, suspend_host, switch_off_if_empty
from .prefetch import fetch_host


@kernel
def host_accepts(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host takes VMs at all: 0, or the code of ``decisions.REASONS``."""
    state = s.host_power_state[h]
    if state != ON and state != BOOTING and state != RESUMING:
        return HOST_NOT_ON
    if s.host_drain[h]:
        return IS_DRAINING
    return IN_MAINTENANCE if s.host_maintenance[h] else 0


@kernel
def _any_host(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    return 0


host_suits = by_model(_any_host, check_suits)
"""``host_suits(p, s, v, h)``: whether a VM may run on a host by what the host offers: 0, or a code."""


@kernel
def _can_follow(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a running VM may go on on another host: CPU features, kernel, devices (docs §6)."""
    if p.has_io and p.vm_pinned[v]:
        return MOVE_REFUSED_DEVICE
    shares_kernel = p.host_virt_types.shape[0] > 0 and p.vm_virt_type[v] == OS_LEVEL
    if shares_kernel and p.host_kernel[s.vm_host[v]] != p.host_kernel[h]:
        return MOVE_REFUSED_KERNEL
    return MOVE_REFUSED_FEATURES if lacks_features(p, s, v, h) else 0


vm_can_follow = by_model(_any_host, _can_follow)
"""``vm_can_follow(p, s, v, h)``: whether a live migration is possible at all: 0, or a code. Planners ask it
of every VM and host, so a simple cluster does not even look whether a sub-model is on."""


@kernel
def waits_knowingly(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """0, or the code for a VM whose failure nobody has noticed yet."""
    return UNNOTICED if p.has_failures and s.vm_restart[v] == 1 else 0


@kernel
def vm_movable(s: ClusterState, v: int) -> Any:
    """Whether a VM may migrate at all: 0, or the code of ``decisions.REASONS``."""
    if v < 0 or v >= s.vm_state.shape[0]:
        return NO_SUCH
    if s.vm_state[v] != RUNNING:
        return NOT_RUNNING
    return 0 if s.vm_mig[v] == MIG_NONE else IS_MIGRATING


@kernel
def check_move(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a migration is legal: 0, or the code of ``decisions.REASONS``."""
    return check_move_beside(p, s, s, v, h)


@kernel
def check_move_beside(p: ClusterParams, s: ClusterState, room: Any, v: int, h: int) -> Any:
    """The same where room is taken otherwise than now, such as by the orders of a plan.

    Args:
        room: Handle or record with the fields of the state that ``residents.count_room`` writes.
        v: VM.
        h: Host.
    """
    code = vm_movable(s, v)
    if code != 0:
        return code
    if h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    if s.vm_host[v] == h:
        return IS_THERE
    code = host_accepts(p, s, h)
    if code == 0 and p.has_admission:
        code = check_dedicated(p, s, v, h)
    if code != 0:
        return code
    if p.memory_binding and not fits_memory(p, room, v, h):
        return LACKS_MEMORY
    code = vm_can_follow(p, s, v, h)
    return code if code != 0 else host_suits(p, room, v, h)


@kernel
def check_place(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a waiting VM may be placed on a host: 0, or the code of ``decisions.REASONS``."""
    code = check_fit(p, s, v, h)
    return check_admission(p, s, v) if code == 0 and p.has_admission else code


@kernel
def check_fit(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """The same for all that depends on the host: whether the VM may start at all, admission says.

    Arrivals bind nominal CPU and memory, whatever the memory rule is afterwards.
    """
    if v < 0 or v >= s.vm_state.shape[0] or h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    if s.vm_state[v] != PENDING or s.vm_dest[v] >= 0:
        return NOT_WAITING
    code = waits_knowingly(p, s, v)
    if code == 0:
        code = host_accepts(p, s, h)
    if code == 0 and p.has_admission:
        code = check_dedicated(p, s, v, h)
    return code if code != 0 else fits_arrival(p, s, v, h)


@kernel
def fits_arrival(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a host has room for an arrival, whatever its power state: 0, or a code."""
    if not fits_memory(p, s, v, h):
        return LACKS_MEMORY
    if not fits_nominal(p, s, v, h):
        return LACKS_CPU
    too_slow = p.vm_cpu_mhz[v] > p.vm_vcpus[v] * p.host_core_mhz[h] * MEM_SLACK
    return CORES_TOO_SLOW if p.arrival_core_speed and too_slow else host_suits(p, s, v, h)


@kernel
def may_go_on(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host that is not on may be switched on: 0, or a code."""
    state = s.host_power_state[h]
    if state == FAILED:
        return HAS_FAILED
    if state != OFF and state != STANDBY:
        return NOT_OFF
    return IS_SPARE if p.has_failures and s.host_profile[h] < 0 else 0


@kernel
def check_power_on(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host may be switched on (or its pending switch-off be cancelled)."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    if s.host_power_state[h] == ON and s.host_drain[h]:
        return 0
    return may_go_on(p, s, h)


@kernel
def holds_secondary(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host holds a secondary, which is in the way of a switch-off: 0, or the code."""
    for v in p.protected_vms:
        if p.has_standby and s.vm_secondary[v] == h:
            return HOLDS_SECONDARY
    return 0


@kernel
def check_power_off(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host may be switched off: it is free to go, and the failover guarantee holds without it."""
    code = check_free(p, s, h)
    return check_leave(p, s, h) if code == 0 and p.has_admission else code


@kernel
def check_free(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host is free to go off: on, nothing coming, every resident on its way out."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    if s.host_power_state[h] != ON:
        return NOT_ON
    if s.host_drain[h]:
        return IS_DRAINING
    if s.host_n_in[h] > 0:
        return HOLDS_VMS
    v = s.host_head[h]
    while v >= 0:
        stays = p.has_precopy and s.copy_phase[v] == PULL  # it has just come, its pages follow
        if s.vm_mig[v] == MIG_NONE or stays:
            return HOLDS_VMS
        v = s.vm_next[v]
    return holds_secondary(p, s, h)


@kernel
def check_suspend(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host may be suspended to memory: on and empty; a simple cluster has no standby."""
    if p.full == 0:
        return NO_STANDBY
    code = check_power_off(p, s, h)
    return HOLDS_VMS if code == 0 and s.host_n_vms[h] > 0 else code


@kernel
def order_power_on(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Switch a host on; returns the code."""
    code = check_power_on(p, s, h)
    if code == 0:
        if s.host_power_state[h] == ON:
            s.host_drain[h] = 0
        else:
            boot_host(p, s, h, s.clock.now_s, 0.0)
    return code


@kernel
def order_full_power(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Take a host's power management away; returns the code."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    s.host_full_power[h] = 1
    refresh_power(p, s, h, 0.0)
    return 0


@kernel
def order_power_off(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Switch a host off; returns the code."""
    code = check_power_off(p, s, h)
    if code == 0:
        s.host_drain[h] = 1
        switch_off_if_empty(p, s, h, s.clock.now_s, 0.0)
    return code


@kernel
def order_suspend(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Suspend a host to memory; returns the code."""
    code = check_suspend(p, s, h)
    if code == 0:
        suspend_host(p, s, h, s.clock.now_s, 0.0)
    return code


@kernel
def order_maintenance(p: ClusterParams, s: ClusterState, h: int, on: int) -> Any:
    """Let a host take no more VMs, or take them again; returns the code."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return NO_SUCH
    code = check_leave(p, s, h) if on and p.has_admission else 0
    if code == 0:
        s.host_maintenance[h] = on
    return code


@kernel
def order_move(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Start a migration; returns the code."""
    code = check_move(p, s, v, h)
    if code == 0:
        start_migration(p, s, v, h, s.clock.now_s, 0.0)
    return code


@kernel
def _fetch_move(p: ClusterParams, s: ClusterState, v: int, h: int) -> None:
    """Ask for what the next migration needs while this one is begun."""
    if vm_movable(s, v) == 0 and h >= 0 and h < s.host_power_state.shape[0]:
        fetch_host(p, s, s.vm_host[v])
        fetch_host(p, s, h)


@kernel
def order_place(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Place a waiting VM; returns the code."""
    code = check_place(p, s, v, h)
    if code == 0:
        place(p, s, v, h, 0.0)
    return code


@kernel
def apply_orders(
    p: ClusterParams,
    s: ClusterState,
    maintenance: NDArray[np.int32],
    end_maintenance: NDArray[np.int32],
    power_on: NDArray[np.int32],
    full_power: NDArray[np.int32],
    place_vm: NDArray[np.int32],
    place_host: NDArray[np.int32],
    move_vm: NDArray[np.int32],
    move_host: NDArray[np.int32],
    power_off: NDArray[np.int32],
    suspend: NDArray[np.int32],
    codes: NDArray[np.int32],
) -> int:
    """Carry out one interval's orders, the fields of ``Decisions``; refused ones change nothing.

    ``codes`` is written: one code per order, in the order of the arguments.

    Returns:
        Number of refused orders.
    """
    failed = guarantee_fails(p, s)
    _carry_out_maintenance(p, s, maintenance, end_maintenance, codes)
    n = maintenance.shape[0] + end_maintenance.shape[0]
    for i in range(power_on.shape[0]):
        codes[n + i] = order_power_on(p, s, power_on[i])
    n += power_on.shape[0]
    for i in range(full_power.shape[0]):
        codes[n + i] = order_full_power(p, s, full_power[i])
    n += full_power.shape[0]
    for i in range(place_vm.shape[0]):
        codes[n + i] = order_place(p, s, place_vm[i], place_host[i])
    n += place_vm.shape[0]
    for i in range(move_vm.shape[0]):
        if i + 1 < move_vm.shape[0]:
            _fetch_move(p, s, move_vm[i + 1], move_host[i + 1])
        codes[n + i] = order_move(p, s, move_vm[i], move_host[i])
    n += move_vm.shape[0]
    for i in range(power_off.shape[0]):
        codes[n + i] = order_power_off(p, s, power_off[i])
    n += power_off.shape[0]
    for i in range(suspend.shape[0]):
        codes[n + i] = order_suspend(p, s, suspend[i])
    blame_orders(p, s, failed)
    return int(np.count_nonzero(codes))


@kernel
def _carry_out_maintenance(
    p: ClusterParams,
    s: ClusterState,
    begin: NDArray[np.int32],
    end: NDArray[np.int32],
    codes: NDArray[np.int32],
) -> None:
    for i in range(begin.shape[0]):
        codes[i] = order_maintenance(p, s, begin[i], 1)
    for i in range(end.shape[0]):
        codes[begin.shape[0] + i] = order_maintenance(p, s, end[i], 0)
