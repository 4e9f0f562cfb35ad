"""Plans as values: what is left of one without refused orders, and several that follow each other as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.decisions import ORDERS, Decisions, Refusal
from virtgym.envs.sim.simulator import ClusterView


def without_refused(plan: Decisions, refusals: Iterable[Refusal]) -> Decisions:
    """A plan without the orders that were refused: those change nothing, so the others stay legal.

    Args:
        plan: The plan.
        refusals: What ``Simulator.apply`` said of it.
    """
    refused = {(r.kind, r.vm, r.host) for r in refusals}
    if not refused:
        return plan
    parts: dict[str, NDArray[np.int32]] = {}
    subjects = list(plan.subjects())
    for kind, names in ORDERS.items():
        keep = np.array([one not in refused for one in subjects if one[0] == kind], dtype=np.bool_)
        parts |= {name: getattr(plan, name)[keep] for name in names}
    return Decisions(**parts)


def legal_part(view: ClusterView, plan: Decisions) -> Decisions:
    """What is left of a plan without the orders that the simulator would refuse.

    A copy of the simulator carries the plan out, so that what orders do to each other (nodes, reservations)
    counts exactly.

    Args:
        view: The cluster.
        plan: The plan.
    """
    if len(plan) == 0:
        return plan
    twin = view.fork()
    twin.strict = False
    return without_refused(plan, twin.apply(plan))


def merge_plans(plans: Iterable[Decisions]) -> Decisions:
    """All orders of plans that were carried out one after the other.

    Args:
        plans: The plans, in that order; at least one.
    """
    known = list(plans)
    return Decisions(
        **{f.name: np.concatenate([getattr(plan, f.name) for plan in known]) for f in fields(Decisions)}
    )
