"""Short names of array types: kind of number (B truth value, I and U integer, F float) and bytes."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

B1 = NDArray[np.bool_]
I1 = NDArray[np.int8]
U1 = NDArray[np.uint8]
F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]


def number_of(array: Any) -> type[np.generic] | None:
    """The kind of number that an array type like ``F8`` holds; None = it is no array type.

    Args:
        array: The type. From NumPy 2.5 on it has the kind itself as its argument, before a shape and a dtype.
    """
    last = get_args(array)[-1:]
    return (get_args(last[0]) or last)[0] if last else None
