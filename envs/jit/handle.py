"""Pass a named tuple of many arrays to Numba kernels as one pointer.

Numba hands a named tuple to a function by value: with some eighty arrays that is more than five hundred
machine words for every call, and as many for the compiler to look at. A ``Handle`` is a pointer to a table of
addresses and lengths; inside a kernel ``s.vm_host[v]`` reads as on the named tuple itself.

The table is constant for the life of a handle, so its loads are marked invariant and leave the loops.
"""

# numba and llvmlite describe their extension points with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, override, import-untyped, no-any-return"

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np import arrayobj
from numba.np.numpy_support import from_dtype

from .records import Record, RecordArray

WORDS = 4
"""Words per field in the table: address, length of axis 0, length of axis 1, unused."""

Layout = tuple[tuple[str, str, int, type[Record] | None], ...]
"""Name, dtype character, number of axes and kind of record of each field; 0 axes: a number by itself."""


class HandleType(types.Type):
    """The Numba type of a handle: its layout is part of the type, its addresses are not."""

    def __init__(self, label: str, layout: Layout, readonly: bool) -> None:
        self.label = label
        self.layout = layout
        self.readonly = readonly
        self.index = {name: i for i, (name, *_) in enumerate(layout)}
        # the name stands in every message and every mangled symbol: a digest says as much as the layout
        fields = [(*rest, kind and (kind.__name__, *kind.places)) for *rest, kind in layout]
        digest = hashlib.blake2b(repr(fields).encode(), digest_size=8).hexdigest()
        super().__init__(name=f"Handle({label}, {digest}, {readonly})")

    def field(self, name: str) -> types.Type:
        """Numba type of a field."""
        _, char, ndim, kind = self.layout[self.index[name]]
        scalar = from_dtype(np.dtype(char))
        if kind is not None:
            return RecordArray(kind, scalar, ndim, self.readonly)
        return scalar if ndim == 0 else types.Array(scalar, ndim, "C", readonly=self.readonly)


register_model(HandleType)(models.OpaqueModel)


class Handle:
    """The Python side of a handle. It keeps the arrays alive."""

    __slots__ = ("_numba_type_", "address", "arrays", "table")

    def __init__(self, kind: HandleType, arrays: tuple[Any, ...]) -> None:
        self._numba_type_ = kind
        self.arrays = tuple(np.asanyarray(a) for a in arrays)
        self.table = np.array([_entry(array) for array in self.arrays], dtype=np.int64)
        self.address = int(self.table.ctypes.data)

    def replaced(self, **arrays: Any) -> Handle:
        """A handle to the same arrays but for some, of the same dtypes and axes, by their names."""
        twin, kind = object.__new__(Handle), self._numba_type_
        places = {kind.index[name]: np.asanyarray(array) for name, array in arrays.items()}
        twin._numba_type_ = kind
        twin.arrays = tuple(places.get(i, array) for i, array in enumerate(self.arrays))
        twin.table = self.table.copy()
        for i, array in places.items():
            twin.table[i] = _entry(array)
        twin.address = int(twin.table.ctypes.data)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the arrays, never the addresses."""
        kind = self._numba_type_
        return _rebuild, (kind.label, kind.layout, kind.readonly, self.arrays)


def _entry(array: Any) -> tuple[int, ...]:
    """A field's words in the table."""
    if not array.flags.c_contiguous:
        raise ValueError("a handle needs C-contiguous arrays")
    # ``array.ctypes`` takes three times as long
    return (array.__array_interface__["data"][0], *array.shape, 0, 0, 0)[:WORDS]


ADDRESS_AT = object.__basicsize__ + sorted(Handle.__slots__).index("address") * tuple.__itemsize__
"""Offset of ``address`` in the memory of a handle: slots follow the header, in the order of their names."""

_TYPES: dict[tuple[str, bool], HandleType] = {}


def make_handle(label: str, record: Any, readonly: bool = False) -> Handle:
    """Make a handle to a named tuple of arrays and numbers.

    Args:
        label: Name of the kind; two records of one kind need the same fields, dtypes and axes.
        record: A named tuple. Numbers are copied (floats as float64, ints as int64), arrays are shared.
        readonly: Whether a kernel that writes through the handle is refused by the compiler.

    Returns:
        The handle; it must live as long as a kernel may use it.
    """
    arrays = tuple(np.asanyarray(value) for value in record)
    layout = tuple(
        (name, array.dtype.char, array.ndim, type(array) if isinstance(array, Record) else None)
        for name, array in zip(record._fields, arrays)
    )
    return _rebuild(label, layout, readonly, arrays)


def _rebuild(label: str, layout: Layout, readonly: bool, arrays: tuple[Any, ...]) -> Handle:
    kind = _TYPES.get((label, readonly))
    if kind is None or kind.layout != layout:
        kind = _TYPES[label, readonly] = HandleType(label, layout, readonly)
    return Handle(kind, arrays)


@typeof_impl.register(Handle)
def _typeof_handle(value: Handle, _context: Any) -> HandleType:
    return value._numba_type_


@unbox(HandleType)
def _unbox_handle(_kind: HandleType, value: Any, c: Any) -> NativeValue:
    # Straight from the object's memory: looking the attribute up took half of the time of a small kernel.
    slot = cgutils.pointer_add(c.builder, value, ADDRESS_AT, c.pyapi.pyobj.as_pointer())
    address = c.pyapi.long_as_longlong(c.builder.load(slot))
    return NativeValue(c.builder.inttoptr(address, cgutils.voidptr_t))


@infer_getattr
class _HandleAttributes(AttributeTemplate):
    key = HandleType

    def generic_resolve(self, kind: HandleType, name: str) -> types.Type | None:
        return kind.field(name) if name in kind.index else None


@intrinsic
def _handle_at(_context: Any, address: Any, like: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return like(types.int64, like), generate


handle_at: Any = _handle_at
"""``handle_at(address, handle)``, for kernels: the handle whose ``address`` that is, of the other's kind."""


def _invariant_load(builder: Any, pointer: Any) -> Any:
    load = builder.load(pointer)
    load.set_metadata("invariant.load", builder.module.add_metadata([]))
    return load


@lower_getattr_generic(HandleType)
def _get_field(context: Any, builder: Any, kind: HandleType, value: Any, name: str) -> Any:
    word = ir.IntType(64)
    table = builder.bitcast(value, word.as_pointer())
    first = kind.index[name] * WORDS

    def entry(offset: int) -> Any:
        return _invariant_load(builder, builder.gep(table, [ir.Constant(word, first + offset)]))

    field = kind.field(name)
    if not isinstance(field, types.Array):
        return builder.load(builder.inttoptr(entry(0), context.get_data_type(field).as_pointer()))
    data = builder.inttoptr(entry(0), context.get_data_type(field.dtype).as_pointer())
    shape = [entry(1 + axis) for axis in range(field.ndim)]
    itemsize = context.get_constant(types.intp, np.dtype(str(field.dtype)).itemsize)
    strides = [itemsize]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = arrayobj.make_array(field)(context, builder)
    arrayobj.populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()
