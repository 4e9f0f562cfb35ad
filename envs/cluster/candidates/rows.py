"""The row of a candidate, once its orders stand on the draft."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ...jit.records import name_places
from ...sim.engine.lifecycle import THRASH_INTERVALS
from ...sim.models.admission import SLOTS
from ...sim.models.power import ON as IS_ON
from ...sim.models.power import STANDBY as IN_STANDBY
from ...sim.models.precopy import MBIT_PER_MIB
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from ..buffers import clip, ratio
from .buffers import CandidateBuffers
from .columns import CHANGE, FIRST_MEASURE, HIGH, UNITS
from .draft import MOVE, PLACE_VM, POWER_ON, restore
from .loads import largest, margin_of, measure_after

COUNT_SCALE = 1.0 / float(np.log1p(128.0))
MOST_DIRTY = 0.9
"""Dirty rate over rate of the copy with which the time of a copy is estimated, at most."""


@kernel
def _copy_fixed(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    return p.vm_mem_mib[v] / p.mig_mib_s


@kernel
def _copy_full(p: ClusterParams, s: ClusterState, v: int, a: int, b: int) -> Any:
    """All rounds of pre-copy at a constant rate, the sum of a geometric series."""
    if not p.has_precopy:
        return p.vm_mem_mib[v] / p.mig_mib_s
    rate = min(min(p.host_nic_mbps[a], p.host_nic_mbps[b]), p.copy_max_mbps) / MBIT_PER_MIB
    dirty = min(MOST_DIRTY, ratio(s.vm_dirty_mib_s[v], rate))
    return p.copy_init_s + ratio(p.vm_mem_mib[v], rate * (1.0 - dirty))


copy_time_s = by_model(_copy_fixed, _copy_full)
"""``copy_time_s(p, s, v, a, b)``: about how long a VM's copy from host a to b takes alone, s."""


@kernel
def _log_count(n: float) -> Any:
    return min(1.0, np.log1p(n) * COUNT_SCALE) if n > 0.0 else 0.0


@kernel
def _write_orders(p: ClusterParams, s: ClusterState, c: CandidateBuffers, row: Any) -> None:
    """What the orders move, place and switch on."""
    moves = placed = back = 0
    memory = seconds = weight = wait_s = 0.0
    recent_s = THRASH_INTERVALS * p.interval_s
    for i in range(c.now.begun, c.now.orders):
        v, h = c.order_vm[i], c.order_host[i]
        if c.order_kind[i] == MOVE:
            moves += 1
            memory += p.vm_mem_mib[v]
            weight += p.vm_weight[v]
            seconds += copy_time_s(p, s, v, s.vm_host[v], h)
            back += s.vm_last_from[v] == h and s.clock.now_s - s.vm_last_move_s[v] <= recent_s
        elif c.order_kind[i] == PLACE_VM:
            placed += 1
        elif c.order_kind[i] == POWER_ON and s.host_power_state[h] != IS_ON:
            wait_s = max(wait_s, p.resume_s[h] if s.host_power_state[h] == IN_STANDBY else p.host_boot_s[h])
    row.orders = _log_count(c.now.orders - c.now.begun)
    row.moved = moves / max(1, c.now.alive)
    row.moved_mean = min(4.0, memory / c.whole.mem_mib)
    row.copy_time = min(4.0, seconds / p.interval_s)
    row.moved_weight = clip(ratio(weight, c.whole.weight), 1.0)
    row.moved_back = back / max(1, moves)
    row.placed = _log_count(placed)
    row.wait = min(4.0, wait_s / p.interval_s)


@kernel
def _largest_after(c: CandidateBuffers, load: Any, inverse: Any, most: float, at: int) -> Any:
    """The largest load per capacity after it: all hosts are looked at only if it touches that one."""
    if at >= 0 and c.host_touched[at]:
        return largest(load, inverse)[0]
    for i in range(c.now.hosts):
        h = c.touched_hosts[i]
        most = max(most, load[h] * inverse[h])
    return most


@kernel
def _write_shares(p: ClusterParams, c: CandidateBuffers, row: Any) -> None:
    w = c.whole
    most = _largest_after(c, c.new_mem, p.host_inv_mem, w.mem_max, c.now.mem_at)
    row.memory_max = clip(w.mem_max, 2.0)
    row.memory_max_after = clip(most, 2.0)
    row.memory_max_change = min(max(most - w.mem_max, -2.0), 2.0)
    row.risk_max_after = clip(_largest_after(c, c.new_risk, p.host_inv_cpu, w.risk_max, c.now.risk_at), 2.0)
    row.demand_share = clip(ratio(c.before.demand, c.before.capacity), 2.0)
    row.demand_share_after = clip(ratio(c.after.demand, c.after.capacity), 2.0)
    row.touched_share = clip(ratio(c.before.touched, c.before.memory), 2.0)
    row.touched_share_after = clip(ratio(c.after.touched, c.after.memory), 2.0)
    row.memory_lost = clip(w.lost, 1.0)
    row.migrating = clip(w.migrating, 1.0)


@kernel
def _write_guarantee(p: ClusterParams, c: CandidateBuffers, row: Any) -> None:
    """Margin of the failover guarantee; a migration does not change it."""
    row.guarantee_after, row.guarantee_change = 0.0, 0.0
    if not p.has_admission:
        return
    margin, unit = c.whole.margin, 1.0
    for i in range(c.now.begun, c.now.orders):
        if c.order_kind[i] != MOVE:
            margin = margin_of(p, c)
            break
    if p.admission_rule == SLOTS:
        unit = 1.0 / p.host_type.shape[0]
    row.guarantee_after = min(max(margin * unit, -1.0), 1.0)
    row.guarantee_change = min(max((margin - c.whole.margin) * unit, -1.0), 1.0)


@kernel
def _write_measures(p: ClusterParams, c: CandidateBuffers, row: Any) -> None:
    """Three columns each: before and after per host of the cluster, and the difference in hosts."""
    inverse = 1.0 / p.host_type.shape[0]
    for i in range(len(UNITS)):
        scale = 1.0
        if UNITS[i] == 1:
            scale = ratio(1.0, c.whole.idle_w * inverse)
        elif UNITS[i] == 2:
            scale = ratio(1.0, c.whole.peak_w * inverse)
        at, high, change = FIRST_MEASURE + 3 * i, HIGH[i], CHANGE[i]
        before, after = c.before[i] * scale, c.after[i] * scale
        row[at] = clip(before * inverse, high)
        row[at + 1] = clip(after * inverse, high)
        row[at + 2] = min(max(after - before, -change), change)


@kernel
def begin_candidate(c: CandidateBuffers) -> None:
    """Begin a candidate: nothing is ordered yet."""
    c.now.begun = c.now.orders


@kernel
def drop_candidate(s: ClusterState, c: CandidateBuffers) -> None:
    """Give up the candidate that is being made."""
    c.now.orders = c.now.begun
    restore(s, c)


@kernel
def offer_candidate(p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, level: float) -> None:
    """Offer what has been ordered since ``begin_candidate`` as candidate k, and put the draft back.

    Args:
        p: Parameters, of a view.
        s: State, of a view.
        c: Buffers; slot k of features, mask and orders is written.
        k: Slot.
        level: How bold it is, 0...1.
    """
    c.mask[k] = True
    c.order_first[k], c.order_count[k] = c.now.begun, c.now.orders - c.now.begun
    row = name_places(c.features[k], c.row)
    row[c.kind[k]] = 1.0
    row.offered, row.level = 1.0, level
    measure_after(p, c)
    _write_orders(p, s, c, row)
    _write_shares(p, c, row)
    _write_guarantee(p, c, row)
    _write_measures(p, c, row)
    restore(s, c)


@kernel
def end_candidate(
    p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, good: bool, level: float
) -> None:
    """Offer the candidate that is being made if it is worth it, else give it up."""
    if good:
        offer_candidate(p, s, c, k, level)
    else:
        drop_candidate(s, c)


@kernel
def same_orders(c: CandidateBuffers, k: int) -> bool:
    """Whether the candidate that is being made orders just what candidate k does."""
    n = c.now.orders - c.now.begun
    if not c.mask[k] or c.order_count[k] != n:
        return False
    for i in range(n):
        a, b = c.order_first[k] + i, c.now.begun + i
        if (
            c.order_kind[a] != c.order_kind[b]
            or c.order_vm[a] != c.order_vm[b]
            or c.order_host[a] != c.order_host[b]
        ):
            return False
    return True
