"""Records: the same numbers by name and by place, in Python and in kernels."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba.core.errors import NumbaError

from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.jit.records import Place, Record, name_places
from virtgym.envs.sim.state.accumulators import Rates, Totals


class Few(Record):
    """Two places."""

    first = Place("one")
    second = Place("two")


class More(Few):
    """And another."""

    third = Place("three")


class Table(NamedTuple):
    """What a kernel takes."""

    one: More
    many: Few  # (3, 2)


@pytest.fixture
def table() -> Table:
    """Counting numbers."""
    return Table(np.arange(3.0).view(More), np.arange(6, dtype=np.int32).reshape(3, 2).view(Few))


def test_names_are_places(table: Table) -> None:
    assert (Few.first, Few.second, More.second, More.third) == (0, 1, 1, 2)
    assert list(More.places) == ["first", "second", "third"]
    assert table.one.third == 2.0
    assert isinstance(table.one.third, float)
    table.one.third += 5.0
    assert table.one.tolist() == [0.0, 1.0, 7.0]
    assert table.many.second.tolist() == [1, 3, 5]
    assert table.many[2].first == 4


def test_what_is_made_of_records_is_a_record(table: Table) -> None:
    assert (table.one - table.one.copy() + 1.0).third == 1.0
    assert pickle.loads(pickle.dumps(table.one)).third == 2.0
    steps: Any = np.diff(np.stack([table.one, 2 * table.one]).view(More), axis=0)
    assert steps.third.tolist() == [2.0]
    assert type(table.one.sum()) is np.float64


def test_no_name_may_mean_two_things() -> None:
    with pytest.raises(TypeError, match=r"Bad\.shape: arrays have"):
        type("Bad", (Record,), {"shape": Place("taken")})
    with pytest.raises(AttributeError):
        setattr(np.zeros(2).view(Few), "thrid", 1.0)  # noqa: B010


@kernel
def _work(t: Any, i: int) -> Any:
    t.one.first += t.one.third
    row = t.many[i]
    row.second = 10 * row.first
    made = name_places(np.zeros(2), t.many[0])
    made.second += 3.0
    return made.second + t.one[2]


@kernel
def _misspelt(t: Any) -> Any:
    return t.one.thrid


@kernel
def _write(t: Any) -> None:
    t.one.first = 1.0


def test_kernels_read_and_write_by_name(table: Table) -> None:
    assert _work(make_handle("table", table), 2) == 5.0
    assert table.one.tolist() == [2.0, 1.0, 2.0]
    assert table.many.tolist() == [[0, 1], [2, 3], [4, 40]]


def test_kernels_refuse_what_is_not_there_or_not_theirs(table: Table) -> None:
    with pytest.raises(NumbaError, match="thrid"):
        _misspelt(make_handle("table", table))
    with pytest.raises((NumbaError, TypeError), match="read only"):
        _write(make_handle("table", table, readonly=True))


def test_totals_have_the_rates_of_hosts_first() -> None:
    """What a host adds in a second goes to the totals place by place."""
    assert list(Totals.places)[: len(Rates.places)] == list(Rates.places)
