"""The NICs inside the simulator: who gets what of them when a flow begins, ends or changes (model.md §5, §6).

Flows are the traffic of VMs (one end), copies of memory and the logs of mirrored VMs (two ends). Rates are
max-min fair (``fair_share``). When something happens on some hosts, only flows that a chain of copies and
logs joins to them can change; only these are worked out again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .fair_share import max_min_rates
from .precopy import INIT, PULL, RESUME, advance_copy, next_event
from .precopy_config import MBIT_PER_MIB
from .rates import rate_host, vm_stopped
from .state import FullParams, FullState
from .totals import C_MOVING

__all__ = ["find_next_copy", "look_at_copy", "renew_rates", "share_network"]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
B1 = NDArray[np.bool_]

NET_OUT, NET_IN, COPY, LOG = 0, 1, 2, 3


@njit(cache=True)
def find_next_copy(s: FullState) -> None:
    """Note when the next phase of a copy ends."""
    soonest = np.inf
    for i in range(s.counters[C_MOVING]):
        soonest = min(soonest, s.vm_mig_end_s[s.copy_list[i]])
    s.clock[3] = soonest


@njit(cache=True)
def look_at_copy(p: FullParams, s: FullState, v: int, rate_mib_s: float, now_s: float) -> None:
    """Bring a copy up to now, give it a new rate and find when its phase ends."""
    dirty = s.vm_dirty_mib_s[v]
    if rate_mib_s == s.copy_rate_mib_s[v] and dirty == s.copy_dirtying_mib_s[v]:
        return  # nothing changed: looking more often must not change a bit
    advance_copy(s, v, s.copy_rate_mib_s[v], s.copy_dirtying_mib_s[v], now_s - s.copy_since_s[v])
    s.copy_since_s[v] = now_s
    s.copy_rate_mib_s[v] = rate_mib_s
    s.copy_dirtying_mib_s[v] = dirty
    s.vm_mig_end_s[v] = now_s + next_event(s, v, rate_mib_s)


@njit(cache=True)
def _ends(s: FullState, v: int) -> Any:
    """Sending and receiving host of a copy; after post-copy's handover the old host sends on."""
    if s.copy_phase[v] == PULL:
        return s.vm_dest[v], s.vm_host[v]
    return s.vm_host[v], s.vm_dest[v]


@njit(cache=True)
def _sends(s: FullState, v: int) -> bool:
    return bool(s.copy_phase[v] != INIT and s.copy_phase[v] != RESUME)


@njit(cache=True)
def _logs(p: FullParams, s: FullState, v: int) -> bool:
    return bool(s.vm_secondary[v] >= 0 and s.vm_host[v] >= 0 and not vm_stopped(p, s, v))


@njit(cache=True)
def _spread(p: FullParams, s: FullState, touched: B1) -> int:
    """Touch every host that a chain of copies and logs joins to a touched one; returns the flows met."""
    n_copies = s.counters[C_MOVING] if p.has_precopy else 0
    n_logs = p.protected_vms.shape[0] if p.has_standby else 0
    grew = True
    flows = 0
    while grew:
        grew = False
        flows = 0
        for i in range(n_copies + n_logs):
            if i < n_copies:
                v = s.copy_list[i]
                a, b = s.vm_host[v], s.vm_dest[v]
                if not _sends(s, v):
                    continue
            else:
                v = p.protected_vms[i - n_copies]
                a, b = s.vm_host[v], s.vm_secondary[v]
                if not _logs(p, s, v):
                    continue
            if touched[a] != touched[b]:
                touched[a] = True
                touched[b] = True
                grew = True
            flows += touched[a]
    return flows


@njit(cache=True)
def _ask_of_host(p: FullParams, s: FullState, h: int) -> Any:
    """Give every VM of a host the traffic it asks for; returns what they send and receive, and the flows."""
    out, into, n = 0.0, 0.0, 0
    v = s.host_head[h]
    while v >= 0:
        stopped = vm_stopped(p, s, v)
        s.vm_net_out_mbps[v] = 0.0 if stopped else s.vm_net_out_ask[v]
        s.vm_net_in_mbps[v] = 0.0 if stopped else s.vm_net_in_ask[v]
        out += s.vm_net_out_mbps[v]
        into += s.vm_net_in_mbps[v]
        n += 2
        v = s.vm_next[v]
    return out, into, n


@njit(cache=True)
def _collect(p: FullParams, s: FullState, place: I4, first: I4, second: I4, cap: F8, who: I4) -> int:
    """Write down the flows of the hosts that have a place; returns their number."""
    n = 0
    n_copies = s.counters[C_MOVING] if p.has_precopy else 0
    for i in range(n_copies):
        v = s.copy_list[i]
        a, b = _ends(s, v)
        if _sends(s, v) and place[a] >= 0:
            first[n], second[n], cap[n] = 2 * place[a], 2 * place[b] + 1, p.copy_max_mbps
            who[n, 0], who[n, 1] = COPY, v
            n += 1
    for i in range(p.protected_vms.shape[0] if p.has_standby else 0):
        v = p.protected_vms[i]
        if _logs(p, s, v) and place[s.vm_host[v]] >= 0:
            first[n], second[n] = 2 * place[s.vm_host[v]], 2 * place[s.vm_secondary[v]] + 1
            cap[n] = s.vm_mirror_need_mbps[v]
            who[n, 0], who[n, 1] = LOG, v
            n += 1
    if p.has_io == 0:
        return n
    for h in range(place.shape[0]):
        if place[h] < 0:
            continue
        v = s.host_head[h]
        while v >= 0:
            if s.vm_net_out_mbps[v] > 0.0:
                first[n], second[n], cap[n] = 2 * place[h], -1, s.vm_net_out_mbps[v]
                who[n, 0], who[n, 1] = NET_OUT, v
                n += 1
            if s.vm_net_in_mbps[v] > 0.0:
                first[n], second[n], cap[n] = 2 * place[h] + 1, -1, s.vm_net_in_mbps[v]
                who[n, 0], who[n, 1] = NET_IN, v
                n += 1
            v = s.vm_next[v]
    return n


@njit(cache=True)
def _hand_out(p: FullParams, s: FullState, who: I4, rate: F8, n: int) -> None:
    for f in range(n):
        kind, v = who[f, 0], who[f, 1]
        if kind == COPY:
            look_at_copy(p, s, v, rate[f] / MBIT_PER_MIB, s.clock[2])
        elif kind == LOG:
            s.vm_mirror_mbps[v] = rate[f]
        elif kind == NET_OUT:
            s.vm_net_out_mbps[v] = rate[f]
        else:
            s.vm_net_in_mbps[v] = rate[f]


@njit(cache=True)
def share_network(p: FullParams, s: FullState, touched: B1) -> None:
    """Work out the network's rates again on some hosts, and on all that these can affect.

    Args:
        p: Parameters.
        s: State; ``clock[2]`` is now.
        touched: Hosts on which something changed, shape (H,); rewritten: all hosts looked at.
    """
    flows = _spread(p, s, touched)
    place = np.full(touched.shape[0], -1, dtype=np.int32)
    n_places = 0
    for h in range(touched.shape[0]):
        if not touched[h]:
            continue
        out, into, n = _ask_of_host(p, s, h) if p.has_io else (0.0, 0.0, 0)
        # Alone on a NIC that is wide enough, everybody has what it asks for.
        if flows > 0 or out > p.host_nic_mbps[h] or into > p.host_nic_mbps[h]:
            place[h] = n_places
            n_places += 1
            flows += n
    if n_places == 0:
        return
    capacity = np.empty(2 * n_places)
    for h in range(touched.shape[0]):
        if place[h] >= 0:
            capacity[2 * place[h]] = p.host_nic_mbps[h]
            capacity[2 * place[h] + 1] = p.host_nic_mbps[h]
    first, second = np.empty(flows, dtype=np.int32), np.empty(flows, dtype=np.int32)
    cap, who = np.empty(flows), np.empty((flows, 2), dtype=np.int32)
    n = _collect(p, s, place, first, second, cap, who)
    rate = np.empty(n)
    max_min_rates(first[:n], second[:n], cap[:n], capacity, rate)
    _hand_out(p, s, who, rate, n)


@njit(cache=True)
def renew_rates(p: FullParams, s: FullState, a: int, b: int, elapsed_s: float) -> None:
    """Work out rates again after something happened on one or two hosts.

    Args:
        p: Parameters.
        s: State; ``clock[2]`` is now.
        a: Host.
        b: Another host, -1 = none.
        elapsed_s: Time since the segment began, s.
    """
    if p.has_io == 0 and p.has_precopy == 0 and p.has_standby == 0:
        rate_host(p, s, a, elapsed_s)
        if b >= 0:
            rate_host(p, s, b, elapsed_s)
        return
    touched = np.zeros(s.host_head.shape[0], dtype=np.bool_)
    touched[a] = True
    if b >= 0:
        touched[b] = True
    share_network(p, s, touched)
    if p.has_precopy:
        find_next_copy(s)
    if p.has_io or p.has_standby:
        for h in range(touched.shape[0]):
            if touched[h]:
                rate_host(p, s, h, elapsed_s)
        return
    rate_host(p, s, a, elapsed_s)
    if b >= 0:
        rate_host(p, s, b, elapsed_s)
