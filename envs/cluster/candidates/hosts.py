"""Which host next: ranks of hosts, and where a VM fits best."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import F8
from ...jit.kernels import kernel
from ...jit.sorting import sort_ascending
from ...sim.engine.orders import check_fit, check_move
from ...sim.guarantee import check_rules
from ...sim.state.cluster_state import MIG_NONE, PENDING, RUNNING
from ...sim.state.parameters import ClusterParams
from .buffers import CandidateBuffers
from .draft import cpu_on

TIE = 1e-6
"""Weight of the other resource where hosts or VMs are alike in the one that counts: sizes are few."""


@kernel
def take_least(key: F8, n: int) -> Any:
    """The first of n entries with the smallest finite key, which becomes inf; -1 = none is left."""
    best = -1
    least = np.inf
    for i in range(n):
        if key[i] < least:
            least, best = key[i], i
    if best >= 0:
        key[best] = np.inf
    return best


@kernel
def may_take(p: ClusterParams, c: Any, v: int, h: int) -> bool:
    """Whether a VM may move or start on a host, by orders and by rules; admission says whether it starts."""
    code = check_fit(p, c, v, h) if c.vm_state[v] == PENDING else check_move(p, c, v, h)
    if code == 0 and p.has_rules:
        code = check_rules(p, c, v, h)
    return bool(code == 0)


@kernel
def _shares(p: ClusterParams, c: CandidateBuffers, v: int, h: int) -> Any:
    """Shares of memory as configured and of CPU that a host would have with a VM."""
    load = c.new_risk[h] + cpu_on(p, c, v, h, c.vm_risk[v])
    return (c.new_mem[h] + p.vm_mem_mib[v]) * p.host_inv_mem[h], load * p.host_inv_cpu[h]


@kernel
def fits(p: ClusterParams, c: CandidateBuffers, v: int, h: int, fills: tuple[float, float, float]) -> bool:
    """Whether a host stays within the fills of ``best_host`` with a VM."""
    share, load = _shares(p, c, v, h)
    touched = (c.new_used[h] + c.vm_used[v]) * p.host_inv_mem[h]
    return bool(share <= fills[0] and touched <= fills[1] and load <= fills[2])


@kernel
def best_host(
    p: ClusterParams, c: CandidateBuffers, v: int, fills: tuple[float, float, float], used: bool, spread: bool
) -> Any:
    """Where a VM fits best: the fullest host that stays within the fills, or with ``spread`` the emptiest.

    Of hosts that are as full of memory it takes the one with less CPU in use.

    Args:
        p: Parameters.
        c: Buffers: the draft and the loads on it.
        v: VM, running or waiting.
        fills: Shares of a host up to which it may be filled: of memory as configured and as touched, and of
            CPU, by demand as planned for.
        used: Whether only hosts that hold VMs come into question.
        spread: Whether to take the emptiest.

    Returns:
        Host, -1 = none.
    """
    best, source = -1, c.vm_host[v]
    sign = -1.0 if spread else 1.0
    best_score = -np.inf
    for h in range(c.takes.shape[0]):
        if not c.takes[h] or h == source or (used and c.new_home[h] == 0) or not fits(p, c, v, h, fills):
            continue
        share, load = _shares(p, c, v, h)
        score = (sign * share if c.now.by_memory else sign * load) - TIE * load
        if score > best_score and may_take(p, c, v, h):
            best, best_score = h, score
    return best


@kernel
def list_vms(p: ClusterParams, c: CandidateBuffers, h: int) -> Any:
    """List the VMs of a host that may move, the largest first, in ``c.list``.

    Returns:
        How many, and whether all that stay are among them: then the host can be emptied.
    """
    n, all_move = 0, True
    v = c.host_head[h]
    while v >= 0:
        if c.vm_mig[v] == MIG_NONE:
            if c.vm_state[v] == RUNNING:
                c.list[n] = v
                c.vm_key[v] = -(p.vm_mem_mib[v] if c.now.by_memory else c.vm_risk[v])
                n += 1
            else:
                all_move = False
        v = c.vm_next[v]
    sort_ascending(c.list, c.vm_key, n, c.other)
    return n, all_move


@kernel
def idle_w(p: ClusterParams, h: int) -> Any:
    """Power of a host that is on and does nothing, W."""
    return p.power_w[p.host_type[h], 0]
