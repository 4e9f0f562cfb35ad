"""The kernels that carry out a target placement as far as it is legal now; see ``dpm_kernels``."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.sorting import sort_ascending
from virtgym.envs.sim.engine.orders import host_accepts, may_go_on, vm_movable
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .kernels import collect, expected_peak, find_host, fits, order_move, stays, switch_on
from .workspace import DpmWork


@kernel
def follow_target(
    p: ClusterParams, s: ClusterState, w: DpmWork, target: I8, fill: float, high: float
) -> None:
    """Order the moves that lead to a target placement, as far as they are legal now.

    All moves that rules and memory allow are ordered at once, since what one VM leaves another may take.
    Moves into hosts that would be asked for too much are then taken back, and what fits after all is ordered
    again.
    Hosts that the target empties give all of their VMs or none.

    Args:
        w: The plan.
        target: Host of each VM, (V,), -1 = as it is.
        fill: Share of a host's CPU that may be asked for now.
        high: Share of a host's CPU that may be expected.
    """
    w.base[:] = w.dest
    n = _list_emptied(s, w, target)
    w.tally.candidates = 0
    _follow_pass(p, s, w, target, n, 1e9, 1e9)
    _take_back_excess(p, s, w, fill, high)
    collect(w)
    while _follow_pass(p, s, w, target, n, fill, high):
        pass
    prune_opened(w)


@kernel
def _list_emptied(s: ClusterState, w: DpmWork, target: I8) -> Any:
    """List the hosts that a target empties, the least loaded first, and mark them by a key of -1.

    What may not be emptied, or not beside the others, keeps its mark: its VMs stay.
    """
    n_hosts = w.n_home.shape[0]
    w.key[:n_hosts] = 0.0
    for v in range(target.shape[0]):
        if target[v] >= 0:
            w.key[target[v]] += 1.0
    n = 0
    for h in range(n_hosts):
        if w.n_home[h] == 0 or w.key[h] > 0.0:
            continue
        w.key[h] = -1.0  # its VMs leave together or not at all
        if s.clock.now_s - w.host_on_s[h] >= w.rules.min_on_s and not w.held[h]:
            w.order[n] = h
            w.key[h] = w.mean[h]
            n += 1
    sort_ascending(w.order, w.key, n, w.order2)
    for i in range(n):
        w.hosts[i] = w.order[i]
        w.key[w.order[i]] = -1.0
    return min(n, np.int64(w.rules.max_emptied))


@kernel
def _follow_pass(
    p: ClusterParams, s: ClusterState, w: DpmWork, target: I8, n: int, fill: float, high: float
) -> Any:
    """Try every move of a target once; returns whether one was ordered."""
    moved = False
    for i in range(n):
        moved = _follow_host(p, s, w, w.hosts[i], target, fill, high) or moved
    for v in range(target.shape[0]):
        h = w.dest[v] if w.dest[v] >= 0 else w.home[v]
        if h < 0 or target[v] < 0 or target[v] == h or w.key[w.home[v]] < 0.0 or w.aff[v] >= 0:
            continue
        moved = _follow_vm(p, s, w, v, target[v], fill, high) or moved
    return moved


@kernel
def _asked_too_much(p: ClusterParams, w: DpmWork, h: int, fill: float, high: float) -> Any:
    if w.received[h] == 0:
        return False
    if max(w.now[h], w.soon[h]) > fill * p.host_cpu_mhz[h] or w.need_mib[h] > w.need_most[h]:
        return True
    alone = stays(w, h) == 1
    return not alone and expected_peak(w, w.mean[h], w.var[h]) > high * p.host_cpu_mhz[h]


@kernel
def _take_back_excess(p: ClusterParams, s: ClusterState, w: DpmWork, fill: float, high: float) -> None:
    """Take moves back until no host receives more than it may hold."""
    again = True
    while again:
        again = False
        for v in range(w.dest.shape[0]):
            h = w.dest[v]
            if h < 0 or h == w.base[v] or not _asked_too_much(p, w, h, fill, high):
                continue
            again = True
            home = w.home[v]
            if w.key[home] < 0.0:  # emptied: everything comes back
                w.accepts[home] = host_accepts(p, s, home) == 0 and not w.closed[home]
                for i in range(w.first[home], w.first[home + 1]):
                    _back_to_base(p, w, w.vm_of[i])
            else:
                _back_to_base(p, w, v)


@kernel
def _back_to_base(p: ClusterParams, w: DpmWork, v: int) -> None:
    """Send a VM where it was to go before the target was followed."""
    if w.dest[v] != w.base[v]:
        order_move(p, w, v, w.base[v] if w.base[v] >= 0 else w.home[v])


@kernel
def _follow_vm(
    p: ClusterParams, s: ClusterState, w: DpmWork, v: int, h: int, fill: float, high: float
) -> Any:
    """Order one VM to its target if that is legal, switching the target on where it is off."""
    if vm_movable(s, v) != 0:
        return False
    if h == w.home[v]:
        return False  # relief moved it away
    off = not w.accepts[h] and not w.closed[h] and may_go_on(p, s, h) == 0
    if not w.accepts[h] and not off:
        return False
    if off:
        w.opened[h] = 1
    if not fits(p, s, w, v, h, fill, high):
        if off:
            w.opened[h] = 0
        return False
    if off:
        switch_on(w, h)
    order_move(p, w, v, h)
    return True


@kernel
def _follow_host(
    p: ClusterParams, s: ClusterState, w: DpmWork, h: int, target: I8, fill: float, high: float
) -> Any:
    """Empty a host towards the target, or take everything back; returns whether it is empty now."""
    if w.n_home[h] == w.n_out[h]:
        return False
    done = 0
    n = w.n_home[h]
    opened = w.tally.on
    took = w.accepts[h]
    w.accepts[h] = 0
    for i in range(n):
        v = w.vm_of[w.first[h] + i]
        ok = w.dest[v] >= 0 or _follow_vm(p, s, w, v, target[v], fill, high)
        if not ok and vm_movable(s, v) == 0:  # its target has filled up: elsewhere then
            c = find_host(p, s, w, v, h, fill, high)
            ok = c >= 0
            if ok:
                order_move(p, w, v, c)
        if not ok:
            break
        done += 1
    if done == n:
        return True
    for i in range(done):
        v = w.vm_of[w.first[h] + i]
        _back_to_base(p, w, v)
    while w.tally.on > opened:
        w.tally.on -= 1
        back = w.out_on[w.tally.on]
        w.opened[back] = 0
        w.accepts[back] = 0
    w.accepts[h] = took
    return False


@kernel
def take_back(p: ClusterParams, w: DpmWork) -> None:
    """Take back everything that following a target ordered."""
    for v in range(w.dest.shape[0]):
        _back_to_base(p, w, v)
    prune_opened(w)


@kernel
def prune_opened(w: DpmWork) -> None:
    """Take back to switch on what receives nothing."""
    n = 0
    for i in range(w.tally.on):
        h = w.out_on[i]
        if w.received[h] > 0:
            w.out_on[n] = h
            n += 1
        else:
            w.opened[h] = 0
            w.accepts[h] = 0
    w.tally.on = n
