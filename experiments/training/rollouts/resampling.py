"""More requests to judge an agent by than there are: a stream resampled from the rows for training.

A few ten thousand rows hold some hundred windows that do not overlap, and a few dozen requests so large that
everything waits behind them: an agent may be better on these alone. A resampled stream is made of blocks of
the rows, one after the other, in which arrivals come faster or more slowly, lifetimes are those of other
requests of the same size, all of a block's lifetimes are longer or shorter, and requests that ask for more
than half a node come more often. The course of arrivals and sizes within a block stays what it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.placement.games import PlacementConfig
from virtgym.envs.traces.requests import RequestTrace

SHORTEST, LONGEST = 500, 2500
"""Requests of a block."""

MOST_RATE = 0.5
"""Arrivals of a block are faster or slower by at most the factor exp(this)."""

LIFETIME_SPREAD = 0.3
"""Standard deviation of the logarithm of the factor on a block's lifetimes."""

SHARE_EXCHANGED = 0.35
"""Share of the requests that get the lifetime of another one of their size."""


def resample_requests(
    trace: RequestTrace, rows: tuple[int, int], n: int, config: PlacementConfig, large: float, seed: int
) -> RequestTrace:
    """Some rows of a stream, and after them n more that are resampled from them.

    Args:
        trace: The stream.
        rows: First of the rows, and the one after the last.
        n: Further requests.
        config: The cluster, which says what is large.
        large: Share of the further requests that are replaced by large ones, in the mean over blocks.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    own = np.arange(*rows)
    gaps = np.diff(trace.arrival_s[own], prepend=trace.arrival_s[own[0]])
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    others = _Others(trace, own)
    big = own[is_large(trace, own, config)]
    longest = min(LONGEST, len(own))
    picks, waits, lives = [own], [gaps], [trace.lifetime_s[own]]
    made = 0
    while made < n:
        length = min(int(rng.integers(min(SHORTEST, longest), longest + 1)), n - made)
        first = int(rng.integers(0, len(own) - length + 1))
        block, gap = own[first : first + length].copy(), gaps[first : first + length].copy()
        gap[0] = usual
        share = large * rng.choice([0.0, 0.5, 1.0, 2.5])
        swap = rng.random(length) < share
        if len(big):
            block[swap] = rng.choice(big, int(swap.sum()))
        exchanged = rng.random(length) < 2.0 * SHARE_EXCHANGED * (rng.random() < 0.5)
        life = np.where(exchanged, others.lifetimes(block, rng), trace.lifetime_s[block])
        picks.append(block)
        waits.append(gap * np.exp(rng.uniform(-MOST_RATE, MOST_RATE)))
        lives.append(life * np.exp(rng.normal(0.0, LIFETIME_SPREAD)))
        made += length
    every = np.concatenate(picks)
    return RequestTrace(
        f"{trace.name}-resampled", trace.format, trace.source, trace.cores[every], trace.memory_gib[every],
        np.cumsum(np.concatenate(waits)), np.concatenate(lives), np.arange(len(every)),
    )  # fmt: skip


def is_large(trace: RequestTrace, rows: I8, config: PlacementConfig) -> NDArray[np.bool_]:
    """Whether requests ask for more than half of a node, so that no two of them go on one, (R,)."""
    share = np.where(trace.memory_gib[rows] > config.double_above_gib, 0.5, 1.0)
    cores, memory = trace.cores[rows] * share, trace.memory_gib[rows] * share
    return np.asarray((2.0 * cores > config.node_cores) | (2.0 * memory > config.node_memory_gib))


def large_shapes(
    trace: RequestTrace, rows: I8, config: PlacementConfig, share: float
) -> tuple[tuple[float, float], ...]:
    """Cores and GiB of the large requests that are at least a share of all, the commonest first."""
    big = rows[is_large(trace, rows, config)]
    sizes = np.column_stack([trace.cores[big], trace.memory_gib[big]])
    shapes, counts = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple((float(shapes[i, 0]), float(shapes[i, 1])) for i in order if counts[i] >= share * len(rows))


class _Others:
    """Lifetimes of requests of the same size.

    Args:
        trace: The stream.
        rows: Rows that lifetimes are drawn from.
    """

    def __init__(self, trace: RequestTrace, rows: I8) -> None:
        sizes = np.column_stack([trace.cores, trace.memory_gib])
        _, self._kind = np.unique(sizes, axis=0, return_inverse=True)
        self._kind = self._kind.ravel()
        kinds = self._kind[rows]
        order = np.argsort(kinds, kind="stable")
        self._sorted, self._lifetimes = kinds[order], trace.lifetime_s[rows][order]

    def lifetimes(self, rows: I8, rng: np.random.Generator) -> F8:
        """For each of some of the rows the lifetime of another one of its size."""
        low, high = (np.searchsorted(self._sorted, self._kind[rows], side) for side in ("left", "right"))
        return np.asarray(self._lifetimes[low + (rng.random(len(rows)) * (high - low)).astype(np.int64)])
