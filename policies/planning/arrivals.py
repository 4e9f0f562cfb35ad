"""What the engine's arrival and restart rules do, with placement rules and the failover guarantee kept.

The engine places VMs by room alone. Where a cluster has placement rules, or promises to survive failures,
a policy that leaves its arrivals to the engine would break them by no fault of its own; here they are placed
by the same rule among the hosts that are allowed, and what the policy itself orders is checked likewise.
"""

from __future__ import annotations

import numpy as np

from virtgym.envs.arrays import B1, I4
from virtgym.envs.jit.kernels import kernel
from virtgym.envs.sim.config import ARRIVAL_RULES, ClusterConfig
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.engine.orders import check_place, fits_arrival
from virtgym.envs.sim.engine.waiting import TIE, arrival_score, is_hopeless, no_failures, note_failure
from virtgym.envs.sim.models.recovery import restart_order
from virtgym.envs.sim.simulator import ClusterView
from virtgym.envs.sim.state.cluster_state import PENDING, ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

from .draft import Draft
from .guard import AdmissionGuard
from .plans import legal_part
from .room import may_open
from .rule_hosts import RuleHosts, keep_rules


def is_guarded(cluster: ClusterConfig) -> bool:
    """Whether a cluster has placement rules or promises something, so that not every host will do."""
    return bool(cluster.rules) or (cluster.admission is not None and cluster.admission.rule != "none")


@kernel
def choose_allowed(
    p: ClusterParams, s: ClusterState, v: int, rule: int, allowed: B1, rank: I4, off: bool
) -> int:
    """The host that an arrival rule gives a VM, of the allowed ones of lowest rank; -1 = none.

    Args:
        v: VM that waits.
        rule: Place in ``config.ARRIVAL_RULES``.
        allowed: Hosts to choose from, shape (H,).
        rank: Hosts to take before others have a lower one, shape (H,).
        off: Whether hosts that are off are meant, which are booted for it.
    """
    best = -1
    least = np.inf
    for h in range(allowed.shape[0]):
        if not allowed[h] or (best >= 0 and rank[h] > rank[best]):
            continue
        fits = (may_open(p, s, h) and fits_arrival(p, s, v, h) == 0) if off else check_place(p, s, v, h) == 0
        if not fits:
            continue
        score = arrival_score(p, s, v, h, rule)
        if best < 0 or rank[h] < rank[best] or score < least - TIE:
            best = h
            least = score
    return best


class Keeper:
    """Keeps rules and guarantee for a policy that does not.

    Args:
        view: The cluster.
        rule: Arrival rule of the policy, one of ``config.ARRIVAL_RULES``.
    """

    def __init__(self, view: ClusterView, rule: str) -> None:
        self._rule = ARRIVAL_RULES.index(rule)
        self._guard = AdmissionGuard(view)
        self._rules = RuleHosts(view)

    def place(self, view: ClusterView) -> tuple[Decisions, ClusterView]:
        """Place the VMs that wait: those that restart in their order, then those that are new.

        VMs that no rule names are not tried after one that needs no more has found no host (``waiting``).

        Returns:
            The orders, and the cluster with them carried out.
        """
        p, s = view.params, view.state
        waits = (s.vm_state == PENDING) & (s.vm_dest < 0)
        if not waits.any():
            return Decisions(), view
        again = waits & (s.vm_restart > 0) if p.has_failures else np.zeros(view.n_vms, dtype=np.bool_)
        new = np.flatnonzero(waits & ~again)
        new = new[np.argsort(p.vm_arrival_s[new], kind="stable")].astype(np.int32)
        due = np.empty(0, dtype=np.int32)
        if again.any() and p.restart_rule != 0:  # else the engine restarts them
            due = np.flatnonzero(again & (s.vm_restart == 2)).astype(np.int32)
            due = restart_order(due, p.vm_priority, s.vm_down_since_s)
        if not (due.size or new.size):
            return Decisions(), view
        draft = Draft(view)
        self._guard.renew(view)
        failed = {True: no_failures(), False: no_failures()}
        for v in [*due.tolist(), *new.tolist()]:
            self._place(draft, int(v), bool(again[v]), failed[bool(again[v])])
        left = new[draft.sim.state.vm_dest[new] < 0]
        left = left[draft.sim.state.vm_state[left] == PENDING]
        if left.size and p.auto_boot and self._guard.active:  # what the promise lacks comes on for them
            self._guard.renew(draft.sim.view)
            self._guard.switch_on_until(
                lambda: bool(self._guard.may_admit(left).all()), range(view.n_hosts), draft.power_on
            )
        return draft.decisions(), draft.sim.view

    def _place(self, draft: Draft, v: int, again: bool, failed: I4) -> None:
        p, s = draft.sim.params, draft.sim.state
        kp, ks = draft.sim.kernel_params, draft.sim.kernel_state
        ruled = bool(self._rules.ruled[v])
        if not ruled and is_hopeless(kp, failed, v):
            return
        if not again and not self._guard.may_admit(np.array([v], dtype=np.int32))[0]:
            note_failure(failed, v)
            return
        allowed = self._rules.allowed(s, v)
        if not again:
            allowed = allowed & self._guard.hosts_allowed()
        rank = self._rules.rank(draft.sim, v)
        for off in (False, True) if p.auto_boot else (False,):
            h = int(choose_allowed(kp, ks, v, self._rule, allowed, rank, off))
            if h >= 0 and (not off or draft.power_on(h)) and draft.place(v, h):
                if not again:
                    self._guard.admit(v)
                return
        if not ruled:
            note_failure(failed, v)

    def keep(self, view: ClusterView, plan: Decisions) -> Decisions:
        """Leave out the orders of a plan that would break a rule or the guarantee.

        Args:
            view: The cluster, with what was placed carried out.
            plan: The policy's plan for it.
        """
        if len(plan) == 0:
            return plan
        plan = keep_rules(view, self._rules, plan)
        self._guard.renew(view)
        return legal_part(view, self._guard.keep(plan))
