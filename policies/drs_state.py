"""The memory of the DRS kernels: one named tuple of arrays, allocated when an episode starts.

H hosts, V VMs, A affinity groups, G anti-affinity groups, R sets of hosts that rules name, N NUMA nodes.
A VM's *home* is the host where it runs, or where its migration or start under way will bring it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.rules import Rules, VmHostRule
from virtgym.envs.sim.state import ClusterParams, ClusterState

from .consolidation_model import PlacementRules

__all__ = ["DrsState", "allocate_drs", "placement_rules"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

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
    first: I8  # (H + 1,) start of each host's VMs in vm_of
    vm_of: I4  # (V,) VMs by home, ascending
    add_mib: F8  # (H,) memory of the VMs that come in this round, MiB
    add_mhz: F8  # (H,) their CPU reservations
    add_reserved_mib: F8  # (H,) their memory reservations
    add_functions: I4  # (H,) their passthrough functions
    node_vcpus: F8  # (H, N) as in the state, with them
    node_used_mib: F8  # (H, N)
    nodes: I8  # (V,) nodes that a VM would take on its new host
    aff: I4  # (V,) affinity group, -1 = none
    aff_first: I8  # (A + 1,) start of each group in aff_vm
    aff_vm: I4  # members
    anti_first: I8  # (V + 1,) start of each VM's groups in anti_of
    anti_of: I4  # anti-affinity groups of each VM
    apart_first: I8  # (G + 1,) start of each group in apart_vm
    apart_vm: I4  # members
    apart_count: I4  # (G, H) members at home
    must_row: I4  # (V,) row of host_sets, -1 = any host
    should_row: I4  # (V,)
    host_sets: I1  # (R, H) 1: belongs to the set
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


def _groups(groups: Sequence[Iterable[int]]) -> tuple[I8, I4]:
    """Start of each group, and all members in a row."""
    members = [list(group) for group in groups]
    first = np.concatenate([[0], np.cumsum([len(group) for group in members])]).astype(np.int64)
    return first, np.array([v for group in members for v in group], dtype=np.int32)


def _rows(rules: Sequence[VmHostRule], n_vms: int, sets: dict[frozenset[int], int], strict: bool) -> I4:
    """Row of every VM in the table of host sets."""
    allowed: dict[int, frozenset[int]] = {}
    for rule in rules:
        hosts = frozenset(rule.hosts)
        for v in rule.vms:
            both = allowed.get(v, hosts) & hosts
            # Wishes that contradict each other: the first one counts.
            allowed[v] = both if both or strict else allowed[v]
    row = np.full(n_vms, -1, dtype=np.int32)
    for v, hosts in allowed.items():
        row[v] = sets.setdefault(hosts, len(sets))
    return row


def _rule_arrays(rules: Rules, n_vms: int, n_hosts: int) -> dict[str, Any]:
    aff = np.full(n_vms, -1, dtype=np.int32)
    for i, group in enumerate(rules.joined):
        aff[list(group)] = i
    of: list[list[int]] = [[] for _ in range(n_vms)]
    for i, group in enumerate(rules.anti_affinity):
        for v in group:
            of[v].append(i)
    sets: dict[frozenset[int], int] = {}
    must = _rows(rules.must, n_vms, sets, True)
    should = _rows(rules.should, n_vms, sets, False)
    table = np.zeros((len(sets), n_hosts), dtype=np.int8)
    for hosts, row in sets.items():
        table[row, list(hosts)] = 1
    aff_first, aff_vm = _groups(rules.joined)
    anti_first, anti_of = _groups(of)
    apart_first, apart_vm = _groups(rules.anti_affinity)
    return {
        "aff": aff,
        "aff_first": aff_first,
        "aff_vm": aff_vm,
        "anti_first": anti_first,
        "anti_of": anti_of,
        "apart_first": apart_first,
        "apart_vm": apart_vm,
        "apart_count": np.zeros((len(rules.anti_affinity), n_hosts), dtype=np.int32),
        "must_row": must,
        "should_row": should,
        "host_sets": table,
    }


def allocate_drs(params: ClusterParams, state: ClusterState, rules: Rules) -> DrsState:
    """Make the memory of the kernels for a cluster.

    Args:
        params: Its parameters.
        state: Its state, for the shape of the NUMA tables.
        rules: Its placement rules.
    """
    n_hosts, n_vms = len(params.host_type), len(params.vm_vcpus)
    known = _rule_arrays(rules, n_vms, n_hosts)
    scratch = n_hosts + n_vms
    sizes: dict[str, tuple[Any, Any]] = {
        "rules_f": (9, np.float64),
        "rules_i": (4, np.int64),
        "tally": (5, np.int64),
        "stat": (14, np.float64),
        "first": (n_hosts + 1, np.int64),
        "node_vcpus": (state.node_vcpus.shape, np.float64),
        "node_used_mib": (state.node_used_mib.shape, np.float64),
        "emptiest": ((params.power_w.shape[0], 2), np.int32),
        "best": (2, np.int64),
        "key": (scratch, np.float64),
        "order": (scratch, np.int32),
        "order2": (scratch, np.int32),
        "nodes": (n_vms, np.int64),
    }
    per_vm_f8, per_host_f8 = {"vm_cpu", "vm_mem"}, {"load_cpu", "load_mem"}
    per_host_f8 |= {"add_mib", "add_mhz", "add_reserved_mib"}
    for name in per_vm_f8:
        sizes[name] = (n_vms, np.float64)
    for name in per_host_f8:
        sizes[name] = (n_hosts, np.float64)
    for name in ("closed", "empty", "counted", "spent"):
        sizes[name] = (n_hosts, np.int8)
    for name in ("movable", "free"):
        sizes[name] = (n_vms, np.int8)
    for name in ("n_free", "moves", "add_functions", "src", "dst"):
        sizes[name] = (n_hosts, np.int32)
    for name in ("home", "vm_of", "unit", "out_vm", "out_host"):
        sizes[name] = (n_vms, np.int32)
    arrays = {name: np.zeros(shape, dtype=dtype) for name, (shape, dtype) in sizes.items()}
    return DrsState(**arrays, **known)


def placement_rules(rules: Rules) -> PlacementRules:
    """The rules as the OR-Tools models take them; wishes (``should``) have no place there."""
    return PlacementRules(
        affinity=rules.joined,
        anti_affinity=rules.anti_affinity,
        must=tuple((rule.vms, rule.hosts) for rule in rules.must),
    )
