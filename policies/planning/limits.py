"""What an operator forbids every mover: VMs and hosts left alone, rest after a move, moves at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from virtgym.envs.arrays import B1, I4
from virtgym.envs.checks import need, need_indices, unknown_name
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import MIG_NONE

from .plans import legal_part
from .rule_hosts import RuleHosts, keep_rules

EXCLUDED = ("vms", "hosts")
"""Keys of ``exclude``: lists of numbers."""


def check_limits(exclude: Mapping[str, Any], cooldown_s: float, max_concurrent: int | None) -> None:
    """Check what can be checked without a cluster.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    for key in exclude:
        if key not in EXCLUDED:
            raise unknown_name("policy.exclude", key, EXCLUDED)
    need(0 <= cooldown_s < np.inf, f"policy.cooldown_s={cooldown_s}: must be 0 or more")
    need(
        max_concurrent is None or max_concurrent >= 1,
        f"policy.max_concurrent={max_concurrent}: must be at least 1, or null for no limit",
    )


class MoveLimits:
    """The limits of one policy in one cluster.

    Args:
        view: The cluster.
        exclude: Numbers of VMs (``vms``) that are never moved, and of hosts (``hosts``) that give and take no
            VM and are not switched.
        cooldown_s: Time that a VM rests after a migration has begun, s.
        max_concurrent: Most migrations under way at a time; None = no limit.

    Attributes:
        closed: Hosts that are left alone, shape (H,).
        active: Whether anything is limited.

    Raises:
        ConfigError: If there is no such VM or host.
    """

    def __init__(
        self, view: ClusterView, exclude: Mapping[str, Any], cooldown_s: float, max_concurrent: int | None
    ) -> None:
        self._vms: B1 = np.zeros(view.n_vms, dtype=np.bool_)
        self._vms[need_indices("policy.exclude.vms", "VM", exclude.get("vms") or [], view.n_vms)] = True
        self.closed: B1 = np.zeros(view.n_hosts, dtype=np.bool_)
        hosts = need_indices("policy.exclude.hosts", "host", exclude.get("hosts") or [], view.n_hosts)
        self.closed[hosts] = True
        self._cooldown_s = cooldown_s * (1.0 - 1e-9)
        self._most = max_concurrent
        self.active = bool(self._vms.any() or hosts.size or cooldown_s or max_concurrent)
        self._rules = RuleHosts(view)

    def held(self, view: ClusterView) -> B1:
        """VMs that may not be moved now, shape (V,)."""
        s = view.state
        held: B1 = self._vms | (view.time_s - s.vm_last_move_s < self._cooldown_s)
        there = s.vm_host >= 0
        held[there] |= self.closed[s.vm_host[there]]
        return held

    def left(self, view: ClusterView) -> int:
        """Migrations that may begin beside those under way."""
        if self._most is None:
            return view.n_vms
        return max(0, self._most - int((view.state.vm_mig != MIG_NONE).sum()))

    def keep(self, view: ClusterView, plan: Decisions) -> Decisions:
        """What is left of a plan within the limits; VMs of an affinity group go together or not at all.

        Args:
            view: The cluster.
            plan: A plan made of legal orders.

        Returns:
            The rest of it, legal as well; the first moves are kept where there are too many.
        """
        if not self.active or len(plan) == 0:
            return plan
        moves = ~self.held(view)[plan.move_vm] & ~self.closed[plan.move_host]
        moves = self._whole(plan.move_vm, moves, self.left(view))
        switched = {k: getattr(plan, k) for k in ("power_on", "power_off", "suspend")}
        switched = {k: hosts[~self.closed[hosts]] for k, hosts in switched.items()}
        kept = replace(plan, move_vm=plan.move_vm[moves], move_host=plan.move_host[moves], **switched)
        if len(kept) == len(plan):
            return plan
        return legal_part(view, keep_rules(view, self._rules, kept))

    def _whole(self, vms: I4, moves: B1, left: int) -> B1:
        """Keep whole groups, and no more moves than are left."""
        kept = np.zeros_like(moves)
        seen: set[int] = set()
        for i, v in enumerate(vms.tolist()):
            if v in seen:
                continue
            unit = (
                np.isin(vms, self._rules.group(v)) if self._rules.has_group(v) else np.arange(len(vms)) == i
            )
            seen.update(vms[unit].tolist())
            if moves[unit].all() and int(unit.sum()) <= left:
                kept |= unit
                left -= int(unit.sum())
        return kept
