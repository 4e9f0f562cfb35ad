"""One consolidation round in one kernel call: record, detect, drain, place, evacuate, switch off.

The algorithm is that of Beloglazov & Buyya (CCPE 24(13), 2012), without what their published implementation
does unsaid (docs/policies.md): no VM is dropped or moved twice in a round, power is predicted from the plan
as it stands, an empty host costs its idle power (and its boot), memory follows the scenario's rule.

A VM's *home* is the host where it runs, or where its migration or boot under way will bring it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import F8, I4
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.engine.orders import holds_secondary
from virtgym.envs.sim.guarantee import home_of
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING, ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.positions import group_by_home
from ..planning.room import begin_room, hold_room
from .detectors import overloaded_history
from .parts import ADDITIVE
from .placers import (
    CLOSED,
    add_load,
    collect_candidates,
    drop_candidate,
    find_candidate,
    find_opener,
    open_candidate,
    set_load,
)
from .selectors import select_vm, write_keys
from .workspace import Workspace

BOUND_SLACK = 1e-6
"""Rounding of a difference against that of a sum, MHz: a bound may be loose, never tight."""


@kernel
def _record(s: ClusterState, w: Workspace) -> None:
    """Append the demand measured now to every VM's history."""
    depth = w.hist.shape[1] // 2
    at = w.tally.samples_taken % depth
    w.tally.samples_taken += 1
    for v in range(s.vm_state.shape[0]):
        if s.vm_state[v] == RUNNING or s.vm_state[v] == PENDING:
            demand = s.vm_demand_mhz[v]
            w.hist[v, at] = demand
            w.hist[v, at + depth] = demand
            if w.samples[v] < depth:
                w.samples[v] += 1


@kernel
def _find_homes(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """Home and signal of every VM; sums over every host, in the order of VM indices."""
    n_taps = w.taps.shape[0]
    depth = w.hist.shape[1] // 2
    start = w.tally.samples_taken % depth + depth - n_taps
    young_gain = w.rules.young_gain
    w.ask[:] = 0.0
    w.sig[:] = 0.0
    w.n_out[:] = 0
    w.received[:] = 0
    w.h_samples[:] = w.options.window
    w.tally.waiting = 0
    for v in range(s.vm_state.shape[0]):
        w.moved[v] = 0
        w.home[v] = -1
        if s.vm_state[v] not in (RUNNING, PENDING, STARTING):
            continue
        h = home_of(s, v)
        demand = s.vm_demand_mhz[v]
        signal = demand
        if n_taps > 1:
            if w.samples[v] < n_taps:
                signal = demand * young_gain
            else:
                signal = 0.0
                for i in range(n_taps):
                    signal += w.taps[i] * w.hist[v, start + i]
        w.signal[v] = signal
        w.home[v] = h
        if h < 0:
            w.tally.waiting += 1
            continue
        w.ask[h] += min(demand, p.vm_vcpus[v] * p.host_core_mhz[h])
        w.sig[h] += signal
        w.h_samples[h] = min(w.h_samples[h], w.samples[v])


@kernel
def _sum_history(w: Workspace, vms: I4, m: int, row: F8) -> Any:
    """Write the summed history of the VMs that have not been drained; returns the samples that all have."""
    depth = row.shape[0]
    start = w.tally.samples_taken % depth
    n = w.options.window
    row[:] = 0.0
    for i in range(m):
        v = vms[i]
        if w.moved[v]:
            continue
        n = min(n, w.samples[v])
        for k in range(depth):
            row[k] += w.hist[v, start + k]
    return n


@kernel
def _overloaded(p: ClusterParams, w: Workspace, h: int, sig: float, row: F8, n: int) -> Any:
    """Whether a host with a signal (and a history of n samples, where that is read) is overloaded."""
    if w.options.kind == ADDITIVE:
        return sig > w.limit[h]
    capacity = p.host_cpu_mhz[h]
    if n < w.options.min_samples:
        return sig > w.rules.fallback * capacity
    return overloaded_history(
        w.options.kind,
        row[row.shape[0] - n :],
        n,
        sig,
        capacity,
        w.rules.safety,
        w.tricube,
        w.options.horizon,
        w.scratch,
    )


@kernel
def _detect(p: ClusterParams, w: Workspace) -> None:
    """Mark the overloaded hosts."""
    additive = w.options.kind == ADDITIVE
    for h in range(w.n_home.shape[0]):
        row = w.rows[0] if additive else w.rows[h]
        w.over[h] = 0
        if w.n_home[h] == 0:
            if not additive:
                row[:] = 0.0
            continue
        if not additive:
            _sum_history(w, w.vm_of[w.first[h] :], w.n_home[h], row)
        w.over[h] = _overloaded(p, w, h, w.sig[h], row, w.h_samples[h])


@kernel
def _drain(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """Select VMs of every overloaded host until it is not overloaded any more."""
    for h in range(w.n_home.shape[0]):
        if w.over[h]:
            _drain_host(p, s, w, h)


@kernel
def _drain_host(p: ClusterParams, s: ClusterState, w: Workspace, h: int) -> None:
    additive = w.options.kind == ADDITIVE
    row = w.rows[0] if additive else w.rows[h]
    vms = w.vm_of[w.first[h] :]
    m = w.n_home[h]
    write_keys(p, s, w, vms, m)
    sig = w.sig[h]
    n: Any = np.int64(0)
    while True:
        v = select_vm(p, s, w, vms, m)
        if v < 0:
            break
        w.moved[v] = 1
        sig -= w.signal[v]
        if not additive:
            n = _sum_history(w, vms, m, row)
        if not _overloaded(p, w, h, sig, row, n):
            break


@kernel
def _order_move(w: Workspace, v: int, c: int) -> None:
    w.moved[v] = 1
    w.n_out[w.home[v]] += 1
    w.received[w.c_host[c]] += 1
    w.out_vm[w.tally.moves] = v
    w.out_host[w.tally.moves] = w.c_host[c]
    w.tally.moves += 1


@kernel
def _place_drained(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """Place the drained VMs, largest demand first; one that fits nowhere stays where it is."""
    n: Any = np.int64(0)
    for v in range(w.moved.shape[0]):
        if w.moved[v]:
            w.order[n] = v
            w.key[v] = -s.vm_demand_mhz[v]
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)  # stable: ties of demand go to the lowest index
    for i in range(n):
        if w.tally.moves >= w.options.max_moves:
            break
        v = w.order[i]
        c, cost = find_candidate(p, s, w, v)
        slot, open_cost = find_opener(p, s, w, v)
        if slot >= 0 and (
            c < 0 or open_cost < cost or (open_cost == cost and w.open_host[slot] < w.c_host[c])
        ):
            c = open_candidate(p, s, w, slot)
        if c >= 0:
            add_load(p, s, w, v, c)
            _order_move(w, v, c)


@kernel
def _list_underloaded(s: ClusterState, w: Workspace) -> Any:
    """Write the hosts to try to evacuate to ``w.order``, least utilised first; returns their number."""
    n: Any = np.int64(0)
    for h in range(w.n_home.shape[0]):
        settled = s.host_power_state[h] == ON and s.host_n_in[h] == 0 and s.host_n_vms[h] == w.n_home[h]
        if not settled or w.n_home[h] == 0 or w.over[h] or w.received[h] or s.host_drain[h]:
            continue
        points = w.ask[h] * w.load_scale[h]
        if points < w.rules.underload * (w.slope_w.shape[1] - 1):
            w.key[h] = points
            w.order[n] = h
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    return n


@kernel
def _evacuate_host(p: ClusterParams, s: ClusterState, w: Workspace, h: int, vms: I4, n: int) -> Any:
    """Plan to move every VM of a host to other active hosts: all of them, or nothing is changed."""
    own = w.c_of[h]
    cap = w.c_cap[own]
    w.c_cap[own] = CLOSED
    increase = 0.0
    done: Any = np.int64(0)  # not a literal, for which callees would be compiled once more
    while done < n:
        c, _ = find_candidate(p, s, w, vms[done])
        if c < 0:
            break
        _save(w, done, c)
        power = w.c_pow[c]
        add_load(p, s, w, vms[done], c)
        increase += w.c_pow[c] - power
        done += 1
    if done == n and not (w.options.saving and increase >= w.c_pow[own]):
        for i in range(n):
            _order_move(w, vms[i], w.j_cand[i])
        drop_candidate(w, own)
        return True
    while done > 0:
        done -= 1
        _restore(p, w, done, vms[done])
    w.c_cap[own] = cap
    return False


@kernel
def _bound_rooms(w: Workspace) -> None:
    """Find the two largest rooms that candidates have, for each class of VMs.

    Loads of a failed evacuation are taken back and other evacuations only add load, so the bounds hold until
    they are found anew.
    """
    n_classes = w.class_mem.shape[0]
    w.b_sig[:] = -np.inf
    w.b_cap[:] = -np.inf
    for c in range(w.tally.candidates):
        sig = w.c_lim[c] - w.c_sig[c]
        cap = w.c_cap[c] - w.c_ask[c]
        for k in range(n_classes):
            if w.c_mem[c] < w.class_mem[k]:
                break
            if sig > w.b_sig[k, 0]:
                w.b_sig[k, 1] = w.b_sig[k, 0]
                w.b_sig[k, 0] = sig
                w.b_sig_host[k] = w.c_host[c]
            elif sig > w.b_sig[k, 1]:
                w.b_sig[k, 1] = sig
            if cap > w.b_cap[k, 0]:
                w.b_cap[k, 1] = w.b_cap[k, 0]
                w.b_cap[k, 0] = cap
                w.b_cap_host[k] = w.c_host[c]
            elif cap > w.b_cap[k, 1]:
                w.b_cap[k, 1] = cap


@kernel
def _is_hopeless(s: ClusterState, w: Workspace, h: int, n: int) -> Any:
    """Whether some VM of a host surely fits on no other candidate."""
    for i in range(w.first[h], w.first[h] + n):
        v = w.vm_of[i]
        k = w.vm_class[v]
        sig = w.b_sig[k, 1 if w.b_sig_host[k] == h else 0]
        cap = w.b_cap[k, 1 if w.b_cap_host[k] == h else 0]
        if w.signal[v] > sig + BOUND_SLACK or s.vm_demand_mhz[v] > cap + BOUND_SLACK:
            return True
    return False


@kernel
def _save(w: Workspace, i: int, c: int) -> None:
    h = w.c_host[c]
    w.j_cand[i] = c
    w.j_ask[i] = w.c_ask[c]
    w.j_sig[i] = w.c_sig[c]
    w.j_mem[i] = w.c_mem[c]
    w.j_samples[i] = w.h_samples[h]
    if w.options.kind != ADDITIVE:
        w.j_rows[i] = w.rows[h]


@kernel
def _restore(p: ClusterParams, w: Workspace, i: int, v: int) -> None:
    c = w.j_cand[i]
    h = w.c_host[c]
    hold_room(p, w, v, h, -1.0)
    set_load(p, w, c, w.j_ask[i])
    w.c_sig[c] = w.j_sig[i]
    w.c_mem[c] = w.j_mem[i]
    w.h_samples[h] = w.j_samples[i]
    if w.options.kind != ADDITIVE:
        w.rows[h] = w.j_rows[i]


@kernel
def _evacuate(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """Try to empty the hosts that are not overloaded, least utilised first."""
    n_hosts = _list_underloaded(s, w)
    _bound_rooms(w)
    hosts = w.order3  # as many as there are hosts with VMs, so never more than VMs
    for i in range(n_hosts):
        hosts[i] = w.order[i]
    for i in range(n_hosts):
        h = hosts[i]
        n = w.n_home[h]
        if w.received[h] or w.tally.moves + n > w.options.max_moves:
            continue
        if _is_hopeless(s, w, h, n):
            continue
        for k in range(n):
            v = w.vm_of[w.first[h] + k]
            w.order[k] = v
            w.key[v] = -s.vm_demand_mhz[v]
        sort_ascending(w.order, w.key, n, w.order2)
        if _evacuate_host(p, s, w, h, w.order, n):
            _bound_rooms(w)


@kernel
def _list_switch_off(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """List the running hosts that are empty, or will be when everything that leaves has left."""
    if w.tally.waiting > 0:
        return
    for h in range(w.n_home.shape[0]):
        if s.host_power_state[h] != ON or s.host_drain[h] or s.host_n_in[h] > 0 or w.received[h] > 0:
            continue
        if holds_secondary(p, s, h) != 0:
            continue
        if w.n_home[h] - w.n_out[h] == 0:
            w.out_off[w.tally.off] = h
            w.tally.off += 1


@kernel
def plan_round(p: ClusterParams, s: ClusterState, w: Workspace, record: bool) -> None:
    """Plan one interval.

    Args:
        s: State of the cluster (read-only handle).
        w: Workspace (handle); the orders stand in its ``out_*`` arrays, their numbers in ``tally``.
        record: Whether the demand measured now is a new sample.
    """
    w.tally.moves = 0
    w.tally.on = 0
    w.tally.off = 0
    w.tally.candidates = 0
    if record:
        _record(s, w)
    _find_homes(p, s, w)
    group_by_home(w)
    begin_room(s, w)
    _detect(p, w)
    _drain(p, s, w)
    collect_candidates(p, s, w)
    _place_drained(p, s, w)
    if w.options.evacuate:
        _evacuate(p, s, w)
    _list_switch_off(p, s, w)
