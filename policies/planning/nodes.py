"""What remote memory would take on a host as a plan leaves it: kernels.

A VM may have room on a node and yet cost work there: where the VMs of a node come to ask for more CPU than it
has, they run on other nodes, away from their memory. A planner's memory ``w`` holds what the simulator's NUMA
model reads and writes, under the same names, so that the model itself says which node a VM gets
(``choose_nodes``), how the balancer levels the nodes then (``rebalance_host``), and what is lost
(``apply_numa_host``), with what VMs are expected to ask for, and pages that have followed.

``begin_nodes`` starts a plan after ``room.begin_room``; ``room.hold_room`` keeps room, ``move_nodes`` keeps
who is where; ``coming_loss`` is what a move costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I4
from virtgym.envs.jit.by_model import by_model, only_full
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.models.numa import apply_numa_host, rebalance_host
from virtgym.envs.sim.models.numa_nodes import add_to_nodes, choose_nodes
from virtgym.envs.sim.simulator import ClusterView, Simulator
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .memory import PlanMemory, allocate_memory
from .room import begin_room

UNKNOWN = -1.0
"""Value of ``node_loss`` of a host that nobody has asked about since it last changed."""

LEAST_MHZ = 1e-6
"""Sums of floats: a loss below is none."""


@kernel
def expect_on_nodes(w: PlanMemory, mhz: F8) -> None:
    """Let VMs be expected to ask for so much CPU, MHz, (V,), from now on."""
    w.vm_plan_mhz[:] = mhz
    w.node_loss[:] = UNKNOWN


@only_full
@kernel
def begin_nodes(p: ClusterParams, s: ClusterState, w: PlanMemory, mhz: F8) -> None:
    """Start a plan: every VM is at home where the state has it, or will have it.

    Args:
        w: The memory, with the room of now.
        mhz: CPU that every VM is expected to ask for, MHz, (V,).
    """
    if not p.has_numa:
        return
    expect_on_nodes(w, mhz)
    for v in range(w.node_at.shape[0]):
        h = home_of(s, v)
        w.node_at[v] = h
        w.here_nodes[v] = s.vm_nodes[v] if h == s.vm_host[v] else s.vm_dest_nodes[v]
        w.vm_nodes[v] = w.here_nodes[v]


@only_full
@kernel
def move_nodes(p: ClusterParams, w: PlanMemory, v: int, h: int) -> None:
    """Let a VM be on a host from now on: where its room is held, or back at home (``w.home``)."""
    if not p.has_numa:
        return
    if w.node_at[v] >= 0:
        w.node_loss[w.node_at[v]] = UNKNOWN
    w.node_loss[h] = UNKNOWN
    w.node_at[v] = h
    w.vm_nodes[v] = w.here_nodes[v] if h == w.home[v] else w.new_nodes[v]


@kernel
def _list_vms(p: ClusterParams, w: PlanMemory, h: int, v: int, comes: bool) -> I4:
    """The VMs of a host with a VM or without it, and what they are given, scaled to what the host has."""
    n = 0
    total = 0.0
    for u in range(w.node_at.shape[0]):
        if comes if u == v else w.node_at[u] == h:
            w.node_vms[n] = u
            w.vm_given_mhz[u] = min(w.vm_plan_mhz[u], p.vm_vcpus[u] * p.host_core_mhz[h])
            w.vm_pages_end_s[u] = -np.inf
            total += w.vm_given_mhz[u]
            n += 1
    vms = w.node_vms[:n]
    if total > p.host_cpu_mhz[h]:
        for u in vms:
            w.vm_given_mhz[u] *= p.host_cpu_mhz[h] / total
    return vms


@kernel
def _predict(p: ClusterParams, w: PlanMemory, h: int, v: int, comes: bool) -> Any:
    """Weighted work that a host's VMs lose to remote memory, MHz; ``w`` is left as it was.

    Args:
        w: The plan.
        h: Host.
        v: A VM that is counted there (``comes``) or not, wherever it is; -1 = all as they are.
        comes: Whether it is; it must not be on the host in the plan then.
    """
    model: Any = w  # it has the fields of the model's records
    vms = _list_vms(p, w, h, v, comes)
    vcpus, used, nodes = w.node_vcpus[h].copy(), w.node_used_mib[h].copy(), w.vm_nodes[vms]
    fits = True
    if v >= 0 and comes:
        mask = choose_nodes(p, model, v, h)
        fits = mask != 0
        w.vm_nodes[v] = mask
        add_to_nodes(p, model, v, h, mask, 1.0)
    elif v >= 0:
        add_to_nodes(p, model, v, h, w.vm_nodes[v], -1.0)
    if p.numa_moves > 0:
        rebalance_host(p, model, vms, w.vm_given_mhz, h, 0.0, p.numa_moves)
    for u in vms:
        w.vm_pages_end_s[u] = -np.inf
    apply_numa_host(p, model, vms, w.vm_given_mhz, h, 0.0)
    loss = 0.0 if fits else np.inf
    for i in range(vms.shape[0]):
        u = vms[i]
        loss += p.vm_weight[u] * w.vm_given_mhz[u] * (1.0 - 1.0 / w.vm_numa_slowdown[u])
        w.vm_nodes[u] = nodes[i]
    w.node_vcpus[h, :] = vcpus
    w.node_used_mib[h, :] = used
    return loss


@kernel
def _nothing_lost(p: ClusterParams, w: PlanMemory, h: int) -> Any:
    return 0.0


@kernel
def _host_loss(p: ClusterParams, w: PlanMemory, h: int) -> Any:
    if not p.has_numa:
        return 0.0
    if w.node_loss[h] == UNKNOWN:
        w.node_loss[h] = _predict(p, w, h, -1, False)
    return w.node_loss[h]


host_loss = by_model(_nothing_lost, _host_loss)
"""``host_loss(p, w, h)``: weighted work that the VMs of a host lose to remote memory in the plan, MHz."""


@kernel
def _freed_loss(p: ClusterParams, w: PlanMemory, v: int) -> Any:
    if not p.has_numa or w.node_at[v] < 0:
        return 0.0
    h = w.node_at[v]
    return _host_loss(p, w, h) - _predict(p, w, h, v, False)


@kernel
def _none_freed(p: ClusterParams, w: PlanMemory, v: int) -> Any:
    return 0.0


freed_loss = by_model(_none_freed, _freed_loss)
"""``freed_loss(p, w, v)``: what of it is saved where a VM is in the plan if it goes away, MHz."""


@kernel
def _coming_loss(p: ClusterParams, w: PlanMemory, v: int, h: int) -> Any:
    if not p.has_numa or w.node_at[v] == h:
        return 0.0
    more = _predict(p, w, h, v, True) - _host_loss(p, w, h)
    return more - _freed_loss(p, w, v) if more > LEAST_MHZ else more


@kernel
def _comes_free(p: ClusterParams, w: PlanMemory, v: int, h: int) -> Any:
    return 0.0


coming_loss = by_model(_comes_free, _coming_loss)
"""``coming_loss(p, w, v, h)``: weighted work that remote memory takes more if a VM goes to a host, MHz, less
what it saves where the VM is, if that is asked for; infinite where no node has room."""


@kernel
def fits_nodes(p: ClusterParams, w: PlanMemory, v: int, h: int) -> Any:
    """Whether a VM may go to a host without losing more work to remote memory than where it is."""
    return coming_loss(p, w, v, h) <= LEAST_MHZ


@kernel
def _losses_with(p: ClusterParams, s: ClusterState, w: PlanMemory, v: int, losses: F8) -> None:
    begin_room(s, w)
    begin_nodes(p, s, w, np.maximum(s.vm_demand_mhz, s.vm_claim_mhz))
    for h in range(losses.shape[0]):
        losses[h] = coming_loss(p, w, v, h)


class Nodes:
    """The same for who plans in Python.

    Args:
        view: A cluster with NUMA.
    """

    def __init__(self, view: ClusterView) -> None:
        known = {"first": np.zeros(0, dtype=np.int32)}
        memory = allocate_memory(PlanMemory, view.state, ("home",), {}, known)
        self._memory: Any = make_handle("nodes", memory)

    def losses(self, sim: Simulator, v: int) -> F8:
        """Work that remote memory takes more on every host with a VM, by the demand of now, MHz, (H,).

        Args:
            sim: The cluster, or a what-if copy.
            v: VM that waits for a host, or moves.
        """
        losses = np.empty(sim.view.n_hosts)
        _losses_with(sim.kernel_params, sim.kernel_state, self._memory, v, losses)
        return losses
