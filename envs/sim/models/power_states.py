"""Power states of hosts with standby and failure, analytic power curves, PUE (model.md §7).

States, beside those of ``power.py``:

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

(times and the 5 %: from memory, Gandhi 2012, Isci 2013.) A curve is a table (``power.power_at``), or

    linear   P(u) = P0 + (Pm - P0) u
    fan      P(u) = P0 + (Pm - P0) (2 u - u^h),   h = 1.4        (Fan, Weber & Barroso, ISCA 2007)

with idle power P0, peak power Pm and load u, clamped to 0...1. Power is constant between events, so energy is
power times time in every state. The facility draws PUE times what the hosts draw.

A transition without a time is over at once, and nothing but a failure turns one round that is under way. A
host that was on when it failed, and still has its profile, boots once it is repaired. Transitions happen in
``power_cycle`` (orders) and ``outages`` (failures); ``cpu.host_power`` is what a host draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...checks import need, need_choice, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel
from .power import SPEC_POWER_W, power_at

STANDBY, SUSPENDING, RESUMING, FAILED = 4, 5, 6, 7
"""Host power states that ``power.py`` does not have."""

CurveKind = Literal["table", "linear", "fan"]
CURVES: tuple[str, ...] = get_args(CurveKind)
FAN = 2
"""Index of ``fan`` in ``CURVES``; a linear curve is a table of two points."""


@kernel
def curve_power(p: Any, kind: int, load: float) -> Any:
    """Power of a running host, W: what the simulator draws and what planners predict.

    Args:
        p: Parameters of the cluster (handle).
        kind: Host type.
        load: CPU load; clamped to 0...1.
    """
    table = p.power_w[kind]
    if p.curve_kind[kind] == FAN:
        u = min(1.0, max(0.0, load))
        return table[0] + (table[-1] - table[0]) * (2.0 * u - u ** p.curve_exponent[kind])
    return power_at(table, load)


@dataclass(frozen=True)
class PowerCurve:
    """Power of a running host over its load.

    Attributes:
        kind: ``table``, ``linear`` or ``fan``.
        idle_w: Power at load 0, W (linear, fan).
        peak_w: Power at load 1, W (linear, fan).
        exponent: h of the fan curve.
        table_w: Power at equally spaced loads, W, or a name of ``power.SPEC_POWER_W`` (table).
    """

    kind: CurveKind = "table"
    idle_w: float = 0.0
    peak_w: float = 0.0
    exponent: float = 1.4
    table_w: tuple[float, ...] | str = ()

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
        if self.kind != "table":
            need_not_negative(owner, idle_w=self.idle_w)
            need(
                math.isfinite(self.peak_w) and self.peak_w >= self.idle_w,
                f"{owner}.peak_w={self.peak_w}: must be a number, at least idle_w",
            )
            return
        if isinstance(self.table_w, str):
            need_choice(owner, "table_w", self.table_w, sorted(SPEC_POWER_W))
        need(len(self.points) >= 2, f"{owner}.table_w: needs at least 2 points")
        need(
            all(math.isfinite(w) and w >= 0 for w in self.points),
            f"{owner}.table_w: every point must be 0 or more",
        )

    @property
    def points(self) -> tuple[float, ...]:
        """Power at equally spaced loads, W; of an analytic curve idle and peak."""
        if self.kind != "table":
            return self.idle_w, self.peak_w
        return SPEC_POWER_W[self.table_w] if isinstance(self.table_w, str) else self.table_w


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
        need(self.pue >= 1, f"power.pue={self.pue}: must be at least 1")
