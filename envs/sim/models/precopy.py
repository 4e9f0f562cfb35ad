"""Live migration by pre-copy, event by event (model.md §6).

With memory M, dirty rate D, rate of the copy R and writable working set W, round i sends V_i:

    V_0 = M,   T_i = V_i / R,   V_{i+1} = min(integral of D over round i, W)

The last round, sent while the VM is stopped, is the first with V_i <= threshold, or i = 29, or more than 3 M
sent before it (Xen's defaults, from memory; Clark et al., NSDI 2005). For constant rates, without the cap W:

    total = T_init + sum T_i + T_resume,   downtime = V_n / R + T_resume,
    data = sum V_i = M (1 - lambda^(n+1)) / (1 - lambda),   lambda = D / R

A round *diverges* if it dirties as much as it sent (lambda >= 1). Then

- ``stop`` goes on to the limits and pays with a long downtime;
- ``auto_converge`` throttles the vCPUs, and the dirty rate with them, by 20 %, and by 10 % more after every
  further round;
- ``post_copy`` stops the VM for its CPU state only, runs it on the destination and fetches the last V_i from
  there, at the price of page faults. It also does so where a limit would end the rounds.

Rates change whenever another migration starts or ends. So a migration is a little machine,

    INIT -> ROUND 0, 1, ... -> STOP -> RESUME -> done            (or RESUME -> PULL -> done after post-copy)

that ``begin_copy`` starts, ``advance_copy`` moves under constant rates from event to event, ``next_event``
says when it needs attention, and ``finish_phase`` takes it into its next phase. Who may start is said in
``copies``. ``plan_precopy`` is the closed form for constant rates: what a policy uses to estimate.

A VM that is copied loses ``cpu_loss`` of its CPU, and its memory is held on both hosts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...jit.kernels import kernel
from .precopy_config import PrecopyParams

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]

IDLE, INIT, ROUND, STOP, RESUME, PULL = 0, 1, 2, 3, 4, 5
"""Phases. The VM is stopped in STOP and RESUME, and runs on the destination in PULL."""

PAUSED, MOVED, DONE = 1, 2, 3
"""What ``finish_phase`` reports: the VM stops; it runs on the destination, pages follow; all is over."""

STAYS, CRASHED = 0, 1
"""What ``abort_copy`` reports: the VM runs on at the source; it is lost with its host and must restart."""

_AUTO, _POST = 1, 2
_SAME = 1.0 - 1e-12
"""A round that dirties this share of what it sent counts as dirtying all of it: rates are floats."""


class PrecopyState(NamedTuple):
    """Migrations under way, one place per VM; all zero = none."""

    copy_phase: I1  # (V,) IDLE, INIT, ...
    copy_diverged: I1  # (V,) 1: some round dirtied as much as it sent
    copy_round: I4  # (V,) index i of the round
    copy_left_s: F8  # (V,) time left of INIT and RESUME, s
    copy_left_mib: F8  # (V,) left to send in ROUND, STOP and PULL, MiB
    copy_volume_mib: F8  # (V,) V_i, MiB
    copy_dirty_mib: F8  # (V,) dirtied since the round began, MiB
    copy_pull_mib: F8  # (V,) to be fetched after post-copy's handover, MiB
    copy_sent_mib: F8  # (V,) sent so far, MiB
    copy_down_s: F8  # (V,) time stopped so far, s
    copy_throttle: F8  # (V,) share of its CPU taken from the VM to slow it down


@kernel
def _clear(s: PrecopyState, v: int) -> None:
    s.copy_phase[v] = IDLE
    s.copy_diverged[v] = 0
    s.copy_round[v] = 0
    for array in (
        s.copy_left_s,
        s.copy_left_mib,
        s.copy_volume_mib,
        s.copy_dirty_mib,
        s.copy_pull_mib,
        s.copy_sent_mib,
        s.copy_down_s,
    ):
        array[v] = 0.0
    s.copy_throttle[v] = 0.0


@kernel
def begin_copy(p: PrecopyParams, s: PrecopyState, v: int) -> None:
    """Begin to migrate a VM that is IDLE."""
    _clear(s, v)
    s.copy_phase[v] = INIT
    s.copy_left_s[v] = p.copy_init_s


@kernel
def advance_copy(s: PrecopyState, v: int, rate_mib_s: float, dirty_mib_s: float, dt_s: float) -> None:
    """Let time pass for one migration, no further than to the end of its phase.

    It is needed only when the migration's rates change or its phase ends, not at every event of others.

    Args:
        s: State; rewritten.
        v: VM.
        rate_mib_s: Rate of its copy, MiB/s.
        dirty_mib_s: Rate at which the VM dirties memory unthrottled, MiB/s.
        dt_s: Time since the migration was last advanced, s.
    """
    phase = s.copy_phase[v]
    if phase in (INIT, RESUME):
        s.copy_left_s[v] = max(0.0, s.copy_left_s[v] - dt_s)
    elif phase != IDLE:
        moved = min(s.copy_left_mib[v], rate_mib_s * dt_s)
        s.copy_left_mib[v] -= moved
        s.copy_sent_mib[v] += moved
    if phase == ROUND:
        s.copy_dirty_mib[v] += dirty_mib_s * (1.0 - s.copy_throttle[v]) * dt_s
    elif phase in (STOP, RESUME):
        s.copy_down_s[v] += dt_s


@kernel
def next_event(s: PrecopyState, v: int, rate_mib_s: float) -> Any:
    """Time to the end of one migration's phase at the present rate, s; inf for one without bandwidth."""
    phase = s.copy_phase[v]
    if phase == IDLE:
        return np.inf
    if phase in (INIT, RESUME):
        return s.copy_left_s[v]
    if s.copy_left_mib[v] <= 0.0:
        return 0.0
    return s.copy_left_mib[v] / rate_mib_s if rate_mib_s > 0.0 else np.inf


@kernel
def finish_phase(p: PrecopyParams, s: PrecopyState, v: int, memory_mib: float, working_mib: float) -> Any:
    """Take a migration whose phase has ended into its next one.

    Args:
        p: Parameters.
        s: State; rewritten. After DONE, ``sent_mib`` and ``down_s`` still hold what it cost.
        v: VM.
        memory_mib: Its memory M, MiB.
        working_mib: Its writable working set W, MiB, inf = no cap.

    Returns:
        0, PAUSED, MOVED or DONE.
    """
    s.copy_sent_mib[v] += s.copy_left_mib[v]  # what rounding left over
    s.copy_left_mib[v] = 0.0
    s.copy_left_s[v] = 0.0
    phase = s.copy_phase[v]
    if phase == INIT:
        return _begin_round(p, s, v, memory_mib, memory_mib, False)
    if phase == ROUND:
        volume = min(s.copy_dirty_mib[v], working_mib, memory_mib)
        diverges = volume >= s.copy_volume_mib[v] * _SAME and volume > p.copy_threshold_mib
        s.copy_round[v] += 1
        if diverges:
            s.copy_diverged[v] = 1
        if p.copy_rule == _AUTO and s.copy_diverged[v]:
            now = s.copy_throttle[v]
            more = p.copy_throttle_start if now == 0.0 else now + p.copy_throttle_step
            s.copy_throttle[v] = min(p.copy_throttle_max, more)
        return _begin_round(p, s, v, volume, memory_mib, diverges)
    if phase == STOP:
        s.copy_phase[v] = RESUME
        s.copy_left_s[v] = p.copy_resume_s
        return 0
    if phase == RESUME and s.copy_pull_mib[v] > 0.0:
        s.copy_phase[v] = PULL
        s.copy_left_mib[v] = s.copy_pull_mib[v]
        s.copy_pull_mib[v] = 0.0
        return MOVED
    s.copy_phase[v] = IDLE
    s.copy_throttle[v] = 0.0
    return DONE


@kernel
def _begin_round(
    p: PrecopyParams, s: PrecopyState, v: int, volume: float, memory_mib: float, diverges: bool
) -> Any:
    small = volume <= p.copy_threshold_mib
    last = small or s.copy_round[v] >= p.copy_max_rounds or s.copy_sent_mib[v] > p.copy_max_sent * memory_mib
    s.copy_volume_mib[v] = volume
    s.copy_left_mib[v] = volume
    s.copy_dirty_mib[v] = 0.0
    if p.copy_rule == _POST and not small and (last or diverges):
        s.copy_pull_mib[v] = volume
        s.copy_left_mib[v] = p.copy_cpu_state_mib
        last = True
    s.copy_phase[v] = STOP if last else ROUND
    return PAUSED if last else 0


@kernel
def abort_copy(s: PrecopyState, v: int, source_failed: bool) -> Any:
    """End a migration because its source or destination failed, or because it is called off.

    Until the handover all of the VM is at the source: if the destination fails nothing is lost. While pages
    are fetched after post-copy's handover the VM is in two pieces, and any failure ends it.

    Args:
        s: State; the VM's place is cleared.
        v: VM.
        source_failed: Whether it was the source (False: the destination, or nobody).

    Returns:
        STAYS or CRASHED.
    """
    code = CRASHED if source_failed or s.copy_phase[v] == PULL else STAYS
    _clear(s, v)
    return code


@kernel
def cpu_factor(p: PrecopyParams, s: PrecopyState, v: int) -> Any:
    """Share of the CPU granted to a VM that does its work: 1 without a migration, 0 while it is stopped."""
    phase = s.copy_phase[v]
    if phase == IDLE:
        return 1.0
    if phase in (STOP, RESUME):
        return 0.0
    if phase == PULL:
        return 1.0 - p.copy_postcopy_loss
    return (1.0 - p.copy_cpu_loss) * (1.0 - s.copy_throttle[v])


@kernel
def plan_copy(p: PrecopyParams, memory: float, working: float, rate: float, dirty: float) -> Any:
    """Total time, downtime, data, index of the last round, and whether some round diverged."""
    volume, sent, throttle, i = memory, 0.0, 0.0, 0
    diverges, diverged = False, 0
    while not (
        volume <= p.copy_threshold_mib
        or i >= p.copy_max_rounds
        or sent > p.copy_max_sent * memory
        or (diverges and p.copy_rule == _POST)
    ):
        sent += volume
        dirtied = dirty * (1.0 - throttle) * (volume / rate) if rate > 0.0 else np.inf
        following = min(dirtied, working, memory)
        diverges = following >= volume * _SAME and following > p.copy_threshold_mib
        if diverges:
            diverged = 1
        if p.copy_rule == _AUTO and diverged:
            more = p.copy_throttle_start if throttle == 0.0 else throttle + p.copy_throttle_step
            throttle = min(p.copy_throttle_max, more)
        volume = following
        i += 1
    stopped = volume
    if p.copy_rule == _POST and volume > p.copy_threshold_mib:
        stopped = p.copy_cpu_state_mib
        sent += p.copy_cpu_state_mib
    sent += volume
    if rate <= 0.0:
        return np.inf, np.inf, sent, i, diverged
    return p.copy_init_s + sent / rate + p.copy_resume_s, stopped / rate + p.copy_resume_s, sent, i, diverged


@kernel
def plan_precopy(
    p: PrecopyParams,
    memory_mib: F8,
    working_mib: F8,
    rate_mib_s: F8,
    dirty_mib_s: F8,
    total_s: F8,
    down_s: F8,
    data_mib: F8,
    rounds: I4,
    diverged: I1,
) -> None:
    """What migrations cost if nothing changes on the way.

    Args:
        p: Parameters.
        memory_mib: M, MiB, shape (N,).
        working_mib: W, MiB, inf = no cap, shape (N,).
        rate_mib_s: R, MiB/s, shape (N,); 0 = never ends.
        dirty_mib_s: D, MiB/s, shape (N,).
        total_s: Written: from the order to the last byte, s, shape (N,).
        down_s: Written: time stopped, s, shape (N,).
        data_mib: Written: data sent, MiB, shape (N,).
        rounds: Written: index n of the last round, shape (N,).
        diverged: Written: 1 if some round dirtied as much as it sent, shape (N,).
    """
    for k in range(memory_mib.shape[0]):
        total_s[k], down_s[k], data_mib[k], rounds[k], diverged[k] = plan_copy(
            p, memory_mib[k], working_mib[k], rate_mib_s[k], dirty_mib_s[k]
        )
