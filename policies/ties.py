"""Order among scores that may be equal: the best, where rounding must not decide, and ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.jit.kernels import kernel

TIE = 1e-5
"""Scores so near to the best, as a share of it (at least of 1), are equal to it: sums in float32 that should
be equal differ by less, and no training tells scores apart that differ by less."""


@kernel
def first_best(scores: Any, mask: NDArray[np.bool_]) -> Any:
    """The lowest legal index whose score equals the best legal one within ``TIE``; -1 if none is legal."""
    first, top = -1, -np.inf
    for a in range(len(scores)):
        if mask[a]:
            first = a if first < 0 else first
            top = max(top, float(scores[a])) if scores[a] > top else top
    least = top - TIE * max(1.0, abs(top))
    for a in range(len(scores)):
        if mask[a] and (scores[a] >= least or scores[a] == top):
            return a
    return first


@kernel
def choose_first_best(scores: Any, masks: NDArray[np.bool_]) -> Any:
    """``first_best`` of every row, 0 where none is legal.

    Args:
        scores: (B, actions).
        masks: Legal actions, (B, actions).

    Returns:
        (B,) of int64.
    """
    chosen = np.empty(len(scores), np.int64)
    for b in range(len(scores)):
        chosen[b] = max(0, first_best(scores[b], masks[b]))
    return chosen


def tied_ranks(values: F8 | I8) -> F8:
    """Place of each value in ascending order, from 0 on, (n,); equal ones share the mean of theirs."""
    _, place, many = np.unique(values, return_inverse=True, return_counts=True)
    ranks: F8 = (np.cumsum(many) - 0.5 * (many + 1))[place.reshape(-1)]
    return ranks
