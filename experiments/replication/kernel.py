"""The ways in which this folder compiles kernels.

Numba counts the references of every array in an argument, at each call, atomically: with tuples of two dozen arrays
that is most of the run and of the compile time. No kernel here creates an array (views are allowed), so that none
needs counting; work space comes with the arguments.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy.typing import NDArray

__all__ = ["copy_range", "entry_kernel", "inline_kernel", "kernel"]

entry_kernel = njit(cache=True, error_model="numpy", _nrt=False)
"""A kernel that Python calls. Its cache does not see changes in other files: delete it after editing them."""

kernel = njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""A kernel that only kernels call; entering it from Python would take longer to compile than the kernel."""

# LLVM optimises a callee again with every caller, and a call copies every field of its tuples, some 500 words.
inline_kernel = njit(error_model="numpy", _nrt=False, inline="always")
"""A kernel that is written into its callers: small, or called from one place only."""


@kernel
def copy_range(target: NDArray[Any], source: NDArray[Any], start: int, stop: int) -> None:
    """Copy ``source[start:stop]`` to the same place of ``target`` without the temporary of a slice assignment."""
    for i in range(start, stop):
        target[i] = source[i]
