"""Exact water levels: where a rising, piecewise linear sum reaches a target.

Shares of CPU (docs §2) and the idle-memory tax (§4) are both of this kind: every VM holds an amount that
rises with one common level, in straight pieces between breakpoints, and the level is wanted at which the
amounts add up to what there is. Sorting the breakpoints and walking along them finds the piece that holds the
answer in O(n log n); the caller then solves one linear equation inside it. No iteration, no tolerance.
"""

from __future__ import annotations

from typing import Any

from ..arrays import F8
from .kernels import kernel

SHORT = 24
"""Up to so many entries insertion sort is faster than heap sort."""


@kernel
def sort_breakpoints(key: F8, step: F8, n: int) -> None:
    """Sort the first n breakpoints by level, in place and without allocating.

    Args:
        key: Levels, sorted on return.
        step: Change of slope at each level, moved along with it.
        n: How many.
    """
    if n <= SHORT:
        for i in range(1, n):
            k, s = key[i], step[i]
            j = i
            while j > 0 and key[j - 1] > k:
                key[j], step[j] = key[j - 1], step[j - 1]
                j -= 1
            key[j], step[j] = k, s
        return
    for root in range(n // 2 - 1, -1, -1):
        _sift(key, step, root, n)
    for end in range(n - 1, 0, -1):
        key[0], key[end] = key[end], key[0]
        step[0], step[end] = step[end], step[0]
        _sift(key, step, 0, end)


@kernel
def _sift(key: F8, step: F8, root: int, n: int) -> None:
    k, s = key[root], step[root]
    while True:
        child = 2 * root + 1
        if child >= n:
            break
        if child + 1 < n and key[child + 1] > key[child]:
            child += 1
        if key[child] <= k:
            break
        key[root], step[root] = key[child], step[child]
        root = child
    key[root], step[root] = k, s


@kernel
def find_bracket(key: F8, step: F8, n: int, base: float, slope: float, target: float) -> Any:
    """Find the two neighbouring breakpoints between which the sum reaches a target.

    Args:
        key: Levels of the breakpoints, sorted, all at least 0.
        step: Change of the sum's slope at each.
        n: How many, at least 1.
        base: The sum at level 0.
        slope: Its slope from level 0 to the first breakpoint.
        target: The sum wanted, at least ``base``.

    Returns:
        The level below and the level above; the last two where rounding lets the sum stay under the target.
    """
    below = 0.0
    total = base
    for i in range(n):
        reached = total + slope * (key[i] - below)
        if reached >= target or i == n - 1:
            return below, key[i]
        total = reached
        below = key[i]
        slope += step[i]
    return below, below
