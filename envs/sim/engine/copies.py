"""Migrations inside the simulator: orders wait for a slot, copies pass their phases, VMs change hosts.

With a fixed rate a copy has one event, its end. With pre-copy (``precopy``) it has one per phase, at times
that move whenever the network's rates do; copies under way stand in ``copy_list``, the next event of all in
``clock.next_copy_s``. After post-copy's handover the VM is on its new host and still has its old one as
``vm_dest``: that host holds the pages that are yet to come.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ..models.power import ON
from ..models.precopy import (
    DONE,
    MOVED,
    PAUSED,
    PULL,
    abort_copy,
    advance_copy,
    begin_copy,
    finish_phase,
    next_event,
)
from ..state.cluster_state import MIG_COPYING, MIG_NONE, MIG_WAITING, ClusterState
from ..state.parameters import ClusterParams
from .cpu import set_vm_down
from .events import MIGRATION_END, drop_event, find_next_copy, push_event, put_copy, remove_copy, set_copy_end
from .hub import renew_flows, renew_hosts
from .power_cycle import switch_off_if_empty
from .residents import (
    append_incoming,
    free_room,
    remove_incoming,
    remove_resident,
    settle,
    settle_rates,
    touch,
    touch_two,
)

MB_PER_MIB = 2**20 / 1e6


@kernel
def _begin_fixed(p: ClusterParams, s: ClusterState, v: int, now_s: float) -> None:
    """A copy at a fixed rate, whose end is known when it begins."""
    s.vm_mig[v] = MIG_COPYING
    s.counters.moving += 1
    end = now_s + p.vm_mem_mib[v] / p.mig_mib_s
    s.vm_mig_end_s[v] = end
    push_event(s, end, MIGRATION_END, v)


@kernel
def _start_simple(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    _begin_fixed(p, s, v, now_s)
    touch(p, s, s.vm_dest[v], elapsed_s)  # on the source only the VM's own rates change
    settle_rates(p, s, v, elapsed_s)


@kernel
def _has_slots(p: ClusterParams, s: ClusterState, a: int, b: int) -> bool:
    return bool(s.host_copies[a] < p.host_slots[a] and s.host_copies[b] < p.host_slots[b])


@kernel
def _start_precopy(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    a, b = s.vm_host[v], s.vm_dest[v]
    begin_copy(p, s, v)
    s.vm_mig[v] = MIG_COPYING
    s.copy_list[s.counters.moving] = v
    s.counters.moving += 1
    s.host_copies[a] += 1
    s.host_copies[b] += 1
    s.copy_rate_mib_s[v] = 0.0
    s.copy_dirtying_mib_s[v] = s.vm_dirty_mib_s[v]
    s.copy_since_s[v] = now_s
    put_copy(s, v, now_s + s.copy_left_s[v])
    renew_hosts(p, s, a, b, elapsed_s)


@kernel
def _start_full(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    if p.has_precopy == 0:
        _begin_fixed(p, s, v, now_s)
        touch_two(p, s, s.vm_dest[v], s.vm_host[v], elapsed_s)
    elif _has_slots(p, s, s.vm_host[v], s.vm_dest[v]):
        _start_precopy(p, s, v, now_s, elapsed_s)
    else:
        renew_hosts(p, s, s.vm_host[v], s.vm_dest[v], elapsed_s)  # the destination holds somebody now


start_copy = by_model(_start_simple, _start_full)
"""``start_copy(p, s, v, now_s, elapsed_s)``: begin to copy a VM's memory, or let it wait for a slot."""


@kernel
def _first_waiting(p: ClusterParams, s: ClusterState, h: int) -> int:
    """The migration from or to a host that was ordered first, of those that could start; -1 = none."""
    best = -1
    for incoming in range(2):
        v = s.host_in_head[h] if incoming else s.host_head[h]
        while v >= 0:
            if s.vm_mig[v] == MIG_WAITING and s.host_power_state[s.vm_dest[v]] == ON:
                order = (s.vm_last_move_s[v], v)
                first = best < 0 or order < (s.vm_last_move_s[best], best)
                if first and _has_slots(p, s, s.vm_host[v], s.vm_dest[v]):
                    best = v
            v = s.vm_in_next[v] if incoming else s.vm_next[v]
    return best


@kernel
def start_waiting(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Start migrations that wait for a slot of a host, in the order in which they were ordered.

    Each starts that finds a slot on both of its hosts; one that does not holds up nobody.
    """
    v = _first_waiting(p, s, h)
    while v >= 0:
        _start_precopy(p, s, v, now_s, elapsed_s)
        v = _first_waiting(p, s, h)


@kernel
def finish_migration(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """Hand a VM that was copied at a fixed rate over to its destination."""
    source, dest = s.vm_host[v], s.vm_dest[v]
    remove_resident(s, v, source)
    free_room(p, s, v, source)
    remove_incoming(s, v, dest)
    s.vm_mig[v] = MIG_NONE
    s.counters.moving -= 1
    s.vm_dest[v] = -1
    s.vm_mig_end_s[v] = np.inf
    settle(p, s, v, dest)
    touch_two(p, s, source, dest, elapsed_s)
    settle_rates(p, s, v, elapsed_s)
    s.totals.mig_done += 1.0
    s.totals.mig_mib += p.vm_mem_mib[v]
    switch_off_if_empty(p, s, source, now_s, elapsed_s)


@kernel
def _leave_list(s: ClusterState, v: int) -> None:
    n = s.counters.moving
    i = 0
    while s.copy_list[i] != v:
        i += 1
    for j in range(i, n - 1):
        s.copy_list[j] = s.copy_list[j + 1]
    s.copy_list[n - 1] = 0
    s.counters.moving = n - 1
    s.copy_rate_mib_s[v] = 0.0
    s.copy_dirtying_mib_s[v] = 0.0
    s.copy_since_s[v] = 0.0
    remove_copy(s, v)


@kernel
def copy_memory_mib(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """What a copy has to send: touched memory where that is known, else all of it."""
    return s.vm_touched_mib[v] if p.has_tiers else p.vm_mem_mib[v]


@kernel
def _hand_over(p: ClusterParams, s: ClusterState, v: int) -> None:
    """Post-copy: the VM runs at its destination, its old host keeps the pages that are to come."""
    source, dest = s.vm_host[v], s.vm_dest[v]
    remove_resident(s, v, source)
    remove_incoming(s, v, dest)
    nodes = s.vm_nodes[v] if p.has_numa else 0
    settle(p, s, v, dest)
    if p.has_numa:
        s.vm_dest_nodes[v] = nodes
    s.vm_dest[v] = source
    append_incoming(s, v, source)


@kernel
def _finish_last(p: ClusterParams, s: ClusterState, v: int, pulled: bool) -> None:
    """The last byte has come: the old host lets go."""
    source, dest = s.vm_host[v], s.vm_dest[v]
    if pulled:
        source, dest = dest, source
        remove_incoming(s, v, source)
        free_room(p, s, v, source)
    else:
        remove_resident(s, v, source)
        free_room(p, s, v, source)
        remove_incoming(s, v, dest)
        settle(p, s, v, dest)
    s.vm_mig[v] = MIG_NONE
    s.vm_dest[v] = -1
    s.host_copies[source] -= 1
    s.host_copies[dest] -= 1
    _leave_list(s, v)
    s.totals.mig_done += 1.0
    _count_data(p, s, v)


@kernel
def copy_energy_j(p: ClusterParams, sent_mib: float) -> Any:
    """Energy of a migration that sends so much, J."""
    return p.migration_j + p.migration_j_per_mb * MB_PER_MIB * sent_mib


@kernel
def _count_data(p: ClusterParams, s: ClusterState, v: int) -> None:
    sent = s.copy_sent_mib[v]
    s.totals.mig_mib += sent
    s.totals.mig_energy_j += copy_energy_j(p, sent)
    s.totals.mig_stop_s += s.copy_down_s[v]


@kernel
def finish_copy(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """A phase of a copy has ended: go on to the next one.

    Args:
        s: State; ``clock.event_s`` is now.
        v: VM.
        now_s: Now, s.
        elapsed_s: Time since the segment began, s.
    """
    advance_copy(s, v, s.copy_rate_mib_s[v], s.copy_dirtying_mib_s[v], now_s - s.copy_since_s[v])
    pulled = s.copy_phase[v] == PULL
    throttle = s.copy_throttle[v]
    source, dest = s.vm_host[v], s.vm_dest[v]
    code = finish_phase(p, s, v, copy_memory_mib(p, s, v), p.vm_working_mib[v])
    if code == PAUSED:
        set_vm_down(s, v, 1, elapsed_s)
    elif code == MOVED:
        set_vm_down(s, v, 0, elapsed_s)
        _hand_over(p, s, v)
    elif code == DONE:
        set_vm_down(s, v, 0, elapsed_s)
        _finish_last(p, s, v, pulled)
        renew_hosts(p, s, source, dest, elapsed_s)
        start_waiting(p, s, source, now_s, elapsed_s)
        start_waiting(p, s, dest, now_s, elapsed_s)
        switch_off_if_empty(p, s, dest if pulled else source, now_s, elapsed_s)
        return
    s.copy_since_s[v] = now_s
    s.copy_rate_mib_s[v] = 0.0  # a phase that sends gets its rate from the network
    s.copy_dirtying_mib_s[v] = s.vm_dirty_mib_s[v]
    set_copy_end(s, v, now_s + next_event(s, v, 0.0))
    changed = 2 if code == MOVED else int(code == PAUSED or s.copy_throttle[v] != throttle)
    renew_flows(p, s, source, dest, changed, elapsed_s)


@kernel
def _drop_simple(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    if s.vm_mig[v] == MIG_COPYING:
        left_s = s.vm_mig_end_s[v] - (s.clock.now_s + elapsed_s)
        s.totals.mig_mib += max(0.0, p.vm_mem_mib[v] - max(0.0, left_s) * p.mig_mib_s)
        drop_event(s, MIGRATION_END, v)
        s.counters.moving -= 1
    if s.vm_mig[v] != MIG_NONE:
        s.totals.mig_aborted += 1.0
    s.vm_mig[v] = MIG_NONE
    s.vm_mig_end_s[v] = np.inf


@kernel
def _drop_full(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    if p.has_precopy == 0 or s.vm_mig[v] != MIG_COPYING:
        _drop_simple(p, s, v, elapsed_s)
        return
    now = s.clock.event_s
    advance_copy(s, v, s.copy_rate_mib_s[v], s.copy_dirtying_mib_s[v], now - s.copy_since_s[v])
    _count_data(p, s, v)
    abort_copy(s, v, False)
    set_vm_down(s, v, 0, elapsed_s)
    s.host_copies[s.vm_host[v]] -= 1
    s.host_copies[s.vm_dest[v]] -= 1
    _leave_list(s, v)
    s.vm_mig[v] = MIG_NONE
    s.totals.mig_aborted += 1.0
    find_next_copy(s)


drop_copy = by_model(_drop_simple, _drop_full)
"""``drop_copy(p, s, v, elapsed_s)``: end a VM's migration, if there is one; where it is stays as it is."""
