"""Array types say what they hold, in the form of every NumPy that is supported."""

from __future__ import annotations

import types

import numpy as np
import pytest

from virtgym.envs import arrays
from virtgym.envs.arrays import number_of

NUMBERS = {"B1": np.bool_, "I1": np.int8, "U1": np.uint8, "F4": np.float32, "I4": np.int32, "F8": np.float64}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_kind_of_number_is_read_in_the_form_of_any_numpy(name: str) -> None:
    kind = NUMBERS[name]
    before = types.GenericAlias(np.ndarray, (tuple[int, ...], types.GenericAlias(np.dtype, (kind,))))
    since_2_5 = types.GenericAlias(np.ndarray, (kind,))
    for array in (getattr(arrays, name), before, since_2_5):
        assert number_of(array) is kind


def test_what_is_no_array_type_has_none() -> None:
    assert number_of(float) is None
    assert number_of(np.ndarray) is None
