"""Hosts that go on and off: boot, shutdown, suspend and resume, with their times (docs §7)."""

from __future__ import annotations

import numpy as np

from ...jit.by_model import by_model, only_full
from ...jit.kernels import kernel
from ..models.power import BOOTING, OFF, ON, RESUMING, SHUTTING_DOWN, STANDBY, SUSPENDING
from ..state.cluster_state import ClusterState
from ..state.parameters import ClusterParams
from .cpu import refresh_host
from .events import BOOT_END, SHUTDOWN_END, push_event
from .residents import touch

refresh_power = by_model(refresh_host, touch)
"""``refresh_power(p, s, h, elapsed_s)``: a host's power after a change of its state, not of its VMs."""


@kernel
def set_power_state(p: ClusterParams, s: ClusterState, h: int, state: int, elapsed_s: float) -> None:
    """Put a host into a power state."""
    was_on = 1.0 if s.host_power_state[h] == ON else 0.0
    is_on = 1.0 if state == ON else 0.0
    s.totals.on_s += (was_on - is_on) * elapsed_s
    s.counters.on += int(is_on - was_on)
    s.host_power_state[h] = state
    refresh_power(p, s, h, elapsed_s)


@kernel
def _pass_through(
    p: ClusterParams,
    s: ClusterState,
    h: int,
    during: int,
    after: int,
    event: int,
    lasts_s: float,
    now_s: float,
    elapsed_s: float,
) -> None:
    """Put a host into a state that lasts for a time and leads to another; at once there without a time."""
    if lasts_s > 0.0:
        s.host_trans_end_s[h] = now_s + lasts_s
        push_event(s, s.host_trans_end_s[h], event, h)
        set_power_state(p, s, h, during, elapsed_s)
    else:
        set_power_state(p, s, h, after, elapsed_s)


@kernel
def boot_host(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Switch a host on, or wake it from standby; without a time to boot it is on at once."""
    wakes = s.host_power_state[h] == STANDBY
    if not wakes:
        s.totals.boots += 1.0
        s.host_drain[h] = 0
    during, lasts_s = (RESUMING, p.resume_s[h]) if wakes else (BOOTING, p.host_boot_s[h])
    _pass_through(p, s, h, during, ON, BOOT_END, lasts_s, now_s, elapsed_s)


@only_full
@kernel
def suspend_host(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Suspend an empty host to memory."""
    _pass_through(p, s, h, SUSPENDING, STANDBY, SHUTDOWN_END, p.suspend_s[h], now_s, elapsed_s)


@kernel
def switch_off_if_empty(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """Carry out a pending switch-off once nothing is left on the host."""
    if not s.host_drain[h] or s.host_n_vms[h] + s.host_n_in[h] > 0:
        return
    s.host_drain[h] = 0
    s.totals.shutdowns += 1.0
    _pass_through(p, s, h, SHUTTING_DOWN, OFF, SHUTDOWN_END, p.host_shutdown_s[h], now_s, elapsed_s)


@kernel
def finish_shutdown(p: ClusterParams, s: ClusterState, h: int, elapsed_s: float) -> None:
    """A host is off, or in standby."""
    s.host_trans_end_s[h] = np.inf
    suspended = s.host_power_state[h] == SUSPENDING
    set_power_state(p, s, h, STANDBY if suspended else OFF, elapsed_s)
