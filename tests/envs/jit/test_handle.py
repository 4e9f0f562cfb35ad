"""Handles: some arrays replaced, and found by their addresses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.jit.handle import handle_at, make_handle
from virtgym.envs.jit.kernels import kernel


class Pair(NamedTuple):
    """Two arrays and a number."""

    first: NDArray[np.float64]
    second: NDArray[np.int64]
    number: int


@kernel
def total(pair: Pair) -> float:
    """All that a handle leads to."""
    return float(pair.first.sum() + pair.second.sum() + pair.number)


@kernel
def totals(addresses: NDArray[np.int64], like: Any, out: NDArray[np.float64]) -> None:
    """The same of handles by their addresses."""
    for i in range(len(addresses)):
        out[i] = total(handle_at(addresses[i], like))


def test_a_handle_is_found_by_its_address() -> None:
    pairs = [Pair(np.arange(float(n)), np.arange(n), n) for n in range(1, 6)]
    handles: list[Any] = [make_handle("pair", pair) for pair in pairs]
    out = np.zeros(5)
    totals(np.array([handle.address for handle in handles]), handles[0], out)
    assert out.tolist() == [total(handle) for handle in handles]


def test_some_arrays_are_replaced_and_the_others_shared() -> None:
    first, other = np.ones(3), np.ones(7)
    handle: Any = make_handle("pair", Pair(first, np.zeros(2, np.int64), 0))
    twin: Any = handle.replaced(first=other, number=np.int64(2))
    assert (total(handle), total(twin)) == (3.0, 9.0)
    handle.arrays[1][:] = 5
    assert (total(handle), total(twin)) == (13.0, 19.0)
