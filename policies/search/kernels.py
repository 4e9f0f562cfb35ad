"""Candidates tried out: each on a copy of the same state, for some intervals, under the same future."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.cluster.buffers import remember
from virtgym.envs.cluster.candidates.buffers import CandidateBuffers
from virtgym.envs.cluster.candidates.loads import remember_demand
from virtgym.envs.cluster.candidates.offer import offer, take_candidate
from virtgym.envs.cluster.candidates.settings import OFF, PLACE, RELIEVE
from virtgym.envs.cluster.observations import EWMA_WEIGHT
from virtgym.envs.cluster.rewards import RewardBuffers, close_interval
from virtgym.envs.jit.generated import make_kernel
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.clock import advance, measure_again, step_end
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from ..learned.kernel_net import set_scores
from ..ties import first_best

NOTHING, UPKEEP, NETWORK = "nothing", "upkeep", "network"
"""What plays on in a fork after the candidate that is tried."""

SAME = 1e-10
"""Rewards of intervals in which the same happens differ by less, relatively: what rounding makes of them."""

CHORES = (PLACE, RELIEVE, OFF)
"""Kinds of candidates that ``upkeep`` chooses, the most urgent first."""


class TrialMemory(NamedTuple):
    """The memory of the state on which candidates are tried, in words, and the same as it was before."""

    structure: I8
    signals: I8
    kept_structure: I8
    kept_signals: I8


@kernel
def put_back(m: TrialMemory) -> None:
    """Make the state what it was when it was kept."""
    m.structure[:] = m.kept_structure
    m.signals[:] = m.kept_signals


@kernel
def keep(m: TrialMemory) -> None:
    """Keep the state as it is."""
    m.kept_structure[:] = m.structure
    m.kept_signals[:] = m.signals


@kernel
def pass_interval(p: ClusterParams, s: ClusterState, r: RewardBuffers, end_s: float) -> Any:
    """Let an interval pass; its reward. ``r.before`` has the totals of before the interval's orders."""
    advance(p, s, step_end(s.clock.now_s, p.interval_s, p.interval_s, end_s))
    return close_interval(r, s.totals, 0.0)


@kernel
def is_settled(p: ClusterParams, s: ClusterState, reward: float, last: float) -> bool:
    """Whether all intervals to come will be like the last two: demand stays, nothing is to happen."""
    c = s.counters
    if p.util.shape[0] > 1 or c.queued > 0 or c.moving > 0 or c.pending > 0:
        return False
    if c.fault < p.fail_time_s.shape[0]:
        return False
    return bool(abs(reward - last) <= SAME * abs(reward))


@kernel
def weight_left(p: ClusterParams, s: ClusterState, weights: F8, first: int, end_s: float) -> Any:
    """Weights of the intervals from one on, up to the horizon or the end of the episode."""
    n = min(len(weights) - first, int((end_s - s.clock.now_s) / p.interval_s + 1e-9))
    total = 0.0
    for i in range(first, first + n):
        total += weights[i]
    return total


@kernel
def first_chore(c: CandidateBuffers) -> Any:
    """The first candidate of the most urgent kind of ``CHORES`` that is offered, 0 = nothing."""
    for kind in CHORES:
        for k in range(c.mask.shape[0]):
            if c.mask[k] and c.kind[k] == kind:
                return k
    return 0


@kernel
def begin_base(p: ClusterParams, s: ClusterState, c: CandidateBuffers, d: CandidateBuffers) -> None:
    """Give the buffers ``d`` of a fork what those of the cluster remember of demand."""
    d.vm_mean[:] = c.vm_mean
    d.vm_variance[:] = c.vm_variance


_TRY = """def {name}(p, s, q, v, c, r, m, which, weights, end_s, values{more}):
    for k in which:
        values[k] = -np.inf
        if not c.mask[k]:
            continue
        put_back(m)
        r.before[:] = s.totals
        take_candidate(p, s, s, c, k)
        measure_again(p, s)
        {begin}
        value = 0.0
        for i in range(len(weights)):
            if s.clock.now_s >= end_s - 1e-9:
                break
            {play}
            reward = pass_interval(p, s, r, end_s)
            value += weights[i] * reward
            {remember}
        values[k] = value
    put_back(m)
"""

_PLAY = """if i > 0:
                offer(q, v, d)
                {choose}
                if j > 0:
                    take_candidate(p, s, s, d, j)"""

_BASES: dict[str, dict[str, str]] = {
    NOTHING: {
        "more": "",
        "begin": "last = -np.inf",
        "play": "pass",
        "remember": """if is_settled(p, s, reward, last):
                value += reward * weight_left(p, s, weights, i + 1, end_s)
                break
            last = reward""",
    },
    UPKEEP: {
        "more": ", d",
        "begin": "begin_base(q, v, c, d)",
        "play": _PLAY.format(choose="j = first_chore(d)"),
        "remember": "remember_demand(q, v, d)",
    },
    NETWORK: {
        "more": ", d, b, e, flat, net",
        "begin": "begin_base(q, v, c, d); copy_memory(b, e)",
        "play": _PLAY.format(
            choose="write_globals(q, v, e, 0); set_scores(net, flat); j = first_best(net.out, d.mask)"
        ),
        "remember": "remember_demand(q, v, d); remember(q, v, e, weight_of_demand)",
    },
}


@functools.cache
def try_with(base: str, write_globals: Any = None, copy_memory: Any = None) -> Any:
    """The kernel that tries candidates; it leaves the state as it was kept.

    Args:
        base: What plays on after the candidate: ``NOTHING``, ``UPKEEP`` or ``NETWORK``.
        write_globals: Of a network, the kernel that writes the globals that it reads.
        copy_memory: Of a network, the kernel that copies the observer's memory.

    Returns:
        A kernel of parameters and state of the fork, the same as its view has them, the buffers of what is
        offered, those of the reward, the memory of the state, the slots to try, the weight of every interval
        that is tried, the end of the episode (s), and values, (K,), which are the weighted sums of rewards of
        what is tried, -inf where nothing is offered. ``UPKEEP`` adds buffers of
        candidates for the fork; ``NETWORK`` adds to these the buffers of the observer, those of the fork's
        observer, what it writes in one vector, and the network.
    """
    names: dict[str, Any] = {
        **{"np": np, "put_back": put_back, "measure_again": measure_again, "pass_interval": pass_interval},
        **{"take_candidate": take_candidate, "begin_base": begin_base, "first_chore": first_chore},
        **{"is_settled": is_settled, "weight_left": weight_left},
        **{"offer": offer, "remember": remember, "remember_demand": remember_demand},
        **{"set_scores": set_scores, "first_best": first_best, "weight_of_demand": EWMA_WEIGHT},
        **{"write_globals": write_globals, "copy_memory": copy_memory},
    }
    parts = _BASES[base]
    used = {name: thing for name, thing in names.items() if thing is not None}
    return make_kernel(_TRY.format(name=f"try_with_{base}", **parts), used)
