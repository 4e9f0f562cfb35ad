"""Memory of the DPM kernels: one named tuple of arrays, allocated when an episode starts.

H hosts, V VMs, T host types, P points of a power table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.rules import Rules
from virtgym.envs.sim.state import ClusterParams

__all__ = ["DpmWork", "allocate_work"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

(
    K_SPREAD,
    K_OVERLOAD,
    K_RELIEF,
    K_FILL,
    K_HIGH,
    K_LOW,
    K_SETTLE_S,
    K_MIN_ON_S,
    K_MIN_OFF_S,
    K_HORIZON_S,
    K_MOVE_COST,
    K_MAX_MOVES,
    K_MAX_EMPTIED,
) = range(13)
"""Indices of ``DpmWork.rules``."""
N_MOVES, N_ON, N_CAND, N_RELIEVED, N_EVACUATED = range(5)
"""Indices of ``DpmWork.tally``."""


FOR_FAILOVER, KEPT_OFF = 1, 2
"""Values of ``DpmWork.closed``: dedicated failover hosts, which are booted for restarts and for the guarantee
only; hosts in maintenance, which nobody boots."""


class DpmWork(NamedTuple):
    """What the policy tells the kernels, the plan under construction, and scratch."""

    rules: F8  # (13,) see K_*
    tally: I8  # (8,) see N_*
    slope_w: F8  # (T, P) increase of power over each interval of the table, W; last one 0
    rank: I4  # (H,) hosts in the order in which they are to be switched on
    vm_now: F8  # (V,) demand measured now, MHz
    vm_soon: F8  # (V,) demand when a host that is switched on now can take load, at least that of now, MHz
    vm_mean: F8  # (V,) demand expected until the next plan, MHz
    vm_var: F8  # (V,) variance around it, MHz^2
    vm_move_j: F8  # (V,) energy of a migration, J
    host_on_s: F8  # (H,) when the host last came on, s; -inf = before the episode
    host_off_s: F8  # (H,) when it was last switched off, s; -inf = never
    closed: I1  # (H,) takes no VM and is not switched: FOR_FAILOVER or KEPT_OFF; 0 = open
    held: I1  # (H,) 1: is not emptied
    home: I4  # (V,) host now, or after the migration or boot under way; -1 = none
    dest: I4  # (V,) host that the plan moves the VM to, -1 = it stays
    base: I4  # (V,) ``dest`` before a target is followed
    n_home: I8  # (H,) VMs at home
    n_out: I8  # (H,) of these, VMs that the plan moves away
    received: I8  # (H,) VMs that the plan brings
    accepts: I1  # (H,) 1: takes VMs
    opened: I1  # (H,) 1: the plan switches it on
    now: F8  # (H,) sums over the VMs at home in the plan, MHz
    soon: F8  # (H,)
    mean: F8  # (H,)
    var: F8  # (H,) MHz^2
    mem: F8  # (H,) memory held on the host while everything moves, MiB
    reserved: F8  # (H,) CPU reservations, likewise, MHz
    mem_reserved: F8  # (H,) memory reservations, likewise, MiB
    functions: I8  # (H,) passthrough functions, likewise
    first: I4  # (H + 1,) start of each host's VMs in ``vm_of``
    vm_of: I4  # (V,) VMs by home, ascending
    cand: I4  # (H,) hosts that may receive a VM
    order: I4  # (max(H, V),) what is being sorted
    order2: I4  # (max(H, V),)
    hosts: I4  # (H,) hosts to work through
    key: F8  # (max(H, V),) sort keys
    out_on: I4  # (H,) hosts to switch on
    group: I4  # (V,) affinity group, -1 = none
    apart_first: I4  # (V + 1,) start of each VM's part of ``apart_vm``
    apart_vm: I4  # (n,) VMs that it must not share a host with
    must_row: I4  # (V,) row of ``host_sets`` where it has to run, -1 = anywhere
    should_row: I4  # (V,) row of ``host_sets`` where it is to run if possible, -1 = anywhere
    host_sets: I1  # (S, H) 1: the host is in the set


_PER_VM = {"vm_of", "home", "dest", "base"}
_DTYPES = {
    **dict.fromkeys(("tally", "n_home", "n_out", "received", "functions"), "i8"),
    **dict.fromkeys(
        ("rank", "home", "dest", "base", "first", "vm_of", "cand", "order", "order2", "hosts", "out_on"), "i4"
    ),
    **dict.fromkeys(("closed", "held", "accepts", "opened"), "i1"),
}


def rule_arrays(rules: Rules, n_vms: int, n_hosts: int) -> dict[str, NDArray[np.generic]]:
    """Placement rules as arrays of ``DpmWork``.

    Args:
        rules: The cluster's rules.
        n_vms: V.
        n_hosts: H.
    """
    group = np.full(n_vms, -1, dtype=np.int32)
    for i, members in enumerate(rules.joined):
        group[list(members)] = i
    apart: list[set[int]] = [set() for _ in range(n_vms)]
    for members in rules.anti_affinity:
        for v in members:
            apart[v] |= set(members) - {v}
    sets: list[set[int]] = []
    rows = {"must": np.full(n_vms, -1, dtype=np.int32), "should": np.full(n_vms, -1, dtype=np.int32)}
    for name, row in rows.items():
        for rule in getattr(rules, name):
            for v in rule.vms:
                known = sets[row[v]] if row[v] >= 0 else set(range(n_hosts))
                both = known & set(rule.hosts)
                if both or name == "must":  # wishes that contradict each other: the first one counts
                    row[v] = len(sets)
                    sets.append(both)
    table = np.zeros((len(sets), n_hosts), dtype=np.int8)
    for i, hosts in enumerate(sets):
        table[i, sorted(hosts)] = 1
    return {
        "group": group,
        "apart_first": np.concatenate([[0], np.cumsum([len(a) for a in apart])]).astype(np.int32),
        "apart_vm": np.array([u for a in apart for u in sorted(a)], dtype=np.int32),
        "must_row": rows["must"],
        "should_row": rows["should"],
        "host_sets": table,
    }


def allocate_work(p: ClusterParams, rules: Rules) -> DpmWork:
    """Make the memory for a cluster: zeroed, with slopes of power and the order of switching on filled in.

    Hosts are switched on by idle power per MHz, the thriftiest first.

    Args:
        p: Parameters of the cluster.
        rules: Its placement rules.
    """
    n_hosts, n_vms = p.host_type.shape[0], p.vm_vcpus.shape[0]
    big = max(n_hosts, n_vms)
    special: dict[str, tuple[int, ...]] = {
        "rules": (13,),
        "tally": (8,),
        "first": (n_hosts + 1,),
        "order": (big,),
        "order2": (big,),
        "key": (big,),
    }
    arrays: dict[str, NDArray[np.generic]] = {}
    known = rule_arrays(rules, n_vms, n_hosts)
    for name in DpmWork._fields:
        own = (n_vms,) if name in _PER_VM or name.startswith("vm_") else (n_hosts,)
        arrays[name] = np.zeros(special.get(name, own), dtype=_DTYPES.get(name, "f8"))
    arrays["slope_w"] = np.ascontiguousarray(np.diff(p.power_w, axis=1, append=p.power_w[:, -1:]))
    arrays["host_on_s"][:] = -np.inf
    arrays["host_off_s"][:] = -np.inf
    price = p.power_w[p.host_type, 0] / p.host_cpu_mhz
    arrays["rank"] = np.argsort(price, kind="stable").astype(np.int32)
    return DpmWork(**{**arrays, **known})  # type: ignore[arg-type]
