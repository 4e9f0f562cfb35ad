"""Plans as values: what is left of one without refused orders, and several that follow each other as one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.sim.decisions import Decisions, Refusal
from virtgym.envs.sim.simulator import ClusterView

PAIRS = ("place", "move")
"""Kinds of orders that name a VM and a host."""


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
    for kind in PAIRS:
        vms, hosts = getattr(plan, f"{kind}_vm"), getattr(plan, f"{kind}_host")
        keep = np.array([(kind, int(v), int(h)) not in refused for v, h in zip(vms, hosts)], dtype=np.bool_)
        parts |= {f"{kind}_vm": vms[keep], f"{kind}_host": hosts[keep]}
    for f in fields(Decisions):
        if f.name not in parts:
            hosts = getattr(plan, f.name)
            keep = np.array([(f.name, -1, int(h)) not in refused for h in hosts], dtype=np.bool_)
            parts[f.name] = hosts[keep]
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
