"""The two ways in which this folder compiles kernels."""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy.typing import NDArray

__all__ = ["copy_range", "kernel", "lean_kernel"]

kernel = njit(cache=True, error_model="numpy", _nrt=True)
"""An ordinary kernel."""

# Numba counts the references of every array in an argument, at each call, atomically: with tuples of two dozen
# arrays that is most of the run and of the compile time. Kernels that create no array need no counting.
lean_kernel = njit(cache=True, error_model="numpy", _nrt=False)
"""A kernel that creates no array (views are allowed), for functions that take the big tuples."""


@lean_kernel
def copy_range(target: NDArray[Any], source: NDArray[Any], start: int, stop: int) -> None:
    """Copy ``source[start:stop]`` to the same place of ``target`` without the temporary of a slice assignment."""
    for i in range(start, stop):
        target[i] = source[i]
