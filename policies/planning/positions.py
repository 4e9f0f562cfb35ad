"""Where VMs are or will be, and which VMs a host will have: kernels."""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import I1, I4
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.guarantee import home_at
from virtgym.envs.sim.state.cluster_state import ClusterState

from .memory import PlanMemory


@kernel
def _homes(host: I4, dest: I4, phase: I1, vms: I4) -> I4:
    homes = np.empty(vms.shape[0], dtype=np.int32)
    for i in range(vms.shape[0]):
        homes[i] = home_at(host, dest, phase, vms[i])
    return homes


def homes_of(state: ClusterState, vms: I4) -> I4:
    """The same of several VMs, shape (N,).

    Args:
        state: State of the cluster, or of a what-if copy.
        vms: VMs, shape (N,).
    """
    homes: I4 = _homes(state.vm_host, state.vm_dest, state.copy_phase, vms)
    return homes


@kernel
def group_by_home(w: PlanMemory) -> None:
    """List the VMs of every host, ascending (counting sort).

    Args:
        w: A planner's memory (handle): reads ``home`` (V,); writes ``n_home`` (H,), ``first`` (H + 1,),
            ``vm_of`` (V,).
    """
    w.n_home[:] = 0
    for v in range(w.home.shape[0]):
        if w.home[v] >= 0:
            w.n_home[w.home[v]] += 1
    w.first[0] = 0
    for h in range(w.n_home.shape[0]):
        w.first[h + 1] = w.first[h] + w.n_home[h]
        w.n_home[h] = 0
    for v in range(w.home.shape[0]):
        h = w.home[v]
        if h >= 0:
            w.vm_of[w.first[h] + w.n_home[h]] = v
            w.n_home[h] += 1
