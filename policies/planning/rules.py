"""Placement rules as flat arrays, and what they let a plan do: kernels.

A planner's memory ``w`` holds ``home``, the arrays of ``rule_arrays``, and in ``apart_count`` the members of
each anti-affinity group on every host in the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from virtgym.envs.arrays import I1, I4, I8
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.models.rules import Rules, VmHostRule

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


def named_hosts(rules: Sequence[VmHostRule], strict: bool) -> dict[int, frozenset[int]]:
    """Hosts of every VM that rules name.

    Of several rules for a VM all hold; of wishes that contradict each other (not ``strict``) the first.
    """
    named: dict[int, frozenset[int]] = {}
    for rule in rules:
        hosts = frozenset(rule.hosts)
        for v in rule.vms:
            both = named.get(v, hosts) & hosts
            named[v] = both if both or strict else named[v]
    return named


def _groups(groups: Sequence[Iterable[int]]) -> tuple[I8, I4]:
    """Start of each group, and all members in a row."""
    members = [list(group) for group in groups]
    first = np.concatenate([[0], np.cumsum([len(group) for group in members])]).astype(np.int64)
    return first, np.array([v for group in members for v in group], dtype=np.int32)


def rule_arrays(rules: Rules, n_vms: int, n_hosts: int) -> dict[str, Any]:
    """Placement rules as arrays for a planner's memory.

    Args:
        rules: The cluster's rules.
        n_vms: V.
        n_hosts: H.

    Returns:
        The own fields of ``RuleMemory``.
    """
    aff = np.full(n_vms, -1, dtype=np.int32)
    for i, group in enumerate(rules.joined):
        aff[list(group)] = i
    of: list[list[int]] = [[] for _ in range(n_vms)]
    for i, group in enumerate(rules.anti_affinity):
        for v in group:
            of[v].append(i)
    sets: dict[frozenset[int], int] = {}
    rows = {"must_row": named_hosts(rules.must, True), "should_row": named_hosts(rules.should, False)}
    known: dict[str, Any] = {name: np.full(n_vms, -1, dtype=np.int32) for name in rows}
    for name, named in rows.items():
        for v, hosts in named.items():
            known[name][v] = sets.setdefault(hosts, len(sets))
    table = np.zeros((len(sets), n_hosts), dtype=np.int8)
    for hosts, row in sets.items():
        table[row, list(hosts)] = 1
    groups = {"aff": rules.joined, "apart": rules.anti_affinity, "anti": of}
    for name, members in groups.items():
        known[f"{name}_first"], known[f"{name}_{'of' if name == 'anti' else 'vm'}"] = _groups(members)
    apart_count = np.zeros((len(rules.anti_affinity), n_hosts), dtype=np.int32)
    return known | {"aff": aff, "apart_count": apart_count, "host_sets": table}


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
