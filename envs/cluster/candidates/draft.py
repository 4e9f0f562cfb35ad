"""A draft of the cluster's structure, on which the orders of a candidate are tried one after the other.

The draft has the fields of the state that the simulator's own checks read and its own room functions write,
under the same names; so these functions work on it, and what is legal on the draft is legal when the orders
are carried out in that order. After each candidate the hosts and VMs that it touched are put back.
"""

from __future__ import annotations

from typing import Any

from ...jit.by_model import only_full
from ...jit.generated import make_kernel
from ...jit.kernels import kernel
from ...sim.decisions import HOLDS_VMS, NO_SUCH, ORDERS
from ...sim.engine.mirrors import drop_secondary
from ...sim.engine.orders import (
    check_move,
    check_place,
    check_power_off,
    check_power_on,
    check_suspend,
)
from ...sim.engine.residents import take_room
from ...sim.guarantee import check_leave
from ...sim.models.power import BOOTING, ON, STANDBY
from ...sim.state.cluster_state import MIG_WAITING, ClusterState
from ...sim.state.parameters import ClusterParams
from .buffers import DRAFT_HOSTS, DRAFT_VMS, STILL, CandidateBuffers

MAINTENANCE, END_MAINTENANCE, POWER_ON, FULL_POWER, PLACE_VM, MOVE, POWER_OFF, SUSPEND = range(len(ORDERS))
"""Kinds of orders: the places of ``decisions.ORDERS``."""


def _copy_kernel() -> Any:
    lines = ["def copy_draft(s, c):"]
    for name in (*DRAFT_HOSTS, *DRAFT_VMS):
        lines += [f"    if c.{name}.shape[0] > 0:", f"        c.{name}[:] = s.{name}"]
    return make_kernel("\n".join(lines), {})


def _restore_kernel(name: str, fields: dict[str, int]) -> Any:
    lines = [f"def {name}(s, c, i):"]
    for field, axes in fields.items():
        if field in STILL:
            continue
        lines.append(f"    if c.{field}.shape[0] > 0:")
        if axes == 1:
            lines.append(f"        c.{field}[i] = s.{field}[i]")
        else:
            lines += [f"        for j in range(c.{field}.shape[1]):"]
            lines += [f"            c.{field}[i, j] = s.{field}[i, j]"]
    return make_kernel("\n".join(lines), {})


copy_draft: Any = _copy_kernel()
"""``copy_draft(s, c)``: begin: the draft is the cluster as it is."""

_restore_host: Any = _restore_kernel("restore_host", DRAFT_HOSTS)
_restore_vm: Any = _restore_kernel("restore_vm", DRAFT_VMS)


@kernel
def touch_host(c: CandidateBuffers, h: int) -> None:
    """Note that a candidate changes something of a host."""
    if not c.host_touched[h]:
        c.host_touched[h] = True
        c.touched_hosts[c.now.hosts] = h
        c.now.hosts += 1


@kernel
def _touch_vm(c: CandidateBuffers, v: int) -> None:
    if not c.vm_touched[v]:
        c.vm_touched[v] = True
        c.touched_vms[c.now.vms] = v
        c.now.vms += 1


@kernel
def restore(s: ClusterState, c: CandidateBuffers) -> None:
    """Put back what a candidate has touched."""
    for i in range(c.now.hosts):
        h = c.touched_hosts[i]
        c.host_touched[h] = False
        _restore_host(s, c, h)
        c.new_mem[h], c.new_used[h] = c.load_mem[h], c.load_used[h]
        c.new_cpu[h], c.new_risk[h] = c.load_cpu[h], c.load_risk[h]
        c.new_home[h] = c.n_home[h]
        c.new_up[h] = c.is_up[h]
    for i in range(c.now.vms):
        v = c.touched_vms[i]
        c.vm_touched[v] = False
        _restore_vm(s, c, v)
    c.now.hosts = 0
    c.now.vms = 0


@only_full
@kernel
def _drop_mirror(p: ClusterParams, c: CandidateBuffers, v: int) -> None:
    """A migration ends the secondary of a protected VM at once, and so frees its room."""
    if p.has_standby and c.vm_secondary[v] >= 0:
        touch_host(c, c.vm_secondary[v])
        touch_host(c, c.vm_host[v])
        drop_secondary(p, c, v)


@kernel
def _hold(p: ClusterParams, c: CandidateBuffers, v: int, h: int) -> None:
    """Count a VM as on its way to a host."""
    c.vm_dest[v] = h
    c.host_n_in[h] += 1
    take_room(p, c, v, h)


@kernel
def _ends(p: ClusterParams, c: CandidateBuffers, h: int) -> Any:
    """State of a host that is ordered on: at once on if that takes no time."""
    takes_s = p.resume_s[h] if c.host_power_state[h] == STANDBY else p.host_boot_s[h]
    return BOOTING if takes_s > 0.0 else ON


@kernel
def _check_maintenance(p: ClusterParams, c: Any, h: int, on: bool) -> Any:
    if h < 0 or h >= c.host_power_state.shape[0]:
        return NO_SUCH
    return check_leave(p, c, h) if on and p.has_admission else 0


@kernel
def check_order(p: ClusterParams, c: Any, kind: int, v: int, h: int) -> Any:
    """Whether an order is legal on the draft: 0, or the code of ``decisions.REASONS``."""
    if kind == MOVE:
        return check_move(p, c, v, h)
    if kind == PLACE_VM:
        return check_place(p, c, v, h)
    if kind in (POWER_OFF, SUSPEND):
        code = check_power_off(p, c, h) if kind == POWER_OFF else check_suspend(p, c, h)
        # Who is placed on a host in a draft is still on the way there: nobody may switch that host off.
        return HOLDS_VMS if code == 0 and c.host_n_in[h] > 0 else code
    if kind == POWER_ON:
        return check_power_on(p, c, h)
    return _check_maintenance(p, c, h, kind == MAINTENANCE)


@kernel
def do_order(p: ClusterParams, c: CandidateBuffers, kind: int, v: int, h: int) -> None:
    """Carry a legal order out on the draft: structure first, then the loads of hosts."""
    touch_host(c, h)
    if kind == MOVE:
        _touch_vm(c, v)
        _drop_mirror(p, c, v)
        touch_host(c, c.vm_host[v])
        c.vm_mig[v] = MIG_WAITING
        _shift(p, c, v, c.vm_host[v], -1.0)
        _hold(p, c, v, h)
        _shift(p, c, v, h, 1.0)
    elif kind == PLACE_VM:
        _touch_vm(c, v)
        _hold(p, c, v, h)
        _shift(p, c, v, h, 1.0)
    elif kind in (POWER_OFF, SUSPEND):
        c.host_drain[h] = 1
        c.new_up[h] = 0
    elif kind == POWER_ON:
        if not (c.host_power_state[h] == ON and c.host_drain[h]):
            c.host_power_state[h] = _ends(p, c, h)
        c.host_drain[h] = 0
        c.new_up[h] = 1
    elif kind in (MAINTENANCE, END_MAINTENANCE):
        c.host_maintenance[h] = kind == MAINTENANCE


@kernel
def cpu_on(p: ClusterParams, c: CandidateBuffers, v: int, h: int, mhz: float) -> Any:
    """CPU that a VM asks for on a host: no more than its vCPUs can do there, MHz."""
    return min(mhz, p.vm_vcpus[v] * p.host_core_mhz[h])


@kernel
def _shift(p: ClusterParams, c: CandidateBuffers, v: int, h: int, sign: float) -> None:
    """Add a VM to the loads of a host, or take it off."""
    c.new_mem[h] += sign * p.vm_mem_mib[v]
    c.new_used[h] += sign * c.vm_used[v]
    c.new_cpu[h] += sign * cpu_on(p, c, v, h, c.vm_cpu[v])
    c.new_risk[h] += sign * cpu_on(p, c, v, h, c.vm_risk[v])
    c.new_home[h] += int(sign)
    if c.new_home[h] == 0:  # an empty host carries exactly what its secondaries hold
        c.new_mem[h], c.new_used[h], c.new_cpu[h], c.new_risk[h] = c.own_mem[h], c.own_mem[h], 0.0, 0.0


@kernel
def give(p: ClusterParams, c: CandidateBuffers, kind: int, v: int, h: int) -> Any:
    """Add an order to the candidate that is being made, if it is legal after those before it; the code."""
    code = check_order(p, c, kind, v, h)
    if code == 0 and c.now.orders >= c.order_kind.shape[0]:
        code = NO_SUCH
    if code == 0:
        append(c, kind, v, h)
        do_order(p, c, kind, v, h)
    return code


@kernel
def append(c: CandidateBuffers, kind: int, v: int, h: int) -> None:
    """Write an order down."""
    i = c.now.orders
    c.order_kind[i], c.order_vm[i], c.order_host[i] = kind, v, h
    c.now.orders += 1
