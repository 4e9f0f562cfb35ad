"""Candidates that switch one host off or on, suspend one, or keep one that is about to be switched off."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ...sim.engine.orders import check_free, may_go_on
from ...sim.models.power import ON, STANDBY
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import POWER_OFF, POWER_ON, SUSPEND, give
from .hosts import idle_w, take_least
from .rows import begin_candidate, end_candidate


@kernel
def _offer_order(p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, kind: int, h: int) -> None:
    """A candidate of one order."""
    begin_candidate(c)
    end_candidate(p, s, c, k, give(p, c, kind, -1, h) == 0, 0.0)


@kernel
def _offer_ranked(
    p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, end: int, kind: int
) -> None:
    """The same order for the hosts with the least keys, in the slots from k on."""
    while k < end:
        h = take_least(c.host_key, c.host_key.shape[0])
        if h < 0:
            break
        _offer_order(p, s, c, k, kind, h)
        k += 1


@kernel
def offer_off(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Empty hosts, those with the most idle power first: off, or to standby."""
    off, standby, on = int(c.marks.off), int(c.marks.standby), int(c.marks.on)
    for turn in range(2):
        first, end = (off, standby) if turn == 0 else (standby, on)
        if end == first or (turn == 1 and not p.full):
            continue
        for h in range(c.takes.shape[0]):
            empty = s.host_n_vms[h] == 0 and c.may_leave[h] and check_free(p, s, h) == 0
            c.host_key[h] = -idle_w(p, h) if empty else np.inf
        _offer_ranked(p, s, c, first, end, SUSPEND if turn else POWER_OFF)


@kernel
def _time_to_on(p: ClusterParams, s: ClusterState, h: int) -> Any:
    return p.resume_s[h] if s.host_power_state[h] == STANDBY else p.host_boot_s[h]


@kernel
def offer_on(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Hosts that are off or in standby: the one that idles cheapest, then those that are on soonest."""
    first, end = int(c.marks.on), int(c.marks.keep)
    if end == first:
        return
    for h in range(c.takes.shape[0]):
        fine = may_go_on(p, s, h) == 0 and not s.host_maintenance[h]
        c.host_key[h] = idle_w(p, h) if fine else np.inf
    _offer_ranked(p, s, c, first, first + 1, POWER_ON)
    for h in range(c.takes.shape[0]):
        if c.host_key[h] < np.inf:  # as soon, the one with more CPU
            c.host_key[h] = _time_to_on(p, s, h) + p.host_inv_cpu[h]
    _offer_ranked(p, s, c, first + 1, end, POWER_ON)


@kernel
def offer_keeping(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Hosts that are about to be switched off, those that still carry most first: they stay on."""
    first, end = int(c.marks.keep), int(c.marks.balance)
    for h in range(c.takes.shape[0] if end > first else 0):
        drains = s.host_power_state[h] == ON and s.host_drain[h]
        c.host_key[h] = -c.load_cpu[h] if drains else np.inf
    _offer_ranked(p, s, c, first, end, POWER_ON)
