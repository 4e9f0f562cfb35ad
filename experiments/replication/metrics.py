"""From the accounts of a day to the numbers that are reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8

from .live import (
    A_ASKED,
    A_BAD_S,
    A_DOUBLES,
    A_DROPPED,
    A_ENERGY,
    A_GOT,
    A_LOST,
    A_MOVES,
    A_ON_S,
    A_SHORT_SUM,
    A_SHORTS,
    A_SPAN_S,
    A_STOP_S,
    A_STOPS,
    Live,
)
from .quirks import Quirks

Ints = NDArray[Any]


@dataclass(frozen=True)
class DecisionLog:
    """All decisions of a day: the meeting point of two simulators.

    Attributes:
        initial: Host of each VM before the first round, (N,).
        round: Round of each migration, ascending, (M,).
        vm: VM of each migration, in the order of starting, (M,).
        dest: Its target, (M,).
    """

    initial: Ints
    round: Ints
    vm: Ints
    dest: Ints


@dataclass(frozen=True)
class Events:
    """State after every distinct instant of the day.

    Attributes:
        t: Time, s, (E,).
        energy_kwh: Energy so far, kWh, (E,).
        hosts: Active hosts, (E,).
        vms: VMs that were not deleted, (E,).
        migrations: Migrations started per round, (K,).
    """

    t: F8
    energy_kwh: F8
    hosts: Ints
    vms: Ints
    migrations: Ints


@dataclass(frozen=True)
class ReplicaResult:
    """Numbers of one day; ratios are 0...1.

    Attributes:
        energy_kwh: Energy, kWh.
        migrations: Migrations started, double moves included.
        double_moves: Of these, second moves of a VM in the same round.
        host_shutdowns: Hosts that became inactive.
        slatah: SLA violation time per active host.
        pdm: Performance degradation due to migration.
        slav: ``slatah * pdm``.
        esv: ``energy_kwh * slav``.
        sla_overall: CPU not granted over CPU asked.
        sla_average: Mean relative shortage over the history entries of VMs that were short of CPU.
        mean_time_before_shutdown_s: Mean activity of a host before it became inactive, s; NaN if none did.
        vms_left_at_end: VMs that were not deleted.
        active_hosts: Mean number of active hosts over the accounted time.
        events: State after every instant.
        decisions: The decisions, if they were recorded.
    """

    energy_kwh: float
    migrations: int
    double_moves: int
    host_shutdowns: int
    slatah: float
    pdm: float
    slav: float
    esv: float
    sla_overall: float
    sla_average: float
    mean_time_before_shutdown_s: float
    vms_left_at_end: int
    active_hosts: float
    events: Events = field(repr=False)
    decisions: DecisionLog | None = field(default=None, repr=False)

    @property
    def sla_unserved(self) -> float:
        """``sla_overall`` by the name of the main simulator."""
        return self.sla_overall


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0.0 else 0.0


def _mean_ratio(above: F8, below: F8) -> float:
    """Mean of ``above / below`` where there is something to divide by."""
    used = below > 0.0
    return float(np.mean(above[used] / below[used])) if used.any() else 0.0


def summarise(live: Live, quirks: Quirks, events: Events, decisions: DecisionLog | None) -> ReplicaResult:
    """Compute the result of a day.

    Args:
        live: The final state.
        quirks: Which definitions to use.
        events: The event log.
        decisions: The decision log, if any.

    Returns:
        All numbers.
    """
    account = live.account
    asked = float(account[A_ASKED])
    energy = float(account[A_ENERGY]) / 3.6e6
    if quirks.pooled_slatah:
        slatah = _ratio(account[A_BAD_S], account[A_ON_S])
    else:
        slatah = _mean_ratio(live.host_bad_s, live.host_on_s)
    pdm = _ratio(account[A_LOST], asked) if quirks.pooled_pdm else _mean_ratio(live.vm_lost, live.vm_asked)
    slav = float(slatah * pdm)
    stops = int(account[A_STOPS])
    return ReplicaResult(
        energy_kwh=energy,
        migrations=int(account[A_MOVES]),
        double_moves=int(account[A_DOUBLES]),
        host_shutdowns=stops,
        slatah=float(slatah),
        pdm=float(pdm),
        slav=slav,
        esv=energy * slav,
        sla_overall=_ratio(asked - float(account[A_GOT]), asked),
        sla_average=_ratio(float(account[A_SHORT_SUM]), float(account[A_SHORTS])),
        mean_time_before_shutdown_s=float(account[A_STOP_S]) / stops if stops else float("nan"),
        vms_left_at_end=int(live.where.size - account[A_DROPPED]),
        active_hosts=_ratio(float(account[A_ON_S]), float(account[A_SPAN_S])),
        events=events,
        decisions=decisions,
    )
