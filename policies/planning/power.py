"""Power that a plan would draw, as the simulator has it: curves, PUE, boots."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I1
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.models.power import curve_power
from virtgym.envs.sim.state.parameters import ClusterParams

INTERVALS = 100
"""Least number of straight lines that stand for an analytic curve: they leave it by at most 0.03 % of the
range from idle to peak (a fan curve, below 1 % load)."""


class _Curves(NamedTuple):
    power_w: F8  # (T, P)
    curve_kind: I1  # (T,)
    curve_exponent: F8  # (T,)
    curve_scale: F8  # (T,)
    curve_busy_w: F8  # (T,)


@kernel
def host_watts(p: ClusterParams, h: int, load_mhz: float) -> Any:
    """Facility power of a running host at a load, W.

    Args:
        h: Host.
        load_mhz: Load, MHz; clamped to what the host has.
    """
    return p.pue * curve_power(p, p.host_type[h], load_mhz * p.host_inv_cpu[h])


def power_tables(p: ClusterParams) -> F8:
    """Facility power of running hosts at equally spaced loads, W, (T, P).

    For planners that need straight lines. Tables stay as they are; where some curve is none, each interval is
    divided, and the points between lie on the simulator's curve. What any load adds is reached at the first
    point above load 0.
    """
    if p.curve_plain.all():
        return np.ascontiguousarray(p.pue * p.power_w)
    lines = p.power_w.shape[1] - 1
    grid = np.linspace(0.0, 1.0, lines * -(-INTERVALS // lines) + 1)
    own = _Curves(p.power_w, p.curve_kind, p.curve_exponent, p.curve_scale, p.curve_busy_w)
    curves: Any = make_handle("power_curves", own, readonly=True)
    table = [[curve_power(curves, kind, float(u)) for u in grid] for kind in range(len(p.power_w))]
    return np.ascontiguousarray(p.pue * np.array(table))


def idle_watts(p: ClusterParams) -> F8:
    """Facility power of every host while it is on and idle, W, (H,)."""
    return np.asarray(p.pue * p.power_w[p.host_type, 0])


def boot_energy_j(p: ClusterParams) -> F8:
    """Facility energy of a boot of every host, J, (H,)."""
    return np.asarray(p.pue * p.host_boot_s * p.host_boot_w)
