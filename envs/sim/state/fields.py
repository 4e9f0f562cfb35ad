"""How a field of a record of arrays is declared: once, with type, shape, meaning, unit and owner.

    vm_ready_mhz: Annotated[F8, Of("V", "ready and not scheduled, MHz per vCPU", "full")]

is an array of float64 of shape (V,) that has length 0 unless the part ``full`` is on.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from ...arrays import number_of
from ...jit.records import Record


class Of(NamedTuple):
    """What the type of a field does not say.

    Attributes:
        shape: Its dimensions, comma between them; a letter stands for a size, empty = a number or a record.
        meaning: What it holds, and its unit.
        part: The part of the model that owns it: its dimensions are 0 where that is off; empty = always on.
        dtype: Of a record's numbers.
    """

    shape: str
    meaning: str
    part: str = ""
    dtype: type[np.generic] = np.float64


class Signal(Of):
    """A field that follows from the trace's sample of now; views have another one (``telemetry.shown``)."""

    __slots__ = ()


class Gauge(Signal):
    """A signal of every VM, float64 of shape (V,), of which views have the mean over a window of the past."""

    __slots__ = ()


class Past(Of):
    """A field of what was measured, apart from the rest: views on forks, which measure nothing, have none."""

    __slots__ = ()


class Rows(Of):
    """All gauges once more, a row each, as one array of shape (G, W): the same memory."""

    __slots__ = ()


class Field(NamedTuple):
    """A field as it was declared.

    Attributes:
        dims: Its dimensions.
        dtype: Of its numbers.
        part: Its owner.
        record: Its class, if it is a record.
        role: ``Of`` for structure: what a manager of the cluster knows exactly and at once; or a subclass.
    """

    dims: tuple[str, ...]
    dtype: np.dtype[np.generic]
    part: str
    record: type[Record] | None
    role: type[Of]


@functools.cache
def fields_of(kind: type[Any]) -> dict[str, Field]:
    """The fields of a named tuple that are declared with ``Of``, by name."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if of := next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Of)), None):
            base = hint.__origin__
            record = base if isinstance(base, type) and issubclass(base, Record) else None
            dims = tuple(of.shape.split(",")) if of.shape else ()
            number = number_of(base) or (of.dtype if record else base)
            found[name] = Field(dims, np.dtype(number), of.part, record, type(of))
    return found


def switched_off(kind: type[Any]) -> dict[str, Any]:
    """The values of all fields that a part owns where every part is off: arrays of length 0, and 0."""
    return {
        name: np.empty((0,) * len(field.dims), field.dtype) if field.dims else field.dtype.type(0).item()
        for name, field in fields_of(kind).items()  # type: ignore[arg-type]  # classes can be hashed
        if field.part
    }
