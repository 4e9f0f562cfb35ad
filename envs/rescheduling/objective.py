"""What is to become small: named terms of a snapshot, each with a weight, and each kept up in O(1) per move.

    objective = sum of weight * term

- ``fragment``: fragment rate for VMs of ``fragment_cores``: what of the free CPU of nodes cannot hold one
  more of them, sum of (free mod size) over sum of free;
- ``hosts_used``: hosts with a VM / hosts; the others are empty;
- ``imbalance``: standard deviation of the hosts' CPU loads;
- ``energy``: power of the hosts in use at their loads / power of all at full load; an empty host is off;
- ``migration``: hours that the moves take, by pre-copy of each VM's memory.

Loads, watts and seconds are summed as whole numbers (loads in 2**-20, mW, ms), so that a sum which was kept
up is the sum, to the bit, whatever the order of moves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..arrays import F8, I8
from ..checks import need, need_not_negative, need_positive, need_share
from ..sim.models.precopy import PrecopyConfig, plan_precopy, precopy_params
from .snapshot import MILLI, Snapshot

TERMS: tuple[str, ...] = ("fragment", "hosts_used", "imbalance", "energy", "migration")
"""The terms; kernels know one by its place."""

MIB_S_PER_MBPS = 1e6 / 8 / 2**20


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms, and what they depend on.

    Attributes:
        fragment: Weight of the fragment rate.
        hosts_used: Weight of the share of hosts in use.
        imbalance: Weight of the standard deviation of CPU loads.
        energy: Weight of the power of the snapshot.
        migration: Weight of an hour of migration.
        fragment_cores: Cores on a node of the VMs that fragments are counted for.
        copy_mbps: Rate at which a VM's memory is copied, Mbit/s.
        dirty_mib_s: Memory that a VM dirties, MiB/s.
        working_share: Share of its memory that it dirties over and over.
    """

    fragment: float = 1.0
    hosts_used: float = 0.0
    imbalance: float = 0.0
    energy: float = 0.0
    migration: float = 0.0
    fragment_cores: float = 16.0
    copy_mbps: float = 10_000.0
    dirty_mib_s: float = 64.0
    working_share: float = 0.25

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_not_negative("objective", **{name: getattr(self, name) for name in TERMS})
        need(any(self.weights), f"objective: one of {', '.join(TERMS)} must have a weight above 0")
        need_positive("objective", fragment_cores=self.fragment_cores, copy_mbps=self.copy_mbps)
        need(
            self.fragment_cores <= 2**20,
            f"objective.fragment_cores={self.fragment_cores}: is no size of a VM",
        )
        need_not_negative("objective", dirty_mib_s=self.dirty_mib_s)
        need_share("objective", working_share=self.working_share)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each of ``TERMS``."""
        return tuple(getattr(self, name) for name in TERMS)

    @property
    def fragment_size(self) -> int:
        """``fragment_cores`` in units of a snapshot."""
        return max(1, round(self.fragment_cores * MILLI))

    def migration_ms(self, snapshot: Snapshot) -> I8:
        """How long each VM's migration takes by the pre-copy model, ms, (V,)."""
        memory: F8 = np.where(snapshot.vm_double, 2.0, 1.0) * snapshot.vm_mem
        n = len(memory)
        total, down, data = np.zeros(n), np.zeros(n), np.zeros(n)
        plan_precopy(
            precopy_params(PrecopyConfig()), memory, self.working_share * memory,
            np.full(n, self.copy_mbps * MIB_S_PER_MBPS), np.full(n, self.dirty_mib_s),
            total, down, data, np.zeros(n, np.int32), np.zeros(n, np.int8),
        )  # fmt: skip
        return np.rint(1000.0 * total).astype(np.int64)


OBJECTIVE_KEYS: tuple[str, ...] = tuple(f.name for f in fields(ObjectiveConfig))
