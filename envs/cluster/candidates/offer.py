"""What a batch calls for every cluster: offer the candidates, and carry one out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...jit.kernels import kernel
from ...sim.engine.orders import (
    order_full_power,
    order_maintenance,
    order_move,
    order_place,
    order_power_off,
    order_power_on,
    order_suspend,
)
from ...sim.guarantee import blame_orders, guarantee_fails
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from ...sim.telemetry.shown import show_order
from .arrivals import offer_placing
from .balance import offer_balance
from .buffers import CandidateBuffers
from .draft import (
    FULL_POWER,
    MAINTENANCE,
    MOVE,
    PLACE_VM,
    POWER_OFF,
    POWER_ON,
    SUSPEND,
    give,
)
from .empty import offer_emptying
from .loads import read_cluster
from .power import offer_keeping, offer_off, offer_on
from .relieve import offer_relief
from .rows import begin_candidate, end_candidate, offer_candidate
from .trade import offer_trades


@kernel
def offer(p: ClusterParams, s: ClusterState, c: CandidateBuffers) -> None:
    """Offer all candidates but those of plug-ins, which ``lay_orders`` adds.

    Args:
        p: Parameters, of a view.
        s: State, of a view.
        c: Buffers; features, mask and orders are rewritten.
    """
    for k in range(c.mask.shape[0]):
        if c.mask[k]:  # the row of a slot that was not offered is 0 already
            c.features[k] = 0.0
    c.mask[:] = False
    c.order_count[:] = 0
    c.now.orders = 0
    read_cluster(p, s, c)
    begin_candidate(c)
    offer_candidate(p, s, c, 0, 0.0)
    offer_relief(p, s, c)
    offer_emptying(p, s, c)
    offer_trades(p, s, c)
    offer_off(p, s, c)
    offer_on(p, s, c)
    offer_keeping(p, s, c)
    offer_balance(p, s, c)
    offer_placing(p, s, c)


@kernel
def lay_orders(
    p: ClusterParams, s: ClusterState, c: CandidateBuffers, k: int, kind: Any, vm: Any, host: Any
) -> int:
    """Offer orders from outside as candidate k, those that are legal one after the other.

    Args:
        p: Parameters, of a view.
        s: State, of a view, as it was at ``offer``.
        c: Buffers.
        k: Slot.
        kind: Kinds of the orders, places of ``decisions.ORDERS``, (n,).
        vm: Their VMs, -1 = none, (n,).
        host: Their hosts, (n,).

    Returns:
        How many were left out. Without a legal one there is no candidate.
    """
    begin_candidate(c)
    left_out = 0
    for i in range(kind.shape[0]):
        left_out += give(p, c, kind[i], vm[i], host[i]) != 0
    end_candidate(p, s, c, k, c.now.orders > c.now.begun, 0.0)
    return left_out


@kernel
def _order(p: ClusterParams, s: ClusterState, kind: int, v: int, h: int) -> Any:
    if kind == MOVE:
        return order_move(p, s, v, h)
    if kind == PLACE_VM:
        return order_place(p, s, v, h)
    if kind == POWER_ON:
        return order_power_on(p, s, h)
    if kind == POWER_OFF:
        return order_power_off(p, s, h)
    if kind == SUSPEND:
        return order_suspend(p, s, h)
    if kind == FULL_POWER:
        return order_full_power(p, s, h)
    return order_maintenance(p, s, h, kind == MAINTENANCE)


@kernel
def take_candidate(p: ClusterParams, s: ClusterState, z: ClusterState, c: CandidateBuffers, k: int) -> Any:
    """Carry out the orders of a candidate; time does not pass.

    Args:
        p: Parameters.
        s: State.
        z: The state that views have; a simple cluster's is brought up to now, the full model's by ``show``.
        c: Buffers, as ``offer`` left them for this state.
        k: Candidate.

    Returns:
        How many orders were refused, -1 where there is no such candidate: nothing has changed then.
    """
    if k < 0 or k >= c.mask.shape[0] or not c.mask[k]:
        return -1
    failed = guarantee_fails(p, s)
    refused = 0
    for i in range(c.order_first[k], c.order_first[k] + c.order_count[k]):
        v, h, kind = c.order_vm[i], c.order_host[i], c.order_kind[i]
        code = _order(p, s, kind, v, h)
        refused += code != 0
        if p.full == 0 and code == 0:
            at: Any = np.int64(h)
            source: Any = np.int64(s.vm_host[v]) if kind == MOVE else np.int64(-1)
            show_order(p, s, z, at, source)
    blame_orders(p, s, failed)
    return refused
