"""Kernels that are one thing for a simple cluster and another for the full model.

The handle that a kernel is given says by its label which model it belongs to. The choice is made when a
caller is compiled: a simple cluster neither runs nor compiles a line of the full model.
"""

# numba describes its extension points with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, no-any-return"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload

from .kernels import kernel as compiled

FULL = "full"
"""Label of the parameters' handle when some sub-model beyond the simple cluster is on."""


def by_model(simple: Callable[..., Any], full: Callable[..., Any]) -> Callable[..., Any]:
    """Join two kernels of the same arguments, the first of which is the parameters' handle.

    Args:
        simple: Kernel for a simple cluster.
        full: Kernel for the full model.

    Returns:
        What kernels call; outside of kernels it decides by the handle's label.
    """

    def kernel(*args: Any) -> Any:
        return (full if args[0]._numba_type_.label == FULL else simple)(*args)

    def choose(*args: Any) -> Callable[..., Any]:
        if args[0].label == FULL:

            def chosen(*args: Any) -> Any:
                return full(*args)

        else:

            def chosen(*args: Any) -> Any:
                return simple(*args)

        return chosen

    overload(kernel, strict=False)(choose)
    return kernel


@compiled
def nothing(*args: Any) -> None:
    """Do nothing: what a simple cluster, or the full model, has no need of."""


def only_full(full: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a kernel that does nothing on a simple cluster, where it is not even compiled."""
    return by_model(nothing, full)
