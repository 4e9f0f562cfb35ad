"""One kernel that many call, reached through its address.

Numba links what a kernel calls into the kernel, and optimises it there again. The rates of hosts are worked
out after every event: linked into every event's kernel they would be compiled a dozen times over. So that
kernel is compiled once, as a C function, and the parameters' handle carries its address.
"""

# numba and llvmlite describe their extension points with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, import-untyped, no-any-return"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit.handle import Handle, HandleType
from ...jit.kernels import compile_callback, kernel
from .network import EVERYWHERE, renew_rates


@intrinsic
def _call(_context: Any, address: Any, p: Any, s: Any, a: Any, b: Any, changed: Any, elapsed_s: Any) -> Any:
    signature = types.void(types.int64, p, s, types.int64, types.int64, types.int64, types.float64)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word, real = ir.IntType(64), ir.DoubleType()
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, cgutils.voidptr_t, word, word, word, real])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return signature, generate


_call_address: Any = _call  # numba adds the typing context itself


@kernel
def renew_hosts(p: Any, s: Any, a: int, b: int, elapsed_s: float) -> None:
    """``network.renew_rates`` by its address: rates after something happened on one or two hosts.

    Args:
        p: Parameters of the full model.
        s: State; ``clock.event_s`` is now.
        a: Host.
        b: Another host, -1 = none.
        elapsed_s: Time since the segment began, s.
    """
    _call_address(p.fn_renew, p, s, a, b, EVERYWHERE, elapsed_s)


@kernel
def renew_flows(p: Any, s: Any, a: int, b: int, changed: int, elapsed_s: float) -> None:
    """The same where flows have changed, and on the first ``changed`` of the two hosts something else."""
    _call_address(p.fn_renew, p, s, a, b, changed, elapsed_s)


_COMPILED: dict[tuple[HandleType, HandleType], Any] = {}


def connect(params: Handle, state: Handle) -> None:
    """Put the address of the kernel into the parameters' handle; the first call compiles or loads it.

    Args:
        params: Handle of the full model's parameters.
        state: Handle of the state.
    """
    kinds = (params._numba_type_, state._numba_type_)
    if kinds not in _COMPILED:
        signature = types.void(*kinds, types.int64, types.int64, types.int64, types.float64)
        _COMPILED[kinds] = compile_callback(_renew, signature)
    params.arrays[kinds[0].index["fn_renew"]][...] = _COMPILED[kinds].address


def _renew(p: Any, s: Any, a: int, b: int, changed: int, elapsed_s: float) -> None:
    renew_rates(p, s, a, b, changed, elapsed_s)
