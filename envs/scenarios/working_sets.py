"""Working sets with phases: how much of its memory a VM uses now, where no trace says it.

A VM's active share is that of its profile times a level that is constant during a phase. Phases last
``phase_s`` in the mean (exponential, on the grid of the samples); each draws its level from a log-normal with
mean 1. A part of the level is common to all VMs: without it a cluster's sum would hardly move, since what
independent VMs use averages out. [assumed: that working sets come in phases is Denning's, CACM 11(5), 1968;
lengths and sizes are priors to set.]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..arrays import F8
from ..checks import need_memory, need_not_negative, need_positive, need_share
from ..sim.workload import Workload


@dataclass(frozen=True)
class WorkingSets:
    """Phases of working sets.

    Attributes:
        phase_s: Mean length of a phase, s.
        spread: Standard deviation of the logarithm of a phase's level; 0 = the profile's share at all times.
        together: Share of the variance of that logarithm that is common to all VMs, 0...1.
        dirty: Whether the rate at which memory is dirtied follows what is active.
    """

    phase_s: float = 3600.0
    spread: float = 0.5
    together: float = 0.25
    dirty: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_positive("working_sets", phase_s=self.phase_s)
        need_not_negative("working_sets", spread=self.spread)
        need_share("working_sets", together=self.together)


def add_phases(config: WorkingSets, workload: Workload, rng: np.random.Generator) -> Workload:
    """Give VMs memory activity that changes in time; what the trace says itself stays.

    Args:
        config: The phases.
        workload: The load.
        rng: Source of randomness.

    Returns:
        The load with the signals ``memory_active``, a share of the configured memory, at most 1, and, if the
        dirty rate follows, ``dirty_mib_s``, MiB/s.
    """
    samples, vms = workload.util.shape
    need_memory(f"scenario.working_sets: {samples} samples x {vms} VMs", samples, vms, 48)
    signals = dict(workload.signals)
    if "memory_active" not in signals:
        share = np.array([kind.memory.active_share for kind in workload.profiles])[workload.vm_profile]
        signals["memory_active"] = np.minimum(1.0, share * _draw_levels(config, workload, rng))
    if config.dirty and "dirty_mib_s" not in signals:
        idle, busy = np.array([kind.dirty_mib_s for kind in workload.profiles])[workload.vm_profile].T
        active = signals["memory_active"]
        mean = active.mean(axis=0)
        level = np.where(mean > 0, active / np.where(mean > 0, mean, 1.0), 1.0)
        signals["dirty_mib_s"] = (idle + busy * workload.util) * level
    return replace(workload, signals=signals)


def _draw_levels(config: WorkingSets, workload: Workload, rng: np.random.Generator) -> F8:
    """Levels of all VMs, shape (S, V): phases of each VM's own, and one row of phases for all."""
    samples, vms = workload.util.shape
    begins = rng.random((samples, vms + 1)) < -math.expm1(-workload.sample_s / config.phase_s)
    drawn = rng.standard_normal((samples, vms + 1))
    begins[0] = True
    since = np.maximum.accumulate(np.where(begins, np.arange(samples)[:, None], 0), axis=0)
    z = np.take_along_axis(drawn, since, axis=0)
    common, own = z[:, -1:], z[:, :-1]
    log = config.spread * (math.sqrt(config.together) * common + math.sqrt(1.0 - config.together) * own)
    levels: F8 = np.exp(log - 0.5 * config.spread**2)
    return levels
