"""Kernels whose source is generated from a list of entries, each of which brings a small function."""

# numba describes its decorators with few or no types
# mypy: disable-error-code="no-untyped-call, call-overload, no-any-return"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from .kernels import kernel


def make_kernel(source: str, names: dict[str, Any], **options: Any) -> Any:
    """Compile a generated function; its digest, as of every kernel, covers what its names stand for.

    Args:
        source: Definition of one function.
        names: What it refers to.
        **options: As of ``kernel``.
    """
    space = {"__name__": __name__, **names}
    exec(compile(source, __file__, "exec"), space)
    return kernel(space[source.removeprefix("def ").partition("(")[0]], **options)


def inlined(function: Callable[..., Any]) -> Any:
    """A function of an entry, for kernels: it costs no more to compile than the same line in the kernel."""
    return numba.njit(function, inline="always", no_cfunc_wrapper=True)
