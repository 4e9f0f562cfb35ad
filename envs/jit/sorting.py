"""A small stable sort for kernels: NumPy's own takes seconds to compile."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..arrays import F8
from .kernels import kernel

Whole = NDArray[Any]  # int32 or int64


@kernel
def sort_ascending(order: Whole, key: F8, n: int, other: Whole) -> None:
    """Sort the first n entries of ``order`` by ``key[order[i]]``, stable (merge sort over runs of eight).

    Args:
        order: What to sort, in place.
        key: Key of each entry.
        n: Number of entries.
        other: Scratch as long as ``order``.
    """
    run = 8
    for low in range(0, n, run):
        for i in range(low + 1, min(low + run, n)):
            item = order[i]
            k = key[item]
            j = i - 1
            while j >= low and key[order[j]] > k:
                order[j + 1] = order[j]
                j -= 1
            order[j + 1] = item
    while run < n:
        for low in range(0, n, 2 * run):
            _merge(order, key, low, min(low + run, n), min(low + 2 * run, n), other)
        for i in range(n):  # a slice would be an array of its own
            order[i] = other[i]
        run *= 2


@kernel
def _merge(order: Whole, key: F8, low: int, middle: int, high: int, out: Whole) -> None:
    i, j = low, middle
    for k in range(low, high):
        if i < middle and (j >= high or key[order[i]] <= key[order[j]]):
            out[k] = order[i]
            i += 1
        else:
            out[k] = order[j]
            j += 1
