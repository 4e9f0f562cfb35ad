"""Failures and recovery inside the simulator (docs §8, §9): what breaks, what is noticed, what starts.

All hosts that fail at one instant fail together, so that a pair of mirrored images which loses both hosts at
once is lost. Then, for every VM on a failed host:

    secondary alive  -> it takes over, the VM is down for ``takeover_s`` and has lost nothing; it has no
                        secondary now, nor has a VM whose secondary's host failed: that one runs on
    otherwise        -> down; noticed after ``detect_s``; placed ``place_s`` later by the restart rule, by
                        priority, then by who is down longest; runs ``vm_boot_s`` after that

    VM outage   = detect_s + place_s + vm_boot_s, and waiting while nothing fits
    host outage = detect_s + associate_s + the spare's boot, where there is a spare; else until it is repaired

VMs that came to a failed host stay where they are; one whose pages were in two places is lost with either. A
VM that crashes alone restarts where it is, ``vm_detect_s + vm_boot_s`` later.
"""

from __future__ import annotations

import numpy as np

from ...arrays import B1
from ...jit.heap import settle as order_item
from ...jit.kernels import kernel
from ..models.failures import HOST_FAILS, VM_CRASHES
from ..models.power import BOOTING, FAILED, OFF, ON, RESUMING, SHUTTING_DOWN, SUSPENDING
from ..models.precopy import PULL
from ..state.cluster_state import MIG_COPYING, PENDING, RUNNING, ClusterState
from ..state.parameters import ClusterParams
from ..telemetry.gauges import hold
from .copies import drop_copy
from .cpu import set_vm_down, set_vm_miss
from .events import BOOT_END, HOST_NOTICED, PROFILE_MOVED, RESTART_DUE, SHUTDOWN_END, drop_event, push_event
from .hub import renew_hosts
from .lifecycle import place
from .mirrors import drop_secondary
from .power_cycle import boot_host, set_power_state
from .residents import (
    append_incoming,
    free_room,
    remove_incoming,
    remove_resident,
    settle,
    take_room,
)
from .upkeep import after_leaving, end_run, forget_rates, start_vm
from .waiting import FIRST_FIT, choose_host, is_hopeless, no_failures, note_failure


@kernel
def _stop_transition(s: ClusterState, h: int) -> None:
    state = s.host_power_state[h]
    if state in (BOOTING, RESUMING):
        drop_event(s, BOOT_END, h)
    elif state in (SHUTTING_DOWN, SUSPENDING):
        drop_event(s, SHUTDOWN_END, h)
    s.host_trans_end_s[h] = np.inf
    s.host_drain[h] = 0


@kernel
def _lose(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """A VM is gone from every host and has to restart."""
    host, dest = s.vm_host[v], s.vm_dest[v]
    if s.vm_state[v] == RUNNING:
        s.totals.w_interruptions += p.vm_weight[v]
    drop_copy(p, s, v, elapsed_s)
    end_run(p, s, v, elapsed_s)
    if dest >= 0:
        remove_incoming(s, v, dest)
        free_room(p, s, v, dest)
    remove_resident(s, v, host)
    free_room(p, s, v, host)
    hold(s, v, 1.0)
    s.vm_host[v] = -1
    s.vm_dest[v] = -1
    s.vm_state[v] = PENDING
    s.counters.pending += 1
    s.vm_cap_mhz[v] = 0.0
    s.vm_ask_mhz[v] = 0.0
    s.vm_granted_mhz[v] = 0.0
    forget_rates(p, s, v)
    set_vm_down(s, v, 1, elapsed_s)
    set_vm_miss(s, v, s.vm_demand_mhz[v], 0.0, elapsed_s)
    s.vm_restart[v] = 1
    s.vm_down_since_s[v] = now_s
    push_event(s, now_s + p.detect_s + p.place_s, RESTART_DUE, v)
    renew_hosts(p, s, host, dest, elapsed_s)
    after_leaving(p, s, host, dest, now_s, elapsed_s)


@kernel
def _take_over(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """The secondary becomes the VM: its room is the VM's now."""
    host, second = s.vm_host[v], s.vm_secondary[v]
    dest = s.vm_dest[v]
    drop_copy(p, s, v, elapsed_s)
    if dest >= 0:
        remove_incoming(s, v, dest)
        free_room(p, s, v, dest)
    drop_secondary(p, s, v)
    remove_resident(s, v, host)
    free_room(p, s, v, host)
    s.vm_dest[v] = -1
    append_incoming(s, v, second)
    take_room(p, s, v, second)
    remove_incoming(s, v, second)
    settle(p, s, v, second)
    s.totals.takeovers += 1.0
    if p.mirror_takeover_s > 0.0 and s.vm_state[v] == RUNNING:
        start_vm(p, s, v, now_s + p.mirror_takeover_s, elapsed_s)
    renew_hosts(p, s, second, -1, elapsed_s)


@kernel
def _call_off(p: ClusterParams, s: ClusterState, v: int, h: int, now_s: float, elapsed_s: float) -> None:
    """The host that a VM was coming to has failed: the VM stays where it is, or goes on waiting."""
    if s.vm_state[v] != PENDING and p.has_precopy and s.copy_phase[v] == PULL:
        _lose(p, s, v, now_s, elapsed_s)
        return
    drop_copy(p, s, v, elapsed_s)
    remove_incoming(s, v, h)
    free_room(p, s, v, h)
    s.vm_dest[v] = -1
    if s.vm_host[v] >= 0:
        renew_hosts(p, s, s.vm_host[v], -1, elapsed_s)
        after_leaving(p, s, s.vm_host[v], -1, now_s, elapsed_s)


@kernel
def _clear_host(
    p: ClusterParams, s: ClusterState, h: int, failed: B1, now_s: float, elapsed_s: float
) -> None:
    v = s.host_in_head[h]
    while v >= 0:
        following = s.vm_in_next[v]
        _call_off(p, s, v, h, now_s, elapsed_s)
        v = following
    v = s.host_head[h]
    while v >= 0:
        following = s.vm_next[v]
        if p.has_standby and s.vm_secondary[v] >= 0 and not failed[s.vm_secondary[v]]:
            _take_over(p, s, v, now_s, elapsed_s)
        else:
            _lose(p, s, v, now_s, elapsed_s)
        v = following
    if p.has_standby:
        for w in p.protected_vms:
            if s.vm_secondary[w] == h:
                drop_secondary(p, s, w)
                if s.vm_host[w] >= 0:
                    renew_hosts(p, s, s.vm_host[w], -1, elapsed_s)


@kernel
def _fail_hosts(p: ClusterParams, s: ClusterState, failed: B1, now_s: float, elapsed_s: float) -> None:
    for h in range(failed.shape[0]):  # nobody may find refuge on a host that fails at the same instant
        if failed[h]:
            state = s.host_power_state[h]
            s.host_was_on[h] = state in (ON, BOOTING, RESUMING)
            _stop_transition(s, h)
            set_power_state(p, s, h, FAILED, elapsed_s)
            s.totals.host_failures += 1.0
    for h in range(failed.shape[0]):
        if failed[h]:
            _clear_host(p, s, h, failed, now_s, elapsed_s)
            renew_hosts(p, s, h, -1, elapsed_s)
            if s.host_profile[h] >= 0 and s.host_was_on[h]:
                drop_event(s, HOST_NOTICED, h)
                push_event(s, now_s + p.detect_s, HOST_NOTICED, h)


@kernel
def _repair(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """A host is mended: it boots again if it was on and has kept its identity."""
    drop_event(s, HOST_NOTICED, h)
    set_power_state(p, s, h, OFF, elapsed_s)
    if s.host_was_on[h] and s.host_profile[h] >= 0:
        boot_host(p, s, h, now_s, elapsed_s)
    s.host_was_on[h] = 0


@kernel
def _crash(p: ClusterParams, s: ClusterState, v: int, now_s: float, elapsed_s: float) -> None:
    """A VM crashes alone: it boots again on its host once that is noticed."""
    if s.vm_state[v] != RUNNING:
        return
    s.totals.vm_crashes += 1.0
    host, dest = s.vm_host[v], s.vm_dest[v]
    if p.has_precopy and s.vm_mig[v] == MIG_COPYING and s.copy_phase[v] == PULL:
        _lose(p, s, v, now_s, elapsed_s)
        renew_hosts(p, s, host, -1, elapsed_s)
        return
    s.totals.w_interruptions += p.vm_weight[v]
    drop_copy(p, s, v, elapsed_s)
    if dest >= 0:
        remove_incoming(s, v, dest)
        free_room(p, s, v, dest)
        s.vm_dest[v] = -1
    end_run(p, s, v, elapsed_s)
    if p.host_baseline.shape[0] > 0:  # it boots anew, and sees what its host offers now
        s.vm_baseline[v] = p.host_baseline[host]
    start_vm(p, s, v, now_s + p.vm_detect_s + p.vm_boot_s, elapsed_s)
    renew_hosts(p, s, host, dest, elapsed_s)
    after_leaving(p, s, host, dest, now_s, elapsed_s)


@kernel
def handle_faults(p: ClusterParams, s: ClusterState, now_s: float, elapsed_s: float) -> None:
    """Let everything happen that breaks or is mended now."""
    failed = np.zeros(s.host_head.shape[0], dtype=np.bool_)
    n = p.fail_time_s.shape[0]
    i = s.counters.fault
    any_failed = False
    while i < n and p.fail_time_s[i] <= now_s and p.fail_kind[i] == HOST_FAILS:
        if s.host_power_state[p.fail_item[i]] != FAILED:
            failed[p.fail_item[i]] = True
            any_failed = True
        i += 1
    s.counters.fault = i
    if any_failed:
        _fail_hosts(p, s, failed, now_s, elapsed_s)
        return
    if i < n and p.fail_time_s[i] <= now_s:
        s.counters.fault = i + 1
        if p.fail_kind[i] == VM_CRASHES:
            _crash(p, s, p.fail_item[i], now_s, elapsed_s)
        elif s.host_power_state[p.fail_item[i]] == FAILED:
            _repair(p, s, p.fail_item[i], now_s, elapsed_s)


@kernel
def notice_host(p: ClusterParams, s: ClusterState, h: int, now_s: float) -> None:
    """A host is taken for dead: its identity goes to the lowest healthy idle spare of the same type.

    Identities are neither lost nor doubled: ``host_profile`` holds each once, -1 on a machine without one (a
    spare, also a repaired one whose identity has left), -2 - i on the spare that identity i is on its way to.
    """
    for spare in range(s.host_profile.shape[0]):
        free = s.host_profile[spare] == -1 and s.host_power_state[spare] == OFF
        if free and p.host_type[spare] == p.host_type[h]:
            s.host_profile[spare] = -2 - s.host_profile[h]  # on its way: nobody may switch the spare on yet
            s.host_profile[h] = -1
            s.totals.profile_moves += 1.0
            push_event(s, now_s + p.associate_s, PROFILE_MOVED, spare)
            return


@kernel
def move_profile(p: ClusterParams, s: ClusterState, h: int, now_s: float, elapsed_s: float) -> None:
    """A spare has got an identity: it boots; one that has failed meanwhile is noticed like any host."""
    s.host_profile[h] = -2 - s.host_profile[h]
    if s.host_power_state[h] == OFF:
        boot_host(p, s, h, now_s, elapsed_s)
    elif s.host_power_state[h] == FAILED:
        s.host_was_on[h] = 1  # it boots when it is mended, unless the identity goes on to another spare first
        push_event(s, now_s + p.detect_s, HOST_NOTICED, h)


@kernel
def finish_start(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """A VM has booted."""
    s.vm_state[v] = RUNNING
    s.vm_starts_s[v] = 0.0
    set_vm_down(s, v, 0, elapsed_s)
    renew_hosts(p, s, s.vm_host[v], -1, elapsed_s)


@kernel
def restart_waiting(p: ClusterParams, s: ClusterState, now_s: float, elapsed_s: float) -> None:
    """Place VMs that wait to restart by first fit, in the order of ``recovery.restart_order``.

    Each goes to the lowest host that takes VMs and has room for its nominal CPU and memory
    (``choose_host``). One that fits on no running host goes to the lowest that is off, if hosts boot by
    themselves; one that fits nowhere waits and does not hold up the next.

    Args:
        p: Parameters; with ``restart_rule`` 1 it is the policy's task and nothing happens here.
        now_s: Now, s.
        elapsed_s: Time since the segment began, s.
    """
    if p.restart_rule != 0:
        return
    queue = np.empty(s.counters.pending, dtype=np.int32)
    last, since_s = np.empty(queue.shape[0]), np.empty(queue.shape[0])
    n = 0
    for v in range(s.vm_state.shape[0]):
        if s.vm_state[v] == PENDING and s.vm_restart[v] == 2 and s.vm_dest[v] < 0:
            order_item(
                last, since_s, queue, None, -float(p.vm_priority[v]), s.vm_down_since_s[v], v, n, n + 1
            )
            n += 1
    failed = no_failures()
    while n > 0:
        v = queue[0]
        n -= 1
        order_item(last, since_s, queue, None, last[n], since_s[n], queue[n], 0, n)
        if is_hopeless(p, failed, v):
            continue
        h = choose_host(p, s, v, FIRST_FIT, False)
        if h < 0 and p.auto_boot:
            h = choose_host(p, s, v, FIRST_FIT, True)
            if h >= 0:
                boot_host(p, s, h, now_s, elapsed_s)
        if h >= 0:
            place(p, s, v, h, elapsed_s)
        else:
            note_failure(failed, v)
