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


def number_of(array: Any) -> Any:
    """The kind of number of an ``NDArray[…]``, None of what is none.

    Such a type has a shape and a dtype; since NumPy 2.5 it is an alias that has the kind of number alone.
    """
    *_, number = get_args(array) or (None,)
    return (*get_args(number), number)[0]
