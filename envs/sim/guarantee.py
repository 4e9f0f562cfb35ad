"""What orders may not break: the guarantee of failover (``models.admission``), rules (``models.rules``).

The guarantee. Counted are hosts that are on, not to be switched off and not in maintenance; and VMs that run,
that start, that wait to restart (their slot is what the guarantee is for) or for a host that boots. Who is to
have a hot standby counts twice, whether its secondary is there or not.

    a new VM is placed        slots or shares must be left for it; one that restarts is counted already
    a host leaves             switched off, suspended, in maintenance: the guarantee must hold without it
    a VM comes to a host      only dedicated failover hosts are closed; else a move changes no slot, no share

Rules. A VM counts where it runs, and where its migration or start will bring it. ``must`` and anti-affinity
close hosts (those that another VM of the group is on, or comes to, or leaves). Affinity lets a VM go where
others of its group are; a group that is together can not be moved VM by VM.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import B1, F8, I1, I4
from ..jit.kernels import kernel
from .decisions import BREAKS_AFFINITY, BREAKS_ANTI_AFFINITY, BREAKS_GUARANTEE, BREAKS_MUST, KEPT_FREE
from .models.admission import (
    SLACK,
    HostPool,
    Reservations,
    admits,
    guarantee_margin,
    write_may_leave,
)
from .models.power import ON
from .models.precopy import PULL
from .state.cluster_state import ABSENT, DEPARTED, PENDING, RUNNING, STARTING, ClusterState
from .state.parameters import ClusterParams


@kernel
def count_hosts(p: ClusterParams, s: ClusterState, dedicated: I1) -> HostPool:
    """The hosts as admission control counts them now.

    Args:
        dedicated: Hosts kept free, shape (H,).
    """
    n = s.host_power_state.shape[0]
    usable, vms = np.empty(n, dtype=np.bool_), np.empty(n, dtype=np.int32)
    for h in range(n):
        usable[h] = s.host_power_state[h] == ON and not s.host_drain[h] and not s.host_maintenance[h]
        vms[h] = s.host_n_vms[h] + s.host_n_in[h]
    return HostPool(p.host_cpu_mhz, p.host_mem_mib, usable, vms, dedicated, p.host_domains)


@kernel
def count_vms(p: ClusterParams, s: ClusterState, mhz: F8, mib: F8) -> Reservations:
    """The VMs that count now.

    Args:
        mhz: CPU with which every VM counts, shape (V,), MHz.
        mib: Memory with which it counts, shape (V,), MiB.
    """
    most = 2 * s.vm_state.shape[0]
    cpu, mem = np.empty(most), np.empty(most)
    n = 0
    for v in range(s.vm_state.shape[0]):
        state = s.vm_state[v]
        counts = state in (RUNNING, STARTING)
        if state == PENDING:
            counts = s.vm_dest[v] >= 0 or restarts(p, s, v)
        for _ in range(times_counted(p, v) if counts else 0):
            cpu[n], mem[n] = mhz[v], mib[v]
            n += 1
    return Reservations(cpu[:n], mem[:n])


@kernel
def restarts(p: ClusterParams, s: ClusterState, v: int) -> bool:
    """Whether a VM that waits has run before: its place is what the guarantee is for."""
    return bool(p.has_failures and s.vm_restart[v] > 0)


@kernel
def times_counted(p: ClusterParams, v: int) -> int:
    """How often a VM counts: twice where it is to have a hot standby."""
    return 2 if p.has_standby and p.vm_protected[v] else 1


@kernel
def margin_now(p: ClusterParams, s: ClusterState) -> float:
    """``guarantee_margin`` of the scenario's guarantee now."""
    pool = count_hosts(p, s, p.host_dedicated)
    return float(guarantee_margin(p, pool, count_vms(p, s, p.vm_counted_mhz, p.vm_counted_mib)))


@kernel
def guarantee_fails(p: ClusterParams, s: ClusterState) -> bool:
    """Whether there is a guarantee, and it fails now."""
    return bool(p.has_admission and margin_now(p, s) < -SLACK)


@kernel
def watch_guarantee(p: ClusterParams, s: ClusterState, failed: bool, since_s: float, now_s: float) -> Any:
    """Count an event that has ended the guarantee, and the time until now if it failed before.

    Args:
        failed: Whether it failed before the event.
        since_s: From when on that was not added to the total yet, s.
        now_s: Time of the event, s.

    Returns:
        Whether it fails now, and ``now_s``.
    """
    fails = guarantee_fails(p, s)
    s.totals.guarantee_lost += fails and not failed
    if failed:
        s.totals.unguarded_s += now_s - since_s
    return fails, now_s


@kernel
def blame_orders(p: ClusterParams, s: ClusterState, failed: bool) -> None:
    """Count orders that have ended the guarantee.

    Args:
        failed: Whether it failed before them.
    """
    if p.has_admission and not failed:
        s.totals.guarantee_broken += guarantee_fails(p, s)


@kernel
def write_hosts_may_leave(p: ClusterParams, s: ClusterState, may: B1) -> None:
    """Hosts of which any one may leave for all that the guarantee cares.

    Args:
        may: Written, shape (H,).
    """
    pool = count_hosts(p, s, p.host_dedicated)
    write_may_leave(p, pool, count_vms(p, s, p.vm_counted_mhz, p.vm_counted_mib), may)


@kernel
def check_leave(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether the guarantee lets a host leave: 0, or the code."""
    if not p.admission_enforced:
        return 0
    may = np.empty(s.host_power_state.shape[0], dtype=np.bool_)
    write_hosts_may_leave(p, s, may)
    return 0 if may[h] else BREAKS_GUARANTEE


@kernel
def check_admission(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """Whether the guarantee lets a waiting VM start, on whatever host: 0, or the code."""
    if not p.admission_enforced or restarts(p, s, v):
        return 0
    pool = count_hosts(p, s, p.host_dedicated)
    vms = count_vms(p, s, p.vm_counted_mhz, p.vm_counted_mib)
    fine = admits(p, pool, vms, p.vm_counted_mhz[v], p.vm_counted_mib[v], times_counted(p, v))
    return 0 if fine else BREAKS_GUARANTEE


@kernel
def check_dedicated(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether a host is not kept free from a VM: 0, or the code. Who restarts may use every host."""
    closed = p.admission_enforced and p.host_dedicated[h]
    return KEPT_FREE if closed and not (s.vm_state[v] == PENDING and restarts(p, s, v)) else 0


@kernel
def home_at(host: I4, dest: I4, phase: I1, v: int) -> Any:
    """After a post-copy handover ``dest`` is the host that the VM has left."""
    pulls = phase.shape[0] > 0 and phase[v] == PULL
    return dest[v] if dest[v] >= 0 and not pulls else host[v]


@kernel
def home_of(s: ClusterState, v: int) -> Any:
    """Host of a VM, or the one that its migration or start will bring it to; -1 = none."""
    return home_at(s.vm_host, s.vm_dest, s.copy_phase, v)


@kernel
def _lives(s: ClusterState, v: int) -> bool:
    return bool(s.vm_state[v] != ABSENT and s.vm_state[v] != DEPARTED)


@kernel
def has_rule(p: ClusterParams, v: int) -> bool:
    """Whether a rule that closes hosts names a VM."""
    if not p.has_rules:
        return False
    return bool(p.must_row[v] >= 0 or p.aff[v] >= 0 or p.anti_first[v] < p.anti_first[v + 1])


@kernel
def check_rules(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether rules let a VM go to another host by itself: 0, or the code.

    Args:
        v: VM, running or waiting.
        h: Host on which it is not.
    """
    if not has_rule(p, v):
        return 0
    if p.must_row[v] >= 0 and not p.host_sets[p.must_row[v], h]:
        return BREAKS_MUST
    for k in range(p.anti_first[v], p.anti_first[v + 1]):
        group = p.anti_of[k]
        for i in range(p.apart_first[group], p.apart_first[group + 1]):
            w = p.apart_vm[i]
            if w != v and _lives(s, w) and (s.vm_host[w] == h or s.vm_dest[w] == h):
                return BREAKS_ANTI_AFFINITY
    return 0 if p.aff[v] < 0 or _near(p, s, v, h) else BREAKS_AFFINITY


@kernel
def _near(p: ClusterParams, s: ClusterState, v: int, h: int) -> bool:
    """Whether others of a VM's affinity group are at a host; where none has one, whether all may follow."""
    somewhere, may_follow = False, True
    for i in range(p.aff_first[p.aff[v]], p.aff_first[p.aff[v] + 1]):
        w = p.aff_vm[i]
        if w == v or not _lives(s, w):
            continue
        at = home_of(s, w)
        if at == h:
            return True
        somewhere = somewhere or at >= 0
        may_follow = may_follow and (p.must_row[w] < 0 or p.host_sets[p.must_row[w], h] != 0)
    return may_follow and not somewhere
