"""Kernels: which VM leaves an overloaded host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8

from .detectors import WINDOW
from .kernel import inline_kernel, lean_kernel
from .live import Ints
from .machines import ROUND_S, Site

UNDEFINED = 2.0  # no coefficient of determination exceeds 1

MMT = 0
MC = 1
MU = 2
RS = 3


@inline_kernel
def draw(rng: NDArray[np.uint64], n: int) -> int:
    """A uniform index below ``n``: one step of SplitMix64 on the state ``rng[0]``."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return int(float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0) * n)


@inline_kernel
def _smallest(values: F8, scale: F8, vms: Ints, n: int) -> int:
    """Position of the smallest ``values[v] / scale[v]``, the first on ties."""
    best = 0
    for i in range(1, n):
        if values[vms[i]] / scale[vms[i]] < values[vms[best]] / scale[vms[best]]:
            best = i
    return best


@inline_kernel
def _reflect_columns(a: F8, diagonal: F8, rows: int, cols: int) -> bool:
    """Householder QR of the matrix whose columns are ``a[0..cols)``, in place; False on a zero pivot."""
    for j in range(min(rows, cols)):
        norm = 0.0
        for i in range(j, rows):
            norm += a[j, i] * a[j, i]
        pivot = -np.sqrt(norm) if a[j, j] > 0.0 else np.sqrt(norm)
        diagonal[j] = pivot
        if pivot == 0.0:
            return False
        a[j, j] -= pivot
        for c in range(j + 1, cols):
            alpha = 0.0
            for i in range(j, rows):
                alpha -= a[c, i] * a[j, i]
            alpha /= pivot * a[j, j]
            for i in range(j, rows):
                a[c, i] -= alpha * a[j, i]
    return True


@inline_kernel
def _solve(a: F8, diagonal: F8, y: F8, rows: int, cols: int) -> None:
    """Overwrite ``y`` with the least-squares solution in its first ``cols`` entries."""
    for j in range(cols):
        dot = 0.0
        for i in range(j, rows):
            dot += y[i] * a[j, i]
        dot /= diagonal[j] * a[j, j]
        for i in range(j, rows):
            y[i] += dot * a[j, i]
    for j in range(cols - 1, -1, -1):
        y[j] /= diagonal[j]
        for i in range(j):
            y[i] -= y[j] * a[j, i]


@lean_kernel
def _fill_columns(data: F8, which: int, n: int, length: int, columns: F8) -> None:
    """Set ``columns`` to a constant one and the series other than ``which``."""
    at = 1
    for m in range(length):
        columns[0, m] = 1.0
    for i in range(n):
        if i != which:
            for m in range(length):
                columns[at, m] = data[i, m]
            at += 1


@inline_kernel
def multiple_r2(data: F8, which: int, n: int, length: int, work: F8) -> float:
    """Multiple coefficient of determination of series ``which`` on the other ones, with intercept.

    Args:
        data: Series as rows, (n, length).
        which: The dependent one.
        n: Number of series.
        length: Number of samples.
        work: Room, (3, WINDOW, WINDOW).

    Returns:
        1 - RSS / TSS, NaN for a constant series; ``UNDEFINED`` if a pivot of the decomposition is zero.
    """
    columns = work[0]
    a = work[1]
    diagonal = work[2, 0]
    beta = work[2, 1]
    _fill_columns(data, which, n, length, columns)
    _fill_columns(data, which, n, length, a)
    if not _reflect_columns(a, diagonal, length, n):
        return UNDEFINED
    for i in range(length):
        beta[i] = data[which, i]
    _solve(a, diagonal, beta, length, n)
    rss = 0.0
    tss = 0.0
    mean = 0.0
    for i in range(length):
        value = data[which, i]
        fit = 0.0
        for j in range(n):
            fit += columns[j, i] * beta[j]
        rss += (value - fit) * (value - fit)
        dev = value - mean
        mean += dev / (i + 1.0)
        tss += i * dev * (dev / (i + 1.0))
    return 1.0 - rss / tss


@inline_kernel
def _fill_history(site: Site, times: F8, k: int, vms: Ints, n: int, flat: bool, data: F8) -> None:
    """Utilisation of ``vms[:n]`` at the last rounds up to ``k``, newest first."""
    last = site.x.shape[0] - 1
    for j in range(min(k + 1, WINDOW)):
        t = times[k - j]
        a = min(int(t // ROUND_S), last)
        dt = t - a * ROUND_S
        for i in range(n):
            u = site.x[a, vms[i]]
            if dt > 0.0 and a < last and not flat:
                u += ((site.x[a + 1, vms[i]] - u) / ROUND_S) * dt
            data[i, j] = u


@lean_kernel
def _most_correlated(site: Site, times: F8, k: int, vms: Ints, n: int, flat: bool, work: F8) -> int:
    """Position of the VM best explained by the others; -1 if that is not defined."""
    length = min(k + 1, WINDOW)
    if n < 2 or n > length:
        return -1
    data = work[3]
    _fill_history(site, times, k, vms, n, flat, data)
    best = 0
    best_r2 = 4.9e-324
    for i in range(n):
        r2 = multiple_r2(data, i, n, length, work)
        if r2 == UNDEFINED:
            return -1
        if r2 > best_r2:
            best = i
            best_r2 = r2
    return best


@inline_kernel
def select_vm(
    rule: int,
    site: Site,
    demand: F8,
    times: F8,
    k: int,
    vms: Ints,
    n: int,
    flat: bool,
    work: F8,
    rng: NDArray[np.uint64],
) -> int:
    """Position in ``vms[:n]`` of the VM to migrate.

    Args:
        rule: ``MMT`` smallest memory, ``MC`` maximum correlation, ``MU`` smallest utilisation, ``RS`` random.
        site: The day.
        demand: Demand of all VMs, MHz.
        times: Instants of the rounds, s.
        k: This round.
        vms: VMs of the host, in list order.
        n: How many.
        flat: Whether samples hold instead of being interpolated.
        work: Room, (4, WINDOW, WINDOW).
        rng: State of the generator, (1,).

    Returns:
        The position; the first one on ties.
    """
    if rule == RS:
        return draw(rng, n)
    if rule == MU:
        return _smallest(demand, site.mhz, vms, n)
    if rule == MC:
        best = _most_correlated(site, times, k, vms, n, flat, work)
        if best >= 0:
            return best
    best = 0
    for i in range(1, n):
        if site.ram[vms[i]] < site.ram[vms[best]]:
            best = i
    return best
