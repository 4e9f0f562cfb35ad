"""What an array type says of itself, in every form that NumPy has given it."""

from __future__ import annotations

from types import GenericAlias
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, number_of


class Alias:
    """What ``NDArray`` is since NumPy 2.5: an alias with one argument."""


@pytest.mark.parametrize(
    ("array", "number"),
    [
        (NDArray[np.int32], np.int32),
        (F8, np.float64),
        (np.ndarray[tuple[Any, ...], np.dtype[np.bool_]], np.bool_),
        (GenericAlias(Alias, (np.int8,)), np.int8),
        (float, None),
        (None, None),
    ],
)
def test_the_kind_of_number_of_an_array(array: Any, number: Any) -> None:
    assert number_of(array) is number
