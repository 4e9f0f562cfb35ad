"""What every column of an observation has: a name, a range and a meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .jit.records import Place, Record


@dataclass(frozen=True)
class Column:
    """One column of a table: its name, its largest value and what it says."""

    name: str
    high: float
    doc: str
    _: KW_ONLY
    low: float = 0.0

    @property
    def schema(self) -> dict[str, float]:
        """Its range."""
        return {"low": self.low, "high": self.high}


class NamedColumn(Place):
    """A column that a kernel writes by its name, as a place of a ``Record``."""

    def __init__(self, high: float, meaning: str, *, low: float = 0.0) -> None:
        super().__init__(meaning)
        self.high, self.low = high, low


def columns_of_record(record: type[Record], name: str = "{}", **words: str) -> tuple[Column, ...]:
    """The columns that the places of a record stand for; ``words`` fill in their texts.

    Args:
        record: Its places are ``NamedColumn``.
        name: Pattern of their names.
        **words: Fields of the texts.
    """
    return tuple(
        Column(name.format(key), place.high, place.meaning.format(**words), low=place.low)
        for key, place in record.places.items()
        if isinstance(place, NamedColumn)
    )


def blank(record: type[Record]) -> Any:
    """A record of float32, which tells kernels the names of a row."""
    return np.zeros(len(record.places), dtype=np.float32).view(record)


def bounds(columns: Iterable[Column]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the largest values of some columns, as float32."""
    low, high = zip(*((column.low, column.high) for column in columns), strict=True)
    return np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)


def box(columns: Iterable[Column]) -> spaces.Box:
    """The space of a vector of some columns."""
    return spaces.Box(*bounds(columns))
