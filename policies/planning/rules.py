"""Placement rules as flat arrays, and what they let a plan do: kernels.

A planner's memory ``w`` holds ``home``, the arrays of ``rule_arrays``, and in ``apart_count`` the members of
each anti-affinity group on every host in the plan.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virtgym.envs.arrays import I1, I4, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.models.rules import rule_arrays as shared_arrays

from .memory import PlanMemory


class RuleMemory(PlanMemory):
    """The memory of a planner that follows rules.

    A affinity groups, G anti-affinity groups, R sets of hosts that rules name.
    """

    aff: I4  # (V,) affinity group, -1 = none
    aff_first: I8  # (A + 1,) start of each group in ``aff_vm``
    aff_vm: I4  # members
    anti_first: I8  # (V + 1,) start of each VM's anti-affinity groups in ``anti_of``
    anti_of: I4  # groups
    apart_first: I8  # (G + 1,) start of each anti-affinity group in ``apart_vm``
    apart_vm: I4  # members
    apart_count: I4  # (G, H) members on every host in the plan
    must_row: I4  # (V,) row of ``host_sets``, -1 = any host
    should_row: I4  # (V,) the same for wishes
    host_sets: I1  # (R, H) 1: in the set


def rule_arrays(rules: Rules, n_vms: int, n_hosts: int) -> dict[str, Any]:
    """Placement rules as arrays for a planner's memory: the own fields of ``RuleMemory``."""
    apart_count = np.zeros((len(rules.anti_affinity), n_hosts), dtype=np.int32)
    return shared_arrays(rules, n_vms, n_hosts) | {"apart_count": apart_count}


@kernel
def count_apart(w: RuleMemory, v: int, h: int, sign: int) -> None:
    """Count a VM on a host for its anti-affinity groups, or no more."""
    for k in range(w.anti_first[v], w.anti_first[v + 1]):
        w.apart_count[w.anti_of[k], h] += sign


@kernel
def rules_allow(w: RuleMemory, v: int, h: int, wishes: bool) -> Any:
    """Whether rules let a VM go to another host, but for affinity: who calls moves a group together.

    Args:
        w: The planner's memory (handle).
        v: VM.
        h: Host; the VM is not counted there.
        wishes: Whether a wish (``should``) that is kept may not be broken.
    """
    row = w.must_row[v]
    if row >= 0 and not w.host_sets[row, h]:
        return False
    row = w.should_row[v]
    if wishes and row >= 0 and not w.host_sets[row, h] and w.host_sets[row, w.home[v]]:
        return False
    there: Any = np.int64(0)
    for k in range(w.anti_first[v], w.anti_first[v + 1]):
        there += w.apart_count[w.anti_of[k], h]
    return there == 0
