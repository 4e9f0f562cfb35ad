"""The kernels of a batch of clusters: each lane is a simulator's memory, found by addresses of handles."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..arrays import B1, F8, I1, I8
from ..jit.generated import make_kernel
from ..jit.handle import handle_at
from ..jit.kernels import kernel
from ..sim.engine.clock import advance, step_end
from ..sim.state.cluster_state import ClusterState
from ..sim.state.parameters import ClusterParams
from ..sim.telemetry.shown import Shown, show
from .actions import NOT_OFFERED, take
from .buffers import Buffers, remember
from .candidates.buffers import CandidateBuffers
from .candidates.loads import remember_demand
from .candidates.offer import offer, take_candidate
from .observations import EWMA_WEIGHT
from .rewards import RewardBuffers, close_interval

ADDRESSES = ("p", "s", "q", "z", "w", "v", "o", "c", "r")
"""The handles of a lane: parameters, state, the parameters that views have, the state that they have, what
changes of those parameters, that state read-only, buffers of the observer, of candidates, of the reward."""

IDLE, PASSING, WAITING = 0, 1, 2
"""What a lane does in a step: no time passes, an interval does, or an operator's work is due in it, which
Python does."""

STEP, FINISH, LOOK = 0, 1, 2
"""What the kernel of a batch is called for: a step, the rest of it in lanes where Python let time pass, or to
write observations and masks alone."""


class LaneBooks(NamedTuple):
    """The books of B lanes."""

    address: I8  # (B, 9) of the handles
    horizon_s: F8  # (B,) end of the episode, s
    event_s: F8  # (B,) when an operator's next work is due, inf = never, s
    chosen: I8  # (B,) the chosen VM, -1 = none
    decisions: I8  # (B,) in this interval
    illegal: I8  # (B,) actions of the episode that were refused
    code: I8  # (B,) why the last step's was, 0 = it was not
    refused: I8  # (B,) how many orders of the last step were
    phase: I1  # (B,) IDLE, PASSING or WAITING
    forced: B1  # (B,) the last step ended the interval by the limit of decisions
    moved: B1  # (B,) the last step may have changed the simulator's state
    over: B1  # (B,) the episode has ended, or none has begun
    reward: F8  # (B,) of the last step
    duration: F8  # (B,) intervals that passed in the last step, 0 or 1
    time_s: F8  # (B,) now, s
    total: F8  # (B,) sum of rewards of the episode
    length: I8  # (B,) steps of the episode
    limit: int  # decisions allowed in an interval
    observe: int  # whether observations are written


def make_books(n: int, limit: int, observe: bool) -> LaneBooks:
    """Make the books of ``n`` lanes in which no episode has begun."""
    kinds: dict[str, Any] = dict.fromkeys(("forced", "moved", "over"), np.bool_)
    kinds |= dict.fromkeys(("horizon_s", "event_s", "reward", "duration", "time_s", "total"), np.float64)
    kinds["phase"] = np.int8
    arrays: dict[str, Any] = {name: np.zeros(n, kinds.get(name, np.int64)) for name in LaneBooks._fields}
    arrays["address"] = np.zeros((n, len(ADDRESSES)), np.int64)
    arrays |= {"limit": np.int64(limit), "observe": np.int64(observe)}
    arrays["over"][:] = True
    return LaneBooks(**arrays)


@kernel
def begin_step(e: LaneBooks, b: int) -> Any:
    """Clear what the last step has told of a lane; whether its episode goes on."""
    e.reward[b] = e.duration[b] = 0.0
    e.code[b] = e.refused[b] = 0
    e.phase[b] = IDLE
    e.forced[b] = e.moved[b] = False
    return not e.over[b]


@kernel
def choose_one(
    e: LaneBooks,
    b: int,
    p: ClusterParams,
    s: ClusterState,
    q: ClusterParams,
    z: ClusterState,
    v: ClusterState,
    c: Any,
    action: int,
) -> None:
    """One unrolled action of a lane; whether time is to pass stands in its phase then."""
    if action == 0 and e.chosen[b] < 0:
        e.phase[b] = PASSING
        return
    code, chosen = take(p, s, z, action, e.chosen[b])
    e.code[b], e.chosen[b] = code, chosen
    e.refused[b] = code != 0
    e.moved[b] = code == 0 and chosen < 0 and action != 0
    e.decisions[b] += 1
    e.forced[b] = e.decisions[b] >= e.limit


@kernel
def choose_candidate(
    e: LaneBooks,
    b: int,
    p: ClusterParams,
    s: ClusterState,
    q: ClusterParams,
    z: ClusterState,
    v: ClusterState,
    c: CandidateBuffers,
    action: int,
) -> None:
    """Carry out one of the candidates of a lane; else as ``choose_one``."""
    if action == 0:
        e.phase[b] = PASSING
        return
    e.decisions[b] += 1
    if not e.observe:
        offer(q, v, c)
    refused = take_candidate(p, s, z, c, action)
    e.refused[b] = abs(refused)
    e.code[b] = NOT_OFFERED if refused != 0 else 0
    e.moved[b] = refused >= 0
    if e.decisions[b] >= e.limit:
        e.phase[b] = PASSING


@kernel
def after_choice(
    e: LaneBooks,
    b: int,
    p: ClusterParams,
    s: ClusterState,
    q: ClusterParams,
    z: ClusterState,
    w: Shown,
    r: RewardBuffers,
) -> None:
    """Count what was refused, and show what has changed if no time passes."""
    if e.refused[b] > 0:
        e.illegal[b] += e.refused[b]
        e.reward[b] = r.weights.illegal * e.refused[b]
    if e.forced[b]:
        e.phase[b] = PASSING
    if e.phase[b] == IDLE and e.moved[b] and p.full:
        show(p, s, q, z, w)


@kernel
def let_pass(
    e: LaneBooks,
    b: int,
    p: ClusterParams,
    s: ClusterState,
    q: ClusterParams,
    z: ClusterState,
    w: Shown,
) -> None:
    """Let an interval pass in a lane, unless an operator's work is due in it."""
    until = step_end(s.clock.now_s, p.interval_s, p.interval_s, e.horizon_s[b])
    if e.event_s[b] <= until:
        e.phase[b] = WAITING
        return
    if until > s.clock.now_s:
        advance(p, s, until)
    show(p, s, q, z, w)


@kernel
def end_interval(e: LaneBooks, b: int, s: ClusterState, r: RewardBuffers) -> None:
    """Sum up an interval that has passed in a lane, and open the next."""
    e.reward[b] = close_interval(r, s.totals, float(e.refused[b]))
    e.duration[b] = 1.0
    e.chosen[b] = -1
    e.decisions[b] = 0
    e.moved[b] = True
    e.time_s[b] = s.clock.now_s
    e.over[b] = s.clock.now_s >= e.horizon_s[b] - 1e-9


@kernel
def recall(q: ClusterParams, v: ClusterState, o: Buffers, c: Any) -> None:
    """Take note of the interval that has just ended."""
    remember(q, v, o, EWMA_WEIGHT)


@kernel
def recall_candidates(q: ClusterParams, v: ClusterState, o: Buffers, c: CandidateBuffers) -> None:
    """The same for what is offered."""
    remember(q, v, o, EWMA_WEIGHT)
    remember_demand(q, v, c)


_PLAY = """def {name}(e, p0, s0, w0, v0, o0, c0, r0, actions, task, first, last):
    for b in range(first, last):
        a = e.address[b]
        if task == STEP and not begin_step(e, b):
            continue
        if task == FINISH and e.phase[b] != WAITING:
            continue
        p, s, q, z = handle_at(a[0], p0), handle_at(a[1], s0), handle_at(a[2], p0), handle_at(a[3], s0)
        w, v, o, c = handle_at(a[4], w0), handle_at(a[5], v0), handle_at(a[6], o0), handle_at(a[7], c0)
        r = handle_at(a[8], r0)
        if task == LOOK:
            look(q, v, o, c, e.chosen[b], e.decisions[b], True)
            continue
        if task == STEP:
            act(e, b, p, s, q, z, v, c, actions[b])
            after_choice(e, b, p, s, q, z, w, r)
            if e.phase[b] == PASSING:
                let_pass(e, b, p, s, q, z, w)
            if e.phase[b] == WAITING:
                continue
        if e.phase[b] != IDLE:
            recall(q, v, o, c)
            end_interval(e, b, s, r)
        e.total[b] += e.reward[b]
        e.length[b] += 1
        if e.observe:
            look(q, v, o, c, e.chosen[b], e.decisions[b], e.moved[b])
"""

_LOOK = """def {name}(q, v, o, c, chosen, n_decisions, moved):
    observe(q, v, o, chosen, n_decisions, moved)
"""

_OFFER = """def {name}(q, v, o, c, chosen, n_decisions, moved):
    write_globals(q, v, o, n_decisions)
    if moved:
        offer(q, v, c)
"""


@functools.cache
def play_with(observe: Any, candidates: bool, full: bool) -> Any:
    """The kernel that plays a step in some lanes of a batch.

    Args:
        observe: What writes observations: of ``observe_with``, or of ``write_globals_with`` for candidates.
        candidates: Whether actions are candidates.
        full: Whether the clusters use the full model.

    Returns:
        A kernel of books, one handle of each kind, actions, what it is called for, the first lane, and the
        one after the last.
    """
    model = "full" if full else "simple"
    names: dict[str, Any] = {
        "handle_at": handle_at,
        "begin_step": begin_step,
        "act": choose_candidate if candidates else choose_one,
        "after_choice": after_choice,
        "let_pass": let_pass,
        "recall": recall_candidates if candidates else recall,
        "end_interval": end_interval,
        **{"STEP": STEP, "FINISH": FINISH, "LOOK": LOOK},
        **{"IDLE": IDLE, "PASSING": PASSING, "WAITING": WAITING},
    }
    if candidates:
        told = {"write_globals": observe, "offer": offer}
        names["look"] = make_kernel(_OFFER.format(name=f"look_at_candidates_{model}"), told)
        return make_kernel(_PLAY.format(name=f"play_candidates_{model}"), names, nogil=True)
    names["look"] = make_kernel(_LOOK.format(name=f"look_{model}"), {"observe": observe})
    return make_kernel(_PLAY.format(name=f"play_{model}"), names, nogil=True)
