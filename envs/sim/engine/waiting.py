"""VMs that wait for a host: which of them need not be tried, as one like them has found none.

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
from ..state.parameters import ClusterParams

REMEMBERED = 64
"""Failures that a pass remembers; beyond them it tries more often than it would have to."""


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
