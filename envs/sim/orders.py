"""Which orders are legal, and carrying them out. Masks and refusals come from the same functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .cpu import refresh_host
from .lifecycle import boot_host, place, start_migration, switch_off_if_empty
from .power import BOOTING, OFF, ON
from .state import MIG_NONE, PENDING, RUNNING, ClusterParams, ClusterState

__all__ = ["apply_orders", "check_move", "check_place", "check_power_off", "check_power_on"]

MEM_SLACK = 1.0 + 1e-9
"""Memory sums are floats: this much above capacity still fits."""


@njit(cache=True)
def _fits_memory(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    return s.host_mem_mib[h] + p.vm_mem_mib[v] <= p.host_mem_mib[h] * MEM_SLACK


@njit(cache=True)
def _host_accepts(s: ClusterState, h: int) -> Any:
    state = s.host_power_state[h]
    if state != ON and state != BOOTING:
        return 5
    return 7 if s.host_drain[h] else 0


@njit(cache=True)
def vm_movable(s: ClusterState, v: int) -> Any:
    """Whether a VM may migrate at all: 0, or the code of ``decisions.REASONS``."""
    if v < 0 or v >= s.vm_state.shape[0]:
        return 1
    if s.vm_state[v] != RUNNING:
        return 2
    return 0 if s.vm_mig[v] == MIG_NONE else 3


@njit(cache=True)
def check_move(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a migration is legal: 0, or the code of ``decisions.REASONS``."""
    code = vm_movable(s, v)
    if code != 0:
        return code
    if h < 0 or h >= s.host_power_state.shape[0]:
        return 1
    if s.vm_host[v] == h:
        return 4
    code = _host_accepts(s, h)
    if code != 0:
        return code
    return 6 if p.memory_binding and not _fits_memory(p, s, v, h) else 0


@njit(cache=True)
def check_place(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a waiting VM may be placed on a host: 0, or the code of ``decisions.REASONS``.

    Arrivals bind nominal CPU and memory, whatever the memory rule is afterwards.
    """
    if v < 0 or v >= s.vm_state.shape[0] or h < 0 or h >= s.host_power_state.shape[0]:
        return 1
    if s.vm_state[v] != PENDING or s.vm_dest[v] >= 0:
        return 8
    code = _host_accepts(s, h)
    return code if code != 0 else fits_arrival(p, s, v, h)


@njit(cache=True)
def fits_arrival(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a host has room for an arrival, whatever its power state: 0, or a code."""
    if not _fits_memory(p, s, v, h):
        return 6
    room = p.host_cpu_mhz[h] * p.arrival_overcommit * MEM_SLACK
    if s.host_nominal_mhz[h] + p.vm_cpu_mhz[v] > room:
        return 12
    too_slow = p.vm_cpu_mhz[v] > p.vm_vcpus[v] * p.host_core_mhz[h] * MEM_SLACK
    return 13 if p.arrival_core_speed and too_slow else 0


@njit(cache=True)
def check_power_on(s: ClusterState, h: int) -> Any:
    """Whether a host may be switched on (or its pending switch-off be cancelled)."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return 1
    if s.host_power_state[h] == ON and s.host_drain[h]:
        return 0
    return 0 if s.host_power_state[h] == OFF else 9


@njit(cache=True)
def check_power_off(s: ClusterState, h: int) -> Any:
    """Whether a host may be switched off: on, nothing coming, every resident on its way out."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return 1
    if s.host_power_state[h] != ON:
        return 11
    if s.host_drain[h]:
        return 7
    if s.host_n_in[h] > 0:
        return 10
    v = s.host_head[h]
    while v >= 0:
        if s.vm_mig[v] == MIG_NONE:
            return 10
        v = s.vm_next[v]
    return 0


@njit(cache=True)
def order_power_on(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Switch a host on; returns the code."""
    code = check_power_on(s, h)
    if code == 0:
        if s.host_power_state[h] == ON:
            s.host_drain[h] = 0
        else:
            boot_host(p, s, h, s.clock[0], 0.0)
    return code


@njit(cache=True)
def order_full_power(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Take a host's power management away; returns the code."""
    if h < 0 or h >= s.host_power_state.shape[0]:
        return 1
    s.host_full_power[h] = 1
    refresh_host(p, s, h, 0.0)
    return 0


@njit(cache=True)
def order_power_off(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Switch a host off; returns the code."""
    code = check_power_off(s, h)
    if code == 0:
        s.host_drain[h] = 1
        switch_off_if_empty(p, s, h, s.clock[0], 0.0)
    return code


@njit(cache=True)
def order_move(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Start a migration; returns the code."""
    code = check_move(p, s, v, h)
    if code == 0:
        start_migration(p, s, v, h, s.clock[0], 0.0)
    return code


@njit(cache=True)
def order_place(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Place a waiting VM; returns the code."""
    code = check_place(p, s, v, h)
    if code == 0:
        place(p, s, v, h, 0.0)
    return code


@njit(cache=True)
def apply_orders(
    p: ClusterParams,
    s: ClusterState,
    power_on: NDArray[np.int32],
    full_power: NDArray[np.int32],
    place_vm: NDArray[np.int32],
    place_host: NDArray[np.int32],
    move_vm: NDArray[np.int32],
    move_host: NDArray[np.int32],
    power_off: NDArray[np.int32],
    codes: NDArray[np.int32],
) -> int:
    """Carry out one interval's orders; refused ones change nothing.

    Args:
        p: Parameters.
        s: State.
        power_on: Hosts to switch on.
        full_power: Hosts to run without power management.
        place_vm: Waiting VMs.
        place_host: Their hosts.
        move_vm: VMs to migrate.
        move_host: Their destinations.
        power_off: Hosts to switch off.
        codes: Written: one code per order, in the order of the arguments.

    Returns:
        Number of refused orders.
    """
    n = 0
    refused = 0
    for i in range(power_on.shape[0]):
        codes[n] = order_power_on(p, s, power_on[i])
        refused += codes[n] != 0
        n += 1
    for i in range(full_power.shape[0]):
        codes[n] = order_full_power(p, s, full_power[i])
        refused += codes[n] != 0
        n += 1
    for i in range(place_vm.shape[0]):
        codes[n] = order_place(p, s, place_vm[i], place_host[i])
        refused += codes[n] != 0
        n += 1
    for i in range(move_vm.shape[0]):
        codes[n] = order_move(p, s, move_vm[i], move_host[i])
        refused += codes[n] != 0
        n += 1
    for i in range(power_off.shape[0]):
        codes[n] = order_power_off(p, s, power_off[i])
        refused += codes[n] != 0
        n += 1
    return refused
