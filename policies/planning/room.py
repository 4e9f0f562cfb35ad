"""Whether a VM fits beside everything ordered so far, and may move there: kernels.

A planner's memory ``w`` holds the room of every host as the state does, under the same names, with the VMs of
the plan added. So the simulator's own checks (memory and its overcommit, reservations, functions, NUMA nodes)
and its own sums do the work, with its own tolerance; ``orders.check_move_beside`` is all of them for a host
that takes VMs. A VM that moves holds room on both ends until it has
moved: its source is not freed, and the orders of a plan are legal in any sequence.
"""

from __future__ import annotations

from typing import Any

from virtgym.envs.jit.by_model import only_full
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.host_requirements import fits_memory
from virtgym.envs.sim.engine.orders import (
    host_suits,
    may_go_on,
    vm_can_follow,
    vm_movable,
)
from virtgym.envs.sim.engine.residents import count_room
from virtgym.envs.sim.models.numa_nodes import add_to_nodes, choose_nodes
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams, FullParams

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


@only_full
@kernel
def _hold_nodes(p: FullParams, w: Any, v: int, h: int, sign: float) -> None:
    if p.has_numa:
        if sign > 0.0:
            w.new_nodes[v] = choose_nodes(p, w, v, h)
        add_to_nodes(p, w, v, h, w.new_nodes[v], sign)


@kernel
def hold_room(p: ClusterParams, w: PlanMemory, v: int, h: int, sign: float) -> None:
    """Hold the room of a VM that comes to a host, or (-1.0) free it."""
    count_room(p, w, v, h, sign)
    _hold_nodes(p, w, v, h, sign)


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
