"""Candidates that place what waits: arrivals and, first of all, VMs that restart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ...jit.sorting import sort_ascending
from ...sim.engine.orders import waits_knowingly
from ...sim.engine.waiting import is_hopeless, no_failures, note_failure
from ...sim.guarantee import check_admission, has_rule, restarts
from ...sim.state.cluster_state import PENDING, ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import PLACE_VM, give
from .hosts import best_host
from .rows import begin_candidate, end_candidate

RESTART_KEY = 1e15
PRIORITY_KEY = 1e12


@kernel
def _list_waiting(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> int:
    """List what may be placed: restarts by priority, then the others, the largest first."""
    n = 0
    for v in range(s.vm_state.shape[0]):
        if s.vm_state[v] != PENDING or s.vm_dest[v] >= 0 or waits_knowingly(p, s, v) != 0:
            continue
        key = -p.vm_mem_mib[v]
        if restarts(p, s, v):
            key -= RESTART_KEY + PRIORITY_KEY * p.vm_priority[v]
        c.vm_key[v] = key
        c.list[n] = v
        n += 1
    sort_ascending(c.list, c.vm_key, n, c.other)
    return n


@kernel
def offer_placing(p: ClusterParams, s: ClusterState, c: Any) -> None:
    """All that fits, by best fit, and (the second slot) spread over the emptiest hosts."""
    first, end = int(c.marks.place), int(c.marks.plan)
    if c.now.waiting == 0 or end == first:
        return
    n = _list_waiting(p, s, c)
    for k in range(first, end):
        begin_candidate(c)
        failed = no_failures()
        placed = 0
        for i in range(n):
            v = c.list[i]
            if placed >= c.marks.placed or is_hopeless(p, failed, v):
                continue
            if p.has_admission and check_admission(p, c, v) != 0:
                continue
            to = best_host(p, c, v, (np.inf, np.inf, np.inf), False, k > first)
            if to >= 0 and give(p, c, PLACE_VM, v, to) == 0:
                placed += 1
            elif not has_rule(p, v):
                note_failure(failed, v)
        end_candidate(p, s, c, k, placed > 0, 0.0)
