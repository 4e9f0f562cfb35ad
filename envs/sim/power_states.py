"""Power states of hosts with standby and failure, analytic power curves, PUE (model.md §7).

States, beside those of ``power.py``:

    OFF --power on--> BOOTING --> ON --power off--> SHUTTING_DOWN --> OFF
                                  ON --suspend--> SUSPENDING --> STANDBY --power on--> RESUMING --> ON
    STANDBY --power off--> OFF            any --fail--> FAILED --repair--> OFF

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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .power import BOOTING, OFF, ON, SHUTTING_DOWN, SPEC_POWER_W, power_at
from .validation import need, need_choice, need_not_negative, need_positive, need_share

__all__ = [
    "CURVES",
    "DO_FAIL",
    "DO_FINISH",
    "DO_OFF",
    "DO_ON",
    "DO_REPAIR",
    "DO_SUSPEND",
    "FAILED",
    "RESUMING",
    "STANDBY",
    "SUSPENDING",
    "TRANSITIONS",
    "PowerConfig",
    "PowerCurve",
    "PowerParams",
    "curve_power",
    "host_powers",
    "power_params",
    "transition",
]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

STANDBY, SUSPENDING, RESUMING, FAILED = 4, 5, 6, 7
"""Host power states that ``power.py`` does not have."""

DO_ON, DO_OFF, DO_SUSPEND, DO_FAIL, DO_REPAIR, DO_FINISH = 0, 1, 2, 3, 4, 5
"""What can happen to a host; ``DO_FINISH``: the transition under way is over."""

CurveKind = Literal["table", "linear", "fan"]
CURVES: tuple[str, ...] = get_args(CurveKind)
_LINEAR, _FAN = 1, 2

N_STATES, N_ACTIONS = 8, 6


def _transitions() -> I1:
    table = np.full((N_STATES, N_ACTIONS), -1, dtype=np.int8)
    table[OFF, DO_ON] = BOOTING
    table[BOOTING, DO_FINISH] = ON
    table[ON, DO_OFF] = SHUTTING_DOWN
    table[SHUTTING_DOWN, DO_FINISH] = OFF
    table[ON, DO_SUSPEND] = SUSPENDING
    table[SUSPENDING, DO_FINISH] = STANDBY
    table[STANDBY, DO_ON] = RESUMING
    table[STANDBY, DO_OFF] = OFF
    table[RESUMING, DO_FINISH] = ON
    table[:FAILED, DO_FAIL] = FAILED
    table[FAILED, DO_REPAIR] = OFF
    table.flags.writeable = False
    return table


TRANSITIONS: I1 = _transitions()
"""Next state by state and action, shape (8, 6); -1 = not legal."""


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


class PowerParams(NamedTuple):
    """What the kernels read; T host types."""

    kind: I1  # (T,) index into CURVES
    idle_w: F8  # (T,)
    peak_w: F8  # (T,)
    exponent: F8  # (T,)
    table_w: F8  # (T, P) power at equally spaced loads, W
    state_w: F8  # (T, 8) power in every state but ON, W


def power_params(curves: tuple[PowerCurve, ...], config: PowerConfig) -> PowerParams:
    """Flatten the curves of the host types; tables meet on a common grid that holds every given point."""
    idle = np.array([c.points[0] for c in curves], dtype=np.float64)
    peak = np.array([c.points[-1] for c in curves], dtype=np.float64)
    grid = np.linspace(0.0, 1.0, math.lcm(*(len(c.points) - 1 for c in curves)) + 1)
    table = [np.interp(grid, np.linspace(0.0, 1.0, len(c.points)), c.points) for c in curves]
    state_w = np.zeros((len(curves), N_STATES))
    state_w[:, BOOTING] = state_w[:, RESUMING] = idle + config.boot_level * (peak - idle)
    state_w[:, SHUTTING_DOWN] = state_w[:, SUSPENDING] = idle
    state_w[:, STANDBY] = config.standby_share * idle
    kinds = np.array([CURVES.index(c.kind) for c in curves], dtype=np.int8)
    exponents = np.array([c.exponent for c in curves], dtype=np.float64)
    return PowerParams(kinds, idle, peak, exponents, np.ascontiguousarray(table), state_w)


@njit(cache=True, inline="always")
def curve_power(p: PowerParams, kind: int, load: float) -> Any:
    """Power of a running host.

    Args:
        p: Parameters.
        kind: Host type.
        load: CPU load; clamped to 0...1.

    Returns:
        W.
    """
    u = min(1.0, max(0.0, load))
    curve = p.kind[kind]
    if curve == _LINEAR:
        return p.idle_w[kind] + (p.peak_w[kind] - p.idle_w[kind]) * u
    if curve == _FAN:
        return p.idle_w[kind] + (p.peak_w[kind] - p.idle_w[kind]) * (2.0 * u - u ** p.exponent[kind])
    return power_at(p.table_w[kind], u)


@njit(cache=True)
def host_powers(p: PowerParams, host_type: I4, state: I1, load: F8, power_w: F8) -> None:
    """Power of every host in its state.

    Args:
        p: Parameters.
        host_type: Index of its type, shape (H,).
        state: Power state, shape (H,).
        load: CPU load, shape (H,); read where the host is on.
        power_w: Written: W, shape (H,).
    """
    for h in range(host_type.shape[0]):
        if state[h] == ON:
            power_w[h] = curve_power(p, host_type[h], load[h])
        else:
            power_w[h] = p.state_w[host_type[h], state[h]]


@njit(cache=True)
def transition(table: I1, state: int, action: int, times_s: F8) -> Any:
    """Carry out what happens to a host.

    Args:
        table: ``TRANSITIONS``.
        state: Its power state.
        action: One of the DO_* codes.
        times_s: Time that each state lasts by itself, s: boot, shutdown, suspend and resume time at their
            states, shape (8,).

    Returns:
        The new state, or -1 if this is not legal in this state; and the time to ``DO_FINISH``, inf when the
        state lasts. A transition without a time is over at once.
    """
    following = table[state, action]
    if following < 0 or table[following, DO_FINISH] < 0:
        return following, np.inf
    if times_s[following] <= 0.0:
        return table[following, DO_FINISH], np.inf
    return following, times_s[following]
