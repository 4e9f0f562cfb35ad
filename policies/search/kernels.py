"""Candidates tried out: each on a copy of the same state, for some intervals, under the same future."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.cluster.candidates.buffers import CandidateBuffers
from virtgym.envs.cluster.candidates.offer import take_candidate
from virtgym.envs.cluster.rewards import RewardBuffers, weigh_terms, write_terms
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.engine.clock import advance, measure_again, step_end
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams


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
def play_on(
    p: ClusterParams, s: ClusterState, r: RewardBuffers, horizon: int, discount: float, end_s: float
) -> Any:
    """Let intervals pass without a decision, and add up their rewards.

    Args:
        p: Parameters of the fork.
        s: Its state, with what was ordered carried out; ``r.before`` has the totals of before the orders.
        r: Buffers of the reward.
        horizon: Intervals, fewer at the end of the episode.
        discount: Weight of an interval in that of the one before.
        end_s: End of the episode, s.
    """
    measure_again(p, s)
    value, weight = 0.0, 1.0
    for _ in range(horizon):
        if s.clock.now_s >= end_s - 1e-9:
            break
        advance(p, s, step_end(s.clock.now_s, p.interval_s, p.interval_s, end_s))
        for i in range(r.delta.shape[0]):
            r.delta[i] = s.totals[i] - r.before[i]
            r.before[i] = s.totals[i]
        write_terms(r, 0.0)
        value += weight * weigh_terms(r.weights, r.terms)
        weight *= discount
    return value


@kernel
def try_candidates(
    p: ClusterParams,
    s: ClusterState,
    c: CandidateBuffers,
    r: RewardBuffers,
    m: TrialMemory,
    which: I8,
    horizon: int,
    discount: float,
    end_s: float,
    values: F8,
) -> None:
    """Try some candidates; the state is left as it was kept.

    Args:
        p: Parameters of the fork.
        s: Its state.
        c: What is offered in the state that was kept.
        r: Buffers of the reward.
        m: Memory of ``s``.
        which: Slots to try, (n,).
        horizon: Intervals.
        discount: Weight of an interval in that of the one before.
        end_s: End of the episode, s.
        values: Sum of rewards of every slot that is tried, (K,), -inf where nothing is offered.
    """
    for k in which:
        values[k] = -np.inf
        if not c.mask[k]:
            continue
        put_back(m)
        r.before[:] = s.totals
        take_candidate(p, s, s, c, k)
        values[k] = play_on(p, s, r, horizon, discount, end_s)
    put_back(m)
