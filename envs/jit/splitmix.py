"""Random numbers in kernels: splitmix64 (Steele, Lea & Flood, OOPSLA 2014), one stream per key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import kernel


@kernel
def draw(keys: NDArray[np.uint64], b: int) -> Any:
    """The next 64 random bits of stream b; its key moves on."""
    keys[b] += np.uint64(0x9E3779B97F4A7C15)
    z = keys[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def draw_below(keys: NDArray[np.uint64], b: int, n: int) -> Any:
    """A whole number from 0 to n - 1, n < 2**31, without a division."""
    return np.int64(((draw(keys, b) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@kernel
def draw_share(keys: NDArray[np.uint64], b: int) -> Any:
    """A number in [0, 1)."""
    return np.float64(draw(keys, b) >> np.uint64(11)) * 2.0**-53
