"""Actions of the cluster environment: their codes, their meaning and which of them are legal.

One interval's orders are unrolled into single choices, because a mask over (VM, host) pairs would be V * H
long. With V VMs and H hosts an action is a number:

    0                     stop: time passes; where a VM is chosen it is let go, and no time passes
    1 + v                 choose VM v: a running one to migrate, a waiting one to place
    1 + V + h             the chosen VM goes to host h
    1 + V + H + h         toggle the power of host h: on if it is off, in standby or about to be, else off

The legality functions are those of ``sim.engine.orders``, and ``check_rules`` for placement rules, which
orders of whole plans are not held to; nothing here knows a rule of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..jit.by_model import by_model
from ..jit.kernels import kernel
from ..sim.decisions import NOT_OFF, NOT_ON, NOT_RUNNING, NOT_WAITING, REASONS, Reasons
from ..sim.engine.host_requirements import MEM_SLACK
from ..sim.engine.orders import (
    check_fit,
    check_free,
    check_move,
    check_power_off,
    check_power_on,
    host_accepts,
    order_move,
    order_place,
    order_power_off,
    order_power_on,
    vm_movable,
    waits_knowingly,
)
from ..sim.engine.waiting import is_hopeless, no_failures, note_failure
from ..sim.guarantee import (
    blame_orders,
    check_admission,
    check_rules,
    guarantee_fails,
    has_rule,
    write_hosts_may_leave,
)
from ..sim.state.cluster_state import PENDING, RUNNING, ClusterState
from ..sim.state.parameters import ClusterParams
from ..sim.telemetry.shown import show_order

ACTION_REASONS = Reasons(REASONS)
"""Why an action is illegal: the reasons of ``sim.decisions`` and those of the unrolled form."""

NO_HOST = ACTION_REASONS.add("no host may take the VM")
NOT_CHOSEN = ACTION_REASONS.add("no VM is chosen")
HOST_FIRST = ACTION_REASONS.add("a VM is chosen: only its host may come next, or 0, which lets it go")
NO_ACTION = ACTION_REASONS.add("no such action")
NOT_OFFERED = ACTION_REASONS.add("the candidate is not offered, or an order of it was refused")

ActionKind = Literal["stop", "vm", "host", "power"]


@dataclass(frozen=True)
class ActionCodec:
    """Numbers of actions and back.

    Attributes:
        n_hosts: H.
        n_vms: V.
    """

    n_hosts: int
    n_vms: int

    @property
    def n(self) -> int:
        """Number of actions, 1 + V + 2H."""
        return 1 + self.n_vms + 2 * self.n_hosts

    def encode(self, kind: ActionKind, index: int = 0) -> int:
        """Number of an action.

        Args:
            kind: ``stop``, ``vm``, ``host`` or ``power``.
            index: VM or host.

        Raises:
            ValueError: If there is no such VM or host.
        """
        sizes = {"stop": 1, "vm": self.n_vms, "host": self.n_hosts, "power": self.n_hosts}
        if not 0 <= index < sizes[kind]:
            raise ValueError(f"{kind} {index}: must lie in 0..{sizes[kind] - 1}")
        offsets = {"stop": 0, "vm": 1, "host": 1 + self.n_vms, "power": 1 + self.n_vms + self.n_hosts}
        return offsets[kind] + index

    def decode(self, action: int) -> tuple[ActionKind, int]:
        """Kind and VM or host of an action; the inverse of ``encode``.

        Raises:
            ValueError: If there is no such action.
        """
        if not 0 <= action < self.n:
            raise ValueError(f"action {action}: must lie in 0..{self.n - 1}")
        if action == 0:
            return "stop", 0
        if action <= self.n_vms:
            return "vm", action - 1
        host = action - 1 - self.n_vms
        return ("host", host) if host < self.n_hosts else ("power", host - self.n_hosts)


@kernel
def _check_toggle(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Whether a host's power may be toggled: 0, or the code of the reason."""
    on = check_power_on(p, s, h)
    if on == 0:
        return 0
    off = check_power_off(p, s, h)
    # A host that is not on and may not be switched on (failed, a spare): the reason is what forbids that.
    return on if off == NOT_ON and on != NOT_OFF else off


@kernel
def _check_send(p: ClusterParams, s: ClusterState, v: int, h: int) -> Any:
    """Whether the chosen VM may go to a host, but for admission: by what orders ask, and by rules."""
    code = check_fit(p, s, v, h) if s.vm_state[v] == PENDING else check_move(p, s, v, h)
    return check_rules(p, s, v, h) if code == 0 and p.has_rules else code


@kernel
def _check_start(p: ClusterParams, s: ClusterState, v: int) -> Any:
    """Whether admission lets a VM start that waits."""
    return check_admission(p, s, v) if p.has_admission and s.vm_state[v] == PENDING else 0


@kernel
def _some_host(p: ClusterParams, s: ClusterState, v: int) -> bool:
    if _check_start(p, s, v) != 0:
        return False
    for h in range(s.host_power_state.shape[0]):  # noqa: SIM110  # Numba has no any()
        if _check_send(p, s, v, h) == 0:
            return True
    return False


@kernel
def _room(p: ClusterParams, s: ClusterState, h: int) -> Any:
    """Free memory of a host that takes VMs, MiB (inf where memory does not bind); -inf = takes none."""
    if host_accepts(p, s, h) != 0:
        return -np.inf
    if p.memory_binding == 0:
        return np.inf
    return p.host_mem_mib[h] * p.mem_overcommit * MEM_SLACK - s.host_mem_mib[h]


@kernel
def _roomiest(p: ClusterParams, s: ClusterState) -> tuple[int, int]:
    """The two hosts with the most room, -1 = none."""
    best, second = -1, -1
    most, next_most = -np.inf, -np.inf
    for h in range(s.host_power_state.shape[0]):
        room = _room(p, s, h)
        if room > most:
            second, next_most = best, most
            best, most = h, room
        elif room > next_most:
            second, next_most = h, room
    return best, second


@kernel
def _choosable_simple(p: ClusterParams, s: ClusterState, v: int, best: int, second: int) -> bool:
    """Only memory tells hosts apart: the roomiest other host decides, not every pair is looked at."""
    if s.vm_state[v] == PENDING:
        return s.vm_dest[v] < 0 and _some_host(p, s, v)
    if vm_movable(s, v) != 0:
        return False
    if p.has_rules or p.has_admission:
        return _some_host(p, s, v)
    h = second if s.vm_host[v] == best else best
    if h < 0:
        return False
    if check_move(p, s, v, h) == 0:
        return True
    # The rule compares sums that are rounded differently from host to host: near the edge ask every host.
    near = p.vm_mem_mib[v] <= _room(p, s, h) + 1e-6 * p.host_mem_mib[h]
    return near and _some_host(p, s, v)


@kernel
def _choosable_full(p: ClusterParams, s: ClusterState, v: int, best: int, second: int) -> bool:
    """Nodes, reservations, devices, CPU features may rule out any host: the roomiest is but a first guess."""
    if s.vm_state[v] == PENDING:
        return s.vm_dest[v] < 0 and waits_knowingly(p, s, v) == 0 and _some_host(p, s, v)
    if vm_movable(s, v) != 0:
        return False
    h = second if s.vm_host[v] == best else best
    return (h >= 0 and _check_send(p, s, v, h) == 0) or _some_host(p, s, v)


_choosable = by_model(_choosable_simple, _choosable_full)
"""``_choosable(p, s, v, best, second)``: whether some host may take a VM; the roomiest are asked first."""


@kernel
def write_vm_mask(p: ClusterParams, s: ClusterState, mask: NDArray[np.bool_]) -> None:
    """Which VMs may be chosen: those that some host may take.

    Args:
        mask: Written, shape (V,).
    """
    best, second = _roomiest(p, s)
    failed = no_failures()
    for v in range(mask.shape[0]):
        waits = s.vm_state[v] == PENDING and s.vm_dest[v] < 0 and waits_knowingly(p, s, v) == 0
        mask[v] = not (waits and is_hopeless(p, failed, v)) and _choosable(p, s, v, best, second)
        # What rules or admission refuse says nothing about a VM of the same size.
        if waits and not mask[v] and not has_rule(p, v) and _check_start(p, s, v) == 0:
            note_failure(failed, v)


@kernel
def write_host_mask(p: ClusterParams, s: ClusterState, v: int, mask: NDArray[np.bool_]) -> None:
    """Which hosts may take a VM.

    Args:
        v: The chosen VM.
        mask: Written, shape (H,).
    """
    starts = _check_start(p, s, v) == 0
    for h in range(mask.shape[0]):
        mask[h] = starts and _check_send(p, s, v, h) == 0


@kernel
def write_power_mask(p: ClusterParams, s: ClusterState, mask: NDArray[np.bool_]) -> None:
    """Which hosts' power may be toggled.

    Args:
        mask: Written, shape (H,).
    """
    mask[:] = True
    if p.admission_enforced:  # asked once for all hosts
        write_hosts_may_leave(p, s, mask)
    for h in range(mask.shape[0]):
        mask[h] = check_power_on(p, s, h) == 0 or (mask[h] and check_free(p, s, h) == 0)


@kernel
def _choose(p: ClusterParams, s: ClusterState, v: int) -> Any:
    state = s.vm_state[v]
    if state == PENDING:
        if s.vm_dest[v] >= 0:
            return NOT_WAITING
        code = waits_knowingly(p, s, v)
        if code != 0:
            return code
    elif state != RUNNING:
        return NOT_RUNNING
    elif vm_movable(s, v) != 0:
        return vm_movable(s, v)
    code = _check_start(p, s, v)
    if code != 0:
        return code
    return 0 if _some_host(p, s, v) else NO_HOST


@kernel
def _toggle(p: ClusterParams, s: ClusterState, h: int) -> Any:
    code = _check_toggle(p, s, h)
    if code != 0:
        return code
    return order_power_on(p, s, h) if check_power_on(p, s, h) == 0 else order_power_off(p, s, h)


@kernel
def take(p: ClusterParams, s: ClusterState, z: ClusterState, action: int, chosen: int) -> tuple[int, int]:
    """Carry out an action other than a stop; an illegal one changes nothing.

    Args:
        p: Parameters.
        s: State.
        z: The state that views have; a simple cluster's is brought up to now, the full model's by ``show``.
        action: The action.
        chosen: The chosen VM, -1 = none.

    Returns:
        0 or the code of the reason in ``ACTION_REASONS``, and the VM that is chosen now.
    """
    failed = guarantee_fails(p, s)
    code, now_chosen = _carry_out(p, s, action, chosen)
    blame_orders(p, s, failed)
    if p.full == 0 and code == 0 and now_chosen < 0 and action != 0:
        n_vms, n_hosts = s.vm_state.shape[0], s.host_power_state.shape[0]
        if chosen >= 0:
            show_order(p, s, z, action - 1 - n_vms, s.vm_host[chosen])
        else:
            show_order(p, s, z, action - 1 - n_vms - n_hosts, -1)
    return code, now_chosen


@kernel
def _carry_out(p: ClusterParams, s: ClusterState, action: int, chosen: int) -> tuple[int, int]:
    n_vms, n_hosts = s.vm_state.shape[0], s.host_power_state.shape[0]
    if action < 0 or action > n_vms + 2 * n_hosts:
        return NO_ACTION, chosen
    is_host = n_vms < action <= n_vms + n_hosts
    if chosen >= 0:
        if action == 0:
            return 0, -1
        if not is_host:
            return HOST_FIRST, chosen
        h = action - 1 - n_vms
        code = _check_send(p, s, chosen, h)
        if code == 0 and s.vm_state[chosen] == PENDING:
            code = order_place(p, s, chosen, h)
        elif code == 0:
            code = order_move(p, s, chosen, h)
        return code, (-1 if code == 0 else chosen)
    if is_host:
        return NOT_CHOSEN, -1
    if action <= n_vms:
        code = _choose(p, s, action - 1)
        return code, (action - 1 if code == 0 else -1)
    return _toggle(p, s, action - 1 - n_vms - n_hosts), -1
