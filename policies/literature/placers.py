"""Which host receives a VM: best fit decreasing by the increase of power, and three plain rules to compare.

A host may receive a VM of demand d if

* d is no more than the VM's vCPUs times the speed of the host's cores,
* the (core-capped) demand of the VMs at home there, and of those planned to come, plus d fits its capacity,
* memory fits, where memory binds (a moving VM holds memory on both ends until it has moved), and the order is
  legal in all else,
* it is not overloaded with the VM, by the detector in use.

``pabfd`` takes the least increase of predicted power, ``P((A + d) / C) - P(A / C)``, always from the plan as
it stands. A running but empty host could be off, so it is charged its idle power too; a host that is off is
also charged the energy of its boot, spread over ``amortise_s``. Such hosts of one type are alike, so the
lowest index stands for all. Ties go to the lowest index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from virtgym.envs.jit.by_model import by_model
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.cpu import SHORTAGE
from virtgym.envs.sim.engine.host_requirements import MEM_SLACK
from virtgym.envs.sim.engine.orders import check_move_beside, host_accepts
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..planning.room import hold_room, may_come, may_open
from .detectors import overloaded_history
from .parts import ADDITIVE
from .workspace import Workspace

PABFD, FIRST_FIT, BEST_FIT, WORST_FIT = 0, 1, 2, 3
"""Kinds of placers in the kernel."""

EMPTY_PENALTY = 1e12
"""The plain rules take an empty host only when no other fits: this much is added to its cost."""
CLOSED = -1.0
"""Capacity of a candidate that may not receive anything."""


@dataclass(frozen=True)
class Placer:
    """One placement rule.

    Attributes:
        name: Name in configurations.
        kind: Kind in the kernel.
        description: One line.
    """

    name: str
    kind: int
    description: str


PLACERS: dict[str, Placer] = {
    p.name: p
    for p in (
        Placer("pabfd", PABFD, "power-aware best fit decreasing: least increase of predicted power"),
        Placer("first_fit", FIRST_FIT, "lowest host index"),
        Placer("best_fit", BEST_FIT, "least free CPU left"),
        Placer("worst_fit", WORST_FIT, "most free CPU left"),
    )
}
"""Every placer by name."""


@kernel
def set_load(p: ClusterParams, w: Workspace, c: int, ask: float) -> None:
    """Set a candidate's CPU and what its power increment is computed from."""
    h = w.c_host[c]
    kind = p.host_type[h]
    last = w.power_w.shape[1] - 1
    x = ask * w.c_scale[c]
    a = min(int(x), last)
    w.c_ask[c] = ask
    w.c_x[c] = x
    w.c_end[c] = a + 1 - x if a < last else np.inf
    w.c_slope[c] = w.slope_w[kind, a]
    w.c_slope2[c] = w.slope_w[kind, min(a + 1, last)]
    w.c_pow[c] = power_at_x(w, kind, x)


@kernel
def power_at_x(w: Workspace, kind: int, x: float) -> Any:
    """Power of a host of a type at a load given in intervals of its table, W."""
    last = w.power_w.shape[1] - 1
    a = min(int(x), last)
    return w.power_w[kind, a] + w.slope_w[kind, a] * (x - a if a < last else 0.0)


@kernel
def add_candidate(p: ClusterParams, w: Workspace, h: int, mem_free: float) -> Any:
    """Make a host a candidate, with the load that the plan gives it so far."""
    c = w.tally.candidates
    w.tally.candidates = c + 1
    w.c_of[h] = c
    w.c_host[c] = h
    w.c_cap[c] = p.host_cpu_mhz[h] * SHORTAGE
    w.c_core[c] = p.host_core_mhz[h] * SHORTAGE
    w.c_scale[c] = w.load_scale[h]
    w.c_sig[c] = w.sig[h]
    w.c_lim[c] = w.limit[h]
    w.c_mem[c] = mem_free
    set_load(p, w, c, w.ask[h])
    return c


@kernel
def drop_candidate(w: Workspace, c: int) -> None:
    """Take a host off the candidates; the last one takes its place."""
    last = w.tally.candidates - 1
    w.tally.candidates = last
    w.c_of[w.c_host[c]] = -1
    if c == last:
        return
    w.c_of[w.c_host[last]] = c
    w.c_host[c] = w.c_host[last]
    w.c_ask[c] = w.c_ask[last]
    w.c_cap[c] = w.c_cap[last]
    w.c_sig[c] = w.c_sig[last]
    w.c_lim[c] = w.c_lim[last]
    w.c_mem[c] = w.c_mem[last]
    w.c_core[c] = w.c_core[last]
    w.c_scale[c] = w.c_scale[last]
    w.c_x[c] = w.c_x[last]
    w.c_end[c] = w.c_end[last]
    w.c_slope[c] = w.c_slope[last]
    w.c_slope2[c] = w.c_slope2[last]
    w.c_pow[c] = w.c_pow[last]


@kernel
def free_memory(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Memory that VMs may still come with, MiB."""
    if p.memory_binding == 0:
        return np.inf
    return p.host_mem_mib[h] * p.mem_overcommit * MEM_SLACK - s.host_mem_mib[h]


@kernel
def _any_may(p: ClusterParams, s: ClusterState, w: Workspace, v: int, h: int) -> Any:
    """In a simple cluster memory, which candidates know, is all that a running VM needs of a host."""
    return True


@kernel
def _may(p: ClusterParams, s: ClusterState, w: Workspace, v: int, h: int) -> Any:
    if host_accepts(p, s, h) == 0:
        return check_move_beside(p, s, w, v, h) == 0
    return may_come(p, s, w, v, h)


_may_go = by_model(_any_may, _may)
"""``_may_go(p, s, w, v, h)``: whether the order is legal, where the host is off with it switched on."""


@kernel
def _is_empty(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host takes VMs, holds none and awaits none."""
    return host_accepts(p, s, h) == 0 and s.host_n_vms[h] + s.host_n_in[h] == 0


@kernel
def collect_candidates(p: ClusterParams, s: ClusterState, w: Workspace) -> None:
    """List the hosts that may receive VMs, and the lowest empty host of each type, running or off."""
    w.tally.candidates = 0
    w.open_host[:] = -1
    n_types = p.power_w.shape[0]
    for h in range(s.host_power_state.shape[0]):
        w.c_of[h] = -1
        if may_open(p, s, h):
            slot = n_types + p.host_type[h]
            if w.open_host[slot] < 0:
                w.open_host[slot] = h
        elif host_accepts(p, s, h) == 0 and not w.over[h]:
            if w.n_home[h] > 0:
                add_candidate(p, w, h, free_memory(p, s, h))
            elif _is_empty(p, s, h) and w.open_host[p.host_type[h]] < 0:
                w.open_host[p.host_type[h]] = h


@kernel
def _overloaded_with(p: ClusterParams, s: ClusterState, w: Workspace, v: int, h: int, sig: float) -> Any:
    """Whether a host is overloaded with one more VM, for detectors that look at its history."""
    n = min(w.samples[v], w.h_samples[h])
    demand = sig + w.signal[v]
    capacity = p.host_cpu_mhz[h]
    if n < w.options.min_samples:
        return demand > w.rules.fallback * capacity
    depth = w.rows.shape[1]
    start = w.tally.samples_taken % depth + depth - n
    for i in range(n):
        w.window[i] = w.rows[h, depth - n + i] + w.hist[v, start + i]
    return overloaded_history(
        w.options.kind,
        w.window,
        n,
        demand,
        capacity,
        w.rules.safety,
        w.tricube,
        w.options.horizon,
        w.scratch,
    )


@kernel
def _increase(p: ClusterParams, w: Workspace, c: int, demand: float) -> Any:
    """Increase of a candidate's power by a demand, W: exactly equal for hosts on the same slope."""
    step = demand * w.c_scale[c]
    near = min(step, w.c_end[c])
    if step - near > 1.0:
        return power_at_x(w, p.host_type[w.c_host[c]], w.c_x[c] + step) - w.c_pow[c]
    return w.c_slope[c] * near + w.c_slope2[c] * (step - near)


@kernel
def _cost(p: ClusterParams, w: Workspace, c: int, demand: float, placer: int) -> Any:
    if placer == PABFD:
        return _increase(p, w, c, demand)
    free = w.c_cap[c] - w.c_ask[c] - demand
    return free if placer == BEST_FIT else -free if placer == WORST_FIT else 0.0


@kernel
def _find_cheapest(p: ClusterParams, s: ClusterState, w: Workspace, v: int) -> Any:
    """``find_candidate`` for the common case: no branch in the loop that a processor could mispredict."""
    demand, signal, memory = s.vm_demand_mhz[v], w.signal[v], p.vm_mem_mib[v]
    core_needed = demand / p.vm_vcpus[v]
    ask, cap, sig, lim, mem, core = w.c_ask, w.c_cap, w.c_sig, w.c_lim, w.c_mem, w.c_core
    scale, end, slope, slope2, host = w.c_scale, w.c_end, w.c_slope, w.c_slope2, w.c_host
    best = -1
    best_host = 2**31 - 1
    least = np.inf
    for c in range(w.tally.candidates):
        fits = (sig[c] + signal <= lim[c]) & (memory <= mem[c])
        fits = fits & (ask[c] + demand <= cap[c]) & (core_needed <= core[c])
        step = demand * scale[c]
        near = min(step, end[c])
        far = step - near
        cost = slope[c] * near + slope2[c] * far
        if far > 1.0:  # rare: the VM is larger than an interval of the power table
            cost = _increase(p, w, c, demand)
        better = fits & ((cost < least) | ((cost == least) & (host[c] < best_host)))
        best = c if better else best
        best_host = host[c] if better else best_host
        least = cost if better else least
    return best, least


@kernel
def find_candidate(p: ClusterParams, s: ClusterState, w: Workspace, v: int) -> Any:
    """The cheapest candidate that may receive a VM.

    Args:
        w: Workspace.
        v: VM.

    Returns:
        The candidate, -1 = none, and its cost.
    """
    if not p.full and w.options.kind == ADDITIVE and w.options.placer == PABFD:
        return _find_cheapest(p, s, w, v)
    demand, signal, memory = s.vm_demand_mhz[v], w.signal[v], p.vm_mem_mib[v]
    core_needed = demand / p.vm_vcpus[v]
    additive = w.options.kind == ADDITIVE
    placer = w.options.placer
    ask, cap, sig, lim, mem, core = w.c_ask, w.c_cap, w.c_sig, w.c_lim, w.c_mem, w.c_core
    best = -1
    least = np.inf
    for c in range(w.tally.candidates):
        if sig[c] + signal > lim[c] or memory > mem[c] or ask[c] + demand > cap[c] or core_needed > core[c]:
            continue
        cost = _cost(p, w, c, demand, placer)
        if cost > least or (cost == least and w.c_host[c] > w.c_host[best]):
            continue
        if not additive and _overloaded_with(p, s, w, v, w.c_host[c], sig[c]):
            continue
        if not _may_go(p, s, w, v, w.c_host[c]):
            continue
        best = c
        least = cost
    return best, least


@kernel
def find_opener(p: ClusterParams, s: ClusterState, w: Workspace, v: int) -> Any:
    """The cheapest empty host that may receive a VM: its slot in ``open_host`` (-1 = none) and cost."""
    demand, memory = s.vm_demand_mhz[v], p.vm_mem_mib[v]
    placer = w.options.placer
    best = -1
    least = np.inf
    for slot in range(w.open_host.shape[0]):
        h = w.open_host[slot]
        if h < 0 or demand > p.host_cpu_mhz[h] * SHORTAGE:
            continue
        if demand / p.vm_vcpus[v] > p.host_core_mhz[h] * SHORTAGE:
            continue
        if w.signal[v] > w.limit[h] or memory > free_memory(p, s, h):
            continue
        if w.options.kind != ADDITIVE and _overloaded_with(p, s, w, v, h, 0.0):
            continue
        if not _may_go(p, s, w, v, h):
            continue
        if placer == PABFD:
            cost = power_at_x(w, p.host_type[h], demand * w.load_scale[h])
            if may_open(p, s, h):
                cost += w.boot_j[h] / w.rules.amortise
        else:
            free = p.host_cpu_mhz[h] * SHORTAGE - demand
            cost = free if placer == BEST_FIT else -free if placer == WORST_FIT else 0.0
            cost += EMPTY_PENALTY
        if cost < least or (cost == least and h < w.open_host[best]):
            best = slot
            least = cost
    return best, least


@kernel
def open_candidate(p: ClusterParams, s: ClusterState, w: Workspace, slot: int) -> Any:
    """Make an empty host a candidate (ordering its boot where it is off) and find the next of its kind."""
    h = w.open_host[slot]
    is_off = may_open(p, s, h)
    if is_off:
        w.out_on[w.tally.on] = h
        w.tally.on += 1
    w.open_host[slot] = -1
    for other in range(h + 1, s.host_power_state.shape[0]):
        if p.host_type[other] != p.host_type[h]:
            continue
        if may_open(p, s, other) if is_off else _is_empty(p, s, other):
            w.open_host[slot] = other
            break
    return add_candidate(p, w, h, free_memory(p, s, h))


@kernel
def add_load(p: ClusterParams, s: ClusterState, w: Workspace, v: int, c: int) -> None:
    """Add a VM to a candidate in the plan."""
    h = w.c_host[c]
    set_load(p, w, c, w.c_ask[c] + s.vm_demand_mhz[v])
    w.c_sig[c] += w.signal[v]
    w.c_mem[c] -= p.vm_mem_mib[v]
    hold_room(p, w, v, h, 1.0)
    w.h_samples[h] = min(w.h_samples[h], w.samples[v])
    if w.options.kind != ADDITIVE:
        depth = w.rows.shape[1]
        start = w.tally.samples_taken % depth
        for i in range(depth):
            w.rows[h, i] += w.hist[v, start + i]
