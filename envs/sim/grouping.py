"""VMs sorted by host: the order in which the kernels of the sub-models visit them.

Compressed rows: the VMs of host h are ``order[offset[h]:offset[h + 1]]``, ascending by index. Inside a group
the order is always the same, so sums of floats are the same to the last bit however the state came about.

The kernels of the sub-models take their arrays as records: named tuples, or handles to them
(``handle.make_handle``). Pass handles: a named tuple is copied word by word at every call, which costs ten to
thirty times the work itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["group_by_host", "largest_group", "make_groups", "sum_by_host"]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]


@njit(cache=True)
def group_by_host(vm_host: I4, offset: I4, order: I4) -> None:
    """Sort VMs by host (a counting sort, O(V + H)).

    Args:
        vm_host: Host of every VM, -1 = none, shape (V,).
        offset: Written: where each host's group begins, shape (H + 1,); the last entry is their number.
        order: Written: VMs by host, then by index; entries from ``offset[H]`` on are left alone, shape (V,).
    """
    n_hosts = offset.shape[0] - 1
    offset[:] = 0
    for v in range(vm_host.shape[0]):
        if vm_host[v] >= 0:
            offset[vm_host[v] + 1] += 1
    for h in range(n_hosts):
        offset[h + 1] += offset[h]
    for v in range(vm_host.shape[0]):
        h = vm_host[v]
        if h >= 0:
            order[offset[h]] = v
            offset[h] += 1
    for h in range(
        n_hosts, 0, -1
    ):  # every entry has moved to the end of its group, where the next one begins
        offset[h] = offset[h - 1]
    offset[0] = 0


@njit(cache=True)
def largest_group(offset: I4) -> int:
    """Number of VMs on the host that has most: how much scratch memory a kernel needs."""
    most = 0
    for h in range(offset.shape[0] - 1):
        most = max(most, offset[h + 1] - offset[h])
    return most


@njit(cache=True)
def sum_by_host(offset: I4, order: I4, values: F8, sums: F8) -> None:
    """Add up a column of VMs on every host, such as their reservations for admission.

    Args:
        offset: Where each host's VMs begin, shape (H + 1,).
        order: VMs by host, shape (V,).
        values: Shape (V,).
        sums: Written, shape (H,).
    """
    for h in range(offset.shape[0] - 1):
        total = 0.0
        for i in range(offset[h], offset[h + 1]):
            total += values[order[i]]
        sums[h] = total


def make_groups(vm_host: I4, n_hosts: int) -> tuple[I4, I4]:
    """Allocate and fill the groups.

    Args:
        vm_host: Host of every VM, -1 = none, shape (V,).
        n_hosts: H.

    Returns:
        ``offset``, shape (H + 1,), and ``order``, shape (V,).
    """
    offset = np.zeros(n_hosts + 1, dtype=np.int32)
    order = np.full(vm_host.shape[0], -1, dtype=np.int32)
    group_by_host(np.ascontiguousarray(vm_host, dtype=np.int32), offset, order)
    return offset, order
