"""A binary heap in arrays, the least entry first, by key, then kind, then item: the order is total, so that
equal runs are equal to the last bit. Its length is its owner's business. (The batched placement game has its
own, by time alone, which is faster there.)
"""

from __future__ import annotations

from typing import Any

from ..arrays import F8
from .kernels import kernel


@kernel
def _key(keys: F8, items: Any, places: Any, i: int) -> Any:
    if places is None:
        return keys[i]
    return keys[items[i]]


@kernel
def _before(keys: F8, kinds: Any, items: Any, places: Any, i: int, key: float, kind: float, item: int) -> Any:
    """Whether the entry at place i comes before another."""
    here = _key(keys, items, places, i)
    if here != key:
        return here < key
    if kinds is not None and kinds[i] != kind:
        return kinds[i] < kind
    return items[i] < item


@kernel
def _write(keys: F8, kinds: Any, items: Any, places: Any, i: int, key: float, kind: float, item: int) -> None:
    if places is None:
        keys[i] = key
    else:
        places[item] = i
    if kinds is not None:
        kinds[i] = kind
    items[i] = item


@kernel
def _move(keys: F8, kinds: Any, items: Any, places: Any, i: int, j: int) -> None:
    """Move the entry at place i to place j."""
    kind = 0 if kinds is None else kinds[i]
    _write(keys, kinds, items, places, j, _key(keys, items, places, i), kind, items[i])


@kernel
def settle(
    keys: F8, kinds: Any, items: Any, places: Any, key: float, kind: float, item: int, i: int, n: int
) -> None:
    """Put an entry into a gap, or as far above or below as it belongs.

    The gap is the new last place to add an entry, its old place to change it, and the place of one that goes
    to let the last entry take it.

    Args:
        keys: Keys, by place; where ``places`` is given by item, and not written.
        kinds: Kinds, by place; None = no kinds.
        items: Items, by place.
        places: Place of every item that moves, by item; None = not kept.
        key: Key of the entry.
        kind: Its kind: a whole number, or any other that orders entries of one key.
        item: Its item.
        i: The gap.
        n: Length of the heap with the entry.
    """
    while i > 0:
        parent = (i - 1) >> 1
        if _before(keys, kinds, items, places, parent, key, kind, item):
            break
        _move(keys, kinds, items, places, parent, i)
        i = parent
    child = 2 * i + 1
    while child < n:
        if child + 1 < n:
            other = child + 1
            its_kind = 0 if kinds is None else kinds[child]
            its_key = _key(keys, items, places, child)
            if _before(keys, kinds, items, places, other, its_key, its_kind, items[child]):
                child = other
        if not _before(keys, kinds, items, places, child, key, kind, item):
            break
        _move(keys, kinds, items, places, child, i)
        i = child
        child = 2 * i + 1
    _write(keys, kinds, items, places, i, key, kind, item)
