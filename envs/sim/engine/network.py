"""The NICs inside the simulator: who gets what of them when a flow begins, ends or changes (docs §5, §6).

Flows are the traffic of VMs (one end), copies of memory and the logs of mirrored VMs (two ends). Rates are
max-min fair (``fair_share``); NICs are full-duplex, so every host has one link to send and one to receive.
When something happens on some hosts, only flows that a chain of copies and logs joins to them can change;
only these are worked out again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8, I1, I4
from ...jit.kernels import kernel
from ..models.fair_share import max_min_rates
from ..models.precopy import INIT, MBIT_PER_MIB, PULL, RESUME, advance_copy, next_event
from ..state.accumulators import FRESH, PIECES_FRESH
from ..state.cluster_state import MIG_COPYING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold
from .events import find_next_copy, set_copy_end
from .prefetch import fetch_host
from .rates import rate_host, vm_stopped, work_memory

NET_OUT, NET_IN, COPY, LOG = 0, 1, 2, 3

EVERYWHERE = 3
"""Argument of ``renew_rates``: rates may have to be worked out on more than the two hosts."""


@kernel
def look_at_copy(p: ClusterParams, s: ClusterState, v: int, rate_mib_s: float, now_s: float) -> None:
    """Bring a copy up to now, give it a new rate and find when its phase ends."""
    dirty = s.vm_dirty_mib_s[v]
    if rate_mib_s == s.copy_rate_mib_s[v] and dirty == s.copy_dirtying_mib_s[v]:
        return  # nothing changed: looking more often must not change a bit
    advance_copy(s, v, s.copy_rate_mib_s[v], s.copy_dirtying_mib_s[v], now_s - s.copy_since_s[v])
    s.copy_since_s[v] = now_s
    s.copy_rate_mib_s[v] = rate_mib_s
    s.copy_dirtying_mib_s[v] = dirty
    set_copy_end(s, v, now_s + next_event(s, v, rate_mib_s))


@kernel
def _ends(s: ClusterState, v: int) -> Any:
    """Sending and receiving host of a copy; after post-copy's handover the old host sends on."""
    if s.copy_phase[v] == PULL:
        return s.vm_dest[v], s.vm_host[v]
    return s.vm_host[v], s.vm_dest[v]


@kernel
def _sends(s: ClusterState, v: int) -> bool:
    return bool(s.copy_phase[v] != INIT and s.copy_phase[v] != RESUME)


@kernel
def _logs(p: ClusterParams, s: ClusterState, v: int) -> bool:
    return bool(s.vm_secondary[v] >= 0 and s.vm_host[v] >= 0 and not vm_stopped(p, s, v))


@kernel
def _meet(s: ClusterState, hosts: I4, n: int, h: int) -> int:
    """Put a host on the list, unless it is there; returns the length of the list."""
    if s.host_mark[h] == 0:
        hosts[n] = h
        n += 1
        s.host_mark[h] = n
    return n


@kernel
def _neighbours(p: ClusterParams, s: ClusterState, h: int, hosts: I4, n: int) -> Any:
    """Put hosts that copies and logs join to a host on the list; returns its length and their number."""
    flows = 0
    for incoming in range(2):
        v = s.host_in_head[h] if incoming else s.host_head[h]
        while v >= 0:
            if p.has_precopy and s.vm_mig[v] == MIG_COPYING and _sends(s, v):
                n = _meet(s, hosts, n, s.vm_host[v] if incoming else s.vm_dest[v])
                flows += 1
            if p.has_standby and not incoming and _logs(p, s, v):
                n = _meet(s, hosts, n, s.vm_secondary[v])
                flows += 1
            v = s.vm_in_next[v] if incoming else s.vm_next[v]
    if p.has_standby and s.host_mirrors[h] > 0:
        for v in p.protected_vms:
            if s.vm_secondary[v] == h and _logs(p, s, v):
                n = _meet(s, hosts, n, s.vm_host[v])
                flows += 1
    return n, flows


@kernel
def _ask_of_vm(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """What a VM would send and receive, Mbit/s."""
    return (0.0, 0.0) if vm_stopped(p, s, v) else (s.vm_net_out_ask[v], s.vm_net_in_ask[v])


@kernel
def _ask_of_host(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """What the VMs of a host would send and receive, Mbit/s, and how many flows they may have."""
    out, into = 0.0, 0.0
    v = s.host_head[h]
    while v >= 0:
        a, b = _ask_of_vm(p, s, v)
        out += a
        into += b
        v = s.vm_next[v]
    return out, into, 2 * s.host_n_vms[h]


@kernel
def _set(s: ClusterState, rates: F8, v: int, mbps: float) -> bool:
    """Set a VM's rate; whether it was another one."""
    changed = rates[v] != mbps
    if changed:
        hold(s, v, 1.0)
        rates[v] = mbps
        hold(s, v, -1.0)
    return bool(changed)


@kernel
def _let_through(p: ClusterParams, s: ClusterState, h: int) -> bool:
    """Give every VM of a host what it asks for; whether something changed."""
    changed = False
    v = s.host_head[h]
    while v >= 0:
        out, into = _ask_of_vm(p, s, v)
        changed |= _set(s, s.vm_net_out_mbps, v, out)
        changed |= _set(s, s.vm_net_in_mbps, v, into)
        v = s.vm_next[v]
    return bool(changed)


@kernel
def _collect(
    p: ClusterParams,
    s: ClusterState,
    hosts: I4,
    place: I4,
    first: I4,
    second: I4,
    cap: F8,
    who: I4,
    again: I1,
) -> int:
    """Write down the flows of the hosts that have a place; returns their number."""
    n = 0
    for i in range(hosts.shape[0]):
        if place[i] < 0:
            continue
        out, into = 2 * place[i], 2 * place[i] + 1
        v = s.host_head[hosts[i]]
        while v >= 0:
            if p.has_precopy and s.vm_mig[v] == MIG_COPYING and _sends(s, v):
                a, b = _ends(s, v)
                first[n], second[n] = 2 * place[s.host_mark[a] - 1], 2 * place[s.host_mark[b] - 1] + 1
                cap[n], who[n, 0], who[n, 1] = p.copy_max_mbps, COPY, v
                n += 1
            if p.has_standby and _logs(p, s, v):
                first[n], second[n] = out, 2 * place[s.host_mark[s.vm_secondary[v]] - 1] + 1
                cap[n], who[n, 0], who[n, 1] = s.vm_mirror_need_mbps[v], LOG, v
                n += 1
            if p.has_io:
                asks_out, asks_in = _ask_of_vm(p, s, v)
                if asks_out > 0.0:
                    first[n], second[n] = out, -1
                    cap[n], who[n, 0], who[n, 1] = asks_out, NET_OUT, v
                    n += 1
                elif _set(s, s.vm_net_out_mbps, v, 0.0):
                    again[i] = 1
                if asks_in > 0.0:
                    first[n], second[n] = into, -1
                    cap[n], who[n, 0], who[n, 1] = asks_in, NET_IN, v
                    n += 1
                elif _set(s, s.vm_net_in_mbps, v, 0.0):
                    again[i] = 1
            v = s.vm_next[v]
    return n


@kernel
def _hand_out(p: ClusterParams, s: ClusterState, who: I4, rate: F8, n: int, again: I1) -> None:
    """Give the flows their rates; ``again`` notes the hosts on which a VM gets another one."""
    for f in range(n):
        kind, v = who[f, 0], who[f, 1]
        changed = False
        if kind == COPY:
            look_at_copy(p, s, v, rate[f] / MBIT_PER_MIB, s.clock.event_s)
        elif kind == LOG:
            changed = _set(s, s.vm_mirror_mbps, v, rate[f])
        elif kind == NET_OUT:
            changed = _set(s, s.vm_net_out_mbps, v, rate[f])
        else:
            changed = _set(s, s.vm_net_in_mbps, v, rate[f])
        if changed:
            again[s.host_mark[s.vm_host[v]] - 1] = 1


@kernel
def share_network(p: ClusterParams, s: ClusterState, hosts: I4, n: int, again: I1) -> int:
    """Work out the network's rates again on some hosts, and on all that these can affect.

    Args:
        s: State; ``clock.event_s`` is now. ``host_mark`` is the place on the list plus one, and 0 elsewhere.
        hosts: List of hosts on which something changed, shape (H,); those that they affect are added.
        n: Length of the list.
        again: Written: 1 for the hosts of the list on which the rate of a VM changed, shape (H,).

    Returns:
        Length of the list now; the caller unmarks the hosts.
    """
    place = np.empty(s.host_head.shape[0], dtype=np.int32)
    flows, n_places, i = 0, 0, 0
    while i < n:
        h = hosts[i]
        n, pairs = _neighbours(p, s, h, hosts, n)
        out, into, own = _ask_of_host(p, s, h) if p.has_io else (0.0, 0.0, 0)
        # Alone on a NIC that is wide enough, everybody has what it asks for.
        place[i], again[i] = -1, 0
        if pairs > 0 or out > p.host_nic_mbps[h] or into > p.host_nic_mbps[h]:
            place[i] = n_places
            n_places += 1
            flows += own + pairs
        elif p.has_io:
            again[i] = _let_through(p, s, h)
        i += 1
    if n_places == 0:
        return n
    capacity = np.empty(2 * n_places)
    for i in range(n):
        if place[i] >= 0:  # two links: it sends on the first
            capacity[2 * place[i]] = p.host_nic_mbps[hosts[i]]
            capacity[2 * place[i] + 1] = p.host_nic_mbps[hosts[i]]
    first, second = np.empty(flows, dtype=np.int32), np.empty(flows, dtype=np.int32)
    cap, who = np.empty(flows), np.empty((flows, 2), dtype=np.int32)
    n_flows = _collect(p, s, hosts[:n], place, first, second, cap, who, again)
    rate = np.empty(n_flows)
    max_min_rates(first[:n_flows], second[:n_flows], cap[:n_flows], capacity, rate)
    _hand_out(p, s, who, rate, n_flows, again)
    return n


@kernel
def share_everything(p: ClusterParams, s: ClusterState, again: I1) -> None:
    """``share_network`` for all hosts, in their order."""
    n = s.host_head.shape[0]
    hosts = np.empty(n, dtype=np.int32)
    for h in range(n):
        _meet(s, hosts, h, h)
    share_network(p, s, hosts, n, again)
    s.host_mark[:] = 0


@kernel
def renew_rates(p: ClusterParams, s: ClusterState, a: int, b: int, changed: int, elapsed_s: float) -> None:
    """Work out rates again after something happened on one or two hosts.

    Args:
        s: State; ``clock.event_s`` is now.
        a: Host.
        b: Another host, -1 = none.
        changed: On how many of the two, ``a`` first, something else may have changed than flows of the
            network; ``EVERYWHERE``: wherever these flows lead, too. On the others, rates are worked out again
            only where a VM gets another share of the network.
        elapsed_s: Time since the segment began, s.
    """
    if s.counters.fresh == FRESH:
        s.counters.fresh = PIECES_FRESH
    hosts = np.empty(s.host_head.shape[0], dtype=np.int32)
    again = np.empty(s.host_head.shape[0], dtype=np.int8)
    n = _meet(s, hosts, 0, a)
    if b >= 0:
        n = _meet(s, hosts, n, b)
    for i in range(n):
        again[i] = 0
        if i < changed:
            fetch_host(p, s, hosts[i])
    if p.has_io or p.has_precopy or p.has_standby:
        n = share_network(p, s, hosts, n, again)
    if p.has_precopy:
        find_next_copy(s)
    for i in range(n):
        s.host_mark[hosts[i]] = 0
    if changed == EVERYWHERE and (p.has_io or p.has_standby):  # elsewhere only copies have other rates
        changed = n
    own, work = work_memory(s)
    for i in range(n):
        if i < changed or again[i]:
            rate_host(p, s, hosts[i], elapsed_s, own, work)
