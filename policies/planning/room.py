"""Whether a VM fits beside everything ordered so far, and may move there: kernels.

A planner's memory ``w`` holds the room of every host as the state does, under the same names, with the VMs of
the plan added. So the simulator's own checks (memory and its overcommit, reservations, functions, NUMA nodes)
and its own sums do the work, with its own tolerance; ``orders.check_move_beside`` is all of them for a host
that takes VMs. A VM that moves holds room on both ends until it has
moved: its source is not freed, and the orders of a plan are legal in any sequence.

**Multiplexed memory** may hold more than a host has, so what is legal may still cost all the work there is. A
plan counts what VMs *need* resident: what they have touched, less zero pages, which cost next to nothing to
share; and keeps it out of the memory states in which a host balloons, compresses or swaps. ``begin_need``
starts that count, ``hold_room`` keeps it, ``fits_need`` asks it.
"""

from __future__ import annotations

from typing import Any

from virtgym.envs.arrays import F8
from virtgym.envs.jit.by_model import by_model, only_full
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.host_requirements import fits_memory
from virtgym.envs.sim.engine.orders import (
    host_suits,
    may_go_on,
    vm_can_follow,
    vm_movable,
)
from virtgym.envs.sim.engine.residents import count_room
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.models.memory import min_free_mib
from virtgym.envs.sim.models.numa_nodes import add_to_nodes, choose_nodes
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .memory import PlanMemory


@kernel
def begin_room(s: ClusterState, w: PlanMemory) -> None:
    """Start a plan: the room that is taken now."""
    w.host_mem_mib[:] = s.host_mem_mib
    w.host_nominal_mhz[:] = s.host_nominal_mhz
    w.host_reserved_mhz[:] = s.host_reserved_mhz
    w.host_mem_reserved_mib[:] = s.host_mem_reserved_mib
    w.host_functions_used[:] = s.host_functions_used
    w.node_vcpus[:] = s.node_vcpus
    w.node_used_mib[:] = s.node_used_mib


@kernel
def zero_mib(p: ClusterParams, v: int, touched_mib: float) -> Any:
    """Zero pages of a VM that its host may share, MiB: none of what is reserved."""
    if not p.memory_sharing:
        return 0.0
    free = touched_mib - min(p.vm_mem_reservation_mib[v], touched_mib)
    return min(free, p.vm_zero_share[v] * touched_mib)


@only_full
@kernel
def measure_need(p: ClusterParams, s: ClusterState, w: PlanMemory) -> None:
    """Write what every VM needs now; planners that forecast write it themselves."""
    if p.has_tiers:
        write_need(p, w, s.vm_touched_mib)


@only_full
@kernel
def write_need(p: ClusterParams, w: PlanMemory, touched_mib: F8) -> None:
    """Write what every VM will need that will have touched so much, MiB, (V,)."""
    for v in range(w.vm_need_mib.shape[0]):
        w.vm_need_mib[v] = touched_mib[v] - zero_mib(p, v, touched_mib[v])


@only_full
@kernel
def begin_need(p: ClusterParams, s: ClusterState, w: PlanMemory) -> None:
    """Start a plan: memory that is needed on every host, and the most that costs nothing there.

    Duplicates count as shared as far as they are shared now; what neighbours to come will share is unknown.

    Args:
        w: A planner's memory (handle): reads ``vm_need_mib``, writes ``need_mib`` and ``need_most``.
    """
    if not p.has_tiers:
        return
    w.need_mib[:] = 0.0
    for h in range(w.need_most.shape[0]):
        most = p.host_mem_mib[h]
        mirrors = s.host_mirror_mib[h] if p.has_standby else 0.0
        w.need_most[h] = most - p.memory_soft * min_free_mib(most) - mirrors
    for v in range(w.vm_need_mib.shape[0]):
        home, host = home_of(s, v), s.vm_host[v]
        if home >= 0:
            w.need_mib[home] += w.vm_need_mib[v]
        if host < 0:
            continue
        if host != home:  # it leaves
            w.need_mib[host] += w.vm_need_mib[v]
        w.need_most[host] += max(0.0, s.vm_shared_mib[v] - zero_mib(p, v, s.vm_touched_mib[v]))


@kernel
def _always(p: ClusterParams, w: PlanMemory, v: int, h: int, share: float) -> Any:
    return True


@kernel
def _fits_need(p: ClusterParams, w: PlanMemory, v: int, h: int, share: float) -> Any:
    return not p.has_tiers or w.need_mib[h] + w.vm_need_mib[v] <= share * w.need_most[h]


fits_need = by_model(_always, _fits_need)
"""``fits_need(p, w, v, h, share)``: whether a VM may come without memory that costs work, within a share of
what is free of that."""


@only_full
@kernel
def _hold_more(p: ClusterParams, w: Any, v: int, h: int, sign: float) -> None:
    w.need_mib[h] += sign * w.vm_need_mib[v]
    if p.has_numa:
        if sign > 0.0:
            w.new_nodes[v] = choose_nodes(p, w, v, h)
        add_to_nodes(p, w, v, h, w.new_nodes[v], sign)


@kernel
def hold_room(p: ClusterParams, w: PlanMemory, v: int, h: int, sign: float) -> None:
    """Hold the room of a VM that comes to a host, or (-1.0) free it."""
    count_room(p, w, v, h, sign)
    _hold_more(p, w, v, h, sign)


@kernel
def may_open(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host that is not on may be switched on and takes VMs then."""
    return may_go_on(p, s, h) == 0 and not s.host_maintenance[h]


@kernel
def may_come(p: ClusterParams, s: ClusterState, w: PlanMemory, v: int, h: int) -> Any:
    """``check_move_beside``, for a host that is off and that the plan switches on first."""
    if not may_open(p, s, h) or vm_movable(s, v) != 0 or vm_can_follow(p, s, v, h) != 0:
        return False
    if p.memory_binding and not fits_memory(p, w, v, h):
        return False
    return host_suits(p, w, v, h) == 0
