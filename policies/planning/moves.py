"""What a migration costs, as the simulator has it if nothing changes on the way: kernels."""

from __future__ import annotations

from typing import Any

from virtgym.envs.arrays import F8, I4
from virtgym.envs.jit.by_model import by_model
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.copies import copy_energy_j, copy_memory_mib
from virtgym.envs.sim.models.precopy import MBIT_PER_MIB, plan_copy
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams


@kernel
def _fixed_rate(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    return p.vm_mem_mib[v] / p.mig_mib_s, p.vm_mem_mib[v]


@kernel
def _copy(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    if not p.has_precopy:
        return _fixed_rate(p, s, v, a, b)
    rate = min(p.host_nic_mbps[a], p.host_nic_mbps[b], p.copy_max_mbps) / MBIT_PER_MIB
    memory, dirty = copy_memory_mib(p, s, v), s.vm_dirty_mib_s[v]
    seconds, _, sent, _, _ = plan_copy(p, memory, p.vm_working_mib[v], rate, dirty)
    return seconds, sent


copy_cost = by_model(_fixed_rate, _copy)
"""``copy_cost(p, s, v, a, b)``: duration of a migration from host a to host b, s, and data sent, MiB."""


@kernel
def copy_seconds(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    """Duration of a migration from host a to host b, s: for callers in Python."""
    return copy_cost(p, s, v, a, b)[0]


@kernel
def move_energy_j(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    """Energy of a migration from host a to host b, J."""
    _, sent = copy_cost(p, s, v, a, b)
    return copy_energy_j(p, sent)


@kernel
def move_energies(p: ClusterParams, s: ClusterState, home: I4, energy_j: F8) -> None:
    """Write what a migration off its home to a host like that costs every VM, J, shape (V,)."""
    for v in range(home.shape[0]):
        h = home[v]
        energy_j[v] = move_energy_j(p, s, v, h, h) if h >= 0 else 0.0
