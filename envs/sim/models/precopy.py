"""Live migration by pre-copy, event by event (docs §6).

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

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arrays import F8, I1, I4
from ...checks import need, need_choice, need_count, need_not_negative, need_positive, need_share
from ...jit.kernels import kernel, of_records

DIVERGENCE_RULES = ("stop", "auto_converge", "post_copy")

MBIT_PER_MIB = 8.388608
"""1 MiB = 2**20 * 8 / 1e6 Mbit."""

TEN_GIGABIT_MBPS = 10_000.0

IDLE, INIT, ROUND, STOP, RESUME, PULL = 0, 1, 2, 3, 4, 5
"""Phases. The VM is stopped in STOP and RESUME, and runs on the destination in PULL."""

PAUSED, MOVED, DONE = 1, 2, 3
"""What ``finish_phase`` reports: the VM stops; it runs on the destination, pages follow; all is over."""

STAYS, CRASHED = 0, 1
"""What ``abort_copy`` reports: the VM runs on at the source; it is lost with its host and must restart."""

_AUTO, _POST = 1, 2
_SAME = 1.0 - 1e-12
"""A round that dirties this share of what it sent counts as dirtying all of it: rates are floats."""


@dataclass(frozen=True)
class PrecopyConfig:
    """Pre-copy migration.

    Attributes:
        on_divergence: What to do when the copy does not converge. ``stop``: go on to the limits below, then
            copy the rest while the VM is stopped; ``auto_converge``: slow the VM down, more every round;
            ``post_copy``: run the VM on the destination and fetch the rest.
        threshold_mib: Stop and copy once a round is this small, MiB (Xen: 50 pages of 4 KiB, from memory).
        max_rounds: Index of the last round (Xen: 29, from memory).
        max_sent: Stop once more than this multiple of the VM's memory was sent (Xen: 3, from memory). It does
            not bind under ``auto_converge``, which it would end before the throttle can act.
        init_s: Preparation before the first round, s (assumed).
        resume_s: From the last byte to the VM running again, s (assumed; Clark et al., NSDI 2005, saw
            downtimes from 60 ms).
        throttle_start: First throttle of the vCPUs.
        throttle_step: What is added every further round.
        throttle_max: Its upper bound (QEMU: 99 %, from memory).
        cpu_state_mib: State that post-copy hands over while the VM is stopped, MiB (assumed).
        postcopy_loss: Share of its CPU that a VM loses to page faults while pages are fetched (assumed).
        cpu_loss: Share of its CPU that a VM loses while it is copied (verified: Beloglazov & Buyya 2012).
        dest_cpu_share: Share of the VM's CPU that the copy costs on the destination (assumed).
        max_mbps: Bound of one migration's rate, Mbit/s; None = whatever the NICs leave.
        slots_1g: Concurrent migrations of a host below 10 GbE (verified: vMotion limits).
        slots_10g: The same from 10 GbE on (verified: vMotion limits).
        energy_j_per_mb: Energy per MB (1e6 bytes) sent, J (Liu et al. 2011, from memory).
        energy_j: Energy per migration, J (Liu et al. 2011, from memory).
    """

    on_divergence: str = "stop"
    threshold_mib: float = 50 * 4 / 1024
    max_rounds: int = 29
    max_sent: float = 3.0
    init_s: float = 1.0
    resume_s: float = 0.05
    throttle_start: float = 0.20
    throttle_step: float = 0.10
    throttle_max: float = 0.99
    cpu_state_mib: float = 1.0
    postcopy_loss: float = 0.20
    cpu_loss: float = 0.10
    dest_cpu_share: float = 0.10
    max_mbps: float | None = None
    slots_1g: int = 4
    slots_10g: int = 8
    energy_j_per_mb: float = 0.512
    energy_j: float = 20.2

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("migration", "on_divergence", self.on_divergence, DIVERGENCE_RULES)
        need_count("migration", low=0, max_rounds=self.max_rounds)
        need_count("migration", slots_1g=self.slots_1g, slots_10g=self.slots_10g)
        need_positive("migration", max_sent=self.max_sent)
        if self.max_mbps is not None:
            need_positive("migration", max_mbps=self.max_mbps)
        need_not_negative(
            "migration",
            threshold_mib=self.threshold_mib,
            init_s=self.init_s,
            resume_s=self.resume_s,
            cpu_state_mib=self.cpu_state_mib,
            energy_j_per_mb=self.energy_j_per_mb,
            energy_j=self.energy_j,
        )
        need_share(
            "migration",
            throttle_start=self.throttle_start,
            throttle_step=self.throttle_step,
            throttle_max=self.throttle_max,
            postcopy_loss=self.postcopy_loss,
            cpu_loss=self.cpu_loss,
            dest_cpu_share=self.dest_cpu_share,
        )
        need(
            self.throttle_start <= self.throttle_max,
            f"migration.throttle_start={self.throttle_start}: must not exceed throttle_max",
        )


class PrecopyParams(NamedTuple):
    """What the kernels read: ``PrecopyConfig`` in numbers."""

    copy_rule: int  # index into DIVERGENCE_RULES
    copy_threshold_mib: float
    copy_max_rounds: int
    copy_max_sent: float  # inf under auto_converge
    copy_init_s: float
    copy_resume_s: float
    copy_throttle_start: float
    copy_throttle_step: float
    copy_throttle_max: float
    copy_cpu_state_mib: float
    copy_postcopy_loss: float
    copy_cpu_loss: float


def precopy_params(config: PrecopyConfig) -> PrecopyParams:
    """Flatten a configuration for the kernels."""
    throttles = config.on_divergence == "auto_converge"
    return PrecopyParams(
        copy_rule=DIVERGENCE_RULES.index(config.on_divergence),
        copy_threshold_mib=float(config.threshold_mib),
        copy_max_rounds=int(config.max_rounds),
        copy_max_sent=float("inf") if throttles else float(config.max_sent),
        copy_init_s=float(config.init_s),
        copy_resume_s=float(config.resume_s),
        copy_throttle_start=float(config.throttle_start),
        copy_throttle_step=float(config.throttle_step),
        copy_throttle_max=float(config.throttle_max),
        copy_cpu_state_mib=float(config.cpu_state_mib),
        copy_postcopy_loss=float(config.postcopy_loss),
        copy_cpu_loss=float(config.cpu_loss),
    )


def migration_slots(config: PrecopyConfig, host_nic_mbps: F8) -> I4:
    """Concurrent migrations that each host allows, in and out together.

    Args:
        config: Parameters.
        host_nic_mbps: Line rate, Mbit/s, shape (H,).

    Returns:
        Shape (H,).
    """
    fast = host_nic_mbps >= TEN_GIGABIT_MBPS
    return np.where(fast, config.slots_10g, config.slots_1g).astype(np.int32)


def migration_energy_j(config: PrecopyConfig, data_mib: F8) -> F8:
    """Energy of finished migrations: E = 0.512 J/MB * data + 20.2 J (Liu et al. 2011, from memory).

    It is an estimate of the work on both ends and the network together. Where host power already follows the
    CPU that a migration uses, report it beside the hosts' energy, do not add it.

    Args:
        config: Parameters.
        data_mib: Data sent by each, MiB.

    Returns:
        J, of the same shape.
    """
    return config.energy_j_per_mb * (np.asarray(data_mib) * 2**20 / 1e6) + config.energy_j


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


@of_records
@kernel
def begin_copy(p: PrecopyParams, s: PrecopyState, v: int) -> None:
    """Begin to migrate a VM that is IDLE."""
    _clear(s, v)
    s.copy_phase[v] = INIT
    s.copy_left_s[v] = p.copy_init_s


@of_records
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


@of_records
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


@of_records
@kernel
def finish_phase(p: PrecopyParams, s: PrecopyState, v: int, memory_mib: float, working_mib: float) -> Any:
    """Take a migration whose phase has ended into its next one.

    Args:
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


@of_records
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


@of_records
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


@of_records
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
