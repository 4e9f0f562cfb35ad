"""The ways in which this folder compiles kernels.

Numba counts the references of every array in an argument, at each call, atomically: with tuples of two dozen
arrays that is most of the run and of the compile time. No kernel here creates an array (views are allowed),
so that none needs counting; work space comes with the arguments.

A kernel is compiled again for every combination of argument types, and for Numba 0, 1, an int32 and an int64
are four types: numbers handed to a kernel are therefore made int64 (``wide``) where they are born.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from virtgym.envs.jit.kernels import kernel

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class Decorator(Protocol):
    """What compiles a function and, for a type checker, leaves it as it is."""

    def __call__(self, function: Kernel, /) -> Kernel:
        """Compile ``function``."""
        ...


_LEAN: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

entry_kernel: Decorator = kernel(**_LEAN)  # type: ignore[assignment]
"""A kernel that Python calls: the only kind that is cached, with all that it calls."""

lean_kernel: Decorator = njit(**_INNER, **_LEAN)
"""A kernel that only kernels call; entering it from Python would take longer to compile than the kernel."""

# LLVM optimises a callee again with every caller, and a call copies all fields of its tuples, some 500 words.
inline_kernel: Decorator = njit(inline="always", **_LEAN)
"""A kernel that is written into its callers: small, or called from one place only."""


wide: Any = np.int64
"""Makes an int64 of a number, for Numba; for a type checker anything."""

switch: Any = np.bool_
"""Makes a Boolean that is no constant, for Numba; for a type checker anything."""


@lean_kernel
def copy_range(target: NDArray[Any], source: NDArray[Any], start: int, stop: int) -> None:
    """Copy ``source[start:stop]`` to the same place of ``target``; a slice assignment creates an array."""
    for i in range(start, stop):
        target[i] = source[i]
