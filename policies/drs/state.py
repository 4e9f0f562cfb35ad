"""The memory of the DRS kernels: one named tuple of arrays, allocated when an episode starts.

H hosts, V VMs, A affinity groups, G anti-affinity groups, R sets of hosts that rules name, N NUMA nodes.
A VM's *home* is the host where it runs, or where its migration or start under way will bring it.
"""

from __future__ import annotations

from typing import NamedTuple

from virtgym.envs.arrays import F8, I1, I4, I8
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning import allocate_memory
from ..planning.rules import rule_arrays

(
    F_THETA_CPU,
    F_THETA_MEM,
    F_HYSTERESIS,
    F_HORIZON,
    F_RESIDENCE,
    F_WINDOW,
    F_COPY_CORES,
    F_IDLE_MEM,
    F_MEM_COUNTS,
) = range(9)
"""Indices of ``DrsState.rules_f``: thresholds, share, s, s, s, cores, share of idle memory that counts, and
whether memory is a resource to be balanced."""
I_MAX_MOVES, I_MAX_PER_HOST, I_BY, I_WINDOW_HOSTS = range(4)
"""Indices of ``DrsState.rules_i``."""
N_MOVES, N_MANDATORY, REASON, SCANS, RANKED = range(5)
"""Indices of ``DrsState.tally``."""
(
    S_ON,
    S_CPU,
    S_CPU2,
    S_MEM,
    S_MEM2,
    S_TARGET_CPU,
    S_TARGET_MEM,
    S_MEAN_MHZ,
    S_COST,
    S_GAIN,
    S_BEFORE_CPU,
    S_BEFORE_MEM,
    S_AFTER_CPU,
    S_AFTER_MEM,
) = range(14)
"""Indices of ``DrsState.stat``: hosts counted, sums of loads and of their squares, targets, mean capacity
(MHz), cost and gain of the moves for balance (host-seconds), imbalance before and after."""
BALANCED, LIMIT, NO_BENEFIT, SEARCHED, IDLE = range(5)
"""Values of ``tally[REASON]``: why the round ended. IDLE: it was not the time for balancing."""
BY_SIZE, BY_UTILISATION = 0, 1
"""Values of ``rules_i[I_BY]``: the order in which a host is emptied, largest first."""


class DrsState(NamedTuple):
    """Everything the kernels write, the rules they follow, and their input."""

    rules_f: F8  # (9,) see F_*
    rules_i: I8  # (4,) see I_*
    tally: I8  # (5,) see N_*
    stat: F8  # (14,) see S_*
    vm_cpu: F8  # (V,) input: CPU that the VM is expected to be entitled to, MHz
    closed: I1  # (H,) input: 1 = may receive nothing and is not balanced
    empty: I1  # (H,) input: 1 = is to be emptied
    vm_mem: F8  # (V,) memory entitlement, MiB
    home: I4  # (V,) host, -1 = none
    movable: I1  # (V,) 1: runs, does not migrate, was not moved in this round
    free: I1  # (V,) 1: and may be moved for balance
    load_cpu: F8  # (H,) MHz of the VMs at home
    load_mem: F8  # (H,) MiB
    counted: I1  # (H,) 1: on, stays on, and takes VMs
    n_free: I4  # (H,) VMs that may be moved for balance
    moves: I4  # (H,) migrations from and to it, under way and ordered
    n_home: I8  # (H,) VMs at home when the round began
    first: I8  # (H + 1,) start of each host's VMs in vm_of
    vm_of: I4  # (V,) VMs by home, ascending
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
        **{"rules_f": 9, "rules_i": 4, "tally": 5, "stat": 14, "best": 2, "first": n_hosts + 1},
        "emptiest": (int(params.host_type.max()) + 1, 2),
    }
    return allocate_memory(DrsState, state, per_vm, shapes, rule_arrays(rules, n_vms, n_hosts))
