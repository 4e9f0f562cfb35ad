"""Which VM leaves an overloaded host: the selection rules of Beloglazov & Buyya (CCPE 24(13), 2012).

A VM that migrates already, or that was selected before in the round, is not eligible. Ties go to the lowest
index, except where said.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.orders import vm_movable
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .parts import MC, MU, RS
from .workspace import Workspace

MMT_TIES = ("smaller", "larger", "index")
"""Which VM of those of equal memory leaves first: smaller demand, larger (default) or lowest index.

The literature leaves it open. They take equal time to move; the larger relieves more, so that fewer have to.
"""

SAME = 1e-9
"""Correlations closer than this are equal, and the lower index wins: their last digits are rounding."""
RIDGE = 1e-10
"""Added to the diagonal of the correlation matrix: collinear histories stay solvable."""


@kernel
def splitmix(state: Any) -> Any:
    """One step of splitmix64 (Steele, Lea & Flood, OOPSLA 2014).

    Args:
        state: Any 64-bit integer.

    Returns:
        The next state, and a well-mixed 63-bit number.
    """
    state = np.uint64(state) + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(state), np.int64(z >> np.uint64(1))


@kernel
def eligible(s: ClusterState, w: Workspace, v: int) -> Any:
    """Whether a VM may still be selected in this round."""
    return vm_movable(s, v) == 0 and w.moved[v] == 0


@kernel
def multiple_correlation(matrix: NDArray[np.float64], m: int) -> Any:
    """Squared multiple correlation of each variable with all others.

    ``R_i**2 = 1 - 1 / (C**-1)_ii`` for the correlation matrix C, by Cholesky decomposition ``C = L L^T``:
    ``(C**-1)_ii = sum_k (L**-1)_ki**2``.

    Args:
        matrix: Correlation matrix in the lower triangle of its first m rows and columns; overwritten, and the
            results stand on the diagonal.
        m: Number of variables.

    Returns:
        Whether the matrix was positive definite.
    """
    for j in range(m):
        matrix[j, j] += RIDGE
    for j in range(m):
        for k in range(j):
            matrix[j, j] -= matrix[j, k] * matrix[j, k]
        if matrix[j, j] <= 0.0:
            return False
        matrix[j, j] = np.sqrt(matrix[j, j])
        for i in range(j + 1, m):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= matrix[j, j]
    for j in range(m):  # invert L in place, column by column
        matrix[j, j] = 1.0 / matrix[j, j]
        for i in range(j + 1, m):
            total = 0.0
            for k in range(j, i):
                total -= matrix[i, k] * matrix[k, j]
            matrix[i, j] = total / matrix[i, i]
    for j in range(m):
        total = 0.0
        for k in range(j, m):
            total += matrix[k, j] * matrix[k, j]
        matrix[j, j] = 1.0 - 1.0 / total
    return True


@kernel
def _correlate(w: Workspace, vms: NDArray[np.int32], m: int, n: int) -> None:
    """Write the correlation matrix of m windows of n samples; a constant one correlates with nothing."""
    depth = w.hist.shape[1] // 2
    start = w.tally.samples_taken % depth + depth - n
    for i in range(m):
        a = w.hist[vms[i], start : start + n]
        mean_a = a.sum() / n
        for j in range(i + 1):
            b = w.hist[vms[j], start : start + n]
            mean_b = b.sum() / n
            ab = 0.0
            for k in range(n):
                ab += (a[k] - mean_a) * (b[k] - mean_b)
            w.matrix[i, j] = ab
    for i in range(m):
        for j in range(i):
            norm = np.sqrt(w.matrix[i, i] * w.matrix[j, j])
            w.matrix[i, j] = w.matrix[i, j] / norm if norm > 0.0 else 0.0
    for i in range(m):
        w.matrix[i, i] = 1.0


@kernel
def _most_correlated(s: ClusterState, w: Workspace, vms: NDArray[np.int32], m: int) -> Any:
    """The eligible VM of largest R**2, or -1 where the regression has no degree of freedom left."""
    n = w.options.mc_window
    stay = w.order
    k: Any = np.int64(0)
    for i in range(m):
        if not w.moved[vms[i]]:
            stay[k] = vms[i]
            k += 1
            n = min(n, w.samples[vms[i]])
    if k < 2 or k >= n:
        return -1
    _correlate(w, stay, k, n)
    if not multiple_correlation(w.matrix, k):
        return -1
    best = -1
    most = -1.0
    for i in range(k):
        if eligible(s, w, stay[i]) and w.matrix[i, i] > most + SAME:
            best = stay[i]
            most = w.matrix[i, i]
    return best


@kernel
def write_keys(p: ClusterParams, s: ClusterState, w: Workspace, vms: NDArray[np.int32], m: int) -> None:
    """Write the sort keys of a host's VMs for the rules that have some: inf = not eligible."""
    by_memory = w.options.selector != MU
    ties = w.options.mmt_ties
    sign = 1.0 if ties == 0 else -1.0 if ties == 1 else 0.0
    for i in range(m):
        v = vms[i]
        demand = s.vm_demand_mhz[v]
        w.key[i] = np.inf
        if eligible(s, w, v):
            w.key[i] = p.vm_mem_mib[v] if by_memory else demand / p.vm_cpu_mhz[v]
        w.key2[i] = sign * demand if by_memory else 0.0


@kernel
def _take_least(w: Workspace, vms: NDArray[np.int32], m: int) -> Any:
    """Take the VM of least key, ties to the second key, then to the lowest index."""
    at = -1
    least = np.inf
    second = np.inf
    for i in range(m):
        if w.key[i] < least or (w.key[i] == least and w.key2[i] < second):
            at = i
            least = w.key[i]
            second = w.key2[i]
    if least == np.inf:
        return -1
    w.key[at] = np.inf
    return vms[at]


@kernel
def _any(s: ClusterState, w: Workspace, vms: NDArray[np.int32], m: int) -> Any:
    n = 0
    for i in range(m):
        n += eligible(s, w, vms[i])
    if n == 0:
        return -1
    w.tally.seed, number = splitmix(w.tally.seed)
    skip = number % n
    for i in range(m):
        if eligible(s, w, vms[i]):
            if skip == 0:
                return vms[i]
            skip -= 1
    return -1


@kernel
def select_vm(p: ClusterParams, s: ClusterState, w: Workspace, vms: NDArray[np.int32], m: int) -> Any:
    """Select the next VM to leave a host.

    Args:
        w: Workspace; ``write_keys`` has been called for this host.
        vms: VMs of the host at the start of the round, ascending.
        m: Their number.

    Returns:
        The VM, or -1 when none is eligible.
    """
    kind = w.options.selector
    if kind == RS:
        return _any(s, w, vms, m)
    if kind == MC:
        best = _most_correlated(s, w, vms, m)
        if best >= 0:
            return best
        write_keys(p, s, w, vms, m)
    return _take_least(w, vms, m)
