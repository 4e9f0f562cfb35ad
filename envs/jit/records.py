"""Numbers of one kind in a row, each with a name: what a kernel adds up, counts or knows of the time.

A ``Record`` is an array whose last axis is named. ``totals.energy_j`` reads and writes a number, in Python
and in kernels; sums, differences and copies of records are records; ``Totals.energy_j`` is the place. A name
that does not exist is an error of mypy, and of Numba when it compiles.
"""

# numba and llvmlite describe their extension points with few or no types
# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, override, no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    lower_setattr_generic,
    models,
    register_model,
    typeof_impl,
)
from numba.np import arrayobj
from numba.np.numpy_support import from_dtype


class Place:
    """A named place of a record; its number where the class is asked, its value where a record is."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning
        self.number = -1

    @overload
    def __get__(self, record: None, owner: type[Record]) -> int: ...
    @overload
    def __get__(self, record: Record, owner: type[Record]) -> Any: ...
    def __get__(self, record: Record | None, owner: type[Record]) -> Any:
        """The number of the place, or the value or the values there."""
        if record is None:
            return self.number
        return record[self.number] if record.ndim == 1 else np.asarray(record)[..., self.number]

    def __set__(self, record: Record, value: Any) -> None:
        """Write the value or the values."""
        record[..., self.number] = value


class Record(np.ndarray[Any, np.dtype[Any]]):
    """Base of all records: a subclass names its places, after those of its parent."""

    if TYPE_CHECKING:  # of arrays as of numbers

        def __add__(self, other: Any, /) -> Self: ...
        def __sub__(self, other: Any, /) -> Self: ...

    places: ClassVar[dict[str, Place]] = {}
    """All places by name, in order."""
    number: ClassVar[type[np.generic]] = np.float64
    """Type of the numbers."""

    def __init_subclass__(cls) -> None:
        """Number the places.

        Raises:
            TypeError: If a name means something else to an array.
        """
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Place)}
        for name, place in own.items():
            if hasattr(np.ndarray, name):
                raise TypeError(f"{cls.__name__}.{name}: arrays have an attribute of this name")
            place.number = len(cls.places) + list(own).index(name)
        cls.places = cls.places | own

    @classmethod
    def zeros(cls) -> Self:
        """Make one of zeros."""
        return np.zeros(len(cls.places), dtype=cls.number).view(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        """Write to a place, never to a name that is not there."""
        if not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        super().__setattr__(name, value)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """What a calculation gives: a number where no axis is left."""
        return array[()] if array.ndim == 0 else super().__array_wrap__(array, context, return_scalar)


class RecordArray(types.Array):
    """The Numba type of a record: an array of one or two axes, with the names of the last."""

    def __init__(self, kind: type[Record], dtype: types.Type, ndim: int, readonly: bool = False) -> None:
        self.kind = kind
        shown = "readonly " if readonly else ""
        name = f"{shown}{kind.__name__}({dtype}, {ndim}d, {' '.join(kind.places)})"
        super().__init__(dtype, ndim, "C", readonly=readonly, name=name)

    @property
    def key(self) -> Any:
        """What makes two types the same."""
        return *super().key, self.kind.__name__, tuple(self.kind.places)

    def copy(
        self, dtype: Any = None, ndim: Any = None, layout: Any = None, readonly: Any = None
    ) -> types.Array:
        """A row of records is a record; any other part is an array."""
        if (self.ndim, ndim, layout) == (2, 1, "C") and dtype is None:
            return RecordArray(self.kind, self.dtype, 1, not self.mutable if readonly is None else readonly)
        return super().copy(dtype, ndim, layout, readonly)


register_model(RecordArray)(models.ArrayModel)


@typeof_impl.register(Record)
def _typeof_record(value: Record, _context: Any) -> types.Array:
    return RecordArray(type(value), from_dtype(value.dtype), value.ndim, not value.flags.writeable)


@infer_getattr
class _RecordAttributes(AttributeTemplate):
    key = RecordArray

    def generic_resolve(self, kind: RecordArray, name: str) -> types.Type | None:
        return kind.dtype if kind.ndim == 1 and name in kind.kind.places else None


def _address(context: Any, builder: Any, kind: RecordArray, value: Any, name: str) -> Any:
    data = arrayobj.make_array(kind)(context, builder, value).data
    return cgutils.gep_inbounds(builder, data, kind.kind.places[name].number)


@lower_getattr_generic(RecordArray)
def _get_place(context: Any, builder: Any, kind: RecordArray, value: Any, name: str) -> Any:
    return context.unpack_value(builder, kind.dtype, _address(context, builder, kind, value, name))


@lower_setattr_generic(RecordArray)
def _set_place(context: Any, builder: Any, signature: Any, args: Any, name: str) -> None:
    kind, given = signature.args
    if not kind.mutable:
        raise TypeError(f"a kernel writes to {name} of a record that is read only")
    value = context.cast(builder, args[1], given, kind.dtype)
    context.pack_value(builder, kind.dtype, value, _address(context, builder, kind, args[0], name))


@intrinsic
def _name_places(_context: Any, array: Any, like: Any) -> Any:
    kind = RecordArray(like.kind, array.dtype, 1)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return kind(array, like), generate


name_places: Any = _name_places
"""``name_places(array, record)``, for kernels: the array as a record of the same kind as the other."""
