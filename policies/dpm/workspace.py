"""Memory of the DPM kernels: arrays, allocated when an episode starts.

H hosts, V VMs, N NUMA nodes, A affinity groups, G anti-affinity groups, R sets of hosts that rules name.
"""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import F8, I1, I4, I8
from virtgym.envs.jit.records import Place, Record
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.memory import allocate_memory
from ..planning.power import idle_watts
from ..planning.rules import RuleMemory, rule_arrays


class DpmRules(Record):
    """The rules of a plan."""

    risk = Place("standard deviations added to the expected load of a host")
    overload = Place("share of its CPU above which a host is relieved")
    relief = Place("share down to which it is relieved")
    fill_share = Place("share of its CPU that a destination may be asked for now")
    high = Place("share of its CPU that a destination may be expected to be asked for")
    low = Place("share below which a host is emptied")
    settle_s = Place("time in which a VM does not return, s")
    min_on_s = Place("time that a host stays on, s")
    min_off_s = Place("time that a host stays off, s")
    horizon_s = Place("time over which an empty host saves energy, s")
    move_cost = Place("weight of the energy of migrations")
    max_moves = Place("most migrations of a plan")
    max_emptied = Place("most hosts emptied by a plan")


class DpmTally(Record):
    """What a plan holds so far."""

    number = np.int64
    moves = Place("migrations")
    on = Place("hosts in ``out_on``")
    candidates = Place("hosts in ``cand``")
    evacuated = Place("hosts that are emptied")


FOR_FAILOVER, KEPT_OFF = 1, 2
"""Values of ``DpmWork.closed``: dedicated failover hosts, which are booted for restarts and for the guarantee
only; hosts in maintenance, which nobody boots."""


class DpmWork(RuleMemory):
    """What the policy tells the kernels, the plan under construction, and scratch."""

    rules: DpmRules
    tally: DpmTally
    rank: I4  # (H,) hosts in the order in which they are to be switched on
    vm_now: F8  # (V,) demand measured now, MHz
    vm_soon: F8  # (V,) demand when a host that is switched on now can take load, at least that of now, MHz
    vm_mean: F8  # (V,) demand expected until the next plan, MHz
    vm_var: F8  # (V,) variance around it, MHz^2
    vm_peak: F8  # (V,) most that the VM may come to ask for and the fastest cores can give, MHz
    host_on_s: F8  # (H,) when the host last came on, s; -inf = before the episode
    host_off_s: F8  # (H,) when it was last switched off, s; -inf = never
    closed: I1  # (H,) takes no VM and is not switched: FOR_FAILOVER or KEPT_OFF; 0 = open
    held: I1  # (H,) 1: is not emptied
    dest: I4  # (V,) host that the plan moves the VM to, -1 = it stays
    base: I4  # (V,) ``dest`` before a target is followed
    n_out: I8  # (H,) of these, VMs that the plan moves away
    received: I8  # (H,) VMs that the plan brings
    accepts: I1  # (H,) 1: takes VMs
    opened: I1  # (H,) 1: the plan switches it on
    now: F8  # (H,) sums over the VMs at home in the plan, MHz
    soon: F8  # (H,)
    mean: F8  # (H,)
    var: F8  # (H,) MHz^2
    mem: F8  # (H,) memory needed, MiB (``PlanMemory.vm_need_mib``)
    first: I4  # (H + 1,) start of each host's VMs in ``vm_of``
    cand: I4  # (H,) hosts that may receive a VM
    order: I4  # (max(H, V),) what is being sorted
    order2: I4  # (max(H, V),)
    hosts: I4  # (H,) hosts to work through
    key: F8  # (max(H, V),) sort keys
    out_on: I4  # (H,) hosts to switch on


def allocate_work(p: ClusterParams, state: ClusterState, rules: Rules) -> DpmWork:
    """Make the memory for a cluster: zeroed, with the order of switching on filled in.

    Hosts are switched on by idle power per MHz, the thriftiest first.

    Args:
        state: Its state, for the shape of the room of hosts.
        rules: Its placement rules.
    """
    n_hosts, n_vms = len(p.host_type), len(p.vm_vcpus)
    per_vm = "vm_now", "vm_soon", "vm_mean", "vm_var", "vm_peak", "home", "dest", "base", "vm_of"
    big = max(n_hosts, n_vms)
    shapes = {"first": n_hosts + 1, "order": big, "order2": big, "key": big}
    known = rule_arrays(rules, n_vms, n_hosts)
    known["rank"] = np.argsort(idle_watts(p) / p.host_cpu_mhz, kind="stable").astype(np.int32)
    work = allocate_memory(DpmWork, state, per_vm, shapes, known)
    work.host_on_s[:] = -np.inf
    work.host_off_s[:] = -np.inf
    return work
