"""Memory of a planner's kernels: a named tuple of zeroed arrays, typed as its fields are declared."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast, get_args, get_type_hints

import numpy as np

from virtgym.envs.sim.state.cluster_state import ClusterState

from .room import ROOM

Memory = TypeVar("Memory", bound=tuple[Any, ...])


def allocate_memory(
    kind: type[Memory],
    state: ClusterState,
    per_vm: Iterable[str],
    shapes: Mapping[str, int | tuple[int, ...]],
    known: Mapping[str, Any],
) -> Memory:
    """Make the memory, with the room of hosts (``planning.room``) beside the planner's own fields.

    Args:
        kind: The named tuple of the planner's own fields.
        state: State of the cluster.
        per_vm: Fields of shape (V,); all that is not named is (H,).
        shapes: Other shapes.
        known: Arrays that are there already; those that ``kind`` does not have, such as the rules'
            (``planning.rules``), are added.
    """
    n_hosts, n_vms = len(state.host_power_state), len(state.vm_state)
    sizes = dict.fromkeys(per_vm, n_vms) | dict(shapes)
    arrays = {name: np.zeros_like(getattr(state, name)) for name in ROOM} | dict(known)
    arrays["new_nodes"] = np.zeros(n_vms, dtype=np.int64)
    for name, hint in get_type_hints(kind).items():
        if name not in arrays:
            dtype = get_args(get_args(hint)[1])[0]  # of NDArray[dtype]
            arrays[name] = np.zeros(sizes.get(name, n_hosts), dtype=dtype)
    fields = tuple(sorted(arrays))
    return cast(Memory, _make(kind.__name__, fields, tuple(arrays[name] for name in fields)))


@functools.cache
def _record(name: str, fields: tuple[str, ...]) -> Any:
    """A named tuple that pickles by its fields, as its class has no place in a module."""
    record: Any = namedtuple(name, fields)  # type: ignore[misc]  # names are not literal

    def reduce(self: tuple[Any, ...]) -> Any:
        return _make, (name, fields, tuple(self))

    return type(name, (record,), {"__slots__": (), "__reduce__": reduce})


def _make(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _record(name, fields)._make(values)
