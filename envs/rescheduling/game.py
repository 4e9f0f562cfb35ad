"""The rescheduling game: choose a VM, then its new place, as often as the limit allows.

B games run side by side in arrays with a leading B axis. Actions: 0 … V - 1 choose a VM, V … V + A - 1 put
it on a node, V + A stops. A move must fit when it is made. Everything that depends on a move is kept up by
what changes on its two hosts: the terms of the objective, how many places each shape of VM has, and which
VMs can go anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import I8
from ..jit.kernels import kernel
from ..sim.models.power import power_at
from .state import (
    APART,
    CHOSEN,
    ENDED,
    FIRST_NODE,
    FITS_NOT,
    FIXED,
    HERE,
    MOVED,
    NO_ACTION,
    NO_NODE,
    NO_VM,
    NOWHERE,
    PLAYING,
    SPENT,
    STOPPED,
    ReschedulingParams,
    ReschedulingState,
)

LOAD_BITS = 20
LOAD_ONE = 1 << LOAD_BITS


@kernel(inline="always")
def host_of(p: ReschedulingParams, a: int) -> Any:
    """The host of a node."""
    return a >> (p.per_host - 1)


@kernel
def room_for(
    p: ReschedulingParams, s: ReschedulingState, b: int, cpu: int, mem: int, double: bool, a: int
) -> Any:
    """Whether a place has this much free."""
    here = (s.free_cpu[b, a] >= cpu) & (s.free_mem[b, a] >= mem)
    if double:
        return here & (s.free_cpu[b, a + 1] >= cpu) & (s.free_mem[b, a + 1] >= mem)
    return here


@kernel
def fits(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> Any:
    """Whether a place has room for a VM that is somewhere else."""
    k = s.snapshot[b]
    return room_for(p, s, b, p.vm_cpu[k, v], p.vm_mem[k, v], p.vm_double[k, v], a)


@kernel
def kept_apart(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, h: int) -> Any:
    """Whether another VM of its anti-affinity group is on a host."""
    k = s.snapshot[b]
    g = p.vm_group[k, v]
    if g < 0:
        return False
    for i in range(p.group_first[k, g], p.group_first[k, g + 1]):
        w = p.group_vms[k, i]
        if w != v and host_of(p, s.vm_node[b, w]) == h:
            return True
    return False


@kernel
def can_move(p: ReschedulingParams, s: ReschedulingState, b: int, v: int) -> Any:
    """Whether there is a place where a VM could go, by counting those that its shape has."""
    k = s.snapshot[b]
    shape = p.vm_class[k, v]
    n = s.places[b, shape]
    if p.vm_fixed[k, v] or n == 0:
        return False
    if n >= p.plenty:
        return True
    n -= fits(p, s, b, v, s.vm_node[b, v])
    g = p.vm_group[k, v]
    if g >= 0:
        step = p.per_host if p.vm_double[k, v] else 1
        for i in range(p.group_first[k, g], p.group_first[k, g + 1]):
            w = p.group_vms[k, i]
            if w != v:
                first = host_of(p, s.vm_node[b, w]) * p.per_host
                for a in range(first, first + p.per_host, step):
                    n -= fits(p, s, b, v, a)
    return n > 0


@kernel
def refusal(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> Any:
    """Why a VM cannot move to a place now, as a code; 0 = it can."""
    k = s.snapshot[b]
    if p.vm_fixed[k, v]:
        return FIXED
    if a == s.vm_node[b, v]:
        return HERE
    if p.vm_double[k, v] and a % 2 == 1:
        return FIRST_NODE
    if not fits(p, s, b, v, a):
        return FITS_NOT
    if kept_apart(p, s, b, v, host_of(p, a)):
        return APART
    return 0


@kernel
def _add_host(p: ReschedulingParams, s: ReschedulingState, b: int, h: int, sign: int) -> None:
    """Add what a host has to the sums, or take it away."""
    k = s.snapshot[b]
    free, total, fragment = np.int64(0), np.int64(0), np.int64(0)
    for a in range(h * p.per_host, (h + 1) * p.per_host):
        free += s.free_cpu[b, a]
        total += p.node_cpu[k, a]
        fragment += s.free_cpu[b, a] % p.size
    s.fragment[b] += sign * fragment
    s.spare[b] += sign * free
    load = ((total - free) << LOAD_BITS) // total if total > 0 else np.int64(0)
    s.load[b] += sign * load
    s.load_sq[b] += sign * load * load
    if s.host_vms[b, h] > 0:
        s.hosts_used[b] += sign
        watts = power_at(p.power_w[p.host_power[k, h]], load / LOAD_ONE)
        s.power_mw[b] += sign * np.int64(np.rint(1000.0 * watts))


@kernel
def write_terms(p: ReschedulingParams, s: ReschedulingState, b: int) -> None:
    """Write the terms, and the objective, that follow from the sums."""
    k = s.snapshot[b]
    s.terms[b, 0] = s.fragment[b] / s.spare[b] if s.spare[b] > 0 else 0.0
    s.terms[b, 1] = s.hosts_used[b] / p.n_hosts
    mean = s.load[b] / p.n_hosts
    s.terms[b, 2] = np.sqrt(max(0.0, s.load_sq[b] / p.n_hosts - mean * mean)) / LOAD_ONE
    s.terms[b, 3] = s.power_mw[b] / (1000.0 * p.peak_w[k])
    s.terms[b, 4] = s.move_ms[b] / 3.6e6
    total = 0.0
    for i in range(len(p.weights)):
        total += p.weights[i] * s.terms[b, i]
    s.objective[b] = total


@kernel
def _recount_host(
    p: ReschedulingParams, s: ReschedulingState, b: int, h: int, cpu0: Any, mem0: Any, cpu1: Any, mem1: Any
) -> None:
    """Bring the counts of places up to date after a host's nodes had so much free before (-1 = no node)."""
    k = s.snapshot[b]
    a = h * p.per_host
    new_cpu0, new_mem0 = s.free_cpu[b, a], s.free_mem[b, a]
    new_cpu1, new_mem1 = np.int32(-1), np.int32(-1)
    if p.per_host == 2:
        new_cpu1, new_mem1 = s.free_cpu[b, a + 1], s.free_mem[b, a + 1]
    # What fits where cannot be foreseen, so there is no branch on it.
    for shape in range(p.n_classes):
        cpu, mem = p.class_cpu[k, shape], p.class_mem[k, shape]
        was0, now0 = (cpu0 >= cpu) & (mem0 >= mem), (new_cpu0 >= cpu) & (new_mem0 >= mem)
        was1, now1 = (cpu1 >= cpu) & (mem1 >= mem), (new_cpu1 >= cpu) & (new_mem1 >= mem)
        if p.class_double[k, shape]:
            first, second = np.int32(now0 & now1) - np.int32(was0 & was1), np.int32(0)
        else:
            first, second = np.int32(now0) - np.int32(was0), np.int32(now1) - np.int32(was1)
        s.places[b, shape] += first + second
        s.place_sum[b, shape] += (first + second) * a + second


@kernel
def _take(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int, sign: int) -> None:
    """Take what a VM needs from its place, or give it back with ``sign`` = -1."""
    k = s.snapshot[b]
    for node in range(a, a + 1 + p.vm_double[k, v]):
        s.free_cpu[b, node] -= sign * p.vm_cpu[k, v]
        s.free_mem[b, node] -= sign * p.vm_mem[k, v]


@kernel
def shift_vm(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> None:
    """Put a VM on another place: rooms and sums; not the terms, nor what can move."""
    old = s.vm_node[b, v]
    source, target = host_of(p, old), host_of(p, a)
    _add_host(p, s, b, source, -1)
    if target != source:
        _add_host(p, s, b, target, -1)
        s.host_vms[b, source] -= 1
        s.host_vms[b, target] += 1
    _take(p, s, b, v, old, -1)
    _take(p, s, b, v, a, 1)
    s.vm_node[b, v] = a
    _add_host(p, s, b, source, 1)
    if target != source:
        _add_host(p, s, b, target, 1)


@kernel
def _offer(p: ReschedulingParams, s: ReschedulingState, b: int, shape: int) -> Any:
    """What there is for the VMs of a shape: -1 = no place, -2 = plenty, else the sum of the places."""
    n = s.places[b, shape]
    return -1 if n == 0 else -2 if n >= p.plenty else s.place_sum[b, shape]


@kernel
def _refresh_movable(p: ReschedulingParams, s: ReschedulingState, b: int, v: int) -> None:
    """Look again at the VMs which a move of one may have given a place to go, or taken the last one."""
    k = s.snapshot[b]
    for shape in range(p.n_classes):
        offer = _offer(p, s, b, shape)
        # Of several places the sum does not say which they are; without groups there is one at most.
        if offer == s.offer[b, shape] and (offer < 0 or p.plenty == 2):
            continue
        s.offer[b, shape] = offer
        for i in range(p.class_first[k, shape], p.class_first[k, shape + 1]):
            w = p.class_vms[k, i]
            if p.plenty == 2:
                s.movable[b, w] = offer != -1 and s.vm_node[b, w] != offer and not p.vm_fixed[k, w]
            else:
                s.movable[b, w] = can_move(p, s, b, w)
    s.movable[b, v] = can_move(p, s, b, v)
    g = p.vm_group[k, v]
    if g >= 0:
        for i in range(p.group_first[k, g], p.group_first[k, g + 1]):
            s.movable[b, p.group_vms[k, i]] = can_move(p, s, b, p.group_vms[k, i])


@kernel
def move_vm(p: ReschedulingParams, s: ReschedulingState, b: int, v: int, a: int) -> None:
    """Move a VM to a place where ``refusal`` says it can go."""
    k = s.snapshot[b]
    old = s.vm_node[b, v]
    source, target = host_of(p, old), host_of(p, a)
    i, j = source * p.per_host, target * p.per_host
    i1, j1 = i + p.per_host - 1, j + p.per_host - 1  # the second node, if there is one
    two = p.per_host == 2
    cpu0, mem0, cpu2, mem2 = s.free_cpu[b, i], s.free_mem[b, i], s.free_cpu[b, j], s.free_mem[b, j]
    cpu1, mem1 = (s.free_cpu[b, i1], s.free_mem[b, i1]) if two else (np.int32(-1), np.int32(-1))
    cpu3, mem3 = (s.free_cpu[b, j1], s.free_mem[b, j1]) if two else (np.int32(-1), np.int32(-1))
    shift_vm(p, s, b, v, a)
    s.move_ms[b] += p.vm_ms[k, v]
    s.moves[b] += 1
    s.last_vm[b], s.last_from[b] = v, old
    write_terms(p, s, b)
    _recount_host(p, s, b, source, cpu0, mem0, cpu1, mem1)
    if target != source:
        _recount_host(p, s, b, target, cpu2, mem2, cpu3, mem3)
    _refresh_movable(p, s, b, v)


@kernel
def step_game(p: ReschedulingParams, s: ReschedulingState, b: int, action: int) -> Any:
    """Carry out an action of a game that is playing.

    Returns:
        ``MOVED``, ``CHOSEN`` or ``ENDED``, or why it was refused, which changes nothing.
    """
    if action < 0 or action > p.n_vms + p.n_nodes:
        return NO_ACTION
    v = s.chosen[b]
    if v < 0:
        if action == p.n_vms + p.n_nodes:
            s.status[b] = STOPPED
            return ENDED
        if action >= p.n_vms:
            return NO_VM
        if not s.movable[b, action]:
            return FIXED if p.vm_fixed[s.snapshot[b], action] else NOWHERE
        s.chosen[b] = action
        return CHOSEN
    a = action - p.n_vms
    if a < 0 or a >= p.n_nodes:
        return NO_NODE
    code = refusal(p, s, b, v, a)
    if code > 0:
        return code
    move_vm(p, s, b, v, a)
    s.chosen[b] = -1
    if s.moves[b] >= p.limit:
        s.status[b] = SPENT
    return MOVED


@kernel
def write_targets(p: ReschedulingParams, s: ReschedulingState, b: int, mask: NDArray[np.bool_]) -> None:
    """Write where the chosen VM can go, (A,)."""
    k, v = s.snapshot[b], s.chosen[b]
    cpu, mem = p.vm_cpu[k, v], p.vm_mem[k, v]
    free_cpu, free_mem = s.free_cpu[b], s.free_mem[b]
    if p.vm_double[k, v]:
        # Of every node and the next one, whatever host it is of: loops without steps are vector code.
        for a in range(p.n_nodes - 1):
            here = (free_cpu[a] >= cpu) & (free_mem[a] >= mem)
            mask[a] = here & (free_cpu[a + 1] >= cpu) & (free_mem[a + 1] >= mem) & (a & 1 == 0)
        mask[p.n_nodes - 1] = False
    else:
        for a in range(p.n_nodes):
            mask[a] = (free_cpu[a] >= cpu) & (free_mem[a] >= mem)
    mask[s.vm_node[b, v]] = False
    g = p.vm_group[k, v]
    if g >= 0:
        for i in range(p.group_first[k, g], p.group_first[k, g + 1]):
            if p.group_vms[k, i] != v:
                first = host_of(p, s.vm_node[b, p.group_vms[k, i]]) * p.per_host
                mask[first : first + p.per_host] = False


@kernel
def build_game(p: ReschedulingParams, s: ReschedulingState, b: int, k: int) -> None:
    """Bring a game to the start of a snapshot, from nothing but the snapshot."""
    s.snapshot[b] = k
    s.free_cpu[b], s.free_mem[b] = p.node_cpu[k], p.node_mem[k]
    s.vm_node[b] = p.vm_home[k]
    s.host_vms[b] = 0
    s.fragment[b] = s.spare[b] = s.hosts_used[b] = s.load[b] = s.load_sq[b] = s.power_mw[b] = s.move_ms[b] = 0
    for v in range(p.n_vms):
        if p.vm_class[k, v] >= 0:
            _take(p, s, b, v, p.vm_home[k, v], 1)
            s.host_vms[b, host_of(p, p.vm_home[k, v])] += 1
    for h in range(p.n_hosts):
        _add_host(p, s, b, h, 1)
    s.places[b] = s.place_sum[b] = 0
    for shape in range(p.n_classes):
        step = 2 if p.class_double[k, shape] else 1
        for a in range(0, p.n_nodes, step):
            if room_for(p, s, b, p.class_cpu[k, shape], p.class_mem[k, shape], p.class_double[k, shape], a):
                s.places[b, shape] += 1
                s.place_sum[b, shape] += a
        s.offer[b, shape] = _offer(p, s, b, shape)
    for v in range(p.n_vms):
        s.movable[b, v] = p.vm_class[k, v] >= 0 and can_move(p, s, b, v)
    s.moves[b] = 0
    s.chosen[b] = s.last_vm[b] = s.last_from[b] = -1
    s.status[b] = PLAYING
    write_terms(p, s, b)


@kernel
def copy_game(source: ReschedulingState, k: int, s: ReschedulingState, b: int) -> None:
    """Make game b what game k of another state is."""
    s.snapshot[b] = source.snapshot[k]
    s.free_cpu[b], s.free_mem[b] = source.free_cpu[k], source.free_mem[k]
    s.vm_node[b], s.host_vms[b] = source.vm_node[k], source.host_vms[k]
    s.places[b], s.place_sum[b], s.offer[b] = source.places[k], source.place_sum[k], source.offer[k]
    s.movable[b] = source.movable[k]
    s.fragment[b], s.spare[b], s.hosts_used[b] = source.fragment[k], source.spare[k], source.hosts_used[k]
    s.load[b], s.load_sq[b] = source.load[k], source.load_sq[k]
    s.power_mw[b], s.move_ms[b] = source.power_mw[k], source.move_ms[k]
    s.terms[b], s.objective[b] = source.terms[k], source.objective[k]
    s.moves[b], s.chosen[b] = source.moves[k], source.chosen[k]
    s.last_vm[b], s.last_from[b], s.status[b] = source.last_vm[k], source.last_from[k], source.status[k]


@kernel
def play_moves(
    p: ReschedulingParams, s: ReschedulingState, b: int, moves: I8, gains: NDArray[np.float64]
) -> Any:
    """Make moves (VM, place), (n, 2), until one is refused; returns how many, writes their gains."""
    for i in range(len(moves)):
        v, a = moves[i, 0], moves[i, 1]
        if s.moves[b] >= p.limit or refusal(p, s, b, v, a) > 0:
            return i
        before = s.objective[b]
        move_vm(p, s, b, v, a)
        gains[i] = before - s.objective[b]
    return len(moves)
