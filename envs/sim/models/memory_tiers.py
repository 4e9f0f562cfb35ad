"""Memory multiplexing: the tiers in order, who pays, the slowdown (docs §4).

VM i has touched T_i MiB, of which A_i are active; nothing is reclaimed below its reservation, min(R_i, T_i).
Free memory is F = P - others - sum T. Against minFree m, it names the host's state and what it does:

    high   F >= m           nothing
    clear  F <  m           sharing of zero and duplicate pages            brings F up to m, as far as it can
    soft   F <  0.64 m      ballooning                                     up to 0.64 m
    hard   F <  0.32 m      compression, then swapping by the host         up to 0.32 m
    low    F <  0.16 m      new memory is blocked where F would be < 0

F is what the tiers before left: each reclaims what those before could not, and no more than its own threshold
asks for. So all amounts are continuous in the load, the answer depends on the load alone, and a host without
pressure pays nothing. The state is that of the last tier that had to act.

**Sharing.** Zero pages collapse to none; of the duplicates D_i in a sharing domain the largest holder's stay:

    shareable_i = min(T_i - min(R_i, T_i),  z_i T_i + D_i (1 - max D / sum D)),   D_i = dup_i T_i

A part of it, the same for all, is used where that is enough. 7-33 % were seen in production [assumed:
Waldspurger, OSDI 2002].

**Who pays** for the other tiers: the VM with the lowest S / (P (f + k (1 - f))), S its memory shares, P what
it holds, f its active fraction, k = 1 / (1 - tau), tau = 0.75 the tax on idle memory [assumed: Waldspurger,
OSDI 2002]. Idle pages go first; P (f + k (1 - f)) = A + k (P - A) while idle ones are left, and P after.
Taking from the payer until the next one is as poor brings all payers to one level, found exactly
(``waterlevel``).

    ballooning    at most 65 % of a VM's memory, none without a driver (containers)
    compression   saves at most 10 % of a VM's memory; pages shrink to half, so twice as many are compressed
    swapping      the rest

**Slowdown** = 1 + touch_rate sum_tier p_tier cost_tier + balloon tax, touch_rate in pages per second, p_tier
the probability that a touch meets a page of the tier:

    sharing       p = write share * shared / T: copy on write
    ballooning    p = active pages taken / A: the guest pages them in, at the cost of a swapped page; and
                  a tax that grows from 0 with the ballooned share of the VM's memory, 1.4 % at 1/8, 4.4 % at
                  1/2, linear between these points and beyond
    compression   p = compressed pages / (T - shared - ballooned): the host does not know which are active
    swapping      p = swapped / the same

Blocked memory costs what swapped memory costs. For every VM, T = resident + shared + ballooned + compressed +
swapped + blocked, and the resident memory of a host never exceeds what it has. Memory is blocked only where
reservations exceed the host, which admission (``scheduling.admits``) rules out unless memory was lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8, I4
from ...jit.kernels import kernel, of_records
from ...jit.waterlevel import find_bracket, sort_breakpoints
from .memory import (
    BALLOON_EIGHTH,
    BALLOON_HALF,
    TINY_MIB,
    MemoryCosts,
    MemoryInputs,
    MemoryOutputs,
    min_free_mib,
)

HIGH, CLEAR, SOFT, HARD, LOW = 0, 1, 2, 3, 4


def memory_scratch(most_vms: int) -> F8:
    """Working memory for hosts with up to ``most_vms`` VMs."""
    return np.zeros((5, 3 * max(1, most_vms)))


@kernel
def _share_pages(vms: I4, need_mib: float, p: MemoryInputs, s: MemoryOutputs, scratch: F8) -> Any:
    """Share as much as is needed, or all that can be; returns how much."""
    n = vms.shape[0]
    domain, place, shareable = scratch[3], scratch[4], scratch[1]
    for i in range(n):
        domain[i], place[i] = p.vm_domain[vms[i]], i
    sort_breakpoints(domain, place, n)
    total = 0.0
    first = 0
    while first < n:
        last = first
        copies = 0.0
        largest = 0.0
        while last < n and domain[last] == domain[first]:
            v = vms[int(place[last])]
            copy = p.vm_dup_share[v] * p.vm_touched_mib[v]
            copies += copy
            largest = max(largest, copy)
            last += 1
        kept = largest / copies if copies > 0.0 and domain[first] >= 0.0 else 1.0
        for j in range(first, last):
            i = int(place[j])
            v = vms[i]
            touched = p.vm_touched_mib[v]
            free = touched - min(p.vm_mem_reservation_mib[v], touched)
            shareable[i] = min(free, touched * (p.vm_zero_share[v] + p.vm_dup_share[v] * (1.0 - kept)))
            total += shareable[i]
        first = last
    used = min(1.0, need_mib / total) if total > 0.0 else 0.0
    for i in range(n):
        s.vm_shared_mib[vms[i]] = shareable[i] * used
    return total * used


@kernel
def _price(held: float, active: float, shares: float, k: float) -> float:
    """P (f + k (1 - f)) / S: who has the highest pays."""
    return (active + k * (held - active) if held > active else held) / shares


@kernel
def _held_at(level: float, active: float, shares: float, k: float) -> float:
    """The inverse of ``_price``: how much a VM holds at a level."""
    x = level * shares
    return active + (x - active) / k if x > active else x


@kernel
def _add_breakpoints(
    low: float, high: float, active: float, shares: float, k: float, key: F8, step: F8, n: int
) -> int:
    """Between holding ``low`` and ``high``, a VM rises by S below its active memory and by S / k above."""
    slope = shares if low < active else shares / k
    key[n], step[n] = _price(low, active, shares, k), slope
    n += 1
    if low < active < high:
        key[n], step[n] = active / shares, shares / k - slope
        n += 1
        slope = shares / k
    key[n], step[n] = _price(high, active, shares, k), -slope
    return n + 1


@kernel
def _common_level(vms: I4, target_mib: float, k: float, p: MemoryInputs, scratch: F8) -> Any:
    """The price at which what the VMs hold, between floor and what they hold now, adds up to a target."""
    held, floor, active, key, step = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    base = 0.0
    n = 0
    for i in range(vms.shape[0]):
        base += floor[i]
        if held[i] > floor[i]:
            n = _add_breakpoints(floor[i], held[i], active[i], p.vm_mem_shares[vms[i]], k, key, step, n)
    sort_breakpoints(key, step, n)
    below, above = find_bracket(key, step, n, base, 0.0, target_mib)
    # Solve the bracket's equation afresh: slopes that were added and taken away have lost digits.
    fixed = 0.0
    slope = 0.0
    for i in range(vms.shape[0]):
        w, a = p.vm_mem_shares[vms[i]], active[i]
        if held[i] <= floor[i] or _price(floor[i], a, w, k) >= above:
            fixed += floor[i]
        elif _price(held[i], a, w, k) <= below:
            fixed += held[i]
        elif above <= a / w:
            slope += w
        else:
            fixed += a * (1.0 - 1.0 / k)
            slope += w / k
    return (target_mib - fixed) / slope if slope > 0.0 else above


@kernel
def _take(vms: I4, need_mib: float, k: float, p: MemoryInputs, out_mib: F8, scratch: F8) -> Any:
    """Take memory from who pays by the idle-memory tax, never below the floors; returns how much."""
    held, floor, active = scratch[0], scratch[1], scratch[2]
    n = vms.shape[0]
    total = 0.0
    least = 0.0
    for i in range(n):
        total += held[i]
        least += floor[i]
    target = total - need_mib
    level = _common_level(vms, target, k, p, scratch) if least < target else 0.0
    taken = 0.0
    for i in range(n):
        v = vms[i]
        left = floor[i]
        if least < target:
            left = min(max(_held_at(level, active[i], p.vm_mem_shares[v], k), floor[i]), held[i])
        out_mib[v] = held[i] - left
        taken += held[i] - left
        held[i] = left
    return taken


@kernel
def _squeeze(
    vms: I4,
    free_mib: float,
    soft_mib: float,
    hard_mib: float,
    c: MemoryCosts,
    p: MemoryInputs,
    s: MemoryOutputs,
    scratch: F8,
) -> Any:
    """Balloon, compress and swap, in this order; returns free memory and the last tier that acted."""
    held, floor, active = scratch[0], scratch[1], scratch[2]
    if free_mib >= soft_mib - TINY_MIB:
        return free_mib, CLEAR
    for i in range(vms.shape[0]):
        v = vms[i]
        held[i] = p.vm_touched_mib[v] - s.vm_shared_mib[v]
        active[i] = min(p.vm_active_mib[v], held[i])
        limit = c.memory_balloon_limit * p.vm_mem_mib[v] * p.vm_balloon_driver[v]
        floor[i] = min(held[i], max(p.vm_mem_reservation_mib[v], held[i] - limit))
    free_mib += _take(vms, soft_mib - free_mib, c.memory_idle_cost, p, s.vm_ballooned_mib, scratch)
    if free_mib >= hard_mib - TINY_MIB:
        return free_mib, SOFT
    for i in range(vms.shape[0]):
        v = vms[i]
        limit = min(c.memory_compression_limit * p.vm_mem_mib[v], held[i] / c.memory_pages_per_saved)
        active[i] = min(active[i], held[i])
        floor[i] = min(held[i], max(p.vm_mem_reservation_mib[v], held[i] - limit))
    free_mib += _take(vms, hard_mib - free_mib, c.memory_idle_cost, p, s.vm_compressed_mib, scratch)
    if free_mib < hard_mib - TINY_MIB:
        for i in range(vms.shape[0]):
            active[i] = min(active[i], held[i])
            floor[i] = min(held[i], p.vm_mem_reservation_mib[vms[i]])
        free_mib += _take(vms, hard_mib - free_mib, c.memory_idle_cost, p, s.vm_swapped_mib, scratch)
    return free_mib, HARD


@kernel
def _balloon_tax(share: float, at_eighth: float, at_half: float) -> float:
    if share <= BALLOON_EIGHTH:
        return at_eighth * share / BALLOON_EIGHTH
    return at_eighth + (at_half - at_eighth) * (share - BALLOON_EIGHTH) / (BALLOON_HALF - BALLOON_EIGHTH)


@kernel
def _slowdown(v: int, c: MemoryCosts, p: MemoryInputs, s: MemoryOutputs) -> Any:
    touched = p.vm_touched_mib[v]
    shared, ballooned, swapped = s.vm_shared_mib[v], s.vm_ballooned_mib[v], s.vm_swapped_mib[v]
    if touched <= 0.0:
        return 1.0
    seconds = shared / touched * c.memory_share_s + s.vm_blocked_mib[v] / touched * c.memory_swap_s
    tax = 0.0
    if ballooned > TINY_MIB:
        tax = _balloon_tax(ballooned / p.vm_mem_mib[v], c.memory_balloon_cpu_min, c.memory_balloon_cpu_max)
        active = min(p.vm_active_mib[v], touched - shared)
        if active > 0.0:
            seconds += max(0.0, active - (touched - shared - ballooned)) / active * c.memory_swap_s
    given = touched - shared - ballooned
    if given > 0.0:
        pages = min(s.vm_compressed_mib[v] * c.memory_pages_per_saved, given - swapped)
        seconds += pages / given * c.memory_decompress_s + swapped / given * c.memory_swap_s
    return 1.0 + p.vm_touch_rate[v] * seconds + tax


@kernel
def _clear(v: int, p: MemoryInputs, s: MemoryOutputs) -> None:
    s.vm_resident_mib[v] = p.vm_touched_mib[v]
    s.vm_shared_mib[v] = 0.0
    s.vm_ballooned_mib[v] = 0.0
    s.vm_compressed_mib[v] = 0.0
    s.vm_swapped_mib[v] = 0.0
    s.vm_blocked_mib[v] = 0.0
    s.vm_mem_slowdown[v] = 1.0


@of_records
@kernel
def reclaim_host(
    vms: I4,
    memory_mib: float,
    other_mib: float,
    c: MemoryCosts,
    p: MemoryInputs,
    s: MemoryOutputs,
    scratch: F8,
) -> Any:
    """Reclaim memory on one host.

    Args:
        vms: The VMs of the host, shape (n,).
        memory_mib: Physical memory, MiB.
        other_mib: What is taken by others, such as incoming migrations, and cannot be reclaimed, MiB.
        c: ``MemoryConfig.costs``.
        p: Handle or record with the fields of ``MemoryInputs``.
        s: Handle or record with the ``vm_`` fields of ``MemoryOutputs``; rewritten for these VMs.
        scratch: From ``memory_scratch``.

    Returns:
        Free memory after reclamation, MiB (negative only if ``other_mib`` alone exceeds the host), and the
        host's state.
    """
    free = memory_mib - other_mib
    for v in vms:
        _clear(v, p, s)
        free -= p.vm_touched_mib[v]
    keep = min_free_mib(memory_mib)
    if free >= keep - TINY_MIB:
        return free, HIGH
    if c.memory_sharing > 0.0:
        free += _share_pages(vms, keep - free, p, s, scratch)
    free, state = _squeeze(vms, free, c.memory_soft * keep, c.memory_hard * keep, c, p, s, scratch)
    if free < c.memory_low * keep - TINY_MIB:
        state = LOW
    held = 0.0
    for v in vms:
        taken = s.vm_shared_mib[v] + s.vm_ballooned_mib[v] + s.vm_compressed_mib[v] + s.vm_swapped_mib[v]
        s.vm_resident_mib[v] = max(0.0, p.vm_touched_mib[v] - taken)
        held += s.vm_resident_mib[v]
    blocked = min(1.0, -free / held) if free < 0.0 and held > 0.0 else 0.0
    for v in vms:
        if blocked > 0.0:
            s.vm_blocked_mib[v] = s.vm_resident_mib[v] * blocked
            s.vm_resident_mib[v] -= s.vm_blocked_mib[v]
        s.vm_mem_slowdown[v] = _slowdown(v, c, p, s)
    return free + blocked * held, state
