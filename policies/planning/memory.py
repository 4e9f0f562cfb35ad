"""Memory of a planner's kernels: a named tuple of zeroed arrays, typed as a class declares them."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast, get_type_hints

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I4, I8, number_of
from virtgym.envs.jit.records import Record
from virtgym.envs.sim.state.cluster_state import ClusterState


class PlanMemory:
    """What the memory of every planner has: where VMs are in the plan, and the room that is taken.

    A planner's own memory is declared as a subclass; ``allocate_memory`` makes it.
    """

    home: I4  # (V,) host now, or after the migration or boot under way; -1 = none
    n_home: I8  # (H,) VMs at home
    first: NDArray[Any]  # (H + 1,) start of each host's VMs in ``vm_of``
    vm_of: I4  # (V,) VMs by home, ascending
    host_mem_mib: F8  # this and the next 6: room as in the state, with the orders of the plan
    host_nominal_mhz: F8
    host_reserved_mhz: F8
    host_mem_reserved_mib: F8
    host_functions_used: I4
    node_vcpus: F8
    node_used_mib: F8
    new_nodes: I8  # (V,) nodes that the plan holds for it
    vm_need_mib: F8  # (V,) memory that it needs resident (multiplexed memory), MiB; 0 = nobody counts
    need_mib: F8  # (H,) the same of the VMs that are on a host, leave it, or come in the plan
    need_most: F8  # (H,) most of it that costs no work
    vm_plan_mhz: F8  # this and what follows with NUMA only (``nodes``): (V,) CPU that is expected of it
    vm_given_mhz: F8  # (V,) the part of it that its host can give
    node_at: I4  # (V,) host on which it is in the plan, -1 = none
    here_nodes: I8  # (V,) its nodes at home
    node_loss: F8  # (H,) work that remote memory takes in the plan, MHz; ``UNKNOWN`` = not asked yet
    node_vms: I4  # (V,) scratch
    node_load_mhz: F8  # this and the next 4: what the simulator's NUMA model reads and writes, in the plan
    vm_nodes: I8
    vm_pages_end_s: F8
    vm_remote_share: F8
    vm_numa_slowdown: F8


ROOM = (
    "host_mem_mib",
    "host_nominal_mhz",
    "host_reserved_mhz",
    "host_mem_reserved_mib",
    "host_functions_used",
    "node_vcpus",
    "node_used_mib",
)
"""Fields of the state of which a planner's memory has its own."""

NODES = ("node_load_mhz", "vm_nodes", "vm_pages_end_s", "vm_remote_share", "vm_numa_slowdown")
"""The same of the NUMA model; without it they are empty, and so is what belongs to them."""

Memory = TypeVar("Memory", bound=PlanMemory)


def allocate_memory(
    kind: type[Memory],
    state: ClusterState,
    per_vm: Iterable[str],
    shapes: Mapping[str, int | tuple[int, ...]],
    known: Mapping[str, Any],
) -> Memory:
    """Make the memory, with the room of hosts (``planning.room``) beside the planner's own fields.

    Args:
        kind: The planner's memory.
        state: State of the cluster.
        per_vm: Fields of shape (V,); all that is not named is (H,).
        shapes: Other shapes.
        known: Arrays that are there already; those that ``kind`` does not have, such as the rules'
            (``planning.rules``), are added.
    """
    n_hosts, n_vms = len(state.host_power_state), len(state.vm_state)
    on_nodes = ("vm_plan_mhz", "vm_given_mhz", "node_at", "here_nodes", "node_vms")
    sizes = dict.fromkeys(on_nodes, len(state.vm_nodes)) | dict.fromkeys(per_vm, n_vms) | dict(shapes)
    arrays = {name: np.zeros_like(getattr(state, name)) for name in ROOM + NODES} | dict(known)
    arrays["new_nodes"] = np.zeros(n_vms, dtype=np.int64)
    arrays["vm_need_mib"] = np.zeros(n_vms)
    for name, hint in get_type_hints(kind).items():
        if name not in arrays:
            if isinstance(hint, type) and issubclass(hint, Record):
                arrays[name] = hint.zeros()
                continue
            arrays[name] = np.zeros(sizes.get(name, n_hosts), dtype=number_of(hint))
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
