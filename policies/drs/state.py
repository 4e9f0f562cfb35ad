"""The memory of the DRS kernels: arrays, allocated when an episode starts.

H hosts, V VMs, A affinity groups, G anti-affinity groups, R sets of hosts that rules name, N NUMA nodes.
A VM's *home* is the host where it runs, or where its migration or start under way will bring it.
"""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import F8, I1, I4, I8
from virtgym.envs.jit.records import Place, Record
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.memory import allocate_memory
from ..planning.rules import RuleMemory, rule_arrays


class DrsRules(Record):
    """The rules of a round."""

    theta_cpu = Place("imbalance of CPU above which moves begin")
    theta_mem = Place("imbalance of memory above which moves begin")
    by_hosts_cpu = Place("whether theta_cpu is divided by the root of the number of hosts")
    by_hosts_mem = Place("the same of theta_mem")
    contention = Place("share of its CPU above which a host is relieved")
    contention_s = Place("time for which it must have been above, s")
    hysteresis = Place("share below the threshold to which moves go on")
    horizon = Place("time for which the load is expected to hold, s")
    residence = Place("time that a VM stays where it is, s")
    window = Place("time in which a VM does not return, s")
    copy_cores = Place("cores that a copy keeps busy on either end")
    idle_mem = Place("share of idle memory that counts")
    mem_counts = Place("whether memory is a resource to be balanced")


class DrsOptions(Record):
    """Limits and choices of a round."""

    number = np.int64
    max_moves = Place("most migrations")
    max_per_host = Place("most migrations from and to a host at a time")
    by = Place("order in which a host is emptied, largest first: BY_SIZE or BY_UTILISATION")
    window_hosts = Place("hosts at either end of the ranking that are looked at first")


class DrsTally(Record):
    """What a round has done so far."""

    number = np.int64
    moves = Place("migrations ordered")
    mandatory = Place("of these, for maintenance and rules")
    relief = Place("of these, off hosts under contention")
    reason = Place("why the round ended: BALANCED ... IDLE")
    scans = Place("searches over all pairs of hosts")
    ranked = Place("hosts ranked")


class DrsSums(Record):
    """Loads and imbalance."""

    on = Place("hosts counted")
    cpu = Place("sum of CPU loads")
    cpu2 = Place("sum of their squares")
    mem = Place("sum of memory loads")
    mem2 = Place("sum of their squares")
    theta_cpu = Place("imbalance of CPU above which moves begin, for the hosts counted")
    theta_mem = Place("the same of memory")
    target_cpu = Place("imbalance of CPU to be reached")
    target_mem = Place("imbalance of memory to be reached")
    mean_mhz = Place("mean capacity of a host, MHz")
    cost = Place("cost of the moves for balance, host-seconds")
    gain = Place("their gain, host-seconds")
    before_cpu = Place("imbalance of CPU before them")
    before_mem = Place("imbalance of memory before them")
    after_cpu = Place("imbalance of CPU with them")
    after_mem = Place("imbalance of memory with them")


BALANCED, LIMIT, NO_BENEFIT, SEARCHED, IDLE = range(5)
"""Values of ``tally.reason``: why the round ended. IDLE: it was not the time for balancing."""
BY_SIZE, BY_UTILISATION = 0, 1
"""Values of ``options.by``: the order in which a host is emptied, largest first."""


class DrsState(RuleMemory):
    """Everything the kernels write, the rules they follow, and their input."""

    rules: DrsRules
    options: DrsOptions
    tally: DrsTally
    stat: DrsSums
    vm_cpu: F8  # (V,) input: CPU that the VM is expected to be entitled to, MHz
    closed: I1  # (H,) input: 1 = may receive nothing and is not balanced
    empty: I1  # (H,) input: 1 = is to be emptied
    vm_mem: F8  # (V,) memory entitlement, MiB
    movable: I1  # (V,) 1: runs, does not migrate, was not moved in this round
    free: I1  # (V,) 1: and may be moved for balance
    load_cpu: F8  # (H,) MHz of the VMs at home
    load_mem: F8  # (H,) MiB
    counted: I1  # (H,) 1: on, stays on, and takes VMs
    short_since: F8  # (H,) since when the host has been under contention, s; inf = it is not
    n_free: I4  # (H,) VMs that may be moved for balance
    moves: I4  # (H,) migrations from and to it, under way and ordered
    first: I8  # (H + 1,) start of each host's VMs in vm_of
    unit: I4  # (V,) VMs that move together
    order: I4  # (V + H,) scratch
    order2: I4  # (V + H,)
    key: F8  # (V + H,)
    src: I4  # (H,) hosts by load, highest first
    dst: I4  # (H,) lowest first
    spent: I1  # (H,) 1: a source that has nothing to give to the least loaded hosts
    emptiest: I4  # (T, 2) of each host type, the destinations with the least CPU and the least memory load
    best: I8  # (2,) the best move: first VM of its unit, destination
    out_vm: I4  # (V,) moves ordered
    out_host: I4  # (V,)


def allocate_drs(params: ClusterParams, state: ClusterState, rules: Rules) -> DrsState:
    """Make the memory of the kernels for a cluster.

    Args:
        params: Its parameters.
        state: Its state, for the shape of the room of hosts.
        rules: Its placement rules.
    """
    n_hosts, n_vms = len(params.host_type), len(params.vm_vcpus)
    scratch = n_hosts + n_vms
    per_vm = "vm_cpu", "vm_mem", "home", "movable", "free", "vm_of", "unit", "out_vm", "out_host"
    shapes: dict[str, int | tuple[int, ...]] = {
        **dict.fromkeys(("order", "order2", "key"), scratch),
        **{"best": 2, "first": n_hosts + 1},
        "emptiest": (int(params.host_type.max()) + 1, 2),
    }
    work = allocate_memory(DrsState, state, per_vm, shapes, rule_arrays(rules, n_vms, n_hosts))
    work.short_since[:] = np.inf
    return work
