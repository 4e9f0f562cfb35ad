"""What the robust regression expects of every host, for the report."""

from __future__ import annotations

from typing import Any

from virtgym.envs.arrays import F8
from virtgym.envs.jit.kernels import kernel

from ..forecast.regression import forecast_robust
from .workspace import Workspace


@kernel
def forecast_hosts(w: Workspace, demand: F8) -> Any:
    """Forecast every host from the history of the VMs at home on it, as the last round's detection did.

    Args:
        w: Workspace (handle) after a round; its ``window`` and ``scratch`` are overwritten.
        demand: Newest demand of every VM, MHz, shape (V,).

    Returns:
        The sum over all hosts, MHz; one whose history is too short counts with its demand.
    """
    depth = w.window.shape[0]
    start = w.tally.samples_taken % depth
    total = 0.0
    for h in range(w.first.shape[0] - 1):
        vms = w.vm_of[w.first[h] : w.first[h + 1]]
        n = w.h_samples[h]
        if n < w.options.min_samples:
            for v in vms:
                total += demand[v]
        elif vms.shape[0] > 0:
            w.window[:] = 0.0
            for v in vms:
                for k in range(depth):
                    w.window[k] += w.hist[v, start + k]
            total += forecast_robust(w.window[depth - n :], w.tricube, n, w.options.horizon, w.scratch)
    return total
