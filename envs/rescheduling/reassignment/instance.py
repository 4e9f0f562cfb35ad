"""An instance of the machine reassignment problem (ROADEF/EURO challenge 2012) as flat arrays of integers.

R resources, M machines, S services, P processes, B balance costs; L locations and N neighbourhoods, numbered
anew without gaps. Everything is an integer, and so is every cost.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import I8
from virtgym.envs.checks import need
from virtgym.envs.jit.handle import make_handle


class Instance(NamedTuple):
    """What kernels read; the first 19 are declared by the files, the others follow from them."""

    transient: I8  # (R,) 1: a process that moves takes it on both machines
    load_weight: I8  # (R,) cost of a unit above the safety capacity
    neighbourhood: I8  # (M,)
    location: I8  # (M,)
    capacity: I8  # (M, R)
    safety: I8  # (M, R)
    machine_move: I8  # (M, M) cost of moving from one machine to another
    spread_min: I8  # (S,) locations that a service needs at least
    need_first: I8  # (S + 1,) rows of the next one that are of a service
    need: I8  # (D,) services that must be in every neighbourhood where it is
    service: I8  # (P,)
    demand: I8  # (P, R)
    process_move: I8  # (P,) cost of moving it at all
    balance_have: I8  # (B,) resource of which ``target`` times as much should be free ...
    balance_want: I8  # (B,) ... as is free of this one
    balance_target: I8  # (B,)
    balance_weight: I8  # (B,)
    weights: I8  # (3,) of process, service and machine moves
    home: I8  # (P,) machine before
    needed_first: I8  # (S + 1,) rows of the next one that are of a service
    needed: I8  # (D,) services that need it
    member_first: I8  # (S + 1,) rows of the next one that are of a service
    member: I8  # (P,) its processes


class ReassignmentProblem:
    """An instance with its name, and what is known about it.

    Attributes:
        name: Name of the model file, without what all have in common.
        arrays: The instance.
        n_locations: L.
        n_neighbourhoods: N.
    """

    def __init__(self, name: str, arrays: Instance) -> None:
        """Keep the arrays, locations and neighbourhoods numbered without gaps.

        Raises:
            ConfigError: If a cost could exceed 63 bits.
        """
        near, self.n_neighbourhoods = _number(arrays.neighbourhood)
        place, self.n_locations = _number(arrays.location)
        self.name = name
        self.arrays = Instance(
            *(
                np.ascontiguousarray(array, dtype=np.int64)
                for array in arrays._replace(neighbourhood=near, location=place)
            )
        )
        need(_largest_cost(self.arrays) < 2**62, f"{name}: a cost could exceed 62 bits")

    @cached_property
    def handle(self) -> Any:
        """Handle to the arrays for kernels."""
        return make_handle("reassignment", self.arrays, readonly=True)

    @property
    def n_resources(self) -> int:
        """R."""
        return len(self.arrays.transient)

    @property
    def n_machines(self) -> int:
        """M."""
        return len(self.arrays.location)

    @property
    def n_services(self) -> int:
        """S."""
        return len(self.arrays.spread_min)

    @property
    def n_processes(self) -> int:
        """P."""
        return len(self.arrays.service)


def _number(labels: I8) -> tuple[I8, int]:
    names, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), len(names)


def derive(declared: dict[str, I8]) -> Instance:
    """The instance of what its files declare: the arrays by name."""
    n_services = len(declared["spread_min"])
    owner = np.repeat(np.arange(n_services), np.diff(declared["need_first"]))
    first, order = group_rows(declared["need"], n_services)
    member_first, member = group_rows(declared["service"], n_services)
    return Instance(
        **declared,
        needed_first=first,
        needed=owner[order],
        member_first=member_first,
        member=member,
    )


def group_rows(group: I8, n: int) -> tuple[I8, I8]:
    """Rows by group: where those of each of n groups begin, (n + 1,), and the rows, in order."""
    counts = np.bincount(group, minlength=n)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.argsort(group, kind="stable")


def _largest_cost(a: Instance) -> float:
    """More than any assignment can cost, or than any sum on the way to a cost can be."""
    demand = a.demand.astype(np.float64).sum(axis=0)
    capacity = a.capacity.astype(np.float64).sum(axis=0)
    load = float(demand @ a.load_weight.astype(np.float64))
    target = a.balance_target.astype(np.float64)
    imbalance = target * (capacity + demand)[a.balance_have] + (capacity + demand)[a.balance_want]
    moves = float(a.process_move.astype(np.float64).sum()) * float(a.weights[0])
    moves += float(a.machine_move.max(initial=0)) * len(a.service) * float(a.weights[2])
    moves += float(a.weights[1]) * len(a.service)
    return load + float(imbalance @ a.balance_weight.astype(np.float64)) + moves
