"""Why a policy moves a VM: the value that triggered it, and the threshold that it was compared with."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.simulator import ClusterView

from .outlook import Picture

if TYPE_CHECKING:
    from virtgym.policies.dpm.policy import DpmPolicy
    from virtgym.policies.drs.policy import DrsPolicy, DrsRound
    from virtgym.policies.platform import PlatformPolicy


# Only the policy that plans is loaded: what has not been imported, it is no instance of.
def _is(policy: Any, module: str, name: str) -> bool:
    loaded = sys.modules.get(f"virtgym.policies.{module}")
    return loaded is not None and isinstance(policy, getattr(loaded, name))


def _is_drs(policy: Any) -> TypeGuard[DrsPolicy]:
    return _is(policy, "drs.policy", "DrsPolicy")


def _is_dpm(policy: Any) -> TypeGuard[DpmPolicy]:
    return _is(policy, "dpm.policy", "DpmPolicy")


def _is_platform(policy: Any) -> TypeGuard[PlatformPolicy]:
    return _is(policy, "platform", "PlatformPolicy")


def trigger_of(policy: Any, view: ClusterView) -> str:
    """What a policy's last round looked at, in words; "" where it does not say.

    A policy says so by ``last_round``, with ``trigger`` and ``threshold`` (NaN = it looked at none).
    """
    found = getattr(policy, "last_round", None)
    if found is not None and _is_drs(policy):
        return _of_drs(policy, found, view)
    value, limit = (float(getattr(found, name, math.nan)) for name in ("trigger", "threshold"))
    if math.isnan(value):
        return ""
    return f"trigger {value:.4g}" + ("" if math.isnan(limit) else f", threshold {limit:.4g}")


def _of_drs(policy: DrsPolicy, found: DrsRound, view: ClusterView) -> str:
    from virtgym.policies.drs.policy import LEVELS

    on = max(1, int((view.state.host_power_state == ON).sum()))
    limit = LEVELS[policy.level] / math.sqrt(on) if policy.threshold is None else policy.threshold
    mark = ">" if found.before[0] > limit else "<="
    text = f"imbalance {found.before[0]:.3f} {mark} {limit:.3f}"
    if found.before[1] > 0:
        text += f", of memory {found.before[1]:.3f}"
    return text


def why(policy: Any, view: ClusterView, unit: str, before: Picture, v: int) -> str:
    """Why a move was ordered, one line.

    Args:
        policy: Whoever ordered it, just now.
        view: The cluster that it was shown.
        unit: What the move gains, one of ``outlook.GAINS``.
        before: The cluster before the move.
        v: The VM.
    """
    if unit == "rules":
        return f"breaks {before.broken} placement rule{'s' * (before.broken > 1)} where it is"
    if unit == "maintenance":
        return "its host is in maintenance"
    policy = _manager(policy, v)
    load = f"host at {100 * before.source:.0f} % CPU"
    if _is_dpm(policy):
        if before.source > policy.overload:
            return f"{load} > {100 * policy.overload:.0f} % (overload)"
        low = policy.target - policy.tolerance
        mark = "<" if before.source < low else ">="
        return f"{load} {mark} {100 * low:.0f} % (target - tolerance): its VMs fit on others"
    trigger = trigger_of(policy, view)
    return f"{trigger}; {load}" if trigger else f"{load}, destination at {100 * before.dest:.0f} %"


def _manager(policy: Any, v: int) -> Any:
    """Of a platform the manager that ordered a move."""
    if not _is_platform(policy):
        return policy
    found = policy.last_round
    for name, part in policy.managers.items():
        if np.any(getattr(found, name).move_vm == v):
            return part
    return policy


def nothing_because(policy: Any, view: ClusterView) -> str:
    """Why a policy's last round ordered nothing, as far as it says so."""
    policies = list(policy.managers.values()) if _is_platform(policy) else [policy]
    words = []
    for part in policies:
        ending = str(getattr(getattr(part, "last_round", None), "ending", ""))
        trigger = trigger_of(part, view)
        words += [text for text in (trigger, ending) if text]
    return ", ".join(words)
