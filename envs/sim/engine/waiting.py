"""VMs that wait for a host: which one a rule gives them, and which of them need not be tried.

On NUMA-aware hosts a rule chooses among those that do not split a VM over nodes, if there are any. What its
nodes will be asked for it does not know: nobody has measured a VM that comes.

While VMs are placed one after the other and none leaves, hosts only fill up (one that is booted had been
looked at while it was off), so whatever has no room for a VM has none for one that needs at least as much.
A pass over thousands of waiting VMs so costs one look at all hosts per size, not per VM, and ends in the same
placements to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import I4
from ...jit.by_model import by_model
from ...jit.kernels import kernel
from ..models.power import curve_power
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from .host_requirements import is_split
from .orders import fits_arrival, host_accepts, may_go_on

FIRST_FIT, BEST_FIT, WORST_FIT, PABFD, BY_POLICY = 0, 1, 2, 3, 4
"""Arrival rules, in the order of ``config.ARRIVAL_RULES``."""

TIE = 1e-9
"""Scores (W or MHz) that differ by less are equal: which host is chosen must not hang on a rounding error."""

REMEMBERED = 64
"""Failures that a pass remembers; beyond them it tries more often than it would have to."""


@kernel
def arrival_score(p: ClusterParams, s: ClusterState, v: int, h: int, rule: int) -> Any:
    """What an arrival rule minimises; differences within TIE go to the lowest host."""
    free = p.host_cpu_mhz[h] - s.host_nominal_mhz[h]
    if rule == FIRST_FIT:
        return 0.0
    if rule == BEST_FIT:
        return free
    if rule == WORST_FIT:
        return -free
    kind = p.host_type[h]
    now = s.host_nominal_mhz[h] / p.host_cpu_mhz[h]
    then = (s.host_nominal_mhz[h] + p.vm_cpu_mhz[v]) / p.host_cpu_mhz[h]
    # Power-aware best fit: the increase of power; an empty host could be off: its idle power counts.
    idle = p.power_w[kind, 0] if s.host_n_vms[h] + s.host_n_in[h] == 0 else 0.0
    return curve_power(p, kind, then) - curve_power(p, kind, now) + idle


@kernel
def _stays_whole(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    return False


_splits = by_model(_stays_whole, is_split)


@kernel
def choose_host(p: ClusterParams, s: ClusterState, v: int, rule: int, off: bool) -> int:
    """The host that a rule gives a VM, of those that run (with ``off``: are off); -1 = none."""
    best = -1
    least = np.inf
    split = True
    for h in range(s.host_power_state.shape[0]):
        if off:
            if may_go_on(p, s, h) != 0 or s.host_maintenance[h]:
                continue
        elif host_accepts(p, s, h) != 0:
            continue
        if fits_arrival(p, s, v, h) != 0:
            continue
        splits = _splits(p, s, v, h)
        if splits and not split:
            continue
        score = arrival_score(p, s, v, h, rule)
        if best < 0 or (split and not splits) or score < least - TIE:
            best = h
            least = score
            split = splits
            if rule == FIRST_FIT and not split:
                break
    return best


@kernel
def no_failures() -> I4:
    """Memory of one pass: how many VMs found no host, then these VMs, shape (1 + 64,)."""
    return np.zeros(1 + REMEMBERED, dtype=np.int32)


@kernel
def note_failure(failed: I4, v: int) -> None:
    """Remember that a VM has found no host, as long as there is a place for it."""
    if failed[0] < REMEMBERED:
        failed[0] += 1
        failed[failed[0]] = v


@kernel
def _asks_more(p: ClusterParams, v: int, w: int) -> Any:
    """Whether a VM needs at least what another one does: memory, CPU, and cores as fast."""
    larger = p.vm_mem_mib[v] >= p.vm_mem_mib[w] and p.vm_cpu_mhz[v] >= p.vm_cpu_mhz[w]
    return larger and p.vm_vcpus[v] <= p.vm_vcpus[w]


@kernel
def _asks_the_same(p: ClusterParams, v: int, w: int) -> Any:
    """Whether two VMs are alike in all that ``suits.check_suits`` and the size rules of arrivals look at."""
    same = p.vm_mem_mib[v] == p.vm_mem_mib[w] and p.vm_cpu_mhz[v] == p.vm_cpu_mhz[w]
    same = same and p.vm_vcpus[v] == p.vm_vcpus[w]
    if p.host_virt_types.shape[0] > 0:
        same = same and p.vm_virt_type[v] == p.vm_virt_type[w] and p.vm_kernel[v] == p.vm_kernel[w]
    if p.has_cpu:
        same = same and p.vm_reservation_mhz[v] == p.vm_reservation_mhz[w]
    if p.has_tiers:
        same = same and p.vm_mem_reservation_mib[v] == p.vm_mem_reservation_mib[w]
    if p.has_io:
        same = same and p.vm_functions[v] == p.vm_functions[w]
    return same


_is_no_easier = by_model(_asks_more, _asks_the_same)


@kernel
def is_hopeless(p: ClusterParams, failed: I4, v: int) -> bool:
    """Whether a VM is no easier to place than one that has found no host in this pass."""
    for i in range(failed[0]):  # noqa: SIM110  # Numba has no any()
        if _is_no_easier(p, v, failed[1 + i]):
            return True
    return False
