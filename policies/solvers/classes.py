"""Classes of item sizes and the patterns that fill a host, for the bounds of consolidation.

A class counts every item as its least member, so what does not fit by classes does not fit at all. With few
distinct sizes each is a class and nothing is lost. Otherwise classes are parted at 1/2, 1/3, 1/4 of the
hosts' capacities, where the number of items that fit changes; the smallest items are of no class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I8

MOST_CLASSES = 6
MOST_PATTERNS = 300
MOST_ON_HOST = 12
"""Items smaller than this part of the largest host are of no class: they fill gaps."""
LEAST_SHARE = 0.3
"""Patterns are worth their columns if classes hold this share of all that is asked."""


@dataclass(frozen=True)
class Classes:
    """Classes of sizes.

    Attributes:
        size: Least size of each class, (K,), descending.
        of: Class of each item, (I,); K = of none.
    """

    size: F8
    of: I8

    def patterns(self, capacity: float) -> I8:
        """All maximal numbers of items by class that fit on one host, (n, K)."""
        found: list[list[int]] = []
        self._extend(found, [], capacity * (1.0 + 1e-9))
        table = np.array(found, dtype=np.int64).reshape(len(found), len(self.size))
        left = capacity - (table * self.size).sum(axis=1)  # not BLAS: its rounding depends on the CPU
        return np.asarray(table[left < self.size[-1]])

    def _extend(self, found: list[list[int]], start: list[int], left: float) -> None:
        k = len(start)
        if k == len(self.size) - 1:
            found.append([*start, int(left // self.size[k])])
            return
        for n in range(int(left // self.size[k]), -1, -1):
            self._extend(found, [*start, n], left - n * self.size[k])

    def is_small(self, capacities: F8) -> bool:
        """Whether there are few enough patterns."""
        n = 0
        for capacity in capacities.tolist():
            counts = np.floor(capacity * (1.0 + 1e-9) / self.size) + 1.0
            if float(np.prod(counts)) > 50 * MOST_PATTERNS:
                return False
            n += len(self.patterns(capacity))
        return n <= MOST_PATTERNS


def _classes_from(size: F8, edges: F8) -> Classes | None:
    """Classes between edges (ascending, each the lower end of a class, not part of it)."""
    at = np.searchsorted(edges, size, side="left") - 1  # -1: at most the lowest edge
    labels = np.unique(at[at >= 0])[::-1]
    if len(labels) == 0:
        return None
    of = np.full(len(size), len(labels), dtype=np.int64)
    least = np.empty(len(labels))
    for k, label in enumerate(labels.tolist()):
        members = at == label
        of[members] = k
        least[k] = size[members].min()
    return Classes(least, of)


def make_classes(size: F8, capacities: F8) -> Classes | None:
    """Part sizes into classes.

    Args:
        size: Of each item, (I,).
        capacities: Distinct capacities of hosts.

    Returns:
        The classes; None if the resource does not bind or is not packed in large pieces.
    """
    if len(size) == 0 or not np.isfinite(capacities).all() or len(capacities) == 0:
        return None
    large = float(capacities.max())
    if large <= 0.0:
        return None
    tries = []
    distinct = np.unique(size[size > large / MOST_ON_HOST])
    if 0 < len(distinct) <= MOST_CLASSES:
        tries.append(np.nextafter(distinct, 0.0))
    for parts in (4, 3, 2):
        tries.append(np.unique(capacities[:, None] / np.arange(1, parts + 1)[None, :]))
    for edges in tries:
        classes = _classes_from(size, edges)
        if classes is None or len(classes.size) > 2 * MOST_CLASSES or not classes.is_small(capacities):
            continue
        inside = classes.of < len(classes.size)
        return classes if float(size[inside].sum()) >= LEAST_SHARE * float(size.sum()) else None
    return None
