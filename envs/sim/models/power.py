"""Power of a host: tables and curves over load, power states with standby and failure, PUE (docs §7).

A table holds the power at equally spaced loads; between two points power is linear:

    P(u) = p_a + (p_b - p_a) * (u * (n - 1) - a),   a = floor(u * (n - 1)), b = a + 1

In place of a table there are two curves, with idle power P0, peak power Pm and load u, clamped to 0...1:

    linear   P(u) = P0 + (Pm - P0) u
    fan      P(u) = P0 + (Pm - P0) (2 s u - (s u)^h),   h = 1.4, s = 1     (Fan, Weber & Barroso, ISCA 2007)

A host that does anything (u > 0) may draw ``busy_w`` more than its table or curve says: one that does nothing
sleeps deeper than the curve through its other loads would have it.

Sources of the tables: SPECpower_ssj2008 results of the named servers; the two HP tables are the ones of the
PlanetLab experiment (Beloglazov & Buyya, CCPE 24(13), 2012).

States:

    OFF --power on--> BOOTING --> ON --power off--> SHUTTING_DOWN --> OFF
                                  ON --suspend--> SUSPENDING --> STANDBY --power on--> RESUMING --> ON
                                  any --fail--> FAILED --repair--> OFF

Power on a state:

| state | power | time |
|---|---|---|
| off, failed | 0 | |
| booting | between idle and peak (``boot_level``, assumed half way) | 180 to 300 s, default 240 s |
| on | curve(load) | |
| shutting down | idle | 60 s |
| suspending | idle | 5 s (assumed) |
| standby | 5 % of idle | |
| resuming | as booting | 10 s |

(times and the 5 %: from memory, Gandhi 2012, Isci 2013.) Power is constant between events, so energy is power
times time in every state. The facility draws PUE times what the hosts draw.

A transition without a time is over at once, and nothing but a failure turns one round that is under way. A
host that was on when it failed, and still has its profile, boots once it is repaired. Transitions happen in
``power_cycle`` (orders) and ``outages`` (failures); ``cpu.host_power`` is what a host draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...checks import need, need_choice, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel

OFF, BOOTING, ON, SHUTTING_DOWN = 0, 1, 2, 3
STANDBY, SUSPENDING, RESUMING, FAILED = 4, 5, 6, 7
"""Host power states, the values of ``ClusterState.host_power_state``."""

CURVES = ("table", "linear", "fan")
FAN = 2
"""Index of ``fan`` in ``CURVES``; a linear curve is a table of two points."""

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


@kernel
def curve_power(p: Any, kind: int, load: float) -> Any:
    """Power of a running host, W: what the simulator draws and what planners predict.

    Args:
        kind: Host type.
        load: CPU load; clamped to 0...1.
    """
    table = p.power_w[kind]
    busy = p.curve_busy_w[kind] if load > 0.0 else 0.0
    if p.curve_kind[kind] == FAN:
        u = min(1.0, max(0.0, load * p.curve_scale[kind]))
        return table[0] + (table[-1] - table[0]) * (2.0 * u - u ** p.curve_exponent[kind]) + busy
    return power_at(table, load) + busy


def peak_watts(p: Any) -> NDArray[np.float64]:
    """Most that a running host of each type may draw, W, (T,)."""
    return np.asarray(p.power_w.max(axis=1) + p.curve_busy_w)


@dataclass(frozen=True)
class PowerCurve:
    """Power of a running host over its load.

    Attributes:
        kind: ``table``: the host type's ``power_w``; ``linear`` or ``fan``.
        idle_w: Power at load 0, W (linear, fan).
        peak_w: Power at load 1, W (linear, fan).
        exponent: h of the fan curve.
        busy_w: What a host with any load draws beside table or curve, W.
        scale: s of the fan curve: true load over the load that is known.
    """

    kind: str = "table"
    idle_w: float = 0.0
    peak_w: float = 0.0
    exponent: float = 1.4
    busy_w: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        owner = "power curve"
        need_choice(owner, "kind", self.kind, CURVES)
        need(
            math.isfinite(self.exponent) and 1 <= self.exponent <= 2,
            f"{owner}.exponent={self.exponent}: must lie in 1..2, else power falls somewhere",
        )
        need_not_negative(owner, idle_w=self.idle_w, busy_w=self.busy_w)
        need_positive(owner, scale=self.scale)
        need(
            self.scale == 1.0 or self.kind == "fan",
            f"{owner}.scale={self.scale}: belongs to kind fan; tables and lines hold it already",
        )
        need(
            math.isfinite(self.peak_w) and self.peak_w >= self.idle_w,
            f"{owner}.peak_w={self.peak_w}: must be a number, at least idle_w",
        )


@dataclass(frozen=True)
class PowerConfig:
    """Power states of a cluster.

    Attributes:
        standby_share: Power in standby as a share of idle power.
        boot_level: Power while booting and resuming: 0 = idle, 1 = peak.
        suspend_time_s: On to standby, s.
        resume_time_s: Standby to on, s.
        pue: Power usage effectiveness: facility power over IT power.
    """

    standby_share: float = 0.05
    boot_level: float = 0.5
    suspend_time_s: float = 5.0
    resume_time_s: float = 10.0
    pue: float = 1.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_share("power", standby_share=self.standby_share, boot_level=self.boot_level)
        need_not_negative("power", suspend_time_s=self.suspend_time_s, resume_time_s=self.resume_time_s)
        need_positive("power", pue=self.pue)
        need(1 <= self.pue <= 1000, f"power.pue={self.pue}: must be from 1 to 1000")
