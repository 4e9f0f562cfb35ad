"""Draw what breaks in an episode."""

from __future__ import annotations

import math

import numpy as np

from ...arrays import F8, I1, I4
from ...errors import ConfigError
from ..config import ClusterConfig
from ..models.failures import HOST_FAILS, HOST_REPAIRED, VM_CRASHES, sample_outages, sample_vm_crashes


def sample_faults(
    config: ClusterConfig, n_vms: int, horizon_s: float, rng: np.random.Generator | None
) -> tuple[F8, I4, I1]:
    """Draw what breaks and is mended in an episode.

    Hosts and VMs have seeds of their own, both drawn whatever is on: crashes of VMs change no host's failure.

    Args:
        config: The cluster.
        n_vms: V.
        horizon_s: Faults that begin before it are drawn, s; repairs may come later.
        rng: Source of the seeds; None = no faults.

    Returns:
        Time (s), host or VM, and kind (``HOST_FAILS``, ``HOST_REPAIRED``, ``VM_CRASHES``) of every event,
        each of shape (N,), sorted by time, kind and item; empty where failures are off.

    Raises:
        ConfigError: If the horizon is not a number, or domains or incidents cannot be.
    """
    if rng is None or config.failures is None:
        return np.empty(0), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int8)
    if not 0 <= horizon_s < math.inf:
        raise ConfigError(f"failures: horizon_s={horizon_s}: must be a number, at least 0")
    words = rng.integers(0, 2**32, size=(2, 4))
    hosts, vms = (np.random.SeedSequence(row.tolist()) for row in words)
    outages = sample_outages(
        config.failures,
        config.n_hosts,
        horizon_s,
        hosts,
        domains=config.domains,
        incidents=config.incidents,
        replayed=config.replayed,
    )
    begun = outages.down_s < horizon_s  # replayed outages have no horizon of their own
    mended = begun & np.isfinite(outages.up_s)
    vm, crash_s = sample_vm_crashes(config.failures, n_vms, horizon_s, vms)
    times = np.concatenate([outages.down_s[begun], outages.up_s[mended], crash_s])
    items = np.concatenate([outages.host[begun], outages.host[mended], vm]).astype(np.int32)
    counts = (int(begun.sum()), int(mended.sum()), len(vm))
    kinds = np.repeat([HOST_FAILS, HOST_REPAIRED, VM_CRASHES], counts).astype(np.int8)
    order = np.lexsort((items, kinds, times))
    return times[order], items[order], kinds[order]
