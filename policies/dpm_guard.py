"""What power management may not break: the admission guarantee, and the legality of its own orders."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.admission import AdmissionConfig, HostPool, Reservations, hosts_that_may_leave
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state import RUNNING, STARTING

__all__ = ["host_pool", "keep_guarantee", "legal_part", "running_reservations"]

B1 = NDArray[np.bool_]
I4 = NDArray[np.int32]


def host_pool(view: ClusterView, usable: B1) -> HostPool:
    """The hosts as admission control counts them.

    Args:
        view: The cluster.
        usable: Hosts that are on and stay on, (H,).
    """
    p = view.params
    return HostPool(p.host_cpu_mhz, p.host_mem_mib * p.mem_overcommit, usable, view.state.host_n_vms)


def running_reservations(view: ClusterView) -> Reservations:
    """Reservations of the VMs that run: memory is reserved whole where it binds."""
    p, state = view.params, view.state.vm_state
    runs = (state == RUNNING) | (state == STARTING)
    cpu = p.vm_reservation_mhz[runs] if p.has_cpu else np.zeros(int(runs.sum()))
    if p.has_tiers:
        mem = p.vm_mem_reservation_mib[runs]
    else:
        mem = p.vm_mem_mib[runs] * float(p.memory_binding)
    return Reservations(cpu, mem)


def keep_guarantee(view: ClusterView, config: AdmissionConfig, on: B1, hosts: I4) -> I4:
    """The hosts that may go off, one after the other, with the admission guarantee kept.

    Args:
        view: The cluster.
        config: Admission control.
        on: Hosts that are on, (H,).
        hosts: Hosts that are to go off, in order.
    """
    if config.rule == "none":
        return hosts
    usable, vms = on.copy(), running_reservations(view)
    chosen = []
    for h in hosts.tolist():
        if hosts_that_may_leave(config, host_pool(view, usable), vms)[h]:
            usable[h] = False
            chosen.append(h)
    return np.array(chosen, dtype=np.int32)


def legal_part(view: ClusterView, decisions: Decisions) -> Decisions:
    """What is left of a plan without the orders that the simulator would refuse.

    A copy of the simulator carries the plan out, so that what orders do to each other (nodes, reservations)
    counts exactly. Orders that it refuses change nothing, so the others stay legal without them.
    """
    if len(decisions) == 0:
        return decisions
    twin = view.fork()
    twin.strict = False
    refused = {(r.kind, r.vm, r.host) for r in twin.apply(decisions)}
    if not refused:
        return decisions
    moves = zip(decisions.move_vm.tolist(), decisions.move_host.tolist())
    keep = np.array([("move", v, h) not in refused for v, h in moves], dtype=np.bool_)
    return Decisions(
        power_on=_without(decisions.power_on, "power_on", refused),
        move_vm=decisions.move_vm[keep],
        move_host=decisions.move_host[keep],
        power_off=_without(decisions.power_off, "power_off", refused),
    )


def _without(hosts: I4, kind: str, refused: set[tuple[str, int, int]]) -> I4:
    return np.array([h for h in hosts.tolist() if (kind, -1, h) not in refused], dtype=np.int32)
