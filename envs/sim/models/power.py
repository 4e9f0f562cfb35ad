"""Power of a host (model.md §7): tables over load, and power in every power state.

A table holds the power at equally spaced loads; between two points power is linear:

    P(u) = p_a + (p_b - p_a) * (u * (n - 1) - a),   a = floor(u * (n - 1)), b = a + 1

Sources: SPECpower_ssj2008 results of the named servers; the two HP tables are the ones of the PlanetLab
experiment (Beloglazov & Buyya, CCPE 24(13), 2012).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...jit.kernels import kernel

OFF, BOOTING, ON, SHUTTING_DOWN = 0, 1, 2, 3
"""Host power states, the values of ``ClusterState.host_power_state``."""

SPEC_POWER_W: dict[str, tuple[float, ...]] = {
    "hp_ml110_g4": (86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117),
    "hp_ml110_g5": (93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135),
    "ibm_x3550_x5675": (58.4, 98, 109, 118, 128, 140, 153, 170, 189, 205, 222),
    "dell_r740_8280": (49.8, 114, 137, 159, 182, 208, 240, 277, 319, 376, 432),
    "dell_r7515_epyc_7742": (99.5, 117, 130, 141, 151, 164, 186, 205, 220, 236, 246),
    "hpe_dl380_gen10_plus": (127, 198, 226, 253, 281, 314, 354, 405, 464, 576, 619),
    "lenovo_se360_v2": (52.4, 67.7, 73.4, 78.5, 83, 88.5, 94.6, 104, 112, 123, 139),
    "fujitsu_rx1440_m2": (67.1, 132, 160, 187, 212, 236, 259, 288, 328, 364, 391),
}
"""Power at 0, 10, ..., 100 % load, W."""


@kernel(inline="always")
def power_at(table_w: NDArray[np.float64], utilisation: float) -> Any:
    """Power of a running host at a load.

    Args:
        table_w: Power at equally spaced loads 0...1, W, shape (P,).
        utilisation: Load, 0...1; values outside are clamped.

    Returns:
        Power, W.
    """
    last = table_w.shape[0] - 1
    x = utilisation * last
    if x <= 0.0:
        return table_w[0]
    a = int(x)
    if a >= last:
        return table_w[last]
    return table_w[a] + (table_w[a + 1] - table_w[a]) * (x - a)
